"""QEMU's sample formats and levels."""

from __future__ import annotations

import numpy as np

from millrace.dsp.convert import NAMES, SampleFormat, Samples, decode, encode
from millrace.dsp.mix import cubic_to_gain
from millrace.units import Positions, default_map
from millrace.wire.qemu.audio import PcmInfo

_WAVE_MAPS: dict[int, Positions] = {
    6: ("front-left", "front-right", "front-center", "lfe", "rear-left", "rear-right"),
    8: ("front-left", "front-right", "front-center", "lfe", "rear-left", "rear-right", "side-left", "side-right"),
}
"""USB Audio 1.0, table A-6: the order of QEMU's surround cards, which is not PulseAudio's."""
_SIGNED = {8: SampleFormat.U8, 16: SampleFormat.S16LE, 32: SampleFormat.S32LE}
_BIG = {SampleFormat.S16LE: SampleFormat.S16BE, SampleFormat.S32LE: SampleFormat.S32BE,
        SampleFormat.F32LE: SampleFormat.F32BE}  # fmt: skip
VOLUME_MAX = 255


class PcmCodec:
    """Bytes of one format ⇄ float32 frames."""

    def __init__(self, info: PcmInfo) -> None:
        self.info = info
        base = SampleFormat.F32LE if info.floating else _SIGNED[info.bits]
        self._format = _BIG.get(base, base) if info.big_endian else base
        # The formats at hand are unsigned at 8 bits and signed above; the other sign is one bit away.
        flip = not info.floating and info.signed == (info.bits == 8)
        self._flip: np.ndarray[tuple[int], np.dtype[np.uint8]] | None = None
        if flip:
            sample = np.zeros(info.bits // 8, np.uint8)
            sample[0 if info.big_endian else -1] = 0x80
            self._flip = sample
        self.positions: Positions = _WAVE_MAPS.get(info.channels) or default_map(info.channels)
        name = NAMES[self._format]
        self.name = name if not flip else ("s8" if info.bits == 8 else f"u{name[1:]}")

    def _flipped(self, data: bytes) -> bytes:
        if self._flip is None:
            return data
        return (np.frombuffer(data, np.uint8).reshape(-1, len(self._flip)) ^ self._flip).tobytes()

    def decode(self, data: bytes) -> Samples:
        """(frames, channels); what does not make a whole frame is left out."""
        frames = len(data) // self.info.frame_bytes
        out = np.empty(frames * self.info.channels, np.float32)
        decode(self._format, self._flipped(data[: frames * self.info.frame_bytes]), out)
        return out.reshape(frames, self.info.channels)

    def encode(self, block: Samples) -> bytes:
        """(frames, channels) to bytes."""
        return self._flipped(encode(self._format, np.ascontiguousarray(block)))


def gains_of(volume: tuple[int, ...]) -> tuple[float, ...]:
    """The guest's mixer, 0 to 255, as linear gains: cubic, as QEMU's own PulseAudio output has it.

    Cards count in steps of decibels, and the cubic law is the nearest to that of those in use.
    """
    return tuple(cubic_to_gain(v * 65536 // VOLUME_MAX) for v in volume)
