"""Packet ports: each rule of graph/packets.py and graph/packetqueue.py, on a synthetic source of groups of pictures."""

from __future__ import annotations

import weakref

import pytest

from millrace.budget import Account, Budget
from millrace.errors import BudgetError, GraphError, RightsError
from millrace.graph.packetcache import GROUP_BYTES_MAX, HOLD_STEP
from millrace.graph.packetqueue import BYTES_MAX, PacketQueue
from millrace.graph.packets import KEY_FRAME_NS, SUBSCRIBERS_MAX, UNIT_BYTES_MAX
from millrace.graph.seat import Seat, Watcher
from millrace.media.format import DataFormat
from millrace.media.packet import (
    NO_DEMAND,
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
)
from millrace.rights.model import OWNER, Principal, Right
from millrace.units import NS_PER_MS, NS_PER_S
from tests.gops import CAPTIONS, FORMATS, PICTURES, SOUND, THUMBNAILS, WATCHER, Decoder, Source
from tests.packetworld import KIB, World

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


def test_closed_queue_keeps_nothing_of_whoever_it_woke() -> None:
    """Who is woken has the queue: a cycle would stay until a full collection (daemon/collector.py)."""

    class Woken:
        def __init__(self, account: Account) -> None:
            self.queue = PacketQueue(account, self.wake)

        def wake(self) -> None:
            pass

    woken = Woken(Budget("alice").open("listener"))
    known = weakref.ref(woken)
    woken.queue.close()
    del woken
    assert known() is None
