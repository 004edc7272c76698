# SPDX-License-Identifier: Apache-2.0
"""What one connection does beside another: leases on several shards, what a role may see."""

import os
import shutil
import time

import rawclient as rc
from harness import Case
from rawclient import Gone, Refused, connect_tls, connect_unix, get, num, raw

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


class Revoked(Case):
    def setUp(self):
        super().setUp()
        self.own = self.path("pki")
        shutil.copytree(super().pki(), self.own)
        self.d = self.up()

    def pki(self):
        return getattr(self, "own", None) or Case.pki()

    def test_revoked_between_handshake_and_hello(self):
        """A connection that was let in under the old list does not outlive the new one."""
        bob = connect_tls(self.d.port, rc.tls_context(self.pki(), "bob"), greet=False)
        self.addCleanup(bob.close)
        time.sleep(0.3)
        self.snapctl("-q", "pki", "revoke", self.pki(), "bob")
        self.d.hang_up()
        time.sleep(0.5)
        with self.assertRaises((Gone, Refused)) as got:
            bob.sock.settimeout(5)
            bob.send(rc.hello())
            while bob.server is None:
                bob.step()
            bob.ping()
        if isinstance(got.exception, Refused):
            self.assertEqual(got.exception.code, rc.EAUTH)
        connect_tls(self.d.port, rc.tls_context(self.pki(), "ann")).close()


class Reading(Case):
    def test_read_of_thousands_of_pieces_is_answered_whole(self):
        """What libsnapwire and export ask for at once, they get at once, however scattered."""
        d = self.up(tls=False)
        c = connect_unix(d.socket, control=262144, payload=16 * MIB, window=16 * MIB)
        self.addCleanup(c.close)
        size, sector = 4 * MIB, 512
        volume = c.create_volume("v", size)
        try:
            snapshot = c.create_snapshot(volume, "s", chunk_sectors=1)
        except Refused as refused:
            self.skipTest(f"no chunks of one sector here: {refused}")
        epoch, head = c.acquire(volume, size, b"i" * 16)
        olds = list(range(0, size // sector, 2))
        for at in range(0, len(olds), 1024):
            part = olds[at:at + 1024]
            payload = b"".join(bytes([1 + old % 251]) * sector for old in part)
            self.assertEqual(c.put(volume, epoch, head, part, payload), (len(part), 0, {}))
        message, payload = c.call(rc.M_SNAPSHOT_READ, raw(1, volume) + raw(2, snapshot) +
                                  num(3, 0) + num(4, size))
        self.assertEqual(len(message[1]), size // sector)
        self.assertEqual(len(payload), len(olds) * sector)
        for i, old in enumerate(olds):
            self.assertEqual(payload[i * sector:(i + 1) * sector], bytes([1 + old % 251]) * sector)


class Registry(Case):
    def test_same_snapshot_uuid_in_two_volumes_costs_none_of_them(self):
        """A client chooses the uuids; what it chooses must not keep a volume from being served."""
        d = self.up(tls=False)
        c = connect_unix(d.socket)
        first, second = c.create_volume("first", MIB), c.create_volume("second", MIB)
        uuid = c.create_snapshot(first, "s")
        try:
            c.create_snapshot(second, "s", uuid=uuid)
        except Refused as refused:
            self.assertEqual(refused.code, rc.EEXIST)
        c.close()
        d.stop()
        d.start()
        c = connect_unix(d.socket)
        self.addCleanup(c.close)
        for name, volume in (("first", first), ("second", second)):
            self.assertEqual(c.resolve(name)[0], volume)
            c.call(rc.M_VOLUME_SHOW, raw(1, volume))


class Lost(Case):
    def test_the_event_of_a_lost_lease_names_the_lease_that_was_lost(self):
        """libsnapwire compares the epoch: one of the successor's would be nobody's to it."""
        d = self.up(tls=False)
        first, thief = connect_unix(d.socket), connect_unix(d.socket)
        self.addCleanup(first.close)
        self.addCleanup(thief.close)
        volume = thief.create_volume("v", MIB)
        thief.create_snapshot(volume, "s")
        epoch, _ = first.acquire(volume, MIB, b"i" * 16)
        thief.acquire(volume, MIB, b"j" * 16, steal=True)
        event = first.wait_event(rc.E_LEASE_LOST, timeout=5)
        self.assertEqual((get(event, 1, b""), get(event, 2)), (volume, epoch))
