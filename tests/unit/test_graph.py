"""The graph: order, loops, matrices, ramps, the clock, lanes."""

from __future__ import annotations

import numpy as np
import pytest

from millrace.dsp.convert import Samples
from millrace.errors import GraphError
from millrace.graph.lanes import LanePool
from millrace.graph.model import NodeState, Stream
from millrace.sim.rig import START_NS, Rig
from millrace.sim.signals import sine
from millrace.units import NS_PER_S, default_map


class Tone:
    """A feed that never ends, or ends after `frames`."""

    def __init__(self, channels: int = 2, value: float = 0.5, frames: int = 1 << 40) -> None:
        self.value, self.left, self.shorts = value, frames, 0

    def pull(self, out: Samples) -> int:
        n = min(len(out), self.left)
        out[:n] = self.value
        self.left -= n
        return n

    def short(self, frames: int, played_out: bool) -> None:
        self.shorts += 1


def add(rig: Rig, channels: int = 2, value: float = 0.5, **stream: object) -> Stream:
    node = Stream(rig.graph.ids.take(), "tone", default_map(channels), feed=Tone(channels, value), **stream)  # type: ignore[arg-type]
    rig.graph.add_stream(node, rig.sink)
    rig.graph.activate(node)
    return node


def test_chain_of_sinks_is_heard_in_same_cycle() -> None:
    rig = Rig()
    a, b = rig.graph.add_sink("a"), rig.graph.add_sink("b")
    rig.graph.link(a, b)
    rig.graph.link(b, rig.sink)
    heard_a, heard = rig.capture(a), rig.capture()
    node = add(rig)
    rig.graph.move_stream(node, a)
    rig.run(0.5)
    assert heard_a.positions == heard.positions
    assert heard.sound[-1, 0] == 0.5


def test_loops_are_refused_and_change_nothing() -> None:
    rig = Rig()
    a, b = rig.graph.add_sink("a"), rig.graph.add_sink("b")
    rig.graph.link(a, b)
    with pytest.raises(GraphError, match="loop"):
        rig.graph.link(b, a)
    assert b.links == []
    with pytest.raises(GraphError, match="loop"):
        rig.graph.link(a, a)
    with pytest.raises(GraphError, match="already exists"):
        rig.graph.add_sink("a")
    with pytest.raises(GraphError, match="not linked"):
        rig.graph.unlink(b, a)


def test_link_matrix_is_applied_and_checked() -> None:
    rig = Rig()
    heard = rig.capture()
    node = add(rig)
    swap = np.array([[0.0, 1.0], [0.5, 0.0]], np.float32)
    rig.graph.link(node, rig.sink, swap)
    rig.run(0.5)
    assert np.allclose(heard.sound[-1], (0.25, 0.5))
    with pytest.raises(GraphError, match="2 rows of 2"):
        rig.graph.link(node, rig.sink, np.zeros((3, 2), np.float32))


def test_unequal_channel_volumes_and_mono_sources() -> None:
    rig = Rig()
    heard = rig.capture()
    node = add(rig, gains=(1.0, 0.5))
    rig.run(0.2)
    assert np.allclose(heard.sound[-1], (0.5, 0.25))
    rig.graph.set_gains(node, (0.5,))
    rig.run(0.2)
    assert np.allclose(heard.sound[-1], (0.25, 0.25))
    add(rig, channels=1, value=0.1)
    rig.run(0.2)
    assert np.allclose(heard.sound[-1], (0.35, 0.35))
    with pytest.raises(GraphError, match="2 channels"):
        rig.graph.set_gains(node, (1.0, 1.0, 1.0))


@pytest.mark.parametrize("what", ["stream", "sink", "mute", "move", "balance"])
def test_level_changes_do_not_click(what: str) -> None:
    rig = Rig()
    heard = rig.capture()
    other = rig.graph.add_sink("other")
    node = add(rig)
    rig.run(0.5)
    changes = {
        "stream": lambda: rig.graph.set_gains(node, (0.1,)),
        "sink": lambda: rig.graph.set_gains(rig.sink, (0.1,)),
        "mute": lambda: rig.graph.set_mute(node, True),
        "move": lambda: rig.graph.move_stream(node, other),
        "balance": lambda: rig.graph.set_gains(node, (0.1, 0.9)),
    }
    changes[what]()
    rig.run(0.5)
    steps = np.abs(np.diff(heard.sound[2000:, 0]))
    assert 0 < steps.max() < 0.001


def test_first_frame_of_new_stream_is_not_faded() -> None:
    rig = Rig()
    heard = rig.capture(clocked=True)
    rig.run(0.2)
    add(rig)
    rig.run(0.2)
    values = np.unique(heard.sound[:, 0])
    assert list(values) == [0.0, 0.5]


def test_position_is_host_time_and_counts_idle_time() -> None:
    rig = Rig()
    heard = rig.capture()
    node = add(rig)
    rig.run(1.0)
    assert heard.positions[0] == START_NS * 48_000 // NS_PER_S
    rig.graph.remove_stream(node)
    rig.run(10.0)
    assert not rig.graph.running and heard.idles
    add(rig)
    rig.run(0.1)
    gap = heard.positions[-1] - heard.positions[0]
    assert abs(gap / 48_000 - 11.05) < 0.06


def test_late_driver_catches_up_and_suspended_one_jumps() -> None:
    rig = Rig()
    heard = rig.capture()
    add(rig)
    rig.run(0.5)
    rig.stall(300)
    rig.run(0.5)
    steps = set(np.diff(heard.positions))
    assert steps == {1920} and rig.graph.late_cycles == 1 and rig.graph.skipped_frames == 0
    rig.stall(5000)
    rig.run(0.5)
    assert rig.graph.skipped_frames > 48_000 * 4.9
    assert rig.graph.position >= rig.now_ns * 48_000 // NS_PER_S


def test_surround_graphs_at_other_rates() -> None:
    rig = Rig(rate=44_100, channels=8)
    heard = rig.capture(channels=2)
    node = Stream(rig.graph.ids.take(), "x", default_map(8), feed=Tone(8))
    rig.graph.add_stream(node, rig.sink)
    rig.graph.activate(node)
    rig.run(1.0)
    assert heard.sound.shape[1] == 2 and abs(len(heard.sound) - 44_100) < 2000
    assert 0.4 < heard.sound[-1, 0] <= 0.5001


def test_removed_sink_hands_on_its_streams_and_taps() -> None:
    rig = Rig()
    a = rig.graph.add_sink("a")
    heard = rig.capture(a)
    node = add(rig)
    rig.graph.move_stream(node, a)
    rig.graph.set_default(a)
    rig.run(0.1)
    first = next(s for s in rig.graph.sinks.values() if s.name == "millrace")
    rig.graph.remove_sink(a)
    before = len(heard.blocks)
    rig.run(0.2)
    assert node.sink is first and len(heard.blocks) > before and rig.graph.default is first


def test_sink_or_source_added_during_playback_runs_like_others() -> None:
    rig = Rig()
    rig.capture()
    node = add(rig)
    rig.run(0.1)
    made, source = rig.graph.add_sink("music"), rig.graph.add_source("mic", "")
    rig.graph.move_stream(node, made)
    rig.run(0.1)
    assert made.state is source.state is NodeState.RUNNING
    rig.graph.deactivate(node, "paused")
    rig.run(30)
    assert made.state is source.state is rig.sink.state is NodeState.IDLE


def test_states_have_a_trace_and_lanes_are_reused() -> None:
    rig = Rig()
    rig.capture()
    nodes = [add(rig) for _ in range(5)]
    pool = rig.graph._lanes.pools[0]
    lanes = len(pool.owners)
    rig.run(0.1)
    for node in nodes:
        rig.graph.deactivate(node, "paused")
    assert nodes[0].state is NodeState.IDLE and nodes[0].trace[-1].cause == "paused"
    for node in nodes:
        rig.graph.activate(node)
    assert len(pool.owners) == lanes and pool.taken == 5


def test_lane_ring_wraps_without_artefacts() -> None:
    rig = Rig()
    heard = rig.capture()
    signal = sine(3.0)

    class Play(Tone):
        at = 0

        def pull(self, out: Samples) -> int:
            n = min(len(out), len(signal) - self.at)
            out[:n] = signal[self.at : self.at + n]
            self.at += n
            return n

    node = Stream(rig.graph.ids.take(), "x", default_map(2), feed=Play(), bulk_frames=5000)
    rig.graph.add_stream(node, rig.sink)
    rig.graph.activate(node)
    rig.run(3.5)
    assert np.array_equal(heard.sound[: len(signal)], signal)


def test_number_of_streams_is_limited() -> None:
    from millrace.graph import accounts as module

    rig = Rig()
    for _ in range(module.STREAMS_MAX):
        rig.graph.add_stream(Stream(rig.graph.ids.take(), "x", default_map(2), feed=Tone()), rig.sink)
    with pytest.raises(GraphError, match="2048"):
        rig.graph.add_stream(Stream(rig.graph.ids.take(), "x", default_map(2), feed=Tone()), rig.sink)


def test_unheard_sink_is_metered_and_heard_immediately_when_tapped() -> None:
    rig = Rig()
    music = rig.graph.add_sink("music")
    node = add(rig)
    rig.graph.move_stream(node, music)
    rig.run(0.5)
    assert music.level == 0.5
    assert node.feed.left <= (1 << 40) - 24_000  # type: ignore[attr-defined]
    rig.graph.link(music, rig.sink)
    heard = rig.capture()
    rig.run(0.1)
    assert heard.sound[-1, 0] == 0.5


def test_deadline_is_never_before_its_position() -> None:
    for rate in (44_100, 11_025, 48_000):
        rig = Rig(rate=rate)
        add(rig)
        rig.run(0.01)
        deadline = rig.graph.next_timeout()
        assert deadline is not None and deadline * rate // 1_000_000_000 >= rig.graph.position


def test_frames_pulled_from_client_are_kept_at_any_uptime() -> None:
    """After ten years; any work that grows with the clock's value would not finish."""
    pool, long = LanePool(default_map(2), 1 << 15), 10 * 365 * 24 * 3600 * 48_000
    stream = Stream(1, "one", default_map(2), {})
    ramp = np.repeat(np.arange(20_000, dtype=np.float32)[:, None], 2, axis=1)
    stream.stash = ramp
    pool.add(stream)
    pool.begin(stream.lane, stream, long)
    pool.remove(stream, long + 500, keep=True)
    assert stream.stash is not None and np.array_equal(stream.stash, ramp[500:])


def test_lane_waiting_for_plan_keeps_waiting_when_time_jumps() -> None:
    pool = LanePool(default_map(2), 4096)
    stream = Stream(1, "tone", default_map(2), feed=Tone())
    pool.add(stream)
    pool.jump(0, 48_000)
    assert pool.waits(stream.lane)
    pool.begin(stream.lane, stream, 48_000)
    assert not pool.waits(stream.lane) and pool.due == 48_000


def test_flush_frees_wide_lane_of_paused_stream_too() -> None:
    rig = Rig()
    rig.capture()
    node = add(rig, bulk_frames=20_000)
    rig.run(0.1)
    rig.graph.deactivate(node, "paused")
    assert node.stash is not None and node.account.part("lane") > 0
    rig.graph.discard(node)
    assert node.stash is None and node.account.part("lane") == 0
    assert rig.graph.ahead(node) == 0


def test_stream_removed_before_its_lane_begins_keeps_its_frames() -> None:
    pool = LanePool(default_map(1), 64)
    stream = Stream(1, "tone", default_map(1), feed=Tone(1))
    stream.stash = np.ones((5, 1), np.float32)
    pool.add(stream)
    pool.remove(stream, 100, keep=True)
    assert stream.stash is not None and len(stream.stash) == 5


def raised(stream: Stream, error: Exception) -> None:
    raise error


def test_jump_takes_frames_along_and_not_the_silence_after_them() -> None:
    pool = LanePool(default_map(1), 64)
    tone = Tone(1, frames=10)
    stream = Stream(1, "tone", default_map(1), feed=tone)
    pool.add(stream)
    pool.begin(stream.lane, stream, 100)
    list(pool.service(100, 16, raised))
    pool.jump(105, 200)
    assert pool.ahead(stream, 200) == 5
    tone.left = 64
    list(pool.service(200, 16, raised))
    assert pool.data[stream.lane][[pool.at(position) for position in range(200, 216)]].all()


def test_position_never_goes_back_when_playback_restarts() -> None:
    rig = Rig()
    heard = rig.capture()
    node = add(rig)
    rig.run(0.1)
    rig.graph.deactivate(node, "paused")
    while rig.graph.running:
        rig.run(0.001)
    ahead = rig.graph.position
    assert ahead > rig.now_ns * rig.graph.rate // NS_PER_S
    rig.graph.activate(node)
    rig.run(0.1)
    assert heard.positions == sorted(set(heard.positions)) and heard.positions[-1] > ahead
