"""Bearer tokens: made once, kept as hashes, scoped, expiring, revocable. Pure: time and randomness are arguments.

A token is `mr_` and 32 random bytes in base64url. Its SHA-256 is kept: a secret of 256 random bits
needs no slow hash, and checking one must not cost a daemon its cycle.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from millrace.errors import ConfigError
from millrace.rights.model import Holder, Right
from millrace.text import parse_duration_ns
from millrace.units import NS_PER_S, HostNs

PREFIX = "mr_"
SECRET_BYTES = 32
TOKENS_MAX = 10_000
EXPIRY_MAX_NS = 36_500 * 86_400 * NS_PER_S
"""A hundred years: longer is never, and calendars end."""


@dataclass(frozen=True, slots=True)
class Token:
    """What is kept of one. Times are wall-clock seconds; `expires_s` 0 is never."""

    id: int
    name: str
    digest: bytes
    rights: Right
    guests: frozenset[str]
    created_s: int
    expires_s: int = 0

    @property
    def holder(self) -> Holder:
        """Who has it."""
        return Holder(f"token/{self.id}", self.rights, self.guests)


def new_secret(random: bytes) -> str:
    """A token's text from `SECRET_BYTES` random bytes."""
    assert len(random) == SECRET_BYTES
    return PREFIX + base64.urlsafe_b64encode(random).rstrip(b"=").decode()


def digest_of(secret: str) -> bytes:
    """What is kept instead of the secret."""
    return hashlib.sha256(secret.encode()).digest()


def parse_expiry(text: str) -> int:
    """'8h', '30m', '7d' to seconds, 'never' to 0; ConfigError for anything else."""
    if text.strip().lower() == "never":
        return 0
    return parse_duration_ns(text, "expires (or never)", NS_PER_S, EXPIRY_MAX_NS) // NS_PER_S


class TokenBook:
    """The tokens in force."""

    def __init__(self) -> None:
        self._tokens: dict[int, Token] = {}

    def __iter__(self) -> Iterator[Token]:
        return iter(list(self._tokens.values()))

    def get(self, id_: int) -> Token | None:
        """One by its number."""
        return self._tokens.get(id_)

    def __len__(self) -> int:
        return len(self._tokens)

    def demand_room(self) -> None:
        """ConfigError where there are too many already."""
        if len(self._tokens) >= TOKENS_MAX:
            raise ConfigError(f"{TOKENS_MAX} tokens at most; revoke some")

    def add(self, token: Token) -> None:
        """Put one in force."""
        self._tokens[token.id] = token

    def remove(self, id_: int) -> Token | None:
        """Take one out of force."""
        return self._tokens.pop(id_, None)

    def find(self, secret: str, wall_s: int) -> Token | None:
        """The token with that secret, if it is in force now. All are compared, in constant time each."""
        digest, found = digest_of(secret), None
        for token in self._tokens.values():
            if hmac.compare_digest(token.digest, digest):
                found = token
        return found if found is not None and not expired(found, wall_s) else None


def expired(token: Token, wall_s: int) -> bool:
    """Whether its time is over."""
    return 0 < token.expires_s <= wall_s


class FailureLimit:
    """Slows down who guesses: `burst` wrong tokens from one address, then one every `every_ns`."""

    ADDRESSES_MAX = 4096

    def __init__(self, burst: int = 10, every_ns: HostNs = 6 * NS_PER_S) -> None:
        self._burst, self._every_ns = burst, every_ns
        self._debts: OrderedDict[str, tuple[float, HostNs]] = OrderedDict()

    def _debt(self, address: str, now_ns: HostNs) -> float:
        debt, then = self._debts.get(address, (0.0, now_ns))
        return max(0.0, debt - (now_ns - then) / self._every_ns)

    def blocked(self, address: str, now_ns: HostNs) -> bool:
        """Whether this address must wait before it tries again."""
        return self._debt(address, now_ns) + 1.0 > self._burst

    def failed(self, address: str, now_ns: HostNs) -> None:
        """A wrong token came from there."""
        self._debts[address] = (self._debt(address, now_ns) + 1.0, now_ns)
        self._debts.move_to_end(address)
        while len(self._debts) > self.ADDRESSES_MAX:
            self._debts.popitem(last=False)
