"""A small PulseAudio client: plays a float32 signal into a server, as the demo's sample guest does."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from millrace.dsp.convert import SampleFormat, Samples
from millrace.errors import PeerLost, RemoteProtocolError
from millrace.units import default_map
from millrace.wire.pulse.client import Failed, Notice, PulseClientSession, Reply, playback_fields
from millrace.wire.pulse.constants import COOKIE_BYTES, PROTOCOL_VERSION, Command
from millrace.wire.pulse.tagstruct import Spec

_READ_BYTES = 64 * 1024


class PulsePlayer:
    """One connection to a PulseAudio server on a unix socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._wire = PulseClientSession()
        self._requested = 0

    @classmethod
    async def connect(cls, path: Path, name: str) -> PulsePlayer:
        """Connect and set the client's name."""
        player = cls(*await asyncio.open_unix_connection(str(path)))
        await player.ask(Command.AUTH, version=PROTOCOL_VERSION, cookie=bytes(COOKIE_BYTES))
        await player.ask(Command.SET_CLIENT_NAME, props={"application.name": name.encode() + b"\0"})
        return player

    async def ask(self, command: Command, **fields: Any) -> dict[str, Any]:
        """Send a request and return its reply; raises RemoteProtocolError if it is refused."""
        tag = self._wire.send_request(command, fields)
        while True:
            await self._flush()
            for event in await self._events():
                if isinstance(event, Reply) and event.tag == tag:
                    return event.fields
                if isinstance(event, Failed) and event.tag == tag:
                    raise RemoteProtocolError(f"{command.name} failed", event.code)

    async def play(self, signal: Samples, rate: int) -> None:
        """Play (frames, channels) to the end, sending as the server requests data."""
        channels = signal.shape[1]
        data = memoryview(signal.astype("<f4").tobytes())
        numbers = (0,) if channels == 1 else tuple(range(1, channels + 1))
        spec = Spec(SampleFormat.F32LE, channels, rate)
        assert len(default_map(channels)) == len(numbers)
        props = {"media.name": b"sample tune\0"}
        reply = await self.ask(Command.CREATE_PLAYBACK_STREAM, **playback_fields(spec, numbers, props=props))
        self._requested = reply["missing"]
        at = 0
        while at < len(data):
            take = min(self._requested, len(data) - at)
            if take:
                self._wire.send_block(reply["channel"], data[at : at + take])
                at += take
                self._requested -= take
            await self._flush()
            if at < len(data):
                await self._events()
        await self.ask(Command.DRAIN_PLAYBACK_STREAM, channel=reply["channel"])
        await self.ask(Command.DELETE_PLAYBACK_STREAM, channel=reply["channel"])

    async def _flush(self) -> None:
        self._writer.write(self._wire.data_to_send())
        await self._writer.drain()

    async def _events(self) -> list[Any]:
        data = await self._reader.read(_READ_BYTES)
        if not data:
            raise PeerLost("the PulseAudio server closed the connection")
        self._wire.receive(data)
        events = self._wire.events()
        for event in events:
            if isinstance(event, Notice) and event.command is Command.REQUEST:
                self._requested += event.fields["bytes"]
        return events

    async def close(self) -> None:
        """End the connection."""
        self._writer.close()
        await self._writer.wait_closed()
