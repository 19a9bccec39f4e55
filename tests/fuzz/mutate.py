"""Mutations of recorded traffic: bytes, numbers, lengths, JSON, order of messages. All of it comes from one seed."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable, Sequence
from typing import Any

Repair = Callable[[bytearray], None]
"""Corrects a message's length, so that parsing gets as far as the mutation inside."""
NUMBERS = (
    0, 1, 2, 3, 127, 128, 255, 256, 32_767, 32_768, 65_535, 65_536, 2**24, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1,
    2**63 - 1, 2**63, 2**64 - 1,
)  # fmt: skip
TEXTS = (
    b"\0", b"\xff\xfe", b"\xed\xa0\x80", b"\x1b[2J\x1b]0;forged\7", b"\nforged line\r\n", "\u202e\u2066".encode(),
    b"%1b%0a%00", b"../" * 20, b"A" * 5_000, b"9" * 400, b"-1", b"1e999", b"NaN", b"\xc0\x80", b"[" * 5_000,
    b'{"a":' * 3_000,
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 2**31, 2**63, 10**300, 1e308, -0.0, "", "\x1b[31m\n", "\u202eevil", "x" * 10_000, [], {},
    [[]] * 50, {"type": "bye"}, "²", "1.2.3", "00", "١٢",
)  # fmt: skip
BEYOND_JSON = ('"\\ud800"', "1" * 5_000, "[" * 10_000, '{"a":' * 10_000, "1e999", "nan", '"\udcff"', "\\")
MESSAGES_MAX, MESSAGE_MAX = 400, 200_000


class Mutator:
    """Draws from `seed` alone: the same seed makes the same traffic."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def session(self, seeds: Sequence[Sequence[bytes]], repair: Repair | None = None) -> list[bytes]:
        """One session's messages, made from recorded ones. One session in ten is unchanged."""
        rng = self.random
        out = list(rng.choice(seeds))
        if rng.random() < 0.1:
            return out
        for _ in range(rng.choice((1, 1, 1, 2, 3, 5))):
            self._reorder(out, seeds)
        for _ in range(rng.choice((0, 1, 1, 2, 4, 8))):
            if out:
                at = rng.randrange(len(out))
                out[at] = self.message(out[at], repair)
        return out[:MESSAGES_MAX]

    def _reorder(self, out: list[bytes], seeds: Sequence[Sequence[bytes]]) -> None:
        rng = self.random
        if not out:
            return
        at, what = rng.randrange(len(out)), rng.randrange(8)
        if what == 0:
            del out[at]
        elif what == 1:
            out[at:at] = [out[at]] * rng.choice((1, 2, 30))
        elif what == 2:
            other = rng.randrange(len(out))
            out[at], out[other] = out[other], out[at]
        elif what == 3:
            del out[at:]
        elif what == 4:
            out[at:at] = rng.choice(seeds)
        elif what == 5:
            # Earlier than it should be: in the middle of a handshake.
            out.insert(rng.randrange(at + 1), out.pop(at))
        # Otherwise the order stays.

    def message(self, message: bytes, repair: Repair | None = None) -> bytes:
        """One message, slightly mutated."""
        if message[:1] in (b"{", b"[") and self.random.random() < 0.7:
            return self._json(message)
        data = bytearray(message)
        for _ in range(self.random.choice((1, 1, 2, 3, 6))):
            self._bytes(data)
        if repair is not None and self.random.random() < 0.7:
            repair(data)
        return bytes(data[:MESSAGE_MAX])

    def _bytes(self, data: bytearray) -> None:
        rng = self.random
        at, what = rng.randrange(len(data) + 1), rng.randrange(9)
        if what == 0 and data:
            data[at % len(data)] ^= 1 << rng.randrange(8)
        elif what == 1 and data:
            data[at % len(data)] = rng.randrange(256)
        elif what in (2, 3, 4):
            form = rng.choice("<>") + rng.choice("BHIQ")
            size = struct.calcsize(form)
            number = rng.choice(NUMBERS) + rng.choice((0, 0, -1, 1))
            data[at : at + size] = struct.pack(form, number % 256**size)
        elif what == 5:
            del data[at : at + rng.choice((1, 2, 4, 16, 1000))]
        elif what == 6:
            data[at:at] = rng.choice(TEXTS)
        elif what == 7:
            data[at:at] = rng.randbytes(rng.choice((1, 4, 64, 4000)))
        else:
            size = rng.choice((1, 4, 20, 200))
            data[at:at] = data[at : at + size]

    def _json(self, message: bytes) -> bytes:
        rng = self.random
        try:
            whole = json.loads(message)
        except (ValueError, RecursionError):
            return message
        places: list[tuple[Any, Any]] = []
        _collect(whole, places)
        if not places or rng.random() < 0.1:
            return rng.choice(BEYOND_JSON).encode("utf-8", "surrogateescape")
        holder, key = rng.choice(places)
        if isinstance(holder, dict) and rng.random() < 0.15:
            del holder[key]
        elif rng.random() < 0.25:
            holder[key] = "@@@"
            beyond = rng.choice(BEYOND_JSON).encode("utf-8", "surrogateescape")
            return json.dumps(whole).encode().replace(b'"@@@"', beyond)
        else:
            holder[key] = rng.choice(VALUES)
        return json.dumps(whole).encode()


def _collect(value: Any, places: list[tuple[Any, Any]]) -> None:
    keys: Any = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        places.append((value, key))
        _collect(value[key], places)


def repair_at(at: int, form: str, header: int) -> Repair:
    """A repair for messages with a header of so many bytes, which has the size of the rest at `at`."""
    size = struct.calcsize(form)

    def repair(data: bytearray) -> None:
        if len(data) >= header:
            data[at : at + size] = struct.pack(form, (len(data) - header) % 256**size)

    return repair


def repair_line(data: bytearray) -> None:
    """Leave one line break, at the end."""
    data[:] = data.replace(b"\n", b" ") + b"\n"
