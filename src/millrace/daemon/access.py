"""Tokens in force: made, found, rotated, revoked; kept by the store before they are acknowledged."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from millrace.daemon.keeper import Keeper
from millrace.errors import RightsError
from millrace.io.clock import wall_ns
from millrace.rights.model import Holder, Right, show_rights
from millrace.rights.tokens import SECRET_BYTES, FailureLimit, Token, TokenBook, digest_of, expired, new_secret
from millrace.units import NS_PER_S, HostNs


def _wall_s() -> int:
    return wall_ns() // NS_PER_S


class Access:
    """Who has which token."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self.limit = FailureLimit()
        self.tokens = TokenBook()
        self.on_end: Callable[[str, str], None] = lambda key, why: None
        """A holder's rights have ended: its key, and why."""
        for token in keeper.store.tokens():
            self.tokens.add(token)

    def find(self, secret: str) -> Token | None:
        """The token in force with this secret."""
        return self.tokens.find(secret, _wall_s())

    def holder_by_token(self, secret: str, address: str, now_ns: HostNs) -> Holder:
        """Who has that token; RightsError for a wrong one, and for whoever has guessed too often."""
        if self.limit.blocked(address, now_ns):
            raise RightsError("too many wrong tokens from there; wait a minute")
        token = self.find(secret)
        if token is None:
            self.limit.failed(address, now_ns)
            raise RightsError("that token is not valid: wrong, expired or revoked")
        return token.holder

    async def new(self, name: str, rights: Right, guests: Iterable[str], lasts_s: int) -> tuple[Token, str]:
        """Make one; returns it with its secret, which is nowhere else."""
        secret, now = new_secret(secrets.token_bytes(SECRET_BYTES)), _wall_s()
        draft = Token(0, name, digest_of(secret), rights, frozenset(guests), now, now + lasts_s if lasts_s else 0)
        async with self._keeper.turn:
            self.tokens.demand_room()
            token = await self._keeper.write(self._keeper.store.add_token, draft)
            self.tokens.add(token)
        return token, secret

    async def rotate(self, id_: int) -> str | None:
        """Another secret for the same token: what runs goes on, the old secret lets nobody in any more."""
        secret = new_secret(secrets.token_bytes(SECRET_BYTES))
        async with self._keeper.turn:
            old = self.tokens.get(id_)
            if old is None:
                return None
            token = replace(old, digest=digest_of(secret))
            await self._keeper.write(self._keeper.store.replace_token, token)
            self.tokens.remove(id_)
            self.tokens.add(token)
        return secret

    async def revoke(self, id_: int) -> bool:
        """End a token, and at once what runs by it; False where there is none."""
        async with self._keeper.turn:
            token = self.tokens.get(id_)
            if token is None:
                return False
            await self._keeper.write(self._keeper.store.remove_token, id_)
            self.tokens.remove(id_)
        self.on_end(token.holder.key, "the token was revoked")
        return True

    def end_expired(self) -> None:
        """End what runs by tokens whose time is over."""
        now = _wall_s()
        for token in self.tokens:
            if expired(token, now):
                self.on_end(token.holder.key, "the token has expired")


def token_view(token: Token) -> dict[str, Any]:
    """What is shown of a token: never its secret, nor the hash of it."""
    return {
        "id": token.holder.key, "name": token.name, "may": show_rights(token.rights), "guests": sorted(token.guests),
        "created": token.created_s, "expires": token.expires_s or None, "expired": expired(token, _wall_s()),
    }  # fmt: skip
