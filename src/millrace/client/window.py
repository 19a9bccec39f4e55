"""A viewer's window, by SDL2: the picture is copied to the window's surface, and only where it has changed.

PySDL2 and pysdl2-dll are the extra `view`. A renderer would upload whole textures, which takes longer than
the surface on machines without a GPU.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from millrace.client.canvas import Canvas, blend
from millrace.client.clipboard import SharedClipboard
from millrace.client.fitting import Fit
from millrace.client.keyboard import WindowKeyboard
from millrace.client.lettering import letter
from millrace.client.pressed import EXTRA, LEFT, MIDDLE, RIGHT, SIDE, Pressed
from millrace.client.viewer import Viewer
from millrace.client.xdisplay import XDisplay, display_of
from millrace.errors import ConfigError, OutputLost
from millrace.pixels.convert import Plane
from millrace.pixels.rects import EMPTY, Point, Rect, Size
from millrace.text import printable
from millrace.units import MediaNs
from millrace.wire.peer.pictures import CursorChanged, KeyboardHeld

POLL_S = 0.008
"""How often events are looked for where no descriptor tells of them."""
POLL_SLOW_S = 0.05
RESIZE_PAUSE_S = 0.25
RECTS_MAX = 64
_BUTTONS = {1: LEFT, 2: MIDDLE, 3: RIGHT, 4: SIDE, 5: EXTRA}
UNSEEN = (b"dummy", b"offscreen", b"evdev")
"""Drivers that SDL falls back to where there is no display."""
DISPLAYS = ("DISPLAY", "WAYLAND_DISPLAY")
HOW = "install Millrace with the extra `view` (docs/view.md), or write a file with --to"


def sdl() -> Any:
    """The SDL2 binding; a ConfigError says how to get it."""
    try:
        with warnings.catch_warnings():
            # It tells which library it has found.
            warnings.simplefilter("ignore")
            import sdl2
    except ImportError as error:
        raise ConfigError(f"a window needs PySDL2 and SDL 2 ({error}): {HOW}") from None
    return sdl2


class Window:
    """A `Face`. `closed` is called when the user closes the window."""

    def __init__(
        self, title: str, closed: Callable[[], None], full_screen: bool = False, share_clipboard: bool = True
    ) -> None:
        self._sdl = sdl()
        self._title, self._closed, self._full = title, closed, full_screen
        self._viewer: Viewer | None = None
        self._canvas = Canvas()
        self._window: Any = None
        self._fit = Fit(Size(0, 0), Size(0, 0))
        self._why, self._state = "", ""
        self._mine = self._grabbed = False
        self._cursor: CursorChanged | None = None
        self._placed = False
        self._ghost = EMPTY
        self._arrow: Any = None
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._display: XDisplay | None = None
        self._pressed = Pressed(self._key, self._point, self._command)
        self._typing = WindowKeyboard(self._sdl, self._pressed, self._type, self._level_3)
        self.clipboard = SharedClipboard(self._read_text, self._write_text, self._note) if share_clipboard else None

    # -- opening and closing ---------------------------------------------------------------------

    def open(self) -> None:
        """Open the window; ConfigError if there is no display."""
        sdl2 = self._sdl
        for name, value in (
            (b"SDL_NO_SIGNAL_HANDLERS", b"1"), (b"SDL_FRAMEBUFFER_ACCELERATION", b"0"),
            (b"SDL_VIDEO_X11_NET_WM_BYPASS_COMPOSITOR", b"0"), (b"SDL_MOUSE_FOCUS_CLICKTHROUGH", b"1"),
        ):  # fmt: skip
            sdl2.SDL_SetHint(name, value)
        self._typing.begin()
        if sdl2.SDL_Init(sdl2.SDL_INIT_VIDEO):
            raise ConfigError(f"no window can be opened here ({self._error()}); write a file with --to")
        if sdl2.SDL_GetCurrentVideoDriver() in UNSEEN and "SDL_VIDEODRIVER" not in os.environ:
            raise ConfigError(f"no window can be opened here ({_no_display()}); write a file with --to")
        sdl2.SDL_EnableScreenSaver()
        sdl2.SDL_StartTextInput()
        flags = sdl2.SDL_WINDOW_RESIZABLE | (sdl2.SDL_WINDOW_FULLSCREEN_DESKTOP if self._full else 0)
        anywhere = sdl2.SDL_WINDOWPOS_UNDEFINED
        self._window = sdl2.SDL_CreateWindow(self._named(), anywhere, anywhere, 640, 400, flags)
        if not self._window:
            raise ConfigError(f"no window can be opened here ({self._error()}); write a file with --to")
        self._watch_events()

    def attach(self, viewer: Viewer) -> None:
        """Keys and pointer go to this viewer."""
        self._viewer = viewer

    def close(self) -> None:
        """Close the window."""
        loop = asyncio.get_running_loop()
        for timer in self._timers.values():
            timer.cancel()
        if self._display is not None:
            loop.remove_reader(self._display.descriptor)
        if self._window is not None:
            self._sdl.SDL_DestroyWindow(self._window)
            self._window = None
            self._sdl.SDL_Quit()

    def _error(self) -> str:
        found: bytes = self._sdl.SDL_GetError()
        return found.decode(errors="replace") or "SDL gives no reason"

    def _named(self) -> bytes:
        return " – ".join(part for part in (self._title, self._state, self._why) if part).encode()

    def _retitle(self) -> None:
        if self._window is not None:
            self._sdl.SDL_SetWindowTitle(self._window, self._named())

    # -- see `Face` ------------------------------------------------------------------------------

    def resized(self, canvas: Canvas) -> None:
        """See `Face`: the window follows the picture's size, as far as the desktop has room."""
        self._canvas, self._ghost = canvas, EMPTY
        if not self._full:
            room = self._room()
            size = canvas.size
            self._sdl.SDL_SetWindowSize(self._window, min(size.width, room.width), min(size.height, room.height))
            if not self._placed:
                self._placed, centre = True, self._sdl.SDL_WINDOWPOS_CENTERED
                self._sdl.SDL_SetWindowPosition(self._window, centre, centre)
        self._whole()

    def _room(self) -> Size:
        found = self._sdl.SDL_Rect()
        display = max(0, self._sdl.SDL_GetWindowDisplayIndex(self._window))
        if self._sdl.SDL_GetDisplayUsableBounds(display, ctypes.byref(found)):
            return Size(1920, 1080)
        return Size(found.w, found.h)

    def draw(self, canvas: Canvas, changed: Sequence[Rect], painted_ns: MediaNs) -> None:
        """See `Face`."""
        if self._why or not self._fit.exact:
            self._whole()
        else:
            self._copy([*changed, *self._moved_ghost()])
        self._soon("poll", 0.0, self._poll)

    def cursor(self, canvas: Canvas, cursor: CursorChanged) -> None:
        """See `Face`."""
        self._cursor = cursor
        self._set_arrow()
        self._redraw_ghost()

    def keyboard(self, held: KeyboardHeld) -> None:
        """See `Face`."""
        if not held.mine:
            self._pressed.release()
            self._grab(False)
        self._mine, self._state = held.mine, "" if held.mine else f"{held.who or 'nobody'} has the keyboard"
        if self.clipboard is not None:
            self.clipboard.keyboard(held.mine)
        self._set_arrow()
        self._redraw_ghost()
        self._retitle()

    def old(self, why: str) -> None:
        """See `Face`: the picture is greyed, and the title says why, as do words in it: a full screen has no title."""
        if why != self._why:
            self._why = why
            self._retitle()
            self._whole()

    # -- drawing ---------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _surface(self) -> Iterator[Plane]:
        """The window's pixels: (rows, columns, 4), BGRX."""
        found = self._sdl.SDL_GetWindowSurface(self._window)
        if not found:
            raise OutputLost(f"the window can't be drawn: {self._error()}")
        surface = found.contents
        if surface.format.contents.BytesPerPixel != 4 or surface.format.contents.Bmask != 0xFF:
            raise OutputLost("the window's pixels are not B, G, R, X of 8 bits; write a file with --to")
        memory = (ctypes.c_uint8 * (surface.pitch * surface.h)).from_address(surface.pixels)
        rows = np.frombuffer(memory, np.uint8).reshape(surface.h, surface.pitch)
        yield rows[:, : surface.w * 4].reshape(surface.h, surface.w, 4)

    def _copy(self, changed: Sequence[Rect]) -> None:
        """Copy rectangles of the canvas, which is as large as its place in the window."""
        source, corner = self._canvas.pixels, self._fit.at
        with self._surface() as pixels:
            room = Rect(0, 0, pixels.shape[1], pixels.shape[0])
            places = []
            for rect in changed:
                place = rect.moved(corner.x, corner.y).common(room)
                if place.area:
                    x, y = place.x - corner.x, place.y - corner.y
                    part = source[y : y + place.height, x : x + place.width]
                    pixels[place.y : place.bottom, place.x : place.right] = part
                    places.append(place)
            self._blend_ghost(pixels)
        self._update(places)

    def _whole(self) -> None:
        """Draw everything: after a change of size, when the picture is scaled, or greyed."""
        if self._window is None:
            return
        with self._surface() as pixels:
            self._fit = Fit(self._canvas.size, Size(pixels.shape[1], pixels.shape[0]))
            pixels[:] = 0
            place = self._fit.place
            if place.area:
                part = self._fit.scaled(self._canvas.pixels)
                pixels[place.y : place.bottom, place.x : place.right] = part // 3 + 40 if self._why else part
                self._moved_ghost()
                self._blend_ghost(pixels)
            if self._why:
                letter(pixels, self._why)
            everything = Rect(0, 0, pixels.shape[1], pixels.shape[0])
        self._update([everything])

    def _update(self, places: Sequence[Rect]) -> None:
        if len(places) > RECTS_MAX:
            self._sdl.SDL_UpdateWindowSurface(self._window)
        elif places:
            rects = (self._sdl.SDL_Rect * len(places))(*((r.x, r.y, r.width, r.height) for r in places))
            self._sdl.SDL_UpdateWindowSurfaceRects(self._window, rects, len(places))

    # -- the cursor ------------------------------------------------------------------------------

    # Who has the keyboard moves the machine's pointer with his own, which then looks like the machine's. To all others
    # it is drawn into the picture.
    def _moved_ghost(self) -> list[Rect]:
        """Where the drawn cursor was and is."""
        before, cursor = self._ghost, self._cursor
        shape = None if cursor is None or self._mine or not cursor.shown else self._canvas.shapes.get(cursor.shape)
        if shape is None or cursor is None:
            self._ghost = EMPTY
        else:
            self._ghost = Rect(cursor.x - cursor.hot_x, cursor.y - cursor.hot_y, shape.shape[1], shape.shape[0])
        size = self._canvas.size
        room = Rect(0, 0, size.width, size.height)
        return [part for rect in (before, self._ghost) if (part := rect.common(room)).area]

    def _blend_ghost(self, pixels: Plane) -> None:
        if self._ghost.area and self._cursor is not None and self._fit.exact:
            at = self._ghost.moved(self._fit.at.x, self._fit.at.y)
            blend(pixels, self._canvas.shapes.get(self._cursor.shape), at.x, at.y)

    def _redraw_ghost(self) -> None:
        if self._window is not None and not self._why and self._fit.exact and self._fit.place.area:
            self._copy(self._moved_ghost())

    def _set_arrow(self) -> None:
        """Give this desktop's pointer the look of the machine's."""
        sdl2, cursor = self._sdl, self._cursor
        shape = self._canvas.shapes.get(cursor.shape) if cursor is not None and cursor.shown and self._mine else None
        if self._mine and cursor is not None:
            sdl2.SDL_ShowCursor(1 if cursor.shown else 0)
        else:
            sdl2.SDL_ShowCursor(1)
        if shape is None or cursor is None:
            sdl2.SDL_SetCursor(sdl2.SDL_GetDefaultCursor())
            return
        pixels = np.ascontiguousarray(shape)
        high, wide = pixels.shape[:2]
        memory = pixels.ctypes.data_as(ctypes.c_void_p)
        surface = sdl2.SDL_CreateRGBSurfaceWithFormatFrom(
            memory, wide, high, 32, wide * 4, sdl2.SDL_PIXELFORMAT_ARGB8888
        )
        made = sdl2.SDL_CreateColorCursor(surface, min(cursor.hot_x, wide - 1), min(cursor.hot_y, high - 1))
        sdl2.SDL_FreeSurface(surface)
        if made:
            sdl2.SDL_SetCursor(made)
            if self._arrow:
                sdl2.SDL_FreeCursor(self._arrow)
            self._arrow = made

    # -- events ----------------------------------------------------------------------------------

    # SDL has no descriptor to wait for. X11's is asked for behind its back; what Xlib has already read would not wake
    # it, hence the slow timer, and a look after each drawing.
    def _watch_events(self) -> None:
        self._display = display_of(self._sdl, self._window)
        if self._display is not None:
            asyncio.get_running_loop().add_reader(self._display.descriptor, self._poll)
        self._poll()

    def _soon(self, what: str, delay_s: float, call: Callable[[], None]) -> None:
        """Call once after a delay; a later wish replaces an earlier one of the same name."""
        if what in self._timers:
            self._timers[what].cancel()
        self._timers[what] = asyncio.get_running_loop().call_later(delay_s, call)

    def _poll(self) -> None:
        event = self._sdl.SDL_Event()
        while self._window is not None and self._sdl.SDL_PollEvent(ctypes.byref(event)):
            self._happened(event)
        if self._window is not None:
            self._soon("poll", POLL_S if self._display is None else POLL_SLOW_S, self._poll)

    def _happened(self, event: Any) -> None:
        sdl2, kind = self._sdl, event.type
        relative = bool(self._grabbed and self._viewer and self._viewer.relative)
        if kind == sdl2.SDL_QUIT:
            self._closed()
        elif kind == sdl2.SDL_WINDOWEVENT:
            self._window_event(event.window.event)
        elif kind in (sdl2.SDL_KEYDOWN, sdl2.SDL_KEYUP):
            self._typing.key(event)
        elif kind == sdl2.SDL_TEXTINPUT:
            self._typing.text(event)
        elif kind == sdl2.SDL_MOUSEMOTION and relative:
            self._pressed.moved(Point(event.motion.xrel, event.motion.yrel), True)
        elif kind == sdl2.SDL_MOUSEMOTION:
            self._pressed.moved(self._fit.inside(Point(event.motion.x, event.motion.y)))
        elif kind in (sdl2.SDL_MOUSEBUTTONDOWN, sdl2.SDL_MOUSEBUTTONUP):
            self._button(event.button.button, kind == sdl2.SDL_MOUSEBUTTONDOWN, relative)
        elif kind == sdl2.SDL_MOUSEWHEEL:
            self._pressed.wheel(event.wheel.y, event.wheel.x, relative)
        elif kind == sdl2.SDL_CLIPBOARDUPDATE and self.clipboard is not None:
            self.clipboard.copied()

    def _button(self, number: int, down: bool, relative: bool) -> None:
        viewer = self._viewer
        if down and viewer is not None and viewer.relative and not self._grabbed and self._mine:
            self._grab(True)
        elif number in _BUTTONS:
            self._pressed.button(_BUTTONS[number], down, relative)

    def _window_event(self, kind: int) -> None:
        sdl2 = self._sdl
        if kind in (sdl2.SDL_WINDOWEVENT_EXPOSED, sdl2.SDL_WINDOWEVENT_SIZE_CHANGED):
            self._whole()
        if kind == sdl2.SDL_WINDOWEVENT_RESIZED:
            self._soon("resize", RESIZE_PAUSE_S, self._wish_size)
        elif kind == sdl2.SDL_WINDOWEVENT_FOCUS_LOST:
            self._pressed.release()
            self._focus(False)
        elif kind == sdl2.SDL_WINDOWEVENT_FOCUS_GAINED:
            self._focus(True)
        elif kind in (sdl2.SDL_WINDOWEVENT_MINIMIZED, sdl2.SDL_WINDOWEVENT_HIDDEN):
            self._hidden(True)
        elif kind in (sdl2.SDL_WINDOWEVENT_RESTORED, sdl2.SDL_WINDOWEVENT_SHOWN):
            self._hidden(False)

    # -- the clipboard ---------------------------------------------------------------------------

    def _focus(self, focused: bool) -> None:
        if self.clipboard is not None:
            self.clipboard.focus(focused)

    # The binding makes bytes of the text, and loses the pointer by which it has to be freed.
    def _read_text(self) -> str:
        address = ctypes.cast(self._sdl.SDL_GetClipboardText, ctypes.c_void_p).value
        found = ctypes.CFUNCTYPE(ctypes.c_void_p)(address or 0)()
        try:
            return ctypes.string_at(found).decode(errors="replace") if found else ""
        finally:
            self._sdl.SDL_free(found)

    def _write_text(self, text: str) -> None:
        self._sdl.SDL_SetClipboardText(text.replace("\0", "").encode())

    def _note(self, text: str) -> None:
        if self._viewer is not None:
            self._viewer.on_event("clipboard", text)

    def _hidden(self, hidden: bool) -> None:
        if self._viewer is not None:
            self._viewer.hide(hidden)

    def _wish_size(self) -> None:
        """The user resized the window: with the keyboard, the machine is asked to follow."""
        if self._viewer is None or not self._mine:
            return
        wide, high = ctypes.c_int(), ctypes.c_int()
        self._sdl.SDL_GetWindowSize(self._window, ctypes.byref(wide), ctypes.byref(high))
        if Size(wide.value, high.value) != self._canvas.size and wide.value > 0 and high.value > 0:
            self._viewer.wish_size(Size(wide.value, high.value))

    def _level_3(self) -> bool:
        return self._display is not None and self._display.level_3

    def _key(self, code: int, down: bool, meaning: str, locks: int | None) -> None:
        if self._viewer is not None and self._mine:
            self._viewer.key(code, down, meaning, locks)

    def _type(self, text: str) -> None:
        if self._viewer is not None and self._mine:
            self._viewer.type_text(text)

    def _point(self, at: Point, buttons: int, relative: bool) -> None:
        if self._viewer is not None and self._mine:
            self._viewer.pointer(at, buttons, relative)

    def _command(self, command: str) -> None:
        if command == "quit":
            self._closed()
        elif command == "full screen":
            self._full = not self._full
            flag = self._sdl.SDL_WINDOW_FULLSCREEN_DESKTOP if self._full else 0
            self._sdl.SDL_SetWindowFullscreen(self._window, flag)
        elif command == "grab":
            self._grab(not self._grabbed)
        elif command == "keyboard" and self._viewer is not None:
            self._viewer.take_keyboard(not self._mine)

    def _grab(self, grab: bool) -> None:
        """All keys go to the machine, those of this desktop's too; and the pointer stays in the window."""
        self._grabbed = grab
        self._sdl.SDL_SetWindowKeyboardGrab(self._window, int(grab))
        relative = bool(grab and self._viewer and self._viewer.relative)
        self._sdl.SDL_SetRelativeMouseMode(int(relative))


def _no_display() -> str:
    """What is known of why SDL found no display: it does not say."""
    named = " and ".join(f"{name}={printable(os.environ[name])}" for name in DISPLAYS if os.environ.get(name))
    if named:
        return f"no display that {named} names can be used: it does not answer, or does not let this user in"
    return "neither DISPLAY nor WAYLAND_DISPLAY is set"
