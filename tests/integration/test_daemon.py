# SPDX-License-Identifier: Apache-2.0
"""The daemon's own life: state directory, registry, configuration, stop, reload, limits."""

import glob
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import urllib.request

import rawclient as rc
from cowimage import read_table
from harness import Case, program, seed, until
from rawclient import Gone, Refused, connect_unix, num, raw

MIB = 1 << 20
CHUNK = 4096


class DaemonCase(Case):
    def setUp(self):
        super().setUp()
        self.rng = seed()

    def volume(self, d, name="v", size=MIB, chunks=(1, 5, 9)):
        """A volume with one snapshot and some chunks in it, by the raw client."""
        r = connect_unix(d.socket)
        volume = r.create_volume(name, size)
        head = r.create_snapshot(volume, "s")
        epoch, _ = r.acquire(volume, size, b"i" * 16)
        content = {c: self.rng.randbytes(CHUNK) for c in chunks}
        if content:
            r.put(volume, epoch, head, list(content), b"".join(content.values()))
        r.call(rc.M_LEASE_RELEASE, raw(1, volume) + num(2, epoch))
        r.close()
        return volume, head, content

    def holds(self, d, name, content):
        r = connect_unix(d.socket)
        volume, snapshot = r.resolve(name, "s")
        for c, data in content.items():
            self.assertEqual(r.read_view(volume, snapshot, c * CHUNK, CHUNK),
                             [(c * CHUNK, 0, data)], (name, c))
        r.close()

    def cow_files(self, d):
        return sorted(glob.glob(f"{d.state}/volumes/*/*.cow"))


class StateDirectory(DaemonCase):
    def test_a_second_daemon_refuses_it_and_the_first_does_not_mind(self):
        d = self.up(tls=False)
        _, _, content = self.volume(d)
        second = self.daemon(tls=False)
        second.state = d.state
        code, log = second.start_fails()
        self.assertEqual(code, 11, log)
        self.assertRegex(log, rf"{re.escape(d.state)}.* in use by another snapwired")
        self.assertIn(str(d.process.pid), log)
        self.holds(d, "v", content)
        d.kill()
        d.start()  # the lock of a killed one is nobody's
        self.holds(d, "v", content)

    def test_what_no_record_lists_is_told_and_left_alone(self):
        d = self.up(tls=False)
        volume, _, content = self.volume(d)
        d.stop()
        folder = os.path.dirname(self.cow_files(d)[0])
        stray = os.path.join(folder, "stray.cow")
        shutil.copy(self.cow_files(d)[0], stray)
        empty = os.path.join(d.state, "volumes", "11111111-2222-3333-4444-555555555555")
        os.mkdir(empty)
        with open(os.path.join(empty, "x.cow"), "wb") as f:
            f.write(b"whatever")
        os.mkdir(os.path.join(d.state, "volumes", "notes"))
        d.start()
        self.holds(d, "v", content)
        for name in ("stray.cow", "11111111-2222-3333-4444-555555555555", "volumes/notes"):
            self.assertRegex(d.log(), rf"{name}.*neither used nor deleted")
        status = self.remote("status").out
        self.assertIn("stray.cow", status)
        self.assertTrue(os.path.exists(stray))
        with open(os.path.join(empty, "x.cow"), "rb") as f:
            self.assertEqual(f.read(), b"whatever")
        r = connect_unix(d.socket)
        r.call(rc.M_VOLUME_DELETE, raw(1, volume) + raw(3, b"k" * 16) + num(4, 1))
        r.close()
        self.assertTrue(os.path.exists(empty))

    def test_a_damaged_cow_device_spoils_itself_alone(self):
        d = self.up(tls=False)
        good = self.volume(d, "good")[2]
        wrecks = {"magic": lambda f: f.write(b"\xff" * 16),
                  "table": lambda f: (f.seek(CHUNK), f.write(b"\xee" * 64)),
                  "short": lambda f: f.truncate(CHUNK + 100),
                  "gone": None}
        for name in wrecks:
            self.volume(d, name)
        d.stop()
        names = {}
        for path in glob.glob(f"{d.state}/volumes/*/record"):
            with open(path, encoding="utf-8") as f:
                text = f.read()
            for name in wrecks:
                if re.search(rf"\b{name}\b", text):
                    names[name] = glob.glob(os.path.dirname(path) + "/*.cow")[0]
        self.assertEqual(set(names), set(wrecks))
        for name, wreck in wrecks.items():
            if wreck is None:
                os.unlink(names[name])
                continue
            with open(names[name], "r+b") as f:
                wreck(f)
        d.start()
        self.holds(d, "good", good)
        for name in wrecks:
            self.assertRegex(d.log(), rf"\b{name}\b", "the log names it")
            got = self.snapctl("--json", "remote", "show", f"{name}@s").json()
            self.assertRegex(str(got), r"(?i)damaged", name)
            self.fails(12, rf"{name}@s", "remote", "diff", f"{name}@s")
        status = self.remote("status").out
        self.assertRegex(status, r"(?i)damaged.*4|4.*damaged")
        self.remote("create", "new", "--size", "1M")
        self.remote("delete", "table@s")  # one can get rid of it
        self.remote("delete", "gone", "--force")

    def test_an_invalid_snapshot_is_reported_and_the_rest_served(self):
        d = self.up(tls=False)
        self.volume(d, "bad")
        good = self.volume(d, "good")[2]
        d.stop()
        for path in self.cow_files(d):
            with open(os.path.dirname(path) + "/record", encoding="utf-8") as f:
                if "bad" in f.read():
                    with open(path, "r+b") as cow:
                        cow.seek(4)
                        cow.write(bytes(4))
        d.start()
        self.holds(d, "good", good)
        got = self.snapctl("--json", "remote", "show", "bad@s").json()
        self.assertEqual(got["state"], "invalid")
        self.fails(13, r"bad@s.*invalid", "remote", "diff", "bad@s")
        origin = self.path("o")
        with open(origin, "wb") as f:
            f.truncate(MIB)
        self.fails(13, r"invalid", "remote", "merge", "bad@s", "--origin", origin,
                   "--new-origin")
        self.fails(13, r"invalid", "remote", "export", "bad@s", "--origin", origin, "-o",
                   self.path("out"))
        self.remote("delete", "bad@s")

    def test_a_damaged_record_is_told_and_its_volume_not_served(self):
        d = self.up(tls=False)
        self.volume(d, "bad")
        good = self.volume(d, "good")[2]
        d.stop()
        for path in glob.glob(f"{d.state}/volumes/*/record"):
            with open(path, "r+", encoding="utf-8") as f:
                if "bad" in f.read():
                    broken = path
                    f.truncate(20)
        before = os.path.getsize(broken)
        d.start()
        self.holds(d, "good", good)
        self.assertRegex(d.log(), r"record.*not served")
        self.fails(6, "bad", "remote", "show", "bad")
        self.assertEqual(os.path.getsize(broken), before)

    def test_a_damaged_acl_stops_the_start(self):
        d = self.up(tls=False)
        self.remote("grant", "ann", "reader", "*")
        d.stop()
        with open(f"{d.state}/acl", "w", encoding="ascii") as f:
            f.write("everybody admin\n")
        code, log = d.start_fails()
        self.assertIn(code, (2, 12), log)
        self.assertRegex(log, r"/acl")

    def test_a_state_directory_that_cannot_be(self):
        d = self.daemon(tls=False)
        os.rmdir(d.state)
        with open(d.state, "w", encoding="ascii") as f:
            f.write("a file")
        code, log = d.start_fails()
        self.assertNotEqual(code, 0)
        self.assertIn(d.state, log)


class Registry(DaemonCase):
    def test_deleted_corrupted_or_foreign_it_is_made_anew_from_the_store(self):
        d = self.up(tls=False)
        contents = {f"v{i}": self.volume(d, f"v{i}")[2] for i in range(3)}
        before = self.remote("ls").out
        path = f"{d.state}/registry.db"

        def delete():
            for p in glob.glob(path + "*"):
                os.unlink(p)

        def garbage():
            with open(path, "wb") as f:
                f.write(self.rng.randbytes(100000))

        def truncated():
            os.truncate(path, os.path.getsize(path) // 2)

        def future():
            db = sqlite3.connect(path)
            db.execute("PRAGMA user_version = 9999")
            db.commit()
            db.close()

        for wreck in (delete, garbage, truncated, future):
            with self.subTest(wreck.__name__):
                d.stop()
                wreck()
                if wreck is not delete:
                    d.spawn()
                    until(lambda: d.process.poll() is not None or "ready" in d.log())
                    if d.process.poll() is not None:  # it refuses and says what to do
                        self.assertRegex(d.log(), r"registry.*--rebuild-registry")
                        d.process = None
                        self.rebuild(d)
                        d.start()
                else:
                    d.start()
                self.assertEqual(self.remote("ls").out, before)
                for name, content in contents.items():
                    self.holds(d, name, content)
        self.assertTrue(glob.glob(path + ".old*"), "the old one is kept")

    def rebuild(self, d):
        done = subprocess.run([program("snapwired"), "--config", d.write_config(),
                               "--rebuild-registry"], capture_output=True, text=True, timeout=30,
                              check=False)
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_where_it_disagrees_the_store_wins_and_it_is_told(self):
        d = self.up(tls=False)
        content = self.volume(d, "v")[2]
        self.volume(d, "gone")
        before = self.remote("ls", "v").out
        d.stop()
        db = sqlite3.connect(f"{d.state}/registry.db")
        tables = [r[0] for r in db.execute("SELECT name FROM sqlite_master WHERE type='table'")]
        self.assertTrue(tables)
        columns = [r[1] for r in db.execute("PRAGMA table_info(volume)")] or \
                  [r[1] for r in db.execute("PRAGMA table_info(volumes)")]
        table = "volume" if "volume" in tables else "volumes"
        self.assertIn("size_bytes", columns)
        db.execute(f"UPDATE {table} SET size_bytes = 12345 WHERE name = 'v'")
        db.commit()
        db.close()
        for path in glob.glob(f"{d.state}/volumes/*/record"):
            with open(path, encoding="utf-8") as f:
                if "gone" in f.read():
                    shutil.rmtree(os.path.dirname(path))
        d.start()
        self.assertEqual(self.remote("ls", "v").out, before)
        self.holds(d, "v", content)
        self.assertRegex(d.log(), r"registry: volume v differs from its record, which wins")
        self.assertRegex(d.log(), r"registry: volume gone has no record: forgotten")
        self.fails(6, "gone", "remote", "show", "gone")


class Configuration(DaemonCase):
    def check(self, text, code, *says):
        path = self.path("c.conf")
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
        done = subprocess.run([program("snapwired"), "--config", path, "--check-config"],
                              capture_output=True, text=True, timeout=30, check=False)
        told = done.stdout + done.stderr
        self.assertEqual(done.returncode, code, text + told)
        for pattern in says:
            self.assertRegex(told, pattern, text)

    def test_errors_name_file_line_and_key(self):
        unix = f'state_dir = "{self.dir}"\nlisten = {{"unix:{self.dir}/s"}}\n'
        self.check(unix, 0, "sound")
        for text, line, key in (
                ("frobnicate = 3\n", 3, "frobnicate"),
                ("shards = many\n", 3, "shards"),
                ("shards = -1\n", 3, "shards"),
                ("shards = 257\n", 3, "shards"),
                ("shards = 99999999999999999999\n", 3, "shards"),
                ("\n\nio_engine = \"magic\"\n", 5, "io_engine"),
                ("log_level = loud\n", 3, "log_level"),
                ("lease_ttl_ms = 1\n", 3, "lease_ttl_ms"),
                ("cow {\n limit = 10Q\n}\n", 4, "limit"),
                ("cow {\n chunk_size = 3000\n}\n", 4, "chunk_size"),
                ("cow {\n full_policy = perhaps\n}\n", 4, "full_policy"),
                ("cow {\n frob = 1\n}\n", 4, "frob"),
                ("limits {\n connections = 0\n}\n", 4, "connections"),
                ("limits {\n space_per_client = x\n}\n", 4, "space_per_client"),
                ("tls {\n ca = relative/path\n}\n", 4, "ca"),
                ("timeouts {\n keepalive_ms = 5\n}\n", 4, "keepalive_ms"),
                ("metrics_listen = \"host:99999\"\n", 3, "metrics_listen"),
                ("listen = {\"host:99999\"}\n", 3, "listen"),
                ("shards = 2 = 3\n", 3, ".")):
            with self.subTest(text):
                self.check(unix + text, 2, rf"c\.conf:{line}: .*{key}")

    def test_rules_over_several_keys(self):
        unix = f'state_dir = "{self.dir}"\nlisten = {{"unix:{self.dir}/s"}}\n'
        self.check(f'state_dir = "{self.dir}"\nlisten = {{}}\n', 2, "listen: name at least one")
        self.check(unix + "limits {\n window = 1M\n buffers = 64K\n}\n", 2, r"limits\.buffers")
        self.check(unix + "limits { window = 1K }\n", 2, r"limits\.window: must be 64K to 64M")
        self.check(f'state_dir = "{self.dir}"\nlisten = {{"localhost:0"}}\ntls {{\n'
                   f' ca = "{self.dir}/none.crt"\n}}\n', 2, r"tls\.ca: cannot read .*none\.crt",
                   "snapctl pki")
        self.check("state_dir = relative\n", 2, "state_dir", "absolute")

    def test_what_a_start_would_refuse(self):
        """What --check-config says is sound starts: certificates are loaded there as well."""
        pki = self.pki()

        def text(state=self.path("new"), certificate="server-localhost.crt",
                 key="server-localhost.key", crl=f"{pki}/ca.crl"):
            return (f'state_dir = "{state}"\nlisten = {{"localhost:0"}}\n'
                    f'tls {{\n ca = "{pki}/ca.crt"\n certificate = "{pki}/{certificate}"\n'
                    f' key = "{pki}/{key}"\n crl = "{crl}"\n}}\n')
        self.check(text(), 0, "sound")
        self.assertFalse(os.path.exists(self.path("new")))
        self.check(text(key="client-ann.key"), 2,
                   r"c\.conf: tls: .*client-ann\.key: is not the key of .*server-localhost\.crt")
        self.check(text(crl=f"{pki}/ca.crt"), 2, r"ca\.crt: holds no revocation list in PEM")
        self.check(text(certificate="client-ann.crt", key="client-ann.key"), 0, "sound",
                   r"warning=.*the certificate is not one for a server: clients refuse it")
        self.check(text(state=self.path("no/where")), 2,
                   r"state_dir: .*/no/where cannot be made: there is no folder .*/no")
        with open(self.path("file"), "w", encoding="utf-8"):
            pass
        self.check(text(state=self.path("file")), 2, r"state_dir: .*/file is not a folder")

    def test_the_file_itself(self):
        for path, code in ((self.path("none"), 6), (self.dir, 2)):
            done = subprocess.run([program("snapwired"), "--config", path, "--check-config"],
                                  capture_output=True, text=True, check=False)
            self.assertNotEqual(done.returncode, 0)
            self.assertIn(path, done.stderr)
        done = subprocess.run([program("snapwired"), "--frob"], capture_output=True, text=True,
                              check=False)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("frob", done.stderr)
        done = subprocess.run([program("snapwired"), "--version"], capture_output=True, text=True,
                              check=True)
        self.assertRegex(done.stdout, r"^snapwired \d")

    def test_the_example_that_is_installed_is_sound(self):
        example = glob.glob(os.path.join(os.path.dirname(__file__), "../../deploy/*.conf*"))
        self.assertTrue(example)
        with open(example[0], encoding="utf-8") as f:
            text = f.read()
        # its certificates are not on this machine
        text = text.replace("@sysconfdir@", "/etc")
        text = re.sub(r'"/etc/snapwire/pki/[^"]*\.crl"', f'"{self.pki()}/ca.crl"', text)
        text = re.sub(r'"/etc/snapwire/pki/ca\.crt"', f'"{self.pki()}/ca.crt"', text)
        text = re.sub(r'"/etc/snapwire/pki/[^"]*\.(crt|key)"',
                      rf'"{self.pki()}/server-localhost.\1"', text)
        self.check(text, 0)

    def test_an_address_that_is_taken(self):
        d = self.up(tls=False)
        other = self.daemon(tls=False)
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            other.config_text = f'metrics_listen = "127.0.0.1:{taken.getsockname()[1]}"\n'
            code, log = other.start_fails()
        self.assertNotEqual(code, 0)
        self.assertRegex(log, "(?i)address already in use|in use")
        third = self.daemon(tls=False)
        third.socket = d.socket  # a living one is not taken away
        code, log = third.start_fails()
        self.assertNotEqual(code, 0, log)
        connect_unix(d.socket).ping()


class Running(DaemonCase):
    def test_graceful_stop_under_load_loses_nothing_and_the_client_goes_on(self):
        d = self.up()
        size = 64 * MIB
        first = self.image("first", size, self.rng, density=60)
        origin = self.copy(first, "origin")
        second = self.changed(first, "second", self.rng, percent=60)
        self.remote("create", "v", "--like", origin)
        self.remote("create", "v@s", "--chunk-size", "4K")
        child = self.spawn("remote", "apply", "v@s", "--origin", origin, "--source", second)
        stops = 0
        for _ in range(3):
            if not d.wait_for_puts(child):
                break
            d.stop()
            stops += 1
            d.start()
        out, err = child.communicate(timeout=120)
        self.assertEqual(child.returncode, 0, err + d.log()[-3000:])
        self.assertGreater(stops, 0, "the apply was over before the first stop")
        self.assert_same(origin, second)
        self.remote("export", "v@s", "--origin", origin, "-o", self.path("out"))
        self.assert_same(self.path("out"), first)

    def test_a_second_sigterm_ends_at_once_and_nothing_acknowledged_is_lost(self):
        d = self.up(tls=False)
        content = self.volume(d)[2]
        d.process.terminate()
        d.process.terminate()
        d.process.wait(10)
        d.process = None
        d.start()
        self.holds(d, "v", content)

    def test_sigint_stops_too(self):
        d = self.up(tls=False)
        d.process.send_signal(signal.SIGINT)
        self.assertEqual(d.process.wait(20), 0)
        d.process = None

    def test_requests_during_a_stop_are_told_of_it(self):
        d = self.up(tls=False)
        r = connect_unix(d.socket)
        r.ping()
        d.process.terminate()
        with self.assertRaises((Refused, Gone)) as got:
            while True:
                r.ping()
        if isinstance(got.exception, Refused):
            self.assertEqual(got.exception.code, rc.ESHUTDOWN)
        d.process.wait(20)
        d.process = None

    def test_reload_changes_limits_and_level_and_keeps_all_when_broken(self):
        d = self.up(tls=False)
        keep = connect_unix(d.socket)
        d.config_text = "limits { connections_per_client = 2 }\n"
        d.write_config()
        d.hang_up()
        until(lambda: "configuration reloaded" in d.log())
        second = connect_unix(d.socket)
        second.ping()
        with self.assertRaises((Gone, Refused)) as got:
            connect_unix(d.socket).ping()
        if isinstance(got.exception, Refused):
            self.assertEqual(got.exception.code, rc.ELIMIT)
        keep.ping()
        d.config_text = "limits { connections_per_client = many }\n"
        d.write_config()
        d.hang_up()
        until(lambda: "reload failed" in d.log())
        self.assertRegex(d.log(), r"reload failed.*snapwired\.conf:\d+")
        keep.ping()
        second.close()
        d.config_text = "shards = 7\n"
        d.write_config()
        d.hang_up()
        until(lambda: "need a restart" in d.log())

    def families(self, text):
        """The families of an OpenMetrics text by name, each in one piece with its type and help
        above its values."""
        suffixes = {"gauge": {""}, "counter": {"_total"}, "info": {"_info"},
                    "histogram": {"_bucket", "_sum", "_count"}}
        families, seen, now = {}, set(), None
        *lines, end = text.split("\n# EOF")
        self.assertEqual((len(lines), end), (1, "\n"))
        for line in lines[0].split("\n"):
            meta = re.fullmatch(r"# (TYPE|HELP|UNIT) ([a-z_]+) (.+)", line)
            if meta and meta[2] != now:
                now = meta[2]
                self.assertNotIn(now, families, "its values do not stand together")
                families[now] = {}
            if meta:
                self.assertNotIn(meta[1], families[now], line)
                self.assertNotIn("values", families[now], f"{line}: below its values")
                families[now][meta[1]] = meta[3]
                continue
            sample = re.fullmatch(r'([a-z_]+)(\{(?:[a-z_]+="[^"\\]*",?)+\})? -?[0-9.e+]+', line)
            self.assertTrue(sample, line)
            self.assertNotIn(sample[1] + (sample[2] or ""), seen, "twice")
            seen.add(sample[1] + (sample[2] or ""))
            self.assertTrue(now and sample[1].startswith(now), line)
            self.assertIn(sample[1].removeprefix(now), suffixes[families[now].get("TYPE")], line)
            families[now]["values"] = True
        for name, family in families.items():
            self.assertIn(family.get("TYPE"), suffixes, name)
            self.assertRegex(family.get("HELP", ""), r"^[A-Z].*\.$", name)
            self.assertTrue("UNIT" not in family or name.endswith("_" + family["UNIT"]), name)
        return families

    def test_metrics_are_open_metrics_text(self):
        d = self.up(tls=False, config='metrics_listen = "127.0.0.1:0"\n')
        self.volume(d)
        port = re.search(r"metrics=\S*?:(\d+)", d.log()).group(1)
        url = f"http://127.0.0.1:{port}"
        with urllib.request.urlopen(url + "/metrics", timeout=10) as answer:
            self.assertIn("application/openmetrics-text", answer.headers["Content-Type"])
            text = answer.read().decode()
        families = self.families(text)
        for name in ("snapwire_build", "snapwire_uptime_seconds", "snapwire_cache_hits",
                     "snapwire_requests", "snapwire_request_seconds", "snapwire_leases_lost"):
            self.assertIn(name, families)
        self.assertRegex(text, r'snapwire_cow_chunks_added_total\{[^}]*volume="v"[^}]*\} 3')
        self.assertRegex(text, r"(?m)^snapwire_volumes\S* 1$")
        for path in ("/", "/metrics/x", "/healthz/", "/health"):
            with self.assertRaises(urllib.error.HTTPError) as got:
                urllib.request.urlopen(url + path, timeout=10)
            self.assertEqual(got.exception.code, 404)
            self.assertEqual(got.exception.read(), b"there are /metrics and /healthz\n")
            got.exception.close()
        for junk in (b"\0" * 100, b"GET " + b"/" * 100000, b"POST /metrics HTTP/1.1\r\n\r\n", b""):
            with socket.create_connection(("127.0.0.1", int(port)), timeout=10) as sock:
                try:
                    sock.sendall(junk)
                    sock.shutdown(socket.SHUT_WR)
                    sock.recv(1000)
                except OSError:
                    pass
        with urllib.request.urlopen(url + "/metrics", timeout=10) as answer:
            self.assertEqual(answer.status, 200)

    def test_health_is_answered_from_ready_to_stop_to_anybody(self):
        d = self.up(config='metrics_listen = "127.0.0.1:0"\n')
        url = "http://" + re.search(r"metrics=(\S+)", d.log())[1] + "/healthz"
        for query in ("", "?verbose"):
            with urllib.request.urlopen(url + query, timeout=10) as answer:
                self.assertEqual((answer.status, answer.read()), (200, b"ok\n"))
                self.assertTrue(answer.headers["Content-Type"].startswith("text/plain"))
        d.stop()
        with self.assertRaises(OSError):
            urllib.request.urlopen(url, timeout=10)

    def test_readiness_reload_and_stop_are_told_to_systemd(self):
        notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        path = self.path("notify")
        notify.bind(path)
        notify.settimeout(20)
        os.environ["NOTIFY_SOCKET"] = path
        self.addCleanup(notify.close)
        self.addCleanup(os.environ.pop, "NOTIFY_SOCKET", None)
        d = self.up(tls=False)

        def told(word):
            while True:
                text = notify.recv(4096).decode()
                if word in text.splitlines():
                    return text
        told("READY=1")
        d.hang_up()
        self.assertIn("MONOTONIC_USEC=", told("RELOADING=1"))
        told("READY=1")
        d.process.terminate()
        told("STOPPING=1")
        self.assertEqual(d.process.wait(20), 0)
        d.process = None

    def test_the_log_is_lines_of_key_and_value_without_secrets(self):
        d = self.up()
        self.volume(d)
        d.stop()
        for line in d.log().splitlines():
            self.assertRegex(line, r"=", line)
            self.assertNotIn("PRIVATE KEY", line)

    def test_the_unix_socket_of_a_killed_daemon_does_not_stop_the_next(self):
        d = self.up(tls=False)
        d.kill()
        self.assertTrue(os.path.exists(d.socket))
        d.start()
        connect_unix(d.socket).ping()


class Limits(DaemonCase):
    def test_volumes_of_a_client(self):
        self.up(role="admin", config="limits { volumes_per_client = 2 }\n")
        for name in ("a", "b"):
            self.remote("create", name, "--size", "1M")
        self.fails(17, r"(?i)volumes.*2|2.*volumes|volumes_per_client", "remote", "create", "c",
                   "--size", "1M")
        self.remote("delete", "a")
        self.remote("create", "c", "--size", "1M")

    def test_space_of_a_client(self):
        """Counted over all that it writes; another client's is not touched by it."""
        d = self.up(config="limits { space_per_client = 4M }\n")
        self.remote("grant", "bob", "admin", "*", on="admin")
        self.reach(d, "bob", "bob")
        for who in ("here", "bob"):
            origin = self.image(f"{who}.origin", 8 * MIB, self.rng)
            self.remote("create", who, "--like", origin, on=who)
            self.remote("create", f"{who}@s", on=who)
        # what is in flight may go past it; what comes afterwards is refused
        self.remote("apply", "here@s", "--origin", self.path("here.origin"), "--source",
                    self.image("new", 8 * MIB, self.rng), code=None)
        self.remote("create", "here@t", on="here")
        self.fails(5, [r"the volumes of ann use \d+ bytes of 4194304"], "remote", "--on", "here",
                   "apply", "here@t", "--origin", self.path("here.origin"), "--source",
                   self.image("newer", 8 * MIB, self.rng))
        small = self.changed(self.path("bob.origin"), "small", self.rng, percent=2)
        self.remote("apply", "bob@s", "--origin", self.path("bob.origin"), "--source", small,
                    on="bob")
        self.remote("delete", "here@s", on="here")
        self.remote("delete", "here@t", on="here")
        self.remote("create", "here@u", on="here")
        until(lambda: self.remote("apply", "here@u", "--origin", self.path("here.origin"),
                                     "--source", self.changed(self.path("here.origin"), "few",
                                                              self.rng, percent=1), on="here",
                                     code=None).code == 0)

    def test_connections_in_all(self):
        d = self.up(tls=False, config="limits { connections = 5 }\n")
        held = [connect_unix(d.socket) for _ in range(5)]
        with self.assertRaises((Gone, Refused, ConnectionError)) as got:
            connect_unix(d.socket).ping()
        if isinstance(got.exception, Refused):
            self.assertEqual(got.exception.code, rc.ELIMIT)
        held[0].close()
        until(lambda: self._connects(d))
        for r in held[1:]:
            r.ping()

    @staticmethod
    def _connects(d):
        try:
            r = connect_unix(d.socket)
            r.ping()
            r.close()
            return True
        except (Gone, Refused, ConnectionError):
            return False

    def test_the_table_of_a_volume_on_disk_is_the_kernels(self):
        """What the daemon leaves is a device that others can read."""
        d = self.up(tls=False)
        content = self.volume(d, size=4 * MIB, chunks=range(0, 900, 3))[2]
        d.kill()
        path = self.cow_files(d)[0]
        chunk, table = read_table(path)
        self.assertEqual((chunk, set(table)), (CHUNK, set(content)))
        with open(path, "rb") as f:
            for old, new in table.items():
                f.seek(new * chunk)
                self.assertEqual(f.read(chunk), content[old])
        self.snapctl("cow", "check", path)
