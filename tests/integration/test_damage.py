# SPDX-License-Identifier: Apache-2.0
"""A COW file that is lost: who is harmed, what check says, how the snapshot is given up."""

import os

from harness import Case

MIB = 1 << 20


class Lost(Case):
    def file(self, name, byte):
        with open(self.path(name), "wb") as f:
            f.write(byte * MIB)
        return self.path(name)

    def states(self):
        return {s["name"]: s["state"] for s in self.remote("ls", "v", "--json").json()}

    def lose(self):
        """v has s1, s2, s3 and a clone of s2; the file of s2 goes."""
        d = self.up(tls=False)
        self.remote("create", "v", "--hosted", "--size", "1M")
        for i, name in enumerate(("s1", "s2", "s3")):
            self.remote("import", "v", self.file(name, bytes([65 + i])))
            self.remote("create", f"v@{name}")
        self.remote("import", "v", self.file("now", b"z"))
        self.remote("clone", "v@s2", "c")
        lost = self.remote("show", "v@s2", "--json").json()["cow_path"]
        d.stop()
        os.unlink(lost)
        d.start()
        return d

    def test_what_reads_through_it_is_damaged_and_check_looks_at_all(self):
        self.lose()
        self.assertEqual(self.states(), {"s1": "damaged", "s2": "damaged", "s3": "ok",
                                         "c": "damaged"})
        done = self.fails(12, "v: 1 fault", "remote", "check", "v")
        self.assertRegex(done.out, r"v@s2: not sound, cannot be read: .*No such file")
        for name in ("s1", "s3", "c"):
            self.assertRegex(done.out, rf"v@{name}: sound")
        done = self.snapctl("remote", "check", "v", "--json", code=12).json()
        self.assertEqual({c["snapshot"]: c["sound"] for c in done},
                         {"s1": True, "s2": False, "s3": True, "c": True})

    def test_it_is_given_up_by_force_and_what_read_through_it_with_it(self):
        self.lose()
        self.fails(12, "v@s2 is damaged.*force", "remote", "delete", "v@s2")
        self.remote("delete", "v@s2", "--force")
        self.assertEqual(self.states(), {"s1": "invalid", "s3": "ok", "c": "invalid"})
        self.remote("export", "v@s3", "-o", self.path("out"))
        with open(self.path("out"), "rb") as f:
            self.assertEqual(f.read(), b"C" * MIB)
        for name in ("s1", "c"):
            self.remote("delete", f"v@{name}")
        self.assertEqual(self.states(), {"s3": "ok"})

    def test_force_deletes_a_sound_one_as_without_it(self):
        self.up(tls=False)
        self.remote("create", "v", "--hosted", "--size", "1M")
        for name in ("s1", "s2"):
            self.remote("import", "v", self.file(name, name[-1:].encode()))
            self.remote("create", f"v@{name}")
        self.remote("import", "v", self.file("now", b"z"))
        self.remote("delete", "v@s2", "--force")
        self.remote("export", "v@s1", "-o", self.path("out"))
        with open(self.path("out"), "rb") as f:
            self.assertEqual(f.read(), b"1" * MIB)


class NotTold(Case):
    def test_status_leaves_out_what_only_admins_are_told(self):
        d = self.up(role="reader")
        told = self.remote("status", "--json").json()
        self.assertNotIn("state_bytes_free", told)
        self.assertNotIn("state_dir", told)
        self.assertNotIn("Space free", self.remote("status").out)
        told = self.remote("status", "--json", on="admin").json()
        self.assertGreater(told["state_bytes_free"], 0)
        self.assertEqual(told["state_dir"], d.state)
