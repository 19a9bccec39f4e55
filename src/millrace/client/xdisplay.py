"""What SDL does not tell of the X display that a window is on: asked of Xlib, with SDL's own connection."""

from __future__ import annotations

import ctypes
from typing import Any

LEVEL_3 = 0xFE03
ALT_GR_KEYCODE = 108
"""X's key code of the right Alt key (xkeyboard-config, keycodes/evdev)."""


class XDisplay:
    """The display of a window that exists."""

    def __init__(self, xlib: Any, display: int) -> None:
        self._xlib, self._display = xlib, ctypes.c_void_p(display)

    @property
    def descriptor(self) -> int:
        """Of the connection."""
        return int(self._xlib.XConnectionNumber(self._display))

    @property
    def level_3(self) -> bool:
        """Whether the layout, as it is now, has AltGr on the right Alt key."""
        return int(self._xlib.XkbKeycodeToKeysym(self._display, ALT_GR_KEYCODE, 0, 0)) == LEVEL_3


def display_of(sdl: Any, window: Any) -> XDisplay | None:
    """The X display of an SDL window; None if it is on none."""
    info = sdl.SDL_SysWMinfo()
    sdl.SDL_GetVersion(ctypes.byref(info.version))
    found = sdl.SDL_GetWindowWMInfo(window, ctypes.byref(info))
    if not found or info.subsystem != sdl.SDL_SYSWM_X11:
        return None
    try:
        xlib = ctypes.CDLL("libX11.so.6")
        xlib.XkbKeycodeToKeysym.restype = ctypes.c_ulong
        xlib.XkbKeycodeToKeysym.argtypes = [ctypes.c_void_p, ctypes.c_ubyte, ctypes.c_int, ctypes.c_int]
        xlib.XConnectionNumber.argtypes = [ctypes.c_void_p]
    except (OSError, AttributeError):
        return None
    return XDisplay(xlib, info.info.x11.display)
