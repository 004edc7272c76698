# SPDX-License-Identifier: Apache-2.0
"""COW devices of the daemon: streamed to by a client, then read and written by the kernel."""
import os
import time

from klib import cowdisk, pattern, snapctl
from klib.runner import case
from klib.service import Service

SECTORS = 16384


def status_of(lab, path):
    return snapctl.info(lab, path)['status']


def wait_for_exceptions(path, count, client):
    """Until so many of the first area (4 KiB chunks) are on disk, or the client is through."""
    with open(path, 'rb') as f:
        while client.poll() is None:
            if any(os.pread(f.fileno(), 16, 4096 + 16 * count)):
                return
            time.sleep(0.001)


@case('quick', 'random')
def streamed_through_the_daemon__the_kernel_reads_the_first_generation(lab):
    for chunk in (8, 32, 128):
        with Service(lab, SECTORS) as service:
            first = service.content
            service.create('a', chunk, '--cow-size', '24M')
            service.apply('a', service.next_generation(2, 300))
            service.daemon.stop()
            path = service.cow_files()['a']
            o, cow = service.region('o', service.origin_file), service.region('cow', path)
            lab.snapshot('s', o.dev, cow.dev, SECTORS, chunk)
            lab.content('/dev/mapper/s', first)
            lab.content(o.dev, service.content)
            lab.equal(lab.status('s'), status_of(lab, path), 'status')
            lab.remove('s', 'o', 'cow')


@case('quick')
def streamed_to_the_end_of_an_area__status_and_content_are_the_kernels(lab):
    """A full area of the usual chunk size; one and two of a small one."""
    for chunk, counts in ((32, (1024,)), (8, (256, 512))):
        sectors = (counts[-1] + 76) * chunk
        with Service(lab, sectors) as service:
            first = service.content
            service.create('a', chunk)
            order = lab.rng.sample(range(sectors // chunk), counts[-1])
            for done, count in zip((0, *counts), counts):
                service.apply('a', service.next_content([(c * chunk, chunk, count)
                                                         for c in order[done:count]]))
                service.daemon.stop()
                path = service.cow_files()['a']
                o, cow = service.region('o', service.origin_file), service.region('cow', path)
                lab.snapshot('s', o.dev, cow.dev, sectors, chunk)
                lab.content('/dev/mapper/s', first)
                lab.equal(lab.status('s'), status_of(lab, path), 'status')
                lab.equal(len(cow.cow().table), count, 'exceptions')
                lab.remove('s', 'o', 'cow')
                service.daemon.start()


@case('quick', 'random')
def daemon_and_client_killed__the_kernel_reads_the_first_generation(lab):
    for _ in range(2 if lab.quick else 4):
        with Service(lab, SECTORS) as service:
            first = service.content
            service.create('a', 8, '--cow-size', '24M')
            source = service.next_generation(2, 1500)
            client = service.case.spawn('remote', 'apply', 'v@a', '--origin',
                                        service.origin_file, '--source', source)
            wait_for_exceptions(service.cow_files()['a'], lab.rng.randrange(256), client)
            service.daemon.kill()
            client.kill()
            client.wait()
            path = service.cow_files()['a']
            o, cow = service.region('o', service.origin_file), service.region('cow', path)
            lab.snapshot('s', o.dev, cow.dev, SECTORS, 8)
            lab.content('/dev/mapper/s', first)
            lab.equal(lab.status('s'), status_of(lab, path), 'status')
            if not cow.cow().table:
                raise AssertionError('killed before anything was saved')
            lab.remove('s', 'o', 'cow')


@case('quick', 'random')
def killed_in_a_merge__origin_and_device_still_make_the_first_generation(lab):
    """However far the roll-back came, the kernel reads the same snapshot."""
    with Service(lab, SECTORS) as service:
        first = service.content
        service.create('a', 8, '--cow-size', '24M')
        service.apply('a', service.next_generation(2, 1500))
        client = service.case.spawn('remote', 'merge', 'v@a', '--origin', service.origin_file)
        time.sleep(lab.rng.random() * 0.1)
        service.daemon.kill()
        client.kill()
        client.wait()
        o = service.region('o', service.origin_file)
        below, files = o.dev, service.cow_files()
        if 'a' in files:
            cow = service.region('cow', files['a'])
            below = lab.snapshot('s', o.dev, cow.dev, SECTORS, 8)
        lab.content(below, first)


@case('quick', 'random')
def chain_of_the_daemon__equals_stacked_kernel_targets(lab):
    with Service(lab, SECTORS) as service:
        generations = []
        for i, name in enumerate('abc'):
            generations.append((name, service.content))
            service.create(name, 8, '--cow-size', '24M')
            service.apply(name, service.next_generation(2 + i, 100))
        service.daemon.stop()
        files = service.cow_files()
        below = service.region('o', service.origin_file).dev
        for name, content in reversed(generations):
            cow = service.region(f'cow{name}', files[name])
            below = lab.snapshot(name, below, cow.dev, SECTORS)
            lab.content(below, content)


@case('quick', 'random')
def kernel_writes_to_a_device_of_the_daemon__which_goes_on_with_it(lab):
    """Daemon, kernel, daemon: the kernel overwrites more of the origin in between."""
    with Service(lab, SECTORS) as service:
        first = service.content
        service.create('a', 8, '--cow-size', '24M')
        service.apply('a', service.next_generation(2, 60))
        service.daemon.stop()
        path = service.cow_files()['a']
        o, cow = service.region('o', service.origin_file), service.region('cow', path)
        lab.snapshot('s', o.dev, cow.dev, SECTORS)
        lab.snapshot_origin('top', o.dev, SECTORS)
        chunks = lab.rng.sample(range(SECTORS // 8), 400)
        lab.write_ok('/dev/mapper/top', [(c * 8, 8, 5) for c in chunks], depth=8)
        for c in chunks:
            service.content.write(c * 8, 8, 5)
        lab.content('/dev/mapper/s', first)
        status = lab.status('s')
        lab.remove('s', 'top')
        cow.save(path)
        o.save(service.origin_file)
        lab.equal(status_of(lab, path), status, 'status')
        service.daemon.start()
        lab.equal(service.export('a'), first.runs(), 'export after the kernel had it')
        service.apply('a', service.next_generation(6, 60))
        lab.equal(service.export('a'), first.runs(), 'export after another apply')
        service.daemon.stop()
        o.load(service.origin_file)
        after = service.region('after', path)
        lab.snapshot('s', o.dev, after.dev, SECTORS)
        lab.content('/dev/mapper/s', first)
        lab.equal(lab.status('s'), status_of(lab, path), 'status at the end')


@case('quick', 'random')
def device_of_the_kernel__is_taken_over_by_the_daemon(lab):
    """create --cow-device --take-over, streaming into it, and back to the kernel."""
    with Service(lab, SECTORS) as service:
        first = service.content
        o = service.region('o', service.origin_file)
        cow = lab.region('cow', 24000)
        lab.snapshot('s', o.dev, cow.dev, SECTORS)
        lab.snapshot_origin('top', o.dev, SECTORS)
        chunks = lab.rng.sample(range(SECTORS // 8), 500)
        lab.write_ok('/dev/mapper/top', [(c * 8, 8, 5) for c in chunks], depth=16)
        service.content = first.copy()
        for c in chunks:
            service.content.write(c * 8, 8, 5)
        lab.remove('s', 'top')
        path = cow.save(service.case.path('device'))
        o.save(service.origin_file)
        service.case.remote('create', 'v@a', '--cow-device', path, '--take-over')
        lab.equal(service.export('a'), first.runs(), 'export after taking over')
        service.apply('a', service.next_generation(6, 80))
        lab.equal(service.export('a'), first.runs(), 'export after an apply')
        service.daemon.stop()
        o.load(service.origin_file)
        cow.load(path)
        lab.snapshot('s', o.dev, cow.dev, SECTORS)
        lab.content('/dev/mapper/s', first)
        lab.equal(lab.status('s'), status_of(lab, path), 'status')


def taken_over(lab, make):
    """A device that make(region of the origin, of the device) leaves behind, and the content that
    a snapshot on it reads as from then on: the daemon takes it over and streams into it, and the
    kernel reads what comes of that."""
    with Service(lab, SECTORS) as service:
        o = service.region('o', service.origin_file)
        cow = lab.region('cow', 24000)
        o, cow, origin, first = make(o, cow, service.content.copy())
        path = cow.save(service.case.path('device'))
        o.save(service.origin_file)
        service.content = origin
        service.case.remote('create', 'v@a', '--cow-device', path, '--take-over')
        lab.equal(service.export('a'), first.runs(), 'export after taking over')
        service.apply('a', service.next_generation(60, 80))
        lab.equal(service.export('a'), first.runs(), 'export after an apply')
        service.daemon.stop()
        o.load(service.origin_file)
        cow.load(path)
        lab.snapshot('s', o.dev, cow.dev, SECTORS)
        lab.content('/dev/mapper/s', first)
        lab.equal(lab.status('s'), status_of(lab, path), 'status')
    lab.remove('s')


@case('quick', 'random')
def overflowed_device_of_the_kernel__is_taken_over(lab):
    """There is room again once the device is a larger one."""
    def make(o, cow, content):
        small = lab.region('small', 100 * 8)
        lab.snapshot('s', o.dev, small.dev, SECTORS, store='PO')
        chunks = lab.rng.sample(range(SECTORS // 8), 120)
        failed = lab.write('/dev/mapper/s', [(c * 8, 8, 5) for c in chunks])
        lab.equal((len(failed), lab.status('s')), (22, 'Overflow'), 'failures and status')
        lab.remove('s')
        first = content.copy()
        for c in chunks[:98]:
            first.write(c * 8, 8, 5)
        cow.write(small.read())
        return o, cow, content, first

    taken_over(lab, make)


@case('quick', 'random')
def half_merged_device_of_the_kernel__is_taken_over(lab):
    def make(o, cow, content):
        olds = lab.rng.sample(range(SECTORS // 8), 400)
        news = [c for c in range(2, 600) if c % 257 != 1]
        cow.write(cowdisk.build(cow.count, 8, list(zip(olds, news))))
        first = content.copy()
        for old in olds:
            first.write(old * 8, 8, 7)
        lab.broken('below', o.dev, SECTORS, olds[150] * 8, 8)
        lab.equal(lab.merge('m', '/dev/mapper/below', cow.dev, SECTORS), 'Merge failed', 'status')
        lab.remove('m', 'below')
        left = len(cow.cow().table)
        if not 150 < left < 400:
            raise AssertionError(f'{left} exceptions left')
        origin = pattern.Content(0)
        for line in pattern.scan(o.read()):
            _, count, tag = line.split()
            origin.tags += [int(tag)] * int(count)
        return o, cow, origin, first

    taken_over(lab, make)


@case('random')
def device_of_a_killed_guest__is_taken_over(lab):
    def make(o, cow, content):
        first = content.copy()
        lab.snapshot('s', o.dev, cow.dev, SECTORS)
        lab.sh('(i=0; while [ $i -lt 1024 ]; do echo "w /dev/mapper/s $((i * 8)) 8 20"; '
               'i=$((i + 1)); done >p; blkio plan 8 <p) >/dev/null 2>&1 &\nusleep 700000')
        lab.power_off()
        lab.plug(o)
        lab.plug(cow)
        for old, _ in cow.cow().table:
            first.write(old * 8, 8, 20)
        return o, cow, content, first

    taken_over(lab, make)


@case('quick')
def invalid_device_of_the_kernel__is_not_taken_over(lab):
    with Service(lab, SECTORS) as service:
        o = service.region('o', service.origin_file)
        for store in ('P', 'PO'):
            cow = lab.region(f'cow{store}', 96)
            lab.snapshot('s', o.dev, cow.dev, SECTORS, store=store)
            lab.snapshot_origin('top', o.dev, SECTORS)
            lab.write_ok('/dev/mapper/top', [(c * 8, 8, 5) for c in range(11)])
            lab.equal(lab.status('s'), 'Invalid', 'status')
            lab.remove('s', 'top')
            path = cow.save(service.case.path(store))
            service.case.fails(13, path, 'remote', 'create', 'v@a', '--cow-device', path,
                               '--take-over')
            with open(path, 'rb') as f:
                lab.equal(f.read() == cow.read(), True, 'the device is as it was')


@case('quick')
def invalidated_by_the_daemon__the_kernel_says_invalid_with_P_and_PO(lab):
    """Policy `invalidate`: the device is full, the snapshot is given up, the writer goes on."""
    with Service(lab, SECTORS, '--full-policy', 'invalidate') as service:
        service.create('a', 8, '--cow-size', '1M')
        source = service.next_generation(2, 1500)
        service.case.snapctl('remote', 'apply', 'v@a', '--origin', service.origin_file, '--source',
                             source, code=None)
        service.daemon.stop()
        path = service.cow_files()['a']
        o, cow = service.region('o', service.origin_file), service.region('cow', path)
        lab.equal(cow.cow().valid, 0, 'valid on disk')
        lab.equal(status_of(lab, path), 'Invalid', 'our status')
        data = cow.read()
        lab.equal(sorted(cow.cow().table), snapctl.pairs(lab, path), 'the table is still there')
        for store in ('P', 'PO'):
            lab.snapshot('s', o.dev, cow.dev, SECTORS, store=store)
            lab.equal(lab.status('s'), 'Invalid', f'status with {store}')
            lab.equal(lab.scan('/dev/mapper/s'), [f'0 {SECTORS} !EIO'], f'content with {store}')
            lab.remove('s')
            lab.equal(cow.read() == data, True, f'the device is as it was, with {store}')
