"""A guest's door with clients, and what it tells them."""

from __future__ import annotations

from typing import Any

from millrace.doors.pulse.loaded import Module
from millrace.doors.pulse.playback import PlaybackStream
from millrace.doors.pulse.record import RecordStream
from millrace.dsp.convert import SampleFormat
from millrace.graph.model import Sink, Stream
from millrace.units import default_map
from millrace.wire.pulse.constants import Change, Facility
from millrace.wire.pulse.tagstruct import Spec
from tests.caller import Caller, Furnished
from tests.unit.test_graph import Tone

S16 = Spec(SampleFormat.S16LE, 2, 48_000)


STEREO = (1, 2)


class Scene(Furnished):
    """A guest with a second sink and a source, a client, and all that is published."""

    def __init__(self) -> None:
        super().__init__()
        self.caller = Caller(self)
        self.published: list[tuple[Facility, Change, int]] = []
        self.door.publish = lambda *change: self.published.append(change)  # type: ignore[method-assign]

    def play(self, **changes: Any) -> PlaybackStream:
        return self.caller.streams[self.caller.play(S16, STEREO, **changes)["channel"]]

    def record(self, **changes: Any) -> RecordStream:
        return self.caller.records[self.caller.record(S16, STEREO, **changes)["channel"]]

    def tone(self, sink: Sink, **parts: Any) -> Stream:
        """A stream of another door."""
        node = Stream(self.graph.ids.take(), "tone", default_map(2), feed=Tone(), **parts)
        self.graph.add_stream(node, sink)
        return node

    def module(self, *mixes: Sink, **parts: Any) -> Module:
        """One that was loaded."""
        made = Module(self.graph.ids.take(), "module-test", "a=b", mixes=list(mixes), **parts)
        self.door.load(made)
        return made

    def news(self) -> list[tuple[Facility, Change, int]]:
        """What was published since the last call."""
        news, self.published[:] = list(self.published), []
        return news
