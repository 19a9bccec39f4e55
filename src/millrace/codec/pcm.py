"""PCM as a listener codec: s16, s24 and f32, little-endian, interleaved."""

from __future__ import annotations

import numpy as np

from millrace.dsp.convert import Buffer, SampleFormat, Samples, decode, encode

PCM_FORMATS: dict[str, SampleFormat] = {
    "s16": SampleFormat.S16LE,
    "s24": SampleFormat.S24LE,
    "f32": SampleFormat.F32LE,
}
PCM_BYTES: dict[str, int] = {"s16": 2, "s24": 3, "f32": 4}


def encode_pcm(codec: str, block: Samples) -> bytes:
    """(frames, channels) float32 to the wire bytes of `codec`."""
    return encode(PCM_FORMATS[codec], block)


def decode_pcm(codec: str, data: Buffer, channels: int) -> Samples:
    """Wire bytes of `codec` to (frames, channels) float32; a trailing partial frame is dropped."""
    width = PCM_BYTES[codec] * channels
    frames = len(data) // width
    out = np.empty(frames * channels, np.float32)
    decode(PCM_FORMATS[codec], memoryview(data)[: frames * width], out)
    return out.reshape(frames, channels)
