"""A browser's way in: a cookie that stands for a secret, and is nothing without it.

A page can't send a token with a WebSocket. The cookie says whose secret it stands for and proves that its browser had
it; what that secret is now is looked up again at every request. So it dies with its token, at once, whatever ends that,
and outlives a daemon that is started again.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets
import socket


def cookie_name(*what: str) -> str:
    """A name that two daemons behind one host name don't share (cookies know no ports), and one keeps for good."""
    own = "\n".join((socket.gethostname(), str(os.getuid()), *what))
    return f"millrace-{hashlib.sha256(own.encode('utf-8', 'surrogateescape')).hexdigest()[:10]}"


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Cookies:
    """They are made and read with this daemon's own key; none is kept."""

    def __init__(self, name: str, key: str) -> None:
        self.name = name
        self._key = hashlib.sha256(b"cookies\0" + key.encode()).digest()

    def _proof(self, whose: str, nonce: str, secret: bytes) -> str:
        return _text(hmac.digest(self._key, b"\0".join((whose.encode(), nonce.encode(), secret)), "sha256"))

    def make(self, whose: str, secret: bytes) -> str:
        """A cookie for a holder's key and the digest of their secret."""
        nonce = secrets.token_urlsafe(16)
        return f"{_text(whose.encode())}.{nonce}.{self._proof(whose, nonce, secret)}"

    def whose(self, cookie: str) -> str:
        """Whose secret a cookie says that it stands for; empty for none."""
        try:
            word = cookie.partition(".")[0]
            return base64.b64decode(word + "=" * (-len(word) % 4), b"-_", validate=True).decode()
        except ValueError:
            return ""

    def proves(self, cookie: str, secret: bytes) -> bool:
        """Whether its browser had the secret with that digest."""
        _, _, rest = cookie.partition(".")
        nonce, _, proof = rest.partition(".")
        try:
            return hmac.compare_digest(proof, self._proof(self.whose(cookie), nonce, secret))
        except (TypeError, UnicodeEncodeError):
            return False
