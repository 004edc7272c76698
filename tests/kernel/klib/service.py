# SPDX-License-Identifier: Apache-2.0
"""A daemon of the build with a volume, for cases that hand its COW devices to the kernel.

The daemon and snapctl are driven by the integration tests' harness; a Unix socket
serves, so no certificates are needed.
"""
import glob
import importlib
import json
import os
import sys

from klib import pattern
from klib.lab import Skip

INTEGRATION = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(
    os.path.abspath(__file__)))), 'integration')


def _harness(build):
    os.environ['SNAPWIRE_BUILD'] = build
    if INTEGRATION not in sys.path:
        sys.path.insert(0, INTEGRATION)
    return importlib.import_module('harness')


class Service:
    """A running daemon, a volume `v`, its origin as a file and the model of what stands on it."""

    def __init__(self, lab, sectors, *volume_options):
        for name in ('snapwired', 'snapctl'):
            if not os.access(f'{lab.build}/{name}', os.X_OK):
                raise Skip(f'{lab.build}/{name} is not built')
        self.lab = lab
        self.case = _harness(lab.build).Case('run')
        self.case.setUp()
        try:
            self.daemon = self.case.up(tls=False)
            self.content = pattern.Content(sectors, 1)
            self.origin_file = self.case.path('origin')
            self._write(self.origin_file, self.content)
            self.case.remote('create', 'v', '--like', self.origin_file, *volume_options)
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def close(self):
        self.case.doCleanups()

    @staticmethod
    def _write(path, content):
        with open(path, 'wb') as f:
            f.write(content.bytes())

    def create(self, snapshot, chunk, *options):
        self.case.remote('create', f'v@{snapshot}', '--chunk-size', chunk * 512, *options)

    def next_content(self, writes):
        """Write to a new content of the origin; the path of a file with it."""
        self.content = self.content.copy()
        for w in writes:
            self.content.write(*w)
        path = self.case.path('next')
        self._write(path, self.content)
        return path

    def next_generation(self, tag, pieces):
        """Draw a new content for the origin; the path of a file with it."""
        sectors = len(self.content.tags)
        writes = []
        for _ in range(pieces):
            first = self.lab.rng.randrange(sectors)
            count = self.lab.rng.choice([1, 8, 8, 40, 200])
            writes.append((first, min(count, sectors - first), tag))
        return self.next_content(writes)

    def apply(self, snapshot, source, *options):
        self.case.remote('apply', f'v@{snapshot}', '--origin', self.origin_file, '--source',
                         source, *options)

    def export(self, snapshot):
        """What the snapshot reads as, as lines of runs."""
        out = self.case.path('export')
        self.case.remote('export', f'v@{snapshot}', '--origin', self.origin_file, '-o', out)
        with open(out, 'rb') as f:
            runs = pattern.scan(f.read())
        os.remove(out)
        return runs

    def cow_files(self):
        """{name of the snapshot: path of its COW device}; the daemon has stopped."""
        (record,) = glob.glob(f'{self.daemon.state}/volumes/*/record')
        with open(record) as f:
            snapshots = json.load(f)['snapshots']
        return {s['name']: os.path.join(os.path.dirname(record), s['cow_path'])
                for s in snapshots if not s['hidden']}

    def region(self, name, path):
        """A region with the content of a file."""
        r = self.lab.region(name, os.path.getsize(path) // 512)
        r.load(path)
        return r
