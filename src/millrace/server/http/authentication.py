"""Authentication of HTTP requests.

Each listening socket has a gate, which decides whom it admits on the kernel's peer credentials alone. On the private
unix socket that is the daemon's own user and root. On TCP it is nobody, loopback included: a proxy run by this user
also connects from there, on behalf of anyone behind it. So TCP requests need a token, a browser session that stands for
one, or a TLS client certificate (docs/decisions/0009-who-is-it.md).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from aiohttp import HttpVersion11, web

from millrace.control.plane import Identities
from millrace.errors import RightsError
from millrace.io.crypto import names_in
from millrace.io.peers import is_ours
from millrace.io.sockets import peer_uid
from millrace.rights.model import OWNER, Certificate, Principal
from millrace.rights.tokens import TooManyTries, digest_of
from millrace.server.http.origins import Addresses, parse_origin

PROXIED = (
    "Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Port", "X-Real-IP", "Via",
)  # fmt: skip
"""Headers that proxies add."""
BROWSER_HEADERS = ("Origin", "Referer", "Cookie", "Sec-Fetch-Site", "Sec-Fetch-Mode")
"""Headers that browsers send. Browsers can't use unix sockets, so these requests come through a proxy."""
ALONE = ("Origin", "Host", "Authorization", "Sec-WebSocket-Protocol")
"""Headers that must not be repeated: two parsers could each trust a different copy."""
SUBPROTOCOL = "millrace"
CREDENTIAL = "millrace.bearer."
"""Prefix of a subprotocol that carries a page's credential: a page can't set headers on a WebSocket. Never selected."""


INVALID = {"WWW-Authenticate": 'Bearer realm="millrace", error="invalid_token"'}
"""Header of a 401 for a token or session that is not valid (RFC 6750, section 3)."""


class ForeignPage(web.HTTPForbidden):
    """Another site's page made the browser send the request."""


class Gate(ABC):
    """Authenticates the requests of one socket, or refuses them."""

    def __init__(self, identities: Identities, addresses: Addresses) -> None:
        self._identities, self._addresses = identities, addresses

    @abstractmethod
    def _known(self, request: web.Request) -> Principal | None:
        """The principal that the connection alone identifies, if any."""

    def principal(self, request: web.Request) -> Principal:
        """The principal of a request; raises the HTTP error if there is none."""
        try:
            return self._proved(request)
        except web.HTTPException:
            self._identities.unauthenticated()
            raise

    def _refuse_odd(self, request: web.Request) -> None:
        for name in ALONE:
            if len(request.headers.getall(name, ())) > 1:
                raise web.HTTPBadRequest(text=f"a request can have only one {name} header\n")
        if len(_given(request)) > 1:
            raise web.HTTPBadRequest(text="a request can have only one token\n")
        offered = subprotocols(request)
        if SUBPROTOCOL not in offered and any(one.startswith(CREDENTIAL) for one in offered):
            raise web.HTTPBadRequest(text=f"offer {SUBPROTOCOL} along with {CREDENTIAL}TOKEN\n")
        self._refuse_foreign_page(request)

    def _proved(self, request: web.Request) -> Principal:
        self._refuse_odd(request)
        given = credential(request)
        if given is not None:
            return self._bearer(given, self.address(request))
        known = self._known(request)
        if known is not None:
            return known
        raise web.HTTPUnauthorized(
            text="a token is needed: Authorization: Bearer TOKEN (millrace token new); in a browser, the link that"
            " `millrace page` prints\n",
            headers={"WWW-Authenticate": 'Bearer realm="millrace"'},
        )

    def address(self, request: web.Request) -> str:
        """The client address, taking X-Forwarded-For only from trusted proxies."""
        return self._addresses.client(
            request.remote or "local", ",".join(request.headers.getall("X-Forwarded-For", ()))
        )

    def untrusted_proxy(self, request: web.Request) -> str:
        """The address of a peer that sends X-Forwarded-For without being a trusted proxy; empty if it is none."""
        peer = request.remote or ""
        return "" if "X-Forwarded-For" not in request.headers or self._addresses.trusted(peer) else peer

    def scheme(self, request: web.Request) -> str:
        """The scheme that the browser uses: https or http; empty if unknown, because no trusted proxy tells."""
        if request.secure:
            return "https"
        told = request.headers.get("X-Forwarded-Proto", "").lower()
        if self._addresses.trusted(request.remote or ""):
            return told if told in ("http", "https") else ""
        return ""

    # A page of any site can make a browser send requests here, with the credentials that the connection itself
    # carries (a client certificate, a proxy that adds a token). WebSockets are not even subject to CORS. So the
    # origin that the browser states is compared with the host that was asked, by value, for every request and not
    # only for those that change something.
    def _refuse_foreign_page(self, request: web.Request) -> None:
        """Raise 403 for a request that another site's page made the browser send."""
        text = request.headers.get("Origin")
        if text is None:
            # Browsers send no Origin with many GETs, but do send Sec-Fetch-Site.
            if request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
                raise ForeignPage(text="requests from other sites' pages are refused\n")
            return
        hosts = [request.headers.get("Host", "")]
        if self._addresses.trusted(request.remote or ""):
            hosts.append(request.headers.get("X-Forwarded-Host", ""))
        origin, scheme = parse_origin(text), self.scheme(request)
        if origin is None or not any(self._addresses.same_site(origin, host, scheme) for host in hosts):
            raise ForeignPage(
                text="requests from other sites' pages are refused: the page's origin does not match this host;"
                " behind a proxy, set public_url in [daemon]\n"
            )

    def _bearer(self, given: str, address: str) -> Principal:
        try:
            return self._identities.admit(given, address)
        except TooManyTries as error:
            raise web.HTTPTooManyRequests(text=f"{error}\n", headers={"Retry-After": "6"}) from None
        except RightsError as error:
            raise web.HTTPUnauthorized(text=f"{error}\n", headers=INVALID) from None

    def session(self, request: web.Request) -> tuple[Principal, str | None]:
        """Sign a page in: its principal, and a new session for its token or link. The session is None without either.

        A link works once, and only here.
        """
        try:
            self._refuse_odd(request)
            given = credential(request)
            secret = self._identities.follow_link(given) if given is not None else None
            if secret is None:
                principal = self._proved(request)
                if given is None or principal.session:
                    return principal, None
                secret = digest_of(given)
            return self._identities.begin_session(secret)
        except web.HTTPException:
            self._identities.unauthenticated()
            raise


def subprotocols(request: web.Request) -> list[str]:
    """The subprotocols that a WebSocket client offers."""
    return [one.strip() for one in request.headers.get("Sec-WebSocket-Protocol", "").split(",")]


def _given(request: web.Request) -> list[str]:
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    offered = [one.removeprefix(CREDENTIAL) for one in subprotocols(request) if one.startswith(CREDENTIAL)]
    return ([given.strip()] if scheme.lower() == "bearer" else []) + offered


def credential(request: web.Request) -> str | None:
    """The token or session in a request, from its header or a WebSocket subprotocol."""
    return next(iter(_given(request)), None)


class PrivateGate(Gate):
    """The daemon's own unix socket: its user and root are the owner, unless the request came through a proxy."""

    def _known(self, request: web.Request) -> Principal | None:
        if any(name in request.headers for name in (*PROXIED, *BROWSER_HEADERS)) or request.transport is None:
            return None
        # No program of this user's own speaks HTTP/1.0: it is how nginx forwards unless it is told otherwise.
        if request.version < HttpVersion11:
            return None
        return OWNER if is_ours(peer_uid(request.transport.get_extra_info("socket"))) else None


class NetworkGate(Gate):
    """TCP: only a certificate identifies a connection, and not if a proxy forwards, since it is then the proxy's."""

    def __init__(self, identities: Identities, addresses: Addresses, certificates: Sequence[Certificate] = ()) -> None:
        super().__init__(identities, addresses)
        self._certificates = certificates

    def _known(self, request: web.Request) -> Principal | None:
        if any(name in request.headers for name in PROXIED) or request.transport is None:
            return None
        shown = request.transport.get_extra_info("peercert")
        return self._certified(names_in(shown)) if shown else None

    def _certified(self, names: set[str]) -> Principal:
        """The principal of a certificate that our CA has signed; 403 if the configuration names none for it."""
        found = next((known for known in self._certificates if known.name in names), None)
        if found is None:
            raise web.HTTPForbidden(
                text=f"no [[tls.client]] has any of this certificate's names: {', '.join(sorted(names))}\n"
            )
        return found.principal
