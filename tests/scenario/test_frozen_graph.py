"""A graph that is frozen to bytes between two cycles continues from them, and sounds as if it had not been."""

from __future__ import annotations

import random
from collections import deque
from typing import Any

import msgspec
import numpy as np
import pytest

from millrace.budget import Budget
from millrace.dsp.convert import Samples
from millrace.graph.driver import TimerDriver
from millrace.graph.graph import Graph
from millrace.graph.model import Ids, Sink, Stream, Tap
from millrace.graph.state import GraphState
from millrace.sim.rig import START_NS, Capture
from millrace.units import NS_PER_MS, default_map

STEP_NS = 7 * NS_PER_MS


class Noise:
    """A feed that runs dry now and then, whatever the pieces in which it is pulled."""

    def __init__(self, seed: int, channels: int) -> None:
        rng = np.random.default_rng(seed)
        self._sound = rng.uniform(-0.4, 0.4, (100_000, channels)).astype(np.float32)
        self._dry = deque(sorted({*rng.integers(1, 100_000, 40).tolist(), len(self._sound)}))
        self._at = 0
        self.shorts: list[tuple[int, bool]] = []

    def pull(self, out: Samples) -> int:
        n = min(len(out), self._dry[0] - self._at)
        out[:n] = self._sound[self._at : self._at + n]
        self._at += n
        if n < len(out):
            self._dry.popleft()
        return n

    def short(self, frames: int, played_out: bool) -> None:
        self.shorts.append((frames, played_out))


class Scene:
    """Sinks linked to each other, streams of three layouts and taps of all kinds, changed at random."""

    def __init__(self, seed: int, freezing: bool) -> None:
        self._rng, self._freezes, self.freezing = random.Random(seed), random.Random(seed + 1), freezing
        self.ids, self.now_ns = Ids(), START_NS
        self.graph, self.driver = self._graph()
        self.graph.add_first_sink()
        a, b = self.graph.add_sink("a"), self.graph.add_sink("b", positions=("mono",))
        self.graph.link(a, self._first)
        self.graph.link(b, a, np.array([[0.3, 0.6]], np.float32))
        source = self.graph.add_source("source", "Source")
        self.feeds: dict[int, Noise] = {}
        self.heard: dict[int, Capture] = {}
        for n, (channels, sink) in enumerate([(2, a), (2, self._first), (1, b), (6, a), (2, source), (2, a)]):
            node = Stream(self.ids.take(), f"s{n}", default_map(channels), {"n": str(n)})
            self.feeds[node.id] = feed = Noise(seed + n, channels)
            node.feed, node.bulk_frames = feed, 480 * n
            self.graph.add_stream(node, sink)
            self.graph.activate(node)
        stem = next(iter(self.graph.streams.values()))
        for heard, options in (
            (self._first, {"clocked": True}), (source, {"records": True}), (a, {"records": True, "clocked": True}),
            (stem, {"before_volume": True}), (stem, {}),
        ):  # fmt: skip
            tap = Tap(self.ids.take(), "tap", default_map(2), **options)
            tap.consumer = self.heard[tap.id] = Capture()
            self.graph.add_tap(tap, heard)

    def _graph(self) -> tuple[Graph, TimerDriver]:
        return Graph("default", self.ids, budget=Budget()), TimerDriver()

    @property
    def _first(self) -> Sink:
        assert self.graph.default is not None
        return self.graph.default

    def run(self, steps: int) -> None:
        self.driver.attach(self.graph)
        for _ in range(steps):
            self.now_ns += STEP_NS
            self._change()
            if self.freezing and self._freezes.random() < 0.5:
                self._move()
            while (due := self.driver.next_timeout()) is not None and due <= self.now_ns:
                self.driver.handle_timeout(max(due, self.now_ns))

    def _change(self) -> None:
        rng, graph = self._rng, self.graph
        stream = rng.choice(list(graph.streams.values()))
        sink = rng.choice(list(graph.sinks.values()))
        what = rng.randrange(9)
        if what == 0:
            graph.set_gains(stream, tuple(rng.uniform(0, 2) for _ in stream.positions))
        elif what == 1:
            graph.set_gains(sink, (rng.uniform(0, 3),))
        elif what == 2:
            graph.set_mute(stream, not stream.mute)
        elif what == 3:
            graph.set_trim(stream, rng.choice((1.0, 0.2)))
        elif what == 4 and not stream.feeds_source:
            graph.move_stream(stream, sink)
        elif what == 5 and stream.active:
            graph.deactivate(stream, "underrun")
        elif what == 6:
            graph.activate(stream)
        elif what == 7:
            graph.suspend(sink, not sink.suspended)
        else:
            sink.recorded.gains = (rng.uniform(0, 1),) * len(sink.positions)
            graph.touch(sink)

    def _move(self) -> None:
        """Freeze the graph to bytes, and continue in another."""
        before = self.graph
        told = [*before.observers], before.budget.held, shown(before)
        self.driver.detach(before)
        data = msgspec.msgpack.encode(before.freeze({*before.streams, *before.taps}))
        assert not before.budget.held and not [*before.nodes()] and before.next_timeout() is None
        self.graph, self.driver = self._graph()
        self.graph.resume(msgspec.msgpack.decode(data, type=GraphState))
        for id_, stream in self.graph.streams.items():
            stream.feed = self.feeds[id_]
        for id_, tap in self.graph.taps.items():
            tap.consumer = self.heard[id_]
        assert ([*self.graph.observers], self.graph.budget.held, shown(self.graph)) == told
        self.driver.attach(self.graph)


def shown(graph: Graph) -> list[Any]:
    """Everything that must stay the same, apart from sound."""
    skip = {
        "feed",
        "consumer",
        "links",
        "taps",
        "lane",
        "stash",
        "account",
        "latest",
        "source",
        "sink",
        "master",
        "charges",
    }
    out: list[Any] = [graph.position, graph.running, graph.default and graph.default.id]
    for node in graph.nodes():
        fields = {name: value for name, value in vars(node).items() if name not in skip}
        links = [(link.target.id, link.matrix is not None) for link in getattr(node, "links", ())]
        hears = node.source.id if isinstance(node, Tap) and node.source else None
        ahead = graph.ahead(node) if isinstance(node, Stream) else 0
        out.append((fields, links, hears, node.account.parts, ahead))
    return out


@pytest.mark.parametrize("seed", range(4))
def test_repeatedly_frozen_graph_sounds_as_if_it_was_not(seed: int) -> None:
    whole, frozen = Scene(seed, freezing=False), Scene(seed, freezing=True)
    for scene in (whole, frozen):
        scene.run(150)
    for (id_, expected), got in zip(whole.heard.items(), frozen.heard.values(), strict=True):
        assert got.positions == expected.positions and got.idles == expected.idles
        assert np.array_equal(got.sound, expected.sound), id_
        assert np.abs(expected.sound).max() > 0.1
    for feed, other in zip(whole.feeds.values(), frozen.feeds.values(), strict=True):
        assert feed.shorts == other.shorts
    assert shown(frozen.graph) == shown(whole.graph)
    assert frozen.graph.skipped_frames == whole.graph.skipped_frames


def test_only_continued_taps_are_included() -> None:
    """Listeners come again by themselves, so their taps don't go along, nor do taps of streams that stay behind."""
    scene = Scene(1, freezing=False)
    scene.run(5)
    goes, stays = list(scene.graph.streams)[1], next(iter(scene.graph.streams))
    taps = [tap for tap in scene.graph.taps.values() if tap.stream is not None or tap.records]
    assert any(tap.stream is not None and tap.stream.id == stays for tap in taps)
    scene.driver.detach(scene.graph)
    state = scene.graph.freeze({goes, *(tap.id for tap in taps)})
    assert [one.id for one in state.streams] == [goes] == state.lanes
    assert [one.id for one in state.taps] == [tap.id for tap in taps if tap.records]
    assert not scene.graph.budget.held
