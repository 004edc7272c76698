# SPDX-License-Identifier: Apache-2.0
"""What an operator reads: the log, warnings, and refusals that say what to do."""

import os
import re
import shutil
import signal
import subprocess
import threading
import time
import unittest

import rawclient as rc
from harness import Case, program
from rawclient import Refused, connect_unix, num, raw

MIB = 1 << 20
KEY = b"k" * 16


def pairs(line):
    """The key=value pairs of a line of the log."""
    return {key: value[1:-1] if value.startswith('"') else value
            for key, value in re.findall(r'([a-z_]+)=("(?:[^"\\]|\\.)*"|\S+)', line)}


class Texts(Case):
    def test_refusals_say_what_to_do(self):
        self.up()
        self.remote("create", "v", "--size", "4M", "--hosted")
        self.remote("create", "v@s", "--cow-size", "1M")
        self.remote("create", "r", "--size", "4M")
        self.fails(11, r"volume v has 1 snapshot\(s\); delete them first, or all with --force",
                   "remote", "delete", "v")
        self.fails(2, r"rel: not a place for an origin; that takes the absolute path of a block "
                   r"device, or of a file, on the daemon's host", "remote", "create", "x",
                   "--size", "1M", "--hosted", "--device", "rel")
        self.fails(2, r"nope: not a place for a COW device; that takes the absolute path",
                   "remote", "create", "r@s", "--cow-device", "nope")
        self.fails(2, "it is inside the daemon's state directory", "remote", "create", "r@s",
                   "--cow-device", f"{self.daemons[0].state}/volumes/x")
        self.remote("create", "r@s", "--chunk-size", "4K")
        self.fails(19, r"the snapshots of volume r have chunks of 4K, not of 8K", "remote",
                   "create", "r@t", "--chunk-size", "8K")
        for what in (["create", "v@t"], ["clone", "v@s", "v@c"]):
            self.fails(2, r"a limit of 1 is too small for a COW device with chunks of 16K: at "
                       r"least 48K", "remote", *what, "--cow-size", "1")

    def test_an_invalid_snapshot_says_why(self):
        d = self.up(tls=False)
        self.remote("create", "g", "--size", "4M", "--hosted", "--full-policy", "invalidate")
        r = connect_unix(d.socket)
        volume, _ = r.resolve("g")
        r.write(volume, 0, b"x" * MIB)
        self.remote("create", "g@old")
        self.remote("create", "g@a", "--cow-size", "256K")
        r.write(volume, 0, b"y" * MIB)
        why = r"it was full \(limit 256K\), and the volume's policy is to invalidate"
        for _ in range(2):
            shown = self.remote("show", "g").out
            self.assertRegex(shown, rf"(?m)^g@a is invalid: {why}$")
            self.assertRegex(shown, rf"(?m)^g@old is invalid: reads through a, which is invalid: "
                             rf"{why}$")
            self.assertRegex(self.remote("show", "g@a").out, rf"Because: +{why}")
            got = self.remote("show", "g@a", "--json").json()
            self.assertRegex(got["state_text"], f"^{why}$")
            self.fails(13, rf"g@a: {why}", "remote", "export", "g@a", "-o", self.path("out"))
            d.stop()
            d.start()
        r.close()

    def test_refusals_name_the_role_that_may(self):
        d = self.up(role="reader")
        root = connect_unix(d.socket)
        volume = root.create_volume("v", MIB)
        bob = rc.connect_tls(d.port, rc.tls_context(self.pki(), "ann"))
        for role, method, control in (
                ("admin on all volumes", rc.M_VOLUME_CREATE,
                 raw(1, os.urandom(16)) + raw(2, "w") + num(3, MIB)),
                ("append, writer or admin", rc.M_LEASE_ACQUIRE,
                 raw(1, volume) + raw(2, b"i" * 16) + num(4, MIB)),
                ("writer or admin", rc.M_SNAPSHOT_DELETE,
                 raw(1, volume) + raw(2, os.urandom(16)) + raw(3, KEY)),
                ("admin", rc.M_VOLUME_DELETE, raw(1, volume) + raw(3, KEY))):
            with self.assertRaisesRegex(Refused, rf"; that takes the role {role}$") as got:
                bob.call(method, control)
            self.assertEqual(got.exception.code, rc.EPERM)
        bob.close()
        root.close()

    def test_a_prefix_is_said_once(self):
        d = self.up()
        other = self.daemon(config=f'metrics_listen = "127.0.0.1:{d.port}"\n')
        code, log = other.start_fails()
        self.assertEqual(code, 11)
        self.assertRegex(log, r'error="metrics_listen: serve HTTP on 127\.0\.0\.1:\d+: bind: '
                              r"Address")
        other = self.daemon()
        other.port = d.port
        code, log = other.start_fails()
        self.assertEqual(code, 11)
        self.assertEqual(log.count("listen on "), 1, log)


class Status(Case):
    def cache(self):
        status = self.remote("status", "--json").json()
        return {key: status[f"cache_{key}"] for key in ("size_bytes", "used_bytes", "hits",
                                                        "misses")}

    def test_the_block_cache_is_shown(self):
        d = self.up(config="cache { size = 24M }\n")
        self.assertEqual(self.cache(), {"size_bytes": 24 * MIB, "used_bytes": 0, "hits": 0,
                                        "misses": 0})
        root = connect_unix(d.socket)
        volume = root.create_hosted("v", MIB)
        root.write(volume, 0, b"x" * MIB)
        for _ in range(2):
            root.read(volume, 0, MIB)
        root.close()
        seen = self.cache()
        self.assertEqual((seen["size_bytes"], seen["used_bytes"]), (24 * MIB, MIB))
        self.assertGreater(seen["misses"], 0)
        self.assertGreater(seen["hits"], 0)
        self.assertRegex(self.remote("status").out,
                         rf"(?m)^Block cache: +24M\n  in use: +1M\n  hits: +{seen['hits']}\n"
                         rf"  misses: +{seen['misses']}$")

    def test_no_block_cache_is_shown_as_none(self):
        self.up(tls=False, config="cache { size = 0 }\n")
        self.assertEqual(set(self.cache().values()), {0})


class Remarks(Case):
    """What is said of nothing, and of what was meant otherwise."""

    def test_nothing_to_list(self):
        self.assertRegex(self.remote("list").err, r"no daemon is known \(.*remotes.conf\); snapctl "
                         r"remote add NAME ADDRESS")
        self.up(tls=False)
        self.assertIn("there is no volume", self.remote("ls").err)
        self.remote("create", "v", "--size", "4M")
        self.assertIn("v has no snapshots; snapctl remote create v@NAME makes one",
                      self.remote("ls", "v").err)
        self.assertEqual(self.remote("-q", "ls", "v").err, "")
        self.assertEqual(self.remote("ls", "v", "--json").json(), [])
        self.assertEqual(self.remote("ls", "v", "--json").err, "")

    def test_of_many_changes_at_once_none_is_lost(self):
        children = [self.spawn("-q", "remote", "add", f"r{i}", f"unix:/s{i}") for i in range(24)]
        for child in children:
            self.assertEqual(child.wait(60), 0, child.stderr.read())
        self.assertEqual({r["name"] for r in self.remote("list", "--json").json()},
                         {f"r{i}" for i in range(24)})

    def test_an_interrupt_ends_the_wait_for_a_daemon_that_does_not_answer(self):
        d = self.up(tls=False)
        image = self.path("i")
        with open(image, "wb") as f:
            f.truncate(MIB)
        d.process.send_signal(signal.SIGSTOP)
        try:
            for words in (["import", "v", image], ["export", "v", "-o", self.path("o")],
                          ["diff", "v@s"]):
                child = self.spawn("remote", *words)
                time.sleep(0.3)
                child.send_signal(signal.SIGINT)
                self.assertEqual(child.wait(60), -signal.SIGINT, words)
        finally:
            d.process.send_signal(signal.SIGCONT)

    def test_paths_in_any_letters(self):
        for name, shown in (("j\u00fcrgen", "j\u00fcrgen"), ("no\udcffx", "no.x")):
            folder = self.path(name)
            os.mkdir(folder)
            for file in ("ca.crt", "client-ann.crt", "client-ann.key"):
                shutil.copy(os.path.join(self.pki(), file), os.path.join(folder, file))
            self.remote("add", f"r{len(shown)}", "localhost", "--ca", folder + "/ca.crt", "--cert",
                        folder + "/client-ann.crt", "--key", folder + "/client-ann.key")
            rows = self.remote("list", "--json").json()
            self.assertRegex(rows[-1]["ca"], f"/{shown}/ca.crt$")
            self.snapctl("-q", "cow", "create", "--size", "1M", folder + "/c.cow")
            told = self.snapctl("cow", "info", "--json", folder + "/c.cow").json()
            self.assertRegex(told["path"], f"/{shown}/c.cow$")
        self.assertIn("/j\u00fcrgen/", self.remote("list").out)

    def test_nearly_a_command(self):
        for word, meant in (("stat", "status"), ("exports", "export"), ("imp", "import")):
            done = self.fails(2, rf"no command '{word}'; is it '{meant}'\? snapctl remote --help",
                              "remote", word)
            self.assertEqual(done.err.count("\n"), 1)
        for word in ("gran", "s", "frob", "re"):
            self.fails(2, [rf"no command '{word}'\n", "  apply "], "remote", word)
        self.fails(2, r"v@s is a snapshot's name, and remove forgets a daemon; snapctl remote "
                   r"delete", "remote", "remove", "v@s")

    def test_a_diff_to_now(self):
        self.up(tls=False)
        self.remote("create", "v", "--size", "4M", "--hosted")
        self.remote("create", "v@s")
        for text in ("v@s", "v@s.."):
            self.assertRegex(self.remote("diff", text).err, r" changed since v@s\n$")

    def test_standard_output_that_is_full(self):
        self.up(tls=False)
        self.remote("create", "v", "--size", "4M")
        for args in (["ls"], ["ls", "--json"], ["status"], ["show", "v"]):
            with open("/dev/full", "w", encoding="utf-8") as full:
                done = subprocess.run([program("snapctl"), "remote", *args], stdout=full,
                                      env=self.environment(), stderr=subprocess.PIPE, text=True,
                                      check=False)
            self.assertEqual(done.returncode, 4, args)
            self.assertIn("cannot write to standard output: No space left", done.stderr, args)

    def test_who_cannot_be_reached_with_a_remedy(self):
        d = self.up(config='metrics_listen = "127.0.0.1:0"\n')
        pki = self.pki()
        files = ["--ca", f"{pki}/ca.crt", "--cert", f"{pki}/client-ann.crt", "--key",
                 f"{pki}/client-ann.key"]
        http = re.search(r"metrics=127\.0\.0\.1:(\d+)", d.log())[1]
        for name, address, more, code, says in (
                ("web", f"127.0.0.1:{http}", [], 14, "; is it snapwired that listens there"),
                ("named", f"localhost:{d.port}", ["--server-name", "x.example"], 9,
                 "the name asked for; see --server-name"),
                ("sock", f"unix:{self.path('nobody')}", [], 16, "; is snapwired running there"),
                ("lost", "nobody..invalid", [], 16, "resolve: .*; is the name right")):
            self.remote("add", name, address, *([] if name == "sock" else files), *more)
            quiet = ["-q"] if name == "lost" else []
            done = self.fails(code, says, "remote", *quiet, "--on", name, "status")
            self.assertEqual(done.err.count("\n"), 2 if name == "sock" else 1)
            if name == "sock":
                self.assertRegex(done.err, rf"^{name}: .*; trying again for a while\n")

    def test_a_daemon_that_goes_away_and_comes_back_is_told_of(self):
        d = self.up(tls=False)
        self.remote("create", "v", "--size", "64M", "--hosted")
        child = subprocess.Popen([program("snapctl"), "remote", "import", "v", "-"],
                                 env=self.environment(), stdin=subprocess.PIPE,
                                 stderr=subprocess.PIPE)
        self.children.append(child)
        child.stdin.write(os.urandom(32 * MIB))
        child.stdin.flush()
        d.stop()
        threading.Timer(3, d.start).start()
        child.stdin.write(os.urandom(32 * MIB))
        _, err = child.communicate(timeout=60)
        self.assertEqual(child.returncode, 0, err)
        self.assertRegex(err.decode(), r"(?s)^admin: .*; trying again for a while\nadmin is there, "
                         r"going on\n.*64M of 64M written")

    def test_what_was_revoked_is_told(self):
        pki = self.path("p")
        for args in (["init", pki], ["issue", pki, "--client", "x"]):
            self.snapctl("pki", *args)
        self.assertEqual(self.snapctl("pki", "revoke", pki, "x").err,
                         f"revoked, and moved to {pki}/revoked; give {pki}/ca.crl to the daemons "
                         "and send them SIGHUP\n")


@unittest.skipUnless(shutil.which("nbdkit") and os.path.exists(
    program("nbdkit-snapwire-guard-plugin.so")), "nbdkit or nbdkit-plugin-dev is not installed")
class Nbdkit(Case):
    def nbdkit(self, plugin, *args):
        plugin = program(f"nbdkit-snapwire-{plugin}.so")
        linked = subprocess.run(["ldd", plugin], capture_output=True, text=True, check=True).stdout
        if "asan" in linked:
            self.skipTest("nbdkit would have to be loaded with the address sanitizer")
        done = subprocess.run(["nbdkit", "-f", "-U", self.path("s"), plugin, *args], timeout=30,
                              capture_output=True, text=True, check=False)
        self.assertNotEqual(done.returncode, 0)
        return done.stderr

    def test_parameters_are_named(self):
        for arg in ("steal=7", "new_origin=7", "away_after=x", "away_after="):
            self.assertIn(f"{arg}: ", self.nbdkit("guard-plugin", arg))
        self.assertIn("snapshot=VOLUME@SNAPSHOT (or volume=VOLUME) is missing",
                      self.nbdkit("guard-plugin", "origin=/x"))

    def test_a_volume_that_is_not_there_is_looked_for_with_the_right_command(self):
        d = self.up(tls=False)
        self.assertRegex(self.nbdkit("plugin", f"server=unix:{d.socket}", "volume=nov"),
                         r"no volume nov \(snapctl remote ls shows")


class Log(Case):
    def lines(self, msg):
        return [pairs(line) for line in self.daemons[0].log().splitlines()
                if pairs(line).get("msg") == msg]

    def test_a_dropped_snapshot_is_named(self):
        self.up(tls=False)
        self.remote("create", "v", "--size", "4M", "--hosted")
        for name in ("v@a", "v@b"):
            self.remote("create", name)
        self.remote("delete", "v@a")
        self.daemons[0].stop()
        self.assertEqual([(x["volume"], x["snapshot"]) for x in self.lines("snapshot dropped")],
                         [("v", "a")])

    def test_what_is_not_of_a_volume_names_none(self):
        d = self.up(tls=False)
        self.fails(6, "no volume nope", "remote", "show", "nope")
        d.stop()
        refused = self.lines("request refused")
        self.assertEqual([x["method"] for x in refused], ["resolve"])
        self.assertNotIn("volume", refused[0])
        self.assertNotIn("00000000", d.log())

    def test_what_was_changed_is_named(self):
        d = self.up(tls=False)
        for args in (["create", "v", "--size", "4M", "--hosted"], ["create", "v@a"],
                     ["clone", "v@a", "c"], ["verify", "v@a"], ["grant", "zed", "reader", "v"],
                     ["revoke", "zed", "reader", "v"], ["grant", "zed", "writer", "*"],
                     ["delete", "v@c"], ["delete", "v", "--force"]):
            self.remote(*args)
        d.stop()
        self.assertEqual([(x["method"], x["target"]) for x in self.lines("request done")], [
            ("volume-create", "v"), ("snapshot-create", "v@a"), ("clone-create", "v@c"),
            ("verify", "v@a"), ("grant", "zed reader of v"), ("revoke", "zed reader of v"),
            ("grant", "zed writer of all volumes"), ("snapshot-delete", "v@c"),
            ("volume-delete", "v")])

    def test_a_client_that_goes_on_against_a_wall_is_told_of_once(self):
        d = self.up(tls=False)
        r = connect_unix(d.socket)
        volume = r.create_hosted("v", MIB)
        r.write(volume, 0, bytes(MIB))
        r.create_snapshot(volume, "s", limit=3 * 4096)
        for i in range(40):
            try:
                r.write(volume, i * 4096, b"x" * 4096)
            except Refused as refused:
                self.assertEqual(refused.code, rc.ENOSPC)
        with self.assertRaises(Refused):
            r.read(volume, 2 * MIB, 4096)
        r.close()
        d.stop()
        refused = self.lines("request refused")
        self.assertEqual([x["method"] for x in refused], ["write", "snapshot-read"])
        self.assertEqual(refused[1]["more"], "38")
        self.assertRegex(refused[0]["error"], r"; to go on, delete v@s$")

    def test_a_state_directory_that_runs_full(self):
        d = self.up_on_tmpfs("8m")
        self.assertEqual(self.remote("status", "--json").json()["warnings"], [])
        with open(os.path.join(d.state, "trash", "fill"), "wb") as f:
            f.write(bytes(7 * MIB))
        warnings = self.remote("status", "--json").json()["warnings"]
        self.assertEqual(len(warnings), 1)
        self.assertRegex(warnings[0], r"^the state directory is nearly full: [0-9.]+[MK] of 8M are")
        self.assertRegex(self.remote("status").out, r"Warning: the state directory is nearly full")
        d.stop()
        d.start()
        self.assertEqual([x["level"] for x in self.lines("state directory is nearly full")],
                         ["warn"])
        d.stop()
