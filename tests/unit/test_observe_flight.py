"""The flight recorder: what it records of a guest, how much, and for how long."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from millrace.observe.flight import OBJECTS_SAMPLED_MAX, SECONDS, FlightRecorder, sample
from millrace.observe.views import viewer_view
from millrace.pixels.rects import Rect
from millrace.sim.rig import Rig
from millrace.units import NS_PER_MS, NS_PER_S
from millrace.wire.peer.messages import Report
from tests.unit.test_graph import add
from tests.watch import Desk, Remote


def guest(rig: Rig, name: str = "alice", sessions: list[Any] | None = None, desk: Desk | None = None) -> Any:
    """A guest as the recorder sees it."""
    screens: Any = [] if desk is None else desk.home.screens
    viewers = SimpleNamespace(sessions=[]) if desk is None else desk.viewers
    return SimpleNamespace(name=name, graph=rig.graph, sessions=sessions or [], screens=screens, viewers=viewers)


def listener(number: int, rtt_ns: int | None = None, bitrate: Callable[[], int] = lambda: 64_000, **told: Any) -> Any:
    """A listener that has reported this."""
    outlet = SimpleNamespace(key=f"listener/{number}", queued=3, dropped_packets=7)
    return SimpleNamespace(outlet=outlet, report=Report(**told), rtt_ns=rtt_ns, bitrate=bitrate)


def test_sample_records_state_of_each_object() -> None:
    rig = Rig()
    node = add(rig, value=0.5)
    node.bulk_frames = 9_600
    rig.run(0.505)
    node.underruns = 4
    rig.graph.late_cycles = 2
    told = {"latency_ns": 45_678_900, "fill_ns": 12_340_000, "target_ns": 40_060_000, "drift_ppm": 3.25}
    heard = listener(8, 1_234_567, underruns=1, lost=2, skipped=5, **told)
    seen = sample(guest(rig, sessions=[heard, listener(9)]), rig.now_ns)
    state, ahead_ms, underruns = seen.streams[node.key]
    assert (state, underruns) == ("running", 4) and ahead_ms == round(rig.graph.ahead(node) / 48, 1) > 0
    assert msgspec.to_builtins(seen.listeners["listener/8"]) == {
        "latency_ms": 45.68, "fill_ms": 12.3, "target_ms": 40.1, "drift_ppm": 3.25, "underruns": 1, "lost": 2,
        "skipped": 5, "queued": 3, "dropped": 7, "bitrate": 64_000, "rtt_ms": 1.23,
    }  # fmt: skip
    silent = seen.listeners["listener/9"]
    assert silent.latency_ms is None and silent.rtt_ms is None, "no latency rather than 0 ms"
    assert seen.levels[rig.sink.key] == 0.5 and set(seen.levels) == {mix.key for mix in rig.graph.mixes()}
    assert (seen.host_ns, seen.running, seen.late_cycles) == (rig.now_ns, True, 2)
    assert seen.position == rig.graph.position > 0 and seen.quantum_ms == rig.graph.quantum_ns / NS_PER_MS


def test_large_guest_is_recorded_in_part() -> None:
    rig = Rig()
    keys = [add(rig).key for _ in range(OBJECTS_SAMPLED_MAX + 5)]
    for number in range(OBJECTS_SAMPLED_MAX + 5):
        rig.graph.add_sink(f"sink{number}")
    seen = sample(guest(rig, sessions=[listener(n) for n in range(OBJECTS_SAMPLED_MAX + 5)]), 0)
    assert list(seen.streams) == keys[:OBJECTS_SAMPLED_MAX]
    assert len(seen.listeners) == len(seen.levels) == OBJECTS_SAMPLED_MAX


def test_guest_that_is_watched_is_recorded_though_nothing_plays() -> None:
    desk, recorder = Desk(), FlightRecorder()
    screen = desk.add(width=320, height=200)
    remote = Remote(desk)
    for colour in range(60):
        screen.fill(Rect(0, 0, 320, 200), colour, desk.now_ns)
        desk.run(35)
    watched = guest(Rig(), desk=desk)
    recorder.note(watched, desk.now_ns)
    (seen,) = recorder.of("alice")
    assert not seen.running and seen.screens[screen.screen.key][0] == pytest.approx(28, rel=0.1)
    viewer, view = seen.viewers[remote.session.key], viewer_view(remote.session)
    assert viewer.latency_ms == view.latency_ms is not None and viewer.ledger_ms == view.ledger_ms
    assert (viewer.screen, viewer.fps, viewer.skipped) == (screen.screen.key, view.fps, 0)
    remote.leave()
    recorder.note(watched, desk.now_ns)
    assert recorder.of("alice") == [seen]


def test_last_minute_of_each_running_guest_is_kept() -> None:
    playing, idle, recorder = Rig(), Rig(), FlightRecorder()
    node = add(playing)
    guests = [guest(playing), guest(idle, "bob")]
    for second in range(SECONDS + 7):
        playing.run(0.01)
        for one in guests:
            recorder.note(one, second * NS_PER_S)
    kept = recorder.of("alice")
    assert [one.host_ns // NS_PER_S for one in kept] == list(range(7, SECONDS + 7))
    assert recorder.of("bob") == [] == recorder.of("nobody")
    playing.graph.remove_stream(node)
    playing.run(5.0)
    for one in guests:
        recorder.note(one, 100 * NS_PER_S)
    assert recorder.of("alice") == kept, "an idle guest's last minute is kept"
    kept.clear()
    assert len(recorder.of("alice")) == SECONDS, "each caller gets its own list"
    recorder.forget("bob")
    recorder.forget("alice")
    recorder.forget("alice")
    assert recorder.of("alice") == []
