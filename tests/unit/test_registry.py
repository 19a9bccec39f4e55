"""The registry: what watchers get, and what those get that request measurements too."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any

import pytest

from millrace.control.registry import (
    BEHIND_MAX_S,
    BEHIND_S,
    KINDS,
    NOTHING,
    ON_REQUEST,
    SLICE_MIN,
    STEP_BYTES,
    Looked,
    Registry,
    _Showing,
    json_text,
)
from millrace.io.turns import Turns
from millrace.rights.model import OWNER, Principal, parse_rights


class Watcher:
    """A watcher that stores its notifications."""

    kinds = None
    encode = staticmethod(json_text)

    def __init__(
        self, registry: Registry, principal: Principal = OWNER, before: Looked = NOTHING, turns: Turns | None = None
    ) -> None:
        self.principal = principal
        self.heard: list[Any] = []
        self.given_up = False
        registry.watch(self, turns or Turns(), before)

    def send_objects(self, made: bytes) -> None:
        self.heard.append(json.loads(made))

    def is_behind(self) -> bool:
        return False

    def give_up(self) -> None:
        """See `Watcher`."""
        self.given_up = True

    def take(self) -> list[Any]:
        """Notifications since the last call: the objects that exist, and the ids of those removed."""
        told = [one["is"] for message in self.heard for one in message["there"]]
        told += [number for message in self.heard for number in message["gone"]]
        self.heard.clear()
        return told


def run(test: Callable[[Registry], Awaitable[None]]) -> None:
    async def main() -> None:
        await test(Registry())

    asyncio.run(main())


class Counted(dict[int, Any]):
    """Counts how many entries are looked at."""

    looks = 0

    def __contains__(self, key: object) -> bool:
        self.looks += 1
        return super().__contains__(key)

    def get(self, key: int, default: Any = None) -> Any:
        self.looks += 1
        return super().get(key, default)

    def __iter__(self) -> Iterator[int]:
        self.looks += len(self)
        return super().__iter__()

    def keys(self) -> Any:
        self.looks += len(self)
        return super().keys()


async def told(watchers: Iterable[Watcher]) -> list[list[Any]]:
    """What each has been told by now."""
    for _ in range(200):
        await asyncio.sleep(0)
    return [watcher.take() for watcher in watchers]


def test_measurement_watchers_get_changes_each_second() -> None:
    async def test(registry: Registry) -> None:
        level = {"a": [0.5], "b": [0.5]}
        registry.put(1, "sink", "a", lambda: {"a": level["a"][0]})
        registry.put(2, "sink", "b", lambda: {"b": level["b"][0]})
        registry.put(3, "guest", "a", lambda: {"guest": level["a"][0]})
        plain, of_a, of_b = watchers = [Watcher(registry) for _ in range(3)]
        await told(watchers)
        registry.second()
        assert await told(watchers) == [[], [], []], "nobody has requested measurements"
        registry.measure(of_a, "a")
        registry.measure(of_b, "b")
        registry.second()
        assert await told(watchers) == [[], [{"a": 0.5}], [{"b": 0.5}]]
        registry.second()
        assert await told(watchers) == [[], [], []], "unchanged values are not sent again"
        level["a"][0] = 0.25
        registry.second()
        assert await told(watchers) == [[], [{"a": 0.25}], []]
        # A change is told to all, and not once more as a measurement.
        level["a"][0] = 0.125
        registry.put(1, "sink", "a", lambda: {"a": level["a"][0]})
        assert await told(watchers) == [[{"a": 0.125}]] * 3
        registry.second()
        assert await told(watchers) == [[], [], []]
        # A watcher that comes later gets all of it.
        registry.measure(plain, "a")
        registry.second()
        assert (await told(watchers))[0] == [{"a": 0.125}]
        registry.measure(of_a, None)
        registry.unwatch(plain)
        level["a"][0] = 1.0
        registry.second()
        assert await told(watchers) == [[], [], []]
        registry.measure(of_b, "b")
        registry.second()
        registry.drop_guest("b")
        assert (await told(watchers))[2] == [2]

    run(test)


def test_listing_is_made_in_small_steps_and_waits_for_slow_watcher() -> None:
    class Slow(Watcher):
        behind, largest = True, 0

        def send_objects(self, made: bytes) -> None:
            self.largest = max(self.largest, len(made))
            super().send_objects(made)

        def is_behind(self) -> bool:
            return self.behind

    async def test(registry: Registry) -> None:
        for number in range(200):
            registry.put(number, "stream", "a", lambda: {"name": "n" * 12_000})
        slow = Slow(registry)
        assert len((await told([slow]))[0]) <= SLICE_MIN, "a message being sent does not count as backlog"
        slow.behind = False
        await asyncio.sleep(BEHIND_MAX_S + BEHIND_S)
        assert len((await told([slow]))[0]) >= 196
        assert slow.largest < 2 * STEP_BYTES + 12_000
        for number in range(200):
            registry.put(number, "stream", "a", lambda: {"name": "m" * 12_000})
        assert len((await told([slow]))[0]) == 200 and slow.largest < 2 * STEP_BYTES + 12_000

    run(test)


def test_change_does_not_wait_for_listings_of_another_guest(monkeypatch: pytest.MonkeyPatch) -> None:
    # Each step uses up the share.
    monkeypatch.setattr(Turns, "over", lambda turns: True)

    class Again(Watcher):
        def send_objects(self, made: bytes) -> None:
            if b'"synced":true' in made:
                asyncio.get_running_loop().call_soon(registries[0].watch, self, turns)

    async def test(registry: Registry) -> None:
        registries.append(registry)
        for number in range(2000):
            registry.put(number, "stream", "a", lambda: {"name": "n" * 200})
        registry.put(5000, "stream", "b", lambda: {"name": "b"})
        of_b = Watcher(registry, Principal("token/2", parse_rights("see"), frozenset({"b"})))
        await told([of_b])
        of_a = Principal("token/1", parse_rights("see"), frozenset({"a"}))
        lists = [Again(registry, of_a, turns=turns) for _ in range(50)]
        await told([of_b])
        registry.put(5000, "stream", "b", lambda: {"name": "changed"})
        for _ in range(6):
            await asyncio.sleep(0)
        assert of_b.take() == [{"name": "changed"}] and turns.waiting > 10
        for one in lists:
            registry.unwatch(one)

    registries: list[Registry] = []
    turns = Turns()
    run(test)


def test_measurements_need_the_right_to_see_the_guest() -> None:
    async def test(registry: Registry) -> None:
        looks: list[str] = []
        registry.put(1, "sink", "a", lambda: {"looks": looks.append("a") or len(looks)})  # type: ignore[func-returns-value]
        stranger = Watcher(registry, Principal("token/1", parse_rights("see"), frozenset({"b"})))
        await told([stranger])
        looks.clear()
        registry.measure(stranger, "a")
        registry.second()
        assert await told([stranger]) == [[]] and not looks, "unknown watchers are not searched for"

    run(test)


@pytest.mark.parametrize("rights", ["see", "hear,speak,control,link", "admin"])
def test_tokens_and_requests_are_for_administrators_only(rights: str) -> None:
    class All(Watcher):
        kinds = frozenset({*KINDS, *ON_REQUEST})  # type: ignore[assignment]

    async def test(registry: Registry) -> None:
        kinds = [*KINDS, *ON_REQUEST]

        def put(guest: str) -> None:
            for number, kind in enumerate(kinds):
                registry.put(number, kind, guest, lambda kind=kind: {"kind": kind})  # type: ignore[misc]

        put("a")
        watcher = All(registry, Principal("token/1", parse_rights(f"see,{rights}"), frozenset({"a"})))
        secret = set() if rights == "admin" else {"request", "token"}
        shown = [{"kind": kind} for kind in kinds if kind not in secret]
        assert await told([watcher]) == [shown], "the listing"
        put("a")
        assert await told([watcher]) == [shown], "changes"
        for number in range(len(kinds)):
            registry.drop(number)
        assert await told([watcher]) == [[n for n, kind in enumerate(kinds) if kind not in secret]], "removals"
        put("b")
        assert await told([watcher]) == [[]], "those of another guest"

    run(test)


@pytest.mark.parametrize("alike", [True, False])
def test_shared_message_is_sent_to_several_watchers_per_step(alike: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    # Each step uses up the share.
    monkeypatch.setattr(Turns, "over", lambda turns: True)

    async def test(registry: Registry) -> None:
        of_each = [Principal(f"token/{n}", OWNER.rights, frozenset({"a", "" if alike else str(n)})) for n in range(100)]
        watchers = [Watcher(registry, principal) for principal in of_each]
        await told(watchers)
        registry.put(1, "sink", "a", lambda: {"id": 1})
        rounds = 0
        while not all(watcher.heard for watcher in watchers):
            await asyncio.sleep(0)
            rounds += 1
        assert 5 <= rounds <= 10 if alike else rounds >= 100, "building a message takes a step"
        assert await told(watchers) == [[{"id": 1}]] * 100

    run(test)


def test_continued_watcher_gets_new_and_removed_objects_without_sync() -> None:
    async def test(registry: Registry) -> None:
        for number in (1, 2, 3):
            registry.put(number, "sink", "a", lambda number=number: {"id": number})  # type: ignore[misc]
        first = Watcher(registry)
        await told([first])
        over = registry.looked(first)
        assert over == Looked(frozenset({1, 2, 3}), synced=True)
        registry.unwatch(first)
        assert registry.looked(first) is None, "it watches nothing"
        registry.drop(2)
        second = Watcher(registry, before=over)
        await told([])
        assert [message.get("synced", False) for message in second.heard] == [False], "the first watcher was told that"
        assert await told([second]) == [[{"id": 1}, {"id": 3}, 2]]

    run(test)


def test_watcher_that_loses_a_removed_guest_is_told_that_it_is_gone_and_nothing_of_the_next() -> None:
    async def test(registry: Registry) -> None:
        registry.put(1, "guest", "a", lambda: {"id": 1})
        registry.put(2, "sink", "a", lambda: {"id": 2})
        registry.put(3, "guest", "b", lambda: {"id": 3})
        both, stranger = (
            Watcher(registry, Principal(f"token/{len(names)}", parse_rights("see"), frozenset(names)))
            for names in ("ab", "b")
        )
        assert await told([both, stranger]) == [[{"id": 1}, {"id": 2}, {"id": 3}], [{"id": 3}]]
        # Its sinks go one by one before it does, and one of them changes meanwhile.
        both.principal = both.principal.without("a")
        registry.put(2, "sink", "a", lambda: {"id": 2})
        await told([])
        registry.drop(2)
        assert await told([both, stranger]) == [[2], []]
        over = registry.looked(both)
        assert over == Looked(frozenset({1, 3}), synced=True), "it goes on elsewhere, and is told there"
        registry.drop_guest("a")
        assert await told([both, stranger]) == [[1], []]
        registry.put(4, "guest", "a", lambda: {"id": 4})
        registry.drop(4)
        await told([])
        registry.put(5, "guest", "a", lambda: {"id": 5})
        registry.drop_guest("a")
        registry.drop_guest("b")
        assert await told([both, stranger]) == [[3], [3]]

    run(test)


async def looks(registry: Registry, objects: int) -> int:
    """How many entries are visited for a watcher that continues for another, which had seen as many removed objects."""
    for number in range(objects):
        registry.put(number, "sink", "a", lambda number=number: {"id": number})  # type: ignore[misc]
    registry._entries = entries = Counted(registry._entries)
    watcher = Watcher(registry, before=Looked(frozenset(range(objects, 2 * objects))))
    [heard] = await told([watcher])
    assert len(heard) == 2 * objects
    return entries.looks


def test_listing_looks_at_each_object_a_few_times_only() -> None:
    async def test(registry: Registry) -> None:
        assert await looks(registry, 500) <= 4 * 500
        assert await looks(Registry(), 2000) <= 4 * 2000

    run(test)


def test_object_being_removed_counts_as_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    # Each step uses up the share.
    monkeypatch.setattr(Turns, "over", lambda turns: True)

    async def test(registry: Registry) -> None:
        registry.put(1, "sink", "a", lambda: {"id": 1})
        principals = [Principal(f"token/{n}", OWNER.rights, frozenset({"a", str(n)})) for n in range(5)]
        watchers = [Watcher(registry, principal) for principal in principals]
        await told(watchers)
        registry.drop(1)
        while not watchers[0].heard:
            await asyncio.sleep(0)
        last = watchers[-1]
        assert not last.heard and registry.looked(last) == Looked(frozenset({1}), synced=True)

    run(test)


def test_listing_asks_watcher_that_reads_nothing_more_and_more_rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []

    class Loop:
        def call_later(self, pause_s: float, *_: object) -> None:
            pauses.append(pause_s)

        def call_soon(self, *_: object) -> None:
            """A round of turns."""

    class Stuck(Watcher):
        behind = True

        def is_behind(self) -> bool:
            return self.behind

    monkeypatch.setattr(asyncio, "get_running_loop", Loop)
    registry = Registry()
    watcher = Stuck(registry)
    showing = _Showing(watcher, iter([None] * 20), Turns(lambda: 0), registry._failed)
    for _ in range(8):
        assert showing.work()
    assert pauses == [BEHIND_S * 2**n for n in range(6)] + [BEHIND_MAX_S] * 2
    watcher.behind = False
    assert showing.work()
    watcher.behind, showing._steps = True, iter([None])
    assert showing.work() and pauses[-1] == BEHIND_S


def breaks(watcher: Watcher, where: str) -> None:
    """From now on it raises there."""

    def fails(*_: object) -> Any:
        raise ZeroDivisionError

    setattr(watcher, where, fails)


@pytest.mark.parametrize("where", ["send_objects", "encode", "is_behind"])
def test_error_in_telling_one_watcher_ends_it_and_not_the_round(where: str) -> None:
    async def test(registry: Registry) -> None:
        state = {"a": 1}
        for number in range(2, 2 + 3 * SLICE_MIN):
            registry.put(number, "sink", "a", dict)
        registry.put(1, "sink", "a", lambda: dict(state))
        first = Watcher(registry)
        bad, listing = Watcher(registry), where == "is_behind"
        if listing:
            breaks(bad, where)
        last = Watcher(registry)
        await told([first, bad, last])
        assert bad.given_up is listing
        if not listing:
            breaks(bad, where)
        for state["a"] in (2, 3):
            registry.put(1, "sink", "a", lambda: dict(state))
            assert await told([first, last]) == [[dict(state)]] * 2
        assert bad.given_up and registry.looked(bad) is None and not first.given_up and not last.given_up
        registry.drop(1)
        assert await told([first, last]) == [[1], [1]]

    run(test)


def test_object_that_can_not_be_shown_is_left_out_and_the_others_are_told() -> None:
    async def test(registry: Registry) -> None:
        state = {"a": 1}
        registry.put(1, "sink", "a", lambda: {"in": 1 / (state["a"] - 2)})
        registry.put(2, "sink", "a", lambda: dict(state))
        watcher = Watcher(registry)
        await told([watcher])
        state["a"] = 2
        registry.measure(watcher, "a")
        registry.second()
        assert await told([watcher]) == [[{"a": 2}]]
        registry.put(1, "sink", "a", lambda: {"in": 1 / (state["a"] - 2)})
        registry.put(2, "sink", "a", lambda: dict(state))
        assert await told([watcher]) == [[{"a": 2}]]
        late = Watcher(registry)
        assert await told([late]) == [[{"a": 2}]]
        state["a"] = 3
        registry.put(1, "sink", "a", lambda: {"in": 1 / (state["a"] - 2)})
        assert await told([watcher, late]) == [[{"in": 1.0}]] * 2 and not watcher.given_up

    run(test)
