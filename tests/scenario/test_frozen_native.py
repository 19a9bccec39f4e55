"""A native connection that is frozen to a value, in any state, continues from it, even in another daemon."""

from __future__ import annotations

import asyncio
import os
import pickle
import random
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from millrace.client.bus import Bus, Change, connect
from millrace.daemon.app import Daemon
from millrace.errors import GraphError, PeerLost, RightsError
from millrace.graph.model import Stream
from millrace.rights.grants import ANY, Identity, Permission, Verdict
from millrace.rights.model import Right
from millrace.server.native.calls import CALL_BYTES
from millrace.server.native.server import NativeServer
from millrace.server.native.session import SESSION_BYTES, NativeSession
from millrace.units import default_map
from millrace.wire.native.messages import Call, Fault, Hello, Message, Objects, Reply, Welcome, frame, shown
from millrace.wire.native.session import NativeWire
from tests import bus, virtual

running = partial(bus.running, guests=bus.BOTH, run=virtual.run)


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0.005)


def server_of(daemon: Daemon, guest: str = "alice") -> NativeServer:
    return daemon._native[daemon.worker.guest(guest)]


def at_door(daemon: Daemon) -> Bus:
    return connect(daemon.config.runtime / "alice" / "native")


async def frozen(server: NativeServer) -> tuple[bytes, socket.socket]:
    """Freeze the only connection; returns its pickled state and its socket."""
    (session,) = server.sessions
    state, sock = await session.freeze()
    assert session.closed and not server.sessions
    return pickle.dumps(state), sock


def thawed(server: NativeServer, state: bytes, sock: socket.socket) -> NativeSession:
    return NativeSession(server, sock, pickle.loads(state))


async def moved(here: NativeServer, there: NativeServer) -> NativeSession:
    return thawed(there, *await frozen(here))


def conversation() -> bytes:
    """The messages of a session manager that creates, removes and watches sinks."""
    calls: list[tuple[str, dict[str, Any]]] = [
        ("watch", {"kinds": ["sink"]}), ("sink.add", {"guest": "alice", "name": "one"}), ("claim", {"name": "x"}),
        ("set", {"target": "sink/one", "guest": "alice", "settings": {"volume": "50%"}}), ("nonsense", {}),
        ("sink.add", {"guest": "alice", "name": "two"}), ("sink.remove", {"guest": "alice", "sink": "one"}),
        ("state", {"guest": "alice"}), ("sink.add", {"guest": "alice", "name": "three"}),
    ]  # fmt: skip
    return frame(Hello(name="mover")) + b"".join(frame(Call(n, *call)) for n, call in enumerate(calls, 1))


class Told:
    """Everything that a client has received."""

    def __init__(self) -> None:
        self.answers: list[tuple[str, int]] = []
        self.sinks: dict[int, str] = {}
        self.synced = 0

    def take(self, message: Message) -> None:
        if isinstance(message, Objects):
            self.sinks |= {told.number: f"{told.guest}: {told.view['name']}" for told in map(shown, message.there)}
            for number in message.gone:
                self.sinks.pop(number, None)
            self.synced += message.synced
        else:
            self.answers.append((type(message).__name__, getattr(message, "serial", 0)))


async def talked(daemon: Daemon, seed: int, freezing: bool) -> Told:
    """Hold the conversation in pieces by `seed`, and freeze the connection after each if `freezing`."""
    loop, rng, said, told = asyncio.get_running_loop(), random.Random(seed), conversation(), Told()
    server, wire = daemon._native[None], NativeWire(daemon=False, close_fd=os.close)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.setblocking(False)
        sock.connect(str(daemon.config.runtime / "native.sock"))
        await until(lambda: server.sessions)
        while said:
            size = rng.choice((1, 7, 60, 200))
            await loop.sock_sendall(sock, said[:size])
            said = said[size:]
            for _ in range(rng.randrange(6)):
                await asyncio.sleep(0)
            if freezing:
                await moved(server, server)
        async with asyncio.timeout(20):
            while told.answers[-1:] != [("Reply", 9)] or not {"alice: two", "alice: three"} <= {*told.sinks.values()}:
                wire.receive(await loop.sock_recv(sock, 65_536), 0)
                for message, _ in wire.events():
                    told.take(message)
    await until(lambda: not server.sessions)
    assert not daemon.plane.budget_of().shares().get("connection") and daemon.worker.claims.holder("x") is None
    return told


@pytest.mark.parametrize("seed", range(3))
def test_connection_frozen_anywhere_answers_as_if_it_was_not(tmp_path: Path, seed: int) -> None:
    out: list[Told] = []
    for freezing in (False, True):

        async def test(daemon: Daemon, freezing: bool = freezing) -> None:
            out.append(await talked(daemon, seed, freezing))

        folder = tmp_path / str(freezing)
        folder.mkdir()
        running(folder, test)
    whole, frozen_ = out
    assert whole.answers[0] == ("Welcome", 0) and ("Fault", 5) in whole.answers and len(whole.answers) == 10
    assert frozen_.answers == whole.answers
    assert sorted(frozen_.sinks.values()) == sorted(whole.sinks.values()) and frozen_.synced == whole.synced == 1


def test_connection_continues_in_another_process(tmp_path: Path) -> None:
    """Another daemon stands in for the process: only the value and the socket are passed to it."""

    async def test(here: Daemon) -> None:
        (tmp_path / "there").mkdir()
        told: list[tuple[str, bool]] = []
        async with bus.daemon_in(tmp_path / "there", guests=bus.BOTH) as there, AsyncExitStack() as ends:
            server, other = here._native[None], there._native[None]
            path = here.config.runtime / "native.sock"
            own = await ends.enter_async_context(connect(path, name="mover", on_claim=lambda *one: told.append(one)))
            changes: list[Change] = []
            watching = asyncio.create_task(gathered(own, changes))
            await until(lambda: any(change.what == "synced" for change in changes))
            assert await own.claim("mine") and await own.claim("policy")
            stays = await ends.enter_async_context(connect(there.config.runtime / "native.sock"))
            assert await stays.claim("policy")
            graph, second = here.worker.guest("alice").graph, there.worker.guest("alice").graph
            streams = [Stream(7_000_000, "x", default_map(2)) for _ in range(2)]
            graph.add_stream(streams[0], graph.default)
            await own.call("duck", target="stream/7000000", db=-20, guest="alice")
            await until(lambda: 7_000_000 in own.objects)
            second.add_stream(streams[1], second.default)
            for _ in range(1000):
                here.worker.ids.take()
            extra = graph.add_sink("goes")
            await until(lambda: extra.id in own.objects)
            graph.remove_sink(extra)
            state, sock = await frozen(server)
            assert streams[0].effective_gains[0] == 1.0 and here.worker.claims.holder("mine") is None
            session = thawed(other, state, sock)
            assert session.name == "mover" and session.principal.key == "owner" and session in other.sessions
            assert abs(streams[1].effective_gains[0] - 0.1) < 1e-6
            assert there.worker.claims.holder("mine") is session is there.worker.claims.holder("policy")
            second.add_sink("comes")
            await until(lambda: any(one.props.get("name") == "comes" for one in own.objects.values()))
            assert extra.id not in own.objects, "removals in between are announced"
            assert [change.what for change in changes].count("synced") == 1 and not told
            assert await own.call("state", guest="alice")
            assert session.account.held == SESSION_BYTES
            second.remove_stream(streams[1])
            watching.cancel()

    running(tmp_path, test)


async def gathered(own: Bus, changes: list[Change]) -> None:
    async for change in own.watch():
        changes.append(change)


def test_unread_answers_are_included(tmp_path: Path) -> None:
    async def test(daemon: Daemon) -> None:
        server, loop = server_of(daemon), asyncio.get_running_loop()
        with socket.socket(socket.AF_UNIX) as sock:
            sock.setblocking(False)
            sock.connect(str(daemon.config.runtime / "alice" / "native"))
            await loop.sock_sendall(sock, frame(Hello()))
            await until(lambda: server.sessions and all(one.state.ready for one in server.sessions))
            (session,) = server.sessions
            for n in range(3):
                session.send(Reply(n, bytes([n]) * 400_000))
            session.connection.flush()
            session.send(Reply(3))
            assert session.connection._out.begun
            budget = daemon.worker.guest("alice").graph.budget
            session = await moved(server, server)
            assert budget.shares()["connection"] > 3 * 200_000
            wire, heard = NativeWire(daemon=False), list[Message]()
            while len(heard) < 5:
                wire.receive(await loop.sock_recv(sock, 65_536), 0)
                heard += [message for message, _ in wire.events()]
            assert isinstance(heard[0], Welcome)
            assert heard[1:] == [*(Reply(n, bytes([n]) * 400_000) for n in range(3)), Reply(3)]
            await until(lambda: session.account.held == SESSION_BYTES)

    running(tmp_path, test)


def test_pending_requests_are_asked_again(tmp_path: Path) -> None:
    async def test(daemon: Daemon) -> None:
        server, prompts = server_of(daemon), daemon.worker.prompts
        grants = daemon.worker.guest("alice").admission.grants
        grants.set(Permission.CONNECT, ANY, Verdict.PROMPT)
        grants.set(Permission.MICROPHONE, ANY, Verdict.PROMPT)
        grants.set(Permission.CAMERA, ANY, Verdict.PROMPT)

        async def decide(allow: bool) -> None:
            await until(lambda: list(prompts))
            before = {prompt.key: prompt.what for prompt in prompts}
            session = await moved(server, server)
            await until(lambda: len(list(prompts)) == len(before))
            assert {prompt.key: prompt.what for prompt in prompts} == before, "the request can still be answered"
            assert [prompt.what for prompt in prompts] == list(before.values()), "in the order of the requests"
            for prompt in list(prompts):
                prompts.decide(prompt, allow)
            assert not session.state.asked

        own = at_door(daemon)
        entering = asyncio.create_task(own.__aenter__())
        await decide(True)
        await entering
        recording = own.record(guest="alice")
        begins = asyncio.create_task(recording.__aenter__())
        camera = asyncio.create_task(own.call("ask", what="camera", guest="alice"))
        await until(lambda: len(list(prompts)) == 2)
        await decide(True)
        assert await camera is True
        await begins
        assert daemon.worker.guest("alice").graph.taps
        own.close()

    running(tmp_path, test)


def noise(frames: int) -> Any:
    return np.random.default_rng(1).uniform(-0.5, 0.5, (frames, 2)).astype(np.float32)


def test_streams_continue_sample_for_sample(tmp_path: Path) -> None:
    async def test(daemon: Daemon) -> None:
        sound, server, alice = noise(48_000), server_of(daemon), daemon.worker.guest("alice")
        before, held = {*os.listdir("/proc/self/fd")}, alice.graph.budget.held
        async with at_door(daemon) as own, own.record("sink/default", guest="alice") as recording:
            async with own.play(guest="alice", latency_ms=60) as stream:
                nodes = {*alice.graph.streams, *alice.graph.taps}
                writing = asyncio.create_task(stream.write(sound))
                got: list[Any] = []
                while sum(map(len, got)) < len(sound):
                    block = await recording.read()
                    loud = np.flatnonzero(block.any(axis=1))
                    got.append(block if got else block[loud[0] :] if len(loud) else block[:0])
                    await moved(server, server)
                await writing
                assert np.array_equal(np.concatenate(got)[: len(sound)], sound) and not stream.underruns
                assert {*alice.graph.streams, *alice.graph.taps} == nodes
                assert {*alice.native.playback, *alice.native.records} == nodes
                await stream.cork()
                await stream.flush()
        await until(lambda: not alice.graph.streams and not alice.graph.taps and alice.graph.budget.held == held)
        await until(lambda: {*os.listdir("/proc/self/fd")} <= before)

    running(tmp_path, test)


def test_stream_that_ended_meanwhile_is_reported_and_leaves_no_descriptor(tmp_path: Path) -> None:
    async def test(daemon: Daemon) -> None:
        async with at_door(daemon) as own:
            before = len(os.listdir("/proc/self/fd"))
            async with own.play(guest="alice") as stream, own.record("sink/default", guest="alice") as recording:
                server, alice = server_of(daemon), daemon.worker.guest("alice")
                state, sock = await frozen(server)
                assert not alice.native.playback and stream.id in alice.graph.streams
                alice.graph.remove_stream(alice.graph.streams[stream.id])
                thawed(server, state, sock)
                await until(lambda: stream.why)
                assert stream.why == "it was removed" and not recording.why
            await until(lambda: len(os.listdir("/proc/self/fd")) == before)
            async with own.play(guest="alice") as again:
                assert not again.why

    running(tmp_path, test)


def test_unstarted_calls_are_included_and_running_one_finishes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(daemon: Daemon) -> None:
        server, gate, real = server_of(daemon), asyncio.Event(), NativeSession._do

        async def held(session: NativeSession, number: int, call: Any) -> None:
            await gate.wait()
            await real(session, number, call)

        async with at_door(daemon) as own:
            (session,) = server.sessions
            monkeypatch.setattr(NativeSession, "_do", held)
            calls = [asyncio.create_task(own.call("state", guest="alice")) for _ in range(3)]
            await until(lambda: session.state.called == 3)
            freezing = asyncio.create_task(frozen(server))
            await asyncio.sleep(0)
            gate.set()
            state, sock = await freezing
            assert len(pickle.loads(state).calls) == 2
            other = thawed(server, state, sock)
            assert other.account.held > SESSION_BYTES + 2 * CALL_BYTES
            assert all([await call for call in calls])
            await until(lambda: other.account.held == SESSION_BYTES)

    running(tmp_path, test)


def test_forbidden_connection_is_closed_when_it_continues(tmp_path: Path) -> None:
    async def test(daemon: Daemon) -> None:
        server = server_of(daemon)
        async with at_door(daemon) as own:
            state, sock = await frozen(server)
            daemon.worker.guest("alice").admission.grants.set(Permission.CONNECT, ANY, Verdict.DENY)
            thawed(server, state, sock)
            await until(lambda: own.lost)
            assert isinstance(own.lost, RightsError)
            await until(lambda: not server.sessions)

    running(tmp_path, test)


def test_token_right_lost_meanwhile_is_lost_to_its_connection(tmp_path: Path) -> None:
    """A guest is removed and one of the same name created: neither the token nor the connection has rights in it."""

    async def test(daemon: Daemon) -> None:
        server, access = daemon._native[None], daemon.worker.access
        token, secret = await access.new("both", Right.SEE | Right.CONTROL, ("alice", "bob"), 0)
        async with connect(daemon.config.runtime / "native.sock", token=secret) as own:
            assert await own.call("state", guest="bob")
            state, sock = await frozen(server)
            await daemon.worker.remove_guest("bob")
            await daemon.worker.add_guest("bob", {})
            session = thawed(server, state, sock)
            assert session.principal == token.principal.without("bob")
            with pytest.raises(GraphError, match="bob"):
                await own.call("state", guest="bob")
            assert await own.call("state", guest="alice")

    running(tmp_path, test)


def test_token_that_ended_meanwhile_gets_no_more_events(tmp_path: Path) -> None:
    async def test(daemon: Daemon) -> None:
        server, access, loop = daemon._native[None], daemon.worker.access, asyncio.get_running_loop()
        token, secret = await access.new("watcher", Right.SEE, ("alice",), 0)
        with socket.socket(socket.AF_UNIX) as sock:
            sock.setblocking(False)
            sock.connect(str(daemon.config.runtime / "native.sock"))
            await loop.sock_sendall(sock, frame(Hello(token=secret)))
            await until(lambda: any(one.state.ready for one in server.sessions))
            wire, heard = NativeWire(daemon=False), list[Message]()
            wire.receive(await loop.sock_recv(sock, 65_536), 0)
            (session,) = server.sessions
            session.send(Reply(1, "for its eyes only"))
            state, mine = await session.freeze()
            state.outgoing.chunks.extend(session.wire.data_to_send())
            await access.revoke(token.id)
            thawed(server, pickle.dumps(state), mine)
            while data := await loop.sock_recv(sock, 65_536):
                wire.receive(data, 0)
            heard = [message for message, _ in wire.events()]
            assert [type(message) for message in heard] == [Welcome, Fault]
            assert isinstance(heard[1], Fault) and heard[1].code == "rights"

    running(tmp_path, test)


def test_connection_whose_client_leaves_is_not_handed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(daemon: Daemon) -> None:
        server, gate = server_of(daemon), asyncio.Event()

        async def held(session: NativeSession, number: int, call: Any) -> None:
            await gate.wait()

        monkeypatch.setattr(NativeSession, "_do", held)
        async with at_door(daemon) as own:
            (session,) = server.sessions
            call = asyncio.create_task(own.call("state"))
            await until(lambda: session._worker)
            freezing = asyncio.create_task(session.freeze())
            await asyncio.sleep(0)
        await until(lambda: session.closed)
        gate.set()
        with pytest.raises(PeerLost, match="before it was handed on"):
            await freezing
        with pytest.raises(PeerLost):
            await call

    running(tmp_path, test)


@pytest.mark.parametrize("token", [True, False])
def test_identified_program_does_not_affect_connection_with_token(tmp_path: Path, token: bool) -> None:
    async def test(daemon: Daemon) -> None:
        _, secret = await daemon.worker.access.new("t", Right.SEE, ["alice"], 0)
        own = connect(daemon.config.runtime / "alice" / "native", token=secret if token else "")
        async with own:
            (session,) = server_of(daemon).sessions
            before = session.subject.identity
            daemon.worker.guest("alice").admission.grants.set(Permission.CONNECT, "/usr/bin/other", Verdict.DENY)
            session._identified(Identity(program="/usr/bin/other"))
            assert session.closed is not token
            assert (session.subject.identity == before) is token

    running(tmp_path, test)
