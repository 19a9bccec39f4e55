"""TLS contexts for clients."""

from __future__ import annotations

import ssl
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from millrace.errors import ConfigError
from millrace.io.crypto import (
    certificate_trouble,
    client_tls,
    hosts_of,
    server_tls,
    tls_trouble,
    trusting_nobody,
    validity_trouble,
)

DAEMON = """
import ssl
made = []
def parsing(self, *args): made.append(self)
ssl.SSLContext.load_default_certs = parsing
from millrace.io.crypto import trusting_nobody
with trusting_nobody():
    import aiohttp.connector
assert not made, "the system's certificates were parsed"
context = aiohttp.connector._SSL_CONTEXT_VERIFIED
assert context.verify_mode == ssl.CERT_REQUIRED and context.check_hostname
"""


def test_context_created_meanwhile_trusts_nobody_and_later_ones_are_normal() -> None:
    usual = ssl.create_default_context
    with trusting_nobody():
        context = ssl.create_default_context()
    assert not context.get_ca_certs() and context.verify_mode is ssl.CERT_REQUIRED and context.check_hostname
    assert ssl.create_default_context is usual


def test_daemon_imports_aiohttp_without_loading_ca_certificates() -> None:
    done = subprocess.run([sys.executable, "-c", DAEMON], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def pair(folder: Path, name: str, *more: str) -> tuple[str, str]:
    """A certificate for localhost, valid from now for a day, and its key."""
    cert, key = folder / f"{name}.pem", folder / f"{name}.key"
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1"]
    made += more
    subprocess.run([*made, "-subj", "/CN=localhost", "-out", cert, "-keyout", key], check=True, capture_output=True)
    return str(cert), str(key)


def test_certificate_outside_its_dates_is_reported(tmp_path: Path) -> None:
    cert, _ = pair(tmp_path, "a")
    now = datetime.now(UTC)
    assert validity_trouble(cert, now + timedelta(hours=1)) == ""
    assert "expired on 2" in validity_trouble(cert, now + timedelta(days=3))
    assert "is not valid before 2" in validity_trouble(cert, now - timedelta(days=3))


def test_hosts_of_a_certificate_are_its_alternative_names(tmp_path: Path) -> None:
    names = "subjectAltName=DNS:*.example,DNS:desk.example,IP:192.0.2.7,IP:2001:db8::7"
    cert, _ = pair(tmp_path, "a", "-addext", names)
    assert hosts_of(cert) == ["desk.example", "192.0.2.7", "2001:db8::7"]
    bare, _ = pair(tmp_path, "b")
    assert hosts_of(bare) == [], "clients go by the alternative names alone"
    (tmp_path / "c.pem").write_text("-----BEGIN TRUSTED CERTIFICATE-----\n")
    assert hosts_of(str(tmp_path / "c.pem")) == []


def test_invalid_tls_file_is_named(tmp_path: Path) -> None:
    (cert, key), (_, other) = pair(tmp_path, "a"), pair(tmp_path, "b")
    server_tls(cert, key)
    with pytest.raises(ConfigError, match=r"the TLS key \S+/b.key does not belong to the certificate \S+/a.pem"):
        server_tls(cert, other)
    with pytest.raises(ConfigError, match=r"can't read the TLS certificate \S+/none.pem: No such file"):
        server_tls(str(tmp_path / "none.pem"), key)
    with pytest.raises(ConfigError, match=r"can't read the TLS key \S+/none.key: No such file"):
        server_tls(cert, str(tmp_path / "none.key"))
    with pytest.raises(ConfigError, match=r"the TLS certificate \S+/a.key has no CERTIFICATE in it: .* PEM"):
        server_tls(key, key)
    with pytest.raises(ConfigError, match=r"the TLS key \S+/a.pem has no PRIVATE KEY in it: .* PEM"):
        server_tls(cert, cert)


def openssl(*words: str) -> None:
    subprocess.run(["openssl", *words], check=True, capture_output=True)


def test_key_of_wrong_kind_or_with_passphrase_is_reported(tmp_path: Path) -> None:
    (cert, key), other, locked = pair(tmp_path, "a"), str(tmp_path / "other.key"), str(tmp_path / "locked.key")
    openssl("genpkey", "-algorithm", "ED25519", "-out", other)
    with pytest.raises(ConfigError, match=r"other.key does not belong to the certificate \S+/a.pem"):
        server_tls(cert, other)
    openssl("pkcs8", "-topk8", "-in", key, "-passout", "pass:word", "-out", locked)
    with pytest.raises(ConfigError, match=r"the TLS key (\S+/locked.key) is encrypted; .* openssl pkey -in \1 -out"):
        server_tls(cert, locked)


def test_unreadable_ca_certificates_are_named(tmp_path: Path) -> None:
    cert, key = pair(tmp_path, "a")
    for given, why in ((key, "it contains no certificate in PEM format"), (f"{key}.none", "No such file or directory")):
        for load in (client_tls, lambda path: server_tls(cert, key, path)):
            with pytest.raises(ConfigError) as said:
                load(given)
            assert str(said.value) == f"CA file {given}: {why}"


@pytest.mark.parametrize(("code", "said"), [
    (10, "has expired; the server needs a new one"), (9, "is not valid yet"), (62, "is not for vm7"),
    (64, "is not for vm7"), (20, "is not trusted here (words); trust its authority with --ca-file"),
])  # fmt: skip
def test_untrusted_certificate_error_says_what_to_do(code: int, said: str) -> None:
    error = ssl.SSLCertVerificationError()
    error.verify_code, error.verify_message = code, "words"
    assert said in tls_trouble(error, "vm7", "vm7:5931")
    assert ("--ca" in certificate_trouble(error, "vm7", "use --ca")) is (code == 20)


def test_port_without_tls_is_reported_as_such() -> None:
    error = ssl.SSLError()
    error.reason = "WRONG_VERSION_NUMBER"
    assert tls_trouble(error, "vm7", "vm7:5930") == "TLS: vm7:5930 does not speak TLS; leave out --tls"
