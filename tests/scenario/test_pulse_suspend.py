"""Suspended sinks: what reaches them through other sinks, and loopbacks, which start again at their latency."""

from __future__ import annotations

import numpy as np
import pytest

from millrace.dsp.convert import SampleFormat
from millrace.graph.model import Sink
from millrace.sim.rig import Capture, Player, Rig, RigClient
from millrace.wire.pulse.constants import NO_INDEX, Command
from millrace.wire.pulse.tagstruct import Spec
from tests.scenario.pulseviews import load

F32 = Spec(SampleFormat.F32LE, 2, 48_000)
LATENCY_MS = 50


def suspend(client: RigClient, name: str, suspended: bool) -> None:
    client.ask(Command.SUSPEND_SINK, index=NO_INDEX, name=name, suspend=suspended)


def play(client: RigClient, name: str, seconds: float = 10.0) -> Player:
    """A ramp from 0 to 1, so that each frame tells when it was played."""
    frames = round(48_000 * seconds)
    ramp = np.repeat(np.arange(1, frames + 1, dtype=np.float32) / frames, 2)
    return client.play(F32, (1, 2), ramp.tobytes(), sink_name=name, tlength=9600)


def late_ms(before: Capture, after: Capture, rig: Rig, seconds: float = 10.0) -> float:
    """How much later the newest sound in `after` was heard than the same in `before`."""
    assert before.positions[-1] == after.positions[-1] and after.blocks[-1].all()
    return float(before.blocks[-1][-1, 0] - after.blocks[-1][-1, 0]) * seconds * 1000


class Looped:
    """A guest in which a ramp plays on `game`, and a loopback takes it to `out`."""

    def __init__(self, form: str = "") -> None:
        self.rig = Rig()
        self.client = self.rig.client()
        for name in ("game", "out", "aside"):
            load(self.client, "module-null-sink", f"sink_name={name}")
        load(self.client, "module-loopback", f"source=game.monitor sink=out latency_msec={LATENCY_MS} {form}")
        self.before, self.after = self.rig.capture(self.sink("game")), self.rig.capture(self.sink("out"))
        (self.loopback,) = self.rig.door.playback.values()
        self.player = play(self.client, "game")
        self.rig.run(1)
        self.at_first_ms = self.late_ms()

    def sink(self, name: str) -> Sink:
        return next(sink for sink in self.rig.graph.sinks.values() if sink.name == name)

    def late_ms(self) -> float:
        return late_ms(self.before, self.after, self.rig)

    def move(self, name: str) -> None:
        index = self.rig.door.indexes.inputs.of(self.loopback.node)
        self.client.ask(Command.MOVE_SINK_INPUT, index=index, sink_index=NO_INDEX, sink_name=name)

    def check(self) -> None:
        """It plays at its latency again, and nobody was blamed."""
        self.rig.run(0.5)
        assert LATENCY_MS <= self.at_first_ms < LATENCY_MS + 45
        assert LATENCY_MS <= self.late_ms() < LATENCY_MS + 45
        assert not self.rig.troubles and self.loopback.node.underruns == 0


@pytest.mark.parametrize("form", ["", "rate=44100"])
@pytest.mark.parametrize("seconds", [0.02, 0.07, 2.0])
def test_loopback_resumes_at_its_latency_after_sink_was_suspended(seconds: float, form: str) -> None:
    looped = Looped(form)
    suspend(looped.client, "out", True)
    looped.rig.run(seconds)
    assert not looped.loopback.queue.length
    suspend(looped.client, "out", False)
    looped.check()


def test_loopback_resumes_at_its_latency_after_source_was_suspended() -> None:
    looped = Looped()
    suspend(looped.client, "game", True)
    looped.rig.run(2)
    assert not looped.after.blocks[-1].any()
    suspend(looped.client, "game", False)
    looped.check()


def test_loopback_resumes_at_its_latency_after_pause() -> None:
    looped = Looped()
    looped.loopback.set_corked(True)
    looped.rig.run(2)
    looped.loopback.set_corked(False)
    looped.check()


@pytest.mark.parametrize("there", [True, False])
def test_loopback_moves_from_and_to_suspended_sinks(there: bool) -> None:
    looped = Looped()
    suspend(looped.client, "aside" if there else "out", True)
    looped.move("aside")
    looped.rig.run(2)
    if there:
        assert not looped.loopback.node.active and not looped.loopback.queue.length
        looped.move("out")
    else:
        assert looped.sink("aside").level > 0.0
        suspend(looped.client, "out", False)
        looped.move("out")
    looped.check()


def test_loopback_with_overfull_buffer_restarts_at_its_latency() -> None:
    looped = Looped()
    looped.loopback.owner.send_block(0, bytes(looped.loopback.attr.maxlength - 9600))  # type: ignore[attr-defined]
    looped.check()


@pytest.mark.parametrize(
    "made",
    [("module-remap-sink", "sink_name=way master=game"), ("module-combine-sink", "sink_name=way slaves=game")],
)
def test_suspended_sink_pulls_nothing_from_sinks_linked_to_it(made: tuple[str, str]) -> None:
    rig = Rig()
    client = rig.client()
    load(client, "module-null-sink", "sink_name=game")
    load(client, *made)
    game, way = (next(sink for sink in rig.graph.sinks.values() if sink.name == name) for name in ("game", "way"))
    heard, upstream = rig.capture(game), rig.capture(way)
    play(client, "way")
    rig.run(1)
    assert heard.blocks[-1].all()
    suspend(client, "game", True)
    rig.run(1)
    assert not heard.blocks[-1].any() and game.level == 0.0
    assert upstream.blocks[-1].all(), "as in PulseAudio, streams playing to it continue"
    suspend(client, "game", False)
    rig.run(0.2)
    assert np.array_equal(heard.blocks[-1], upstream.blocks[-1])
    assert not rig.troubles


def test_stream_moved_to_suspended_sink_waits_without_loss() -> None:
    rig = Rig()
    client = rig.client()
    load(client, "module-null-sink", "sink_name=game")
    suspend(client, "game", True)
    game = next(sink for sink in rig.graph.sinks.values() if sink.name == "game")
    first, second = rig.capture(), rig.capture(game, clocked=True)
    player = play(client, "millrace")
    rig.run(0.5)
    client.ask(Command.MOVE_SINK_INPUT, index=player.index, sink_index=NO_INDEX, sink_name="game")
    rig.run(1)
    assert not rig.stream_at(player.index).active and not second.sound.any()
    last = first.sound[:, 0].max()
    suspend(client, "game", False)
    rig.run(0.5)
    assert second.trimmed()[2400, 0] == pytest.approx(last + 2400 / 480_000, abs=1e-3)
    assert not rig.troubles
