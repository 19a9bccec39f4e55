"""SPICE channels in a test: what their server sends, and what is understood."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from millrace.pixels.rects import Rect
from millrace.wire.spice.channel import SpiceMessage
from millrace.wire.spice.display import (
    SpiceDisplay,
    display_event,
)
from tests.fuzz import spiceserver as server
from tests.received import received

KEY = bytes(162)


BOX = Rect(3, 5, 40, 20)


def ticket(key: bytes, password: str) -> bytes:
    return bytes(128)


def reply(specific: int = 0b1_0000_0101_0010) -> bytes:
    body = struct.pack("<I", 0) + KEY + struct.pack("<IIIII", 1, 1, 178, 0b1011, specific)
    return b"REDQ" + struct.pack("<III", 2, 2, len(body)) + body


def linked(wire: Any, specific: int = 0b1_0000_0101_0010) -> Any:
    received(wire, reply(specific) + bytes(4), 0)
    return wire


def display(**options: Any) -> SpiceDisplay:
    made: SpiceDisplay = linked(SpiceDisplay(7, 0, "", ticket, 0, **options))
    return made


def sent(wire: Any) -> list[tuple[int, bytes]]:
    """The messages that a channel has to send after its ticket."""
    data, out = wire.data_to_send(), []
    if data[:4] == b"REDQ":
        data = data[16 + struct.unpack_from("<I", data, 12)[0] + 4 + 128 :]
    while data:
        kind, size = struct.unpack_from("<HI", data)
        out.append((kind, data[6 : 6 + size]))
        data = data[6 + size :]
    return out


def noise(width: int, height: int, seed: int = 0, levels: int = 256) -> server.Pixels:
    made = np.random.default_rng(seed).integers(0, levels, (height, width, 4), np.uint8)
    made[:, :, 3] = 0
    return made


def event_of(data: bytes) -> Any:
    return display_event(SpiceMessage(struct.unpack_from("<H", data)[0], data[6:]))
