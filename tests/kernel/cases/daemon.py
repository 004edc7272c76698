# SPDX-License-Identifier: Apache-2.0
"""COW devices of the daemon: streamed to by a client, then read and written by the kernel."""
import os
import time

from klib import snapctl
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
