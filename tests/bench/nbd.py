# SPDX-License-Identifier: Apache-2.0
"""NBD: hosted volumes and guarded origins beside other NBD servers, all asked by fio over TLS.

    fio ──TLS── nbdkit + snapwire ──TLS── snapwired ── volume and its COW devices
    fio ──TLS── nbdkit + snapwire-guard ── origin;  old content ──TLS── snapwired ── COW device
    fio ──TLS── a peer ── its image

Every fio runs on the clients' processors and every NBD server on the servers', as does the
daemon: what the plugin's way through a second server costs is in our figures.

Writes: 16 KiB at random places, 64 in flight, a flush after every 64 and one at the end, which is
waited for. All images and volumes are written in full before. Each round has a part of them for
itself and fio writes every block of it once, so that with snapshots each write is a first
overwrite. Between two snapshots some chunks were overwritten, ours and theirs.

    what              first overwrite                            after a flush the data is
    snapwire          old content is copied to a COW device      durable
    nbdkit file       -                                          durable
    qemu-nbd raw      -                                          durable
    qcow2             - (0), or a new cluster in the same file   durable
                      (internal snapshots)
    overlay           a new cluster in the newest qcow2 file of  durable
                      a chain, one file a snapshot
    nbdkit cow        a block in an unlinked temporary file      lost when nbdkit ends

Peers' clusters and blocks have 16 KiB, as our chunks. The ratio of nbd_write_snapshots_* is to the
best durable peer with as many snapshots, the others follow with their names in ours. nbdkit runs
64 threads everywhere, as many as requests are in flight. Internal snapshots make qemu-nbd slow: it
writes half of its part.

Reads: 16 KiB, 64 in flight, of what the writes have left. Peers read through the page cache, the
daemon through its block cache. Rows are cold: the image's pages are dropped, server and daemon
are started anew before each run. Rows named warm: the same run once more on the same server, so the file plugin then
reads memory and never the disk. Rows named cache: with nbdkit's cache filter over our plugin.

Guard: nbdkit's file plugin is the bare origin. A guard runs on the writer's machine, so both have
the processors of fio, and the daemon those of the servers. First overwrites, then the same blocks again; both
origins' pages are dropped before the first (guard_first) or all read before it
(guard_first_warm, in the long run), for guard and bare origin alike.
"""

import os
import random
import shutil
import time

from world import median

MIB = 1 << 20
CHUNK_BYTES = 16 * 1024
IN_FLIGHT = 64
SNAPSHOTS = (0, 1, 10, 100)
# overwritten between two snapshots; the peers', whose every step is a process, in the first ones
OVERWRITTEN = {1: 0, 10: 200, 100: 40}
PEERS_OVERWRITTEN = {1: (0, 0), 10: (9, 200), 100: (10, 400)}
REST_S = 1  # between first and second overwrites: the daemon gets its store ready for more
SECOND_TIMES = 4  # a part is written over: once would be too short to tell
GUARD_ROUNDS = 6  # in turns the guard and the bare origin go first
READ_SNAPSHOTS = 10  # the chain whose oldest snapshot is read
QCOW2 = f"cluster_size={CHUNK_BYTES}"


class Nbd:
    def __init__(self, bench):
        self.bench = bench
        self.world = bench.world
        self.rounds = 7 if bench.long else 3
        self.chunks = 8192 if bench.long else 4096  # a round
        self.size_bytes = self.rounds * self.chunks * CHUNK_BYTES
        self.dir = self.world.path("nbd")
        os.makedirs(self.dir)

    def path(self, name):
        return os.path.join(self.dir, name)

    # -- servers: each a function that starts one and returns (process, port, export) ------

    def nbdkit(self, *words, **more):
        return (*self.world.start_nbdkit("-t", IN_FLIGHT, *words, **more), "")

    def snapwire(self, export):
        w = self.world
        process, port, _ = self.nbdkit(w.program("nbdkit-snapwire-plugin.so"), *self.remote())
        return process, port, export

    def cached(self, export):
        """A snapshot never changes: what was read of it may be kept beside its reader."""
        environment = dict(self.world.peer_environment, TMPDIR=self.dir)
        process, port, _ = self.nbdkit(
            "-r", "--filter=cache", self.world.program("nbdkit-snapwire-plugin.so"),
            *self.remote(), "cache-on-read=true", environment=environment)
        return process, port, export

    def remote(self):
        w = self.world
        pki = w.path("pki")
        return (f"server=localhost:{w.port}", f"ca={pki}/ca.crt",
                f"certificate={pki}/client-bench.crt", f"key={pki}/client-bench.key")

    def cow_filter(self, path):
        environment = dict(self.world.peer_environment, TMPDIR=self.dir)
        return self.nbdkit("--filter=cow", "file", path, f"cow-block-size={CHUNK_BYTES}",
                           environment=environment)

    def qemu(self, kind, path, *words):
        return (*self.world.start_peer(kind, path, *words), "")

    # -- fio ----------------------------------------------------------------------------------

    @staticmethod
    def uri(server):
        _, port, export = server
        return f"nbds://localhost:{port}/{export}"

    def write_round(self, server, turn, part=1, times=1):
        first = turn * self.chunks
        chunks = list(range(first, first + self.chunks // part))
        random.Random(turn).shuffle(chunks)
        chunks *= times
        return self.world.fio_writes(self.uri(server), chunks, CHUNK_BYTES, IN_FLIGHT) / MIB

    def read_all(self, server, mode, bs):
        job = self.world.fio("--ioengine=nbd", f"--uri={self.uri(server)}",
                             f"--iodepth={IN_FLIGHT}", f"--rw={mode}", f"--bs={bs}",
                             f"--size={self.size_bytes}", f"--io_size={self.chunks * CHUNK_BYTES}")
        return job["read"]["bw_bytes"] / MIB

    def served(self, start, *measures):
        """What each measure says of the server that `start` starts for them."""
        server = start()
        try:
            return [measure(server) for measure in measures]
        finally:
            self.world.stop(server[0])

    # -- images ---------------------------------------------------------------------------------

    def make_noise(self, name, size_bytes):
        path = self.path(name)
        noise = random.Random(1)
        with open(path, "wb") as f:
            for _ in range(size_bytes // MIB):
                f.write(noise.randbytes(MIB))
        return path

    def copy(self, name):
        path = self.path(name)
        shutil.copyfile(self.path("base"), path)
        return path

    def overwrite(self, path, snapshots, step):
        """A few chunks of the newest state, as bench_chain does with ours."""
        steps, count = PEERS_OVERWRITTEN[snapshots]
        if step < steps:
            words = [word for i in range(step * count, (step + 1) * count)
                     for word in ("-c", f"write -q {i * CHUNK_BYTES} {CHUNK_BYTES}")]
            self.world.run(["qemu-io", "-f", "qcow2", *words, path])

    def make_qcow2(self, snapshots):
        """Internal snapshots."""
        w = self.world
        path = self.path(f"qcow2-{snapshots}")
        w.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-o", QCOW2, "-S", "0",
               self.path("base"), path])
        for i in range(snapshots):
            w.run(["qemu-img", "snapshot", "-c", f"s{i + 1}", path])
            self.overwrite(path, snapshots, i)
        return path

    def make_overlay(self, snapshots):
        """A chain: the base is the oldest state, each file what was written since."""
        w = self.world
        below, kind = self.path("base"), "raw"
        for i in range(snapshots):
            path = self.path(f"overlay-{snapshots}-{i + 1}")
            w.run(["qemu-img", "create", "-q", "-u", "-f", "qcow2", "-o", QCOW2, "-b", below,
                   "-F", kind, path, self.size_bytes])
            self.overwrite(path, snapshots, i)
            below, kind = path, "qcow2"
        return below

    def make_volume(self, snapshots):
        w = self.world
        name = f"nbd{snapshots}"
        w.snapctl("remote", "create", name, "--hosted", "--size", self.size_bytes, "--chunk-size",
                  CHUNK_BYTES)
        w.snapctl("remote", "bench", name, "--write", "--yes", "--size", "1M", "--in-flight", 8,
                  "--pattern", "sequential", "--chunks", self.size_bytes // MIB)
        if snapshots:
            w.run([w.program("tests/bench/bench_chain"), "fill", f"localhost:{w.port}",
                   w.path("pki"), name, snapshots, OVERWRITTEN[snapshots], 0])
        return name

    def make(self):
        self.make_noise("base", self.size_bytes)
        self.file = self.copy("file")
        self.qcow2 = {n: self.make_qcow2(n) for n in SNAPSHOTS}
        self.overlay = {n: self.make_overlay(n) for n in SNAPSHOTS if n}
        for n in SNAPSHOTS:
            self.make_volume(n)

    def peers(self, snapshots):
        """(suffix, name, start, durable) of those with as many snapshots."""
        qcow2 = ("qcow2", f"qcow2, {snapshots} internal snapshot{'' if snapshots == 1 else 's'}",
                 lambda: self.qemu("qcow2", self.qcow2[snapshots]), True)
        if snapshots == 0:
            return (("file", "nbdkit file", lambda: self.nbdkit("file", self.file), True), qcow2)
        overlay = ("overlay", f"qcow2, a chain of {snapshots}",
                   lambda: self.qemu("qcow2", self.overlay[snapshots]), True)
        if snapshots > 1:
            return (qcow2, overlay)
        return (qcow2, overlay, ("cow", "nbdkit cow filter, not durable",
                                 lambda: self.cow_filter(self.file), False))

    # -- what is measured -----------------------------------------------------------------------

    def measure(self):
        self.make()
        self.writes()
        self.reads()
        for n in SNAPSHOTS:
            self.bench.discard(f"nbd{n}")
        self.guard()
        shutil.rmtree(self.dir)

    def writes(self):
        figures = {}
        for turn in range(self.rounds):
            for n in SNAPSHOTS:
                ours = ("ours", "", lambda n=n: self.snapwire(f"nbd{n}"), True)
                for suffix, _, start, _ in (ours, *self.peers(n)):
                    part = 2 if n and suffix == "qcow2" else 1
                    os.sync()
                    figures.setdefault((n, suffix), []).extend(
                        self.served(start, lambda s, t=turn, p=part: self.write_round(s, t, p)))
        for n in SNAPSHOTS:
            ours = median(figures[(n, "ours")])
            ranked = sorted(((not durable, -median(figures[(n, suffix)]), suffix, name)
                             for suffix, name, _, durable in self.peers(n)))
            for i, (_, rate, suffix, name) in enumerate(ranked):
                self.bench.add(f"nbd_write_snapshots_{n}" + (f"_{suffix}" if i else ""), ours,
                               -rate, name, "MiB/s")

    def forget(self):
        """All images' pages and the daemon's memory; what servers keep goes with their start."""
        os.sync()
        self.world.restart_daemon()
        for name in os.listdir(self.dir):
            forget(self.path(name))

    def readers(self):
        """name → (start, what it is, measured warm too)."""
        n = READ_SNAPSHOTS
        return {
            "volume": (lambda: self.snapwire("nbd0"), "", True),
            "snapshot": (lambda: self.snapwire(f"nbd{n}@s1"), "", True),
            "cached": (lambda: self.cached(f"nbd{n}@s1"), "", True),
            "file": (lambda: self.nbdkit("-r", "file", self.file), "nbdkit file", True),
            "qcow2": (lambda: self.qemu("qcow2", self.qcow2[n], "-r", "-l", "snapshot.name=s1"),
                      f"qcow2, the oldest of {n} internal snapshots", False),
            "overlay": (lambda: self.qemu("qcow2", self.overlay[n], "-r"),
                        f"qcow2, the newest of a chain of {n}", False),
            "cow": (lambda: self.cow_filter(self.file), "nbdkit cow filter", False),
        }

    def reads(self):
        readers = self.readers()
        patterns = [("random", "randread", "16k"), ("sequential", "read", "16k")]
        if self.bench.long:
            patterns.append(("sequential_256k", "read", "256k"))
        for pattern, mode, bs in patterns:
            figures = {}
            for _ in range(self.rounds):
                for name, (start, _, warm) in readers.items():
                    self.forget()
                    run = lambda server, m=mode, b=bs: self.read_all(server, m, b)  # noqa: E731
                    rates = self.served(start, *[run] * (2 if warm else 1))
                    for heat, rate in zip(("cold", "warm"), rates):
                        figures.setdefault((name, heat), []).append(rate)
            found = {key: median(values) for key, values in figures.items()}
            for suffix, ours, peer, heat in (
                    ("", "volume", "file", "cold"), ("_warm", "volume", "file", "warm"),
                    ("_snapshot", "snapshot", "file", "cold"),
                    ("_snapshot_warm", "snapshot", "file", "warm"),
                    ("_snapshot_cache", "cached", "file", "cold"),
                    ("_snapshot_cache_warm", "cached", "file", "warm"),
                    ("_qcow2", "snapshot", "qcow2", "cold"),
                    ("_overlay", "volume", "overlay", "cold"), ("_cow", "volume", "cow", "cold")):
                self.bench.add(f"nbd_read_{pattern}{suffix}", found[(ours, heat)],
                               found[(peer, heat)], f"{readers[peer][1]}, {heat}", "MiB/s")

    # -- guard ----------------------------------------------------------------------------------

    def guard(self):
        w = self.world
        size_bytes = GUARD_ROUNDS * self.chunks * CHUNK_BYTES
        origin, bare = self.make_noise("origin", size_bytes), self.make_noise("bare", size_bytes)
        w.snapctl("remote", "create", "guarded", "--size", size_bytes)
        servers = [
            ("guard", lambda: self.nbdkit(w.program("nbdkit-snapwire-guard-plugin.so"),
                                          f"origin={origin}", "volume=guarded", *self.remote(),
                                          cpus=w.client_cpus)),
            ("bare", lambda: self.nbdkit("file", bare, cpus=w.client_cpus)),
        ]
        for heat in ("", "_warm") if self.bench.long else ("",):
            w.snapctl("remote", "create", f"guarded@s{heat}", "--chunk-size", CHUNK_BYTES)
            figures = {}
            for turn in range(GUARD_ROUNDS):
                for name, start in servers if turn % 2 == 0 else reversed(servers):
                    for path in (origin, bare):
                        (warm_up if heat else forget)(path)
                    os.sync()
                    rates = self.served(
                        start, lambda server, t=turn: self.write_round(server, t),
                        lambda _: time.sleep(REST_S),
                        lambda server, t=turn: self.write_round(server, t, times=SECOND_TIMES))
                    for row, rate in zip(("first", "rest", "second"), rates):
                        figures.setdefault((row, name), []).append(rate)
            for row in ("first", "second"):
                self.bench.add(f"guard_{row}{heat}", median(figures[(row, "guard")]),
                               median(figures[(row, "bare")]), "the bare origin, nbdkit file",
                               "MiB/s")
        self.bench.discard("guarded")


def forget(path):
    """Drop the file's pages from the cache."""
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def warm_up(path):
    with open(path, "rb") as f:
        while f.read(MIB):
            pass
