# SPDX-License-Identifier: Apache-2.0
"""A disk without any room: the daemon starts, serves, lets things be deleted, and forgets nothing
that its clients have to hear of."""

import contextlib
import glob
import os
import resource
import shutil
import signal
import subprocess
import unittest
from unittest import mock

import rawclient as rc
from harness import CC, Case, preload_library
from hosted import CHUNK, KIB, MIB, SIZE, HostedCase
from rawclient import Refused, connect_unix, get, raw

BLOCK = 4096


class SmallDisk:
    """A file system of its own, which can be filled to the last block."""

    def __init__(self, case, size):
        self.dir = case.path("disk")
        os.mkdir(self.dir)
        image = case.path("disk.img")
        with open(image, "wb") as f:
            f.truncate(size)
        make = ["mkfs.ext4", "-q", "-m", "0", "-b", str(BLOCK), "-O", "^has_journal", image]
        for command in (make, ["mount", "-o", "loop", image, self.dir]):
            if shutil.which(command[0]) is None:
                case.skipTest(f"no {command[0]}")
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                case.skipTest(f"{command[0]} does not work here: {done.stderr.strip()}")
        case.addCleanup(subprocess.run, ["umount", "-l", self.dir], check=True)
        self.filler = os.path.join(self.dir, "filler")

    def free(self):
        s = os.statvfs(self.dir)
        return s.f_bavail * s.f_frsize

    def fill(self):
        os.sync()  # what is not allocated yet takes its blocks first
        with open(self.filler, "ab") as f:
            length = 1 << 30
            while length >= BLOCK:
                try:
                    os.posix_fallocate(f.fileno(), os.fstat(f.fileno()).st_size, length)
                except OSError:
                    length //= 2

    def make_room(self):
        os.unlink(self.filler)


class FullDisk(Case):
    def setUp(self):
        super().setUp()
        self.disk = SmallDisk(self, 24 * MIB)
        self.d = self.daemon(tls=False, config='io_engine = "threads"\n')
        self.d.state = os.path.join(self.disk.dir, "state")
        self.raws = []
        self.addCleanup(lambda: [r.close() for r in self.raws])

    def start(self):
        self.d.start()
        self.raws.append(connect_unix(self.d.socket))
        return self.raws[-1]

    def start_full(self):
        self.disk.fill()
        return self.start()

    def remote_up(self):
        self.remote("add", "admin", f"unix:{self.d.socket}")
        self.remote("use", "admin")

    def status(self):
        out = self.remote("status")
        return out.out + out.err

    def wreck(self, how):
        """What a registry may be like when a daemon starts."""
        path = f"{self.d.state}/registry.db"
        if how == "missing":
            for p in glob.glob(path + "*"):
                os.unlink(p)

    def room_is_made_by_deleting(self, how):
        """A daemon starts on the full disk, and something can be deleted."""
        r = self.start()
        self.remote_up()
        keep, content = r.create_hosted("keep", SIZE), os.urandom(SIZE)
        r.write(keep, 0, content)
        s = r.create_snapshot(keep, "s", 0)
        r.write(keep, 0, content[::-1])
        gone, key = r.create_hosted("gone", SIZE), os.urandom(16)
        big = r.create_hosted("big", SIZE)
        r.write(big, 0, content)
        r.call(rc.M_VOLUME_DELETE, raw(1, gone) + raw(3, key))
        if how == "behind":  # it was not told of the last, as a power cut leaves it
            self.d.stop()
            shutil.copy(f"{self.d.state}/registry.db", self.path("old.db"))
            r = self.start()
            r.create_snapshot(keep, "t", 0)
            for n in range(40):  # more rows than its pages have room for
                r.create_snapshot(big, f"a-name-that-takes-some-room-{n:090}", 0)
        self.d.stop()
        if how == "behind":
            for p in glob.glob(f"{self.d.state}/registry.db*"):
                os.unlink(p)
            shutil.copy(self.path("old.db"), f"{self.d.state}/registry.db")
        self.wreck(how)

        r = self.start_full()
        warned = self.status()
        self.assertRegex(warned, r"registry is kept in memory until the next start; make room")
        self.assertRegex(self.d.log(), r"level=warn.*kept in memory")
        self.assertEqual(r.read(keep, 0, SIZE), content[::-1])
        self.assertEqual(r.read(keep, 0, SIZE, s), content)
        self.assertEqual(r.resolve("keep", "s"), (keep, s))
        with self.assertRaises(Refused) as why:
            r.create_hosted("more", SIZE)
        self.assertEqual(why.exception.code, rc.ENOSPC, why.exception.text)
        if how == "behind":  # deleted before, by the same try: the keys are taken along
            r.call(rc.M_VOLUME_DELETE, raw(1, gone) + raw(3, key))
            r.delete_snapshot(keep, r.resolve("keep", "t")[1])
        before = self.disk.free()
        r.call(rc.M_VOLUME_DELETE, raw(1, big) + raw(3, os.urandom(16)) +
               rc.num(4, 1))  # with its snapshots
        self.assertGreater(self.disk.free(), before)
        r.delete_snapshot(keep, s)
        self.assertEqual(set(self.names(r)), {b"keep"})
        again = r.create_hosted("big", 64 * KIB)  # the name is free, and there is room
        r.create_snapshot(again, "new", 0)

        self.disk.make_room()
        self.d.kill()
        r = self.start()
        self.assertNotRegex(self.status(), "kept in memory")
        self.assertEqual(set(self.names(r)), {b"keep", b"big"})
        self.assertEqual(r.resolve("big")[0], again)
        r.resolve("big", "new")
        self.assertEqual(r.read(keep, 0, SIZE), content[::-1])
        self.d.stop()
        self.start()
        self.assertNotRegex(self.d.log(), "registry: ")  # it is what the records say

    def names(self, r):
        return [get(m, 2, b"") for m in r.pages(rc.M_VOLUME_LIST)]

    def test_room_is_made_by_deleting_where_the_registry_is_missing(self):
        self.room_is_made_by_deleting("missing")

    def test_room_is_made_by_deleting_where_the_registry_lags(self):
        self.room_is_made_by_deleting("behind")

    def test_a_sound_registry_is_enough_and_nothing_ends_by_a_signal(self):
        r = self.start()
        volume, content = r.create_hosted("v", SIZE), os.urandom(SIZE)
        r.write(volume, 0, content)
        for end in (self.d.stop, self.d.kill):
            end()
            self.assertEqual(glob.glob(f"{self.d.state}/*-shm"), [])
            r = self.start_full()
            self.assertNotIn("kept in memory", self.d.log())
            self.assertEqual(r.read(volume, 0, SIZE), content)
            self.assertEqual(r.resolve("v")[0], volume)
            self.disk.make_room()

    @unittest.skipUnless(shutil.which(CC), f"no {CC}")
    def test_a_failed_flush_is_on_record(self):
        library, sign = preload_library("failing_flush", self.dir), self.path("fail")
        asan = os.environ.get("ASAN_OPTIONS", "")
        with mock.patch.dict(os.environ, {
                "LD_PRELOAD": library, "FAILING_FLUSH": sign,
                "ASAN_OPTIONS": f"{asan}:verify_asan_link_order=0"}):
            r = self.start()
            boot = get(r.server, 10, b"")
            volume = r.create_hosted("v", SIZE)
            r.write(volume, 0, b"x" * BLOCK)
            r.flush(volume)
            r.write(volume, 0, b"y" * BLOCK)
            self.disk.fill()
            with open(sign, "w", encoding="utf-8"):
                pass
            with self.assertRaises(Refused):
                r.flush(volume)
            os.unlink(sign)
            self.assertNotIn("not on record", self.d.log())
            self.d.kill()
            after = get(self.start().server, 10, b"")
            self.assertNotEqual(after, boot)
            self.d.kill()  # and it is told once
            self.assertEqual(get(self.start().server, 10, b""), after)


class FileLimit(HostedCase):
    @contextlib.contextmanager
    def limited(self, size):
        pid = self.d.process.pid
        before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, before[1]))
        yield
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)

    def test_a_limit_on_the_size_of_files_is_a_full_disk(self):
        volume, model = self.hosted()
        self.write_at_random(volume, model, 5)
        self.snapshot(volume, model, "s")
        with self.limited(16 * KIB):
            for fn in (lambda: self.r.write(volume, SIZE - 9000, b"x" * 9000),
                       lambda: self.r.create_snapshot(volume, "t", 0),
                       lambda: self.r.create_hosted("w", SIZE)):
                why = self.refused(rc.ENOSPC, fn)
                self.assertRegex(why.text, r"File too large: .*LimitFSIZE=")
        self.assertIsNone(self.d.process.poll())
        self.assert_holds(volume, model)
        self.snapshot(volume, model, "t")
        self.write_at_random(volume, model, 5)
        self.assert_holds(volume, model)

    def test_a_write_that_finds_no_room_is_no_failed_flush(self):
        volume, model = self.hosted()
        boot = get(self.r.server, 10, b"")
        self.write(volume, model, 0, self.rng.randbytes(CHUNK))
        with self.limited(64 * KIB):
            for length in (CHUNK, 9000):  # in one request, and in several with a flush
                self.refused(rc.ENOSPC, self.r.write, volume, SIZE - length, b"x" * length,
                             fua=True)
        self.r.flush(volume, heard=0)
        self.assert_holds(volume, model)
        self.d.kill()
        self.d.start()
        self.assertEqual(get(self.connect().server, 10, b""), boot)

    def test_snapctl_says_so_and_does_not_end_by_a_signal(self):
        volume, model = self.hosted()
        self.write(volume, model, 0, self.rng.randbytes(SIZE))
        self.snapshot(volume, model, "s")

        def small_files():
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_FSIZE, (64 * KIB, 64 * KIB))
        self.fails(5, ["File too large", "ulimit -f"], "remote", "export", "v@s", "-o",
                   self.path("out"), limits=small_files)


if __name__ == "__main__":
    unittest.main()
