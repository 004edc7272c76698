# SPDX-License-Identifier: Apache-2.0
"""The daemon against a client written from docs/protocol.md, well-behaved and hostile."""

import collections
import glob
import os
import re
import socket
import ssl
import struct
import time

import rawclient as rc
from harness import Case, seed
from rawclient import Gone, Refused, connect_tls, connect_unix, frame, num, raw

KIB = 1 << 10
MIB = 1 << 20
CHUNK = 4096
SHORT = ("timeouts { handshake_timeout_ms = 600\n frame_timeout_ms = 800\n keepalive_ms = 600 }\n")
REQUESTS = [m for m in vars(rc).items() if m[0].startswith("M_")]


class ProtocolCase(Case):
    config = ""
    tls = False

    def setUp(self):
        super().setUp()
        self.d = self.up(tls=self.tls, config=self.config)
        self.raws = []
        self.addCleanup(lambda: [r.close() for r in self.raws])

    def connect(self, **kwargs):
        r = connect_unix(self.d.socket, **kwargs)
        self.raws.append(r)
        return r

    def socket(self):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(30)
        sock.connect(self.d.socket)
        return sock

    def assert_serves(self):
        self.assertIsNone(self.d.process.poll(), "the daemon ended:\n" + self.d.log()[-4000:])
        r = connect_unix(self.d.socket)
        r.ping()
        r.close()

    def rss_kib(self):
        with open(f"/proc/{self.d.process.pid}/status", encoding="ascii") as f:
            return int(next(x for x in f if x.startswith("VmRSS")).split()[1])

    def open_files(self):
        """What the daemon has open, each kind so many times: a failure tells which is too much."""
        kinds = collections.Counter()
        for fd in glob.glob(f"/proc/{self.d.process.pid}/fd/*"):
            try:
                kinds[re.sub(r":\[\d+\]$", "", os.readlink(fd))] += 1
            except FileNotFoundError:
                pass
        return kinds

    def settle(self, what, want, timeout=10):
        """Wait until what() is `want`."""
        end = time.monotonic() + timeout
        while (got := what()) != want and time.monotonic() < end:
            time.sleep(0.05)
        # not another look: a record that is being written is a file too
        self.assertEqual(got, want)

    def wait_closed(self, sock, timeout):
        """Seconds until the daemon closes; what it says meanwhile is read away."""
        begin = time.monotonic()
        sock.settimeout(timeout)
        try:
            while sock.recv(65536):
                pass
        except ConnectionError:
            pass
        except TimeoutError:
            self.fail(f"still open after {timeout} s")
        return time.monotonic() - begin

    def violation(self, data, code=rc.EPROTO, greet=True):
        """What is sent is answered by GOAWAY or a closed connection, nothing else, and others are
        served on."""
        r = self.connect(greet=greet)
        with self.assertRaises((Gone, Refused)) as got:
            r.send(data)
            for _ in range(50):
                r.step()
        if isinstance(got.exception, Refused):
            self.assertTrue(got.exception.goaway)
            self.assertEqual(got.exception.code, code, got.exception.text)
            self.assertTrue(got.exception.text)
            with self.assertRaises(Gone):  # and then it closes
                while True:
                    r.step()
        self.assert_serves()
        return got.exception


class SecondClient(ProtocolCase):
    """The documents are enough: a volume's life, without libsnapwire."""

    def setUp(self):
        super().setUp()
        self.rng = seed()

    def writer(self, size=MIB, chunk_sectors=8, name="v"):
        r = self.connect()
        volume = r.create_volume(name, size)
        head = r.create_snapshot(volume, "s", chunk_sectors)
        epoch, leased_head = r.acquire(volume, size, b"i" * 16)
        self.assertEqual(leased_head, head)
        self.assertGreater(epoch, 0)
        return r, volume, head, epoch

    def test_hello_tells_limits_and_status_who_we_are(self):
        r = self.connect()
        self.assertEqual((rc.get(r.server, 1), rc.get(r.server, 2)), (1, 1))
        self.assertRegex(rc.get(r.server, 3, b"").decode(), r"^snapwired \d")
        self.assertGreaterEqual(rc.get(r.server, 4), 1024)
        self.assertGreaterEqual(rc.get(r.server, 5), 512)
        self.assertGreaterEqual(rc.get(r.server, 6), 1)
        self.assertGreaterEqual(rc.get(r.server, 7), 65536)
        self.assertEqual(len(rc.get(r.server, 9, b"")), 16)
        message, _ = r.call(rc.M_STATUS)
        self.assertEqual(rc.get(message, 17, b""), f"uid:{os.getuid()}".encode())

    def test_put_read_back_and_the_first_content_wins(self):
        size = 64 * CHUNK + 512  # the last chunk is cut
        r, volume, head, epoch = self.writer(size)
        old = {c: self.rng.randbytes(CHUNK) for c in (7, 3, 4, 60)}
        old[64] = self.rng.randbytes(512).ljust(CHUNK, b"\0")
        got = r.put(volume, epoch, head, list(old), b"".join(old.values()), zeros=[10, 11])
        self.assertEqual(got, (7, 0, {}))
        again = [4, 20, 64]
        got = r.put(volume, epoch, head, again, self.rng.randbytes(3 * CHUNK), zeros=[10])
        self.assertEqual(got[:2], (1, 3))
        content = {}
        for offset, kind, data in r.read_view(volume, head, 0, 64 * CHUNK + 512):
            length = len(data) if kind == 0 else data
            for at in range(offset, offset + length, CHUNK):
                content[at // CHUNK] = (kind, data[at - offset:at - offset + CHUNK]
                                        if kind == 0 else None)
        for c in range(65):
            kind, data = content[c]
            if c in old:
                self.assertEqual((kind, data), (0, old[c][:512] if c == 64 else old[c]), c)
            elif c in (10, 11):
                self.assertTrue(kind == 2 or data == bytes(CHUNK), c)
            elif c != 20:
                self.assertEqual(kind, 1, c)
        chunks = {old + i for old, count, _ in r.runs(volume, head) for i in range(count)}
        self.assertEqual(chunks, set(old) | {10, 11, 20})

    def test_what_it_put_the_library_exports(self):
        size = 32 * CHUNK
        r, volume, head, epoch = self.writer(size)
        first = self.image("first", size, self.rng)
        with open(first, "rb") as f:
            data = f.read()
        origin = self.path("origin")
        with open(origin, "wb") as f:
            f.write(self.rng.randbytes(size))
        r.put(volume, epoch, head, range(32), data)
        # it names its origin in a way of its own
        self.remote("export", "v@s", "--origin", origin, "-o", self.path("out"), "--new-origin")
        self.assert_same(self.path("out"), first)

    def test_a_merge_by_hand(self):
        r, volume, head, epoch = self.writer(64 * CHUNK)
        olds = [5, 6, 7, 20]
        r.put(volume, epoch, head, olds, self.rng.randbytes(4 * CHUNK))
        ref = raw(1, volume) + raw(2, head) + num(3, epoch)
        state, _ = r.call(rc.M_MERGE_BEGIN, ref)
        self.assertEqual((rc.get(state, 1), rc.get(state, 2)), (0, 4))
        with self.assertRaises(Refused) as got:
            r.put(volume, epoch, head, [30], bytes(CHUNK))
        self.assertEqual(got.exception.code, rc.EBUSY)
        seen = []
        with self.assertRaises(Refused) as got:
            r.call(rc.M_MERGE_END, ref)
        self.assertEqual(got.exception.code, rc.EBUSY)
        while True:
            run, _ = r.call(rc.M_MERGE_PREPARE, ref)
            count, table = rc.get(run, 3), rc.get(run, 4)
            if count == 0:
                break
            seen += range(rc.get(run, 1), rc.get(run, 1) + count)
            with self.assertRaises(Refused) as got:  # compare-and-set
                r.call(rc.M_MERGE_COMMIT, ref + num(4, table + 1) + num(5, count))
            self.assertEqual(got.exception.code, rc.EMISMATCH)
            r.call(rc.M_MERGE_COMMIT, ref + num(4, table) + num(5, count))
        self.assertEqual(sorted(seen), olds)
        r.call(rc.M_MERGE_END, ref)
        try:
            r.call(rc.M_MERGE_END, ref)
        except Refused as refused:  # done is done, in either way of saying it
            self.assertEqual(refused.code, rc.ENOENT)
        with self.assertRaises(Refused) as got:
            r.call(rc.M_SNAPSHOT_SHOW, raw(1, volume) + raw(2, head))
        self.assertEqual(got.exception.code, rc.ENOENT)

    def test_a_new_head_beside_a_live_writer(self):
        r, volume, head, epoch = self.writer()
        r.put(volume, epoch, head, [1], bytes([1]) * CHUNK)
        other = self.connect()
        new = os.urandom(16)
        ident = other.ask(rc.M_SNAPSHOT_CREATE, raw(1, volume) + raw(2, new) + raw(3, "t"))
        event = r.wait_event(rc.E_QUIESCE)
        self.assertEqual((rc.get(event, 1, b""), rc.get(event, 2)), (volume, epoch))
        r.put(volume, epoch, head, [2], bytes([2]) * CHUNK)  # still the old head's
        lease, _ = r.call(rc.M_HEAD_READY, raw(1, volume) + num(2, epoch) + raw(3, head))
        self.assertEqual(rc.get(lease, 3, b""), new)
        other.answer(ident)
        with self.assertRaises(Refused) as got:
            r.put(volume, epoch, head, [3], bytes([3]) * CHUNK)
        self.assertEqual(got.exception.code, rc.ESTALE)
        r.put(volume, rc.get(lease, 2), new, [1], bytes([9]) * CHUNK)
        view = r.read_view(volume, head, CHUNK, CHUNK)
        self.assertEqual(view, [(CHUNK, 0, bytes([1]) * CHUNK)])
        view = r.read_view(volume, new, CHUNK, CHUNK)
        self.assertEqual(view, [(CHUNK, 0, bytes([9]) * CHUNK)])

    def test_wrong_puts_are_refused_whole_and_the_connection_stays(self):
        r, volume, head, epoch = self.writer(64 * CHUNK)
        one = self.rng.randbytes(CHUNK)
        cases = [
            (rc.ESTALE, (volume, epoch + 1, head, [1]), one),
            (rc.ESTALE, (volume, epoch - 1, head, [1]), one),
            (rc.ESTALE, (volume, epoch, os.urandom(16), [1]), one),
            (rc.ENOENT, (os.urandom(16), epoch, head, [1]), one),
            (rc.EINVAL, (volume[:15], epoch, head, [1]), one),
            (rc.EINVAL, (volume, epoch, head, [64]), one),
            (rc.EINVAL, (volume, epoch, head, [(1 << 64) - 1]), one),
            (rc.EINVAL, (volume, epoch, head, [1, 2]), one),
            (rc.EINVAL, (volume, epoch, head, [1]), one * 2),
            (rc.EINVAL, (volume, epoch, head, [1]), one[:-512]),
            (rc.EINVAL, (volume, epoch, head, [1]), b""),
            (rc.EINVAL, (volume, epoch, head, [], [1 << 40]), b""),
            (rc.EINVAL, (volume, epoch, head, []), one),
        ]
        for code, args, payload in cases:
            with self.subTest(code=code, olds=args[3:], payload=len(payload)):
                with self.assertRaises(Refused) as got:
                    r.put(*args[:4], payload, *args[4:])
                self.assertFalse(got.exception.goaway, got.exception)
                self.assertEqual(got.exception.code, code, got.exception.text)
                r.ping()
        self.assertEqual(r.runs(volume, head), [])
        # nothing at all, and a chunk twice, are decided one way or the other, but not by a crash
        for args in (([], b""), ([5, 5], one * 2)):
            try:
                r.put(volume, epoch, head, *args)
            except Refused as refused:
                self.assertEqual(refused.code, rc.EINVAL)

    def test_reads_outside_the_volume_are_refused(self):
        r, volume, head, _ = self.writer(64 * CHUNK)
        for offset, length in ((64 * CHUNK, 512), (0, 0), (1, 512), (0, 511), (63 * CHUNK, 8192),
                               ((1 << 64) - 512, 512), ((1 << 64) - 512, 1024),
                               (0, (1 << 32) - 512)):
            with self.assertRaises(Refused) as got:
                r.call(rc.M_SNAPSHOT_READ, raw(1, volume) + raw(2, head) + num(3, offset) +
                       num(4, length))
            self.assertEqual(got.exception.code, rc.EINVAL, (offset, length))
        r.ping()

    def test_a_disconnect_in_the_middle_of_a_put_leaves_all_or_nothing_of_a_chunk(self):
        r, volume, head, epoch = self.writer(256 * CHUNK)
        instance = b"i" * 16
        content, tried = {}, {}  # a put that came whole may be carried out later

        def look(when):
            for offset, kind, got in r.read_view(volume, head, 0, 256 * CHUNK):
                for at in range(0, len(got) if kind == 0 else 0, CHUNK):
                    c = (offset + at) // CHUNK
                    piece = got[at:at + CHUNK]
                    self.assertTrue(piece in tried.get(c, []), f"chunk {c}, {when}")
                    self.assertTrue(piece == content.setdefault(c, piece), f"chunk {c} changed")

        for turn in range(25):
            olds = self.rng.sample(range(256), 16)
            payload = {c: self.rng.randbytes(CHUNK) for c in olds}
            for c in olds:
                tried.setdefault(c, []).append(payload[c])
            data = frame(rc.REQUEST, r.put_control(volume, epoch, head, olds),
                         b"".join(payload.values()), id=99, method=rc.M_COW_PUT)
            r.send(data[:len(data) if turn % 3 else self.rng.randrange(1, len(data))])
            r.close()
            r = self.connect()
            self.assertEqual(r.acquire(volume, 256 * CHUNK, instance, epoch=epoch), (epoch, head))
            look(f"turn {turn}")
        # all of that takes less time than the first commit may: it is seen when it is durable
        end, seen = time.monotonic() + 20, -1
        while (not content or len(content) != seen) and time.monotonic() < end:
            seen = len(content)
            time.sleep(0.1)
            look("at the end")
        self.assertTrue(content, "no put ever arrived whole")


class Requests(ProtocolCase):
    """Wrong requests in sound frames: an answer with a code, and the connection stays."""

    def refused(self, r, code, method, control=b"", payload=b""):
        with self.assertRaises(Refused) as got:
            r.call(method, control, payload)
        self.assertFalse(got.exception.goaway, (method, got.exception))
        codes = code if isinstance(code, tuple) else (code,)
        self.assertIn(got.exception.code, codes, (method, got.exception.text))
        self.assertTrue(got.exception.text, method)

    def test_unknown_methods(self):
        r = self.connect()
        for method in (0, 3, 9, 29, 37, 54, 61, 75, 83, 99, 100, 101, 255, 256, 65535):
            self.refused(r, rc.ENOTSUP, method)
            self.refused(r, (rc.ENOTSUP, rc.EPROTO), method, b"\xff\xff", b"x" * 512)
        r.ping()

    def test_control_that_is_not_the_message(self):
        r = self.connect()
        for name, method in REQUESTS:
            for control in (b"\xff" * 20, b"\x0a\x7f", b"\x0a\xff\xff\xff\xff\x0f", b"\x07",
                            b"\x0a" + b"\x80" * 11):
                if name == "M_STATUS" and control == b"\x07":
                    continue
                self.refused(r, rc.EPROTO, method, control)
        r.ping()

    def test_payload_where_there_is_none(self):
        r = self.connect()
        for name, method in REQUESTS:
            if name not in ("M_COW_PUT", "M_WRITE"):
                self.refused(r, rc.EPROTO, method, b"", b"x" * 4096)
        r.ping()

    def test_empty_messages_and_uuids_of_a_wrong_length(self):
        r = self.connect()
        for name, method in REQUESTS:
            if name in ("M_PING", "M_STATUS", "M_VOLUME_LIST", "M_GRANT_LIST", "M_JOB_LIST"):
                r.call(method)
                continue
            self.refused(r, (rc.EINVAL, rc.ENOENT), method)
            for size in (1, 15, 17, 4000):  # some have a number in field 2
                self.refused(r, (rc.EINVAL, rc.ENOENT, rc.EPROTO), method,
                             raw(1, b"u" * size) + raw(2, b"u" * size))
        r.ping()

    def test_uuids_that_nobody_has(self):
        r = self.connect()
        a, b = os.urandom(16), os.urandom(16)
        for method in (rc.M_VOLUME_SHOW, rc.M_SNAPSHOT_SHOW, rc.M_SNAPSHOT_CHECK, rc.M_RUN_LIST):
            more = b"" if method == rc.M_VOLUME_SHOW else raw(2, b)
            self.refused(r, rc.ENOENT, method, raw(1, a) + more)
        self.refused(r, rc.ENOENT, rc.M_SNAPSHOT_CREATE, raw(1, a) + raw(2, b) + raw(3, "s"))
        self.refused(r, rc.ENOENT, rc.M_LEASE_ACQUIRE, raw(1, a) + raw(2, b) + num(4, 4096))

    def test_names_that_cannot_be(self):
        r = self.connect()
        for name in ("", ".", "..", "a/b", "/etc/passwd", "a\nb", "a b", "-x", "x" * 129,
                     "v@s", "ä", "\x7f", "a\x1b[31m"):
            self.refused(r, rc.EINVAL, rc.M_VOLUME_CREATE,
                         raw(1, os.urandom(16)) + raw(2, name) + num(3, MIB))
        volume = r.create_volume("v", MIB)
        for name in ("", "..", "a/b", "x" * 129, "a\nb"):
            self.refused(r, rc.EINVAL, rc.M_SNAPSHOT_CREATE,
                         raw(1, volume) + raw(2, os.urandom(16)) + raw(3, name))
        self.refused(r, (rc.EINVAL, rc.EPROTO), rc.M_RESOLVE, raw(1, b"\xff\xfe"))

    def test_sizes_and_numbers_that_cannot_be(self):
        r = self.connect()
        for size in (0, 1, 511, 513, (1 << 60) + 512, (1 << 64) - 512, (1 << 64) - 1):
            self.refused(r, rc.EINVAL, rc.M_VOLUME_CREATE,
                         raw(1, os.urandom(16)) + raw(2, "v") + num(3, size))
        volume = r.create_volume("v", MIB)
        for chunk in (3, 65536, (1 << 32) - 1):
            self.refused(r, rc.EINVAL, rc.M_SNAPSHOT_CREATE, raw(1, volume) +
                         raw(2, os.urandom(16)) + raw(3, "s") + num(4, chunk))
        self.refused(r, rc.EMISMATCH, rc.M_LEASE_ACQUIRE,
                     raw(1, volume) + raw(2, b"i" * 16) + num(4, MIB + 512))
        self.refused(r, rc.EINVAL, rc.M_LEASE_ACQUIRE,
                     raw(1, volume) + raw(2, b"i" * 16) + num(4, MIB) + raw(5, b"f" * 65))
        r.ping()

    def test_create_again_with_the_same_uuid_is_the_same_and_with_another_exists(self):
        r = self.connect()
        volume = r.create_volume("v", MIB)
        self.assertEqual(r.create_volume("v", MIB, uuid=volume), volume)
        self.refused(r, rc.EEXIST, rc.M_VOLUME_CREATE, raw(1, volume) + raw(2, "v") + num(3, 512))
        self.refused(r, rc.EEXIST, rc.M_VOLUME_CREATE,
                     raw(1, os.urandom(16)) + raw(2, "v") + num(3, MIB))
        s = r.create_snapshot(volume, "s")
        self.assertEqual(r.create_snapshot(volume, "s", uuid=s), s)
        self.refused(r, rc.EEXIST, rc.M_SNAPSHOT_CREATE,
                     raw(1, volume) + raw(2, os.urandom(16)) + raw(3, "s"))

    def test_a_deletion_again_with_its_key_is_done_and_with_another_not_found(self):
        r = self.connect()
        volume = r.create_volume("v", MIB)
        s = r.create_snapshot(volume, "s")
        key = os.urandom(16)
        for _ in range(3):
            r.call(rc.M_SNAPSHOT_DELETE, raw(1, volume) + raw(2, s) + raw(3, key))
        self.refused(r, rc.ENOENT, rc.M_SNAPSHOT_DELETE,
                     raw(1, volume) + raw(2, s) + raw(3, os.urandom(16)))
        self.refused(r, rc.ESTALE, rc.M_SNAPSHOT_CREATE,
                     raw(1, volume) + raw(2, s) + raw(3, "s") + num(4, 8))
        for _ in range(3):
            r.call(rc.M_VOLUME_DELETE, raw(1, volume) + raw(3, key))
        self.refused(r, rc.ENOENT, rc.M_VOLUME_DELETE, raw(1, volume) + raw(3, os.urandom(16)))

    def test_answers_come_for_every_one_of_many_in_flight(self):
        r = self.connect()
        limit = min(rc.get(r.server, 6), 200)
        ids = [r.ask(rc.M_PING, raw(1, str(i))) for i in range(limit)]
        for i, ident in enumerate(ids):
            self.assertEqual(rc.get(r.answer(ident)[0], 1), str(i).encode())


class Frames(ProtocolCase):
    """Broken frames: GOAWAY or a closed connection, and others are served on."""

    config = "limits { window = 1M\n buffers = 32M\n requests_per_connection = 8 }\n"

    def test_header_fields_that_are_wrong(self):
        ping = raw(1, b"x")
        for what, data in {
            "magic": frame(rc.REQUEST, ping, id=1, method=1, magic=b"SnAp"),
            "version": frame(rc.REQUEST, ping, id=1, method=1, version=2),
            "zero": frame(rc.REQUEST, ping, id=1, method=1, zero=1),
            "kind 0": frame(0),
            "kind 9": frame(9),
            "kind 255": frame(255, ping),
            "flags": frame(rc.REQUEST, ping, id=1, method=1, flags=2),
            "error flag on a request": frame(rc.REQUEST, ping, id=1, method=1, flags=1),
            "credit on a request": frame(rc.REQUEST, ping, id=1, method=1, credit=5),
            "response from a client": frame(rc.RESPONSE, id=1, method=1),
            "event from a client": frame(rc.EVENT, method=100),
            "hello twice": rc.hello(),
            "window with payload": frame(rc.WINDOW, b"", b"x", credit=1),
            "window too much": frame(rc.WINDOW, credit=1),
            "window 0xffffffff": frame(rc.WINDOW, credit=0xFFFFFFFF),
            "ping with control": frame(rc.PING, b"x", id=1),
            "pong with method": frame(rc.PONG, id=1, method=5),
            "control too long": frame(rc.REQUEST, id=1, method=1, control_len=1 << 20),
            "control 0xffffffff": frame(rc.REQUEST, id=1, method=1, control_len=0xFFFFFFFF),
            "payload too long": frame(rc.REQUEST, id=1, method=60, payload_len=17 << 20),
            "payload 0xffffffff": frame(rc.REQUEST, id=1, method=60, payload_len=0xFFFFFFFF),
            "goaway too long": frame(rc.GOAWAY, b"\x12\xff\x7f" + b"x" * 16383),
        }.items():
            with self.subTest(what):
                self.violation(data)

    def test_id_used_again_while_it_is_unanswered(self):
        r = self.connect()
        try:
            r.send(frame(rc.REQUEST, raw(1, b"a"), id=5, method=1) * 4)
            for _ in range(4):
                r.step()
        except (Refused, Gone):
            pass
        self.assert_serves()

    def test_garbage_before_hello(self):
        for data in (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"\0" * 64, b"\xff" * 4096,
                     frame(rc.REQUEST, raw(1, b"x"), id=1, method=1),
                     frame(rc.PING, id=1), frame(rc.WINDOW, credit=1),
                     frame(rc.HELLO, control_len=4097),
                     frame(rc.HELLO, b"\xff" * 9),
                     rc.hello(low=2, high=9), rc.hello(low=0, high=0), rc.hello(low=5, high=2),
                     rc.hello(control=10), rc.hello(payload=1), rc.hello(requests=0),
                     rc.hello(window=5)):
            with self.subTest(data[:40]):
                self.violation(data, greet=False)

    def test_a_version_range_that_holds_ours_is_fine(self):
        self.connect(low=0, high=4000000000).ping()

    def test_more_payload_than_credit(self):
        r = self.connect()
        window = rc.get(r.server, 7)
        self.assertEqual(window, MIB)
        volume = r.create_volume("v", 8 * MIB)
        head = r.create_snapshot(volume, "s", 2048)
        epoch, _ = r.acquire(volume, 8 * MIB, b"i" * 16)
        try:  # each alone fills the window; the daemon may be quick and have given it back
            for i in range(8):
                r.send(frame(rc.REQUEST, r.put_control(volume, epoch, head, [i]), b"x" * window,
                             id=100 + i, method=rc.M_COW_PUT))
            for i in range(8):
                r.answer(100 + i)
        except Refused as refused:
            self.assertTrue(refused.goaway)
            self.assertEqual(refused.code, rc.EPROTO, refused.text)
        except Gone:
            pass
        self.assert_serves()

    def test_more_requests_than_allowed(self):
        r = self.connect()
        self.assertEqual(rc.get(r.server, 6), 8)
        # sent as one piece, so that they are there before the first is answered
        data = b"".join(frame(rc.REQUEST, raw(1, b"y"), id=i + 1, method=1) for i in range(64))
        try:
            r.send(data)
            for _ in range(64):
                r.step()
        except Refused as refused:
            self.assertIn(refused.code, (rc.EPROTO, rc.ELIMIT))
        except Gone:
            pass
        self.assert_serves()

    def test_every_cut_of_a_session(self):
        r = self.connect()
        volume = r.create_volume("v", MIB)
        head = r.create_snapshot(volume, "s")
        files = self.open_files()
        session = rc.hello() + frame(rc.REQUEST, raw(1, "v"), id=1, method=rc.M_RESOLVE)
        session += frame(rc.REQUEST, raw(1, volume) + raw(2, b"i" * 16) + num(4, MIB), id=2,
                         method=rc.M_LEASE_ACQUIRE)
        session += frame(rc.REQUEST, r.put_control(volume, 1, head, [1]), b"z" * CHUNK, id=3,
                         method=rc.M_COW_PUT)
        cuts = list(range(0, 400, 3)) + list(range(400, len(session), 97)) + [len(session)]
        for cut in cuts:
            sock = self.socket()
            try:
                sock.sendall(session[:cut])
            except (BrokenPipeError, ConnectionError):
                pass
            sock.close()
        self.settle(self.open_files, files)
        r.ping()

    def test_random_garbage(self):
        rng = seed()
        files = self.open_files()
        sound = rc.hello() + frame(rc.REQUEST, raw(1, b"x"), id=1, method=1) * 3
        for _ in range(300):
            data = bytearray(sound + frame(rc.REQUEST, rng.randbytes(40), id=9,
                                           method=rng.randrange(120)))
            for _ in range(rng.randrange(1, 6)):
                data[rng.randrange(len(data))] = rng.randrange(256)
            if rng.randrange(4) == 0:
                data = bytearray(rng.randbytes(rng.randrange(1, 300)))
            sock = self.socket()
            try:
                sock.sendall(bytes(data))
                sock.shutdown(socket.SHUT_WR)
                sock.settimeout(5)
                while sock.recv(65536):
                    pass
            except OSError:
                pass
            sock.close()
        self.settle(self.open_files, files)
        self.assert_serves()

    def test_promised_payloads_cost_no_memory_before_they_come(self):
        before = self.rss_kib()
        socks = []
        for _ in range(100):
            sock = self.socket()
            socks.append(sock)
            sock.sendall(rc.hello() + frame(rc.REQUEST, b"", b"x" * 100, id=1, method=rc.M_COW_PUT,
                                            payload_len=MIB))
        self.assert_serves()
        grown = self.rss_kib() - before
        for sock in socks:
            sock.close()
        # 100 promises of 1 MiB; the configuration allows 32 MiB of buffers a shard
        self.assertLess(grown, 48 * 1024 * (4 if "asan" in self.build_kind() else 1))

    def build_kind(self):
        with open(f"/proc/{self.d.process.pid}/maps", encoding="ascii") as f:
            return "asan" if "libasan" in f.read() else "plain"


class Slow(ProtocolCase):
    """Silent, slow and stubborn peers are dropped in time; lively ones are kept."""

    config = SHORT + "shards = 2\nlimits { buffers = 64M }\n"

    def test_a_peer_that_says_nothing(self):
        sock = self.socket()
        self.assertLess(self.wait_closed(sock, 5), 3)
        sock.close()
        self.assert_serves()

    def test_a_hello_that_comes_byte_by_byte(self):
        sock = self.socket()
        data, begin = rc.hello(), time.monotonic()
        with self.assertRaises((ConnectionError, AssertionError)):
            for i, _ in enumerate(data):
                sock.sendall(data[i:i + 1])
                time.sleep(0.1)
                self.assertLess(time.monotonic() - begin, 4)
            self.fail("it was let in")
        sock.close()
        self.assertLess(time.monotonic() - begin, 4)
        self.assert_serves()

    def test_silence_after_hello_is_pinged_and_then_dropped(self):
        sock = self.socket()
        sock.sendall(rc.hello())
        got = b""
        begin = time.monotonic()
        sock.settimeout(8)
        try:
            while piece := sock.recv(65536):
                got += piece
        except ConnectionError:
            pass
        self.assertLess(time.monotonic() - begin, 6)
        self.assertIn(rc.MAGIC + bytes([1, rc.PING]), got)
        self.assert_serves()

    def test_who_answers_pings_is_kept(self):
        r = self.connect()
        end = time.monotonic() + 2.5
        r.sock.settimeout(0.2)
        pings = 0
        while time.monotonic() < end:
            try:
                pings += r.step() == rc.PING
            except TimeoutError:
                pass
        self.assertGreaterEqual(pings, 2)
        r.sock.settimeout(30)
        r.ping()

    def test_a_frame_that_drips(self):
        r = self.connect()
        data = frame(rc.REQUEST, raw(1, b"x" * 2000), id=1, method=1)
        begin = time.monotonic()
        try:
            for i in range(0, len(data), 10):
                r.sock.sendall(data[i:i + 10])
                time.sleep(0.05)
        except ConnectionError:
            pass
        else:
            self.fail("it was let through in %.1f s" % (time.monotonic() - begin))
        self.assertLess(time.monotonic() - begin, 5)
        self.assert_serves()

    def test_a_reader_that_does_not_read(self):
        """Answers pile up for it: within bounds, and not for ever."""
        setup = self.connect()
        volume = setup.create_volume("v", 4 * MIB)
        head = setup.create_snapshot(volume, "s", 128)
        epoch, _ = setup.acquire(volume, 4 * MIB, b"i" * 16)
        for i in range(0, 64, 8):
            setup.put(volume, epoch, head, range(i, i + 8), os.urandom(8 * 65536))
        before = self.rss_kib()
        sock = self.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.sendall(rc.hello(payload=16 * MIB, window=64 * MIB))
        read = raw(1, volume) + raw(2, head) + num(3, 0) + num(4, MIB)
        sock.settimeout(1)
        most = 0
        begin = time.monotonic()
        try:
            for i in range(1000):
                sock.sendall(frame(rc.REQUEST, read, id=i + 1, method=rc.M_SNAPSHOT_READ))
        except (TimeoutError, ConnectionError):
            pass
        while time.monotonic() - begin < 8:
            most = max(most, self.rss_kib() - before)
            if b"" == self._peek(sock):
                break
            setup.ping()
            time.sleep(0.1)
        else:
            self.fail("it is still there after 8 s")
        self.assertLess(most, 2 * 64 * 1024 + 32 * 1024)  # two shards' buffers and a little
        sock.close()
        self.assert_serves()

    @staticmethod
    def _peek(sock):
        """b"" when the other side has gone, whatever is still to be read."""
        try:
            sock.sendall(frame(rc.PONG, id=1))
        except TimeoutError:
            return None
        except ConnectionError:
            return b""
        return None

    def test_a_crowd_of_slow_ones_does_not_keep_others_out(self):
        socks = [self.socket() for _ in range(200)]
        begin = time.monotonic()
        self.assert_serves()
        self.assertLess(time.monotonic() - begin, 2)
        for sock in socks:
            sock.close()


class OverTls(ProtocolCase):
    tls = True
    config = SHORT

    def tls_connect(self, **kwargs):
        r = connect_tls(self.d.port, rc.tls_context(self.pki()), **kwargs)
        self.raws.append(r)
        return r

    def test_the_same_protocol_with_the_certificates_name(self):
        r = self.tls_connect()
        self.assertEqual(r.sock.version(), "TLSv1.3")
        message, _ = r.call(rc.M_STATUS)
        self.assertEqual(rc.get(message, 17, b""), b"ann")
        rng = seed()
        volume = r.create_volume("v", 4 * MIB)
        head = r.create_snapshot(volume, "s", 32)
        epoch, _ = r.acquire(volume, 4 * MIB, b"i" * 16)
        data = rng.randbytes(64 * 16 * KIB)
        self.assertEqual(r.put(volume, epoch, head, range(64), data), (64, 0, {}))
        got = b"".join(x[2] for x in r.read_view(volume, head, 0, MIB))
        self.assertEqual(got, data)

    def test_frames_in_records_of_any_size(self):
        r = self.tls_connect()
        data = b"".join(frame(rc.REQUEST, raw(1, b"x" * i), id=i + 1, method=1) for i in range(8))
        for size in (1, 7, 31, 33, len(data)):
            for at in range(0, len(data), size):
                r.sock.sendall(data[at:at + size])
            for i in range(8):
                r.answer(i + 1)

    def test_older_tls_is_refused(self):
        context = rc.tls_context(self.pki())
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        with self.assertRaises((ssl.SSLError, ConnectionError, Gone)):
            connect_tls(self.d.port, context)
        self.tls_connect().ping()

    def test_garbage_and_silence_instead_of_a_handshake(self):
        rng = seed()
        for data in (b"", b"GET / HTTP/1.0\r\n\r\n", rc.hello(), rng.randbytes(500),
                     b"\x16\x03\x01\x40\x00" + rng.randbytes(100), b"\x16\x03\x01\x00\x05"):
            sock = socket.create_connection(("127.0.0.1", self.d.port), timeout=10)
            sock.sendall(data)
            self.assertLess(self.wait_closed(sock, 8), 5, data[:20])
            sock.close()
        self.tls_connect().ping()

    def test_a_connection_cut_inside_a_record(self):
        for _ in range(20):
            r = self.tls_connect()
            r.send(frame(rc.REQUEST, b"", b"x" * 100, id=1, method=60, payload_len=65536))
            r.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            r.close()  # a reset
        self.tls_connect().ping()

    def test_garbage_inside_tls(self):
        rng = seed()
        for _ in range(20):
            r = self.tls_connect()
            with self.assertRaises((Gone, Refused)):
                r.send(rng.randbytes(500))
                for _ in range(20):
                    r.step()
        self.tls_connect().ping()
