#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Run the integration tests: every test_*.py of this folder, or the names given.

    tests/integration/run.py [--build build/gcc] [--jobs N] [PATTERN ...]

Cases share nothing, and most of their time is waiting: as many as there are processors go on
at once, each in a process of its own. With --jobs 1 they go one by one, in this process.
"""

import argparse
import contextlib
import io
import multiprocessing
import os
import signal
import sys
import time
import unittest

cases = []  # what the workers take theirs from, by number


class Listing(unittest.TestResult):
    """One line a case, with its time."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def startTest(self, test):
        self._begin = time.monotonic()
        super().startTest(test)

    def _line(self, word, test):
        name = test.id().split(".", 1)[1] if hasattr(test, "id") else str(test)
        took = time.monotonic() - getattr(self, "_begin", time.monotonic())
        self.lines.append(f"  {word:7s} {name} ({took:.1f} s)")

    def addSuccess(self, test):
        super().addSuccess(test)
        self._line("ok", test)

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self._line("FAILED", test)

    def addError(self, test, err):
        super().addError(test, err)
        self._line("FAILED", test)

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        self._line("skipped", test)
        self.lines.append(f"          {reason}")


def run_case(number):
    """Returns the lines, (name, output) of what failed, and whether it was skipped."""
    result, said = Listing(), io.StringIO()
    with contextlib.redirect_stdout(said):
        cases[number].run(result)
    failed = [(str(test), said.getvalue() + trace)
              for test, trace in result.failures + result.errors]
    return result.lines, failed, bool(result.skipped)


def flatten(suite):
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from flatten(test)
        else:
            yield test


def results(jobs):
    if jobs == 1:
        yield from map(run_case, range(len(cases)))
        return
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        yield from pool.imap_unordered(run_case, range(len(cases)))


def main():
    # also where it was started with interrupts ignored: programs under test inherit that
    signal.signal(signal.SIGINT, signal.default_int_handler)
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", default="build/gcc")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("patterns", nargs="*")
    args = parser.parse_args()
    os.environ["SNAPWIRE_BUILD"] = args.build
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path.insert(0, here)
    loader = unittest.TestLoader()
    if args.patterns:
        loader.testNamePatterns = [f"*{p}*" for p in args.patterns]
    cases.extend(flatten(loader.discover(here, pattern="test_*.py")))
    begin, bad, skipped, failures = time.monotonic(), 0, 0, []
    for lines, failed, was_skipped in results(max(1, args.jobs)):
        print("\n".join(lines), flush=True)
        failures += failed
        bad += bool(failed)
        skipped += was_skipped
    for name, output in failures:
        print(f"\nFAIL: {name}\n{output}")
    print(f"{len(cases)} cases in {time.monotonic() - begin:.0f} s")
    print(f"integration: {len(cases) - bad - skipped} passed, {bad} failed, {skipped} skipped")
    return 1 if bad or not cases else 0


if __name__ == "__main__":
    sys.exit(main())
