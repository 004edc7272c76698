# SPDX-License-Identifier: Apache-2.0
"""Snapshots as LVM makes them: their -cow volume is an ordinary COW device."""
from klib import cowdisk, lvm, snapctl
from klib.runner import case


@case('quick')
def lvcreate_snapshot__its_cow_volume_is_a_cow_device(lab):
    want = lvm.setup(lab)
    chunks = lab.rng.sample(range(lvm.SECTORS // 8), 100)
    lab.write_ok('/dev/vg/o', [(c * 8, 8, 2) for c in chunks], depth=4)
    lab.write_ok('/dev/vg/s', [(chunks[0] * 8, 4, 3), (chunks[-1] * 8 + 7, 1, 3)])
    want.write(chunks[0] * 8, 4, 3)
    want.write(chunks[-1] * 8 + 7, 1, 3)
    lab.content('/dev/vg/s', want)
    status = lab.status('vg-s')
    cow, origin = lvm.region(lab, 's-cow'), lvm.region(lab, 'o-real')
    lvm.deactivate(lab)
    on_disk = cow.cow()
    lab.equal(on_disk.status(), status, 'status')
    lab.equal(sorted(old for old, _ in on_disk.table), sorted(chunks), 'old chunks')
    lab.equal(cowdisk.content(cow.read(), origin.read()), want.bytes(), 'content, read from here')


@case('quick')
def lvcreate_snapshot__snapctl_reads_its_cow_volume(lab):
    want = lvm.setup(lab, '16k')
    lab.write_ok('/dev/vg/o', [(c * 8, 8, 2) for c in lab.rng.sample(range(lvm.SECTORS // 8), 40)])
    lab.write_ok('/dev/vg/s', [(1000, 50, 3)])
    want.write(1000, 50, 3)
    status = lab.status('vg-s')
    cow, origin = lvm.region(lab, 's-cow'), lvm.region(lab, 'o-real')
    lvm.deactivate(lab)
    snapctl.agree(lab, cow.save(f'{lab.scratch}/cow'), origin.save(f'{lab.scratch}/origin'), want,
                  status)


@case('quick')
def lvconvert_merge__rolls_the_origin_back(lab):
    want = lvm.setup(lab)
    lab.write_ok('/dev/vg/o', [(c * 8, 8, 2) for c in range(0, 200, 3)])
    lab.sh('lvm lvconvert -qq --merge -i 1 vg/s\n'
           'for i in $(seq 200); do lvm lvs vg/s >/dev/null 2>&1 || break; usleep 50000; done')
    lab.content('/dev/vg/o', want)
    lvm.deactivate(lab)
