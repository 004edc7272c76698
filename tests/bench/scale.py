#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How cost grows: with connections, with exceptions, with the chunk size; and what a quiet
volume feels of a busy one.

usage: tests/bench/scale.py [--build DIR] [--scratch DIR] [--plots DIR] [--out FILE] [--nice N]

Prints a table each as Markdown, draws each as SVG with gnuplot, and writes the figures as
JSON. Figures are medians of several rounds.
"""

import argparse
import json
import os
import subprocess
import sys
import threading

from run import MIB, be_nice, forget, make_store
from world import World, median

ROUNDS = 3
CONNECTIONS = (1, 8, 64, 1000)
EXCEPTIONS = (10_000, 1_000_000, 10_000_000)
CHUNK_KIB = (4, 16, 64, 256)
IN_FLIGHT_BYTES = 8 * MIB


class Scale:
    def __init__(self, world):
        self.world = world
        self.serial = 0

    def volume(self, size_bytes, chunk_bytes):
        self.serial += 1
        name = f"v{self.serial}"
        self.world.snapctl("remote", "create", name, "--size", size_bytes)
        self.world.snapctl("remote", "create", f"{name}@s", "--chunk-size", chunk_bytes)
        return name

    def put(self, name, *words):
        return self.world.snapctl("--json", "remote", "bench", f"{name}@s", *words).json()

    def discard(self, name):
        self.world.snapctl("remote", "delete", name, "--force")

    def connections(self):
        """Bytes and chunks in flight are those of all connections together."""
        w = self.world
        rows = []
        for count in CONNECTIONS:
            done = []
            for _ in range(ROUNDS):
                one = w.run([w.program("tests/bench/bench_crowd"), "load", f"localhost:{w.port}",
                             w.path("pki"), count, 16384, 32000, 1000]).json()
                done.append(one)
            rows.append((count, *(median([d[k] for d in done]) for k in
                                  ("mib_per_s", "latency_mean_us"))))
        return ("connections", "MiB/s", "mean latency, us"), rows

    def exceptions(self):
        w = self.world
        path = w.path("store.cow")
        rows = []
        for count in EXCEPTIONS:
            make_store(path, count, 16384)
            times, memory = [], []
            for _ in range(ROUNDS):
                forget(path)
                done = w.run([w.program("snapctl"), "--json", "cow", "info", path])
                times.append(done.wall_s * 1000)
                memory.append(done.memory_bytes / MIB)
            rows.append((count, median(times), median(memory)))
            os.unlink(path)
        return ("exceptions", "open, ms", "memory, MiB"), rows

    def chunk_sizes(self):
        rows = []
        for kib in CHUNK_KIB:
            rates, latencies = [], []
            for _ in range(ROUNDS):
                name = self.volume(512 * MIB, kib * 1024)
                done = self.put(name, "--chunks", 256 * 1024 // kib, "--in-flight",
                                IN_FLIGHT_BYTES // (kib * 1024))
                rates.append(done["mib_per_s"])
                latencies.append(done["latency_p50_us"])
                self.discard(name)
            rate = median(rates)
            rows.append((kib, rate, rate * 1024 / kib, median(latencies)))
        return ("chunk size, KiB", "MiB/s", "chunks/s", "latency p50, us"), rows

    def neighbours(self):
        """One chunk at a time on a quiet volume, alone and beside a flood on another."""
        rows = []
        for label, busy in (("alone", False), ("beside a busy one", True)):
            p50, p99 = [], []
            for _ in range(ROUNDS):
                quiet, other = (self.volume(1024 * MIB, 16384) for _ in range(2))
                flood = threading.Thread(target=self.put, args=(other, "--seconds", 3,
                                                                "--chunks", 10_000_000))
                if busy:
                    flood.start()
                done = self.put(quiet, "--chunks", 1_000_000, "--seconds", 2, "--in-flight", 1)
                p50.append(done["latency_p50_us"])
                p99.append(done["latency_p99_us"])
                if busy:
                    flood.join()
                self.discard(quiet)
                self.discard(other)
            rows.append((label, median(p50), median(p99)))
        return ("quiet volume", "latency p50, us", "latency p99, us"), rows


def text(value):
    return value if isinstance(value, str) else f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def table(heads, rows):
    lines = ["| " + " | ".join(heads) + " |", "| " + " | ".join(["---"] * len(heads)) + " |"]
    lines += ["| " + " | ".join(text(v) for v in row) + " |" for row in rows]
    return "\n".join(lines)


def plot(path, title, heads, rows):
    """The first column against the second, and against the third on an axis of its own."""
    data = "\n".join(" ".join(str(v) for v in row) for row in rows)
    script = f"""
set terminal svg size 720,400 enhanced background rgb 'white' font 'sans-serif,13'
set output '{path}'
set title '{title}'
set logscale x
set xlabel '{heads[0]}'
set ylabel '{heads[1]}'
set y2label '{heads[2]}'
set yrange [0:*]
set y2range [0:*]
set ytics nomirror
set y2tics
set grid
set key below
$rows << EOD
{data}
EOD
plot $rows using 1:2:xtic(1) with linespoints lw 2 pt 7 title '{heads[1]}', \\
     $rows using 1:3 axes x1y2 with linespoints lw 2 pt 5 dt 2 title '{heads[2]}'
"""
    subprocess.run(["gnuplot"], input=script, text=True, check=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--build", default="build/gcc")
    parser.add_argument("--scratch", help="folder on the disk to measure; default /tmp")
    parser.add_argument("--plots", default="docs/plots")
    parser.add_argument("--out", default="build/bench/scale.json")
    parser.add_argument("--nice", type=int, default=0, help="on a busy machine")
    args = parser.parse_args()
    if args.nice:
        be_nice(args.nice)
    titles = {"connections": "COW ingest by connections, a volume each",
              "exceptions": "Opening a store by its exceptions",
              "chunk_sizes": "COW ingest by chunk size, one connection",
              "neighbours": "A quiet volume beside a busy one"}
    results = {}
    os.makedirs(args.plots, exist_ok=True)
    os.makedirs(os.path.dirname(os.path.abspath(args.out)), exist_ok=True)
    with World(args.build, args.scratch) as world:
        world.start_daemon("limits {\n connections_per_client = 4096\n}\n")
        scale = Scale(world)
        for name, title in titles.items():
            heads, rows = getattr(scale, name)()
            results[name] = [dict(zip(heads, row)) for row in rows]
            print(f"### {title}\n\n{table(heads, rows)}\n", flush=True)
            if name != "neighbours":
                plot(os.path.join(args.plots, f"{name}.svg"), title, heads, rows)
    with open(args.out, "w", encoding="utf-8") as f:
        json.dump(results, f, indent=1)
        f.write("\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
