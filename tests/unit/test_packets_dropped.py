"""What is dropped from a full queue of packets, and in which order; and everything together."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millrace.budget import Budget
from millrace.graph.packetcache import Last
from millrace.graph.packetqueue import BYTES_MAX, PACKETS_MAX
from millrace.graph.packets import KEY_FRAME_NS
from millrace.media.packet import (
    Cache,
    End,
    Flags,
    Gap,
    Item,
    Kind,
    Packet,
    Parameters,
    Segment,
    TrackInfo,
)
from millrace.units import NS_PER_MS, NS_PER_S
from tests.gops import CAPTIONS, PICTURES, SOUND, THUMBNAILS, WATCHER, Decoder, Source
from tests.packetworld import KIB, World

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


def test_unfinished_still_that_another_follows_is_given_to_nobody() -> None:
    cache = Last(Budget("guest", 100_000).open("cache"))
    kinds = (Flags.KEY | Flags.END, Flags.KEY, Flags.KEY)
    whole, torn, after = (Packet(at, 1, 0, 0, 0, 0, flag, b"x") for at, flag in enumerate(kinds))
    for part in (whole, torn, after):
        cache.add(part, starts=True)
    assert cache.packets() == (whole, after)
