"""What is done for all subscribers of a track is done in steps: to give them a packet, to end it, to join and leave."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from millrace.graph.packetdemand import Wishes
from millrace.graph.pictures import Overlay
from millrace.graph.seat import Watcher
from millrace.guest.viewervideos import ViewerVideos
from millrace.media.format import VideoFormat
from millrace.media.packet import NO_DEMAND, Demand, End, Flags, KeyFrame, Kind, Packet, Parameters
from millrace.pixels.rects import Rect
from millrace.rights.model import OWNER
from millrace.units import NS_PER_S
from tests.films import COMPOSES, Seeing
from tests.fuzz import spiceserver as server
from tests.gops import WATCHER, Decoder
from tests.packetworld import World
from tests.spicemachine import WHOLE, Machine, Sink
from tests.spicewire import noise
from tests.watch import Desk


def half_given(count: int) -> tuple[World, list[Decoder], list[Packet]]:
    """A packet that half of so many subscribers have got so far."""
    world, sinks = World(), [Decoder() for _ in range(count)]
    source = world.source
    for sink in sinks:
        source.track.join(sink, WATCHER, 0)
    (first,) = source.picture(key=True)
    packet = Packet(1, 0, 1, 1, 1, 1, Flags.END | Flags.KEY, first.payload)
    steps = source.publisher.push_in_steps(packet, count // 2)
    next(steps)
    assert [len(sink.packets) for sink in sinks] == [2] * (count // 2) + [1] * (count // 2)
    return world, sinks, [first, packet]


def test_packet_is_given_to_so_many_subscribers_at_a_time() -> None:
    world, sinks, packets = half_given(8)
    assert world.source.track.go_on(4)
    assert all(sink.packets == packets for sink in sinks)


def test_whatever_is_pushed_next_comes_after_the_packet_for_everybody() -> None:
    for then in (
        lambda world: world.source.publisher.push(Parameters(1, "h264", VideoFormat(8, 8))),
        lambda world: world.source.publisher.push(End("over")),
        lambda world: world.source.track.publish(world.source),
    ):
        world, sinks, packets = half_given(8)
        then(world)
        assert all(sink.packets == packets for sink in sinks)
        assert world.source.track.go_on(1)
        assert all(sink.packets == packets for sink in sinks)


def test_who_leaves_meanwhile_gets_no_more_and_who_joins_has_it_from_the_cache() -> None:
    source = World().source
    early, late, new = Decoder(), Decoder(), Decoder()
    source.track.join(early, WATCHER, 0)
    leaves = source.track.join(late, WATCHER, 0)
    (first,) = source.picture(key=True)
    steps = source.publisher.push_in_steps(Packet(1, 0, 1, 1, 1, 1, Flags.END | Flags.KEY, first.payload), 1)
    next(steps)
    leaves.leave()
    source.track.join(new, WATCHER, 0).upstream(KeyFrame(), NS_PER_S)
    assert not list(steps)
    assert [len(sink.packets) for sink in (early, late, new)] == [2, 1, 1] and source.keys_asked


def spice(viewers: int, videos: int) -> tuple[Machine, list[list[Sink]], list[int]]:
    """A SPICE server's videos, which so many viewers are sent; and how many of their sinks got something in a step."""
    most = [0]

    class Watched(Machine):
        def looks(self) -> None:
            most[0] = max(most[0], (now := sum(len(sink.items) for sink in every)) - most[1])
            most[1] = now

    most.append(0)
    every: list[Sink] = []
    made, rows = Watched(), list[list[Sink]]()
    made.says(server.surface(640, 480), server.draw_copy(WHOLE, server.bitmap(noise(WHOLE.width, WHOLE.height))))
    made.says(*(server.stream_create(n, Rect(64 * (n % 9), 64 * (n // 9), 64, 64), 2) for n in range(videos)))
    for track in made.tracks:
        rows.append([Sink() for _ in range(viewers)])
        for sink in rows[-1]:
            track.join(sink, WATCHER, made.now_ns)
    every += [sink for row in rows for sink in row]
    made.looks()
    most[0] = 0
    return made, rows, most


def test_frame_of_a_spice_server_is_given_to_a_few_viewers_in_a_step() -> None:
    made, (sinks,), most = spice(60, 1)
    frame = server.vp8(np.full((64, 64, 4), 90, np.uint8), 1)[0]
    assert made.says(server.stream_data(0, 5, frame)) >= 60 // 8
    made.looks()
    assert all(isinstance(sink.items[-1], Packet) for sink in sinks) and most[0] <= 8


def test_videos_that_end_at_once_are_ended_in_steps() -> None:
    made, rows, most = spice(20, 30)
    made.says(server.message(126))
    made.looks()
    assert all(isinstance(sink.items[-1], End) for row in rows for sink in row) and most[0] <= 2 * 20
    assert not list(made.tracks) and made.door.screen is not None and not made.door.screen.overlays


def test_whatever_may_give_the_screen_another_mode_is_a_step_of_its_own() -> None:
    made = Machine()
    assert made.says(*(server.surface(60 + n % 2, 40) for n in range(50))) >= 50
    assert made.says(*(server.heads(Rect(n % 2, 0, 40, 40)) for n in range(50))) >= 50


def test_videos_of_many_viewers_are_joined_and_left_in_steps() -> None:
    desk = Desk()
    painter = desk.add(width=640, height=480)
    viewers = [Seeing(desk, COMPOSES) for _ in range(12)]
    overlays = []
    for n in range(20):
        track = desk.home.tracks.add(Kind.VIDEO)
        track.publish(Wants()).push(Parameters(0, "vp8", VideoFormat(64, 64)))
        overlays.append(Overlay(track.info.key, Rect(64 * (n % 5), 64 * (n // 5), 64, 64)))
    desk.run(100)
    (group,) = desk.groups

    def joined() -> int:
        return sum(len(viewer.session.videos._videos) for viewer in viewers)

    for lying in (overlays, overlays[:1]):
        painter.screen.painted([], desk.now_ns, overlays=lying)
        before, most = joined(), 0
        for _ in group._round():
            most, before = max(most, abs(joined() - before)), joined()
        assert most == 1 and before == len(viewers) * len(lying)


class Wants:
    """A source that nobody's wishes change."""

    def demand(self, wanted: Demand) -> None: ...

    def upstream(self, event: object, who: Watcher | None) -> None: ...


def test_viewer_that_is_hidden_between_two_steps_joins_no_more_and_all_when_it_looks_again() -> None:
    desk = Desk()
    painter = desk.add(width=640, height=480)
    viewer = Seeing(desk, COMPOSES)
    overlays = []
    for n in range(4):
        track = desk.home.tracks.add(Kind.VIDEO)
        track.publish(Wants()).push(Parameters(0, "vp8", VideoFormat(64, 64)))
        overlays.append(Overlay(track.info.key, Rect(64 * n, 0, 64, 64)))
    desk.run(100)
    lying, videos = tuple(overlays), viewer.session.videos
    painter.screen.painted([], desk.now_ns, overlays=lying)
    steps = videos.follow(lying, desk.now_ns)
    next(steps), next(steps)
    assert len(videos._videos) == 2
    videos.hide()
    assert not list(steps) and not videos._videos
    list(videos.follow(lying, desk.now_ns))
    assert len(videos._videos) == 4


def test_what_happens_while_the_videos_of_viewers_are_looked_at_has_another_round(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    desk = Desk()
    desk.add()
    Seeing(desk, COMPOSES)
    desk.run(100)
    (group,), looks, follow = desk.groups, list[int](), ViewerVideos.follow

    def followed(self: ViewerVideos, overlays: tuple[Overlay, ...], now_ns: int) -> Iterator[None]:
        looks.append(now_ns)
        if len(looks) == 2:
            group.wake()
        return follow(self, overlays, now_ns)

    monkeypatch.setattr(ViewerVideos, "follow", followed)
    group.wake()
    desk.turns.run()
    assert len(looks) == 4, "two in each round"


def test_equal_wishes_are_merged_at_once() -> None:
    wishes, slow = Wishes(), Demand(bitrate_max=9)
    for wish in (Demand(), Demand(), slow):
        wishes.add(wish)
    assert wishes.merged(None) == Demand(3, 9) and not wishes.played and len(wishes._counts) == 2
    wishes.remove(slow)
    wishes.add(Demand(played_ns=5))
    assert wishes.played and wishes.merged(5) == Demand(3, played_ns=5)
    wishes.clear()
    assert wishes.merged(None) == NO_DEMAND


def test_track_with_many_subscribers_counts_each() -> None:
    track = World().source.track
    held = [track.join(Sink(), Watcher(f"viewer/{n}", OWNER), 0) for n in range(50)]
    assert track.demand == Demand(50)
    for one in held[:20]:
        one.leave()
    held[30].wish(Demand(2))
    held[0].wish(Demand(7))
    assert track.demand == Demand(31)
