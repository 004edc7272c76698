# SPDX-License-Identifier: Apache-2.0
"""What the kernel writes into the table, what it counts, and what it makes of what it loads."""
from klib import cowdisk
from klib.runner import case

CHUNK = 8
ORIGIN = 8192  # sectors: 1024 chunks
COW = 49152
COUNTS = {0: '16/49152 16', 1: '24/49152 16', 255: '2056/49152 16', 256: '2072/49152 24',
          257: '2080/49152 24', 512: '4128/49152 32'}


def overwrite_origin(lab, chunks, tag=2, depth=1, dev='/dev/mapper/top'):
    """Overwrite these chunks, a write each."""
    lab.write_ok(dev, [(c * CHUNK, CHUNK, tag) for c in chunks], depth)


@case('quick')
def status_counts__at_the_ends_of_areas_and_the_same_after_a_load(lab):
    o, want = lab.origin('o', ORIGIN)
    cow = lab.region('cow', COW)
    lab.snapshot('s', o.dev, cow.dev, ORIGIN)
    lab.snapshot_origin('top', o.dev, ORIGIN)
    done = 0
    for count, status in COUNTS.items():
        overwrite_origin(lab, range(done, count))
        done = count
        lab.equal(lab.status('s'), status, f'status with {count} exceptions')
        lab.remove('s', 'top')
        lab.equal(cow.cow().status(), status, f'our own count of {count} exceptions')
        lab.snapshot('s', o.dev, cow.dev, ORIGIN)
        lab.snapshot_origin('top', o.dev, ORIGIN)
        lab.equal(lab.status('s'), status, f'status with {count} exceptions after a load')
    lab.content('/dev/mapper/s', want)


@case('quick')
def table_line__ends_in_store_and_chunk_size(lab):
    o = lab.region('o', ORIGIN)
    for store in ('P', 'PO'):
        cow = lab.region(f'cow{store}', COW)
        lab.snapshot('s', o.dev, cow.dev, ORIGIN, store=store, chunk=32)
        lab.equal(lab.sh('dmsetup table s').split()[-2:], [store, '32'], 'end of the table line')
        lab.remove('s')


@case('quick')
def new_chunks__strictly_ascend_without_holes_under_16_writers(lab):
    o, want = lab.origin('o', ORIGIN)
    cow = lab.region('cow', COW)
    lab.snapshot('s', o.dev, cow.dev, ORIGIN)
    lab.snapshot_origin('top', o.dev, ORIGIN)
    chunks = lab.rng.sample(range(ORIGIN // CHUNK), 600)
    overwrite_origin(lab, chunks, depth=16)
    lab.content('/dev/mapper/s', want)
    lab.remove('s', 'top')
    on_disk = cow.cow()
    lab.equal(sorted(old for old, _ in on_disk.table), sorted(chunks), 'old chunks')
    lab.equal([new for _, new in on_disk.table],
              [c for c in range(2, 700) if c % 257 != 1][:600], 'new chunks')


@case('quick')
def data_anywhere__a_table_out_of_allocation_order_with_holes_reads_right(lab):
    o, want = lab.origin('o', ORIGIN)
    olds = lab.rng.sample(range(ORIGIN // CHUNK), 300)
    places = [c for c in range(2, 900) if c % 257 != 1]
    news = lab.rng.sample(places, 300)
    cow = lab.region('cow', COW, data=cowdisk.build(COW, CHUNK, list(zip(olds, news))))
    lab.snapshot('s', o.dev, cow.dev, ORIGIN)
    for old in olds:
        want.write(old * CHUNK, CHUNK, 7)
    lab.content('/dev/mapper/s', want)
    lab.equal(lab.status('s'), cow.cow().status(), 'status')
    lab.equal(cow.cow().areas, 2, 'areas')


@case('quick')
def next_free_after_a_load__skips_the_metadata_chunk(lab):
    """CVE-2013-4299 was the lack of this step."""
    o, want = lab.origin('o', ORIGIN)
    cow = lab.region('cow', COW, data=cowdisk.build(COW, CHUNK, [(3, 257)]))
    lab.snapshot('s', o.dev, cow.dev, ORIGIN)
    lab.equal(lab.status('s'), f'{259 * 8}/{COW} 16', 'status')
    lab.write_ok('/dev/mapper/s', [(80, 8, 5)])
    want.write(24, 8, 7)
    want.write(80, 8, 5)
    lab.content('/dev/mapper/s', want)
    lab.remove('s')
    lab.equal(cow.cow().table, [(3, 257), (10, 259)], 'table')


@case('quick')
def origin_write__saves_the_whole_chunk_and_a_second_one_nothing(lab):
    o, want = lab.origin('o', ORIGIN)
    cow = lab.region('cow', COW)
    lab.snapshot('s', o.dev, cow.dev, ORIGIN, chunk=32)
    lab.snapshot_origin('top', o.dev, ORIGIN)
    lab.write_ok('/dev/mapper/top', [(33, 1, 2), (40, 2, 3), (63, 2, 4)])
    lab.content('/dev/mapper/s', want)
    want.write(33, 1, 2)
    want.write(40, 2, 3)
    want.write(63, 2, 4)
    lab.content('/dev/mapper/top', want)
    lab.remove('s', 'top')
    lab.equal(cow.cow().table, [(1, 2), (2, 3)], 'table')


@case('quick')
def snapshot_write__copies_the_rest_of_the_chunk(lab):
    o, want = lab.origin('o', ORIGIN)
    before = want.copy()
    cow = lab.region('cow', COW)
    lab.snapshot('s', o.dev, cow.dev, ORIGIN, chunk=32)
    lab.write_ok('/dev/mapper/s', [(33, 3, 9)])
    want.write(33, 3, 9)
    lab.content('/dev/mapper/s', want)
    lab.content(o.dev, before)


@case('quick')
def leftovers_past_the_end_entry__are_ignored_but_come_back(lab):
    """The kernel's weak spot: what stands past the end entry is kept in memory, written back,
    and becomes part of the table once the gap before it is filled."""
    o, want = lab.origin('o', ORIGIN)
    data = cowdisk.build(COW, CHUNK, [(3, 2), (4, 3)], after_end=[(3, 50, 5)])
    cow = lab.region('cow', COW, data=data)
    lab.snapshot('s', o.dev, cow.dev, ORIGIN)
    lab.equal(lab.status('s'), f'32/{COW} 16', 'status: two exceptions')
    want.write(24, 16, 7)
    lab.content('/dev/mapper/s', want)
    lab.write_ok('/dev/mapper/s', [(80, 8, 5)])
    lab.remove('s')
    lab.equal(cow.cow().table, [(3, 2), (4, 3), (10, 4), (50, 5)], 'table')


@case('quick')
def stacked_targets__three_levels_read_through(lab):
    """Chain: a is older than b, b older than c; each stands on the next newer one."""
    o, origin = lab.origin('o', ORIGIN)
    tables = {'c': [(c, 2 + i) for i, c in enumerate(range(0, 40, 2))],
              'b': [(c, 2 + i) for i, c in enumerate(range(0, 60, 3))],
              'a': [(c, 2 + i) for i, c in enumerate(range(0, 100, 5))]}
    below, want = o.dev, origin
    for tag, name in enumerate('cba', 11):
        cow = lab.region(f'cow{name}', COW, data=cowdisk.build(COW, CHUNK, tables[name], tag=tag))
        below = lab.snapshot(name, below, cow.dev, ORIGIN)
        for old, _ in tables[name]:
            want.write(old * CHUNK, CHUNK, tag)
        lab.content(below, want)


@case('quick')
def stacked_targets__may_differ_in_chunk_size(lab):
    o, want = lab.origin('o', ORIGIN)
    newer = lab.region('newer', COW, data=cowdisk.build(COW, 32, [(1, 2), (5, 3)], tag=11))
    older = lab.region('older', COW, data=cowdisk.build(COW, 8, [(5, 2), (100, 3)], tag=12))
    lab.snapshot('n', o.dev, newer.dev, ORIGIN)
    lab.snapshot('s', '/dev/mapper/n', older.dev, ORIGIN)
    for first, count, tag in ((32, 32, 11), (160, 32, 11), (40, 8, 12), (800, 8, 12)):
        want.write(first, count, tag)
    lab.content('/dev/mapper/s', want)


@case('quick')
def discard_zeroes_cow__a_discarded_exception_reads_as_zeros_and_frees_nothing(lab):
    o, want = lab.origin('o', ORIGIN)
    cow = lab.region('cow', COW, data=cowdisk.build(COW, CHUNK, [(4, 2), (5, 3)]))
    lab.snapshot('s', o.dev, cow.dev, ORIGIN, features='1 discard_zeroes_cow')
    want.write(32, 16, 7)
    lab.content('/dev/mapper/s', want)
    lab.equal(lab.plan(['d /dev/mapper/s 32 8']), {}, 'errors of the discard')
    want.write(32, 8, 0)
    lab.content('/dev/mapper/s', want)
    lab.equal(lab.status('s'), f'32/{COW} 16', 'status')


@case('quick')
def killed_writer__every_acknowledged_exception_is_there_and_no_chunk_is_lost(lab):
    """The guest dies under load; on disk stands a table of what had been acknowledged. What had
    been allocated and not committed is given out again."""
    o, want = lab.origin('o', ORIGIN)
    cow = lab.region('cow', COW)
    lab.snapshot('s', o.dev, cow.dev, ORIGIN)
    lab.snapshot_origin('top', o.dev, ORIGIN)
    lab.sh('(i=0; while [ $i -lt 1024 ]; do echo "w /dev/mapper/top $((i * 8)) 8 2"; '
           'i=$((i + 1)); done >p; blkio plan 8 <p) >/dev/null 2>&1 &\nusleep 700000')
    lab.power_off()
    count = len(cow.cow().table)
    lab.plug(o)
    lab.plug(cow)
    lab.snapshot('s', o.dev, cow.dev, ORIGIN)
    lab.snapshot_origin('top', o.dev, ORIGIN)
    lab.equal(lab.status('s'), cow.cow().status(), 'status after the kill')
    lab.content('/dev/mapper/s', want)
    overwritten = {i // CHUNK for i in range(0, ORIGIN, CHUNK) if o.read(i, 1)[0] == 2}
    saved = {old for old, _ in cow.cow().table}
    lab.equal(sorted(overwritten - saved), [], f'chunks overwritten but not saved, of {count}')
    overwrite_origin(lab, range(ORIGIN // CHUNK), tag=3, depth=16)
    lab.content('/dev/mapper/s', want)
    lab.remove('s', 'top')
    lab.equal([new for _, new in cow.cow().table],
              [c for c in range(2, 2000) if c % 257 != 1][:ORIGIN // CHUNK], 'new chunks')
