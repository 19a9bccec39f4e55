"""Mutated traffic of every wire, in every test run; `python -m bench fuzz` runs for longer, and against a daemon."""

from __future__ import annotations

import pytest

from millrace.wire.pulse.tagstruct import Reader, Writer
from tests.fuzz.parsers import WIRES, Wire, one_session

SESSIONS = 40
HONEST = (
    "pulse: client to daemon", "native: client to daemon", "peer: listener to daemon", "peer: daemon to listener",
    "peer: viewer to daemon", "peer: daemon to viewer",
    "dbus: bus to daemon", "dbus: sound", "dbus: screen", "x11: display to viewer",
)  # fmt: skip


@pytest.mark.parametrize("wire", WIRES, ids=lambda wire: wire.name)
def test_mutated_traffic_is_served_or_refused(wire: Wire) -> None:
    refused = sum(one_session(wire, seed) for seed in range(SESSIONS))
    # One in ten sessions is as it was recorded.
    assert 0 < refused < SESSIONS


def test_recorded_traffic_is_understood() -> None:
    for wire in WIRES:
        assert wire.sessions() and all(session for session in wire.sessions())


@pytest.mark.parametrize("wire", [wire for wire in WIRES if wire.name in HONEST], ids=lambda wire: wire.name)
def test_recorded_sessions_are_processed_to_their_end(wire: Wire) -> None:
    """Otherwise the fuzz would get no further than the first message of each session."""
    for session in wire.sessions():
        take = wire.open()
        for message in session:
            take(message)


def test_sum_beyond_32_bits_is_reported_as_maximum() -> None:
    writer = Writer()
    writer.u32(2**32 + 5)
    assert Reader(bytes(writer.data)).u32() == 2**32 - 1
