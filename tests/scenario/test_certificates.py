"""TLS client certificates: their principals have exactly the rights that the configuration gives to their names."""

from __future__ import annotations

import asyncio
import datetime
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from millrace.client.listener import Listener, ListenerOptions
from millrace.client.outputs import make_output
from millrace.daemon.app import Daemon
from millrace.daemon.config import Config, load
from millrace.errors import ConfigError, RightsError
from millrace.guest.config import GuestConfig
from millrace.io.crypto import client_tls
from millrace.rights.grants import Permission, Verdict
from millrace.rights.model import Certificate, parse_rights
from millrace.server.http.authentication import PROXIED


@dataclass
class Pair:
    """A certificate and its key, as files."""

    cert: Path
    key: Path
    made: x509.Certificate
    secret: ec.EllipticCurvePrivateKey


AUTHORITY_MAY = x509.KeyUsage(
    key_cert_sign=True, crl_sign=True, digital_signature=False, content_commitment=False, key_encipherment=False,
    data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
)  # fmt: skip


def by_the_letter(key: ec.EllipticCurvePublicKey, issuer: Pair | None) -> Iterator[tuple[x509.ExtensionType, bool]]:
    """The extensions that RFC 5280 requires of an authority or of a certificate signed by one, and whether critical."""
    yield x509.SubjectKeyIdentifier.from_public_key(key), False
    if issuer is None:
        yield AUTHORITY_MAY, True
    else:
        yield x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.secret.public_key()), False


def certificate(
    folder: Path, name: str, issuer: Pair | None = None, alternative: str = "", *, bare: bool = False
) -> Pair:
    """An authority, or a certificate signed by `issuer`; `bare` like `openssl req -x509` and `openssl x509 -req`."""
    secret = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder().subject_name(subject).issuer_name(issuer.made.subject if issuer else subject)
        .public_key(secret.public_key()).serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
    )  # fmt: skip
    if alternative:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(alternative)]), critical=False)
    for extension, critical in () if bare else by_the_letter(secret.public_key(), issuer):
        builder = builder.add_extension(extension, critical=critical)
    made = builder.sign(issuer.secret if issuer else secret, hashes.SHA256())
    cert, key = folder / f"{name}.pem", folder / f"{name}.key"
    cert.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key.write_bytes(
        secret.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return Pair(cert, key, made, secret)


@pytest.fixture
def strict(monkeypatch: pytest.MonkeyPatch) -> None:
    """Verification with the stricter defaults of Python 3.13."""
    made = ssl.create_default_context

    def strictly(*args: Any, **options: Any) -> ssl.SSLContext:
        context = made(*args, **options)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    monkeypatch.setattr(ssl, "create_default_context", strictly)


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("bare", [True, False], ids=["bare", "by the letter"])
def test_certificate_gives_the_rights_of_its_name(tmp_path: Path, bare: bool) -> None:
    authority, stranger = (certificate(tmp_path, name, bare=bare) for name in ("authority", "stranger"))
    server = certificate(tmp_path, "server", authority, "localhost", bare=bare)
    alice, eve = (certificate(tmp_path, name, authority, bare=bare) for name in ("alice", "eve"))
    forged = certificate(tmp_path, "forged", stranger, "alice", bare=bare)
    known = Certificate("alice", parse_rights("hear"), frozenset({"alice"}))

    async def main() -> None:
        daemon = Daemon(
            Config(
                "127.0.0.1:0", (GuestConfig("alice"), GuestConfig("bob")), str(server.cert), str(server.key),
                str(authority.cert), (known,), runtime=tmp_path / "r", state=tmp_path / "state.db",
            )
        )  # fmt: skip
        await daemon.start()
        port = daemon.serving.address.rpartition(":")[2]

        async def status(pair: Pair | None, path: str, method: str = "GET", **headers: str) -> int:
            context = client_tls(str(authority.cert))
            if pair is not None:
                context.load_cert_chain(pair.cert, pair.key)
            async with aiohttp.ClientSession() as http:
                async with http.request(
                    method, f"https://localhost:{port}{path}", ssl=context, headers=headers
                ) as answer:
                    return answer.status

        def listener(guest: str, pair: Pair) -> Listener:
            options = ListenerOptions(
                ca_file=str(authority.cert), cert=str(pair.cert), key=str(pair.key), reconnect=False
            )
            return Listener(f"wss://localhost:{port}/{guest}", make_output("null:", "normal"), options)

        try:
            assert await status(alice, "/api/v1/state") == 200
            assert await status(alice, "/api/v1/tokens") == 403
            assert await status(alice, "/bob") == 404
            assert await status(alice, "/alice") == 426
            for name in PROXIED:
                passed_on = await status(alice, "/api/v1/state", **{name: "10.0.0.7"})
                assert passed_on == 401, f"{name}: the certificate is the proxy's own"
            assert await status(eve, "/api/v1/state") == 403
            with pytest.raises(aiohttp.ClientError):
                await status(forged, "/api/v1/state")
            hearing = listener("alice", alice)
            task = asyncio.create_task(hearing.run())
            async with asyncio.timeout(10):
                while not daemon.worker.guest("alice").sessions:
                    await asyncio.sleep(0.01)
            assert daemon.worker.guest("alice").sessions[0].principal.key == "certificate/alice"
            hearing.stop()
            await task
            with pytest.raises(RightsError):
                await listener("alice", eve).run()
        finally:
            await daemon.stop()

    asyncio.run(main())


def test_configuration_assigns_rights_to_certificate_names(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(
        '[tls]\ncert = "c"\nkey = "k"\nclient_ca = "ca"\n'
        '[[tls.client]]\nname = "a@b"\nmay = "hear,speak"\nguests = ["alice"]\n'
    )
    config = load(file)
    assert config.client_ca == "ca"
    assert config.certificates == (Certificate("a@b", parse_rights("hear,speak"), frozenset({"alice"})),)
    for text, message in (
        ('[tls]\n[[tls.client]]\nname = "a"\nmay = "hear"', "needs tls.client_ca"),
        ('[tls]\nclient_ca = "x"\n[[tls.client]]\nname = "a"', "has a name"),
        ('[tls]\nclient_ca = "x"\n[[tls.client]]\nname = "a"\nmay = "fly"', "fly"),
        ('[tls]\nclient_ca = "x"\n[[tls.client]]\nname = "a"\nmay = "hear"\nrole = "x"', "unknown role"),
        ('[guest.alice]\nrights = "fly"', "fly"),
    ):
        file.write_text(text)
        with pytest.raises(ConfigError, match=message):
            load(file)
    file.write_text('[guest.alice]\nrights = "speak,admin"')
    assert load(file).guests[0].rights == parse_rights("see,hear,speak,control,link")
    file.write_text('[guest.alice.grants]\nmicrophone = "prompt"\nmonitor = "deny"')
    assert load(file).guests[0].grants == ((Permission.MICROPHONE, Verdict.PROMPT), (Permission.MONITOR, Verdict.DENY))
    for text in ('microphone = "maybe"', "microphone = 1", 'ear = "allow"'):
        file.write_text(f"[guest.alice.grants]\n{text}")
        with pytest.raises(ConfigError):
            load(file)
    file.write_text('[guest.alice]\nrights = "speak"')
    assert load(file).guests[0].rights == parse_rights("speak")
