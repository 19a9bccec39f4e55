"""The PulseAudio door of one guest: the state that its connections share.

Sinks, streams and recorders belong to the graph. The door holds what exists only for PulseAudio clients:
connections, modules, the sample cache, properties and subscriptions.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator

from millrace.absent import nothing
from millrace.budget import ENTRY_BYTES
from millrace.doors.admission import Admission, permission_of
from millrace.doors.pulse.clients import Client, Host, Recorder
from millrace.doors.pulse.devicenames import DeviceNames
from millrace.doors.pulse.devicestates import DeviceUse, InUse
from millrace.doors.pulse.guestdevices import GuestDevices
from millrace.doors.pulse.indexes import Objects
from millrace.doors.pulse.loaded import BUILT_IN, Module, feed, kind_of, listened_to, unmake, unnoted
from millrace.doors.pulse.playback import PlaybackStream
from millrace.doors.pulse.record import RecordStream
from millrace.doors.pulse.restore import give, group_of_props
from millrace.doors.pulse.samples import SampleCache
from millrace.doors.pulse.subscriptions import SubscriptionEvents
from millrace.dsp.convert import SampleFormat
from millrace.errors import GraphError
from millrace.graph.graph import Graph
from millrace.graph.model import NOTHING, Node, NodeState, Sink, Stream, Tap
from millrace.media.format import AudioFormat
from millrace.remembered.memory import Memory
from millrace.remembered.streams import Rules, group_of
from millrace.rights.grants import Permission, Verdict
from millrace.units import HostNs
from millrace.wire.pulse.constants import NO_INDEX, Change, Command, Facility

CLIENTS_MAX = 1024
MODULES_MAX = 256
ARGUMENT_COPIES = 4
"""A module's argument is counted several times: its text is kept, and recurs in the module's names and properties."""
STREAM_RESTORE, STREAM_RESTORE_EVENT = "module-stream-restore", 5


class PulseDoor(DeviceNames):
    """One guest's PulseAudio server."""

    def __init__(
        self, graph: Graph, admission: Admission, host: Host, cookie: bytes, server_name: str,
        wall_ns: Callable[[], int], memory: Memory | None = None,
    ) -> None:  # fmt: skip
        super().__init__(graph)
        self.admission, self.host = admission, host
        admission.doors.append(self)
        self.cookie = cookie
        self.server_name = server_name
        self.wall_ns = wall_ns
        self.clients: dict[int, Client] = {}
        self.news = SubscriptionEvents(host.in_turns)
        self.publish = self.news.publish
        self.devices = GuestDevices(self, memory.keep_devices if memory else None)
        """Stored settings of sinks and sources."""
        self.rules = Rules(self._rules_changed, memory.keep_rules if memory else None)
        """Stored settings of streams."""
        self.playback: dict[int, PlaybackStream] = {}
        self.records: dict[int, RecordStream] = {}
        self.indexes = Objects(graph.streams.values())
        """Of streams, recorders, clients, modules and samples."""
        own = self.indexes.modules.take(), "module-millrace", f"guest={graph.name}", "Millrace"
        self.own_module = Module(*own, fixed=True)
        self.ends: dict[str, Callable[[], None]] = {
            STREAM_RESTORE: self.rules.stop,
            "module-device-restore": self.devices.stop,
            "module-default-device-restore": self.devices.stop_defaults,
        }
        """What is undone when a module of that name is unloaded."""
        self.modules = {module.index: module for module in (self.own_module, *self._built_in())}
        self.made_by: dict[int, Module] = {}
        """The owning module of each stream and recorder that a module created, by node ID."""
        self.loading = 0
        """Number of modules being loaded. While it is not 0, new sinks and sources come from a module."""
        self.declared: dict[int, AudioFormat] = {}
        """Formats given as module arguments, by sink or source: reported only, as the graph mixes in its own format."""
        self.account = admission.budget.open("cache")
        """Memory held for the guest rather than for one connection: cached samples and modules."""
        self.samples = SampleCache(self.account, self.publish, self.indexes.samples)
        self._source_states = {mix.id: (mix.state is NodeState.SUSPENDED, mix.suspended) for mix in graph.mixes()}
        self._use, self.in_use = DeviceUse(), InUse()
        # A graph that continues from a frozen one has streams and recorders already.
        there: tuple[Stream | Tap, ...] = (*graph.streams.values(), *graph.taps.values())
        for node in there:
            self._use.count(node, gone=False)
        self.in_use = self._use.found(graph.mixes())
        graph.observers.append(self._graph_changed)

    def _built_in(self) -> Iterator[Module]:
        """The modules that every guest has loaded from the start."""
        for name, text in BUILT_IN.items():
            yield self.new_module(name, "", text, fixed=name == "module-native-protocol-unix")

    def new_module(
        self, name: str, argument: str, description: str, greet: Callable[[Sink], None] = unnoted, fixed: bool = False
    ) -> Module:
        """A new module, which has made nothing yet."""
        end = self.ends.get(kind_of(name), nothing)
        return Module(self.indexes.modules.take(), name, argument, description, end=end, greet=greet, fixed=fixed)

    # -- lookups -------------------------------------------------------------------------

    @property
    def sink_format(self) -> AudioFormat:
        """The format for `fix_*` flags and for the server info."""
        return self.format_of(self.default_sink)

    def format_of(self, sink: Sink) -> AudioFormat:
        """A sink's format, as clients see it."""
        return self.declared.get(sink.id) or AudioFormat(SampleFormat.F32LE, self.graph.rate, sink.positions)

    def sources_for(self, client: Client) -> list[Sink]:
        """Sources and monitors that a client is shown, by index. A microphone it is denied is left out."""
        hidden = self.admission.verdict(Permission.MICROPHONE, client.subject) is Verdict.DENY
        shown = [mix for mix in self.graph.mixes() if not (hidden and permission_of(mix) is Permission.MICROPHONE)]
        return sorted(shown, key=self.source_indexes.of)

    def may_record(self, client: Recorder, source: Sink) -> bool:
        """Whether `client` may record that source or monitor without a prompt."""
        return self.admission.allows(permission_of(source), client.subject)

    def set_default_source(self, source: Sink | None) -> None:
        """Set the default source; None returns to the automatic choice.

        Recorders that named no source move along, if their clients may record the new one.
        """
        before, self.default_source = self.recorded_by_default(), source
        now = self.recorded_by_default()
        if before is now:
            return
        for source in [mix for mix in (before, now) if mix.capture]:
            self.graph.touch(source)
        self._hand_on(before, now, (record for record in self.records.values() if not record.node.placed))
        self.publish(Facility.SERVER, Change.CHANGE, NO_INDEX)

    def _hand_on(self, before: Sink, now: Sink, records: Iterable[RecordStream]) -> None:
        """Move recorders of `before` to `now`, if their clients may record it."""
        for record in [record for record in records if record.node.sink is before and not record.node.pinned]:
            if self.may_record(record.owner, now):
                record.node.placed = False
                self.graph.move_tap(record.node, now)

    def set_recorded(self, sink: Sink, gains: tuple[float, ...], mute: bool) -> None:
        """Set the level of a source or monitor. It applies to everything that records it, modules included."""
        if (gains, mute) == (sink.recorded.gains, sink.recorded.mute):
            return
        sink.recorded.gains, sink.recorded.mute = gains, mute
        for record in [record for record in self.records.values() if record.node.sink is sink]:
            self.graph.touch(record.node)
        for module in self.modules.values():
            for one in module.feeds:
                if one.start is sink and one.recorded:
                    feed(self.graph, one)
        self.publish(Facility.SOURCE, Change.CHANGE, self.source_indexes.of(sink))

    def unload(self, module: Module) -> None:
        """Remove a module and everything it created."""
        # Popped first: removing the module's streams leads here again.
        if self.modules.pop(module.index, None) is not None:
            self.account.hold(("module", module.index), 0)
            self.unmake(module)
            self.publish(Facility.MODULE, Change.REMOVE, module.index)

    def unmake(self, module: Module) -> None:
        """Remove everything a module created."""
        unmake(self.graph, module)
        for id_ in [id_ for id_, maker in self.made_by.items() if maker is module]:
            del self.made_by[id_]

    def module_of(self, node: Node) -> Module:
        """The module that a stream or recorder belongs to; if none created it, the guest's own."""
        return self.made_by.get(node.id, self.own_module)

    def input_at(self, index: int) -> Stream | None:
        """The stream with this index among those that play to sinks."""
        return self.graph.streams.get(self.indexes.inputs.id_at(index))

    def output_at(self, index: int) -> RecordStream | None:
        """The recorder with this index."""
        return self.records.get(self.indexes.outputs.id_at(index))

    def outputs(self) -> list[RecordStream]:
        """The recorders, by index."""
        return sorted(self.records.values(), key=lambda record: self.indexes.outputs.of(record.node))

    def client_at(self, index: int) -> Client | None:
        """The client with this index."""
        return next((client for client in self.clients.values() if client.client_index == index), None)

    # -- rights --------------------------------------------------------------------------

    def end_forbidden(self) -> None:
        """See `admission.Door`: kill recorders and clients that are no longer allowed."""
        for client in list(self.clients.values()):
            self.end_forbidden_of(client)
        for module in list(self.modules.values()):
            if module.recorder and not self.admission.allows(*module.recorder):
                self.unload(module)

    def close(self) -> None:
        """The guest is stopping: notify the clients, then close their connections."""
        for client in list(self.clients.values()):
            client.closing = True
            client.wake()

    def end_forbidden_of(self, client: Client, needed: Verdict | None = None) -> None:
        """The same for one client. It may stay unless it is denied or, with `needed`, only if it has that verdict."""
        verdict = self.admission.verdict(Permission.CONNECT, client.subject)
        if verdict is Verdict.DENY or needed not in (None, verdict):
            client.closing = True
            client.wake()
            return
        for record in list(client.recording.values()):
            sink = record.node.sink
            if sink and not self.may_record(client, sink):
                self.graph.remove_tap(record.node)

    # -- streams -------------------------------------------------------------------------

    def group(self, stream: Stream) -> str:
        """The group under which a stream's settings are stored, from the properties that its client or door gave."""
        pulse = self.playback.get(stream.id)
        return group_of(stream.props) if pulse is None else group_of_props(pulse.props)

    # -- events --------------------------------------------------------------------------

    def _rules_changed(self) -> None:
        """Stored settings of streams have changed: notify the clients that subscribed."""
        module = next((m for m in self.modules.values() if m.name == STREAM_RESTORE), None)
        for client in list(self.clients.values()):
            if module is not None and STREAM_RESTORE in client.extensions:
                client.notice(Command.EXTENSION, index=module.index, name=module.name, event=STREAM_RESTORE_EVENT)

    # The order for a new sink: its stored level is applied before any other observer sees it, so nothing is heard or
    # shown at another one; then modules may make it the default; then the event is published. For a removed one, the
    # event precedes the unloading of the modules that depend on it, and the tables that describe it are cleared last,
    # because the events above are built from them. Everything here runs inside the change that caused it, so it may
    # be entered again.
    def _graph_changed(self, change: str, node: Node) -> None:
        if change == "default":
            self.publish(Facility.SERVER, Change.CHANGE, NO_INDEX)
            return
        if change == "resume":
            self._resume_streams(node)
            return
        if change == "leaving":
            assert isinstance(node, Sink)
            # PulseAudio calls this rescuing.
            self._hand_on(node, self.recorded_by_default(without=node), self.records.values())
            return
        kind = {"new": Change.NEW, "change": Change.CHANGE, "remove": Change.REMOVE}[change]
        if isinstance(node, Sink):
            if kind is Change.NEW:
                self.count_device(node)
                self.devices.restore(node)
                for module in list(self.modules.values()):
                    module.greet(node)
            if not node.capture:
                self.publish(Facility.SINK, kind, self.sink_indexes.of(node))
            if self._source_shows(node, kind):
                self.publish(Facility.SOURCE, kind, self.source_indexes.of(node))
            if node.links or node.id in self.in_use.played:
                self._tell_what_is_used()
            if kind is Change.CHANGE and node.suspended:
                self._end_suspended(node)
            if kind is Change.REMOVE:
                self._forget_sink(node)
        elif isinstance(node, Stream):
            self._tell_of(Facility.SINK_INPUT, node, kind, not node.feeds_source)
            self._stream_changed(node, kind)
        elif isinstance(node, Tap):
            shown = node.id in self.records or node in self.indexes.outputs
            self._tell_of(Facility.SOURCE_OUTPUT, node, kind, shown)
            if node.id in self.records:
                self._tap_changed(node, kind)
        if isinstance(node, Tap):
            self.sound_tones(*self.modules.values())
        if isinstance(node, Stream | Tap) and self._use.count(node, kind is Change.REMOVE):
            self._tell_what_is_used()

    # A stream that is moved to a source, as the API can do, is gone for PulseAudio, and new when it returns.
    def _tell_of(self, facility: Facility, node: Stream | Tap, kind: Change, shown: bool) -> None:
        """Publish a change in a stream or recorder, which gets its index when it is first shown."""
        indexes = self.indexes.inputs if facility is Facility.SINK_INPUT else self.indexes.outputs
        shown = shown and kind is not Change.REMOVE
        if node not in indexes:
            if shown:
                indexes.add(node)
                self.publish(facility, Change.NEW, indexes.of(node))
            return
        self.publish(facility, Change.CHANGE if shown else Change.REMOVE, indexes.of(node))
        if not shown:
            indexes.forget(node)

    def _tell_what_is_used(self) -> None:
        before, self.in_use = self.in_use, self._use.found(self.graph.mixes())
        for facility, were, are in zip((Facility.SINK, Facility.SOURCE), before, self.in_use, strict=True):
            indexes = self.sink_indexes if facility is Facility.SINK else self.source_indexes
            for id_ in were ^ are:
                mix = self.graph.sinks.get(id_) or self.graph.sources.get(id_)
                if mix is not None and (facility is Facility.SOURCE or not mix.capture):
                    self.publish(facility, Change.CHANGE, indexes.of(mix))

    def _source_shows(self, sink: Sink, kind: Change) -> bool:
        """Whether a change shows at the source or monitor, which is suspended with the sink but has its own level."""
        state = (sink.state is NodeState.SUSPENDED, sink.suspended)
        before, self._source_states[sink.id] = self._source_states.get(sink.id, (True, False)), state
        return kind is not Change.CHANGE or state != before

    def _forget_sink(self, sink: Sink) -> None:
        self.forget_device(sink)
        self._source_states.pop(sink.id, None)
        self.declared.pop(sink.id, None)
        for module in [m for m in self.modules.values() if sink in m.masters]:
            self.unload(module)
        if self.default_source is sink:
            self.default_source = None

    def _resume_streams(self, sink: Node) -> None:
        for stream in list(self.playback.values()):
            if not stream.removed and not stream.node.active and stream.node.links and stream.node.sink is sink:
                stream.check_ready()
        self.sound_tones(*self.modules.values())

    def sound_tones(self, *modules: Module) -> None:
        """Run the modules' streams only where they can be heard: on a sink, or on a source that is being recorded."""
        for stream in [stream for module in modules for stream in module.streams if stream.links]:
            sink = stream.sink
            if sink.suspended or (sink.capture and not listened_to(sink)):
                self.graph.deactivate(stream, "not recorded", keep=False)
            else:
                self.graph.activate(stream)

    def _end_suspended(self, sink: Sink) -> None:
        """End streams that requested to fail when their sink or source is suspended."""
        for stream in [s for s in self.playback.values() if s.state.fail_on_suspend and s.node.links]:
            if stream.node.sink is sink:
                self.graph.remove_stream(stream.node)
        for record in [r for r in self.records.values() if r.state.fail_on_suspend]:
            if record.node.sink is sink:
                self.graph.remove_tap(record.node)

    def _stream_changed(self, node: Stream, kind: Change) -> None:
        """Moves and removals may come from anywhere (API, policy); the owning client is notified here.

        All streams end here, whatever the cause.
        """
        stream = self.playback.get(node.id)
        if stream is None:
            maker = self.made_by.get(node.id)
            if maker is not None and kind is Change.REMOVE:
                self.unload(maker)
            return
        if kind is Change.REMOVE:
            del self.playback[node.id]
            stream.ended()
        stream.owner.playback_changed(stream, kind)

    def _tap_changed(self, node: Tap, kind: Change) -> None:
        record = self.records[node.id]
        if kind is Change.REMOVE:
            del self.records[node.id]
            record.ended()
        record.owner.record_changed(record, kind)

    # -- streams, modules ----------------------------------------------------------------

    def begin_playback(self, stream: PlaybackStream, sink: Sink) -> None:
        """Start a stream on `sink`, or on the sink stored for its group. On an error nothing of the stream is left."""
        stream.node.feed = stream
        # Before it is added to the graph, whose observers look it up here.
        self.playback[stream.node.id] = stream
        try:
            self.graph.add_stream(stream.node, self._place(stream.node, sink))
        except GraphError:
            del self.playback[stream.node.id]
            stream.node.feed = NOTHING
            stream.ended()
            raise

    def _place(self, node: Stream, sink: Sink) -> Sink:
        """Choose the sink for a new stream, and apply the stored settings before any of it is heard."""
        device = give(self.rules, node, self.group(node))
        target = self.sink_called(device) if device else None
        if target is None:
            return sink
        node.placed = target is not self.graph.default
        return target

    def begin_record(self, record: RecordStream, sink: Sink, only: Stream | None = None) -> None:
        """As `begin_playback`, for a recorder of a source, of `sink`'s monitor, or of one stream (`only`)."""
        record.node.consumer = record
        self.records[record.node.id] = record
        try:
            self.graph.add_tap(record.node, only or sink)
        except GraphError:
            del self.records[record.node.id]
            record.node.consumer = NOTHING
            raise

    def load(self, module: Module) -> None:
        """Register a module that has created its objects; BudgetError if there is no room for it."""
        words = sys.getsizeof(module.name) + ARGUMENT_COPIES * sys.getsizeof(module.argument)
        self.account.hold(("module", module.index), ENTRY_BYTES + words)
        self.modules[module.index] = module
        self.publish(Facility.MODULE, Change.NEW, module.index)

    # -- the clock of replies --------------------------------------------------------------

    def timeval(self) -> tuple[int, int]:
        """Wall-clock time in the form of clients' timestamps in latency queries, with seconds truncated to 32 bits."""
        now = self.wall_ns()
        return now // 1_000_000_000 & 0xFFFF_FFFF, now % 1_000_000_000 // 1_000

    def monitor_latency_ns(self, sink: Sink, now_ns: HostNs) -> HostNs:
        """From the sink's mix to the slowest listener's output, plus sound that is mixed but not yet due."""
        due = self.graph.position * 1_000_000_000 // self.graph.rate - now_ns
        return max(0, due if self.graph.running else 0) + sink.outlet_latency_ns
