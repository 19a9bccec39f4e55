"""Where the daemon is reached by HTTP: its sockets, and their addresses as people are told them."""

from __future__ import annotations

import socket
import ssl

from aiohttp import web

from millrace.daemon.config import Config
from millrace.errors import ConfigError
from millrace.io.crypto import server_tls
from millrace.io.listeners import Acceptor, Listeners, bind_tcp
from millrace.io.metered import Metered
from millrace.io.sockets import outward_address
from millrace.io.turns import Turns
from millrace.server.http import weblog
from millrace.text import parse_address, quoted, show_address

KEEPALIVE_S = 75.0


class Serving:
    """One daemon's. What strangers cost is charged to nobody else."""

    def __init__(self, config: Config, listeners: Listeners, strangers: Turns) -> None:
        self._config, self._listeners, self._strangers = config, listeners, strangers
        self._acceptors: list[Acceptor] = []
        self.runners: list[web.AppRunner] = []
        self.address = config.listen
        """Where listeners on this host connect."""
        self.outward = ""
        """Where those elsewhere do, if all addresses are listened on."""

    async def serve(
        self, application: web.Application, *socks: socket.socket, tls: ssl.SSLContext | None = None
    ) -> None:
        """Serve an application on sockets that are bound."""
        runner = web.AppRunner(
            application, access_log=None, logger=weblog.log, shutdown_timeout=2.0, keepalive_timeout=KEEPALIVE_S
        )
        self.runners.append(runner)
        await runner.setup()
        server = runner.server
        assert server is not None
        for sock in socks:
            self._acceptors.append(
                self._listeners.serve(sock, self._strangers, lambda: Metered(server(), self._strangers), tls)
            )

    async def listen(self, application: web.Application) -> None:
        """Serve it where the configuration says; ConfigError where that can't be."""
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
        everywhere = host in ("", "::", "0.0.0.0")
        # What is listened on is no address to connect to where it means all of them.
        self.address = show_address("127.0.0.1" if everywhere else host, port)
        self.outward = show_address(found, port) if everywhere and (found := outward_address()) else ""

    def _tls(self) -> ssl.SSLContext | None:
        cert, key = self._config.tls_cert, self._config.tls_key
        if not cert and not key:
            return None
        if not (cert and key):
            raise ConfigError("TLS needs both --tls-cert and --tls-key")
        return server_tls(cert, key, self._config.client_ca)

    def close(self) -> None:
        """Accept nobody any more."""
        for acceptor in self._acceptors:
            acceptor.close()

    async def cleanup(self) -> None:
        """End the connections that there are."""
        for runner in self.runners:
            await runner.cleanup()

    @property
    def url(self) -> str:
        """Where listeners connect, without the guest."""
        return f"{self.scheme}://{self.address}"

    @property
    def scheme(self) -> str:
        """ws, or with TLS wss."""
        return "wss" if self._config.tls_cert else "ws"

    @property
    def page_url(self) -> str:
        """Where the page is."""
        if self._config.addresses.public_url:
            return f"{self._config.addresses.public_url}/"
        return f"{'https' if self._config.tls_cert else 'http'}://{self.address}/"
