# SPDX-License-Identifier: Apache-2.0
"""A daemon killed at each step of making and deleting things: nothing is left behind that nobody
knows of, what grows with each kill least of all, and the same request again succeeds."""

import os
import shutil
import time
import unittest
from unittest import mock

import rawclient as rc
from harness import CC, Case, preload_library
from hosted import CHUNK, SIZE
from rawclient import Gone, Refused, connect_unix, raw

STEPS_MAX = 200  # more than anything here takes


@unittest.skipUnless(shutil.which(CC), f"no {CC}")
class KilledAtEachStep(Case):
    def setUp(self):
        super().setUp()
        self.library, self.sign = preload_library("kill_at", self.dir), self.path("kill-at")
        # the threads engine, since its system calls can be counted
        self.d = self.daemon(tls=False, config='io_engine = "threads"\nshards = 1\n')
        self.raws = []
        self.addCleanup(lambda: [r.close() for r in self.raws])
        self.start()

    def start(self):
        asan = os.environ.get("ASAN_OPTIONS", "")
        with mock.patch.dict(os.environ, {"LD_PRELOAD": self.library, "KILL_AT": self.sign,
                                          "ASAN_OPTIONS": f"{asan}:verify_asan_link_order=0"}):
            self.d.start()
        self.r = connect_unix(self.d.socket)
        self.raws.append(self.r)

    def restart(self):
        self.d.process.wait(20)
        self.d.process = None
        if os.path.exists(self.sign):
            os.unlink(self.sign)
        self.start()

    def files(self):
        """All there is in volumes/ and trash/."""
        found = set()
        for folder in ("volumes", "trash", "groups"):
            for at, folders, names in os.walk(os.path.join(self.d.state, folder)):
                found |= {os.path.relpath(os.path.join(at, n), self.d.state)
                          for n in folders + names}
        return found

    def killed(self, n, fn):
        """Did it come to that step? The daemon is up again if it did."""
        with open(self.sign, "w", encoding="ascii") as f:
            f.write(str(n))
        try:
            fn()
        except (Gone, ConnectionError):
            self.restart()
            return True
        if self.d.process.poll() is not None:  # by what it does later
            self.restart()
            return True
        os.unlink(self.sign)
        return False

    def sweep(self, make, unmake, at_least, quarantine=False):
        """make(), killed at its first step, its second …, then made again and taken away."""
        before = self.files()
        for n in range(1, STEPS_MAX):
            killed = self.killed(n, make)
            with self.subTest(step=n):
                log = self.d.log()
                self.assertNotIn("neither used nor deleted", log)
                left = {f for f in self.files() - before if f.startswith("trash/")}
                if quarantine:
                    for f in left:
                        self.assertIn(f"has been moved to {self.d.state}/{f}", log)
                        os.unlink(os.path.join(self.d.state, f))
                else:
                    self.assertEqual(left, set())
                if killed:
                    make()
                unmake()
                self.settled(before)
                self.assertEqual(self.files(), before)
            if not killed:
                self.assertGreater(n, at_least)
                return
        self.fail("it has more steps than anybody has counted")

    def settled(self, before):
        """What is removed later has been removed."""
        end = time.monotonic() + 10
        while self.files() != before and time.monotonic() < end and self.d.process.poll() is None:
            time.sleep(0.005)

    def test_making_a_hosted_volume(self):
        uuids = []

        def make():
            if not uuids:
                uuids.append(os.urandom(16))
            self.r.create_hosted("v", SIZE, uuid=uuids[0])

        def unmake():
            self.r.write(uuids[0], 0, b"x" * CHUNK)
            self.r.call(rc.M_VOLUME_DELETE, raw(1, uuids.pop()) + raw(3, os.urandom(16)))
        self.sweep(make, unmake, 10)

    def test_making_a_hosted_volume_that_is_not_asked_for_again(self):
        def make():  # of another uuid: either the name is free, or the volume is there
            try:
                self.r.create_hosted("v", SIZE)
            except Refused as why:
                self.assertEqual(why.code, rc.EEXIST)
        def unmake():
            volume = self.r.resolve("v")[0]
            self.r.call(rc.M_VOLUME_DELETE, raw(1, volume) + raw(3, os.urandom(16)))
        self.sweep(make, unmake, 10)

    def nodes(self, create):
        """A snapshot or clone made with the same uuid again, and with another one."""
        before = self.files()
        for again in (True, False):
            uuids = []
            self.settled(before)

            def make():
                if not uuids or not again:
                    uuids[:] = [os.urandom(16)]
                try:
                    create(uuids[0])
                except Refused as why:
                    self.assertEqual(why.code, rc.EEXIST)
                    self.assertFalse(again)
                    uuids[:] = [self.r.resolve("v", "n")[1]]

            def unmake():
                self.r.delete_snapshot(self.volume, uuids.pop())
            self.sweep(make, unmake, 8)

    def test_making_a_snapshot(self):
        self.volume = self.r.create_hosted("v", SIZE)
        self.r.write(self.volume, 0, b"x" * SIZE)
        self.nodes(lambda uuid: self.r.create_snapshot(self.volume, "n", uuid=uuid))

    def test_making_a_clone(self):
        self.volume = self.r.create_hosted("v", SIZE)
        self.r.write(self.volume, 0, b"x" * SIZE)
        s = self.r.create_snapshot(self.volume, "s")
        self.nodes(lambda uuid: self.r.create_clone(self.volume, s, "n", uuid=uuid))

    def test_making_a_group(self):
        volumes = [self.r.create_hosted(name, SIZE) for name in "ab"]
        ids = []

        def make():
            ids[:] = [(v, os.urandom(16), "n") for v in volumes]
            try:
                self.r.create_group(ids)
            except Refused as why:
                self.assertEqual(why.code, rc.EEXIST)
                ids[:] = [(*self.r.resolve(name, "n"), "n") for name in "ab"]

        def unmake():
            for volume, node, _ in ids:
                self.r.delete_snapshot(volume, node)
        self.sweep(make, unmake, 20, quarantine=True)

    def test_deleting_a_snapshot(self):
        volume = self.r.create_hosted("v", SIZE)
        self.r.write(volume, 0, b"x" * SIZE)
        nodes, content = [], {}

        def prepare():
            node = self.r.create_snapshot(volume, "n")
            self.r.write(volume, 0, os.urandom(2 * CHUNK))
            nodes[:] = [node]

        def unmake():  # asked for again: it is gone, or goes now
            try:
                self.r.delete_snapshot(volume, nodes[0])
            except Refused as why:
                self.assertIn(why.code, (rc.ENOENT, rc.ESTALE))

        older = self.r.create_snapshot(volume, "older")
        content[older] = self.r.read(volume, 0, SIZE)
        before = self.files()
        for n in range(1, STEPS_MAX):
            prepare()
            killed = self.killed(n, lambda: (self.r.delete_snapshot(volume, nodes[0]), self.settled(before)))
            with self.subTest(step=n):
                self.assertNotIn("neither used nor deleted", self.d.log())
                unmake()
                self.settled(before)
                self.assertEqual(self.files(), before)
                self.assertEqual(self.r.read(volume, 0, SIZE, older), content[older])
            if not killed:
                self.assertGreater(n, 8)
                return
        self.fail("it has more steps than anybody has counted")


if __name__ == "__main__":
    unittest.main()
