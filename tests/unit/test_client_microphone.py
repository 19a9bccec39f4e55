"""When a listener's microphone is sent, and what a listener reports of what it hears."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from millrace.client.dropouts import PULSE_NS, SKIP_NS, STALL_NS, UNSURE_NS, Dropouts
from millrace.client.microphone import make_microphone
from millrace.client.micuplink import WAITING_MAX, MicrophoneUplink
from millrace.dsp.convert import Samples
from millrace.errors import ConfigError
from millrace.media.audio import AudioPacket
from millrace.sim.signals import sine
from millrace.units import NS_PER_S
from millrace.wire.peer.messages import (
    FormatChanged,
    Microphone,
    Silence,
)
from tests.microphones import MS, NOW, Source, parts

# -- when -----------------------------------------------------------------------------------------


class FakeWebSocket:
    """A WebSocket that keeps what it is given."""

    def __init__(self) -> None:
        self.sent: list[str | bytes] = []

    async def send_str(self, text: str) -> None:
        assert isinstance(text, str)
        self.sent.append(text)

    async def send_bytes(self, data: bytes) -> None:
        assert isinstance(data, bytes)
        self.sent.append(data)


def spoken(test: Callable[[MicrophoneUplink, Source, FakeWebSocket, list[str]], Any]) -> None:
    """A test with a started microphone, and a WebSocket that takes everything."""

    async def main() -> None:
        source, websocket, said = Source(), FakeWebSocket(), list[str]()
        speech = MicrophoneUplink(source)
        speech.start()
        assert source.push is not None
        await test(speech, source, websocket, said)
        speech.stop()
        assert source.push is None

    asyncio.run(main())


async def captured(source: Source, seconds: float) -> None:
    """As a device does it, from a separate thread."""
    assert source.push is not None
    await asyncio.to_thread(source.push, sine(seconds, channels=1))
    await asyncio.sleep(0)


async def taken(speech: MicrophoneUplink, websocket: FakeWebSocket) -> list[type]:
    """Kinds of what has been sent by now."""
    websocket.sent.clear()
    sending = asyncio.create_task(speech.send_on(websocket))  # type: ignore[arg-type]
    for _ in range(WAITING_MAX * 3):
        await asyncio.sleep(0)
    sending.cancel()
    return [type(one) for one in parts(websocket.sent)]


def test_microphone_is_sent_while_allowed_and_recorded() -> None:
    async def test(speech: MicrophoneUplink, source: Source, websocket: FakeWebSocket, said: list[str]) -> None:
        await captured(source, 0.1)
        assert await taken(speech, websocket) == []
        speech.told(Microphone(allowed=True, wanted=False), NOW, said.append)
        await captured(source, 0.1)
        assert await taken(speech, websocket) == [] and said == []
        for _ in range(2):
            speech.told(Microphone(allowed=True, wanted=True), NOW, said.append)
        await captured(source, 0.02)
        assert await taken(speech, websocket) == [FormatChanged, AudioPacket, AudioPacket]
        for _ in range(2):
            speech.told(Microphone(allowed=True, wanted=False), NOW, said.append)
        await captured(source, 0.02)
        assert await taken(speech, websocket) == [Silence]
        assert said == ["something in the guest is recording", "nothing in the guest is recording any more"]

    spoken(test)


def test_microphone_without_right_is_never_sent() -> None:
    async def test(speech: MicrophoneUplink, source: Source, websocket: FakeWebSocket, said: list[str]) -> None:
        speech.told(Microphone(allowed=False, wanted=True), NOW, said.append)
        await captured(source, 0.1)
        assert await taken(speech, websocket) == [] and said == ["this guest does not allow it"]
        speech.told(Microphone(allowed=True, wanted=True), NOW, said.append)
        speech.told(Microphone(allowed=False, wanted=True), NOW, said.append)
        await captured(source, 0.1)
        assert await taken(speech, websocket) == [FormatChanged, Silence]
        assert said[1:] == [
            "something in the guest is recording",
            "this guest does not allow it",
            "nothing in the guest is recording any more",
        ]

    spoken(test)


def test_microphone_file_that_can_not_be_read_is_told_in_words(tmp_path: Path) -> None:
    for path, why in ((tmp_path / "none.wav", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(ConfigError, match=f"^--mic wav:{re.escape(str(path))}: {why}$"):
            make_microphone(f"wav:{path}")


def test_full_uplink_drops_newest_packets() -> None:
    async def test(speech: MicrophoneUplink, source: Source, websocket: FakeWebSocket, said: list[str]) -> None:
        speech.told(Microphone(allowed=True, wanted=True), NOW, said.append)
        await captured(source, 2.0)
        kinds = await taken(speech, websocket)
        assert kinds == [FormatChanged] + [AudioPacket] * (WAITING_MAX - 1)
        await captured(source, 0.01)
        assert await taken(speech, websocket) == [AudioPacket], "there is room again"

    spoken(test)


def test_lost_connection_discards_queued_packets() -> None:
    async def test(speech: MicrophoneUplink, source: Source, websocket: FakeWebSocket, said: list[str]) -> None:
        speech.told(Microphone(allowed=True, wanted=True), NOW, said.append)
        await captured(source, 0.1)
        speech.hush()
        await captured(source, 0.1)
        assert await taken(speech, websocket) == []
        speech.told(Microphone(allowed=True, wanted=True), NOW, said.append)
        await captured(source, 0.01)
        assert await taken(speech, websocket) == [FormatChanged, AudioPacket]

    spoken(test)


def test_frames_captured_after_stop_are_dropped() -> None:
    pushes: list[Callable[[Samples], None]] = []

    async def test(speech: MicrophoneUplink, source: Source, websocket: FakeWebSocket, said: list[str]) -> None:
        assert source.push is not None
        pushes.append(source.push)

    spoken(test)
    pushes[0](sine(0.1, channels=1))


# -- what it reports ---------------------------------------------------------------------------------


class FakePlayout:
    """One whose counters a test sets; `pull` may be given holes to count."""

    rate = 48_000

    def __init__(self) -> None:
        self.tally = SimpleNamespace(concealments=0, left_out_frames=0)
        self.lost_packets = 0
        self.next: tuple[int, int] = (0, 0)

    def pull(self, out: Samples, now_ns: int) -> None:
        out.fill(1.0)
        concealments, left_out_ns = self.next
        self.next = (0, 0)
        self.tally.concealments += concealments
        self.tally.left_out_frames += left_out_ns * self.rate // NS_PER_S


class Seconds:
    """A listener's time in steps of 10 ms: it pulls, gets packets and runs, unless told otherwise."""

    def __init__(self) -> None:
        self.complaints, self.playout = Dropouts(), FakePlayout()
        self.now, self.sequence = NOW, 0
        self.out = np.zeros((480, 2), np.float32)

    def run(self, ms: int, loop: bool = True, device: bool = True, websocket: bool = True) -> list[tuple[str, str]]:
        """The problems that it reports meanwhile."""
        said: list[tuple[str, str]] = []
        for _ in range(ms // 10):
            self.now += 10 * MS
            if websocket and self.now % (20 * MS) == 0:
                self.sequence += 1
                self.complaints.blame.arrived(self.now, 20 * MS, self.sequence)
            if device:
                self.pull()
            if loop and self.now % PULSE_NS == 0:
                said += self.pulse()
        return said

    def pull(self) -> None:
        playout: Any = self.playout
        self.complaints.pull(playout, self.out, self.now)

    def pulse(self, playout: bool = True) -> list[tuple[str, str]]:
        found: Any = self.playout if playout else None
        return [(one.stage, one.cause) for one in self.complaints.pulse(found, self.now)]


def test_sound_without_gaps_reports_nothing() -> None:
    one = Seconds()
    assert one.run(3_000) == [] and (one.out == 1.0).all()
    one.playout.next = (0, SKIP_NS)
    assert one.run(1_000) == [], "so short a gap is inaudible"


@pytest.mark.parametrize("hole", [(1, 0), (0, SKIP_NS + MS), (3, SKIP_NS + MS)])
def test_gap_is_reported_once(hole: tuple[int, int]) -> None:
    one = Seconds()
    one.run(1_000)
    one.playout.next = hole
    assert one.run(1_000) == [("network", "late")]
    assert one.run(1_000) == []


def test_stalled_device_is_reported_even_if_it_catches_up() -> None:
    one = Seconds()
    one.run(1_000)
    assert one.run(STALL_NS // MS - 20, device=False) + one.run(1_000) == []
    assert one.run(STALL_NS // MS + 20, device=False) + one.run(1_000) == [("device", "late")]


def test_stalled_program_is_reported_if_it_was_playing() -> None:
    one = Seconds()
    one.run(1_000)
    assert one.run(STALL_NS // MS - 50, loop=False) + one.run(1_000) == []
    one.run(STALL_NS // MS + 100, loop=False)
    assert one.run(200) == [("listener", "not run")]
    one.run(STALL_NS // MS + 100, loop=False, device=False)
    one.now += 10 * MS
    assert one.pulse(playout=False) == [], "nothing was playing"


def test_time_without_a_daemon_is_not_the_listeners_lateness() -> None:
    one = Seconds()
    one.run(1_000)
    one.complaints.blame.apart()
    assert one.run(13_500, loop=False, websocket=False) == []
    # The daemon is back: neither the timer nor the packets were late.
    one.playout.next = (1, 0)
    assert one.run(1_000) == [("network", "late")]


def test_gap_without_packets_is_diagnosed_by_next_packet() -> None:
    one = Seconds()
    one.run(1_000)
    assert one.run(100, websocket=False) == []
    one.playout.next = (1, 0)
    assert one.run(100, websocket=False) == [], "it is not known yet whether packets were lost"
    assert one.run(60) == [("network", "stalled")]
    # It is not waited for without end.
    one.run(2_000)
    one.run(100, websocket=False)
    one.playout.next = (1, 0)
    said = one.run(UNSURE_NS // MS, websocket=False) + one.run(50, websocket=False)
    assert said == [("network", "stalled")]


def test_lost_packets_are_reported_when_given_up() -> None:
    one = Seconds()
    one.run(1_000)
    one.playout.lost_packets = 1
    assert one.run(200) == [], "a gap of 20 ms is concealed"
    one.playout.lost_packets = 4
    assert one.run(200) == [("network", "packets lost")] and one.run(1_000) == []


def test_lost_device_is_reported_once_at_next_check() -> None:
    one = Seconds()
    one.run(1_000)
    one.complaints.gone(one.now - 20 * MS)
    one.playout.lost_packets = 3
    assert one.pulse() == [("device", "lost"), ("network", "packets lost")] and one.pulse() == []


def test_many_gaps_are_reported_in_part() -> None:
    one = Seconds()
    one.run(1_000)
    for _ in range(1_000):
        one.playout.next = (1, 0)
        one.pull()
    assert len(one.pulse()) == 16
