"""Loading a module: what it creates is named, described, limited, and recorded in the module."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from millrace.doors.admission import Refused
from millrace.doors.pulse import loading
from millrace.doors.pulse.formats import CommandError
from millrace.doors.pulse.loaded import Module
from millrace.doors.pulse.loading import Loading, free_name
from millrace.doors.pulse.modargs import Args
from millrace.dsp.convert import SampleFormat
from millrace.errors import GraphError
from millrace.media.format import AudioFormat
from millrace.rights.grants import ANY, Permission, Verdict
from millrace.sim.rig import Rig
from millrace.units import default_map
from tests.caller import Caller

VALID = ("sink_name", "sink_properties", "source_name", "source_properties", "slaves", "sinks")
S16 = AudioFormat(SampleFormat.S16LE, 44_100, default_map(2))


def begun(rig: Rig, text: str = "") -> Loading:
    """A module that was given these arguments."""
    return Loading(Caller(rig), Args(text, VALID), Module(rig.graph.ids.take(), "module-test", text))


@pytest.mark.parametrize(
    ("text", "name", "description"),
    [
        ("", "null", "Null Output"),
        ("sink_name=extra", "extra", "Null Output"),
        ("sink_properties=device.description=Loud", "null", "Loud"),
        ("sink_name='my sink/ü'", "my_sink__", "Null Output"),
        ("sink_name=millrace", "millrace.2", "Null Output"),
    ],
)
def test_sink_is_named_as_requested_or_after_its_module(text: str, name: str, description: str) -> None:
    rig = Rig()
    one = begun(rig, text)
    made = one.sink(S16, "null", "Null Output", "abstract")
    assert (made.name, made.description, made.capture, made.positions) == (name, description, False, S16.positions)
    assert rig.graph.sinks[made.id] is made and one.module.mixes == [made]
    assert rig.door.format_of(made) == S16, "as requested, whatever the graph's format"
    assert made.props["device.class"] == "abstract"


def test_source_modules_have_their_own_arguments() -> None:
    rig = Rig()
    one = begun(rig, "source_name=line source_properties='a=b device.class=sound' sink_name=other")
    made = one.source(S16, "source.null", "Null Input", "abstract")
    assert (made.name, made.capture) == ("line", True) and rig.graph.sources[made.id] is made
    assert made.props == {"a": "b", "device.class": "sound"}


def test_taken_names_are_numbered_as_in_pulseaudio() -> None:
    rig = Rig()
    assert free_name(rig.door, "Az09._-") == "Az09._-" and free_name(rig.door, "a b\n\x1b") == "a_b__"
    assert free_name(rig.door, "x" * 128) == "x" * 128
    for name in ("extra", "extra.2", "extra.4"):
        rig.graph.add_sink(name)
    assert free_name(rig.door, "extra") == "extra.3"
    assert free_name(rig.door, "extra.monitor") == "extra.monitor.2", "a monitor has that name"
    for wanted in ("", "x" * 129):
        with pytest.raises(CommandError, match="1 to 128"):
            free_name(rig.door, wanted)


def test_empty_name_is_refused() -> None:
    rig = Rig()
    with pytest.raises(CommandError, match="1 to 128"):
        begun(rig, "sink_name=").sink(S16, "null", "Null Output", "abstract")
    assert len(rig.graph.sinks) == 1


def test_modules_leave_room_for_other_sinks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "MIXES_MAX", 3)
    rig = Rig()
    one = begun(rig)
    one.sink(S16, "a", "A", "abstract")
    one.source(S16, "b", "B", "abstract")
    for make in (one.sink, one.source):
        with pytest.raises(CommandError, match="3 sinks and sources"):
            make(S16, "c", "C", "abstract")
    assert len(one.module.mixes) == 2
    rig.graph.add_sink("by hand")


def test_link_is_recorded_and_created_once() -> None:
    rig = Rig()
    one = begun(rig)
    made = one.sink(S16, "a", "A", "abstract")
    halves = np.full((2, 2), 0.5, np.float32)
    one.link(made, rig.sink, halves)
    assert [(feed.start, feed.target, feed.recorded) for feed in one.module.feeds] == [(made, rig.sink, False)]
    assert made.links[0].matrix is halves
    with pytest.raises(CommandError, match="a already plays on millrace"):
        one.link(made, rig.sink)
    assert len(one.module.feeds) == 1
    with pytest.raises(GraphError, match="hear itself"):
        one.link(rig.sink, made)
    assert len(one.module.feeds) == 1, "what was not created need not be removed"


def test_recording_module_applies_its_sources_level() -> None:
    rig = Rig()
    one = begun(rig)
    rig.sink.recorded.gains = (0.5, 0.25)
    one.records(rig.sink)
    assert one.module.recorder == (Permission.MONITOR, one.client.subject)
    made = one.source(S16, "a", "A", "filter")
    one.link(rig.sink, made)
    assert one.module.feeds[0].recorded and rig.sink.links[0].matrix is not None
    assert rig.sink.links[0].matrix.diagonal().tolist() == [0.5, 0.25]


def test_recording_module_needs_its_loaders_grant() -> None:
    rig = Rig()
    one, source = begun(rig), rig.graph.add_source("microphone", "Microphone")
    rig.admission.grants.set(Permission.MICROPHONE, ANY, Verdict.DENY)
    with pytest.raises(Refused):
        one.records(source)
    assert one.module.recorder is None
    one.records(rig.sink)


@pytest.mark.parametrize(("text", "found"), [("", None), ("slaves=a", "a"), ("sinks=a,b", "a,b")])
def test_only_one_alias_of_an_argument_may_be_given(text: str, found: Any) -> None:
    assert begun(Rig(), text).choice("slaves", "sinks") == found
    with pytest.raises(CommandError, match="slaves and sinks mean the same"):
        begun(Rig(), "slaves=a sinks=a").choice("slaves", "sinks")
