"""Where each command has to run on a host of several workers, and that a router needs to know nothing else of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, get_args, get_origin

import msgspec
import pytest

from millrace.control.requests import parsed
from millrace.control.results import StateView
from millrace.control.table import Command, InGuest, OnObject, Scope, Whole
from millrace.control.worker import Worker
from millrace.errors import GraphError, RightsError
from millrace.guest.config import DEFAULT_GUEST, GuestConfig, stream_table
from millrace.guest.notfound import ambiguous
from millrace.rights.model import OWNER, Principal, Right, implied
from tests.hall import Hall, Serving, with_guests

LEASE = 65_536
"""Numbers are leased to workers in blocks, so that they are unique on a host."""

SCOPES: list[tuple[str, dict[str, Any], Scope, bool]] = [
    ("about", {}, Whole.HOST, False), ("page.link", {}, Whole.HOST, False), ("tokens", {}, Whole.HOST, False),
    ("token.new", {"may": "hear", "guests": ["bob"]}, Whole.HOST, True),
    ("token.rotate", {"token": "1"}, Whole.HOST, True), ("token.revoke", {"token": "1"}, Whole.HOST, True),
    ("guest.add", {"name": "bob"}, Whole.HOST, True), ("guest.remove", {"guest": "bob"}, Whole.HOST, True),
    ("recall", {"prefix": "stream/bob/"}, Whole.HOST, False), ("remember", {"key": "bob"}, Whole.HOST, True),
    ("remember", {"key": "stream/bob"}, Whole.HOST, True), ("remember", {"key": "stream/bob/x"}, InGuest("bob"), True),
    ("state", {}, Whole.WORKERS, False), ("state", {"guest": "bob"}, Whole.WORKERS, False),
    ("grants", {}, Whole.WORKERS, False), ("requests", {}, Whole.WORKERS, False),
    ("incidents", {}, Whole.WORKERS, False), ("incidents", {"guest": "bob"}, Whole.WORKERS, False),
    ("flight", {"guest": "bob"}, InGuest("bob"), False),
    ("attach", {"guest": "bob", "door": "vnc://a:1"}, InGuest("bob"), True),
    ("sink.add", {"guest": "bob", "name": "x"}, InGuest("bob"), True),
    ("sink.remove", {"guest": "bob", "sink": "7"}, InGuest("bob"), True),
    ("grant", {"guest": "bob", "what": "camera", "allow": True}, InGuest("bob"), True),
    ("set", {"target": "sink/a", "settings": {}}, OnObject("sink/a"), True),
    ("set", {"target": "source/a", "settings": {}, "guest": "bob"}, InGuest("bob"), True),
    ("set", {"target": "stream/7", "settings": {}}, OnObject("stream/7"), False),
    ("set", {"target": "listener/7", "settings": {}}, OnObject("listener/7"), False),
    ("move", {"target": "stream/7", "to": "sink/a"}, OnObject("stream/7"), False),
    ("link", {"source": "sink/a", "to": "sink/b"}, OnObject("sink/a"), False),
    ("unlink", {"source": "sink/a", "to": "sink/b", "guest": "bob"}, InGuest("bob"), False),
    ("latency", {"target": "stream/7"}, OnObject("stream/7"), False),
    ("explain", {"target": "recorder/7"}, OnObject("recorder/7"), False),
    ("detach", {"door": "7"}, OnObject("door/7"), True), ("detach", {"door": "door/7"}, OnObject("door/7"), True),
    ("decide", {"request": "7", "allow": True}, OnObject("request/7"), False),
    ("decide", {"request": "request/7", "allow": True, "always": True}, OnObject("request/7"), True),
]  # fmt: skip


def test_scope_and_persistence_follow_from_arguments(tmp_path: Path) -> None:
    async def test(hall: Hall) -> None:
        table = hall.plane.table
        assert {name for name, *_ in SCOPES} == set(table)
        for name, args, scope, kept in SCOPES:
            command = table[name]
            given = parsed(command.takes, args)
            assert (command.scope(given), command.kept(given)) == (scope, kept), (name, args)
            if scope is Whole.WORKERS:
                assert command.method == "GET" and not kept and merges(command), name

    with_guests(tmp_path, test)


def merges(command: Command) -> bool:
    """Whether results of several workers can be put together: lists are joined, each item names its guest."""
    kind = command.returns
    if get_origin(kind) is list:
        return "guest" in {field.name for field in msgspec.structs.fields(get_args(kind)[0])}
    lists = [field.name for field in msgspec.structs.fields(kind) if get_origin(field.type) is list]
    return lists == ["guests", "names"]


# -- a router ------------------------------------------------------------------------------------


class Objects:
    """A watcher that remembers all objects it was sent."""

    def __init__(self) -> None:
        self.principal, self.there = OWNER, list[dict[str, Any]]()
        self.kinds: frozenset[str] | None = None

    def encode(self, there: list[Any], gone: list[int], synced: bool) -> bytes:
        self.there += [msgspec.to_builtins(shown) for shown in there]
        return b"all" if synced else b"some"

    def send_objects(self, made: bytes) -> None:
        """It has them."""

    def is_behind(self) -> bool:
        return False

    def give_up(self) -> None:
        """See `Watcher`."""


class Router:
    """Several workers as one: it knows the order of the guests, and each command only by its scope."""

    def __init__(self, halls: Sequence[Hall], order: Sequence[str]) -> None:
        self.planes, self._order = [hall.plane for hall in halls], order

    def names(self, principal: Principal) -> list[str]:
        there = {name for plane in self.planes for name in plane.names(principal)}
        return [name for name in self._order if name in there]

    async def run(self, principal: Principal, name: str, /, **args: Any) -> Any:
        command = self.planes[0].table[name]
        scope = command.scope(parsed(command.takes, args))
        if scope is Whole.WORKERS:
            return self._merged(principal, [await plane.run(principal, name, args) for plane in self.planes])
        guest = scope.guest if isinstance(scope, InGuest) else ""
        if isinstance(scope, OnObject):
            guest = await self._guest_of(principal, scope.key)
        at = next((plane for plane in self.planes if guest in plane.names(OWNER)), self.planes[0])
        return await at.run(principal, name, args)

    async def _guest_of(self, principal: Principal, key: str) -> str:
        """The guest that is meant by this key; empty if none has such an object."""
        watcher = Objects()
        for plane in self.planes:
            plane.watch(watcher)
            await asyncio.sleep(0.01)
            plane.unwatch(watcher)
        kind, _, name = key.partition("/")
        having = {
            shown["guest"] for shown in watcher.there if shown["kind"] == kind
            and name in (str(shown["n"]), shown["is"].get("name"), *shown["is"].get("aliases", ()))
        }  # fmt: skip
        seen = [guest for guest in self.names(principal) if guest in having]
        if len(seen) > 1 and DEFAULT_GUEST not in seen:
            raise ambiguous(key, seen)
        return DEFAULT_GUEST if DEFAULT_GUEST in seen else "".join(seen)

    def _merged(self, principal: Principal, results: list[Any]) -> Any:
        order = self.names(principal)
        if isinstance(results[0], StateView):
            guests = sorted(
                (guest for state in results for guest in state.guests), key=lambda one: order.index(one.name)
            )
            return msgspec.structs.replace(results[0], guests=guests, names=order)
        return sorted((one for result in results for one in result), key=lambda one: order.index(one.guest))


GUESTS = ("alice", "bob", "carol", DEFAULT_GUEST)


@asynccontextmanager
async def host_of(folder: Path, division: Sequence[str]) -> AsyncIterator[tuple[Router, list[Hall]]]:
    """Workers with the guests whose names begin with these letters: two that have a sink `tv`, and a stream in each."""
    async with AsyncExitStack() as ends:
        halls = []
        for number, letters in enumerate(division):
            worker = Worker(folder / str(number), Path(":memory:"), "", Serving())
            worker.ids._next = number * LEASE
            ends.callback(worker.listeners.stop)
            ends.callback(worker.close)
            ends.push_async_callback(worker.stop, "the end")
            await worker.start(tuple(GuestConfig(name) for name in GUESTS if name[0] in letters))
            halls.append(Hall(worker))
            for guest in worker.guests.values():
                halls[-1].play(guest.name)
                if guest.name in ("bob", "carol"):
                    await worker.add_sink(guest, "tv", "")
        yield Router(halls, GUESTS), halls


def muted(halls: list[Hall]) -> list[str]:
    """What is muted, by guest and kind, and is no more after that."""
    found = []
    for hall in halls:
        for guest in hall.worker.guests.values():
            for node in (*guest.graph.streams.values(), *guest.graph.mixes()):
                if node.mute:
                    found.append(f"{guest.name}: {node.kind} {node.name}")
                    guest.graph.set_mute(node, False)
    return found


def seeing(rights: Right, *guests: str) -> Principal:
    return Principal("certificate/five", implied(rights), frozenset(guests))


DIVISIONS = [("abcd",), ("acd", "b"), ("b", "acd"), ("c", "abd"), ("d", "c", "b", "a")]


@pytest.mark.parametrize("division", DIVISIONS, ids="-".join)
def test_several_workers_answer_like_one_with_all_guests(division: tuple[str, ...], tmp_path: Path) -> None:
    """Above all: the name of a sink that several guests have means that of guest `default`, or none."""

    async def test() -> None:
        async with host_of(tmp_path, division) as (router, halls):
            mute: dict[str, Any] = {"settings": {"mute": True}}
            owner, carols = OWNER, seeing(Right.CONTROL, "carol")
            some = seeing(Right.CONTROL, "alice", "bob")
            for who, target, guest, is_muted in [
                (owner, "sink/tv", "bob", "bob: sink tv"), (owner, "sink/tv", "carol", "carol: sink tv"),
                (carols, "sink/tv", None, "carol: sink tv"), (some, "sink/tv", None, "bob: sink tv"),
                (owner, "sink/millrace", None, "default: sink millrace"),
                (owner, "sink/default", None, "default: sink millrace"),
                (carols, "sink/default", None, "carol: sink millrace"),
            ]:  # fmt: skip
                done = await router.run(who, "set", target=target, guest=guest, **mute)
                assert muted(halls) == [is_muted], target
                assert (done.target, done.guest) == (target, is_muted.partition(":")[0])
            for who, target, names in [(owner, "sink/tv", "bob, carol"), (some, "sink/millrace", "alice, bob")]:
                with pytest.raises(GraphError, match=f"^guests {names} have a {target}: give the guest too"):
                    await router.run(who, "set", target=target, **mute)
            streams = {
                guest.name: stream.key
                for hall in halls
                for guest in hall.worker.guests.values()
                for stream in guest.graph.streams.values()
            }
            assert len({*streams.values()}) == 4
            for guest, key in streams.items():
                await router.run(owner, "set", target=key, **mute)
                assert muted(halls) == [f"{guest}: stream tone"]
                assert (await router.run(owner, "explain", target=key)).guest == guest
            for target, guest in [("sink/radio", None), ("stream/999999", None), ("sink/tv", "dave")]:
                with pytest.raises(GraphError, match="there is no"):
                    await router.run(owner, "set", target=target, guest=guest, **mute)
            with pytest.raises(GraphError, match="there is no"):
                await router.run(carols, "set", target=streams["bob"], **mute)
            with pytest.raises(RightsError):
                await router.run(seeing(Right.SEE, "carol"), "set", target="sink/tv", **mute)
            assert not muted(halls)
            for guest in ("carol", "alice"):
                await router.run(owner, "grant", guest=guest, what="camera", allow=False)
            assert [rule.guest for rule in await router.run(owner, "grants")] == ["alice", "carol"]
            state = await router.run(owner, "state")
            assert [guest.name for guest in state.guests] == state.names == [*GUESTS]
            for guest in GUESTS:
                await router.run(owner, "remember", key=stream_table(guest) + "group", value='{"mute": true}')
                rules = {one.name: one.rules for hall in halls for one in hall.worker.guests.values()}
                assert rules[guest].kept["group"].mute, "it is in force there"

    asyncio.run(test())
