# SPDX-License-Identifier: Apache-2.0
"""snapctl offline: roll-backs that are run once more, devices written onto themselves, left-over
entries, names. And the scripts around it: deploy/quickstart, make help."""

import hashlib
import os
import re
import signal
import subprocess
import time

from cowimage import CowImage, read_table, snapshot_of, view
from harness import ROOT, Case, program, seed

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
        self.fails(2, r"chunk size of 512 bytes.*4096", "cow", "create", device, "--chunk-size",
                   "512")
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


class Quickstart(Case):
    """deploy/quickstart with the programs that are built: to its end, and cut off."""

    def start(self, *args):
        build = os.path.dirname(program("snapctl"))
        child = subprocess.Popen(
            [os.path.join(ROOT, "deploy", "quickstart"), "--no-build", "--dir", self.path("q"),
             *args], env=dict(os.environ, BUILD=build), text=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
        self.children.append(child)
        return child

    def daemons_left(self):
        left = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/cmdline", encoding="utf-8", errors="replace") as f:
                    words = f.read().split("\0")
            except OSError:
                continue
            if words[0].endswith("snapwired") and self.path("q") + "/snapwired.conf" in words:
                left.append(int(pid))
        return left

    def test_it_runs_to_its_end_and_stops_what_it_started(self):
        child = self.start()
        out, err = child.communicate(timeout=120)
        self.assertEqual(child.returncode, 0, out + err)
        for said in ("bit for bit", "equals the first generation again", "The daemon is stopped"):
            self.assertIn(said, out)
        self.assertEqual(self.daemons_left(), [])

    def test_kept_it_refuses_a_second_run_until_it_is_stopped(self):
        child = self.start("--keep")
        out, err = child.communicate(timeout=120)
        self.assertEqual(child.returncode, 0, out + err)
        (pid,) = self.daemons_left()
        self.addCleanup(lambda: [os.kill(p, signal.SIGKILL) for p in self.daemons_left()])
        self.assertIn(f"kill {pid}", out)
        again = self.start()
        _, err = again.communicate(timeout=60)
        self.assertEqual(again.returncode, 1)
        self.assertIn(f"kill {pid}", err)
        os.kill(pid, signal.SIGTERM)
        end = time.monotonic() + 30
        while self.daemons_left() and time.monotonic() < end:
            time.sleep(0.05)
        self.assertEqual(self.daemons_left(), [])

    def test_interrupted_it_stops_the_daemon_and_can_be_run_again(self):
        rng = seed()
        for how, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)) * 2:
            child = self.start()
            time.sleep(rng.uniform(0.1, 1.2))
            os.killpg(child.pid, how)
            out, err = child.communicate(timeout=60)
            # 20: what snapctl says, whose end the script may see before it sees the signal
            self.assertIn(child.returncode, (0, 20, code), out + err)
            self.assertEqual(self.daemons_left(), [], out + err)

    def test_a_folder_of_somebody_elses_is_left_alone(self):
        os.mkdir(self.path("q"))
        with open(self.path("q/precious"), "w", encoding="ascii") as f:
            f.write("keep")
        child = self.start()
        _, err = child.communicate(timeout=60)
        self.assertEqual(child.returncode, 1)
        self.assertRegex(err, r"was not made by quickstart.*--dir")
        self.assertEqual(os.listdir(self.path("q")), ["precious"])

    def test_wrong_words(self):
        for args in (["--wrong"], ["--dir"], ["--dir", ""]):
            child = self.start(*args)
            _, err = child.communicate(timeout=60)
            self.assertEqual(child.returncode, 2, args)
            self.assertIn("quickstart: ", err)


class Completion(Case):
    def words(self, *args):
        return self.snapctl("--words", *args).out.split()

    def offered(self, *before):
        script = (f"source {ROOT}/deploy/completions/snapctl.bash; COMP_WORDS=(\"$@\" --); "
                  "COMP_CWORD=$#; _snapctl; printf '%s\\n' \"${COMPREPLY[@]}\"")
        path = os.path.dirname(program("snapctl")) + ":" + os.environ["PATH"]
        return set(subprocess.run(["bash", "-c", script, "bash", "snapctl", *before],
                                  env=dict(self.environment(), PATH=path), check=True,
                                  capture_output=True, text=True).stdout.split())

    def test_what_it_offers_is_what_there_is(self):
        for group in self.words():
            for command in self.words(group):
                told = self.snapctl(group, command, "--help").out
                there_is = set(re.findall(r"(?m)^ {1,8}(?:-., )?(--[a-z][a-z-]*)", told))
                self.assertIn("--json", there_is)
                self.assertEqual(self.offered(group, command), there_is, f"{group} {command}")


class MakeHelp(Case):
    def test_every_target_that_it_names_exists(self):
        text = subprocess.run([os.path.join(ROOT, "deploy", "make-help")], capture_output=True,
                              text=True, check=True).stdout
        targets = set(re.findall(r"make ([a-z][a-z-]*)", text)) | {"unit-io", "bench-scale"}
        self.assertIn("check-unit", targets)
        build = os.path.dirname(program("snapctl"))
        for target in sorted(targets):
            done = subprocess.run(["make", "-n", f"BUILD={build}", target], cwd=ROOT,
                                  capture_output=True, text=True, check=False)
            self.assertNotIn("No rule to make target", done.stderr, target)
