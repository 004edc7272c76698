# SPDX-License-Identifier: Apache-2.0
"""A second client, from docs/protocol.md and proto/snapwire.proto alone.

Blocking, one thread, no libraries but Python's own; protobuf by hand. It shares no code
with libsnapwire, so that what the two agree on is what the documents say. Messages are
dicts of field number → value when read, and concatenated fields when written.
"""

import os
import socket
import ssl
import struct
import time

(HELLO, REQUEST, RESPONSE, EVENT, WINDOW, PING, PONG, GOAWAY) = range(1, 9)
HEADER = struct.Struct("<4sBBHHHIQII")
MAGIC = b"SnpW"

M_PING, M_STATUS = 1, 2
M_VOLUME_CREATE, M_VOLUME_LIST, M_VOLUME_SHOW, M_VOLUME_DELETE, M_RESOLVE = range(10, 15)
(M_SNAPSHOT_CREATE, M_SNAPSHOT_SHOW, M_SNAPSHOT_DELETE, M_SNAPSHOT_CHECK, M_SNAPSHOT_READ,
 M_RUN_LIST, M_GROUP_CREATE, M_CLONE_CREATE, M_ACCEPT) = range(20, 29)
M_WRITE, M_ZERO, M_FLUSH, M_EXTENT_LIST, M_DIFF, M_ROLLBACK, M_VERIFY = range(30, 37)
M_GRANT, M_REVOKE, M_GRANT_LIST = range(40, 43)
M_LEASE_ACQUIRE, M_LEASE_RENEW, M_LEASE_RELEASE, M_HEAD_READY = range(50, 54)
M_COW_PUT = 60
M_MERGE_BEGIN, M_MERGE_PREPARE, M_MERGE_COMMIT, M_MERGE_END, M_MERGE_ABORT = range(70, 75)
M_JOB_LIST, M_JOB_SHOW, M_JOB_CANCEL = range(80, 83)
E_QUIESCE, E_LEASE_LOST = 100, 101

(EINVAL, ENOMEM, EIO, ENOSPC, ENOENT, EEXIST, EPERM, EAUTH, ESTALE, EBUSY, ECORRUPT, EINVALID,
 EPROTO, ETIMEDOUT, ECONN, ELIMIT, ENOTSUP, EMISMATCH, ECANCELED, ESHUTDOWN, EPOISONED,
 EOVERFLOW, EUNVERIFIED, EINTERNAL) = range(1, 25)


# -- protobuf ------------------------------------------------------------------------------

def varint(n):
    out = bytearray()
    while n > 0x7F:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    out.append(n)
    return bytes(out)


def num(field, n):
    return varint(field << 3) + varint(n)


def raw(field, data):
    data = data.encode() if isinstance(data, str) else data
    return varint(field << 3 | 2) + varint(len(data)) + data


def packed(field, numbers):
    return raw(field, b"".join(map(varint, numbers)))


def take_varint(data, at):
    n = shift = 0
    while True:
        byte = data[at]
        at += 1
        n |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return n, at


def fields(data):
    """Every field of a message: number → list of values."""
    out, at = {}, 0
    while at < len(data):
        key, at = take_varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = take_varint(data, at)
        elif kind == 2:
            size, at = take_varint(data, at)
            value, at = data[at:at + size], at + size
        else:
            raise ValueError(f"wire type {kind}")
        out.setdefault(key >> 3, []).append(value)
    return out


def get(message, field, default=0):
    return message.get(field, [default])[-1]


def unpack(message, field):
    out = []
    for value in message.get(field, []):
        if isinstance(value, int):
            out.append(value)
            continue
        at = 0
        while at < len(value):
            n, at = take_varint(value, at)
            out.append(n)
    return out


# -- frames --------------------------------------------------------------------------------

def frame(kind, control=b"", payload=b"", id=0, method=0, flags=0, credit=0, **wrong):
    """A frame's bytes; `wrong` sets header fields to what they should not be."""
    f = {"magic": MAGIC, "version": 1, "zero": 0, "control_len": len(control),
         "payload_len": len(payload), **wrong}
    return HEADER.pack(f["magic"], f["version"], kind, flags, method, f["zero"],
                       f["control_len"], id, f["payload_len"], credit) + control + payload


def hello(low=1, high=1, control=65536, payload=1 << 20, requests=16, window=1 << 20,
          instance=b""):
    return frame(HELLO, num(1, low) + num(2, high) + raw(3, "raw 1.0") + num(4, control) +
                 num(5, payload) + num(6, requests) + num(7, window) + num(8, 15000) +
                 raw(9, instance))


class Refused(Exception):
    """An answer with the error flag, or GOAWAY."""

    def __init__(self, control, goaway=False):
        message = fields(control)
        self.code = get(message, 1)
        self.text = get(message, 2, b"").decode()
        self.loss = get(message, 4)
        self.goaway = goaway
        super().__init__(f"{self.code}: {self.text}")


class Gone(Exception):
    """The connection is closed."""


class Raw:
    """A connection. `greet=False` sends no HELLO."""

    def __init__(self, sock, greet=True, **hello_args):
        self.sock = sock
        sock.settimeout(30)
        self.id = 0
        self.events = []
        self.answers = {}
        self.server = None
        self.credit = 0
        self.window = hello_args.get("window", 1 << 20)
        if greet:
            self.send(hello(**hello_args))
            while self.server is None:
                self.step()

    def close(self):
        self.sock.close()

    def send(self, data):
        try:
            self.sock.sendall(data)
        except (BrokenPipeError, ConnectionError, ssl.SSLError) as why:
            raise Gone(str(why)) from why

    def _read(self, size):
        got = b""
        while len(got) < size:
            try:
                piece = self.sock.recv(size - len(got))
            except (ConnectionError, ssl.SSLError) as why:
                raise Gone(str(why)) from why
            if not piece:
                raise Gone(f"closed after {len(got)} of {size} bytes")
            got += piece
        return got

    def read_frame(self):
        (magic, version, kind, flags, method, zero, control_len, ident, payload_len,
         credit) = HEADER.unpack(self._read(HEADER.size))
        assert magic == MAGIC and version == 1 and zero == 0, (magic, version, zero)
        control = self._read(control_len)
        payload = self._read(payload_len)
        return kind, flags, method, ident, control, payload, credit

    def step(self):
        """Take one frame and do what it asks for."""
        kind, flags, method, ident, control, payload, credit = self.read_frame()
        if kind == HELLO:
            assert self.server is None
            self.server = fields(control)
            self.credit = get(self.server, 7)
        elif kind == RESPONSE:
            if payload:
                self.send(frame(WINDOW, credit=len(payload)))
            self.answers[ident] = (flags, method, control, payload)
        elif kind == EVENT:
            self.events.append((method, fields(control)))
        elif kind == WINDOW:
            self.credit += credit
        elif kind == PING:
            self.send(frame(PONG, id=ident))
        elif kind == GOAWAY:
            raise Refused(control, goaway=True)
        return kind

    def ask(self, method, control=b"", payload=b""):
        """Send a request; its id."""
        while len(payload) > self.credit:
            self.step()
        self.credit -= len(payload)
        self.id += 1
        self.send(frame(REQUEST, control, payload, id=self.id, method=method))
        return self.id

    def answer(self, ident):
        while ident not in self.answers:
            self.step()
        flags, _, control, payload = self.answers.pop(ident)
        if flags & 1:
            raise Refused(control)
        return fields(control), payload

    def call(self, method, control=b"", payload=b""):
        return self.answer(self.ask(method, control, payload))

    def wait_event(self, method, timeout=20):
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            for event in self.events:
                if event[0] == method:
                    self.events.remove(event)
                    return event[1]
            self.step()
        raise AssertionError(f"no event {method}")

    # -- the requests that tests use often --

    def ping(self, data=b"x"):
        message, _ = self.call(M_PING, raw(1, data))
        assert get(message, 1, b"") == data

    def resolve(self, volume, snapshot=""):
        message, _ = self.call(M_RESOLVE, raw(1, volume) + (raw(2, snapshot) if snapshot else b""))
        return get(message, 1, b""), get(message, 2, b"")

    def create_volume(self, name, size, policy=0, uuid=None):
        uuid = uuid or os.urandom(16)
        self.call(M_VOLUME_CREATE, raw(1, uuid) + raw(2, name) + num(3, size) + num(5, policy))
        return uuid

    def create_snapshot(self, volume, name, chunk_sectors=8, limit=0, uuid=None):
        uuid = uuid or os.urandom(16)
        self.call(M_SNAPSHOT_CREATE, raw(1, volume) + raw(2, uuid) + raw(3, name) +
                  num(4, chunk_sectors) + num(5, limit))
        return uuid

    def acquire(self, volume, size, instance, epoch=0, steal=False, fingerprint=b"raw"):
        message, _ = self.call(M_LEASE_ACQUIRE, raw(1, volume) + raw(2, instance) + num(3, epoch) +
                               num(4, size) + raw(5, fingerprint) + num(7, int(steal)))
        return get(message, 2), get(message, 3, b"")

    def put_control(self, volume, epoch, head, olds, zeros=()):
        return (raw(1, volume) + num(2, epoch) + raw(3, head) + packed(4, olds) +
                (packed(5, zeros) if zeros else b""))

    def put(self, volume, epoch, head, olds, payload, zeros=()):
        """Returns (added, existed, {chunk: code})."""
        message, _ = self.call(M_COW_PUT, self.put_control(volume, epoch, head, olds, zeros),
                               payload)
        failed = dict(zip(unpack(message, 3), unpack(message, 4)))
        return get(message, 1), get(message, 2), failed

    def read_view(self, volume, snapshot, offset, length):
        """[(offset, kind, bytes)]: kind 0 has data, 1 is the origin's, 2 zeros."""
        out = []
        end = offset + length
        while offset < end:
            message, payload = self.call(M_SNAPSHOT_READ, raw(1, volume) + raw(2, snapshot) +
                                         num(3, offset) + num(4, min(end - offset, 1 << 20)))
            at = 0
            for extent in message.get(1, []):
                e = fields(extent)
                assert get(e, 1) == offset, (e, offset)
                size, kind = get(e, 2), get(e, 3)
                assert size > 0
                out.append((offset, kind, payload[at:at + size] if kind == 0 else size))
                at += size if kind == 0 else 0
                offset += size
            assert at == len(payload)
        return out

    def runs(self, volume, snapshot, own=True):
        out, start = [], 0
        while True:
            message, _ = self.call(M_RUN_LIST, raw(1, volume) + raw(2, snapshot) +
                                   num(3, int(own)) + num(4, start))
            olds, counts, news = (unpack(message, f) for f in (1, 2, 3))
            out += list(zip(olds, counts, news if own else olds))
            if not get(message, 4):
                return out
            start = get(message, 5)

    # -- hosted volumes; node b"" is the volume itself --

    def create_hosted(self, name, size, chunk_sectors=8, device="", uuid=None):
        uuid = uuid or os.urandom(16)
        self.call(M_VOLUME_CREATE, raw(1, uuid) + raw(2, name) + num(3, size) + num(4, 1) +
                  num(7, chunk_sectors) + (raw(8, device) if device else b""))
        return uuid

    @staticmethod
    def write_control(volume, offset, node=b"", fua=False):
        return raw(1, volume) + raw(2, node) + num(3, offset) + num(4, int(fua))

    def write(self, volume, offset, data, node=b"", fua=False):
        self.call(M_WRITE, self.write_control(volume, offset, node, fua), data)

    def zero(self, volume, offset, length, node=b"", fua=False, discard=False):
        self.call(M_ZERO, raw(1, volume) + raw(2, node) + num(3, offset) + num(4, length) +
                  num(5, int(fua)) + num(6, int(discard)))

    @staticmethod
    def flush_control(volume, node=b"", heard=None):
        return raw(1, volume) + raw(2, node) + (num(3, heard) if heard is not None else b"")

    def flush(self, volume, node=b"", heard=None):
        self.call(M_FLUSH, self.flush_control(volume, node, heard))

    def read(self, volume, offset, length, node=b""):
        """The content, every byte of it."""
        out = b""
        for at, kind, data in self.read_view(volume, node, offset, length):
            assert at == offset + len(out) and kind in (0, 2), (at, kind)
            out += data if kind == 0 else bytes(data)
        return out

    def extents(self, volume, offset, length, node=b"", most=0):
        """[(offset, length, kind)] that cover the range."""
        out, end = [], offset + length
        while offset < end:
            message, _ = self.call(M_EXTENT_LIST, raw(1, volume) + raw(2, node) + num(3, offset) +
                                   num(4, end - offset) + num(5, most))
            found = [fields(e) for e in message.get(1, [])]
            assert found and (not most or len(found) <= most)
            for e in found:
                assert get(e, 1) == offset and 0 < get(e, 2) <= end - offset, (e, offset)
                out.append((offset, get(e, 2), get(e, 3)))
                offset += get(e, 2)
        return out

    def diff(self, volume, older, newer=b"", most=0):
        """The chunks, as a set."""
        out, start = set(), 0
        while True:
            message, _ = self.call(M_DIFF, raw(1, volume) + raw(2, older) +
                                   (raw(3, newer) if newer else b"") + num(4, start) +
                                   num(5, most))
            for old, count in zip(unpack(message, 1), unpack(message, 2)):
                assert old >= start
                out.update(range(old, old + count))
            if not get(message, 4):
                return out
            assert get(message, 5) > start
            start = get(message, 5)

    def create_clone(self, volume, snapshot, name, uuid=None, limit=0):
        uuid = uuid or os.urandom(16)
        message, _ = self.call(M_CLONE_CREATE, raw(1, volume) + raw(2, snapshot) + raw(3, uuid) +
                               raw(4, name) + num(5, limit))
        assert get(message, 1, b"") == uuid and get(message, 20) == 1, message
        return uuid

    def delete_snapshot(self, volume, snapshot):
        self.call(M_SNAPSHOT_DELETE, raw(1, volume) + raw(2, snapshot) + raw(3, os.urandom(16)))

    def create_group(self, members, uuid=None):
        """members: [(volume, snapshot, name)]. Returns their answers' messages."""
        control = raw(1, uuid or os.urandom(16))
        for volume, snapshot, name in members:
            control += raw(2, raw(1, volume) + raw(2, snapshot) + raw(3, name))
        message, _ = self.call(M_GROUP_CREATE, control)
        return [fields(s) for s in message.get(1, [])]

    def rollback(self, volume, snapshot, job=None, merge=False, drop_newer=False):
        """Begin it; the job's uuid."""
        job = job or os.urandom(16)
        self.call(M_ROLLBACK, raw(1, volume) + raw(2, snapshot) + raw(3, job) +
                  num(4, int(merge)) + num(5, int(drop_newer)))
        return job

    def job(self, volume, job):
        message, _ = self.call(M_JOB_SHOW, raw(1, volume) + raw(2, job))
        return message

    def jobs(self, volume=b""):
        return self.pages(M_JOB_LIST, volume)

    def wait_job(self, volume, job, timeout=60):
        """Until it is over; its last state."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            state = get(self.job(volume, job), 7, b"").decode()
            if state in ("done", "failed", "cancelled"):
                return state
            time.sleep(0.02)
        raise AssertionError(f"the job does not end: {self.job(volume, job)}")

    def wait_writable(self, volume, offset, data, timeout=60):
        """Write, as soon as a rollback that may be under way has ended."""
        end = time.monotonic() + timeout
        while True:
            try:
                return self.write(volume, offset, data)
            except Refused as why:
                if why.code != EBUSY or time.monotonic() > end:
                    raise
            time.sleep(0.02)

    def snapshots(self, volume):
        """Name → message, as VOLUME_SHOW has them, however many."""
        return {get(s, 3, b"").decode(): s for s in self.snapshot_pages(volume)}

    def snapshot_pages(self, volume, page=200):
        """By seq, gathered from answers of so many at most."""
        found, more = [], True
        while more:
            seq = get(found[-1], 22) if found else 0
            message, _ = self.call(M_VOLUME_SHOW, raw(1, volume) + num(3, seq) + num(4, page))
            found += [fields(s) for s in message.get(7, [])]
            more = get(message, 13)
        return found

    def pages(self, method, volume=b"", page=100):
        """The entries of a list, gathered from answers of so many at most."""
        found, after = [], b""
        while True:
            message, _ = self.call(method, raw(1, volume) + raw(2, after) + num(3, page))
            found += [fields(entry) for entry in message.get(1, [])]
            after = get(message, 2, b"")
            if not after:
                return found


def connect_unix(path, **kwargs):
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(30)
    sock.connect(path)
    return Raw(sock, **kwargs)


def tls_context(pki, identity="ann", certificate=True):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(f"{pki}/ca.crt")
    if certificate:
        context.load_cert_chain(f"{pki}/client-{identity}.crt", f"{pki}/client-{identity}.key")
    return context


def connect_tls(port, context, server_name="localhost", **kwargs):
    sock = socket.create_connection(("127.0.0.1", port), timeout=30)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        return Raw(context.wrap_socket(sock, server_hostname=server_name), **kwargs)
    except BaseException:
        sock.close()
        raise
