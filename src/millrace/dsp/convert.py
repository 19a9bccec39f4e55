"""Sample formats: bytes to float32 in [-1, 1) and back, bit-exact for up to 24 bits.

Integers are divided by their own full scale (2^(bits-1)), so int -> float -> int returns the same bits for every format
of at most 24 bits. A-law and mu-law follow ITU-T G.711. In unsigned formats the middle of the range is silence.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Samples: TypeAlias = NDArray[np.float32]
Buffer: TypeAlias = bytes | bytearray | memoryview


class SampleFormat(IntEnum):
    """Sample formats; those in PULSE_FORMATS have the values of `pa_sample_format_t` (pulse/sample.h)."""

    U8 = 0
    ALAW = 1
    ULAW = 2
    S16LE = 3
    S16BE = 4
    F32LE = 5
    F32BE = 6
    S32LE = 7
    S32BE = 8
    S24LE = 9
    S24BE = 10
    S24_32LE = 11
    S24_32BE = 12
    # Not in PulseAudio, but used by sound cards of virtual machines.
    S8 = 100
    U16LE = 101
    U16BE = 102
    U32LE = 103
    U32BE = 104


PULSE_FORMATS: tuple[SampleFormat, ...] = tuple(fmt for fmt in SampleFormat if fmt <= SampleFormat.S24_32BE)
"""The formats that applications may use, in PulseAudio's order."""
NAMES: dict[SampleFormat, str] = {
    SampleFormat.U8: "u8",
    SampleFormat.ALAW: "aLaw",
    SampleFormat.ULAW: "uLaw",
    SampleFormat.S16LE: "s16le",
    SampleFormat.S16BE: "s16be",
    SampleFormat.F32LE: "float32le",
    SampleFormat.F32BE: "float32be",
    SampleFormat.S32LE: "s32le",
    SampleFormat.S32BE: "s32be",
    SampleFormat.S24LE: "s24le",
    SampleFormat.S24BE: "s24be",
    SampleFormat.S24_32LE: "s24-32le",
    SampleFormat.S24_32BE: "s24-32be",
    SampleFormat.S8: "s8",
    SampleFormat.U16LE: "u16le",
    SampleFormat.U16BE: "u16be",
    SampleFormat.U32LE: "u32le",
    SampleFormat.U32BE: "u32be",
}
BY_NAME: dict[str, SampleFormat] = {NAMES[fmt].lower(): fmt for fmt in PULSE_FORMATS}

SAMPLE_BYTES: dict[SampleFormat, int] = {
    fmt: 1 if name[1:] in ("8", "Law") else 2 if "16" in name else 3 if name in ("s24le", "s24be") else 4
    for fmt, name in NAMES.items()
}

_SILENCE: dict[SampleFormat, int] = {SampleFormat.U8: 0x80, SampleFormat.ALAW: 0xD5, SampleFormat.ULAW: 0xFF}


def silence_byte(fmt: SampleFormat) -> int:
    """The byte that, repeated, is silence in `fmt`."""
    return _SILENCE.get(fmt, 0)


def _alaw_table() -> Samples:
    """G.711 A-law, decoded to float32 with a full scale of 32768."""
    code = np.arange(256) ^ 0x55
    exponent = (code >> 4) & 7
    mantissa = code & 15
    linear = np.where(exponent == 0, (mantissa << 4) + 8, ((mantissa << 4) + 0x108) << np.maximum(exponent - 1, 0))
    return (np.where(code & 0x80, linear, -linear) / 32768).astype(np.float32)


def _ulaw_table() -> Samples:
    """G.711 mu-law, decoded to float32 with a full scale of 32768."""
    code = ~np.arange(256) & 0xFF
    linear = ((((code & 15) << 3) + 0x84) << ((code >> 4) & 7)) - 0x84
    return (np.where(code & 0x80, -linear, linear) / 32768).astype(np.float32)


_TABLES: dict[SampleFormat, Samples] = {SampleFormat.ALAW: _alaw_table(), SampleFormat.ULAW: _ulaw_table()}


def _law_encoder(table: Samples) -> tuple[Samples, NDArray[np.uint8]]:
    """The values of a companding table, sorted, and the code of each: encoding picks the nearest value."""
    order = np.argsort(table, kind="stable")
    return table[order], order.astype(np.uint8)


_LAW_SORTED = {fmt: _law_encoder(table) for fmt, table in _TABLES.items()}

# All scales are powers of two: multiplying by them changes only the exponent, so nothing is rounded but by the 24 bits
# of a float's mantissa.
_INT: dict[SampleFormat, tuple[str, float]] = {
    SampleFormat.S8: ("i1", 2.0**7),
    SampleFormat.S16LE: ("<i2", 2.0**15),
    SampleFormat.S16BE: (">i2", 2.0**15),
    SampleFormat.S32LE: ("<i4", 2.0**31),
    SampleFormat.S32BE: (">i4", 2.0**31),
}
_FROM_INT = {fmt: (np.dtype(dtype), np.float32(1 / scale)) for fmt, (dtype, scale) in _INT.items()}
_UNSIGNED: dict[SampleFormat, str] = {
    SampleFormat.U16LE: "<u2", SampleFormat.U16BE: ">u2", SampleFormat.U32LE: "<u4", SampleFormat.U32BE: ">u4",
}  # fmt: skip


def _packed24(raw: NDArray[np.uint8], big: bool) -> NDArray[np.int32]:
    """3-byte samples, widened to the upper 24 bits of int32."""
    wide = np.zeros((raw.size // 3, 4), np.uint8)
    wide[:, 1:] = raw.reshape(-1, 3)[:, ::-1] if big else raw.reshape(-1, 3)
    return wide.reshape(-1).view("<i4")


FLOAT_LIMIT = 64.0
"""Float samples are limited to ±36 dB over full scale: anything higher is not sound."""


# The sum of squares bounds the largest sample, so one dot product clears an ordinary block. The test is negated because
# comparisons with NaN are false: a block that contains one must fail it. A long loud block fails it too, and is then
# merely looked at.
def _make_safe(out: Samples) -> None:
    """Remove NaN, infinities and absurd values from client floats, in place; sane ones cost one dot product."""
    with np.errstate(over="ignore", invalid="ignore"):
        energy = np.dot(out, out)
    if not energy <= FLOAT_LIMIT**2:
        np.nan_to_num(out, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
        np.clip(out, -FLOAT_LIMIT, FLOAT_LIMIT, out=out)


def decode(fmt: SampleFormat, data: Buffer, out: Samples) -> None:
    """Convert `data`, exactly `out.size` samples of `fmt`, into the flat float32 array `out`.

    Float input is sanitised: NaN and infinities become 0, so that one client's bad values can't poison a mix.
    """
    direct = _FROM_INT.get(fmt)
    if direct is not None:
        dtype, scale = direct
        # Two plain passes: one `multiply` would cast in small chunks.
        out[:] = np.frombuffer(data, dtype)
        out *= scale
    elif fmt in (SampleFormat.F32LE, SampleFormat.F32BE):
        out[:] = np.frombuffer(data, "<f4" if fmt is SampleFormat.F32LE else ">f4")
        _make_safe(out)
    elif fmt in _UNSIGNED:
        signed = _signed(data, _UNSIGNED[fmt])
        out[:] = signed
        out *= np.float32(2.0 ** (1 - 8 * signed.itemsize))
    elif fmt is SampleFormat.U8:
        np.subtract(np.frombuffer(data, np.uint8), np.float32(128), out=out, casting="unsafe")
        out *= np.float32(1 / 128)
    elif fmt in _TABLES:
        np.take(_TABLES[fmt], np.frombuffer(data, np.uint8), out=out)
    elif fmt in (SampleFormat.S24LE, SampleFormat.S24BE):
        wide = _packed24(np.frombuffer(data, np.uint8), fmt is SampleFormat.S24BE)
        np.multiply(wide, np.float32(2.0**-31), out=out, casting="unsafe")
    else:
        raw = np.frombuffer(data, "<u4" if fmt is SampleFormat.S24_32LE else ">u4").astype("<u4")
        np.multiply((raw << 8).view("<i4"), np.float32(2.0**-31), out=out, casting="unsafe")


def _signed(data: Buffer, dtype: str) -> NDArray[np.signedinteger[Any]]:
    """Unsigned samples minus their midpoint, by flipping the top bit; subtracting floats would lose the low bits."""
    wide = np.frombuffer(data, dtype)
    size = wide.itemsize
    native = wide.astype(f"u{size}")
    native ^= native.dtype.type(1 << (8 * size - 1))
    signed: NDArray[np.signedinteger[Any]] = native.view(f"i{size}")
    return signed


# In float64: 2³¹ − 1 is not a float32, so a limit of that size would round up to 2³¹, which overflows to the most
# negative integer.
def _rounded(samples: Samples, bits: int) -> NDArray[np.int64]:
    """Round to `bits`-bit integers, clipped to their range."""
    scale = 2.0 ** (bits - 1)
    wide = np.rint(samples.astype(np.float64) * scale)
    return np.clip(wide, -scale, scale - 1).astype(np.int64)


def _encode_s24(samples: Samples, fmt: SampleFormat) -> bytes:
    octets = _rounded(samples, 24).astype("<i4").view(np.uint8).reshape(-1, 4)[:, :3]
    return (octets[:, ::-1] if fmt is SampleFormat.S24BE else octets).tobytes()


# The top byte is ignored when read (it is shifted out) and zero when written, as in PulseAudio.
def _encode_s24_32(samples: Samples, fmt: SampleFormat) -> bytes:
    low = (_rounded(samples, 24) & 0xFFFFFF).astype(np.uint32)
    return low.astype("<u4" if fmt is SampleFormat.S24_32LE else ">u4").tobytes()


def _encode_unsigned(samples: Samples, fmt: SampleFormat) -> bytes:
    bits = 8 * SAMPLE_BYTES[fmt]
    return (_rounded(samples, bits) + (1 << (bits - 1))).astype(_UNSIGNED[fmt]).tobytes()


# The encoder is the decoder's table searched backwards, so each code that decodes to a value of its own comes back
# unchanged. µ-law has two zeros, 0xFF and 0x7F, that decode alike; 0 is encoded as 0xFF, the
# later one in the table, hence `right`. Values between the zeros and their neighbours keep their sign.
def _encode_law(samples: Samples, fmt: SampleFormat) -> bytes:
    values, codes = _LAW_SORTED[fmt]
    at = np.clip(np.searchsorted(values, samples, "right"), 1, len(values) - 1)
    nearer_below = samples - values[at - 1] < values[at] - samples
    picked: NDArray[np.uint8] = codes[at - nearer_below]
    return picked.tobytes()


def _encode_s16(samples: Samples, fmt: SampleFormat) -> bytes:
    scaled = np.rint(samples * np.float32(32768))
    # The same as `clip`, without its overhead, which matters for short blocks.
    np.maximum(scaled, np.float32(-32768), out=scaled)
    np.minimum(scaled, np.float32(32767), out=scaled)
    rounded: NDArray[np.int16] = scaled.astype("<i2" if fmt is SampleFormat.S16LE else ">i2")
    return rounded.tobytes()


_ENCODERS: dict[SampleFormat, Callable[[Samples, SampleFormat], bytes]] = {
    SampleFormat.U8: lambda s, _: (_rounded(s, 8) + 128).astype(np.uint8).tobytes(),
    SampleFormat.ALAW: _encode_law,
    SampleFormat.ULAW: _encode_law,
    SampleFormat.S16LE: _encode_s16,
    SampleFormat.S16BE: _encode_s16,
    SampleFormat.F32LE: lambda s, _: s.astype("<f4").tobytes(),
    SampleFormat.F32BE: lambda s, _: s.astype(">f4").tobytes(),
    SampleFormat.S32LE: lambda s, _: _rounded(s, 32).astype("<i4").tobytes(),
    SampleFormat.S32BE: lambda s, _: _rounded(s, 32).astype(">i4").tobytes(),
    SampleFormat.S24LE: _encode_s24,
    SampleFormat.S24BE: _encode_s24,
    SampleFormat.S24_32LE: _encode_s24_32,
    SampleFormat.S24_32BE: _encode_s24_32,
    SampleFormat.S8: lambda s, _: _rounded(s, 8).astype(np.int8).tobytes(),
    SampleFormat.U16LE: _encode_unsigned,
    SampleFormat.U16BE: _encode_unsigned,
    SampleFormat.U32LE: _encode_unsigned,
    SampleFormat.U32BE: _encode_unsigned,
}


def encode(fmt: SampleFormat, samples: Samples) -> bytes:
    """Convert float32 samples (any shape, C order) to bytes of `fmt`, rounding and clipping."""
    return _ENCODERS[fmt](samples.reshape(-1), fmt)
