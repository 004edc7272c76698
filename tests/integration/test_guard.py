# SPDX-License-Identifier: Apache-2.0
"""nbdkit-snapwire-guard-plugin: a local disk that is served, its old content kept by a daemon."""

import errno
import os
import re
import shutil
import signal
import subprocess
import threading
import time
import unittest

from harness import Case, preload_library, program, seed, until
from nbdclient import FUA, NO_HOLE, Nbd, NbdError

MIB = 1 << 20
CHUNK = 4096
PLUGIN = program("nbdkit-snapwire-guard-plugin.so")
TTL = "lease_ttl_ms = 1500\n"
UNVERIFIED = 24  # the exit code


def sanitizer():
    """A plugin with the address sanitizer wants it in nbdkit first."""
    done = subprocess.run(["ldd", PLUGIN], capture_output=True, text=True, check=True)
    match = re.search(r"(/\S*lib(?:clang_rt\.)?asan\S*)", done.stdout)
    if not match:
        return {}
    return {"LD_PRELOAD": match.group(1), "ASAN_OPTIONS": "detect_leaks=0"}


class Guard:
    """nbdkit with the plugin, in the foreground; its messages in a file."""

    def __init__(self, case, *args, name="g", wrap=(), server=None, target="snapshot=v@a"):
        self.case = case
        self.socket = case.path(f"{name}.sock")
        self.log_path = case.path(f"{name}.log")
        server = server or f"unix:{case.d.socket}"
        self.pid_path = case.path(f"{name}.pid")
        self.command = [*wrap, "nbdkit", "-f", "-P", self.pid_path, "-U", self.socket, "-t", "32",
                        PLUGIN,
                        f"origin={case.origin}", f"server={server}", target, *args]
        case.addCleanup(self.kill)
        self.start()

    def spawn(self):
        for path in (self.socket, self.pid_path):
            if os.path.exists(path):
                os.unlink(path)
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log,
                                            stdin=subprocess.DEVNULL, env=self.environment())
        self.case.children.append(self.process)

    def environment(self):
        return dict(self.case.environment(), **self.case.preload)

    def start(self):
        self.spawn()
        until(lambda: os.path.exists(self.pid_path) or self.process.poll() is not None)
        if self.process.poll() is not None:
            raise AssertionError("the guard ended:\n" + self.log())

    def log(self):
        with open(self.log_path, encoding="utf-8", errors="replace") as f:
            return f.read()

    def pid(self):
        """nbdkit's, also under strace."""
        with open(self.pid_path, encoding="ascii") as f:
            return int(f.read())

    def kill(self):
        if self.process.poll() is None and os.path.exists(self.pid_path):
            os.kill(self.pid(), signal.SIGKILL)
        self.process.kill()
        self.process.wait()

    def stop(self):
        os.kill(self.pid(), signal.SIGTERM)
        try:
            code = self.process.wait(10 if self.case.preload else 60)
        except subprocess.TimeoutExpired:
            if not self.case.preload:
                raise
            self.kill()  # nbdkit itself hangs in exit() then, once an errno was told
            code = 0
        if re.search("AddressSanitizer|runtime error:", self.log()):
            raise AssertionError(self.log())
        if code != 0:
            raise AssertionError(f"the guard ended with {code}:\n{self.log()}")

    def connect(self):
        return Nbd(self.socket)


@unittest.skipUnless(shutil.which("nbdkit") and os.path.exists(PLUGIN),
                     "nbdkit or nbdkit-plugin-dev is not installed")
class GuardCase(Case):
    size = 4 * MIB

    def setUp(self):
        super().setUp()
        self.rng = seed()
        self.mark = self.path("origin.snapwire-broken")
        self.preload = sanitizer()

    def disk(self, config=TTL, density=80, chunk="4K", tail=0, **kwargs):
        self.d = self.up(config=config, **kwargs)
        self.first = self.image("first", self.size + tail, self.rng, density=density)
        self.origin = self.copy(self.first, "origin")
        self.remote("create", "v", "--like", self.origin)
        self.remote("create", "v@a", "--chunk-size", chunk)

    def exported(self, snapshot="v@a"):
        out = self.path(f"out-{self.rng.randrange(1 << 40)}")
        self.remote("export", snapshot, "--origin", self.origin, "-o", out)
        return out

    def assert_kept(self, snapshot="v@a", was=None):
        self.assert_same(self.exported(snapshot), was or self.first)

    def state(self, snapshot="v@a"):
        return self.remote("show", snapshot, "--json").json()["state"]

    def counted(self):
        s = self.remote("status", "--json", on="admin").json()
        return s["chunks_added"], s["chunks_existed"]

    def block(self, n=CHUNK):
        return self.rng.randbytes(n)

    def scribble(self, nbd, writes=100, model=None, end=None):
        """Changes of every kind, anywhere before end; model: what the disk must hold then."""
        for _ in range(writes):
            n = self.rng.choice([1, 100, 512, 4096, 5000, 40000])
            at = self.rng.randrange((end or nbd.size) - n)
            kind = self.rng.randrange(4)
            data = self.block(n) if kind < 2 else bytes(n)
            if kind < 2:
                nbd.write(at, data, flags=FUA if kind else 0)
            else:
                nbd.zero(at, n, flags=NO_HOLE if kind == 2 else 0)
            if model is not None:
                model[at : at + n] = data


class Kept(GuardCase):
    def test_the_snapshot_is_the_origin_before_and_the_origin_is_what_was_written(self):
        self.disk(tail=1536)
        model = bytearray(open(self.first, "rb").read())
        g = Guard(self)
        nbd = g.connect()
        self.assertEqual(nbd.size, len(model))
        self.scribble(nbd, 150, model)
        end = self.block(1000)
        nbd.write(nbd.size - 1000, end)
        model[-1000:] = end
        nbd.flush()
        self.assertEqual(nbd.read(0, 65536), bytes(model[:65536]))
        nbd.trim(0, 3 * CHUNK + 7)
        nbd.write(0, bytes(model[: 4 * CHUNK]))
        nbd.close()
        g.stop()
        self.assertEqual(open(self.origin, "rb").read(), bytes(model))
        self.assert_kept()
        self.assertEqual(self.remote("show", "v", "--json").json()["leased"], False)

    def test_trim_keeps_what_it_discards(self):
        self.disk(density=100)
        g = Guard(self)
        nbd = g.connect()
        nbd.trim(MIB, MIB)
        self.assertEqual(nbd.read(MIB, MIB), bytes(MIB))
        nbd.close()
        g.stop()
        self.assertLess(os.stat(self.origin).st_blocks * 512, self.size - MIB + 65536)
        self.assert_kept()

    def test_a_block_device(self):
        self.disk()
        done = subprocess.run(["losetup", "-f", "--show", self.origin], capture_output=True,
                              text=True, check=False)
        if done.returncode != 0:
            self.skipTest("no loop device: " + done.stderr.strip())
        self.origin = done.stdout.strip()
        self.addCleanup(subprocess.run, ["losetup", "-d", self.origin], check=False)
        model = bytearray(open(self.first, "rb").read())
        g = Guard(self)
        with self.assertRaisesRegex(AssertionError, "in use"):
            Guard(self, name="g2")
        nbd = g.connect()
        self.scribble(nbd, 100, model)
        nbd.trim(MIB + 5, 100000)
        nbd.write(MIB + 5, bytes(model[MIB + 5 : MIB + 100005]))
        nbd.close()
        g.stop()
        self.assertEqual(open(self.origin, "rb").read(), bytes(model))
        self.assert_kept()

    def test_over_tls_with_large_chunks_and_large_writes(self):
        self.size = 24 * MIB
        self.disk(chunk="512K")
        pki = self.pki()
        g = Guard(self, f"ca={pki}/ca.crt", f"certificate={pki}/client-ann.crt",
                  f"key={pki}/client-ann.key", server=f"localhost:{self.d.port}")
        nbd = g.connect()
        nbd.write(300000, self.block(20 * MIB))
        nbd.close()
        g.stop()
        self.assert_kept()

    def test_a_second_overwrite_asks_the_daemon_for_nothing(self):
        self.disk()
        g = Guard(self)
        nbd = g.connect()
        nbd.write(0, self.block(64 * CHUNK))
        before = self.counted()
        for _ in range(20):
            nbd.write(0, self.block(64 * CHUNK))
        self.assertEqual(self.counted(), before)
        nbd.close()
        g.stop()
        self.assert_kept()

    def test_a_guard_that_was_killed_does_not_send_again_what_is_kept(self):
        self.disk()
        g = Guard(self)
        nbd = g.connect()
        nbd.write(0, self.block(64 * CHUNK))
        g.kill()
        before = self.counted()
        g.start()
        nbd = g.connect()
        nbd.write(0, self.block(64 * CHUNK))
        self.assertEqual(self.counted(), before)
        nbd.close()
        g.stop()
        self.assert_kept()

    def test_many_writers_at_once_on_the_same_chunks(self):
        self.disk()
        g = Guard(self)
        nbds = [g.connect() for _ in range(4)]
        plans = [[(self.rng.randrange(self.size // 512) * 512, self.block(512))
                  for _ in range(300)] for _ in nbds]

        def run(nbd, plan):
            waits = [nbd.begin(1, at, data=data) for at, data in plan]
            for w in waits:
                w.wait()

        threads = [threading.Thread(target=run, args=x) for x in zip(nbds, plans)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        with open(self.origin, "rb") as f:
            now = f.read()
        last = {}
        for plan in plans:
            for at, data in plan:
                last.setdefault(at, []).append(data)
        for at, datas in last.items():
            self.assertIn(now[at : at + 512], datas)
        for nbd in nbds:
            nbd.close()
        g.stop()
        self.assert_kept()

    def test_the_origin_cannot_be_opened_twice(self):
        self.disk()
        g = Guard(self)
        with self.assertRaisesRegex(AssertionError, "in use by another program"):
            Guard(self, name="g2")
        second = self.changed(self.first, "second", self.rng)
        self.fails(11, "in use", "remote", "apply", "v@a", "--origin", self.origin, "--source",
                   second)
        g.stop()

    def test_what_cannot_be_is_refused_before_the_start(self):
        if self.preload:
            self.skipTest("nbdkit itself hangs at its end with the address sanitizer loaded, once "
                          "an errno was told")
        self.disk()
        self.remote("create", "v@b")
        small = self.image("small", MIB, self.rng)
        for args, says in (
            ({"target": "snapshot=v@a"}, r"v@a is not the newest.*v@b"),
            ({"target": "snapshot=nothing@a"}, "nothing"),
            ({"target": "volume=v@"}, "has '@'"),
            ({"target": "snapshot=v"}, "VOLUME@SNAPSHOT"),
            ({"args": ["away=sometimes"]}, "wait, fail or broken"),
            ({"origin": small, "target": "volume=v"}, "1048576 bytes"),
            ({"origin": self.path("none"), "target": "volume=v"}, "No such file"),
            ({"server": "unix:/nonexistent", "target": "volume=v"}, "nonexistent|No such file"),
            ({"args": ["away=broken", "mark=/nonexistent/m"], "target": "volume=v"},
             "/nonexistent/m"),
        ):
            with self.subTest(says=says):
                keep = self.origin
                self.origin = args.pop("origin", keep)
                with self.assertRaisesRegex(AssertionError, says):
                    Guard(self, *args.pop("args", []), name=f"x{self.rng.random()}", **args)
                self.origin = keep
        Guard(self, target="volume=v").stop()


class Heads(GuardCase):
    def test_a_snapshot_made_meanwhile_is_adopted_between_two_writes(self):
        """Each writer writes A = n, then B = n, over several chunks: no snapshot may hold a torn
        write, nor a B that is newer than its A."""
        self.disk()
        g = Guard(self)
        stop = threading.Event()
        span = 3 * CHUNK
        faults = []
        begun, done = [0] * 8, [0] * 8

        def run(i):
            nbd = g.connect()
            n = 0
            try:
                while not stop.is_set():
                    n += 1
                    begun[i] = n
                    stamp = n.to_bytes(8, "little") * (span // 8)
                    nbd.write((4 * i) * span + 100, stamp)
                    nbd.write((4 * i + 2) * span + 100, stamp)
                    done[i] = n
            except OSError as e:
                faults.append(e)
            nbd.close()

        threads = [threading.Thread(target=run, args=(i,)) for i in range(8)]
        for t in threads:
            t.start()
        names, least, most = [], [], []
        for i in range(6):
            time.sleep(0.2)
            least.append(list(done))
            self.remote("create", f"v@s{i}")
            names.append(f"v@s{i}")
            most.append(list(begun))
        time.sleep(0.2)
        stop.set()
        for t in threads:
            t.join()
        self.assertEqual(faults, [])
        g.stop()
        self.assert_kept()
        for at_least, at_most, name in zip(least, most, names):
            data = open(self.exported(name), "rb").read()
            for i in range(8):
                values = []
                for part in (4 * i, 4 * i + 2):
                    at = part * span + 100
                    words = {data[x : x + 8] for x in range(at, at + span, 8)}
                    if len(words) == 1:
                        values.append(int.from_bytes(words.pop(), "little"))
                    else:
                        self.assertEqual(data[at : at + span], open(self.first, "rb").read()
                                         [at : at + span], f"{name}: torn")
                        values.append(0)
                self.assertIn(values[0] - values[1], (0, 1), name)
                self.assertGreaterEqual(values[0], at_least[i], name)
                self.assertLessEqual(values[0], at_most[i], name)
        self.assertGreater(min(least[-1]), 0)

    def test_a_volume_without_snapshots_gets_its_first(self):
        self.disk()
        self.remote("delete", "v@a")
        g = Guard(self, target="volume=v")
        nbd = g.connect()
        nbd.write(0, self.block(10 * CHUNK))
        self.assertEqual(self.counted()[0], 0)
        self.remote("create", "v@b", "--chunk-size", "8K")
        was = self.copy(self.origin, "was")
        self.scribble(nbd, 50)
        self.assert_kept("v@b", was)
        nbd.close()
        g.stop()

    def test_a_deleted_head_hands_down_and_the_guard_goes_on(self):
        self.disk()
        g = Guard(self)
        nbd = g.connect()
        self.scribble(nbd, 30)
        self.remote("create", "v@b")
        self.scribble(nbd, 30)
        self.remote("delete", "v@b")
        self.scribble(nbd, 60)
        self.remote("create", "v@c")
        self.scribble(nbd, 30)
        nbd.close()
        g.stop()
        self.assert_kept()


class Full(GuardCase):
    def test_no_room_refuses_the_write_and_a_new_snapshot_helps(self):
        self.disk()
        self.remote("create", "v@b", "--cow-size", "64K")
        was = self.copy(self.origin, "was")
        g = Guard(self, target="volume=v")
        nbd = g.connect()
        with self.assertRaises(NbdError) as e:
            for i in range(200):
                nbd.write(i * CHUNK, self.block())
        self.assertEqual(e.exception.errno, errno.ENOSPC)
        nbd.write(0, self.block())
        self.remote("create", "v@c")
        self.scribble(nbd, 50)
        nbd.close()
        g.stop()
        self.assert_kept()
        self.assert_kept("v@b", was)

    def test_an_invalid_snapshot_lets_the_writer_go_on(self):
        self.disk()
        self.remote("create", "w", "--like", self.origin, "--full-policy", "invalidate")
        self.remote("create", "w@a", "--chunk-size", "4K", "--cow-size", "64K")
        g = Guard(self, target="volume=w")
        nbd = g.connect()
        for i in range(200):
            nbd.write(i * CHUNK, self.block())
        self.assertEqual(self.state("w@a"), "invalid")
        was = self.copy(self.origin, "was")
        self.remote("create", "w@b")
        self.scribble(nbd, 50)
        nbd.close()
        g.stop()
        self.assert_kept("w@b", was)


class Away(GuardCase):
    def test_wait_first_overwrites_wait_and_reads_and_second_ones_do_not(self):
        self.disk(config="lease_ttl_ms = 10000\n")
        g = Guard(self)
        nbd = g.connect()
        nbd.write(0, self.block(4 * CHUNK))
        self.d.kill()
        first = nbd.begin(1, MIB, data=self.block())
        nbd.read(MIB, CHUNK)
        nbd.write(CHUNK, self.block())
        self.assertFalse(first.done.wait(1))
        self.d.start()
        first.wait()
        nbd.close()
        g.stop()
        self.assert_kept()

    def test_wait_when_the_lease_is_over_nothing_is_written_until_it_is_had_again(self):
        self.disk()
        g = Guard(self)
        nbd = g.connect()
        nbd.write(0, self.block(4 * CHUNK))
        self.d.kill()
        time.sleep(2)
        old = nbd.read(0, CHUNK)
        second = nbd.begin(1, 0, data=self.block())
        self.assertFalse(second.done.wait(1))
        self.assertEqual(nbd.read(0, CHUNK), old)
        self.d.start()
        second.wait()
        self.assertRegex(g.log(), "the daemon is back")
        nbd.close()
        g.stop()
        self.assert_kept()

    def test_fail_writes_fail_after_the_time_and_go_on_when_the_daemon_is_back(self):
        self.disk()
        g = Guard(self, "away=fail", "away_after=1")
        nbd = g.connect()
        nbd.write(0, self.block())
        self.d.kill()
        begin = time.monotonic()
        with self.assertRaises(NbdError) as e:
            nbd.write(MIB, self.block())
        self.assertEqual(e.exception.errno, errno.EIO)
        self.assertGreater(time.monotonic() - begin, 0.8)
        self.d.start()
        until(lambda: self.try_write(nbd))
        nbd.close()
        g.stop()
        self.assert_kept()

    def try_write(self, nbd):
        try:
            nbd.write(MIB, self.block())
            return True
        except NbdError:
            time.sleep(0.1)
            return False

    def test_a_stolen_lease_stops_writes_with_eio(self):
        self.disk()
        g = Guard(self)
        nbd = g.connect()
        nbd.write(0, self.block(4 * CHUNK))
        import rawclient as rc
        r = rc.connect_unix(self.d.socket)
        volume, _ = r.resolve("v")
        r.acquire(volume, self.size, b"i" * 16, fingerprint=b"", steal=True)
        until(lambda: "is lost" in g.log())
        for at in (0, MIB):
            with self.assertRaises(NbdError) as e:
                nbd.write(at, self.block())
            self.assertEqual(e.exception.errno, errno.EIO)
        r.close()
        until(lambda: self.try_write(nbd))  # nobody holds it any more: had again
        nbd.close()
        g.stop()
        self.assert_kept()

    def test_a_snapshot_made_over_an_absent_guard_is_adopted_when_it_is_back(self):
        self.disk()
        g = Guard(self)
        nbd = g.connect()
        nbd.write(0, self.block(4 * CHUNK))
        os.kill(g.pid(), signal.SIGSTOP)
        time.sleep(2)
        self.remote("create", "v@b")
        was = self.copy(self.origin, "was")
        os.kill(g.pid(), signal.SIGCONT)
        until(lambda: self.try_write(nbd))
        nbd.write(0, self.block(4 * CHUNK))
        self.scribble(nbd, 30)
        nbd.close()
        g.stop()
        self.assert_kept()
        self.assert_kept("v@b", was)


class Late(GuardCase):
    """The disk holds a write for longer than the lease lasts. The guard reaches the daemon by a
    name of its own, which is taken away: it hears nothing while a snapshot is made."""

    def setUp(self):
        super().setUp()
        self.name = self.path("way")
        self.slow = self.path("slow")
        lib = preload_library("slow_disk", self.dir)
        before = self.preload.get("LD_PRELOAD")
        self.preload = dict(self.preload, SLOW_DISK=self.slow,
                            LD_PRELOAD=f"{before}:{lib}" if before else lib)

    def guard_with_a_late_write(self, *args, made="ok"):
        """A guard, its client, the write, and what the disk held when v@b was made meanwhile."""
        self.disk()
        os.symlink(self.d.socket, self.name)
        g = Guard(self, *args, server=f"unix:{self.name}", target="volume=v")
        nbd = g.connect()
        nbd.write(MIB, self.block())
        open(self.slow, "wb").close()
        late = nbd.begin(1, 0, data=self.block())
        until(lambda: os.path.exists(self.slow + ".has"))
        os.unlink(self.name)
        self.d.kill()
        self.d.start()
        self.remote("create", "v@b")
        self.assertEqual(self.state("v@b"), made)
        until(lambda: os.path.exists(self.mark + ".late"))
        return g, nbd, late, self.copy(self.origin, "was")

    def assert_doubted(self):
        self.assertEqual(self.state("v@b"), "unverified")
        self.assertEqual(self.state("v@a"), "ok")
        self.fails(UNVERIFIED, ["for good", "may have been"], "remote", "export", "v@b",
                   "--origin", self.origin, "-o", self.path("no"))
        self.assert_kept("v@a")

    def test_the_snapshots_made_meanwhile_are_unverified_and_others_are_not(self):
        g, nbd, late, was = self.guard_with_a_late_write()
        self.assertFalse(late.done.is_set())
        os.symlink(self.d.socket, self.name)
        until(lambda: self.state("v@b") == "unverified")  # before the disk has let go of it
        self.assertFalse(late.done.is_set())
        until(lambda: "they may hold what that write wrote and are unverified for good" in g.log())
        os.unlink(self.slow)
        late.wait()
        self.assert_doubted()
        until(lambda: not os.path.exists(self.mark + ".late"))
        self.remote("create", "v@c")
        was_then = self.copy(self.origin, "was-then")
        self.scribble(nbd, 30)
        nbd.close()
        g.stop()
        self.assertEqual(self.state("v@c"), "ok")
        self.assert_kept("v@c", was_then)
        self.assert_doubted()
        self.d.stop()
        self.d.start()
        self.assert_doubted()
        self.remote("accept", "v@b")
        with open(self.exported("v@b"), "rb") as got, open(was, "rb") as had:
            self.assertNotEqual(got.read(CHUNK), had.read(CHUNK))  # it was in doubt with reason

    def test_a_write_that_has_ended_by_then_is_told_of_too(self):
        g, nbd, late, _ = self.guard_with_a_late_write()
        os.unlink(self.slow)
        late.wait()
        self.assertEqual(self.state("v@b"), "ok")
        os.symlink(self.d.socket, self.name)
        until(lambda: self.state("v@b") == "unverified")
        nbd.close()
        g.stop()
        self.assert_doubted()
        self.assertFalse(os.path.exists(self.mark + ".late"))

    def test_a_guard_that_could_have_gone_on_vouches_for_the_others_only(self):
        g, nbd, late, _ = self.guard_with_a_late_write("away=broken", "away_after=600",
                                                       made="unverified")
        self.assertEqual(self.state("v@a"), "unverified")
        os.unlink(self.slow)
        late.wait()
        os.symlink(self.d.socket, self.name)
        until(lambda: self.state("v@a") == "ok")
        self.assert_doubted()
        nbd.close()
        g.stop()
        self.assertFalse(os.path.exists(self.mark))
        self.assert_doubted()

    def test_a_guard_that_was_ended_tells_when_it_is_started_again(self):
        g, nbd, late, _ = self.guard_with_a_late_write()
        os.unlink(self.slow)
        late.wait()
        nbd.close()
        g.stop()
        self.assertEqual(self.state("v@b"), "ok")
        os.symlink(self.d.socket, self.name)
        g.start()
        self.assert_doubted()
        self.remote("accept", "v@b")
        until(lambda: not os.path.exists(self.mark + ".late"))
        g.stop()
        g.start()
        self.assertEqual(self.state("v@b"), "ok")  # it is told once
        g.stop()

    def test_a_guard_that_was_killed_too(self):
        g, _, _, _ = self.guard_with_a_late_write()
        g.kill()
        os.unlink(self.slow)
        os.symlink(self.d.socket, self.name)
        g.start()
        g.stop()
        self.assert_doubted()


class Ends(GuardCase):
    """nbdkit is told to end while requests wait for a daemon that is not there."""

    def ends(self, g, nbd, waiting, was):
        """nbdkit waits for its clients to leave; they do when nothing is under way any more."""
        began = time.monotonic()
        os.kill(g.pid(), signal.SIGTERM)
        for w in waiting:
            with self.assertRaises((NbdError, ConnectionError)):
                w.wait(5)
        nbd.close()
        g.stop()
        self.assertTrue(self.preload or time.monotonic() - began < 5)
        with open(self.origin, "rb") as f:
            f.seek(MIB)
            self.assertEqual(f.read(len(was)), was, "a write that was refused has been made")
        self.d.start()
        self.assert_kept()

    def test_what_waits_for_the_daemon_ends_unwritten(self):
        self.disk(config="lease_ttl_ms = 10000\n")
        g = Guard(self)
        nbd = g.connect()
        was = nbd.read(MIB, 8 * CHUNK)
        self.d.kill()
        waiting = [nbd.begin(1, MIB + i * CHUNK, data=self.block()) for i in range(8)]
        time.sleep(1)
        self.assertFalse(any(w.done.is_set() for w in waiting))
        self.ends(g, nbd, waiting, was)

    def test_also_when_its_time_is_over_and_its_client_has_gone(self):
        self.disk()
        g = Guard(self)
        nbd = g.connect()
        was = nbd.read(MIB, CHUNK)
        self.d.kill()
        waiting = nbd.begin(1, MIB, data=self.block())
        time.sleep(2.5)
        self.assertFalse(waiting.done.is_set())
        nbd.sock.close()
        self.ends(g, nbd, [], was)

    def test_also_while_another_lease_is_asked_for(self):
        self.disk()
        g = Guard(self)
        nbd = g.connect()
        was = nbd.read(MIB, CHUNK)
        self.d.stop()
        os.rename(self.d.state, self.d.state + "-away")
        os.mkdir(self.d.state)
        self.d.start()  # another one: it knows of no lease
        until(lambda: "is lost" in g.log())
        self.d.kill()
        shutil.rmtree(self.d.state)
        os.rename(self.d.state + "-away", self.d.state)
        until(lambda: "connection" in g.log().split("is lost")[-1])
        waiting = nbd.begin(1, MIB, data=self.block())
        time.sleep(2.5)
        self.assertFalse(waiting.done.is_set())
        self.ends(g, nbd, [waiting], was)


class Broken(GuardCase):
    def broken(self, *args, **kwargs):
        return Guard(self, "away=broken", "away_after=0", *args, **kwargs)

    def test_while_the_guard_is_away_its_snapshots_are_unverified_until_it_vouches(self):
        self.disk()
        g = self.broken()
        nbd = g.connect()
        self.scribble(nbd, 30)
        self.assertEqual(self.state(), "ok")
        self.assert_kept()
        g.kill()
        until(lambda: self.state() == "unverified")
        self.fails(UNVERIFIED, [r"v@a", "unverified", "start it again"], "remote", "export", "v@a",
                   "--origin", self.origin, "-o", self.path("no"))
        self.fails(UNVERIFIED, "unverified", "remote", "merge", "v@a", "--origin", self.origin,
                   "--steal", "--new-origin")
        self.d.kill()
        self.d.start()
        self.assertEqual(self.state(), "unverified")
        g.start()
        self.assertEqual(self.state(), "ok")
        self.assert_kept()
        self.assertFalse(os.path.exists(self.mark))
        g.stop()
        self.assertEqual(self.state(), "ok")

    def test_it_goes_on_marked_and_only_a_new_snapshot_ends_it(self):
        self.disk()
        g = self.broken()
        nbd = g.connect()
        self.scribble(nbd, 30, end=MIB)
        self.d.kill()
        data = self.block()
        nbd.write(MIB, data)
        self.assertTrue(os.path.exists(self.mark))
        self.assertEqual(nbd.read(MIB, CHUNK), data)
        nbd.write(2 * MIB, self.block())
        self.d.start()
        self.assertEqual(self.state(), "unverified")
        until(lambda: "for good" in self.remote("show", "v@a").out)
        self.assertEqual(self.state(), "unverified")
        got = self.fails(UNVERIFIED, "for good", "remote", "export", "v@a", "--origin",
                         self.origin, "-o", self.path("no"))
        self.assertIn("new snapshot", got.err)
        before = self.counted()
        nbd.write(3 * MIB, self.block())
        self.assertEqual(self.counted(), before)
        self.remote("create", "v@b")
        until(lambda: not os.path.exists(self.mark))
        was = self.copy(self.origin, "was")
        self.assertEqual(self.state("v@b"), "ok")
        self.scribble(nbd, 50)
        self.assert_kept("v@b", was)
        self.assertEqual(self.state("v@a"), "unverified")
        nbd.close()
        g.kill()
        until(lambda: self.state("v@b") == "unverified")
        g.command = [c.replace("snapshot=v@a", "volume=v") for c in g.command]
        g.start()
        self.assertEqual(self.state("v@b"), "ok")
        self.assertEqual(self.state("v@a"), "unverified")
        g.stop()

    def test_restarted_with_the_mark_it_does_not_vouch(self):
        self.disk()
        g = self.broken()
        nbd = g.connect()
        self.scribble(nbd, 10, end=MIB)
        self.d.kill()
        nbd.write(MIB, self.block())
        g.kill()
        self.d.start()
        self.assertEqual(self.state(), "unverified")
        g.start()
        self.assertRegex(g.log(), "mark .* is there")
        self.assertEqual(self.state(), "unverified")
        g.stop()
        self.assertTrue(os.path.exists(self.mark))
        self.assertEqual(self.state(), "unverified")
        self.fails(UNVERIFIED, "for good", "remote", "export", "v@a", "--origin", self.origin,
                   "-o", self.path("no"))
        # also not with another policy
        wait = Guard(self, name="w")
        self.assertRegex(wait.log(), "mark .* is there")
        self.assertEqual(self.state(), "unverified")
        wait.stop()

    def test_an_admin_accepts(self):
        self.disk()
        self.remote("create", "v@b")
        g = self.broken(target="volume=v")
        g.kill()
        until(lambda: self.state() == "unverified")
        self.fails(11, "--force", "remote", "accept", "v@b")
        self.remote("accept", "--force", "v@b")
        self.assertEqual(self.state("v@b"), "ok")
        self.assertEqual(self.state("v@a"), "unverified")
        self.remote("accept", "v@a")
        self.assert_kept()
        self.remote("grant", "bob", "writer", "v")
        self.reach(self.d, "bob", "bob")
        self.fails(8, "bob", "remote", "--on", "bob", "accept", "v@a")

    def test_a_snapshot_made_while_the_guard_is_away_is_unverified(self):
        self.disk()
        g = self.broken()
        nbd = g.connect()
        self.scribble(nbd, 10)
        nbd.close()
        g.kill()
        self.remote("create", "v@b")
        was = self.copy(self.origin, "was")
        self.assertEqual(self.state("v@b"), "unverified")
        g.command = [c.replace("snapshot=v@a", "volume=v") for c in g.command]
        g.start()
        self.assertEqual(self.state("v@b"), "ok")
        nbd = g.connect()
        self.scribble(nbd, 30)
        nbd.close()
        g.stop()
        self.assert_kept()
        self.assert_kept("v@b", was)

    def test_without_a_place_for_the_mark_nothing_is_written(self):
        self.disk()
        folder = self.path("marks")
        os.mkdir(folder)
        g = self.broken(f"mark={folder}/m")
        nbd = g.connect()
        nbd.write(0, self.block())
        os.rmdir(folder)
        self.d.kill()
        old = nbd.read(MIB, CHUNK)
        with self.assertRaises(NbdError):
            nbd.write(MIB, self.block())
        self.assertEqual(nbd.read(MIB, CHUNK), old)
        nbd.close()
        g.stop()
        self.d.start()
        os.mkdir(folder)
        g.start()
        self.assertEqual(self.state(), "ok")

    def test_the_mark_is_durable_before_the_first_unprotected_write(self):
        if not shutil.which("strace"):
            self.skipTest("strace is not installed")
        self.disk()
        trace = self.path("trace")
        g = Guard(self, "away=broken", "away_after=0",
                  wrap=["strace", "-f", "-o", trace, "-e",
                        "trace=openat,fsync,pwritev2,close"])
        nbd = g.connect()
        nbd.write(0, self.block())
        self.d.kill()
        nbd.write(MIB, self.block())
        nbd.close()
        self.d.start()
        g.stop()
        lines = open(trace, encoding="utf-8").read().splitlines()
        opened = [i for i, x in enumerate(lines) if "snapwire-broken\"" in x and "O_CREAT" in x]
        writes = [i for i, x in enumerate(lines) if re.search(rf"pwritev2\(.*, {MIB}, ", x)]
        synced = [i for i, x in enumerate(lines) if "fsync(" in x and i > opened[-1]]
        self.assertEqual(len(writes), 1)
        self.assertGreaterEqual(len(synced), 2)  # the file, its folder
        self.assertLess(synced[1], writes[0])


class Killed(GuardCase):
    rounds = 6

    def storm(self, policy=()):
        """Kill guard, daemon or both at random moments under writes, some rounds."""
        self.disk()
        g = Guard(self, *policy, target="volume=v")
        for n in range(self.rounds):
            nbd = g.connect()
            waits = []
            for _ in range(200):
                size = self.rng.choice([512, 4096, 9000])
                at = self.rng.randrange(self.size - size)
                try:
                    waits.append(nbd.begin(1, at, data=self.block(size)))
                except OSError:
                    break
            time.sleep(self.rng.random() * 0.1)
            who = self.rng.randrange(3)
            if who != 1:
                g.kill()
            if who != 0:
                self.d.kill()
                self.d.start()
            for w in waits:
                try:
                    w.wait()
                except (NbdError, ConnectionError):
                    pass
            nbd.close()
            if who != 1:
                g.start()
            until(lambda: self.state() == "ok")
            self.assert_kept()
        g.stop()
        self.assert_kept()

    def test_at_random_moments_the_snapshot_stays_what_it_was(self):
        self.storm()

    def test_with_a_policy_to_go_on_too(self):
        self.storm(("away=broken", "away_after=60"))


@unittest.skipUnless(shutil.which("fio") and shutil.which("qemu-io"), "no fio or no qemu-io")
class Programs(GuardCase):
    size = 16 * MIB

    def test_qemu_io_patterns(self):
        self.disk(density=100)
        g = Guard(self)
        commands = ["write -P 0xab 0 64k", "write -P 0xcd -f 5000 70000", "write -z 1M 1M",
                    "write -z -u 3M 64k", "discard 5M 1M", "flush", "read -P 0xab 0 4096",
                    "read -P 0xcd 5000 70000", "read -P 0 1M 1M"]
        args = [x for c in commands for x in ("-c", c)]
        done = subprocess.run(["qemu-io", "-f", "raw", f"nbd+unix:///?socket={g.socket}", *args],
                              capture_output=True, text=True, timeout=120, check=False)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertNotIn("failed", done.stdout)
        g.stop()
        self.assert_kept()

    def test_fio_verifies_while_snapshots_are_made(self):
        self.disk(density=100)
        g = Guard(self)
        fio = subprocess.Popen(
            ["fio", "--name=g", "--ioengine=nbd", f"--uri=nbd+unix:///?socket={g.socket}",
             "--rw=randwrite", "--bs=16k", "--iodepth=32", "--size=16m", "--io_size=64m",
             "--verify=crc32c", "--randseed=" + str(self.rng.randrange(1 << 30))],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=self.dir)
        self.children.append(fio)
        made = 0
        while fio.poll() is None and made < 5:
            time.sleep(0.3)
            self.remote("create", f"v@s{made}")
            made += 1
        out, _ = fio.communicate(timeout=120)
        self.assertEqual(fio.returncode, 0, out)
        g.stop()
        self.assert_kept()


if __name__ == "__main__":
    unittest.main()
