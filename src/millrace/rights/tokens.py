"""Bearer tokens: stored as hashes, scoped, expiring, revocable. Pure: time and randomness are passed in.

A token is `mr_` followed by 32 random bytes in base64url. Only its SHA-256 is stored: a secret of 256 random bits
needs no slow hash, and a check must not take long enough to delay an audio cycle.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from millrace.errors import GraphError, RightsError
from millrace.rights.model import Principal, Right
from millrace.text import parse_duration_ns
from millrace.units import NS_PER_S, HostNs

PREFIX = "mr_"
SECRET_BYTES = 32
TOKENS_MAX = 10_000
EXPIRY_MAX_NS = 36_500 * 86_400 * NS_PER_S
"""A hundred years. Date arithmetic overflows further out; for longer, use `never`."""


@dataclass(frozen=True, slots=True)
class Token:
    """A stored token. Times are wall-clock seconds; `expires_s` 0 means never."""

    id: int
    name: str
    digest: bytes
    rights: Right
    guests: frozenset[str]
    created_s: int
    expires_s: int = 0

    @property
    def principal(self) -> Principal:
        """The principal of this token."""
        key = f"token/{self.id}"
        return Principal(key, self.rights, self.guests, label=self.name or key)


def new_secret(random: bytes) -> str:
    """The text of a token made of `SECRET_BYTES` random bytes."""
    assert len(random) == SECRET_BYTES
    return PREFIX + base64.urlsafe_b64encode(random).rstrip(b"=").decode()


def digest_of(secret: str) -> bytes:
    """The hash that is stored instead of the secret; defined for any text."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def parse_expiry(text: str) -> int:
    """Parse '8h', '30m' or '7d' to seconds, 'never' to 0; ConfigError for anything else."""
    if text.strip().lower() == "never":
        return 0
    return parse_duration_ns(text, "expires (or never)", NS_PER_S, EXPIRY_MAX_NS) // NS_PER_S


class TokenBook:
    """The stored tokens. `changed` is called when one is added ("new") or removed ("remove")."""

    def __init__(self, changed: Callable[[str, Token], None] = lambda change, token: None) -> None:
        self._changed = changed
        self._tokens: dict[int, Token] = {}
        self._by_digest: dict[bytes, Token] = {}

    def __iter__(self) -> Iterator[Token]:
        return iter(list(self._tokens.values()))

    def get(self, id_: int) -> Token | None:
        """Look up a token by number."""
        return self._tokens.get(id_)

    def __len__(self) -> int:
        return len(self._tokens)

    def demand_room(self) -> None:
        """GraphError if the limit is reached."""
        if len(self._tokens) >= TOKENS_MAX:
            raise GraphError(f"there are {TOKENS_MAX} tokens, the maximum; revoke one")

    def add(self, token: Token) -> None:
        """Add a token."""
        self._tokens[token.id] = self._by_digest[token.digest] = token
        self._changed("new", token)

    def remove(self, id_: int) -> Token | None:
        """Remove a token."""
        token = self._tokens.pop(id_, None)
        if token is not None:
            del self._by_digest[token.digest]
            self._changed("remove", token)
        return token

    def find(self, digest: bytes, wall_s: int) -> Token | None:
        """The token whose secret has this digest, unless it has expired.

        The lookup is not constant-time. Its timing leaks something about digests, which an attacker can't choose, but
        nothing about secrets.
        """
        found = self._by_digest.get(digest)
        return found if found is not None and not expired(found, wall_s) else None


def expired(token: Token, wall_s: int) -> bool:
    """Whether the token has expired."""
    return token.expires_s != 0 and token.expires_s <= wall_s


def expiry(wall_s: int, lasts_s: int) -> int:
    """When a token made now expires. 0 means never, so it is returned only for `lasts_s` 0.

    A wall clock that was never set may read 1970 or earlier, so the sum can be 0 by accident.
    """
    return (wall_s + lasts_s or 1) if lasts_s else 0


def _source(address: str) -> str:
    """The source that attempts count against. An IPv6 /64 is one source: a customer has at least that (RFC 6177)."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv6Address):
        return str(ip.ipv4_mapped or ipaddress.ip_network((ip, 64), strict=False))
    return str(ip)


class TooManyTries(RightsError):
    """Too many wrong tokens came from this address."""


# A leaky bucket per source. It is asked only about tokens that are wrong, so a guesser behind the same address (NAT, a
# proxy) never locks out a client whose token is right. Memory is bounded by forgetting sources: a guesser with 4,096
# addresses gains a fresh burst for each, against secrets of 256 bits.
class FailureLimit:
    """Rate limit for guessing: `burst` wrong tokens from one source, then one every `every_ns`.

    Only wrong tokens count. A valid token is always accepted, however many guesses arrive from the same address.
    """

    SOURCES_MAX = 4096

    def __init__(self, burst: int = 10, every_ns: HostNs = 6 * NS_PER_S) -> None:
        self._burst, self._every_ns = burst, every_ns
        self._debts: OrderedDict[str, tuple[float, HostNs]] = OrderedDict()

    def _debt(self, source: str, now_ns: HostNs) -> float:
        debt, then = self._debts.get(source, (0.0, now_ns))
        return max(0.0, debt - (now_ns - then) / self._every_ns)

    def failed(self, address: str, now_ns: HostNs) -> bool:
        """Record a wrong token from `address`; True if the limit is exceeded."""
        source = _source(address)
        debt = self._debt(source, now_ns)
        # An attempt over the limit adds no debt, so retrying does not prolong the wait.
        if debt + 1.0 > self._burst:
            return True
        self._debts[source] = (debt + 1.0, now_ns)
        self._debts.move_to_end(source)
        # Bounded memory: forget the sources that have been quiet for longest.
        while len(self._debts) > self.SOURCES_MAX:
            self._debts.popitem(last=False)
        return False
