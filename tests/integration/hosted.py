# SPDX-License-Identifier: Apache-2.0
"""What the cases of hosted volumes share: a model, and a daemon with a connection."""

from harness import Case, seed
from rawclient import Gone, Refused, connect_unix

KIB = 1 << 10
MIB = 1 << 20
CHUNK = 4096
SIZE = MIB


class Model:
    """What a volume must hold: bytes, and the snapshots' bytes."""

    def __init__(self, size=SIZE):
        self.now = bytearray(size)
        self.nodes = {}

    def write(self, offset, data, node=b""):
        (self.nodes[node] if node else self.now)[offset:offset + len(data)] = data

    def take(self, node, of=b""):
        self.nodes[node] = bytearray(self.nodes[of] if of else self.now)


class HostedCase(Case):
    config = ""
    tls = False

    def setUp(self):
        super().setUp()
        self.rng = seed()
        self.d = self.up(tls=self.tls, config=self.config)
        self.raws = []
        self.addCleanup(lambda: [r.close() for r in self.raws])
        self.r = self.connect()

    def connect(self, **kwargs):
        r = connect_unix(self.d.socket, **kwargs)
        self.raws.append(r)
        return r

    def refused(self, code, fn, *args, **kwargs):
        with self.assertRaises(Refused) as got:
            fn(*args, **kwargs)
        self.assertEqual(got.exception.code, code, got.exception.text)
        self.assertTrue(got.exception.text)
        return got.exception

    def kill_and_restart(self):
        self.d.kill()
        self.d.start()
        self.r = self.connect()

    def drain(self):
        """The answers that a daemon gave before it died."""
        try:
            while True:
                self.r.step()
        except Gone:
            return dict(self.r.answers)

    def hosted(self, name="v", size=SIZE, **kwargs):
        return self.r.create_hosted(name, size, **kwargs), Model(size)

    def write(self, volume, model, offset, data, node=b"", **kwargs):
        self.r.write(volume, offset, data, node, **kwargs)
        model.write(offset, data, node)

    def write_at_random(self, volume, model, times, node=b""):
        size = len(model.now)
        for _ in range(times):
            offset = self.rng.randrange(size)
            length = min(self.rng.choice((1, 511, 512, 4096, 9000, 40000)), size - offset)
            self.write(volume, model, offset, self.rng.randbytes(length), node)

    def snapshot(self, volume, model, name):
        uuid = self.r.create_snapshot(volume, name, 0)
        model.take(uuid)
        return uuid

    def clone(self, volume, model, of, name):
        uuid = self.r.create_clone(volume, of, name)
        model.take(uuid, of)
        return uuid

    def assert_holds(self, volume, model, r=None):
        r = r or self.r
        self.assert_equal_bytes(r.read(volume, 0, len(model.now)), model.now, "the volume")
        for node, content in model.nodes.items():
            self.assert_equal_bytes(r.read(volume, 0, len(content), node), content, node.hex())

    def assert_equal_bytes(self, got, want, what):
        if got != bytes(want):
            at = next(i for i in range(len(want)) if got[i] != want[i])
            self.fail(f"{what} differs from byte {at} (chunk {at // CHUNK}) on")
