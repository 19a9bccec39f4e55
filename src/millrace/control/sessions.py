"""A browser's way in: a session that stands for a secret, and is nothing without it.

The page keeps it in its origin's storage, which is bound to the port as a cookie is not, and sends it as it would a
token. The session says whose secret it stands for and proves that its browser had it; what that secret is now is looked
up again at every request. So it dies with its token, at once, whatever ends that, and outlives a daemon that is started
again. Only those that were signed out are kept.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Iterable

PREFIX = "ms_"
ENDED_MAX = 100
"""Ended sessions that are kept of one secret; beyond that the oldest go. Only whoever has that secret can end more."""


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def is_session(text: str) -> bool:
    """Whether that is a session, in force or not, and no token."""
    return text.startswith(PREFIX) and text.count(".") == 2


class Sessions:
    """They are made and read with this daemon's own key."""

    def __init__(self, key: str, ended: Iterable[tuple[bytes, str]] = ()) -> None:
        self._key = hashlib.sha256(b"sessions\0" + key.encode()).digest()
        self._ended: dict[bytes, dict[str, None]] = {}
        for secret, number in ended:
            self.end(secret, number)

    def _proof(self, whose: str, number: str, secret: bytes) -> str:
        return _text(hmac.digest(self._key, b"\0".join((whose.encode(), number.encode(), secret)), "sha256"))

    def make(self, whose: str, secret: bytes) -> str:
        """A session for a principal's key and the digest of their secret."""
        number = secrets.token_urlsafe(16)
        return f"{PREFIX}{_text(whose.encode())}.{number}.{self._proof(whose, number, secret)}"

    def whose(self, session: str) -> str:
        """Whose secret a session says that it stands for; empty for none."""
        try:
            word = session.removeprefix(PREFIX).partition(".")[0]
            return base64.b64decode(word + "=" * (-len(word) % 4), b"-_", validate=True).decode()
        except ValueError:
            return ""

    def proven(self, session: str, secret: bytes) -> str | None:
        """The session's number, if its browser had the secret with that digest and was not signed out."""
        _, _, rest = session.partition(".")
        number, _, proof = rest.partition(".")
        try:
            right = hmac.compare_digest(proof, self._proof(self.whose(session), number, secret))
        except (TypeError, UnicodeEncodeError):
            return None
        return number if right and not self.over(secret, number) else None

    def over(self, secret: bytes, number: str) -> bool:
        """Whether that one was signed out."""
        return number in self._ended.get(secret, {})

    def end(self, secret: bytes, number: str) -> None:
        """Sign one out."""
        ended = self._ended.setdefault(secret, {})
        ended[number] = None
        if len(ended) > ENDED_MAX:
            del ended[next(iter(ended))]
