# SPDX-License-Identifier: Apache-2.0
"""Verification of chunks whose checksums are not in memory yet."""

import os
import unittest

import rawclient as rc
from hosted import HostedCase, KIB, MIB
from rawclient import get, raw

SIZE = 4 * MIB
CHUNK = 4 * KIB
JOB_TOTAL, JOB_FAULTS = 6, 10


class Verify(HostedCase):
    config = "cow { chunk_size = 4K }\n"

    def verify(self, volume):
        job = os.urandom(16)
        self.r.call(rc.M_VERIFY, raw(1, volume) + raw(3, job))
        self.assertEqual(self.r.wait_job(volume, job, 20), "done")
        job = self.r.job(volume, job)
        self.assertEqual(get(job, JOB_TOTAL), SIZE // CHUNK)
        self.assertEqual(get(job, JOB_FAULTS), 0)

    def test_after_a_restart_many_pages_of_checksums_are_loaded_at_once(self):
        volume, model = self.hosted(size=SIZE)
        for offset in range(0, SIZE, 64 * KIB):
            self.write(volume, model, offset, self.rng.randbytes(64 * KIB))
        self.snapshot(volume, model, "s")
        order = list(range(SIZE // CHUNK))
        self.rng.shuffle(order)
        for chunk in order:  # neighbours stand far apart on the COW device
            self.write(volume, model, chunk * CHUNK, self.rng.randbytes(CHUNK))
        for _ in range(2):
            self.kill_and_restart()
            self.r.sock.settimeout(20)  # a shard that spins answers nobody
            self.verify(volume)
        self.assert_holds(volume, model)


if __name__ == "__main__":
    unittest.main()
