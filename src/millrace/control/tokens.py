"""Access: which principal a secret identifies, and which sessions end with it.

Tokens are created, looked up, rotated and revoked here; each change is in the store before it is acknowledged. Every
session that runs on a principal's rights is registered here, and is ended here when those rights end.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial

from millrace.control.livesessions import End, Leave, LiveSessions, Lose
from millrace.control.results import TokenView
from millrace.control.sessions import Sessions, is_session
from millrace.control.storefile import NotSaved
from millrace.control.writer import StoreWriter
from millrace.errors import RightsEnded, RightsError
from millrace.io.clock import now_ns, wall_ns
from millrace.rights.model import ALL_GUESTS, EVERYTHING, OWNER, Principal, Right, show_rights
from millrace.rights.tokens import (
    SECRET_BYTES,
    FailureLimit,
    Token,
    TokenBook,
    TooManyTries,
    digest_of,
    expired,
    expiry,
    new_secret,
)
from millrace.text import key_number
from millrace.units import NS_PER_S, HostNs

log = logging.getLogger("millrace.rights")
CONFIGURED = Principal("configured token", EVERYTHING, frozenset({ALL_GUESTS}), label="configured token")
CONFIGURED_BY = "by token_file, --token-file or $MILLRACE_TOKEN"
LINK_S = 3600
"""Lifetime of a browser's sign-in link. It works once, for whoever follows it first."""
LINKS_MAX = 100
EXPIRY_CHECK_S = 10.0
"""Longest interval between expiry checks while something runs on an expiring token: the wall clock can be set."""


SIGNED_OUT = "the browser was signed out"
SAVE_AGAIN_S = 10.0
"""How long after a failure it is tried again to store what was signed out."""
UNSAVED_MAX = 1000
"""Sessions for which that is tried."""


def _visit(session: str) -> str:
    return f"session/{session}"


def _wall_s() -> int:
    return wall_ns() // NS_PER_S


def new_key() -> str:
    """Generate a secret."""
    return new_secret(secrets.token_bytes(SECRET_BYTES))


# The order of a change: the store first, then memory, then the sessions. A new secret is valid only once it is on
# disk, and a revoked one is off the disk before the revocation is acknowledged, so a crash at any point leaves no
# token that works after that. Signing out is the exception: it takes effect in memory first, because a browser that
# signs out must be out even if the disk is full.
#
# Rights are looked up anew for every request, by the secret's digest, and again when its change has its turn: an old
# secret must not work for as long as its sender withholds the rest of a request. What outlives a request (listeners,
# watchers, connections) does not ask again, so it is registered here and ended when its rights end.
class Access:
    """Secrets, the principals they identify, and the sessions that run on their rights."""

    def __init__(
        self, writer: StoreWriter, configured: str, token_changed: Callable[[str, Token], None],
        ended: Callable[[str], None],
    ) -> None:  # fmt: skip
        """`ended` is called with the key of a principal whose rights have ended."""
        self._writer, self._ended = writer, ended
        self.refused = 0
        """HTTP requests that failed authentication."""
        self.limit = FailureLimit()
        self.tokens = TokenBook(token_changed)
        self.key = ""
        """The owner's secret, from a file that only the owner can read."""
        self._standing: dict[bytes, Principal] = {}
        self._configured_s = _wall_s() if configured else None
        if configured:
            self._standing[digest_of(configured)] = CONFIGURED
        self._links: dict[bytes, HostNs] = {}
        self._live_sessions = LiveSessions()
        self._sessions = Sessions("")
        self._timer: asyncio.TimerHandle | None = None
        self._again: asyncio.TimerHandle | None = None
        self._saving: asyncio.Task[None] | None = None
        self._unsaved: dict[tuple[bytes, str], None] = {}
        """Sessions that were signed out and are not stored yet, by their secret's digest and number."""
        for token in writer.store.tokens():
            self.tokens.add(token)

    def set_key(self, key: str) -> None:
        """Set the secret that identifies the owner."""
        self.key = key
        self._standing[digest_of(key)] = OWNER
        self._sessions = Sessions(key, self._writer.store.ended())

    # -- authentication ------------------------------------------------------------------------

    def views(self) -> list[TokenView]:
        """All tokens, as shown to clients; the configured one too."""
        found = [token_view(token) for token in self.tokens]
        if self._configured_s is None:
            return found
        may, guests = show_rights(CONFIGURED.rights), sorted(CONFIGURED.guests)
        return [TokenView(CONFIGURED.key, CONFIGURED_BY, may, guests, self._configured_s, None, False), *found]

    def find(self, digest: bytes) -> Principal | None:
        """The principal whose secret has this digest, if it is valid now."""
        token = self.tokens.find(digest, _wall_s())
        return self._standing.get(digest) if token is None else token.principal

    def secret_of(self, key: str) -> bytes | None:
        """The digest of the secret of the principal with this key, if it is valid now."""
        token = self._token(key)
        if token is not None:
            return None if expired(token, _wall_s()) else token.digest
        return next((digest for digest, principal in self._standing.items() if principal.key == key), None)

    def let_in(self, secret: str, address: str) -> Principal:
        """The principal of a secret; RightsError if it is wrong. The rate limit never delays a valid one."""
        principal = self.find(digest_of(secret))
        if principal is not None:
            return principal
        if self.limit.failed(address, now_ns()):
            raise TooManyTries("too many wrong tokens from this address; wait a few seconds")
        raise RightsError("the token is wrong, expired or revoked")

    def admit(self, given: str, address: str) -> Principal:
        """The principal of a token or session; RightsError if it is wrong. An ended session is not a guess."""
        known = self.by_session(given)
        if known is None and is_session(given) and self.find(digest_of(given)) is None:
            raise RightsError("this browser's session has ended; sign in again")
        return known or replace(self.let_in(given, address), secret=digest_of(given))

    def by_session(self, session: str) -> Principal | None:
        """The principal of a session, if it is valid now."""
        secret = self.secret_of(self._sessions.whose(session)) if is_session(session) else None
        if secret is None:
            return None
        number, principal = self._sessions.proven(session, secret), self.find(secret)
        return replace(principal, session=number, secret=secret) if principal is not None and number else None

    def begin_session(self, secret: bytes) -> tuple[Principal, str]:
        """Start a session for the valid secret with this digest."""
        principal = self.find(secret)
        assert principal is not None
        return principal, self._sessions.make(principal.key, secret)

    async def sign_out(self, principal: Principal) -> None:
        """End a principal's browser session and what runs on it: in memory at once, even if the disk then fails."""
        secret = self.secret_of(principal.key)
        if secret is None:
            return
        self._sessions.end(secret, principal.session)
        self._live_sessions.end(_visit(principal.session), SIGNED_OUT)
        await self._writer.change(principal.key, partial(self._save_ended, secret, principal.session))

    # What the disk has refused is tried again, or a restart would let the browser in again.
    async def _save_ended(self, secret: bytes, session: str) -> None:
        """Store a session that was signed out."""
        try:
            await self._writer.write(self._writer.store.keep_ended, secret, session, list(self._standing))
        except NotSaved:
            self._unsaved[secret, session] = None
            if len(self._unsaved) > UNSAVED_MAX:
                del self._unsaved[next(iter(self._unsaved))]
            if self._again is None:
                self._again = asyncio.get_running_loop().call_later(SAVE_AGAIN_S, self._try_again)
            raise
        self._unsaved.pop((secret, session), None)

    def _try_again(self) -> None:
        self._again = None
        self._saving = asyncio.get_running_loop().create_task(self._save_all())
        self._saving.add_done_callback(_tried)

    async def _save_all(self) -> None:
        for secret, session in list(self._unsaved):
            await self._writer.change("signed out", partial(self._save_ended, secret, session))

    def new_link(self) -> str:
        """A single-use code that signs a browser in as the owner."""
        code, now = new_key(), now_ns()
        self._links = {kept: until for kept, until in self._links.items() if until > now}
        while len(self._links) >= LINKS_MAX:
            del self._links[next(iter(self._links))]
        self._links[digest_of(code)] = now + LINK_S * NS_PER_S
        return code

    def follow_link(self, code: str) -> bytes | None:
        """The digest of the secret that a link stands for, the first time it is followed; otherwise None."""
        until = self._links.pop(digest_of(code), 0)
        return digest_of(self.key) if until > now_ns() else None

    # -- live sessions -------------------------------------------------------------------------

    def enter(self, principal: Principal, end: End, lose: Lose) -> Leave:
        """Register a session under a principal: see `LiveSessions`. RightsEnded if its rights have ended meanwhile."""
        self._demand_valid(principal)
        keys = (principal.key, _visit(principal.session)) if principal.session else (principal.key,)
        leave = self._live_sessions.enter(keys, end, lose)
        self._arm()
        return leave

    def renewed(self, principal: Principal) -> Principal:
        """The principal of the same secret with its current rights; RightsError if it has none left."""
        secret = self.secret_of(principal.key)
        found = None if secret is None else self.find(secret)
        if found is None:
            raise RightsError(self._over(principal.key) or f"{principal.key} no longer has access")
        return found

    def current(self, principal: Principal) -> Principal:
        """A principal with the rights that it has now; RightsEnded if they have ended since it was authenticated."""
        self._demand_valid(principal)
        token = self._token(principal.key)
        if token is None:
            return principal
        return replace(token.principal, session=principal.session, secret=principal.secret)

    def _demand_valid(self, principal: Principal) -> None:
        why = self._over(principal.key) or self._signed_out(principal)
        if not why and principal.secret and self.find(principal.secret) is None:
            why = "the token was rotated"
        if why:
            raise RightsEnded(why)

    def _signed_out(self, principal: Principal) -> str:
        ended = bool(principal.session) and self._sessions.over(principal.secret, principal.session)
        return SIGNED_OUT if ended else ""

    def _token(self, key: str) -> Token | None:
        kind, _, number = key.partition("/")
        return self.tokens.get(key_number(number)) if kind == "token" else None

    def _over(self, key: str) -> str:
        """Why a principal's rights have ended; empty while they have not."""
        token = self._token(key)
        if token is None:
            return "the token was revoked" if key.startswith("token/") else ""
        return "the token has expired" if expired(token, _wall_s()) else ""

    # The expiry of a token is wall-clock time, which may be set forwards or back at any moment, while a timer counts
    # monotonic time. So it is checked again every `EXPIRY_CHECK_S` at least, but only while something runs on a token
    # that expires.
    def _arm(self) -> None:
        """Schedule the next expiry check, for the first token on which something runs to expire."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        ends = [token.expires_s for key in self._live_sessions if (token := self._token(key)) and token.expires_s]
        if ends:
            wait_s = max(0.0, min(ends) - wall_ns() / NS_PER_S) + 0.01
            self._timer = asyncio.get_running_loop().call_later(min(EXPIRY_CHECK_S, wait_s), self.end_expired)

    def _end(self, key: str, why: str) -> None:
        self._live_sessions.end(key, why)
        self._ended(key)

    def end_expired(self) -> None:
        """End what runs on expired tokens."""
        for key in self._live_sessions:
            why = self._over(key)
            if why:
                self._end(key, why)
        self._arm()

    def close(self) -> None:
        """Stop checking."""
        for timer in (self._timer, self._again):
            if timer is not None:
                timer.cancel()

    # -- tokens --------------------------------------------------------------------------------

    async def new(self, name: str, rights: Right, guests: Iterable[str], lasts_s: int) -> tuple[Token, str]:
        """Create a token; returns it with its secret, which is stored nowhere."""
        secret, now = new_key(), _wall_s()
        draft = Token(0, name, digest_of(secret), rights, frozenset(guests), now, expiry(now, lasts_s))
        async with self._writer.turn:
            self.tokens.demand_room()
            token = await self._writer.write(self._writer.store.add_token, draft)
            self.tokens.add(token)
        return token, secret

    async def rotate(self, id_: int) -> str | None:
        """Replace a token's secret. Running sessions continue; the old secret stops working."""
        secret = new_key()
        async with self._writer.turn:
            old = self.tokens.get(id_)
            if old is None:
                return None
            token = replace(old, digest=digest_of(secret))
            await self._writer.write(self._writer.store.replace_token, token)
            self.tokens.remove(id_)
            self.tokens.add(token)
        return secret

    async def revoke(self, id_: int) -> bool:
        """Revoke a token and end what runs on it; False if there is no such token."""
        async with self._writer.turn:
            token = self.tokens.get(id_)
            if token is None:
                return False
            await self._writer.write(self._writer.store.remove_token, id_)
            self.tokens.remove(id_)
        self._end(token.principal.key, "the token was revoked")
        return True

    def forget_guest(self, name: str) -> None:
        """A guest was removed: drop it from all tokens, and end tokens left without a guest."""
        for token in self.tokens:
            if name not in token.guests:
                continue
            self.tokens.remove(token.id)
            if rest := token.guests - {name}:
                self.tokens.add(replace(token, guests=rest))
                self._live_sessions.lose(token.principal.key, name)
            else:
                self._end(token.principal.key, "the guest was removed")


def _tried(saving: asyncio.Task[None]) -> None:
    """The store has told its own errors, and that it stops."""
    error = None if saving.cancelled() else saving.exception()
    if error is not None and not isinstance(error, NotSaved):
        log.error("sign-outs could not be stored", exc_info=error)


def token_view(token: Token) -> TokenView:
    """A token as shown to clients: never its secret or the hash of it."""
    return TokenView(
        id=token.principal.key, name=token.name, may=show_rights(token.rights), guests=sorted(token.guests),
        created=token.created_s, expires=token.expires_s or None, expired=expired(token, _wall_s()),
    )  # fmt: skip
