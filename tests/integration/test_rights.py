# SPDX-License-Identifier: Apache-2.0
"""Who may do what: every role against every request, and identities that are taken away."""

import os
import shutil
import subprocess

import rawclient as rc
from harness import Case, program_for_others
from rawclient import Refused, connect_tls, connect_unix, num, raw

MIB = 1 << 20
CHUNK = 4096
ROLES = {"append": 1, "reader": 2, "writer": 3, "admin": 4}
SEE, READ, APPEND, WRITE, ADMIN = ("see", "read", "append", "write", "admin")
HAS = {"nobody": set(), "append": {SEE, APPEND}, "reader": {SEE, READ},
       "writer": {SEE, READ, APPEND, WRITE}, "admin": {SEE, READ, APPEND, WRITE, ADMIN}}


class Rights(Case):
    def setUp(self):
        super().setUp()
        self.d = self.up()
        self.root = connect_unix(self.d.socket)
        self.volume = self.root.create_volume("v", MIB)
        self.other = self.root.create_volume("w", MIB)
        self.s = self.root.create_snapshot(self.volume, "s")
        self.bob = connect_tls(self.d.port, rc.tls_context(self.pki(), "bob"))
        self.addCleanup(self.root.close)
        self.addCleanup(self.bob.close)

    def grant(self, role, volume=None):
        self.root.call(rc.M_GRANT, raw(1, "bob") + num(2, ROLES[role]) +
                       raw(3, volume or self.volume))

    def revoke(self, role):
        self.root.call(rc.M_REVOKE, raw(1, "bob") + num(2, ROLES[role]) + raw(3, self.volume))

    def outcome(self, method, control, payload=b""):
        """"ok", or the code's number; anything but EPERM counts as let through."""
        try:
            self.bob.call(method, control, payload)
            return "ok"
        except Refused as refused:
            self.assertFalse(refused.goaway, (method, refused))
            return refused.code

    def table(self):
        """Requests that change nothing that later ones need, with the right they need."""
        v, s = raw(1, self.volume), raw(2, self.s)
        key = raw(3, os.urandom(16))
        stale = num(3, 99)
        return [
            (SEE, rc.M_VOLUME_SHOW, v),
            (SEE, rc.M_RESOLVE, raw(1, "v") + raw(2, "s")),
            (SEE, rc.M_SNAPSHOT_SHOW, v + s),
            (READ, rc.M_SNAPSHOT_CHECK, v + s),
            (READ, rc.M_SNAPSHOT_READ, v + s + num(3, 0) + num(4, 512)),
            (READ, rc.M_RUN_LIST, v + s),
            (APPEND, rc.M_LEASE_ACQUIRE, v + raw(2, b"i" * 16) + num(4, MIB)),
            (APPEND, rc.M_LEASE_RENEW, v + num(2, 99)),
            (APPEND, rc.M_LEASE_RELEASE, v + num(2, 99)),
            (APPEND, rc.M_HEAD_READY, v + num(2, 99) + raw(3, self.s)),
            (APPEND, rc.M_COW_PUT, self.bob.put_control(self.volume, 99, self.s, [1])),
            (WRITE, rc.M_MERGE_BEGIN, v + s + stale),
            (WRITE, rc.M_MERGE_PREPARE, v + s + stale),
            (WRITE, rc.M_MERGE_COMMIT, v + s + stale),
            (WRITE, rc.M_MERGE_END, v + s + stale),
            (WRITE, rc.M_MERGE_ABORT, v + s + stale),
            (WRITE, rc.M_SNAPSHOT_DELETE, v + raw(2, os.urandom(16)) + key),
            (ADMIN, rc.M_VOLUME_CREATE, raw(1, self.volume) + raw(2, "v") + num(3, MIB)),
            (ADMIN, rc.M_GRANT, raw(1, "carl") + num(2, 2) + raw(3, self.volume)),
            (ADMIN, rc.M_REVOKE, raw(1, "carl") + num(2, 2) + raw(3, self.volume)),
        ]

    def check_role(self, role, grant):
        grant()
        grants, _ = self.bob.call(rc.M_GRANT_LIST)  # a list leaves out what one may not see
        who = {rc.get(rc.fields(g), 1) for g in grants.get(1, [])}
        self.assertEqual(who, set() if role == "nobody" else {b"bob"})
        for right, method, control in self.table():
            payload = bytes(CHUNK) if method == rc.M_COW_PUT else b""
            got = self.outcome(method, control, payload)
            # a volume's admin does not make volumes; who may see nothing is told nothing
            if method == rc.M_VOLUME_CREATE:
                self.assertEqual(got, rc.EPERM, (role, method))
            elif right in HAS[role]:
                self.assertNotIn(got, (rc.EPERM, rc.EPROTO), (role, method, got))
            elif role == "nobody":
                self.assertIn(got, (rc.EPERM, rc.ENOENT), (role, method, got))
            else:
                self.assertEqual(got, rc.EPERM, (role, method))

    def test_nobody(self):
        self.check_role("nobody", lambda: None)
        self.assertEqual(self.bob.call(rc.M_VOLUME_LIST)[0], {})

    def test_append(self):
        self.check_role("append", lambda: self.grant("append"))

    def test_reader(self):
        self.check_role("reader", lambda: self.grant("reader"))

    def test_writer(self):
        self.check_role("writer", lambda: self.grant("writer"))

    def test_admin_of_a_volume(self):
        self.check_role("admin", lambda: self.grant("admin"))

    def test_the_origins_fingerprint_is_told_to_those_who_read(self):
        self.root.acquire(self.volume, MIB, b"i" * 16, fingerprint=b"disk")
        for role, told in (("append", None), ("reader", b"disk")):
            self.grant(role)
            message, _ = self.bob.call(rc.M_RESOLVE, raw(1, "v"))
            self.assertEqual(rc.get(message, 6, None), told, role)
            self.revoke(role)

    def test_a_role_on_one_volume_is_none_on_another(self):
        for role in ROLES:
            self.grant(role)
        for method in (rc.M_VOLUME_SHOW, rc.M_VOLUME_DELETE):
            self.assertIn(self.outcome(method, raw(1, self.other) + raw(3, os.urandom(16))
                                       if method == rc.M_VOLUME_DELETE else raw(1, self.other)),
                          (rc.EPERM, rc.ENOENT))
        message, _ = self.bob.call(rc.M_VOLUME_LIST)
        names = [rc.get(rc.fields(v), 2) for v in message.get(1, [])]
        self.assertEqual(names, [b"v"])

    def test_a_role_taken_away_counts_at_once_also_for_open_sessions(self):
        self.grant("append")
        epoch, head = self.bob.acquire(self.volume, MIB, b"i" * 16)
        self.bob.put(self.volume, epoch, head, [1], bytes(CHUNK))
        self.revoke("append")
        with self.assertRaises(Refused) as got:
            self.bob.put(self.volume, epoch, head, [2], bytes(CHUNK))
        self.assertIn(got.exception.code, (rc.EPERM, rc.ENOENT, rc.ESTALE))

    def test_only_the_role_that_is_there_is_taken_away(self):
        def who():
            message, _ = self.root.call(rc.M_GRANT_LIST)
            grants = [rc.fields(g) for g in message.get(1, [])]
            return [(rc.get(g, 2), rc.get(g, 3, b"")) for g in grants if rc.get(g, 1) == b"bob"]
        self.grant("writer")
        for role, volume, says in (("admin", self.volume, r"'bob' is writer of v, not admin"),
                                   ("append", self.volume, r"'bob' is writer of v, not append"),
                                   ("writer", self.other, r"'bob' has no such grant"),
                                   ("writer", b"", r"'bob' has no such grant")):
            with self.assertRaisesRegex(Refused, says) as got:
                self.root.call(rc.M_REVOKE, raw(1, "bob") + num(2, ROLES[role]) +
                               (raw(3, volume) if volume else b""))
            self.assertEqual(got.exception.code, rc.ENOENT)
        self.root.call(rc.M_GRANT, raw(1, "bob") + num(2, ROLES["reader"]))
        with self.assertRaisesRegex(Refused, r"'bob' is reader of all volumes, not writer"):
            self.root.call(rc.M_REVOKE, raw(1, "bob") + num(2, ROLES["writer"]))
        with self.assertRaisesRegex(Refused, r"role 9 is not known"):
            self.root.call(rc.M_REVOKE, raw(1, "bob") + num(2, 9))
        self.assertEqual(len(who()), 2)
        self.root.call(rc.M_REVOKE, raw(1, "bob"))  # whichever it is
        self.assertEqual(who(), [(ROLES["writer"], self.volume)])
        self.revoke("writer")
        self.assertEqual(who(), [])

    def test_append_cannot_change_what_it_wrote(self):
        self.grant("append")
        epoch, head = self.bob.acquire(self.volume, MIB, b"i" * 16)
        self.bob.put(self.volume, epoch, head, [1], b"a" * CHUNK)
        self.assertEqual(self.bob.put(self.volume, epoch, head, [1], b"b" * CHUNK), (0, 1, {}))
        self.assertEqual(self.root.read_view(self.volume, self.s, CHUNK, CHUNK),
                         [(CHUNK, 0, b"a" * CHUNK)])
        for call in ((rc.M_SNAPSHOT_DELETE, raw(1, self.volume) + raw(2, self.s) +
                      raw(3, b"k" * 16)),
                     (rc.M_VOLUME_DELETE, raw(1, self.volume) + raw(3, b"k" * 16) + num(4, 1))):
            self.assertEqual(self.outcome(*call), rc.EPERM)
        self.bob.create_snapshot(self.volume, "t")

    def test_only_an_admin_names_devices_and_steals(self):
        self.grant("writer")
        device = self.path("x.cow")
        self.assertEqual(self.outcome(rc.M_SNAPSHOT_CREATE, raw(1, self.volume) +
                                      raw(2, os.urandom(16)) + raw(3, "t") + raw(6, device)),
                         rc.EPERM)
        self.root.acquire(self.volume, MIB, b"r" * 16)
        with self.assertRaises(Refused) as got:
            self.bob.acquire(self.volume, MIB, b"i" * 16)
        self.assertEqual(got.exception.code, rc.EBUSY)
        with self.assertRaises(Refused) as got:
            self.bob.acquire(self.volume, MIB, b"i" * 16, steal=True)
        self.assertEqual(got.exception.code, rc.EPERM)
        self.grant("admin")
        self.bob.acquire(self.volume, MIB, b"i" * 16, steal=True)
        self.root.wait_event(rc.E_LEASE_LOST)

    def test_grants_survive_a_restart(self):
        self.grant("reader")
        self.d.stop()
        self.d.start()
        bob = connect_tls(self.d.port, rc.tls_context(self.pki(), "bob"))
        bob.call(rc.M_VOLUME_SHOW, raw(1, self.volume))
        bob.close()
        self.root = connect_unix(self.d.socket)

    def test_status_tells_others_only_who_they_are(self):
        message, _ = self.bob.call(rc.M_STATUS)
        self.assertEqual(rc.get(message, 17), b"bob")
        for field in (18, 20):  # warnings, the state directory
            self.assertNotIn(field, message)

    def test_another_user_on_the_socket_is_not_root(self):
        if os.getuid() != 0:
            self.skipTest("needs root to become another user")
        os.chmod(self.dir, 0o755)
        os.chmod(self.d.dir, 0o755)
        os.chmod(self.d.socket, 0o666)
        conf = self.path("others.conf")
        shutil.copy(self.path("remotes.conf"), conf)
        os.chmod(conf, 0o644)

        def drop():
            os.setgid(65534)
            os.setuid(65534)
        snapctl = program_for_others("snapctl", self.dir)
        done = subprocess.run([snapctl, "remote", "--on", "admin", "create", "x", "--size", "1M"],
                              env=dict(os.environ, SNAPWIRE_CONFIG=conf, HOME="/tmp"),
                              capture_output=True, text=True, preexec_fn=drop, check=False)
        self.assertEqual(done.returncode, 8, done.stderr)
        self.assertRegex(done.stderr, r"uid:65534")


class Commands(Case):
    """The same through snapctl: exit 8 and a message that names what is missing."""

    def test_every_command_without_the_role(self):
        d = self.up(role="admin")
        self.reach(d, "bob", "bob")
        origin = self.path("origin")
        with open(origin, "wb") as f:
            f.write(b"x" * MIB)
        source = self.copy(origin, "source")
        self.remote("create", "v", "--like", origin)
        self.remote("create", "v@s")
        self.remote("grant", "bob", "reader", "v")
        commands = [
            ["create", "w", "--size", "1M"], ["create", "v@t"], ["delete", "v@s"],
            ["delete", "v", "--force"], ["grant", "carl", "reader", "v"],
            ["revoke", "ann", "admin", "*"],
            ["apply", "v@s", "--origin", origin, "--source", source],
            ["merge", "v@s", "--origin", origin],
        ]
        for args in commands:
            with self.subTest(args):
                self.fails(8, r"(?i)bob|right|role|permission", "remote", "--on", "bob", *args)
        for args in (["ls"], ["ls", "v"], ["show", "v@s"], ["diff", "v@s"], ["check", "v@s"],
                     ["export", "v@s", "--origin", origin, "-o", self.path("out")]):
            self.remote(*args, on="bob")
        self.remote("revoke", "bob", "reader", "v")
        self.remote("grant", "bob", "append", "v")
        for args in (["diff", "v@s"], ["check", "v@s"], ["delete", "v@s"],
                     ["export", "v@s", "--origin", origin, "-o", self.path("out2")]):
            with self.subTest(args):
                self.fails(8, r"(?i)bob|right|role|permission", "remote", "--on", "bob", *args)
        self.remote("apply", "v@s", "--origin", origin, "--source", source, on="bob")
        self.remote("create", "v@t", on="bob")

    def test_roles_and_identities_that_cannot_be(self):
        self.up(tls=False)
        self.remote("create", "v", "--size", "1M")
        for args, says in ((["ann", "boss", "v"], "boss"), (["a/b", "reader", "v"], "identity|'/'"),
                           (["", "reader", "v"], "."), (["ann", "reader"], "."),
                           (["ann", "reader", "v@s"], "."), (["ann", "reader", "v", "w"], ".")):
            self.fails(2, says, "remote", "grant", *args)
        self.fails(6, r"no volume .?nothing", "remote", "grant", "ann", "reader", "nothing")
        self.remote("grant", "ann", "reader", "v")
        self.remote("grant", "ann", "reader", "v")  # again is no fault
        got = self.snapctl("--json", "remote", "grants").json()
        self.assertEqual(sum(g["identity"] == "ann" for g in got), 1)
