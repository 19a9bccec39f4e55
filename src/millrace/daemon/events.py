"""The registry over a WebSocket: what is there, then every change, as JSON."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from aiohttp import WSCloseCode, WSMsgType, web

from millrace.daemon.registry import Encode, json_text
from millrace.rights.model import Holder

if TYPE_CHECKING:
    from millrace.daemon.registry import Registry

WAITING_MAX = 8 * 1024 * 1024
"""Bytes that may wait for a watcher; one that leaves more unread is sent away, and may come again."""


class EventStream:
    """One watcher."""

    def __init__(self, registry: Registry, holder: Holder, kinds: frozenset[str] | None) -> None:
        self.holder, self.kinds = holder, kinds
        self.encode: Encode = json_text
        self._registry = registry
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._more = asyncio.Event()
        self._ended = ""

    def send_objects(self, made: bytes) -> None:
        """See `Watcher`."""
        self._waiting.append(made)
        self._size += len(made)
        self._more.set()

    def end(self, why: str) -> None:
        """Its holder's rights have ended: nothing more is told."""
        self._registry.unwatch(self)
        self._waiting.clear()
        self._ended = why
        self._more.set()

    async def serve(self, line: web.WebSocketResponse) -> None:
        """Until the watcher goes."""
        sending = asyncio.create_task(self._send(line))
        self._registry.watch(self)
        try:
            async for message in line:
                if message.type is not WSMsgType.TEXT:
                    break
        finally:
            self._registry.unwatch(self)
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    async def _send(self, line: web.WebSocketResponse) -> None:
        while True:
            await self._more.wait()
            self._more.clear()
            if self._ended:
                await line.close(code=WSCloseCode.POLICY_VIOLATION, message=self._ended.encode())
                return
            if self._size > WAITING_MAX:
                await line.close(code=1008, message=b"too much was left unread")
                return
            while self._waiting:
                made = self._waiting.popleft()
                self._size -= len(made)
                await line.send_str(made.decode())
