# SPDX-License-Identifier: Apache-2.0
"""A disk that holds a write of apply for longer than the lease lasts, while a snapshot is made without
it: the daemon is told that it may hold what was written."""

import os
import shutil
import signal
import unittest
from unittest import mock

from harness import CC, Case, preload_library, seed, until

MIB = 1 << 20
STALE = 10  # the exit code


@unittest.skipUnless(shutil.which(CC), f"no {CC}")
class Late(Case):
    def setUp(self):
        super().setUp()
        self.rng = seed()
        self.library, self.slow = preload_library("slow_disk", self.dir), self.path("slow")
        self.d = self.up(tls=False, config="lease_ttl_ms = 1500\n")
        self.way = self.path("way")  # by which the writer reaches the daemon
        os.symlink(self.d.socket, self.way)
        self.remote("add", "writer", f"unix:{self.way}")
        self.first = self.image("first", MIB, self.rng)
        self.origin = self.copy(self.first, "origin")
        self.second = self.changed(self.first, "second", self.rng, percent=100)
        self.remote("create", "v", "--like", self.origin)
        self.remote("create", "v@a", "--chunk-size", "4K")
        self.was = self.content()

    def content(self):
        with open(self.origin, "rb") as f:
            return f.read()

    def cut_off(self, *command):
        """The writer, its disk in the middle of a write, when v@b was made without it."""
        open(self.slow, "wb").close()
        asan = os.environ.get("ASAN_OPTIONS", "")
        with mock.patch.dict(os.environ, {"LD_PRELOAD": self.library, "SLOW_DISK": self.slow,
                                          "ASAN_OPTIONS": f"{asan}:verify_asan_link_order=0"}):
            child = self.spawn("remote", "--on", "writer", *command, "--origin", self.origin)
        until(lambda: os.path.exists(self.slow + ".has") or child.poll() is not None)
        self.assertIsNone(child.poll())
        os.unlink(self.way)
        self.d.kill()
        self.d.start()
        self.remote("create", "v@b")
        self.assertEqual(self.state("v@b"), "ok")
        return child

    def state(self, snapshot):
        return self.remote("show", snapshot, "--json").json()["state"]

    def assert_told(self, child):
        _, err = child.communicate(timeout=60)
        self.assertEqual(child.returncode, STALE, err)
        self.assertRegex(err, r"newest is b: they may hold what it wrote and are unverified for good")
        self.assertEqual(self.state("v@b"), "unverified")
        self.assertEqual(self.state("v@a"), "ok")

    def test_an_apply_that_has_to_wait_for_its_disk_tells_it(self):
        child = self.cut_off("apply", "v@a", "--source", self.second)
        os.symlink(self.d.socket, self.way)
        until(lambda: "lost" in self.d.log() or "stale" in self.d.log().lower())
        self.assertIsNone(child.poll())
        os.unlink(self.slow)
        self.assert_told(child)
        out = self.path("out")
        self.remote("export", "v@a", "--origin", self.origin, "-o", out)
        self.assert_same(out, self.first)
        self.remote("create", "v@c")
        self.remote("apply", "v@c", "--origin", self.origin, "--source", self.second)
        self.assertEqual(self.state("v@c"), "ok")

    def test_one_whose_write_has_ended_by_then_too(self):
        child = self.cut_off("apply", "v@a", "--source", self.second)
        os.unlink(self.slow)
        until(lambda: self.content() != self.was)
        os.symlink(self.d.socket, self.way)
        self.assert_told(child)

    def test_a_daemon_that_stays_away_cannot_be_told_and_the_operator_is(self):
        child = self.cut_off("apply", "v@a", "--source", self.second)
        os.unlink(self.slow)
        until(lambda: self.content() != self.was)
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=60)
        self.assertRegex(err, "snapshots of v that were made meanwhile may hold what it wrote")
        self.assertEqual(self.state("v@b"), "ok")


if __name__ == "__main__":
    unittest.main()
