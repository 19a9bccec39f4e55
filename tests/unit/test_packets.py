"""Packet ports: each rule of graph/packets.py and graph/packetqueue.py, on a synthetic source of groups of pictures."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millrace.budget import Budget
from millrace.errors import BudgetError, GraphError, RightsError
from millrace.graph.packetcache import GROUP_BYTES_MAX, HOLD_STEP, Last
from millrace.graph.packetqueue import BYTES_MAX, PACKETS_MAX, Lane, PacketQueue
from millrace.graph.packets import KEY_FRAME_NS, SUBSCRIBERS_MAX, UNIT_BYTES_MAX, Track
from millrace.graph.seat import Seat, Watcher
from millrace.media.format import DataFormat
from millrace.media.packet import (
    NO_DEMAND,
    Cache,
    Demand,
    End,
    Flags,
    Gap,
    Item,
    KeyFrame,
    Kind,
    Navigation,
    Packet,
    Parameters,
    Seek,
    Segment,
    TrackInfo,
)
from millrace.rights.model import OWNER, Principal, Right
from millrace.units import NS_PER_MS, NS_PER_S
from tests.gops import CAPTIONS, FORMATS, PICTURES, SOUND, THUMBNAILS, WATCHER, Decoder, Source

KIB = 1024


class World:
    """One guest's budget, seat and tracks, and one subscriber's queue with a decoder for each track behind it."""

    def __init__(self, *infos: TrackInfo, memory: int = 256 * 1024 * KIB) -> None:
        self.budget, self.seat = Budget(limit=memory), Seat("default")
        self.sources = [Source(Track(info, self.seat, self.budget)) for info in infos or (PICTURES,)]
        self.account = self.budget.open("listener")
        self.queue = PacketQueue(self.account)
        self.lanes: list[Lane] = []
        self.decoders: dict[Lane, Decoder] = {}

    @property
    def source(self) -> Source:
        return self.sources[0]

    def join(self) -> None:
        for source in self.sources:
            lane = self.queue.join(source.track, WATCHER, source.now_ns)
            self.lanes.append(lane)
            self.decoders[lane] = Decoder(grouped=source.track.info == PICTURES)

    def take(self, most: int = 1 << 30) -> list[Item]:
        out = []
        while most and (taken := self.queue.take(self.source.now_ns)) is not None:
            lane, items = taken
            for item in items:
                self.decoders[lane].push(item)
            out += items
            most -= 1
        return out

    @property
    def decoder(self) -> Decoder:
        return self.decoders[self.lanes[0]]


# -- joining -------------------------------------------------------------------------------------


def test_new_subscriber_gets_parameters_and_short_group_immediately() -> None:
    world = World()
    world.source.segment()
    world.source.group(3)
    world.join()
    taken = world.take()
    assert [type(item) for item in taken] == [Parameters, Segment] + [Packet] * 4
    assert world.source.keys_asked == []
    world.source.picture()
    assert len(world.take()) == 1 and world.decoder.gaps == []


@pytest.mark.parametrize(("deltas", "size"), [(20, 100), (3, GROUP_BYTES_MAX // 3)])
def test_long_group_is_not_replayed_and_key_frame_is_requested(deltas: int, size: int) -> None:
    world = World()
    world.source.group(deltas, size)
    world.join()
    world.source.picture(size=10)
    assert [type(item) for item in world.take()] == [Parameters]
    assert len(world.source.keys_asked) == 1
    world.source.picture(key=True)
    assert len(world.take()) == 1 and world.decoder.gaps == []


def test_replayed_group_counts_against_budget_only() -> None:
    world = World()
    world.source.picture(key=True, size=BYTES_MAX + 1)
    world.join()
    world.source.picture(size=100)
    assert world.queue.held > BYTES_MAX > world.queue.bytes and world.account.held >= world.queue.held
    world.take()
    assert len(world.decoder.decoded) == 2 and world.account.held == HOLD_STEP


def test_new_subscriber_without_room_for_group_is_refused_cleanly() -> None:
    world = World(memory=3 * 1024 * KIB)
    world.source.picture(key=True, size=1_900_000)
    with pytest.raises(BudgetError):
        world.join()
    assert world.queue.lanes == [] and world.source.demands == [NO_DEMAND] and world.account.held == 0


def test_captions_and_stills_give_new_subscriber_the_last_one() -> None:
    world = World(CAPTIONS, THUMBNAILS)
    for source in world.sources:
        for _ in range(3):
            source.picture(key=True, parts=2)
            source.tick(10 * NS_PER_S)
    world.join()
    assert [decoder.decoded for decoder in world.decoders.values()] == [[], []]
    world.take()
    assert [decoder.decoded for decoder in world.decoders.values()] == [[2], [2]]


def test_access_unit_is_never_delivered_without_its_beginning() -> None:
    world = World(SOUND)
    (whole,) = world.source.picture()
    halves = [Flags(0), Flags.END]
    for part, flags in enumerate(halves):
        if part:
            world.join()
        number = whole.number + 1 + part
        world.source.publisher.push(Packet(number, 0, 1, 1, 1, 1, flags, whole.payload))
    assert [type(item) for item in world.take()] == [Parameters]


# -- source errors --------------------------------------------------------------------------------


def test_source_that_breaks_a_rule_is_refused_and_track_unchanged() -> None:
    world = World()
    world.join()
    source = world.source
    (good,) = source.picture(key=True)
    source.tick()
    track, push = source.track, source.publisher.push
    bad: list[tuple[Item, str]] = [
        (Packet(5, 9, 0, 0, 1, 0, Flags.END, b""), "were not given"),
        (good, "count them upward"),
        (Packet(5, 0, -1, -1, 1, 0, Flags.END, b""), "mark a discontinuity"),
        (Packet(5, 0, 1, 1, 1, 0, Flags.END, bytes(UNIT_BYTES_MAX)), "an access unit of more"),
        (Parameters(0, "h264", FORMATS[Kind.VIDEO]), "count them upward"),
        (Parameters(1, "h264", DataFormat("text/vtt")), "is not its format"),
        (Parameters(1, "h264", FORMATS[Kind.VIDEO], bytes(1 << 20)), "1048576 bytes of extradata"),
    ]
    for item, words in bad:
        with pytest.raises(GraphError, match=words):
            push(item)
    assert track.generation == 0
    asked = len(source.keys_asked)
    track.ask_key_frame(source.now_ns + NS_PER_S)
    assert len(source.keys_asked) == asked + 1
    push(Packet(5, 0, -1, -1, 1, source.now_ns, Flags.KEY | Flags.END | Flags.DISCONTINUITY, good.payload))
    world.take()
    assert [gap.dropped for gap in world.decoder.gaps] == [4]


def test_parameters_within_access_unit_are_refused() -> None:
    world = World()
    first, _ = world.source.picture(key=True, parts=2, lost=frozenset({1}))
    assert not first.flags & Flags.END
    with pytest.raises(GraphError, match="within an access unit"):
        world.source.parameters()


def test_access_unit_size_is_bounded_over_all_parts() -> None:
    world = World()
    part = UNIT_BYTES_MAX // 3
    push, now_ns = world.source.publisher.push, world.source.now_ns
    push(Packet(0, 0, 0, 0, 1, now_ns, Flags.KEY, bytes(part)))
    push(Packet(1, 0, 0, 0, 1, now_ns, Flags(0), bytes(part)))
    with pytest.raises(GraphError, match="an access unit of more"):
        push(Packet(2, 0, 0, 0, 1, now_ns, Flags.END, bytes(part)))
    push(Packet(2, 0, 0, 0, 1, now_ns, Flags.KEY | Flags.END, bytes(part)))


def test_payloads_are_shared_and_never_copied() -> None:
    world = World()
    made = world.source.picture(key=True)
    decoders = [Decoder(), Decoder()]
    for decoder in decoders:
        world.source.track.join(decoder, WATCHER, 0)
    world.join()
    made += world.source.picture()
    world.take()
    for decoder in (*decoders, world.decoder):
        assert [got.payload is packet.payload for got, packet in zip(decoder.packets, made, strict=True)] == [True] * 2


def test_new_parameters_make_subscribers_wait_for_key_picture() -> None:
    world = World()
    world.join()
    world.source.group(2)
    world.source.parameters()
    world.source.picture()
    world.source.picture(key=True)
    world.take()
    assert world.decoder.decoded == [0, 1, 2, 4] and [gap.dropped for gap in world.decoder.gaps] == [1]


# -- loss ----------------------------------------------------------------------------------------


def test_unannounced_loss_is_detected_and_rest_of_group_dropped() -> None:
    world = World()
    world.join()
    world.source.picture(key=True)
    world.take()
    world.source.picture(lost=frozenset({0}))
    for _ in range(3):
        world.source.tick(NS_PER_S // 4)
        world.source.picture()
    assert world.source.keys_asked == [0, NS_PER_S // 2]  # One on joining, and one for the loss.
    world.source.picture(key=True)
    world.take()
    assert world.decoder.decoded == [0, 5] and [gap.dropped for gap in world.decoder.gaps] == [4]


def test_announced_gap_stops_nothing() -> None:
    world = World()
    world.join()
    world.source.picture(key=True)
    world.source.skip(3)
    world.source.skip(2)
    world.source.picture()
    world.take()
    assert world.decoder.decoded == [0, 1] and [gap.dropped for gap in world.decoder.gaps] == [5]


def test_end_reports_preceding_loss() -> None:
    world = World()
    world.join()
    world.source.picture(key=True)
    world.source.skip(2)
    world.source.publisher.push(End("window closed"))
    assert [type(item) for item in world.take()] == [Parameters, Packet, Gap, End]
    assert world.queue.lanes == [] and world.budget.shares() == {"listener": 0}
    with pytest.raises(GraphError, match="has ended"):
        world.join()
    world.source.publisher.push(End("again"))


def test_new_subscriber_is_told_gaps_in_replayed_group() -> None:
    world = World()
    world.source.picture(key=True)
    world.source.skip(2)
    world.source.picture()
    world.join()
    assert [type(item) for item in world.take()] == [Parameters, Packet, Gap, Packet]
    assert world.decoder.gaps == [Gap(2, 0)]


# -- upstream ------------------------------------------------------------------------------------


def test_key_frames_are_requested_at_most_twice_a_second() -> None:
    world = World()
    source, track = world.source, world.source.track
    source.group(20)
    for _ in range(45):
        track.join(Decoder(), WATCHER, source.now_ns)
        source.tick(20 * NS_PER_MS)
        track.handle_timeout(source.now_ns)
    asked = source.keys_asked
    assert len(asked) == 2 and asked[1] - asked[0] >= KEY_FRAME_NS
    due = track.next_timeout()
    assert due is not None and due > asked[-1]
    source.picture(key=True)
    assert track.next_timeout() is None


def test_source_is_asked_after_all_subscribers_have_the_packet() -> None:
    world = World()
    source, track = world.source, world.source.track
    last, seen = Decoder(), []

    class Asks(Decoder):
        def push(self, item: Item) -> None:
            super().push(item)
            if isinstance(item, Packet):
                subscription.upstream(KeyFrame(), item.arrived_ns)

    source.upstream = lambda event, who: seen.append(len(last.decoded))  # type: ignore[method-assign]
    subscription = track.join(Asks(), WATCHER, 0)
    track.join(last, WATCHER, 0)
    source.tick(NS_PER_S)
    source.picture(key=True)
    source.tick(NS_PER_S)
    source.picture()
    assert seen == [0, 1, 2]


def test_missing_key_frame_is_requested_again_after_a_while() -> None:
    world = World()
    world.source.group(20)
    world.join()
    for _ in range(300):
        world.source.tick(10 * NS_PER_MS)
        world.source.picture(size=10)
    assert len(world.source.keys_asked) == 2


def test_demand_is_merged_and_reported_only_on_change() -> None:
    world = World()
    track, source = world.source.track, world.source
    keyboard = Watcher("listener/2", OWNER)
    world.seat.take(keyboard)
    first = track.join(
        Decoder(),
        WATCHER,
        0,
        Demand(bitrate_max=5_000, latency_ns=10, width_max=640, fps_max=10.0, drop_ratio=0.5, played_ns=7),
    )
    second = track.join(Decoder(), keyboard, 0, Demand(2, 9_000, 20, 1920, 30.0, 0.25, 8))
    assert source.demands[-1] == Demand(3, 5_000, 20, 1920, 30.0, 0.25, 8)
    told = len(source.demands)
    first.wish(Demand(bitrate_max=6_000, latency_ns=10, width_max=640, fps_max=10.0, drop_ratio=0.5))
    assert source.demands[told:] == [Demand(3, 6_000, 20, 1920, 30.0, 0.25, 8)]
    first.wish(Demand(bitrate_max=6_000, latency_ns=5, width_max=320, fps_max=5.0, drop_ratio=0.5))
    assert len(source.demands) == told + 1
    first.wish(Demand(bitrate_max=6_000, width_max=320, drop_ratio=0.75))
    assert len(source.demands) == told + 2 and source.demands[-1].fps_max is None
    first.leave()
    first.leave()
    second.leave()
    assert source.demands[-1] == NO_DEMAND and len(source.demands) == told + 4


def test_plain_watcher_may_request_key_frames_but_not_seek() -> None:
    world = World()
    source = world.source
    mine = source.track.join(Decoder(), WATCHER, 0)
    other = Watcher("listener/2", OWNER)
    theirs = source.track.join(Decoder(), other, 0)
    with pytest.raises(RightsError, match="listener/1 only watches"):
        mine.upstream(Seek(5), 0)
    world.seat.take(WATCHER)
    mine.upstream(Seek(5), 0)
    with pytest.raises(RightsError):
        theirs.upstream(Navigation("key", code=30), 0)
    theirs.upstream(KeyFrame(), 0)
    world.seat.leave(other)
    assert world.seat.who is WATCHER
    world.seat.leave(WATCHER)
    with pytest.raises(RightsError):
        mine.upstream(Seek(5), 0)
    assert [(event, who) for event, who, _ in source.asked if who] == [(Seek(5), WATCHER)]


def test_keyboard_requires_right_to_type() -> None:
    seat = Seat("default")
    with pytest.raises(RightsError, match="may not type"):
        seat.take(
            Watcher("listener/3", Principal("token/1", Right.SEE | Right.HEAR | Right.CONTROL, frozenset({"default"})))
        )
    assert seat.who is None


# -- ends and replacements -----------------------------------------------------------------------


def test_replaced_source_keeps_subscribers() -> None:
    world = World()
    world.join()
    old = world.source
    old.group(2)
    old.publisher.withdraw()
    new = Source(old.track, now_ns=old.now_ns)
    assert new.demands == [Demand()] and new.generation > old.generation
    old.picture(key=True)
    new.unit = 100
    new.picture()
    new.picture(key=True)
    world.take()
    assert world.decoder.decoded == [0, 1, 2, 101]


def test_replacing_source_starts_with_own_parameters() -> None:
    world = World()
    world.source.picture(key=True)
    track = world.source.track
    publisher = track.publish(world.source)
    with pytest.raises(GraphError, match="were not given"):
        publisher.push(Packet(5, 0, 1, 1, 1, 0, Flags.KEY | Flags.END, b""))
    publisher.push(Parameters(publisher.next_generation, "h264", FORMATS[Kind.VIDEO]))
    publisher.push(Packet(publisher.next_number, 1, 1, 1, 1, 0, Flags.KEY | Flags.END, b""))


def test_track_subscribers_are_limited() -> None:
    world = World()
    for _ in range(SUBSCRIBERS_MAX):
        world.source.track.join(Decoder(), WATCHER, 0)
    with pytest.raises(GraphError, match="already has 256 subscribers"):
        world.join()
    assert world.queue.lanes == [] and world.source.demands[-1].subscribers == SUBSCRIBERS_MAX


def test_leaving_subscriber_does_not_affect_others() -> None:
    world = World()
    track = world.source.track
    stays, goes = Decoder(), Decoder()
    track.join(stays, WATCHER, 0)
    subscription = track.join(goes, WATCHER, 0)
    world.source.group(2)
    subscription.leave()
    world.source.picture()
    assert (stays.decoded, goes.decoded) == ([0, 1, 2, 3], [0, 1, 2])


def test_stalled_subscriber_does_not_affect_others() -> None:
    world = World()
    world.join()
    quick = Decoder()
    world.source.track.join(quick, WATCHER, 0)
    for _ in range(30):
        world.source.group(10, 50_000)
        world.source.tick()
    assert len(quick.decoded) == 330 and quick.gaps == []
    assert world.queue.bytes <= BYTES_MAX
    world.take()
    assert world.decoder.gaps


def test_closed_queue_releases_its_memory() -> None:
    world = World(PICTURES, SOUND)
    world.join()
    for source in world.sources:
        source.group(5)
    assert world.account.held
    world.queue.close()
    assert (world.account.held, world.queue.held, world.queue.packets) == (0, 0, 0)
    assert [source.demands[-1] for source in world.sources] == [NO_DEMAND, NO_DEMAND]


# -- dropped packets -----------------------------------------------------------------------------


def test_disposable_pictures_are_dropped_first() -> None:
    world = World()
    world.join()
    world.source.picture(key=True)
    for n in range(20):
        world.source.tick(NS_PER_MS)
        world.source.picture(disposable=bool(n % 2), size=60_000)
    world.take()
    assert 0 < world.lanes[0].dropped <= 10
    assert all(unit in world.decoder.decoded for unit in (0, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19))
    assert world.source.keys_asked == [0]


def test_dropped_picture_is_dropped_with_all_its_parts() -> None:
    world = World()
    world.join()
    world.source.picture(key=True, size=10)
    world.source.picture(disposable=True, size=BYTES_MAX * 2, parts=3)
    world.source.picture(size=10)
    world.take()
    assert world.decoder.decoded == [0, 2] and [gap.dropped for gap in world.decoder.gaps] == [3]


def test_key_picture_ends_dropping_of_truncated_picture() -> None:
    world = World()
    world.join()
    world.source.picture(key=True, size=10)
    world.source.picture(disposable=True, size=BYTES_MAX * 2, parts=2, lost=frozenset({1}))
    world.source.picture(key=True, size=10, parts=2)
    world.take()
    assert world.decoder.decoded == [0, 2] and [gap.dropped for gap in world.decoder.gaps] == [2]


def test_oldest_group_is_dropped_to_its_end() -> None:
    world = World()
    world.join()
    for _ in range(3):
        world.source.picture(key=True, size=100_000)
        for _ in range(3):
            world.source.tick(NS_PER_MS)
            world.source.picture(size=100_000)
    world.take()
    assert world.decoder.decoded == list(range(4, 12)) and world.decoder.gaps == [
        Gap(4, world.decoder.packets[0].pts_ns)
    ]


def test_stills_are_dropped_last_whatever_their_size() -> None:
    world = World(THUMBNAILS, PICTURES)
    world.join()
    stills, pictures = world.sources
    for _ in range(3):
        stills.picture(key=True, size=BYTES_MAX // 4)
    for _ in range(4):
        pictures.group(3, BYTES_MAX // 32)
    world.take()
    assert [lane.dropped > 0 for lane in world.lanes] == [False, True]


def test_largest_lane_is_dropped_from_first() -> None:
    world = World(TrackInfo("track/camera", Kind.VIDEO, role="camera", cache=Cache.GROUP), PICTURES)
    world.join()
    small, large = world.sources
    small.group(1, 100)
    for _ in range(3):
        large.group(3, BYTES_MAX // 12)
    small.group(1, 100)
    for _ in range(2):
        large.group(3, BYTES_MAX // 12)
    assert [lane.dropped > 0 for lane in world.lanes] == [False, True]


def test_key_picture_larger_than_bound_still_arrives() -> None:
    world = World()
    world.join()
    seen = 0
    for _ in range(20):
        world.source.picture(key=True, size=BYTES_MAX * 2, parts=3)
        for _ in range(5):
            world.source.tick(NS_PER_MS)
            world.source.picture(size=300_000)
        # A connection that carries a third of a key picture in this time.
        world.take(1)
        seen = len(world.decoder.decoded)
    assert seen >= 4


def test_sound_is_dropped_last() -> None:
    world = World(PICTURES, SOUND, CAPTIONS)
    world.join()
    pictures, sound, captions = world.sources
    captions.picture(key=True, size=10)
    for n in range(40):
        for source in world.sources:
            source.now_ns = n * NS_PER_MS
        pictures.picture(key=n % 10 == 0, size=40_000)
        sound.picture(size=20_000)
    world.take()
    dropped = [lane.dropped for lane in world.lanes]
    assert dropped[0] > 0 and dropped[1:] == [0, 0]


def test_sound_is_sent_before_queued_packets_of_other_tracks() -> None:
    world = World(PICTURES, CAPTIONS, SOUND)
    world.join()
    world.take()
    for source in world.sources:
        source.group(1)
    kinds = [lane.info.kind for _ in range(6) if (taken := world.queue.take(0)) is not None for lane in [taken[0]]]
    assert kinds == [Kind.AUDIO] * 2 + [Kind.VIDEO] * 2 + [Kind.TEXT] * 2


def test_captions_are_dropped_before_sound_one_by_one() -> None:
    world = World(CAPTIONS, SOUND)
    world.join()
    for n in range(60):
        for source in world.sources:
            source.now_ns = n * NS_PER_MS
            source.picture(key=True, size=15_000)
    world.take()
    captions, sound = world.decoders.values()
    assert world.lanes[1].dropped == 0 and 0 < world.lanes[0].dropped < 60
    assert captions.decoded[-1] == 59 and sound.decoded == list(range(60))


def test_packets_queued_too_long_are_dropped() -> None:
    world = World(PICTURES, SOUND)
    world.join()
    pictures, sound = world.sources
    for n in range(500):
        for source in world.sources:
            source.now_ns = n * 10 * NS_PER_MS
        pictures.picture(key=n % 20 == 0, size=10)
        sound.picture(size=10)
    oldest = [lane.oldest_ns for lane in world.lanes]
    assert oldest[1] is not None and pictures.now_ns - oldest[1] <= NS_PER_S
    assert oldest[0] is None or pictures.now_ns - oldest[0] <= NS_PER_S // 2
    world.take()


def test_pictures_are_dropped_before_late_sound() -> None:
    world = World(PICTURES, SOUND)
    world.join()
    pictures, sound = world.sources
    for n in range(110):
        sound.now_ns = pictures.now_ns = n * 10 * NS_PER_MS
        if n > 95:
            pictures.picture(key=n == 96, size=10)
        sound.picture(size=10)
    assert world.lanes[1].dropped > 0 and len(world.lanes[0]) <= 2
    world.take()
    assert world.decoder.decoded == [0]


def test_exhausted_budget_acts_like_a_full_queue() -> None:
    world = World(memory=1024 * KIB)
    world.join()
    for _ in range(10):
        world.source.group(5, 60_000)
    assert world.budget.held <= world.budget.limit
    world.take()
    assert world.decoder.decoded and world.decoder.gaps


def test_small_packets_are_bounded_by_number() -> None:
    world = World(CAPTIONS)
    world.join()
    for _ in range(PACKETS_MAX + 500):
        world.source.picture(key=True, size=0)
        assert world.queue.packets <= PACKETS_MAX


def test_parameters_without_packets_do_not_accumulate() -> None:
    world = World()
    world.join()
    for _ in range(1_000):
        world.source.parameters()
        world.source.segment()
    assert [type(item) for item in world.take()] == [Parameters, Segment]


# -- all together --------------------------------------------------------------------------------

OPERATIONS = st.one_of(
    st.tuples(st.just("picture"), st.sampled_from("kdddx"), st.integers(0, 120_000), st.integers(1, 3)),
    st.tuples(st.just("lost"), st.sampled_from("kdx"), st.integers(1, 3), st.integers(0, 2)),
    st.tuples(st.just("take"), st.integers(1, 6)),
    st.tuples(st.just("skip"), st.integers(1, 5)),
    st.tuples(st.just("tick"), st.integers(0, 300)),
    st.tuples(st.sampled_from(["parameters", "segment", "join", "leave", "replace", "again"])),
)


class Play(World):
    """Executes operations on one track."""

    def picture(self, kind: str, size: int, parts: int) -> None:
        self.source.picture(kind == "k", kind == "x", size, parts)

    def lost(self, kind: str, parts: int, part: int) -> None:
        self.source.picture(kind == "k", kind == "x", 10, parts, frozenset({part % parts}))

    def skip(self, count: int) -> None:
        # Told of only where a hop can say so: between access units.
        self.source.skip(count)

    def tick(self, ms: int) -> None:
        self.source.tick(ms * NS_PER_MS)
        self.source.track.handle_timeout(self.source.now_ns)

    def parameters(self) -> None:
        if self.source.track._starts:
            self.source.parameters()

    def segment(self) -> None:
        if self.source.track._starts:
            self.source.segment()

    def leave(self) -> None:
        if self.lanes:
            lane = self.lanes.pop()
            self.queue.leave(lane)

    def replace(self) -> None:
        old = self.source
        old.publisher.withdraw()
        self.sources[0] = Source(old.track, now_ns=old.now_ns, unit=old.unit, number=old.number)

    def again(self) -> None:
        self.take(1)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from([PICTURES, SOUND, CAPTIONS, THUMBNAILS]), st.lists(OPERATIONS, max_size=120))
def test_every_delivered_item_can_be_decoded_after_random_operations(
    info: TrackInfo, operations: list[tuple[object, ...]]
) -> None:
    world = Play(info)
    for name, *values in operations:
        getattr(world, str(name))(*values)
        assert world.queue.bytes <= BYTES_MAX and world.queue.packets <= PACKETS_MAX
        assert world.account.held >= world.queue.held or world.queue.held == 0
    asked = world.source.keys_asked
    assert all(later - earlier >= KEY_FRAME_NS for earlier, later in pairwise(asked))
    world.take()
    assert world.queue.held == world.queue.bytes == world.queue.packets == 0
    world.source.publisher.push(End("done"))
    world.take()
    world.queue.close()
    assert world.budget.held == 0


def test_still_without_room_for_its_beginning_is_not_cached() -> None:
    account = Budget("guest", 100_000).open("cache")
    cache = Last(account)
    parts = [
        Packet(number, 1, 0, 0, 0, 0, flags, bytes(size))
        for number, flags, size in ((0, Flags.KEY, 200_000), (1, Flags.END, 100), (2, Flags.KEY | Flags.END, 100))
    ]
    for part in parts[:2]:
        cache.add(part, starts=bool(part.flags & Flags.KEY))
    assert not cache.packets() and not account.held
    cache.add(parts[2], starts=True)
    assert cache.packets() == (parts[2],)


@pytest.mark.parametrize("info", [PICTURES, SOUND])
def test_gap_and_jump_around_new_parameters_are_one_loss(info: TrackInfo) -> None:
    world = World(info)
    world.join()
    source = world.source
    source.picture(key=True)
    source.skip(3)
    source.parameters()
    source.picture(key=True)
    assert [type(item) for item in world.take()] == [Parameters, Packet, Parameters, Gap, Packet]
    assert world.decoder.gaps == [Gap(3, source.now_ns)]


def test_separate_gap_is_reported_without_jump_in_numbers() -> None:
    for another in (Source.parameters, Source.__post_init__):
        track = World(SOUND).source
        seen: list[Item] = []
        items = Decoder(grouped=False)
        items.push = items.begin = seen.append  # type: ignore[method-assign,assignment]
        track.track.join(items, WATCHER, 0)
        track.picture(key=True)
        track.publisher.push(Gap(3, 0))
        another(track)
        track.picture(key=True)
        track.picture(key=True)
        assert [item for item in seen if isinstance(item, Gap)] == [Gap(3, 0)]


def test_subscriber_added_during_push_gets_the_packet_once() -> None:
    source = World().source
    relayed: list[Item] = []
    relay, outer = Decoder(), Decoder()
    relay.begin = relayed.extend  # type: ignore[method-assign]
    relay.push = relayed.append  # type: ignore[method-assign]

    def push(item: Item) -> None:
        if not relayed:
            source.track.join(relay, WATCHER, 0)

    source.track.join(outer, WATCHER, 0)
    outer.push = push  # type: ignore[method-assign]
    (packet,) = source.picture(key=True)
    assert [item for item in relayed if isinstance(item, Packet)] == [packet]


def test_new_subscriber_gets_the_parts_of_an_unfinished_still() -> None:
    cache = Last(Budget("guest", 100_000).open("cache"))
    flags = (Flags.KEY | Flags.END, Flags.KEY, Flags(0), Flags.END)
    parts = [Packet(number, 1, 0, 0, 0, 0, flag, b"x") for number, flag in enumerate(flags)]
    for part in parts[:3]:
        cache.add(part, starts=bool(part.flags & Flags.KEY))
    assert cache.packets() == tuple(parts[:3])
    cache.add(parts[3], starts=False)
    assert cache.packets() == tuple(parts[1:])
