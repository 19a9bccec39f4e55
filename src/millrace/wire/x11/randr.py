"""Another size of an X screen: RandR 1.3, as bytes. One output on one CRTC covers the screen."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from millrace.errors import RemoteProtocolError
from millrace.pixels.rects import Size
from millrace.wire.x11.requests import request

RANDR = b"RANDR"
_HEAD, _MODE = 32, 32
_ROTATE_0 = 1
_MM_PER_INCH, _DPI = 25.4, 96


@dataclass(frozen=True, slots=True)
class Resources:
    """What a screen is made of: its first CRTC and output, and the sizes that are known by number."""

    crtc: int
    output: int
    changed: int
    """The time of its last change, which a request for another one names."""
    modes: dict[Size, int]


def query_version(major: int) -> bytes:
    """Tell our version, which is the first request that the extension takes."""
    return request(major, 0, struct.pack("<II", 1, 3))


def get_resources(major: int, root: int) -> bytes:
    """What the screen is made of."""
    return request(major, 25, struct.pack("<I", root))


def read_resources(part: bytes) -> Resources | None:
    """None if there is no output; RemoteProtocolError if the answer is cut short."""
    changed, crtcs, outputs, modes = struct.unpack_from("<12xI3H", part)
    first_output = _HEAD + 4 * crtcs
    at = first_output + 4 * outputs
    if len(part) < at + modes * _MODE:
        raise RemoteProtocolError("the X server's list of outputs is cut short")
    if not crtcs or not outputs:
        return None
    known = {Size(w, h): number for number, w, h in struct.iter_unpack("<IHH24x", part[at : at + modes * _MODE])}
    (crtc,), (output,) = struct.unpack_from("<I", part, _HEAD), struct.unpack_from("<I", part, first_output)
    return Resources(crtc, output, changed, known)


def create_mode(major: int, root: int, size: Size) -> bytes:
    """A size that has no number yet. Its timing is never used: such a display is no monitor."""
    name = f"millrace-{size.width}x{size.height}".encode()
    timing = struct.pack("<8H", *(size.width,) * 3, 0, *(size.height,) * 3, len(name))
    mode = struct.pack("<IHHI", 0, size.width, size.height, 60 * size.width * size.height) + timing
    return request(major, 16, struct.pack("<I", root) + mode + struct.pack("<I", 0) + name)


def add_mode(major: int, output: int, mode: int) -> bytes:
    """Let an output have a size."""
    return request(major, 18, struct.pack("<II", output, mode))


def set_crtc(major: int, made_of: Resources, mode: int) -> bytes:
    """Give the CRTC a size, or with 0 none; its output follows."""
    outputs = (made_of.output,) if mode else ()
    body = struct.pack("<IIIhhIHxx", made_of.crtc, 0, made_of.changed, 0, 0, mode, _ROTATE_0)
    return request(major, 21, body + struct.pack(f"<{len(outputs)}I", *outputs))


def set_size(major: int, root: int, size: Size) -> bytes:
    """Give the screen a size."""
    width, height = (round(side * _MM_PER_INCH / _DPI) for side in (size.width, size.height))
    return request(major, 7, struct.pack("<IHHII", root, size.width, size.height, width, height))
