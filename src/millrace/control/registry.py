"""The registry: every object of the daemon by its number, and the watchers.

Changes are gathered until the loop comes round, made into one message for all watchers of the same guests, and
sent. All telling is done in turns, a slice of objects to a few watchers in a step: sound goes on in between.

Levels, latencies and counters change all the time, and are no changes of their objects. Who asks for a guest's is told
each second of the objects that look different by then: one look for all who ask.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple, Protocol

import msgspec

from millrace.io.turns import Steps, Turns
from millrace.rights.model import Principal, Right
from millrace.text import parse_choice
from millrace.wire.native.messages import Objects, frame, packed

KINDS = ("guest", "sink", "source", "stream", "recorder", "client", "listener", "door", "request", "incident")
"""What can be watched, and is where nobody says what."""
ON_REQUEST = ("grant", "token")
"""What else can be watched."""
MEASURED = frozenset({"sink", "source", "stream", "listener", "door"})
"""Of these something is measured."""
SLICE = 50
SENDS_A_STEP = 20
"""Watchers that are sent a message in one step, where it was made for another of them."""
FRAME_BYTES = 256 * 1024
View = Callable[[], msgspec.Struct]


class Shown(msgspec.Struct, gc=False):
    """One object, as watchers are told of it."""

    number: int = msgspec.field(name="n")
    kind: str
    guest: str
    view: msgspec.Struct = msgspec.field(name="is")


Encode = Callable[[list[Shown], list[int], bool], bytes]
"""(objects that are new or have changed, numbers that are gone, whether the first look is over) to bytes."""


class Entry(NamedTuple):
    """One object: `view` says what is shown of it now."""

    id: int
    kind: str
    guest: str
    view: View


class Watcher(Protocol):
    """Hears of changes."""

    encode: Encode

    @property
    def principal(self) -> Principal:
        """Who has its rights."""
        ...

    @property
    def kinds(self) -> frozenset[str] | None:
        """What it hears of; None for all kinds."""
        ...

    def send_objects(self, made: bytes) -> None:
        """Send what `encode` has made."""
        ...


class Looked(NamedTuple):
    """What a watcher has seen, with which another can go on."""

    numbers: frozenset[int] = frozenset()
    synced: bool = False
    """Its first look is over."""


NOTHING = Looked()


@dataclass(slots=True, eq=False)
class _Look:
    """A watcher's first look. A second one ends it."""

    gone: frozenset[int]
    """What is still to be told of what another has seen: some of it may be there no more."""
    synced: bool


class Registry:
    """All objects, and all watchers."""

    def __init__(self) -> None:
        self._entries: dict[int, Entry] = {}
        self._watchers: dict[Watcher, _Look] = {}
        self._there: dict[int, Entry] = {}
        self._gone: dict[int, Entry] = {}
        self._leaving: dict[int, Entry] = {}
        """What is gone, and is being told just now."""
        self._measured: dict[int, Entry] = {}
        self._measuring: dict[Watcher, str] = {}
        self._last: dict[str, dict[int, Shown]] = {}
        """What those who ask for a guest's measurements have all been told last."""
        self._of_guest: dict[str, set[int]] = {}
        self._turns = Turns()
        self._telling = Steps(self._tell, self._turns.over)

    def __len__(self) -> int:
        return len(self._entries)

    # -- changes ---------------------------------------------------------------------------------

    def put(self, id_: int, kind: str, guest: str, view: View) -> None:
        """An object is new, or has changed."""
        entry = self._entries[id_] = Entry(id_, kind, guest, view)
        self._of_guest.setdefault(guest, set()).add(id_)
        if self._watchers:
            self._there[id_] = entry
            self._turns.wait(self._telling)

    def drop(self, id_: int) -> None:
        """An object is gone."""
        entry = self._entries.pop(id_, None)
        self._there.pop(id_, None)
        self._measured.pop(id_, None)
        if entry is None:
            return
        self._last.get(entry.guest, {}).pop(id_, None)
        self._of_guest[entry.guest].discard(id_)
        if self._watchers:
            self._gone[id_] = entry
            self._turns.wait(self._telling)

    def drop_guest(self, guest: str) -> None:
        """A guest is gone, and what was in it."""
        for id_ in list(self._of_guest.get(guest, ())):
            self.drop(id_)
        self._of_guest.pop(guest, None)

    def second(self) -> None:
        """A second has gone by: look at what is measured in the guests that somebody asks about."""
        asked = {guest for watcher, guest in self._measuring.items() if watcher.principal.may(Right.SEE, guest)}
        self._last = {guest: self._last.get(guest, {}) for guest in asked}
        for guest in asked:
            entries = (self._entries[id_] for id_ in self._of_guest.get(guest, ()))
            self._measured.update((entry.id, entry) for entry in entries if entry.kind in MEASURED)
        if self._measured:
            self._turns.wait(self._telling)

    def _tell(self) -> Iterator[None]:
        """Tell watchers of what has changed, slice by slice, a few watchers in a step; then of what is measured."""
        while self._there or self._gone or self._measured:
            if self._there or self._gone:
                there = _slice(self._there)
                gone, self._gone = self._gone, {}
                self._leaving = gone
                shown = {entry.id: _shown(entry) for entry in there}
                yield from self._tell_of(there, shown, gone, list(self._watchers))
                self._leaving = {}
            else:
                there = _slice(self._measured)
                shown = {entry.id: _shown(entry) for entry in there}
                there = [e for e in there if self._last.get(e.guest, {}).get(e.id) != shown[e.id]]
                for guest in {entry.guest for entry in there}:
                    watchers = [watcher for watcher, asked in self._measuring.items() if asked == guest]
                    yield from self._tell_of([e for e in there if e.guest == guest], shown, {}, watchers)

    def _tell_of(
        self, there: list[Entry], shown: dict[int, Shown], gone: dict[int, Entry], watchers: list[Watcher]
    ) -> Iterator[None]:
        for entry in there:
            if entry.guest in self._last:
                self._last[entry.guest][entry.id] = shown[entry.id]
        made: dict[tuple[Any, ...], bytes] = {}
        """Empty where those watchers see nothing of it."""
        for number, watcher in enumerate(watchers, 1):
            key = (watcher.principal.rights, watcher.principal.guests, watcher.kinds, watcher.encode)
            data = made.get(key)
            if new := data is None:
                seen = [shown[e.id] for e in there if _sees(watcher, e)]
                lost = [e.id for e in gone.values() if _sees(watcher, e)]
                data = made[key] = watcher.encode(seen, lost, False) if seen or lost else b""
            if data and watcher in self._watchers:
                watcher.send_objects(data)
            # To make a message takes long; to send what was made takes less than a step does.
            if new or number % SENDS_A_STEP == 0:
                yield

    # -- watchers --------------------------------------------------------------------------------

    def watch(self, watcher: Watcher, before: Looked = NOTHING) -> None:
        """Show `watcher` what is there, and what of `before` is gone; then every change."""
        look = self._watchers[watcher] = _Look(before.numbers, before.synced)
        steps = self._show(watcher, look)
        self._turns.wait(Steps(lambda: steps, self._turns.over))

    def looked(self, watcher: Watcher) -> Looked | None:
        """What it has seen, or is about to be told is gone; None for one that watches nothing."""
        look = self._watchers.get(watcher)
        if look is None:
            return None
        there = (*self._entries.values(), *self._leaving.values(), *self._gone.values())
        return Looked(look.gone.union(e.id for e in there if _sees(watcher, e)), look.synced)

    def unwatch(self, watcher: Watcher) -> None:
        """Tell it no more."""
        self._watchers.pop(watcher, None)
        self._measuring.pop(watcher, None)

    def measure(self, watcher: Watcher, guest: str | None) -> None:
        """Tell `watcher`, each second, of what is measured in a guest too; with None no more."""
        self._measuring.pop(watcher, None)
        if guest is not None and watcher in self._watchers:
            self._measuring[watcher] = guest
            # It has not been told what the others have.
            self._last.pop(guest, None)

    def _show(self, watcher: Watcher, look: _Look) -> Iterator[None]:
        ids = iter(list(self._entries))
        while self._watchers.get(watcher) is look:
            part = [self._entries.get(id_) for id_ in islice(ids, SLICE)]
            shown = [_shown(entry) for entry in part if entry is not None and _sees(watcher, entry)]
            over = len(part) < SLICE
            gone, look.gone = sorted(look.gone - self._entries.keys()), frozenset()
            watcher.send_objects(watcher.encode(shown, gone, over and not look.synced))
            if over:
                look.synced = True
                return
            yield


def parse_kinds(names: Iterable[str]) -> frozenset[str]:
    """Kinds of objects to watch; ConfigError for one that there is not."""
    return frozenset(parse_choice(name, "kind", (*KINDS, *ON_REQUEST)) for name in names)


def native_frames(there: list[Shown], gone: list[int], synced: bool) -> bytes:
    """Frames of the native protocol that tell of so much, none of them too large."""
    out: list[bytes] = []
    raws = [packed(shown) for shown in there]
    while True:
        size = count = 0
        while count < len(raws) and (count == 0 or size + len(bytes(raws[count])) < FRAME_BYTES):
            size += len(bytes(raws[count]))
            count += 1
        part, raws = raws[:count], raws[count:]
        out.append(frame(Objects(part, gone, synced and not raws)))
        gone = []
        if not raws:
            return b"".join(out)


def json_text(there: list[Shown], gone: list[int], synced: bool) -> bytes:
    """The same as one JSON object, for WebSockets."""
    return msgspec.json.encode({"there": there, "gone": gone, "synced": synced})


def _slice(entries: dict[int, Entry]) -> list[Entry]:
    """The first of them, taken out."""
    return [entries.pop(id_) for id_ in list(islice(entries, SLICE))]


def _sees(watcher: Watcher, entry: Entry) -> bool:
    if entry.kind in ON_REQUEST if watcher.kinds is None else entry.kind not in watcher.kinds:
        return False
    right = Right.ADMIN if entry.kind in ("request", "token") else Right.SEE
    return watcher.principal.may(right, entry.guest or None)


def _shown(entry: Entry) -> Shown:
    return Shown(entry.id, entry.kind, entry.guest, entry.view())
