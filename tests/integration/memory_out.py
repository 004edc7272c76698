# SPDX-License-Identifier: Apache-2.0
"""Programs whose allocations fail one after another: see failing_memory.c."""

import mmap
import os
import re
import subprocess

OFF, COUNT, ONE, ALL_FROM = range(4)
OWN, ALL = range(2)
MODE, SEEN, AT, FAILED, WHOSE, BASE, HURRY = range(7)
SITE, SITE_WORDS = 8, 24
WORDS = SITE + SITE_WORDS


class Memory:
    """What the program and the test share."""

    def __init__(self, folder, library, program=None, within=""):
        self.path = os.path.join(folder, "failing-memory")
        self.library, self.program, self.within = library, program, within
        with open(self.path, "wb") as f:
            f.truncate(WORDS * 8)
        with open(self.path, "r+b") as f:
            self.map = mmap.mmap(f.fileno(), WORDS * 8)
        self.words = memoryview(self.map).cast("Q")
        self.words[HURRY] = 10000

    def environment(self):
        asan = os.environ.get("ASAN_OPTIONS", "")
        env = {"LD_PRELOAD": self.library, "FAILING_MEMORY": self.path,
               "ASAN_OPTIONS": f"{asan}:verify_asan_link_order=0".lstrip(":")}
        if self.within:
            env["FAILING_MEMORY_IN"] = self.within
        return env

    def arm(self, mode, at=0, whose=OWN):
        self.words[MODE] = OFF
        for word in range(SITE, WORDS):
            self.words[word] = 0
        self.words[SEEN] = self.words[FAILED] = 0
        self.words[AT], self.words[WHOSE] = at, whose
        self.words[MODE] = mode

    def disarm(self):
        self.words[MODE] = OFF

    @property
    def seen(self):
        return self.words[SEEN]

    @property
    def failed(self):
        return self.words[FAILED]

    def who(self):
        """Who asked for what failed first, innermost first, as far as the program goes."""
        base = self.words[BASE]
        at = [hex(self.words[SITE + i] - base - 1) for i in range(SITE_WORDS)
              if self.words[SITE + i] > base]
        if not at or not self.program:
            return ""
        done = subprocess.run(["addr2line", "-fpe", self.program, *at], capture_output=True,
                              text=True, check=False)
        return " < ".join(re.sub(r" at (?:.*/)?", "@", line) for line in done.stdout.splitlines()
                          if not line.startswith("??"))
