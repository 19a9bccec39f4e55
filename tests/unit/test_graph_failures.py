"""A feed, a consumer or an observer that raises: it alone ends, and the guest plays on."""

from __future__ import annotations

import pytest

from millrace.dsp.convert import Samples
from millrace.graph.graph import Graph
from millrace.graph.model import Ids, Node, Stream, Tap
from millrace.outlets.peer import Subscriber
from millrace.outlets.subscribers import Subscribers
from millrace.sim.rig import Capture, Rig
from millrace.units import default_map
from tests.unit.test_graph import Tone


class Failing(Capture):
    """A feed and a consumer that work until they are broken."""

    def __init__(self) -> None:
        super().__init__()
        self.broken = ""

    def _try(self, what: str) -> None:
        if self.broken == what:
            raise RuntimeError(f"{what} is broken")

    def consume(self, block: Samples, position: int, level: float) -> None:
        self._try("consume")
        super().consume(block, position, level)

    def idle(self, position: int) -> None:
        self._try("idle")

    def pull(self, out: Samples) -> int:
        self._try("pull")
        out[:] = 0.25
        return len(out) if self.broken != "short" else 0

    def short(self, frames: int, played_out: bool) -> None:
        self._try("short")


class House(Rig):
    """A guest that is told of failures, as the daemon's guests are."""

    def __init__(self) -> None:
        super().__init__()
        self.failures: list[tuple[str, str]] = []

    def failed(self, node: Node, error: Exception) -> None:
        self.failures.append((node.key, str(error)))


def playing(rig: Rig, feed: Tone | Failing) -> Stream:
    stream = Stream(rig.graph.ids.take(), "tone", default_map(2), feed=feed)
    rig.graph.add_stream(stream, rig.sink)
    rig.graph.activate(stream)
    return stream


def tapping(rig: Rig, source: Stream | None, consumer: Failing) -> Tap:
    tap = Tap(rig.graph.ids.take(), "tap", default_map(2), consumer=consumer)
    rig.graph.add_tap(tap, source or rig.sink)
    return tap


def test_consumer_that_raises_as_it_is_added_is_removed() -> None:
    rig, bad = House(), Failing()
    bad.broken = "idle"
    tap = tapping(rig, None, bad)
    assert rig.failures == [(tap.key, "idle is broken")] and not rig.graph.taps and not rig.sink.taps


@pytest.mark.parametrize("of_stream", [False, True])
def test_consumer_that_raises_is_removed_and_others_hear_all(of_stream: bool) -> None:
    rig, bad = House(), Failing()
    stream = playing(rig, Tone())
    tap, heard = tapping(rig, stream if of_stream else None, bad), rig.capture()
    rig.run(0.1)
    bad.broken = "consume"
    rig.run(0.4)
    assert rig.failures == [(tap.key, "consume is broken")] and tap.id not in rig.graph.taps
    assert (heard.sound == 0.5).all() and len(heard.sound) > 20_000
    first, after = heard.positions[0], heard.positions[-1] + len(heard.blocks[-1])
    assert after - first == len(heard.sound), "no cycle was left out"


@pytest.mark.parametrize("what", ["pull", "short"])
def test_feed_that_raises_ends_its_stream_only(what: str) -> None:
    rig, bad = House(), Failing()
    playing(rig, Tone())
    stream, heard = playing(rig, bad), rig.capture()
    rig.run(0.1)
    bad.broken = what
    rig.run(0.4)
    assert rig.failures == [(stream.key, f"{what} is broken")] and stream.id not in rig.graph.streams
    assert heard.sound[0, 0] == 0.75 and heard.sound[-1, 0] == 0.5 and len(heard.sound) > 20_000
    assert rig.graph.late_cycles == rig.graph.skipped_frames == 0


def test_consumer_that_raises_when_graph_stops_is_removed() -> None:
    rig, bad = House(), Failing()
    stream, tap = playing(rig, Tone()), tapping(rig, None, bad)
    heard = rig.capture()
    rig.run(0.1)
    bad.broken = "idle"
    rig.graph.deactivate(stream, "paused")
    rig.run(1.0)
    assert rig.failures == [(tap.key, "idle is broken")] and not rig.graph.running
    assert len(heard.idles) == 2, "it is told after the one that raised"


def test_observer_that_raises_keeps_no_other_from_being_told() -> None:
    rig = House()
    told: list[str] = []

    def broken(change: str, node: Node) -> None:
        raise RuntimeError("the observer is broken")

    rig.graph.observers[:0] = [broken]
    rig.graph.observers.append(lambda change, node: told.append(change))
    stream = playing(rig, Tone())
    assert told == ["new", "change"] and rig.failures == [(stream.key, "the observer is broken")] * 2


def test_without_reports_errors_are_raised() -> None:
    graph = Graph("alice", Ids())
    with pytest.raises(RuntimeError, match="broken"):
        graph._fail(Stream(1, "tone", default_map(2)), RuntimeError("broken"))


def test_encoder_that_raises_ends_its_listeners_and_no_others() -> None:
    rig = House()
    subscribers = Subscribers(rig.graph)
    sent: list[str | bytes] = []
    outlets = [Subscriber(id_, "x", sent.extend, lambda: True) for id_ in (901, 902)]
    outlets[1].settings = type(outlets[1].settings)(codec="s16")
    for outlet in outlets:
        subscribers.join(outlet, rig.sink)
    playing(rig, Tone())
    group = outlets[0].group
    assert group is not None
    group._encoder = None
    rig.run(0.5)
    assert isinstance(outlets[0].take_error(), KeyError) and outlets[1].take_error() is None
    assert [key for key, _ in rig.failures] == [group.tap.key] and outlets[1].sent_packets > 20
    again = Subscriber(903, "x", sent.extend, lambda: True)
    subscribers.join(again, rig.sink)
    assert again.group is not group
    subscribers.leave(outlets[0])
    rig.run(0.2)
    assert again.sent_packets > 5
