"""The registry: every object of the daemon by its number, and who watches.

Changes are gathered until the loop comes round, made into one message for all watchers of the same guests, and
sent. All telling is done in turns, a slice of objects to a watcher in a step: sound goes on in between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple, Protocol

import msgspec

from millrace.io.turns import Steps, Turns
from millrace.rights.model import Principal, Right
from millrace.text import parse_choice
from millrace.wire.native.messages import Objects, frame, packed

KINDS = ("guest", "sink", "source", "stream", "recorder", "client", "listener", "door", "request", "incident")
"""What can be watched."""
SLICE = 50
FRAME_BYTES = 256 * 1024
Shown = dict[str, Any]
View = Callable[[], Shown]
Encode = Callable[[list[Shown], list[int], bool], bytes]
"""(objects that are new or have changed, numbers that are gone, whether the first look is over) to bytes."""


class Entry(NamedTuple):
    """One object: `view` says what is shown of it now."""

    id: int
    kind: str
    guest: str
    view: View


class Watcher(Protocol):
    """Who hears of changes."""

    principal: Principal
    kinds: frozenset[str] | None
    encode: Encode

    def send_objects(self, made: bytes) -> None:
        """Send what `encode` has made."""
        ...


class Registry:
    """All objects, and all watchers."""

    def __init__(self) -> None:
        self._entries: dict[int, Entry] = {}
        self._watchers: dict[Watcher, object] = {}
        """Each with what its first look goes by: a second look ends the first."""
        self._there: dict[int, Entry] = {}
        self._gone: dict[int, Entry] = {}
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
        if entry is None:
            return
        self._of_guest[entry.guest].discard(id_)
        if self._watchers:
            self._gone[id_] = entry
            self._turns.wait(self._telling)

    def drop_guest(self, guest: str) -> None:
        """A guest is gone, and what was in it."""
        for id_ in list(self._of_guest.get(guest, ())):
            self.drop(id_)
        self._of_guest.pop(guest, None)

    def _tell(self) -> Iterator[None]:
        """Tell all watchers of what has changed: a step for each of them, and slice by slice."""
        while self._there or self._gone:
            there = {id_: self._there.pop(id_) for id_ in list(islice(self._there, SLICE))}
            gone, self._gone = self._gone, {}
            shown = {entry.id: _shown(entry) for entry in there.values()}
            made: dict[tuple[Any, ...], bytes | None] = {}
            for watcher in list(self._watchers):
                key = (watcher.principal.rights, watcher.principal.guests, watcher.kinds, watcher.encode)
                if key not in made:
                    seen = [shown[e.id] for e in there.values() if _sees(watcher, e)]
                    lost = [e.id for e in gone.values() if _sees(watcher, e)]
                    made[key] = watcher.encode(seen, lost, False) if seen or lost else None
                data = made[key]
                if data is not None and watcher in self._watchers:
                    watcher.send_objects(data)
                yield

    # -- watchers --------------------------------------------------------------------------------

    def watch(self, watcher: Watcher) -> None:
        """Show `watcher` what is there, then every change."""
        look = self._watchers[watcher] = object()
        steps = self._show(watcher, look)
        self._turns.wait(Steps(lambda: steps, self._turns.over))

    def unwatch(self, watcher: Watcher) -> None:
        """Tell it no more."""
        self._watchers.pop(watcher, None)

    def _show(self, watcher: Watcher, look: object) -> Iterator[None]:
        ids = iter(list(self._entries))
        while self._watchers.get(watcher) is look:
            part = [self._entries.get(id_) for id_ in islice(ids, SLICE)]
            shown = [_shown(entry) for entry in part if entry is not None and _sees(watcher, entry)]
            watcher.send_objects(watcher.encode(shown, [], len(part) < SLICE))
            if len(part) < SLICE:
                return
            yield


def parse_kinds(names: Iterable[str]) -> frozenset[str]:
    """Kinds of objects to watch; ConfigError for one that there is not."""
    return frozenset(parse_choice(name, "kind", KINDS) for name in names)


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


def _sees(watcher: Watcher, entry: Entry) -> bool:
    if watcher.kinds is not None and entry.kind not in watcher.kinds:
        return False
    right = Right.ADMIN if entry.kind == "request" else Right.SEE
    return watcher.principal.may(right, entry.guest or None)


def _shown(entry: Entry) -> Shown:
    return {"n": entry.id, "kind": entry.kind, "guest": entry.guest, "is": entry.view()}
