# SPDX-License-Identifier: Apache-2.0
"""Hosted volumes and their chains: what snapshots cost those who write and read.

    v0   v1   v10   v100   v1000      equal but for the number of snapshots, fully written before;
     |    |    |      |      |        between two snapshots some chunks were overwritten, so that
     └────┴────┴──────┴──────┘        each has exceptions of its own
     a round: so many chunks of each volume are overwritten, in the same random order, each for
     the first time since the newest snapshot was made

The ratio of a rate is to the volume without snapshots, of a read to the newest snapshot.
"""

import os

from world import median

MIB = 1 << 20
CHUNK_BYTES = 16 * 1024
IN_FLIGHT = 64
SNAPSHOTS = (0, 1, 10, 100, 1000)
LARGE_BYTES = 1 << 40
# overwritten before the next snapshot, all together
OVERWRITTEN = {1: 0, 10: 200, 100: 40, 1000: 4}


class Chains:
    def __init__(self, bench):
        self.bench = bench
        self.world = bench.world
        self.rounds = 9 if bench.long else 5
        self.chunks = 12288 if bench.long else 6144  # a round
        self.edits = 50 if bench.long else 15
        self.size_bytes = (self.rounds + 1) * self.chunks * CHUNK_BYTES

    def load(self, target, *words):
        return self.world.snapctl("--json", "remote", "bench", target, "--yes", "--size",
                                  CHUNK_BYTES, "--in-flight", IN_FLIGHT, *words).json()["mib_per_s"]

    def chain(self, what, name, *words):
        w = self.world
        return w.run([w.program("tests/bench/bench_chain"), what, f"localhost:{w.port}",
                      w.path("pki"), name, *words]).json()

    def make(self, name, size_bytes, snapshots):
        self.world.snapctl("remote", "create", name, "--hosted", "--size", size_bytes,
                           "--chunk-size", CHUNK_BYTES)
        if size_bytes < LARGE_BYTES:
            self.world.snapctl("remote", "bench", name, "--write", "--yes", "--size", "1M",
                               "--in-flight", 8, "--pattern", "sequential", "--chunks",
                               -(-size_bytes // MIB))
        if snapshots:
            self.chain("fill", name, snapshots, OVERWRITTEN[snapshots], 0)

    def measure(self):
        b = self.bench
        for n in SNAPSHOTS:
            self.make(f"v{n}", self.size_bytes, n)
        self.writes()
        self.reads()
        self.edit()
        for n in SNAPSHOTS:
            b.discard(f"v{n}")
        b.discard("large1")
        b.discard("large1000")

    def writes(self):
        b = self.bench
        figures = {n: [] for n in SNAPSHOTS}
        limits = []
        for turn in range(self.rounds):
            skip = ("--skip", turn * self.chunks) if turn else ()
            for n in SNAPSHOTS:
                b.settle()
                figures[n].append(self.load(f"v{n}", "--write", "--pattern", "random",
                                            "--chunks", self.chunks, *skip))
            b.settle()
            limits.append(self.limit())
        for n in SNAPSHOTS[1:]:
            b.add(f"volume_write_snapshots_{n}", median(figures[n]), median(figures[0]),
                  "no snapshots", "MiB/s")
        b.add("volume_write_snapshots_limit", median(figures[1000]), median(limits),
              "disk, one read and two writes each", "MiB/s")

    def limit(self):
        """What the disk can do of what a first overwrite needs: one read and two writes."""
        w = self.world
        path = w.path("mixed")
        done = w.run(["fio", "--name=bench", "--output-format=json", "--ioengine=io_uring",
                      "--direct=1", "--rw=randrw", "--rwmixread=33", "--bs=16k",
                      f"--iodepth={IN_FLIGHT}", f"--size={self.chunks * CHUNK_BYTES * 3}",
                      f"--filename={path}"], cpus=w.server_cpus).json()["jobs"][0]
        os.unlink(path)
        return (done["read"]["bw_bytes"] + done["write"]["bw_bytes"]) / 3 / MIB

    def reads(self):
        b = self.bench
        oldest, newest = "v1000@s1", "v1000@s1000"
        for suffix, pattern in (("", "random"), ("_sequential", "sequential")):
            found = b.rotate([(target, lambda t=target, p=pattern: self.load(
                t, "--read", "--pattern", p, "--chunks", self.chunks))
                for target in (oldest, newest)], self.rounds)
            b.add(f"snapshot_read_oldest{suffix}", found[oldest], found[newest],
                  f"the newest of 1,000, {pattern}", "MiB/s")

    def edit(self):
        """Making and deleting one more, at 1 and 1,000 snapshots, small and large."""
        b = self.bench
        for n in (1, 1000):
            self.make(f"large{n}", LARGE_BYTES, n)
        took = {name: self.chain("edit", name, self.edits, 4)
                for name in ("v1", "v1000", "large1", "large1000")}
        for what in ("create", "delete"):
            ms = {name: figures[f"{what}_ms"] for name, figures in took.items()}
            b.add(f"snapshot_{what}_ms", ms["large1000"], ms["large1"],
                  "1 snapshot and not 1,000, both of 1 TiB", "ms")
            b.add(f"snapshot_{what}_ms_small", ms["v1000"], ms["v1"],
                  f"1 snapshot and not 1,000, both of {self.size_bytes // MIB} MiB", "ms")
