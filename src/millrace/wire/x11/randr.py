"""Another size of an X screen: RandR 1.3, as bytes. One output on one CRTC covers the screen."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from millrace.errors import RemoteProtocolError
from millrace.pixels.rects import Size
from millrace.wire.x11.requests import query_extension, request

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


Then: TypeAlias = "Callable[[Wish, bytes], list[Said]]"
Said: TypeAlias = "tuple[bytes, Then | None]"
"""A request, and what becomes of its answer."""


class Wish:
    """Another size that is asked for, step by step, each of which the server may refuse."""

    def __init__(self, root: int, size: Size) -> None:
        self._root, self._size = root, size
        self._major = 0
        self._made_of: Resources | None = None

    def begin(self) -> list[Said]:
        """The first step."""
        return [(query_extension(RANDR), Wish._has_randr)]

    def _has_randr(self, part: bytes) -> list[Said]:
        if not part[8]:
            return []
        self._major = part[9]
        return [(query_version(self._major), Wish._ignored), (get_resources(self._major, self._root), Wish._resources)]

    def _resources(self, part: bytes) -> list[Said]:
        self._made_of = made_of = read_resources(part)
        if made_of is None:
            return []
        if self._size in made_of.modes:
            return self._set_mode(made_of, made_of.modes[self._size])
        return [(create_mode(self._major, self._root, self._size), Wish._mode_made)]

    def _mode_made(self, part: bytes) -> list[Said]:
        made_of = self._made_of
        assert made_of is not None
        (mode,) = struct.unpack_from("<I", part, 8)
        return [(add_mode(self._major, made_of.output, mode), None), *self._set_mode(made_of, mode)]

    # A CRTC may not reach beyond the screen, neither before nor after: so it is off in between.
    def _set_mode(self, made_of: Resources, mode: int) -> list[Said]:
        return [
            (set_crtc(self._major, made_of, 0), Wish._ignored),
            (set_size(self._major, self._root, self._size), None),
            (set_crtc(self._major, made_of, mode), Wish._ignored),
        ]

    def _ignored(self, part: bytes) -> list[Said]:
        """An answer that says nothing that matters."""
        return []
