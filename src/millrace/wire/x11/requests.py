"""The requests that are made of an X server, as bytes. The major opcodes of extensions are told by the server.

X Window System Protocol, "Requests"; damageproto 1.1, fixesproto 5, MIT-SHM 1.2 (shm.h), XTEST 2.2, RandR 1.3.
"""

from __future__ import annotations

import struct

from millrace.pixels.rects import Rect
from millrace.wire.x11.setup import padded

DAMAGE, FIXES, SHM, TEST = b"DAMAGE", b"XFIXES", b"MIT-SHM", b"XTEST"
EXTENSIONS = (DAMAGE, FIXES, SHM, TEST)
KEY_PRESS, KEY_RELEASE, BUTTON_PRESS, BUTTON_RELEASE, MOTION = 2, 3, 4, 5, 6
KEYCODE_OFFSET, KEYCODE_MAX = 8, 255
_DELTA_RECTANGLES, _Z_PIXMAP, _ALL_PLANES = 1, 2, 0xFFFFFFFF
_STRUCTURE_NOTIFY, _EVENT_MASK, _CURSOR_NOTIFY = 0x20000, 0x800, 1
_PROPERTY_CHANGE, _INPUT_ONLY, _ANY_OWNER = 0x400000, 2, 7


def request(major: int, minor: int, body: bytes = b"") -> bytes:
    """A request: its length counts in four bytes, and includes the head."""
    body = padded(body)
    return struct.pack("<BBH", major, minor, 1 + len(body) // 4) + body


def query_extension(name: bytes) -> bytes:
    """Whether there is such an extension, and its numbers."""
    return request(98, 0, struct.pack("<Hxx", len(name)) + name)


def query_version(name: bytes, major: int) -> bytes:
    """Tell an extension our version, which is the first request that it takes."""
    if name in (DAMAGE, FIXES):
        return request(major, 0, struct.pack("<II", *(1, 1) if name == DAMAGE else (5, 0)))
    return request(major, 0, struct.pack("<BxH", 2, 2) if name == TEST else b"")


def get_geometry(root: int) -> bytes:
    """How large the screen is."""
    return request(14, 0, struct.pack("<I", root))


def watch_size(root: int) -> bytes:
    """Be told when the screen has another size."""
    return request(2, 0, struct.pack("<III", root, _EVENT_MASK, _STRUCTURE_NOTIFY))


def watch_damage(major: int, damage: int, root: int) -> bytes:
    """Be told each rectangle that was not yet damaged."""
    return request(major, 1, struct.pack("<IIBxxx", damage, root, _DELTA_RECTANGLES))


def end_damage(major: int, damage: int) -> bytes:
    """Be told no more."""
    return request(major, 2, struct.pack("<I", damage))


def forget_damage(major: int, damage: int) -> bytes:
    """From here on nothing is damaged."""
    return request(major, 3, struct.pack("<III", damage, 0, 0))


def watch_cursor(major: int, root: int) -> bytes:
    """Be told when the cursor looks different."""
    return request(major, 3, struct.pack("<II", root, _CURSOR_NOTIFY))


def get_cursor(major: int) -> bytes:
    """What the cursor looks like, and where it is."""
    return request(major, 4)


def query_pointer(root: int) -> bytes:
    """Where the pointer is."""
    return request(38, 0, struct.pack("<I", root))


def attach_memory(major: int, segment: int) -> bytes:
    """Give the server memory, whose descriptor goes along."""
    return request(major, 6, struct.pack("<IBxxx", segment, 0))


def detach_memory(major: int, segment: int) -> bytes:
    """Take it away."""
    return request(major, 2, struct.pack("<I", segment))


def get_image(major: int, root: int, rect: Rect, segment: int, offset: int) -> bytes:
    """Have a rectangle copied to the memory, row by row without gaps."""
    place = struct.pack("<IhhHHI", root, rect.x, rect.y, rect.width, rect.height, _ALL_PLANES)
    return request(major, 4, place + struct.pack("<BxxxII", _Z_PIXMAP, segment, offset))


def fake_input(major: int, kind: int, detail: int, root: int, x: int = 0, y: int = 0) -> bytes:
    """A key, a button or a movement, as if a person had made it."""
    return request(major, 2, struct.pack("<BBxxII8xhh7xB", kind, detail, 0, root, x, y, 0))


def control_grabs(major: int, impervious: bool) -> bytes:
    """Whether the server processes our requests while another client has grabbed it (XTestGrabControl)."""
    return request(major, 3, struct.pack("<Bxxx", impervious))


def get_keyboard_control() -> bytes:
    """Which keys the server repeats, among other things."""
    return request(103, 0)


def change_keysyms(keycode: int, symbol: int) -> bytes:
    """A key means this, whether with Shift or without; 0: nothing."""
    return request(100, 1, struct.pack("<BBxxII", keycode, 2, symbol, symbol))


def query_keys() -> bytes:
    """Which keys are down."""
    return request(44, 0)


# -- selections: "Inter-Client Communication Conventions Manual", 2; fixesproto, "SelectSelectionInput" --------------


def get_focus() -> bytes:
    """The shortest request that is answered."""
    return request(43, 0)


def intern_atom(name: bytes) -> bytes:
    """The number of a name."""
    return request(16, 0, struct.pack("<Hxx", len(name)) + name)


def create_window(window: int, root: int) -> bytes:
    """A window that is never shown, of whose properties we are told."""
    place = struct.pack("<hhHHHHI", 0, 0, 1, 1, 0, _INPUT_ONLY, 0)
    return request(1, 0, struct.pack("<II", window, root) + place + struct.pack("<II", _EVENT_MASK, _PROPERTY_CHANGE))


def destroy_window(window: int) -> bytes:
    """Its properties go with it."""
    return request(4, 0, struct.pack("<I", window))


def watch_properties(window: int, watch: bool) -> bytes:
    """Be told, or no more, of the properties of somebody else's window."""
    return request(2, 0, struct.pack("<III", window, _EVENT_MASK, _PROPERTY_CHANGE if watch else 0))


def watch_selection(major: int, window: int, selection: int) -> bytes:
    """Be told who owns a selection, and when its owner has gone."""
    return request(major, 2, struct.pack("<III", window, selection, _ANY_OWNER))


def get_owner(selection: int) -> bytes:
    """Who owns a selection."""
    return request(23, 0, struct.pack("<I", selection))


def set_owner(window: int, selection: int) -> bytes:
    """Own a selection, or with no window give it up."""
    return request(22, 0, struct.pack("<III", window, selection, 0))


def convert_selection(window: int, selection: int, target: int, name: int) -> bytes:
    """Have its owner put a selection into a property."""
    return request(24, 0, struct.pack("<IIIII", window, selection, target, name, 0))


def get_property(window: int, name: int, at: int, size: int) -> bytes:
    """Read so many bytes of a property from one on, and delete it if nothing follows. Both are multiples of four."""
    return request(20, 1, struct.pack("<IIIII", window, name, 0, at // 4, size // 4))


def read_property(window: int, name: int, size: int) -> bytes:
    """Read so many bytes of a property, a multiple of four, and leave it as it is."""
    return request(20, 0, struct.pack("<IIIII", window, name, 0, 0, size // 4))


def delete_property(window: int, name: int) -> bytes:
    """There is no such property any more."""
    return request(19, 0, struct.pack("<II", window, name))


def change_property(window: int, name: int, kind: int, bits: int, data: bytes) -> bytes:
    """Put data into a property."""
    return request(18, 0, struct.pack("<IIIBxxxI", window, name, kind, bits, len(data) * 8 // bits) + data)


def selection_notify(time: int, requestor: int, selection: int, target: int, name: int) -> bytes:
    """Tell a program that the selection is in its property; 0: that it is not to be had."""
    event = struct.pack("<BxHIIIII8x", 31, 0, time, requestor, selection, target, name)
    return request(25, 0, struct.pack("<II", requestor, 0) + event)
