# SPDX-License-Identifier: Apache-2.0
"""A second reading of the on-disk format (docs/format.md), small and slow on purpose.

It shares nothing with common/cow, so that the two and the kernel can be set
against each other. It also makes devices that no honest writer would make.
"""
import dataclasses
import struct

from klib import pattern

MAGIC = 0x70416e53
SECTOR = pattern.SECTOR


@dataclasses.dataclass
class Cow:
    valid: int
    version: int
    chunk_sectors: int
    device_sectors: int
    table: list  # (old_chunk, new_chunk) in the order of the table
    areas: int  # in use, the one with the end entry included
    next_free: int

    @property
    def per_area(self):
        return self.chunk_sectors * SECTOR // 16

    @property
    def allocated(self):
        return self.next_free * self.chunk_sectors

    @property
    def metadata(self):
        return (self.areas + 1) * self.chunk_sectors

    def status(self):
        """As `dmsetup status` has it behind the target's name, right after a load."""
        if not self.valid:
            return 'Invalid'
        return f'{self.allocated}/{self.device_sectors} {self.metadata}'

    def runs(self):
        """Exceptions in order of the origin, as [old, new, count] with both sides consecutive."""
        runs = []
        for old, new in sorted(self.table):
            if runs and runs[-1][0] + runs[-1][2] == old and runs[-1][1] + runs[-1][2] == new:
                runs[-1][2] += 1
            else:
                runs.append([old, new, 1])
        return runs


def header(magic=MAGIC, valid=1, version=1, chunk_sectors=8):
    return struct.pack('<IIII', magic, valid, version, chunk_sectors)


def area_chunk(chunk_sectors, area):
    return 1 + (chunk_sectors * SECTOR // 16 + 1) * area


def read(data):
    """Decode a whole device. ValueError when it is none."""
    magic, valid, version, chunk = struct.unpack_from('<IIII', data)
    if magic != MAGIC or version != 1 or chunk == 0 or chunk & (chunk - 1):
        raise ValueError(f'not a COW device: magic {magic:#x} version {version} chunk {chunk}')
    size, per_area = chunk * SECTOR, chunk * SECTOR // 16
    table, area = [], 0
    while True:
        base = area_chunk(chunk, area) * size
        if base + size > len(data):
            raise ValueError(f'area {area} is off the device')
        for i in range(per_area):
            old, new = struct.unpack_from('<QQ', data, base + i * 16)
            if new == 0:
                break
            table.append((old, new))
        else:
            area += 1
            continue
        break
    next_free = max([2] + [new + 1 for _, new in table])
    if next_free % (per_area + 1) == 1:
        next_free += 1
    return Cow(valid, version, chunk, len(data) // SECTOR, table, area + 1, next_free)


def build(device_sectors, chunk_sectors, table, valid=1, tag=7, after_end=()):
    """Bytes of a device with this table; each exception's data is the pattern of `tag` at the
    place in the origin it belongs to. after_end: (index past the end entry, old, new) leftovers
    in the last area."""
    size, per_area = chunk_sectors * SECTOR, chunk_sectors * SECTOR // 16
    data = bytearray(device_sectors * SECTOR)
    data[:16] = header(valid=valid, chunk_sectors=chunk_sectors)
    for i, (old, new) in enumerate(table):
        at = area_chunk(chunk_sectors, i // per_area) * size + i % per_area * 16
        struct.pack_into('<QQ', data, at, old, new)
        data[new * size:(new + 1) * size] = pattern.sectors(tag, old * chunk_sectors,
                                                            chunk_sectors)
    base = area_chunk(chunk_sectors, len(table) // per_area) * size
    for index, old, new in after_end:
        struct.pack_into('<QQ', data, base + index * 16, old, new)
    return bytes(data)


def content(data, origin):
    """What the snapshot reads as: the bytes of the origin with the exceptions over them."""
    cow = read(data)
    size = cow.chunk_sectors * SECTOR
    view = bytearray(origin)
    for old, new in cow.table:
        end = min(len(view), (old + 1) * size)
        view[old * size:end] = data[new * size:new * size + end - old * size]
    return bytes(view)
