# SPDX-License-Identifier: Apache-2.0
"""Verification of chunks whose checksums are not in memory yet, and of exceptions that have changed
on the disk."""

import os
import struct
import unittest

import rawclient as rc
from harness import Case, seed
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


class Table(Case):
    """The disk changes entries of the table: into others that are as good as any."""

    def setUp(self):
        super().setUp()
        rng = seed()
        self.d = self.up(tls=False, config="cow { chunk_size = 4K }\n")
        self.remote("create", "v", "--hosted", "--size", "4M")
        self.remote("import", "v", self.file("one", rng.randbytes(SIZE)))
        self.remote("create", "v@s")
        self.remote("import", "v", self.file("two", rng.randbytes(SIZE)))
        self.cow = self.remote("show", "v@s", "--json").json()["cow_path"]

    def file(self, name, content):
        with open(self.path(name), "wb") as f:
            f.write(content)
        return self.path(name)

    def change(self, edit):
        """edit() is given the file, and how to read and write an entry (area, index)."""
        def at(place):
            return (1 + (CHUNK // 16 + 1) * place[0]) * CHUNK + 16 * place[1]

        self.d.stop()
        with open(self.cow, "r+b") as f:
            def entry(place, new=None):
                f.seek(at(place))
                if new is None:
                    return struct.unpack("<QQ", f.read(16))
                return f.write(struct.pack("<QQ", *new))
            edit(entry)
        self.d.start()

    def test_old_chunks_that_changed_places_are_found_with_their_entries(self):
        first, last = (0, 3), (3, 200)
        places = []

        def swap(entry):
            a, b = entry(first), entry(last)
            entry(first, (b[0], a[1]))
            entry(last, (a[0], b[1]))
            places.extend([(b[0], a[1], first), (a[0], b[1], last)])

        self.assertIn("0 faults", self.remote("verify", "v").err)
        self.change(swap)
        self.remote("check", "v")  # the table is one that could be
        done = self.remote("verify", "v", "--json", code=12).json()
        self.assertEqual(done["faults_total"], 2)
        told = self.remote("verify", "v@s", code=12).out
        for old, new, place in places:
            self.assertIn(f"v@s: old_chunk {old}, new_chunk {new} (area {place[0]}, "
                          f"entry {place[1]}): ", told)

    def test_an_old_chunk_with_another_bit_is_found_and_what_it_was_is_told(self):
        place, was = (2, 7), []

        def flip(entry):
            was.append(entry(place)[0])
            entry(place, (was[0] ^ 1 << 12, entry(place)[1]))

        self.change(flip)
        self.remote("check", "v")
        told = self.remote("verify", "v", code=12).out
        self.assertRegex(told, rf"v@s: old_chunk {was[0] ^ 1 << 12}, .*\(area 2, entry 7\): the disk "
                               rf"has changed its entry .*of old_chunk {was[0]}\b")


if __name__ == "__main__":
    unittest.main()
