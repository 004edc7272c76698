# SPDX-License-Identifier: Apache-2.0
"""Which headers the kernel takes, and what it makes of them."""
import struct

from klib import cowdisk
from klib.runner import case

ORIGIN = 4096  # sectors
COW = 2048


def with_header(lab, name, data, disk='pool'):
    """A COW region that begins with these bytes."""
    return lab.region(name, COW, data=data, disk=disk)


def refused(lab, data, requested=8):
    o = lab.region('o', ORIGIN)
    cow = with_header(lab, 'cow', data)
    return lab.refused(f'0 {ORIGIN} snapshot {o.dev} {cow.dev} P {requested}')


@case('quick')
def zeroed_device__becomes_a_new_store(lab):
    o = lab.region('o', ORIGIN)
    cow = lab.region('cow', COW)
    lab.snapshot('s', o.dev, cow.dev, ORIGIN)
    lab.equal(lab.status('s'), f'16/{COW} 16', 'status')
    lab.remove('s')
    lab.equal(cow.read(0, 8), cowdisk.header().ljust(4096, b'\0'), 'chunk 0')
    lab.equal(cow.read(8, 8), bytes(4096), 'area 0')


@case('quick')
def magic_zero__counts_as_new_whatever_else_stands_there(lab):
    o = lab.region('o', ORIGIN)
    junk = struct.pack('<IIII', 0, 99, 77, 3) + b'\xee' * 8176
    cow = with_header(lab, 'cow', junk)
    lab.snapshot('s', o.dev, cow.dev, ORIGIN)
    lab.equal(lab.status('s'), f'16/{COW} 16', 'status')
    lab.remove('s')
    lab.equal(cow.read(0, 8), cowdisk.header().ljust(4096, b'\0'), 'chunk 0 was rewritten whole')
    lab.equal(cow.read(8, 8), bytes(4096), 'area 0 was wiped')


@case('quick')
def bad_magic__enxio(lab):
    lab.equal(refused(lab, cowdisk.header(magic=0x12345678)), 'ENXIO', 'errno')


@case('quick')
def bad_version__einval(lab):
    lab.equal(refused(lab, cowdisk.header(version=2)), 'EINVAL', 'errno')


@case('quick')
def bad_version__is_looked_at_before_valid(lab):
    lab.equal(refused(lab, cowdisk.header(version=2, valid=0)), 'EINVAL', 'errno')


@case('quick')
def valid_not_zero__counts_as_valid(lab):
    o = lab.region('o', ORIGIN)
    for valid in (1, 2, 0xffffffff):
        cow = with_header(lab, f'cow{valid}', cowdisk.header(valid=valid))
        lab.snapshot('s', o.dev, cow.dev, ORIGIN)
        lab.equal(lab.status('s'), f'16/{COW} 16', f'status with valid = {valid}')
        lab.remove('s')


@case('quick')
def chunk_size_zero_or_huge_or_no_power_of_two__einval(lab):
    o = lab.region('o', ORIGIN)
    for i, chunk in enumerate((0, 3, 9, 24, 1 << 31, 0xffffffff)):
        cow = with_header(lab, f'cow{i}', cowdisk.header(chunk_sectors=chunk))
        lab.equal(lab.refused(f'0 {ORIGIN} snapshot {o.dev} {cow.dev} P 8'), 'EINVAL',
                  f'errno for a chunk size of {chunk}')


@case('quick')
def chunk_size_on_disk__wins_over_the_requested(lab):
    o = lab.region('o', ORIGIN)
    cow = with_header(lab, 'cow', cowdisk.header(chunk_sectors=32))
    lab.snapshot('s', o.dev, cow.dev, ORIGIN, chunk=8)
    lab.equal(lab.status('s'), f'64/{COW} 64', 'status')
    lab.equal(lab.sh('dmsetup table s').split()[-2:], ['P', '32'], 'end of the table line')


@case('quick')
def chunk_of_one_sector__is_taken_on_512_byte_sectors(lab):
    o = lab.region('o', ORIGIN)
    cow = lab.region('cow', COW)
    lab.snapshot('s', o.dev, cow.dev, ORIGIN, chunk=1)
    lab.equal(lab.status('s'), f'2/{COW} 2', 'status')


@case('quick')
def chunk_below_4k__is_refused_on_4096_byte_sectors(lab):
    o = lab.region('o', ORIGIN, disk='pool4k')
    cow = lab.region('cow', COW, disk='pool4k')
    for chunk in (1, 2, 4):
        lab.equal(lab.refused(f'0 {ORIGIN} snapshot {o.dev} {cow.dev} P {chunk}'), 'EINVAL',
                  f'errno for {chunk} sectors')
    lab.snapshot('s', o.dev, cow.dev, ORIGIN, chunk=8)
    lab.equal(lab.status('s'), f'16/{COW} 16', 'status with 8 sectors')


@case('quick')
def snapshot_longer_than_its_origin__is_refused_and_shorter_is_taken(lab):
    o, want = lab.origin('o', ORIGIN)
    cow = lab.region('cow', COW)
    lab.equal(lab.refused(f'0 {ORIGIN + 8} snapshot {o.dev} {cow.dev} P 8'), 'EINVAL', 'errno')
    lab.snapshot('s', o.dev, cow.dev, ORIGIN - 800)
    want.tags = want.tags[:ORIGIN - 800]
    lab.content('/dev/mapper/s', want)


@case('quick')
def read_only_disk__a_valid_device_loads_with_a_read_only_target(lab):
    o, want = lab.origin('o', ORIGIN)
    data = cowdisk.build(COW, 8, [(5, 2), (17, 4)], tag=7)
    cow = lab.region('cow', COW, disk='readonly', data=data, read_only=True)
    lab.snapshot('s', o.dev, cow.dev, ORIGIN, options='-r')
    lab.equal(lab.status('s'), f'40/{COW} 16', 'status')
    want.write(40, 8, 7)
    want.write(136, 8, 7)
    lab.content('/dev/mapper/s', want)
