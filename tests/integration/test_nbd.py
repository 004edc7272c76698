# SPDX-License-Identifier: Apache-2.0
"""nbdkit-snapwire-plugin: hosted volumes over NBD, beside what tests/interop/ shows of it."""

import os
import shutil
import signal
import subprocess
import time
import unittest

from harness import Case, program, seed
from nbdclient import FLUSH, READ, WRITE, Nbd, NbdError
from test_guard import sanitizer, until

MIB = 1 << 20
CHUNK = 4096
PLUGIN = program("nbdkit-snapwire-plugin.so")


@unittest.skipUnless(shutil.which("nbdkit") and os.path.exists(PLUGIN),
                     "nbdkit or nbdkit-plugin-dev is not installed")
class PluginCase(Case):
    def setUp(self):
        super().setUp()
        self.rng = seed()
        self.preload = sanitizer()
        self.d = self.up()
        self.remote("create", "v", "--hosted", "--size", 4 * MIB, "--chunk-size", "4K")

    def serve(self, *args):
        self.socket, self.pid = self.path("n.sock"), self.path("n.pid")
        self.log_path = self.path("n.log")
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                ["nbdkit", "-f", "-P", self.pid, "-U", self.socket, "-t", "32", PLUGIN,
                 f"server=unix:{self.d.socket}", *args], stdout=log, stderr=log,
                stdin=subprocess.DEVNULL, env=dict(self.environment(), **self.preload))
        self.children.append(self.process)
        until(lambda: os.path.exists(self.pid) or self.process.poll() is not None)
        self.assertIsNone(self.process.poll(), self.log())
        return Nbd(self.socket)

    def log(self):
        with open(self.log_path, encoding="utf-8", errors="replace") as f:
            return f.read()

    def stop(self, within):
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        if self.preload:  # nbdkit itself hangs in exit() then, once an errno was told
            until(lambda: not os.path.exists(self.socket) or self.process.poll() is not None)
            time.sleep(within)
            self.process.kill()
            self.process.wait()
        else:
            self.assertEqual(self.process.wait(60), 0)
            self.assertLess(time.monotonic() - began, within)
        self.assertNotRegex(self.log(), "AddressSanitizer|runtime error:")


class Starts(PluginCase):
    def test_without_its_daemon_it_says_so_after_its_time(self):
        self.d.kill()
        with self.assertRaisesRegex(AssertionError, "v at unix:.*timeout= says"):
            self.serve("volume=v", "timeout=3")
        self.assertEqual(self.process.returncode, 1)


class Ends(PluginCase):
    """nbdkit is told to end."""

    def test_requests_that_wait_for_an_absent_daemon_end(self):
        nbd = self.serve("volume=v", "timeout=600")
        nbd.write(0, self.rng.randbytes(CHUNK))
        self.d.kill()
        waiting = [nbd.begin(WRITE, MIB, data=self.rng.randbytes(CHUNK)),
                   nbd.begin(READ, 0, CHUNK), nbd.begin(FLUSH)]
        time.sleep(1.5)
        self.assertFalse(any(w.done.is_set() for w in waiting))
        self.process.send_signal(signal.SIGTERM)
        for w in waiting:
            with self.assertRaises((NbdError, ConnectionError)):
                w.wait(5)
        nbd.close()
        self.stop(within=5)
        self.assertRegex(self.log(), "v at unix:.*: write of 4096 bytes at 1048576: nbdkit ends")

    def test_also_when_their_client_has_gone(self):
        nbd = self.serve("volume=v", "timeout=600")
        nbd.write(0, self.rng.randbytes(CHUNK))
        self.d.kill()
        nbd.begin(WRITE, 0, data=self.rng.randbytes(CHUNK))
        time.sleep(1.5)
        nbd.sock.close()
        self.stop(within=5)

    def test_an_absent_daemon_that_comes_back_before_is_waited_for(self):
        nbd = self.serve("volume=v", "timeout=600")
        data = self.rng.randbytes(CHUNK)
        nbd.write(0, data)
        self.d.kill()
        waiting = nbd.begin(READ, 0, CHUNK)
        time.sleep(2.5)
        self.d.start()
        self.assertEqual(len(waiting.wait()), CHUNK)
        nbd.write(MIB, data)
        nbd.flush()
        self.assertEqual(nbd.read(MIB, CHUNK), data)
        nbd.close()
        self.stop(within=5)
        self.assertNotRegex(self.log(), "shut ?down")


if __name__ == "__main__":
    unittest.main()
