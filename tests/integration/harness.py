# SPDX-License-Identifier: Apache-2.0
"""What the integration tests stand on: certificates, a daemon, snapctl, disks.

Every case has a folder of its own; daemons listen on loopback, on ports the
system chooses, and are stopped by pid when the case ends, however it ends.
"""

import glob
import json
import os
import random
import re
import shutil
import signal
import subprocess
import tempfile
import time
import unittest

BUILD = os.environ.get("SNAPWIRE_BUILD", "build/gcc")
ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
START_TIMEOUT_S = 30
COMMAND_TIMEOUT_S = 180
CC = os.environ.get("CC", "cc").split()[-1]  # for what is loaded before a program's libraries


def program(name):
    return os.path.join(ROOT, BUILD, name)


def preload_library(name, folder):
    """NAME.c of this folder, as a library for LD_PRELOAD."""
    library = os.path.join(folder, f"{name}.so")
    subprocess.run([CC, "-D_GNU_SOURCE", "-shared", "-fPIC", "-O1", "-fno-omit-frame-pointer", "-o",
                    library, os.path.join(ROOT, "tests", "integration", f"{name}.c")], check=True)
    return library


def until(what, timeout=30):
    """What it says, once that is something."""
    end = time.monotonic() + timeout
    while not (got := what()):
        if time.monotonic() > end:
            raise AssertionError("it did not happen in time")
        time.sleep(0.02)
    return got


def program_for_others(name, folder):
    """A copy in a folder that another user can reach: the build folder may be in root's home."""
    copy = os.path.join(folder, f"{name}-for-others")
    shutil.copy(program(name), copy)
    os.chmod(copy, 0o755)
    return copy


def seed():
    """The run's seed: SEED of the environment, or a new one; printed either way."""
    value = int(os.environ.get("SEED", random.SystemRandom().randrange(2**32)))
    print(f"seed: SEED={value}", flush=True)
    return random.Random(value)


class Result:
    def __init__(self, done):
        self.code = done.returncode
        self.out = done.stdout
        self.err = done.stderr

    def json(self):
        return json.loads(self.out)


class Daemon:
    """snapwired on a state directory; started, killed, restarted on the same port."""

    def __init__(self, case, name="d", config="", tls=True, extra=()):
        self.case = case
        self.dir = os.path.join(case.dir, name)
        self.state = os.path.join(self.dir, "state")
        self.extra = list(extra)
        self.config_text = config
        self.tls = tls
        self.port = 0
        self.process = None
        self.socket = os.path.join(self.dir, "s")
        os.makedirs(self.state, exist_ok=True)
        self.log_path = os.path.join(self.dir, "log")

    def write_config(self):
        listen = [f"unix:{self.socket}"]
        tls = ""
        if self.tls:
            listen.insert(0, f"127.0.0.1:{self.port}")
            pki = self.case.pki()
            tls = (
                f'tls {{\n ca = "{pki}/ca.crt"\n'
                f' certificate = "{pki}/server-localhost.crt"\n'
                f' key = "{pki}/server-localhost.key"\n crl = "{pki}/ca.crl"\n}}\n'
            )
        path = os.path.join(self.dir, "snapwired.conf")
        with open(path, "w", encoding="utf-8") as f:
            f.write(f'state_dir = "{self.state}"\n')
            f.write("listen = {" + ", ".join(f'"{a}"' for a in listen) + "}\n")
            f.write(tls)
            f.write(self.config_text)
        return path

    def spawn(self, *extra):
        command = [program("snapwired"), "--config", self.write_config(), *self.extra, *extra]
        self.log_start = os.path.getsize(self.log_path) if os.path.exists(self.log_path) else 0
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log,
                                            stdin=subprocess.DEVNULL)

    def log(self):
        with open(self.log_path, encoding="utf-8", errors="replace") as f:
            f.seek(self.log_start)
            return f.read()

    def start(self, *extra):
        self.spawn(*extra)
        end = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < end:
            text = self.log()
            if "snapwired ready" in text:
                if self.tls and not self.port:
                    match = re.search(r"(?:127\.0\.0\.1|localhost):(\d+)", text)
                    if not match:
                        raise AssertionError("the log names no port:\n" + text)
                    self.port = int(match.group(1))
                return self
            if self.process.poll() is not None:
                raise AssertionError(f"the daemon ended with {self.process.returncode}:\n{text}")
            time.sleep(0.02)
        raise AssertionError("the daemon did not come up:\n" + self.log())

    def start_fails(self, *extra):
        """Start it, expecting it to refuse; returns exit code and log."""
        self.spawn(*extra)
        try:
            code = self.process.wait(START_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError("the daemon started:\n" + self.log()) from None
        self.process = None
        return code, self.log()

    def kill(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def cow_bytes(self):
        """What the COW files take on disk now."""
        files = glob.glob(os.path.join(self.state, "volumes", "*", "*.cow"))
        return sum(os.stat(f).st_blocks * 512 for f in files)

    def wait_for_puts(self, child):
        """Until a COW file grows, or the child has ended. False: it has ended."""
        begin = self.cow_bytes()
        end = time.monotonic() + START_TIMEOUT_S
        while child.poll() is None and time.monotonic() < end:
            if self.cow_bytes() != begin:
                return True
            time.sleep(0.002)
        return False

    def hang_up(self):
        self.process.send_signal(signal.SIGHUP)

    def stop(self):
        """A graceful stop; what the sanitizers have to say counts."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            code = self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError("the daemon did not stop:\n" + self.log()) from None
        self.process = None
        if code != 0:
            raise AssertionError(f"the daemon ended with {code}:\n{self.log()[-8000:]}")

    def check_log(self):
        with open(self.log_path, encoding="utf-8", errors="replace") as f:
            text = f.read()
        for sign in ("ERROR: AddressSanitizer", "runtime error:", "WARNING: ThreadSanitizer",
                     "ERROR: LeakSanitizer"):
            if sign in text:
                raise AssertionError(text[max(0, text.index(sign) - 200) :][:6000])


class Case(unittest.TestCase):
    """A test with a folder, certificates, remotes `admin` (Unix socket) and `here` (TLS)."""

    _pki = None

    def setUp(self):
        self._temp = tempfile.TemporaryDirectory(prefix="snapwire-test-")
        self.dir = self._temp.name
        self.daemons = []
        self.children = []
        self.addCleanup(self._temp.cleanup)
        self.addCleanup(self._end)

    def _end(self):
        for child in self.children:
            if child.poll() is None:
                child.kill()
                child.wait()
        for daemon in self.daemons:
            daemon.kill()
            daemon.check_log()

    @classmethod
    def pki(cls):
        """One authority for all cases of a run: making keys costs time."""
        if Case._pki is None:
            Case._pki_dir = tempfile.TemporaryDirectory(prefix="snapwire-pki-")
            pki = os.path.join(Case._pki_dir.name, "pki")
            for args in (["init", pki], ["issue", pki, "--server", "localhost"],
                         ["issue", pki, "--client", "ann"], ["issue", pki, "--client", "bob"]):
                subprocess.run([program("snapctl"), "-q", "pki", *args], check=True)
            Case._pki = pki
        return Case._pki

    def daemon(self, **kwargs):
        d = Daemon(self, name=f"d{len(self.daemons)}", **kwargs)
        self.daemons.append(d)
        return d

    def path(self, name):
        return os.path.join(self.dir, name)

    def environment(self):
        return dict(os.environ, SNAPWIRE_CONFIG=self.path("remotes.conf"), LC_ALL="C.UTF-8")

    def snapctl(self, *args, code=0, stdin=None):
        """Run snapctl, expecting an exit code (None: any)."""
        done = subprocess.run([program("snapctl"), *map(str, args)], env=self.environment(),
                              stdin=stdin or subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=COMMAND_TIMEOUT_S, check=False)
        if code is not None and done.returncode != code:
            raise AssertionError(f"snapctl {' '.join(map(str, args))}: exit {done.returncode}, "
                                 f"expected {code}\n{done.stdout}{done.stderr}\n" +
                                 "".join(d.log()[-4000:] for d in self.daemons if d.process))
        return Result(done)

    def fails(self, code, says, *args, limits=None, by=None):
        """Run snapctl, which must refuse with this exit code and say all of `says` (regular
        expressions) on standard error, in words and not in a heap of them."""
        done = subprocess.run([by or program("snapctl"), *map(str, args)], env=self.environment(),
                              stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=COMMAND_TIMEOUT_S, check=False, preexec_fn=limits)
        told = f"snapctl {' '.join(map(str, args))}: exit {done.returncode}\n{done.stderr}"
        self.assertEqual(done.returncode, code, told)
        for pattern in [says] if isinstance(says, str) else says:
            self.assertRegex(done.stderr, pattern, told)
        self.assertLess(len(done.stderr), 4000, told)
        return Result(done)

    def remote(self, *args, code=0, on=None):
        on = ["--on", on] if on else []
        return self.snapctl("remote", *on, *args, code=code)

    def spawn(self, *args):
        """snapctl in the background; killed at the end of the case."""
        child = subprocess.Popen([program("snapctl"), *map(str, args)], env=self.environment(),
                                 stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                 stderr=subprocess.PIPE, text=True)
        self.children.append(child)
        return child

    def reach(self, daemon, identity="ann", name="here"):
        """Name the daemon's TLS address as a remote, with that identity's certificate."""
        pki = self.pki()
        self.remote("add", name, f"localhost:{daemon.port}", "--ca", f"{pki}/ca.crt", "--cert",
                    f"{pki}/client-{identity}.crt", "--key", f"{pki}/client-{identity}.key")

    def up(self, role="admin", **kwargs):
        """A running daemon with remotes admin and here, `ann` having the role on everything."""
        d = self.daemon(**kwargs).start()
        self.remote("add", "admin", f"unix:{d.socket}")
        if d.tls:
            self.remote("grant", "ann", role, "*", on="admin")
            self.reach(d)
            self.remote("use", "here")
        else:
            self.remote("use", "admin")
        return d

    def up_on_tmpfs(self, size):
        """A running daemon, reached by its socket, whose state has a file system of that size (as
        mount takes it)."""
        d = self.daemon(tls=False)
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", d.state],
                              capture_output=True, text=True, check=False)
        if done.returncode:
            self.skipTest("mount is not allowed here: " + done.stderr.strip())
        self.addCleanup(subprocess.run, ["umount", "-l", d.state], check=False)
        d.start()
        self.remote("add", "admin", f"unix:{d.socket}")
        self.remote("use", "admin")
        return d

    def image(self, name, size, rng, density=100):
        """A file of random 4 KiB blocks, `density` percent of them; the rest are holes."""
        path = self.path(name)
        with open(path, "wb") as f:
            f.truncate(size)
            for at in range(0, size, 4096):
                if rng.randrange(100) < density:
                    f.seek(at)
                    f.write(rng.randbytes(min(4096, size - at)))
        return path

    def changed(self, source, name, rng, percent=10):
        """A copy of an image with some of its blocks written anew."""
        path = self.path(name)
        subprocess.run(["cp", "--sparse=always", source, path], check=True)
        size = os.path.getsize(path)
        with open(path, "r+b") as f:
            for at in range(0, size, 4096):
                if rng.randrange(100) < percent:
                    f.seek(at)
                    f.write(rng.randbytes(min(4096, size - at)))
        return path

    def copy(self, source, name):
        path = self.path(name)
        subprocess.run(["cp", "--sparse=always", source, path], check=True)
        return path

    def assert_same(self, a, b):
        done = subprocess.run(["cmp", a, b], capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
