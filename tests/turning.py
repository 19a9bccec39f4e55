"""A guest whose work takes virtual time, and connections without sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

from millrace.doors.pulse.client import PulseClient
from millrace.doors.pulse.handlers import HANDLERS
from millrace.doors.pulse.state import ClientState
from millrace.graph.share import SLICE_NS
from millrace.io.runner import StreamRunner
from millrace.io.turns import Turns
from millrace.rights.grants import Subject
from millrace.sim.rig import Rig
from millrace.units import NS_PER_MS
from millrace.wire.pulse.client import PulseClientSession
from millrace.wire.pulse.constants import COOKIE_BYTES, PROTOCOL_VERSION, Command

COST_NS = NS_PER_MS // 4


class HandTurned(Turns):
    """Turns without an event loop: rounds are made by `run`."""

    def _schedule(self) -> None:
        """No loop makes them."""

    def run(self, rounds: int = 10_000) -> int:
        """Make rounds until nothing waits; returns how many there were."""
        for number in range(rounds):
            if not self.waiting:
                return number
            self._round()
        raise AssertionError("work that never ends")


class FakeTransport:
    """A transport that stores what is written, and whether reading is paused."""

    def __init__(self) -> None:
        self.written = bytearray()
        self.reading = True
        self.closed = False
        self.unread = 0

    def pause_reading(self) -> None:
        """See asyncio."""
        self.reading = False

    def resume_reading(self) -> None:
        """See asyncio."""
        self.reading = True

    def write(self, data: bytes) -> None:
        """See asyncio."""
        self.written += data

    def is_closing(self) -> bool:
        """See asyncio."""
        return self.closed

    def close(self) -> None:
        """See asyncio."""
        self.closed = True

    def abort(self) -> None:
        """See asyncio."""
        self.closed = True

    def get_write_buffer_size(self) -> int:
        """See asyncio."""
        return self.unread

    def set_write_buffer_limits(self, high: int) -> None:
        """See asyncio."""


class Guest:
    """A guest's door with connections, where every command takes time by a clock of simulated work."""

    def __init__(self) -> None:
        self.rig = Rig()
        self.worked_ns = 0
        self.done = 0
        self.turns = Turns(lambda: self.worked_ns)

    def _costly(self, handler: Any) -> Any:
        def run(client: PulseClient, request: Any) -> Any:
            self.worked_ns += COST_NS
            self.done += 1
            return handler(client, request)

        return run

    def connect(self) -> tuple[StreamRunner, FakeTransport, PulseClientSession]:
        """An authenticated connection."""
        handlers = {command: self._costly(handler) for command, handler in HANDLERS.items()}
        state = ClientState(self.rig.graph.ids.take(), Subject(ours=True))
        runner = StreamRunner(lambda _, runner: PulseClient(self.rig.door, handlers, state, runner), self.turns)
        transport, wire = FakeTransport(), PulseClientSession(PROTOCOL_VERSION)
        runner.connection_made(cast(asyncio.Transport, transport))
        wire.send_request(Command.AUTH, {"version": PROTOCOL_VERSION, "cookie": bytes(COOKIE_BYTES)})
        return runner, transport, wire

    async def idle(self, runner: StreamRunner, transport: FakeTransport) -> int:
        """Let it finish; returns how many rounds that took, none of which may exceed a share and one command."""
        rounds = 0
        while self.turns.waiting:
            before = self.worked_ns
            await asyncio.sleep(0)
            assert self.worked_ns - before <= SLICE_NS + COST_NS
            rounds += 1
        assert transport.reading
        return rounds


def deliver(runner: StreamRunner, data: bytes) -> None:
    """Deliver bytes to the connection, as the event loop would."""
    buffer = runner.get_buffer(-1)
    assert len(data) <= len(buffer)
    buffer[: len(data)] = data
    runner.buffer_updated(len(data))


def run(test: Callable[[], Awaitable[None]]) -> None:
    """Run in an event loop."""

    async def bounded() -> None:
        async with asyncio.timeout(20):
            await test()

    asyncio.run(bounded())
