"""The clipboard of an X display: its CLIPBOARD selection, which belongs to a program, or to us.

"Inter-Client Communication Conventions Manual", version 2.0, 2: "Peer-to-Peer Communication by Means of Selections".
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

from millrace.errors import ConfigError
from millrace.media.clip import ClipReader, ClipText, check_size
from millrace.wire.clips import ClipEvent, ClipGiven, ClipOffered, ClipSupplied, ClipWanted
from millrace.wire.x11 import requests
from millrace.wire.x11.numbered import PACKET
from millrace.wire.x11.said import Said, Then, no_more

READ_BYTES = WHOLE_BYTES = 64 * 1024
"""How much of a property is read at once, and the longest text that is handed over whole. The largest request may have
256 KiB."""
ASKS_MAX = TRANSFERS_MAX = 4
"""Programs that may wait for our text, and that may be given it at the same time."""
_CLIPBOARD, _TARGETS, _INCR, _UTF8, _PLAIN = (
    b"CLIPBOARD", b"TARGETS", b"INCR", b"UTF8_STRING", b"text/plain;charset=utf-8"
)  # fmt: skip
_PROPERTY = b"MILLRACE_CLIPBOARD"
_NAMES = (_CLIPBOARD, _TARGETS, _INCR, _UTF8, _PLAIN, _PROPERTY)
_ATOM, _STRING = 4, 31
_PROPERTY_NOTIFY, _SELECTION_REQUEST, _SELECTION_NOTIFY = 28, 30, 31
KINDS = frozenset({_PROPERTY_NOTIFY, _SELECTION_REQUEST, _SELECTION_NOTIFY})
"""The events that belong here, beside those of XFIXES."""
_DELETED = 1


@dataclass(slots=True)
class _Fetch:
    """A text that is being read. The window is its own, so what comes late from the one before is not taken for it."""

    window: int
    target: int
    pieces: bool = False
    """The owner puts one piece after the other into the property, whenever we have deleted the one before (INCR)."""
    reader: ClipReader = field(default_factory=ClipReader)
    size: int = 0
    """Bytes read so far."""
    at: int = 0
    """Of them, those of the property as it is now."""


@dataclass(frozen=True, slots=True)
class _Ask:
    """A program that pastes our text."""

    time: int
    requestor: int
    target: int
    name: int


@dataclass(slots=True)
class _Transfer:
    """A text that is handed over in pieces."""

    target: int
    pieces: Iterator[bytes]


# Anybody may destroy our windows. Whoever waits for a text learns of it as of an owner that does not answer.
def _or_nothing(request: bytes, then: Then) -> Said:
    """Ask; nothing follows from a refusal."""
    return Said(request, then, no_more, PACKET + READ_BYTES)


class Selections:
    """What is said to the server about the selection, and what it says."""

    def __init__(self) -> None:
        self._events: list[ClipEvent] = []
        self._atoms: dict[bytes, int] = {}
        self._fixes = self._root = self._window = 0
        self._owns = False
        self._fetch: _Fetch | None = None
        self._asks: list[_Ask] = []
        self._text: ClipText | None = None
        """What is handed over. Whoever asks meanwhile is given the same, unless there is another offer."""
        self._is_offered = False
        """It is still what is offered."""
        self._transfers: dict[tuple[int, int], _Transfer] = {}

    def events(self) -> list[ClipEvent]:
        """What was said of the clipboard since the last call."""
        out, self._events = self._events, []
        return out

    @property
    def held_bytes(self) -> int:
        """Memory of a text that is being read."""
        return 0 if self._fetch is None else self._fetch.reader.held_bytes

    # -- beginning -------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether the server has told all numbers that are needed."""
        return len(self._atoms) == len(_NAMES)

    def begin(self, fixes: int, root: int, window: int) -> list[Said]:
        """Learn the names, and be told of owners from then on. `window` is a new number."""
        self._fixes, self._root, self._window = fixes, root, window
        return [_or_nothing(requests.intern_atom(name), partial(self._learn, name)) for name in _NAMES]

    def _learn(self, name: bytes, part: bytes) -> list[Said]:
        (self._atoms[name],) = struct.unpack_from("<I", part, 8)
        if not self.ready:
            return []
        clipboard = self._atoms[_CLIPBOARD]
        return [
            Said(requests.create_window(self._window, self._root)),
            Said(requests.watch_selection(self._fixes, self._window, clipboard)),
            _or_nothing(requests.get_owner(clipboard), self._owner),
        ]

    def _owner(self, part: bytes) -> list[Said]:
        if struct.unpack_from("<I", part, 8)[0]:
            self._events.append(ClipOffered(True))
        return []

    def owned(self, part: bytes) -> list[Said]:
        """XFIXES tells of a new owner: perhaps us, or with 0 nobody."""
        owner, selection = struct.unpack_from("<II", part, 8)
        if not self.ready or selection != self._atoms[_CLIPBOARD] or owner == self._window:
            return []
        self._owns = False
        self._events.append(ClipOffered(owner != 0))
        return self._drop()

    # -- the display's text ----------------------------------------------------------------------

    def fetch(self, window: int) -> list[Said]:
        """Read the text. `window` is a new number."""
        said = self._drop()
        self._fetch = _Fetch(window, self._atoms[_UTF8])
        return [*said, Said(requests.create_window(window, self._root)), self._convert(self._fetch)]

    def _convert(self, fetch: _Fetch) -> Said:
        atoms = self._atoms
        return Said(requests.convert_selection(fetch.window, atoms[_CLIPBOARD], fetch.target, atoms[_PROPERTY]))

    def _drop(self) -> list[Said]:
        fetch, self._fetch = self._fetch, None
        return [] if fetch is None else [Said(requests.destroy_window(fetch.window))]

    def event(self, part: bytes) -> list[Said]:
        """An event of one of `KINDS`."""
        kind = part[0] & 0x7F
        if not self.ready:
            return []
        if kind == _SELECTION_NOTIFY:
            return self._converted(part)
        return self._asked(part) if kind == _SELECTION_REQUEST else self._changed(part)

    def _converted(self, part: bytes) -> list[Said]:
        window, name, fetch = *struct.unpack_from("<I8xI", part, 8), self._fetch
        if fetch is None or window != fetch.window:
            return []
        if name:
            return self._read(fetch)
        if fetch.target != _STRING:
            # Old programs have no other text than Latin-1.
            fetch.target, fetch.reader = _STRING, ClipReader("latin-1")
            return [self._convert(fetch)]
        return self._done(ClipSupplied(refused="the machine's clipboard holds no text"))

    def _read(self, fetch: _Fetch) -> list[Said]:
        said = requests.get_property(fetch.window, self._atoms[_PROPERTY], fetch.at, READ_BYTES)
        return [_or_nothing(said, partial(self._take, fetch))]

    def _take(self, fetch: _Fetch, part: bytes) -> list[Said]:
        bits, kind, after, count = part[1], *struct.unpack_from("<III", part, 8)
        if fetch is not self._fetch:
            return []
        if kind == self._atoms[_INCR] and not fetch.pieces:
            fetch.pieces = True
            return []
        data = part[32 : 32 + count * bits // 8]
        fetch.size, fetch.at = fetch.size + len(data), fetch.at + len(data) if after else 0
        last = not after and not (fetch.pieces and count)
        try:
            check_size(fetch.size + after)
            fetch.reader.add(data, last)
            if last:
                return self._done(ClipSupplied(fetch.reader.text()))
        except ConfigError as error:
            return self._done(ClipSupplied(refused=str(error)))
        return self._read(fetch) if after else []

    def _done(self, event: ClipSupplied) -> list[Said]:
        self._events.append(event)
        return self._drop()

    def _changed(self, part: bytes) -> list[Said]:
        window, name, state = struct.unpack_from("<II4xB", part, 4)
        fetch = self._fetch
        if state == _DELETED:
            return self._next_piece(window, name)
        if fetch is None or window != fetch.window or not fetch.pieces or name != self._atoms[_PROPERTY]:
            return []
        return self._read(fetch)

    # -- our text --------------------------------------------------------------------------------

    def offer(self, there: bool) -> list[Said]:
        """Own the selection, or give it up if we do."""
        owns, self._owns = self._owns, there
        self._is_offered = False
        if not there and not owns:
            return []
        return [Said(requests.set_owner(self._window if there else 0, self._atoms[_CLIPBOARD]))]

    def _asked(self, part: bytes) -> list[Said]:
        time, requestor, selection, target, name = struct.unpack_from("<I4xIIII", part, 4)
        ask = _Ask(time, requestor, target, name or target)
        if not self._owns or selection != self._atoms[_CLIPBOARD]:
            return self._answer(ask, False)
        if target == self._atoms[_TARGETS]:
            listed = (target, self._atoms[_UTF8], self._atoms[_PLAIN], _STRING)
            data = struct.pack("<4I", *listed)
            return [Said(requests.change_property(requestor, ask.name, _ATOM, 32, data)), *self._answer(ask)]
        if target not in (self._atoms[_UTF8], self._atoms[_PLAIN], _STRING) or len(self._asks) >= ASKS_MAX:
            return self._answer(ask, False)
        if self._text is not None and self._is_offered:
            return self._hand(ask, self._text)
        self._asks.append(ask)
        if len(self._asks) == 1:
            self._events.append(ClipWanted())
        return []

    def _answer(self, ask: _Ask, there: bool = True) -> list[Said]:
        clipboard, name = self._atoms[_CLIPBOARD], ask.name if there else 0
        return [Said(requests.selection_notify(ask.time, ask.requestor, clipboard, ask.target, name))]

    def supply(self, text: ClipText | None) -> list[Said]:
        """Hand our text to all that wait for it, and give up those that were not done with another; None: refuse it."""
        asks, self._asks = self._asks, []
        if text is None:
            return [said for ask in asks for said in self._answer(ask, False)]
        self._transfers.clear()
        self._text, self._is_offered = text, True
        said = [said for ask in asks for said in self._hand(ask, text)]
        self._end_transfers()
        return said

    def _hand(self, ask: _Ask, text: ClipText) -> list[Said]:
        pieces = text.latin_1() if ask.target == _STRING else iter(text.pieces)
        if text.size <= WHOLE_BYTES:
            data = b"".join(pieces)
            return [Said(requests.change_property(ask.requestor, ask.name, ask.target, 8, data)), *self._answer(ask)]
        self._transfers.pop((ask.requestor, ask.name), None)
        self._transfers[ask.requestor, ask.name] = _Transfer(ask.target, pieces)
        while len(self._transfers) > TRANSFERS_MAX:
            del self._transfers[next(iter(self._transfers))]
        size = struct.pack("<I", text.chars if ask.target == _STRING else text.size)
        return [
            Said(requests.watch_properties(ask.requestor, True)),
            Said(requests.change_property(ask.requestor, ask.name, self._atoms[_INCR], 32, size)),
            *self._answer(ask),
        ]

    def _end_transfers(self) -> None:
        """Hold the text no longer, if nobody is being handed it."""
        if self._text is not None and not self._transfers:
            self._events.append(ClipGiven(self._text))
            self._text = None

    # The last piece is an empty one. A program that goes before it is not told of, but its place is given to another.
    def _next_piece(self, window: int, name: int) -> list[Said]:
        transfer = self._transfers.get((window, name))
        if transfer is None:
            return []
        piece = next(transfer.pieces, b"")
        said: list[Said] = [Said(requests.change_property(window, name, transfer.target, 8, piece))]
        if not piece:
            del self._transfers[window, name]
            if all(one != window for one, _ in self._transfers):
                said.append(Said(requests.watch_properties(window, False)))
            self._end_transfers()
        return said
