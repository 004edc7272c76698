# SPDX-License-Identifier: Apache-2.0
"""A daemon that is given too little: it says what, where, and what to do about it. It neither ends
by a signal nor by a library's word, and does not hang."""

import os
import re
import resource
import subprocess
import unittest
from unittest import mock

from harness import Case, program, program_for_others

MIB = 1 << 20
NOBODY = 61234  # root is not held to a limit on processes


class TooLittle(Case):
    def ends(self, says, limits=None, user=None, d=None, **kwargs):
        """The daemon does not start, and its last line says all of that."""
        d = d or self.daemon(tls=False, **kwargs)
        popen = subprocess.Popen

        def prepare():
            for limit, value in (limits or {}).items():
                resource.setrlimit(limit, (value, value))
            if user is not None:
                os.setgroups([])
                os.setgid(user)
                os.setuid(user)

        def spawn(command, **more):
            if user is not None:
                command = [self.program, *command[1:]]
            return popen(command, preexec_fn=prepare, **more)
        with mock.patch.object(subprocess, "Popen", spawn):
            code, log = d.start_fails()
        self.assertGreater(code, 1, log)
        for pattern in says:
            self.assertRegex(log, rf"(?m)^.*level=error.*cannot start.*{pattern}", log)
        self.assertNotRegex(log, r"\[err\]|\[warn\]", log)  # libevent's

    def not_sanitized(self):
        with open(program("snapwired"), "rb") as f:
            if re.search(rb"__(asan|tsan)_init", f.read()):
                self.skipTest("a sanitizer needs more memory and threads than that")

    def test_open_files(self):
        for number in (8, 11, 14, 20, 30, 40):
            self.ends(["may have .* open files", "LimitNOFILE="],
                      {resource.RLIMIT_NOFILE: number}, config="shards = 2\n")

    def test_processes(self):
        if os.geteuid() != 0:
            self.skipTest("only root can become somebody else")
        self.not_sanitized()
        os.chmod(self.dir, 0o755)
        self.program = program_for_others("snapwired", self.dir)
        for number in (1, 2, 3):
            for engine in ("threads", "auto"):
                d = self.daemon(tls=False, config=f'io_engine = "{engine}"\nshards = 3\n')
                for path in (d.dir, d.state):
                    os.chown(path, NOBODY, NOBODY)
                self.ends(["start .* thread", "LimitNPROC="], {resource.RLIMIT_NPROC: number},
                          user=NOBODY, d=d)

    def test_memory(self):
        self.not_sanitized()
        for size in (100 * MIB, 400 * MIB):
            self.ends(["cache", "LimitAS="], {resource.RLIMIT_AS: size},
                      config='shards = 2\ncache {\n size = "1G"\n}\n')

    def mounted(self, options):
        d = self.daemon(tls=False)
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", d.state],
                              capture_output=True, text=True, check=False)
        if done.returncode:
            self.skipTest("mount is not allowed here: " + done.stderr.strip())
        self.addCleanup(subprocess.run, ["umount", "-l", d.state], check=False)
        return d

    def test_a_state_directory_that_cannot_be_written(self):
        d = self.mounted("size=4M,ro")
        self.ends([f"{d.state}/volumes: Read-only file system", "remount,rw"], d=d)
        d = self.mounted("size=16M")
        d.start()
        d.stop()
        subprocess.run(["mount", "-o", "remount,ro", d.state], check=True)
        self.ends([f"{d.state}/lock: Read-only file system", "remount,rw"], d=d)

    def test_a_state_directory_of_somebody_else(self):
        if os.geteuid() != 0:
            self.skipTest("only root can become somebody else")
        os.chmod(self.dir, 0o755)
        self.program = program_for_others("snapwired", self.dir)
        d = self.daemon(tls=False)
        self.ends([f"{d.state}/volumes: Permission denied", "chown"], user=NOBODY, d=d)

    def test_a_socket_in_a_folder_of_somebody_else(self):
        """The state directory is its own: what helps is something else."""
        if os.geteuid() != 0:
            self.skipTest("only root can become somebody else")
        os.chmod(self.dir, 0o755)
        self.program = program_for_others("snapwired", self.dir)
        d = self.daemon(tls=False)
        os.chown(d.state, NOBODY, NOBODY)
        self.ends([f"{d.socket}: bind: Permission denied.*sockets"], user=NOBODY, d=d)

    def test_a_state_directory_without_room_for_files(self):
        d = self.mounted("size=16M,nr_inodes=4")
        self.ends([f"{d.state}/.*No space left", "df -i"], d=d)


class JustEnough(Case):
    def test_open_files_for_the_daemon_and_little_more(self):
        """What there is no file for fails, and says so; the rest goes on."""
        d = self.up(tls=False, config="shards = 1\n")
        pid = d.process.pid
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        self.remote("create", "v", "--hosted", "--size", "1M")
        self.remote("create", "v@s")
        now = len(os.listdir(f"/proc/{pid}/fd"))
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (now + 1, before[1]))
        self.fails(17, ["Too many open files: .*LimitNOFILE="], "remote", "create", "w",
                   "--hosted", "--size", "1M")
        self.assertIn("v", self.remote("ls").out)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        self.remote("create", "w", "--hosted", "--size", "1M")
        d.stop()


if __name__ == "__main__":
    unittest.main()
