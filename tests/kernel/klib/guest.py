# SPDX-License-Identifier: Apache-2.0
"""A running kernel: start it, run shell scripts in it, look at its disks.

One boot serves many scripts. A disk is a raw file here and a virtio disk there;
qemu writes through the page cache of this machine, so once the guest has been
told that a write is done, it can be read here, and what is written here can be
read by the guest as long as its own page cache has not seen it (device-mapper
and O_DIRECT do not use that).

Emulation (TCG) is the normal case. KVM is used only where a boot with it was
seen to work: under some hosts /dev/kvm exists and a stock kernel dies in it.
"""
import dataclasses
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import time

from klib import kernel

BOOT_TIMEOUT_S = 60
KVM_PROBE_TIMEOUT_S = 6
APPEND = ('console=ttyS0 quiet loglevel=5 panic=-1 mitigations=off nokaslr random.trust_cpu=on '
          'tsc=reliable')


class GuestDied(Exception):
    """The guest panicked, hung or was killed; the text holds the end of its console."""


class ScriptFailed(Exception):
    """A script that had to succeed did not."""


@dataclasses.dataclass
class Disk:
    name: str  # /dev/disk/NAME in the guest
    path: str  # the raw file
    block_bytes: int = 512
    read_only: bool = False
    untouched: bool = False  # writes go to a scratch file, the raw file stays as it is


@dataclasses.dataclass
class Result:
    status: int
    out: str
    err: str


class Guest:
    def __init__(self, kernel_image, initramfs, disks, accel='tcg', boot_timeout_s=BOOT_TIMEOUT_S):
        self.folder = tempfile.mkdtemp(prefix='snapwire-guest-')
        self.process = None
        self.channel = None
        self.pending = b''
        listener = socket.socket(socket.AF_UNIX)
        try:
            listener.bind(f'{self.folder}/control')
            listener.listen(1)
            self._start(kernel_image, initramfs, disks, accel)
            self._accept(listener, boot_timeout_s)
            self.release = self._line(time.monotonic() + boot_timeout_s).split()[1]
        except BaseException:
            self.kill()
            raise
        finally:
            listener.close()

    def _start(self, kernel_image, initramfs, disks, accel):
        argv = [kernel.need_program('qemu-system-x86_64'), '-nodefaults', '-no-user-config',
                '-display', 'none', '-no-reboot', '-machine', 'q35', '-m', '512', '-smp', '2']
        argv += ['-accel', 'kvm', '-cpu', 'host'] if accel == 'kvm' else \
                ['-accel', 'tcg,thread=multi', '-cpu', 'max']
        argv += ['-kernel', kernel_image, '-initrd', initramfs, '-append', APPEND,
                 '-serial', f'file:{self.folder}/console',
                 '-device', 'virtio-serial-pci',
                 '-chardev', f'socket,id=control,path={self.folder}/control',
                 '-device', 'virtserialport,chardev=control,name=control']
        for d in disks:
            flags = ',read-only=on' if d.read_only else ''
            flags += ',snapshot=on' if d.untouched else ''
            argv += ['-drive', f'if=none,id={d.name},format=raw,cache=unsafe,aio=threads,'
                               f'discard=unmap,file={d.path}{flags}',
                     '-device', f'virtio-blk-pci,drive={d.name},serial={d.name},'
                                f'logical_block_size={d.block_bytes},'
                                f'physical_block_size={max(512, d.block_bytes)}']
        with open(f'{self.folder}/qemu', 'wb') as log:
            self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            env={**os.environ, 'TMPDIR': self.folder})

    def _accept(self, listener, timeout_s):
        deadline = time.monotonic() + timeout_s
        while not select.select([listener], [], [], 0.2)[0]:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise GuestDied(f'qemu did not start\n{self.console()}')
        self.channel = listener.accept()[0]

    # -- the control channel ------------------------------------------------------

    def _receive(self, deadline):
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise GuestDied(f'no answer in time\n{self.console()}')
            if select.select([self.channel], [], [], min(left, 0.5))[0]:
                data = self.channel.recv(1 << 16)
                if not data:
                    raise GuestDied(f'the guest is gone\n{self.console()}')
                self.pending += data
                return
            if self.process.poll() is not None:
                raise GuestDied(f'qemu ended\n{self.console()}')

    def _line(self, deadline):
        while b'\n' not in self.pending:
            self._receive(deadline)
        line, self.pending = self.pending.split(b'\n', 1)
        return line.decode()

    def _bytes(self, count, deadline):
        while len(self.pending) < count:
            self._receive(deadline)
        data, self.pending = self.pending[:count], self.pending[count:]
        return data.decode(errors='replace')

    def run(self, script, timeout_s=60):
        """Run a shell script; its exit status and output as a Result."""
        deadline = time.monotonic() + timeout_s
        body = script.encode()
        try:
            self.channel.sendall(b'%d\n' % len(body) + body)
            status, out, err = (int(x) for x in self._line(deadline).split())
            return Result(status, self._bytes(out, deadline), self._bytes(err, deadline))
        except OSError as e:
            raise GuestDied(f'{e}\n{self.console()}') from e

    def sh(self, script, timeout_s=60):
        """As run(), for what has to succeed; the standard output."""
        r = self.run('set -e\n' + script, timeout_s)
        if r.status:
            raise ScriptFailed(f'status {r.status}\n{script}\n{r.out}{r.err}')
        return r.out

    # -- ends ---------------------------------------------------------------------

    def console(self, lines=30):
        text = ''
        for name in ('qemu', 'console'):
            try:
                with open(f'{self.folder}/{name}', errors='replace') as f:
                    text += ''.join(f.readlines()[-lines:])
            except OSError:
                pass
        return text

    def complaints(self):
        """Lines of the console that speak of a bug in the guest's kernel."""
        return [line for line in self.console(10000).splitlines()
                if re.search(r'BUG:|Oops|WARNING:|Kernel panic|hung task|soft lockup', line)]

    def kill(self):
        """At once, as by pulling the plug; what qemu was told to write is on its disks."""
        if self.channel:
            self.channel.close()
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


class Machine:
    """What every boot has in common: kernel, initramfs, accelerator."""

    def __init__(self, here, cache, blkio):
        kernel.need_program('qemu-system-x86_64')
        self.image, modules = kernel.fetch_kernel(cache)
        self.initramfs = kernel.make_initramfs(cache, modules, here, blkio)
        self.accel = self._probe(f'{cache}/accel')

    def _probe(self, memo):
        """'kvm' when a boot with it has been seen to work on this host, else 'tcg'."""
        if not os.access('/dev/kvm', os.R_OK | os.W_OK):
            return 'tcg'
        host = f'{os.uname().release} {os.path.basename(self.image)}'
        try:
            with open(memo) as f:
                known, accel = f.read().rsplit(' ', 1)
                if known == host:
                    return accel
        except (OSError, ValueError):
            pass
        try:
            Guest(self.image, self.initramfs, [], 'kvm', KVM_PROBE_TIMEOUT_S).kill()
            accel = 'kvm'
        except GuestDied:
            accel = 'tcg'
        with open(memo, 'w') as f:
            f.write(f'{host} {accel}')
        return accel

    def boot(self, disks):
        return Guest(self.image, self.initramfs, disks, self.accel)

    def run(self, script, disks=(), timeout_s=60):
        """One boot for one script."""
        guest = self.boot(disks)
        try:
            return guest.run(script, timeout_s)
        finally:
            guest.kill()
