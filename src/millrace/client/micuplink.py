"""Sends a listener's microphone to the daemon while something in the guest records."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import aiohttp

from millrace.client.microphone import MicrophoneSender, MicrophoneSource
from millrace.codec.settings import CodecSettings
from millrace.dsp.convert import Samples
from millrace.units import HostNs
from millrace.wire.peer.messages import Microphone

WAITING_MAX = 50
"""Packets that may wait to be sent: half a second."""
MICROPHONE = CodecSettings(bitrate=64_000, fec=True, application="audio")


# The source may run all the time, but its blocks are dropped before they are encoded unless something records
# (`speaking`), so no sound from before or after leaves this machine. What is queued when a connection is lost is
# dropped: the next connection begins with a format of its own, which must precede any packet.
class MicrophoneUplink:
    """Captures as long as its listener runs; discards the sound unless something records."""

    def __init__(self, source: MicrophoneSource) -> None:
        self._source = source
        self._sender = MicrophoneSender(source, MICROPHONE, self._queue)
        self._waiting: asyncio.Queue[str | bytes] = asyncio.Queue(WAITING_MAX)

    def start(self) -> None:
        """Start capturing."""
        loop = asyncio.get_running_loop()

        def push(block: Samples) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._sender.feed, block)

        self._source.start(push)

    def stop(self) -> None:
        """Stop capturing."""
        self._source.stop()

    def told(self, state: Microphone, now: HostNs, say: Callable[[str], None]) -> None:
        """The daemon reports whether something records, and whether this listener may speak."""
        if not state.allowed:
            say("this guest does not allow it")
        wanted = state.allowed and state.wanted
        if wanted and not self._sender.speaking:
            say("something in the guest is recording")
            self._sender.begin(now)
        elif not wanted and self._sender.speaking:
            say("nothing in the guest is recording any more")
            self._sender.end()

    def hush(self) -> None:
        """The connection is lost: stop sending, and drop what is queued."""
        self._sender.end()
        while not self._waiting.empty():
            self._waiting.get_nowait()

    def _queue(self, message: str | bytes) -> None:
        """Queue a message, or drop it if the queue is full; the daemon conceals the loss."""
        if not self._waiting.full():
            self._waiting.put_nowait(message)

    async def send_on(self, websocket: aiohttp.ClientWebSocketResponse) -> None:
        """Send queued messages until cancelled."""
        while True:
            message = await self._waiting.get()
            if isinstance(message, str):
                await websocket.send_str(message)
            else:
                await websocket.send_bytes(message)
