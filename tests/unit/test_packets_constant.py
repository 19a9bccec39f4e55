"""What a push and a drop cost, counted in lines of code that run: a constant on average, however much waits."""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from millrace.graph.packetlane import PICTURES_NS_MAX
from millrace.graph.packetqueue import BYTES_MAX, LANE_BYTES, PACKETS_MAX
from millrace.media.packet import End, Flags, Packet
from millrace.units import NS_PER_MS, NS_PER_S
from tests.gops import PICTURES, SOUND
from tests.packetworld import World

EACH = 500
"""More lines than one push runs, and than it takes to drop one packet."""


def lines(work: Callable[[], object]) -> int:
    """How many lines of the queue's code run."""
    ran = 0

    def line(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal ran
        ran += event == "line"
        return line

    def call(frame: FrameType, event: str, arg: Any) -> Any:
        return line if "millrace/graph/" in frame.f_code.co_filename else None

    before = sys.gettrace()
    sys.settrace(call)
    try:
        work()
    finally:
        sys.settrace(before)
    return ran


def stalled(*kinds: Any, count: int) -> World:
    """A subscriber that takes nothing, and for which so many tiny key frames wait."""
    world = World(*kinds)
    world.join()
    for _ in range(count):
        world.source.picture(key=True, size=0)
    return world


def test_what_is_late_goes_in_one_pass() -> None:
    world = stalled(count=2_000)
    world.source.tick(PICTURES_NS_MAX + 1)
    assert lines(lambda: world.source.picture(key=True, size=0)) < EACH * 2_000
    assert world.lanes[0].dropped == 2_000
    world.take()
    assert world.decoder.decoded == [2_000]


@pytest.mark.parametrize("tick_ns", [0, NS_PER_MS // 4])
def test_push_onto_a_full_or_late_lane_costs_a_constant(tick_ns: int) -> None:
    world = stalled(count=0)
    for _ in range(PACKETS_MAX + 100):
        world.source.tick(tick_ns)
        world.source.picture(key=True, size=0)
    assert world.lanes[0].dropped >= 100 and len(world.lanes[0]) > 1_900

    def more() -> None:
        for _ in range(100):
            world.source.tick(tick_ns)
            world.source.picture(key=True, size=0)

    assert lines(more) < EACH * 100


def test_pictures_that_make_way_for_late_sound_go_in_one_pass() -> None:
    world = World(SOUND, PICTURES)
    world.join()
    sound, pictures = world.sources
    sound.picture()
    for _ in range(1_900):
        pictures.picture(key=True, size=0)
    sound.tick(2 * NS_PER_S)
    assert lines(lambda: sound.picture()) < EACH * 1_900
    assert world.lanes[1].dropped == 1_899


def test_looking_for_disposable_pictures_costs_no_more_than_what_was_pushed_since() -> None:
    world = World()
    world.join()
    source = world.source
    source.picture(key=True, size=0)
    for _ in range(1_000):
        source.picture(size=0)

    def more() -> None:
        for _ in range(100):
            source.picture(disposable=True, size=BYTES_MAX // 2)
            source.picture(size=0)
            source.picture(disposable=True, size=BYTES_MAX // 2)

    assert lines(more) < EACH * 300 and world.lanes[0].dropped == 200


def test_lane_that_was_left_or_has_ended_is_freed_at_once() -> None:
    for leave in (lambda world: world.queue.leave(world.lanes[0]), lambda world: world.queue.close(), ended):
        world = stalled(count=3)
        gone = weakref.ref(world.lanes[0])
        gc.disable()
        try:
            leave(world)
            world.lanes.clear()
            world.decoders.clear()
            assert gone() is None
        finally:
            gc.enable()


def ended(world: World) -> None:
    """Its track ends, and all of it is taken."""
    world.source.publisher.push(End("over"))
    world.take()


def test_every_lane_is_charged() -> None:
    world = World(*[PICTURES] * 60)
    world.join()
    assert world.account.held >= 60 * LANE_BYTES
    for lane in world.lanes:
        world.queue.leave(lane)
    assert not world.account.held


def test_what_lanes_take_is_no_room_for_packets() -> None:
    world = World(*[PICTURES] * 60)
    world.join()
    world.budget.limit = world.budget.held
    flags = Flags.END | Flags.KEY
    world.source.publisher.push(Packet(0, 0, 0, 0, 1, 0, flags, bytes(30_000)))
    assert world.lanes[0].dropped == 1 and not world.queue.packets
