"""How a listener reaches its daemon: this user's own through the private unix socket, without a token; any other with
credentials."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError

from millrace.client.options import ListenerOptions
from millrace.errors import (
    BY_LISTENER_WORD,
    ConfigError,
    GraphError,
    MillraceError,
    NoDaemon,
    PeerLost,
    RemoteProtocolError,
    RightsError,
)
from millrace.io.crypto import NOT_TLS, certificate_trouble, client_tls
from millrace.io.paths import API_SOCKET, runtime_dir
from millrace.text import SHOWN_MAX, printable, quoted
from millrace.wire.peer.messages import REASON

ASK_S = 5.0
CONNECT_S = 5.0
CLOSE_S = 2.0
"""How long the other side has to complete the closing handshake, whatever it sends meanwhile."""


def is_listeners(url: str) -> bool:
    """Whether the URL names a guest in the form that listeners use."""
    try:
        parts = urlsplit(url)
        return parts.scheme in ("ws", "wss") and bool(parts.hostname and parts.path.strip("/")) and parts.port != 0
    except ValueError:
        return False


async def own_socket(url: str) -> Path | None:
    """The socket of this user's daemon, if `url` is the address it says it listens at; None otherwise.

    wss:// always goes over TLS. No credential is sent over TCP unasked: another user's program may listen there.
    """
    path, parts = runtime_dir() / API_SOCKET, urlsplit(url)
    if parts.scheme != "ws" or not path.is_socket():
        return None
    try:
        async with asyncio.timeout(ASK_S), aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as http:
            async with http.get("http://localhost/api/v1/about") as answer:
                about = await answer.json() if answer.status == 200 else {}
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
        return None
    return path if _is_there(parts, str(about.get("listen", ""))) else None


def _is_there(parts: SplitResult, listen: str) -> bool:
    there = urlsplit(f"//{listen}")
    if not parts.hostname or there.port is None or there.port != (parts.port or 80):
        return False
    asked, found = _addresses(parts.hostname), _addresses(there.hostname or "")
    everywhere = any(ip.is_unspecified for ip in found)
    return bool(asked & found) or (everywhere and any(ip.is_loopback for ip in asked))


def _addresses(host: str) -> set[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """A host's addresses, without a DNS lookup."""
    if host == "localhost":
        return {ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("::1")}
    try:
        return {ipaddress.ip_address(host)}
    except ValueError:
        return set()


def tls_of(url: str, options: ListenerOptions) -> ssl.SSLContext | bool:
    """How to verify the daemon's certificate, and which client certificate to present.

    ConfigError for certificates and a URL without TLS: whoever names some expects TLS.
    """
    if not (options.ca_file or options.cert):
        return not options.insecure
    if not url.startswith("wss:"):
        raise ConfigError(f"--ca and --cert are for TLS: {url} is reached without; with it, the address is wss://…")
    context = client_tls(options.ca_file, options.cert, options.key)
    if options.insecure:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def staying() -> aiohttp.TraceConfig:
    """For a client session: refuse redirects, as browsers do for WebSockets. One could lead from wss:// to a server
    without TLS, or to a stranger's."""
    trace = aiohttp.TraceConfig()
    trace.on_request_redirect.append(_sent_elsewhere)
    return trace


def session(options: ListenerOptions, connector: aiohttp.BaseConnector | None) -> aiohttp.ClientSession:
    """An HTTP session with the credentials that the options give."""
    headers = {"Authorization": f"Bearer {options.token}"} if options.token else {}
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S)
    return aiohttp.ClientSession(timeout=timeout, headers=headers, connector=connector, trace_configs=[staying()])


async def _sent_elsewhere(session: object, about: object, params: aiohttp.TraceRequestRedirectParams) -> None:
    there = params.response.headers.get("Location", "")
    what = "if that is right, use that address, with ws:// or wss://"
    raise RemoteProtocolError(f"{params.url} redirects listeners to {quoted(there, SHOWN_MAX)}; {what}")


@asynccontextmanager
async def parting(websocket: aiohttp.ClientWebSocketResponse) -> AsyncIterator[None]:
    """Close the connection afterwards, within `CLOSE_S`. aiohttp's own timeout for the peer's Close frame starts again
    at every message, so a busy peer could hold it up."""
    try:
        yield
    finally:
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await websocket.close()


def untrusted(url: str, error: aiohttp.ClientConnectorCertificateError) -> RightsError:
    """The error for a daemon's certificate that is not accepted."""
    found, remedy = error.certificate_error, "trust its authority with --ca, or any with --insecure"
    if isinstance(found, ssl.SSLCertVerificationError):
        return RightsError(f"{url}: {certificate_trouble(found, printable(error.host), remedy)}")
    return RightsError(f"{url}: its certificate is not trusted here ({found}); {remedy}")


def hindrance(options: ListenerOptions, url: str, error: Exception) -> str:
    """Why the connection to `url` failed and, where it is known, what to do."""
    if _no_daemon(options, error):
        return f"no daemon answers at {options.socket}; start one with `millrace serve`"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return f"host {printable(error.host)} not found"
    if isinstance(error, aiohttp.ClientSSLError) and getattr(error.os_error, "reason", "") in NOT_TLS:
        return f"{printable(error.host)}:{error.port} does not use TLS; connect with ws:// instead of wss://"
    if isinstance(error, aiohttp.ClientConnectorError) and not isinstance(error, aiohttp.ClientSSLError):
        why = f" ({os.strerror(error.os_error.errno)})" if error.os_error.errno else ""
        return f"can't connect to {printable(error.host)}:{error.port}{why}; is `millrace serve` running there?"
    # What TLS servers do when asked without TLS: Millrace disconnects, nginx answers 400.
    if options.socket is None and url.startswith("ws:") and _may_want_tls(error):
        what = "the server disconnected" if isinstance(error, aiohttp.ServerDisconnectedError) else "the answer is 400"
        return f"{what}; if the server uses TLS, connect with wss://"
    if isinstance(error, aiohttp.WSServerHandshakeError) and error.headers and REASON in error.headers:
        return printable(unquote(error.headers[REASON]))
    if isinstance(error, aiohttp.WSServerHandshakeError):
        unreached = error.status in (502, 503, 504)
        return f"the proxy can't reach the daemon ({error.status})" if unreached else f"the answer is {error.status}"
    return str(error) or type(error).__name__


def demand_http(url: str, error: aiohttp.ClientError) -> None:
    """Raise if what answered does not speak HTTP: it is not Millrace."""
    if isinstance(error, aiohttp.ClientResponseError) and isinstance(error.__cause__, HttpProcessingError):
        tls = "; if it uses TLS, connect with wss://" if url.startswith("ws:") else ""
        raise RemoteProtocolError(
            f"{url}: what answers there does not speak HTTP, so it is not Millrace{tls}"
        ) from None


def setback(url: str, options: ListenerOptions, error: Exception, joined: bool) -> tuple[str, str]:
    """The event of a failed connection that is tried again. What was never there is not lost."""
    why = hindrance(options, url, error)
    return ("lost", why) if joined else ("waiting", f"{why}; trying again until it answers")


def _may_want_tls(error: Exception) -> bool:
    refused = isinstance(error, aiohttp.WSServerHandshakeError) and error.status == 400
    return refused or isinstance(error, aiohttp.ServerDisconnectedError)


def given_up(url: str, options: ListenerOptions, error: Exception, joined: bool) -> PeerLost:
    """The error of a listener that does not reconnect. NoDaemon only if it never joined: later the daemon was there."""
    if _no_daemon(options, error) and not joined:
        return NoDaemon(hindrance(options, url, error))
    return PeerLost(f"{url}: {hindrance(options, url, error)}")


def _no_daemon(options: ListenerOptions, error: Exception) -> bool:
    return options.socket is not None and isinstance(error, aiohttp.ClientConnectorError)


def demand_welcome(
    url: str, options: ListenerOptions, error: aiohttp.WSServerHandshakeError, right: str = "hear"
) -> None:
    """Raise for a refusal that a retry can't cure. `right` is the one that this kind of connection takes."""
    if error.status in (401, 403):
        raise RightsError(f"{url}: access denied ({error.status}); {_needed(url, options, error.status, right)}")
    if error.status == 404 and options.socket is not None:
        name = unquote(urlsplit(url).path[1:])
        raise GraphError(
            f"your daemon has no guest {quoted(name)}; `millrace ls` lists its guests. For another daemon, give ws://HOST:PORT/GUEST"
        )
    if error.status == 404:
        prefix = "or Millrace is not at that address (is a prefix such as /millrace/ missing?)"
        raise GraphError(
            f"{url}: no such guest, or the token has no right to {right} it, {prefix}; run `millrace ls` there"
        )
    if error.status == 200:
        raise RemoteProtocolError(
            f"{url} is a web page, not a Millrace guest: listeners and viewers connect to ws://HOST:PORT/GUEST"
        )
    if error.status == 426:
        why = "the WebSocket request arrived without its upgrade headers"
        raise RemoteProtocolError(f"{url}: {why}; a proxy must forward the Upgrade and Connection headers")


def _needed(url: str, options: ListenerOptions, status: int, right: str) -> str:
    if status == 403 and (options.token or options.cert):
        which, guest = (
            "token" if options.token else "certificate",
            printable(unquote(urlsplit(url).path.split("/")[-1])),
        )
        proxy = "; or a proxy has changed the Host header"
        return f"this {which} may not {right} {guest}: it needs the right `{right}`{proxy}"
    if options.token and status == 401:
        why = "the token is wrong, or it has expired or was revoked or rotated"
        return f"{why}; the owner of that daemon sees the valid ones with `millrace token list`"
    return f"give a token with the right `{right}`, with --token-file or MILLRACE_TOKEN"


def ending(code: str, why: str) -> MillraceError:
    """The error for the daemon's code; an unknown code is a protocol error."""
    return BY_LISTENER_WORD.get(code, RemoteProtocolError)(why)
