"""The streams of a native connection: their shared memory, their wake-up pipes, and the methods on them."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from mmap import mmap
from typing import Any, Protocol
from weakref import proxy

import msgspec

from millrace.doors.admission import Asker, permission_of
from millrace.doors.native.playback import LATENCY_MAX_NS, LATENCY_MIN_NS, LOW_DELAY_NS, NativePlayback
from millrace.doors.native.record import NativeRecord
from millrace.doors.native.state import PlaybackState, RecordState
from millrace.dsp.convert import BY_NAME, SampleFormat
from millrace.dsp.resample import resampler_bytes
from millrace.errors import ConfigError, GraphError, MillraceError, RightsError
from millrace.graph.model import Node, Sink, Stream, Tap
from millrace.guest.find import find_mix, parse_volume
from millrace.guest.guest import Guest
from millrace.io.clock import now_ns
from millrace.io.descriptors import Descriptors
from millrace.io.shared import Bell, duplicate, mapped, pipe, shared_memory
from millrace.media.format import AudioFormat
from millrace.rights.model import Principal, Right
from millrace.text import checked_int, checked_number, quoted
from millrace.units import (
    MAX_CHANNELS,
    NS_PER_MS,
    POSITIONS,
    RATE_MAX,
    RATE_MIN,
    Frames,
    default_map,
    frames_to_ns,
    ns_to_frames,
)
from millrace.wire.arguments import Arguments
from millrace.wire.native.messages import Begun, Message, Notice, Reply
from millrace.wire.native.ring import Ring, ring_bytes

STREAMS_MAX = 64
"""Streams of one connection; each costs the daemon four descriptors: its memory's, that of the mapping, two pipes'."""
PROPS_MAX = 32
ALIASES = {"f32": "float32le", "s16": "s16le", "s24": "s24le", "s32": "s32le"}


class Open(Arguments):
    """Open a stream: `play` to a sink of a guest, or `record` from a sink's monitor or a source."""

    guest: str = "default"
    at: str = ""
    name: str = "stream"
    format: str = "float32le"
    rate: int = 48_000
    channels: int = 2
    positions: list[str] = msgspec.field(default_factory=list)
    latency_ms: float = 200.0
    props: dict[str, str] = msgspec.field(default_factory=dict)


class OfStream(Arguments):
    """One of the connection's own streams."""

    stream: int


class Cork(Arguments):
    """Pause or resume."""

    stream: int
    corked: bool


class Level(Arguments):
    """A stream's own volume."""

    stream: int
    volume: str | None = None
    mute: bool | None = None


class Session(Asker, Protocol):
    """The connection that owns the streams."""

    @property
    def principal(self) -> Principal:
        """The principal with whose rights it acts."""
        ...

    def guest(self, name: str, right: Right) -> Guest:
        """The guest of that name, if the connection has that right in it."""
        ...

    def send(self, message: Message, fds: tuple[int, ...] = ()) -> None:
        """Send a message with descriptors, whose ownership passes to the connection."""
        ...

    def refuse(self, serial: int, error: Exception) -> None:
        """Answer a call with an error."""
        ...


@dataclass(slots=True)
class NativeStreamState:
    """One stream of a connection; its node belongs to the graph. Its descriptors are handed over separately."""

    guest: str
    node: int
    capacity: Frames
    fds: tuple[int, int, int]
    """The shared memory, the pipe on which the client wakes us, and the one on which we wake it."""
    playback: PlaybackState | None = None
    record: RecordState | None = None


class _Own:
    """A stream with its shared memory and its wake-up pipes. It owns the descriptors."""

    def __init__(self, guest: Guest, ring: Ring, memory: mmap, memory_fd: int, bell: Bell) -> None:
        self.guest, self.ring, self.bell = guest, ring, bell
        self._memory = memory
        # Kept open for whoever continues the stream and has to map the memory again.
        self._memory_fd = memory_fd
        self.playback: NativePlayback | None = None
        self.record: NativeRecord | None = None

    def freeze(self, id_: int) -> NativeStreamState:
        """Detach from the graph and the client."""
        self.guest.native.forget(id_)
        fds = (self._memory_fd, *self.bell.hand_on())
        state = NativeStreamState(self.guest.name, id_, self.ring.capacity, fds)
        if self.playback is not None:
            state.playback = self.playback.freeze()
        if self.record is not None:
            state.record = self.record.freeze()
        self._unmap()
        return state

    def _unmap(self) -> None:
        self.ring.close()
        self._memory.close()

    def close(self) -> None:
        """Release everything."""
        self.bell.close()
        self._unmap()
        os.close(self._memory_fd)


class NativeStreams:
    """The streams of one connection."""

    def __init__(self, session: Session) -> None:
        # The session owns this.
        self._session: Session = proxy(session)
        self._own: dict[int, _Own] = {}

    @property
    def methods(self) -> dict[str, tuple[type[Any], Callable[[int, Any], None]]]:
        """Argument types and methods by name. They are bound to this, which therefore does not keep them."""
        return {
            "play": (Open, self._play), "record": (Open, self._record), "close": (OfStream, self._close),
            "cork": (Cork, self._cork), "drain": (OfStream, self._drain), "flush": (OfStream, self._flush),
            "level": (Level, self._level),
        }  # fmt: skip

    def __len__(self) -> int:
        return len(self._own)

    def _reply(self, serial: int, value: Any = None, fds: tuple[int, ...] = ()) -> None:
        self._session.send(Reply(serial, value), fds)

    # -- opening ---------------------------------------------------------------------------------

    def _play(self, serial: int, args: Open) -> None:
        guest = self._session.guest(args.guest, Right.SPEAK)
        sink = find_mix(guest, args.at) if args.at else guest.graph.default
        if sink is None or sink.capture:
            raise GraphError(f"{args.at} is not a sink; streams play to sinks")
        fmt, target = self._checked(args)
        props = _props(args, self._session.name)
        node = Stream(guest.graph.ids.take(), args.name or "stream", fmt.positions, props)
        node.chosen = ("sink",) if args.at else ()
        capacity = target + target // 4
        node.charges = _charges(guest, fmt, capacity, target)
        with Descriptors() as theirs, self._begun(node.id):
            own = self._memory(guest, capacity, fmt, node.id, theirs)
            self._plays(own, node, PlaybackState(fmt, target, self._session.subject.identity.pid))
            guest.graph.add_stream(node, sink)
            self._reply(serial, self._answer(node.id, capacity, target, fmt, sink), theirs.give_all())

    def _record(self, serial: int, args: Open) -> None:
        guest = self._session.guest(args.guest, Right.HEAR)
        source = find_mix(guest, args.at) if args.at else guest.microphone
        what = permission_of(source)
        if self._session.principal.may(Right.ADMIN, guest.name) or guest.admission.authorize(
            what, self._session, now_ns(), lambda allow: self._record_decided(serial, args, allow)
        ):
            self._begin_record(serial, args, guest, source)

    def _record_decided(self, serial: int, args: Open, allow: bool) -> None:
        """Serve or refuse a call that waited for a permission."""
        try:
            if not allow:
                raise RightsError("no grant allows it")
            self._record(serial, args)
        except Exception as error:
            # Nothing else answers this call. Anything but a refusal (no descriptors) is for the log, too.
            self._session.refuse(serial, error)
            if not isinstance(error, MillraceError):
                raise

    def _begin_record(self, serial: int, args: Open, guest: Guest, source: Sink) -> None:
        fmt, target = self._checked(args)
        props = _props(args, self._session.name)
        node = Tap(guest.graph.ids.take(), args.name or "recorder", fmt.positions, props, clocked=True)
        node.charges = _charges(guest, fmt, 2 * target, max(1, target // 4))
        with Descriptors() as theirs, self._begun(node.id):
            own = self._memory(guest, 2 * target, fmt, node.id, theirs)
            self._records(own, node, RecordState(fmt, max(1, target // 4)))
            guest.graph.add_tap(node, source)
            self._reply(serial, self._answer(node.id, 2 * target, target, fmt, source), theirs.give_all())

    # A stream consists of memory, pipes, an entry in the guest's door and a node in the graph, created in this order.
    # Any of these steps may fail, for lack of descriptors or of room in the budget. The reply comes last, as its
    # descriptors leave with it: from then on the client owns its copies and the stream exists.
    @contextmanager
    def _begun(self, id_: int) -> Iterator[None]:
        """Undo a half-opened stream on any error."""
        try:
            yield
        except BaseException:
            self._forget(id_)
            raise

    def _checked(self, args: Open) -> tuple[AudioFormat, Frames]:
        if len(self._own) >= STREAMS_MAX:
            raise GraphError(f"a connection has {STREAMS_MAX} streams at most; close some or open another connection")
        name = args.format.lower()
        sample: SampleFormat | None = BY_NAME.get(ALIASES.get(name, name))
        if sample is None:
            raise ConfigError(f"format {quoted(args.format)} is unknown; there are {', '.join(BY_NAME)}")
        checked_int(args.rate, "rate", RATE_MIN, RATE_MAX)
        checked_int(args.channels, "channels", 1, MAX_CHANNELS)
        positions = tuple(args.positions) or default_map(args.channels)
        if len(positions) != args.channels or not set(positions) <= set(POSITIONS):
            raise ConfigError(f"positions: give {args.channels} of {', '.join(POSITIONS[:12])} and so on")
        low, high = LATENCY_MIN_NS / NS_PER_MS, LATENCY_MAX_NS / NS_PER_MS
        wanted_ns = checked_number(args.latency_ms, "latency_ms", low, high) * NS_PER_MS
        return AudioFormat(sample, args.rate, positions), max(8, ns_to_frames(round(wanted_ns), args.rate))

    def _memory(self, guest: Guest, capacity: Frames, fmt: AudioFormat, id_: int, theirs: Descriptors) -> _Own:
        """Make a ring and two pipes. `theirs` gets the client's descriptors: memory, what wakes it, what wakes us."""
        size = ring_bytes(capacity, fmt.frame_bytes)
        with Descriptors() as ours:
            fd, memory = shared_memory(size)
            ours.add(fd)
            theirs.add(duplicate(fd))
            their_hear, our_ring = pipe()
            theirs.add(their_hear)
            ours.add(our_ring)
            our_hear, their_ring = pipe()
            theirs.add(their_ring)
            ours.add(our_hear)
            bell = Bell(our_hear, our_ring, lambda: self._rung(id_))
            ours.give_all()
        own = self._own[id_] = _Own(guest, Ring(memory, capacity, fmt.frame_bytes), memory, fd, bell)
        return own

    def _plays(self, own: _Own, node: Stream, state: PlaybackState) -> NativePlayback:
        playback = own.playback = own.guest.native.playback[node.id] = NativePlayback(
            own.guest.graph, node, state, own.ring, own.bell.ring,
            lambda what, why: self._notice(node.id, what, why), lambda: self.removed(node.id),
        )  # fmt: skip
        return playback

    def _records(self, own: _Own, node: Tap, state: RecordState) -> None:
        own.record = own.guest.native.records[node.id] = NativeRecord(
            own.guest.graph, node, state, own.ring, own.bell.ring, lambda: self.removed(node.id)
        )

    @staticmethod
    def _answer(id_: int, capacity: Frames, target: Frames, fmt: AudioFormat, mix: Sink) -> Begun:
        frame_bytes, positions = fmt.frame_bytes, list(fmt.positions)
        size = ring_bytes(capacity, frame_bytes)
        return Begun(id_, capacity, target, frame_bytes, size, fmt.name, fmt.rate, positions, mix.key)

    # -- handing on ------------------------------------------------------------------------------

    def freeze(self) -> list[NativeStreamState]:
        """Detach all streams and return their states. Their nodes stay in the graph, silent, until continued."""
        own, self._own = self._own, {}
        return [one.freeze(id_) for id_, one in own.items()]

    def resume(self, states: Iterable[NativeStreamState], guests: Iterable[Guest]) -> None:
        """Continue frozen streams. The client is told of those that have ended meanwhile."""
        named = {guest.name: guest for guest in guests}
        for state in states:
            guest = named.get(state.guest)
            node = None if guest is None else guest.graph.client_node(state.node)
            with Descriptors(state.fds) as fds:
                if guest is None or node is None:
                    self._notice(state.node, "ended", "it was removed")
                else:
                    self._resume(guest, node, state, fds)

    def _resume(self, guest: Guest, node: Node, state: NativeStreamState, fds: Descriptors) -> None:
        id_, sound = state.node, state.playback or state.record
        assert sound is not None
        memory = mapped(duplicate(fds.first), ring_bytes(state.capacity, sound.format.frame_bytes))
        ring = Ring(memory, state.capacity, sound.format.frame_bytes)
        fd, hear, ring_fd = fds.give_all()
        own = self._own[id_] = _Own(guest, ring, memory, fd, Bell(hear, ring_fd, lambda: self._rung(id_)))
        if isinstance(node, Stream) and state.playback is not None:
            self._plays(own, node, state.playback).resume()
        if isinstance(node, Tap) and state.record is not None:
            self._records(own, node, state.record)

    # -- operating -------------------------------------------------------------------------------

    def _rung(self, id_: int) -> None:
        own = self._own.get(id_)
        if own is not None and own.playback is not None:
            own.playback.resume()

    def _notice(self, id_: int, what: str, why: str) -> None:
        self._session.send(Notice(id_, what, why))

    def _mine(self, id_: int) -> _Own:
        own = self._own.get(id_)
        if own is None:
            raise GraphError(f"this connection has no stream {id_}")
        return own

    def _cork(self, serial: int, args: Cork) -> None:
        own = self._mine(args.stream)
        (own.playback or own.record).cork(args.corked)  # type: ignore[union-attr]
        self._reply(serial)

    def _playback(self, id_: int) -> NativePlayback:
        playback = self._mine(id_).playback
        if playback is None:
            raise GraphError(f"stream {id_} records")
        return playback

    def _drain(self, serial: int, args: OfStream) -> None:
        playback = self._playback(args.stream)
        # Reply first: with nothing queued, `drain` sends its notice at once.
        self._reply(serial)
        playback.drain()

    def _flush(self, serial: int, args: OfStream) -> None:
        self._playback(args.stream).flush()
        self._reply(serial)

    def _level(self, serial: int, args: Level) -> None:
        playback = self._playback(args.stream)
        if args.volume is not None:
            playback.graph.set_gains(playback.node, (parse_volume(args.volume),))
        if args.mute is not None:
            playback.graph.set_mute(playback.node, args.mute)
        self._reply(serial)

    def _close(self, serial: int, args: OfStream) -> None:
        self._mine(args.stream)
        self._forget(args.stream)
        self._reply(serial)

    def removed(self, id_: int) -> None:
        """The graph has removed a stream: it was killed, its guest was removed, or it ended by itself."""
        own = self._own.get(id_)
        if own is not None:
            why = own.playback.why if own.playback is not None else ""
            self._notice(id_, "ended", why or "it was removed")
            self._forget(id_)

    def end_forbidden(self, guest: str) -> None:
        """The grants of a guest have changed: end recorders that are no longer allowed."""
        if self._session.principal.may(Right.ADMIN, guest):
            return
        for id_, own in list(self._own.items()):
            sink = own.record.node.sink if own.record is not None and own.guest.name == guest else None
            if sink is None:
                continue
            if not own.guest.admission.allows(permission_of(sink), self._session.subject):
                self._notice(id_, "ended", "the grant was revoked")
                self._forget(id_)

    # Removed from the table first: taking the node out of the graph calls `removed`, which must not find it and
    # notify the client of an end that it asked for.
    def _forget(self, id_: int) -> None:
        own = self._own.pop(id_, None)
        if own is None:
            return
        own.guest.native.forget(id_)
        if own.playback is not None:
            own.guest.graph.remove_stream(own.playback.node)
        if own.record is not None:
            own.guest.graph.remove_tap(own.record.node)
        own.close()

    def close(self) -> None:
        """The connection is gone."""
        for id_ in list(self._own):
            self._forget(id_)


def _props(args: Open, client: str) -> dict[str, str]:
    """A stream's properties, no more than are kept."""
    return {"application.name": client, "media.name": args.name} | dict(list(args.props.items())[:PROPS_MAX])


def _charges(guest: Guest, fmt: AudioFormat, capacity: Frames, target: Frames) -> dict[Hashable, int]:
    """What a stream takes from its guest's budget. The ring counts there, whichever side fills it."""
    low_delay = frames_to_ns(target, fmt.rate) < LOW_DELAY_NS
    resampler = resampler_bytes(fmt.rate, guest.graph.rate, len(fmt.positions), low_delay)
    return {"ring": ring_bytes(capacity, fmt.frame_bytes), "resampler": resampler}
