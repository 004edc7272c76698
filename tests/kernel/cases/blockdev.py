# SPDX-License-Identifier: Apache-2.0
"""Daemon and kernel on the very same block devices: snapwired and snapctl run in the guest."""
import json

from klib import inguest, lvm
from klib.runner import case

SECTORS = 8192
CHUNK = 8


def next_generation(lab, content, tag, pieces):
    """A region and the model of a new content for the origin."""
    content = content.copy()
    for _ in range(pieces):
        content.write(lab.rng.randrange(SECTORS // 8) * 8, lab.rng.choice([1, 8]), tag)
    return lab.region(f'next{tag}', SECTORS, data=content.bytes()), content


@case('quick', 'random')
def block_device_of_the_kernel__is_taken_over_streamed_into_and_handed_back(lab):
    o, first = lab.origin('o', SECTORS)
    cow = lab.region('cow', 12000)
    out = lab.region('out', SECTORS)
    lab.snapshot('s', o.dev, cow.dev, SECTORS, store='PO')
    lab.snapshot_origin('top', o.dev, SECTORS)
    content = first.copy()
    chunks = lab.rng.sample(range(SECTORS // CHUNK), 300)
    lab.write_ok('/dev/mapper/top', [(c * CHUNK, CHUNK, 2) for c in chunks], depth=8)
    for c in chunks:
        content.write(c * CHUNK, CHUNK, 2)
    create = ['remote', 'create', 'v@a', '--cow-device', cow.dev, '--take-over']
    with inguest.Daemon(lab) as d:
        d.snapctl('remote', 'create', 'v', '--like', o.dev)
        d.snapctl(*create, status=11, says='cow')  # the kernel has it
        lab.remove('s', 'top')
        d.snapctl(*create)
        lab.equal(lab.refused(f'0 {SECTORS} snapshot {o.dev} {cow.dev} P 8'), 'EBUSY',
                  'errno of a load while the daemon has the device')
        source, content = next_generation(lab, content, 3, 200)
        d.snapctl('remote', 'apply', 'v@a', '--origin', o.dev, '--source', source.dev)
        lab.content(o.dev, content)
        d.snapctl('remote', 'export', 'v@a', '--origin', o.dev, '-o', out.dev)
        lab.content(out.dev, first)
        d.stop()
        lab.snapshot('s', o.dev, cow.dev, SECTORS, store='PO')
        lab.snapshot_origin('top', o.dev, SECTORS)
        lab.equal(lab.status('s'), cow.cow().status(), 'status')
        lab.content('/dev/mapper/s', first)
        more = lab.rng.sample(range(SECTORS // CHUNK), 100)
        lab.write_ok('/dev/mapper/top', [(c * CHUNK, CHUNK, 4) for c in more], depth=8)
        lab.content('/dev/mapper/s', first)
        lab.remove('s', 'top')
        d.start()
        d.snapctl('remote', 'merge', 'v@a', '--origin', o.dev)
        lab.content(o.dev, first)


@case('random')
def snapctl_on_block_devices__agrees_with_the_kernel_and_keeps_off_what_it_holds(lab):
    o, want = lab.origin('o', SECTORS)
    cow, out = lab.region('cow', 12000), lab.region('out', SECTORS)
    inguest.snapctl(lab, 'cow', 'create', cow.dev, '--chunk-size', '4K')
    lab.snapshot('s', o.dev, cow.dev, SECTORS)
    chunks = lab.rng.sample(range(SECTORS // CHUNK), 300)
    lab.write_ok('/dev/mapper/s', [(c * CHUNK + 2, 3, 5) for c in chunks], depth=8)
    for c in chunks:
        want.write(c * CHUNK + 2, 3, 5)
    status = lab.status('s')
    for words in (['create', cow.dev], ['merge', cow.dev, '--origin', o.dev]):
        inguest.snapctl(lab, 'cow', *words, status=11)
    lab.content('/dev/mapper/s', want)
    lab.remove('s')
    told = json.loads(inguest.snapctl(lab, 'cow', 'info', '--json', cow.dev))
    lab.equal(told['status'], status, 'status')
    inguest.snapctl(lab, 'cow', 'export', cow.dev, '--origin', o.dev, '-o', out.dev)
    lab.content(out.dev, want)
    inguest.snapctl(lab, 'cow', 'merge', cow.dev, '--origin', o.dev)
    lab.content(o.dev, want)
    lab.snapshot('s', o.dev, cow.dev, SECTORS)
    lab.equal(lab.status('s'), f'16/{cow.count} 16', 'status of the merged device')


@case('random')
def lvm_snapshot_in_use__its_cow_volume_is_read_beneath_it(lab):
    want = lvm.setup(lab)
    out = lab.region('out', lvm.SECTORS)
    chunks = lab.rng.sample(range(lvm.SECTORS // 8), 80)
    lab.write_ok('/dev/vg/o', [(c * 8, 8, 2) for c in chunks[:50]])
    lab.write_ok('/dev/vg/s', [(c * 8, 8, 3) for c in chunks[40:]])
    for c in chunks[40:]:
        want.write(c * 8, 8, 3)
    told = json.loads(inguest.snapctl(lab, 'cow', 'info', '--json', '/dev/mapper/vg-s-cow'))
    lab.equal(told['status'], lab.status('vg-s'), 'status')
    lab.equal(told['exceptions'], 80, 'exceptions')
    inguest.snapctl(lab, 'cow', 'export', '/dev/mapper/vg-s-cow', '--origin',
                    '/dev/mapper/vg-o-real', '-o', out.dev)
    lab.content(out.dev, want)
    lab.content('/dev/vg/s', want)
    lvm.deactivate(lab)
