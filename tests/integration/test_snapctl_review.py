# SPDX-License-Identifier: Apache-2.0
"""snapctl offline: roll-backs that are run once more, devices written onto themselves, left-over
entries, names."""

import hashlib
import os
import subprocess

from cowimage import CowImage, read_table, snapshot_of, view
from harness import Case, program, seed

MIB = 1 << 20


def digest(path):
    with open(path, "rb") as f:
        return hashlib.sha256(f.read()).hexdigest()


def content(path):
    with open(path, "rb") as f:
        return f.read()


class Review(Case):
    def cow(self, *args, code=0):
        return self.snapctl("cow", *args, code=code)

    def loop(self, path, *options):
        done = subprocess.run(["losetup", "--find", "--show", *options, path],
                              capture_output=True, text=True, check=False)
        if done.returncode:
            self.skipTest("no loop devices here: " + done.stderr.strip())
        device = done.stdout.strip()
        self.addCleanup(subprocess.run, ["losetup", "-d", device], check=False)
        return device


class MergeAgain(Review):
    def test_over_newer_ones_it_may_be_run_again_after_its_end(self):
        """Whoever was cut off does not know that it ended. An emptied device would read through
        the newer ones, and the second run would roll the origin to them."""
        rng = seed()
        origin, oldest, old, new = (self.path(x) for x in ("origin", "a.cow", "b.cow", "c.cow"))
        for path in (new, old, oldest):
            snapshot_of(rng, origin, path, 8, size=MIB + 512, percent=30)
        chains = [[oldest, old, new], [old, new], [new]]
        want = [view(chain, origin) for chain in chains]
        for _ in range(3):
            self.cow("merge", old, "--over", new, "--origin", origin)
            self.assertEqual(content(origin), want[1])
            for chain, expected in zip(chains, want):
                self.assertEqual(view(chain, origin), expected, chain)
        before = [digest(x) for x in (oldest, old, new, origin)]
        self.cow("merge", old, "--over", new, "--origin", origin)
        self.assertEqual([digest(x) for x in (oldest, old, new, origin)], before)

    def test_chunks_of_the_newest_may_be_larger_than_the_rest(self):
        rng = seed()
        origin, old, mid, new = (self.path(x) for x in ("origin", "a.cow", "b.cow", "c.cow"))
        for path, sectors in ((new, 64), (mid, 8), (old, 1)):
            snapshot_of(rng, origin, path, sectors, size=MIB + 512, percent=20)
        chains = [[old, mid, new], [mid, new], [new]]
        want = [view(chain, origin) for chain in chains]
        self.cow("merge", old, "--over", mid, "--over", new, "--origin", origin)
        self.assertEqual(content(origin), want[0])
        for chain, expected in zip(chains, want):
            self.assertEqual(view(chain, origin), expected, chain)

    def test_a_sole_one_may_be_run_again_after_its_end(self):
        rng = seed()
        origin, cow = self.path("origin"), self.path("x.cow")
        snapshot_of(rng, origin, cow, 8, size=MIB)
        want = view([cow], origin)
        for _ in range(2):
            self.cow("merge", cow, "--origin", origin)
            self.assertEqual(content(origin), want)
            self.assertEqual(read_table(cow)[1], {})


class LeftOver(Review):
    def device(self, *leftovers):
        image = CowImage()
        for old in (3, 9, 4):
            image.add(old, bytes([old]) * image.chunk)
        for slot in leftovers:
            image.leftover(*slot)
        path = self.path("x.cow")
        image.write(path)
        return path

    def check(self, path, *args):
        return self.snapctl("--json", "cow", "check", path, *args)

    def test_check_tells_them_and_repair_says_what_it_did(self):
        path = self.device((1, 70, 9), (100, 71, 10))
        got = self.check(path)
        self.assertEqual({k: got.json()[k] for k in ("sound", "valid", "leftovers", "repaired")},
                         {"sound": True, "valid": True, "leftovers": 2, "repaired": False})
        self.assertRegex(got.err, r"x\.cow: 2 left-over entries .*check --repair .*x\.cow")
        got = self.check(path, "--repair")
        self.assertEqual((got.json()["leftovers"], got.json()["repaired"]), (2, True))
        self.assertRegex(got.err, r"x\.cow: zeroed 2 left-over entries")
        got = self.check(path, "--repair")
        self.assertEqual((got.json()["leftovers"], got.json()["repaired"]), (0, False))
        self.assertNotIn("left-over", got.err)

    def test_quiet_says_nothing(self):
        path = self.device((1, 70, 9))
        self.assertEqual(self.snapctl("cow", "check", path, "-q").err, "")


class Create(Review):
    def test_size_0_is_a_size_that_cannot_be(self):
        self.fails(2, r"--size: 0 bytes", "cow", "create", self.path("a"), "--size", "0")

    def test_a_block_device_has_no_chunk_below_its_logical_block(self):
        """The kernel would refuse it; the page cache would not."""
        disk = self.path("disk")
        with open(disk, "wb") as f:
            f.truncate(4 * MIB)
        device = self.loop(disk, "--sector-size", "4096")
        with open(f"/sys/block/{os.path.basename(device)}/queue/logical_block_size",
                  encoding="ascii") as f:
            if f.read().strip() != "4096":
                self.skipTest("loop devices have no sectors of 4 KiB here")
        self.fails(2, r"chunk size of 512 bytes.*4096", "cow", "create", device, "--chunk-size", "512")
        self.cow("create", device, "--chunk-size", "4K")
        self.cow("check", device)


class Onto(Review):
    def test_an_export_never_goes_to_what_it_reads(self):
        rng = seed()
        origin, cow = self.path("origin"), self.path("x.cow")
        snapshot_of(rng, origin, cow, 8, size=MIB)
        before = digest(origin)
        device = self.loop(origin)
        self.fails(2, rf"{device} is read from", "cow", "export", cow, "--origin", device, "-o",
                   device)
        self.assertEqual(digest(origin), before)
        self.fails(7, r"origin exists", "cow", "export", cow, "--origin", origin, "-o", origin)


class Words(Review):
    def test_h_is_help(self):
        for words in (["-h"], ["cow", "-h"], ["cow", "info", "-h"], ["pki", "issue", "-h"]):
            self.assertIn("Usage:", self.snapctl(*words).out, words)

    def test_names_in_pki_are_names(self):
        pki = self.path("pki")
        for name in ("", "x" * 65):
            self.fails(2, r"--name: 1 to 64", "pki", "init", pki, "--name", name)
        self.snapctl("pki", "init", pki)
        for name in ("../ann", "a/b", "", "a b", "a,IP:10.0.0.1"):
            for words in (["issue", pki, "--client", name], ["issue", pki, "--server", name],
                          ["revoke", pki, name], ["revoke", pki, "--client", name]):
                self.fails(2, r"name", "pki", *words)
        self.fails(2, r"name", "pki", "issue", pki, "--client", "::1")
        self.assertEqual(sorted(os.listdir(pki)), ["ca.crl", "ca.crt", "ca.key"])
        self.assertEqual(os.stat(f"{pki}/ca.key").st_mode & 0o777, 0o600)
        done = subprocess.run([program("snapctl"), "pki", "issue", pki, "--client", "ann"],
                              capture_output=True, text=True, check=False, umask=0)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(os.stat(f"{pki}/client-ann.key").st_mode & 0o777, 0o600)
