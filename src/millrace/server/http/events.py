"""The registry over a WebSocket: all objects, then every change, as JSON."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any

from aiohttp import WSCloseCode, WSMessage, WSMsgType, web

from millrace.absent import nothing
from millrace.control.plane import Objects
from millrace.control.registry import Encode, json_text
from millrace.control.requests import parsed
from millrace.errors import ConfigError, bare
from millrace.io.later import Later
from millrace.io.turns import Turns
from millrace.rights.model import Principal
from millrace.server.http.connection import CLOSE_TIMEOUT_S
from millrace.text import parse_json
from millrace.wire.arguments import Arguments

log = logging.getLogger("millrace.web")
UNKNOWN = 'the only message accepted here is {"measure": "GUEST"}, or null in place of the guest'
BEHIND = 256 * 1024
"""With more bytes queued than this, the initial listing waits."""
WAITING_MAX = 8 * 1024 * 1024
"""Bytes queued for a watcher; one that leaves more unread is disconnected, and may reconnect."""


class InTurn:
    """A reader for aiohttp's internal loops that schedules each message through `turns` and charges it there."""

    def __init__(self, reader: Any, turns: Turns) -> None:
        self._reader, self._turns = reader, turns

    async def read(self) -> WSMessage:
        """The next message."""
        message: WSMessage = await self._turns.do(self._reader.read())
        return message

    def feed_data(self, message: WSMessage, size: int) -> None:
        """Append a message."""
        self._reader.feed_data(message, size)

    def set_exception(self, error: BaseException) -> None:
        """Have it raised when all messages have been read."""
        self._reader.set_exception(error)

    def exception(self) -> BaseException | None:
        """The error that ended the connection."""
        error: BaseException | None = self._reader.exception()
        return error


class WebSocket(web.WebSocketResponse):
    """aiohttp's WebSocket, with its close made to take turns.

    aiohttp's `close` reads on until the peer's Close frame arrives, without yielding while there is anything to read.
    aiohttp also calls it for WebSockets that a handler left open.
    """

    def __init__(self, turns: Turns, **options: Any) -> None:
        super().__init__(autoping=False, **options)
        self._turns = turns

    async def close(self, *, code: int = WSCloseCode.OK, message: bytes = b"", drain: bool = True) -> bool:
        """See aiohttp."""
        if self._reader is not None and not isinstance(self._reader, InTurn):
            self._reader = InTurn(self._reader, self._turns)  # type: ignore[assignment]
        try:
            return await super().close(code=code, message=message, drain=drain)
        finally:
            # Whatever ended the WebSocket was raised in frames that hold it.
            bare(self.exception())
            if self._reader is not None:
                bare(self._reader.exception())


async def messages(websocket: web.WebSocketResponse, turns: Turns) -> AsyncIterator[WSMessage]:
    """Yield text and binary messages until anything else arrives; pings are answered.

    Each message takes a turn: aiohttp buffers a thousand of them, and its own loop would process them all without a
    pause.
    """
    while True:
        message = await websocket.receive()
        if message.type is WSMsgType.PING:
            await websocket.pong(message.data)
        elif message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
            yield message
        elif message.type is not WSMsgType.PONG:
            return
        await turns.turn()


async def hang_up(
    websocket: web.WebSocketResponse, cut: Callable[[], None], code: WSCloseCode = WSCloseCode.OK, why: str = ""
) -> None:
    """Close a WebSocket with a handshake (RFC 6455, section 7.1.1), but cut it off if the peer does not read."""
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await websocket.close(code=code, message=why.encode())
    except TimeoutError:
        cut()


class Measure(Arguments):
    """Ask for a guest's levels, latencies and counters every second; null for none."""

    measure: str | None


# Messages are queued here rather than in the transport, because what waits must be counted, charged and dropped at
# once when the watcher's rights end. A watcher that falls behind is disconnected, not given fewer changes: it could
# not know what it has missed, whereas after reconnecting it is sent everything.
class EventStream:
    """One watcher."""

    def __init__(
        self, objects: Objects, principal: Principal, kinds: frozenset[str] | None, hold: Callable[[int], bool],
        turns: Turns, cut: Callable[[], None] = nothing,
    ) -> None:  # fmt: skip
        """`hold` accounts for so many bytes that wait for it; False if there is no room.

        `cut` aborts the connection, without a Close that nobody would read.
        """
        self.principal, self.kinds = principal, kinds
        self.encode: Encode = json_text
        self._cut = cut
        self._objects = objects
        self._hold, self._turns = hold, turns
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._more = asyncio.Event()
        self._ended = ""
        self._unread = Later(cut)

    def send_objects(self, made: bytes) -> None:
        """See `Watcher`."""
        size = self._size + len(made)
        if size > WAITING_MAX or not self._hold(size):
            why = "it left %d bytes unread" if size > WAITING_MAX else "there is no room for %d bytes that wait for it"
            log.warning(f"a watcher of %s was disconnected: {why}", self.principal.key, size)
            self.give_up()
            return
        self._waiting.append(made)
        self._size = size
        self._more.set()

    def is_behind(self) -> bool:
        """See `Watcher`."""
        return self._size > BEHIND

    def give_up(self) -> None:
        """See `Watcher`."""
        self._let_go()
        self._cut()

    def _let_go(self) -> None:
        self._objects.unwatch(self)
        self._waiting.clear()
        self._size = 0
        self._hold(0)

    def end(self, why: str) -> None:
        """Its principal's rights have ended: send nothing more, and close, without a word if it reads none."""
        self._let_go()
        self._ended = why
        self._unread.begin(CLOSE_TIMEOUT_S)
        self._more.set()

    def lose(self, guest: str) -> None:
        """A guest was removed: a later one of the same name is a different guest."""
        self.principal = self.principal.without(guest)

    async def serve(self, websocket: web.WebSocketResponse) -> None:
        """Serve the watcher until it leaves."""
        sending = self._turns.task(lambda: self._send(websocket))
        self._objects.watch(self)
        try:
            async for message in messages(websocket, self._turns):
                if message.type is not WSMsgType.TEXT:
                    break
                try:
                    asked = parsed(Measure, parse_json(message.data, "the message"))
                except ConfigError:
                    await hang_up(websocket, self._cut, WSCloseCode.INVALID_TEXT, UNKNOWN)
                    break
                self._objects.measure(self, asked.measure)
        finally:
            self._objects.unwatch(self)
            self._unread.close()
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    async def _send(self, websocket: web.WebSocketResponse) -> None:
        while True:
            await self._more.wait()
            self._more.clear()
            if self._ended:
                self._unread.close()
                await hang_up(websocket, self._cut, WSCloseCode.POLICY_VIOLATION, self._ended)
                return
            while self._waiting:
                # The message being sent still counts against the budget: `send_str` may block until the peer reads.
                await websocket.send_str(self._waiting[0].decode())
                if self._waiting:
                    self._size -= len(self._waiting.popleft())
                    self._hold(self._size)
                await self._turns.turn()
