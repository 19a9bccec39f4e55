"""D-Bus values: the part of the wire format that QEMU's display needs (D-Bus Specification 0.43, "Marshaling").

Lengths are checked against the available data before anything is read; a value that does not fit raises
RemoteProtocolError.
"""

from __future__ import annotations

import struct
from typing import Any

from millrace.errors import RemoteProtocolError
from millrace.text import quoted

_ALIGN = {"y": 1, "g": 1, "v": 1, "n": 2, "q": 2, "b": 4, "i": 4, "u": 4, "s": 4, "o": 4, "a": 4, "h": 4,
          "x": 8, "t": 8, "d": 8, "(": 8, "{": 8}  # fmt: skip
_PLAIN = {"y": "B", "n": "h", "q": "H", "b": "I", "i": "i", "u": "I", "h": "I", "x": "q", "t": "Q", "d": "d"}
NO_PROPERTIES = bytes(8)
"""An empty a{sv}."""
_KEYS = frozenset("ybnqiuxtdsogh")
DEPTH_MAX = 16
VALUES_MAX = 1_000
"""The most values in one message, and characters of their signatures. Sound and pictures are arrays of bytes, which
count once. A message is decoded in a single step."""

TEXT_MAX = 64 * 1024
"""The most bytes of text in one message, all its strings together. Sound, pictures and the clipboard's text are arrays
of bytes."""


def element(signature: str, at: int = 0) -> str:
    """The single complete type that begins at `at`."""
    return signature[at : _end(signature, at, 0)]


def _end(signature: str, at: int, depth: int) -> int:
    """The end of the complete type that begins at `at`, found in linear time."""
    if depth > DEPTH_MAX or at >= len(signature) or signature[at] not in _ALIGN:
        raise _broken(signature)
    code = signature[at]
    if code == "a":
        return _end(signature, at + 1, depth + 1)
    if code not in "({":
        return at + 1
    end, count, closing = at + 1, 0, ")" if code == "(" else "}"
    while end < len(signature) and signature[end] != closing:
        end, count = _end(signature, end, depth + 1), count + 1
    # An empty struct takes no bytes, so an array of them would never end.
    if end >= len(signature) or count == 0:
        raise _broken(signature)
    if code == "{" and (signature[at - 1 : at] != "a" or signature[at + 1] not in _KEYS or count != 2):
        raise RemoteProtocolError(f"malformed dictionary in D-Bus signature {quoted(signature)}")
    return end + 1


def _broken(signature: str) -> RemoteProtocolError:
    return RemoteProtocolError(f"malformed D-Bus signature: {quoted(signature)}")


def elements(signature: str) -> list[str]:
    """The complete types that make up `signature`."""
    out, at = [], 0
    while at < len(signature):
        out.append(element(signature, at))
        at += len(out[-1])
    return out


class Reader:
    """Reads values from bytes; `order` is '<' or '>'. Arrays of bytes are returned as bytes."""

    def __init__(self, data: bytes | memoryview, order: str = "<") -> None:
        self._data, self._order, self._at = data, order, 0
        self._count = self._text_bytes = 0
        self._parts: dict[str, list[str]] = {}
        """The types in each signature that was taken apart: those in an array are read many times."""

    @property
    def at(self) -> int:
        """The read position."""
        return self._at

    def align(self, to: int) -> None:
        """Skip padding."""
        self._at += -self._at % to

    def _take(self, size: int) -> bytes | memoryview:
        end = self._at + size
        if end > len(self._data):
            raise RemoteProtocolError(f"truncated D-Bus value: {len(self._data) - self._at} of {size} bytes")
        part, self._at = self._data[self._at : end], end
        return part

    def values(self, signature: str) -> list[Any]:
        """Read the values of a whole signature."""
        self._count += len(signature)
        return [self.value(kind) for kind in self._elements(signature)]

    def _elements(self, signature: str) -> list[str]:
        found = self._parts.get(signature)
        if found is None:
            found = self._parts[signature] = elements(signature)
        return found

    def value(self, kind: str, depth: int = 0) -> Any:
        """Read one value of a single complete type."""
        # All values of a message count, nested ones too: an array of arrays of nothing is small on the wire and large
        # in memory.
        self._count += 1
        if depth > DEPTH_MAX or self._count > VALUES_MAX:
            raise RemoteProtocolError("D-Bus values nested too deeply, or too many")
        code = kind[0]
        self.align(_ALIGN[code])
        if code in _PLAIN:
            form = self._order + _PLAIN[code]
            return struct.unpack(form, self._take(struct.calcsize(form)))[0]
        if code in "sog":
            return self._text(code)
        if code == "v":
            inner = self._text("g")
            return self.value(element(inner), depth + 1)
        if code == "a":
            return self._array(kind[1:], depth)
        return tuple(self.value(part, depth + 1) for part in self._elements(kind[1:-1]))

    def _text(self, code: str) -> str:
        size = self._take(1)[0] if code == "g" else self.value("u")
        # Taking a signature apart takes as long as a value for each of its characters.
        self._count += size if code == "g" else 0
        self._text_bytes += size
        if self._text_bytes > TEXT_MAX:
            raise RemoteProtocolError(f"D-Bus strings too long: {TEXT_MAX} bytes in one message at most")
        raw = self._take(size + 1)
        try:
            return bytes(raw[:-1]).decode()
        except UnicodeDecodeError:
            raise RemoteProtocolError("D-Bus string is not UTF-8") from None

    def blob(self) -> memoryview:
        """Read an array of bytes, which stays where it is."""
        return memoryview(self._take(self.value("u")))

    def _array(self, kind: str, depth: int) -> Any:
        size = self.value("u")
        if kind == "y":
            return bytes(self._take(size))
        self.align(_ALIGN[kind[0]])
        end = self._at + size
        if end > len(self._data):
            raise RemoteProtocolError(f"D-Bus array of {size} bytes is longer than its message")
        out = []
        # Ends: every value takes at least one byte, since a type without content is refused with its signature.
        while self._at < end:
            out.append(self.value(kind, depth + 1))
        return dict(out) if kind[0] == "{" else out


class Writer:
    """Builds little-endian values."""

    def __init__(self) -> None:
        self._data = bytearray()

    def align(self, to: int) -> None:
        """Add padding."""
        self._data += bytes(-len(self._data) % to)

    def number(self, code: str, value: int) -> Writer:
        """A number or boolean of type `code`."""
        self.align(_ALIGN[code])
        self._data += struct.pack("<" + _PLAIN[code], value)
        return self

    def text(self, code: str, value: str) -> Writer:
        """A string, path or signature."""
        raw = value.encode()
        self.number("y" if code == "g" else "u", len(raw))
        self._data += raw + b"\0"
        return self

    def blob(self, value: bytes) -> Writer:
        """An array of bytes."""
        self.number("u", len(value))
        self._data += value
        return self

    def bytes(self) -> bytes:
        """The bytes written so far."""
        return bytes(self._data)
