"""Changes that wait: refused if their right has ended meanwhile, and whole whenever their requester goes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from millrace.control.storefile import NotSaved
from millrace.control.writer import Stopping
from millrace.errors import GraphError, MillraceError, RightsEnded, RightsError
from millrace.guest.config import stream_table
from millrace.guest.machines.attached import AttachedMachine
from millrace.guest.notfound import NotFound
from millrace.remembered.devices import DEFAULT
from millrace.remembered.streams import Rule, RuleUpdate
from millrace.rights.grants import Identity, Permission, Subject
from millrace.rights.model import ALL_GUESTS, EVERYTHING, Right
from millrace.rights.tokens import digest_of
from tests.hall import Hall, with_guests

KEPT_CHANGES: list[tuple[str, dict[str, Any]]] = [
    ("guest.add", {"name": "carol"}), ("guest.remove", {"guest": "bob"}),
    ("sink.add", {"guest": "bob", "name": "new"}), ("sink.remove", {"guest": "bob", "sink": "old"}),
    ("grant", {"guest": "bob", "what": "camera", "allow": False}),
    ("decide", {"request": "{request}", "allow": True, "always": True}),
    ("set", {"target": "sink/old", "guest": "bob", "settings": {"volume": "50%"}}),
    ("token.new", {"may": "hear", "guests": ["bob"]}), ("token.rotate", {"token": "1"}),
    ("token.revoke", {"token": "1"}), ("remember", {"key": "k", "value": "v"}),
    ("attach", {"guest": "bob", "door": "vnc+unix:///new"}), ("detach", {"door": "{door}"}),
]  # fmt: skip
NAMES = [name for name, _ in KEPT_CHANGES]
IN_BOB = [(name, args) for name, args in KEPT_CHANGES if args.get("guest") == "bob" and name != "guest.remove"]
TOOL = Subject(Identity(1, 1000, "/usr/bin/tool"))


async def furnished(hall: Hall, args: dict[str, Any]) -> dict[str, Any]:
    """A token 1, a sink and a machine of bob's, and a request of his that waits."""
    await hall.worker.add_sink(hall.worker.guest("bob"), "old", "")
    await hall.worker.access.new("first", Right.SEE | Right.HEAR, ["alice"], 0)
    door = await hall.ask("attach", guest="bob", door="vnc+unix:///old")
    asked = hall.worker.prompts.ask("bob", Permission.CAMERA, TOOL, "tool", 0, lambda allow: None)
    assert asked is not None
    there = {"{request}": asked.key, "{door}": door.id}
    return {key: there.get(value, value) if isinstance(value, str) else value for key, value in args.items()}


def on_disk(hall: Hall) -> dict[str, Any]:
    store = hall.worker.store
    return {
        "guests": set(store.guests()),
        "tokens": {(token.id, token.digest, token.guests) for token in store.tokens()},
        "texts": store.recall(""),
        **{name: store.guest(name) for name in ("alice", "bob", "carol")},
    }


def agree(hall: Hall) -> None:
    """What is in memory is what is on disk."""
    worker, store = hall.worker, hall.worker.store
    assert set(worker.guests) - {"alice", "bob"} == set(store.guests())
    assert {(t.id, t.digest) for t in worker.access.tokens} == {(t.id, t.digest) for t in store.tokens()}
    for name in ("alice", "bob", "carol"):
        kept, guest = store.guest(name), worker.guests.get(name)
        sinks = [sink.name for sink in guest.graph.sinks.values()][1:] if guest else []
        levels = {key: value for key, value in guest.devices.kept.items() if key[0] != DEFAULT} if guest else {}
        assert sorted(sink for sink, _ in kept.sinks) == sorted(sinks) and kept.levels == levels
        doors = [door.spec.text for door in guest.machines if isinstance(door, AttachedMachine)] if guest else []
        assert sorted(door.door for door in kept.doors) == sorted(doors)
        assert sorted(kept.grants, key=str) == sorted(guest.admission.grants if guest else [], key=str)


@pytest.mark.parametrize(("name", "args"), KEPT_CHANGES, ids=NAMES)
def test_token_revoked_while_its_change_waits_changes_nothing(name: str, args: dict[str, Any], tmp_path: Path) -> None:
    async def test(hall: Hall) -> None:
        given = await furnished(hall, args)
        token, _ = await hall.worker.access.new("second", EVERYTHING, [ALL_GUESTS], 3600)
        async with hall.worker.writer.turn:
            waits = asyncio.create_task(hall.ask(name, token.principal, **given))
            await asyncio.sleep(0)
            await hall.worker.access.revoke(token.id)
            before = on_disk(hall)
        with pytest.raises(RightsError, match="the token was revoked"):
            await waits
        assert on_disk(hall) == before
        agree(hall)

    with_guests(tmp_path, test)


@pytest.mark.parametrize("by_session", [False, True])
def test_rotated_secret_changes_nothing_while_native_connection_continues(by_session: bool, tmp_path: Path) -> None:
    async def test(hall: Hall) -> None:
        access = hall.worker.access
        access.set_key("mr_owner")
        token, secret = await access.new("first", EVERYTHING, [ALL_GUESTS], 0)
        given = access.begin_session(digest_of(secret))[1] if by_session else secret
        old, connection = access.admit(given, "here"), access.let_in(secret, "here")
        async with hall.worker.writer.turn:
            waits = [
                asyncio.create_task(hall.ask("guest.add", who, name=n)) for who, n in ((old, "c"), (connection, "d"))
            ]
            await asyncio.sleep(0)
            new = await access.rotate(token.id)
        made = await asyncio.gather(*waits, return_exceptions=True)
        assert isinstance(made[0], RightsEnded) and "rotated" in str(made[0]) and made[0].status == 401
        assert set(hall.worker.guests) == {"alice", "bob", "d"}
        with pytest.raises(RightsEnded):
            await hall.ask("state", old)
        with pytest.raises(RightsEnded):
            access.enter(old, print, print)
        assert new is not None and await hall.ask("state", access.admit(new, "here"))

    with_guests(tmp_path, test)


def test_token_revoked_after_authentication_does_nothing(tmp_path: Path) -> None:
    async def test(hall: Hall) -> None:
        token, _ = await hall.worker.access.new("second", EVERYTHING, [ALL_GUESTS], 3600)
        await hall.worker.access.revoke(token.id)
        for name, args in (("attach", {"guest": "alice", "door": "vnc+unix:///x"}), ("state", {}), ("recall", {})):
            with pytest.raises(RightsError, match="the token was revoked"):
                await hall.ask(name, token.principal, **args)
        assert not list(hall.worker.guest("alice").machines)

    with_guests(tmp_path, test)


@pytest.mark.parametrize(("name", "args"), IN_BOB, ids=[name for name, _ in IN_BOB])
@pytest.mark.parametrize("program", [False, True])
def test_waiting_change_does_not_reach_new_guest_of_same_name(
    name: str, args: dict[str, Any], program: bool, tmp_path: Path
) -> None:
    async def test(hall: Hall) -> None:
        given = await furnished(hall, args)
        token, _ = await hall.worker.access.new("second", EVERYTHING, ["alice", "bob"], 3600)
        who = hall.worker.guest("bob").admission.principal if program else token.principal
        async with hall.worker.writer.turn:
            waits = asyncio.create_task(hall.ask(name, who, **given))
            await asyncio.sleep(0)
            await hall.worker.remove_guest("bob")
            await hall.worker.add_guest("bob", {})
            await hall.worker.add_sink(hall.worker.guest("bob"), "old", "")
            before = on_disk(hall)
        with pytest.raises((RightsError, NotFound)):
            await waits
        assert on_disk(hall) == before

    with_guests(tmp_path, test)


def test_token_is_not_created_for_guest_being_removed(tmp_path: Path) -> None:
    async def test(hall: Hall) -> None:
        async with hall.worker.writer.turn:
            removal = asyncio.create_task(hall.ask("guest.remove", guest="bob"))
            await asyncio.sleep(0)
            made = asyncio.create_task(hall.ask("token.new", may="hear", guests=["bob"]))
            await asyncio.sleep(0)
        await removal
        with pytest.raises(NotFound, match="bob"):
            await made
        assert not list(hall.worker.access.tokens) and not hall.worker.store.tokens()

    with_guests(tmp_path, test)


GROUP = "sink-input-by-media-role:music"


def test_stream_rules_are_deleted_with_their_guest(tmp_path: Path) -> None:
    async def test(hall: Hall) -> None:
        heard = list[bool]()
        bob = hall.worker.guest("bob")
        streams = hall.worker._memories["bob"].streams
        async with hall.worker.writer.turn:
            streams.submit(RuleUpdate(lambda: {GROUP: Rule(mute=True)}, heard.append))
            await asyncio.sleep(0)
            await hall.worker.remove_guest("bob")
        with pytest.raises(NotFound):
            await hall.worker.learn(bob, stream_table("bob") + GROUP, "{}")
        with pytest.raises(NotSaved):
            await streams.learn(stream_table("bob") + GROUP, "{}")
        with pytest.raises(NotFound, match="bob"):
            await hall.ask("remember", key=stream_table("bob") + GROUP, value="{}")
        assert heard == [False] and hall.worker.store.recall("") == {}

    with_guests(tmp_path, test)


@pytest.mark.parametrize("steps", range(0, 40, 4))
def test_nothing_is_created_while_daemon_stops(steps: int, tmp_path: Path) -> None:
    async def test(hall: Hall) -> None:
        worker = hall.worker
        asked = [asyncio.create_task(hall.ask("guest.add", name=name)) for name in ("carol", "dave")]
        for _ in range(steps):
            await asyncio.sleep(0)
        await worker.stop("the end")
        made = await asyncio.gather(*asked, return_exceptions=True)
        assert all(isinstance(one, Stopping) for one in made if isinstance(one, BaseException)), made
        assert len(worker.store.guests()) == sum(not isinstance(one, BaseException) for one in made)
        for name, args in (("state", {}), ("guest.add", {"name": "erin"}), ("attach", {"guest": "alice", "door": "x"})):
            with pytest.raises(Stopping, match="the daemon is stopping; try again"):
                await hall.ask(name, **args)

    with_guests(tmp_path, test)


@pytest.mark.parametrize("at", range(3))
@pytest.mark.parametrize(("name", "args"), KEPT_CHANGES, ids=NAMES)
def test_memory_and_disk_agree_whenever_requester_leaves(
    name: str, args: dict[str, Any], at: int, tmp_path: Path
) -> None:
    async def test(hall: Hall) -> None:
        given, writer = await furnished(hall, args), hall.worker.writer
        write, writes = writer.write, 0

        async def leaving(change: Callable[..., Any], *values: Any) -> Any:
            nonlocal writes
            if writes == at:
                request.cancel()
            writes += 1
            return await write(change, *values)

        writer.write = leaving  # type: ignore[method-assign, assignment]
        request = asyncio.create_task(hall.ask(name, **given))
        await asyncio.gather(request, return_exceptions=True)
        async with writer.turn:
            agree(hall)

    with_guests(tmp_path, test)


@pytest.mark.parametrize("steps", range(12))
def test_change_not_yet_started_is_dropped_with_its_requester(steps: int, tmp_path: Path) -> None:
    async def test(hall: Hall) -> None:
        async with hall.worker.writer.turn:
            request = asyncio.create_task(hall.ask("guest.add", name="carol"))
            for _ in range(steps):
                await asyncio.sleep(0)
            request.cancel()
            await asyncio.gather(request, return_exceptions=True)
        async with hall.worker.writer.turn:
            agree(hall)
        assert set(hall.worker.guests) == {"alice", "bob"}

    with_guests(tmp_path, test)


def refuse(*_: Any) -> Any:
    raise GraphError("there is no room")


def test_failed_creation_is_not_on_disk_even_if_disk_is_full(tmp_path: Path) -> None:
    async def test(hall: Hall) -> None:
        worker = hall.worker
        alice = worker.guest("alice")

        def full(*_: Any) -> Any:
            worker.store._db.execute("PRAGMA query_only=1")
            refuse()

        worker._servers.open_guest = full  # type: ignore[method-assign]
        alice.graph.add_sink = full  # type: ignore[method-assign]
        for name, args in (("guest.add", {"name": "carol"}), ("sink.add", {"guest": "alice", "name": "new"})):
            with pytest.raises(MillraceError, match="there is no room"):
                await hall.ask(name, **args)
            worker.store._db.execute("PRAGMA query_only=0")
            agree(hall)

    with_guests(tmp_path, test)


@pytest.mark.parametrize(("name", "args"), KEPT_CHANGES, ids=NAMES)
def test_nothing_changes_in_memory_if_the_disk_is_full(name: str, args: dict[str, Any], tmp_path: Path) -> None:
    async def test(hall: Hall) -> None:
        given, store, bob = await furnished(hall, args), hall.worker.store, hall.worker.guest("bob")
        before, gains = on_disk(hall), [sink.gains for sink in bob.graph.sinks.values()]
        store._db.execute("PRAGMA query_only=1")
        with pytest.raises(NotSaved):
            await hall.ask(name, **given)
        store._db.execute("PRAGMA query_only=0")
        assert on_disk(hall) == before and [sink.gains for sink in bob.graph.sinks.values()] == gains
        agree(hall)

    with_guests(tmp_path, test)


@pytest.mark.parametrize(("name", "args"), [("set", {"settings": {"volume": "50%"}}), ("sink.remove", {})])
def test_sink_that_disappears_during_the_write_is_no_error(name: str, args: dict[str, Any], tmp_path: Path) -> None:
    async def test(hall: Hall) -> None:
        bob, write = hall.worker.guest("bob"), hall.worker.writer.write
        sink = bob.graph.add_sink("module")

        async def gone(change: Callable[..., Any], *values: Any) -> Any:
            done = await write(change, *values)
            bob.graph.remove_sink(sink)
            return done

        hall.worker.writer.write = gone  # type: ignore[method-assign, assignment]
        target = {"target": "sink/module"} if name == "set" else {"sink": "module"}
        await hall.ask(name, guest="bob", **target, **args)
        assert not bob.graph.leaving and sink not in bob.graph.mixes()
        levels = {("sink", "module"): ((0.125, 0.125), False)} if name == "set" else {}
        assert hall.worker.store.guest("bob").levels == levels
        agree(hall)

    with_guests(tmp_path, test)


async def removal_with_many_steps(hall: Hall) -> asyncio.Task[Any]:
    """The removal of a sink of bob's, begun: the disk says so, and its streams are on their way to another."""
    await hall.worker.add_sink(hall.worker.guest("bob"), "old", "")
    streams = [hall.play("bob", "old") for _ in range(200)]
    removal = asyncio.create_task(hall.ask("sink.remove", guest="bob", sink="old"))
    while all(stream.sink is streams[-1].sink for stream in streams):
        await asyncio.sleep(0)
    return removal


def test_moving_streams_of_a_removed_sink_blocks_no_other_change(tmp_path: Path) -> None:
    async def test(hall: Hall) -> None:
        removal = await removal_with_many_steps(hall)
        assert not hall.worker.writer.turn._lock.locked()
        async with hall.worker.writer.turn:
            assert not removal.done()
        await removal

    with_guests(tmp_path, test)


def test_shutdown_waits_for_running_changes(tmp_path: Path) -> None:
    async def test(hall: Hall) -> None:
        removal, bob = await removal_with_many_steps(hall), hall.worker.guest("bob")
        await hall.worker.end_changes()
        assert [sink.name for sink in bob.graph.sinks.values()] == ["millrace"]
        await removal

    with_guests(tmp_path, test)
