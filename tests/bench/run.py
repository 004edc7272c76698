#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Side by side in one run: Snapwire, NBD servers, and what the machine can do.

usage: tests/bench/run.py [--build DIR] [--long] [--scratch DIR] [--out FILE] [--only NAME,...]

Everything talks TLS 1.3 on loopback and is durable when it is answered. Rounds are
interleaved (A B C, A B C …) so that a busy moment hits all alike; figures are medians.
A ratio above 1 means that Snapwire is better: ours/peer for rates, peer/ours for times
and memory. Nothing here fails because of a figure.
"""

import argparse
import ctypes
import json
import os
import random
import struct
import sys
import time

from chains import Chains
from nbd import Nbd
from world import Failed, World, median

MIB = 1 << 20
CHUNK_BYTES = 16 * 1024
IN_FLIGHT = 64
DEEP_IN_FLIGHT = 512  # how much the limit asks for is its own affair: rows named deep
PEERS = (("nbdkit", "nbdkit file"), ("raw", "qemu-nbd raw"), ("qcow2", "qemu-nbd qcow2"))


class Bench:
    def __init__(self, world, long):
        self.world = world
        self.long = long
        self.rounds = 7 if long else 3
        self.ingest_mib = 1024 if long else 256
        self.file_mib = 1024 if long else 256
        self.latency_chunks = 5000 if long else 1000
        self.exceptions = 10_000_000
        self.connections = 1000
        self.results = []
        self.serial = 0

    def add(self, name, ours, peer, peer_name, unit):
        """unit with a '/s' is a rate: more is better; else less is better."""
        ratio = (ours / peer if "/s" in unit else peer / ours) if ours and peer else None
        self.results.append({"name": name, "ours": round(ours, 3),
                             "peer": None if peer is None else round(peer, 3),
                             "peer_name": peer_name,
                             "ratio": None if ratio is None else round(ratio, 3), "unit": unit})
        print(row(self.results[-1]), flush=True)

    def rotate(self, contestants, rounds=None):
        """Each contestant once a round, in turn. Returns name → median."""
        figures = {name: [] for name, _ in contestants}
        for _ in range(rounds or self.rounds):
            for name, measure in contestants:
                self.settle()
                figures[name].append(measure())
        return {name: median(values) for name, values in figures.items()}

    @staticmethod
    def settle():
        """What one contestant left to be written or discarded is not the next one's to wait for."""
        os.sync()
        time.sleep(0.3)

    # -- ours -----------------------------------------------------------------------------

    def volume(self, *size):
        self.serial += 1
        name = f"v{self.serial}"
        self.world.snapctl("remote", "create", name, *size)
        self.world.snapctl("remote", "create", f"{name}@s", "--chunk-size", CHUNK_BYTES)
        return name

    def discard(self, name):
        self.world.snapctl("remote", "delete", name, "--force")

    def put(self, pattern, chunks, in_flight):
        """One connection; each chunk is acknowledged when it is durable."""
        name = self.volume("--size", chunks * CHUNK_BYTES)
        done = self.world.snapctl("--json", "remote", "bench", f"{name}@s", "--chunks", chunks,
                                  "--in-flight", in_flight, "--pattern", pattern).json()
        self.discard(name)
        return done

    def ours(self, pattern, in_flight=IN_FLIGHT):
        chunks = self.ingest_mib * MIB // CHUNK_BYTES
        return self.put(pattern, chunks, in_flight)["mib_per_s"]

    # -- theirs ---------------------------------------------------------------------------

    def theirs(self, kind, pattern, flushes):
        """An NBD server and fio's nbd engine, 16 KiB and 64 in flight, durable at the end.

        flushes "each": exactly one after every 64 writes, which go on meanwhile, as fio follows a
        log of them (World.fio_writes). "own": as fio --fsync=64 sends them, which with 64 in
        flight is one for every two or three writes, several at once; kept beside it as people
        measure so. The rows named _fio are these.
        """
        w = self.world
        path = w.make_image(kind, self.ingest_mib * MIB)
        threads = ("-t", IN_FLIGHT) if kind == "nbdkit" else ()
        process, port = w.start_peer(kind, path, *threads)
        uri = f"nbds://localhost:{port}/"
        try:
            if flushes == "own":
                job = w.fio("--ioengine=nbd", f"--uri={uri}",
                            f"--rw={'randwrite' if pattern == 'random' else 'write'}", "--bs=16k",
                            f"--iodepth={IN_FLIGHT}", f"--fsync={IN_FLIGHT}", "--end_fsync=1",
                            f"--size={self.ingest_mib}M")
                return job["write"]["bw_bytes"] / MIB
            chunks = list(range(self.ingest_mib * MIB // CHUNK_BYTES))
            if pattern == "random":
                random.Random(1).shuffle(chunks)
            return w.fio_writes(uri, chunks, CHUNK_BYTES, IN_FLIGHT) / MIB
        finally:
            w.stop(process)

    def disk(self):
        w = self.world
        path = w.path("sequential")
        done = w.run(["fio", "--name=bench", "--output-format=json", "--ioengine=libaio",
                      "--direct=1", "--rw=write", "--bs=1M", "--iodepth=8", "--end_fsync=1",
                      f"--size={self.ingest_mib}M", f"--filename={path}"],
                     cpus=w.server_cpus).json()
        os.unlink(path)
        return done["jobs"][0]["write"]["bw_bytes"] / MIB

    def limit(self, what, count):
        w = self.world
        pki = w.path("pki")
        return w.run([w.program("tests/bench/bench_limit"), what, f"{pki}/server-localhost.crt",
                      f"{pki}/server-localhost.key", w.server_cpus[0], w.client_cpus[0],
                      count], cpus=w.server_cpus + w.client_cpus).json()

    # -- what is measured ---------------------------------------------------------------------

    def cow_ingest(self):
        patterns = ("random", "sequential")
        ways = (("each", ""), ("own", "_fio"))
        contestants = []
        for p in patterns:
            contestants.append((("ours", p), lambda p=p: self.ours(p)))
            for kind, name in PEERS:
                for way, _ in ways:
                    contestants.append(((name, p, way), lambda k=kind, p=p, f=way:
                                        self.theirs(k, p, f)))
        contestants.append((("ours", "deep"), lambda: self.ours("random", DEEP_IN_FLIGHT)))
        contestants.append(("TLS pipe", lambda: self.limit("pipe", self.ingest_mib)["mib_per_s"]))
        contestants.append(("disk, sequential", self.disk))
        figures = self.rotate(contestants)
        for pattern in patterns:
            ours = figures[("ours", pattern)]
            for way, suffix in ways:
                ranked = sorted(((figures[(name, pattern, way)], name) for _, name in PEERS),
                                reverse=True)
                for i, (rate, name) in enumerate(ranked):
                    which = f"_{name.split()[-1]}" if i else ""
                    self.add(f"cow_ingest_{pattern}{which}{suffix}", ours, rate,
                             name + (", --fsync=64" if suffix else ""), "MiB/s")
        limits = sorted((figures[name], name) for name in ("TLS pipe", "disk, sequential"))
        best = max(figures[("ours", p)] for p in patterns)
        self.add("cow_ingest_limit", best, *limits[0], "MiB/s")
        self.add("cow_ingest_limit_other", best, *limits[1], "MiB/s")
        self.add("cow_ingest_limit_deep", figures[("ours", "deep")], *limits[0], "MiB/s")

    def cow_latency(self):
        w = self.world

        def alone():
            path = w.path("alone")
            done = w.run(["fio", "--name=bench", "--output-format=json", "--ioengine=psync",
                          "--direct=1", "--rw=write", "--bs=16k", "--fdatasync=1",
                          f"--size={self.latency_chunks * CHUNK_BYTES}", f"--filename={path}"],
                         cpus=w.server_cpus).json()["jobs"][0]
            os.unlink(path)
            return done["job_runtime"] * 1000 / self.latency_chunks

        def nbd():
            process, port = w.start_peer("nbdkit", w.make_image("nbdkit", 64 * MIB))
            try:
                job = w.fio("--ioengine=nbd", f"--uri=nbds://localhost:{port}/", "--rw=write",
                            "--bs=16k", "--iodepth=1", "--fsync=1",
                            f"--size={self.latency_chunks * CHUNK_BYTES}")
            finally:
                w.stop(process)
            return job["job_runtime"] * 1000 / self.latency_chunks

        def ours():
            done = self.put("random", self.latency_chunks, 1)
            return done["seconds"] * 1e6 / done["chunks"]

        figures = self.rotate([("ours", ours), ("disk", alone), ("nbd", nbd), ("trip", lambda:
                               self.limit("trip", self.latency_chunks * 2)["round_trip_us"])])
        self.add("cow_latency", figures["ours"], figures["disk"] + figures["trip"],
                 "write+fdatasync, plus a TLS round trip", "us")
        self.add("cow_latency_nbd", figures["ours"], figures["nbd"],
                 "nbdkit file, write then flush", "us")

    def export_and_merge(self):
        """A disk is overwritten whole through `apply`, read back, and rolled back."""
        w = self.world
        size = self.file_mib * MIB
        first, second, disk = w.path("first"), w.path("second"), w.path("disk")
        noise = random.Random(1)
        for path in (first, second):
            with open(path, "wb") as f:
                for _ in range(self.file_mib):
                    f.write(noise.randbytes(MIB))
                os.fsync(f.fileno())
        out = w.path("out")
        rates = {"apply": [], "export": [], "merge": [], "read": [], "back": []}

        def rate(key, done):
            rates[key].append(size / MIB / done.wall_s)

        def pull(path, into, *more):
            process, port = w.start_peer("nbdkit", path)
            try:
                return w.run(["qemu-img", "convert", *more, "-t", "writeback", "--object",
                              f"tls-creds-x509,id=t,dir={w.path('peer-client')},endpoint=client",
                              "--image-opts", "-O", "raw", f"driver=nbd,host=localhost,"
                              f"port={port},tls-creds=t", into],
                             environment=w.peer_environment)
            finally:
                w.stop(process)

        w.run(["cp", first, disk])
        for _ in range(self.rounds):
            name = self.volume("--size", size)
            rate("apply", w.snapctl("remote", "apply", f"{name}@s", "--origin", disk, "--source",
                                    second))
            rate("export", w.snapctl("remote", "export", f"{name}@s", "--origin", disk, "-o", out))
            w.run(["cmp", first, out])
            os.unlink(out)
            rate("read", pull(first, out))
            os.unlink(out)
            rate("merge", w.snapctl("remote", "merge", f"{name}@s", "--origin", disk))
            w.run(["cmp", first, disk])
            w.run(["cp", second, disk])
            rate("back", pull(first, disk, "-n"))
            self.discard(name)
        for path in (first, second, disk):
            os.unlink(path)
        self.add("apply", median(rates["apply"]), None, "", "MiB/s")
        self.add("export", median(rates["export"]), median(rates["read"]),
                 "nbdkit file + qemu-img convert", "MiB/s")
        self.add("merge", median(rates["merge"]), median(rates["back"]),
                 "nbdkit file + qemu-img convert -n", "MiB/s")

    def cow_open(self):
        w = self.world
        path = w.path("large.cow")
        make_store(path, self.exceptions, CHUNK_BYTES)
        areas = self.exceptions // (CHUNK_BYTES // 16) + 1
        memory = []

        def ours():
            forget(path)
            done = w.run([w.program("snapctl"), "--json", "cow", "info", path])
            found = done.json()["exceptions"]
            if found != self.exceptions:
                raise Failed(f"{found} exceptions were found, not {self.exceptions}")
            memory.append(done.memory_bytes)
            return done.wall_s * 1000

        def reading():
            forget(path)
            stride = (CHUNK_BYTES // 16 + 1) * CHUNK_BYTES
            job = w.run(["fio", "--name=bench", "--output-format=json", "--ioengine=libaio",
                         "--direct=1", f"--rw=read:{stride - CHUNK_BYTES}", "--bs=16k",
                         "--iodepth=8", f"--offset={CHUNK_BYTES}",
                         f"--io_size={areas * CHUNK_BYTES}", f"--filename={path}"]).json()
            return job["jobs"][0]["job_runtime"]

        figures = self.rotate([("ours", ours), ("reading", reading)])
        os.unlink(path)
        self.add("cow_open_10m", figures["ours"], figures["reading"],
                 "reading the same areas, 8 deep", "ms")
        self.add("cow_open_10m_memory", median(memory) / self.exceptions, 12,
                 "12 bytes an exception", "bytes/exception")

    def chains(self):
        Chains(self).measure()

    def nbd(self):
        Nbd(self).measure()

    def idle_connections(self):
        w = self.world
        before = w.daemon_memory_bytes()
        crowd = w.run([w.program("tests/bench/bench_crowd"), "idle", f"localhost:{w.port}",
                       w.path("pki"), self.connections,
                       f"/proc/{w.daemon.pid}/status"]).json()
        self.add("idle_connections_memory",
                 (crowd["rss_bytes"] - before) / self.connections / 1024, None,
                 f"a connection, of {self.connections}; the daemon then holds "
                 f"{crowd['rss_bytes'] / MIB:.0f} MiB", "KiB")


def forget(path):
    """Drop the file's pages from the cache."""
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def make_store(path, exceptions, chunk_bytes):
    """A COW device with a full table and holes for data: old chunks in no order."""
    slots = chunk_bytes // 16
    stride = (slots + 1) * chunk_bytes
    prime, start = 2_654_435_761, 12_345  # below 2^32 an odd factor scatters one to one
    with open(path, "wb") as f:
        f.write(struct.pack("<4I", 0x70416e53, 1, 1, chunk_bytes // 512).ljust(chunk_bytes, b"\0"))
        for area in range(exceptions // slots + 1):
            first = area * slots
            count = min(slots, exceptions - first)
            entries = (ctypes.c_uint64 * (2 * slots))()
            new = area * (slots + 1) + 2
            entries[0:2 * count:2] = [(start + (first + i) * prime) & 0xffffffff
                                      for i in range(count)]
            entries[1:2 * count:2] = range(new, new + count)
            f.seek(chunk_bytes + area * stride)
            f.write(bytes(entries))
        f.truncate(chunk_bytes + (exceptions // slots + 1) * stride)
        f.flush()
        os.fsync(f.fileno())


def be_nice(level):
    """Niceness counts within a session's group of tasks; the group has one of its own."""
    os.nice(level)
    try:
        os.setsid()
        with open("/proc/self/autogroup", "w", encoding="ascii") as f:
            f.write(str(level))
    except OSError as e:
        print(f"niceness holds within the session only: {e}", file=sys.stderr)


def row(r):
    def figure(value):
        return "-" if value is None else f"{value:.2f}" if value < 100 else f"{value:.0f}"

    return (f"{r['name']:<38} {figure(r['ours']):>9} {figure(r['peer']):>9} "
            f"{figure(r['ratio']):>7}  {r['unit']:<15} {r['peer_name']}")


# the memory of connections beside that of a daemon which has done nothing yet
MEASURES = ("idle_connections", "cow_ingest", "cow_latency", "export_and_merge", "cow_open",
            "chains", "nbd")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--build", default="build/gcc")
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--scratch", help="folder on the disk to measure; default /tmp")
    parser.add_argument("--out", default="build/bench/results.json")
    parser.add_argument("--nice", type=int, default=0, help="for all alike, on a busy machine")
    parser.add_argument("--only", help="of " + ", ".join(MEASURES))
    return parser.parse_args()


def main():
    args = arguments()
    chosen = args.only.split(",") if args.only else MEASURES
    failed = 0
    if args.nice:
        be_nice(args.nice)
    with World(args.build, args.scratch) as world:
        bench = Bench(world, args.long)
        world.start_daemon("limits {\n connections_per_client = 4096\n}\n")
        print(f"{'name':<38} {'ours':>9} {'peer':>9} {'ratio':>7}  {'unit':<15} peer", flush=True)
        for name in chosen:
            try:
                getattr(bench, name)()
            except (Failed, KeyError, ValueError, OSError) as e:
                failed += 1
                print(f"{name}: {e}", file=sys.stderr, flush=True)
    os.makedirs(os.path.dirname(os.path.abspath(args.out)), exist_ok=True)
    with open(args.out, "w", encoding="utf-8") as f:
        json.dump(bench.results, f, indent=1)
        f.write("\n")
    print(f"written to {args.out}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
