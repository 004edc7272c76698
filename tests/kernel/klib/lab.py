# SPDX-License-Identifier: Apache-2.0
"""What a test case works with: regions of disk, snapshot targets, plans of I/O, assertions.

    pool disk  |--- o ---|--- cow ---|-- ... --|      a region is a slice of a disk,
                   |          |                       a linear target of its name in the
               /dev/mapper/o  /dev/mapper/cow         guest, and bytes of a file here

Cases of a run share one boot. After each the targets are removed and the disks
are empty again.
"""
import os
import random
import shutil
import subprocess
import tempfile

from klib import cowdisk, pattern
from klib.guest import Disk, GuestDied, ScriptFailed

SECTOR = pattern.SECTOR
POOL_BYTES = 1 << 30
SMALL_BYTES = 64 << 20
REMOVE_ALL = '''
for round in 1 2 3 4 5 6 7 8; do
    names=$(dmsetup info -c --noheadings -o name --sort -minor 2>/dev/null | grep -v 'No devices')
    [ -z "$names" ] && exit 0
    for n in $names; do
        [ $round = 1 ] || dmsetup resume $n
        dmsetup remove $n
    done
done 2>/dev/null
exit 1
'''


class Skip(Exception):
    """This case cannot run here; the text says why."""


class Region:
    def __init__(self, lab, name, disk, first, count):
        self.lab, self.name, self.disk, self.first, self.count = lab, name, disk, first, count
        self.dev = f'/dev/mapper/{name}'

    def read(self, first=0, count=None):
        count = self.count - first if count is None else count
        return os.pread(self.lab.fds[self.disk], count * SECTOR, (self.first + first) * SECTOR)

    def write(self, data, first=0):
        assert len(data) <= (self.count - first) * SECTOR
        os.pwrite(self.lab.fds[self.disk], data, (self.first + first) * SECTOR)

    def save(self, path):
        """As a file of its own, holes kept."""
        data = self.read()
        with open(path, 'wb') as f:
            f.truncate(len(data))
            for at in range(0, len(data), 1 << 16):
                part = data[at:at + (1 << 16)]
                if part.count(0) != len(part):
                    os.pwrite(f.fileno(), part, at)
        return path

    def load(self, path):
        with open(path, 'rb') as f:
            self.write(f.read())

    def cow(self):
        return cowdisk.read(self.read())


class Lab:
    def __init__(self, machine, build):
        self.machine = machine
        self.build = build
        self.folder = tempfile.mkdtemp(prefix='snapwire-lab-')
        self.guest = None
        self.ending = False
        self.disks = [Disk('pool', f'{self.folder}/pool'),
                      Disk('pool4k', f'{self.folder}/pool4k', block_bytes=4096),
                      Disk('readonly', f'{self.folder}/readonly', read_only=True),
                      Disk('lvm', f'{self.folder}/lvm')]
        self.fds = {}
        for d in self.disks:
            self.fds[d.name] = os.open(d.path, os.O_RDWR | os.O_CREAT, 0o600)
        self._empty()
        self.rng = random.Random(0)
        self.quick = True

    def _empty(self):
        self.used = {d.name: 0 for d in self.disks}
        self.queue = ''
        for d in self.disks:
            os.ftruncate(self.fds[d.name], 0)
            os.ftruncate(self.fds[d.name], POOL_BYTES if d.name == 'pool' else SMALL_BYTES)

    # -- life of a case -----------------------------------------------------------

    def begin(self, seed):
        self.rng = random.Random(seed)
        self.scratch = tempfile.mkdtemp(dir=self.folder)

    def end(self):
        """Clean up; the text of what the guest's kernel complained about, or ''."""
        shutil.rmtree(self.scratch, ignore_errors=True)
        complaints = ''
        if self.guest:
            complaints = '\n'.join(self.guest.complaints())
            try:
                clean = self.guest.run(REMOVE_ALL).status == 0
            except GuestDied:
                clean = False
            if complaints or not clean:
                self.power_off()
        self._empty()
        return complaints

    def power_off(self):
        """Pull the plug. The next script boots again; regions keep their content."""
        if self.guest:
            self.guest.kill()
            self.guest = None
            self.queue = ''

    def abandon(self):
        """The run ends now: whatever still wants the guest fails at once."""
        self.ending = True
        self.power_off()

    def close(self):
        self.power_off()
        for fd in self.fds.values():
            os.close(fd)
        shutil.rmtree(self.folder, ignore_errors=True)

    # -- scripts ------------------------------------------------------------------

    def run(self, script, timeout_s=60):
        if self.ending:
            raise GuestDied('the run is ending')
        if not self.guest:
            self.guest = self.machine.boot(self.disks)
        queue, self.queue = self.queue, ''
        if queue:
            self.guest.sh(queue)
        return self.guest.run(script, timeout_s)

    def sh(self, script, timeout_s=60):
        r = self.run('set -e\n' + script, timeout_s)
        if r.status:
            raise ScriptFailed(f'status {r.status}\n{script}\n{r.out}{r.err}')
        return r.out

    # -- disks and targets ----------------------------------------------------------

    def region(self, name, sectors, disk='pool', data=None, read_only=False):
        first = self.used[disk]
        self.used[disk] = first + -(-sectors // 2048) * 2048
        assert self.used[disk] * SECTOR <= os.fstat(self.fds[disk]).st_size
        r = Region(self, name, disk, first, sectors)
        if data is not None:
            r.write(data)
        self.plug(r, read_only)
        return r

    def plug(self, region, read_only=False):
        """Make the region's target in the guest; region() does, and it is needed again after
        power_off()."""
        self.queue += (f'dmsetup create {region.name} {"-r" if read_only else ""} --table "0 '
                       f'{region.count} linear /dev/disk/{region.disk} {region.first}"\n')

    def origin(self, name, sectors, tag=1, **options):
        """A region filled with the pattern, and the model of its content."""
        return (self.region(name, sectors, data=pattern.sectors(tag, 0, sectors), **options),
                pattern.Content(sectors, tag))

    def table(self, name, table, options=''):
        """dmsetup create. ScriptFailed when the kernel refuses."""
        self.sh(f'dmsetup create {name} {options} --table "{table}"')
        return f'/dev/mapper/{name}'

    def snapshot(self, name, origin, cow, sectors, chunk=8, store='P', features='', options=''):
        return self.table(name, f'0 {sectors} snapshot {origin} {cow} {store} {chunk} {features}',
                          options)

    def snapshot_origin(self, name, origin, sectors):
        return self.table(name, f'0 {sectors} snapshot-origin {origin}')

    def broken(self, name, dev, sectors, first, count):
        """A device over dev on which `count` sectors from `first` on cannot be read or written."""
        end = min(first + count, sectors)
        parts = [f'0 {first} linear {dev} 0'] if first else []
        parts += [f'{first} {end - first} error']
        parts += [f'{end} {sectors - end} linear {dev} {end}'] if end < sectors else []
        return self.table(name, '\n'.join(parts))

    def merge(self, name, origin, cow, sectors, chunk=8, wait=True):
        """Start snapshot-merge; its status once it has ended, one way or the other."""
        self.table(name, f'0 {sectors} snapshot-merge {origin} {cow} P {chunk}')
        if not wait:
            return ''
        return self.sh(f'''for i in $(seq 2000); do
    set -- $(dmsetup status {name}); shift 3
    [ "${{1%/*}}" = "$2" ] || [ "$1" = Merge ] || [ "$1" = Invalid ] && break
    usleep 20000
done
echo "$@"''', timeout_s=120).strip()

    def refused(self, table, options=''):
        """The errno name for which the kernel refuses this table; AssertionError if it takes it."""
        r = self.run(f'dmsetup create refused {options} --table "{table}"')
        if r.status == 0:
            self.run('dmsetup remove refused')
            raise AssertionError(f'the kernel takes the table {table}')
        for text, name in (('No such device or address', 'ENXIO'), ('Invalid argument', 'EINVAL'),
                           ('Input/output error', 'EIO'), ('Device or resource busy', 'EBUSY')):
            if text in r.err:
                return name
        return r.err.strip()

    def remove(self, *names):
        self.sh('\n'.join(f'dmsetup remove {n}' for n in names))

    def status(self, name):
        """What `dmsetup status` says behind the target's name."""
        return ' '.join(self.sh(f'dmsetup status {name}').split()[3:])

    # -- plans ------------------------------------------------------------------------

    def plan(self, lines, depth=1):
        """Run a plan of blkio; {line: errno name} of what failed."""
        if not lines:
            return {}
        text = '\n'.join(lines)
        r = self.run(f"cat >plan <<'END'\n{text}\nEND\nblkio plan {depth} <plan", timeout_s=300)
        if 'done' not in r.out:
            raise ScriptFailed(f'blkio: {r.out}{r.err}')
        return {int(x.split()[0]): x.split()[1] for x in r.out.splitlines()[:-1]}

    def write(self, dev, writes, depth=1):
        """writes: (first sector, count, tag) each."""
        return self.plan([f'w {dev} {s} {n} {t}' for s, n, t in writes], depth)

    def write_ok(self, dev, writes, depth=1):
        self.equal(self.write(dev, writes, depth), {}, f'errors of writes to {dev}')

    def scan(self, dev):
        return self.sh(f'blkio scan {dev}', timeout_s=120).splitlines()

    # -- programs of this machine --------------------------------------------------------

    def program(self, *argv, status=0, data=None):
        """Run a program of the build here; its standard output as bytes."""
        path = f'{self.build}/{argv[0]}'
        if not os.access(path, os.X_OK):
            raise Skip(f'{path} is not built')
        r = subprocess.run([path, *(str(a) for a in argv[1:])], input=data, timeout=120,
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
        if status is not None and r.returncode != status:
            raise AssertionError(f'{" ".join(str(a) for a in argv)}: status {r.returncode}\n'
                                 f'{r.stdout[-2000:].decode(errors="replace")}'
                                 f'{r.stderr[-2000:].decode(errors="replace")}')
        return r.stdout

    # -- assertions ------------------------------------------------------------------------

    @staticmethod
    def equal(got, want, what):
        if got != want:
            raise AssertionError(f'{what}\n  got   {_short(got)}\n  want  {_short(want)}'
                                 + _first_difference(got, want))

    def content(self, dev, want):
        self.equal(self.scan(dev), want.runs(), f'content of {dev}')


def _short(value):
    text = repr(value)
    return text if len(text) < 1000 else text[:1000] + ' …'


def _first_difference(got, want):
    if not isinstance(got, (list, bytes)) or not isinstance(want, (list, bytes)):
        return ''
    for i, (a, b) in enumerate(zip(got, want)):
        if a != b:
            return f'\n  first difference at {i}: {a!r}, not {b!r}'
    return f'\n  one is longer: {len(got)} and {len(want)}'
