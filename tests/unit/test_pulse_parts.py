"""Parts of the door in isolation: the byte queue against a model, buffer attributes, formats."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace.budget import Budget
from millrace.doors.pulse.attrs import Layout, PlaybackAttr, RecordAttr, fix_playback, fix_record
from millrace.doors.pulse.formats import CommandError, from_info, gains_from, volume_of
from millrace.doors.pulse.queue import ByteQueue, QueueState
from millrace.doors.pulse.restore import give, group_of_props
from millrace.dsp.channels import volume_for
from millrace.dsp.convert import SampleFormat
from millrace.graph.model import Stream
from millrace.media.format import AudioFormat
from millrace.remembered.devices import LEVELS_MAX, Devices, DeviceUpdate
from millrace.remembered.streams import INPUT, Rule, Rules
from millrace.sim.rig import Rig
from millrace.units import default_map
from millrace.wire.pulse.constants import NO_INDEX, Command, Seek
from millrace.wire.pulse.tagstruct import FormatInfo, Spec

STEP = st.one_of(
    st.tuples(st.just("write"), st.integers(0, 300)),
    st.tuples(st.just("read"), st.integers(0, 300)),
    st.tuples(st.just("seek"), st.integers(-200, 200)),
    st.tuples(st.just("flush"), st.just(0)),
)


@given(st.lists(STEP, max_size=60))
def test_byte_queue_is_a_sparse_file_with_two_pointers(steps: list[tuple[str, int]]) -> None:
    queue, model, written = ByteQueue(QueueState(1000), 0x80), {}, 0
    for what, n in steps:
        if what == "write":
            data = bytes((written + i) % 251 for i in range(n))
            written += n
            start = queue.write_index
            fits = start + n - queue.read_index <= 1000
            assert queue.write(data) == fits
            if fits:
                model |= {start + i: b for i, b in enumerate(data) if start + i >= queue.read_index}
        elif what == "read":
            size = min(n, queue.length)
            got = b"".join(queue.peek(size))
            expected = bytes(model.get(queue.read_index + i, 0x80) for i in range(size))
            assert got == expected
            queue.advance(size)
        elif what == "seek":
            queue.seek(Seek.RELATIVE, n)
        else:
            queue.flush()
            model.clear()
        model = {k: v for k, v in model.items() if k >= queue.read_index}


LAYOUT = Layout(4, 48_000)
U32 = st.integers(0, 2**32 - 1)


def ms(value: float) -> int:
    return int(value * 48) * 4


def asked(
    tlength: int = NO_INDEX, minreq: int = NO_INDEX, prebuf: int = NO_INDEX, maxlength: int = NO_INDEX
) -> PlaybackAttr:
    return PlaybackAttr(maxlength, tlength, prebuf, minreq)


def test_default_attributes_match_pulseaudio() -> None:
    attr = fix_playback(asked(), LAYOUT, adjust=False, early=False)
    assert (attr.maxlength, attr.tlength, attr.minreq) == (4 * 1024 * 1024, ms(2000), ms(20))
    assert attr.prebuf == ms(2000) + 4 - ms(20)


def test_lengths_are_rounded_up_to_whole_frames_and_requests_down() -> None:
    """As PulseAudio 16.1 answers for the same requests: frames of 6 bytes, of which 4 MiB is no multiple."""
    layout = Layout(6, 48_000)
    attr = fix_playback(asked(100_000, 20_002, 50_001, 200_000), layout, adjust=False, early=False)
    assert (attr.maxlength, attr.tlength, attr.minreq, attr.prebuf) == (200_004, 100_002, 19_998, 50_004)
    assert fix_playback(asked(), layout, adjust=False, early=False).maxlength == 4_194_306
    record = fix_record(RecordAttr(200_000, 20_002), layout)
    assert (record.maxlength, record.fragsize) == (200_004, 19_998)
    assert fix_record(RecordAttr(0, 0), layout) == RecordAttr(6, 6)


def test_any_prebuffering_is_at_least_a_frame() -> None:
    """It is rounded up: 0 alone means none."""
    attrs = [fix_playback(asked(tlength=ms(100), prebuf=size), LAYOUT, adjust=False, early=False) for size in range(6)]
    assert [attr.prebuf for attr in attrs] == [0, 4, 4, 4, 4, 8]


def test_adjusted_latency_leaves_a_quantum_and_two_requests() -> None:
    attr = fix_playback(asked(tlength=ms(10)), LAYOUT, adjust=True, early=False)
    assert attr.sink_ns == 2_500_000 and attr.minreq == ms(2.5)
    assert attr.tlength == ms(7.5) and attr.bulk_ns <= attr.sink_ns


@given(
    U32, U32, U32, U32, st.booleans(), st.booleans(), st.sampled_from([1, 4, 6, 32]), st.sampled_from([8000, 192_000])
)  # fmt: skip
def test_any_requested_attributes_become_workable(
    maxlength: int, tlength: int, prebuf: int, minreq: int, adjust: bool, early: bool, frame: int, rate: int
) -> None:
    layout = Layout(frame, rate)
    attr = fix_playback(asked(tlength, minreq, prebuf, maxlength), layout, adjust, early)
    assert frame <= attr.minreq <= attr.tlength <= attr.maxlength < 4 * 1024 * 1024 + frame
    assert 0 <= attr.prebuf <= attr.tlength
    assert attr.sink_ns >= 2_500_000 and attr.ask <= attr.tlength
    assert all(v % frame == 0 for v in (attr.minreq, attr.tlength, attr.maxlength, attr.ask, attr.prebuf))


def test_record_fragments_are_whole_frames() -> None:
    attr = fix_record(RecordAttr(NO_INDEX, 7), LAYOUT)
    assert attr.fragsize == 4 and attr.maxlength == 4 * 1024 * 1024
    assert fix_record(RecordAttr(NO_INDEX, NO_INDEX), LAYOUT).fragsize == ms(2000)


DEFAULT = AudioFormat(SampleFormat.F32LE, 48_000, default_map(2))


def test_format_infos_may_be_incomplete() -> None:
    assert from_info(FormatInfo(1, {}), DEFAULT) == DEFAULT
    info = FormatInfo(1, {"format.rate": b'{"min": 96000, "max": 192000}', "format.channel_map": b'"mono"'})
    assert from_info(info, DEFAULT) == AudioFormat(SampleFormat.F32LE, 96_000, ("mono",))
    listed = FormatInfo(1, {"format.rate": b"[44100, 48000]", "format.channels": b"6"})
    assert from_info(listed, DEFAULT).rate == 44_100 and len(from_info(listed, DEFAULT).positions) == 6
    for key, value in (("format.rate", b"{"), ("format.sample_format", b'"s13"'), ("format.channels", b"77")):
        with pytest.raises(CommandError):
            from_info(FormatInfo(1, {key: value}), DEFAULT)


def test_volumes_match_channels_or_are_refused() -> None:
    assert gains_from((0x10000,), 2) == (1.0, 1.0)
    assert volume_of(gains_from((0x8000, 0x10000), 2)) == (0x8000, 0x10000)
    for volume, channels in (((), 2), ((1, 2, 3), 2)):
        with pytest.raises(CommandError):
            gains_from(volume, channels)


def test_oldest_levels_beyond_limit_are_dropped_but_no_default() -> None:
    table = Devices()
    table.set(("default", "sink"), "speakers", lambda kept: None)
    for number in range(LEVELS_MAX + 3):
        table.set(("sink", f"s{number}"), ((0.5,), False), lambda kept: None)
    assert table.default("sink") == "speakers"
    for values in (table.now, table.kept):
        assert len(values) == LEVELS_MAX + 1
        assert ("sink", "s2") not in values and ("sink", "s3") in values
    table.set(("sink", "s3"), ((0.6,), False), lambda kept: None)
    table.set(("sink", "one more"), ((0.5,), False), lambda kept: None)
    assert ("sink", "s3") in table.now and ("sink", "s4") not in table.now, (
        "a level that was set again is not the oldest"
    )


def test_level_set_again_while_being_saved_is_acknowledged_when_saved() -> None:
    told, updates = list[bool](), list[DeviceUpdate]()
    table = Devices(lambda _: updates.append)
    for _ in range(2):
        table.set(("sink", "s"), ((0.5,), False), told.append)
    assert len(updates) == 2 and told == []
    table.was_kept({("sink", "s"): ((0.5,), False)})
    table.set(("sink", "s"), ((0.5,), False), told.append)
    assert len(updates) == 2 and told == [True], "that value is on disk"


def test_streams_of_a_guest_share_and_release_a_budget() -> None:
    budget = Budget("the guest", 64 * 1024 * 8 // 7 + 1)
    one, other = budget.open("stream"), budget.open("stream")
    first = ByteQueue(QueueState(1 << 20), 0, lambda size: one.fits("queue", size))
    second = ByteQueue(QueueState(1 << 20), 0, lambda size: other.fits("queue", size))
    assert first.write(bytes(40_000)) and budget.held == 64 * 1024
    assert not second.write(b"x") and second.length == 1
    first.flush()
    assert budget.held == 0 and second.write(b"y")


@pytest.mark.parametrize("wall_ns", [-1, -(10**18), 0, 2**32 * 10**9 + 5_000, 2**62])
def test_latency_is_independent_of_wall_clock(wall_ns: int) -> None:
    rig = Rig()
    rig.door.wall_ns = lambda: wall_ns
    client = rig.client()
    player = client.play(Spec(SampleFormat.S16LE, 2, 48_000), (1, 2), bytes(19_200))
    told = client.ask(Command.GET_PLAYBACK_LATENCY, channel=player.channel, time=(1, 2))
    assert told["now"] == (wall_ns // 10**9 % 2**32, wall_ns % 10**9 // 1_000)


def test_volume_is_remapped_to_other_channels_as_in_pulseaudio() -> None:
    surround = default_map(6)
    ten_to_sixty = (10, 20, 30, 40, 50, 60)
    assert volume_for(ten_to_sixty, surround, ("mono",)) == (35,)
    assert volume_for(ten_to_sixty, surround, ("front-right", "side-left", "lfe", "rear-center")) == (20, 20, 60, 50)
    assert volume_for((10, 30), ("mono", "mono"), ("front-left", "mono")) == (20, 20)
    rule = Rule((10, 90), ("front-left", "front-right"))
    assert rule.fitted(("front-right", "front-left")) == (90, 10) and Rule().fitted(surround) == ()
    table = Devices()
    table.load({("sink", "s"): ((0.001, 0.216), False)})
    level = table.level(("sink", "s"), ("mono",))
    assert level is not None and level[0] == pytest.approx((0.35**3,), rel=1e-3)


def test_new_stream_gets_saved_settings_it_did_not_choose() -> None:
    props = {"media.role": b"music\0", "application.name": b"player\0"}
    name = group_of_props(props)
    assert (name, group_of_props(props, INPUT)) == (
        "sink-input-by-media-role:music",
        "source-output-by-media-role:music",
    )
    rules = Rules()
    stereo = default_map(2)
    assert give(rules, Stream(1, "s", stereo, {}), name) == ""
    rules.take({name: Rule((0x8000,), ("mono",), True, "music")})
    new, choosy = Stream(2, "s", stereo, {}), Stream(3, "s", stereo, {})
    choosy.chosen = ("volume", "mute", "sink")
    assert (give(rules, new, name), new.gains, new.mute) == ("music", (0.125, 0.125), True)
    assert (give(rules, choosy, name), choosy.gains, choosy.mute) == ("", (1.0, 1.0), False)
