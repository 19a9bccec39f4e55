"""The cost, in function calls, of the ordinary case: one client writes, nothing is queued, its share is not used up."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from millrace.io.runner import RECEIVE_BYTES, RECEIVE_BYTES_BESIDE
from millrace.wire.pulse.client import Reply, playback_fields
from millrace.wire.pulse.constants import Command
from millrace.wire.pulse.tagstruct import Spec
from tests.turning import Guest, deliver, run

S16 = Spec(3, 2, 48_000)
STEREO = (1, 2)
WRITE_CALLS = 32
"""A tenth more than measured."""


def calls(work: Callable[[], Any]) -> int:
    """The number of Python function calls that `work` makes."""
    count = 0

    def note(frame: FrameType, event: str, _: Any) -> None:
        nonlocal count
        # Some versions of Python call a function for a comprehension, others do not.
        count += event == "call" and not frame.f_code.co_name.startswith("<")

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(before)
    return count


def test_write_costs_little_more_than_its_work() -> None:
    async def test() -> None:
        guest = Guest()
        runner, line, wire = guest.connect()
        wire.send_request(Command.CREATE_PLAYBACK_STREAM, playback_fields(S16, STEREO))
        deliver(runner, wire.data_to_send())
        await guest.idle(runner, line)
        wire.receive(bytes(line.written), 0)
        created = [event for event in wire.events() if isinstance(event, Reply)][-1]
        counts = []
        for _ in range(5):
            wire.send_block(created.fields["channel"], bytes(16_384))
            data = wire.data_to_send()
            counts.append(calls(lambda data=data: deliver(runner, data)))  # type: ignore[misc]
        assert min(counts) <= WRITE_CALLS, counts

    run(test)


def test_connection_is_read_completely_if_nobody_waits() -> None:
    async def test() -> None:
        guest = Guest()
        runner, line, _ = guest.connect()
        assert len(runner.get_buffer(-1)) == RECEIVE_BYTES
        other, _, other_wire = guest.connect()
        for _ in range(100):
            other_wire.send_request(Command.GET_SERVER_INFO, {})
        deliver(other, other_wire.data_to_send())
        assert guest.turns.waiting and len(runner.get_buffer(-1)) < RECEIVE_BYTES_BESIDE
        guest.turns.renew()
        assert len(runner.get_buffer(-1)) == RECEIVE_BYTES_BESIDE
        await guest.idle(runner, line)
        assert len(runner.get_buffer(-1)) == RECEIVE_BYTES

    run(test)
