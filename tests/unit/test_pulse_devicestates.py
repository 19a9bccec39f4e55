"""Which of a guest's sinks and sources are in use."""

from __future__ import annotations

from millrace.doors.pulse.devicestates import DeviceUse, InUse
from millrace.graph.model import Link, Sink, Stream, Tap

STEREO = ("front-left", "front-right")


def sink(number: int, *targets: Sink, capture: bool = False) -> Sink:
    return Sink(number, f"sink{number}", STEREO, links=[Link(one) for one in targets], capture=capture)


def test_only_first_use_and_last_end_of_use_are_announced() -> None:
    uses, music = DeviceUse(), sink(1)
    one, other = (Stream(n, "tone", STEREO, links=[Link(music)], active=True) for n in (2, 3))
    assert uses.count(one, gone=False)
    assert not uses.count(one, gone=False)
    assert not uses.count(other, gone=False), "the sink is already in use"
    assert not uses.count(one, gone=True)
    assert uses.found([music]) == InUse(frozenset({1}))
    other.active, other.starved = False, True
    assert not uses.count(other, gone=False), "it waits for its client, and is not corked"
    other.starved = False
    assert uses.count(other, gone=False)
    assert uses.found([music]) == InUse()


def test_links_propagate_use_and_recording() -> None:
    speakers = sink(1)
    combined, remapped = sink(2, speakers), sink(3, capture=True)
    microphone = sink(4, remapped, capture=True)
    mixes, uses = [speakers, combined, remapped, microphone], DeviceUse()
    uses.count(Stream(5, "tone", STEREO, links=[Link(combined)], active=True), gone=False)
    uses.count(Tap(6, "recorder", STEREO, sink=remapped, records=True), gone=False)
    uses.count(Tap(7, "listener", STEREO, sink=speakers), gone=False)
    assert uses.found(mixes) == InUse(frozenset({1, 2}), frozenset({3, 4}))
    microphone.links.append(Link(speakers))
    uses.count(Tap(6, "recorder", STEREO, sink=remapped, records=True), gone=True)
    assert uses.found(mixes).recorded == frozenset({4}), "a link into a sink lets it be heard there"
