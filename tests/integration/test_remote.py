# SPDX-License-Identifier: Apache-2.0
"""The main job, end to end: apply, diff, export, merge, chains, two writers."""

import os
import re
import signal
import time
import urllib.request

from harness import Case, seed

MIB = 1 << 20


class RemoteSnapshot(Case):
    def setUp(self):
        super().setUp()
        self.rng = seed()
        self.up()

    def disk(self, size=8 * MIB, density=70):
        self.first = self.image("first", size, self.rng, density)
        self.origin = self.copy(self.first, "origin")
        self.remote("create", "v", "--like", self.origin)
        return self.origin

    def generations(self, count):
        """A chain of snapshots s0, s1 …: what each of them reads as, and behind that what the
        origin does."""
        self.disk(size=4 * MIB)
        contents = [self.first]
        for i in range(count):
            self.remote("create", f"v@s{i}")
            new = self.changed(self.origin, f"gen{i}", self.rng, percent=15)
            self.remote("apply", f"v@s{i}", "--origin", self.origin, "--source", new)
            contents.append(new)
        return contents

    def export(self, target, name):
        out = self.path(name)
        self.remote("export", target, "--origin", self.origin, "-o", out)
        return out

    def test_apply_export_merge_give_the_first_generation_back(self):
        self.disk()
        self.remote("create", "v@a", "--chunk-size", "16K")
        second = self.changed(self.first, "second", self.rng)
        self.remote("apply", "v@a", "--origin", self.origin, "--source", second)
        self.assert_same(self.origin, second)
        self.assert_same(self.export("v@a", "out"), self.first)
        self.remote("merge", "v@a", "--origin", self.origin)
        self.assert_same(self.origin, self.first)
        self.remote("show", "v@a", code=6)

    def test_export_from_another_disk_than_the_one_written_needs_a_word(self):
        self.disk(size=2 * MIB)
        self.remote("create", "v@a")
        other = self.image("other", 2 * MIB, self.rng)
        out = self.path("out")
        # nobody has written yet: no disk is known to be the wrong one
        self.remote("export", "v@a", "--origin", other, "-o", out)
        os.unlink(out)
        second = self.changed(self.first, "second", self.rng)
        self.remote("apply", "v@a", "--origin", self.origin, "--source", second)
        says = "the origin is not the one of volume v before; .* say --new-origin"
        self.fails(19, says, "remote", "export", "v@a", "--origin", other, "-o", out)
        self.fails(19, says, "remote", "merge", "v@a", "--origin", other)
        self.assertEqual([f for f in os.listdir(os.path.dirname(out)) if f.startswith("out")], [])
        link = self.path("link")  # it is the disk that counts, not its path
        os.symlink(self.origin, link)
        self.remote("export", "v@a", "--origin", link, "-o", out)
        self.assert_same(out, self.first)
        # the disk has moved: said once for each reader, for good by a writer
        moved = self.copy(self.origin, "moved")
        for i in range(2):
            self.fails(19, says, "remote", "export", "v@a", "--origin", moved, "-o",
                       self.path("no"))
            self.remote("export", "v@a", "--origin", moved, "-o", self.path(f"moved{i}"),
                        "--new-origin")
            self.assert_same(self.path(f"moved{i}"), self.first)
        self.remote("apply", "v@a", "--origin", moved, "--source", self.first, "--new-origin")
        self.fails(19, says, "remote", "export", "v@a", "--origin", self.origin, "-o",
                   self.path("no"))
        self.remote("export", "v@a", "--origin", moved, "-o", self.path("last"))
        self.assert_same(self.path("last"), self.first)

    def test_a_size_that_is_no_multiple_of_the_chunk(self):
        self.disk(size=3 * MIB + 4096 + 512)
        self.remote("create", "v@a", "--chunk-size", "64K")
        second = self.changed(self.first, "second", self.rng, percent=60)
        self.remote("apply", "v@a", "--origin", self.origin, "--source", second)
        self.assert_same(self.origin, second)
        self.assert_same(self.export("v@a", "out"), self.first)

    def test_diff_lists_what_differs_and_nothing_else(self):
        self.disk(size=4 * MIB)
        self.remote("create", "v@a", "--chunk-size", "4K")
        second = self.changed(self.first, "second", self.rng, percent=5)
        self.remote("apply", "v@a", "--origin", self.origin, "--source", second)
        listed = set()
        for extent in self.snapctl("--json", "remote", "diff", "v@a").json():
            begin, length = extent["offset_bytes"], extent["length_bytes"]
            listed |= set(range(begin // 4096, (begin + length + 4095) // 4096))
        with open(self.first, "rb") as a, open(second, "rb") as b:
            x, y = a.read(), b.read()
        differ = {i for i in range(len(x) // 4096)
                  if x[i * 4096:(i + 1) * 4096] != y[i * 4096:(i + 1) * 4096]}
        self.assertEqual(listed, differ)

    def test_a_chain_of_snapshots_reads_every_generation(self):
        generations = self.generations(4)
        for i in range(4):
            self.assert_same(self.export(f"v@s{i}", f"out{i}"), generations[i])
        # an older one is not written to
        self.remote("apply", "v@s1", "--origin", self.origin, "--source", generations[0],
                    code=None)
        self.assert_same(self.origin, generations[4])

    def test_deleting_in_the_middle_keeps_the_older_ones_whole(self):
        generations = self.generations(4)
        for i in (2, 1, 3):
            self.remote("delete", f"v@s{i}")
            self.remote("show", f"v@s{i}", code=6)
            self.assert_same(self.export("v@s0", f"out-{i}"), generations[0])

    def test_merge_of_an_older_one_keeps_the_newer_ones(self):
        generations = self.generations(3)
        self.remote("merge", "v@s1", "--origin", self.origin)
        self.assert_same(self.origin, generations[1])
        self.remote("show", "v@s1", code=6)
        self.assert_same(self.export("v@s0", "out0"), generations[0])
        self.assert_same(self.export("v@s2", "out2"), generations[2])

    def test_apply_that_was_killed_is_taken_up_again(self):
        self.disk(size=48 * MIB, density=95)
        self.remote("create", "v@a")
        second = self.changed(self.first, "second", self.rng, percent=90)
        for delay in (0.05, 0.1, 0.2):
            child = self.spawn("remote", "apply", "v@a", "--origin", self.origin, "--source",
                               second)
            time.sleep(delay)
            child.send_signal(signal.SIGKILL)
            child.wait()
            self.assert_same(self.export("v@a", f"out{delay}"), self.first)
        self.remote("apply", "v@a", "--origin", self.origin, "--source", second, "--steal")
        self.assert_same(self.origin, second)
        self.assert_same(self.export("v@a", "out"), self.first)

    def test_holes_stay_holes(self):
        size = 64 * MIB
        self.first = self.image("first", size, self.rng, density=1)
        self.origin = self.copy(self.first, "origin")
        self.remote("create", "v", "--like", self.origin)
        self.remote("create", "v@a")
        second = self.changed(self.first, "second", self.rng, percent=1)
        self.remote("apply", "v@a", "--origin", self.origin, "--source", second)
        out = self.export("v@a", "out")
        self.assert_same(out, self.first)
        for path in (self.origin, out):
            self.assertLess(os.stat(path).st_blocks * 512, size // 4, path)

    def test_an_origin_of_another_size_is_refused_by_both_sizes(self):
        self.disk(size=2 * MIB)
        self.remote("create", "v@a")
        for size in (1 * MIB, 4 * MIB):
            other = self.image(f"other{size}", size, self.rng)
            got = self.remote("apply", "v@a", "--origin", other, "--source", other, code=19)
            self.assertRegex(got.err, r"2M|2097152")

    def test_a_name_made_again_is_another_thing(self):
        self.disk(size=2 * MIB)
        self.remote("create", "v@a")
        one = self.snapctl("--json", "remote", "show", "v@a").json()
        self.remote("delete", "v@a")
        self.remote("create", "v@a")
        two = self.snapctl("--json", "remote", "show", "v@a").json()
        self.assertNotEqual(one["id"], two["id"])


class Merge(Case):
    def test_a_table_in_no_order_is_emptied_an_area_at_a_time(self):
        d = self.up(tls=False, config='metrics_listen = "127.0.0.1:0"\n')
        port = re.search(r"metrics=\S*?:(\d+)", d.log()).group(1)
        rng = seed()
        first = self.image("first", 8 * MIB, rng, 100)
        origin = self.copy(first, "origin")
        self.remote("create", "v", "--like", origin)
        self.remote("create", "v@a", "--chunk-size", "4K")
        second = self.changed(first, "second", rng, percent=50)
        self.remote("apply", "v@a", "--origin", origin, "--source", second)
        done = self.snapctl("--json", "remote", "merge", "v@a", "--origin", origin).json()
        self.assert_same(origin, first)
        self.assertGreater(done["chunks_written"], 800)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        commits = int(re.search(r'_requests_total\{method="merge-commit"\} (\d+)', text).group(1))
        areas = -(-done["chunks_written"] // 256)  # of 4 KiB, 16 bytes an exception
        self.assertTrue(1 <= commits <= areas, f"{commits} commits of {areas} areas")
