# SPDX-License-Identifier: Apache-2.0
"""Volume records of a running daemon: groups whose records are lost, disks that are full."""

import glob
import os
import shutil
import time

from harness import Case
from rawclient import EINVAL, M_VOLUME_CREATE, Refused, connect_unix, get, num, raw

KIB = 1 << 10
MIB = 1 << 20


class Records(Case):
    def connect(self, d):
        r = connect_unix(d.socket)
        self.addCleanup(r.close)
        return r

    def test_a_label_given_twice_is_refused(self):
        """Not found out by the next start, which could not read the volume's record."""
        d = self.up(tls=False)
        r = self.connect(d)
        labels = [raw(6, raw(1, "site") + raw(2, place)) for place in ("Basel", "Bern")]
        volume = raw(1, os.urandom(16)) + raw(2, "v") + num(3, MIB)
        with self.assertRaises(Refused) as got:
            r.call(M_VOLUME_CREATE, volume + labels[0] + labels[1])
        self.assertEqual(got.exception.code, EINVAL)
        self.assertIn("site", got.exception.text)
        r.call(M_VOLUME_CREATE, volume + labels[0])
        d.kill()
        d.start()
        self.assertNotIn("not served", self.remote("status").out)

    def test_a_finished_group_stands_by_its_members_alone(self):
        d = self.up(tls=False)
        r = self.connect(d)
        volumes = [r.create_hosted(f"v{i}", MIB) for i in range(3)]
        members = [(v, os.urandom(16), "all") for v in volumes]
        for v in volumes:
            r.write(v, 0, b"a" * 4096)
        r.create_group(members)
        for v in volumes:
            r.write(v, 0, b"b" * 4096)
        d.kill()
        shutil.rmtree(f"{d.state}/groups", ignore_errors=True)
        d.start()
        self.assertNotIn("is undone", self.remote("status").out)
        r = self.connect(d)
        for v, snapshot, _ in members:
            self.assertEqual(list(r.snapshots(v)), ["all"])
            self.assertEqual(r.read(v, 0, 4096, snapshot), b"a" * 4096)
        r.create_group([(v, os.urandom(16), "more") for v in volumes])  # and others can be made
        for v in volumes:
            self.assertEqual(sorted(r.snapshots(v)), ["all", "more"])

    def full_disk(self, d):
        """Nothing is left on the daemon's disk."""
        with open(f"{d.state}/filler", "ab", buffering=0) as f:
            size = 1 << 20
            while size >= 512:
                try:
                    if f.write(bytes(size)) == size:
                        continue
                except OSError:
                    pass
                size //= 2

    def test_snapshots_are_deleted_on_a_full_disk(self):
        d = self.up_on_tmpfs("48m")
        r = self.connect(d)
        volume = r.create_hosted("disk", 4 * MIB)
        snapshots = []
        for i in range(10):
            snapshots.append(r.create_snapshot(volume, f"s{i}"))
            r.write(volume, 0, os.urandom(256 * KIB))
        content = r.read(volume, 0, 256 * KIB, snapshots[9])
        self.full_disk(d)
        for snapshot in snapshots[:9]:
            r.delete_snapshot(volume, snapshot)
        self.assertEqual(list(r.snapshots(volume)), ["s9"])
        end = time.monotonic() + 30
        while len(glob.glob(f"{d.state}/volumes/*/*.cow")) > 1 and time.monotonic() < end:
            time.sleep(0.05)
        self.assertEqual(len(glob.glob(f"{d.state}/volumes/*/*.cow")), 1)
        d.kill()
        d.start()
        r = self.connect(d)
        self.assertEqual(list(r.snapshots(volume)), ["s9"])
        self.assertEqual(get(r.snapshots(volume)["s9"], 5), 0)
        self.assertEqual(r.read(volume, 0, 256 * KIB, snapshots[9]), content)
