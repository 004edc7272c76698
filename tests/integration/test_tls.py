# SPDX-License-Identifier: Apache-2.0
"""Certificates: making them, and every way in which one can be wrong."""

import glob
import os
import shutil
import ssl
import stat
import subprocess
import time

import rawclient as rc
from harness import Case
from rawclient import Gone, Refused, connect_tls


def openssl(*args, **kwargs):
    return subprocess.run(["openssl", *args], check=True, capture_output=True, text=True, **kwargs)


class Pki(Case):
    """snapctl pki on its own."""

    def authority(self, name="a"):
        path = self.path(name)
        if not os.path.exists(path):
            self.snapctl("-q", "pki", "init", path)
        return path

    def test_what_it_makes_openssl_verifies(self):
        a = self.authority()
        self.snapctl("pki", "issue", a, "--server", "localhost", "--also", "backup.example",
                     "--also", "192.0.2.7", "--also", "2001:db8::1")
        self.snapctl("pki", "issue", a, "--client", "ann")
        for name, purpose in (("server-localhost", "sslserver"), ("client-ann", "sslclient")):
            openssl("verify", "-x509_strict", "-purpose", purpose, "-crl_check", "-CRLfile",
                    f"{a}/ca.crl", "-CAfile", f"{a}/ca.crt", f"{a}/{name}.crt")
        text = openssl("x509", "-in", f"{a}/server-localhost.crt", "-noout", "-text").stdout
        for word in ("DNS:localhost", "DNS:backup.example", "IP Address:192.0.2.7",
                     "IP Address:2001:DB8:0:0:0:0:0:1"):
            self.assertIn(word, text)

    def test_keys_are_for_their_owner_alone(self):
        a = self.authority()
        self.snapctl("pki", "issue", a, "--client", "ann")
        for key in glob.glob(f"{a}/*.key"):
            self.assertEqual(stat.S_IMODE(os.stat(key).st_mode), 0o600, key)
        self.assertEqual(stat.S_IMODE(os.stat(a).st_mode), 0o700)

    def test_nothing_is_overwritten(self):
        a = self.authority()
        self.snapctl("pki", "issue", a, "--client", "ann")
        with open(f"{a}/client-ann.key", "rb") as f:
            key = f.read()
        self.fails(7, r"holds an authority already", "pki", "init", a)
        self.fails(7, [r"client-ann\.crt exists", "pki revoke"], "pki", "issue", a, "--client",
                   "ann")
        with open(f"{a}/client-ann.key", "rb") as f:
            self.assertEqual(f.read(), key)

    def test_wrong_arguments(self):
        a = self.authority()
        for args in ([], [a, "--server", "x", "--client", "y"], [a, "x", "--client", "y"],
                     [a, "--client", "a/b"], [a, "--client", ""], [a, "--client", "x" * 200],
                     [a, "--client", "x\n"], [a, "--client", "x", "--days", "0"],
                     [a, "--client", "x", "--days", "x"], [a, "--client", "x", "--days", "99999"],
                     [a, "--client", "x", "--also", "y"], [a]):
            self.fails(2, ".", "pki", "issue", *args)
        for args in ([], [a], [a, "x", "y"], [a, "--server", "x", "--client", "x"]):
            self.fails(2, ".", "pki", "revoke", *args)
        self.fails(2, ".", "pki", "init")
        self.assertEqual(len(os.listdir(a)), 3)

    def test_an_authority_that_is_not_there_or_damaged(self):
        self.fails(6, r"nowhere", "pki", "issue", self.path("nowhere"), "--client", "x")
        a = self.authority()
        self.fails(6, r"no certificate of 'bob'", "pki", "revoke", a, "bob")
        for name in ("ca.key", "ca.crt"):
            b = self.path("b-" + name)
            shutil.copytree(a, b)
            with open(f"{b}/{name}", "w", encoding="ascii") as f:
                f.write("-----BEGIN NONSENSE-----\n")
            self.fails(12, name.replace(".", r"\."), "pki", "issue", b, "--client", "x")
        c = self.authority("c")
        shutil.copy(f"{c}/ca.key", f"{a}/ca.key")
        done = self.snapctl("pki", "issue", a, "--client", "x", code=None)
        self.assertNotEqual(done.code, 0, "a key that is not the certificate's signed")

    def test_a_revoked_name_can_be_issued_again_and_the_old_one_stays_revoked(self):
        a = self.authority()
        serials = []
        for _ in range(3):
            self.snapctl("pki", "issue", a, "--client", "ann")
            serials.append(openssl("x509", "-in", f"{a}/client-ann.crt", "-noout",
                                   "-serial").stdout.strip().split("=")[1])
            self.snapctl("pki", "revoke", a, "ann")
        self.assertEqual(len(set(serials)), 3)
        text = openssl("crl", "-in", f"{a}/ca.crl", "-noout", "-text").stdout
        for serial in serials:
            self.assertIn(serial.upper(), text)


class Tls(Case):
    """A daemon on TLS, and certificates it must or must not let in."""

    def setUp(self):
        super().setUp()
        self.own = self.path("pki")  # an authority of the case's own: it revokes
        shutil.copytree(super().pki(), self.own)
        self.d = self.up(role="admin")

    def pki(self):
        return getattr(self, "own", None) or Case.pki()

    def sign(self, name, extensions, *, ca=None, start=None, end=None):
        """A client certificate by the openssl command, with dates of our choosing."""
        ca = ca or self.pki()
        base = self.path(name)
        openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout",
                base + ".key", "-subj", "/CN=" + name, "-out", base + ".csr")
        work = base + ".ca"
        os.makedirs(work)
        open(f"{work}/index", "w", encoding="ascii").close()
        with open(f"{work}/cnf", "w", encoding="ascii") as f:
            f.write(f"[ca]\ndefault_ca=d\n[d]\ndatabase={work}/index\nnew_certs_dir={work}\n"
                    f"rand_serial=yes\ndefault_md=sha256\npolicy=p\n[p]\n"
                    f"commonName=supplied\n[x]\n{extensions}\n")
        dates = ["-days", "30"]
        if start:
            dates = ["-startdate", start, "-enddate", end]
        openssl("ca", "-batch", "-config", f"{work}/cnf", "-extensions", "x", "-notext", "-cert",
                f"{ca}/ca.crt", "-keyfile", f"{ca}/ca.key", "-in", base + ".csr", "-out",
                base + ".crt", *dates)
        os.chmod(base + ".key", 0o600)
        return base

    def add(self, name, cert, ca=None, server_name=None, host="localhost"):
        self.remote("add", name, f"{host}:{self.d.port}", "--ca", ca or f"{self.pki()}/ca.crt",
                    "--cert", cert + ".crt", "--key", cert + ".key",
                    *(["--server-name", server_name] if server_name else []))

    def other_authority(self, client):
        """Its folder, with a certificate for that client."""
        other = self.path("other")
        self.snapctl("-q", "pki", "init", other)
        self.snapctl("-q", "pki", "issue", other, "--client", client)
        return other

    def refused(self, name, code, says):
        begin = time.monotonic()
        self.fails(code, says, "remote", "--on", name, "ls")
        self.assertLess(time.monotonic() - begin, 10, "it tried for too long what cannot heal")
        self.remote("ls", on="here")

    def test_expired_and_not_yet_valid(self):
        usage = "subjectAltName=DNS:late\nextendedKeyUsage=clientAuth"
        self.add("late", self.sign("late", usage, start="20200101000000Z", end="20210101000000Z"))
        self.refused("late", 9, r"expired")
        self.add("early", self.sign("early", usage, start="20600101000000Z",
                                    end="20610101000000Z"))
        self.refused("early", 9, r"certificate")

    def test_of_another_authority(self):
        other = self.other_authority("ann")
        self.add("stranger", f"{other}/client-ann")
        self.refused("stranger", 9, r"(?i)unknown ca|authority|certificate")
        # and the other way about: the client does not trust the daemon
        self.add("wary", f"{self.pki()}/client-ann", ca=f"{other}/ca.crt")
        self.refused("wary", 9, r"(?i)certificate|authority")

    def test_the_same_authority_name_with_another_key(self):
        """An impostor that copies the names of ours."""
        other = self.other_authority("root")
        self.add("impostor", f"{other}/client-root")
        self.refused("impostor", 9, r"(?i)certificate|authority|ca\b")

    def test_absent(self):
        context = rc.tls_context(self.pki(), certificate=False)
        with self.assertRaises((ssl.SSLError, ConnectionError, Gone)) as got:
            connect_tls(self.d.port, context)
        self.assertRegex(str(got.exception), r"(?i)certificate.required")
        self.remote("ls", on="here")

    def test_revoked_drops_the_live_session_on_sighup_and_lets_no_new_one_in(self):
        bob = connect_tls(self.d.port, rc.tls_context(self.pki(), "bob"))
        ann = connect_tls(self.d.port, rc.tls_context(self.pki(), "ann"))
        bob.ping()
        bob_context = rc.tls_context(self.pki(), "bob")
        self.snapctl("-q", "pki", "revoke", self.pki(), "bob")
        bob.ping()  # nobody told the daemon yet
        self.d.hang_up()
        with self.assertRaises((Gone, Refused)) as got:
            bob.sock.settimeout(10)
            while True:
                bob.step()
        if isinstance(got.exception, Refused):
            self.assertEqual(got.exception.code, rc.EAUTH)
        ann.ping()
        with self.assertRaises((ssl.SSLError, ConnectionError, Gone)) as got:
            connect_tls(self.d.port, bob_context)
        self.assertRegex(str(got.exception), r"(?i)revoked")
        ann.close()

    def test_revoked_is_told_by_snapctl(self):
        for kind in ("crt", "key"):
            shutil.copy(f"{self.pki()}/client-bob.{kind}", self.path(f"bob.{kind}"))
        self.add("bob", self.path("bob"))
        self.remote("ls", on="bob")
        self.snapctl("-q", "pki", "revoke", self.pki(), "bob")
        self.d.hang_up()
        end = time.monotonic() + 10
        while self.remote("ls", on="bob", code=None).code == 0 and time.monotonic() < end:
            time.sleep(0.05)
        self.refused("bob", 9, r"revoked")

    def test_a_server_certificate_is_no_client_certificate(self):
        self.add("server", f"{self.pki()}/server-localhost")
        self.refused("server", 9, r"(?i)certificate")

    def test_without_a_usable_name(self):
        for name, san in (("none", ""), ("strange", "subjectAltName=URI:https://x y/\n")):
            cert = self.sign(name, san + "extendedKeyUsage=clientAuth")
            self.add(name, cert)
            self.refused(name, 9, r"(?i)name")

    def test_identity_is_dns_then_mail_then_uri(self):
        self.remote("create", "v", "--size", "1M", on="here")
        for name, san in (("d", "DNS:dee,email:mail.only"), ("u", "DNS:you")):
            cert = self.sign(name, f"subjectAltName={san}\nextendedKeyUsage=clientAuth")
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.load_verify_locations(f"{self.pki()}/ca.crt")
            context.load_cert_chain(cert + ".crt", cert + ".key")
            r = connect_tls(self.d.port, context)
            message, _ = r.call(rc.M_STATUS)
            self.assertEqual(rc.get(message, 17, b"").decode(), san.split(",")[0][4:])
            r.close()

    def test_a_server_of_another_name(self):
        self.add("elsewhere", f"{self.pki()}/client-ann", server_name="backup.example")
        self.refused("elsewhere", 9, r"does not carry the name")
        self.add("by-address", f"{self.pki()}/client-ann", server_name="192.0.2.1")
        self.refused("by-address", 9, "does not carry the (name|address)")
        self.add("told", f"{self.pki()}/client-ann", host="127.0.0.1", server_name="localhost")
        self.remote("ls", on="told")

    def test_a_key_that_everybody_may_read(self):
        for kind in ("crt", "key"):
            shutil.copy(f"{self.pki()}/client-ann.{kind}", self.path(f"x.{kind}"))
        os.chmod(self.path("x.key"), 0o644)
        self.add("open", self.path("x"))
        self.refused("open", 8, [r"x\.key", "must not be open to all", "0644"])
        os.chmod(self.path("x.key"), 0o600)
        self.remote("ls", on="open")

    def test_files_that_are_missing_or_not_what_they_say(self):
        pki = self.pki()
        for name, files in {
            "no-key": (f"{pki}/ca.crt", f"{pki}/client-ann.crt", self.path("nothing.key")),
            "no-cert": (f"{pki}/ca.crt", self.path("nothing.crt"), f"{pki}/client-ann.key"),
            "no-ca": (self.path("nothing.crt"), f"{pki}/client-ann.crt", f"{pki}/client-ann.key"),
            "pair": (f"{pki}/ca.crt", f"{pki}/client-ann.crt", f"{pki}/client-bob.key"),
            "swapped": (f"{pki}/ca.crt", f"{pki}/client-ann.key", f"{pki}/client-ann.crt"),
        }.items():
            done = self.remote("add", name, f"localhost:{self.d.port}", "--ca", files[0], "--cert",
                               files[1], "--key", files[2], code=None)
            if done.code == 0:
                done = self.remote("ls", on=name, code=None)
            self.assertIn(done.code, (2, 6, 9, 12), name + done.err)
            self.assertRegex(done.err, r"nothing|client-ann|client-bob", name)

    def test_nobody_there(self):
        self.remote("add", "gone", "localhost:1", "--ca", f"{self.pki()}/ca.crt", "--cert",
                    f"{self.pki()}/client-ann.crt", "--key", f"{self.pki()}/client-ann.key")
        self.fails(16, r"localhost:1\b", "remote", "--on", "gone", "ls")
        self.remote("add", "nosock", f"unix:{self.path('nothing')}")
        done = self.remote("ls", on="nosock", code=None)
        self.assertIn(done.code, (6, 16), done.err)
        self.assertRegex(done.err, "nothing")

    def test_the_daemon_refuses_to_start_with_certificates_that_do_not_fit(self):
        pki = self.pki()
        other = self.path("other")
        self.snapctl("-q", "pki", "init", other)
        for what, files in {
            "key of another": ("ca.crt", "server-localhost.crt", "client-ann.key"),
            "no certificate": ("ca.crt", "ca.key", "server-localhost.key"),
            "no file": ("ca.crt", "nothing.crt", "server-localhost.key"),
        }.items():
            d = self.daemon()
            d.write_config = self._config_of(d, pki, files)
            code, log = d.start_fails()
            self.assertNotEqual(code, 0, what)
            self.assertRegex(log, "|".join(files[1:]), what)

    @staticmethod
    def _config_of(d, pki, files):
        def write():
            path = os.path.join(d.dir, "snapwired.conf")
            with open(path, "w", encoding="utf-8") as f:
                f.write(f'state_dir = "{d.state}"\nlisten = {{"127.0.0.1:0"}}\ntls {{\n'
                        f' ca = "{pki}/{files[0]}"\n certificate = "{pki}/{files[1]}"\n'
                        f' key = "{pki}/{files[2]}"\n}}\n')
            return path
        return write

    def test_a_reload_with_broken_certificates_keeps_the_old_ones(self):
        with open(f"{self.pki()}/server-localhost.crt", encoding="ascii") as f:
            good = f.read()
        with open(f"{self.pki()}/server-localhost.crt", "w", encoding="ascii") as f:
            f.write("nonsense")
        self.d.hang_up()
        end = time.monotonic() + 10
        while "reload failed" not in self.d.log() and time.monotonic() < end:
            time.sleep(0.02)
        self.assertRegex(self.d.log(), r"reload failed.*server-localhost\.crt")
        self.remote("ls", on="here")
        with open(f"{self.pki()}/server-localhost.crt", "w", encoding="ascii") as f:
            f.write(good)

    def test_a_renewed_server_certificate_is_shown_after_a_reload(self):
        def serial():
            context = rc.tls_context(self.pki())
            r = connect_tls(self.d.port, context)
            value = r.sock.getpeercert()["serialNumber"]
            r.close()
            return value
        before = serial()
        self.snapctl("-q", "pki", "revoke", self.pki(), "localhost")
        self.snapctl("-q", "pki", "issue", self.pki(), "--server", "localhost")
        self.d.hang_up()
        end = time.monotonic() + 10
        while serial() == before and time.monotonic() < end:
            time.sleep(0.05)
        self.assertNotEqual(serial(), before)
