"""Who a request comes from.

Each listening socket has a gate, which says whom it lets in by what the kernel knows of the peer alone. At the private
unix socket that is the daemon's own user and root; over TCP nobody, loopback too: a proxy of this user connects from
there as well, and whoever is behind it with it. So there a token, a browser's session that stands for one, or a TLS
client certificate says who it is (docs/decisions/0009-who-is-it.md).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from aiohttp import web

from millrace.control.tokens import Access, TooManyTries
from millrace.errors import RightsError
from millrace.io.crypto import names_in
from millrace.io.peers import is_ours
from millrace.io.sockets import peer_uid
from millrace.rights.model import OWNER, Certificate, Principal
from millrace.rights.tokens import digest_of
from millrace.server.http.origins import Addresses, parse_origin

PROXIED = (
    "Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Port", "X-Real-IP", "Via",
)  # fmt: skip
"""Headers of requests that a proxy passes on."""
BROWSED = ("Origin", "Referer", "Cookie", "Sec-Fetch-Site", "Sec-Fetch-Mode")
"""Headers of browsers, which know no unix sockets."""
ALONE = ("Origin", "Host", "Authorization", "Sec-WebSocket-Protocol")
"""Headers that must not be repeated: with two of them, two readers could each believe a different one."""
SUBPROTOCOL = "millrace"
CREDENTIAL = "millrace.bearer."
"""What a page can give a WebSocket instead of a header: a subprotocol with its credential, which is never chosen."""


class Gate(ABC):
    """Lets requests in, as somebody, or says no."""

    def __init__(self, access: Access, addresses: Addresses) -> None:
        self._access, self._addresses = access, addresses

    @abstractmethod
    def _known(self, request: web.Request) -> Principal | None:
        """Who this is by the connection alone."""

    def principal(self, request: web.Request) -> Principal:
        """Who this is, or the HTTP refusal is raised."""
        try:
            return self._proved(request)
        except web.HTTPException:
            self._access.refused += 1
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
        """Where a request comes from, as far as that is to be believed."""
        return self._addresses.client(
            request.remote or "local", ",".join(request.headers.getall("X-Forwarded-For", ()))
        )

    def scheme(self, request: web.Request) -> str:
        """How the browser sees us: https, http, or empty where only a proxy could tell, and is not trusted to."""
        if request.secure:
            return "https"
        told = request.headers.get("X-Forwarded-Proto", "").lower()
        if self._addresses.trusted(request.remote or ""):
            return told if told in ("http", "https") else ""
        return ""

    def _refuse_foreign_page(self, request: web.Request) -> None:
        """403 for what another site's page made a browser send."""
        text = request.headers.get("Origin")
        if text is None:
            if request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
                raise web.HTTPForbidden(text="requests from other sites' pages are refused\n")
            return
        hosts = [request.headers.get("Host", "")]
        if self._addresses.trusted(request.remote or ""):
            hosts.append(request.headers.get("X-Forwarded-Host", ""))
        origin, scheme = parse_origin(text), self.scheme(request)
        if origin is None or not any(self._addresses.same_site(origin, host, scheme) for host in hosts):
            raise web.HTTPForbidden(
                text="requests from other sites' pages are refused: the page's origin does not match this host;"
                " behind a proxy, set public_url in [daemon]\n"
            )

    def _bearer(self, given: str, address: str) -> Principal:
        try:
            return self._access.admit(given, address)
        except TooManyTries as error:
            raise web.HTTPTooManyRequests(text=f"{error}\n", headers={"Retry-After": "6"}) from None
        except RightsError as error:
            raise web.HTTPUnauthorized(
                text=f"{error}\n", headers={"WWW-Authenticate": 'Bearer realm="millrace", error="invalid_token"'}
            ) from None

    def session(self, request: web.Request) -> tuple[Principal, str | None]:
        """Who begins to use the page, and a session for the token or the link that they come with; None without either.

        A link counts once, here and nowhere else.
        """
        try:
            self._refuse_odd(request)
            given = credential(request)
            secret = self._access.follow_link(given) if given is not None else None
            if secret is None:
                principal = self._proved(request)
                if given is None or principal.session:
                    return principal, None
                secret = digest_of(given)
            return self._access.begin_session(secret)
        except web.HTTPException:
            self._access.refused += 1
            raise


def subprotocols(request: web.Request) -> list[str]:
    """What a WebSocket's client offers to speak."""
    return [one.strip() for one in request.headers.get("Sec-WebSocket-Protocol", "").split(",")]


def _given(request: web.Request) -> list[str]:
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    offered = [one.removeprefix(CREDENTIAL) for one in subprotocols(request) if one.startswith(CREDENTIAL)]
    return ([given.strip()] if scheme.lower() == "bearer" else []) + offered


def credential(request: web.Request) -> str | None:
    """The token or the session that a request comes with, in its header or as a WebSocket's subprotocol."""
    return next(iter(_given(request)), None)


class PrivateGate(Gate):
    """The daemon's own unix socket: this user and root are the owner, unless a proxy speaks for others."""

    def _known(self, request: web.Request) -> Principal | None:
        if any(name in request.headers for name in (*PROXIED, *BROWSED)) or request.transport is None:
            return None
        return OWNER if is_ours(peer_uid(request.transport.get_extra_info("socket"))) else None


class NetworkGate(Gate):
    """TCP: nobody is known but by a certificate, and that is a proxy's own where one passes a request on."""

    def __init__(self, access: Access, addresses: Addresses, certificates: Sequence[Certificate] = ()) -> None:
        super().__init__(access, addresses)
        self._certificates = certificates

    def _known(self, request: web.Request) -> Principal | None:
        if any(name in request.headers for name in PROXIED) or request.transport is None:
            return None
        shown = request.transport.get_extra_info("peercert")
        return self._certified(names_in(shown)) if shown else None

    def _certified(self, names: set[str]) -> Principal:
        """A certificate that our authority has signed: somebody with rights, or nobody."""
        found = next((known for known in self._certificates if known.name in names), None)
        if found is None:
            raise web.HTTPForbidden(
                text=f"no [[tls.client]] has any of this certificate's names: {', '.join(sorted(names))}\n"
            )
        return found.principal
