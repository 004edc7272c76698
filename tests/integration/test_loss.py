# SPDX-License-Identifier: Apache-2.0
"""A flush that fails while the connection breaks: the client hears of it when it is back."""

import contextlib
import os
import select
import shutil
import unittest
from unittest import mock

import rawclient as rc
from harness import CC, Case, preload_library
from hosted import CHUNK, SIZE
from rawclient import Refused, connect_tls, connect_unix, tls_context

INSTANCE, OTHER = b"i" * 16, b"o" * 16


@unittest.skipUnless(shutil.which(CC), f"no {CC}")
class FailedFlush(Case):
    def setUp(self):
        super().setUp()
        self.library, self.sign = preload_library("failing_flush", self.dir), self.path("fail")
        self.d = self.daemon(config='io_engine = "threads"\n')
        self.start()
        self.remote("add", "admin", f"unix:{self.d.socket}")
        self.remote("grant", "ann", "writer", "*", on="admin")
        self.raws = []
        self.addCleanup(lambda: [r.close() for r in self.raws])
        self.volume = self.connect().create_hosted("v", SIZE)

    def start(self):
        asan = os.environ.get("ASAN_OPTIONS", "")
        with mock.patch.dict(os.environ, {
                "LD_PRELOAD": self.library, "FAILING_FLUSH": self.sign,
                "ASAN_OPTIONS": f"{asan}:verify_asan_link_order=0"}):
            self.d.start()

    def connect(self, **kwargs):
        r = connect_unix(self.d.socket, **kwargs)
        self.raws.append(r)
        return r

    def connect_tls(self, **kwargs):
        r = connect_tls(self.d.port, tls_context(self.pki()), **kwargs)
        self.raws.append(r)
        return r

    @contextlib.contextmanager
    def failing(self):
        with open(self.sign, "w", encoding="utf-8"):
            pass
        yield
        os.unlink(self.sign)

    def told(self, r, heard=None):
        """The number of the failure that a flush is told of; 0: it succeeds."""
        try:
            r.flush(self.volume, heard=heard)
        except Refused as why:
            self.assertEqual(why.code, rc.EIO, why.text)
            self.assertNotEqual(why.loss, 0, why.text)
            return why.loss
        return 0

    def test_who_did_not_get_the_answer_hears_of_it_on_the_next_connection(self):
        r, other = self.connect_tls(instance=INSTANCE), self.connect_tls(instance=OTHER)
        r.write(self.volume, 0, b"x" * CHUNK)
        with self.failing():
            r.ask(rc.M_FLUSH, r.flush_control(self.volume, heard=0))
            self.assertTrue(select.select([r.sock], [], [], 20)[0])
            r.close()  # with the answer unread
        self.assertEqual(self.told(other, heard=0), 0)  # which had written nothing
        r = self.connect_tls(instance=INSTANCE)
        loss = self.told(r, heard=0)
        self.assertNotEqual(loss, 0)
        r = self.connect_tls(instance=INSTANCE)
        self.assertEqual(self.told(r, heard=0), loss)
        self.assertEqual(self.told(r, heard=loss), 0)
        r.write(self.volume, 0, b"x" * CHUNK)
        self.assertEqual(self.told(r, heard=loss), 0)
        with self.failing():
            r.write(self.volume, 0, b"y" * CHUNK)
            later = self.told(r, heard=loss)
        self.assertGreater(later, loss)
        self.assertEqual(self.told(r, heard=later), 0)

    def boot(self):
        return rc.get(self.connect().server, 10, b"")

    def restart(self):
        """Killed; what comes up again says whether it may have lost writes."""
        before = self.boot()
        self.assertEqual(len(before), 16)
        self.d.kill()
        self.start()
        return self.boot() != before

    def test_a_daemon_that_is_killed_after_it_says_so_by_its_boot(self):
        r = self.connect(instance=INSTANCE)
        r.write(self.volume, 0, b"x" * CHUNK)
        self.assertFalse(self.restart())
        r = self.connect(instance=INSTANCE)
        r.write(self.volume, 0, b"y" * CHUNK)
        with self.failing():
            r.ask(rc.M_FLUSH, r.flush_control(self.volume, heard=0))
            self.assertTrue(select.select([r.sock], [], [], 20)[0])
            self.assertTrue(self.restart())  # the answer was never read
        self.assertFalse(self.restart())
        r = self.connect(instance=INSTANCE)
        r.write(self.volume, 0, b"z" * CHUNK)
        with self.failing():
            self.assertNotEqual(self.told(r, heard=0), 0)
        self.assertTrue(self.restart())

    def test_a_daemon_that_could_not_flush_at_its_end_says_so_by_its_boot(self):
        self.connect().write(self.volume, 0, b"x" * CHUNK)
        before = self.boot()
        with self.failing():
            self.d.stop()
        self.start()
        self.assertNotEqual(self.boot(), before)

    def test_who_does_not_say_what_it_has_heard_is_told_once(self):
        r = self.connect(instance=INSTANCE)
        r.write(self.volume, 0, b"x" * CHUNK)
        with self.failing():
            self.assertNotEqual(self.told(r), 0)
        self.assertEqual(self.told(r), 0)


if __name__ == "__main__":
    unittest.main()
