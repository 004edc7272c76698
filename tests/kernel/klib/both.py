# SPDX-License-Identifier: Apache-2.0
"""One COW device that the kernel and Snapwire write in turn, and the model of both contents.

The kernel works on regions of the guest's disk, Snapwire on files here; load() and
save() move the devices to and fro. The model holds the origin's and the snapshot's
content; the table itself is read back with cowdisk.
"""
import os
import signal
import subprocess
import time

from klib import cowdisk, pattern
from klib.lab import Skip

DRIVER = 'tests/kernel/driver/cow_driver'


class Both:
    def __init__(self, lab, origin_sectors, cow_sectors, chunk, disk='pool'):
        self.lab, self.chunk = lab, chunk
        self.sectors = origin_sectors
        self.origin_region, self.origin = lab.origin('o', origin_sectors, disk=disk)
        self.snapshot = self.origin.copy()
        self.cow_region = lab.region('cow', cow_sectors, disk=disk)
        self.cow_file, self.origin_file = f'{lab.scratch}/cow', f'{lab.scratch}/origin'
        self.loaded = False
        self.next_tag = 10

    @property
    def chunks(self):
        return -(-self.sectors // self.chunk)

    def tag(self):
        self.next_tag += 1
        return self.next_tag

    def on_disk(self):
        return self.cow_region.cow()

    def taken(self):
        return {old for old, _ in self.on_disk().table}

    # -- Snapwire's side ----------------------------------------------------------

    def driver(self, *argv, **options):
        return self.lab.program(DRIVER, *argv, **options).decode()

    def create(self):
        self.driver('create', self.cow_file, self.cow_region.count, self.chunk)
        self.cow_region.load(self.cow_file)

    def save(self):
        self.unload()
        self.cow_region.save(self.cow_file)
        self.origin_region.save(self.origin_file)

    def _settle(self, lines, outcomes):
        """Check the outcomes of puts and take them into the model."""
        before = self.taken()
        self.cow_region.load(self.cow_file)
        after = self.taken()
        if not before <= after:
            raise AssertionError(f'exceptions lost: {sorted(before - after)[:20]}')
        tags = dict(reversed(lines))  # the first of a chunk wins
        for old, outcome in outcomes:
            self.lab.equal(outcome in ('added', 'exists'), True, f'outcome {outcome} of {old}')
            if old not in after:
                raise AssertionError(f'{old} was said to be {outcome} and is not in the table')
        extra = after - before - set(tags)
        if extra:
            raise AssertionError(f'exceptions of nowhere: {sorted(extra)[:20]}')
        for old in after - before:
            self._set_chunk(self.snapshot, old, tags[old])
        return before, after

    def _set_chunk(self, content, chunk, tag):
        first = chunk * self.chunk
        content.write(first, min(self.chunk, self.sectors - first), tag)

    @staticmethod
    def _outcomes(text):
        lines = text.split('\n')[:-1]  # a last line that is cut off was not said
        return [(int(x.split()[0]), x.split()[1]) for x in lines]

    def put(self, chunks, batch=4, depth=4):
        """Snapwire saves these chunks; every one has to be acknowledged."""
        self.save()
        lines = [(c, self.tag()) for c in chunks]
        text = ''.join(f'{c} {t}\n' for c, t in lines)
        out = self.driver('put', self.cow_file, batch, depth, data=text.encode())
        outcomes = self._outcomes(out)
        self.lab.equal(sorted(c for c, _ in outcomes), sorted(chunks), 'chunks with an outcome')
        before, _ = self._settle(lines, outcomes)
        fresh = [c for c in chunks if c not in before]
        self.lab.equal(sum(o == 'added' for _, o in outcomes), len(set(fresh)), 'chunks added')

    def put_killed(self, chunks, batch, depth, after_s):
        """As put(), but the writer is killed: what it had acknowledged must be there."""
        self.save()
        path = f'{self.lab.build}/{DRIVER}'
        if not os.access(path, os.X_OK):
            raise Skip(f'{path} is not built')
        lines = [(c, self.tag()) for c in chunks]
        with open(f'{self.lab.scratch}/lines', 'w+') as data, \
                open(f'{self.lab.scratch}/out', 'w+') as out:
            data.write(''.join(f'{c} {t}\n' for c, t in lines))
            data.flush()
            data.seek(0)
            process = subprocess.Popen([path, 'put', self.cow_file, str(batch), str(depth)],
                                       stdin=data, stdout=out, stderr=subprocess.DEVNULL)
            time.sleep(after_s)
            process.send_signal(signal.SIGKILL)
            process.wait()
            out.seek(0)
            outcomes = self._outcomes(out.read())
        self._settle(lines, outcomes)
        return len(outcomes)

    def put_cut(self, chunks, batch, depth, seed, cut):
        """As put(), but the power goes after so many writes: every sector that was not flushed
        is there or not, as the seed has it. The kernel reads the device as it was left, and again
        when Snapwire has had it open."""
        self.save()
        lines = [(c, self.tag()) for c in chunks]
        text = ''.join(f'{c} {t}\n' for c, t in lines)
        out = self.driver('cut', seed, cut, 'put', self.cow_file, batch, depth,
                          data=text.encode())
        self._settle(lines, self._outcomes(out))
        self.check_kernel()
        self.mend()

    def mend(self):
        """Open and close with Snapwire: leftovers past the end entry go."""
        self.save()
        self.driver('status', self.cow_file)
        self.cow_region.load(self.cow_file)

    def _settle_merge(self, before):
        """Check what a merge, finished or stopped, has done to table and origin, and take the
        origin into the model. A chunk not yet retired may have been copied or not."""
        after = self.on_disk().table
        self.lab.equal(after, before[:len(after)], 'what is left is the front of the table')
        retired = {old for old, _ in before[len(after):]}
        pending = {old for old, _ in after}
        scanned = []
        for line in pattern.scan(self.origin_region.read()):
            _, count, tag = line.split()
            scanned += [int(tag)] * int(count)
        for i, (got, was, want) in enumerate(zip(scanned, self.origin.tags, self.snapshot.tags)):
            chunk = i // self.chunk
            fine = [want] if chunk in retired else [was, want] if chunk in pending else [was]
            if got not in fine:
                raise AssertionError(f'the merge left {got} in sector {i} of the origin, not '
                                     f'one of {fine}; retired: {chunk in retired}')
        self.origin.tags = scanned

    def merge(self, steps, seed=0, cut=0):
        """Snapwire takes back at most so many runs from the end of the table. cut: as put_cut()."""
        self.save()
        before = self.on_disk().table
        words = ['merge', self.cow_file, self.origin_file, steps]
        self.driver(*(['cut', seed, cut] if cut else []), *words)
        self.cow_region.load(self.cow_file)
        self.origin_region.load(self.origin_file)
        self._settle_merge(before)
        if cut:
            self.check_kernel()
            self.mend()

    def check_ours(self):
        """Status and content as Snapwire and as the second reading have them."""
        self.save()
        on_disk = self.on_disk()
        self.lab.equal(self.driver('status', self.cow_file).strip(), on_disk.status(),
                       'our status')
        self.lab.equal(pattern.scan(cowdisk.content(self.cow_region.read(),
                                                    self.origin_region.read())),
                       self.snapshot.runs(), 'content by the second reading')

    # -- the kernel's side ---------------------------------------------------------

    def load(self, store='P'):
        if not self.loaded:
            self.lab.snapshot('s', self.origin_region.dev, self.cow_region.dev, self.sectors,
                              self.chunk, store)
            self.lab.snapshot_origin('top', self.origin_region.dev, self.sectors)
            self.loaded = True

    def unload(self):
        if self.loaded:
            self.lab.remove('s', 'top')
            self.loaded = False

    def power_off(self):
        self.lab.power_off()
        self.loaded = False
        self.lab.plug(self.origin_region)
        self.lab.plug(self.cow_region)

    def check_kernel(self):
        """Load; status and both contents through the kernel."""
        self.unload()
        status = self.on_disk().status()
        self.load()
        self.lab.equal(self.lab.status('s'), status, 'status after a load')
        self.lab.content('/dev/mapper/s', self.snapshot)
        self.lab.content('/dev/mapper/top', self.origin)

    def _random_writes(self, count):
        rng, writes = self.lab.rng, []
        for chunk in rng.sample(range(self.chunks), min(count, self.chunks)):
            first = chunk * self.chunk
            room = min(self.chunk, self.sectors - first)
            skip = rng.choice([0, 0, rng.randrange(room)])
            count_sectors = room - skip if rng.random() < 0.7 else rng.randint(1, room - skip)
            writes.append((first + skip, count_sectors, self.tag()))
        return writes

    def kernel_overwrites_origin(self, count, depth):
        self.load()
        writes = self._random_writes(count)
        self.lab.write_ok('/dev/mapper/top', writes, depth)
        for w in writes:
            self.origin.write(*w)

    def kernel_writes_snapshot(self, count, depth):
        self.load()
        writes = self._random_writes(count)
        self.lab.write_ok('/dev/mapper/s', writes, depth)
        for w in writes:
            self.snapshot.write(*w)

    def kernel_merges(self, bad_chunk=None):
        """snapshot-merge to the end, or until it must write bad_chunk of the origin."""
        self.unload()
        lab, below, c = self.lab, self.origin_region.dev, self.chunk
        before = self.on_disk().table
        if bad_chunk is not None:
            below = lab.broken('below', below, self.sectors, bad_chunk * c, c)
        last = lab.merge('m', below, self.cow_region.dev, self.sectors, c)
        lab.remove('m', *(['below'] if bad_chunk is not None else []))
        if last != 'Merge failed':
            lab.equal(last, f'{2 * c}/{self.cow_region.count} {2 * c}', 'status of the merge')
        self._settle_merge(before)
        return last
