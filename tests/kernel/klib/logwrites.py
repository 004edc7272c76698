# SPDX-License-Identifier: Apache-2.0
"""Power losses of the kernel's own writes, from the log of device-mapper's log-writes target.

The target records every write and flush of the device beneath in order. From that
a disk can be made as a power loss at any point would have left it: what a flush had
covered is there, of the rest each sector is there or not.

    log device | super | entry | data … | entry (flush) | entry | data … |
"""
import dataclasses
import struct

from klib.pattern import SECTOR

MAGIC = 0x6a736677736872
FLUSH, FUA, DISCARD, MARK = 1, 2, 4, 8


@dataclasses.dataclass
class Entry:
    sector: int
    flags: int
    data: bytes


def read(log):
    """Entries of the log, from the bytes of its device."""
    magic, version, count, sector_bytes = struct.unpack_from('<QQQI', log)
    if magic != MAGIC or version != 1 or sector_bytes != SECTOR:
        raise ValueError(f'not a log: {magic:#x} {version} {sector_bytes}')
    entries, at = [], SECTOR
    for _ in range(count):
        sector, sectors, flags = struct.unpack_from('<QQQ', log, at)
        at += SECTOR
        length = 0 if flags & (DISCARD | MARK) else sectors * SECTOR
        entries.append(Entry(sector, flags, log[at:at + length]))
        at += length
    return entries


def crash(before, entries, cut, rng):
    """The disk after a power loss behind entry `cut`. What was in flight then may be there as
    well: what follows up to the next flush or the next write with FUA, as whatever comes after
    one of these may have been sent because it was done."""
    disk = bytearray(before)
    flushed = max([i for i in range(cut) if entries[i].flags & FLUSH], default=0)
    chance = rng.choice([0.0, 0.1, 0.5, 0.9, 1.0])
    for i, entry in enumerate(entries):
        if i >= cut and entry.flags & FLUSH:
            break
        durable = i < flushed or (i < cut and entry.flags & FUA)
        for at in range(0, len(entry.data), SECTOR):
            if durable or rng.random() < chance:
                to = entry.sector * SECTOR + at
                disk[to:to + SECTOR] = entry.data[at:at + SECTOR]
        if i >= cut and entry.flags & FUA:
            break
    return bytes(disk)
