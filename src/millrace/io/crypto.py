"""What SPICE and VNC want of cryptography: it needs randomness, so it is an effect."""

from __future__ import annotations

import ssl
from typing import cast

from millrace.errors import ConfigError, RemoteProtocolError


def spice_ticket(key_der: bytes, password: str) -> bytes:
    """The password and a NUL under RSA-OAEP with SHA-1, as SPICE's link wants it; 128 bytes."""
    from cryptography.hazmat.primitives.asymmetric import padding
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
    from cryptography.hazmat.primitives.hashes import SHA1
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    secret = password.encode() + b"\0"
    if len(secret) > 60:
        raise ConfigError("a SPICE password has at most 59 bytes")
    try:
        key = cast(RSAPublicKey, load_der_public_key(key_der))
        return key.encrypt(secret, padding.OAEP(padding.MGF1(SHA1()), SHA1(), None))
    except (ValueError, AttributeError) as error:
        raise RemoteProtocolError(f"the SPICE server's key can't be used: {error}") from None


def vnc_answer(challenge: bytes, password: str) -> bytes:
    """RFC 6143, section 7.2.2: the challenge under DES, whose key is the password with each byte's bits reversed."""
    from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
    from cryptography.hazmat.primitives.ciphers import Cipher, modes

    raw = password.encode()[:8].ljust(8, b"\0")
    key = bytes(int(f"{byte:08b}"[::-1], 2) for byte in raw)
    # Three times the same key is single DES.
    encryptor = Cipher(TripleDES(key * 3), modes.ECB()).encryptor()
    return encryptor.update(challenge) + encryptor.finalize()


def client_tls(ca_file: str) -> ssl.SSLContext:
    """TLS that trusts `ca_file`, or else the system's authorities; ConfigError if it can't be read."""
    try:
        return ssl.create_default_context(cafile=ca_file or None)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"CA file {ca_file}: {error}") from None
