"""Tagged values, the encoding of a PulseAudio command's fields (pulsecore/tagstruct.c).

Each value is a type byte and big-endian content. `Reader` raises RemoteProtocolError if a
value is not of the expected type; it never reads past the end.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import msgspec

from millrace.errors import RemoteProtocolError
from millrace.units import MAX_CHANNELS
from millrace.wire.pulse.constants import Err

PROP_BYTES_MAX = 64 * 1024
PROPS_MAX = 512
_U32_MAX = 0xFFFFFFFF
_U32, _U64, _S64 = struct.Struct(">I"), struct.Struct(">Q"), struct.Struct(">q")
_TIMEVAL, _SPEC = struct.Struct(">II"), struct.Struct(">BBI")

Props = dict[str, bytes]


class Spec(msgspec.Struct, frozen=True):
    """A sample spec as on the wire: format number (255 invalid), channels, rate in Hz."""

    format: int
    channels: int
    rate: int


class FormatInfo(msgspec.Struct, frozen=True):
    """An encoding and its properties (values are JSON, NUL-terminated)."""

    encoding: int
    props: Props = msgspec.field(default_factory=dict)


def bad(message: str) -> RemoteProtocolError:
    """A protocol violation, with PulseAudio's own error code."""
    return RemoteProtocolError(message, Err.PROTOCOL)


class Reader:
    """Reads consecutive tagged values from `data`."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def at_end(self) -> bool:
        """Whether nothing is left."""
        return self._at == len(self._data)

    def rest(self) -> bytes:
        """The remaining data, unparsed."""
        out, self._at = self._data[self._at :], len(self._data)
        return out

    def _take(self, size: int) -> bytes:
        end = self._at + size
        if end > len(self._data):
            raise bad("a value is truncated")
        out, self._at = self._data[self._at : end], end
        return out

    def _tag(self, expected: bytes) -> None:
        got = self._take(1)
        if got != expected:
            raise bad(f"expected a value of type {expected!r}, got {got!r}")

    def string(self) -> str | None:
        """'t' or 'N'."""
        tag = self._take(1)
        if tag == b"N":
            return None
        if tag != b"t":
            raise bad(f"expected a string, got type {tag!r}")
        end = self._data.find(b"\0", self._at)
        if end < 0:
            raise bad("a string is not terminated")
        out = self._data[self._at : end]
        self._at = end + 1
        return out.decode("utf-8", "replace")

    def u32(self) -> int:
        """'L'."""
        self._tag(b"L")
        return int(_U32.unpack(self._take(4))[0])

    def u8(self) -> int:
        """'B'."""
        self._tag(b"B")
        return self._take(1)[0]

    def u64(self) -> int:
        """'R'."""
        self._tag(b"R")
        return int(_U64.unpack(self._take(8))[0])

    def s64(self) -> int:
        """'r'."""
        self._tag(b"r")
        return int(_S64.unpack(self._take(8))[0])

    def usec(self) -> int:
        """'U', microseconds."""
        self._tag(b"U")
        return int(_U64.unpack(self._take(8))[0])

    def timeval(self) -> tuple[int, int]:
        """'T': seconds, microseconds."""
        self._tag(b"T")
        sec, usec = _TIMEVAL.unpack(self._take(8))
        return sec, usec

    def boolean(self) -> bool:
        """'1' or '0'."""
        tag = self._take(1)
        if tag not in (b"1", b"0"):
            raise bad(f"expected a boolean, got type {tag!r}")
        return tag == b"1"

    def spec(self) -> Spec:
        """'a'."""
        self._tag(b"a")
        return Spec(*_SPEC.unpack(self._take(6)))

    def channel_map(self) -> tuple[int, ...]:
        """'m': position numbers."""
        self._tag(b"m")
        return tuple(self._take(self._channels()))

    def cvolume(self) -> tuple[int, ...]:
        """'v': a volume per channel."""
        self._tag(b"v")
        count = self._channels()
        return struct.unpack(f">{count}I", self._take(4 * count))

    def _channels(self) -> int:
        count = self._take(1)[0]
        if count > MAX_CHANNELS:
            raise bad(f"invalid number of channels: {count}; {MAX_CHANNELS} at most")
        return count

    def volume(self) -> int:
        """'V'."""
        self._tag(b"V")
        return int(_U32.unpack(self._take(4))[0])

    def blob(self) -> bytes:
        """'x': bytes with a length."""
        self._tag(b"x")
        return self._take(int(_U32.unpack(self._take(4))[0]))

    # The length is there twice, as a value of its own and in the blob. libpulse refuses a list whose lengths differ,
    # and so does this. The bounds are checked before a value is copied.
    def proplist(self) -> Props:
        """'P': key, length, value, …, ended by a null string."""
        self._tag(b"P")
        out: Props = {}
        while (key := self.string()) is not None:
            size = self.u32()
            if size > PROP_BYTES_MAX or len(out) >= PROPS_MAX:
                raise bad("a property list is too large")
            value = self.blob()
            if len(value) != size:
                raise bad("a property's two lengths differ")
            out[key] = value
        return out

    def format_info(self) -> FormatInfo:
        """'f': encoding, properties."""
        self._tag(b"f")
        return FormatInfo(self.u8(), self.proplist())

    def format_infos(self) -> list[FormatInfo]:
        """A count and that many format_infos."""
        return [self.format_info() for _ in range(self.u8())]

    def strings(self) -> list[str]:
        """Strings up to a null string."""
        out: list[str] = []
        while (item := self.string()) is not None:
            if len(out) >= PROPS_MAX:
                raise bad("a list of names is too long")
            out.append(item)
        return out


class Writer:
    """Builds tagged values; `data` is the result."""

    def __init__(self) -> None:
        self.data = bytearray()

    # A NUL would end the string early, and the receiver would take the rest for the next value. Names come from other
    # programs, so one may be in there.
    def string(self, value: str | None) -> None:
        """'t' or 'N'."""
        self.data += b"N" if value is None else b"t" + value.encode().replace(b"\0", b"") + b"\0"

    def u32(self, value: int) -> None:
        """'L'. A value that does not fit is written as the maximum."""
        self.data += b"L" + _U32.pack(min(value, _U32_MAX))

    def u8(self, value: int) -> None:
        """'B'."""
        self.data += b"B" + bytes((value,))

    def u64(self, value: int) -> None:
        """'R'."""
        self.data += b"R" + _U64.pack(value)

    def s64(self, value: int) -> None:
        """'r'."""
        self.data += b"r" + _S64.pack(value)

    def usec(self, value: int) -> None:
        """'U'."""
        self.data += b"U" + _U64.pack(value)

    def timeval(self, value: tuple[int, int]) -> None:
        """'T'."""
        self.data += b"T" + _TIMEVAL.pack(*value)

    def boolean(self, value: bool) -> None:
        """'1' or '0'."""
        self.data += b"1" if value else b"0"

    def spec(self, value: Spec) -> None:
        """'a'."""
        self.data += b"a" + _SPEC.pack(value.format, value.channels, value.rate)

    def channel_map(self, value: tuple[int, ...]) -> None:
        """'m'."""
        self.data += b"m" + bytes((len(value), *value))

    def cvolume(self, value: tuple[int, ...]) -> None:
        """'v'."""
        self.data += b"v" + struct.pack(f">B{len(value)}I", len(value), *value)

    def volume(self, value: int) -> None:
        """'V'."""
        self.data += b"V" + _U32.pack(value)

    def blob(self, value: bytes) -> None:
        """'x'."""
        self.data += b"x" + _U32.pack(len(value)) + value

    def proplist(self, value: Props) -> None:
        """'P'."""
        self.data += b"P"
        for key, content in value.items():
            self.string(key)
            self.u32(len(content))
            self.blob(content)
        self.string(None)

    def format_info(self, value: FormatInfo) -> None:
        """'f'."""
        self.data += b"f"
        self.u8(value.encoding)
        self.proplist(value.props)

    def format_infos(self, value: list[FormatInfo]) -> None:
        """A count and the items."""
        self.u8(len(value))
        for info in value:
            self.format_info(info)

    def strings(self, value: list[str]) -> None:
        """Strings and a null string."""
        for item in value:
            self.string(item)
        self.string(None)


READ: dict[str, Callable[[Reader], Any]] = {
    "s": Reader.string, "L": Reader.u32, "B": Reader.u8, "R": Reader.u64, "r": Reader.s64,
    "U": Reader.usec, "T": Reader.timeval, "a": Reader.spec, "m": Reader.channel_map,
    "v": Reader.cvolume, "V": Reader.volume, "x": Reader.blob, "b": Reader.boolean,
    "P": Reader.proplist, "f": Reader.format_info, "F": Reader.format_infos,
    "S": Reader.strings, "*": Reader.rest,
}  # fmt: skip
WRITE: dict[str, Callable[[Writer, Any], None]] = {
    "s": Writer.string, "L": Writer.u32, "B": Writer.u8, "R": Writer.u64, "r": Writer.s64,
    "U": Writer.usec, "T": Writer.timeval, "a": Writer.spec, "m": Writer.channel_map,
    "v": Writer.cvolume, "V": Writer.volume, "x": Writer.blob, "b": Writer.boolean,
    "P": Writer.proplist, "f": Writer.format_info, "F": Writer.format_infos,
    "S": Writer.strings, "*": lambda w, v: w.data.extend(v),
}  # fmt: skip
