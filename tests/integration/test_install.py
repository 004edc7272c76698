# SPDX-License-Identifier: Apache-2.0
"""make install and uninstall, into a folder as packages do."""

import os
import stat
import subprocess

from harness import ROOT, Case, program


class Install(Case):
    def make(self, target, prefix):
        """Nothing is built: the programs are those that are tested."""
        build = os.path.dirname(program("snapctl"))
        if not os.path.exists(os.path.join(build, "libsnapwire.so")):
            self.skipTest("this build has programs only")
        built = ["all"] + [os.path.join(build, x) for x in (
            "libsnapwire.so", "libsnapwire.a", "nbdkit-snapwire-plugin.so",
            "nbdkit-snapwire-guard-plugin.so")]
        old = [word for name in built for word in ("-o", name)]
        done = subprocess.run(["make", "-s", "-C", ROOT, f"BUILD={build}", *old, target,
                               f"prefix={prefix}", f"DESTDIR={self.path('stage')}"],
                              env={k: v for k, v in os.environ.items() if k != "MAKEFLAGS"},
                              umask=0o077, capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def files(self):
        found = {}
        for folder, _, names in os.walk(self.path("stage")):
            for name in names:
                path = os.path.join(folder, name)
                found[os.path.relpath(path, self.path("stage"))] = os.lstat(path).st_mode
        return found

    def test_uninstall_takes_away_what_install_put_there(self):
        for prefix, zsh in (("/usr", "vendor-completions"), ("/usr/local", "site-functions"),
                            ("/opt/snapwire", "site-functions")):
            with self.subTest(prefix):
                self.make("install", prefix)
                there = self.files()
                for name in ("bin/snapctl", "bin/snapwired", "share/man/man8/snapwired.8",
                             "lib/systemd/system/snapwired.service", "include/snapwire.h",
                             f"share/zsh/{zsh}/_snapctl"):
                    self.assertIn(f"{prefix[1:]}/{name}", there)
                for name, mode in there.items():  # whatever the umask is
                    if not stat.S_ISLNK(mode):
                        self.assertEqual(mode & 0o444, 0o444, name)
                self.make("uninstall", prefix)
                self.assertEqual(self.files(), {})

    def test_uninstall_leaves_what_is_not_its_own(self):
        self.make("install", "/usr")
        ours = self.path("stage/etc/snapwire/snapwired.conf")
        with open(ours, "w", encoding="utf-8") as f:
            f.write("# mine\n")
        self.make("uninstall", "/usr")
        self.make("uninstall", "/usr")
        self.assertEqual(list(self.files()), ["etc/snapwire/snapwired.conf"])
