"""aiohttp's connection, made to end in time and to free everything by reference counting."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import cast

from aiohttp import web
from aiohttp.streams import StreamReader

from millrace.errors import bare
from millrace.server.http.reading import SLOWEST, ReadInTime, waiting
from millrace.text import printable

log = logging.getLogger("millrace.web")
CLOSE_TIMEOUT_S = 5.0
"""How long the peer of a connection that is closed may take nothing of what it is still sent."""


# aiohttp keeps errors: in the stream of a request's body, in the task of a request, and as a response (an HTTPException
# is one). A kept error has a traceback, whose frames hold the request, which holds the error: a cycle, which only a
# full collection frees (daemon/collector.py), and everybody can make one. So nothing leaves `_handle_request` as an
# error, and what is kept has no traceback when the request ends, or the connection.
class HttpConnection(web.RequestHandler):
    """One HTTP connection. Every request and every WebSocket begins and ends here, whichever handler serves it."""

    __slots__ = ("_content", "_cut", "_line")

    _content: StreamReader | None
    _cut: asyncio.TimerHandle | None
    _line: asyncio.Transport | None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        self._content, self._cut, self._line = None, None, cast(asyncio.Transport, transport)
        super().connection_made(transport)

    def eof_received(self) -> None:
        """See asyncio: the transport closes, so nothing more can be answered."""
        super().eof_received()
        self.close()

    async def start(self) -> None:
        """See aiohttp: serve requests until the connection ends."""
        try:
            await super().start()
        finally:
            # A transport that is closed stays until its peer has read everything.
            self._cut_unread()
            # aiohttp reads on what a request left of its body, and that may fail after the request has ended.
            bare(None if self._content is None else self._content.exception())
            self._content = None
            for message, _ in self._messages:
                bare(getattr(message, "exc", None))
            self._messages.clear()

    def _cut_unread(self, before: int | None = None) -> None:
        """Cut the closed connection once its peer reads no more; `before` is what was unread at the last look."""
        if self._line is None:
            return
        unread = waiting(self._line)
        if before is not None and unread > before - SLOWEST * CLOSE_TIMEOUT_S:
            self._line.abort()
        else:
            self._cut = self._loop.call_later(CLOSE_TIMEOUT_S, self._cut_unread, unread)

    async def _handle_request(
        self,
        request: web.BaseRequest,
        start_time: float | None,
        request_handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
    ) -> tuple[web.StreamResponse, bool]:
        self._content = request.content
        try:
            response, lost = await super()._handle_request(request, start_time, request_handler)
        except ConnectionError as error:
            bare(error)
            return web.Response(), True
        except Exception as error:
            # When the daemon stops, aiohttp waits for the request, and may give up just before it ends.
            if not self._unawaited(error):
                self.log_exception("Unhandled exception", exc_info=error)
            bare(error)
            return web.Response(), True
        finally:
            bare(request.content.exception())
        if isinstance(response, BaseException):
            bare(response)
        return response, lost

    def _unawaited(self, error: Exception) -> bool:
        """Whether it says that nobody waits for the request's end any more."""
        waiter = self._handler_waiter
        return isinstance(error, asyncio.InvalidStateError) and waiter is not None and waiter.cancelled()

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """See aiohttp: send a response, which must be read in time."""
        try:
            async with ReadInTime(self._line):
                return await super().finish_response(request, resp, start_time)
        except TimeoutError:
            log.warning("web, %s %s: connection ended: the response was not read", request.method, request.path)
            if self._line is not None:
                self._line.abort()
            return resp, True

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """See aiohttp: log an error, and make a response that says so."""
        if message is not None:
            # What the parser could not read follows in its next lines.
            message = printable(message.partition("\n")[0].rstrip(" :"))
        try:
            return super().handle_error(request, status, exc, message)
        finally:
            bare(exc)

    def connection_lost(self, exc: BaseException | None) -> None:
        """See asyncio."""
        super().connection_lost(exc)
        self._line = None
        if self._cut is not None:
            self._cut.cancel()
        # A WebSocket with a heartbeat, which refers to its connection.
        self._data_received_cb = None
