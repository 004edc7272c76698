# SPDX-License-Identifier: Apache-2.0
"""The operator's commands for hosted volumes, on real file systems, killed and gone on with."""

import glob
import json
import os
import pty
import shutil
import signal
import subprocess
import time
import unittest
from unittest import mock

from harness import CC, Case, preload_library, program, seed
from rawclient import connect_unix

KIB = 1 << 10
MIB = 1 << 20
DISK = 32 * MIB
LARGE = 128 * MIB
ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))


class HostedCommands(Case):
    def setUp(self):
        super().setUp()
        self.rng = seed()
        self.d = self.up(tls=False)

    def environment(self):
        return dict(super().environment(), XDG_STATE_HOME=self.path("xdg"))

    def ext4(self, name, *folders, size=DISK):
        """A file system with these folders of the source tree in it."""
        content = self.path(name + ".d")
        for folder in folders:
            shutil.copytree(os.path.join(ROOT, folder), os.path.join(content, folder))
        path = self.path(name)
        subprocess.run(["mkfs.ext4", "-q", "-E", "lazy_itable_init=0", "-d", content, path,
                        str(size // KIB)], check=True, capture_output=True)
        return path

    def hosted(self, name="v", size=DISK, *args):
        self.remote("create", name, "--hosted", "--size", size, *args)

    def exported(self, target, name="export.img"):
        path = self.path(name)
        if os.path.exists(path):
            os.remove(path)
        self.remote("export", target, "-o", path)
        return path

    def assert_content(self, target, image):
        self.assert_same(self.exported(target), image)

    def state_files(self):
        return [f for f in glob.glob(self.path("xdg/snapwire/*")) if not f.endswith(".tmp")]

    def note(self):
        """How far the work is that a state file tells of; None: there is none."""
        for path in self.state_files():
            try:
                with open(path, encoding="utf-8") as f:
                    return json.load(f)["done_bytes"]
            except FileNotFoundError:
                pass
        return None

    def names(self, volume):
        return [s["name"] for s in self.remote("ls", volume, "--json").json()]

    def kill_when_noted(self, child, how, pause_s=0.1):
        """Let the daemon work a little at a time until the child has noted how far it is."""
        end = time.monotonic() + 60
        while child.poll() is None and not self.note() and time.monotonic() < end:
            self.d.process.send_signal(signal.SIGSTOP)
            time.sleep(pause_s)
            self.d.process.send_signal(signal.SIGCONT)
            time.sleep(0.005)
        self.assertIsNone(child.poll(), "it ended before it was killed")
        child.send_signal(how)
        child.wait(60)
        return self.note()

    # -- content ---------------------------------------------------------------------------

    def test_import_export__a_file_system_comes_back_sparse(self):
        image = self.ext4("fs.img", "client", "docs")
        self.hosted()
        done = self.remote("import", "v", image, "--json").json()
        self.assertLess(done["bytes_written"], DISK // 2)
        self.assertEqual(done["bytes_zeroed"], 0)
        out = self.exported("v")
        self.assert_same(out, image)
        self.assertLess(os.stat(out).st_blocks * 512, DISK // 2)
        subprocess.run(["e2fsck", "-fn", out], check=True, capture_output=True)
        self.assertEqual(self.state_files(), [])

    def test_import__zeros_replace_what_was_there(self):
        dense = self.image("dense", DISK, self.rng)
        sparse = self.image("sparse", DISK, self.rng, density=5)
        self.hosted()
        self.remote("import", "v", dense)
        self.remote("create", "v@dense")
        done = self.remote("import", "v", sparse, "--json").json()
        self.assertGreater(done["bytes_zeroed"], DISK // 4)
        self.assert_content("v", sparse)
        self.assert_content("v@dense", dense)

    def test_import__standard_input_as_pipe_and_as_file(self):
        image = self.image("i", 4 * MIB, self.rng, density=60)
        self.hosted(size=4 * MIB)
        for name in ("pipe", "file"):
            with open(image, "rb") as f:
                if name == "file":
                    self.snapctl("remote", "import", "v", "-", stdin=f)
                else:
                    with subprocess.Popen(["cat"], stdin=f, stdout=subprocess.PIPE) as cat:
                        self.snapctl("remote", "import", "v", "-", stdin=cat.stdout)
            self.assert_content("v", image)
            self.remote("import", "v", self.image("other", 4 * MIB, self.rng))

    def test_import__a_slow_pipe_keeps_the_connection(self):
        self.hosted(size=MIB)
        child = subprocess.Popen([program("snapctl"), "remote", "import", "v", "-"],
                                 env=self.environment(), stdin=subprocess.PIPE)
        self.children.append(child)
        data = self.rng.randbytes(MIB)
        for at in range(0, MIB, MIB // 4):
            child.stdin.write(data[at:at + MIB // 4])
            child.stdin.flush()
            time.sleep(0.2)
        child.stdin.close()
        self.assertEqual(child.wait(30), 0)
        with open(self.path("want"), "wb") as f:
            f.write(data)
        self.assert_content("v", self.path("want"))

    def test_import__a_pipe_of_another_length_is_told(self):
        self.hosted(size=MIB)
        for size, says in ((MIB - 512, "ended after 1048064 bytes"), (MIB + 1, "more than")):
            with open(self.image("i", size, self.rng), "rb") as f, \
                    subprocess.Popen(["cat"], stdin=f, stdout=subprocess.PIPE) as cat:
                done = self.snapctl("remote", "import", "v", "-", stdin=cat.stdout, code=19)
            self.assertIn(says, done.err)

    def test_import__odd_sizes_and_chunk_sizes(self):
        for i, (size, chunk) in enumerate(((512, "512"), (513 * 512, "4K"), (3 * MIB + 512, "64K"),
                                           (5 * MIB, "16M"))):
            self.hosted(f"v{i}", size, "--chunk-size", chunk)
            image = self.image(f"i{i}", size, self.rng, density=50)
            self.remote("import", f"v{i}", image)
            self.assert_content(f"v{i}", image)

    # -- cut off and gone on with -------------------------------------------------------------

    def test_import__killed_goes_on_where_it_was(self):
        for how in (signal.SIGKILL, signal.SIGINT):
            name = f"v{int(how)}"
            self.hosted(name, LARGE)
            image = self.image("large", LARGE, self.rng, density=90)
            child = self.spawn("remote", "import", name, image)
            noted = self.kill_when_noted(child, how)
            self.assertTrue(0 < noted < LARGE, noted)
            if how == signal.SIGINT:
                self.assertEqual(child.returncode, 20)
                self.assertIn("--resume goes on there", child.stderr.read())
            done = self.remote("import", name, image, "--resume", "--json").json()
            self.assertEqual(done["resumed_at_bytes"], noted)
            self.assertLessEqual(done["bytes_written"], LARGE - noted)
            self.assert_content(name, image)
            self.assertEqual(self.state_files(), [])

    def test_import__what_failed_is_not_taken_for_written(self):
        one, two = self.image("one", DISK, self.rng), self.image("two", DISK, self.rng)
        self.hosted()
        self.remote("import", "v", one)
        self.remote("create", "v@s", "--cow-size", "4M")
        done = self.fails(5, "full|space", "remote", "import", "v", two)
        self.assertNotIn("Success", done.err)
        noted = self.note() or 0
        self.assertLess(noted, 4 * MIB)
        with open(self.exported("v"), "rb") as f, open(two, "rb") as want:
            self.assertEqual(f.read(noted), want.read(noted))
        self.assert_content("v@s", one)
        self.remote("delete", "v@s")
        if noted:
            self.assertEqual(self.remote("import", "v", two, "--resume", "--json")
                             .json()["resumed_at_bytes"], noted)
            self.assert_content("v", two)

    def test_import__resume_survives_a_killed_daemon(self):
        self.hosted("v", LARGE)
        image = self.image("large", LARGE, self.rng, density=90)
        child = self.spawn("remote", "import", "v", image)
        self.kill_when_noted(child, signal.SIGKILL)
        self.d.kill()
        self.d.start()
        self.remote("import", "v", image, "--resume")
        self.assert_content("v", image)

    def test_import__goes_on_over_a_restart_of_the_daemon(self):
        self.hosted("v", LARGE)
        image = self.image("large", LARGE, self.rng, density=90)
        child = self.spawn("remote", "import", "v", image)
        origin = self.wait_for_origin(child)
        self.d.kill()
        self.d.start()
        self.assertEqual(child.wait(60), 0, child.stderr.read())
        self.assertTrue(origin)
        self.assert_content("v", image)

    def wait_for_origin(self, child):
        """Until something of the volume stands on the disk. False: the child has ended."""
        end = time.monotonic() + 30
        while child.poll() is None and time.monotonic() < end:
            if any(os.stat(f).st_blocks * 512 > 4 * MIB
                   for f in glob.glob(os.path.join(self.d.state, "volumes", "*", "origin*"))):
                return True
            time.sleep(0.002)
        return False

    def test_import__resume_refuses_a_file_that_changed(self):
        self.hosted("v", LARGE)
        image = self.image("large", LARGE, self.rng, density=90)
        self.kill_when_noted(self.spawn("remote", "import", "v", image), signal.SIGKILL)
        with open(image, "r+b") as f:
            f.write(b"changed")
        self.fails(19, ["changed since", "without --resume"], "remote", "import", "v", image,
                   "--resume")
        self.remote("import", "v", image)
        self.assert_content("v", image)

    def test_export__killed_goes_on_where_it_was(self):
        image = self.image("large", LARGE, self.rng, density=90)
        self.hosted("v", LARGE)
        self.remote("import", "v", image)
        self.remote("create", "v@s")
        out = self.path("out.img")
        for how in (signal.SIGKILL, signal.SIGINT):
            child = self.spawn("remote", "export", "v@s", "-o", out)
            noted = self.kill_when_noted(child, how, pause_s=0.3)
            self.assertTrue(0 < noted < LARGE, noted)
            self.assertFalse(os.path.exists(out))
            self.remote("import", "v", self.changed(image, "next.img", self.rng))
            done = self.remote("export", "v@s", "-o", out, "--resume", "--json").json()
            self.assertEqual(done["resumed_at_bytes"], noted)
            self.assertLessEqual(done["bytes_read"], LARGE - noted)
            self.assert_same(out, image)
            self.assertEqual(glob.glob(out + ".*") + self.state_files(), [])
            os.remove(out)

    def test_import__through_a_pipe_ends_what_could_be_resumed(self):
        self.hosted("v", LARGE)
        image = self.image("large", LARGE, self.rng, density=90)
        self.kill_when_noted(self.spawn("remote", "import", "v", image), signal.SIGKILL)
        with open(self.image("other", LARGE, self.rng), "rb") as f, \
                subprocess.Popen(["cat"], stdin=f, stdout=subprocess.PIPE) as cat:
            self.snapctl("remote", "import", "v", "-", stdin=cat.stdout)
        done = self.remote("import", "v", image, "--resume")
        self.assertIn("nothing to resume", done.err)
        self.assert_content("v", image)

    def cut_off_export(self, target, out, image):
        """Killed when it has written over what stood at the image's beginning."""
        child = self.spawn("remote", "export", target, "-o", out)
        end = time.monotonic() + 60
        begins = b""
        with open(image, "rb") as f:
            old = f.read(4096)
        while child.poll() is None and begins in (b"", old) and time.monotonic() < end:
            self.d.process.send_signal(signal.SIGSTOP)
            time.sleep(0.05)
            with open(out + ".partial", "rb") as f:
                begins = f.read(4096)
            self.d.process.send_signal(signal.SIGCONT)
            time.sleep(0.002)
        self.assertIsNone(child.poll(), "it ended before it was killed")
        child.send_signal(signal.SIGKILL)
        child.wait(60)

    def test_export__resume_knows_its_partial_file_from_anothers(self):
        image = self.image("large", LARGE, self.rng)
        self.hosted("v", LARGE)
        self.remote("import", "v", image)
        self.remote("create", "v@s")
        self.remote("import", "v", self.image("later", LARGE, self.rng))
        out = self.path("out.img")
        self.kill_when_noted(self.spawn("remote", "export", "v@s", "-o", out), signal.SIGKILL,
                             pause_s=0.3)
        self.remote("create", "v@t")
        self.cut_off_export("v@t", out, image)
        done = self.remote("export", "v@s", "-o", out, "--resume", code=None)
        if done.code:
            self.assertIn("another snapshot", done.err)
            self.remote("export", "v@s", "-o", out)
        self.assert_same(out, image)

    def test_export__resume_finds_its_file_by_another_name(self):
        image = self.image("large", LARGE, self.rng, density=90)
        self.hosted("v", LARGE)
        self.remote("import", "v", image)
        self.remote("create", "v@s")
        os.mkdir(self.path("there"))
        os.symlink("there", self.path("link"))
        noted = self.kill_when_noted(
            self.spawn("remote", "export", "v@s", "-o", self.path("there/out.img")),
            signal.SIGKILL, pause_s=0.3)
        out = self.path("link/out.img")
        done = self.remote("export", "v@s", "-o", out, "--resume", "--json").json()
        self.assertEqual(done["resumed_at_bytes"], noted)
        self.assert_same(out, image)

    def test_export__resume_of_another_file_begins_anew(self):
        image = self.image("large", LARGE, self.rng, density=90)
        self.hosted("v", LARGE)
        self.remote("import", "v", image)
        self.remote("create", "v@s")
        out = self.path("out.img")
        self.kill_when_noted(self.spawn("remote", "export", "v@s", "-o", out), signal.SIGKILL,
                             pause_s=0.3)
        shutil.copy(out + ".partial", out + ".copy")
        os.rename(out + ".copy", out + ".partial")
        done = self.remote("export", "v@s", "-o", out, "--resume")
        self.assertIn("nothing to resume: from the beginning", done.err)
        self.assert_same(out, image)

    # -- snapshots ------------------------------------------------------------------------------

    def test_rollback__volume_and_snapshots_keep_what_they_should(self):
        one = self.ext4("one.img", "docs")
        two = self.ext4("two.img", "docs", "client")
        self.hosted()
        self.remote("import", "v", one)
        self.remote("create", "v@one")
        self.remote("import", "v", two)
        self.remote("create", "v@two")
        self.remote("import", "v", self.image("three", DISK, self.rng))
        self.remote("rollback", "v@one")
        for target, image in (("v", one), ("v@one", one), ("v@two", two)):
            self.assert_content(target, image)
        self.remote("rollback", "v@two", "--merge", "--json")
        self.assert_content("v", two)
        self.assert_content("v@one", one)
        self.assertEqual(self.names("v"), ["one"])
        self.remote("create", "v@new")
        self.remote("rollback", "v@one", "--drop-newer")
        self.assertEqual(self.names("v"), ["one"])
        self.assert_content("v", one)

    def test_merge__of_a_hosted_volume_needs_no_origin(self):
        one, two = self.image("one", DISK, self.rng), self.image("two", DISK, self.rng)
        self.hosted()
        self.remote("import", "v", one)
        self.remote("create", "v@s")
        self.remote("import", "v", two)
        done = self.remote("merge", "v@s", "--json").json()
        self.assertEqual((done["kind"], done["state"]), ("merge", "done"))
        self.assert_content("v", one)
        self.assertEqual(self.names("v"), [])

    def test_jobs__listed_waited_for_and_cancelled(self):
        one, two = self.image("one", DISK, self.rng), self.image("two", DISK, self.rng)
        self.hosted()
        self.remote("import", "v", one)
        self.remote("create", "v@s")
        self.remote("import", "v", two)
        job = self.remote("rollback", "v@s", "--no-wait", "--json").json()
        self.assertEqual((job["kind"], job["subject"]), ("rollback", "v@s"))
        done = self.remote("jobs", "--wait", job["id"][:8], "--json").json()
        self.assertEqual((done["id"], done["state"]), (job["id"], "done"))
        self.assertIn(job["id"], [j["id"] for j in self.remote("jobs", "v", "--json").json()])
        self.assertRegex(self.remote("jobs").out, rf"{job['id'][:8]} rollback +v@s +done")
        self.fails(11, "ended", "remote", "cancel", job["id"])
        self.assert_content("v", one)

        self.remote("import", "v", two)
        job = self.remote("rollback", "v@s", "--no-wait", "--json").json()
        if self.remote("jobs", "--cancel", job["id"], code=None).code == 0:
            done = self.remote("jobs", "--wait", job["id"], "--json", code=20).json()
            self.assertEqual(done["state"], "cancelled")
            self.assert_content("v", two)
        else:
            self.assert_content("v", one)  # it was faster than we

    def test_rollback__ctrl_c_stops_waiting_only(self):
        one = self.image("one", LARGE, self.rng, density=90)
        self.hosted("v", LARGE)
        self.remote("import", "v", one)
        self.remote("create", "v@s")
        self.remote("import", "v", self.image("two", LARGE, self.rng, density=90))
        child = self.spawn("remote", "rollback", "v@s")
        end = time.monotonic() + 30
        while time.monotonic() < end and not any(
                j["state"] == "running" for j in self.remote("jobs", "--json").json()):
            self.assertIsNone(child.poll())
        child.send_signal(signal.SIGINT)
        self.assertEqual(child.wait(30), 20)
        told = child.stderr.read()
        self.assertIn("the daemon goes on with it", told)
        self.remote("jobs", "--wait", told.split("--wait ")[1].split()[0])
        self.assert_content("v", one)

    def on_terminal(self, answer, *args):
        """Run snapctl on a terminal, with what somebody types."""
        pid, terminal = pty.fork()
        if pid == 0:
            os.execve(program("snapctl"), [program("snapctl"), *args], self.environment())
        told = b""
        try:
            while b"[y/N]" not in told:
                told += os.read(terminal, 4096)
            os.write(terminal, answer)
            while True:
                told += os.read(terminal, 4096)
        except OSError:
            pass
        os.close(terminal)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), told.decode()

    def test_rollback__asks_on_a_terminal(self):
        one, two = self.image("one", MIB, self.rng), self.image("two", MIB, self.rng)
        self.hosted(size=MIB)
        self.remote("import", "v", one)
        self.remote("create", "v@s")
        self.remote("import", "v", two)
        code, told = self.on_terminal(b"n\n", "remote", "rollback", "v@s")
        self.assertEqual(code, 20, told)
        self.assertIn("nothing was done", told)
        self.assert_content("v", two)
        code, told = self.on_terminal(b"y\n", "remote", "merge", "v@s")
        self.assertEqual(code, 0, told)
        self.assert_content("v", one)

    def test_clone__written_apart_shown_as_a_tree(self):
        base = self.ext4("base.img", "docs")
        other = self.ext4("other.img", "client")
        self.hosted()
        self.remote("import", "v", base)
        self.remote("create", "v@s")
        self.remote("clone", "v@s", "c")
        self.remote("import", "v@c", other)
        deep = self.remote("clone", "v@c", "v@deep", "--json").json()
        self.assertEqual((deep["writable"], deep["parent"]), (True, "c"))
        self.remote("import", "v@c", base)
        for target, image in (("v", base), ("v@s", base), ("v@c", base), ("v@deep", other)):
            self.assert_content(target, image)
        lines = self.remote("ls", "v").out.splitlines()
        self.assertRegex(lines[0], "WRITABLE")
        self.assertRegex(lines[1], r"^s .* no ")
        self.assertRegex(lines[2], r"^  c .* yes ")
        self.assertRegex(lines[3], r"^    deep .* yes ")
        self.assertRegex(self.remote("show", "v@deep").out, "(?m)^Clone of: +c$")
        self.remote("delete", "v@c")
        self.remote("delete", "v@s")
        self.assert_content("v@deep", other)

    def test_group__all_or_none(self):
        for name in "abc":
            self.hosted(name, MIB)
        made = self.remote("create", "a@g", "b@g", "c@other", "--json").json()
        self.assertEqual([(s["volume"], s["name"]) for s in made],
                         [("a", "g"), ("b", "g"), ("c", "other")])
        self.fails(7, "b@g", "remote", "create", "a@h", "b@g", "c@h")
        self.assertEqual([self.names(v) for v in "abc"], [["g"], ["g"], ["other"]])

    def test_diff__between_snapshots_and_to_now(self):
        self.hosted("v", MIB, "--chunk-size", "4K")
        self.remote("import", "v", self.image("i", MIB, self.rng))
        for name, at in (("a", 0), ("b", 64 * KIB), ("c", 128 * KIB)):
            self.remote("create", f"v@{name}")
            self.remote("create", f"v@{name}-")
            self.write(at, b"x" * 4096)

        def diff(what):
            return [(e["offset_bytes"], e["length_bytes"])
                    for e in self.remote("diff", what, "--json").json()]
        self.assertEqual(diff("v@a..b"), [(0, 4096)])
        self.assertEqual(diff("v@b..c"), [(64 * KIB, 4096)])
        self.assertEqual(diff("v@a..c"), [(0, 4096), (64 * KIB, 4096)])
        now = [(0, 4096), (64 * KIB, 4096), (128 * KIB, 4096)]
        self.assertEqual(diff("v@a"), now)
        self.assertEqual(diff("v@a.."), now)
        self.assertEqual(diff("v@a..a-"), [])
        self.fails(2, "v@a is older than b; name the older one first", "remote", "diff", "v@b..a")
        self.fails(2, "same snapshot", "remote", "diff", "v@b..b")
        self.fails(6, "v@nope", "remote", "diff", "v@a..nope")
        self.fails(2, "A..B", "remote", "diff", "v@a..v@b")

    def write(self, at, data):
        r = connect_unix(self.d.socket)
        self.addCleanup(r.close)
        r.write(self.uuid("v"), at, data)

    def uuid(self, name):
        return bytes.fromhex(self.remote("show", name, "--json").json()["id"].replace("-", ""))

    def test_verify__damage_is_found_and_named(self):
        one, two = self.image("one", 4 * MIB, self.rng), self.image("two", 4 * MIB, self.rng)
        self.hosted("v", 4 * MIB)
        self.remote("import", "v", one)
        self.remote("create", "v@s")
        self.remote("import", "v", two)
        done = self.remote("verify", "v@s", "--json").json()
        self.assertEqual((done["state"], done["faults_total"], done["faults"]), ("done", 0, []))
        self.assertIn("256 chunks compared", self.remote("verify", "v").err)
        path = self.remote("show", "v@s", "--json").json()["cow_path"]
        with open(path, "r+b") as f:
            f.seek(32 * KIB + 5 * 16 * KIB)  # beyond header and the first area
            f.write(b"rot")
        done = self.remote("verify", "v", "--json", code=12).json()
        self.assertEqual(done["faults_total"], 1)
        self.assertEqual(len(done["faults"]), 1)
        told = self.remote("verify", "v@s", code=12)
        self.assertRegex(told.out, "v@s: ")
        self.assertIn("1 fault", told.err)
        job = self.remote("verify", "v", "--no-wait", "--json").json()
        self.remote("jobs", "--wait", job["id"], code=12)
        self.remote("verify", "v", "--rebuild")
        self.remote("verify", "v")

    # -- what the README shows -------------------------------------------------------------------

    def test_readme__its_commands_on_hosted_volumes_work(self):
        web = self.ext4("web.img", "client", size=64 * MIB)
        self.ext4("second.img", "client", "daemon", size=64 * MIB)
        self.copy(web, "db.img")
        with open(os.path.join(ROOT, "README.md"), encoding="utf-8") as f:
            session = f.read().split("## Hosted volumes")[1].split("```")[1]
        folder = self.path("bin")
        os.mkdir(folder)
        os.symlink(program("snapctl"), os.path.join(folder, "snapctl"))
        env = dict(self.environment(), PATH=f"{folder}:{os.environ['PATH']}")
        commands = [line[2:] for line in session.splitlines() if line.startswith("$ ")]
        self.assertGreater(len(commands), 10)
        for command in commands:
            done = subprocess.run(["sh", "-c", command], cwd=self.dir, env=env,
                                  stdin=subprocess.DEVNULL, capture_output=True, text=True,
                                  check=False)
            self.assertEqual(done.returncode, 0, command + "\n" + done.stdout + done.stderr)
        self.assert_content("web", web)

    # -- wrong words ------------------------------------------------------------------------------

    def test_wrong_words__say_what_to_do(self):
        self.hosted("v", MIB)
        self.remote("create", "v@s")
        self.remote("create", "r", "--size", MIB)
        self.remote("create", "r@s")
        image = self.image("i", MIB, self.rng)
        larger, smaller = self.image("l", 2 * MIB, self.rng), self.image("s", MIB // 2, self.rng)
        out = self.path("never")
        for code, says, words in (
                (2, "--hosted", ["create", "x", "--size", "1M", "--device", "/dev/null"]),
                (2, "hosted volume", ["create", "x", "--size", "1M", "--chunk-size", "4K"]),
                (2, "for a volume", ["create", "v@x", "--hosted"]),
                (2, "snapshot of a moment", ["create", "v@x", "v@y"]),
                (2, "VOLUME@SNAPSHOT", ["create", "v@x", "y"]),
                (18, "by itself", ["create", "v@x", "r@x"]),
                (2, "as in: import", ["import", "v"]),
                (19, "does not fit", ["import", "v", larger]),
                (19, "truncate", ["import", "v", smaller]),
                (6, "nothere", ["import", "v", "/nothere"]),
                (8, "not a clone", ["import", "v@s", image]),
                (18, "remote apply", ["import", "r", image]),
                (18, "remote import", ["apply", "v@s", "--origin", image, "--source", image]),
                (2, "leave --origin away", ["export", "v@s", "--origin", image, "-o", out]),
                (2, "--new-origin is for remote", ["export", "v@s", "--new-origin", "-o", out]),
                (2, "--origin is missing", ["export", "r@s", "-o", out]),
                (2, "make a snapshot", ["export", "v", "--resume", "-o", out]),
                (2, "standard output", ["export", "v@s", "--resume"]),
                (2, "a pipe", ["import", "v", "-", "--resume"]),
                (7, "exists", ["export", "v@s", "-o", image]),
                (2, "create v@SNAPSHOT", ["clone", "v", "c"]),
                (2, "v@c", ["clone", "v@s", "r@c"]),
                (2, "accepted", ["clone", "v@s", "c c"]),
                (7, "v@s exists", ["clone", "v@s", "s"]),
                (18, "hosted", ["clone", "r@s", "c"]),
                (18, "merge --origin", ["rollback", "r@s"]),
                (2, "VOLUME@SNAPSHOT", ["rollback"]),
                (2, "v@SNAPSHOT", ["rollback", "v"]),
                (2, "leave --origin away", ["merge", "v@s", "--origin", image]),
                (2, "remote cancel", ["merge", "v@s", "--abort"]),
                (2, "--origin is missing", ["merge", "r@s"]),
                (2, "shows", ["jobs", "--wait", "zz"]),
                (6, "lists them", ["jobs", "--wait", "00000000"]),
                (6, "lists them", ["cancel", "00000000"]),
                (2, "one of", ["jobs", "v", "--wait", "00000000"]),
                (2, "which job", ["cancel"]),
                (6, "no volume", ["verify", "nope"])):
            with self.subTest(" ".join(words)):
                self.fails(code, says, "remote", *words)
        self.assertFalse(os.path.exists(out) or os.path.exists(out + ".partial"))
        self.assertEqual((self.names("v"), self.names("r")), (["s"], ["s"]))


@unittest.skipUnless(shutil.which(CC), f"no {CC}")
class ImportsFlush(Case):
    """The daemon's flush fails once, as the system tells of lost writes only once."""

    def environment(self):
        return dict(super().environment(), XDG_STATE_HOME=self.path("xdg"))

    def test_import__what_its_last_flush_lost_is_written_again(self):
        library, sign = preload_library("failing_flush", self.dir), self.path("fail")
        d = self.daemon(config='io_engine = "threads"\n')
        asan = os.environ.get("ASAN_OPTIONS", "")
        with mock.patch.dict(os.environ, {
                "LD_PRELOAD": library, "FAILING_FLUSH": sign, "FAILING_FLUSH_ONCE": "1",
                "ASAN_OPTIONS": f"{asan}:verify_asan_link_order=0"}):
            d.start()
        self.remote("add", "admin", f"unix:{d.socket}")
        self.remote("create", "v", "--hosted", "--size", MIB)
        image = self.image("i", MIB, seed())
        with open(sign, "w", encoding="utf-8"):
            pass
        done = self.fails(4, "flush volume v", "remote", "import", "v", image)
        self.assertNotIn("--resume", done.err)
        self.assertFalse(os.path.exists(sign), "nothing was flushed")
        done = self.remote("import", "v", image, "--resume", "--json").json()
        self.assertEqual(done["resumed_at_bytes"], 0)
        self.assertEqual(done["bytes_written"], MIB)
