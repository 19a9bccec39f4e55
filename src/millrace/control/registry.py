"""The registry: every object of the daemon by number, and the watchers that are notified of changes.

Changes are collected until the next pass of the event loop, encoded once for all watchers with the same view, and sent.
The work is done in small steps, a slice of objects to a few watchers at a time, so that sound continues in between.

Levels, latencies and counters change all the time and do not count as changes. A watcher that asks for a guest's
measurements gets, once a second, the objects that look different from the last time. They are sampled once for all.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple, Protocol

import msgspec

from millrace.graph.steps import Steps
from millrace.io.turns import ChunkSize, Turns
from millrace.rights.model import Principal, Right
from millrace.text import parse_choice
from millrace.wire.native.messages import Objects, frame, packed

log = logging.getLogger("millrace.control")
KINDS = (
    "guest", "sink", "source", "stream", "recorder", "client", "listener", "door", "screen", "viewer", "request",
    "incident",
)  # fmt: skip
"""Kinds that are watched by default."""
ON_REQUEST = ("grant", "token")
"""Kinds that are watched only if asked for."""
MEASURED = frozenset({"sink", "source", "stream", "listener", "door", "screen", "viewer"})
"""Kinds that have measurements."""
SLICE_MIN, SLICE = 4, 50
"""Objects encoded in one step: halved when a step made more than `STEP_BYTES`."""
STEP_BYTES = 64 * 1024
BEHIND_S, BEHIND_MAX_S = 0.02, 1.0
"""How long an initial listing waits for a watcher that is behind, before it looks again: twice as long each time, up to
BEHIND_MAX_S."""
SENDS_A_STEP = 20
"""Watchers that get an already encoded message in one step."""
FRAME_BYTES = 256 * 1024
View = Callable[[], msgspec.Struct]


class Shown(msgspec.Struct, gc=False):
    """One object as sent to watchers."""

    number: int = msgspec.field(name="n")
    kind: str
    guest: str
    view: msgspec.Struct = msgspec.field(name="is")


Encode = Callable[[list[Shown], list[int], bool], bytes]
"""(new or changed objects, numbers of removed ones, whether the initial listing is complete) to bytes."""


class Entry(NamedTuple):
    """One object; `view` returns its current state."""

    id: int
    kind: str
    guest: str
    view: View


class Watcher(Protocol):
    """Receives changes."""

    encode: Encode

    @property
    def principal(self) -> Principal:
        """The principal with whose rights it acts."""
        ...

    @property
    def kinds(self) -> frozenset[str] | None:
        """The kinds it watches; None for the default ones."""
        ...

    def send_objects(self, made: bytes) -> None:
        """Send a message made by `encode`."""
        ...

    def is_behind(self) -> bool:
        """Whether it has left so much unread that its initial listing has to wait."""
        ...

    def give_up(self) -> None:
        """Disconnect it because of an internal error: it has not been told all, and is, when it comes again."""
        ...


class Looked(NamedTuple):
    """What a watcher has been sent, so that another can continue in its place."""

    numbers: frozenset[int] = frozenset()
    synced: bool = False
    """Its initial listing is complete."""


NOTHING = Looked()


class _Showing:
    """The work of one initial listing. It rests while its watcher is behind: a listing may be larger than its limit."""

    first = False

    def __init__(
        self, watcher: Watcher, steps: Iterator[None], turns: Turns, failed: Callable[[Watcher], None]
    ) -> None:
        """`failed` is called in the handler of an error that ended it."""
        self._watcher, self._steps, self._turns, self._failed = watcher, steps, turns, failed
        self._pause_s = BEHIND_S

    def work(self) -> bool:
        """See `Worker`."""
        try:
            return self._went_on()
        except Exception:
            self._failed(self._watcher)
            return True

    def _went_on(self) -> bool:
        for _ in self._steps:
            if self._watcher.is_behind():
                asyncio.get_running_loop().call_later(self._pause_s, self._turns.wait, self)
                self._pause_s = min(2 * self._pause_s, BEHIND_MAX_S)
                return True
            self._pause_s = BEHIND_S
            if self._turns.over():
                return False
        return True


@dataclass(slots=True, eq=False)
class _Look:
    """A watcher's initial listing. A newer one for the same watcher ends it."""

    gone: frozenset[int]
    """Numbers its predecessor was sent, still to be checked: objects that are gone must be reported as removed."""
    synced: bool
    saw: Principal
    """With whose rights it was sent what it has. A guest that is removed is taken from its principal before what is in
    it goes, which it must still be told."""


# What a watcher can rely on. It is sent every object that it may see, then `synced`, then every change, and for each
# object its state at the time of sending, not at that of the change. Changes of an object that follow each other
# quickly become one. A removal is always the last thing about an object, since all messages to all watchers are made
# by one generator (`_tell`), which takes removals before the next slice of changes; a slice that is being sent is
# sent to the end first. The initial listing (`_show`) is a second generator, and a change may overtake it. That does
# no harm: the listing, too, sends the state as it is then, and leaves out what is gone.
#
# `looked` is for a watcher that continues elsewhere. It must learn there of the objects that disappeared in between,
# so the numbers it has been sent go with it, including removals that were under way but not sent.
#
# An error in what is done for one watcher ends that watcher, and not what the others are told; an object that can't be
# shown is left out.
#
# A watcher's rights only shrink, and only because a guest is removed (`Principal.without`). It is sent nothing more of
# that guest from then on, but the removal of what it saw there (`saw`), and of nothing in a later guest of that name.
class Registry:
    """All objects and all watchers."""

    def __init__(self) -> None:
        self._entries: dict[int, Entry] = {}
        self._watchers: dict[Watcher, _Look] = {}
        self._there: dict[int, Entry] = {}
        self._gone: dict[int, Entry] = {}
        self._leaving: dict[int, Entry] = {}
        """Removed objects whose removal is being sent right now."""
        self._measured: dict[int, Entry] = {}
        self._measuring: dict[Watcher, str] = {}
        self._last: dict[str, dict[int, Shown]] = {}
        """By guest: the measurements last sent, the same for all watchers that asked."""
        self._of_guest: dict[str, set[int]] = {}
        self._turns = Turns()
        self._chunk_size = ChunkSize(SLICE_MIN, SLICE)
        self._telling = Steps(self._tell, self._turns.over)

    def __len__(self) -> int:
        return len(self._entries)

    # -- changes ---------------------------------------------------------------------------------

    def put(self, id_: int, kind: str, guest: str, view: View) -> None:
        """Add an object, or report that it has changed."""
        entry = self._entries[id_] = Entry(id_, kind, guest, view)
        self._of_guest.setdefault(guest, set()).add(id_)
        if self._watchers:
            self._there[id_] = entry
            self._turns.wait(self._telling)

    def drop(self, id_: int) -> None:
        """Remove an object."""
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
        """Remove a guest and everything in it."""
        for id_ in list(self._of_guest.get(guest, ())):
            self.drop(id_)
        self._of_guest.pop(guest, None)

    def second(self) -> None:
        """Once a second: sample the measured objects of guests that somebody asks about."""
        asked = {guest for watcher, guest in self._measuring.items() if watcher.principal.may(Right.SEE, guest)}
        self._last = {guest: self._last.get(guest, {}) for guest in asked}
        for guest in asked:
            entries = (self._entries[id_] for id_ in self._of_guest.get(guest, ()))
            self._measured.update((entry.id, entry) for entry in entries if entry.kind in MEASURED)
        if self._measured:
            self._turns.wait(self._telling)

    def _tell(self) -> Iterator[None]:
        """Send changes to watchers, slice by slice, a few watchers per step; then measurements."""
        while self._there or self._gone or self._measured:
            if self._there or self._gone:
                there = _slice(self._there, self._chunk_size.bytes)
                gone, self._gone = self._gone, {}
                self._leaving = gone
                shown = _shown_all(there)
                yield from self._tell_of(there, shown, gone, list(self._watchers))
                self._leaving = {}
                for guest in [entry.guest for entry in gone.values() if entry.kind == "guest"]:
                    self._forget(guest)
            else:
                there = _slice(self._measured, self._chunk_size.bytes)
                shown = _shown_all(there)
                there = [e for e in there if e.id in shown and self._last.get(e.guest, {}).get(e.id) != shown[e.id]]
                for guest in {entry.guest for entry in there}:
                    watchers = [watcher for watcher, asked in self._measuring.items() if asked == guest]
                    yield from self._tell_of([e for e in there if e.guest == guest], shown, {}, watchers)

    def _tell_of(
        self, there: list[Entry], shown: dict[int, Shown], gone: dict[int, Entry], watchers: list[Watcher]
    ) -> Iterator[None]:
        there = [entry for entry in there if entry.id in shown]
        for entry in there:
            if entry.guest in self._last:
                self._last[entry.guest][entry.id] = shown[entry.id]
        made: dict[tuple[Any, ...], bytes] = {}
        """Encoded messages by view; empty for a view in which nothing is visible."""
        for number, watcher in enumerate(watchers, 1):
            look = self._watchers.get(watcher)
            if look is None:
                continue
            known = len(made)
            try:
                now = watcher.principal
                key = (now.rights, now.guests, look.saw.guests, watcher.kinds, watcher.encode)
                if key not in made:
                    seen = [shown[e.id] for e in there if _sees(watcher, now, e)]
                    lost = [e.id for e in gone.values() if _sees(watcher, look.saw, e)]
                    made[key] = watcher.encode(seen, lost, False) if seen or lost else b""
                    self._chunk_size.processed(len(made[key]) > STEP_BYTES)
                if made[key]:
                    watcher.send_objects(made[key])
            except Exception:
                self._failed(watcher)
            # Encoding is slow, so it takes a step of its own; sending an encoded message is cheap.
            if len(made) > known or number % SENDS_A_STEP == 0:
                yield

    def _forget(self, guest: str) -> None:
        """All that was in it is gone, and was told: a later guest of that name is another one."""
        for watcher, look in self._watchers.items():
            if guest in look.saw.guests and guest not in watcher.principal.guests:
                look.saw = look.saw.without(guest)

    def _failed(self, watcher: Watcher) -> None:
        """To be called in the handler of an error in what is done for that watcher."""
        log.exception("a watcher was disconnected because of an internal error")
        self.unwatch(watcher)
        # Later, by itself: it may fail too.
        asyncio.get_running_loop().call_soon(watcher.give_up)

    # -- watchers --------------------------------------------------------------------------------

    # Listings are charged to those who ask for them: they may be asked for again and again, and are as long as a guest
    # makes them. Changes, which everybody waits for, have turns of their own.
    def watch(self, watcher: Watcher, turns: Turns, before: Looked = NOTHING) -> None:
        """Send `watcher` all objects and what is gone of `before`, in its `turns`, then every change."""
        look = self._watchers[watcher] = _Look(before.numbers, before.synced, watcher.principal)
        turns.wait(_Showing(watcher, self._show(watcher, look), turns, self._failed))

    def looked(self, watcher: Watcher) -> Looked | None:
        """What it has been sent, including removals still on their way; None if it watches nothing."""
        look = self._watchers.get(watcher)
        if look is None:
            return None
        there = (*self._entries.values(), *self._leaving.values(), *self._gone.values())
        return Looked(look.gone.union(e.id for e in there if _sees(watcher, look.saw, e)), look.synced)

    def unwatch(self, watcher: Watcher) -> None:
        """Stop notifying it."""
        self._watchers.pop(watcher, None)
        self._measuring.pop(watcher, None)

    def measure(self, watcher: Watcher, guest: str | None) -> None:
        """Also send `watcher` a guest's measurements every second; None stops that."""
        self._measuring.pop(watcher, None)
        if guest is not None and watcher in self._watchers:
            self._measuring[watcher] = guest
            # It lacks what the other watchers were sent, so the next round sends everything.
            self._last.pop(guest, None)

    def _show(self, watcher: Watcher, look: _Look) -> Iterator[None]:
        ids, chunk_size = iter(list(self._entries)), ChunkSize(SLICE_MIN, SLICE)
        while self._watchers.get(watcher) is look:
            part = [self._entries.get(id_) for id_ in islice(ids, chunk_size.bytes)]
            shown = list(_shown_all(_seen_by(watcher, part)).values())
            over = len(part) < chunk_size.bytes
            # Not `look.gone - self._entries.keys()`, which goes through all objects.
            gone, look.gone = sorted(id_ for id_ in look.gone if id_ not in self._entries), frozenset()
            made = watcher.encode(shown, gone, over and not look.synced)
            chunk_size.processed(len(made) > STEP_BYTES)
            watcher.send_objects(made)
            if over:
                look.synced = True
                return
            yield


def parse_kinds(names: Iterable[str]) -> frozenset[str]:
    """Parse kinds of objects to watch; ConfigError for an unknown one."""
    return frozenset(parse_choice(name, "kind", (*KINDS, *ON_REQUEST)) for name in names)


def native_frames(there: list[Shown], gone: list[int], synced: bool) -> bytes:
    """Encode changes as native protocol frames, each within the size limit."""
    out: list[bytes] = []
    raws = [packed(shown) for shown in there]
    sizes = [memoryview(raw).nbytes for raw in raws]
    while True:
        size = count = 0
        while count < len(raws) and (count == 0 or size + sizes[count] < FRAME_BYTES):
            size += sizes[count]
            count += 1
        part, raws, sizes = raws[:count], raws[count:], sizes[count:]
        out.append(frame(Objects(part, gone, synced and not raws)))
        gone = []
        if not raws:
            return b"".join(out)


def json_text(there: list[Shown], gone: list[int], synced: bool) -> bytes:
    """Encode changes as one JSON object, for WebSockets."""
    return msgspec.json.encode({"there": there, "gone": gone, "synced": synced})


def _slice(entries: dict[int, Entry], count: int) -> list[Entry]:
    """Take out the first entries."""
    return [entries.pop(id_) for id_ in list(islice(entries, count))]


def _sees(watcher: Watcher, principal: Principal, entry: Entry) -> bool:
    """Whether a watcher is told of an object with the rights of `principal`: those that it has, or had."""
    if entry.kind in ON_REQUEST if watcher.kinds is None else entry.kind not in watcher.kinds:
        return False
    right = Right.ADMIN if entry.kind in ("request", "token") else Right.SEE
    return principal.may(right, entry.guest or None)


def _seen_by(watcher: Watcher, entries: Iterable[Entry | None]) -> Iterator[Entry]:
    """The entries that `watcher` may see. Each kind and guest is decided once."""
    seen: dict[tuple[str, str], bool] = {}
    for entry in entries:
        if entry is not None:
            key = entry.kind, entry.guest
            if key not in seen:
                seen[key] = _sees(watcher, watcher.principal, entry)
            if seen[key]:
                yield entry


def _shown_all(entries: Iterable[Entry]) -> dict[int, Shown]:
    """The objects as they are now, by number."""
    out: dict[int, Shown] = {}
    for entry in entries:
        try:
            out[entry.id] = Shown(entry.id, entry.kind, entry.guest, entry.view())
        except Exception:
            # It must not keep the others from being told. Its next change is tried again.
            log.exception("%s %d of guest %r can't be shown: internal error", entry.kind, entry.id, entry.guest)
    return out
