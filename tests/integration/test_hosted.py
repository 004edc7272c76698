# SPDX-License-Identifier: Apache-2.0
"""Hosted volumes through a second client: the document against the daemon."""

import os
import re
import threading
import time
import urllib.request

import rawclient as rc
from hosted import CHUNK, KIB, MIB, SIZE, HostedCase
from rawclient import Refused, connect_tls, num, raw, tls_context


class Life(HostedCase):
    """A volume's life."""

    def test_reads_and_writes_of_any_place_and_length(self):
        volume, model = self.hosted()
        self.assert_holds(volume, model)  # zeros
        self.write(volume, model, 0, b"begin")
        self.write(volume, model, SIZE - 3, b"end")
        self.write(volume, model, CHUNK - 1, b"xy")
        self.write(volume, model, 3 * CHUNK, self.rng.randbytes(5 * CHUNK), fua=True)
        self.write_at_random(volume, model, 30)
        self.assert_holds(volume, model)
        self.assertEqual(self.r.read(volume, CHUNK - 1, 2), bytes(model.now[CHUNK - 1:CHUNK + 1]))
        for _ in range(20):
            at = self.rng.randrange(SIZE)
            length = self.rng.randrange(1, min(SIZE - at, 70000) + 1)
            self.assertEqual(self.r.read(volume, at, length), bytes(model.now[at:at + length]))

    def test_a_size_that_ends_inside_a_chunk_and_large_chunks(self):
        for sectors, size in ((8, 5 * CHUNK + 512), (128, 100 * KIB + 512), (32, 512)):
            volume, model = self.hosted(f"v{sectors}", size, chunk_sectors=sectors)
            self.write_at_random(volume, model, 5)
            self.snapshot(volume, model, "s")
            self.write_at_random(volume, model, 10)
            self.write(volume, model, size - 1, b"!")
            self.assert_holds(volume, model)
            self.refused(rc.EINVAL, self.r.write, volume, size - 1, b"ab")
            self.refused(rc.EINVAL, self.r.read, volume, size - 1, 2)

    def test_zeroes_discards_and_extents(self):
        volume, model = self.hosted()
        self.assertEqual(self.r.extents(volume, 0, SIZE), [(0, SIZE, 2)])
        self.write(volume, model, 16 * CHUNK, self.rng.randbytes(64 * CHUNK))
        snapshot = self.snapshot(volume, model, "s")
        self.r.zero(volume, 20 * CHUNK + 5, 3 * CHUNK)
        model.write(20 * CHUNK + 5, bytes(3 * CHUNK))
        self.r.zero(volume, 32 * CHUNK, 16 * CHUNK, discard=True)
        model.write(32 * CHUNK, bytes(16 * CHUNK))
        self.r.zero(volume, 60 * CHUNK, 1, fua=True)
        model.write(60 * CHUNK, bytes(1))
        self.assert_holds(volume, model)
        for node in (b"", snapshot):
            content = model.nodes[node] if node else model.now
            for most in (0, 1):
                for at, length, kind in self.r.extents(volume, 0, SIZE, node, most):
                    if kind == 2:
                        self.assertEqual(content[at:at + length], bytes(length), (at, length))
            covered = sum(n for _, n, k in self.r.extents(volume, 0, SIZE, node) if k == 0)
            self.assertLess(covered, SIZE // 2)  # it is told apart at all
            self.assertGreaterEqual(covered, sum(1 for b in content if b))

    def test_every_snapshot_keeps_its_content(self):
        volume, model = self.hosted()
        for i in range(12):
            self.write_at_random(volume, model, 12)
            self.snapshot(volume, model, f"s{i}")
        self.write_at_random(volume, model, 30)
        self.assert_holds(volume, model)
        shown = self.r.snapshots(volume)
        self.assertEqual([rc.get(shown[f"s{i}"], 18) for i in range(12)], [0] * 11 + [1])
        seqs = [rc.get(shown[f"s{i}"], 22) for i in range(12)]
        self.assertEqual(seqs, sorted(set(seqs)))
        self.kill_and_restart()
        self.assert_holds(volume, model)
        for name in ("s11", "s0", "s5", "s6"):  # any member of the chain
            uuid = rc.get(shown[name], 1)
            self.r.delete_snapshot(volume, uuid)
            del model.nodes[uuid]
            self.write_at_random(volume, model, 5)
            self.assert_holds(volume, model)
        self.settle_jobs(volume)
        self.assert_holds(volume, model)

    def settle_jobs(self, volume, timeout=60):
        end = time.monotonic() + timeout
        going = (b"running", b"waiting", b"cancelling")
        while any(rc.get(j, 7, b"") in going for j in self.r.jobs(volume)):
            self.assertLess(time.monotonic(), end, self.r.jobs(volume))
            time.sleep(0.02)

    def test_what_was_flushed_or_forced_outlives_a_kill(self):
        volume, model = self.hosted()
        self.write_at_random(volume, model, 10)
        self.snapshot(volume, model, "s")
        self.write_at_random(volume, model, 10)
        self.r.flush(volume)
        self.write(volume, model, 100, b"forced", fua=True)
        before = self.r.server
        self.kill_and_restart()
        self.assert_holds(volume, model)
        self.assertNotEqual(rc.get(before, 9), rc.get(self.r.server, 9))  # another process
        self.assertEqual(rc.get(before, 10), rc.get(self.r.server, 10))  # on the same machine
        self.assertEqual(len(rc.get(before, 10)), 16)

    def test_creating_is_repeatable_and_kept(self):
        uuid = os.urandom(16)
        for _ in range(2):
            self.assertEqual(self.r.create_hosted("v", SIZE, uuid=uuid), uuid)
        self.refused(rc.EEXIST, self.r.create_hosted, "v", SIZE, 16, uuid=uuid)
        self.refused(rc.EEXIST, self.r.create_hosted, "v", SIZE)
        message, _ = self.r.call(rc.M_VOLUME_SHOW, raw(1, uuid))
        self.assertEqual((rc.get(message, 4), rc.get(message, 12)), (1, 8))
        message, _ = self.r.call(rc.M_RESOLVE, raw(1, "v"))
        self.assertEqual(rc.get(message, 5), 1)
        self.kill_and_restart()
        self.r.write(uuid, 0, b"there")
        self.r.call(rc.M_VOLUME_DELETE, raw(1, uuid) + raw(3, os.urandom(16)))
        self.refused(rc.ENOENT, self.r.read, uuid, 0, 5)
        self.assertEqual(os.listdir(os.path.join(self.d.state, "volumes")), [])

    def test_the_default_chunk_size_is_the_daemons(self):
        volume = self.r.create_hosted("v", SIZE, 0)
        message, _ = self.r.call(rc.M_VOLUME_SHOW, raw(1, volume))
        self.assertEqual(rc.get(message, 12), 32)

    def test_a_file_as_bound_device(self):
        path = self.path("device")
        with open(path, "wb") as f:
            f.truncate(SIZE + 5000)
        self.refused(rc.EINVAL, self.r.create_hosted, "small", 2 * SIZE, device=path)
        self.refused(rc.EINVAL, self.r.create_hosted, "ours", SIZE,
                     device=os.path.join(self.d.state, "registry.db"))
        self.refused(rc.EINVAL, self.r.create_hosted, "relative", SIZE, device="device")
        with self.assertRaises(Refused):
            self.r.create_hosted("missing", SIZE, device=self.path("missing"))
        volume = self.r.create_hosted("v", SIZE, device=path)
        self.refused(rc.EBUSY, self.r.create_hosted, "again", SIZE, device=path)
        self.r.write(volume, 10, b"on the device", fua=True)
        with open(path, "rb") as f:
            self.assertEqual(f.read(23)[10:], b"on the device")
        self.r.call(rc.M_VOLUME_DELETE, raw(1, volume) + raw(3, os.urandom(16)))
        self.assertTrue(os.path.exists(path))  # never ours to remove


class Clones(HostedCase):
    def test_a_clone_is_written_apart_from_all_others(self):
        volume, model = self.hosted()
        self.write_at_random(volume, model, 20)
        s = self.snapshot(volume, model, "s")
        c = self.clone(volume, model, s, "c")
        cc = self.clone(volume, model, c, "cc")
        for _ in range(6):
            for node in (b"", c, cc):
                self.write_at_random(volume, model, 5, node)
        deep = self.clone(volume, model, c, "deep")  # what c holds now
        self.write_at_random(volume, model, 10, c)
        self.r.zero(volume, 5000, 30000, deep)
        model.write(5000, bytes(30000), deep)
        self.assert_holds(volume, model)
        shown = self.r.snapshots(volume)
        self.assertEqual({n: rc.get(m, 21, b"").decode() for n, m in shown.items()},
                         {"s": "", "c": "s", "cc": "c", "deep": "c"})
        self.assertEqual([rc.get(shown[n], 20) for n in ("s", "c", "cc")], [0, 1, 1])
        for node in (b"", c, cc, deep):
            self.r.flush(volume, node)
        self.kill_and_restart()
        self.assert_holds(volume, model)
        self.write_at_random(volume, model, 10, deep)
        self.assert_holds(volume, model)

    def test_again_with_the_same_uuid_is_the_same_clone(self):
        volume, model = self.hosted()
        s = self.snapshot(volume, model, "s")
        uuid = os.urandom(16)
        for _ in range(2):
            self.r.create_clone(volume, s, "c", uuid)
        self.assertEqual(len(self.r.snapshots(volume)), 2)
        self.refused(rc.EEXIST, self.r.create_clone, volume, s, "c")

    def test_what_cannot_be_cloned_or_written_is_refused(self):
        volume, model = self.hosted()
        s = self.snapshot(volume, model, "s")
        self.refused(rc.EPERM, self.r.write, volume, 0, b"x", s)
        self.refused(rc.EPERM, self.r.zero, volume, 0, 1, s)
        self.refused(rc.ENOENT, self.r.create_clone, volume, os.urandom(16), "c")
        self.refused(rc.EINVAL, self.r.create_clone, volume, s, "a/b")
        self.refused(rc.ENOENT, self.r.write, volume, 0, b"x", os.urandom(16))
        self.refused(rc.ENOENT, self.r.read, volume, 0, 1, os.urandom(16))
        self.assert_holds(volume, model)


class Differences(HostedCase):
    def test_between_any_two_states(self):
        volume, model = self.hosted()
        states, changed = [], []
        for i in range(6):
            states.append(self.snapshot(volume, model, f"s{i}"))
            chunks = set(self.rng.sample(range(SIZE // CHUNK), 20))
            for chunk in chunks:
                self.write(volume, model, chunk * CHUNK + 7, b"x%d" % i)
            changed.append(chunks)
        for i in range(6):
            for k in range(i, 7):
                want = set().union(*changed[i:k])
                newer = states[k] if k < 6 else b""
                for most in (0, 1, 3):
                    self.assertEqual(self.r.diff(volume, states[i], newer, most), want, (i, k))
        self.refused(rc.EINVAL, self.r.diff, volume, states[3], states[2])
        self.r.delete_snapshot(volume, states[2])
        self.assertEqual(self.r.diff(volume, states[1], states[3]), changed[1] | changed[2])
        self.refused(rc.ENOENT, self.r.diff, volume, states[2])
        clone = self.r.create_clone(volume, states[1], "c")
        self.refused(rc.ENOTSUP, self.r.diff, volume, clone)
        self.refused(rc.ENOTSUP, self.r.diff, volume, states[1], clone)


class Rollbacks(HostedCase):
    def chain(self, count=4, size=SIZE):
        volume, model = self.hosted(size=size)
        nodes = []
        for i in range(count):
            self.write_at_random(volume, model, 25)
            nodes.append(self.snapshot(volume, model, f"s{i}"))
        self.write_at_random(volume, model, 25)
        return volume, model, nodes

    def test_returns_to_a_snapshot_and_keeps_all(self):
        volume, model, nodes = self.chain()
        job = self.r.rollback(volume, nodes[1])
        self.assertEqual(self.r.rollback(volume, nodes[1], job), job)  # the same job
        model.now[:] = model.nodes[nodes[1]]
        self.assert_holds(volume, model)  # at once
        self.assertEqual(self.r.wait_job(volume, job), "done")
        self.assert_holds(volume, model)
        self.write_at_random(volume, model, 10)
        self.assert_holds(volume, model)
        self.assertEqual(set(self.r.snapshots(volume)), {"s0", "s1", "s2", "s3"})
        self.assertEqual(rc.get(self.r.job(volume, job), 2, b""), b"rollback")
        self.kill_and_restart()
        self.assert_holds(volume, model)

    def test_merge_consumes_its_snapshot_and_drop_newer_the_newer(self):
        volume, model, nodes = self.chain()
        job = self.r.rollback(volume, nodes[2], merge=True)
        self.assertEqual(self.r.wait_job(volume, job), "done")
        model.now[:] = model.nodes.pop(nodes[2])
        self.assert_holds(volume, model)
        self.assertEqual(set(self.r.snapshots(volume)), {"s0", "s1", "s3"})
        job = self.r.rollback(volume, nodes[0], drop_newer=True)
        self.assertEqual(self.r.wait_job(volume, job), "done")
        model.now[:] = model.nodes[nodes[0]]
        del model.nodes[nodes[1]], model.nodes[nodes[3]]
        self.assert_holds(volume, model)
        self.assertEqual(set(self.r.snapshots(volume)), {"s0"})

    def test_cancelled_goes_back_to_where_it_began(self):
        volume, model, nodes = self.chain(size=8 * MIB)
        job = self.r.rollback(volume, nodes[0])
        try:
            self.r.call(rc.M_JOB_CANCEL, raw(1, volume) + raw(2, job))
        except Refused as why:  # it was quicker
            self.assertEqual(why.code, rc.EBUSY)
        state = self.r.wait_job(volume, job)
        if state == "done":
            model.now[:] = model.nodes[nodes[0]]
        else:
            self.assertEqual(state, "cancelled")
        self.assert_holds(volume, model)
        self.r.wait_writable(volume, 0, b"w")

    def test_killed_at_any_point_it_goes_on(self):
        volume, model, nodes = self.chain(size=4 * MIB)
        for turn in range(4):
            to = self.rng.choice(nodes)
            self.r.rollback(volume, to)
            time.sleep(self.rng.random() * 0.05)
            self.kill_and_restart()
            model.now[:] = model.nodes[to]
            self.assert_holds(volume, model)
            self.r.wait_writable(volume, 0, b"turn %d" % turn)
            model.write(0, b"turn %d" % turn)
            self.write_at_random(volume, model, 10)
            self.assert_holds(volume, model)

    def test_refusals(self):
        volume, model, nodes = self.chain(1)
        clone = self.clone(volume, model, nodes[0], "c")
        self.refused(rc.ENOENT, self.r.rollback, volume, os.urandom(16))
        self.refused(rc.ENOTSUP, self.r.rollback, volume, clone)
        self.refused(rc.EINVAL, self.r.rollback, volume, nodes[0], bytes(16))
        self.refused(rc.ENOENT, self.r.job, volume, os.urandom(16))
        self.refused(rc.ENOENT, self.r.call, rc.M_JOB_CANCEL, raw(1, volume) +
                     raw(2, os.urandom(16)))
        self.assert_holds(volume, model)


class Groups(HostedCase):
    def volumes(self, count=3):
        made = [self.r.create_hosted(f"v{i}", SIZE) for i in range(count)]
        return made

    def test_all_members_are_of_one_moment(self):
        """A writer writes the same number to one volume after another: whatever moment the
        snapshots are of, a later volume never has a larger number than an earlier one."""
        volumes = self.volumes()
        writer = self.connect(instance=os.urandom(16))
        stop = threading.Event()

        def write():
            n = 0
            while not stop.is_set():
                n += 1
                for volume in volumes:
                    writer.write(volume, 0, n.to_bytes(8, "big"))

        thread = threading.Thread(target=write)
        thread.start()
        groups = []
        try:
            for i in range(8):
                members = [(v, os.urandom(16), f"g{i}") for v in self.rng.sample(volumes, 3)]
                answers = self.r.create_group(members)
                self.assertEqual([rc.get(a, 1) for a in answers], [m[1] for m in members])
                groups.append({m[0]: m[1] for m in members})
                time.sleep(0.02)
        finally:
            stop.set()
            thread.join()
        last = 0
        for group in groups:
            seen = [int.from_bytes(self.r.read(v, 0, 8, group[v]), "big") for v in volumes]
            self.assertIn((seen[0] - seen[1], seen[1] - seen[2]), ((0, 0), (1, 0), (0, 1)), seen)
            self.assertGreaterEqual(seen[0], last)
            last = seen[0]
        self.assertGreater(last, 0)

    def test_none_is_made_when_one_cannot_be(self):
        volumes = self.volumes()
        self.r.create_snapshot(volumes[2], "taken", 0)
        ids = [os.urandom(16) for _ in volumes]
        members = [(v, i, "taken") for v, i in zip(volumes, ids)]
        for _ in range(2):
            self.refused(rc.EEXIST, self.r.create_group, members)
        self.assertEqual([list(self.r.snapshots(v)) for v in volumes], [[], [], ["taken"]])
        members[2] = (os.urandom(16), ids[2], "taken")
        self.refused(rc.ENOENT, self.r.create_group, members)
        self.assertEqual(list(self.r.snapshots(volumes[0])), [])
        for v in volumes:  # no gate is left closed
            self.r.write(v, 0, b"open")

    def test_again_with_the_same_uuid_is_the_same_group(self):
        volumes = self.volumes()
        group = os.urandom(16)
        members = [(v, os.urandom(16), "s") for v in volumes]
        for _ in range(2):
            self.assertEqual(len(self.r.create_group(members, group)), 3)
        self.kill_and_restart()
        self.assertEqual([list(self.r.snapshots(v)) for v in volumes], [["s"]] * 3)
        self.assertEqual(len(self.r.create_group(members, group)), 3)
        self.assertEqual([list(self.r.snapshots(v)) for v in volumes], [["s"]] * 3)
        self.refused(rc.EEXIST, self.r.create_group, members, os.urandom(16))

    def test_bad_members_are_refused(self):
        volumes = self.volumes(2)
        good = [(v, os.urandom(16), "s") for v in volumes]
        self.refused(rc.EINVAL, self.r.create_group, [])
        self.refused(rc.EINVAL, self.r.create_group, [good[0], (volumes[0], os.urandom(16), "t")])
        self.refused(rc.EINVAL, self.r.create_group, [good[0], (b"short", os.urandom(16), "s")])
        self.refused(rc.EINVAL, self.r.create_group, [good[0], (volumes[1], b"short", "s")])
        self.refused(rc.EINVAL, self.r.create_group, [good[0], (volumes[1], os.urandom(16), "a/")])
        self.refused(rc.EINVAL, self.r.create_group, good, bytes(16))
        self.refused(rc.EINVAL, self.r.create_group,
                     [(os.urandom(16), os.urandom(16), "s") for _ in range(257)])
        self.assertEqual([list(self.r.snapshots(v)) for v in volumes], [[], []])

    def test_two_groups_over_the_same_volumes_do_not_wait_for_each_other(self):
        volumes = self.volumes(4)
        raws = [self.connect() for _ in range(3)]
        errors = []

        def make(r, who):
            try:
                for i in range(6):
                    mine = list(volumes)
                    self.rng.shuffle(mine)
                    r.create_group([(v, os.urandom(16), f"{who}-{i}") for v in mine])
            except Exception as why:  # pylint: disable=broad-except
                errors.append(why)

        threads = [threading.Thread(target=make, args=(r, f"t{i}")) for i, r in enumerate(raws)]
        begin = time.monotonic()
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        self.assertEqual(errors, [])
        self.assertLess(time.monotonic() - begin, 60)
        for v in volumes:
            self.assertEqual(len(self.r.snapshots(v)), 18)

    def test_a_writer_that_does_not_stand_still_spoils_it_within_the_time_limit(self):
        hosted = self.volumes(2)
        remote = self.r.create_volume("remote", SIZE)
        self.r.create_snapshot(remote, "first")
        writer = self.connect()
        epoch, _ = writer.acquire(remote, SIZE, b"w" * 16)
        members = [(v, os.urandom(16), "g") for v in [*hosted, remote]]
        ident = self.r.ask(rc.M_GROUP_CREATE, raw(1, os.urandom(16)) + b"".join(
            raw(2, raw(1, v) + raw(2, s) + raw(3, n)) for v, s, n in members))
        begin = time.monotonic()
        other = self.connect()
        lease = raw(1, remote) + num(2, epoch)
        late = []

        def write():
            other.write(hosted[0], 0, b"x")
            other.write(hosted[1], 0, b"x")
            late.append(time.monotonic() - begin)

        thread = threading.Thread(target=write)
        thread.start()
        while ident not in self.r.answers and time.monotonic() < begin + 60:
            writer.call(rc.M_LEASE_RENEW, lease)  # alive, and deaf
            time.sleep(0.3)
            self.r.ask(rc.M_PING)
            self.r.step()
        thread.join()
        self.refused(rc.ETIMEDOUT, self.r.answer, ident)
        self.assertLess(late[0], 15)
        self.assertEqual([list(self.r.snapshots(v)) for v, _, _ in members], [[], [], ["first"]])

    def test_killed_at_any_point_it_is_whole_or_not_there(self):
        volumes = self.volumes()
        made = 0
        for turn in range(8):
            members = [(v, os.urandom(16), f"k{turn}") for v in volumes]
            control = raw(1, os.urandom(16)) + b"".join(
                raw(2, raw(1, v) + raw(2, s) + raw(3, n)) for v, s, n in members)
            ident = self.r.ask(rc.M_GROUP_CREATE, control)
            time.sleep(self.rng.random() * 0.04)
            self.d.kill()
            answered = self.drain()
            self.d.start()
            self.r = self.connect()
            there = [f"k{turn}" in self.r.snapshots(v) for v in volumes]
            self.assertIn(sum(there), (3,) if ident in answered else (0, 3), f"{turn}: {there}")
            made += there[0]
            for v in volumes:
                self.r.write(v, 0, b"turn %d" % turn)
        print(f"          groups that were whole: {made} of 8", flush=True)


class Rights(HostedCase):
    tls = True

    def identity(self, name):
        r = connect_tls(self.d.port, tls_context(self.pki(), name))
        self.raws.append(r)
        return r

    def test_what_each_role_may(self):
        volume, model = self.hosted()
        self.write(volume, model, 0, b"content")
        s = self.snapshot(volume, model, "s")
        self.r.create_clone(volume, s, "c")
        job = os.urandom(16)
        asked = {
            "read": lambda r: r.read(volume, 0, 7),
            "read-snapshot": lambda r: r.read(volume, 0, 7, s),
            "extents": lambda r: r.extents(volume, 0, CHUNK),
            "diff": lambda r: r.diff(volume, s),
            "write": lambda r: r.write(volume, 0, b"content"),
            "zero": lambda r: r.zero(volume, CHUNK, 1),
            "flush": lambda r: r.flush(volume),
            "clone": lambda r: r.create_clone(volume, s, "c" + os.urandom(4).hex()),
            "rollback": lambda r: r.rollback(volume, s, job),
            "cancel": lambda r: r.call(rc.M_JOB_CANCEL, raw(1, volume) + raw(2, job)),
            "jobs": lambda r: r.jobs(volume),
            "group": lambda r: r.create_group([(volume, os.urandom(16),
                                                "g" + os.urandom(4).hex())]),
            "create": lambda r: r.create_hosted("w" + os.urandom(4).hex(), SIZE),
        }
        reads = {"read", "read-snapshot", "extents", "diff", "jobs"}
        writes = reads | {"write", "zero", "flush", "clone", "rollback", "cancel", "group"}
        may = {1: {"group", "jobs"}, 2: reads, 3: writes}
        for role, allowed in may.items():
            grant = raw(1, "bob") + num(2, role) + raw(3, volume)
            self.r.call(rc.M_GRANT, grant)
            bob = self.identity("bob")
            for what, ask in asked.items():
                try:
                    ask(bob)
                    outcome = 0
                except Refused as why:
                    outcome = why.code
                if what in allowed:
                    self.assertNotEqual(outcome, rc.EPERM, (role, what))
                else:
                    self.assertEqual(outcome, rc.EPERM, (role, what))
                if what in ("rollback", "cancel") and role == 3:
                    self.r.wait_writable(volume, 0, b"content")
            self.r.call(rc.M_REVOKE, grant)
        outsider = self.identity("bob")
        for what, ask in asked.items():
            if what == "jobs":
                self.assertEqual(ask(outsider), [])
            else:
                self.refused(rc.EPERM, ask, outsider)
        mine, other = self.r.create_hosted("mine", SIZE), volume
        self.r.call(rc.M_GRANT, raw(1, "bob") + num(2, 3) + raw(3, mine))
        self.refused(rc.EPERM, outsider.create_group, [(mine, os.urandom(16), "x"),
                                                       (other, os.urandom(16), "x")])
        self.assertNotIn("x", self.r.snapshots(mine))

    def test_a_device_is_the_operators_to_name(self):
        path = self.path("device")
        with open(path, "wb") as f:
            f.truncate(SIZE)
        self.r.call(rc.M_GRANT, raw(1, "bob") + num(2, 3))
        self.refused(rc.EPERM, self.identity("bob").create_hosted, "v", SIZE, device=path)
        self.identity("ann").create_hosted("v", SIZE, device=path)


class BadInput(HostedCase):
    def test_every_field_wrong_once(self):
        volume, model = self.hosted()
        self.write_at_random(volume, model, 10)
        s = self.snapshot(volume, model, "s")
        remote = self.r.create_volume("remote", SIZE)
        w, u = self.r.write_control, os.urandom(16)
        far = 1 << 60
        call = self.r.call
        cases = [
            (rc.EINVAL, rc.M_WRITE, w(b"short", 0), b"x"),
            (rc.ENOENT, rc.M_WRITE, w(u, 0), b"x"),
            (rc.EINVAL, rc.M_WRITE, w(volume, 0, b"short"), b"x"),
            (rc.EINVAL, rc.M_WRITE, w(volume, 0), b""),
            (rc.EINVAL, rc.M_WRITE, w(volume, SIZE), b"x"),
            (rc.EINVAL, rc.M_WRITE, w(volume, SIZE - 1), b"xx"),
            (rc.EINVAL, rc.M_WRITE, w(volume, far), b"x"),
            (rc.EINVAL, rc.M_WRITE, w(volume, (1 << 64) - 1), b"xx"),
            (rc.ENOTSUP, rc.M_WRITE, w(remote, 0), b"x"),
            (rc.EPROTO, rc.M_WRITE, b"\xff\xff\xff", b"x"),
            (rc.EINVAL, rc.M_ZERO, raw(1, volume) + num(3, 0) + num(4, 0), b""),
            (rc.EINVAL, rc.M_ZERO, raw(1, volume) + num(3, SIZE) + num(4, 1), b""),
            (rc.EINVAL, rc.M_ZERO, raw(1, volume) + num(3, 1) + num(4, SIZE), b""),
            (rc.EINVAL, rc.M_ZERO, raw(1, volume) + num(4, (4 << 30) + 1), b""),
            (rc.EINVAL, rc.M_ZERO, raw(1, volume) + num(3, (1 << 64) - 1) + num(4, 2), b""),
            (rc.EINVAL, rc.M_ZERO, raw(1, volume) + raw(2, b"s") + num(4, 1), b""),
            (rc.ENOTSUP, rc.M_ZERO, raw(1, remote) + num(4, 1), b""),
            (rc.EPROTO, rc.M_ZERO, raw(1, volume) + num(4, 1), b"payload"),
            (rc.ENOENT, rc.M_FLUSH, raw(1, volume) + raw(2, u), b""),
            (rc.ENOTSUP, rc.M_FLUSH, raw(1, remote), b""),
            (rc.EINVAL, rc.M_SNAPSHOT_READ, raw(1, volume) + num(3, 0) + num(4, 0), b""),
            (rc.EINVAL, rc.M_SNAPSHOT_READ, raw(1, volume) + num(3, SIZE) + num(4, 1), b""),
            (rc.EINVAL, rc.M_SNAPSHOT_READ, raw(1, volume) + num(3, far) + num(4, 1), b""),
            (rc.EINVAL, rc.M_SNAPSHOT_READ, raw(1, remote) + num(4, 512), b""),
            (rc.EINVAL, rc.M_EXTENT_LIST, raw(1, volume) + num(3, SIZE) + num(4, 1), b""),
            (rc.EINVAL, rc.M_EXTENT_LIST, raw(1, volume) + num(3, 0) + num(4, 0), b""),
            (rc.EINVAL, rc.M_EXTENT_LIST, raw(1, volume) + num(3, 1) + num(4, far), b""),
            (rc.ENOENT, rc.M_EXTENT_LIST, raw(1, volume) + raw(2, u) + num(4, 1), b""),
            (rc.ENOTSUP, rc.M_EXTENT_LIST, raw(1, remote) + num(4, 1), b""),
            (rc.EINVAL, rc.M_DIFF, raw(1, volume), b""),
            (rc.EINVAL, rc.M_DIFF, raw(1, volume) + raw(2, s) + raw(3, b"short"), b""),
            (rc.ENOENT, rc.M_DIFF, raw(1, volume) + raw(2, u), b""),
            (rc.EINVAL, rc.M_CLONE_CREATE, raw(1, volume) + raw(2, s) + raw(3, b"") + raw(4, "c"),
             b""),
            (rc.EINVAL, rc.M_CLONE_CREATE, raw(1, volume) + raw(2, s) + raw(3, u), b""),
            (rc.ENOTSUP, rc.M_CLONE_CREATE, raw(1, remote) + raw(2, s) + raw(3, u) + raw(4, "c"),
             b""),
            (rc.EINVAL, rc.M_ROLLBACK, raw(1, volume) + raw(2, s), b""),
            (rc.EINVAL, rc.M_ROLLBACK, raw(1, volume) + raw(3, u), b""),
            (rc.ENOTSUP, rc.M_ROLLBACK, raw(1, remote) + raw(2, s) + raw(3, u), b""),
            (rc.EINVAL, rc.M_JOB_SHOW, raw(1, volume) + raw(2, b"short"), b""),
            (rc.ENOTSUP, rc.M_LEASE_ACQUIRE, raw(1, volume) + raw(2, u) + num(4, SIZE), b""),
            (rc.ENOTSUP, rc.M_COW_PUT, self.r.put_control(volume, 1, s, [0]), bytes(CHUNK)),
            (rc.ENOTSUP, rc.M_MERGE_BEGIN, raw(1, volume) + raw(2, s) + num(3, 1), b""),
        ]
        for code, method, control, payload in cases:
            with self.subTest(method=method, code=code, control=control.hex()):
                self.refused(code, call, method, control, payload)
        creates = [
            (rc.EINVAL, num(3, SIZE) + num(4, 1) + num(7, 3)),
            (rc.EINVAL, num(3, SIZE) + num(4, 1) + num(7, 65536)),
            (rc.EINVAL, num(3, 0) + num(4, 1)),
            (rc.EINVAL, num(3, 513) + num(4, 1)),
            (rc.EINVAL, num(3, (1 << 60) + 512) + num(4, 1)),
            (rc.ENOTSUP, num(3, SIZE) + num(4, 2)),
            (rc.EINVAL, num(3, SIZE) + num(7, 8)),
            (rc.EINVAL, num(3, SIZE) + raw(8, "/dev/null")),
        ]
        for code, rest in creates:
            with self.subTest(create=rest.hex()):
                self.refused(code, call, rc.M_VOLUME_CREATE,
                             raw(1, os.urandom(16)) + raw(2, "new") + rest)
        self.assert_holds(volume, model)
        self.assertEqual(len(os.listdir(os.path.join(self.d.state, "volumes"))), 2)

    def test_a_write_left_behind_by_an_older_connection_is_refused(self):
        volume, model = self.hosted()
        mine = os.urandom(16)
        older, newer = self.connect(instance=mine), self.connect(instance=mine)
        older.write(volume, 0, b"one")
        newer.write(volume, 0, b"two")
        self.refused(rc.ESTALE, older.write, volume, 0, b"one")
        self.refused(rc.ESTALE, older.zero, volume, 0, 3)
        model.write(0, b"two")
        self.assert_holds(volume, model)
        self.connect(instance=os.urandom(16)).write(volume, 0, b"two")  # somebody else

    def test_it_is_refused_when_others_with_like_instances_have_written_meanwhile(self):
        def bits(instance):  # of uuid_hash()
            h = 0
            for at, factor in ((0, 0x9e3779b97f4a7c15), (8, 0xd6e8feb86659fd93)):
                h ^= int.from_bytes(instance[at:at + 8], "little")
                h = (h ^ h >> 32) * factor % (1 << 64)
                h ^= h >> 32
            return h % 4096

        volume, model = self.hosted()
        mine = os.urandom(16)
        older, newer = self.connect(instance=mine), self.connect(instance=mine)
        older.write(volume, 0, b"one")
        newer.write(volume, 0, b"two")
        for _ in range(3):
            like = next(i for i in iter(lambda: os.urandom(16), b"") if bits(i) == bits(mine))
            self.connect(instance=like).write(volume, 5, b"else")
        self.refused(rc.ESTALE, older.write, volume, 0, b"one")
        model.write(0, b"two\0\0else")
        self.assert_holds(volume, model)


class Glance(HostedCase):
    """What operators see."""

    config = 'metrics_listen = "127.0.0.1:0"\n'

    def metrics(self):
        port = re.search(r'metrics[^\n]*127\.0\.0\.1:(\d+)', self.d.log()).group(1)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
            lines = answer.read().decode().splitlines()
        return {k: float(v) for k, v in (x.rsplit(" ", 1) for x in lines if x[0] != "#")}

    def test_metrics_count_hosted_traffic(self):
        volume, model = self.hosted()
        s = self.snapshot(volume, model, "s")
        self.clone(volume, model, s, "c")
        self.write(volume, model, 0, b"12345")
        self.write(volume, model, 9, b"123")
        self.r.read(volume, 0, 6)
        self.r.flush(volume)
        self.r.zero(volume, 0, 1)
        with self.assertRaises(Refused):
            self.r.write(volume, SIZE, b"outside")
        seen = self.metrics()
        for name, want in (("reads", 1), ("read_bytes", 6), ("writes", 2), ("write_bytes", 8),
                           ("zeroes", 1), ("flushes", 1)):
            self.assertEqual(seen[f"snapwire_hosted_{name}_total"], want, name)
        self.assertEqual(seen['snapwire_snapshots{state="ok"}'], 2)
        self.assertEqual(seen["snapwire_jobs"], 0)
        self.assertEqual(seen['snapwire_request_seconds_count{kind="write"}'], 3)
        self.assertIn('snapwire_cow_exceptions{volume="v",snapshot="c"}', seen)

    def test_jobs_come_in_pages(self):
        want = set()
        for i in range(7):
            volume, model = self.hosted(f"v{i}")
            s = self.snapshot(volume, model, "s")
            self.write(volume, model, 0, b"x")
            for _ in range(2):
                job = self.r.rollback(volume, s)
                self.r.wait_job(volume, job)
                want.add(job)
        for most in (1, 3, 100):
            got = [rc.get(j, 1) for j in self.r.pages(rc.M_JOB_LIST, page=most)]
            self.assertEqual(len(got), len(set(got)))
            self.assertLessEqual(want, set(got))
        whole, _ = self.r.call(rc.M_JOB_LIST)
        self.assertEqual({rc.get(rc.fields(j), 1) for j in whole[1]}, set(got))
