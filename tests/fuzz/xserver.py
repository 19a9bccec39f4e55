"""What an X server says, written from the protocol's specification: for seeds and tests."""

from __future__ import annotations

import struct
from collections.abc import Sequence

WIDTH, HEIGHT = 64, 48
BASE, MASK, ROOT, VISUAL = 0x400000, 0x1FFFFF, 0x123, 0x21
MAJORS = {b"DAMAGE": (143, 91), b"XFIXES": (138, 87), b"MIT-SHM": (130, 65), b"XTEST": (132, 0)}
ATTACHED, FIRST_COPY = 14, 16
"""The numbers of the first request whose answer says that the server has the memory, and of that for a copy."""
NAMES = 6
"""So many names a door asks for before, for the clipboard: from request 13 on. They are numbered from 301 on."""
CLIPBOARD, TARGETS, INCR, UTF8, PLAIN, PROPERTY = range(301, 307)


RELEASED = 8
"""So many it makes after that: to be let through grabs, a window and four names of lists of keys, and which keys and
buttons are down, that a daemon has left."""
ASKED = NAMES + RELEASED


def setup(width: int = WIDTH, height: int = HEIGHT, bits: int = 32, vendor: bytes = b"The X") -> bytes:
    name = vendor + bytes(-len(vendor) % 4)
    formats = struct.pack("<BBB5x", 24, bits, 32) + struct.pack("<BBB5x", 1, 1, 32)
    visual = struct.pack("<IBBHIII4x", VISUAL, 4, 8, 256, 0xFF0000, 0xFF00, 0xFF)
    depths = struct.pack("<BxH4x", 1, 0) + struct.pack("<BxH4x", 24, 1) + visual
    screen = struct.pack("<5I4H2HIBBBB", ROOT, 0, 0, 0, 0, width, height, 170, 127, 1, 1, VISUAL, 0, 0, 24, 2)
    body = struct.pack("<4I2H8B4x", 12101, BASE, MASK, 256, len(vendor), 65535, 1, 2, 0, 0, 32, 32, 8, 255)
    body += name + formats + screen + depths
    return struct.pack("<BxHHH", 1, 11, 0, len(body) // 4) + body


def refused(reason: bytes = b"no protocol specified") -> bytes:
    body = reason + bytes(-len(reason) % 4)
    return struct.pack("<BBHHH", 0, len(reason), 11, 0, len(body) // 4) + body


def reply(number: int, body: bytes = b"", one: int = 0) -> bytes:
    """An answer; `body` follows its length."""
    body = body.ljust(24, b"\0")
    body += bytes(-len(body) % 4)
    return struct.pack("<BBHI", 1, one, number, (len(body) - 24) // 4) + body


def extensions(shm: tuple[int, int] = (1, 2)) -> list[bytes]:
    """The answers to whether they are there, and to their versions."""
    there = [reply(n, struct.pack("<BBBB", 1, *MAJORS[name], 0)) for n, name in enumerate(MAJORS, 1)]
    return [*there, reply(5, struct.pack("<II", 1, 1)), reply(6, struct.pack("<II", 5, 0)),
            reply(7, struct.pack("<HH", *shm)), reply(8, struct.pack("<H", 2), 2)]  # fmt: skip


def cursor(number: int, width: int = 4, height: int = 3, at: tuple[int, int] = (5, 6)) -> bytes:
    pixels = bytes(n % 256 for n in range(width * height)) * 4
    return reply(number, struct.pack("<hhHHHHI8x", *at, width, height, 1, 2, 9) + pixels)


def damaged(x: int, y: int, width: int, height: int) -> bytes:
    rect = struct.pack("<hhHH", x, y, width, height)
    return struct.pack("<BBHIII", MAJORS[b"DAMAGE"][1], 1, 0, ROOT, BASE + 1, 7) + rect + bytes(8)


def resized(width: int, height: int) -> bytes:
    return struct.pack("<BxHIIIhhHHHB5x", 22, 0, ROOT, ROOT, 0, 0, 0, width, height, 0, 0)


def cursor_changed() -> bytes:
    return struct.pack("<BBHIIII12x", MAJORS[b"XFIXES"][1] + 1, 0, 0, ROOT, 9, 7, 0)


def error(number: int, code: int = 8, major: int = 130, minor: int = 4) -> bytes:
    return struct.pack("<BBHIHB21x", 0, code, number, 0, minor, major)


def attached(number: int = ATTACHED) -> bytes:
    return reply(number, struct.pack("<I", ROOT))


def copied(number: int, size: int = WIDTH * HEIGHT * 4) -> bytes:
    return reply(number, struct.pack("<II", VISUAL, size), 24)


KEYBOARD, KEYBOARD_FIRST = 135, 85
"""XKB's opcode and first event."""
KEY_TYPES = {1: (0, []), 2: (1, [(1, 1)]), 3: (3, [(1, 1), (2, 1)]), 4: (0x81, [(1, 1), (0x80, 2), (0x81, 3)])}
"""Kinds of keys: which modifiers count, and those of each level but the first. 3 is that of letters."""
Groups = Sequence[tuple[int, Sequence[int]]]


def keyboard(number: int, keys: dict[int, Groups], modifiers: dict[int, int]) -> bytes:
    """A layout: the keys' groups, each of a kind and with its keysyms; and keys of modifiers."""
    types = b"".join(
        struct.pack("<BBHBBBx", among, among, 0, len(entries) + 1, len(entries), 0)
        + b"".join(struct.pack("<BBBBHxx", 1, mods, level, mods, 0) for mods, level in entries)
        for among, entries in KEY_TYPES.values()
    )
    listed = b""
    for keycode in range(8, 256):
        groups = keys.get(keycode, ())
        width = max((len(symbols) for _, symbols in groups), default=0)
        kinds = bytes(kind - 1 for kind, _ in groups).ljust(4, b"\0")
        symbols = [symbol for _, some in groups for symbol in (*some, *[0] * (width - len(some)))]
        listed += struct.pack(f"<4sBBH{len(symbols)}I", kinds, len(groups), width, len(symbols), *symbols)
    pairs = b"".join(bytes(pair) for pair in modifiers.items())
    total = sum(len(symbols) for groups in keys.values() for _, symbols in groups)
    head = struct.pack("<xxBBH3BBHB", 8, 255, 7, 0, len(KEY_TYPES), len(KEY_TYPES), 8, total, 248)
    head += bytes(31 - 21) + struct.pack("<BBB", 8, 248, len(modifiers)) + bytes(6)
    return reply(number, head + types + listed + pairs)


def keyboard_state(number: int, mods: int = 0, locked: int = 0, group: int = 0, locked_group: int = 0) -> bytes:
    return reply(number, bytes((mods, mods & ~locked, 0, locked, group, locked_group)))


def keyboard_told(mods: int = 0, locked: int = 0, group: int = 0, locked_group: int = 0) -> bytes:
    head = struct.pack("<BBHIB", KEYBOARD_FIRST, 2, 0, 7, 3)
    return (head + bytes((mods, 0, 0, locked, group, 0, 0, 0, 0, locked_group))).ljust(32, b"\0")


def keyboard_changed(first: int, count: int, what: int = 2) -> bytes:
    head = struct.pack("<BBHIBxHBBBBBB", KEYBOARD_FIRST, 1, 0, 7, 3, what, 8, 255, 0, 0, first, count)
    return head.ljust(32, b"\0")


def names() -> list[bytes]:
    return [reply(13 + n, struct.pack("<I", 301 + n)) for n in range(NAMES)]


def owned(owner: int, selection: int = CLIPBOARD) -> bytes:
    return struct.pack("<BBHIIIII8x", MAJORS[b"XFIXES"][1], 0, 0, BASE + 2, owner, selection, 7, 7)


def pasted(requestor: int, target: int, name: int = 77, selection: int = CLIPBOARD) -> bytes:
    return struct.pack("<BxHIIIIII4x", 30, 0, 5, BASE + 2, requestor, selection, target, name)


def converted(window: int, name: int = PROPERTY) -> bytes:
    return struct.pack("<BxHIIIII8x", 31 | 0x80, 0, 5, window, CLIPBOARD, UTF8, name)


def has(number: int, data: bytes, kind: int = UTF8, after: int = 0, bits: int = 8) -> bytes:
    return reply(number, struct.pack("<III12x", kind, after, len(data) * 8 // bits) + data, bits)


def property_changed(window: int, name: int, deleted: bool) -> bytes:
    return struct.pack("<BxHIIIB15x", 28, 0, window, name, 5, deleted)
