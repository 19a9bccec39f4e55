"""What a viewer types, as keys of an X display: whatever its layout, a program gets what the viewer means.

The X Keyboard Extension, protocol 1.0; X Window System Protocol, "ChangeKeyboardMapping" and "GetKeyboardControl";
XTEST 2.2.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from millrace.units import NS_PER_S, HostNs
from millrace.wire.keys import BY_KEYSYM, SHIFT, LightsTold
from millrace.wire.keysyms import ACCENTS, DEAD, UNICODE, composed, meant
from millrace.wire.x11 import fakes, keymap, requests, xkb
from millrace.wire.x11.events import LayoutUntold
from millrace.wire.x11.keymap import Keymap, Place
from millrace.wire.x11.requests import KEY_PRESS, KEY_RELEASE
from millrace.wire.x11.said import Said, Then, no_more
from millrace.wire.x11.spares import Spares
from millrace.wire.x11.xkb import LOCK, NO_STATE

_REPEATED_AT, _REPEATED_BYTES = 20, 32
"""Where an answer tells which keys are repeated ("GetKeyboardControl")."""
STROKES_MAX = 64
"""So many may be unanswered."""
ANSWER_NS: HostNs = 5 * NS_PER_S
"""When so long nothing that is needed for typing was answered, keys are pressed by their place."""


# Nothing of XKB must be had: what was refused has an empty answer.
def _or_empty(request: bytes, then: Then) -> Said:
    """Ask; a refusal is an empty answer."""
    return Said(request, then, lambda part: then(b""), keymap.ANSWER_MAX)


# A key is pressed where it is, and held, if it means there what it means to the viewer; or where else it does, without
# anything else being pressed. Anything else is typed as a stroke: Shift and its like are released, the group and the
# modifiers that it takes are locked, the key is pressed and released, and all is as before. The server does that in one
# go. For what no key means, a key that means nothing is given that meaning.
#
# That needs the layout and the state of the keyboard, which XKB tells, at first and whenever they have changed; a
# server without it has its keys pressed where they are. What it tells while strokes are on their way is how these
# change the state, so it is asked for behind each of them, and what it answers to the last one is true. So it is behind
# a modifier; until it has answered, nothing may be typed (`waits`). A server that does not answer for long (`silent`)
# is treated like one without XKB, until it has answered all.
#
# The server would repeat a key that is held for as long as no release has come, however long the line of the viewer is
# stalled. So it is told not to, for just the press, at which it decides: nothing of that lasts, whatever becomes of the
# daemon. Whether it repeats keys at all is asked behind each release. What the viewer repeats is released and pressed,
# as the server does it; of keys that it does not repeat, such as Shift, a press that is repeated does nothing.
#
# A dead key whose accent is not known is not pressed: the letter comes with it. One that is known is pressed, and the
# letter after it is what it would be without.
class Keyboard:
    """The keyboard of one display; `tell` is told its lights."""

    def __init__(self, tell: Callable[[LightsTold | LayoutUntold], None]) -> None:
        self._tell = tell
        self._test = self._root = self._xkb = 0
        self._event_kind = -1
        """The kind of XKB's events."""
        self._begun = False
        self._unknown = self._strokes = 0
        """Answers without which nothing can be typed, and answers to strokes, that are due."""
        self._answer_by_ns: HostNs | None = None
        """When the next of them must have come; None until the time is known at which that is waited for."""
        self.silent = False
        """They did not come in time."""
        self._keymap: Keymap | None = None
        self._map_due = self._map_again = False
        self._state = NO_STATE
        self._lights: int | None = None
        self._spares = Spares()
        self._pressed: list[int] = []
        """Of those, what the server has pressed, while what it has sent is processed."""
        self._held: dict[int, int] = {}
        """The keys that are down, by the codes that they were pressed for."""
        self._repeated = bytes(_REPEATED_BYTES)
        """The keys that the server repeats, one in a bit."""
        self._dead = False
        """A dead key was pressed last."""

    def look(self, test: int, root: int, window: int) -> list[Said]:
        """Ask which keys a daemon that was killed has given a meaning; if there are any, `begin`, to give them back.

        `window` is a new number.
        """
        self._test, self._root = test, root
        return self._looking(self._spares.marks.look(root, window))

    def _looking(self, said: Iterable[Said]) -> list[Said]:
        return [
            one._replace(then=partial(self._looked, one.then), refused=partial(self._looked, one.refused or no_more))
            if one.then else one for one in said
        ]  # fmt: skip

    # If the layout was told before what was left, it is asked for again.
    def _looked(self, then: Then, part: bytes) -> list[Said]:
        said = self._looking(then(part))
        self._has_answered()
        if not self._spares.marks.due and self._spares.marks.has_left:
            said += self.begin(self._test, self._root) or (self._ask_map() if self._keymap is not None else [])
        return said

    def begin(self, test: int, root: int) -> list[Said]:
        """Ask for the layout and the state, at the first call; `test` is XTEST's opcode."""
        if self._begun:
            return []
        self._begun, self._test, self._root = True, test, root
        return self._first(requests.query_extension(xkb.NAME), self._there)

    def _first(self, request: bytes, then: Then) -> list[Said]:
        self._unknown += 1
        return [_or_empty(request, partial(self._known, then))]

    def _known(self, then: Then, part: bytes) -> Sequence[Said]:
        self._unknown -= 1
        self._has_answered()
        return then(part)

    def _has_answered(self) -> None:
        self._answer_by_ns = None
        self.silent = self.silent and self._unanswered

    @property
    def _unanswered(self) -> bool:
        return self._unknown > 0 or self._strokes > 0 or self._spares.marks.due

    def _there(self, part: bytes) -> list[Said]:
        present, self._xkb, first = struct.unpack_from("<BBB", part, 8) if part else (0, 0, 0)
        return self._first(xkb.begin(self._xkb), partial(self._let_in, first)) if present else []

    def _let_in(self, first: int, part: bytes) -> list[Said]:
        if not part:
            return []
        self._event_kind = first
        return [Said(xkb.watch(self._xkb)), *self._ask_state(), *self._ask_map(), *self._ask_repeated()]

    @property
    def awaits(self) -> bool:
        """Whether an answer of the server is waited for, since a known time."""
        return self._answer_by_ns is not None and not self.silent

    def waits(self, now_ns: HostNs) -> bool:
        """Whether nothing may be typed now, as it might come out as something else."""
        if self.silent:
            return False
        waits = self._unknown > 0 or self._strokes >= STROKES_MAX or self._spares.marks.due
        return waits or not self._spares.has_room(now_ns)

    @property
    def _layout(self) -> Keymap | None:
        return None if self.silent else self._keymap

    # -- what the server tells -------------------------------------------------------------------

    def _ask_state(self) -> list[Said]:
        return self._first(xkb.get_state(self._xkb), self._told_state)

    def _told_state(self, part: bytes) -> list[Said]:
        self._answered(part)
        return []

    def _answered(self, part: bytes) -> None:
        if part and not self._unsettled:
            self._learn(xkb.state_of_answer(part))

    @property
    def _unsettled(self) -> bool:
        return self._strokes > 0 or self._unknown > self._map_due

    def _learn(self, state: xkb.KeyState) -> None:
        self._state = state
        if state.lights != self._lights:
            self._lights = state.lights
            self._tell(LightsTold(state.lights))

    def _ask_repeated(self) -> list[Said]:
        return [_or_empty(requests.get_keyboard_control(), self._told_repeated)]

    def _told_repeated(self, part: bytes) -> list[Said]:
        keys = part[_REPEATED_AT : _REPEATED_AT + _REPEATED_BYTES] if part and part[1] else b""
        self._repeated = keys.ljust(_REPEATED_BYTES, b"\0")
        return []

    def _ask_map(self) -> list[Said]:
        self._map_again, due, self._map_due = self._map_due, self._map_due, True
        return [] if due else self._first(xkb.get_map(self._xkb), self._told_map)

    def _told_map(self, part: bytes) -> list[Said]:
        self._map_due = False
        if part:
            self._keymap = Keymap(part)
            self._spares.learn(self._keymap)
        return self._ask_map() if self._map_again else []

    def event(self, kind: int, part: bytes) -> list[Said]:
        """An event, which is one of the keyboard if it is of XKB's kind."""
        if kind != self._event_kind:
            return []
        if part[1] == xkb.STATE and not self._unsettled:
            self._learn(xkb.state_of_event(part))
        elif part[1] == xkb.NEW_KEYBOARD:
            return [*self._ask_map(), *self._ask_state(), *self._ask_repeated()]
        elif part[1] == xkb.MAP:
            keys = xkb.keys_of_event(part)
            return [] if keys is not None and self._spares.keys.issuperset(keys) else self._ask_map()
        return []

    # -- what the viewer does --------------------------------------------------------------------

    def key(self, code: int, down: bool, meaning: str, now_ns: HostNs) -> list[Said] | None:
        """Press or release a key, by its scan code as QEMU numbers it, or 0; `meaning`: what it means to the viewer.

        None if no key means that, and none can be given that meaning.
        """
        if not down:
            return self._up(self._held.pop(code, 0))
        if code in self._held:
            return self._again(self._held[code])
        meaning = self._without_accent(code, meaning)
        if meaning == DEAD:
            return []
        symbol, layout = meant(code, meaning), self._layout
        if layout is None and symbol and not code:
            return self._by_place(symbol)
        if not symbol or layout is None:
            return self._hold(code, fakes.keycode(code))
        symbols = (symbol, UNICODE + ord(meaning)) if len(meaning) == 1 else (symbol,)
        if layout.means(fakes.keycode(code), self._state) in symbols:
            return self._hold(code, fakes.keycode(code))
        # A layout that was read since has the keys that were given a meaning too; taking one keeps what it means.
        if self._spares.means(symbol):
            return self._spare(symbol, now_ns)
        place = layout.find(symbols, self._state)
        if place is not None and self._is_now(place):
            return self._hold(code, place.keycode)
        if len(meaning) > 1:
            return self._hold(code, fakes.keycode(code))
        return self._spare(symbol, now_ns) if place is None else self._stroke(place)

    def _by_place(self, symbol: int) -> list[Said] | None:
        """Press and release the key of a US keyboard: that is what the layout may be."""
        key = BY_KEYSYM.get(symbol)
        if key is None:
            return None
        codes = [SHIFT] * (symbol != key.keysym) + [key.code]
        made = [(code, True) for code in codes] + [(code, False) for code in reversed(codes)]
        return [self._fake(fakes.keycode(code), down) for code, down in made]

    def _without_accent(self, code: int, meaning: str) -> str:
        """What a key means without the dead key that was pressed before it."""
        if meaning in ACCENTS or meaning == DEAD:
            self._dead = meaning != DEAD
        elif len(meaning) == 1:
            dead, self._dead = self._dead, False
            parts = composed(code, meaning) if dead else None
            return meaning if parts is None else parts[1]
        return meaning

    def _is_now(self, place: Place) -> bool:
        return place.group == self._state.group and not (self._state.mods ^ place.mods) & place.among

    def _hold(self, code: int, keycode: int) -> list[Said]:
        said = self._down(keycode)
        if keycode:
            self._held[code] = keycode
        return said

    def _again(self, keycode: int) -> list[Said]:
        """Press a key that is down, as the viewer's keyboard repeats it."""
        return [*([self._fake(keycode, False)] if self._repeats(keycode) else []), *self._down(keycode)]

    def _down(self, keycode: int) -> list[Said]:
        """Press a key so that the server does not repeat it by itself."""
        press = self._press(keycode, True)
        if not self._repeats(keycode):
            return press
        return [Said(xkb.repeat(self._xkb, False)), *press, Said(xkb.repeat(self._xkb, True))]

    def _up(self, keycode: int) -> list[Said]:
        asks = keycode > 0 and self._layout is not None
        return [*self._press(keycode, False), *(self._ask_repeated() if asks else [])]

    def _repeats(self, keycode: int) -> bool:
        return bool(self._repeated[keycode >> 3] >> (keycode & 7) & 1)

    def _press(self, keycode: int, down: bool) -> list[Said]:
        if not keycode:
            return []
        changes = self._layout is not None and keycode in self._layout.modifiers
        return [self._fake(keycode, down), *(self._ask_state() if changes else [])]

    def _fake(self, keycode: int, down: bool) -> Said:
        return Said(requests.fake_input(self._test, KEY_PRESS if down else KEY_RELEASE, keycode, self._root))

    def _spare(self, symbol: int, now_ns: HostNs) -> list[Said] | None:
        found = self._spares.take(symbol, now_ns)
        if found is None:
            return None
        keycode, said = found
        return [*map(Said, said), *self._stroke(Place(keycode, self._state.group, xkb.SHIFT | LOCK))]

    def _stroke(self, place: Place) -> list[Said]:
        assert self._keymap is not None
        self._strokes += 1
        state, keycode = self._state, place.keycode
        levels = list(dict.fromkeys(key for key in self._held.values() if key in self._keymap.levels))
        return [
            *(self._fake(key, False) for key in levels),
            Said(xkb.lock(self._xkb, place.among, place.mods, place.group)),
            self._fake(keycode, True), self._fake(keycode, False),
            Said(xkb.lock(self._xkb, place.among, state.locked & place.among, state.locked_group)),
            *(self._fake(key, True) for key in levels),
            _or_empty(xkb.get_state(self._xkb), partial(self._typed, keycode)),
        ]  # fmt: skip

    def _typed(self, keycode: int, part: bytes) -> list[Said]:
        self._strokes -= 1
        self._has_answered()
        if keycode in self._spares.keys:
            self._pressed.append(keycode)
        self._answered(part)
        return []

    # -- time, and the end -----------------------------------------------------------------------

    def received(self, now_ns: HostNs) -> None:
        """What the server had sent by now is processed."""
        for keycode in self._pressed:
            self._spares.pressed(keycode, now_ns)
        self._pressed.clear()

    def due_ns(self, now_ns: HostNs) -> HostNs | None:
        """When `handle_timeout` must be called."""
        due_ns = self._spares.due_ns(now_ns)
        if self.silent or not self._unanswered:
            return due_ns
        by_ns = now_ns if self._answer_by_ns is None else self._answer_by_ns
        return by_ns if due_ns is None else min(due_ns, by_ns)

    def handle_timeout(self, now_ns: HostNs) -> list[Said]:
        """See `Timed`."""
        if self._unanswered and not self.silent:
            self._await_answer(now_ns)
        return list(map(Said, self._spares.handle_timeout(now_ns)))

    # What is asked for when a key comes is asked for at a time that is not known: a quiet display tells none.
    def _await_answer(self, now_ns: HostNs) -> None:
        if self._answer_by_ns is None:
            self._answer_by_ns = now_ns + ANSWER_NS
        elif now_ns >= self._answer_by_ns:
            self.silent = True
            self._tell(LayoutUntold(ANSWER_NS))

    def end(self) -> list[Said]:
        """Release what is held, the last key first, and leave the layout as it was."""
        held, self._held = list(dict.fromkeys(reversed(self._held.values()))), {}
        return [*(self._fake(key, False) for key in held), *map(Said, self._spares.end())]
