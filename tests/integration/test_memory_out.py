# SPDX-License-Identifier: Apache-2.0
"""Memory runs out: every allocation may fail. Nothing crashes, hangs, leaks or forgets, and with
memory there again everything goes on.

By default allocations are drawn for some seconds a case; with MEMORY_OUT=all in the environment
(make torture) each one fails in turn, and after that each and all behind it."""

import os
import shutil
import subprocess
import threading
import time
import unittest
from unittest import mock

import memory_steps
from harness import CC, Case, preload_library, program, seed
from hosted import CHUNK, KIB
from memory_out import ALL_FROM, COUNT, ONE, Memory
from memory_steps import OUT_S, TURN_S, World
from rawclient import tls_context

EACH = os.environ.get("MEMORY_OUT", "") == "all"
DRAWS_S = 7
CONFIG = ('metrics_listen = "127.0.0.1:0"\nlease_ttl_ms = 60000\nshards = 2\n'
          "cow { chunk_size = 4K }\ncache { size = 4M }\n")


@unittest.skipUnless(shutil.which(CC), f"no {CC}")
class MemoryOut(Case):
    def setUp(self):
        super().setUp()
        self.rng = seed()
        self.pki()  # with all the memory it wants
        self.library = preload_library("failing_memory", self.dir)

    def numbers(self, count):
        """From 1 to count, or as many of them as there is time for."""
        if EACH:
            yield from range(1, count + 1)
            return
        end = time.monotonic() + DRAWS_S / 2
        while time.monotonic() < end:
            yield self.rng.randrange(1, count + 1)

    def start(self, d, memory):
        with mock.patch.dict(os.environ, memory.environment()):
            d.start()


class DaemonMemory(MemoryOut):
    def setUp(self):
        super().setUp()
        self.d = self.daemon(config=CONFIG + self.io_engine())
        self.memory = Memory(self.dir, self.library, program("snapwired"))
        self.start(self.d, self.memory)
        self.w = World(self, self.d, self.memory, self.rng, tls_context(self.pki()))
        self.addCleanup(lambda: self.w.r.close())

    def io_engine(self):
        return f"io_engine = {self.rng.choice(('auto', 'threads'))}\n"

    def one(self, step, mode, at):
        """Do that with an allocation failing. False: there were not so many."""
        w = self.w
        w.mode, w.at, w.hits = mode, at, 0
        try:
            step(w)
            w.check()
            w.check_credit()
            self.assertEqual(w.odd, [])
        except BaseException as why:
            self.memory.disarm()
            raise AssertionError(f"{step.__name__}, mode {mode}, allocation {at}: {why!r}\n"
                                 f"{self.memory.who()}\n{self.d.log()[-3000:]}") from why
        return w.hits > 0

    def fail_in_turn(self, mode, steps):
        for step in steps:
            at = 1
            while self.one(step, mode, at):
                at += 1

    def fail_at_random(self, mode):
        most = {step: 60 for step in memory_steps.STEPS}
        order = list(memory_steps.STEPS)
        end = time.monotonic() + DRAWS_S
        done = 0
        while time.monotonic() < end:
            self.rng.shuffle(order)
            for step in order:
                at = self.rng.randrange(1, most[step] + 1)
                if not self.one(step, mode, at):
                    most[step] = max(1, at - 1)
                done += 1
                if time.monotonic() > end:
                    break
        print(f"    {done} times")

    def goes_on(self, mode, steps=()):
        if steps or EACH:
            self.fail_in_turn(mode, steps or memory_steps.STEPS)
        else:
            self.fail_at_random(mode)
        self.w.r.close()
        self.d.stop()  # a request that is left would hold it up; nothing has leaked
        self.d.start()
        self.w.r = self.w.connect()
        self.w.check()

    def test_one_allocation_fails(self):
        self.goes_on(ONE)

    def test_each_allocation_of_short_requests_fails(self):
        """Those that once left something behind: a volume that nobody served, rights that stayed,
        memory, a writer that was not told to stand still."""
        self.goes_on(ONE, [memory_steps.create_remote, memory_steps.create_hosted,
                           memory_steps.list_volumes, memory_steps.list_jobs, memory_steps.grants,
                           memory_steps.new_head, memory_steps.reload])

    def test_all_allocations_fail_for_a_while(self):
        self.goes_on(ALL_FROM)

    def test_a_start_without_memory_says_so_and_the_next_one_has_everything(self):
        self.w.r.close()
        self.d.stop()
        self.memory.arm(COUNT)
        self.start(self.d, self.memory)
        count = self.memory.seen
        self.d.stop()
        for mode in (ONE, ALL_FROM):
            for at in self.numbers(count):
                self.start_fails_or_serves(mode, at)
        self.d.start()
        self.w.r = self.w.connect()
        self.w.check()

    def start_fails_or_serves(self, mode, at):
        self.memory.arm(mode, at)
        with mock.patch.dict(os.environ, self.memory.environment()):
            self.d.spawn()
        told = f"mode {mode}, allocation {at}: {self.memory.who()}\n"
        there_again = threading.Timer(OUT_S, self.memory.disarm)
        there_again.start()
        self.addCleanup(there_again.cancel)
        end = time.monotonic() + TURN_S
        while "snapwired ready" not in self.d.log() and self.d.process.poll() is None:
            self.assertLess(time.monotonic(), end, told + self.d.log())
            time.sleep(0.005)
        self.memory.disarm()
        if self.d.process.poll() is None:
            self.w.r = self.w.connect()
            try:
                self.w.settled(self.w.check)
            except BaseException as why:
                raise AssertionError(told + self.d.log()) from why
            self.w.r.close()
            self.d.stop()
        else:
            self.assertGreater(self.d.process.returncode, 0, told + self.d.log())
            self.assertRegex(self.d.log(), "memory|ENOMEM", told)
            self.d.process = None


class ClientMemory(MemoryOut):
    """snapctl: what it could not do it says, and does not end by a signal."""

    def setUp(self):
        super().setUp()
        self.up(config=CONFIG)
        self.memory = Memory(self.dir, self.library, program("snapctl"))
        self.first = self.image("first", 64 * KIB, self.rng)
        self.origin = self.copy(self.first, "origin")
        self.second = self.changed(self.first, "second", self.rng, 30)
        self.remote("create", "v", "--like", self.origin)
        self.remote("create", "v@a", "--chunk-size", str(CHUNK))
        self.remote("apply", "v@a", "--origin", self.origin, "--source", self.second)
        self.remote("create", "w", "--hosted", "--size", "64K")
        self.remote("import", "w", self.first)

    def without(self, mode, at, *args):
        """Run it. False: it did not ask for so much."""
        self.memory.arm(mode, at)
        env = dict(self.environment(), **self.memory.environment())
        there_again = threading.Timer(OUT_S, self.memory.disarm)
        there_again.start()
        try:
            done = subprocess.run([program("snapctl"), *args], env=env, stdin=subprocess.DEVNULL,
                                  capture_output=True, text=True, timeout=TURN_S, check=False)
        finally:
            there_again.cancel()
            self.memory.disarm()
        told = f"snapctl {' '.join(args)}, mode {mode}, allocation {at}: exit " \
               f"{done.returncode}\n{done.stderr[:5000]}\n{self.memory.who()}"
        self.assertGreaterEqual(done.returncode, 0, told)
        for sign in ("Sanitizer", "runtime error:"):
            self.assertNotIn(sign, done.stderr, told)
        if done.returncode:
            self.assertTrue(done.stderr, told)
        return self.memory.failed > 0

    def test_snapctl_says_what_it_could_not_do(self):
        out = self.path("out")
        export = ("remote", "export", "v@a", "--origin", self.origin, "-o", out)
        commands = [("remote", "list"), ("--json", "remote", "list"), ("remote", "status"),
                    ("remote", "show", "v@a"), ("remote", "diff", "v@a"), export,
                    ("remote", "jobs"), ("remote", "grants"), ("remote", "verify", "w"),
                    ("remote", "apply", "v@a", "--origin", self.origin, "--source", self.second)]
        per = max(0.3, DRAWS_S / len(commands) / 2)
        for mode in (ONE, ALL_FROM):
            for command in commands:
                end, at, most = time.monotonic() + per, 1, 40
                while EACH or time.monotonic() < end:
                    if os.path.exists(out):
                        os.unlink(out)
                    failed = self.without(mode, at, *command)
                    if command is export and os.path.exists(out):
                        self.assert_same(out, self.first)  # whole, or not there
                    if EACH and not failed:
                        break
                    most = most if failed else max(1, at - 1)
                    at = at + 1 if EACH else self.rng.randrange(1, most + 1)
        self.assert_same(self.origin, self.second)
        self.snapctl(*export)
        self.assert_same(out, self.first)


if __name__ == "__main__":
    unittest.main()
