"""Module arguments and channel maps, against what PulseAudio 16.1 takes and refuses."""

from __future__ import annotations

import pytest

from millrace.doors.pulse.channelmaps import map_for, parse_map
from millrace.doors.pulse.formats import CommandError, from_info, sample_format
from millrace.doors.pulse.modargs import ARGUMENT_MAX, Args
from millrace.dsp.convert import SampleFormat
from millrace.media.format import AudioFormat
from millrace.units import default_map
from millrace.wire.pulse.constants import Encoding
from millrace.wire.pulse.tagstruct import FormatInfo

VALID = ("sink_name", "sink_properties", "rate", "format", "channels", "channel_map", "remix")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("stereo", ("front-left", "front-right")),
        ("mono", ("mono",)),
        ("left,right", ("front-left", "front-right")),
        ("surround-21", ("front-left", "front-right", "lfe")),
        ("surround-40", ("front-left", "front-right", "rear-left", "rear-right")),
        ("surround-41", ("front-left", "front-right", "rear-left", "rear-right", "lfe")),
        ("surround-50", ("front-left", "front-right", "rear-left", "rear-right", "front-center")),
        ("surround-51", ("front-left", "front-right", "rear-left", "rear-right", "front-center", "lfe")),
        ("left,right,subwoofer,aux3", ("front-left", "front-right", "lfe", "aux3")),
        ("center,rear-center,top-front-left,aux31", ("front-center", "rear-center", "top-front-left", "aux31")),
        ("mono,mono,", ("mono", "mono")),
        ("front-left , front-right", None),
        ("", None),
        (",", None),
        ("Left", None),
        ("aux32", None),
        (",".join(["mono"] * 33), None),
    ],
)
def test_channel_maps_are_read_by_all_of_pulseaudios_names(text: str, expected: tuple[str, ...] | None) -> None:
    assert parse_map(text) == expected


def test_a_bare_count_of_channels_gives_the_map_that_pulseaudio_gives() -> None:
    assert map_for(3) == ("front-left", "front-right", "front-center")
    assert map_for(4) == ("front-left", "front-center", "front-right", "rear-center")
    assert map_for(9)[5:] == ("rear-center", "aux0", "aux1", "aux2")
    assert [len(map_for(n)) for n in range(1, 33)] == list(range(1, 33))


@pytest.mark.parametrize(
    ("text", "description"),
    [
        ("sink_properties=device.description=O'Brien", "O'Brien"),
        ("sink_properties=\"device.description='My sink' foo.bar=baz\"", "My sink"),
        ("sink_properties='device.description=\"My sink\" foo.bar=baz'", "My sink"),
        ("sink_properties=device.description=A,device.x=y", "A,device.x=y"),
        (r"sink_properties='device.description=\"My \\\"own\\\" sink\"'", 'My "own" sink'),
        (r"sink_properties=device.description=\'My\ sink\'", "My sink"),
        ("sink_properties='device.description = \"spaced\"'rate=8000", "spaced"),
    ],
)
def test_property_lists_are_quoted_as_pulseaudio_has_it(text: str, description: str) -> None:
    props = Args(text, VALID).props("sink_properties")
    assert props["device.description"].rstrip(b"\0").decode() == description
    assert props.get("foo.bar", b"baz\0") == b"baz\0"


@pytest.mark.parametrize(
    "text",
    [
        "nonsense=1", "garbage", "=x", "sink_name=a sink_name=b", "sink_name='open", 'sink_name="open', "a b=c",
        "sink_name=x\\", "sink_name = x", "sink_name=" + "x" * ARGUMENT_MAX,
    ],
)  # fmt: skip
def test_arguments_that_are_unknown_doubled_or_broken_are_refused(text: str) -> None:
    with pytest.raises(CommandError):
        Args(text, VALID)


@pytest.mark.parametrize("text", ["device.description", r"device.description=O\'Brien\ x", "a='x", "=x", "ö=x"])
def test_broken_property_lists_are_refused(text: str) -> None:
    with pytest.raises(CommandError):
        Args(f"sink_properties={text}", VALID).props("sink_properties")


def test_specs_are_honoured_and_contradictions_refused() -> None:
    default = AudioFormat(SampleFormat.F32LE, 48_000, default_map(2))
    made = Args("rate=44100 format=u8 channels=4", VALID).format(default)
    assert (made.rate, made.sample, made.positions) == (44_100, SampleFormat.U8, map_for(4))
    assert Args("channel_map=surround-51", VALID).format(default).positions == default_map(6)
    assert Args("", VALID).format(default) == default
    refused = ["channels=4 channel_map=stereo", "channels=33", "channels=0", "channels=x", "rate=1e9", "rate=-1",
               "format=floaty", "channel_map=here", "rate=999999999999999999999"]  # fmt: skip
    for text in refused:
        with pytest.raises(CommandError):
            Args(text, VALID).format(default)


def test_flags_and_formats_have_all_their_names() -> None:
    assert [Args(f"remix={word}", VALID).flag("remix", False) for word in ("1", "YES", "on", "t")] == [True] * 4
    assert not Args("remix=off", VALID).flag("remix", True) and Args("", VALID).flag("remix", True)
    with pytest.raises(CommandError):
        Args("remix=maybe", VALID).flag("remix", True)
    assert sample_format("S16NE") is sample_format("16") is SampleFormat.S16LE
    assert sample_format("float") is SampleFormat.F32LE and sample_format("24") is None


def test_the_formats_api_knows_the_same_names() -> None:
    default = AudioFormat(SampleFormat.F32LE, 48_000, default_map(2))
    info = FormatInfo(Encoding.PCM, {"format.channel_map": b'"surround-40"\0', "format.sample_format": b'"s16ne"\0'})
    assert from_info(info, default).positions == ("front-left", "front-right", "rear-left", "rear-right")
    assert from_info(info, default).sample is SampleFormat.S16LE
    with pytest.raises(CommandError):
        from_info(FormatInfo(Encoding.PCM, {"format.channel_map": b'"left, right"\0'}), default)
