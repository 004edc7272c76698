# SPDX-License-Identifier: Apache-2.0
"""snapctl cow and the kernel on the same devices."""
from klib import cowdisk, snapctl
from klib.both import Both
from klib.runner import case

CHUNK = 8


class Device(Both):
    """With snapctl in place of the store's driver where both can do it."""

    def agree(self):
        """Ask the kernel for its status after a load, then hold snapctl against it."""
        self.check_kernel()
        status = self.lab.status('s')
        self.save()
        snapctl.agree(self.lab, self.cow_file, self.origin_file, self.snapshot, status)

    def merge_by_snapctl(self):
        self.save()
        before = self.on_disk().table
        self.lab.program('snapctl', 'cow', 'merge', self.cow_file, '--origin', self.origin_file)
        self.cow_region.load(self.cow_file)
        self.origin_region.load(self.origin_file)
        self._settle_merge(before)


def made_by_kernel(lab, chunk, chunks, exceptions, depth=8):
    d = Device(lab, chunks * chunk, (chunks + 40 + chunks // (chunk * 32)) * chunk, chunk)
    d.load()
    d.kernel_overwrites_origin(exceptions, depth)
    d.unload()
    return d


@case('quick')
def create__the_kernel_takes_it_as_an_empty_store(lab):
    for chunk in (1, 8, 32, 128):
        path = f'{lab.scratch}/{chunk}'
        lab.program('snapctl', 'cow', 'create', path, '--size', '2M', '--chunk-size', chunk * 512)
        o = lab.region(f'o{chunk}', 4096)
        cow = lab.region(f'cow{chunk}', 4096)
        cow.load(path)
        lab.snapshot('s', o.dev, cow.dev, 4096, chunk)
        lab.equal(lab.status('s'), f'{2 * chunk}/4096 {2 * chunk}', 'status')
        lab.remove('s')


@case('quick')
def info_list_check_export__agree_on_what_the_kernel_wrote(lab):
    for chunk, chunks, exceptions in ((1, 700, 300), (8, 1000, 600), (32, 200, 60),
                                      (128, 40, 17)):
        made_by_kernel(lab, chunk, chunks, exceptions, 16).agree()
        lab.remove('o', 'cow')


@case('quick')
def info_list_check_export__agree_at_the_ends_of_areas(lab):
    d = Device(lab, 8192, 8192, CHUNK)
    d.load()
    done = 0
    for count in (0, 255, 256, 257):
        d.load()
        lab.write_ok('/dev/mapper/top', [(c * CHUNK, CHUNK, 2) for c in range(done, count)])
        d.origin.write(done * CHUNK, (count - done) * CHUNK, 2)
        done = count
        d.agree()


@case('quick')
def overflow__is_seen_as_the_valid_device_it_is(lab):
    d = Device(lab, 8192, 12 * CHUNK, CHUNK)
    d.load('PO')
    lab.write('/dev/mapper/s', [(c * CHUNK, CHUNK, 5) for c in range(11)])
    lab.equal(lab.status('s'), 'Overflow', 'status')
    d.snapshot.write(0, 80, 5)
    d.agree()


@case('quick')
def invalid__is_told_and_neither_exported_nor_merged(lab):
    for store in ('P', 'PO'):
        d = Device(lab, 8192, 12 * CHUNK, CHUNK)
        d.load(store)
        lab.write_ok('/dev/mapper/top', [(c * CHUNK, CHUNK, 5) for c in range(11)])
        lab.equal(lab.status('s'), 'Invalid', 'status')
        d.save()
        told = snapctl.info(lab, d.cow_file)
        lab.equal((told['valid'], told['status']), (False, 'Invalid'), 'snapctl cow info')
        lab.equal(snapctl.pairs(lab, d.cow_file), sorted(d.on_disk().table), 'snapctl cow list')
        lab.program('snapctl', 'cow', 'check', '--repair', d.cow_file)
        before = d.origin_region.read()
        for words in (['export', d.cow_file, '-o', f'{lab.scratch}/no'], ['merge', d.cow_file]):
            lab.program('snapctl', 'cow', *words, '--origin', d.origin_file, status=13)
        with open(d.origin_file, 'rb') as f:
            lab.equal(f.read() == before, True, 'the origin is as it was')
        with open(d.cow_file, 'rb') as f:
            lab.equal(f.read() == d.cow_region.read(), True, 'and so is the device')
        lab.remove('o', 'cow')


@case('quick')
def headers__are_taken_and_refused_as_by_the_kernel(lab):
    """But for magic 0, of which the kernel makes a new store: to look is not to create."""
    o = lab.region('o', 4096)
    headers = [{'valid': v} for v in (0, 2, 0xffffffff)]
    headers += [{'chunk_sectors': c} for c in (1, 128, 0, 24, 1 << 31)]
    headers += [{'magic': 0x12345678}, {'version': 2, 'valid': 0}, {'magic': 0}]
    files, script = [], ''
    for i, fields in enumerate(headers):
        files.append(f'{lab.scratch}/{i}')
        with open(files[-1], 'wb') as f:
            f.write(cowdisk.header(**fields).ljust(1024 * 512, b'\0'))
        cow = lab.region(f'cow{i}', 1024)
        cow.load(files[-1])
        script += (f'dmsetup create s --table "0 4096 snapshot {o.dev} {cow.dev} P 8" 2>/dev/null '
                   '&& dmsetup status s && dmsetup remove s || echo refused\n')
    for fields, path, line in zip(headers, files, lab.sh(script).splitlines()):
        if line == 'refused' or fields == {'magic': 0}:
            lab.program('snapctl', 'cow', 'info', path, status=12)
        else:
            lab.equal(snapctl.info(lab, path)['status'], ' '.join(line.split()[3:]),
                      f'status with {fields}')


@case('quick')
def guest_killed_under_load__what_it_left_is_read_right(lab):
    d = Device(lab, 8192, 12000, CHUNK)
    d.load()
    lab.sh('(i=0; while [ $i -lt 1024 ]; do echo "w /dev/mapper/s $((i * 8)) 8 20"; '
           'i=$((i + 1)); done >p; blkio plan 8 <p) >/dev/null 2>&1 &\nusleep 700000')
    d.power_off()
    table = d.on_disk().table
    # data is durable before its exception, so a chunk in the table holds what was written
    for old, _ in table:
        d.snapshot.write(old * CHUNK, CHUNK, 20)
    d.agree()
    d.merge_by_snapctl()
    lab.equal(d.origin.tags, d.snapshot.tags, 'the origin is rolled back')
    d.check_kernel()
    if not table:
        raise AssertionError('killed before anything was saved')


@case('quick')
def discarded_exceptions__are_read_as_the_kernel_reads_them(lab):
    d = Device(lab, 8192, 4096, CHUNK)
    d.cow_region.write(cowdisk.build(4096, CHUNK, [(4, 2), (5, 3), (9, 4)]))
    d.snapshot.write(32, 16, 7)
    d.snapshot.write(72, 8, 7)
    lab.snapshot('s', d.origin_region.dev, d.cow_region.dev, 8192, CHUNK,
                 features='1 discard_zeroes_cow')
    lab.equal(lab.plan(['d /dev/mapper/s 32 8']), {}, 'errors of the discard')
    d.snapshot.write(32, 8, 0)
    lab.content('/dev/mapper/s', d.snapshot)
    lab.remove('s')
    d.agree()


@case('quick')
def merge__finishes_what_the_kernel_began(lab):
    d = made_by_kernel(lab, CHUNK, 1000, 500)
    table = d.on_disk().table
    lab.equal(d.kernel_merges(table[200][0]), 'Merge failed', 'status of the merge')
    d.agree()
    d.merge_by_snapctl()
    lab.equal((d.on_disk().valid, d.on_disk().table), (1, []), 'valid and table')
    lab.equal(d.origin.tags, d.snapshot.tags, 'the origin is rolled back')
    d.check_kernel()
    lab.equal(lab.status('s'), f'16/{d.cow_region.count} 16', 'status')


@case('quick')
def merge__leaves_the_bytes_the_kernel_leaves_in_header_and_table(lab):
    d = made_by_kernel(lab, CHUNK, 1000, 500)
    other = lab.region('other', d.cow_region.count, data=d.cow_region.read())
    d.save()
    d.kernel_merges()
    lab.program('snapctl', 'cow', 'merge', d.cow_file, '--origin', d.origin_file)
    other.load(d.cow_file)
    for what, first in (('header', 0), ('area 0', 8), ('area 1', 258 * 8)):
        lab.equal(other.read(first, CHUNK), d.cow_region.read(first, CHUNK), what)
    with open(d.origin_file, 'rb') as f:
        lab.equal(f.read() == d.origin_region.read(), True, 'both origins are the same')


@case('quick')
def check_repair__takes_away_what_the_kernel_would_resurrect(lab):
    d = Device(lab, 8192, 4096, CHUNK)
    d.cow_region.write(cowdisk.build(4096, CHUNK, [(3, 2), (4, 3)], after_end=[(3, 50, 5)]))
    d.snapshot.write(24, 16, 7)
    d.save()
    lab.program('snapctl', 'cow', 'check', '--repair', d.cow_file)
    d.cow_region.load(d.cow_file)
    lab.equal(d.cow_region.read(8, 8)[48:], bytes(4096 - 48), 'area 0 behind the end entry')
    d.load()
    lab.write_ok('/dev/mapper/s', [(800, 8, 5)])
    d.snapshot.write(800, 8, 5)
    d.agree()


@case('quick')
def stacked_kernel_targets__equal_export_and_merge_over_newer_ones(lab):
    """The kernel writes the whole chain: each snapshot target stands on the next newer one and
    is written to; then the chain is read offline."""
    sectors = 8192
    o, want = lab.origin('o', sectors)
    files, below = [], o.dev
    for age, chunk in enumerate((8, 32, 8)):
        cow = lab.region(f'cow{age}', 8192)
        below = lab.snapshot(f's{age}', below, cow.dev, sectors, chunk)
        files.insert(0, (cow, f'{lab.scratch}/cow{age}'))
        writes = [(c * 8 + lab.rng.randrange(8), 1, 20 + age)
                  for c in lab.rng.sample(range(sectors // 8), 60)]
        lab.write_ok(below, writes, depth=4)
        for w in writes:
            want.write(*w)
        lab.content(below, want)
    lab.remove('s2', 's1', 's0')
    for cow, path in files:
        cow.save(path)
    origin, newer = o.save(f'{lab.scratch}/origin'), [path for _, path in files[1:]]
    data = snapctl.export(lab, files[0][1], origin, newer)
    lab.equal(data == want.bytes(), True, 'the export equals what the kernel read')
    words = [word for path in newer for word in ('--over', path)]
    lab.program('snapctl', 'cow', 'merge', files[0][1], *words, '--origin', origin)
    with open(origin, 'rb') as f:
        lab.equal(f.read() == want.bytes(), True, 'and so does the origin, rolled back')
