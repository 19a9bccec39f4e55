"""The daemon's HTTP sockets, and their addresses as shown to users."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import ssl
from datetime import UTC, datetime

from aiohttp import web

from millrace.daemon.config import Config
from millrace.errors import ConfigError
from millrace.io.crypto import hosts_of, server_tls, validity_trouble
from millrace.io.listeners import Acceptor, Listeners, bind_tcp
from millrace.io.metered import Metered
from millrace.io.sockets import EVERYWHERE, reachable_host
from millrace.io.turns import Turns
from millrace.server.http import weblog
from millrace.server.http.connection import HttpConnection
from millrace.text import parse_address, quoted, show_address

log = logging.getLogger("millrace.web")
KEEPALIVE_S = 75.0
READ_BYTES = 16 * 1024
"""What is read ahead of a body whose request waits, twice over."""
STOP_S = 0.5
"""How long requests may take when the daemon stops, and again once they are cancelled."""
LINGER_S = 10.0
"""How long the rest of a body is read after its request was answered, so that the answer arrives."""


# A connection is charged to `strangers`, one share for all that are not authenticated yet, until the gate knows its
# principal. So a flood of connections or of malformed requests takes time from other strangers only.
class Serving:
    """The HTTP sockets of one daemon. Unauthenticated connections are charged to `strangers` alone."""

    def __init__(self, config: Config, listeners: Listeners, strangers: Turns) -> None:
        self._config, self._listeners, self._strangers = config, listeners, strangers
        self._acceptors: list[Acceptor] = []
        self.runners: list[web.AppRunner] = []
        self.address = config.listen
        """HOST:PORT for listeners on this host."""
        self.outward = ""
        """HOST:PORT for listeners elsewhere; empty if only this host can connect."""

    async def serve(
        self, application: web.Application, *socks: socket.socket, tls: ssl.SSLContext | None = None
    ) -> None:
        """Serve an application on bound sockets."""
        runner = web.AppRunner(application, shutdown_timeout=STOP_S)
        self.runners.append(runner)
        await runner.setup()
        server = runner.server
        assert server is not None

        def made() -> Metered:
            connection = HttpConnection(
                server, loop=asyncio.get_running_loop(), logger=weblog.log, access_log=None,  # type: ignore[arg-type]
                keepalive_timeout=KEEPALIVE_S, lingering_time=LINGER_S, read_bufsize=READ_BYTES,
            )  # fmt: skip
            return Metered(connection, self._strangers)

        for sock in socks:
            self._acceptors.append(self._listeners.serve(sock, self._strangers, made, tls))

    async def listen(self, application: web.Application) -> None:
        """Serve it at the configured address; ConfigError if that fails."""
        host, port = parse_address(self._config.listen, "listen")
        tls = self._tls()
        try:
            bound = bind_tcp(host, port)
        except OSError as error:
            raise ConfigError(
                f"can't listen on {quoted(self._config.listen)}: {error.strerror}; use --listen HOST:PORT"
            ) from None
        await self.serve(application, *bound, tls=tls)
        port = bound[-1].getsockname()[1]
        # A wildcard address is for binding; it is not an address to connect to.
        self.address = show_address("127.0.0.1" if host in EVERYWHERE else host, port)
        if all(_is_loopback(sock) for sock in bound):
            return
        self.outward = show_address(self._certified(reachable_host(host)), port)
        if tls is None:
            log.warning(
                "tokens, sound, screens and keys of those who connect to %s from other machines are not encrypted: use "
                "--tls-cert and --tls-key, or a proxy on this machine (docs/proxy.md)", self._config.listen,
            )  # fmt: skip

    def _certified(self, host: str) -> str:
        """The host for which clients accept the certificate: `host`, unless it is only for others."""
        hosts = hosts_of(self._config.tls_cert) if self._config.tls_cert else []
        return host if host in hosts or not hosts else hosts[0]

    def _tls(self) -> ssl.SSLContext | None:
        cert, key = self._config.tls_cert, self._config.tls_key
        if not cert and not key and not self._config.client_ca:
            return None
        if not (cert and key):
            raise ConfigError(
                "TLS needs both a certificate and its key: tls.cert and tls.key, or --tls-cert and --tls-key"
            )
        context = server_tls(cert, key, self._config.client_ca)
        trouble = validity_trouble(cert, datetime.now(UTC))
        if trouble:
            log.warning("%s", trouble)
        return context

    def close(self) -> None:
        """Stop accepting connections."""
        for acceptor in self._acceptors:
            acceptor.close()

    async def cleanup(self) -> None:
        """Close the existing connections."""
        for runner in self.runners:
            await runner.cleanup()

    @property
    def url(self) -> str:
        """URL at which listeners connect, without the guest."""
        return f"{self.scheme}://{self.address}"

    @property
    def outward_url(self) -> str:
        """URL at which listeners elsewhere connect, without the guest."""
        public = self._config.addresses.public_url
        # http://... becomes ws://..., and https://... wss://...
        return f"ws{public.removeprefix('http')}" if public else f"{self.scheme}://{self.outward or self.address}"

    @property
    def scheme(self) -> str:
        """ws, or wss with TLS."""
        return "wss" if self._config.tls_cert else "ws"

    @property
    def page_url(self) -> str:
        """URL of the page. Without TLS it is that on this host, where browsers also play sound."""
        if self._config.addresses.public_url:
            return f"{self._config.addresses.public_url}/"
        return f"https://{self.outward or self.address}/" if self._config.tls_cert else f"http://{self.address}/"

    @property
    def silent_url(self) -> str:
        """URL of the page from elsewhere, where browsers play no sound for want of TLS; empty if there is none."""
        if self._config.addresses.public_url or self._config.tls_cert or self.outward in ("", self.address):
            return ""
        return f"http://{self.outward}/"


def _is_loopback(sock: socket.socket) -> bool:
    """Whether only this host can connect."""
    return ipaddress.ip_address(sock.getsockname()[0]).is_loopback
