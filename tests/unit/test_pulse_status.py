"""The description of a PulseAudio stream for users."""

from __future__ import annotations

import pytest

from millrace.doors.pulse.status import PulseStatus
from millrace.rights.grants import UNKNOWN, Identity
from millrace.units import NS_PER_MS


def test_origin_is_described_as_far_as_known() -> None:
    assert PulseStatus("pulse").origin == "it uses PulseAudio"
    assert PulseStatus("pulse").buffer.startswith("the application asked for 0 ms and starts at 0 ms")
    firefox = PulseStatus("pulse", identity=Identity(4711, 1000, "firefox")).origin
    assert firefox == "it uses PulseAudio from firefox (process 4711 of user 1000)"
    stranger = PulseStatus("pulse", identity=UNKNOWN).origin
    assert stranger == "it uses PulseAudio from a connection whose program is not known"


def test_buffer_is_described_with_requested_and_current_fill() -> None:
    status = PulseStatus("pulse", fill_ns=60 * NS_PER_MS, tlength_ns=200 * NS_PER_MS, prebuf_ns=180 * NS_PER_MS)
    assert status.buffer == "the application asked for 200 ms and starts at 180 ms; the buffer holds 60 ms now"
    assert (PulseStatus("pulse").tlength_ns, PulseStatus("pulse").prebuf_ns) == (0, 0)
    with pytest.raises(AttributeError):
        status.tlength_ns = 0  # type: ignore[misc]
    (stage,) = status.stages
    assert (stage.stage, stage.ns) == ("client buffer", 60 * NS_PER_MS)
    assert stage.why == "the application asked for 200 ms"
