"""The rules of wire/contract.py for every session, with recorded traffic and with that of Millrace's own sessions."""

from __future__ import annotations

import ast
import contextlib
import pickle
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import millrace.wire
from millrace.dsp.convert import SampleFormat
from millrace.errors import MillraceError
from millrace.units import NS_PER_S
from millrace.wire.contract import AnswerDue, Untimed
from millrace.wire.native.messages import HEADER, Fault, Reply, frame
from millrace.wire.native.session import NativeWire, awaiting_hello
from millrace.wire.peer.messages import Hello
from millrace.wire.peer.pictures import Watch
from millrace.wire.peer.session import PeerClient, PeerServer
from millrace.wire.peer.viewing import ViewClient, ViewServer
from millrace.wire.pulse.client import PulseClientSession, playback_fields
from millrace.wire.pulse.constants import COOKIE_BYTES, Command, Seek
from millrace.wire.pulse.session import Block, PulseSession
from millrace.wire.pulse.tagstruct import Spec
from millrace.wire.qemu.audio import AudioPeer
from millrace.wire.qemu.client import DisplayClient
from millrace.wire.qemu.dbus import DBusWire
from millrace.wire.qemu.display import ScreenPeer
from millrace.wire.qemu.qmp import QmpHandover
from millrace.wire.sessions import EVERY, OVER_MESSAGES
from millrace.wire.spice.channel import ChannelKind, SpiceChannel
from millrace.wire.spice.cursor import SpiceCursor
from millrace.wire.spice.display import SpiceDisplay
from millrace.wire.spice.inputs import SpiceInputs
from millrace.wire.spice.main import SpiceMain
from millrace.wire.vnc.client import VncClient
from millrace.wire.vnc.messages import COMPRESSED, TlsWanted
from millrace.wire.x11.client import X11Client
from tests.fuzz import clientseeds, seeds
from tests.received import received

NOW = 5 * NS_PER_S
LINK = [seeds.spice_reply(bytes(162)), bytes(4)]
SPLITS = 3
SHORT = 1_000
"""What is no longer is split at each byte."""
CHUNKS = {"VncClient": 64 * 1024, "ScreenPeer": 64 * 1024}
CHUNK = 4 * 1024
"""How much is received at once at most (io/client.py, io/fdstream.py), where pictures come and elsewhere."""
CALLS_MAX = 6_000
"""Calls of functions in one step: about a millisecond."""
STEPS_MAX = 10
"""How many steps of a session that repeats itself are looked at."""


@dataclass(frozen=True)
class Case:
    """A session, and what its peer has sent to one like it."""

    name: str
    make: Callable[[], Any]
    sessions: Callable[[], list[seeds.Session]]


def spoken_native() -> NativeWire:
    wire = NativeWire(daemon=True, state=awaiting_hello(NOW))
    wire.receive_fds([])
    return wire


def watching_screen() -> ScreenPeer:
    """A listener that has received the descriptor that one message needs."""
    wire = ScreenPeer(0)
    wire.receive_fds([9])
    return wire


def asked_pulse() -> PulseClientSession:
    """A client that has sent the requests that the seeds answer."""
    wire = PulseClientSession()
    for _ in range(4):
        wire.send_request(Command.STAT)
    return wire


def old_pulse() -> seeds.Session:
    """A client that speaks an older version, and begins in the midst of its stream."""
    wire = PulseClientSession(20)
    wire.send_request(Command.AUTH, {"version": 20, "cookie": bytes(COOKIE_BYTES)})
    wire.send_block(3, bytes(50), seek=Seek.ABSOLUTE, offset=99)
    spec = Spec(SampleFormat.S16LE, 2, 48_000)
    wire.send_request(Command.CREATE_PLAYBACK_STREAM, playback_fields(spec, (1, 2)))
    return [wire.data_to_send()]


def spice(kind: ChannelKind) -> SpiceChannel:
    return SpiceChannel(kind, 7, 0b0110, "", lambda key, password: bytes(128), 0)


def ticket(key: bytes, password: str) -> bytes:
    return bytes(128)


def linked(sessions: list[seeds.Session]) -> list[seeds.Session]:
    return [session if session[0].startswith(b"REDQ") else [*LINK, *session] for session in sessions]


CASES = (
    Case("PulseSession", PulseSession, lambda: [*clientseeds.pulse()[0], old_pulse()]),
    Case("PulseClientSession", asked_pulse, lambda: clientseeds.pulse()[1]),
    Case("NativeWire", spoken_native, clientseeds.native),
    Case("DBusWire", lambda: DBusWire(0), seeds.dbus_audio),
    Case("AudioPeer", lambda: AudioPeer(0), seeds.dbus_audio),
    Case("ScreenPeer", watching_screen, seeds.dbus_screen),
    Case("DisplayClient", lambda: DisplayClient(0, True, NOW), lambda: seeds.dbus_display(True)),
    Case("DisplayClient", lambda: DisplayClient(0, False, NOW), lambda: seeds.dbus_display(False)),
    Case("QmpHandover", lambda: QmpHandover(3, NOW), seeds.qmp),
    Case("SpiceMain", lambda: SpiceMain("", lambda key, password: bytes(128), NOW), lambda: linked(seeds.spice_main())),
    Case("SpiceChannel", lambda: spice(ChannelKind.PLAYBACK), lambda: linked(seeds.spice_sound())),
    Case("VncClient", lambda: VncClient(48_000, 2, "x", lambda asked, text: bytes(16), NOW, COMPRESSED), seeds.vnc),
    Case("SpiceDisplay", lambda: SpiceDisplay(7, 0, "", ticket, NOW), lambda: linked(seeds.spice_display())),
    Case("SpiceCursor", lambda: SpiceCursor(7, 0, "", ticket, NOW), lambda: linked(seeds.spice_cursor())),
    Case("SpiceInputs", lambda: SpiceInputs(7, "", ticket, NOW), lambda: linked(seeds.spice_inputs())),
    Case("X11Client", lambda: X11Client(b"", NOW), lambda: [said[:12] for said in seeds.x11()]),
    Case("PeerServer", lambda: PeerServer(NOW), clientseeds.peer_listener),
    Case("PeerClient", lambda: PeerClient(Hello(microphone=True), NOW), clientseeds.peer_daemon),
    Case("ViewServer", lambda: ViewServer(NOW), clientseeds.viewer),
    Case("ViewClient", lambda: ViewClient(Watch(), NOW), clientseeds.view_daemon),
)
MESSAGES = {kind.__name__ for kind in OVER_MESSAGES}
every = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def pieces(case: Case, session: seeds.Session, seed: int | None = None) -> Iterator[Any]:
    """The input, message by message; bytes are split anywhere, by `seed`."""
    if case.name in MESSAGES:
        yield from (part.decode() if part[:1] == b"{" else part for part in session)
        return
    data, rng, at = b"".join(session), random.Random(seed), 0
    while at < len(data):
        size = len(data) if seed is None else 1 if len(data) < SHORT else rng.choice((1, 1, 2, 7, 100, 5_000))
        yield data[at : at + size]
        at += size


def settle(wire: Any) -> None:
    """A SPICE display tells a picture when nothing more has come for a while."""
    if isinstance(wire, SpiceDisplay):
        wire.handle_timeout(wire.next_timeout() or NOW)


def heard(wire: Any, came: Iterator[Any]) -> list[Any]:
    """The resulting events, and the error that ended the session. The pieces of a block of sound are joined."""
    out: list[Any] = []
    try:
        for piece in came:
            received(wire, piece, NOW)
            for event in wire.events():
                if isinstance(event, TlsWanted):
                    wire.tls_ready()
                block = isinstance(event, Block)
                out.append([event.channel, event.seek, event.offset, bytes(event.data)] if block else event)
        settle(wire)
        out += wire.events()
    except MillraceError as error:
        out.append((type(error), str(error)))
    return joined(out)


def joined(events: list[Any]) -> list[Any]:
    """Merge blocks that continue where the previous one ended."""
    out: list[Any] = []
    for event in events:
        goes_on = isinstance(event, list) and event[1:3] == [Seek.RELATIVE, 0]
        if goes_on and out and isinstance(out[-1], list) and out[-1][0] == event[0]:
            out[-1] = [*out[-1][:3], out[-1][3] + event[3]]
        else:
            out.append(event)
    return out


def written(wire: Any) -> bytes:
    """Everything that it has to send now."""
    out = wire.data_to_send()
    if isinstance(out, bytes):
        return out
    parts = [bytes(part.data) if hasattr(part, "data") else part for part in out]
    return b"".join(part.encode() if isinstance(part, str) else part for part in parts)


def test_every_writing_class_is_a_listed_session() -> None:
    wires = set()
    for path in Path(millrace.wire.__path__[0]).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            made = isinstance(node, ast.ClassDef) and path.name != "contract.py" and not node.name.startswith("_")
            if made and any(getattr(part, "name", "") == "receive" for part in node.body):
                wires.add(node.name)
    assert wires == {kind.__name__ for kind in EVERY} == {case.name for case in CASES}


@every
def test_events_do_not_depend_on_how_bytes_are_split(case: Case) -> None:
    told = 0
    for session in case.sessions():
        whole = case.make()
        expected = heard(whole, pieces(case, session))
        told += len(expected)
        answers = written(whole)
        for seed in range(SPLITS):
            split = case.make()
            assert heard(split, pieces(case, session, seed)) == expected
            # In which order it answers and asks may depend on what has come together.
            assert sorted(written(split)) == sorted(answers)
    assert told, "silent sessions would prove nothing"


def thawed(wire: Any) -> Any:
    """Another session, in the state of this one as it comes out of a file."""
    state = pickle.loads(pickle.dumps(wire.state))
    return PulseSession(state) if isinstance(wire, PulseSession) else NativeWire(daemon=True, state=state)


@pytest.mark.parametrize("name", ["PulseSession", "NativeWire"])
@pytest.mark.parametrize("seed", range(SPLITS))
def test_session_continues_from_anothers_state(name: str, seed: int) -> None:
    case = next(case for case in CASES if case.name == name)
    for session in case.sessions():
        wire, out = case.make(), []
        for piece in pieces(case, session, seed):
            out += heard(wire, iter([piece]))
            assert wire.next_timeout() == thawed(wire).next_timeout()
            wire = thawed(wire)
        assert joined(out) == joined(heard(case.make(), pieces(case, session)))


def test_unwritten_output_is_written_by_continuing_session() -> None:
    pulse, native = PulseSession(), NativeWire(daemon=True)
    pulse.receive(clientseeds.pulse()[0][0][0], NOW)
    native.receive(clientseeds.native()[0][0], NOW)
    pulse.send_block(3, b"sound")
    native.send_message(Reply(1, {"a": [1, 2]}), (7, 8))
    native.receive_fds([5])
    for wire in (pulse, native):
        other = thawed(wire)
        assert other.state == wire.state
        assert wire.data_to_send() == other.data_to_send()
    assert list(thawed(native).events()) == list(native.events()) != []
    closed: list[int] = []
    NativeWire(daemon=True, close_fd=closed.append, state=pickle.loads(pickle.dumps(native.state))).close()
    assert closed == [5]


@every
def test_unfinished_work_ends_and_then_nothing_waits(case: Case) -> None:
    for session in case.sessions():
        wire, calls = case.make(), 0
        assert not getattr(wire, "unfinished", False)
        with contextlib.suppress(MillraceError):
            for piece in pieces(case, session):
                wire.receive(piece, NOW)
                while getattr(wire, "unfinished", False):
                    wire.receive(piece[:0], NOW)
                    calls += 1
                    assert calls <= sum(map(len, session)), "it makes no progress"
                list(wire.events())
                written(wire)
                assert not getattr(wire, "unfinished", False) and not getattr(wire, "waiting", False)


def repeated(case: Case, chunk: int) -> Iterator[tuple[seeds.Session, bytes, int]]:
    """Each message that fits into a chunk, after what came before it, and how often it does."""
    seen = set[tuple[bytes, int]]()
    for session in case.sessions():
        for at, message in enumerate(session):
            if message and len(message) <= chunk and (message[:2], len(message)) not in seen:
                seen.add((message[:2], len(message)))
                yield session[:at], message, 1 if case.name in MESSAGES else chunk // len(message)


def counted(counts: list[int], step: Callable[..., Any], *args: object) -> Any:
    """The result of a step; how many functions it calls is added to `counts`."""

    def called(frame: object, event: str, value: object) -> None:
        counts[-1] += event in ("call", "c_call")

    counts.append(0)
    sys.setprofile(called)
    try:
        return step(*args)
    finally:
        sys.setprofile(None)


def process(wire: Any, data: bytes, counts: list[int]) -> None:
    """Process all of `data` as its runner does, counting the calls of each step."""
    if isinstance(wire, PulseSession):
        at = 0
        while at < len(data):
            at = counted(counts, wire.receive_some, memoryview(data), at)
            wire.events()
        return
    counted(counts, wire.receive, data, NOW)
    while getattr(wire, "unfinished", False) and len(counts) < STEPS_MAX:
        list(wire.events())
        counted(counts, wire.receive, b"", NOW)


def says_so(kind: type) -> bool:
    """Whether a session can be unfinished, by its own word."""
    return getattr(kind, "unfinished", Untimed.unfinished) not in (Untimed.unfinished, AnswerDue.unfinished)


# A step that takes long without calling anything is one of a library's: the size of the chunk bounds it.
@every
def test_no_step_takes_long_whatever_is_repeated_and_long_work_takes_several(case: Case) -> None:
    unfinished = False
    for before, message, times in repeated(case, CHUNKS.get(case.name, CHUNK)):
        wire, counts = case.make(), list[int]()
        with contextlib.suppress(MillraceError):
            for piece in before:
                received(wire, piece, NOW)
                list(wire.events())
            process(wire, message * times, counts)
        unfinished |= len(counts) > 1 and not isinstance(wire, PulseSession)
        assert not counts or max(counts) < CALLS_MAX, message[:16]
    assert unfinished == says_so(type(case.make()))


@every
def test_what_is_processed_in_several_steps_is_what_comes_message_by_message(case: Case) -> None:
    for before, message, times in repeated(case, CHUNK):
        single, together = case.make(), case.make()
        expected = heard(single, iter([*before, *[message] * times]))
        if not any(isinstance(event, tuple) and isinstance(event[0], type) for event in expected):
            assert heard(together, iter([*before, message * times])) == expected
            assert sorted(written(single)) == sorted(written(together))


def taken(wire: Any) -> Iterator[Any]:
    """Its events, taken one by one. While one is used it counts in `partial_bytes`."""
    counted_bytes = []
    while True:
        waits, event = wire.waiting, wire.take()
        if event is not None:
            assert waits
            counted_bytes.append(wire.partial_bytes)
            yield event
        elif not wire.waiting:
            assert all(one > wire.partial_bytes for one in counted_bytes)
            return


TAKEN = [case for case in CASES if hasattr(case.make(), "take")]


@pytest.mark.parametrize("case", TAKEN, ids=lambda case: case.name)
def test_events_taken_one_by_one_are_those_of_the_list(case: Case) -> None:
    for session in case.sessions():
        listed, single, got = case.make(), case.make(), list[Any]()
        expected = heard(listed, pieces(case, session))
        try:
            for piece in pieces(case, session):
                received(single, piece, NOW)
                for event in taken(single):
                    if isinstance(event, TlsWanted):
                        single.tls_ready()
                    got.append(event)
            settle(single)
            got += taken(single)
        except MillraceError as error:
            got.append((type(error), str(error)))
        assert got == expected


@every
def test_nothing_is_written_or_reported_twice(case: Case) -> None:
    for session in case.sessions():
        wire = case.make()
        for piece in pieces(case, session):
            with contextlib.suppress(MillraceError):
                received(wire, piece, NOW)
        list(wire.events())
        written(wire)
        assert not written(wire) and not list(wire.events())


@every
def test_deadline_passes_once_and_early_call_does_nothing(case: Case) -> None:
    for session in case.sessions():
        for length in range(len(session) + 1):
            wire = case.make()
            heard(wire, pieces(case, session[:length]))
            written(wire)
            pass_deadlines(wire)


def pass_deadlines(wire: Any) -> None:
    """Nobody is at the other end any more."""
    for _ in range(50):
        deadline = wire.next_timeout()
        if deadline is None:
            return
        wire.handle_timeout(min(deadline, NOW) - 1)
        assert not written(wire) and wire.next_timeout() == deadline
        try:
            wire.handle_timeout(deadline)
        except MillraceError:
            return
        after = wire.next_timeout()
        assert after is None or after > deadline
        written(wire)
    raise AssertionError("it goes on for ever with nobody at the other end")


def test_descriptors_of_unknown_message_are_closed_and_next_gets_its_own() -> None:
    closed: list[int] = []
    wire = NativeWire(daemon=False, close_fd=closed.append)
    wire.receive_fds([7, 8, 9])
    wire.receive(HEADER.pack(3, 255, 2, 0) + b"new" + frame(Fault(0, "busy", "why"), 1), NOW)
    assert [(type(got.message), got.fds) for got in wire.events()] == [(Fault, (9,))] and closed == [7, 8]
