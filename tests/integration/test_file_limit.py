# SPDX-License-Identifier: Apache-2.0
"""nbdkit with the plugins under a limit on the size of files: a write that it forbids fails."""

import contextlib
import errno
import resource
import unittest

from nbdclient import NbdError
from test_guard import CHUNK, MIB, Guard, GuardCase
from test_nbd import PluginCase


@contextlib.contextmanager
def limited(pid, size):
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, before[1]))
    yield
    resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


class GuardedOrigin(GuardCase):
    def test_a_write_past_the_limit_fails_and_the_guard_goes_on(self):
        self.disk()
        g = Guard(self)
        nbd = g.connect()
        data = self.block()
        with limited(g.pid(), 2 * MIB):
            with self.assertRaises(NbdError) as why:
                nbd.write(3 * MIB, data)
            self.assertIn(why.exception.errno, (errno.ENOSPC, errno.EFBIG))
            nbd.write(MIB, data)
            nbd.flush()
        nbd.write(3 * MIB, data)
        self.assertEqual(nbd.read(3 * MIB, CHUNK), data)
        nbd.close()
        g.stop()
        self.assert_kept()


class Log(PluginCase):
    def test_of_no_more_room_is_no_end_of_the_disk(self):
        nbd = self.serve()
        with open(self.pid, encoding="ascii") as f:
            pid = int(f.read())
        with limited(pid, 0):
            with self.assertRaises((NbdError, ConnectionError)):  # told into the log, too
                nbd.write(nbd.size, b"x" * CHUNK)
            nbd.write(0, b"y" * CHUNK)
        self.assertEqual(nbd.read(0, CHUNK), b"y" * CHUNK)
        nbd.close()
        self.stop(within=10)


if __name__ == "__main__":
    unittest.main()
