# SPDX-License-Identifier: Apache-2.0
"""One of everything that a daemon is asked for, each while an allocation fails.

A step makes what it needs, asks once inside World.out() - where memory runs out - and then, with
memory there again, asks for the same until it has it, and looks whether everything is as it
was told."""

import http.client
import os
import re
import select
import ssl
import threading
import time

import rawclient as rc
from hosted import CHUNK, KIB, Model
from memory_out import ALL_FROM
from rawclient import Gone, Refused, connect_tls, connect_unix, get, num, raw

SIZE = 256 * KIB
BLOCK = os.urandom(CHUNK)
GOING = (b"running", b"waiting", b"cancelling")
TURN_S = 20  # within which everything asked for is answered
OUT_S = 0.3  # for so long there is none, where it is not one allocation that fails


class Out:
    """How something ended that was asked for while memory ran out."""

    def __init__(self, value=None, why=None):
        self.value, self.why = value, why

    @property
    def ok(self):
        return self.why is None


class World:
    """A daemon with volumes of both kinds, and what they must hold."""

    def __init__(self, case, daemon, memory, rng, context=None):
        self.case, self.d, self.memory, self.rng = case, daemon, memory, rng
        self.context = context
        self.mode, self.at, self.whose = 0, 0, 0
        self.count, self.hits = 0, 0
        self.metrics_port = int(re.search(r"metrics=\S*?:(\d+)", daemon.log()).group(1))
        self.r = self.connect()
        self.instance = os.urandom(16)
        self.epoch = 0
        self.odd = []
        self.make()

    def connect(self, **kwargs):
        r = connect_unix(self.d.socket, **kwargs)
        r.sock.settimeout(TURN_S)
        return r

    def again(self):
        """A connection that is good, whatever became of the last one."""
        try:
            self.r.ping()
        except (Gone, Refused):
            self.r.close()
            self.r = self.connect()
        return self.r

    def name(self, prefix):
        self.count += 1
        return f"{prefix}{self.count}"

    def make(self):
        r = self.r
        self.hosted = r.create_hosted("hosted", SIZE)
        self.model = Model(SIZE)
        self.write(0, self.rng.randbytes(SIZE // 2))
        self.old = r.create_snapshot(self.hosted, "old", 0)
        self.model.take(self.old)
        self.write(3 * CHUNK, self.rng.randbytes(5 * CHUNK))
        self.young = r.create_snapshot(self.hosted, "young", 0)
        self.model.take(self.young)
        self.clone = r.create_clone(self.hosted, self.young, "clone")
        self.model.take(self.clone, self.young)
        self.write(SIZE // 2, b"in the clone", self.clone)
        self.remote = r.create_volume("remote", SIZE)
        self.view = {}
        self.head = r.create_snapshot(self.remote, "head")
        self.lease()
        self.put({0: BLOCK, 5: self.rng.randbytes(CHUNK)})

    def write(self, offset, data, node=b""):
        self.r.write(self.hosted, offset, data, node)
        self.model.write(offset, data, node)

    def lease(self):
        self.epoch, _ = self.r.acquire(self.remote, SIZE, self.instance, self.epoch)

    def put(self, chunks):
        added, existed, failed = self.r.put(self.remote, self.epoch, self.head, sorted(chunks),
                                            b"".join(chunks[c] for c in sorted(chunks)))
        assert added + existed == len(chunks) and not failed, (added, existed, failed)
        for chunk, data in chunks.items():
            self.view.setdefault(chunk, data)

    # -- memory runs out --

    def out(self, ask, may=()):
        """Ask while memory runs out. Any other end than an answer, an error that names memory
        (or one of `may`), or a closed connection, is a failure."""
        self.memory.arm(self.mode, self.at, self.whose)
        there_again = threading.Timer(OUT_S, self.memory.disarm)
        if self.mode == ALL_FROM:
            there_again.start()
        try:
            out = Out(ask())
        except (Refused, Gone, ConnectionError, ssl.SSLError, http.client.HTTPException) as why:
            out = Out(why=why)
        except TimeoutError as why:
            out = Out(why=why)
            self.odd.append(f"no answer: {why}")
        finally:
            there_again.cancel()
            self.memory.disarm()
        self.hits += self.memory.failed > 0
        if isinstance(out.why, Refused) and self.memory.failed:
            if out.why.code != rc.ENOMEM and out.why.code not in may:
                self.odd.append(f"{out.why}")
        elif not out.ok and not self.memory.failed:
            raise out.why
        self.again()
        return out

    def settled(self, ask, tries=500):
        """Ask, as long as what is under way is in the way."""
        for _ in range(tries):
            try:
                return ask()
            except Refused as why:
                if why.code not in (rc.EBUSY, rc.EPOISONED):
                    raise
            time.sleep(0.01)
        raise AssertionError("busy for good")

    def settle_jobs(self, volume=b""):
        end = time.monotonic() + TURN_S
        while any(get(j, 7, b"") in GOING for j in self.r.jobs(volume)):
            if time.monotonic() > end:
                raise AssertionError(f"jobs do not end: {self.r.jobs(volume)}")
            time.sleep(0.005)

    def check(self):
        """Everything is there, and nothing else."""
        r = self.r
        self.check_content()
        names = [get(m, 2, b"") for m in r.pages(rc.M_VOLUME_LIST)]
        assert sorted(names) == [b"hosted", b"remote"], names
        assert set(r.snapshots(self.hosted)) == {"old", "young", "clone"}, r.snapshots(self.hosted)
        assert set(r.snapshots(self.remote)) == {"head"}, r.snapshots(self.remote)

    def check_content(self):
        r = self.r
        for node, content in [(b"", self.model.now), *self.model.nodes.items()]:
            got = r.read(self.hosted, 0, SIZE, node)
            if got != bytes(content):
                at = next(i for i in range(SIZE) if got[i] != content[i])
                raise AssertionError(f"node {node.hex()} differs from byte {at} on")
        for chunk, data in self.view.items():
            (_, kind, got), = r.read_view(self.remote, self.head, chunk * CHUNK, CHUNK)
            assert kind == 0 and got == data, (chunk, kind)

    def check_credit(self):
        """No request is left that holds credit."""
        first = get(self.r.server, 7)
        end = time.monotonic() + TURN_S
        while self.r.credit < first * 3 // 4:
            assert time.monotonic() < end, (self.r.credit, first)
            self.r.ping()

    def delete(self, volume):
        self.settled(lambda: self.r.call(
            rc.M_VOLUME_DELETE, raw(1, volume) + raw(3, os.urandom(16)) + num(4, 1)))


# -- connections and lists -----------------------------------------------------------------

def connect(w):
    def ask():
        r = connect_unix(w.d.socket)
        r.sock.settimeout(TURN_S)
        try:
            r.ping()
        finally:
            r.close()
    w.out(ask)


def connect_by_tls(w):
    def ask():
        r = connect_tls(w.d.port, w.context)
        r.sock.settimeout(TURN_S)
        try:
            r.ping()
        finally:
            r.close()
    w.out(ask)


def status(w):
    w.out(lambda: w.r.call(rc.M_STATUS))
    w.r.call(rc.M_STATUS)


def list_volumes(w):
    w.out(lambda: w.r.pages(rc.M_VOLUME_LIST))


def show(w):
    w.out(lambda: (w.r.snapshots(w.hosted), w.r.resolve("hosted", "old")))


def show_snapshot(w):
    w.out(lambda: w.r.call(rc.M_SNAPSHOT_SHOW, raw(1, w.hosted) + raw(2, w.old)))


def check_snapshot(w):
    def ask():
        message, _ = w.r.call(rc.M_SNAPSHOT_CHECK, raw(1, w.hosted) + raw(2, w.old))
        assert get(message, 1) == 1, message
    w.out(ask)
    ask()


def metrics(w):
    def ask():
        c = http.client.HTTPConnection("127.0.0.1", w.metrics_port, timeout=TURN_S)
        try:
            c.request("GET", "/metrics")
            answer = c.getresponse()
            return answer.status, answer.read()
        finally:
            c.close()
    out = w.out(ask)
    if out.ok and out.value[0] not in (200, 500) and b"out of memory" not in out.value[1]:
        w.odd.append(f"metrics: {out.value}")
    code, text = ask()
    assert code == 200 and text.endswith(b"# EOF\n"), (code, text)


# -- volumes and snapshots -----------------------------------------------------------------

def create_hosted(w):
    uuid, name = os.urandom(16), w.name("h")
    w.out(lambda: w.r.create_hosted(name, SIZE, uuid=uuid))
    w.r.create_hosted(name, SIZE, uuid=uuid)
    w.r.write(uuid, 5, b"there")
    assert w.r.read(uuid, 0, 10) == bytes(5) + b"there"
    w.delete(uuid)


def create_remote(w):
    uuid, name = os.urandom(16), w.name("r")
    label = raw(6, raw(1, "key") + raw(2, "value"))

    def ask():
        w.r.call(rc.M_VOLUME_CREATE, raw(1, uuid) + raw(2, name) + num(3, SIZE) + label)
    w.out(ask)
    ask()
    w.delete(uuid)


def delete_volume(w):
    uuid = w.r.create_hosted(w.name("h"), SIZE)
    w.r.write(uuid, 0, BLOCK)
    w.r.create_snapshot(uuid, "s", 0)
    w.r.write(uuid, 0, BLOCK[::-1])
    control = raw(1, uuid) + raw(3, os.urandom(16)) + num(4, 1)
    w.out(lambda: w.r.call(rc.M_VOLUME_DELETE, control))
    w.settled(lambda: w.r.call(rc.M_VOLUME_DELETE, control))


def create_snapshot(w):
    uuid, name = os.urandom(16), w.name("s")
    w.out(lambda: w.r.create_snapshot(w.hosted, name, 0, uuid=uuid))
    w.write(w.rng.randrange(SIZE - CHUNK), w.rng.randbytes(CHUNK))
    w.r.create_snapshot(w.hosted, name, 0, uuid=uuid)
    w.r.read(w.hosted, 0, SIZE, uuid)
    w.r.delete_snapshot(w.hosted, uuid)
    w.settle_jobs(w.hosted)


def delete_snapshot(w):
    """In the middle of the chain: what it has is handed down."""
    uuid = w.r.create_hosted(w.name("h"), SIZE)
    w.r.write(uuid, 0, BLOCK * 4)
    older = w.r.create_snapshot(uuid, "older", 0)
    middle = w.r.create_snapshot(uuid, "middle", 0)
    w.r.write(uuid, 0, BLOCK[::-1] * 3)
    w.r.create_snapshot(uuid, "newer", 0)
    w.r.write(uuid, 0, bytes(CHUNK))
    control = raw(1, uuid) + raw(2, middle) + raw(3, os.urandom(16))

    def ask():
        w.r.call(rc.M_SNAPSHOT_DELETE, control)
        w.settle_jobs(uuid)
    w.out(ask)
    w.settled(lambda: w.r.call(rc.M_SNAPSHOT_DELETE, control))
    w.settle_jobs(uuid)
    assert w.r.read(uuid, 0, 4 * CHUNK, older) == BLOCK * 4
    assert set(w.r.snapshots(uuid)) == {"older", "newer"}
    w.delete(uuid)


def group(w):
    other = w.r.create_hosted(w.name("h"), SIZE)
    uuid, members = os.urandom(16), [(v, os.urandom(16), w.name("g")) for v in (w.hosted, other)]
    out = w.out(lambda: w.r.create_group(members, uuid))
    there = [m[2] in w.r.snapshots(m[0]) for m in members]
    if there[0] != there[1] or (out.ok and not there[0]):
        raise AssertionError(f"half a group: {there}")
    for v, _, _ in members:
        w.r.write(v, SIZE - 1, b"!")
    w.model.write(SIZE - 1, b"!")
    w.r.create_group(members, uuid)
    w.r.delete_snapshot(*members[0][:2])
    w.delete(other)
    w.settle_jobs(w.hosted)


def create_clone(w):
    uuid, name = os.urandom(16), w.name("c")
    w.out(lambda: w.r.create_clone(w.hosted, w.old, name, uuid))
    w.r.create_clone(w.hosted, w.old, name, uuid)
    w.settled(lambda: w.r.write(w.hosted, 7, b"cloned", uuid))
    want = bytearray(w.model.nodes[w.old])
    want[7:13] = b"cloned"
    assert w.r.read(w.hosted, 0, SIZE, uuid) == bytes(want)
    w.r.delete_snapshot(w.hosted, uuid)
    w.settle_jobs(w.hosted)


# -- reading and writing of hosted volumes ---------------------------------------------------

def written(w, ask, offset, length, node):
    """Asked for while memory runs out: old or new until it was answered, new then."""
    content = w.model.nodes[node] if node else w.model.now
    old = bytes(content[offset:offset + length])
    new = ask.content
    out = w.out(ask)
    got = w.r.read(w.hosted, offset, length, node)
    if out.ok and got != new:
        raise AssertionError("answered and not written")
    if any(g not in (a, b) for g, a, b in zip(got, old, new)):
        raise AssertionError("neither old nor new")
    ask()
    w.model.write(offset, new, node)


def write_at(w, offset, length, node=b"", fua=False):
    data = w.rng.randbytes(length)

    def ask():
        w.r.write(w.hosted, offset, data, node, fua)
    ask.content = data
    written(w, ask, offset, length, node)


def write_kept(w):
    """The snapshots and the clone get what they lack first."""
    uuid = w.r.create_snapshot(w.hosted, w.name("s"), 0)
    w.model.take(uuid)
    write_at(w, 2 * CHUNK + 100, 3 * CHUNK)
    w.check_content()
    del w.model.nodes[uuid]
    w.r.delete_snapshot(w.hosted, uuid)
    w.settle_jobs(w.hosted)


def write_plain(w):
    write_at(w, 9 * CHUNK + 1, CHUNK, fua=True)


def write_clone(w):
    at = w.rng.randrange(SIZE // CHUNK - 3) * CHUNK
    write_at(w, at + 100, 2 * CHUNK, w.clone)
    write_at(w, at, 2 * CHUNK, w.clone)


def write_fresh_clone(w):
    uuid = w.r.create_clone(w.hosted, w.young, w.name("c"))
    w.model.take(uuid, w.young)
    write_at(w, 100, 3 * CHUNK, uuid)
    del w.model.nodes[uuid]
    w.r.delete_snapshot(w.hosted, uuid)
    w.settle_jobs(w.hosted)


def zero_at(w, offset, length, node, discard):
    def ask():
        w.r.zero(w.hosted, offset, length, node, discard=discard)
    ask.content = bytes(length)
    written(w, ask, offset, length, node)


def zero(w):
    zero_at(w, 11 * CHUNK + 5, 3 * CHUNK, b"", False)


def discard(w):
    w.write(16 * CHUNK, BLOCK * 4)
    zero_at(w, 16 * CHUNK, 4 * CHUNK, b"", True)


def zero_clone(w):
    w.write(16 * CHUNK, BLOCK * 4, w.clone)
    zero_at(w, 16 * CHUNK + 512, 3 * CHUNK, w.clone, True)


def flush(w):
    for node in (b"", w.clone):  # what failed in steps before this one is told once
        try:
            w.r.flush(w.hosted, node)
        except Refused as why:
            assert why.code == rc.EIO and why.loss, why
    w.write(0, b"flushed")
    w.out(lambda: w.r.flush(w.hosted))
    w.r.flush(w.hosted)
    w.write(0, b"flushed too", w.clone)
    w.out(lambda: w.r.flush(w.hosted, w.clone))
    w.r.flush(w.hosted, w.clone)


def read(w):
    for node in (b"", w.old, w.clone):
        out = w.out(lambda n=node: w.r.read(w.hosted, 100, SIZE - 1000, n))
        content = w.model.nodes[node] if node else w.model.now
        if out.ok and out.value != bytes(content[100:SIZE - 900]):
            raise AssertionError("read something else")


def extents(w):
    for node in (b"", w.old, w.clone):
        w.out(lambda n=node: w.r.extents(w.hosted, 0, SIZE, n))


def diff(w):
    want = w.r.diff(w.hosted, w.old)
    out = w.out(lambda: (w.r.diff(w.hosted, w.old), w.r.diff(w.hosted, w.old, w.young)))
    if out.ok and out.value[0] != want:
        raise AssertionError("another difference")


def many_at_once(w):
    """So many that they wait for one another: the same chunks, from two connections."""
    offset, length = 4 * CHUNK, 6 * CHUNK
    old = bytes(w.model.now[offset:offset + length])
    data = [bytes([i + 1]) * length for i in range(6)]

    def ask():
        other = w.connect()
        try:
            asked = [(r, r.ask(rc.M_WRITE, r.write_control(w.hosted, offset), data[i]))
                     for i, r in enumerate([w.r, other] * 3)]
            asked += [(r, r.ask(rc.M_SNAPSHOT_READ, raw(1, w.hosted) + num(3, offset) +
                                num(4, length))) for r in (w.r, other)]
            asked.append((other, other.ask(rc.M_FLUSH, other.flush_control(w.hosted))))
            why = None
            for r, ident in asked:
                try:
                    r.answer(ident)
                except (Refused, Gone) as e:
                    why = e
            if why:
                raise why
        finally:
            other.close()
    w.out(ask)
    got = w.r.read(w.hosted, offset, length)
    if any(g != a and not 1 <= g <= 6 for g, a in zip(got, old)):
        raise AssertionError("neither old nor one of those written")
    w.write(offset, data[0])


# -- jobs ------------------------------------------------------------------------------------

def rolled(w, merge, drop_newer):
    uuid = w.r.create_hosted(w.name("h"), SIZE)
    w.r.write(uuid, 0, BLOCK * 3)
    s = w.r.create_snapshot(uuid, "s", 0)
    w.r.write(uuid, CHUNK, bytes(CHUNK) * 4)
    t = w.r.create_snapshot(uuid, "t", 0)
    w.r.write(uuid, CHUNK, BLOCK[::-1] * 4)
    job = os.urandom(16)

    def ask():
        w.r.rollback(uuid, s, job, merge, drop_newer)
        w.settle_jobs(uuid)
    w.out(ask)
    now = w.settled(lambda: w.r.read(uuid, 0, 6 * CHUNK))
    was = BLOCK + BLOCK[::-1] * 4 + bytes(CHUNK)
    want = BLOCK * 3 + bytes(3 * CHUNK)
    if now not in (was, want):
        raise AssertionError("neither before nor after the rollback")
    if now == was or "s" in w.r.snapshots(uuid):  # it failed, or was not begun
        w.settle_jobs(uuid)
        if "s" in w.r.snapshots(uuid):
            w.settled(lambda: w.r.rollback(uuid, s, os.urandom(16), merge, drop_newer))
        w.settle_jobs(uuid)
    assert w.r.read(uuid, 0, 6 * CHUNK) == want
    names = set(w.r.snapshots(uuid))
    assert names == {"s", "t"} - ({"s"} if merge else set()) - ({"t"} if drop_newer else set()), names
    if not drop_newer:
        assert w.r.read(uuid, 0, 6 * CHUNK, t) == BLOCK + bytes(5 * CHUNK)
    w.delete(uuid)


def rollback(w):
    rolled(w, False, False)


def rollback_and_merge(w):
    rolled(w, True, False)


def rollback_and_drop(w):
    rolled(w, False, True)


def verified(w, rebuild):
    job = os.urandom(16)
    control = raw(1, w.hosted) + raw(3, job) + num(4, int(rebuild))

    def ask():
        w.r.call(rc.M_VERIFY, control)
        w.settle_jobs(w.hosted)
        return w.r.job(w.hosted, job)
    out = w.out(ask)
    w.settle_jobs(w.hosted)
    if out.ok and get(out.value, 10):
        raise AssertionError(f"faults are made up: {out.value}")
    if out.ok and get(out.value, 7) != b"done" and b"emory" not in get(out.value, 8, b""):
        w.odd.append(f"verify: {out.value}")
    job = os.urandom(16)
    w.r.call(rc.M_VERIFY, raw(1, w.hosted) + raw(3, job) + num(4, int(rebuild)))
    assert w.r.wait_job(w.hosted, job, TURN_S) == "done", w.r.job(w.hosted, job)
    assert get(w.r.job(w.hosted, job), 10) == 0, w.r.job(w.hosted, job)


def verify(w):
    verified(w, False)


def verify_rebuild(w):
    verified(w, True)


def list_jobs(w):
    w.out(lambda: w.r.jobs())


# -- remote volumes ----------------------------------------------------------------------------

def acquire(w):
    uuid = w.r.create_volume(w.name("r"), SIZE)
    instance = os.urandom(16)
    out = w.out(lambda: w.r.acquire(uuid, SIZE, instance))
    epoch = out.value[0] if out.ok else 0
    epoch, _ = w.r.acquire(uuid, SIZE, instance, epoch)
    ref = raw(1, uuid) + num(2, epoch)
    w.out(lambda: w.r.call(rc.M_LEASE_RENEW, ref))
    w.again()
    epoch, _ = w.r.acquire(uuid, SIZE, instance, epoch)
    ref = raw(1, uuid) + num(2, epoch)
    w.out(lambda: w.r.call(rc.M_LEASE_RELEASE, ref), may=(rc.ESTALE,))
    w.again()
    r = w.connect()
    r.acquire(uuid, SIZE, os.urandom(16), steal=True)
    r.close()
    w.delete(uuid)


def put(w):
    """Chunks that are new, there, and zeros; into a chain of two."""
    uuid = w.r.create_volume(w.name("r"), SIZE)
    first = w.r.create_snapshot(uuid, "first")
    instance = os.urandom(16)
    epoch, _ = w.r.acquire(uuid, SIZE, instance)
    w.r.put(uuid, epoch, first, [1, 2], BLOCK * 2)
    data = w.rng.randbytes(4 * CHUNK)

    def ask():
        return w.r.put(uuid, epoch, first, [2, 3, 9, 40], data, [4, 5])
    out = w.out(ask)
    if out.ok:
        for chunk, code in out.value[2].items():
            if code != rc.ENOMEM:
                w.odd.append(f"put: chunk {chunk}: {code}")
    epoch, _ = w.r.acquire(uuid, SIZE, instance, epoch)
    added, existed, failed = ask()
    assert added + existed == 6 and not failed, (added, existed, failed)
    if out.ok and out.value[0] + out.value[1] == 6:
        assert added == 0, "answered and not kept"
    want = {1: BLOCK, 2: BLOCK, 3: data[CHUNK:2 * CHUNK], 9: data[2 * CHUNK:3 * CHUNK],
            40: data[3 * CHUNK:]}
    for chunk, content in want.items():
        (_, kind, got), = w.r.read_view(uuid, first, chunk * CHUNK, CHUNK)
        assert kind == 0 and got == content, chunk
    w.r.call(rc.M_LEASE_RELEASE, raw(1, uuid) + num(2, epoch))
    w.delete(uuid)


def put_there(w):
    """What is there already is not stored again."""
    w.lease()
    out = w.out(lambda: w.r.put(w.remote, w.epoch, w.head, [0], BLOCK))
    assert not out.ok or out.value in ((0, 1, {}), (0, 0, {0: rc.ENOMEM})), out.value
    w.lease()


def read_view(w):
    w.out(lambda: w.r.read_view(w.remote, w.head, 0, SIZE))


def runs(w):
    w.out(lambda: (w.r.runs(w.remote, w.head), w.r.runs(w.remote, w.head, own=False)))


def new_head(w):
    """A snapshot while a writer writes: it is asked to stand still."""
    uuid = w.r.create_volume(w.name("r"), SIZE)
    first = w.r.create_snapshot(uuid, "first")
    writer, instance = w.connect(instance=os.urandom(16)), os.urandom(16)
    epoch, _ = writer.acquire(uuid, SIZE, instance)
    writer.put(uuid, epoch, first, [1], BLOCK)
    second = os.urandom(16)

    def ask():
        ident = w.r.ask(rc.M_SNAPSHOT_CREATE, raw(1, uuid) + raw(2, second) + raw(3, "second") +
                        num(4, 8))
        end = time.monotonic() + TURN_S
        while not any(e[0] == rc.E_QUIESCE for e in writer.events):
            ready, _, _ = select.select([writer.sock, w.r.sock], [], [], TURN_S)
            if not ready or time.monotonic() > end:
                raise TimeoutError("neither asked to stand still nor answered")
            if w.r.sock in ready:
                return w.r.answer(ident)
            writer.step()
        writer.call(rc.M_HEAD_READY, raw(1, uuid) + num(2, epoch) + raw(3, second))
        return w.r.answer(ident)
    w.out(ask, may=(rc.EBUSY, rc.ESTALE, rc.ECANCELED))
    writer.close()
    writer = w.connect(instance=os.urandom(16))
    epoch, _ = writer.acquire(uuid, SIZE, instance, epoch)
    writer.call(rc.M_LEASE_RELEASE, raw(1, uuid) + num(2, epoch))
    w.settled(lambda: w.r.create_snapshot(uuid, "second", uuid=second))
    (_, kind, got), = w.r.read_view(uuid, first, CHUNK, CHUNK)
    assert kind == 0 and got == BLOCK
    writer.close()
    w.delete(uuid)


def merge(w):
    uuid = w.r.create_volume(w.name("r"), SIZE)
    s = w.r.create_snapshot(uuid, "s")
    instance = os.urandom(16)
    epoch, _ = w.r.acquire(uuid, SIZE, instance)
    w.r.put(uuid, epoch, s, [1, 2, 3, 7], BLOCK * 4)

    def ref():
        return raw(1, uuid) + raw(2, s) + num(3, epoch)

    def ask():
        w.r.call(rc.M_MERGE_BEGIN, ref())
        while True:
            run, _ = w.r.call(rc.M_MERGE_PREPARE, ref())
            if not get(run, 3):
                break
            w.r.call(rc.M_MERGE_COMMIT, ref() + num(4, get(run, 4)) + num(5, get(run, 3)))
        w.r.call(rc.M_MERGE_END, ref())
    w.out(ask)
    if "s" in w.r.snapshots(uuid):
        epoch, _ = w.r.acquire(uuid, SIZE, instance, epoch)
        ask()
    assert not w.r.snapshots(uuid)
    epoch, _ = w.r.acquire(uuid, SIZE, instance, epoch)
    w.r.call(rc.M_LEASE_RELEASE, raw(1, uuid) + num(2, epoch))
    w.delete(uuid)


# -- rights and configuration --------------------------------------------------------------------

def grants(w):
    who = w.name("who")
    one = raw(1, who) + num(2, 2) + raw(3, w.hosted)

    def is_known():  # by the list that the shards go by
        return who.encode() in [get(g, 1) for g in w.r.pages(rc.M_GRANT_LIST)]
    w.out(lambda: w.r.call(rc.M_GRANT, one))
    w.r.call(rc.M_GRANT, one)
    assert is_known()
    w.out(lambda: w.r.pages(rc.M_GRANT_LIST))
    w.out(lambda: w.r.call(rc.M_REVOKE, one), may=(rc.ENOENT,))
    try:
        w.r.call(rc.M_REVOKE, one)
    except Refused as why:
        assert why.code == rc.ENOENT, why
    assert not is_known(), "taken away, and still there"


def reload(w):
    def ask():
        at = len(w.d.log())
        w.d.hang_up()
        end = time.monotonic() + TURN_S
        while not re.search("configuration reloaded|reload failed", w.d.log()[at:]):
            if time.monotonic() > end:
                raise TimeoutError("nothing is told of a reload")
            time.sleep(0.002)
    w.out(ask)


STEPS = [connect, connect_by_tls, status, list_volumes, show, show_snapshot, check_snapshot, metrics,
         create_hosted, create_remote, delete_volume, create_snapshot, delete_snapshot, group,
         create_clone, write_kept, write_plain, write_clone, write_fresh_clone, zero, discard,
         zero_clone, flush, read, extents, diff, many_at_once, rollback, rollback_and_merge,
         rollback_and_drop, verify, verify_rebuild, list_jobs, acquire, put, put_there, read_view,
         runs, new_head, merge, grants, reload]
