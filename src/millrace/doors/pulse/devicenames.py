"""The sinks and sources of a guest, by the names and indexes that PulseAudio clients know."""

from __future__ import annotations

from millrace.doors.pulse.formats import CommandError, no_such
from millrace.doors.pulse.indexes import Indexes
from millrace.graph.graph import Graph
from millrace.graph.model import Sink
from millrace.text import key_number
from millrace.wire.pulse.constants import NO_INDEX, Err

MONITOR = ".monitor"


class DeviceNames:
    """Finds sinks, sources and monitors, the default ones too."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.default_source: Sink | None = None
        self.sink_indexes, self.source_indexes = Indexes(graph.sinks.values()), Indexes(graph.mixes())
        """Monitors are counted among the sources."""

    @property
    def default_sink(self) -> Sink:
        """The sink for streams that name none."""
        assert self.graph.default is not None
        return self.graph.default

    def recorded_by_default(self, without: Sink | None = None) -> Sink:
        """The source for recorders that name none: the chosen default, else the microphone, else the monitor."""
        if self.default_source not in (None, without):
            assert self.default_source is not None
            return self.default_source
        return next((source for source in self.graph.sources.values() if source is not without), self.default_sink)

    def find_sink(self, index: int, name: str | None) -> Sink:
        """Find a sink by index, name, index as text, or @DEFAULT_SINK@; the default sink if none is named."""
        if index != NO_INDEX:
            return self._sink_by_index(index)
        if not name or name == "@DEFAULT_SINK@":
            return self.default_sink
        sink = self.sink_called(name)
        if sink is None:
            raise no_such("sink", name)
        return sink

    def sink_called(self, name: str) -> Sink | None:
        """The sink with this name, or with this index."""
        for sink in self.graph.sinks.values():
            if sink.is_called(name):
                return sink
        return self.graph.sinks.get(self.sink_indexes.id_at(key_number(name)))

    def _sink_by_index(self, index: int) -> Sink:
        sink = self.graph.sinks.get(self.sink_indexes.id_at(index))
        if sink is None:
            raise CommandError(Err.NOENTITY, f"no sink {index}")
        return sink

    def _source_by_index(self, index: int) -> Sink:
        id_ = self.source_indexes.id_at(index)
        source = self.graph.sources.get(id_) or self.graph.sinks.get(id_)
        if source is None:
            raise CommandError(Err.NOENTITY, f"no source {index}")
        return source

    @staticmethod
    def source_name(sink: Sink) -> str:
        """A source's name; a monitor's derives from its sink's."""
        return sink.name if sink.capture else sink.name + MONITOR

    def source_description(self, sink: Sink) -> str:
        """A source's description; a monitor's derives from its sink's."""
        return sink.description if sink.capture else f"Monitor of {sink.description}"

    def name_taken(self, name: str) -> bool:
        """Whether a sink, source or monitor has this name."""
        return self.graph.name_taken(name) or self.graph.name_taken(name.removesuffix(MONITOR))

    def find_source(self, index: int, name: str | None) -> Sink:
        """Find a source; for a monitor, its sink."""
        if index != NO_INDEX:
            return self._source_by_index(index)
        if not name or name == "@DEFAULT_SOURCE@":
            return self.recorded_by_default()
        for source in self.graph.sources.values():
            if source.is_called(name):
                return source
        if name == "@DEFAULT_MONITOR@":
            return self.default_sink
        if name.endswith(MONITOR):
            return self.find_sink(NO_INDEX, name[: -len(MONITOR)])
        if (number := key_number(name)) >= 0:
            return self._source_by_index(number)
        raise no_such("source", name)

    def count_device(self, mix: Sink) -> None:
        """`mix` is new."""
        if not mix.capture:
            self.sink_indexes.add(mix)
        self.source_indexes.add(mix)

    def count_devices_anew(self) -> None:
        """Count again from 0, before any program has connected: the first sink, the sources, the other sinks."""
        sinks = list(self.graph.sinks.values())
        self.sink_indexes = Indexes(sinks)
        self.source_indexes = Indexes([*sinks[:1], *self.graph.sources.values(), *sinks[1:]])

    def forget_device(self, mix: Sink) -> None:
        """`mix` is gone."""
        self.sink_indexes.forget(mix)
        self.source_indexes.forget(mix)
