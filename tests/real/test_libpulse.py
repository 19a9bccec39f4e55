"""What programs see through the real client library: their clock, their flags, their events."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Iterator

import pytest

from .conftest import REQUIRE_ALL, Bus
from .libpulse import ADJUST_LATENCY, AUTO_TIMING_UPDATE, INTERPOLATE_TIMING, Connection, Playback, Spec

pytestmark = pytest.mark.real
S16 = Spec(3, 48_000, 2)
FRAME = 4


def ms(milliseconds: float) -> int:
    return int(milliseconds * 48) * FRAME


@pytest.fixture
def connection(bus: Bus) -> Iterator[Connection]:
    try:
        ctypes.CDLL("libpulse.so.0")
    except OSError:
        (pytest.fail if REQUIRE_ALL else pytest.skip)("libpulse.so.0 is not installed")
    one = Connection(bus.env["PULSE_SERVER"])
    yield one
    one.close()


def clock_of_a_client_that_pauses(connection: Connection, tlength: int, pause: float, wrong: list[str]) -> None:
    """Write as asked, but for a pause every 0.4 s; `pa_stream_get_time` must stay with what was written."""
    flags = INTERPOLATE_TIMING | AUTO_TIMING_UPDATE | ADJUST_LATENCY
    stream = Playback(connection, S16, flags, tlength=ms(tlength))
    began, last, written = time.monotonic(), 0, 0
    while (now := time.monotonic() - began) < 2.5:
        size = stream.writable() if now % (0.4 + pause) < 0.4 else 0
        if size:
            stream.write(bytes(size))
            written += size
        shown = stream.time_us()
        # The library goes on by its own clock for as long as its last question is not answered.
        if shown is not None and not last <= shown <= written / ms(1) * 1000 + 1_000_000:
            wrong.append(f"{tlength} ms, pause {pause}: {shown} after {last} at {now:.2f} s, {written} bytes written")
            return
        last = shown or last
        time.sleep(0.01)
    stream.close()


def test_the_clock_of_a_client_that_pauses_does_not_jump(connection: Connection) -> None:
    wrong: list[str] = []
    cases = [(tlength, pause) for tlength in (50, 100) for pause in (0.1, 0.12)]
    threads = [
        threading.Thread(target=clock_of_a_client_that_pauses, args=(connection, tlength, pause, wrong))
        for tlength, pause in cases
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
