# SPDX-License-Identifier: Apache-2.0
"""Devices that Snapwire's store writes, and what the kernel makes of them; and back."""
import dataclasses

from klib import cowdisk, snapctl
from klib.both import Both
from klib.runner import case

CHUNK = 8


@case('quick')
def fresh_store__is_byte_for_byte_the_kernels(lab):
    for chunk in (1, 8, 32, 128):
        path = f'{lab.scratch}/{chunk}'
        lab.program('tests/kernel/driver/cow_driver', 'create', path, 4096, chunk)
        ours = lab.region(f'a{chunk}', 4096)
        ours.load(path)
        theirs = lab.region(f'b{chunk}', 4096)
        o = lab.region(f'o{chunk}', 4096)
        lab.snapshot('s', o.dev, theirs.dev, 4096, chunk)
        lab.remove('s')
        lab.equal(ours.read(), theirs.read(), f'device of chunk size {chunk}')


@case('quick')
def counts_at_the_ends_of_areas__equal_the_kernels(lab):
    b = Both(lab, 8192, 8192, CHUNK)
    b.create()
    done = 0
    for count in (0, 1, 255, 256, 257, 512, 513):
        b.put(range(done, count), batch=16, depth=4)
        done = count
        b.check_ours()
        b.check_kernel()


@case('quick')
def chunk_of_one_sector__many_areas(lab):
    b = Both(lab, 2000, 1000, 1)
    b.create()
    b.put(lab.rng.sample(range(2000), 500), batch=8, depth=16)
    b.check_ours()
    b.check_kernel()


@case('quick')
def usual_chunk_size__into_the_second_area(lab):
    b = Both(lab, 1100 * 32, 1060 * 32, 32)
    b.create()
    b.put(range(1030), batch=64, depth=4)
    b.check_kernel()
    b.kernel_overwrites_origin(15, 4)
    b.check_ours()


@case('random')
def chunks_of_64_kib__into_the_second_area(lab):
    """A quarter of a gigabyte, so not among the quick ones."""
    b = Both(lab, 4150 * 128, 4160 * 128, 128)
    b.create()
    b.put(lab.rng.sample(range(4150), 4096 + lab.rng.randrange(3)), batch=16, depth=4)
    b.check_kernel()
    b.kernel_overwrites_origin(30, 4)
    b.check_ours()
    b.merge(lab.rng.randint(1, 200))
    b.check_kernel()


@case('quick')
def disk_of_4096_byte_sectors__takes_what_we_wrote(lab):
    for chunk in (8, 32):
        b = Both(lab, 400 * chunk, 420 * chunk, chunk, disk='pool4k')
        b.create()
        b.put(lab.rng.sample(range(400), 300), batch=16)
        b.check_ours()
        b.check_kernel()
        b.unload()
        lab.remove('o', 'cow')


@case('quick', 'random')
def room__both_take_the_same_number_of_exceptions_on_any_device(lab):
    """Chunks of one sector: 32 exceptions an area, so ends of areas come often."""
    origin = lab.region('o', 200)
    sizes = [*range(34, 38), *range(66, 70), *lab.rng.sample(range(3, 120), 3)]
    for size in sizes:
        name = f'cow{size}_{lab.rng.randrange(1 << 30)}'
        theirs = lab.region(name, size)
        lab.snapshot('s', origin.dev, theirs.dev, 200, 1, 'PO')
        lab.write('/dev/mapper/s', [(c, 1, 5) for c in range(200)])
        lab.remove('s', name)
        # where the next area is missing the kernel goes invalid; we stay valid
        full = dataclasses.replace(theirs.cow(), valid=1)
        want = len(full.table)
        for batch, depth in ((1, 1), (32, 4)):
            path = f'{lab.scratch}/cow'
            lab.program('tests/kernel/driver/cow_driver', 'create', path, size, 1)
            out = lab.program('tests/kernel/driver/cow_driver', 'put', path, batch, depth,
                              data=b''.join(b'%d 5\n' % c for c in range(200)), status=1)
            with open(path, 'rb') as f:
                ours = cowdisk.read(f.read())
            lab.equal((len(ours.table), out.count(b'added')), (want, want),
                      f'exceptions on {size} chunks, {batch} a put')
            lab.equal(out.count(b'ENOSPC'), 200 - want, 'refusals')
            lab.equal(ours.status(), full.status(), 'status')


@case('quick')
def device_without_a_next_area__refuses_exception_256_and_stays_valid(lab):
    """Where the kernel goes invalid, Snapwire says no-space and keeps what it has."""
    b = Both(lab, 8192, 258 * CHUNK, CHUNK)
    b.create()
    b.put(range(255), batch=16)
    b.save()
    out = b.driver('put', b.cow_file, 1, 1, data=b'255 9\n', status=1)
    lab.equal(out, '255 ENOSPC\n', 'outcome')
    b.cow_region.load(b.cow_file)
    b.check_ours()
    b.check_kernel()
    lab.equal(lab.status('s'), '2056/2064 16', 'status')


@case('quick')
def full_device__reads_allocated_equals_total_and_loads(lab):
    b = Both(lab, 8192, 259 * CHUNK, CHUNK)
    b.create()
    b.put(range(256), batch=16)
    b.check_ours()
    b.check_kernel()
    lab.equal(lab.status('s'), '2072/2072 24', 'status')


@case('quick')
def invalidated__the_kernel_says_invalid_with_P_and_PO_and_the_table_is_still_there(lab):
    b = Both(lab, 8192, 4096, CHUNK)
    b.create()
    b.put(range(20))
    b.save()
    table = b.on_disk().table
    b.driver('invalidate', b.cow_file)
    b.cow_region.load(b.cow_file)
    lab.equal((b.on_disk().valid, b.on_disk().table), (0, table), 'valid and table')
    lab.equal(b.cow_region.read(0, CHUNK), cowdisk.header(valid=0).ljust(4096, b'\0'), 'chunk 0')
    data = b.cow_region.read()
    for store in ('P', 'PO'):
        b.load(store)
        lab.equal(lab.status('s'), 'Invalid', f'status with {store}')
        lab.equal(lab.scan('/dev/mapper/s'), ['0 8192 !EIO'], f'content with {store}')
        b.kernel_overwrites_origin(5, 1)
        lab.content('/dev/mapper/top', b.origin)
        b.unload()
        lab.equal(b.cow_region.read(), data, f'the device with {store}')


@case('quick')
def invalidated_by_the_kernel__we_say_invalid_and_refuse_puts_and_merges(lab):
    for store in ('P', 'PO'):
        b = Both(lab, 8192, 12 * CHUNK, CHUNK)
        b.load(store)
        b.kernel_overwrites_origin(20, 4)
        lab.equal(lab.status('s'), 'Invalid', f'status with {store}')
        b.save()
        data = b.cow_region.read()
        lab.equal(b.driver('status', b.cow_file), 'Invalid\n', f'our status with {store}')
        lab.equal(b.driver('put', b.cow_file, 1, 1, data=b'700 9\n', status=1), '700 EINVALID\n',
                  f'outcome with {store}')
        b.driver('merge', b.cow_file, b.origin_file, 1, status=13)
        with open(b.cow_file, 'rb') as f:
            lab.equal(f.read() == data, True, f'the device is as it was, with {store}')
        with open(b.origin_file, 'rb') as f:
            lab.equal(f.read() == b.origin_region.read(), True, 'and so is the origin')
        lab.remove('o', 'cow')


@case('quick')
def table_out_of_allocation_order_with_holes__is_read_written_on_and_merged(lab):
    """As older kernels left them. The next free chunk is one past the largest in the table."""
    b = Both(lab, 8192, 16384, CHUNK)
    olds = lab.rng.sample(range(b.chunks), 300)
    news = lab.rng.sample([c for c in range(2, 900) if c % 257 != 1], 300)
    b.cow_region.write(cowdisk.build(16384, CHUNK, list(zip(olds, news))))
    for old in olds:
        b.snapshot.write(old * CHUNK, CHUNK, 7)
    b.check_ours()
    b.put(lab.rng.sample(range(b.chunks), 300), batch=8, depth=4)
    b.check_ours()
    b.check_kernel()
    b.kernel_overwrites_origin(100, 4)
    b.check_ours()
    table = b.on_disk().table
    lab.equal(table[:300], list(zip(olds, news)), 'the table as it was')
    want = [c for c in range(max(news) + 1, 2000) if c % 257 != 1][:len(table) - 300]
    lab.equal([new for _, new in table[300:]], want, 'new chunks')
    b.merge(150)
    b.check_kernel()
    b.merge(10000)
    lab.equal(b.origin.tags, b.snapshot.tags, 'the origin is rolled back')


@case('quick')
def leftovers_past_the_end_entry__cannot_come_back_once_we_had_the_device(lab):
    """The leftovers lie in other sectors and blocks of the area than what we write."""
    b = Both(lab, 400 * 32, 400 * 32, 32)
    b.cow_region.write(cowdisk.build(400 * 32, 32, [(3, 2), (4, 3)],
                                     after_end=[(3, 50, 5), (300, 60, 6), (1023, 61, 7)]))
    b.snapshot.write(96, 64, 7)
    b.put([10])
    b.check_ours()
    b.load()
    # entries 3 to 299: entry 300 would be next
    lab.write_ok('/dev/mapper/s', [(c * 32, 32, 5) for c in range(100, 397)])
    b.snapshot.write(3200, 297 * 32, 5)
    b.check_kernel()
    b.unload()
    lab.equal(sorted(b.taken()), [3, 4, 10, *range(100, 397)], 'exceptions')


@case('quick')
def killed_writer__what_it_acknowledged_is_there_for_the_kernel(lab):
    b = Both(lab, 65536, 65536, CHUNK)
    b.create()
    said = 0
    for after_s in (0.02, 0.05, 0.1):
        said += b.put_killed(lab.rng.sample(range(b.chunks), 3000), 4, 8, after_s)
    b.check_kernel()
    b.check_ours()
    if said == 0:
        raise AssertionError('nothing was acknowledged before the kill')


@case('quick')
def power_cut_under_load__every_promise_holds_for_the_kernel(lab):
    b = Both(lab, 16384, 24000, CHUNK)
    b.create()
    for cut in (7, 30, 90):
        b.put_cut(lab.rng.sample(range(b.chunks), 300), 4, 8, lab.rng.randrange(1 << 32), cut)
        b.kernel_writes_snapshot(10, 4)
        b.check_kernel()
    b.check_ours()


@case('quick')
def power_cut_in_a_merge__the_kernel_reads_the_same_content(lab):
    b = Both(lab, 8192, 12000, CHUNK)
    b.create()
    b.put(lab.rng.sample(range(b.chunks), 400), 4, 8)
    for cut in (9, 60, 150):
        b.merge(1000, lab.rng.randrange(1 << 32), cut)
        b.check_kernel()
    b.kernel_merges()
    lab.equal(b.origin.tags, b.snapshot.tags, 'the origin is rolled back')


@case('quick')
def half_merged_by_us__the_kernel_reads_it_and_finishes_the_merge(lab):
    b = Both(lab, 8192, 8192, CHUNK)
    b.create()
    b.put(lab.rng.sample(range(1024), 400), batch=8, depth=4)
    b.merge(37)
    b.check_kernel()
    lab.equal(b.kernel_merges(), f'16/{b.cow_region.count} 16', 'status of the merge')
    lab.equal(b.origin.tags, b.snapshot.tags, 'the origin is rolled back')


@case('quick')
def half_merged_by_the_kernel__we_read_it_write_to_it_and_finish_the_merge(lab):
    b = Both(lab, 8192, 8192, CHUNK)
    b.create()
    b.kernel_overwrites_origin(400, 4)
    b.unload()
    table = b.on_disk().table
    lab.equal(b.kernel_merges(table[137][0]), 'Merge failed', 'status of the merge')
    b.check_ours()
    b.put(lab.rng.sample(range(1024), 30))
    b.check_kernel()
    b.merge(10000)
    lab.equal(b.on_disk().table, [], 'table')
    lab.equal(b.origin.tags, b.snapshot.tags, 'the origin is rolled back')
    b.check_kernel()


@case('quick')
def chain_of_our_devices__equals_stacked_kernel_targets(lab):
    """Three snapshots; each chunk saved once, in the newest of its time."""
    sectors = 8192
    o, want = lab.origin('o', sectors)
    below = o.dev
    for age, name in enumerate(['newest', 'middle', 'oldest']):
        path = f'{lab.scratch}/{name}'
        chunk = [8, 32, 8][age]
        lab.program('tests/kernel/driver/cow_driver', 'create', path, 8192, chunk)
        chunks = lab.rng.sample(range(sectors // chunk), 100)
        lines = ''.join(f'{c} {20 + age}\n' for c in chunks)
        lab.program('tests/kernel/driver/cow_driver', 'put', path, 8, 4, data=lines.encode())
        region = lab.region(name, 8192)
        region.load(path)
        below = lab.snapshot(f's{age}', below, region.dev, sectors, chunk)
        for c in chunks:
            want.write(c * chunk, chunk, 20 + age)
        lab.content(below, want)
    data = snapctl.export(lab, f'{lab.scratch}/oldest', o.save(f'{lab.scratch}/origin'),
                          [f'{lab.scratch}/middle', f'{lab.scratch}/newest'])
    lab.equal(data == want.bytes(), True, 'the export equals what the kernel read')


@case('quick', 'random')
def in_turn__kernel_and_snapwire_write_one_device(lab):
    """Random puts, overwrites, snapshot writes, kills and stopped merges of both sides."""
    rng = lab.rng
    chunk = rng.choice([1, 1, 8, 8, 8, 32, 128])
    chunks = rng.randint(40, 1200 if chunk < 32 else 200)
    sectors = chunks * chunk - rng.choice([0, 0, rng.randrange(chunk)])
    per_area = chunk * 32
    b = Both(lab, sectors, (chunks + 300 + chunks // per_area) * chunk
             + rng.choice([0, rng.randrange(chunk)]), chunk)
    b.create()

    def to_the_end_of_the_area():
        b.unload()
        free = [c for c in range(b.chunks) if c not in b.taken()]
        missing = per_area - len(b.on_disk().table) % per_area
        rng.shuffle(free)
        b.put(free[:missing], rng.randint(1, 32), rng.randint(1, 16))

    def some():
        return rng.randint(1, max(1, chunks // 4))

    def stopped_kernel_merge():
        b.unload()
        table = b.on_disk().table
        b.kernel_merges(rng.choice(table)[0] if table else None)

    operations = [
        lambda: b.put(rng.sample(range(b.chunks), some()), rng.randint(1, 32),
                      rng.randint(1, 16)),
        lambda: b.put_killed(rng.sample(range(b.chunks), some()), rng.randint(1, 8),
                             rng.randint(1, 16), rng.random() * 0.05),
        to_the_end_of_the_area,
        lambda: b.kernel_overwrites_origin(some(), rng.randint(1, 16)),
        lambda: b.kernel_writes_snapshot(some(), rng.randint(1, 16)),
        lambda: b.put_cut(rng.sample(range(b.chunks), some()), rng.randint(1, 32),
                          rng.randint(1, 16), rng.randrange(1 << 32), rng.randint(1, 200)),
        lambda: b.merge(rng.randint(1, 40)),
        lambda: b.merge(1000, rng.randrange(1 << 32), rng.randint(1, 200)),
        stopped_kernel_merge,
    ]
    for _ in range(5 if lab.quick else 12):
        rng.choice(operations)()
        if rng.random() < 0.5:
            b.check_ours()
        b.check_kernel()
    b.check_ours()
