"""Browser sessions: each is derived from a secret and valid only together with it.

The page keeps its session in its origin's storage, which unlike a cookie is bound to the port, and sends it in place of
a token. A session names the principal whose secret it stands for and carries a MAC that proves its browser had that
secret. The current secret is looked up on every request. So a session ends together with its token, at once and
whatever ended the token, yet survives a restart of the daemon. Only sessions that were signed out need to be stored.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Iterable

PREFIX = "ms_"
ENDED_MAX = 100
"""Signed-out sessions stored per secret; beyond that the oldest are dropped. Only its holder can sign out more."""


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def is_session(text: str) -> bool:
    """Whether the text has the form of a session, valid or not, rather than of a token."""
    return text.startswith(PREFIX) and text.count(".") == 2


class Sessions:
    """Makes and checks sessions with the daemon's own key."""

    def __init__(self, key: str, ended: Iterable[tuple[bytes, str]] = ()) -> None:
        self._key = hashlib.sha256(b"sessions\0" + key.encode()).digest()
        self._ended: dict[bytes, dict[str, None]] = {}
        for secret, number in ended:
            self.end(secret, number)

    def _proof(self, whose: str, number: str, secret: bytes) -> str:
        return _text(hmac.digest(self._key, b"\0".join((whose.encode(), number.encode(), secret)), "sha256"))

    def make(self, whose: str, secret: bytes) -> str:
        """Make a session for a principal's key and the digest of its secret."""
        number = secrets.token_urlsafe(16)
        return f"{PREFIX}{_text(whose.encode())}.{number}.{self._proof(whose, number, secret)}"

    def whose(self, session: str) -> str:
        """The principal that a session claims to stand for; not verified. Empty if malformed."""
        try:
            word = session.removeprefix(PREFIX).partition(".")[0]
            return base64.b64decode(word + "=" * (-len(word) % 4), b"-_", validate=True).decode()
        except ValueError:
            return ""

    # The proof is compared in constant time. It covers the principal, the number and the secret, so none of them can
    # be exchanged for another's; `over` is asked only for a session that is genuine.
    def proven(self, session: str, secret: bytes) -> str | None:
        """The session's number, if its proof matches the secret's digest and it was not signed out."""
        _, _, rest = session.partition(".")
        number, _, proof = rest.partition(".")
        try:
            right = hmac.compare_digest(proof, self._proof(self.whose(session), number, secret))
        except (TypeError, UnicodeEncodeError):
            return None
        return number if right and not self.over(secret, number) else None

    def over(self, secret: bytes, number: str) -> bool:
        """Whether a session was signed out."""
        return number in self._ended.get(secret, {})

    def end(self, secret: bytes, number: str) -> None:
        """Sign a session out."""
        ended = self._ended.setdefault(secret, {})
        ended[number] = None
        if len(ended) > ENDED_MAX:
            del ended[next(iter(ended))]
