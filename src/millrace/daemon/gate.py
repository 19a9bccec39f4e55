"""Who a request comes from, and what they may.

A unix peer is the daemon's own user (the socket is private) and may everything. On TCP a bearer token or a TLS client
certificate says who it is; without either, only this user and root are known on loopback, by the kernel's word. A
request that a foreign web page made (its Origin is not this host) is refused even then: a browser would otherwise let
any page listen in.
"""

from __future__ import annotations

import hmac
import ipaddress
import os
import secrets
from collections import OrderedDict
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

from aiohttp import web

from millrace.daemon.access import Access
from millrace.io.clock import now_ns
from millrace.io.crypto import names_in
from millrace.io.peers import loopback_uid
from millrace.rights.model import ALL_GUESTS, EVERYTHING, OWNER, Certificate, Holder
from millrace.rights.tokens import digest_of

COOKIE = "millrace"
SESSIONS_MAX = 1000
CONFIGURED = Holder("configured token", EVERYTHING, frozenset({ALL_GUESTS}))
LOOPBACK = Holder("loopback", EVERYTHING, frozenset({ALL_GUESTS}))
UidOf = Callable[[tuple[str, int], tuple[str, int]], int | None]


def _address(value: object) -> tuple[str, int] | None:
    if isinstance(value, tuple) and len(value) >= 2:
        return str(value[0]), int(value[1])
    return None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def foreign_page(request: web.Request) -> bool:
    """Whether another site's page sent this."""
    origin = request.headers.get("Origin")
    return origin is not None and urlsplit(origin).netloc != request.host


def loopback_name(request: web.Request) -> bool:
    """DNS rebinding: a page's own host name may resolve to loopback; then Host tells."""
    host = urlsplit(f"//{request.host}").hostname or ""
    if host == "localhost":
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


class Gate:
    """Lets requests in, as somebody, or says no."""

    def __init__(
        self, configured: str, access: Access, certificates: Sequence[Certificate] = (), uid_of: UidOf = loopback_uid
    ) -> None:
        self._configured, self._access, self._uid_of = configured, access, uid_of
        self._certificates = certificates
        self._sessions: OrderedDict[bytes, str] = OrderedDict()
        self.refused = 0

    def holder(self, request: web.Request) -> Holder:
        """Who this is, or the HTTP refusal is raised."""
        try:
            return self._holder(request)
        except web.HTTPException:
            self.refused += 1
            raise

    def _holder(self, request: web.Request) -> Holder:
        if foreign_page(request):
            raise web.HTTPForbidden(text="requests from other sites' pages are refused\n")
        transport = request.transport
        peer = _address(transport.get_extra_info("peername")) if transport is not None else None
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return self._bearer(given.strip(), peer[0] if peer else "unix")
        kept = self._sessions.get(digest_of(request.cookies.get(COOKIE, "")))
        if kept is not None:
            return self._bearer(kept, peer[0] if peer else "unix")
        if peer is None:
            return OWNER
        shown = transport.get_extra_info("peercert") if transport is not None else None
        if shown:
            return self._certified(names_in(shown))
        own = _address(transport.get_extra_info("sockname")) if transport is not None else None
        if own and _is_loopback(peer[0]) and loopback_name(request):
            uid = self._uid_of(peer, own)
            if uid is not None and uid in (os.getuid(), 0):
                return LOOPBACK
        raise web.HTTPUnauthorized(
            text="a bearer token is needed: Authorization: Bearer TOKEN (millrace token new)\n",
            headers={"WWW-Authenticate": 'Bearer realm="millrace"'},
        )

    def session(self, request: web.Request) -> str | None:
        """A cookie that stands for the token of this request; None where it came without. It ends with its token."""
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            return None
        made = secrets.token_urlsafe(32)
        self._sessions[digest_of(made)] = given.strip()
        while len(self._sessions) > SESSIONS_MAX:
            self._sessions.popitem(last=False)
        return made

    def _certified(self, names: set[str]) -> Holder:
        """A certificate that our authority has signed: somebody with rights, or nobody."""
        found = next((known for known in self._certificates if known.name in names), None)
        if found is None:
            raise web.HTTPForbidden(
                text=f"no [[tls.client]] has any of this certificate's names: {', '.join(sorted(names))}\n"
            )
        return found.holder

    def _bearer(self, given: str, address: str) -> Holder:
        if self._access.limit.blocked(address, now_ns()):
            raise web.HTTPTooManyRequests(
                text="too many wrong tokens from there; wait\n", headers={"Retry-After": "60"}
            )
        if self._configured and hmac.compare_digest(given.encode(), self._configured.encode()):
            return CONFIGURED
        token = self._access.find(given)
        if token is not None:
            return token.holder
        self._access.limit.failed(address, now_ns())
        raise web.HTTPUnauthorized(
            text="that token is not valid: wrong, expired or revoked\n",
            headers={"WWW-Authenticate": 'Bearer realm="millrace", error="invalid_token"'},
        )
