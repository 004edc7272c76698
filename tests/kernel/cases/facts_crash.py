# SPDX-License-Identifier: Apache-2.0
"""Power losses while the kernel writes: what Snapwire finds on such devices.

Origin and COW device lie on one disk whose writes are recorded, so that their order
among each other is known, too.
"""
from klib import cowdisk, logwrites, pattern
from klib.both import DRIVER
from klib.runner import case

CHUNK = 8
SECTORS = 4096
COW = 8192


class Recorded:
    """o and cow as slices of one recorded disk."""

    def __init__(self, lab, table=(), tag=7):
        self.lab = lab
        cow = cowdisk.build(COW, CHUNK, table, tag=tag)
        self.before = pattern.sectors(1, 0, SECTORS) + cow
        self.disk = lab.region('both', SECTORS + COW, data=self.before)
        self.log = lab.region('log', 160000)
        self.want = pattern.Content(SECTORS, 1)
        for old, _ in table:
            self.want.write(old * CHUNK, CHUNK, tag)
        lab.table('lw', f'0 {SECTORS + COW} log-writes {self.disk.dev} {self.log.dev}')
        lab.table('o', f'0 {SECTORS} linear /dev/mapper/lw 0')
        lab.table('cow', f'0 {COW} linear /dev/mapper/lw {SECTORS}')

    def entries(self, *targets):
        """End the recording."""
        self.lab.remove(*targets, 'o', 'cow', 'lw')
        entries = logwrites.read(self.log.read())
        end = logwrites.crash(self.before, entries + [logwrites.Entry(0, logwrites.FLUSH, b'')],
                              len(entries) + 1, self.lab.rng)
        self.lab.equal(end == self.disk.read(), True, 'the log played to its end is the disk')
        return entries

    def judge(self, entries, crashes):
        """Cut the power at random points; the snapshot must read the same on what is left, to the
        second reading and, once Snapwire has had the device open, to the kernel."""
        lab, rng = self.lab, self.lab.rng
        for _ in range(crashes):
            cut = rng.randrange(len(entries))
            disk = logwrites.crash(self.before, entries, cut, rng)
            origin, cow = disk[:SECTORS * 512], disk[SECTORS * 512:]
            path = f'{lab.scratch}/cow'
            with open(path, 'wb') as f:
                f.write(cow)
            status = lab.program(DRIVER, 'status', path).decode().strip()
            with open(path, 'rb') as f:
                mended = f.read()
            lab.equal(pattern.scan(cowdisk.content(mended, origin)), self.want.runs(),
                      f'content after a power loss behind entry {cut} of {len(entries)}')
            lab.equal(cowdisk.read(mended).status(), status, 'status')
        region, cow = lab.region('after', SECTORS, data=origin), lab.region('aftercow', COW)
        cow.write(mended)
        lab.snapshot('s', region.dev, cow.dev, SECTORS, CHUNK)
        lab.content('/dev/mapper/s', self.want)
        lab.equal(lab.status('s'), status, 'status')


@case('quick', 'random')
def power_loss_while_the_kernel_saves_chunks__snapwire_reads_the_same_content(lab):
    r = Recorded(lab)
    lab.snapshot('s', '/dev/mapper/o', '/dev/mapper/cow', SECTORS, CHUNK)
    lab.snapshot_origin('top', '/dev/mapper/o', SECTORS)
    chunks = lab.rng.sample(range(SECTORS // CHUNK), 400)
    lab.write_ok('/dev/mapper/top', [(c * CHUNK, CHUNK, 2) for c in chunks], lab.rng.randint(1, 16))
    r.judge(r.entries('s', 'top'), 15 if lab.quick else 60)


@case('quick', 'random')
def power_loss_while_the_kernel_merges__snapwire_reads_the_same_content(lab):
    """Had it cleared an entry before its chunk was durable on the origin, this would show."""
    olds = lab.rng.sample(range(SECTORS // CHUNK), 200) if lab.rng.random() < 0.5 else range(300)
    news = [c for c in range(2, 600) if c % 257 != 1]
    r = Recorded(lab, list(zip(olds, news)))
    lab.equal(lab.merge('m', '/dev/mapper/o', '/dev/mapper/cow', SECTORS, CHUNK),
              f'16/{COW} 16', 'status')
    r.judge(r.entries('m'), 15 if lab.quick else 60)
