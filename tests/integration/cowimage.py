# SPDX-License-Identifier: Apache-2.0
"""COW devices made by hand, byte by byte from docs/format.md: sound ones and broken ones.

Nothing here calls the code under test.
"""

import os
import struct

MAGIC = 0x70416E53
SECTOR = 512


class CowImage:
    """A device of `chunks` chunks. `entries` are (old, new) pairs in table order;
    `data` maps a new chunk to its content."""

    def __init__(self, chunk_sectors=8, chunks=600, valid=1):
        self.chunk_sectors = chunk_sectors
        self.chunk = chunk_sectors * SECTOR
        self.per_area = self.chunk // 16
        self.chunks = chunks
        self.magic, self.valid, self.version = MAGIC, valid, 1
        self.header_chunk_sectors = chunk_sectors
        self.entries = []
        self.data = {}
        self.patches = []  # (offset, bytes), laid over the rest
        self.size = chunks * self.chunk

    def area_chunk(self, area):
        return 1 + area * (self.per_area + 1)

    def next_free(self):
        at = max([new for _, new in self.entries] + [1]) + 1
        return at + 1 if at % (self.per_area + 1) == 1 else at

    def add(self, old, content):
        """A sound exception, at the place the kernel would give it."""
        new = self.next_free()
        self.entries.append((old, new))
        self.data[new] = content.ljust(self.chunk, b"\0")
        return new

    def entry_offset(self, index):
        area, slot = divmod(index, self.per_area)
        return self.area_chunk(area) * self.chunk + slot * 16

    def leftover(self, slots_past_end, old, new):
        """What a torn area write leaves behind the end entry."""
        at = self.entry_offset(len(self.entries) + slots_past_end)
        self.patches.append((at, struct.pack("<QQ", old, new)))

    def write(self, path):
        with open(path, "wb") as f:
            f.truncate(self.size)
            header = struct.pack("<IIII", self.magic, self.valid, self.version,
                                 self.header_chunk_sectors)
            f.write(header[:self.size])
            for index, (old, new) in enumerate(self.entries):
                self._put(f, self.entry_offset(index), struct.pack("<QQ", old, new))
            for new, content in self.data.items():
                self._put(f, new * self.chunk, content)
            for offset, raw in self.patches:
                self._put(f, offset, raw)
        return path

    def _put(self, f, offset, raw):
        if offset < self.size:
            f.seek(offset)
            f.write(raw[:self.size - offset])


def read_table(path):
    """The exceptions of a device as a dict old → new, read from its bytes alone."""
    with open(path, "rb") as f:
        magic, _, version, sectors = struct.unpack("<IIII", f.read(16))
        assert magic == MAGIC and version == 1, path
        chunk = sectors * SECTOR
        per_area = chunk // 16
        table = {}
        area = 0
        while True:
            f.seek((1 + area * (per_area + 1)) * chunk)
            raw = f.read(chunk)
            for old, new in struct.iter_unpack("<QQ", raw[:len(raw) // 16 * 16]):
                if new == 0:
                    return chunk, table
                table[old] = new
            if len(raw) < chunk:
                return chunk, table
            area += 1


def view(cow_paths, origin):
    """What the first device's snapshot holds: its exceptions, the next's …, the origin."""
    with open(origin, "rb") as f:
        content = bytearray(f.read())
    for path in reversed(cow_paths):
        chunk, table = read_table(path)
        with open(path, "rb") as f:
            for old, new in table.items():
                begin = old * chunk
                if begin >= len(content):
                    continue
                f.seek(new * chunk)
                piece = f.read(chunk)[:len(content) - begin]
                content[begin:begin + len(piece)] = piece
    return bytes(content)


def snapshot_of(rng, origin_path, cow_path, chunk_sectors=8, size=2 << 20, percent=30,
                chunks=None):
    """An origin and a COW device on it; returns the snapshot's content."""
    chunk = chunk_sectors * SECTOR
    if not os.path.exists(origin_path):
        with open(origin_path, "wb") as f:
            f.write(rng.randbytes(size))
    image = CowImage(chunk_sectors, chunks or 2 * (size // chunk) + 64)
    olds = [c for c in range((size + chunk - 1) // chunk) if rng.randrange(100) < percent]
    rng.shuffle(olds)
    for old in olds:
        image.add(old, rng.randbytes(min(chunk, size - old * chunk)))
    image.write(cow_path)
    return image
