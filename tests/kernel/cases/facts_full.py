# SPDX-License-Identifier: Apache-2.0
"""Full, overflowed and invalid devices."""
from klib import cowdisk, pattern
from klib.runner import case

CHUNK = 8
ORIGIN = 8192


def pair(lab, cow_chunks, store='P'):
    """Origin, model, COW region; targets s and top."""
    o, want = lab.origin('o', ORIGIN)
    cow = lab.region('cow', cow_chunks * CHUNK)
    lab.snapshot('s', o.dev, cow.dev, ORIGIN, store=store)
    lab.snapshot_origin('top', o.dev, ORIGIN)
    return o, want, cow


def writes(first, count, tag=2):
    return [(c * CHUNK, CHUNK, tag) for c in range(first, first + count)]


@case('quick')
def device_ends_where_the_next_area_should_be__exception_256_fails(lab):
    """258 chunks: header, area 0, 256 data chunks. Area 1 has to be zeroed before the last slot
    of area 0 is committed, and it would be chunk 258."""
    _, want, cow = pair(lab, 258)
    lab.write_ok('/dev/mapper/top', writes(0, 255))
    lab.equal(lab.status('s'), '2056/2064 16', 'status with 255')
    lab.content('/dev/mapper/s', want)
    lab.write_ok('/dev/mapper/top', writes(255, 1))
    lab.equal(lab.status('s'), 'Invalid', 'status with 256')
    lab.remove('s', 'top')
    lab.equal((cow.cow().valid, len(cow.cow().table)), (0, 255), 'valid and length on disk')


@case('quick')
def device_one_chunk_longer__exception_256_works(lab):
    _, want, cow = pair(lab, 259)
    lab.write_ok('/dev/mapper/top', writes(0, 256))
    lab.equal(lab.status('s'), '2072/2072 24', 'status: full, and valid')
    lab.content('/dev/mapper/s', want)
    lab.write_ok('/dev/mapper/top', writes(256, 1))
    lab.equal(lab.status('s'), 'Invalid', 'status with 257')
    lab.remove('s', 'top')
    lab.equal((cow.cow().valid, len(cow.cow().table)), (0, 256), 'valid and length on disk')


@case('quick')
def full__reads_allocated_equals_total_while_valid(lab):
    _, want, cow = pair(lab, 12)
    lab.write_ok('/dev/mapper/top', writes(0, 10))
    lab.equal(lab.status('s'), '96/96 16', 'status')
    lab.content('/dev/mapper/s', want)
    lab.remove('s', 'top')
    lab.equal(cow.cow().status(), '96/96 16', 'our own count')


@case('quick')
def origin_write_without_room__invalidates_with_P_and_PO_and_succeeds(lab):
    for store in ('P', 'PO'):
        o, want = lab.origin(f'o{store}', ORIGIN)
        cow = lab.region(f'cow{store}', 12 * CHUNK)
        lab.snapshot('s', o.dev, cow.dev, ORIGIN, store=store)
        lab.snapshot_origin('top', o.dev, ORIGIN)
        lab.write_ok('/dev/mapper/top', writes(0, 11))
        want.write(0, 88, 2)
        lab.content('/dev/mapper/top', want)
        lab.equal(lab.status('s'), 'Invalid', f'status with {store}')
        lab.remove('s', 'top')
        lab.equal((cow.cow().valid, len(cow.cow().table)), (0, 10),
                  f'valid and length on disk with {store}')


@case('quick')
def snapshot_write_without_room__invalidates_with_P(lab):
    _, _, cow = pair(lab, 12)
    lab.equal(lab.write('/dev/mapper/s', writes(0, 11)), {10: 'EIO'}, 'errors')
    lab.equal(lab.status('s'), 'Invalid', 'status')
    lab.remove('s', 'top')
    lab.equal(cow.cow().valid, 0, 'valid on disk')


@case('quick')
def snapshot_write_without_room__overflows_with_PO_and_stays_readable(lab):
    o, want, cow = pair(lab, 12, 'PO')
    errors = lab.write('/dev/mapper/s', writes(0, 11))
    lab.equal(list(errors), [10], 'which writes failed')
    lab.equal(lab.status('s'), 'Overflow', 'status')
    want.write(0, 80, 2)
    lab.content('/dev/mapper/s', want)
    lab.equal(len(lab.write('/dev/mapper/s', [(0, 8, 3), (4000, 8, 3)])), 2,
              'further writes that fail, one to a chunk that has an exception')
    lab.content('/dev/mapper/s', want)
    lab.remove('s', 'top')
    lab.equal((cow.cow().valid, len(cow.cow().table)), (1, 10), 'valid and length on disk')
    lab.snapshot('s', o.dev, cow.dev, ORIGIN, store='PO')
    lab.equal(lab.status('s'), '96/96 16', 'status after a load')
    lab.content('/dev/mapper/s', want)


@case('quick')
def overflowed__an_origin_write_without_room_still_invalidates(lab):
    """Overflow holds off the writers of the snapshot alone."""
    _, want, cow = pair(lab, 12, 'PO')
    lab.equal(list(lab.write('/dev/mapper/s', writes(0, 11))), [10], 'which writes failed')
    lab.equal(lab.status('s'), 'Overflow', 'status')
    lab.write_ok('/dev/mapper/top', writes(5, 1, 4))
    lab.equal(lab.status('s'), 'Overflow', 'status behind an overwrite of what has an exception')
    lab.write_ok('/dev/mapper/top', writes(500, 1, 4))
    want.write(40, 8, 4)
    want.write(4000, 8, 4)
    lab.content('/dev/mapper/top', want)
    lab.equal(lab.status('s'), 'Invalid', 'status behind an overwrite of what has none')
    lab.remove('s', 'top')
    lab.equal((cow.cow().valid, len(cow.cow().table)), (0, 10), 'valid and length on disk')


@case('quick')
def invalid__table_stays_and_loads_but_all_io_fails_and_merge_is_refused(lab):
    o, _ = lab.origin('o', ORIGIN)
    table = [(4, 2), (9, 3)]
    data = cowdisk.build(512, CHUNK, table, valid=0)
    cow = lab.region('cow', 512, data=data)
    for store in ('P', 'PO'):
        lab.snapshot('s', o.dev, cow.dev, ORIGIN, store=store)
        lab.equal(lab.status('s'), 'Invalid', f'status with {store}')
        plan = [f'{op} /dev/mapper/s {s} 8 5' for op in 'rw' for s in (32, 800)]
        lab.equal(lab.plan(plan), {i: 'EIO' for i in range(4)}, f'errors with {store}')
        lab.remove('s')
        r = lab.run(f'dmsetup create m --table "0 {ORIGIN} snapshot-merge {o.dev} {cow.dev} '
                    f'{store} 8"; dmsetup status m; dmsetup remove m')
        lab.equal('Invalid' in r.out or r.status != 0, True, f'no merge: {r.out}{r.err}')
        lab.equal(cow.read(), data, f'the device behind it all with {store}')


@case('quick')
def made_invalid_by_the_kernel__loads_as_invalid_with_P_and_PO(lab):
    for made in ('P', 'PO'):
        o, want, cow = pair(lab, 12, made)
        lab.write_ok('/dev/mapper/top', writes(0, 11))
        want.write(0, 88, 2)
        lab.remove('s', 'top')
        data = cow.read()
        for loaded in ('P', 'PO'):
            how = f'made with {made}, loaded with {loaded}'
            lab.snapshot('s', o.dev, cow.dev, ORIGIN, store=loaded)
            lab.snapshot_origin('top', o.dev, ORIGIN)
            lab.equal(lab.status('s'), 'Invalid', how)
            lab.equal(lab.scan('/dev/mapper/s'), [f'0 {ORIGIN} !EIO'], f'content, {how}')
            lab.equal(lab.write('/dev/mapper/s', writes(3, 1, 5)), {0: 'EIO'}, f'write, {how}')
            lab.content('/dev/mapper/top', want)
            lab.remove('s', 'top')
            lab.equal(cow.read(), data, f'the device, {how}')
        lab.remove('o', 'cow')


@case('quick')
def invalid_and_an_origin_write__succeeds_without_a_copy(lab):
    o, want = lab.origin('o', ORIGIN)
    data = cowdisk.build(512, CHUNK, [(4, 2)], valid=0)
    cow = lab.region('cow', 512, data=data)
    for tag, store in enumerate(('P', 'PO'), 2):
        lab.snapshot('s', o.dev, cow.dev, ORIGIN, store=store)
        lab.snapshot_origin('top', o.dev, ORIGIN)
        lab.write_ok('/dev/mapper/top', writes(0, 3, tag))
        want.write(0, 24, tag)
        lab.content('/dev/mapper/top', want)
        lab.remove('s', 'top')
        lab.equal(cow.read(), data, f'the device with {store}')


@case('quick')
def invalidate__rewrites_the_whole_header_chunk(lab):
    """Nothing of ours can live in the rest of chunk 0."""
    o, _ = lab.origin('o', ORIGIN)
    data = bytearray(cowdisk.build(12 * CHUNK, CHUNK, [(4, 2)]))
    data[16:4096] = b'\xaa' * 4080
    cow = lab.region('cow', 12 * CHUNK, data=bytes(data))
    lab.snapshot('s', o.dev, cow.dev, ORIGIN)
    lab.snapshot_origin('top', o.dev, ORIGIN)
    lab.write_ok('/dev/mapper/top', writes(100, 10))
    lab.equal(lab.status('s'), 'Invalid', 'status')
    lab.remove('s', 'top')
    lab.equal(cow.read(0, 8), cowdisk.header(valid=0).ljust(4096, b'\0'), 'chunk 0')
    lab.equal(pattern.scan(cow.read(16, 8)), ['0 8 7@32'], 'the data chunk')
