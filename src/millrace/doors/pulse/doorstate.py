"""The state of a guest's PulseAudio door, besides its connections, as a plain value: samples, modules, defaults."""

from __future__ import annotations

import msgspec

from millrace.absent import nothing
from millrace.doors.pulse.detached import detach_playback, resume_playback
from millrace.doors.pulse.door import PulseDoor
from millrace.doors.pulse.indexes import IndexesState, ObjectsState, as_numbered, objects_as_numbered
from millrace.doors.pulse.loaded import Feed, Module, kind_of, unnoted
from millrace.doors.pulse.loopback import Loopback, LoopbackState
from millrace.doors.pulse.modkinds import KINDS
from millrace.doors.pulse.samples import Sample
from millrace.doors.pulse.state import PlaybackState
from millrace.doors.pulse.streams import NoOwner
from millrace.doors.pulse.tones import Sine
from millrace.graph.model import Sink, Stream
from millrace.graph.state import ArrayState
from millrace.media.format import AudioFormat
from millrace.rights.grants import Permission, Subject
from millrace.units import Frames
from millrace.wire.pulse.tagstruct import Props


class SampleState(msgspec.Struct, frozen=True):
    """An uploaded sound."""

    index: int
    name: str
    format: AudioFormat
    data: bytes
    props: Props


class FeedState(msgspec.Struct, frozen=True):
    """A module's link, by the numbers of what it connects."""

    start: int
    target: int
    matrix: ArrayState | None
    recorded: bool


class ToneState(msgspec.Struct, frozen=True):
    """A module's tone, by the number of its stream."""

    node: int
    frequency: int
    at: Frames


class ModuleState(msgspec.Struct, kw_only=True):
    """A module that is loaded, with the numbers of what it made."""

    index: int
    name: str
    argument: str
    description: str
    fixed: bool
    held: int
    """What the guest is charged for it."""
    recorder: tuple[Permission, Subject] | None = None
    mixes: list[int] = []
    masters: list[int] = []
    feeds: list[FeedState] = []
    tones: list[ToneState] = []
    loopback: LoopbackState | None = None


class RestoreState(msgspec.Struct):
    """What is restored of settings that are stored, as modules of programs have left it."""

    streams: frozenset[str]
    devices: frozenset[str]
    defaults: bool


class PulseDoorState(msgspec.Struct):
    """What the PulseAudio door holds for all its connections."""

    cookie: bytes
    samples: list[SampleState]
    default_source: int | None
    declared: dict[int, AudioFormat]
    modules: list[ModuleState] | None = None
    """None, in version 1 of a guest, for those that every guest begins with."""
    restores: RestoreState | None = None
    playing: dict[int, PlaybackState] = {}
    """Samples that are being played, by the number of their stream."""
    sinks: IndexesState | None = None
    sources: IndexesState | None = None
    objects: ObjectsState | None = None

    @property
    def nodes(self) -> set[int]:
        """The streams and recorders that belong to the door itself."""
        own = set(self.playing)
        for module in self.modules or ():
            own |= {tone.node for tone in module.tones}
            if module.loopback is not None:
                own |= {module.loopback.stream, module.loopback.tap}
        return own


# Connections are frozen first: what is left in the door's tables then belongs to a module, or is a sample that plays.
def freeze_door(door: PulseDoor) -> PulseDoorState:
    """Return the state of a door without connections; nothing is left in it."""
    samples = [SampleState(one.index, one.name, one.format, bytes(one.data), one.props) for one in door.samples]
    default = None if door.default_source is None else door.default_source.id
    modules = [_freeze_module(door, module) for module in door.modules.values()]
    samples_playing = [stream for stream in door.playback.values() if isinstance(stream.owner, NoOwner)]
    playing = {stream.node.id: detach_playback(door, stream) for stream in samples_playing}
    restores = RestoreState(door.rules.restores, door.devices.restores, door.devices.keeps_defaults)
    state = PulseDoorState(
        door.cookie, samples, default, door.declared, modules, restores, playing,
        door.sink_indexes.freeze(), door.source_indexes.freeze(), door.indexes.freeze(),
    )  # fmt: skip
    door.account.close()
    return state


def _freeze_module(door: PulseDoor, module: Module) -> ModuleState:
    owners = (stream.owner for stream in door.playback.values())
    loop = next((one for one in owners if isinstance(one, Loopback) and one.module is module), None)
    return ModuleState(
        index=module.index, name=module.name, argument=module.argument, description=module.description,
        fixed=module.fixed, held=door.account.part(("module", module.index)), recorder=module.recorder,
        mixes=[mix.id for mix in module.mixes], masters=[mix.id for mix in module.masters],
        feeds=[_feed_state(one) for one in module.feeds],
        tones=[_tone_state(stream) for stream in module.streams],
        loopback=None if loop is None else loop.freeze(),
    )  # fmt: skip


def _tone_state(stream: Stream) -> ToneState:
    assert isinstance(stream.feed, Sine)
    return ToneState(stream.id, stream.feed.frequency, stream.feed.at)


def _feed_state(one: Feed) -> FeedState:
    matrix = None if one.matrix is None else ArrayState.of(one.matrix)
    return FeedState(one.start.id, one.target.id, matrix, one.recorded)


def resume_door(door: PulseDoor, state: PulseDoorState) -> None:
    """Continue from a state in a new door, whose graph has the same nodes."""
    door.cookie = state.cookie
    for one in state.samples:
        door.samples.store(Sample(one.index, one.name, one.format, one.data, one.props))
    mixes = {mix.id: mix for mix in door.graph.mixes()}
    door.sink_indexes.resume(state.sinks or as_numbered(door.graph.sinks.values()))
    door.source_indexes.resume(state.sources or as_numbered(mixes.values()))
    _resume_indexes(door, state)
    door.default_source = None if state.default_source is None else mixes.get(state.default_source)
    door.declared.update(state.declared)
    if state.restores is not None:
        door.rules.restores, door.devices.restores = state.restores.streams, state.restores.devices
        door.devices.keeps_defaults = state.restores.defaults
    if state.modules is not None:
        door.modules.clear()
        for module in state.modules:
            _resume_module(door, module, mixes)
    for id_, playing in state.playing.items():
        resume_playback(door, id_, playing, NoOwner())


def _resume_indexes(door: PulseDoor, state: PulseDoorState) -> None:
    streams, taps = door.graph.streams, door.graph.taps
    modules = (one.index for one in state.modules or door.modules.values())
    samples = (one.index for one in state.samples)
    counted = objects_as_numbered(streams.values(), taps.values(), modules, samples)
    door.indexes.resume(state.objects or counted, streams, taps)


# Registered before its streams continue, since they look up their module.
def _resume_module(door: PulseDoor, state: ModuleState, mixes: dict[int, Sink]) -> None:
    feeds = [
        Feed(mixes[one.start], mixes[one.target], None if one.matrix is None else one.matrix.array, one.recorded)
        for one in state.feeds
    ]
    kind = KINDS.get(kind_of(state.name))
    module = Module(
        state.index, state.name, state.argument, state.description, [mixes[id_] for id_ in state.mixes], feeds,
        masters=[mixes[id_] for id_ in state.masters], recorder=state.recorder, fixed=state.fixed,
        end=door.ends.get(kind_of(state.name), nothing),
        greet=unnoted if kind is None or kind.greets is None else kind.greets(door, kind.args(state.argument)),
    )  # fmt: skip
    door.modules[module.index] = module
    if module.name == door.own_module.name:
        door.own_module = module
    door.account.hold(("module", module.index), state.held)
    for tone in state.tones:
        stream = door.graph.streams[tone.node]
        stream.feed = Sine(tone.frequency, door.graph.rate, tone.at)
        module.streams.append(stream)
        door.made_by[stream.id] = module
    if state.loopback is not None and module.recorder is not None:
        loop = Loopback(door, module, module.recorder[1])
        module.loops.append(loop)
        door.made_by |= {state.loopback.tap: module, state.loopback.stream: module}
        loop.resume(state.loopback)
