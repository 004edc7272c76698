# SPDX-License-Identifier: Apache-2.0
"""SIGKILL under load, again and again: nothing that was acknowledged is ever lost.

TORTURE_SECONDS in the environment is how long each case goes on (make torture); without it
each takes long enough for a dozen kills. The moments are drawn from the seed, but what they
hit depends on the machine: a failure names the seed and keeps the daemon's log.
"""

import fcntl
import os
import struct
import threading
import time
import uuid

import rawclient as rc
from harness import Case, seed
from rawclient import Gone, Refused, connect_unix

SECONDS = float(os.environ.get("TORTURE_SECONDS", "7"))
MIB = 1 << 20
F_OFD_SETLK = 37  # Linux; Python knows it from 3.13 on
CHUNK = 4096


class KillCase(Case):
    def setUp(self):
        super().setUp()
        self.rng = seed()
        self.kills = 0

    def restart(self, d):
        d.kill()
        d.start()
        self.kills += 1

    def same_or_tell(self, a, b, what):
        try:
            self.assert_same(a, b)
        except AssertionError as e:
            raise AssertionError(f"{what}, after {self.kills} kills: {e}") from None


class LeftBehind(Case):
    def lock(self, path):
        """As the ring of a daemon that was killed holds what it had requests in."""
        file = open(path, "wb")
        self.addCleanup(file.close)
        fcntl.fcntl(file, F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
        return file

    def test_a_snapshot_waits_a_little_for_the_file_of_its_first_try(self):
        d = self.up()
        r = connect_unix(d.socket)
        self.addCleanup(r.close)
        volume, first, second = r.create_hosted("v", MIB), os.urandom(16), os.urandom(16)
        folder = f"{d.state}/volumes/{uuid.UUID(bytes=volume)}"
        held = self.lock(f"{folder}/{uuid.UUID(bytes=first)}.cow")
        release = threading.Timer(0.3, held.close)
        release.start()
        r.create_snapshot(volume, "a", uuid=first)
        release.join()
        self.lock(f"{folder}/{uuid.UUID(bytes=second)}.cow")
        with self.assertRaisesRegex(Refused, "another program"):
            r.create_snapshot(volume, "b", uuid=second)
        r.create_snapshot(volume, "b")


class DaemonKilled(KillCase):
    def test_applies_go_on_by_themselves_and_every_generation_is_there(self):
        d = self.up()
        count, size = 3, 12 * MIB
        volumes = []
        for i in range(count):
            first = self.image(f"{i}.0", size, self.rng, density=50)
            self.remote("create", f"v{i}", "--like", first)
            volumes.append({"name": f"v{i}", "origin": self.copy(first, f"{i}.origin"),
                            "states": [first], "child": None})
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            for i, v in enumerate(volumes):
                if v["child"] is None:
                    self.next_generation(i, v)
            time.sleep(self.rng.uniform(0.05, 0.7))
            self.restart(d)
            for v in volumes:
                if v["child"].poll() is not None:
                    self.finish(v)
        for v in volumes:
            if v["child"] is not None:
                self.finish(v)
        print(f"    {self.kills} kills of the daemon, "
              f"{sum(len(v['states']) - 1 for v in volumes)} generations")
        for v in volumes:
            self.check_generations(v)
        self.restart(d)
        for v in volumes:
            self.check_generations(v)
        for path in self.cow_files(d):
            self.snapctl("cow", "list", path)

    def cow_files(self, d):
        d.stop()
        return [os.path.join(at, name) for at, _, names in os.walk(d.state) for name in names
                if name.endswith(".cow")]

    def next_generation(self, i, v):
        n = len(v["states"])
        new = self.changed(v["states"][-1], f"{i}.{n}", self.rng, percent=self.rng.randrange(5, 70))
        self.remote("create", f"{v['name']}@s{n - 1}")
        v["states"].append(new)
        v["child"] = self.spawn("remote", "apply", f"{v['name']}@s{n - 1}", "--origin",
                                v["origin"], "--source", new)

    def finish(self, v):
        out, err = v["child"].communicate(timeout=90)
        self.assertEqual(v["child"].returncode, 0, f"{v['name']}: {out}{err}")
        v["child"] = None
        self.same_or_tell(v["origin"], v["states"][-1], f"{v['name']}'s origin")

    def check_generations(self, v):
        for n, state in enumerate(v["states"][:-1]):
            out = self.path("out")
            self.remote("export", f"{v['name']}@s{n}", "--origin", v["origin"], "-o", out)
            self.same_or_tell(out, state, f"{v['name']}@s{n}")
            os.unlink(out)

    def test_every_acknowledged_put_is_there_with_its_content(self):
        """By the raw client: what was answered is known to the chunk."""
        d = self.up(tls=False)
        size = 4096 * CHUNK
        r = connect_unix(d.socket)
        volume = r.create_volume("v", size)
        head = r.create_snapshot(volume, "s", 8)
        epoch, _ = r.acquire(volume, size, b"i" * 16)
        durable, tried = {}, {}
        end = time.monotonic() + SECONDS
        while time.monotonic() < end and len(durable) < 4000:
            killer = threading.Timer(self.rng.uniform(0, 0.04), d.process.kill)
            killer.start()
            try:
                self.stream(r, volume, epoch, head, durable, tried)
            except Gone:
                pass
            except Refused as refused:
                self.fail(f"refused after {self.kills} kills: {refused}")
            killer.join()
            r.close()
            self.restart(d)
            r = connect_unix(d.socket)
            self.assertEqual(r.acquire(volume, size, b"i" * 16, epoch=epoch), (epoch, head))
            self.check_durable(r, volume, head, durable, tried)
        print(f"    {self.kills} kills, {len(durable)} chunks acknowledged")
        self.assertGreater(len(durable), 100, "too little load to show anything")
        r.close()

    def stream(self, r, volume, epoch, head, durable, tried):
        """Eight puts in flight, until the connection breaks."""
        flying = {}
        while True:
            while len(flying) < 8:
                olds = self.rng.sample(range(4096), self.rng.randrange(1, 12))
                data = {c: self.rng.randbytes(CHUNK) for c in olds}
                for c in olds:
                    tried.setdefault(c, []).append(data[c])
                ident = r.ask(rc.M_COW_PUT, r.put_control(volume, epoch, head, olds),
                              b"".join(data.values()))
                flying[ident] = data
            while not any(i in r.answers for i in flying):
                r.step()
            for ident in [i for i in flying if i in r.answers]:
                message, _ = r.answer(ident)
                self.assertEqual(rc.unpack(message, 3), [], "a put failed")
                for c in flying.pop(ident):
                    durable.setdefault(c, None)  # durable, with one of the contents tried

    def check_durable(self, r, volume, head, durable, tried):
        got = {}
        for offset, kind, data in r.read_view(volume, head, 0, 4096 * CHUNK):
            for at in range(0, len(data) if kind == 0 else 0, CHUNK):
                got[(offset + at) // CHUNK] = data[at:at + CHUNK]
        for c, content in durable.items():
            self.assertIn(c, got, f"acknowledged chunk {c} is gone after {self.kills} kills")
            if content is None:
                self.assertTrue(got[c] in tried[c], f"chunk {c} holds what nobody sent")
                durable[c] = got[c]
            else:
                self.assertTrue(got[c] == content, f"chunk {c} changed")
        for c, content in got.items():
            self.assertTrue(content in tried.get(c, []), f"chunk {c} holds what nobody sent")
            if c in durable:
                continue
            durable[c] = content  # it was told as existing: from now on it must stay

    def test_snapshots_made_and_deleted_between_kills_are_there_or_not(self):
        d = self.up(tls=False)
        self.remote("create", "v", "--size", "1M")
        names, next_name = [], 0
        end = time.monotonic() + SECONDS / 2
        while time.monotonic() < end:
            if len(names) < 6 or self.rng.randrange(2):
                name, args = f"s{next_name}", ["create", f"v@s{next_name}"]
                next_name += 1
                names.append(name)
            else:
                name = names.pop(self.rng.randrange(len(names)))
                args = ["delete", f"v@{name}"]
            child = self.spawn("remote", *args)
            time.sleep(self.rng.uniform(0, 0.03))
            self.restart(d)
            _, err = child.communicate(timeout=60)
            self.assertEqual(child.returncode, 0, f"{args}: {err}")
            listed = [s["name"].split("@")[-1]
                      for s in self.snapctl("--json", "remote", "ls", "v").json()]
            self.assertEqual(listed, names, args)
        print(f"    {self.kills} kills, {next_name} snapshots")


class ClientKilled(KillCase):
    def go_on(self, seconds, d, *args, also_daemon=0):
        """Run a command that is killed at random until it ends by itself."""
        end = time.monotonic() + seconds
        while True:
            child = self.spawn("remote", *args)
            last = time.monotonic() > end
            if not last:
                time.sleep(self.rng.uniform(0.02, 0.25))
                if self.rng.randrange(100) < also_daemon:
                    self.restart(d)
            if child.poll() is not None or last:
                _, err = child.communicate(timeout=120)
                if child.returncode == 6 and args[0] == "merge" and self.kills:
                    return  # the one that was killed had just ended it
                self.assertEqual(child.returncode, 0, err)
                return
            child.kill()
            child.communicate()
            self.kills += 1

    def round(self, also_daemon):
        d = self.up()
        size = 24 * MIB
        first = self.image("first", size, self.rng, density=80)
        origin = self.copy(first, "origin")
        self.remote("create", "v", "--like", origin)
        states, end, n = [first], time.monotonic() + SECONDS, 0
        while time.monotonic() < end or n == 0:
            self.remote("create", f"v@s{n}", "--chunk-size", "4K")
            new = self.changed(states[-1], f"gen{n}", self.rng, percent=60)
            self.go_on(SECONDS / 3, d, "apply", f"v@s{n}", "--origin", origin, "--source", new,
                       also_daemon=also_daemon)
            self.same_or_tell(origin, new, "origin after apply")
            states.append(new)
            n += 1
            if n >= 2:  # roll back to the older one, the newer stays
                victim = n - 2
                self.go_on(SECONDS / 3, d, "merge", f"v@s{victim}", "--origin", origin,
                           also_daemon=also_daemon)
                self.same_or_tell(origin, states[victim], f"origin after merge of s{victim}")
                out = self.path("out")
                self.remote("export", f"v@s{n - 1}", "--origin", origin, "-o", out)
                self.same_or_tell(out, states[n - 1], f"s{n - 1} after the merge")
                os.unlink(out)
                states[n - 1:] = [states[n - 1], states[victim]]
        listed = [s["name"].split("@")[-1]
                  for s in self.snapctl("--json", "remote", "ls", "v").json()]
        if len(listed) == 1:  # the table's way
            want = self.path("want")
            self.remote("export", f"v@{listed[0]}", "--origin", origin, "-o", want)
            self.go_on(SECONDS / 3, d, "merge", f"v@{listed[0]}", "--origin", origin,
                       also_daemon=also_daemon)
            self.same_or_tell(origin, want, "origin after the last merge")
        print(f"    {self.kills} kills, {n} generations")

    def test_apply_and_merge_killed_and_run_again(self):
        self.round(also_daemon=0)

    def test_apply_and_merge_and_the_daemon_killed(self):
        self.round(also_daemon=40)
