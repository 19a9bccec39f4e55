"""Another size of an X screen: RandR 1.3, as bytes. One output on one CRTC covers the screen.

X Resize and Rotate Extension, randrproto.txt, 7: "Extension Requests"; the numbers are those of its appendix A.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from millrace.errors import RemoteProtocolError
from millrace.pixels.rects import Size
from millrace.wire.x11.requests import get_geometry, query_extension, request
from millrace.wire.x11.said import Said, Then, no_more

RANDR = b"RANDR"
ANSWER_MAX = 128 * 1024
"""Bytes of one answer: thousands of sizes, more than any server has."""
DELETED_MAX = 64
"""Sizes that Millrace has made which one wish deletes; the next one deletes more."""
_HEAD, _MODE = 32, 32
_ROTATE_0 = 1
_MM_PER_INCH, _DPI = 25.4, 96
_OURS = b"millrace-"


@dataclass(frozen=True, slots=True)
class Resources:
    """What a screen is made of: its first CRTC and output, and of the sizes that are known by number those of use."""

    crtc: int
    output: int
    changed: int
    """The time of its last change, which a request for another one names."""
    mode: int
    """The size that was looked for; 0 if it is not there."""
    ours: tuple[int, ...]
    """The sizes that Millrace has made, now or in sessions before."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What a CRTC shows, and where: by default nothing."""

    mode: int = 0
    outputs: tuple[int, ...] = ()
    x: int = 0
    y: int = 0
    rotation: int = _ROTATE_0


def query_version(major: int) -> bytes:
    """Tell our version, which is the first request that the extension takes."""
    return request(major, 0, struct.pack("<II", 1, 3))


def get_range(major: int, root: int) -> bytes:
    """How small and how large the screen can be."""
    return request(major, 6, struct.pack("<I", root))


def in_range(part: bytes, size: Size) -> bool:
    """Whether the screen can have this size."""
    least_width, least_height, width, height = struct.unpack_from("<8x4H", part)
    return bool(least_width <= size.width <= width and least_height <= size.height <= height)


def get_resources(major: int, root: int) -> bytes:
    """What the screen is made of."""
    return request(major, 25, struct.pack("<I", root))


def read_resources(part: bytes, size: Size) -> Resources | None:
    """None if there is no output; RemoteProtocolError if the answer is cut short. `size` is looked for."""
    changed, crtcs, outputs, modes, named = struct.unpack_from("<12xI4H", part)
    first_output = _HEAD + 4 * crtcs
    at = first_output + 4 * outputs
    name = at + modes * _MODE
    if len(part) < name + named:
        raise RemoteProtocolError("the X server's list of outputs is cut short")
    if not crtcs or not outputs:
        return None
    sought, ours = 0, []
    for number, width, height, length in struct.iter_unpack("<IHH18xH4x", part[at:name]):
        if width == size.width and height == size.height:
            sought = number
        if part.startswith(_OURS, name):
            ours.append(number)
        name += length
    (crtc,), (output,) = struct.unpack_from("<I", part, _HEAD), struct.unpack_from("<I", part, first_output)
    return Resources(crtc, output, changed, sought, tuple(ours))


def get_setting(major: int, made_of: Resources) -> bytes:
    """What the CRTC shows."""
    return request(major, 20, struct.pack("<II", made_of.crtc, made_of.changed))


def read_setting(part: bytes) -> Setting:
    """RemoteProtocolError if the answer is cut short."""
    x, y, mode, rotation, count = struct.unpack_from("<12xhh4xIH2xH", part)
    if len(part) < _HEAD + 4 * count:
        raise RemoteProtocolError("the X server's list of a CRTC's outputs is cut short")
    return Setting(mode, struct.unpack_from(f"<{count}I", part, _HEAD), x, y, rotation)


def create_mode(major: int, root: int, size: Size) -> bytes:
    """A size that has no number yet. Its timing is never used: such a display is no monitor."""
    name = _OURS + f"{size.width}x{size.height}".encode()
    timing = struct.pack("<8H", *(size.width,) * 3, 0, *(size.height,) * 3, len(name))
    mode = struct.pack("<IHHI", 0, size.width, size.height, 60 * size.width * size.height) + timing
    return request(major, 16, struct.pack("<I", root) + mode + struct.pack("<I", 0) + name)


def add_mode(major: int, output: int, mode: int) -> bytes:
    """Let an output have a size."""
    return request(major, 18, struct.pack("<II", output, mode))


def delete_mode(major: int, output: int, mode: int) -> bytes:
    """Let an output no longer have a size; refused while it has it."""
    return request(major, 19, struct.pack("<II", output, mode))


def destroy_mode(major: int, mode: int) -> bytes:
    """Forget a size; refused while an output may have it."""
    return request(major, 17, struct.pack("<I", mode))


def set_crtc(major: int, made_of: Resources, setting: Setting) -> bytes:
    """Have the CRTC show this; its outputs follow."""
    head = struct.pack("<III", made_of.crtc, 0, made_of.changed)
    place = struct.pack("<hhIHxx", setting.x, setting.y, setting.mode, setting.rotation)
    return request(major, 21, head + place + struct.pack(f"<{len(setting.outputs)}I", *setting.outputs))


def set_size(major: int, root: int, size: Size) -> bytes:
    """Give the screen a size."""
    width, height = (max(1, round(side * _MM_PER_INCH / _DPI)) for side in (size.width, size.height))
    return request(major, 7, struct.pack("<IHHII", root, size.width, size.height, width, height))


# A server keeps the sizes that its clients make, also when they have gone. So what Millrace has made is deleted as soon
# as the screen has another size, and is known by its name: also what it left behind as the screen had it then. What the
# screen had is set again if it can't have what is wished: else it would stay off.
class Wish:
    """Another size that is asked for, step by step, each of which the server may refuse."""

    def __init__(self, root: int, before: Size, size: Size) -> None:
        """`before` is the size that the screen has."""
        self._root, self._before, self._size = root, before, size
        self._major = 0
        self._made_of = Resources(0, 0, 0, 0, ())
        self._had = Setting()
        self._mode = self._due = 0

    @property
    def over(self) -> bool:
        """Whether the server has answered all that was asked."""
        return not self._due

    def _step(self, request: bytes, then: Then, refused: Then = no_more) -> Said:
        """Ask, and count what is due until it is answered or refused."""
        self._due += 1
        return Said(request, partial(self._answered, then), partial(self._answered, refused), ANSWER_MAX)

    def _answered(self, then: Then, part: bytes) -> Sequence[Said]:
        self._due -= 1
        return then(part)

    def begin(self) -> list[Said]:
        """The first step."""
        return [self._step(query_extension(RANDR), self._has_randr)]

    def _has_randr(self, part: bytes) -> list[Said]:
        if not part[8]:
            return []
        self._major = part[9]
        version, sizes = query_version(self._major), get_range(self._major, self._root)
        return [self._step(version, no_more), self._step(sizes, self._range)]

    def _range(self, part: bytes) -> list[Said]:
        if not in_range(part, self._size):
            return []
        return [self._step(get_resources(self._major, self._root), self._resources)]

    def _resources(self, part: bytes) -> list[Said]:
        made_of = read_resources(part, self._size)
        if made_of is None:
            return []
        self._made_of = made_of
        return [self._step(get_setting(self._major, made_of), self._setting)]

    def _setting(self, part: bytes) -> list[Said]:
        if part[1]:
            return []
        self._had = read_setting(part)
        if self._made_of.mode:
            return self._set(self._made_of.mode)
        return [self._step(create_mode(self._major, self._root, self._size), self._mode_made)]

    def _mode_made(self, part: bytes) -> list[Said]:
        (mode,) = struct.unpack_from("<I", part, 8)
        return self._set(mode)

    # An output that has the size already refuses to be given it, which does no harm.
    def _set(self, mode: int) -> list[Said]:
        self._mode, output = mode, self._made_of.output
        change = self._change(Setting(mode, (output,)), self._size, self._is_set, self._failed)
        return [Said(add_mode(self._major, output, mode)), *change]

    # A CRTC may not reach beyond the screen, neither before nor after: so it is off in between.
    def _change(self, setting: Setting, size: Size, then: Then = no_more, refused: Then = no_more) -> list[Said]:
        return [
            self._step(set_crtc(self._major, self._made_of, Setting()), no_more),
            Said(set_size(self._major, self._root, size)),
            self._step(set_crtc(self._major, self._made_of, setting), then, refused),
        ]

    def _is_set(self, part: bytes) -> list[Said]:
        return self._failed(part) if part[1] else [self._step(get_geometry(self._root), self._is_size)]

    # A server that refuses a smaller size may still take a mode that has it.
    def _is_size(self, part: bytes) -> list[Said]:
        is_had = Size(*struct.unpack_from("<HH", part, 16)) == self._size
        return self._delete(self._mode) if is_had else self._failed(part)

    # It may have changed meanwhile, and old times are refused.
    def _failed(self, part: bytes) -> list[Said]:
        return [self._step(get_resources(self._major, self._root), self._restore)]

    def _restore(self, part: bytes) -> list[Said]:
        self._made_of = read_resources(part, self._size) or self._made_of
        return [*self._change(self._had, self._before), *self._delete(self._had.mode)]

    def _delete(self, kept: int) -> list[Said]:
        """Delete what Millrace has made, except for this."""
        major, output = self._major, self._made_of.output
        left = [mode for mode in self._made_of.ours if mode != kept][:DELETED_MAX]
        steps = [(delete_mode(major, output, mode), destroy_mode(major, mode)) for mode in left]
        return [Said(step) for pair in steps for step in pair]
