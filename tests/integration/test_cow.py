# SPDX-License-Identifier: Apache-2.0
"""snapctl cow on sound, broken and hostile COW devices."""

import fcntl
import glob
import hashlib
import lzma
import os
import resource
import shutil
import signal
import struct
import subprocess
import time

from cowimage import CowImage, read_table, snapshot_of, view
from harness import ROOT, Case, program, program_for_others, seed

MIB = 1 << 20
HERE_ALL = ("info", "list", "check")


def digest(path):
    with open(path, "rb") as f:
        return hashlib.sha256(f.read()).hexdigest()


class CowCase(Case):
    def cow(self, *args, code=0):
        return self.snapctl("cow", *args, code=code)

    def small(self, name="x.cow", **kwargs):
        """A device with three exceptions, not written yet."""
        image = CowImage(**kwargs)
        for old in (3, 9, 4):
            image.add(old, bytes([old]) * image.chunk)
        self.cow_path = self.path(name)
        return image

    def origin(self, size=MIB):
        path = self.path("origin")
        if not os.path.exists(path):
            with open(path, "wb") as f:
                f.write(b"\x55" * size)
        return path

    def refused_everywhere(self, code, says):
        """Every command refuses the device, with the same words, and leaves it as it is."""
        before, origin = digest(self.cow_path), self.origin()
        untouched = digest(origin)
        for command in (["info"], ["list"], ["check"], ["check", "--repair"]):
            got = self.fails(code, r"x\.cow", "cow", *command, self.cow_path)
            for pattern in [says] if isinstance(says, str) else says:
                self.assertRegex(got.err + got.out, pattern)  # check lists faults as data
        self.fails(code, says, "cow", "export", self.cow_path, "--origin", origin, "-o",
                   self.path("out"))
        self.fails(code, says, "cow", "merge", self.cow_path, "--origin", origin)
        self.assertEqual(glob.glob(self.path("out*")), [], "an export was left behind")
        self.assertEqual((digest(self.cow_path), digest(origin)), (before, untouched))


class Create(CowCase):
    def test_a_new_device_is_empty_valid_and_reads_as_its_own_header_says(self):
        path = self.path("a.cow")
        self.cow("create", path, "--size", "4M", "--chunk-size", "4K")
        got = self.snapctl("--json", "cow", "info", path).json()
        self.assertEqual(
            {k: got[k] for k in ("valid", "version", "chunk_size_sectors", "device_sectors",
                                 "exceptions", "areas", "next_free", "sectors_allocated",
                                 "metadata_sectors", "status")},
            {"valid": True, "version": 1, "chunk_size_sectors": 8, "device_sectors": 8192,
             "exceptions": 0, "areas": 1, "next_free": 2, "sectors_allocated": 16,
             "metadata_sectors": 16, "status": "16/8192 16"})
        self.assertEqual(self.snapctl("--json", "cow", "list", path).json(), [])
        self.assertTrue(self.snapctl("--json", "cow", "check", path).json()["sound"])
        self.assertEqual(read_table(path), (4096, {}))

    def test_every_chunk_size_can_be_made_and_opened(self):
        for power in range(9, 25):
            path = self.path(f"{power}.cow")
            self.cow("create", path, "--size", str(4 << power), "--chunk-size", str(1 << power))
            got = self.snapctl("--json", "cow", "info", path).json()
            self.assertEqual(got["chunk_size_sectors"], 1 << (power - 9))
            os.unlink(path)

    def test_a_chunk_size_that_cannot_be_is_refused_before_anything_is_made(self):
        for size in ("0", "1", "511", "3000", "12K", "32M", "1T", "-4K", "x", ""):
            self.fails(2, r"chunk-size", "cow", "create", self.path("a"), "--size", "1M",
                       "--chunk-size", size)
            self.assertFalse(os.path.exists(self.path("a")), size)

    def test_a_size_that_cannot_be_is_refused(self):
        for size in ("x", "", "-1", "1Q", "99999999999999999999"):
            self.fails(2, r"--size", "cow", "create", self.path("a"), "--size", size)
        for size in ("1", "4096", "32K", "47K", "49153"):  # header, area, one chunk: 48K
            self.fails(2, r"--size: \d+ bytes.* 49152 bytes", "cow", "create", self.path("a"),
                       "--size", size)
            self.assertFalse(os.path.exists(self.path("a")), size)
        self.cow("create", self.path("a"), "--size", "48K")

    def test_what_exists_is_not_overwritten(self):
        path = self.path("a.cow")
        self.cow("create", path, "--size", "1M")
        before = digest(path)
        self.fails(7, [r"a\.cow exists", "--size"], "cow", "create", path, "--size", "1M")
        self.fails(7, [r"a\.cow is a file that exists", "remove it"], "cow", "create", path)
        self.assertEqual(digest(path), before)
        self.fails(6, [r"b\.cow does not exist", "--size"], "cow", "create", self.path("b.cow"))
        self.fails(6, r"nowhere/b\.cow", "cow", "create", self.path("nowhere/b.cow"), "--size",
                   "1M")

    def test_a_disk_without_room_says_no_space_and_leaves_no_file(self):
        self.fails(5, r"a\.cow", "cow", "create", self.path("a.cow"), "--size", "64M",
                   limits=small_files(1 * MIB))
        self.assertFalse(os.path.exists(self.path("a.cow")))


def small_files(limit):
    """Files may not grow beyond this: the cheapest full disk there is."""
    def apply():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    return apply


class Header(CowCase):
    def test_another_magic_is_refused_by_its_number(self):
        image = self.small()
        image.magic = 0x12345678
        image.write(self.cow_path)
        self.refused_everywhere(12, [r"x\.cow: not a COW device", "0x12345678"])

    def test_magic_0_is_not_made_a_store_by_opening(self):
        image = self.small()
        image.magic = 0
        image.write(self.cow_path)
        self.refused_everywhere(12, r"x\.cow: not a COW device: magic 0x0+, expected 0x")
        self.assertNotIn("create", self.fails(12, r"x\.cow", "cow", "info", self.cow_path).err)

    def test_another_version_is_refused_by_its_number_even_when_invalid(self):
        for valid in (0, 1):
            image = self.small()
            image.version, image.valid = 2, valid
            image.write(self.cow_path)
            self.refused_everywhere(12, r"x\.cow: version 2")

    def test_chunk_sizes_that_cannot_be(self):
        for sectors in (0, 3, 7, 65536, 0x80000000, 0xFFFFFFFF):
            image = self.small()
            image.header_chunk_sectors = sectors
            image.write(self.cow_path)
            self.refused_everywhere(12, [r"x\.cow: header: ", f"chunk size of {sectors} sectors",
                                         "power of two"])

    def test_a_device_too_short_for_a_header(self):
        for size in (0, 1, 16, 511):
            image = self.small()
            image.size = size
            image.write(self.cow_path)
            self.refused_everywhere(12, r"x\.cow has 0 bytes: no room for a header")

    def test_a_device_that_ends_inside_its_header_chunk_or_first_area(self):
        for size in (512, 4096, 4096 + 512, 8191):
            image = self.small()
            image.size = size
            image.write(self.cow_path)
            self.refused_everywhere(12, [r"x\.cow", r"area 0|chunk 1"])

    def test_what_is_no_file_and_no_device(self):
        os.mkdir(self.path("folder"))
        os.mkfifo(self.path("fifo"))
        os.symlink(self.path("nothing"), self.path("dangling"))
        for name, code in (("folder", 2), ("dangling", 6), ("nothing", 6), ("fifo", 2)):
            for command in HERE_ALL:
                self.fails(code, name, "cow", command, self.path(name))
        self.fails(2, "null", "cow", "info", "/dev/null")

    def test_a_device_nobody_may_read(self):
        self.small().write(self.cow_path)
        os.chmod(self.cow_path, 0)
        if os.getuid() == 0:
            def drop():
                os.setgid(65534)
                os.setuid(65534)
            os.chmod(self.dir, 0o711)
            self.fails(8, r"x\.cow: Permission denied", "cow", "info", self.cow_path, limits=drop,
                       by=program_for_others("snapctl", self.dir))
        else:
            self.fails(8, r"x\.cow: Permission denied", "cow", "info", self.cow_path)


class Table(CowCase):
    """Each fault: refused by every command but check with its place; check lists them all."""

    def damaged(self, image, index, says, faults=1):
        image.write(self.cow_path)
        area, slot = divmod(index, image.per_area)
        place = rf"area {area} entry {slot} "
        self.origin()
        self.refused_everywhere(12, r"x\.cow: ")
        for command in ("info", "list"):
            self.fails(12, [place, says], "cow", command, self.cow_path)
        got = self.snapctl("--json", "cow", "check", self.cow_path, code=12).json()
        self.assertFalse(got["sound"])
        self.assertEqual(got["faults_total"], faults)
        self.assertIn((area, slot), [(f["area"], f["index"]) for f in got["faults"]])
        self.assertRegex(" ".join(f["fault"] for f in got["faults"]), says)

    def test_a_new_chunk_past_the_device(self):
        for new in (600, 601, 1 << 40, (1 << 64) - 1):
            image = self.small()
            image.entries.append((77, new))
            self.damaged(image, 3, rf"new {new}\b.*past the device's last chunk 599")

    def test_the_last_chunk_of_the_device_is_not_past_it(self):
        image = self.small()
        image.entries.append((77, 599))
        image.write(self.cow_path)
        self.cow("check", self.cow_path)

    def test_a_new_chunk_on_a_metadata_chunk(self):
        for new, area in ((1, 0), (258, 1)):
            image = self.small()
            image.entries.append((77, new))
            self.damaged(image, 3, rf"metadata chunk of area {area}")

    def test_an_old_chunk_beyond_any_volume(self):
        for old in ((1 << 48), (1 << 64) - 1):
            image = self.small()
            image.entries.append((old, 5))
            self.damaged(image, 3, rf"old {old}\b.*past the largest")

    def test_the_same_old_chunk_twice(self):
        image = self.small()
        image.entries.append((9, 5))
        self.damaged(image, 3, r"old_chunk has an exception already, at new_chunk 3")

    def test_two_exceptions_sharing_a_new_chunk(self):
        image = self.small()
        image.entries.append((77, 3))
        self.damaged(image, 3, r"another exception has new_chunk 3")

    def test_a_fault_in_a_later_area(self):
        image = self.small(chunks=900)
        for old in range(1000, 1000 + 300):
            image.add(old, b"x")
        image.entries[280] = (image.entries[280][0], 899999)
        self.damaged(image, 280, r"past the device's last chunk 899")

    def test_every_fault_is_listed(self):
        image = self.small(chunks=2000)
        for i in range(500):
            image.entries.append((1000 + i, 10 ** 9 + i))
        self.damaged(image, 3, "past", faults=500)

    def test_more_faults_than_are_shown_are_counted(self):
        image = self.small(chunks=2000)
        for i in range(1500):
            image.entries.append((1000 + i, 1))
        image.write(self.cow_path)
        got = self.snapctl("--json", "cow", "check", self.cow_path, code=12).json()
        self.assertEqual((got["faults_total"], len(got["faults"])), (1500, 1000))

    def test_a_table_that_runs_off_the_device(self):
        image = self.small(chunks=258)  # ends where area 1 should begin
        image.entries = [(i, 2 + i) for i in range(256)]
        image.write(self.cow_path)
        self.refused_everywhere(12, r"area 1\b")

    def test_a_truncated_device_names_the_first_lost_exception(self):
        image = self.small()
        image.size = 4 * image.chunk  # entries point at chunks 2, 3, 4; 4 is cut off
        self.damaged(image, 2, r"new 4\b.*past the device's last chunk 3")

    def test_json_and_table_tell_the_same_fault(self):
        image = self.small()
        image.entries.append((9, 5))
        image.write(self.cow_path)
        got = self.fails(12, r"x\.cow: 1 fault$", "cow", "check", self.cow_path)
        self.assertRegex(got.out, r"(?m)^ *0 +3 +9 +5 +.*exception already")


class Invalid(CowCase):
    def test_an_invalid_snapshot_can_be_looked_at_but_not_used(self):
        image = self.small(valid=0)
        image.write(self.cow_path)
        before = digest(self.cow_path)
        got = self.snapctl("--json", "cow", "info", self.cow_path).json()
        self.assertEqual((got["valid"], got["status"], got["exceptions"]), (False, "Invalid", 3))
        self.cow("list", self.cow_path)
        said = self.cow("check", self.cow_path).err
        self.assertRegex(said, r"x\.cow: the table is sound; the snapshot is invalid")
        self.assertNotRegex(said, r"x\.cow: sound")
        self.cow("check", self.cow_path, "--repair")
        for command in (["export", "-o", self.path("out")], ["merge"]):
            self.fails(13, [r"x\.cow", "invalid"], "cow", command[0], self.cow_path, "--origin",
                       self.origin(), *command[1:])
        self.assertEqual(digest(self.cow_path), before)
        self.assertEqual(digest(self.origin()), hashlib.sha256(b"\x55" * MIB).hexdigest())
        self.assertFalse(os.path.exists(self.path("out")))

    def test_an_invalid_one_among_the_newer_spoils_the_older(self):
        self.small("old.cow").write(self.path("old.cow"))
        self.small("new.cow", valid=0).write(self.path("new.cow"))
        self.fails(13, r"new\.cow", "cow", "export", self.path("old.cow"), "--over",
                   self.path("new.cow"), "--origin", self.origin(), "-o", self.path("out"))

    def test_any_valid_that_is_not_0_counts(self):
        image = self.small(valid=0x80000000)
        image.write(self.cow_path)
        self.assertTrue(self.snapctl("--json", "cow", "info", self.cow_path).json()["valid"])


class Leftovers(CowCase):
    """What a torn area write leaves past the table's end must never come back."""

    def test_they_are_not_listed_and_check_changes_nothing(self):
        image = self.small()
        image.leftover(0, 0, 0)
        image.leftover(1, 70, 9)
        image.leftover(200, 9, 3)
        image.write(self.cow_path)
        before = digest(self.cow_path)
        self.cow("check", self.cow_path)
        self.assertEqual(len(self.snapctl("--json", "cow", "list", self.cow_path).json()), 3)
        self.assertEqual(digest(self.cow_path), before)

    def test_repair_zeroes_them_and_nothing_else(self):
        image = self.small()
        image.leftover(1, 70, 9)
        image.leftover(100, 71, 10)
        image.leftover(252, 72, 11)
        image.write(self.cow_path)
        clean = self.small("clean.cow")
        clean.write(self.path("clean.cow"))
        torn = self.path("x.cow")
        self.cow("check", torn, "--repair")
        self.assert_same(torn, self.path("clean.cow"))

    def test_a_half_written_entry_is_one_too(self):
        image = self.small()
        at = image.entry_offset(3)
        image.patches.append((at, struct.pack("<Q", 55)))  # old is there, new is not
        image.write(self.cow_path)
        self.cow("check", self.cow_path, "--repair")
        with open(self.cow_path, "rb") as f:
            f.seek(at)
            self.assertEqual(f.read(16), bytes(16))

    def test_a_damaged_device_is_not_repaired_into_a_sound_one(self):
        image = self.small()
        image.entries.append((9, 5))
        image.leftover(1, 70, 9)
        image.write(self.cow_path)
        before = digest(self.cow_path)
        self.cow("check", self.cow_path, "--repair", code=12)
        self.assertEqual(digest(self.cow_path), before)


class Export(CowCase):
    def setUp(self):
        super().setUp()
        self.rng = seed()

    def test_equals_the_snapshot_for_every_chunk_size(self):
        for sectors in (1, 2, 8, 32, 128, 1024):
            origin, cow, out = (self.path(f"{sectors}.{x}") for x in ("origin", "cow", "out"))
            snapshot_of(self.rng, origin, cow, sectors, size=MIB + 512 * 3)
            self.cow("export", cow, "--origin", origin, "-o", out)
            with open(out, "rb") as f:
                self.assertEqual(f.read(), view([cow], origin))

    def test_through_newer_devices_of_other_chunk_sizes(self):
        origin = self.path("origin")
        cows = []
        for i, sectors in enumerate((32, 8, 2, 64)):
            cows.append(self.path(f"{i}.cow"))
            snapshot_of(self.rng, origin, cows[-1], sectors, size=MIB + 1536)
        for first in range(4):
            over = [x for newer in cows[first + 1:] for x in ("--over", newer)]
            out = self.path(f"{first}.out")
            self.cow("export", cows[first], *over, "--origin", origin, "-o", out)
            with open(out, "rb") as f:
                self.assertEqual(f.read(), view(cows[first:], origin), first)

    def test_every_golden_device_of_the_kernel_opens(self):
        count = 0
        for packed in sorted(glob.glob(os.path.join(ROOT, "tests/golden/*.cow.xz"))):
            cow = self.path(os.path.basename(packed)[:-3])
            with lzma.open(packed) as f, open(cow, "wb") as to:
                shutil.copyfileobj(f, to)
            before = digest(cow)
            self.assertTrue(self.snapctl("--json", "cow", "check", cow).json()["sound"], packed)
            self.assertEqual(digest(cow), before)
            os.unlink(cow)
            count += 1
        self.assertGreater(count, 10)

    def test_holes_of_the_origin_and_zeros_of_the_snapshot_stay_holes(self):
        origin, cow, out = self.path("origin"), self.path("x.cow"), self.path("out")
        with open(origin, "wb") as f:
            f.truncate(64 * MIB)
            f.seek(40 * MIB)
            f.write(self.rng.randbytes(8192))
        image = CowImage(32, 64)
        image.add(5, b"")
        image.add(100, self.rng.randbytes(16384))
        image.write(cow)
        self.cow("export", cow, "--origin", origin, "-o", out)
        with open(out, "rb") as f:
            self.assertEqual(f.read(), view([cow], origin))
        self.assertLess(os.stat(out).st_blocks * 512, MIB)

    def test_to_standard_output(self):
        origin, cow = self.path("origin"), self.path("x.cow")
        snapshot_of(self.rng, origin, cow)
        for args in ([], ["-o", "-"]):
            done = subprocess.run([program("snapctl"), "cow", "export", cow, "--origin", origin,
                                   *args], capture_output=True, check=True)
            self.assertEqual(done.stdout, view([cow], origin))

    def test_a_closed_pipe_ends_it_with_a_word_or_the_signal(self):
        origin, cow = self.path("origin"), self.path("x.cow")
        snapshot_of(self.rng, origin, cow, size=8 * MIB)
        read, write = os.pipe()
        child = subprocess.Popen([program("snapctl"), "cow", "export", cow, "--origin", origin],
                                 stdout=write, stderr=subprocess.PIPE)
        os.close(write)
        os.read(read, 100)
        os.close(read)
        _, told = child.communicate(timeout=30)
        self.assertTrue(child.returncode == -signal.SIGPIPE or
                        (child.returncode and b"standard output" in told), child.returncode)

    def test_a_file_that_exists_is_not_overwritten(self):
        origin, cow, out = self.path("origin"), self.path("x.cow"), self.path("out")
        snapshot_of(self.rng, origin, cow)
        with open(out, "wb") as f:
            f.write(b"precious")
        self.fails(7, [r"out exists", "another"], "cow", "export", cow, "--origin", origin, "-o",
                   out)
        with open(out, "rb") as f:
            self.assertEqual(f.read(), b"precious")
        os.symlink(self.path("nothing"), self.path("link"))
        self.fails(7, r"link exists", "cow", "export", cow, "--origin", origin, "-o",
                   self.path("link"))
        self.fails(6, r"nowhere", "cow", "export", cow, "--origin", origin, "-o",
                   self.path("nowhere/out"))

    def test_no_room_for_it_says_so_and_leaves_nothing(self):
        origin, cow, out = self.path("origin"), self.path("x.cow"), self.path("out")
        snapshot_of(self.rng, origin, cow)
        self.fails(5, r"out", "cow", "export", cow, "--origin", origin, "-o", out,
                   limits=small_files(MIB))
        self.assertEqual(glob.glob(out + "*"), [])

    def test_a_killed_export_leaves_no_file_of_that_name(self):
        origin, cow = self.path("origin"), self.path("x.cow")
        snapshot_of(self.rng, origin, cow, size=16 * MIB)
        for delay in (0, 0.005, 0.01, 0.02, 0.03):
            out = self.path(f"out{delay}")
            child = self.spawn("cow", "export", cow, "--origin", origin, "-o", out)
            time.sleep(delay)
            child.kill()
            child.wait()
            if os.path.exists(out):  # it had finished
                with open(out, "rb") as f:
                    self.assertEqual(f.read(), view([cow], origin))
            self.cow("export", cow, "--origin", origin, "-o", self.path(f"again{delay}"))

    def test_origin_missing_or_of_another_size(self):
        origin, cow = self.path("origin"), self.path("x.cow")
        image = snapshot_of(self.rng, origin, cow, percent=100)
        self.fails(6, "gone", "cow", "export", cow, "--origin", self.path("gone"), "-o",
                   self.path("out"))
        os.truncate(origin, MIB)
        for args in (["export", "-o", self.path("out")], ["merge"]):
            self.fails(19, [r"beyond the end of .*origin", r"COW device 1\b"], "cow", args[0], cow,
                       "--origin", origin, *args[1:])
        self.assertFalse(os.path.exists(self.path("out")))
        os.truncate(origin, 4 * MIB)  # larger: a snapshot may be shorter than its origin
        self.cow("export", cow, "--origin", origin, "-o", self.path("out"))
        self.assertEqual(os.path.getsize(self.path("out")), 4 * MIB)
        self.assertEqual(len(image.entries), 512)


class Merge(CowCase):
    def setUp(self):
        super().setUp()
        self.rng = seed()

    def merge_with_kills(self, args, done, kills):
        """Start the merge and kill it after a little longer each time, then let it end."""
        for i in range(kills):
            child = self.spawn("cow", "merge", *args)
            time.sleep(self.rng.uniform(0.001, 0.012) * (1 + i % 4))
            child.kill()
            child.communicate()
            if i % 5 == 4:
                self.cow("check", args[0])
        self.cow("merge", *args)
        done()

    def test_sole_merge_killed_at_any_moment_goes_on(self):
        origin, cow = self.path("origin"), self.path("x.cow")
        for sectors in (8, 1):
            for path in (origin, cow):
                if os.path.exists(path):
                    os.unlink(path)
            snapshot_of(self.rng, origin, cow, sectors, size=MIB + 512)
            want = view([cow], origin)

            def done():
                with open(origin, "rb") as f:
                    self.assertEqual(f.read(), want)
                got = self.snapctl("--json", "cow", "info", cow).json()
                self.assertEqual((got["exceptions"], got["valid"]), (0, True))
                self.assertEqual(got["sectors_allocated"], got["metadata_sectors"])
            self.merge_with_kills([cow, "--origin", origin], done, 12)

    def test_the_view_is_whole_at_every_moment_of_a_sole_merge(self):
        origin, cow = self.path("origin"), self.path("x.cow")
        snapshot_of(self.rng, origin, cow, size=MIB)
        want = view([cow], origin)
        for i in range(8):
            child = self.spawn("cow", "merge", cow, "--origin", origin)
            time.sleep(0.004 * i)
            child.kill()
            child.communicate()
            self.assertEqual(view([cow], origin), want, i)

    def test_merge_over_newer_ones_killed_at_any_moment_goes_on(self):
        origin, old, mid, new = (self.path(x) for x in ("origin", "old.cow", "mid.cow", "new.cow"))
        size = MIB + 512
        for path in (new, mid, old):
            snapshot_of(self.rng, origin, path, 8, size=size, percent=20)
        want = [view(chain, origin) for chain in ([old, mid, new], [mid, new], [new])]

        def done():
            with open(origin, "rb") as f:
                self.assertEqual(f.read(), want[0])
            self.assertEqual(view([mid, new], origin), want[1])
            self.assertEqual(view([new], origin), want[2])
            self.assertEqual(view([old, mid, new], origin), want[0])  # tables lose nothing
            for path in (old, mid, new):
                self.cow("check", path)
        self.merge_with_kills([old, "--over", mid, "--over", new, "--origin", origin], done, 12)

    def test_newer_ones_are_whole_at_every_moment(self):
        origin, old, new = (self.path(x) for x in ("origin", "old.cow", "new.cow"))
        for path in (new, old):
            snapshot_of(self.rng, origin, path, 8, size=MIB, percent=40)
        want = [view([old, new], origin), view([new], origin)]
        for i in range(8):
            child = self.spawn("cow", "merge", old, "--over", new, "--origin", origin)
            time.sleep(0.006 * i)
            child.kill()
            child.communicate()
            self.assertEqual(view([new], origin), want[1], i)
            self.assertEqual(view([old, new], origin), want[0], i)

    def test_interrupted_by_ctrl_c_it_says_that_it_can_go_on(self):
        origin, cow = self.path("origin"), self.path("x.cow")
        snapshot_of(self.rng, origin, cow, size=4 * MIB, percent=50)
        want = view([cow], origin)
        child = self.spawn("cow", "merge", cow, "--origin", origin)
        time.sleep(0.05)
        child.send_signal(signal.SIGINT)
        _, told = child.communicate(timeout=30)
        if child.returncode:
            self.assertEqual(child.returncode, 20, told)
            self.assertRegex(told, "run it again")
        self.cow("merge", cow, "--origin", origin)
        with open(origin, "rb") as f:
            self.assertEqual(f.read(), want)

    def test_the_newest_without_room_stops_it_with_everything_whole(self):
        origin, old, new = (self.path(x) for x in ("origin", "old.cow", "new.cow"))
        snapshot_of(self.rng, origin, new, 8, size=MIB, percent=10, chunks=40)
        snapshot_of(self.rng, origin, old, 8, size=MIB, percent=100)
        want = [view([old, new], origin), view([new], origin)]
        # the origin's 256 chunks, a header and an area: two chunks more than the limit allows
        self.fails(5, [r"preserve chunk \d+ in the newest device"], "cow", "merge", old, "--over",
                   new, "--origin", origin, limits=small_files(MIB))
        self.assertEqual(view([old, new], origin), want[0])
        self.assertEqual(view([new], origin), want[1])
        self.cow("merge", old, "--over", new, "--origin", origin)
        with open(origin, "rb") as f:
            self.assertEqual(f.read(), want[0])
        self.assertEqual(view([new], origin), want[1])

    def test_an_origin_in_use_is_refused(self):
        origin, cow = self.path("origin"), self.path("x.cow")
        snapshot_of(self.rng, origin, cow)
        before = digest(origin)
        with open(origin, "r+b") as f:
            # an open-file-description lock, as another snapctl holds it
            fcntl.fcntl(f, 37, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0))
            self.fails(11, r"origin is in use", "cow", "merge", cow, "--origin", origin)
        with open(cow, "r+b") as f:
            fcntl.fcntl(f, 37, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0))
            self.fails(11, r"x\.cow", "cow", "merge", cow, "--origin", origin)
            self.fails(11, r"x\.cow", "cow", "check", cow, "--repair")
        self.assertEqual(digest(origin), before)

    def test_a_mounted_origin_is_refused(self):
        """Also by the file behind a loop device, when the machine has them."""
        origin, cow = self.path("origin"), self.path("x.cow")
        snapshot_of(self.rng, origin, cow, size=2 * MIB)
        subprocess.run(["mke2fs", "-q", "-F", origin], check=True)
        done = subprocess.run(["losetup", "--find", "--show", origin], capture_output=True,
                              text=True, check=False)
        if done.returncode:
            self.skipTest("no loop devices here: " + done.stderr.strip())
        loop = done.stdout.strip()
        self.addCleanup(subprocess.run, ["losetup", "-d", loop], check=False)
        self.fails(11, [r"in use by /dev/loop", "detach"], "cow", "merge", cow, "--origin", origin)
        where = self.path("mnt")
        os.mkdir(where)
        if subprocess.run(["mount", loop, where], capture_output=True, check=False).returncode:
            self.skipTest("mount is not allowed here")
        self.addCleanup(subprocess.run, ["umount", where], check=False)
        self.fails(11, [r"is mounted on", "unmount"], "cow", "merge", cow, "--origin", loop)

    def test_the_origin_cannot_be_its_own_cow_device(self):
        origin, cow = self.path("origin"), self.path("x.cow")
        snapshot_of(self.rng, origin, cow)
        before = digest(cow)
        self.fails(11, r"x\.cow", "cow", "merge", cow, "--origin", cow)
        self.fails(11, r"x\.cow", "cow", "merge", cow, "--over", cow, "--origin", origin)
        self.assertEqual(digest(cow), before)


class CommandLine(CowCase):
    def test_wrong_arguments_exit_with_2_and_say_which(self):
        self.small().write(self.cow_path)
        cow, origin = self.cow_path, self.origin()
        cases = [
            (["cow", "create"], "which COW device"),
            (["cow", "create", "a", "b"], "one word too many"),
            (["cow", "create", "a", "--size"], "requires an argument"),
            (["cow", "create", "--frob", "a"], "frob"),
            (["cow", "info"], "which COW device"),
            (["cow", "info", cow, cow], "one word too many"),
            (["cow", "info", "--size", "3", cow], "size"),
            (["cow", "list"], "which COW device"),
            (["cow", "check"], "which COW device"),
            (["cow", "check", cow, "--repair=yes"], "repair"),
            (["cow", "export"], "which COW device"),
            (["cow", "export", cow], "--origin is missing"),
            (["cow", "export", cow, "--origin"], "requires an argument"),
            (["cow", "merge"], "which COW device"),
            (["cow", "merge", cow], "--origin is missing"),
            (["cow", "merge", cow, "--origin", origin, "-o", "x"], "o"),
            (["cow", "merge", cow, *(["--over", cow] * 300), "--origin", origin], "more than"),
            (["cow", "frob"], "no command 'frob'"),
            (["cow"], "Usage: snapctl cow"),
            (["frob"], "no group of commands 'frob'"),
            (["--frob"], "unknown option '--frob'"),
            ([], "Usage: snapctl"),
            (["pki"], "Usage: snapctl pki"),
            (["remote"], "Usage: snapctl remote"),
            (["remote", "--on"], "--on"),
            (["cow", "--on", "x", "info"], "--on"),
        ]
        for args, says in cases:
            with self.subTest(args=args[:4]):
                self.fails(2, says, *args)

    def test_help_of_every_command_is_on_standard_output(self):
        for group in ("cow", "pki", "remote"):
            words = self.snapctl("--words", group).out.split()
            self.assertGreater(len(words), 2)
            for command in words:
                got = self.snapctl(group, command, "--help")
                self.assertRegex(got.out, rf"Usage: snapctl {group} {command}")
        self.assertRegex(self.snapctl("--version").out, r"^snapctl \d+\.\d+")

    def test_standard_output_that_is_full_is_an_error(self):
        if not os.path.exists("/dev/full"):
            self.skipTest("no /dev/full")
        self.small().write(self.cow_path)
        for args in (["--json", "cow", "info"], ["cow", "list"], ["--json", "cow", "check"]):
            with open("/dev/full", "w", encoding="ascii") as full:
                done = subprocess.run([program("snapctl"), *args, self.cow_path], stdout=full,
                                      stderr=subprocess.PIPE, text=True, check=False)
            self.assertEqual(done.returncode, 4, done.stderr)
            self.assertRegex(done.stderr, "standard output")
