# SPDX-License-Identifier: Apache-2.0
"""Hosted volumes while much goes on, and while the daemon is killed."""

import os
import threading
import time

import rawclient as rc
from hosted import CHUNK, MIB, SIZE, HostedCase
from rawclient import Refused, num, raw


class Together(HostedCase):
    def test_a_volume_deleted_beside_all_that_goes_on_with_it(self):
        """Writers, groups, rollbacks, clones and deletions side by side: each request is answered,
        with success or with a reason that fits, and the daemon stays."""
        stay = self.r.create_hosted("stay", SIZE)
        fits = {rc.ENOENT, rc.EBUSY, rc.ESTALE, rc.ECANCELED, rc.EEXIST, rc.ETIMEDOUT,
                rc.ESHUTDOWN}
        wrong, stop, current = [], threading.Event(), [None]

        def run(r, act):
            n = 0
            while not stop.is_set():
                n += 1
                volume = current[0]
                try:
                    act(r, volume, n)
                except Refused as why:
                    if why.code not in fits:
                        wrong.append(f"{why.code} {why.text}")
                except Exception as why:  # pylint: disable=broad-except
                    wrong.append(repr(why))
                    return

        def roll(r, volume, n):
            uuid = r.create_snapshot(volume, f"r{n}", 0)
            r.create_clone(volume, uuid, f"c{n}")
            r.rollback(volume, uuid, merge=n % 2 == 0)

        acts = [lambda r, v, n: r.write(v, n * 997 % (SIZE - 9000), b"x" * 9000),
                lambda r, v, n: r.zero(v, n * 991 % (SIZE - 9000), 9000, discard=True),
                lambda r, v, n: r.read(v, 0, 65536),
                lambda r, v, n: r.create_group([(v, os.urandom(16), f"g{n}"),
                                                (stay, os.urandom(16), f"g{os.urandom(4).hex()}")]),
                roll]
        current[0] = self.r.create_hosted("v0", SIZE)
        threads = [threading.Thread(target=run, args=(self.connect(), act)) for act in acts]
        for t in threads:
            t.start()
        for i in range(1, 9):
            time.sleep(0.1 + self.rng.random() * 0.3)
            old, current[0] = current[0], self.r.create_hosted(f"v{i}", SIZE)
            self.r.call(rc.M_VOLUME_DELETE, raw(1, old) + raw(3, os.urandom(16)) + num(4, 1))
        stop.set()
        for t in threads:
            t.join(60)
            self.assertFalse(t.is_alive(), "a request is not answered\n" + self.d.log()[-3000:])
        self.assertEqual(wrong, [])
        self.r.write(stay, 0, b"open")
        self.assertEqual(len(os.listdir(os.path.join(self.d.state, "volumes"))), 2)
        self.d.stop()
        self.d.start()


class Kills(HostedCase):
    def test_killed_in_the_middle_of_writes(self):
        """Many writes under way, then SIGKILL: what was answered is there (the machine lived),
        what was not is old or new, chunk by chunk; snapshots are as they were."""
        volume, model = self.hosted(size=2 * MIB)
        chunks = 2 * MIB // CHUNK
        for turn in range(4):
            self.write_at_random(volume, model, 10)
            self.snapshot(volume, model, f"s{turn}")
            asked = {}
            for chunk in self.rng.sample(range(chunks), 150):
                if len(asked) - len(self.r.answers) >= 12:
                    self.r.step()
                data = self.rng.randbytes(CHUNK)
                ident = self.r.ask(rc.M_WRITE, self.r.write_control(volume, chunk * CHUNK), data)
                asked[ident] = (chunk, data)
            self.d.kill()
            answered = self.drain()
            self.d.start()
            self.r = self.connect()
            for ident, (chunk, data) in asked.items():
                at = slice(chunk * CHUNK, (chunk + 1) * CHUNK)
                got = self.r.read(volume, chunk * CHUNK, CHUNK)
                if ident in answered:
                    self.assertEqual(got, data, f"chunk {chunk} was answered")
                else:
                    self.assertIn(got, (data, bytes(model.now[at])), f"chunk {chunk}")
                model.now[at] = got
            self.assert_holds(volume, model)

    def test_clones_killed_in_the_middle_of_writes_and_deletes(self):
        volume, model = self.hosted()
        self.write_at_random(volume, model, 30)
        s = self.snapshot(volume, model, "s")
        c = self.clone(volume, model, s, "c")
        for turn in range(3):
            extra = self.clone(volume, model, c, f"x{turn}")
            asked = {}
            for chunk in self.rng.sample(range(SIZE // CHUNK), 60):
                if len(asked) - len(self.r.answers) >= 12:
                    self.r.step()
                data = self.rng.randbytes(CHUNK)
                ident = self.r.ask(rc.M_WRITE,
                                   self.r.write_control(volume, chunk * CHUNK, c), data)
                asked[ident] = (chunk, data)
            self.r.ask(rc.M_SNAPSHOT_DELETE, raw(1, volume) + raw(2, extra) +
                       raw(3, os.urandom(16)))
            time.sleep(self.rng.random() * 0.02)
            self.d.kill()
            answered = self.drain()
            self.d.start()
            self.r = self.connect()
            content = model.nodes[c]
            for ident, (chunk, data) in asked.items():
                at = slice(chunk * CHUNK, (chunk + 1) * CHUNK)
                got = self.r.read(volume, chunk * CHUNK, CHUNK, c)
                if ident in answered:
                    self.assertEqual(got, data, f"chunk {chunk} was answered")
                else:
                    self.assertIn(got, (data, bytes(content[at])), f"chunk {chunk}")
                content[at] = got
            if f"x{turn}" not in self.r.snapshots(volume):
                del model.nodes[extra]
            self.assert_holds(volume, model)
