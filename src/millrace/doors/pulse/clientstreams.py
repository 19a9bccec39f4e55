"""The streams of one PulseAudio connection (playback, record, upload), by channel."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Protocol

from millrace.budget import Account
from millrace.doors.pulse.detached import attach_record, detach_playback, detach_record, resume_playback
from millrace.doors.pulse.door import PulseDoor
from millrace.doors.pulse.formats import CommandError
from millrace.doors.pulse.playback import Owner, PlaybackStream, drain_request
from millrace.doors.pulse.record import RecordOwner, RecordStream
from millrace.doors.pulse.samples import Upload
from millrace.doors.pulse.state import ClientState
from millrace.wire.pulse.constants import NO_INDEX, Change, Command, Err
from millrace.wire.pulse.session import Request

STREAMS_PER_CLIENT_MAX = 256


class StreamOwner(Owner, RecordOwner, Protocol):
    """The connection, as its streams of both kinds see it."""


# Notifications. A stream may end or move because its client asked for it, or because of a policy, the API, another
# client or a removed sink. All of these reach the client by one path, the graph's observers, so none can be
# forgotten. A stream that the client itself deletes is popped from the table first; the observer then does not find
# it, and sends no KILLED. A move is detected by comparison with `_sinks`, the sink last reported to the client,
# because a graph's change event may also mean a new volume or name. That table is part of the connection's state: a
# connection that continues in another process reports there what was moved in between.
class ClientStreams(ABC):
    """Keeps track of a client's streams, and notifies the client of changes made elsewhere."""

    def __init__(self, door: PulseDoor, account: Account, state: ClientState) -> None:
        self.door, self.account, self.state = door, account, state
        self.streams: dict[int, PlaybackStream] = {}
        self.records: dict[int, RecordStream] = {}
        self.uploads, self._sinks = state.uploads, state.told_sinks

    @abstractmethod
    def notice(self, command: Command, **values: Any) -> None:
        """Send the client a notice."""

    @property
    def client_index(self) -> int:
        """See `clients.Client`."""
        return self.state.client_index

    def keep_index(self) -> None:
        """It continues with the index that its client knows."""
        state = self.state
        told = state.index if state.client_index == NO_INDEX else state.client_index
        state.client_index = self.door.indexes.clients.pass_by(told)

    # Numbers are not used again. A client may still be writing to a stream that was just killed, and must not be
    # heard on one that it creates next.
    def take_channel(self) -> int:
        """Allocate a channel number for a new stream."""
        if len(self.streams) + len(self.records) + len(self.uploads) >= STREAMS_PER_CLIENT_MAX:
            raise CommandError(Err.TOOLARGE, f"{STREAMS_PER_CLIENT_MAX} streams per connection at most")
        self.state.next_channel += 1
        return self.state.next_channel - 1

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

    # libpulse gives each stream a sync ID of its own and repeats it only for streams that are to be synchronised, so
    # a group of one is the normal case.
    def synchronised(self, sync_id: int) -> list[PlaybackStream]:
        """This connection's streams with that sync ID; they are paused, resumed and flushed together."""
        return [stream for stream in self.streams.values() if stream.state.sync_id == sync_id]

    def group_at(self, request: Request) -> list[PlaybackStream]:
        """The stream a request is about, and those synchronised with it."""
        return self.synchronised(self.stream_at(request).state.sync_id)

    def _join(self, sync_id: int) -> None:
        """A stream has joined its sync group, or left it."""
        group = self.synchronised(sync_id)
        for stream in group:
            stream.set_synchronised(len(group) > 1)

    def keep_playback(self, stream: PlaybackStream) -> None:
        """Register a new playback stream."""
        self.streams[stream.channel] = stream
        self._join(stream.state.sync_id)
        self._sinks[stream.node.id] = stream.node.sink.id

    def forget_playback(self, stream: PlaybackStream) -> None:
        """Remove a playback stream."""
        self.streams.pop(stream.channel, None)
        self._sinks.pop(stream.node.id, None)
        stream.remove()
        self._join(stream.state.sync_id)

    def keep_upload(self, channel: int, upload: Upload) -> None:
        """Register an upload. Room for all of it is charged at the start."""
        self.account.hold(("upload", channel), upload.weight)
        self.uploads[channel] = upload

    def take_upload(self, request: Request) -> Upload:
        """Remove and return the upload a request is about."""
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

    # -- handing on ------------------------------------------------------------------------------

    def freeze_streams(self) -> None:
        """Put the states of its streams into its own. Their nodes stay in the graph, silent, until they continue."""
        door, state = self.door, self.state
        state.playback = {stream.node.id: detach_playback(door, stream) for stream in self.streams.values()}
        state.records = {record.node.id: detach_record(door, record) for record in self.records.values()}
        self.streams, self.records = {}, {}

    # What the graph did in between no observer has seen, so it is looked for here.
    def resume_streams(self, owner: StreamOwner) -> None:
        """Continue the frozen streams; the client is told which have been moved or removed."""
        door, state = self.door, self.state
        (playback, state.playback), (records, state.records) = (state.playback, {}), (state.records, {})
        for id_, frozen in playback.items():
            if continued := resume_playback(door, id_, frozen, owner):
                self.streams[continued.channel] = continued
        for id_, kept in records.items():
            if (tap := door.graph.taps.get(id_)) is not None:
                record = self.records[kept.channel] = RecordStream(owner, kept, tap, door.graph)
                attach_record(door, record)
        for id_, frozen in playback.items():
            if id_ not in door.playback:
                self._sinks.pop(id_, None)
                self._join(frozen.sync_id)
                if frozen.drain is not None:
                    owner.fail(drain_request(frozen.drain), Err.NOENTITY)
                self.notice(Command.PLAYBACK_STREAM_KILLED, channel=frozen.channel)
        for id_, kept in records.items():
            if id_ not in door.records:
                self._sinks.pop(id_, None)
                self.notice(Command.RECORD_STREAM_KILLED, channel=kept.channel)
        for stream in list(self.streams.values()):
            self.playback_changed(stream, Change.CHANGE)
        for record in list(self.records.values()):
            self.record_changed(record, Change.CHANGE)

    # -- what others change ----------------------------------------------------------------------

    def playback_changed(self, stream: PlaybackStream, kind: Change) -> None:
        """The graph has changed a stream: if it is this client's and was moved or killed, notify the client."""
        if self.streams.get(stream.channel) is not stream:
            return
        if kind is Change.REMOVE:
            self.streams.pop(stream.channel)
            self._sinks.pop(stream.node.id, None)
            self._join(stream.state.sync_id)
            self.notice(Command.PLAYBACK_STREAM_KILLED, channel=stream.channel)
            return
        sink = stream.node.sink
        if self._sinks.get(stream.node.id) != sink.id:
            self._sinks[stream.node.id] = sink.id
            attr = stream.attr
            self.notice(
                Command.PLAYBACK_STREAM_MOVED, channel=stream.channel, name=sink.name,
                index=self.door.sink_indexes.of(sink), suspended=sink.suspended,
                maxlength=attr.maxlength, tlength=attr.tlength, prebuf=attr.prebuf,
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
                Command.RECORD_STREAM_MOVED, channel=record.channel, name=self.door.source_name(sink),
                index=self.door.source_indexes.of(sink), suspended=sink.suspended,
                maxlength=record.attr.maxlength, fragsize=record.attr.fragsize,
                latency=record.node.latency_ask_ns // 1000,
            )  # fmt: skip
