"""The cryptography of SPICE, VNC and TLS. It needs randomness and files, so it belongs to io/."""

from __future__ import annotations

import contextlib
import os
import ssl
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from millrace.errors import ConfigError, RemoteProtocolError

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

SPICE_KEY_BITS = 1024
NOT_TLS = frozenset({"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST"})
"""OpenSSL's error reasons when the other side does not speak TLS."""
MISMATCHES = frozenset({"KEY_VALUES_MISMATCH", "NO_CERTIFICATE_ASSIGNED"})
"""OpenSSL's error reasons when a key belongs to another certificate; the second one if it is of another kind, too."""
NO_CERTIFICATE = "NO_CERTIFICATE_OR_CRL_FOUND"
NOT_YET_VALID, EXPIRED, OTHER_NAME, OTHER_ADDRESS = 9, 10, 62, 64
"""OpenSSL's X509_V_ERR_CERT_NOT_YET_VALID, _CERT_HAS_EXPIRED, _HOSTNAME_MISMATCH and _IP_ADDRESS_MISMATCH."""


def spice_ticket(key_der: bytes, password: str) -> bytes:
    """The password and a NUL, encrypted with RSA-OAEP and SHA-1 as the SPICE link requires; 128 bytes."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import padding
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
    from cryptography.hazmat.primitives.hashes import SHA1
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    secret = password.encode() + b"\0"
    # SPICE_MAX_PASSWORD_LENGTH of spice-protocol, NUL included. OAEP with a key of 1,024 bits would hold 86 bytes.
    if len(secret) > 60:
        raise ConfigError("a SPICE password has 59 bytes at most")
    try:
        key = load_der_public_key(key_der)
        if not isinstance(key, RSAPublicKey) or key.key_size != SPICE_KEY_BITS:
            raise ValueError(f"RSA of {SPICE_KEY_BITS} bits is expected")
        return key.encrypt(secret, padding.OAEP(padding.MGF1(SHA1()), SHA1(), None))
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise RemoteProtocolError(f"the SPICE server's key can't be used: {error}") from None


def vnc_answer(challenge: bytes, password: str) -> bytes:
    """RFC 6143, section 7.2.2: the challenge under DES. The key is the password with the bits of each byte reversed."""
    from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
    from cryptography.hazmat.primitives.ciphers import Cipher, modes

    raw = password.encode()[:8].ljust(8, b"\0")
    key = bytes(int(f"{byte:08b}"[::-1], 2) for byte in raw)
    # Three times the same key is single DES.
    encryptor = Cipher(TripleDES(key * 3), modes.ECB()).encryptor()
    return encryptor.update(challenge) + encryptor.finalize()


def _take_private_authorities(context: ssl.SSLContext) -> None:
    """Accept certificates signed by private authorities, as OpenSSL, curl and browsers do.

    Python 3.13 follows RFC 5280 to the letter (VERIFY_X509_STRICT). It refuses an authority without a key usage, and a
    certificate without an authority key identifier, which is what the usual `openssl req -x509` and `openssl x509 -req`
    produce.
    """
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT


def client_tls(ca_file: str, cert: str = "", key: str = "") -> ssl.SSLContext:
    """TLS that trusts `ca_file`, or else the system's authorities, and presents `cert`; ConfigError for a bad file."""
    try:
        context = ssl.create_default_context(cafile=ca_file or None)
    except OSError as error:
        raise _authority_trouble(ca_file, error) from None
    if ca_file:
        _take_private_authorities(context)
    if cert:
        _load_pair(context, cert, key or cert)
    return context


def _load_pair(context: ssl.SSLContext, cert: str, key: str) -> None:
    """Load a certificate chain with its key; ConfigError says which of the two is wrong."""
    for what, path, block in (("certificate", cert, "CERTIFICATE"), ("key", key, "PRIVATE KEY")):
        try:
            text = Path(path).read_bytes()
        except OSError as error:
            raise ConfigError(f"can't read the TLS {what} {path}: {error.strerror}") from None
        if f"{block}-----".encode() not in text:
            raise ConfigError(f"the TLS {what} {path} has no {block} in it: give a file in PEM format")

    def passphrase() -> str:
        # Without this function, OpenSSL would ask on the terminal, which a service does not have.
        raise ConfigError(f"the TLS key {key} is encrypted; decrypt it: openssl pkey -in {key} -out FILE")

    try:
        context.load_cert_chain(cert, key, passphrase)
    except ssl.SSLError as error:
        if error.reason in MISMATCHES:
            raise ConfigError(f"the TLS key {key} does not belong to the certificate {cert}") from None
        raise ConfigError(f"can't use the TLS certificate {cert} with the key {key}: {error.reason or error}") from None


def _authority_trouble(path: str, error: OSError) -> ConfigError:
    """Why the certificates of an authority can't be loaded."""
    none = isinstance(error, ssl.SSLError) and error.reason == NO_CERTIFICATE
    why = "it contains no certificate in PEM format" if none else error.strerror or str(error)
    return ConfigError(f"CA file {path}: {why}")


def _certificate(path: str) -> Certificate | None:
    """The first certificate of a file; None if only OpenSSL understands the file."""
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificate(Path(path).read_bytes())
    except ValueError:
        return None


def hosts_of(cert: str) -> list[str]:
    """The hosts that a certificate is for: names first, then addresses; without patterns such as `*.example`."""
    from cryptography import x509

    first = _certificate(cert)
    try:
        names = None if first is None else first.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound):
        return []
    if names is None:
        return []
    hosts = [name for name in names.get_values_for_type(x509.DNSName) if "*" not in name]
    return [*hosts, *(str(address) for address in names.get_values_for_type(x509.IPAddress))]


def validity_trouble(cert: str, now: datetime) -> str:
    """Why clients won't accept the certificate at `now`; empty if its dates are right."""
    first = _certificate(cert)
    if first is None:
        return ""
    begin, end = first.not_valid_before_utc, first.not_valid_after_utc
    if now > end:
        return f"certificate {cert} expired on {end:%Y-%m-%d}: clients will refuse it; renew it and start again"
    if now < begin:
        return f"certificate {cert} is not valid before {begin:%Y-%m-%d}: clients will refuse it; check the clock"
    return ""


def certificate_trouble(error: ssl.SSLCertVerificationError, host: str, remedy: str) -> str:
    """Why a server's certificate was refused, and what to do; `remedy` is for an authority that is not trusted."""
    if error.verify_code == EXPIRED:
        return "its certificate has expired; the server needs a new one"
    if error.verify_code == NOT_YET_VALID:
        return "its certificate is not valid yet; check the clocks of both machines"
    if error.verify_code in (OTHER_NAME, OTHER_ADDRESS):
        return f"its certificate is not for {host}; connect by a name that is in the certificate"
    return f"its certificate is not trusted here ({error.verify_message}); {remedy}"


def tls_trouble(error: Exception, host: str, where: str) -> str:
    """Why a machine's TLS handshake failed, and what to do."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"TLS: {where}: {certificate_trouble(error, host, 'trust its authority with --ca-file')}"
    reason = getattr(error, "reason", None)
    if reason in NOT_TLS:
        return f"TLS: {where} does not speak TLS; leave out --tls"
    return f"TLS: {reason or error}"


@contextlib.contextmanager
def trusting_nobody() -> Iterator[None]:
    """Within it, Python's default TLS context for clients is made without certificates, so it accepts no server.

    For the import of aiohttp in the daemon, which is not a client of its: aiohttp makes such a context when it is
    imported, and OpenSSL then parses the certificates of all the system's authorities.
    """
    usual = ssl.create_default_context
    ssl.create_default_context = _without_certificates
    try:
        yield
    finally:
        ssl.create_default_context = usual


def _without_certificates(*args: Any, **options: Any) -> ssl.SSLContext:
    """A context for clients that verifies servers, against no authority at all."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


_Stamp: TypeAlias = tuple[tuple[int, int, int], ...]
_trusting: dict[str, tuple[_Stamp, ssl.SSLContext]] = {}


def _stamp(ca_file: str) -> _Stamp:
    """A fingerprint of the CA files, to notice when they change."""
    paths = ssl.get_default_verify_paths()
    found = []
    for path in (ca_file,) if ca_file else (paths.cafile, paths.capath):
        with contextlib.suppress(OSError):
            status = os.stat(path or "")
            found.append((status.st_ino, status.st_size, status.st_mtime_ns))
    return tuple(found)


def trusting(ca_file: str) -> ssl.SSLContext:
    """`client_tls`, cached until the CA file changes: the system has many authorities, all of which are loaded."""
    stamp, made = _stamp(ca_file), _trusting.get(ca_file)
    if made is None or made[0] != stamp:
        made = _trusting[ca_file] = stamp, client_tls(ca_file)
    return made[1]


# Client certificates are asked for but not required (CERT_OPTIONAL): a client without one may still have a token. A
# certificate that is presented must be valid, or the handshake fails.
def server_tls(cert: str, key: str, client_ca: str = "") -> ssl.SSLContext:
    """A server's TLS. With `client_ca`, clients may present a certificate signed by it."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    _load_pair(context, cert, key)
    if client_ca:
        try:
            context.load_verify_locations(client_ca)
        except OSError as error:
            raise _authority_trouble(client_ca, error) from None
        _take_private_authorities(context)
        context.verify_mode = ssl.CERT_OPTIONAL
    return context


def names_in(certificate: dict[str, Any]) -> set[str]:
    """The names in a peer's certificate (from `SSLSocket.getpeercert`): its alternative names and its common name."""
    names = {str(value) for _, value in certificate.get("subjectAltName", ())}
    for part in certificate.get("subject", ()):
        names |= {str(value) for kind, value in part if kind == "commonName"}
    return names
