# SPDX-License-Identifier: Apache-2.0
"""Content whose place can be told from itself, and the model of what should stand where.

A sector of tag T at sector S of its device is 32 times the little-endian u64 pair
(T, S); tag 0 is zeros. guest/blkio.c writes and reads the same pattern.
"""
import struct

SECTOR = 512
_ZERO = bytes(SECTOR)


def sectors(tag, first, count):
    """The bytes of `count` sectors of the pattern, from sector `first` on."""
    if tag == 0:
        return bytes(count * SECTOR)
    return b''.join(struct.pack('<QQ', tag, s) * 32 for s in range(first, first + count))


def _tag(data, sector):
    if data == _ZERO:
        return '0'
    if data[:16] * 32 != data:
        return '?'
    tag, home = struct.unpack_from('<QQ', data)
    return (tag, home - sector) if tag else '?'


def _runs(tags):
    """Text of runs as `blkio scan` prints it, from one (tag, shift) or text a sector."""
    runs, start = [], 0
    for i in range(1, len(tags) + 1):
        if i == len(tags) or tags[i] != tags[start]:
            what = tags[start]
            if isinstance(what, tuple):
                tag, shift = what
                what = f'{tag}@{start + shift}' if shift else f'{tag}'
            runs.append(f'{start} {i - start} {what}')
            start = i
    return runs


def scan(data):
    """What `blkio scan` would print of these bytes, as a list of lines."""
    return _runs([_tag(data[i:i + SECTOR], i // SECTOR) for i in range(0, len(data), SECTOR)])


class Content:
    """The tag of each sector of a device: what ought to be read from it."""

    def __init__(self, count, tag=0):
        self.tags = [tag] * count

    def copy(self):
        other = Content(0)
        other.tags = list(self.tags)
        return other

    def write(self, first, count, tag):
        self.tags[first:first + count] = [tag] * count

    def runs(self):
        return _runs([(t, 0) if t else '0' for t in self.tags])

    def bytes(self):
        out, start = [], 0
        for i in range(1, len(self.tags) + 1):
            if i == len(self.tags) or self.tags[i] != self.tags[start]:
                out.append(sectors(self.tags[start], start, i - start))
                start = i
        return b''.join(out)
