# SPDX-License-Identifier: Apache-2.0
"""What the first overwrite of a chunk costs through the kernel, in I/O and in latencies.

`io-counts` makes the whole table, with a disk for each device.
"""
import time

from klib.runner import case

ORIGIN = 16384
CHUNK = 32
DELAY_MS = 200
FIELDS = {'reads': 0, 'read_sectors': 2, 'writes': 4, 'write_sectors': 6, 'flushes': 15}


def stats(lab):
    """Counts of the disk with the origin and of that with the COW devices."""
    text = lab.sh('\n'.join(f'cat /sys/block/$(basename $(readlink /dev/disk/{d}))/stat'
                            for d in ('pool', 'lvm')))
    return [[int(line.split()[i]) for i in FIELDS.values()] for line in text.splitlines()]


def cost(lab, chunks, depth):
    """What overwriting these chunks costs: of origin and COW devices, by name, all chunks."""
    before = stats(lab)
    lab.write_ok('/dev/mapper/top', [(c * CHUNK, CHUNK, 2) for c in chunks], depth)
    return [{k: b - a for k, a, b in zip(FIELDS, x, y)} for x, y in zip(before, stats(lab))]


@case('quick')
def first_overwrite__costs_a_read_two_writes_and_two_flushes(lab):
    """The COW device is a whole disk: beneath a linear target a flush counts as a write, too."""
    o = lab.region('o', ORIGIN)
    lab.snapshot('s', o.dev, '/dev/disk/lvm', ORIGIN, CHUNK)
    lab.snapshot_origin('top', o.dev, ORIGIN)
    chunks = lab.rng.sample(range(ORIGIN // CHUNK), 200)
    origin, cow = cost(lab, chunks[:20], 1)
    lab.equal(origin, {'reads': 20, 'read_sectors': 640, 'writes': 20, 'write_sectors': 640,
                       'flushes': 0}, '20 chunks, one at a time: the origin')
    lab.equal(cow, {'reads': 0, 'read_sectors': 0, 'writes': 40, 'write_sectors': 1280,
                    'flushes': 40}, '20 chunks, one at a time: the COW device')
    origin, cow = cost(lab, chunks[20:], 16)
    if cow['flushes'] > 90 or cow['write_sectors'] > 1.5 * 180 * CHUNK:
        raise AssertionError(f'16 at a time, 180 chunks: commits do not gather: {cow}')
    origin, cow = cost(lab, chunks, 1)
    lab.equal((origin['reads'], origin['writes'], cow['writes'], cow['flushes']),
              (0, 200, 0, 0), 'the second overwrite')


@case('quick')
def first_overwrite_under_four_snapshots__costs_four_times_that(lab):
    o = lab.region('o', ORIGIN)
    for i in range(4):
        cow = lab.region(f'cow{i}', ORIGIN, disk='lvm')
        lab.snapshot(f's{i}', o.dev, cow.dev, ORIGIN, CHUNK)
    lab.snapshot_origin('top', o.dev, ORIGIN)
    origin, cow = cost(lab, lab.rng.sample(range(ORIGIN // CHUNK), 20), 1)
    lab.equal((origin['reads'], origin['writes']), (80, 20), 'reads and writes of the origin')
    lab.equal(cow['write_sectors'], 160 * CHUNK, 'sectors written to the devices')


@case('quick')
def first_overwrite__takes_five_latencies_of_a_disk(lab):
    """Read the origin, write the data, flush, write the area (forced to the medium), and the write
    to the origin itself, which alone is the second overwrite."""
    for name in ('o', 'cow'):
        delay = f'{lab.region(name, ORIGIN).dev} 0 {DELAY_MS}'
        lab.table(f'slow{name}', f'0 {ORIGIN} delay {delay} {delay} {delay}')
    lab.snapshot('s', '/dev/mapper/slowo', '/dev/mapper/slowcow', ORIGIN, CHUNK)
    lab.snapshot_origin('top', '/dev/mapper/slowo', ORIGIN)
    spent_s = []
    for tag in (2, 3):
        spent_s.append([])
        for chunk in range(3):
            begin = time.monotonic()
            lab.write_ok('/dev/mapper/top', [(chunk * CHUNK, CHUNK, tag)])
            spent_s[-1].append(time.monotonic() - begin)
    first, second = (min(s) * 1000 / DELAY_MS for s in spent_s)
    lab.equal((round(first - second), int(second)), (4, 1),
              f'latencies of the first overwrite beyond those of the second: {first - second:.2f}')
