# SPDX-License-Identifier: Apache-2.0
"""Programs that are started with standard input, output or error closed (`2>&-`): no message is
written to what else has been opened."""

import os
import shlex
import subprocess

from harness import Case, program, seed, until

MIB = 1 << 20
ALL_CLOSED = "<&- >&- 2>&-"


class ClosedStd(Case):
    def closed(self, what, *args):
        """Run snapctl with these descriptors closed, as a shell says it; the exit status."""
        words = " ".join(shlex.quote(str(x)) for x in (program("snapctl"), *args))
        return subprocess.run(["sh", "-c", f"exec {words} {what}"], env=self.environment(),
                              timeout=120, check=False).returncode

    def test_no_message_is_written_into_a_disk(self):
        """What snapctl says at the end of a merge or apply once went into the origin."""
        self.up()
        rng = seed()
        first = self.image("first.img", 4 * MIB, rng)
        second = self.image("second.img", 4 * MIB, rng)
        for what in ("2>&-", ">&- 2>&-", ALL_CLOSED):
            with self.subTest(what):
                name = f"v{len(what)}"
                disk = self.copy(first, f"{name}.img")
                self.remote("create", name, "--like", disk)
                self.remote("create", f"{name}@s")
                self.assertEqual(0, self.closed(what, "remote", "apply", f"{name}@s", "--origin",
                                                disk, "--source", second))
                self.assert_same(disk, second)
                past = self.path(f"{name}.past")
                self.assertEqual(0, self.closed(what, "remote", "export", f"{name}@s", "--origin",
                                                disk, "-o", past))
                self.assert_same(past, first)
                self.assertEqual(0, self.closed(what, "remote", "merge", f"{name}@s", "--origin",
                                                disk))
                self.assert_same(disk, first)

    def test_what_cannot_be_printed_is_an_error(self):
        self.up()
        self.remote("create", "v", "--size", "1M")
        for args in (["remote", "status"], ["--json", "remote", "ls"], ["remote", "show", "v"]):
            for what in (">&-", ALL_CLOSED):
                self.assertEqual(4, self.closed(what, *args), (args, what))
        self.assertEqual(0, self.closed("<&- 2>&-", "remote", "create", "w", "--size", "1M"))

    def test_the_daemons_log_goes_nowhere_else(self):
        d = self.daemon(tls=False)
        words = shlex.join([program("snapwired"), "--config", d.write_config()])
        d.log_start = 0
        with open(d.log_path, "wb"):
            pass
        d.process = subprocess.Popen(["sh", "-c", f"exec {words} {ALL_CLOSED}"])
        until(lambda: os.path.exists(d.socket))
        self.remote("add", "admin", f"unix:{d.socket}")
        self.remote("create", "v", "--size", "1M")
        for fd in range(3):
            self.assertEqual("/", os.readlink(f"/proc/{d.process.pid}/fd/{fd}"))
        self.remote("status")
        d.process.terminate()
        self.assertEqual(0, d.process.wait(60))
        d.process = None
        for folder, _, names in os.walk(d.state):
            for name in names:
                with open(os.path.join(folder, name), "rb") as f:
                    self.assertNotIn(b"level=info", f.read(), name)
