"""What is said of a listener: its explanation and its latency, of a guest in virtual time."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from millrace.codec.settings import CodecSettings, changed
from millrace.control.verbs import configure
from millrace.errors import ConfigError, GraphError
from millrace.guest.guest import Guest
from millrace.guest.listener import ListenerSession
from millrace.observe.explain import Step
from millrace.observe.explainlistener import NAMED_MAX, explain_heard, explain_listener
from millrace.observe.latency import heard_breakdown
from millrace.rights.model import OWNER
from millrace.units import NS_PER_MS
from millrace.wire.peer.messages import Configure, Hello, Report, encode_message
from tests.unit.test_graph import add
from tests.unit.test_guest_home import House


class Room:
    """A guest with listeners."""

    def __init__(self) -> None:
        self.house = House()
        self.viewers: list[Any] = []
        of_listener = SimpleNamespace(of_listener=lambda key: [one for one in self.viewers if one.listener == key])
        guest: Any = SimpleNamespace(name="alice", graph=self.house.rig.graph, viewers=of_listener, sessions=[])
        self.guest: Guest = guest

    def listener(self, number: int, **hello: Any) -> ListenerSession:
        home, now = self.house.home, self.house.rig.now_ns
        session = ListenerSession(home, number, "10.0.0.7", lambda messages: None, lambda: True, now, OWNER)
        session.receive(encode_message(Hello(name=f"desk{number}", **hello)), now)
        return session


@pytest.fixture
def room() -> Room:
    return Room()


def said(steps: list[Step], stage: str) -> str:
    return "\n".join(f"{'* ' if step.changes else ''}{step.text}" for step in steps if step.stage == stage)


def report(session: ListenerSession, room: Room, **facts: Any) -> None:
    session.receive(encode_message(Report(**facts)), room.house.rig.now_ns)


def test_listener_is_explained_from_its_sink_to_its_ear(room: Room) -> None:
    graph, session = room.house.rig.graph, room.listener(7)
    steps = explain_listener(room.guest, session)
    (sink,) = graph.sinks.values()
    assert said(steps, "hears") == f"{sink.key}, in which nothing plays"
    assert said(steps, "listener") == "'desk7' at 10.0.0.7, playing on an unnamed output; allowed by owner"
    assert said(steps, "codec") == "* Opus at 128 kb/s, complexity 5, VBR; encoded for it alone"
    assert said(steps, "settings").endswith("channels=auto, latency=normal") and not said(steps, "faults")
    assert said(steps, "latency") == "no latency: it writes a file or is not playing"
    assert said(steps, "microphone") == "off" and not said(steps, "viewer") and not said(steps, "channels")
    stream = add(room.house.rig)
    graph.set_gains(sink, (0.125, 0.125))
    parts = {"path": 3 * NS_PER_MS, "network": NS_PER_MS, "codec": 6 * NS_PER_MS, "device": 5 * NS_PER_MS}
    report(session, room, output="device", latency_ns=14 * NS_PER_MS, breakdown=parts, underruns=1, lost=2, skipped=3)
    room.viewers.append(SimpleNamespace(key="viewer/9", listener="listener/7"))
    steps = explain_heard(room.guest, session)
    assert said(steps, "hears") == f"{sink.key}, in which {stream.key} 'tone' plays"
    assert said(steps, f"sink {sink.name}") == "* 50 %" and said(steps, "limiter").startswith("peaks over")
    assert "playing on device;" in said(steps, "listener") and said(steps, "codec").startswith("* Opus")
    assert said(steps, "network") == "1.0 ms: half the shortest round trip"
    assert said(steps, "device") == "5.0 ms: device"
    assert said(steps, "latency").startswith("latency 14.0 ms")
    faults = "1 underrun, 2 packets lost, 3 frames skipped since it joined; `millrace incidents --about listener/7`"
    assert said(steps, "faults") == f"* {faults}" and said(steps, "line") == "0 kb/s are sent; 0 % lost lately"
    assert said(steps, "viewer") == "viewer/9: pictures in time with this sound"
    assert explain_heard(room.guest, stream)[0].stage == "client", "a stream is explained as before"


def test_settings_and_shared_encoder_of_a_listener_are_explained(room: Room) -> None:
    session = room.listener(1)
    others = [room.listener(number) for number in range(2, NAMED_MAX + 4)]
    shared = said(explain_listener(room.guest, session), "codec")
    assert shared.endswith(
        "encoded once for this and listener/2, listener/3, listener/4, listener/5, listener/6 and 2 more"
    )
    others[0].receive(encode_message(Configure({"codec": "s24", "channels": "mono"})), room.house.rig.now_ns)
    steps = explain_listener(room.guest, others[0])
    assert said(steps, "codec") == "s24, lossless; encoded for it alone", "not a change"
    assert said(steps, "channels") == "* 2 channels mixed to 1, as channels=mono"
    assert said(steps, "settings") == "codec=s24, frame=auto, channels=mono, latency=normal"


def test_listener_without_a_sink_is_explained(room: Room) -> None:
    session = room.listener(7)
    session.closed()
    steps = explain_listener(room.guest, session)
    assert said(steps, "sink") == "none now, so it hears nothing" and not said(steps, "codec")
    found = heard_breakdown(session)
    assert (found.stream, found.name, found.listeners[0].stages) == ("", "", [])


def test_latency_of_a_listener_is_from_the_mix_on(room: Room) -> None:
    session = room.listener(7)
    (sink,) = room.house.rig.graph.sinks.values()
    assert heard_breakdown(session).listeners[0].reported_ms is None
    report(session, room, latency_ns=14 * NS_PER_MS, breakdown={"path": 3 * NS_PER_MS, "codec": 11 * NS_PER_MS})
    found = heard_breakdown(session)
    assert (found.stream, found.name) == (sink.key, sink.name)
    (way,) = found.listeners
    assert (way.listener, way.name, way.sum_ms, way.reported_ms) == ("listener/7", "desk7", 14.0, 14.0)


def test_pictures_of_a_listener_without_a_viewer_are_refused_by_its_state(room: Room) -> None:
    with pytest.raises(GraphError, match=r"picture, fps: listener/7 has no viewer; `millrace ls` lists viewers"):
        configure(room.guest, room.listener(7), {"picture": "2M", "fps": "30"})


@pytest.mark.parametrize("text", ["61ms", "1ms", "0", "7ms", "1us"])
def test_frame_that_opus_does_not_have_is_told_those_that_it_has(text: str) -> None:
    with pytest.raises(ConfigError, match=rf"frame: '{text}' is not one of auto, 2.5ms, 5ms, 10ms, 20ms, 40ms, 60ms"):
        changed(CodecSettings(), {"frame": text})
