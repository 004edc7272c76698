# SPDX-License-Identifier: Apache-2.0
"""Writers against each other, against new heads, and against full and failing disks."""

import glob
import os
import resource
import signal
import subprocess
import time

import rawclient as rc
from harness import Case, seed, until
from rawclient import Refused, connect_unix, num, raw

MIB = 1 << 20
CHUNK = 4096


class WriterCase(Case):
    def setUp(self):
        super().setUp()
        self.rng = seed()

    def disk(self, size, percent=100, name="v", policy=None, **create):
        """Volume, first generation, origin, second generation."""
        self.first = self.image("first", size, self.rng)
        self.origin = self.copy(self.first, "origin")
        self.second = self.changed(self.first, "second", self.rng, percent=percent)
        self.remote("create", name, "--like", self.origin,
                    *(["--full-policy", policy] if policy else []))
        self.remote("create", f"{name}@a", "--chunk-size", "4K",
                    *[x for k, v in create.items() for x in (f"--{k.replace('_', '-')}", v)])

    def writer(self, d, snapshot="a"):
        """Connected, a volume of 1 MiB with a snapshot, and the epoch of the lease on it."""
        r = connect_unix(d.socket)
        volume = r.create_volume("v", MIB)
        head = r.create_snapshot(volume, snapshot)
        epoch, _ = r.acquire(volume, MIB, b"i" * 16)
        return r, volume, head, epoch

    def apply(self, code=0, snapshot="v@a", source=None, extra=()):
        return self.remote("apply", snapshot, "--origin", self.origin, "--source",
                           source or self.second, *extra, code=code)

    def exported(self, snapshot="v@a"):
        out = self.path(f"out-{self.rng.randrange(1 << 40)}")
        self.remote("export", snapshot, "--origin", self.origin, "-o", out)
        return out


class Two(WriterCase):
    def test_a_second_writer_is_refused_by_the_firsts_name(self):
        d = self.up()
        self.disk(MIB)
        r = connect_unix(d.socket)
        volume, _ = r.resolve("v")
        r.acquire(volume, MIB, b"i" * 16, fingerprint=b"")
        got = self.fails(11, [r"\bv\b", rf"uid:{os.getuid()}", r"--steal"], "remote", "apply",
                         "v@a", "--origin", self.origin, "--source", self.second)
        self.assertEqual(got.out, "")
        self.assert_same(self.origin, self.first)
        r.close()

    def test_a_stolen_lease_stops_the_first_writer_before_it_writes_on(self):
        d = self.up()
        self.disk(64 * MIB)
        child = self.spawn("remote", "apply", "v@a", "--origin", self.origin, "--source",
                           self.second)
        r = connect_unix(d.socket)
        volume, snapshot = r.resolve("v", "a")
        until(lambda: r.runs(volume, snapshot) or child.poll() is not None)
        r.acquire(volume, 64 * MIB, b"i" * 16, steal=True, fingerprint=b"")
        out, err = child.communicate(timeout=60)
        if child.returncode == 0:
            self.skipTest("the apply was over before it could be fenced")
        self.assertEqual(child.returncode, 10, err)
        self.assertRegex(err, r"(?i)lease|writer|fenced|stale")
        epoch_run = r.runs(volume, snapshot)
        time.sleep(0.3)
        self.assertEqual(r.runs(volume, snapshot), epoch_run, "it went on")
        r.close()
        self.apply(extra=["--steal"])
        self.assert_same(self.origin, self.second)
        self.assert_same(self.exported(), self.first)

    def test_a_stale_epoch_is_refused_in_every_request_of_the_lease(self):
        d = self.up(tls=False)
        r, volume, head, old = self.writer(d, "s")
        other = connect_unix(d.socket)
        new, _ = other.acquire(volume, MIB, b"j" * 16, steal=True)
        self.assertGreater(new, old)
        r.wait_event(rc.E_LEASE_LOST)
        ref = raw(1, volume) + num(2, old)
        merge = raw(1, volume) + raw(2, head) + num(3, old)
        for method, control, payload in (
                (rc.M_LEASE_RENEW, ref, b""), (rc.M_LEASE_RELEASE, ref, b""),
                (rc.M_HEAD_READY, ref + raw(3, head), b""),
                (rc.M_COW_PUT, r.put_control(volume, old, head, [1]), bytes(CHUNK)),
                (rc.M_MERGE_BEGIN, merge, b""), (rc.M_MERGE_PREPARE, merge, b""),
                (rc.M_MERGE_COMMIT, merge + num(4, 0) + num(5, 1), b""),
                (rc.M_MERGE_END, merge, b""), (rc.M_MERGE_ABORT, merge, b"")):
            with self.assertRaises(Refused) as got:
                r.call(method, control, payload)
            self.assertEqual(got.exception.code, rc.ESTALE, (method, got.exception.text))
        with self.assertRaises(Refused) as got:
            r.acquire(volume, MIB, b"i" * 16, epoch=old)
        self.assertEqual(got.exception.code, rc.ESTALE)
        other.put(volume, new, head, [1], bytes(CHUNK))
        r.close()
        other.close()

    def test_the_epoch_only_grows_also_over_kills(self):
        d = self.up(tls=False)
        r = connect_unix(d.socket)
        volume = r.create_volume("v", MIB)
        r.close()
        last = 0
        for i in range(6):
            r = connect_unix(d.socket)
            epoch, _ = r.acquire(volume, MIB, bytes([i + 1]) * 16, steal=True)
            self.assertGreater(epoch, last)
            last = epoch
            r.close()
            d.kill()
            d.start()

    def test_a_lease_comes_back_after_a_restart_and_ends_with_its_time(self):
        d = self.up(tls=False, config="lease_ttl_ms = 1000\n")
        r = connect_unix(d.socket)
        volume = r.create_volume("v", MIB)
        epoch, _ = r.acquire(volume, MIB, b"i" * 16)
        d.kill()
        d.start()
        r = connect_unix(d.socket)
        self.assertEqual(r.acquire(volume, MIB, b"i" * 16, epoch=epoch)[0], epoch)
        other = connect_unix(d.socket)
        with self.assertRaises(Refused) as got:
            other.acquire(volume, MIB, b"j" * 16)
        self.assertEqual(got.exception.code, rc.EBUSY)
        time.sleep(1.3)
        new, _ = other.acquire(volume, MIB, b"j" * 16)
        self.assertGreater(new, epoch)
        with self.assertRaises(Refused) as got:
            r.acquire(volume, MIB, b"i" * 16, epoch=epoch)
        self.assertEqual(got.exception.code, rc.ESTALE)

    def test_a_lease_keeps_its_time_over_a_restart_with_another_configuration(self):
        """Its holder goes by what it was told: nobody else may write before that is over."""
        d = self.up(tls=False, config="lease_ttl_ms = 3600000\n")
        r = connect_unix(d.socket)
        volume = r.create_volume("v", MIB)
        epoch, _ = r.acquire(volume, MIB, b"i" * 16)
        d.stop()
        d.config_text = "lease_ttl_ms = 1000\n"
        d.start()
        time.sleep(1.3)
        other = connect_unix(d.socket)
        for _ in range(2):  # gone, and back
            with self.assertRaises(Refused) as got:
                other.acquire(volume, MIB, b"j" * 16)
            self.assertEqual(got.exception.code, rc.EBUSY)
            r = connect_unix(d.socket)
            self.assertEqual(r.acquire(volume, MIB, b"i" * 16, epoch=epoch)[0], epoch)
            time.sleep(1.3)
        other.acquire(volume, MIB, b"j" * 16, steal=True)  # a new one has the new time
        time.sleep(1.3)
        connect_unix(d.socket).acquire(volume, MIB, b"k" * 16)

    def test_the_same_origin_cannot_be_applied_twice_at_once(self):
        self.up()
        self.disk(64 * MIB)
        child = self.spawn("remote", "apply", "v@a", "--origin", self.origin, "--source",
                           self.second)
        time.sleep(0.15)
        if child.poll() is None:
            self.fails(11, r"in use by another program|writer", "remote", "apply", "v@a",
                       "--origin", self.origin, "--source", self.second)
        _, err = child.communicate(timeout=60)
        self.assertEqual(child.returncode, 0, err)
        self.assert_same(self.origin, self.second)

    def test_another_origin_than_before_needs_a_word(self):
        self.up()
        self.disk(MIB)
        self.apply()
        other = self.copy(self.origin, "other")
        self.fails(19, [r"--new-origin"], "remote", "apply", "v@a", "--origin", other, "--source",
                   self.first)
        self.assert_same(other, self.second)
        self.remote("apply", "v@a", "--origin", other, "--source", self.first, "--new-origin")


class NewHead(WriterCase):
    def test_a_snapshot_while_a_writer_streams_both_are_right(self):
        d = self.up()
        self.disk(64 * MIB)
        r = connect_unix(d.socket)
        volume, snapshot = r.resolve("v", "a")
        child = self.spawn("remote", "apply", "v@a", "--origin", self.origin, "--source",
                           self.second)
        until(lambda: r.runs(volume, snapshot) or child.poll() is not None)
        r.close()
        streaming = child.poll() is None
        self.remote("create", "v@b")
        _, err = child.communicate(timeout=60)
        if child.returncode:
            self.assertEqual(child.returncode, 10, err)
            self.assertRegex(err, r"v@a|v@b|newer|head")
            self.apply(snapshot="v@b")
        self.assertTrue(streaming, "the apply was over before the snapshot was made")
        self.assert_same(self.origin, self.second)
        self.assert_same(self.exported("v@a"), self.first)
        # b was taken at some moment in between: each block is of the one or the other, and
        # a second look is the same
        b = self.exported("v@b")
        self.assert_same(b, self.exported("v@b"))
        with open(b, "rb") as x, open(self.first, "rb") as y, open(self.second, "rb") as z:
            while block := x.read(CHUNK):
                self.assertTrue(block in (y.read(CHUNK), z.read(CHUNK)))

    def test_a_writer_that_never_stands_still_makes_it_fail_and_nothing_changes(self):
        d = self.up(tls=False, config="lease_ttl_ms = 1000\n")
        r, volume, head, epoch = self.writer(d)
        child = self.spawn("remote", "create", "v@b")
        end = time.monotonic() + 40
        chunk = 0
        while child.poll() is None and time.monotonic() < end:
            r.put(volume, epoch, head, [chunk % 256], bytes(CHUNK))
            chunk += 1
            time.sleep(0.05)
        _, err = child.communicate(timeout=10)
        self.assertEqual(child.returncode, 15, err)
        r.put(volume, epoch, head, [7], bytes(CHUNK))
        self.fails(6, "b", "remote", "show", "v@b")
        r.close()

    def test_a_silent_writer_is_waited_for_and_then_fenced(self):
        d = self.up(tls=False, config="lease_ttl_ms = 1000\n")
        r, volume, head, epoch = self.writer(d)
        r.put(volume, epoch, head, [1], b"1" * CHUNK)
        self.remote("create", "v@b")
        with self.assertRaises(Refused) as got:
            r.put(volume, epoch, head, [2], bytes(CHUNK))
        self.assertEqual(got.exception.code, rc.ESTALE)
        with self.assertRaises(Refused) as got:
            r.acquire(volume, MIB, b"i" * 16, epoch=epoch)
        self.assertEqual(got.exception.code, rc.ESTALE)
        self.assertEqual(r.runs(volume, head), [(1, 1, 2)])
        r.close()

    def test_the_author_of_a_snapshot_goes_away_and_the_writer_goes_on(self):
        d = self.up(tls=False, config="lease_ttl_ms = 2000\n")
        r, volume, head, epoch = self.writer(d)
        author = connect_unix(d.socket)
        author.ask(rc.M_SNAPSHOT_CREATE, raw(1, volume) + raw(2, os.urandom(16)) + raw(3, "b"))
        r.wait_event(rc.E_QUIESCE)
        author.close()
        time.sleep(0.1)
        lease, _ = r.call(rc.M_HEAD_READY, raw(1, volume) + num(2, epoch) + raw(3, head))
        now = rc.get(lease, 3, b"")
        r.put(volume, rc.get(lease, 2), now, [1], bytes(CHUNK))
        r.close()

    def test_a_daemon_killed_while_it_changes_heads_has_one_or_the_other(self):
        d = self.up(tls=False)
        r, volume, head, epoch = self.writer(d, "s0")
        for i in range(12):
            r.put(volume, epoch, head, [i], bytes([i]) * CHUNK)
            author = connect_unix(d.socket)
            new = os.urandom(16)
            author.ask(rc.M_SNAPSHOT_CREATE, raw(1, volume) + raw(2, new) + raw(3, f"s{i + 1}"))
            r.wait_event(rc.E_QUIESCE)
            r.ask(rc.M_HEAD_READY, raw(1, volume) + num(2, epoch) + raw(3, head))
            time.sleep(self.rng.uniform(0, 0.02))
            d.kill()
            author.close()
            r.close()
            d.start()
            r = connect_unix(d.socket)
            epoch, now = r.acquire(volume, MIB, b"i" * 16, epoch=epoch)
            self.assertIn(now, (head, new))
            self.assertEqual(r.read_view(volume, head, i * CHUNK, CHUNK),
                             [(i * CHUNK, 0, bytes([i]) * CHUNK)])
            head = now
        r.close()

    def test_a_name_deleted_and_made_again_between_two_tries_is_not_written_to(self):
        d = self.up(tls=False)
        r, volume, head, epoch = self.writer(d)
        r.put(volume, epoch, head, [1], bytes(CHUNK))
        other = connect_unix(d.socket)
        other.call(rc.M_VOLUME_DELETE, raw(1, volume) + raw(3, b"k" * 16) + num(4, 1))
        r.wait_event(rc.E_LEASE_LOST)
        again = other.create_volume("v", MIB)
        new_head = other.create_snapshot(again, "a")
        for call in (lambda: r.put(volume, epoch, head, [2], bytes(CHUNK)),
                     lambda: r.acquire(volume, MIB, b"i" * 16, epoch=epoch)):
            with self.assertRaises(Refused) as got:
                call()
            self.assertIn(got.exception.code, (rc.ENOENT, rc.ESTALE))
        self.assertEqual(other.runs(again, new_head), [])
        # the delete sent again does not hit the new one
        other.call(rc.M_VOLUME_DELETE, raw(1, volume) + raw(3, b"k" * 16) + num(4, 1))
        self.assertEqual(other.resolve("v", "a"), (again, new_head))


class Full(WriterCase):
    def test_refuse_keeps_the_snapshot_and_stops_the_writer_before_the_chunk(self):
        self.up()
        self.disk(4 * MIB, cow_size="1M")
        got = self.apply(code=5)
        self.assertRegex(got.err, r"COW device is full.*does not fit in 1M; .*make room.*--cow-size")
        self.assertNotIn(".cow", got.err)  # a path on the daemon's host
        show = self.snapctl("--json", "remote", "show", "v@a").json()
        self.assertEqual(show["state"], "ok")
        self.assert_same(self.exported(), self.first)
        with open(self.origin, "rb") as f:
            half = f.read()
        with open(self.second, "rb") as f:
            self.assertNotEqual(half, f.read())
        self.remote("merge", "v@a", "--origin", self.origin)
        self.assert_same(self.origin, self.first)

    def test_invalidate_gives_the_snapshot_up_and_lets_the_writer_go_on(self):
        d = self.up()
        self.disk(4 * MIB, policy="invalidate", cow_size="1M")
        got = self.apply(code=None)
        self.assertIn(got.code, (0, 5, 13), got.err)
        show = self.snapctl("--json", "remote", "show", "v@a").json()
        self.assertEqual(show["state"], "invalid")
        self.fails(13, r"v@a", "remote", "export", "v@a", "--origin", self.origin, "-o",
                   self.path("out"))
        self.fails(13, r"v@a", "remote", "merge", "v@a", "--origin", self.origin)
        d.kill()
        d.start()
        show = self.snapctl("--json", "remote", "show", "v@a").json()
        self.assertEqual(show["state"], "invalid", "it must be durable")
        self.assertRegex(self.remote("status").out, r"(?i)invalid")

    def test_invalid_reaches_the_older_that_read_through_it(self):
        self.up()
        self.disk(4 * MIB, percent=10, policy="invalidate")
        self.apply()
        self.remote("create", "v@b", "--cow-size", "1M")
        self.second = self.changed(self.second, "third", self.rng, percent=100)
        self.apply(snapshot="v@b", code=None)
        for name in ("v@a", "v@b"):
            show = self.snapctl("--json", "remote", "show", name).json()
            self.assertEqual(show["state"], "invalid", name)
        self.fails(13, r"v@[ab]", "remote", "export", "v@a", "--origin", self.origin, "-o",
                   self.path("out"))

    def full_disk(self, d, limit):
        """The daemon's files may not grow beyond `limit`: a full disk from below."""
        spawn = subprocess.Popen

        def popen(*args, **kwargs):
            def small():
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            return spawn(*args, preexec_fn=small, **kwargs)
        subprocess.Popen = popen
        try:
            d.spawn()
        finally:
            subprocess.Popen = spawn
        until(lambda: "snapwired ready" in d.log() or d.process.poll() is not None)
        self.assertIsNone(d.process.poll(), d.log())

    def test_enospc_from_below_refuses_and_goes_on_when_there_is_room(self):
        d = self.up(tls=False)
        self.disk(16 * MIB)
        d.stop()
        self.full_disk(d, 3 * MIB)
        got = self.apply(code=None)
        self.assertEqual(got.code, 5, got.err)
        self.assert_same(self.exported(), self.first)
        d.stop()
        d.start()
        self.apply()
        self.assert_same(self.origin, self.second)
        self.assert_same(self.exported(), self.first)

    def test_enospc_on_a_small_tmpfs(self):
        d = self.up_on_tmpfs("6m")
        self.disk(16 * MIB)
        got = self.apply(code=None)
        self.assertEqual(got.code, 5, got.err)
        self.assert_same(self.exported(), self.first)
        done = self.remote("create", "w", "--size", "1M", code=None)
        self.assertIn(done.code, (0, 5), done.err)
        subprocess.run(["mount", "-o", "remount,size=64m", d.state], check=True)
        self.apply()
        self.assert_same(self.origin, self.second)
        self.assert_same(self.exported(), self.first)
        self.remote("delete", "v@a")
        d.stop()

    def test_eio_from_below_fails_the_chunk_and_nothing_else(self):
        name = f"snapwire-test-{os.getpid()}"
        if not os.path.exists("/dev/mapper/control") or subprocess.run(
                ["dmsetup", "create", name, "--table", "0 8192 error"], capture_output=True,
                check=False).returncode:
            self.skipTest("no device mapper here; the simulator has EIO at every request")
        self.addCleanup(subprocess.run, ["dmsetup", "remove", "-f", name], check=False)
        self.up(tls=False)
        self.disk(MIB)
        self.fails(4, name, "remote", "create", "v@b", "--cow-device", f"/dev/mapper/{name}")
        self.apply()

    def test_a_named_cow_file_is_used_bounded_and_never_overwritten(self):
        d = self.up(tls=False)
        self.disk(MIB)
        precious = self.path("precious")
        with open(precious, "wb") as f:
            f.write(b"precious" * 1000)
        done = self.remote("create", "v@b", "--cow-device", precious, code=None)
        self.assertNotEqual(done.code, 0)
        with open(precious, "rb") as f:
            self.assertEqual(f.read(), b"precious" * 1000)
        self.fails(6, "nowhere", "remote", "create", "v@b", "--cow-device",
                   self.path("nowhere"))
        self.assertIsNone(d.process.poll())
        self.assertEqual(len(glob.glob(f"{d.state}/volumes/*/*.cow")), 1)
        self.apply()
