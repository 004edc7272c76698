# SPDX-License-Identifier: Apache-2.0
"""snapctl's view of a COW device, held against the model and the second reading."""
import json
import os

from klib import cowdisk, pattern


def info(lab, cow_file):
    return json.loads(lab.program('snapctl', 'cow', 'info', '--json', cow_file))


def pairs(lab, cow_file):
    """The exceptions as sorted (old, new)."""
    runs = json.loads(lab.program('snapctl', 'cow', 'list', '--json', cow_file))
    return sorted((r['old'] + i, r['new'] + i) for r in runs for i in range(r['count']))


def export(lab, cow_file, origin_file, over=()):
    """The bytes of the snapshot."""
    out = f'{lab.scratch}/export'
    newer = [word for path in over for word in ('--over', path)]
    lab.program('snapctl', 'cow', 'export', cow_file, *newer, '--origin', origin_file, '-o', out)
    with open(out, 'rb') as f:
        data = f.read()
    os.remove(out)
    return data


def agree(lab, cow_file, origin_file, want, status):
    """info, list, check and export of a valid device: as the second reading, the model and the
    kernel's status line have it."""
    with open(cow_file, 'rb') as f:
        before = f.read()
    on_disk = cowdisk.read(before)
    told = info(lab, cow_file)
    lab.equal({k: told[k] for k in ('valid', 'version', 'chunk_size_sectors', 'device_sectors',
                                    'exceptions', 'areas', 'next_free', 'sectors_allocated',
                                    'metadata_sectors', 'status')},
              {'valid': True, 'version': 1, 'chunk_size_sectors': on_disk.chunk_sectors,
               'device_sectors': on_disk.device_sectors, 'exceptions': len(on_disk.table),
               'areas': on_disk.areas, 'next_free': on_disk.next_free,
               'sectors_allocated': on_disk.allocated, 'metadata_sectors': on_disk.metadata,
               'status': status}, 'snapctl cow info')
    lab.equal(pairs(lab, cow_file), sorted(on_disk.table), 'snapctl cow list')
    lab.program('snapctl', 'cow', 'check', cow_file)
    lab.equal(pattern.scan(export(lab, cow_file, origin_file)), want.runs(), 'snapctl cow export')
    with open(cow_file, 'rb') as f:
        lab.equal(f.read() == before, True, 'looking at the device left it as it was')
