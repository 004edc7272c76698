# SPDX-License-Identifier: Apache-2.0
"""A file that somebody cuts short while the daemon has it open."""

import os
import unittest
import uuid

import rawclient as rc
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

    def test_an_origin_fails_until_the_next_start_also_when_it_is_long_again(self):
        volume, model = self.hosted()
        self.write(volume, model, 0, self.rng.randbytes(SIZE))
        path = os.path.join(self.d.state, "volumes", str(uuid.UUID(bytes=volume)), "origin")
        size = os.path.getsize(path)
        os.truncate(path, SIZE // 2)
        self.refused(rc.EIO, self.r.flush, volume)
        os.truncate(path, size)
        self.refused(rc.EIO, self.r.write, volume, SIZE - CHUNK, b"x" * CHUNK)
        self.refused(rc.EIO, self.r.read, volume, SIZE - 2 * CHUNK, CHUNK)
        with open(path, "r+b") as f:  # as a restored one
            f.write(model.now)
        self.kill_and_restart()
        self.assert_holds(volume, model)


if __name__ == "__main__":
    unittest.main()
