# SPDX-License-Identifier: Apache-2.0
"""snapshot-merge: the order it works in, what it leaves when it stops, what it ends with."""
from klib import cowdisk
from klib.runner import case

CHUNK = 8
ORIGIN = 8192
COW = 8192


def merge(lab, origin, cow, **options):
    return lab.merge('m', origin, cow, ORIGIN, **options)


def random_table(lab, count):
    """Exceptions with runs of both sides and holes in between."""
    table, old, new = [], 0, 2
    while len(table) < count:
        old += lab.rng.choice([1, 1, 1, 1, 2, 5])
        hole = lab.rng.choice([0, 0, 0, 0, 3])
        left = count - len(table)
        if new + hole + left + left // 256 + 1 < COW // CHUNK:  # the rest fits without holes
            new += hole
        if new % 257 == 1:
            new += 1
        table.append((old % 1024, new))
        new += 1
    return list(dict(reversed(table)).items())


@case('quick')
def merge__empties_the_table_and_leaves_a_valid_store(lab):
    o, want = lab.origin('o', ORIGIN)
    table = random_table(lab, 600)
    cow = lab.region('cow', COW, data=cowdisk.build(COW, CHUNK, table))
    status = merge(lab, o.dev, cow.dev)
    lab.equal(status, f'16/{COW} 16', 'status')
    lab.remove('m')
    for old, _ in table:
        want.write(old * CHUNK, CHUNK, 7)
    lab.content(o.dev, want)
    lab.equal((cow.cow().valid, cow.cow().table), (1, []), 'valid and table')
    for area in range(3):
        at = cowdisk.area_chunk(CHUNK, area) * CHUNK
        lab.equal(cow.read(at, CHUNK), bytes(4096), f'area {area}')


@case('quick')
def merge_that_fails_half_way__leaves_a_table_that_loads_with_the_same_content(lab):
    """A part of the origin that cannot be written stops the merge where it stands."""
    o, want = lab.origin('o', ORIGIN)
    table = [(c, 2 + i + (i >= 256)) for i, c in enumerate(range(100, 500))]
    cow = lab.region('cow', COW, data=cowdisk.build(COW, CHUNK, table))
    lab.broken('broken', o.dev, ORIGIN, 300 * CHUNK, CHUNK)
    status = merge(lab, '/dev/mapper/broken', cow.dev)
    lab.equal(status, 'Merge failed', 'status')
    lab.remove('m', 'broken')
    left = cow.cow().table
    lab.equal(left, table[:len(left)], 'what is left is the front of the table')
    if not 201 <= len(left) < 400:
        raise AssertionError(f'{len(left)} exceptions left')
    lab.snapshot('s', o.dev, cow.dev, ORIGIN)
    want.write(800, 3200, 7)
    lab.content('/dev/mapper/s', want)
    lab.equal(lab.status('s'), cow.cow().status(), 'status of the half-merged device')
    lab.remove('s')
    lab.equal(merge(lab, o.dev, cow.dev), f'16/{COW} 16', 'status when taken up again')
    lab.content(o.dev, want)


@case('quick')
def merge_of_a_killed_guest__is_taken_up_again(lab):
    o, want = lab.origin('o', ORIGIN)
    table = random_table(lab, 500)
    cow = lab.region('cow', COW, data=cowdisk.build(COW, CHUNK, table))
    lab.table('slow', f'0 {ORIGIN} delay {o.dev} 0 8')
    merge(lab, '/dev/mapper/slow', cow.dev, wait=False)
    lab.sh('usleep 600000')
    lab.power_off()
    left = cow.cow().table
    if not 0 < len(left) < len(table):
        raise AssertionError(f'{len(left)} exceptions left of {len(table)}')
    lab.equal(left, table[:len(left)], 'what is left is the front of the table')
    lab.plug(o)
    lab.plug(cow)
    for old, _ in table:
        want.write(old * CHUNK, CHUNK, 7)
    lab.snapshot('s', o.dev, cow.dev, ORIGIN)
    lab.content('/dev/mapper/s', want)
    lab.remove('s')
    lab.equal(merge(lab, o.dev, cow.dev), f'16/{COW} 16', 'status')
    lab.content(o.dev, want)
