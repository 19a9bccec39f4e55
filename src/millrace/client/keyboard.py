"""What is typed in a window: keys, with what they mean, and text that input methods compose.

SDL_events.h and SDL_keyboard.h of SDL 2: KEYDOWN, KEYUP, TEXTINPUT.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from typing import Any

from millrace.client.meanings import locks_of, meaning_of
from millrace.client.pressed import Pressed

MAC = sys.platform == "darwin"
CHORD = 0x0C0 | 0x300 | 0xC00
"""SDL's modifiers with which a key types nothing: Control, Alt and Super."""


# SDL tells what a key types right behind it, and nothing of it where Control is held. That text belongs to the key if
# it is one character, and goes along as what the key means. A key that types nothing although it should has been taken
# by an input method, or follows a Compose key: it is not pressed, as the text comes later. That has no key, and is
# typed as it is.
class WindowKeyboard:
    """`text` is called with text that has no key, `level_3` says whether the layout has AltGr."""

    def __init__(self, sdl: Any, pressed: Pressed, text: Callable[[str], None], level_3: Callable[[], bool]) -> None:
        self._sdl, self._pressed, self._text, self._level_3 = sdl, pressed, text, level_3

    def begin(self) -> None:
        """Have text told, and input methods show what they compose."""
        for name in (b"SDL_IME_SHOW_UI", b"SDL_IME_INTERNAL_EDITING"):
            self._sdl.SDL_SetHint(name, b"1")

    def key(self, event: Any) -> None:
        """A key was pressed or released, or is repeated, as some machines do not do it themselves."""
        usage, symbol, mods = event.key.keysym.scancode, event.key.keysym.sym, event.key.keysym.mod
        if event.type == self._sdl.SDL_KEYUP:
            self._pressed.key(usage, False)
            return
        following = self._following()
        text = "" if following is None else _text_of(following)
        if len(text) > 1 or (text and not self._pressed.knows(usage)) or (not text and self._taken(symbol, mods)):
            return
        if following is not None:
            self._peep(following, self._sdl.SDL_GETEVENT)
        meaning, repeated = meaning_of(symbol, text, self._level_3()), bool(event.key.repeat)
        self._pressed.key(usage, True, meaning, repeated, locks_of(mods, MAC))

    def text(self, event: Any) -> None:
        """Text that belongs to no key."""
        text = _text_of(event)
        if text:
            self._text(text)

    def _following(self) -> Any:
        """The text that follows a key, if any does."""
        event = self._sdl.SDL_Event()
        found = self._peep(event, self._sdl.SDL_PEEKEVENT)
        return event if found > 0 and event.type == self._sdl.SDL_TEXTINPUT else None

    def _peep(self, event: Any, how: int) -> int:
        sdl2 = self._sdl
        return int(sdl2.SDL_PeepEvents(ctypes.byref(event), 1, how, sdl2.SDL_FIRSTEVENT, sdl2.SDL_LASTEVENT))

    def _taken(self, symbol: int, mods: int) -> bool:
        types = 0x20 <= symbol <= 0x10FFFF and chr(symbol).isprintable() and not mods & CHORD
        return types and bool(self._sdl.SDL_IsTextInputActive())


def _text_of(event: Any) -> str:
    text: str = event.text.text.decode(errors="replace")
    return text
