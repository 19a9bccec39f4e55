"""Commands that fail half-way in a running daemon: nothing is half done, lost, or done although it was refused."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from msgspec import to_builtins

from millrace.client.bus import connect
from millrace.control import scopes
from millrace.daemon.app import Daemon
from millrace.doors.pulse.loaded import Module
from millrace.errors import ConfigError, GraphError
from millrace.graph.accounts import LINKS_MAX
from millrace.graph.model import Stream
from millrace.guest.config import checked_guest_name
from millrace.io.clock import now_ns
from millrace.io.locks import FileLock
from millrace.rights.grants import Identity, Permission, Subject
from millrace.rights.model import OWNER
from millrace.rights.tokens import digest_of
from millrace.server.http.app import Web
from millrace.sim.rig import Rig
from millrace.wire.pulse.constants import Command, Err
from tests.bus import config, running
from tests.places import fill, lack, small_disk


async def ask(daemon: Daemon, method: str, **args: Any) -> Any:
    return to_builtins(await daemon.plane.commands.run(OWNER, method, args))


async def everything(daemon: Daemon) -> str:
    """Everything that commands can change, as the state shows it."""
    state = await ask(daemon, "state")
    shown = {"guests": state["guests"], "requests": await ask(daemon, "requests")}
    for what in ("grants", "tokens"):
        shown[what] = await ask(daemon, what)
    return json.dumps(shown, sort_keys=True)


def answers(path: Path) -> bool:
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as probe:
        return probe.connect_ex(str(path)) == 0


# -- two daemons -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("other", "why"),
    [({"state": "other.db"}, "runtime folder.*XDG_RUNTIME_DIR"), ({"runtime": "o"}, r"state\.db is in use.*XDG_STATE")],
)
def test_second_daemon_is_refused_before_it_changes_anything(other: dict[str, str], why: str, tmp_path: Path) -> None:
    async def test(daemon: Daemon) -> None:
        names = ("api.sock", "native.sock", "attach.sock", "alice/pulse", "alice/native")
        paths = [tmp_path / "r" / name for name in names]
        before = [path.stat().st_ino for path in paths]
        for _ in range(2):
            with pytest.raises(ConfigError, match=why):
                Daemon(config(tmp_path, **{key: tmp_path / name for key, name in other.items()}))
        assert [path.stat().st_ino for path in paths] == before and all(map(answers, paths))
        await ask(daemon, "sink.add", guest="alice", name="music")

    running(tmp_path, test)


def test_unreadable_rules_admit_nobody_and_configuration_does_not_replace_them(
    tmp_path: Path,
) -> None:
    async def deny(daemon: Daemon) -> None:
        await ask(daemon, "grant", guest="alice", what="connect", program="*", allow=False)

    async def denied(daemon: Daemon) -> None:
        assert len(await ask(daemon, "grants")) == 1

    running(tmp_path, deny)
    path = tmp_path / "s" / "state.db"
    whole = path.read_bytes()
    path.write_bytes(whole[:4096] + bytes(4096) + whole[8192:])
    for _ in range(2):
        with pytest.raises(ConfigError, match="restore it from a backup"):
            Daemon(config(tmp_path))
    assert not answers(tmp_path / "r" / "alice" / "pulse")
    path.write_bytes(whole)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("INSERT INTO tokens (digest, rights, guests) VALUES (x'00', 1, 'nonsense')")
    for _ in range(2):
        with pytest.raises(ConfigError, match="a token is not in Millrace's format"):
            Daemon(config(tmp_path))
    path.write_bytes(whole)
    running(tmp_path, denied)


def test_daemon_that_fails_to_start_releases_its_own_resources_only(tmp_path: Path) -> None:
    (tmp_path / "r").mkdir(mode=0o700)
    (tmp_path / "r" / "api.sock").write_text("mine")

    async def test(daemon: Daemon) -> None:
        raise AssertionError

    with pytest.raises(ConfigError, match="is not a socket"):
        running(tmp_path, test)
    assert (tmp_path / "r" / "api.sock").read_text() == "mine"
    (tmp_path / "r" / "api.sock").unlink()
    (tmp_path / "s" / "state.db").write_bytes(b"")
    blocker = FileLock(tmp_path / "s" / "state.db.lock", "")
    with pytest.raises(ConfigError, match="in use"):
        running(tmp_path, test)
    blocker.release()
    running(tmp_path, lambda daemon: asyncio.sleep(0))


# -- names -----------------------------------------------------------------------------------------


def test_guest_name_can_not_collide_with_daemon_files_or_paths(tmp_path: Path) -> None:
    async def test(daemon: Daemon) -> None:
        own = {path.name for path in daemon.config.runtime.iterdir()} - {"alice"}
        assert {"api.sock", "native.sock", "attach.sock", "lock", "key"} <= own
        routes = (
            Web(daemon.plane, daemon.plane, daemon.listeners, daemon.config.addresses, ()).network().router.resources()
        )
        own |= {first for route in routes if (first := route.canonical.split("/")[1]) and "{" not in first}
        before = await everything(daemon)
        for name in sorted(own):
            with pytest.raises(ConfigError, match="guest name"):
                checked_guest_name(name)
            with pytest.raises(ConfigError, match="guest name"):
                await ask(daemon, "guest.add", name=name)
        (daemon.config.runtime / "notes").write_text("the user's")
        with pytest.raises(ConfigError, match="notes must be a directory"):
            await ask(daemon, "guest.add", name="notes")
        assert await everything(daemon) == before
        assert daemon.worker.store.guests() == {}

    running(tmp_path, test)


# -- complete or not at all-------------------------------------------------------------------------


def test_guest_that_fails_to_open_leaves_nothing(tmp_path: Path) -> None:
    async def test(daemon: Daemon) -> None:
        before, objects, servers = await everything(daemon), len(daemon.worker.registry), len(daemon._native)
        # For one of the two sockets, the path is one byte longer than the system allows.
        name = "g" * (107 - len(str(daemon.config.runtime)) - len("//pulse"))
        with pytest.raises(ConfigError, match=r"native is too long"):
            await ask(daemon, "guest.add", name=name)
        assert (await everything(daemon), len(daemon.worker.registry), len(daemon._native)) == (
            before,
            objects,
            servers,
        )
        assert not list((daemon.config.runtime / name).iterdir()) and daemon.worker.store.guests() == {}
        await ask(daemon, "guest.add", name=name[:-1])

    # A shorter path than pytest's own folder.
    running(tmp_path, test)


def test_guest_that_fails_to_be_restored_is_not_forgotten(tmp_path: Path) -> None:
    async def first(daemon: Daemon) -> None:
        await ask(daemon, "guest.add", name="carol", rate=44_100)
        await ask(daemon, "sink.add", guest="carol", name="music")

    async def second(daemon: Daemon) -> None:
        assert "carol" not in daemon.worker.guests
        assert [(i.stage, i.cause, i.guest) for i in daemon.worker.diagnosis.incidents] == [
            ("guest", "left out", "carol")
        ]
        with pytest.raises(ConfigError, match="must be a directory"):
            await ask(daemon, "guest.add", name="carol")

    async def third(daemon: Daemon) -> None:
        carol = daemon.worker.guest("carol").graph
        assert carol.rate == 44_100 and carol.name_taken("music")

    running(tmp_path, first)
    (tmp_path / "r" / "carol").rmdir()
    (tmp_path / "r" / "carol").write_text("in the way")
    running(tmp_path, second)
    (tmp_path / "r" / "carol").unlink()
    running(tmp_path, third)


def test_module_that_fails_to_load_leaves_no_sink() -> None:
    rig = Rig()
    client = rig.client()
    for n in range(LINKS_MAX):
        rig.graph.add_sink(f"s{n}")
    before = {sink.name for sink in rig.graph.sinks.values()}
    for arguments in ("sink_name=x sinks=nowhere", "sink_name=x"):
        loading = {"name": "module-combine-sink", "argument": arguments}
        assert client.error(Command.LOAD_MODULE, **loading) in (Err.NOENTITY, Err.INVALID, Err.MODINITFAILED)
        assert {sink.name for sink in rig.graph.sinks.values()} == before


# -- refused changes -------------------------------------------------------------------------------


async def waiting(daemon: Daemon) -> str:
    """A request that is pending."""
    subject = Subject(Identity(1, 0, "firefox-esr"))
    prompt = daemon.worker.prompts.ask("alice", Permission.CAMERA, subject, "", now_ns(), lambda allow: None)
    assert prompt is not None
    return prompt.key


def test_change_that_can_not_be_saved_is_not_made(tmp_path: Path) -> None:
    async def test(daemon: Daemon) -> None:
        await ask(daemon, "guest.add", name="bob")
        await ask(daemon, "sink.add", guest="alice", name="music")
        token = await ask(daemon, "token.new", may="hear")
        await ask(daemon, "grant", guest="alice", what="camera", allow="prompt")
        request = await waiting(daemon)
        rule = {"guest": "alice", "what": "monitor", "program": "pacat"}
        await ask(daemon, "grant", **rule, allow=False)
        door = await ask(daemon, "attach", guest="alice", door="qmp:/nowhere")
        while not daemon.worker.guest("alice").machines[0].view().error:
            await asyncio.sleep(0.01)
        changes: list[tuple[str, dict[str, Any]]] = [
            ("guest.add", {"name": "carol"}), ("guest.remove", {"guest": "bob"}),
            ("guest.remove", {"guest": "alice"}), ("sink.add", {"guest": "alice", "name": "film"}),
            ("set", {"target": "sink/music", "settings": {"mute": True}, "guest": "alice"}),
            ("sink.remove", {"guest": "alice", "sink": "music"}),
            ("set", {"target": "source/microphone", "settings": {"volume": "10%"}, "guest": "alice"}),
            ("grant", rule | {"allow": True}), ("grant", rule | {"allow": None}),
            ("grant", rule | {"allow": False, "program": "parec"}),
            ("decide", {"request": request, "allow": True, "always": True}),
            ("token.new", {"may": "all"}), ("token.rotate", {"token": token["id"]}),
            ("token.revoke", {"token": token["id"]}), ("remember", {"key": "k", "value": "v"}),
            ("attach", {"guest": "alice", "door": "vnc://127.0.0.1:1"}), ("detach", {"door": door["id"]}),
        ]  # fmt: skip
        kept = {name for name, command in daemon.plane.commands.table.items() if command.kept is not scopes.not_kept}
        assert {method for method, _ in changes} == kept
        before, objects = await everything(daemon), len(daemon.worker.registry)
        daemon.worker.store._db.execute("PRAGMA query_only=1")
        for method, args in changes:
            with pytest.raises(ConfigError, match="not saved"):
                await ask(daemon, method, **args)
            assert await everything(daemon) == before, method
        assert (
            daemon.worker.access.find(digest_of(token["token"])) is not None
            and len(daemon.worker.registry) == objects + 1
        )
        assert {(i.stage, i.cause) for i in daemon.worker.diagnosis.incidents} == {("store", "can't write")}
        daemon.worker.store._db.execute("PRAGMA query_only=0")
        for method, args in changes:
            if method != "guest.remove" or args["guest"] == "bob":
                await ask(daemon, method, **args)
        assert not daemon.worker.trouble and {"alice", "carol"} == set(daemon.worker.guests)

    running(tmp_path, test)


def test_stream_and_listener_volumes_wait_for_no_disk(tmp_path: Path) -> None:
    async def test(daemon: Daemon) -> None:
        daemon.worker.store._db.execute("PRAGMA query_only=1")
        alice = daemon.config.runtime / "alice" / "native"
        async with daemon.worker.writer.turn, connect(alice, name="test") as bus, bus.play(guest="alice", channels=2):
            node = next(iter(daemon.worker.guest("alice").graph.streams.values()))
            await ask(daemon, "set", target=node.key, settings={"mute": True})
            assert node.mute

    running(tmp_path, test)


def test_change_to_removed_guest_is_not_saved_for_its_successor(tmp_path: Path) -> None:
    async def test(daemon: Daemon) -> None:
        await ask(daemon, "guest.add", name="bob")
        rule = {"guest": "bob", "what": "monitor", "allow": False}
        done = await asyncio.gather(
            ask(daemon, "guest.remove", guest="bob"),
            ask(daemon, "sink.add", guest="bob", name="music"),
            ask(daemon, "set", target="source/microphone", guest="bob", settings={"mute": True}),
            ask(daemon, "grant", **rule),
            ask(daemon, "guest.add", name="bob"),
            return_exceptions=True,
        )
        assert [isinstance(one, GraphError) for one in done] == [False, True, True, True, False], done
        bob = daemon.worker.guest("bob")
        assert not bob.microphone.mute and not bob.graph.name_taken("music") and not list(bob.admission.grants)
        assert daemon.worker.store.guest("bob") == type(daemon.worker.store.guest("nobody"))()

    running(tmp_path, test)


def test_tokens_for_removed_guest_do_not_admit_to_its_successor(tmp_path: Path) -> None:
    made: list[str] = []

    async def lets_in(daemon: Daemon) -> list[set[str]]:
        held = [daemon.worker.access.find(digest_of(secret)) for secret in made]
        return [set(principal.guests) if principal else set() for principal in held]

    async def removed(daemon: Daemon) -> None:
        await ask(daemon, "guest.add", name="bob")
        for guests in (["bob"], ["alice", "bob"], ["alice"]):
            made.append((await ask(daemon, "token.new", name="x", may="hear", guests=guests))["token"])
        assert await lets_in(daemon) == [{"bob"}, {"alice", "bob"}, {"alice"}]
        await ask(daemon, "guest.remove", guest="bob")
        await ask(daemon, "guest.add", name="bob")
        assert await lets_in(daemon) == [set(), {"alice"}, {"alice"}]

    async def again(daemon: Daemon) -> None:
        assert await lets_in(daemon) == [set(), {"alice"}, {"alice"}]

    running(tmp_path, removed)
    running(tmp_path, again)


def test_client_leaving_during_its_call_leaves_a_complete_change(tmp_path: Path) -> None:
    async def test(daemon: Daemon) -> None:
        async with daemon.worker.writer.turn:
            async with connect(daemon.config.runtime / "native.sock", name="test") as bus:
                call = asyncio.create_task(bus.call("guest.add", name="bob"))
                await asyncio.sleep(0.05)
                assert not call.done()
            call.cancel()
            await asyncio.sleep(0.05)
        async with asyncio.timeout(5):
            while "bob" not in daemon.worker.guests:
                await asyncio.sleep(0.005)
        async with daemon.worker.writer.turn:
            assert list(daemon.worker.store.guests()) == ["bob"]

    running(tmp_path, test)


def test_full_runtime_folder_refuses_guest_and_leaves_nothing(tmp_path: Path) -> None:
    async def test(daemon: Daemon) -> None:
        before, there = await everything(daemon), sorted(daemon.config.runtime.rglob("*"))
        fill(tmp_path / "d")
        with pytest.raises(ConfigError, match="No space left"):
            await ask(daemon, "guest.add", name="bob")
        assert await everything(daemon) == before and daemon.worker.store.guests() == {}
        made = {path for path in daemon.config.runtime.rglob("*") if not path.is_dir()} - set(there)
        assert not made, made
        (tmp_path / "d" / "filler").unlink()
        await ask(daemon, "guest.add", name="bob")

    with small_disk(tmp_path / "d") as mounted:
        if not mounted:
            lack("a disk that can be mounted")
        running(tmp_path, test, runtime=tmp_path / "d" / "r")


# -- descriptors -----------------------------------------------------------------------------------


def test_handed_over_connection_is_closed_however_its_door_ends(tmp_path: Path) -> None:
    async def test(daemon: Daemon) -> None:
        mine, theirs = socket.socketpair()
        mine.setblocking(False)
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(GraphError):
            daemon._take_connection({"guest": "nobody"}, theirs.fileno())
        assert len(os.listdir("/proc/self/fd")) == before
        for seconds in (None, 0.0, 0.05):
            door = daemon._take_connection({"guest": "alice"}, theirs.fileno())
            if seconds is not None:
                await asyncio.sleep(seconds)
            await daemon.plane.run(OWNER, "detach", {"door": door.id})
            assert len(os.listdir("/proc/self/fd")) == before
        theirs.close()
        # Read what was sent on it, up to end-of-file: then no other descriptor of the other end is left open.
        while await asyncio.get_running_loop().sock_recv(mine, 4096):
            pass
        mine.close()

    running(tmp_path, test)


def test_sink_removal_completes_though_its_requester_leaves(tmp_path: Path) -> None:
    async def test(daemon: Daemon) -> None:
        guest = daemon.worker.guest("alice")
        for name in ("a", "b"):
            await ask(daemon, "sink.add", guest="alice", name=name)
        first, a, b = guest.graph.sinks.values()
        for _ in range(100):
            guest.graph.add_stream(Stream(guest.graph.ids.take(), "s", ("mono",)), a)
        removal = asyncio.ensure_future(daemon.worker.remove_sink(guest, "a"))
        while not any(stream.sink is first for stream in guest.graph.streams.values()):
            await asyncio.sleep(0)
        assert any(stream.sink is a for stream in guest.graph.streams.values())
        removal.cancel()
        with pytest.raises(asyncio.CancelledError):
            await removal
        assert list(guest.graph.sinks.values()) == [first, b] and not guest.graph.leaving
        assert {stream.sink for stream in guest.graph.streams.values()} == {first}

    running(tmp_path, test)


def test_last_sink_not_made_by_a_module_stays(tmp_path: Path) -> None:
    async def test(daemon: Daemon) -> None:
        guest = daemon.worker.guest("alice")
        own = guest.graph.add_sink("made")
        guest.pulse.door.load(Module(guest.graph.ids.take(), "module-null-sink", "sink_name=made", mixes=[own]))
        with pytest.raises(GraphError, match="only sink"):
            await daemon.worker.remove_sink(guest, "millrace")
        await ask(daemon, "sink.add", guest="alice", name="a")
        await daemon.worker.remove_sink(guest, "millrace")
        assert [sink.name for sink in guest.graph.sinks.values()] == ["made", "a"]

    running(tmp_path, test)


def test_of_two_sinks_removed_together_last_one_stays_and_is_saved(tmp_path: Path) -> None:
    async def test(daemon: Daemon) -> None:
        guest = daemon.worker.guest("alice")
        for name in ("a", "b"):
            await ask(daemon, "sink.add", guest="alice", name=name)
        await ask(daemon, "sink.remove", guest="alice", sink="millrace")
        sinks = list(guest.graph.sinks.values())
        # Enough to need several steps.
        for number in range(60):
            guest.graph.add_stream(Stream(guest.graph.ids.take(), "s", ("mono",)), sinks[number % 2])
        removals = [daemon.worker.remove_sink(guest, name) for name in ("a", "b", "a")]
        first, second, again = await asyncio.gather(*removals, return_exceptions=True)
        assert first is None and isinstance(second, GraphError) and isinstance(again, GraphError)
        assert [sink.name for sink in guest.graph.sinks.values()] == ["b"]
        assert {stream.sink.name for stream in guest.graph.streams.values()} == {"b"}
        assert daemon.worker.store.guest("alice").sinks == [("b", "b"), ("millrace", None)]
        assert not guest.graph.leaving

    running(tmp_path, test)
