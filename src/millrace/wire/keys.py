"""Keys: scan codes as QEMU numbers them, and the same keys by name, for Linux, and as X keysyms of a US keyboard.

A code is that of a PC/XT keyboard (set 1); keys whose code there begins with 0xE0 have 0x80 added to the second byte.
Facts from: keycodemapdb (the QEMU project's table of all these numbers), Linux' input-event-codes.h, the X protocol's
keysyms (X Window System Protocol, appendix A; XF86keysym.h), W3C UI Events KeyboardEvent code Values (the names).
"""

from __future__ import annotations

import msgspec

SHIFT = 0x2A
SHIFTS = frozenset({SHIFT, 0x36})
NUM_LED, CAPS_LED = 2, 4
CODE_MAX = 0xFF


class Key(msgspec.Struct, frozen=True):
    """A key by all its names. Keysyms are 0 where there is none."""

    name: str
    code: int
    evdev: int
    keysym: int
    shifted: int


class LightsTold(msgspec.Struct, frozen=True):
    """The lights of a machine's keyboard: 1 scroll lock, 2 num lock, 4 caps lock."""

    on: int


# Up to F12, Linux took its numbers from the XT keyboard. Each line here: name, code, and a character or a keysym in
# hexadecimal, without and with shift.
_SAME = """
Escape 01 ff1b|Digit1 02 1 !|Digit2 03 2 @|Digit3 04 3 #|Digit4 05 4 $|Digit5 06 5 %|Digit6 07 6 ^|Digit7 08 7 &
Digit8 09 8 *|Digit9 0a 9 (|Digit0 0b 0 )|Minus 0c - _|Equal 0d = +|Backspace 0e ff08|Tab 0f ff09 fe20|KeyQ 10 q Q
KeyW 11 w W|KeyE 12 e E|KeyR 13 r R|KeyT 14 t T|KeyY 15 y Y|KeyU 16 u U|KeyI 17 i I|KeyO 18 o O|KeyP 19 p P
BracketLeft 1a [ {|BracketRight 1b ] }|Enter 1c ff0d|ControlLeft 1d ffe3|KeyA 1e a A|KeyS 1f s S|KeyD 20 d D
KeyF 21 f F|KeyG 22 g G|KeyH 23 h H|KeyJ 24 j J|KeyK 25 k K|KeyL 26 l L|Semicolon 27 ; :|Quote 28 ' "|Backquote 29 ` ~
ShiftLeft 2a ffe1|Backslash 2b \\ 7c|KeyZ 2c z Z|KeyX 2d x X|KeyC 2e c C|KeyV 2f v V|KeyB 30 b B|KeyN 31 n N
KeyM 32 m M|Comma 33 , <|Period 34 . >|Slash 35 / ?|ShiftRight 36 ffe2|NumpadMultiply 37 ffaa|AltLeft 38 ffe9
Space 39 20|CapsLock 3a ffe5|F1 3b ffbe|F2 3c ffbf|F3 3d ffc0|F4 3e ffc1|F5 3f ffc2|F6 40 ffc3|F7 41 ffc4|F8 42 ffc5
F9 43 ffc6|F10 44 ffc7|NumLock 45 ff7f|ScrollLock 46 ff14|Numpad7 47 ff95 ffb7|Numpad8 48 ff97 ffb8
Numpad9 49 ff9a ffb9|NumpadSubtract 4a ffad|Numpad4 4b ff96 ffb4|Numpad5 4c ff9d ffb5|Numpad6 4d ff98 ffb6
NumpadAdd 4e ffab|Numpad1 4f ff9c ffb1|Numpad2 50 ff99 ffb2|Numpad3 51 ff9b ffb3|Numpad0 52 ff9e ffb0
NumpadDecimal 53 ff9f ffae|IntlBackslash 56 < >|F11 57 ffc8|F12 58 ffc9
"""
# Here the number of Linux, in decimal, follows the code.
_OTHER = """
PrintScreen 54 99 ff61|NumpadEqual 59 117 ffbd|F13 5d 183 ffca|F14 5e 184 ffcb|F15 5f 185 ffcc|F16 55 186 ffcd
KanaMode 70 93 ff27|Lang2 71 123 ff34|Lang1 72 122 ff31|IntlRo 73 89 \\ _|Convert 79 92 ff23|NonConvert 7b 94 ff22
IntlYen 7d 124 a5 7c|NumpadComma 7e 121 ffac|MediaTrackPrevious 90 165 1008ff16|MediaTrackNext 99 163 1008ff17
NumpadEnter 9c 96 ff8d|ControlRight 9d 97 ffe4|AudioVolumeMute a0 113 1008ff12|LaunchApp2 a1 140 1008ff1d
MediaPlayPause a2 164 1008ff14|MediaStop a4 166 1008ff15|AudioVolumeDown ae 114 1008ff11
AudioVolumeUp b0 115 1008ff13|BrowserHome b2 172 1008ff18|NumpadDivide b5 98 ffaf|AltRight b8 100 ffea
Pause c6 119 ff13 ff6b|Home c7 102 ff50|ArrowUp c8 103 ff52|PageUp c9 104 ff55|ArrowLeft cb 105 ff51
ArrowRight cd 106 ff53|End cf 107 ff57|ArrowDown d0 108 ff54|PageDown d1 109 ff56|Insert d2 110 ff63|Delete d3 111 ffff
MetaLeft db 125 ffeb|MetaRight dc 126 ffec|ContextMenu dd 127 ff67|Power de 116 1008ff2a|Sleep df 142 1008ff2f
WakeUp e3 143 1008ff2b|BrowserSearch e5 217 1008ff1b|BrowserFavorites e6 156 1008ff30|BrowserRefresh e7 173 1008ff29
BrowserStop e8 128 1008ff28|BrowserForward e9 159 1008ff27|BrowserBack ea 158 1008ff26|LaunchApp1 eb 157 1008ff33
LaunchMail ec 155 1008ff19|MediaSelect ed 226 1008ff32
"""


def _symbol(text: str) -> int:
    """A character of Latin-1 is its own keysym."""
    return ord(text) if len(text) == 1 else int(text, 16)


def _read(table: str, linux: bool) -> list[Key]:
    out = []
    for line in table.replace("\n", "|").strip("|").split("|"):
        name, code, *rest = line.split()
        evdev = int(rest.pop(0)) if linux else int(code, 16)
        plain = _symbol(rest[0])
        out.append(Key(name, int(code, 16), evdev, plain, _symbol(rest[1]) if len(rest) > 1 else plain))
    return out


KEYS = (*_read(_SAME, False), *_read(_OTHER, True))
BY_NAME = {key.name: key for key in KEYS}
"""By the names of browsers' `KeyboardEvent.code`."""
BY_CODE = {key.code: key for key in KEYS}
BY_EVDEV = {key.evdev: key for key in KEYS}
BY_KEYSYM = {symbol: key for key in reversed(KEYS) for symbol in (key.keysym, key.shifted)}
