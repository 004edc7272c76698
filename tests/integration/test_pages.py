# SPDX-License-Identifier: Apache-2.0
"""Lists longer than a message: in pages to a client that asks for them, whole to snapctl."""

import os
import time

import rawclient as rc
from harness import Case
from rawclient import ELIMIT, Refused, connect_unix, fields, get, num, raw

MIB = 1 << 20
SNAPSHOTS = 250


class Pages(Case):
    def setUp(self):
        super().setUp()
        self.d = self.up(tls=False)
        self.r = connect_unix(self.d.socket, control=16384)
        self.addCleanup(self.r.close)

    def many(self, name="disk", count=SNAPSHOTS):
        volume = self.r.create_volume(name, MIB)
        for i in range(count):
            self.r.create_snapshot(volume, f"s{i}")
        return volume

    def test_snapshots(self):
        """Every snapshot of a volume is seen once, in order; deleted ones are not."""
        volume = self.many()
        with self.assertRaises(Refused) as why:
            self.r.call(rc.M_VOLUME_SHOW, raw(1, volume))
        self.assertEqual(why.exception.code, ELIMIT)
        names = [f"s{i}" for i in range(SNAPSHOTS)]
        for page in (1000, 7):
            found = self.r.snapshot_pages(volume, page)
            self.assertEqual([get(s, 3).decode() for s in found], names)
        self.assertEqual([i for i, s in enumerate(found) if get(s, 18)], [SNAPSHOTS - 1])
        self.r.delete_snapshot(volume, get(found[10], 1))
        self.assertEqual(len(self.r.snapshot_pages(volume, 10)), SNAPSHOTS - 1)
        # and snapctl sees them all, as one
        rows = self.remote("ls", "disk", "--json").json()
        self.assertEqual([s["name"] for s in rows], names[:10] + names[11:])
        rows = self.remote("ls", "--json").json()
        self.assertEqual([(v["name"], v["snapshot_count"], v["head"]) for v in rows],
                         [("disk", SNAPSHOTS - 1, names[-1])])

    def test_volumes(self):
        """By name, each with as many snapshots as the page has room for."""
        names = sorted(f"v{i}" for i in range(150))
        counts = {name: 30 if name == "v77" else len(name) - 1 for name in names}
        for name in reversed(names):
            self.many(name, counts[name])
        for page in (1, 40, 1000):
            found = self.r.pages(rc.M_VOLUME_LIST, page=page)
            self.assertEqual([get(v, 2).decode() for v in found], names)
        short = [get(v, 2).decode() for v in found if get(v, 13)]
        self.assertEqual(short, ["v77"])
        self.assertLess(len(found[names.index("v77")][7]), 30)
        rows = self.remote("ls", "--json").json()
        self.assertEqual({v["name"]: v["snapshot_count"] for v in rows}, counts)
        one = get(found[names.index("v77")], 1)
        message, _ = self.r.call(rc.M_VOLUME_LIST, raw(1, one) + num(3, 10))
        self.assertEqual([get(fields(v), 2) for v in message[1]], [b"v77"])
        self.assertNotIn(2, message)

    def test_grants(self):
        volume = self.r.create_volume("disk", MIB)
        who = sorted(f"host-{i}" for i in range(40))
        for identity in who:
            self.r.call(rc.M_GRANT, raw(1, identity) + num(2, 2) + raw(3, volume))
            self.r.call(rc.M_GRANT, raw(1, identity) + num(2, 2))
        found = self.r.pages(rc.M_GRANT_LIST, page=7)
        self.assertEqual([get(g, 1).decode() for g in found], sorted(who * 2))
        self.assertEqual(len({(get(g, 1), get(g, 3, b"")) for g in found}), 80)
        self.assertEqual(len(self.r.pages(rc.M_GRANT_LIST, volume, page=1000)), 80)

    def test_jobs(self):
        """Those of each volume stand together, whatever the page."""
        self.assertEqual(self.r.pages(rc.M_JOB_LIST, page=1), [])
        for name in ("a", "b", "c"):
            volume = self.many(name, 6)
            for s in self.r.snapshot_pages(volume)[:5]:
                self.r.delete_snapshot(volume, get(s, 1))
        end = time.monotonic() + 30
        while any(get(j, 7) != b"done" for j in self.r.jobs()) and time.monotonic() < end:
            time.sleep(0.05)
        want = [get(j, 1) for j in self.r.pages(rc.M_JOB_LIST, page=1000)]
        self.assertEqual(len(set(want)), 15)
        for page in (1, 4):
            found = self.r.pages(rc.M_JOB_LIST, page=page)
            self.assertEqual([get(j, 1) for j in found], want)
        self.assertEqual(len(self.r.jobs(volume)), 5)
        self.assertEqual(len(self.remote("jobs", "--json").json()), 15)

    def test_strange_cursors(self):
        """What no answer gave is taken as a place in the list, or refused."""
        self.r.create_volume("disk", MIB)
        for method in (rc.M_VOLUME_LIST, rc.M_GRANT_LIST, rc.M_JOB_LIST):
            with self.assertRaises(Refused) as why:
                self.r.call(method, raw(2, bytes(1000)) + num(3, 5))
            self.assertEqual(why.exception.code, rc.EINVAL)
            self.r.call(method, raw(2, os.urandom(20)) + num(3, (1 << 32) - 1))
        message, _ = self.r.call(rc.M_VOLUME_LIST, raw(2, b"disk\0") + num(3, 5))
        self.assertEqual(message, {})
        message, _ = self.r.call(rc.M_VOLUME_LIST, raw(2, b"dis") + num(3, 5))
        self.assertEqual(len(message[1]), 1)
