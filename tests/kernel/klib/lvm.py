# SPDX-License-Identifier: Apache-2.0
"""A snapshot as LVM makes it: an origin volume, its snapshot and the -cow volume beneath."""
from klib import kernel, pattern
from klib.lab import Region, Skip

CONFIG = '''
activation { udev_sync = 0 udev_rules = 0 monitoring = 0 verify_udev_operations = 1 }
global { use_lvmpolld = 0 use_lvmlockd = 0 event_activation = 0 notify_dbus = 0 }
devices { scan = [ "/dev" ] use_devicesfile = 0 }
backup { backup = 0 archive = 0 }
'''
SECTORS = 8192  # of the origin
COW_SECTORS = 2048


def setup(lab, chunk='4k'):
    """vg/o filled with the pattern of tag 1, vg/s its snapshot; the model of what vg/s reads as."""
    if not kernel.has_lvm():
        raise Skip('lvm is not installed')
    lab.sh(f"""mkdir -p /etc/lvm /run/lvm /run/lock/lvm
cat >/etc/lvm/lvm.conf <<'END'
{CONFIG}END
lvm pvcreate -qq -y /dev/disk/lvm
lvm vgcreate -qq -s 64k vg /dev/disk/lvm
lvm lvcreate -qq -y -Wn -Zn -L {SECTORS * 512}b -n o vg
blkio fill /dev/vg/o 1
lvm lvcreate -qq -y -s -c {chunk} -L {COW_SECTORS * 512}b -n s vg/o""", timeout_s=120)
    return pattern.Content(SECTORS, 1)


def region(lab, volume):
    """The slice of the disk that a (linear) volume is."""
    fields = lab.sh(f'dmsetup table vg-{volume}').split()
    lab.equal((fields[0], fields[2]), ('0', 'linear'), f'table of vg-{volume}')
    return Region(lab, f'vg-{volume}', 'lvm', int(fields[4]), int(fields[1]))


def deactivate(lab):
    lab.sh('lvm vgchange -qq -an vg')
