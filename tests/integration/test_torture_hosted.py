# SPDX-License-Identifier: Apache-2.0
"""Hosted volumes under SIGKILL: see torture_hosted.py.

TORTURE_SECONDS in the environment is how long it goes on (make torture).
"""

import os
import time

from harness import Case, seed
from torture_hosted import torture

SECONDS = float(os.environ.get("TORTURE_SECONDS", "20"))


class HostedTorture(Case):
    def test_what_was_answered_survives_kills(self):
        rng = seed()
        d = self.up(tls=False)
        t = torture(d, rng, SECONDS, time.monotonic)
        print(f"    {t.kills} kills, {t.answers} writes answered, {t.counts}")
        self.assertGreater(t.answers, 50, "too little load to show anything")
        d.stop()
