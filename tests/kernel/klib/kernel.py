# SPDX-License-Identifier: Apache-2.0
"""Get a stock kernel and pack the guest's root into an initramfs.

The kernel is Debian's cloud image, fetched with apt-get and unpacked into the
cache, never installed. The initramfs holds busybox, dmsetup and lvm with the
libraries ldd names, the modules in load order, our init and blkio. It is packed
here (cpio "newc"), so that neither cpio nor root is needed.

What cannot be had raises Unavailable: the caller skips, loudly.
"""
import contextlib
import glob
import hashlib
import os
import re
import shutil
import stat
import subprocess
import time

META_PACKAGE = 'linux-image-cloud-amd64'
MODULES = ['virtio_pci', 'virtio_blk', 'virtio_console', 'dm-mod', 'dm-bufio', 'dm-snapshot',
           'dm-delay', 'dm-flakey', 'dm-log-writes']
STALE_S = 24 * 3600  # an initramfs that no run has asked for since then goes
FOLDERS = ['bin', 'sbin', 'usr/bin', 'usr/sbin', 'lib', 'lib64', 'proc', 'sys', 'dev', 'tmp', 'run',
           'var', 'etc', 'etc/lvm', 'modules']


class Unavailable(Exception):
    """qemu, the kernel or a program of the guest cannot be had on this machine."""


def need_program(name):
    path = shutil.which(name, path=os.environ.get('PATH', '') + ':/usr/sbin:/sbin')
    if not path:
        raise Unavailable(f'{name} is not installed')
    return path


def _output(*argv, cwd=None):
    try:
        return subprocess.run(argv, check=True, text=True, cwd=cwd, timeout=300,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE).stdout
    except (OSError, subprocess.SubprocessError) as e:
        detail = getattr(e, 'stderr', None) or str(e)
        raise Unavailable(f'{" ".join(argv)}: {detail.strip()}') from e


def fetch_kernel(cache):
    """(kernel image, folder of its modules) in the cache, downloaded when absent."""
    os.makedirs(cache, exist_ok=True)

    def cached():
        images = sorted(glob.glob(f'{cache}/root/boot/vmlinuz-*'))
        if not images:
            return None
        version = os.path.basename(images[-1]).removeprefix('vmlinuz-')
        return images[-1], f'{cache}/root/lib/modules/{version}'

    found = cached()
    if found:
        return found
    depends = _output(need_program('apt-cache'), 'depends', META_PACKAGE)
    real = re.search(r'Depends: (linux-image-\S+)', depends)
    if not real:
        raise Unavailable(f'{META_PACKAGE} names no kernel package')
    _output('apt-get', 'download', real.group(1), cwd=cache)
    debs = sorted(glob.glob(f'{cache}/{real.group(1)}_*.deb'))
    part = f'{cache}/root.{os.getpid()}'
    _output(need_program('dpkg'), '-x', debs[-1], part)
    try:
        os.rename(part, f'{cache}/root')
    except OSError:  # another run was quicker
        shutil.rmtree(part)
    for deb in debs:
        with contextlib.suppress(FileNotFoundError):
            os.remove(deb)
    return cached()


def module_order(modules, names):
    """Files of these modules and all they depend on, in an order that loads."""
    files = {}
    for path in glob.glob(f'{modules}/kernel/**/*.ko*', recursive=True):
        files[os.path.basename(path).split('.')[0].replace('-', '_')] = path
    order = []

    def visit(name):
        path = files.get(name)
        if path is None or path in order:
            return  # built in, or there already
        with open(path, 'rb') as f:
            depends = re.search(rb'\0depends=([^\0]*)\0', f.read())
        for other in depends.group(1).decode().split(',') if depends else []:
            visit(other.replace('-', '_'))
        order.append(path)

    for name in names:
        visit(name.replace('-', '_'))
    return order


class Cpio:
    """The archive format the kernel unpacks at boot."""

    def __init__(self):
        self.data = bytearray()
        self.inode = 0

    def add(self, name, mode, body=b''):
        self.inode += 1
        fields = (self.inode, mode, 0, 0, 1, 0, len(body), 0, 0, 0, 0, len(name) + 1, 0)
        self.data += b'070701' + b''.join(b'%08x' % f for f in fields)
        self.data += name.encode() + b'\0'
        self.data += b'\0' * (-len(self.data) % 4)
        self.data += body
        self.data += b'\0' * (-len(self.data) % 4)

    def folder(self, name):
        self.add(name, stat.S_IFDIR | 0o755)

    def file(self, name, path):
        with open(path, 'rb') as f:
            self.add(name, stat.S_IFREG | 0o755, f.read())

    def close(self):
        self.add('TRAILER!!!', 0)
        return bytes(self.data)


def libraries(program):
    """The shared libraries of a program, as absolute paths."""
    paths = re.findall(r'(/\S+) \(0x', _output(need_program('ldd'), program))
    return [p for p in paths if os.path.exists(p)]


def need_static_busybox():
    path = need_program('busybox')
    with open(path, 'rb') as f:
        if b'/ld-linux' in f.read(8192):  # asks for an interpreter
            raise Unavailable('busybox is not the static one (package busybox-static)')
    return path


def _archive_files(modules, here, blkio):
    """{name in the guest: path on the host} and the module order."""
    files = {'init': f'{here}/guest/init', 'bin/blkio': blkio,
             'bin/busybox': need_static_busybox(), 'sbin/dmsetup': need_program('dmsetup')}
    programs = [files['sbin/dmsetup']]
    if has_lvm():
        files['sbin/lvm'] = need_program('lvm')
        programs.append(files['sbin/lvm'])
    for library in {lib for p in programs for lib in libraries(p)}:
        files[library.lstrip('/')] = library
    order = module_order(modules, MODULES)
    for path in order:
        files[f'modules/{os.path.basename(path)}'] = path
    return files, [os.path.basename(p) for p in order]


def has_lvm():
    return shutil.which('lvm', path=os.environ.get('PATH', '') + ':/usr/sbin:/sbin') is not None


def make_initramfs(cache, modules, here, blkio):
    """Path of the initramfs, named for what is in it; runs at the same time may share it."""
    files, order = _archive_files(modules, here, blkio)
    archive = Cpio()
    folders = set(FOLDERS)
    for name in files:
        parent = os.path.dirname(name)
        while parent:
            folders.add(parent)
            parent = os.path.dirname(parent)
    for folder in sorted(folders):
        archive.folder(folder)
    for name, source in sorted(files.items()):
        archive.file(name, source)
    archive.add('modules/order', stat.S_IFREG | 0o644, '\n'.join([*order, '']).encode())
    data = archive.close()
    path = f'{cache}/initramfs-{hashlib.sha256(data).hexdigest()[:16]}.cpio'
    if not os.path.exists(path):
        with open(f'{path}.{os.getpid()}', 'wb') as f:
            f.write(data)
        os.rename(f.name, path)
    os.utime(path)
    for stale in glob.glob(f'{cache}/initramfs-*'):
        with contextlib.suppress(FileNotFoundError):
            if os.stat(stale).st_mtime < time.time() - STALE_S:
                os.remove(stale)
    return path
