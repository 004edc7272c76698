# SPDX-License-Identifier: Apache-2.0
"""The list of cases and the loop that runs them."""
import multiprocessing
import queue
import signal
import sys
import threading
import time
import traceback

from klib.guest import GuestDied
from klib.lab import Lab, Skip

CASES = []  # (module, name, function)
GROUPS = {}  # function: its groups


def case(*groups):
    """Mark a function as a case. Groups: 'quick' runs in check-kernel, 'random' in torture-kernel
    with ever new seeds."""
    def mark(function):
        CASES.append((function.__module__.removeprefix('cases.'), function.__name__, function))
        GROUPS[function] = groups
        return function
    return mark


def run_case(lab, group, name, function, seed):
    """One case: ('passed' | 'failed' | 'skipped', the text of its line)."""
    begin = time.monotonic()
    failure = reason = ''
    lab.begin(seed)
    try:
        function(lab)
    except Skip as e:
        reason = str(e)
    except Exception as e:  # whatever goes wrong in a case fails that case alone
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
        text = failure.replace('\n', '\n          ')
        return 'failed', f'  FAILED  {group}: {name} (SEED={seed})\n          {text}'
    if reason:
        return 'skipped', f'  skipped {group}: {name}: {reason}'
    return 'passed', f'  ok      {group}: {name} ({spent:.1f} s)'


def _lane(machine, build, quick, jobs, results):
    """A process with a guest of its own, working jobs off until there are none."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent tells by SIGTERM
    lab = Lab(machine, build)
    lab.quick = quick
    try:
        for index, seed in iter(jobs.get, None):
            results.put(run_case(lab, *CASES[index], seed))
    finally:
        lab.close()


def run(machine, build, jobs, lanes, quick):
    """Run an iterable of (index in CASES, seed) in so many guests at once; prints each case's line.
    The counts by outcome."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit('kernel: ended by a signal'))
    context = multiprocessing.get_context('fork')
    todo, results = context.Queue(maxsize=1), context.Queue()
    processes = [context.Process(target=_lane, args=(machine, build, quick, todo, results))
                 for _ in range(lanes)]
    for p in processes:
        p.start()
    threading.Thread(target=_feed, args=(jobs, todo, lanes), daemon=True).start()
    counts = {'passed': 0, 'failed': 0, 'skipped': 0}
    try:
        while any(p.is_alive() for p in processes) or not results.empty():
            try:
                outcome, line = results.get(timeout=1)
            except queue.Empty:
                continue
            counts[outcome] += 1
            print(line, flush=True)
    finally:
        for p in processes:
            p.terminate()
            p.join()
    counts['failed'] += sum(p.exitcode != 0 for p in processes)
    return counts


def _feed(jobs, todo, lanes):
    for job in jobs:
        todo.put(job)
    for _ in range(lanes):
        todo.put(None)
