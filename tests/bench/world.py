# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks stand on: certificates, a daemon, NBD servers, fio, processors.

Servers are bound to one half of the processors and clients to the other, ours and
the peers' alike. Everything that is written stands in one scratch folder on a real
disk, and every process is ended by its pid, however a run ends.
"""

import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import tempfile
import time

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 120

# The peers' TLS library prefers AES-256; the same cipher for all is the fairer race.
GNUTLS_PRIORITY = "[overrides]\n" + "".join(
    f"tls-disabled-cipher = {name}\n"
    for name in ("AES-256-GCM", "CHACHA20-POLY1305", "AES-256-CCM", "AES-128-CCM"))


class Failed(Exception):
    pass


def median(values):
    ordered = sorted(values)
    n = len(ordered)
    return (ordered[n // 2] + ordered[(n - 1) // 2]) / 2


class Run:
    """A finished command: its output, time, processor time and largest memory."""

    def __init__(self, out, wall_s, usage):
        self.out = out
        self.wall_s = wall_s
        self.cpu_s = usage.ru_utime + usage.ru_stime
        self.memory_bytes = usage.ru_maxrss * 1024

    def json(self):
        return json.loads(self.out)


def disk_cpu(path):
    """The processor that takes the interrupts of the disk under path; None: not to be found.

    Writes end in a kernel thread there, so it is to be one of the servers', ours and the peers'.
    """
    number = os.stat(path).st_dev
    device = os.path.realpath(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}")
    while device != "/" and not os.path.isdir(f"{device}/msi_irqs"):
        device = os.path.dirname(device)
    busiest, cpu = 0, None
    try:
        irqs = set(os.listdir(f"{device}/msi_irqs"))
        with open("/proc/interrupts") as table:
            columns = [int(word[3:]) for word in table.readline().split()]
            for line in table:
                words = line.split()
                if words[0].rstrip(":") not in irqs:
                    continue
                for n, count in zip(columns, words[1:]):
                    if int(count) > busiest:
                        busiest, cpu = int(count), n
    except (OSError, ValueError):
        return None
    return cpu


class World:
    def __init__(self, build, scratch=None):
        self.build = os.path.join(ROOT, build)
        self.dir = tempfile.mkdtemp(prefix="snapwire-bench-", dir=scratch or "/tmp")
        os.chmod(self.dir, 0o755)
        self.processes = []
        self.port = 0
        self.daemon = None
        self.log = os.path.join(self.dir, "snapwired.log")
        self.state = os.path.join(self.dir, "state")
        cpus = sorted(os.sched_getaffinity(0))
        half = max(len(cpus) // 2, 1)
        if disk_cpu(self.dir) in cpus[half:]:
            cpus.reverse()
        self.server_cpus = cpus[:half]
        self.client_cpus = cpus[half:] or cpus
        self.environment = dict(os.environ, SNAPWIRE_CONFIG=self.path("remotes.conf"),
                                LC_ALL="C.UTF-8")
        self.peer_environment = dict(self.environment, HOME=self.path("home"),
                                     GNUTLS_SYSTEM_PRIORITY_FILE=self.path("priority"))

    def __enter__(self):
        try:
            self.make_certificates()
            return self
        except BaseException:
            self.close()
            raise

    def __exit__(self, *_):
        self.close()

    def close(self):
        for process in list(self.processes):
            self.stop(process)
        shutil.rmtree(self.dir, ignore_errors=True)

    def path(self, name):
        return os.path.join(self.dir, name)

    def program(self, name):
        return os.path.join(self.build, name)

    # -- processes ---------------------------------------------------------------------

    def run(self, command, cpus=None, environment=None, preexec=None):
        """Run to the end; the time taken is the whole command's."""
        chosen = cpus or self.client_cpus

        def before():
            os.sched_setaffinity(0, chosen)
            if preexec:
                preexec()

        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            start = time.monotonic()
            process = subprocess.Popen([str(word) for word in command], stdout=out, stderr=err,
                                       stdin=subprocess.DEVNULL, preexec_fn=before,
                                       env=environment or self.environment)
            self.processes.append(process)
            _, status, usage = os.wait4(process.pid, 0)
            wall_s = time.monotonic() - start
            process.returncode = os.waitstatus_to_exitcode(status)
            self.processes.remove(process)
            out.seek(0)
            err.seek(0)
            text = out.read().decode()
            if process.returncode != 0:
                raise Failed(f"{' '.join(map(str, command))}: exit {process.returncode}\n"
                             + err.read().decode()[-2000:])
        return Run(text, wall_s, usage)

    def start(self, command, log, environment=None, cpus=None):
        chosen = cpus or self.server_cpus

        def before():
            os.sched_setaffinity(0, chosen)
            hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

        with open(log, "ab") as out:
            process = subprocess.Popen([str(word) for word in command], stdout=out, stderr=out,
                                       stdin=subprocess.DEVNULL, preexec_fn=before,
                                       env=environment or self.environment)
        self.processes.append(process)
        return process

    def stop(self, process):
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if process in self.processes:
            self.processes.remove(process)

    def await_port(self, process, port, log):
        end = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < end:
            if process.poll() is not None:
                break
            with socket.socket() as s:
                s.settimeout(1)
                if s.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(0.02)
        with open(log, encoding="utf-8", errors="replace") as f:
            raise Failed("a server did not come up:\n" + f.read()[-2000:])

    # -- certificates: one authority for everybody -----------------------------------------

    def make_certificates(self):
        pki = self.path("pki")
        for words in (["init", pki], ["issue", pki, "--server", "localhost"],
                      ["issue", pki, "--client", "bench"]):
            self.run([self.program("snapctl"), "-q", "pki", *words])
        client = self.path("home/.pki/libnbd")
        for folder, role, name in ((self.path("peer"), "server", "server-localhost"),
                                   (client, "client", "client-bench")):
            os.makedirs(folder, exist_ok=True)
            shutil.copy(f"{pki}/ca.crt", f"{folder}/ca-cert.pem")
            shutil.copy(f"{pki}/{name}.crt", f"{folder}/{role}-cert.pem")
            shutil.copy(f"{pki}/{name}.key", f"{folder}/{role}-key.pem")
            if role == "client":
                os.chmod(f"{folder}/client-key.pem", 0o644)
        qemu = self.path("peer-client")
        shutil.copytree(client, qemu)
        with open(self.path("priority"), "w", encoding="utf-8") as f:
            f.write(GNUTLS_PRIORITY)
        os.makedirs(self.state)

    # -- our side ---------------------------------------------------------------------------

    def start_daemon(self, config=""):
        self.config = config
        pki = self.path("pki")
        path = self.path("snapwired.conf")
        with open(path, "w", encoding="utf-8") as f:
            f.write(f'state_dir = "{self.state}"\n'
                    f'listen = {{"localhost:{self.port}", "unix:{self.path("socket")}"}}\n'
                    f'tls {{\n ca = "{pki}/ca.crt"\n certificate = "{pki}/server-localhost.crt"\n'
                    f' key = "{pki}/server-localhost.key"\n}}\n' + config)
        at = os.path.getsize(self.log) if os.path.exists(self.log) else 0
        start = time.monotonic()
        self.daemon = self.start([self.program("snapwired"), "--config", path], self.log)
        while True:
            with open(self.log, encoding="utf-8", errors="replace") as f:
                f.seek(at)
                text = f.read()
            if "snapwired ready" in text:
                break
            if self.daemon.poll() is not None or time.monotonic() - start > START_TIMEOUT_S:
                raise Failed("the daemon did not come up:\n" + text[-2000:])
            time.sleep(0.005)
        took_s = time.monotonic() - start
        if not self.port:
            self.port = int(text.split("listen=localhost:")[1].split()[0])
            self.snapctl("remote", "add", "admin", "unix:" + self.path("socket"))
            self.snapctl("remote", "--on", "admin", "grant", "bench", "admin", "*")
            self.snapctl("remote", "add", "here", f"localhost:{self.port}", "--ca",
                         f"{pki}/ca.crt", "--cert", f"{pki}/client-bench.crt", "--key",
                         f"{pki}/client-bench.key")
            self.snapctl("remote", "use", "here")
        return took_s

    def stop_daemon(self):
        self.stop(self.daemon)

    def restart_daemon(self):
        """What it kept in memory is gone."""
        self.stop_daemon()
        self.start_daemon(self.config)

    def snapctl(self, *words):
        return self.run([self.program("snapctl"), *words])

    def daemon_memory_bytes(self):
        with open(f"/proc/{self.daemon.pid}/status", encoding="ascii") as f:
            for line in f:
                if line.startswith("VmRSS:"):
                    return int(line.split()[1]) * 1024
        raise Failed("the daemon has no VmRSS")

    def daemon_cpu_s(self):
        with open(f"/proc/{self.daemon.pid}/stat", encoding="ascii") as f:
            fields = f.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    # -- the peers ----------------------------------------------------------------------------

    def start_nbd(self, command, environment=None, cpus=None):
        """An NBD server that takes its port from -p; returns (process, port)."""
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        log = self.path("peer.log")
        process = self.start([command[0], "-p", port, *command[1:]], log,
                             environment or self.peer_environment, cpus)
        self.await_port(process, port, log)
        return process, port

    def start_nbdkit(self, *words, environment=None, cpus=None):
        return self.start_nbd(["nbdkit", "-f", "-i", "127.0.0.1", "--tls=require",
                               f"--tls-certificates={self.path('peer')}", "--tls-verify-peer",
                               *words], environment, cpus)

    def start_peer(self, kind, path, *words):
        """nbdkit's file plugin, or qemu-nbd in the image format `kind`; returns (process, port)."""
        if kind == "nbdkit":
            return self.start_nbdkit(*words, "file", path)
        return self.start_nbd(["qemu-nbd", "-f", kind, "--cache=writeback", "--object",
                               f"tls-creds-x509,id=t,dir={self.path('peer')},endpoint=server,"
                               "verify-peer=yes", "--tls-creds", "t", "-b", "127.0.0.1", "-t",
                               *words, path])

    def make_image(self, kind, size_bytes):
        path = self.path("image")
        base = self.path("base")
        for old in (path, base):
            if os.path.exists(old):
                os.unlink(old)
        with open(base if kind == "qcow2" else path, "wb") as f:
            f.truncate(size_bytes)
        if kind == "qcow2":
            self.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", path])
        return path

    def fio_writes(self, uri, chunks, chunk_bytes, in_flight):
        """fio's nbd engine writes these chunks, in_flight at once and a flush after as many.

        With --fsync the engine flushes about every second write when several are in flight, so
        fio follows a log. At its end fio does not wait for what is in flight: small reads stand
        there, of which the last begins when everything else is answered. Returns bytes a second.
        """
        path = self.path("writes.iolog")
        with open(path, "w", encoding="ascii") as f:
            f.write("fio version 2 iolog\nnbd add\nnbd open\n")
            for i, chunk in enumerate(chunks):
                f.write(f"nbd write {chunk * chunk_bytes} {chunk_bytes}\n")
                if i % in_flight == in_flight - 1 or i == len(chunks) - 1:
                    f.write("nbd sync 0 0\n")
            f.write("nbd read 0 4096\n" * in_flight)
        job = self.fio("--ioengine=nbd", f"--uri={uri}", "--rw=randrw", f"--read_iolog={path}",
                       f"--iodepth={in_flight}")
        return len(chunks) * chunk_bytes / (job["job_runtime"] / 1000)

    def fio(self, *words):
        """fio as a user that may find its certificates under HOME: libnbd denies root that."""
        def drop():
            if os.geteuid() == 0:
                os.setgroups([])
                os.setresgid(65534, 65534, 65534)
                os.setresuid(65534, 65534, 65534)

        preexec = drop if any("nbd" in str(word) for word in words) else None
        done = self.run(["fio", "--name=bench", "--output-format=json", *words],
                        environment=self.peer_environment, preexec=preexec)
        return json.loads(done.out[done.out.index("{"):])["jobs"][0]
