"""One PulseAudio connection: authentication, then commands to the tables that serve them."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from millrace.budget import CONNECTIONS, MIB
from millrace.doors.pulse.door import CLIENTS_MAX, PulseDoor
from millrace.doors.pulse.formats import CommandError
from millrace.doors.pulse.news import Subscription
from millrace.doors.pulse.playback import PlaybackStream
from millrace.doors.pulse.record import RecordStream
from millrace.doors.pulse.rights import NEEDS, OF_INPUT, OF_OUTPUT
from millrace.doors.pulse.samples import Upload
from millrace.dsp.convert import Buffer
from millrace.errors import BudgetError, GraphError, RemoteProtocolError
from millrace.rights.grants import Identity, Permission, Subject, Verdict
from millrace.rights.model import Right
from millrace.rights.prompts import Answer
from millrace.units import HostNs
from millrace.wire.pulse.constants import (
    COOKIE_BYTES,
    PROTOCOL_VERSION,
    VERSION_MIN,
    Change,
    Command,
    Err,
    Facility,
)
from millrace.wire.pulse.session import Block, PulseSession, RecordsReply, Refused, Request
from millrace.wire.pulse.tagstruct import Props

Handler = Callable[["PulseClient", Request], Iterator[None] | None]
"""What takes long is an iterator: it goes on, step by step, before the client's next request is looked at."""
STREAMS_PER_CLIENT_MAX = 256
CLIENT_BYTES = {"itself": 10 * 1024, "paid props": 6 * 1024}
"""What a connection takes, its socket and the properties that clients usually have included."""
ASKED_FACTOR = 16
"""What a request takes that waits for an answer: a property of few bytes is several objects."""
ANSWERS_MAX = 8 * MIB
"""What a client may ask for before it reads any of it."""
_ENDS_SOUND = frozenset({Command.DELETE_PLAYBACK_STREAM, Command.CORK_PLAYBACK_STREAM, Command.FLUSH_PLAYBACK_STREAM})
_BEFORE_AUTH = frozenset({Command.AUTH, Command.EXIT})


class PulseClient:
    """The door's side of one connection, with the sans-IO contract.

    `trusted` connections (same user by peer credentials) need no cookie. `wake` is called when
    there is something to send that no `receive` has caused.
    """

    def __init__(self, door: PulseDoor, handlers: Mapping[Command, Handler], trusted: bool) -> None:
        if len(door.clients) >= CLIENTS_MAX:
            raise GraphError(f"guest {door.graph.name} has its {CLIENTS_MAX} connections already")
        self.door = door
        self.account = door.graph.budget.open("connection", CLIENT_BYTES, CONNECTIONS)
        self.index = door.graph.ids.take()
        self.props: Props = {}
        self.trusted = trusted
        self.subject = Subject()
        """What runs at the other end, as the kernel says; unknown for connections over TCP."""
        self.ready = self.known = False
        self.closing = False
        self.congested = False
        self.unread_since_ns: HostNs = 0
        self.wake: Callable[[], None] = lambda: None
        self.over: Callable[[], bool] = lambda: False
        self.now_ns: HostNs = 0
        self.subscription = Subscription(door.news, self.index, lambda: self.wake())
        self.extensions: set[str] = set()
        """Modules whose changes it wants to hear of."""
        self.streams: dict[int, PlaybackStream] = {}
        self.records: dict[int, RecordStream] = {}
        self.uploads: dict[int, Upload] = {}
        self._sinks: dict[int, int] = {}
        self._handlers = handlers
        self._wire = PulseSession()
        self._next_channel = self._asked = self._partial_bytes = 0
        self._begun: tuple[Request, Iterator[None]] | None = None

    # -- the sans-IO contract --------------------------------------------------------------

    def receive(self, data: Buffer, now_ns: HostNs) -> int:
        """Take bytes, as far as the turn goes; RemoteProtocolError ends this connection."""
        self.now_ns = now_ns
        wire, view, at = self._wire, memoryview(data), 0
        while (self._begun is None or self._go_on()) and at < len(view) and not self.closing:
            at += wire.take(view[at:])
            if wire.partial_bytes != self._partial_bytes:
                self.account.hold("command", wire.partial_bytes, CONNECTIONS)
                self._partial_bytes = wire.partial_bytes
            for event in wire.events():
                if isinstance(event, Block):
                    self._block(event)
                elif isinstance(event, Request):
                    self._request(event)
                elif isinstance(event, Refused):
                    wire.send_error(event.tag, event.code)
            if wire.unsent_bytes > ANSWERS_MAX:
                raise BudgetError(f"more than {ANSWERS_MAX // MIB} MiB of answers were asked for at once")
            if at < len(view) and self.over():
                break
        return at

    @property
    def unfinished(self) -> bool:
        """See `Connection`."""
        return self._begun is not None

    def _go_on(self) -> bool:
        """Whether the request that was begun is done."""
        if self._begun is None:
            return True
        request, steps = self._begun
        try:
            for _ in steps:
                if self.over():
                    return False
        except (CommandError, GraphError) as error:
            self._refuse(request, error)
        self._begun = None
        return True

    def data_to_send(self) -> bytes:
        """Bytes to write now, subscription events included."""
        for kind, index in self.subscription.take():
            self._wire.send_notice(Command.SUBSCRIBE_EVENT, event=kind, index=index)
        return self._wire.data_to_send()

    @property
    def watched(self) -> bool:
        """See `Connection`: those that record."""
        return bool(self.records)

    def next_timeout(self) -> HostNs | None:
        """The protocol has no timers on the server's side."""
        return None

    def handle_timeout(self, now_ns: HostNs) -> None:
        """See `next_timeout`."""
        self.now_ns = now_ns

    def violated(self, error: RemoteProtocolError) -> None:
        """See `Connection`."""
        self.door.on_violation(self, error)

    def may_wait(self, waiting_bytes: int) -> bool:
        """See `Connection`: it is the guest that pays for it."""
        return self.account.fits("waiting", waiting_bytes, CONNECTIONS)

    def closed(self) -> bool:
        """The connection is gone: so are its streams, as many as its turn allows."""
        self._begun = None
        self.account.close()
        self.uploads.clear()
        self.subscription.set_mask(0)
        while self.streams or self.records:
            if self.streams:
                self.forget_playback(next(iter(self.streams.values())))
            else:
                self.forget_record(next(iter(self.records.values())))
            if self.over() and (self.streams or self.records):
                return False
        self.door.prompts.forget(self.subject)
        if self.door.clients.pop(self.index, None) is not None:
            self.door.publish(Facility.CLIENT, Change.REMOVE, self.index)
            self.door.on_client("remove", self)
        return True

    # -- dispatch ----------------------------------------------------------------------------

    def _request(self, request: Request) -> None:
        handler = self._handlers.get(request.command)
        if not self.ready and request.command not in _BEFORE_AUTH:
            self._wire.send_error(request.tag, Err.ACCESS)
            return
        if handler is None:
            self._wire.send_error(request.tag, Err.NOTIMPLEMENTED)
            return
        if request.command in _ENDS_SOUND:
            # What is due by now has been heard, even if this machine is late in running the cycle:
            # a client that stops by its own clock must not lose its last frames to that.
            self.door.graph.catch_up(self.now_ns)
        try:
            self._demand(request)
            steps = handler(self, request)
            if steps is not None:
                self._begun = request, steps
        except (CommandError, GraphError) as error:
            self._refuse(request, error)

    def _refuse(self, request: Request, error: CommandError | GraphError) -> None:
        """A request that can't be served is answered with PulseAudio's code for that."""
        self._wire.send_error(request.tag, error.code if isinstance(error, CommandError) else Err.TOOLARGE)

    def _demand(self, request: Request) -> None:
        """The one place where this door asks for rights: PA_ERR_ACCESS without them."""
        needed = NEEDS.get(request.command)
        if needed is not None and not self._own(request):
            self.demand(needed, request.command.name)

    def demand(self, needed: Right, what: str) -> None:
        """PA_ERR_ACCESS unless the programs of this guest have that right."""
        if self.door.holder.may(needed, self.door.graph.name) and self._spoken:
            return
        self.door.on_refused(str(self.subject.identity), what)
        raise CommandError(Err.ACCESS, f"the programs of this guest may not {needed.name}")

    @property
    def _spoken(self) -> bool:
        """Whether the program that writes is known, or any program may connect."""
        anybody = self.door.grants.verdict(Permission.CONNECT, Subject()) is Verdict.ALLOW
        return anybody or not self.subject.identity.unproven

    def identified(self, identity: Identity) -> None:
        """This is who speaks. What was granted to somebody else is not his."""
        before, self.subject.identity = self.subject.identity, identity
        if identity.names != before.names:
            self.subject.once.clear()
            self.door.end_forbidden_of(self, Verdict.ALLOW)

    def _own(self, request: Request) -> bool:
        """Whether this is about a stream of the client itself."""
        index = request.fields.get("index")
        if request.command in OF_INPUT:
            return any(stream.node.id == index for stream in self.streams.values())
        return request.command in OF_OUTPUT and any(r.node.id == index for r in self.records.values())

    @property
    def recording(self) -> dict[int, RecordStream]:
        """See `clients.Client`."""
        return self.records

    def await_answer(self, again: Answer) -> Answer:
        """Keep the request that is being served until somebody has decided; BudgetError where there is no room."""
        self._asked += 1
        part = ("asked", self._asked)
        self.account.hold(part, ASKED_FACTOR * self._wire.command_bytes, CONNECTIONS)

        def answered(allow: bool) -> None:
            self.account.hold(part, 0)
            again(allow)

        return answered

    def answered(self, request: Request, allow: bool) -> None:
        """What `request` had to wait for was decided: it is served, or refused."""
        if allow:
            self._request(request)
        else:
            self._wire.send_error(request.tag, Err.ACCESS)
        self.wake()

    def _block(self, block: Block) -> None:
        stream = self.streams.get(block.channel)
        if stream is not None:
            stream.write(block.seek, block.offset, block.data)
            return
        upload = self.uploads.get(block.channel)
        if upload is not None:
            upload.write(block.data)

    def authenticate(self, request: Request) -> None:
        """AUTH: peer credentials or the cookie; then the version both speak."""
        version = request.fields["version"]
        if version < VERSION_MIN:
            raise CommandError(Err.VERSION, f"protocol {version}; {VERSION_MIN} at least is needed")
        cookie: bytes = request.fields["cookie"]
        right = len(cookie) == COOKIE_BYTES and hmac.compare_digest(cookie, self.door.cookie)
        if not (self.trusted or right):
            self.door.refused += 1
            self.closing = True
            raise CommandError(Err.ACCESS, "wrong cookie")
        self.known = True
        if self.door.grants.verdict(Permission.CONNECT, self.subject) is Verdict.DENY:
            self.closing = True
        if not self.ready and self.door.settle(self, Permission.CONNECT, lambda allow: self._let_in(request, allow)):
            self._let_in(request, True)
        elif self.ready:
            self._wire.send_reply(request, {"version": PROTOCOL_VERSION})

    def _let_in(self, request: Request, allow: bool) -> None:
        """The connection is settled."""
        if not allow:
            self.closing = True
            self._wire.send_error(request.tag, Err.ACCESS)
        elif not self.ready:
            self.ready = True
            self.door.clients[self.index] = self
            self.door.publish(Facility.CLIENT, Change.NEW, self.index)
            self.door.on_client("new", self)
            self._wire.send_reply(request, {"version": PROTOCOL_VERSION})
        self.wake()

    # -- what handlers and streams use ---------------------------------------------------------

    @property
    def version(self) -> int:
        """The protocol version in force."""
        return self._wire.version

    def reply(self, request: Request, values: Mapping[str, Any] | None = None) -> None:
        """Answer a request."""
        self._wire.send_reply(request, values)
        self.wake()

    def fail(self, request: Request, code: Err) -> None:
        """Refuse a request."""
        self._wire.send_error(request.tag, code)
        self.wake()

    def begin_records(self, request: Request, command: Command) -> RecordsReply:
        """Begin an answer with info records laid out as for `command`."""
        return self._wire.begin_records(request.tag, command)

    def end_records(self, reply: RecordsReply) -> None:
        """Send an answer that was begun."""
        self._wire.end_records(reply)
        self.wake()

    def records_reply(self, request: Request, command: Command, records: list[dict[str, Any]]) -> None:
        """Answer with info records laid out as for `command`."""
        self._wire.send_records(request.tag, command, records)

    def notice(self, command: Command, **values: Any) -> None:
        """Tell the client something."""
        self._wire.send_notice(command, **values)
        self.wake()

    def send_block(self, channel: int, data: bytes) -> None:
        """Send recorded sound."""
        self._wire.send_block(channel, data)
        self.wake()

    def take_channel(self) -> int:
        """A channel number for a new stream."""
        if len(self.streams) + len(self.records) + len(self.uploads) >= STREAMS_PER_CLIENT_MAX:
            raise CommandError(Err.TOOLARGE, f"{STREAMS_PER_CLIENT_MAX} streams a connection at most")
        channel, self._next_channel = self._next_channel, self._next_channel + 1
        return channel

    def stream_at(self, request: Request) -> PlaybackStream:
        """The playback stream a request is about."""
        stream = self.streams.get(request.fields["channel"])
        if stream is None:
            raise CommandError(Err.NOENTITY)
        return stream

    def record_at(self, request: Request) -> RecordStream:
        """The record stream a request is about."""
        record = self.records.get(request.fields["channel"])
        if record is None:
            raise CommandError(Err.NOENTITY)
        return record

    # -- streams come and go -------------------------------------------------------------------

    def synchronised(self, sync_id: int) -> list[PlaybackStream]:
        """The streams of this connection with that number: they are paused, resumed and flushed together."""
        return [stream for stream in self.streams.values() if stream.sync_id == sync_id]

    def group_at(self, request: Request) -> list[PlaybackStream]:
        """The stream a request is about, and those synchronised with it."""
        return self.synchronised(self.stream_at(request).sync_id)

    def _join(self, sync_id: int) -> None:
        """A stream has come to its group, or left it."""
        group = self.synchronised(sync_id)
        for stream in group:
            stream.set_synchronised(len(group) > 1)

    def keep_playback(self, stream: PlaybackStream) -> None:
        """Register a new playback stream."""
        self.streams[stream.channel] = stream
        self._join(stream.sync_id)
        self._sinks[stream.node.id] = stream.node.sink.id

    def forget_playback(self, stream: PlaybackStream) -> None:
        """Remove a playback stream."""
        self.streams.pop(stream.channel, None)
        self._sinks.pop(stream.node.id, None)
        stream.remove()
        self._join(stream.sync_id)

    def keep_upload(self, channel: int, upload: Upload) -> None:
        """Register a sample that is to come; there is room for all of it from the start."""
        self.account.hold(("upload", channel), upload.weight)
        self.uploads[channel] = upload

    def take_upload(self, request: Request) -> Upload:
        """The upload a request is about, which ends by that."""
        channel = request.fields["channel"]
        upload = self.uploads.pop(channel, None)
        if upload is None:
            raise CommandError(Err.NOENTITY)
        self.account.hold(("upload", channel), 0)
        return upload

    def keep_record(self, record: RecordStream) -> None:
        """Register a new record stream."""
        assert record.node.sink is not None
        self.records[record.channel] = record
        self._sinks[record.node.id] = record.node.sink.id

    def forget_record(self, record: RecordStream) -> None:
        """Remove a record stream."""
        self.records.pop(record.channel, None)
        self._sinks.pop(record.node.id, None)
        record.remove()

    def playback_changed(self, stream: PlaybackStream, kind: Change) -> None:
        """The graph changed a stream: if it is ours and was moved or killed, tell the client."""
        if self.streams.get(stream.channel) is not stream:
            return
        if kind is Change.REMOVE:
            self.streams.pop(stream.channel)
            self._sinks.pop(stream.node.id, None)
            self._join(stream.sync_id)
            self.notice(Command.PLAYBACK_STREAM_KILLED, channel=stream.channel)
            return
        sink = stream.node.sink
        if self._sinks.get(stream.node.id) != sink.id:
            self._sinks[stream.node.id] = sink.id
            attr = stream.attr
            self.notice(
                Command.PLAYBACK_STREAM_MOVED, channel=stream.channel, index=sink.id, name=sink.name,
                suspended=sink.suspended, maxlength=attr.maxlength, tlength=attr.tlength, prebuf=attr.prebuf,
                minreq=attr.minreq, latency=attr.sink_ns // 1000,
            )  # fmt: skip
            stream.check_ready()

    def record_changed(self, record: RecordStream, kind: Change) -> None:
        """As `playback_changed`, for a recorder."""
        if self.records.get(record.channel) is not record or kind is Change.NEW:
            return
        if kind is Change.REMOVE:
            self.records.pop(record.channel)
            self._sinks.pop(record.node.id, None)
            self.notice(Command.RECORD_STREAM_KILLED, channel=record.channel)
            return
        sink = record.node.sink
        if sink is not None and self._sinks.get(record.node.id) != sink.id:
            self._sinks[record.node.id] = sink.id
            self.notice(
                Command.RECORD_STREAM_MOVED, channel=record.channel, index=sink.id, name=self.door.source_name(sink),
                suspended=sink.suspended, maxlength=record.attr.maxlength, fragsize=record.attr.fragsize,
                latency=record.node.latency_ask_ns // 1000,
            )  # fmt: skip
