# SPDX-License-Identifier: Apache-2.0
"""A COW file that somebody cuts short while the daemon has it open."""

import os
import unittest

from hosted import CHUNK, HostedCase, SIZE
from rawclient import Refused


class CutShort(HostedCase):
    def cow_path(self):
        return self.remote("show", "v@s", "--json").json()["cow_path"]

    def test_what_stood_there_is_never_read_as_zeros(self):
        volume, model = self.hosted()
        self.write(volume, model, 0, self.rng.randbytes(SIZE))
        node = self.snapshot(volume, model, "s")
        for offset in range(0, SIZE // 2, CHUNK):
            self.write(volume, model, offset, self.rng.randbytes(CHUNK))
        os.truncate(self.cow_path(), 0)
        for offset in range(SIZE // 2, SIZE, CHUNK):  # they make the file long again
            try:
                self.r.write(volume, offset, self.rng.randbytes(CHUNK))
            except Refused:
                break
        for offset in range(0, SIZE, CHUNK):
            try:
                got = self.r.read(volume, offset, CHUNK, node)
            except Refused:
                continue
            self.assert_equal_bytes(got, model.nodes[node][offset:offset + CHUNK], f"at {offset}")
        state = self.remote("show", "v@s", "--json").json()["state"]
        self.assertIn(state, ("damaged", "invalid"))


if __name__ == "__main__":
    unittest.main()
