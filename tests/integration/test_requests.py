# SPDX-License-Identifier: Apache-2.0
"""Requests that are under way together: limits that they count towards, uuids that they share."""

import os
import subprocess

import rawclient as rc
from harness import Case, program, until
from rawclient import M_GROUP_CREATE, M_VOLUME_CREATE, Refused, connect_unix, num, raw

MIB = 1 << 20
SHARDS = "shards = 2\n"


class Requests(Case):
    def connect(self, d):
        r = connect_unix(d.socket)
        self.addCleanup(r.close)
        return r

    @staticmethod
    def outcomes(asked):
        """Of (connection, request): the refusals' codes, 0 for success."""
        codes = []
        for r, ident in asked:
            try:
                r.answer(ident)
                codes.append(0)
            except Refused as why:
                codes.append(why.code)
        return codes


class VolumesPerClient(Requests):
    LIMIT = 5

    def setUp(self):
        super().setUp()
        self.d = self.up(tls=False,
                         config=SHARDS + f"limits {{ volumes_per_client = {self.LIMIT} }}\n")

    @staticmethod
    def hosted(uuid, name, device=""):
        return (raw(1, uuid) + raw(2, name) + num(3, MIB) + num(4, 1) +
                (raw(8, device) if device else b""))

    def create_many(self, prefix, device="", count=40):
        """So many at once; the codes."""
        raws = [self.connect(self.d) for _ in range(4)]
        return self.outcomes(
            [(raws[i % 4], raws[i % 4].ask(M_VOLUME_CREATE,
                                           self.hosted(os.urandom(16), f"{prefix}{i}", device)))
             for i in range(count)])

    def volumes(self):
        found = self.connect(self.d).pages(rc.M_VOLUME_LIST)
        return sorted(rc.get(v, 2, b"").decode() for v in found)

    def test_many_at_once_pass_it_no_further_than_to_it(self):
        codes = self.create_many("a")
        self.assertEqual(codes.count(0), self.LIMIT, codes)
        self.assertEqual(codes.count(rc.ELIMIT), len(codes) - self.LIMIT, codes)
        self.assertEqual(len(self.volumes()), self.LIMIT)

    def test_what_failed_and_what_was_deleted_counts_no_more(self):
        codes = self.create_many("none", device=self.path("not-there"))
        self.assertNotIn(0, codes)
        self.assertNotIn(rc.ELIMIT, codes)
        self.create_many("a")
        for prefix in ("b", "c"):
            for name in self.volumes()[:2]:
                self.remote("delete", name)
            codes = self.create_many(prefix)
            self.assertEqual(codes.count(0), 2, codes)

    def test_it_is_counted_again_by_the_next_start(self):
        self.create_many("a")
        self.remote("delete", self.volumes()[0])
        self.d.kill()
        self.d.start()
        codes = self.create_many("b")
        self.assertEqual(codes.count(0), 1, codes)

    def test_the_same_volume_asked_for_again_is_no_second_one(self):
        uuid = os.urandom(16)
        raws = [self.connect(self.d) for _ in range(4)]
        for i in range(self.LIMIT - 1):
            raws[0].create_hosted(f"v{i}", MIB)
        for _ in range(2):  # while it is made, and when it is there
            asked = [(r, r.ask(M_VOLUME_CREATE, self.hosted(uuid, "last"))) for r in raws * 3]
            self.assertEqual(self.outcomes(asked), [0] * 12)
        self.assertEqual(set(self.create_many("more", count=4)), {rc.ELIMIT})


class GroupsOfOneUuid(Requests):
    ROUNDS = 12

    def setUp(self):
        super().setUp()
        self.d = self.up(tls=False, config=SHARDS)
        self.raws = [self.connect(self.d) for _ in range(2)]
        self.volumes = [self.raws[0].create_hosted(f"v{i}", MIB) for i in range(4)]

    def ask(self, r, group, members):
        control = raw(1, group)
        for volume, snapshot, name in members:
            control += raw(2, raw(1, volume) + raw(2, snapshot) + raw(3, name))
        return r.ask(M_GROUP_CREATE, control)

    def there(self, members):
        return [name in self.raws[0].snapshots(volume) for volume, _, name in members]

    def check_only_one(self, first, second):
        """Volumes of either; each round is of another uuid."""
        for i in range(self.ROUNDS):
            group = os.urandom(16)
            groups = [[(self.volumes[v], os.urandom(16), f"{who}{i}") for v in chosen]
                      for who, chosen in (("a", first), ("b", second))]
            asked = [(r, self.ask(r, group, members)) for r, members in zip(self.raws, groups)]
            codes = self.outcomes(asked)
            self.assertEqual(sorted(codes), [0, rc.EEXIST], i)
            for code, members in zip(codes, groups):
                self.assertEqual(self.there(members), [code == 0] * len(members))

    def test_of_other_snapshots_of_the_same_volumes_is_refused(self):
        self.check_only_one((0, 1, 2), (0, 1, 2))

    def test_with_a_volume_in_common_is_refused(self):
        self.check_only_one((0, 1), (1, 2))

    def test_of_other_volumes_is_refused(self):
        self.check_only_one((0, 1), (2, 3))

    def test_asked_for_later_with_a_volume_in_common_is_refused(self):
        group, r = os.urandom(16), self.raws[0]
        r.create_group([(v, os.urandom(16), "a") for v in self.volumes[:2]], group)
        with self.assertRaises(Refused) as got:
            r.create_group([(v, os.urandom(16), "b") for v in self.volumes[1:3]], group)
        self.assertEqual(got.exception.code, rc.EEXIST)
        self.assertEqual([list(r.snapshots(v)) for v in self.volumes[:3]], [["a"], ["a"], []])

    def test_the_same_twice_is_one(self):
        for i in range(self.ROUNDS):
            group = os.urandom(16)
            members = [(v, os.urandom(16), f"s{i}") for v in self.volumes]
            asked = [(r, self.ask(r, group, members)) for r in self.raws * 2]
            answers = [r.answer(ident)[0] for r, ident in asked]
            for answer in answers:
                made = [rc.get(rc.fields(s), 1, b"") for s in answer.get(1, [])]
                self.assertEqual(made, [snapshot for _, snapshot, _ in members])
        self.assertEqual([len(self.raws[0].snapshots(v)) for v in self.volumes],
                         [self.ROUNDS] * 4)

    def test_the_next_tries_when_the_first_could_not_be_made(self):
        """What the one before it asked for was refused, so its uuid is nobody's."""
        for i in range(self.ROUNDS):
            group = os.urandom(16)
            wrong = [(self.volumes[0], os.urandom(16), f"w{i}"),
                     (os.urandom(16), os.urandom(16), f"w{i}")]
            right = [(v, os.urandom(16), f"r{i}") for v in self.volumes]
            asked = [(self.raws[0], self.ask(self.raws[0], group, wrong)),
                     (self.raws[0], self.ask(self.raws[0], group, right))]
            self.assertEqual(self.outcomes(asked), [rc.ENOENT, 0])
            self.assertEqual(self.there(wrong[:1]), [False])


class Claims(Requests):
    """Writers that fill a volume from one end to the other: one at a time."""

    def setUp(self):
        super().setUp()
        self.d = self.up(tls=False, config=SHARDS)
        self.first = self.connect_as(os.urandom(16))
        self.second = self.connect_as(os.urandom(16))
        self.volume = self.first.create_hosted("v", MIB)

    def connect_as(self, instance):
        r = connect_unix(self.d.socket, instance=instance)
        self.addCleanup(r.close)
        return r

    def write(self, r, data, node=b""):
        r.call(rc.M_WRITE, r.write_control(self.volume, 0, node) + num(5, 1), data)

    def zero(self, r):
        r.call(rc.M_ZERO, raw(1, self.volume) + num(3, 0) + num(4, 4096) + num(7, 1))

    def refused(self, write, *args):
        with self.assertRaises(Refused) as got:
            write(*args)
        self.assertEqual(got.exception.code, rc.EBUSY)
        self.assertRegex(got.exception.text, r"is being imported into by uid:\d+ at unix:pid=\d+")
        return got.exception.text

    def test_the_second_is_refused_until_the_first_has_ended(self):
        self.write(self.first, b"a" * 4096)
        self.refused(self.write, self.second, b"b" * 4096)
        self.refused(self.zero, self.second)
        self.assertEqual(self.second.read(self.volume, 0, 4096), b"a" * 4096)
        self.write(self.first, b"c" * 4096)
        self.first.close()
        until(lambda: self.taken(self.write, self.second, b"b" * 4096))
        self.refused(self.write, self.connect_as(b""), b"d" * 4096)

    def taken(self, write, *args):
        try:
            write(*args)
        except Refused:
            return False
        return True

    def test_others_write_as_ever(self):
        self.zero(self.first)
        self.second.write(self.volume, 0, b"b" * 4096)
        self.assertEqual(self.first.read(self.volume, 0, 4096), b"b" * 4096)

    def test_a_client_that_comes_back_goes_on(self):
        instance = os.urandom(16)
        older = self.connect_as(instance)
        self.write(older, b"a" * 4096)
        newer = self.connect_as(instance)
        self.write(newer, b"b" * 4096)
        older.close()
        self.second.ping()
        self.refused(self.write, self.second, b"c" * 4096)
        newer.close()
        until(lambda: self.taken(self.write, self.second, b"c" * 4096))

    def test_each_clone_is_a_place_of_its_own(self):
        snapshot = self.first.create_snapshot(self.volume, "s")
        clones = [self.first.create_clone(self.volume, snapshot, f"c{i}") for i in range(2)]
        self.write(self.first, b"a" * 4096)
        self.write(self.second, b"b" * 4096, clones[0])
        self.write(self.first, b"c" * 4096, clones[1])
        self.assertIn("v@c0 ", self.refused(self.write, self.first, b"d" * 4096, clones[0]))

    def test_a_write_that_is_refused_holds_it_no_longer_than_its_connection(self):
        with self.assertRaises(Refused) as got:
            self.first.call(rc.M_WRITE, self.first.write_control(self.volume, MIB) + num(5, 1),
                            b"a" * 4096)
        self.assertEqual(got.exception.code, rc.EINVAL)
        self.first.close()
        until(lambda: self.taken(self.write, self.second, b"b" * 4096))

    def test_of_two_imports_the_second_is_refused(self):
        volume = self.second.create_hosted("w", 2 * MIB)
        first = subprocess.Popen([program("snapctl"), "remote", "import", "w", "-"],
                                 env=self.environment(), stdin=subprocess.PIPE)
        self.children.append(first)
        mine, other = os.urandom(2 * MIB), os.urandom(2 * MIB)
        with open(self.path("other"), "wb") as f:
            f.write(other)
        first.stdin.write(mine[:MIB + 4096])
        first.stdin.flush()
        until(lambda: self.second.read(volume, 0, 4096) == mine[:4096])
        self.fails(11, "w is being imported into by uid:.*wait", "remote", "import", "w",
                   self.path("other"))
        first.stdin.write(mine[MIB + 4096:])
        first.stdin.close()
        self.assertEqual(first.wait(60), 0)
        self.assertEqual(self.second.read(volume, 0, 2 * MIB), mine)
        self.remote("import", "w", self.path("other"))
        self.assertEqual(self.second.read(volume, 0, 2 * MIB), other)
