"""Bearer tokens: made once, kept as hashes, scoped, expiring, revocable. Pure: time and randomness are arguments.

A token is `mr_` and 32 random bytes in base64url. Its SHA-256 is kept: a secret of 256 random bits
needs no slow hash, and checking one must not cost a daemon its cycle.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from millrace.errors import GraphError
from millrace.rights.model import Principal, Right
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
    def principal(self) -> Principal:
        """The principal."""
        return Principal(f"token/{self.id}", self.rights, self.guests)


def new_secret(random: bytes) -> str:
    """A token's text from `SECRET_BYTES` random bytes."""
    assert len(random) == SECRET_BYTES
    return PREFIX + base64.urlsafe_b64encode(random).rstrip(b"=").decode()


def digest_of(secret: str) -> bytes:
    """What is kept instead of the secret; any text has one."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def parse_expiry(text: str) -> int:
    """'8h', '30m', '7d' to seconds, 'never' to 0; ConfigError for anything else."""
    if text.strip().lower() == "never":
        return 0
    return parse_duration_ns(text, "expires (or never)", NS_PER_S, EXPIRY_MAX_NS) // NS_PER_S


class TokenBook:
    """The tokens in force. `changed` is told of each that comes ("new") or goes ("remove")."""

    def __init__(self, changed: Callable[[str, Token], None] = lambda change, token: None) -> None:
        self._changed = changed
        self._tokens: dict[int, Token] = {}
        self._by_digest: dict[bytes, Token] = {}

    def __iter__(self) -> Iterator[Token]:
        return iter(list(self._tokens.values()))

    def get(self, id_: int) -> Token | None:
        """One by its number."""
        return self._tokens.get(id_)

    def __len__(self) -> int:
        return len(self._tokens)

    def demand_room(self) -> None:
        """GraphError where there are too many already."""
        if len(self._tokens) >= TOKENS_MAX:
            raise GraphError(f"there are {TOKENS_MAX} tokens, the maximum; revoke one")

    def add(self, token: Token) -> None:
        """Put one in force."""
        self._tokens[token.id] = self._by_digest[token.digest] = token
        self._changed("new", token)

    def remove(self, id_: int) -> Token | None:
        """Take one out of force."""
        token = self._tokens.pop(id_, None)
        if token is not None:
            del self._by_digest[token.digest]
            self._changed("remove", token)
        return token

    def find(self, digest: bytes, wall_s: int) -> Token | None:
        """The token whose secret has that digest, if it is in force now.

        How long the look takes tells something of digests, which nobody can choose, and nothing of secrets.
        """
        found = self._by_digest.get(digest)
        return found if found is not None and not expired(found, wall_s) else None


def expired(token: Token, wall_s: int) -> bool:
    """Whether its time is over."""
    return token.expires_s != 0 and token.expires_s <= wall_s


def expiry(wall_s: int, lasts_s: int) -> int:
    """When a token that is made now expires; 0, which means never, only for one that lasts forever.

    A wall clock that was never set may stand in 1970 or before.
    """
    return (wall_s + lasts_s or 1) if lasts_s else 0


def _source(address: str) -> str:
    """Whose tries count together: an IPv6 network of one customer (RFC 6177) is one source."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv6Address):
        return str(ip.ipv4_mapped or ipaddress.ip_network((ip, 64), strict=False))
    return str(ip)


class FailureLimit:
    """Slows down who guesses: `burst` wrong tokens from one source, then one every `every_ns`.

    It is asked about wrong tokens only: whoever has a right one is let in, however much others guess beside them.
    """

    SOURCES_MAX = 4096

    def __init__(self, burst: int = 10, every_ns: HostNs = 6 * NS_PER_S) -> None:
        self._burst, self._every_ns = burst, every_ns
        self._debts: OrderedDict[str, tuple[float, HostNs]] = OrderedDict()

    def _debt(self, source: str, now_ns: HostNs) -> float:
        debt, then = self._debts.get(source, (0.0, now_ns))
        return max(0.0, debt - (now_ns - then) / self._every_ns)

    def failed(self, address: str, now_ns: HostNs) -> bool:
        """A wrong token came from there: whether that was one too many."""
        source = _source(address)
        debt = self._debt(source, now_ns)
        if debt + 1.0 > self._burst:
            return True
        self._debts[source] = (debt + 1.0, now_ns)
        self._debts.move_to_end(source)
        while len(self._debts) > self.SOURCES_MAX:
            self._debts.popitem(last=False)
        return False
