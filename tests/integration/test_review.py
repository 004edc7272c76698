# SPDX-License-Identifier: Apache-2.0
"""What one connection does beside another: leases on several shards, what a role may see."""

import os
import shutil
import socket
import subprocess
import time

import rawclient as rc
from harness import Case, program
from rawclient import Gone, Refused, connect_tls, connect_unix, fields, get, num, raw

MIB = 1 << 20


class Shards(Case):
    def test_writer_of_several_volumes_hears_of_each(self):
        """However many volumes one connection writes, and whatever shard each is on, it is
        told that a new head is wanted."""
        d = self.up(tls=False, config="shards = 4\nlease_ttl_ms = 60000\n")
        writer = connect_unix(d.socket)
        other = connect_unix(d.socket)
        self.addCleanup(writer.close)
        self.addCleanup(other.close)
        leases = []
        for i in range(8):
            volume = other.create_volume(f"v{i}", MIB)
            other.create_snapshot(volume, "s")
            leases.append((volume, writer.acquire(volume, MIB, b"i" * 16)[0]))
        for volume, epoch in leases:
            asked = other.ask(rc.M_SNAPSHOT_CREATE, raw(1, volume) + raw(2, os.urandom(16)) +
                              raw(3, "t") + num(4, 8))
            writer.sock.settimeout(5)
            event = writer.wait_event(rc.E_QUIESCE, timeout=5)
            self.assertEqual(get(event, 1, b""), volume)
            writer.call(rc.M_HEAD_READY, raw(1, volume) + num(2, epoch))
            other.answer(asked)


class Seen(Case):
    def setUp(self):
        super().setUp()
        self.d = self.up()
        self.root = connect_unix(self.d.socket)
        self.addCleanup(self.root.close)
        self.volume = self.root.create_volume("secret-name", MIB)
        self.snapshot = self.root.create_snapshot(self.volume, "s")
        self.bob = connect_tls(self.d.port, rc.tls_context(self.pki(), "bob"))
        self.addCleanup(self.bob.close)

    def grant(self, role):
        self.root.call(rc.M_GRANT, raw(1, "bob") + num(2, role) + raw(3, self.volume))

    def show(self, who):
        message, _ = who.call(rc.M_SNAPSHOT_SHOW, raw(1, self.volume) + raw(2, self.snapshot))
        return message

    def test_name_of_a_volume_is_not_told_to_who_may_not_see_it(self):
        for method in (rc.M_VOLUME_SHOW, rc.M_VOLUME_DELETE):
            with self.assertRaises(Refused) as got:
                self.bob.call(method, raw(1, self.volume) +
                              (raw(3, os.urandom(16)) if method == rc.M_VOLUME_DELETE else b""))
            self.assertEqual(got.exception.code, rc.EPERM)
            self.assertNotIn("secret-name", got.exception.text)

    def test_place_of_a_cow_device_is_the_administrators_to_see(self):
        def has_path(message):
            return any(self.d.state.encode() in v for values in message.values()
                       for v in values if isinstance(v, bytes))
        self.grant(2)
        self.assertFalse(has_path(self.show(self.bob)))
        self.assertTrue(has_path(self.show(self.root)))
        self.grant(4)
        self.assertTrue(has_path(self.show(self.bob)))

    def test_state_directory_is_not_a_place_for_a_device_however_it_is_spelt(self):
        self.grant(4)
        inside = os.path.join(self.d.state, "stray")
        with open(inside, "wb") as f:
            f.truncate(8 * MIB)
        link = self.path("link")
        os.symlink(inside, link)
        other = self.root.create_volume("w", MIB)
        self.root.call(rc.M_GRANT, raw(1, "bob") + num(2, 4) + raw(3, other))
        for path in (inside, "/" + inside, inside.replace("/stray", "/./stray"),
                     inside.replace("/stray", "//stray"), link):
            with self.assertRaises(Refused, msg=path) as got:
                self.bob.call(rc.M_SNAPSHOT_CREATE, raw(1, other) + raw(2, os.urandom(16)) +
                              raw(3, "d") + num(4, 8) + raw(6, path))
            self.assertEqual(got.exception.code, rc.EINVAL, got.exception.text)
            self.assertIn("not a place", got.exception.text)
