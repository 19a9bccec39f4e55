"""From packets to frames, where packets are missing: nothing is played twice, and every loss is counted."""

from __future__ import annotations

import numpy as np
import pytest

from millrace.codec.opus import OpusEncoder
from millrace.codec.parameters import CodecParameters
from millrace.codec.pcm import encode_pcm
from millrace.codec.settings import CodecSettings
from millrace.dsp.convert import Samples
from millrace.media.audio import AudioPacket
from millrace.playout.adaptive import State
from millrace.playout.buffer import JitterBuffer
from millrace.playout.playout import Playout
from millrace.sim.signals import sine
from millrace.units import NS_PER_MS, NS_PER_S, Frames, HostNs

PACKET: Frames = 480
TONE: Samples = sine(1.0, 440, 48_000, channels=1)


class Link:
    """A packet of 10 ms and two pulls of 5 ms in turn; `lost` packets are left out, and nothing is spliced."""

    def __init__(self, codec: str) -> None:
        encoder = OpusEncoder(1, CodecSettings())
        blocks = [TONE[at : at + PACKET] for at in range(0, len(TONE), PACKET)]
        self._payloads = [
            bytes(encoder.encode(block)) if codec == "opus" else encode_pcm(codec, block) for block in blocks
        ]
        self.format = CodecParameters(1, codec, 48_000, ["mono"])
        self.playout = Playout(48_000, ("mono",), "normal", splice_ns=NS_PER_S)
        self.playout.set_format(self.format)
        self.now_ns: HostNs = 0

    def push(self, number: int) -> None:
        at = number * PACKET
        packet = AudioPacket(1, PACKET, number, at, number * 10 * NS_PER_MS, self._payloads[number])
        self.playout.push(packet, self.now_ns)

    def pull(self) -> None:
        self.now_ns += 5 * NS_PER_MS
        self.playout.pull(np.zeros((240, 1), np.float32), self.now_ns)

    def run(self, first: int, end: int, lost: tuple[int, ...] = ()) -> None:
        for number in range(first, end):
            if number not in lost:
                self.push(number)
            self.pull()
            self.pull()

    def dry(self, times: int) -> None:
        """Pull without a packet until sound has been made up this many times."""
        for _ in range(20):
            if self.playout.tally.concealments < times:
                self.pull()


@pytest.mark.parametrize("codec", ["s16", "opus"])
def test_lost_packet_is_not_concealed_twice(codec: str) -> None:
    line = Link(codec)
    line.run(0, 40)
    head_ns, now_ns = line.playout.head_ns, line.now_ns
    line.dry(1)
    line.push(41)
    line.pull()
    # The concealment stands in the place of packet 40, so what is heard is no older than before.
    assert line.playout.head_ns - head_ns == pytest.approx(line.now_ns - now_ns, abs=NS_PER_MS)
    assert line.playout.state is State.PLAYING and line.playout.tally.underruns == 0


def test_two_short_delays_are_two_concealments_and_no_underrun() -> None:
    line = Link("s16")
    line.run(0, 40)
    for number, count in ((40, 1), (42, 2)):
        line.dry(count)
        for _ in range(3):
            line.pull()
        line.push(number)
        line.push(number + 1)
    assert (line.playout.tally.concealments, line.playout.tally.underruns) == (2, 0)


def test_losses_are_counted_across_formats() -> None:
    line = Link("s16")
    for begin in (0, 20, 40):
        line.run(begin, begin + 20, lost=(begin + 10,))
        line.playout.set_format(line.format)
    assert line.playout.lost_packets == 3


def test_stopped_buffer_keeps_nothing_in_its_resampler() -> None:
    buffer, out = JitterBuffer(48_000, 1), np.zeros((480, 1), np.float32)
    buffer.write(TONE[:960])
    buffer.read(out, 1.0)
    buffer.stop()
    buffer.write(np.zeros((960, 1), np.float32))
    assert buffer.read(out, 1.0) == 480 and not out.any()
