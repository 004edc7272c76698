# SPDX-License-Identifier: Apache-2.0
"""snapwired and snapctl of the build inside the guest, on the block devices there.

The guest has no libraries beyond those of dmsetup and lvm. The programs and what
ldd names for them come as a cpio archive on a region of a disk, once a boot; so
the other cases boot no more than they need.
"""
import os
import re
import stat

from klib import kernel
from klib.lab import Skip

PROGRAMS = ('snapwired', 'snapctl')
MIB_SECTORS = 2048


def _archive(build):
    files = {}
    for name in PROGRAMS:
        path = f'{build}/{name}'
        if not os.access(path, os.X_OK):
            raise Skip(f'{path} is not built')
        files[f'usr/bin/{name}'] = path
        files.update((library.lstrip('/'), library) for library in kernel.libraries(path))
    archive = kernel.Cpio()
    folders = set()
    for name in files:
        parts = name.split('/')[:-1]
        folders.update('/'.join(parts[:n]) for n in range(1, len(parts) + 1))
    for folder in sorted(folders):
        archive.folder(folder)
    for name, path in sorted(files.items()):
        archive.file(name, path)
    archive.add('etc/passwd', stat.S_IFREG | 0o644, b'root:x:0:0:root:/:/bin/sh\n')
    return archive.close()


def install(lab):
    """The programs in the guest; what is there already stays."""
    if lab.run('[ -x /usr/bin/snapwired ]').status == 0:
        return
    data = _archive(lab.build)
    mib = -(-len(data) // (MIB_SECTORS * 512))
    region = lab.region('programs', mib * MIB_SECTORS, data=data)
    lab.sh(f'cd /; dd if={region.dev} bs=1M count={mib} iflag=direct 2>/dev/null | cpio -id '
           '2>/dev/null\n[ -x /usr/bin/snapwired ]', timeout_s=120)
    lab.remove('programs')


class Daemon:
    """A running daemon in the guest, reached over a Unix socket; a `with` block ends it."""

    def __init__(self, lab):
        self.lab = lab
        install(lab)
        self.lab.sh('''rm -rf /tmp/d; mkdir -p /tmp/d/state
cat >/tmp/d/conf <<'END'
state_dir = "/tmp/d/state"
listen = {"unix:/tmp/d/s"}
END''')
        self.start()
        self.snapctl('remote', 'add', 'guest', 'unix:/tmp/d/s')

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.lab.run('[ -e /tmp/d/pid ] && kill -9 $(cat /tmp/d/pid); rm -rf /tmp/d')

    def start(self):
        self.lab.sh('''snapwired --config /tmp/d/conf >/tmp/d/log 2>&1 &
echo $! >/tmp/d/pid
for i in $(seq 300); do
    grep -q 'snapwired ready' /tmp/d/log && exit 0
    [ -e /proc/$(cat /tmp/d/pid) ] || break
    usleep 100000
done
cat /tmp/d/log
exit 1''')

    def stop(self):
        self.lab.sh('''kill $(cat /tmp/d/pid)
for i in $(seq 300); do
    [ -e /proc/$(cat /tmp/d/pid) ] || { rm /tmp/d/pid; exit 0; }
    usleep 100000
done
cat /tmp/d/log
exit 1''')

    def snapctl(self, *argv, status=0, says=''):
        """Run snapctl in the guest; its standard output. With a status it has to fail with it and
        say so."""
        return snapctl(self.lab, *argv, status=status, says=says)


def snapctl(lab, *argv, status=0, says=''):
    install(lab)
    words = ' '.join(f"'{a}'" for a in argv)
    environment = 'SNAPWIRE_CONFIG=/tmp/d/remotes SNAPWIRE_REMOTE=guest LC_ALL=C'
    r = lab.run(f'{environment} snapctl {words}', timeout_s=120)
    if r.status != status or not re.search(says, r.err):
        log = lab.run('tail -n 20 /tmp/d/log 2>/dev/null').out
        raise AssertionError(f'snapctl {words}: status {r.status}, not {status}, saying {says!r}\n'
                             f'{r.out}{r.err}{log}')
    return r.out
