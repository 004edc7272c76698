# SPDX-License-Identifier: Apache-2.0
"""A daemon with as little memory for buffers as the configuration allows: slow, but nothing that
needs more than that, or waits for another's, waits for good."""

from harness import Case, seed
from hosted import KIB, MIB, HostedCase


class SmallBuffers(HostedCase):
    # no PING is to keep a client waiting that would not be answered
    config = ("shards = 1\ncow { chunk_size = 4K }\ncache { size = 0 }\n"
              "timeouts { keepalive_ms = 100000 shutdown_timeout_ms = 2000 }\n"
              "limits { window = 64K buffers = 64K }\n")
    SIZE = 2 * MIB

    def fill(self, volume, model, byte):
        for at in range(0, self.SIZE, 32 * KIB):
            self.write(volume, model, at, bytes([byte]) * (32 * KIB))

    def assert_holds_in_pieces(self, volume, model):
        for node, content in [(b"", model.now), *model.nodes.items()]:
            for at in range(0, self.SIZE, 32 * KIB):
                self.assert_equal_bytes(self.r.read(volume, at, 32 * KIB, node),
                                        content[at:at + 32 * KIB], node.hex() or "the volume")

    def test_zeroes_of_more_than_all_buffers(self):
        volume, model = self.hosted(size=self.SIZE)
        self.fill(volume, model, 1)
        self.snapshot(volume, model, "s")
        self.r.zero(volume, 0, MIB + 5)
        model.write(0, bytes(MIB + 5))
        self.assert_holds_in_pieces(volume, model)
        self.d.stop()

    def test_chunks_that_are_larger_than_all_buffers(self):
        volume, model = self.hosted(size=self.SIZE, chunk_sectors=1024)
        self.fill(volume, model, 1)
        node = self.snapshot(volume, model, "s")
        self.write(volume, model, 3, b"part of a chunk")
        clone = self.clone(volume, model, node, "c")
        self.write(volume, model, MIB + 7, b"part of another", clone)
        self.assert_holds_in_pieces(volume, model)
        self.d.stop()


class Writers(Case):
    def test_apply_and_merge_send_no_more_at_once_than_the_daemon_takes(self):
        rng = seed()
        self.up(tls=False, config=SmallBuffers.config)
        first = self.image("first", 2 * MIB, rng)
        second = self.changed(first, "second", rng, percent=60)
        third = self.changed(second, "third", rng, percent=60)
        origin = self.copy(first, "origin")
        self.remote("create", "v", "--like", origin)
        for snapshot, source in (("a", second), ("b", third)):
            self.remote("create", f"v@{snapshot}")
            self.remote("apply", f"v@{snapshot}", "--origin", origin, "--source", source)
            self.assert_same(origin, source)
        self.remote("merge", "v@a", "--origin", origin)
        self.assert_same(origin, first)
        self.remote("export", "v@b", "--origin", origin, "-o", self.path("b"))
        self.assert_same(self.path("b"), second)


class Rollbacks(SmallBuffers):
    """What is read to be written back is held while the write itself needs memory, too."""

    config = SmallBuffers.config.replace("64K", "1M")

    def test_rollbacks_of_several_volumes_side_by_side(self):
        volumes = [self.hosted(name=f"v{i}", size=self.SIZE) for i in range(3)]
        jobs = []
        for volume, model in volumes:
            self.fill(volume, model, 1)
            self.snapshot(volume, model, "s")
            self.fill(volume, model, 2)
        for volume, model in volumes:
            node, content = next(iter(model.nodes.items()))
            jobs.append((volume, self.r.rollback(volume, node)))
            model.now[:] = content
        for volume, job in jobs:
            self.assertEqual(self.r.wait_job(volume, job), "done")
        for volume, model in volumes:
            self.assert_holds_in_pieces(volume, model)
        self.d.stop()
