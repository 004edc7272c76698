#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Run the integration tests: every test_*.py of this folder, or the names given.

    tests/integration/run.py [--build build/gcc] [PATTERN ...]
"""

import argparse
import os
import sys
import time
import unittest


class Listing(unittest.TextTestResult):
    """One line a case, with its time."""

    def startTest(self, test):
        self._begin = time.monotonic()
        super().startTest(test)

    def _line(self, word, test):
        name = test.id().split(".", 1)[1] if hasattr(test, "id") else str(test)
        print(f"  {word:7s} {name} ({time.monotonic() - self._begin:.1f} s)", flush=True)

    def addSuccess(self, test):
        super().addSuccess(test)
        self._line("ok", test)

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self._line("FAILED", test)

    def addError(self, test, err):
        super().addError(test, err)
        self._begin = getattr(self, "_begin", time.monotonic())
        self._line("FAILED", test)

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        self._line("skipped", test)
        print(f"          {reason}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", default="build/gcc")
    parser.add_argument("patterns", nargs="*")
    args = parser.parse_args()
    os.environ["SNAPWIRE_BUILD"] = args.build
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path.insert(0, here)
    suite = unittest.TestSuite()
    loader = unittest.TestLoader()
    if args.patterns:
        loader.testNamePatterns = [f"*{p}*" for p in args.patterns]
    suite.addTests(loader.discover(here, pattern="test_*.py"))
    result = unittest.TextTestRunner(stream=sys.stdout, resultclass=Listing, verbosity=0).run(suite)
    failed = len(result.failures) + len(result.errors)
    skipped = len(result.skipped)
    print(f"integration: {result.testsRun - failed - skipped} passed, {failed} failed, "
          f"{skipped} skipped")
    return 1 if failed or result.testsRun == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
