# SPDX-License-Identifier: Apache-2.0
"""The list of cases and the loop that runs them."""
import sys
import time
import traceback

from klib.guest import GuestDied, ScriptFailed
from klib.lab import Skip

CASES = []


def case(*groups):
    """Mark a function as a case. Groups: 'quick' runs in check-kernel, 'random' in torture-kernel
    with ever new seeds."""
    def mark(function):
        CASES.append((function.__module__.removeprefix('cases.'), function.__name__, groups,
                      function))
        return function
    return mark


class Tally:
    def __init__(self):
        self.passed = self.failed = self.skipped = 0

    def run(self, lab, group, name, function, seed):
        """One case; prints its line. True unless it failed."""
        begin = time.monotonic()
        failure = reason = ''
        lab.begin(seed)
        try:
            function(lab)
        except Skip as e:
            reason = str(e)
        except (AssertionError, ScriptFailed, GuestDied, ValueError) as e:
            frame = [f for f in traceback.extract_tb(e.__traceback__) if '/cases/' in f.filename]
            place = f'{frame[-1].filename}:{frame[-1].lineno}: ' if frame else ''
            failure = f'{place}{type(e).__name__}: {e}'
            if isinstance(e, GuestDied):
                lab.power_off()
        complaints = lab.end()
        if complaints and not failure:
            failure = f'the kernel complained:\n{complaints}'
        spent = time.monotonic() - begin
        if failure:
            self.failed += 1
            print(f'  FAILED  {group}: {name} (SEED={seed})')
            print('          ' + failure.replace('\n', '\n          '))
        elif reason:
            self.skipped += 1
            print(f'  skipped {group}: {name}: {reason}')
        else:
            self.passed += 1
            print(f'  ok      {group}: {name} ({spent:.1f} s)')
        sys.stdout.flush()
        return not failure

    def summary(self):
        return f'{self.passed} passed, {self.failed} failed, {self.skipped} skipped'
