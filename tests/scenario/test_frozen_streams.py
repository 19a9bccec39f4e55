"""A playback stream that is frozen to a value plays on from it, in another guest's graph, sample for sample."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from millrace.doors.pulse.playback import PlaybackStream
from millrace.doors.pulse.settings import LOW_DELAY_NS
from millrace.doors.pulse.state import PlaybackState
from millrace.dsp.convert import SampleFormat, Samples
from millrace.graph.model import Stream
from millrace.sim.rig import Player, Rig
from millrace.sim.signals import sine
from millrace.units import NS_PER_MS
from millrace.wire.pulse.constants import Command
from millrace.wire.pulse.tagstruct import Spec

LONG, SHORT = 400, 60
assert SHORT * NS_PER_MS < LOW_DELAY_NS < LONG * NS_PER_MS
"""Milliseconds of buffer: with a short one, the resampler is the one with low delay."""


def continued(rig: Rig, player: Player) -> None:
    """Replace the stream by another one, made from its state alone; its node passes on what was not heard."""
    old = rig.playback_at(player.index)
    active = old.node.active
    rig.graph.deactivate(old.node, "frozen")
    frozen = msgspec.msgpack.encode(old.freeze())
    node = Stream(old.node.id, old.node.name, old.node.positions)
    stream = PlaybackStream(old.owner, msgspec.msgpack.decode(frozen, type=PlaybackState), node, rig.graph)
    sink, node.stash, node.underruns = old.node.sink, old.node.stash, old.node.underruns
    client = player.client.server
    del client.streams[player.channel], rig.door.playback[old.node.id]
    rig.graph.remove_stream(old.node)
    rig.door.begin_playback(stream, sink)
    client.keep_playback(stream)
    player.index = rig.door.indexes.inputs.of(node)
    if active:
        rig.graph.activate(node)


def heard(rate: int, buffer_ms: int, freezing: bool, glide: bool = False) -> tuple[Samples, list[int], Player]:
    rig = Rig()
    client, monitor = rig.client(), rig.capture()
    sound = (sine(1.0, 997, rate) * 32_767).astype("<i2").tobytes()
    tlength = rate * 4 * buffer_ms // 1_000
    player = client.play(Spec(SampleFormat.S16LE, 2, rate), (1, 2), sound, tlength=tlength, variable_rate=glide)
    for _ in range(9):
        rig.run(0.073)
        if freezing:
            continued(rig, player)
    drained = player.drain()
    for _ in range(4):
        rig.run(0.11)
        if freezing and drained not in client.replies:
            continued(rig, player)
    rig.run(1.0)
    assert drained in client.replies and rig.troubles == [] and not client.named(Command.UNDERFLOW)[1:]
    return monitor.trimmed(), player.requests, player


@pytest.mark.parametrize("buffer_ms", [LONG, SHORT])
@pytest.mark.parametrize(("rate", "glide"), [(48_000, False), (44_100, False), (44_100, True), (8_000, False)])
def test_player_continues_without_difference(rate: int, buffer_ms: int, glide: bool) -> None:
    (whole, asked, _), (frozen, asked_frozen, player) = (heard(rate, buffer_ms, how, glide) for how in (False, True))
    assert len(frozen) == len(whole) and not len(player.data)
    off = float(np.abs(frozen - whole).max())
    assert off <= (0.0 if rate == 48_000 else 2e-6), off
    assert sum(asked_frozen) == pytest.approx(sum(asked), abs=rate * 4 // 10)
