# SPDX-License-Identifier: Apache-2.0
"""Hosted volumes under SIGKILL, against a plain model; test_torture_hosted.py runs it.

Contents are blocks of 512 bytes. A block knows the contents that it may have: one, unless a write
of it was not answered. What was answered is there after a kill, flushed or not, since a kill
loses nothing that the kernel has; what was not answered is there or not, block by block, and what
is read first counts from then on. A change of the tree that was not answered is asked for again
with the same uuid and must then be there, once.
"""

import threading

import rawclient as rc
from rawclient import Gone, Refused, connect_unix, raw

BLOCK = 512
CHUNK = 4096
BLOCKS = 400  # ends inside a chunk
SIZE = BLOCKS * BLOCK
IN_FLIGHT = 4
NODES_MAX = 10


class Place:
    """A volume, a snapshot or a clone: its blocks' possible contents."""

    def __init__(self, blocks, name="", clone=False):
        self.blocks = blocks
        self.name = name
        self.clone = clone
        self.flying = {}  # request → (first, [new contents])

    def copy(self):
        return [list(b) for b in self.blocks]

    def is_busy(self, first, count):
        return any(f < first + count and first < f + len(new) for f, new in self.flying.values())

    def asked(self, ident, first, new):
        self.flying[ident] = (first, new)
        for i, data in enumerate(new):
            self.blocks[first + i].append(data)

    def answered(self, ident, refused):
        first, new = self.flying.pop(ident)
        for i, data in enumerate(new):
            if refused:
                self.blocks[first + i].pop()
            else:
                self.blocks[first + i] = [data]

    def compare(self, data, who):
        for i in range(BLOCKS):
            seen = data[i * BLOCK:(i + 1) * BLOCK]
            if seen not in self.blocks[i]:
                raise AssertionError(f"{who}: block {i} (chunk {i * BLOCK // CHUNK}) has "
                                     f"{seen[:12].hex()}…, may have "
                                     f"{[b[:12].hex() for b in self.blocks[i]]}")
            self.blocks[i] = [seen]


class Volume:
    def __init__(self, name):
        self.name = name
        self.uuid = b""
        self.place = Place([[bytes(BLOCK)] for _ in range(BLOCKS)])
        self.nodes = {}      # uuid → Place
        self.rolling = None  # (job, node, merge, contents before)

    def places(self):
        return [(b"", self.place), *self.nodes.items()]


class Torture:
    def __init__(self, daemon, rng):
        self.d = daemon
        self.rng = rng
        self.r = None
        self.names = self.kills = self.answers = self.versions = 0
        self.unanswered = None  # asks for it again
        self.volumes = [Volume("a"), Volume("b")]
        self.counts = {}

    # -- lives ---------------------------------------------------------------------------

    def connect(self):
        self.r = connect_unix(self.d.socket)

    def begin(self):
        self.connect()
        for v in self.volumes:
            v.uuid = self.r.create_hosted(v.name, SIZE)

    def life(self, seconds):
        """Until the daemon is killed; then everything is looked at."""
        killer = threading.Timer(self.rng.uniform(0.02, seconds), self.d.process.kill)
        killer.start()
        try:
            while True:
                self.something()
        except Gone:
            pass
        finally:
            killer.join()
        self.r.close()
        self.d.kill()
        self.d.start()
        self.kills += 1
        self.connect()
        for v in self.volumes:
            for _, place in v.places():
                place.flying.clear()
        if self.unanswered is not None:
            again, self.unanswered = self.unanswered, None
            again()
        self.check()

    def check(self):
        for v in self.volumes:
            listed = {bytes(rc.get(s, 1, b"")) for s in self.r.snapshots(v.uuid).values()}
            self.roll(v)  # a merge that has ended meanwhile takes its snapshot along
            if listed - set(v.nodes):
                listed = {bytes(rc.get(s, 1, b"")) for s in self.r.snapshots(v.uuid).values()}
            if listed != set(v.nodes):
                raise AssertionError(f"volume {v.name}: {len(listed)} snapshots, not "
                                     f"{sorted(n.name for n in v.nodes.values())}")
            for node, place in v.places():
                self.look(v, node, place)

    def look(self, v, node, place):
        """Read it whole. It may be consumed by a merge any moment."""
        try:
            data = self.r.read(v.uuid, 0, SIZE, node=node)
        except Refused as why:
            self.roll(v)
            if why.code != rc.ENOENT or not node or node in v.nodes:
                raise
            return
        place.compare(data, f"{v.name}@{place.name}")

    # -- what is asked --------------------------------------------------------------------

    def collect(self, v, all_of_them=False):
        """Answers of writes, as many as there are, or all."""
        for _, place in v.places():
            for ident in list(place.flying):
                if not all_of_them and ident not in self.r.answers:
                    continue
                refused = False
                try:
                    self.r.answer(ident)
                except Refused as why:
                    if why.code != rc.EBUSY or v.rolling is None:
                        raise
                    refused = True
                place.answered(ident, refused)
                self.answers += 1

    def something(self):
        v = self.rng.choice(self.volumes)
        self.collect(v)
        what = self.rng.choices(
            [self.write, self.flush, self.read, self.snapshot, self.clone, self.delete,
             self.rollback, self.group], [60, 4, 8, 6, 4, 5, 2, 2])[0]
        self.counts[what.__name__] = self.counts.get(what.__name__, 0) + 1
        what(v)

    def contents(self, count):
        """Blocks that are like no others."""
        self.versions += 1
        stamp = self.versions.to_bytes(8, "little")
        return [stamp + i.to_bytes(4, "little") * ((BLOCK - 8) // 4) for i in range(count)]

    def writable(self, v):
        clones = [(node, p) for node, p in v.nodes.items() if p.clone]
        if clones and self.rng.random() < 0.3:
            return self.rng.choice(clones)
        return b"", v.place

    def write(self, v):
        node, place = self.writable(v)
        if not node:
            self.finish_rolling(v)
        while len(place.flying) >= IN_FLIGHT:
            self.collect(v, all_of_them=True)
        first = self.rng.randrange(BLOCKS)
        count = min(self.rng.choice([1, 3, 8, 16, 70]), BLOCKS - first)
        if self.rng.random() < 0.3:
            first &= ~7
        if place.is_busy(first, count):
            return
        fua = self.rng.random() < 0.1
        if self.rng.random() < 0.15:
            control = (raw(1, v.uuid) + raw(2, node) + rc.num(3, first * BLOCK) +
                       rc.num(4, count * BLOCK) + rc.num(5, int(fua)) +
                       rc.num(6, self.rng.randrange(2)))
            ident = self.r.ask(rc.M_ZERO, control)
            place.asked(ident, first, [bytes(BLOCK)] * count)
            return
        new = self.contents(count)
        # known before it is sent: the daemon may die with half of it read
        place.asked(self.r.id + 1, first, new)
        control = self.r.write_control(v.uuid, first * BLOCK, node, fua)
        self.r.ask(rc.M_WRITE, control, b"".join(new))

    def flush(self, v):
        node, _ = self.writable(v)
        self.r.flush(v.uuid, node=node)

    def read(self, v):
        """Of snapshots at any time; of what is written when that stands still."""
        node, place = self.rng.choice(v.places())
        if not node or place.clone:
            self.collect(v, all_of_them=True)
        self.look(v, node, place)

    def change(self, ask):
        """A change of the tree; should the daemon die over it, it is asked for again."""
        self.unanswered = ask
        ask()
        self.unanswered = None

    def name(self, prefix):
        self.names += 1
        return f"{prefix}{self.names}"

    def snapshot(self, v):
        self.finish_rolling(v)
        if len(v.nodes) >= NODES_MAX:
            return
        node, name = self.rng.randbytes(16), self.name("s")
        blocks = v.place.copy()

        def ask():
            self.r.create_snapshot(v.uuid, name, uuid=node)
            v.nodes[node] = Place(blocks, name)
        self.change(ask)

    def clone(self, v):
        if not v.nodes or len(v.nodes) >= NODES_MAX:
            return
        self.finish_rolling(v)
        if not v.nodes:
            return
        source = self.rng.choice(list(v.nodes))
        node, name = self.rng.randbytes(16), self.name("c")
        blocks = v.nodes[source].copy()

        def ask():
            self.r.create_clone(v.uuid, source, name, uuid=node)
            v.nodes[node] = Place(blocks, name, clone=True)
        self.change(ask)

    def delete(self, v):
        if not v.nodes:
            return
        self.finish_rolling(v)
        self.collect(v, all_of_them=True)
        if not v.nodes:
            return
        node = self.rng.choice(list(v.nodes))
        key = self.rng.randbytes(16)

        def ask():
            self.r.call(rc.M_SNAPSHOT_DELETE, raw(1, v.uuid) + raw(2, node) + raw(3, key))
            del v.nodes[node]
        self.change(ask)

    def group(self, _):
        for v in self.volumes:
            self.finish_rolling(v)
            if len(v.nodes) >= NODES_MAX:
                return
        uuid = self.rng.randbytes(16)
        members = [(v, self.rng.randbytes(16), self.name("g"), v.place.copy())
                   for v in self.volumes]

        def ask():
            self.r.create_group([(v.uuid, node, name) for v, node, name, _ in members], uuid=uuid)
            for v, node, name, blocks in members:
                v.nodes[node] = Place(blocks, name)
        self.change(ask)

    # -- rollbacks ---------------------------------------------------------------------------

    def rollback(self, v):
        self.finish_rolling(v)
        self.collect(v, all_of_them=True)
        nodes = [n for n, p in v.nodes.items() if not p.clone]
        if not nodes:
            return
        node, job = self.rng.choice(nodes), self.rng.randbytes(16)
        merge, before = self.rng.random() < 0.4, v.place.copy()

        def ask():
            self.r.rollback(v.uuid, node, job=job, merge=merge)
            v.rolling = (job, node, merge, before)
            v.place.blocks = v.nodes[node].copy()
        self.change(ask)
        if self.rng.random() < 0.3:
            self.cancel(v)

    def cancel(self, v):
        job, _, _, before = v.rolling

        def ask():
            try:
                self.r.call(rc.M_JOB_CANCEL, raw(1, v.uuid) + raw(2, job))
            except Refused as why:
                if why.code != rc.EBUSY:  # it has ended, or nearly so
                    raise
                return
            if self.job_state(v) != "done":
                v.place.blocks = [list(b) for b in before]
                v.rolling = (job, None, False, before)
        self.change(ask)

    def job_state(self, v):
        return rc.get(self.r.job(v.uuid, v.rolling[0]), 7, b"").decode()

    def roll(self, v):
        """See whether it has ended."""
        if v.rolling is None or self.job_state(v) not in ("done", "cancelled"):
            return
        _, node, merge, _ = v.rolling
        if merge and node is not None:
            del v.nodes[node]
        v.rolling = None

    def finish_rolling(self, v):
        if v.rolling is None:
            return
        state = self.r.wait_job(v.uuid, v.rolling[0])
        if state == "failed":
            raise AssertionError("a rollback has failed")
        self.roll(v)


def torture(daemon, rng, seconds, now):
    """Returns the Torture, at rest."""
    t = Torture(daemon, rng)
    t.begin()
    end = now() + seconds
    while now() < end:
        t.life(0.6)
    for v in t.volumes:
        t.finish_rolling(v)
    t.check()
    t.r.close()
    return t
