"""Every flag and attribute of a PulseAudio stream: what it does, or how it is refused."""

from __future__ import annotations

import numpy as np
import pytest

from millrace.dsp.convert import SampleFormat
from millrace.dsp.measure import frequency_hz
from millrace.sim.rig import Rig
from millrace.sim.signals import sine
from millrace.wire.pulse.constants import Command
from millrace.wire.pulse.tagstruct import Spec

from .test_pulse_door import FRAME, S16, STEREO, ms, s16

ADJUST, EARLY, VARIABLE = {"adjust_latency": True}, {"early_requests": True}, {"variable_rate": True}


# -- buffer attributes -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rate", "tlength", "minreq", "flags"),
    [
        (8_000, 150, 0.5, {}), (8_000, 150, 0.25, EARLY), (8_000, 200, 0.25, ADJUST), (8_000, 5, 0.1, ADJUST),
        (16_000, 5, 0.1, ADJUST), (4_000, 10, 0.5, EARLY), (48_000, 1, 0.1, VARIABLE), (22_050, 60, 0.25, {}),
        (44_100, 20, 0.5, {}), (192_000, 10, 0.5, ADJUST),
    ],
)  # fmt: skip
def test_a_client_that_answers_at_once_is_never_cut_short(
    rate: int, tlength: int, minreq: float, flags: dict[str, bool]
) -> None:
    rig = Rig()
    asked = {"tlength": ms(tlength, 2, rate), "minreq": ms(tlength * minreq, 2, rate)} | flags
    player = rig.client().play(Spec(SampleFormat.S16LE, 1, rate), (0,), bytes(rate * 2), **asked)
    rig.run(0.7)
    assert player.reply["tlength"] >= asked["tlength"] * (not flags)
    assert rig.graph.streams[player.index].underruns == 0


def test_other_buffer_attributes_take_effect_at_once_and_nothing_is_lost() -> None:
    rig = Rig()
    heard = rig.capture()
    client = rig.client()
    player = client.play(Spec(SampleFormat.S16LE, 2, 44_100), STEREO, s16(sine(3.0, rate=44_100)))
    rig.run(0.5)
    short = ms(20, rate=44_100)
    values = {"maxlength": 4 << 20, "tlength": short, "prebuf": 0, "minreq": short // 4}
    reply = client.ask(
        Command.SET_PLAYBACK_STREAM_BUFFER_ATTR, channel=player.channel, adjust_latency=True, early_requests=False,
        **values,
    )  # fmt: skip
    assert short // 2 <= reply["tlength"] <= short and reply["latency"] < 10_000
    rig.run(2.0)
    player.drain()
    rig.run(1.0)
    loud = heard.trimmed()
    assert abs(len(loud) - 3 * 48_000) <= 2
    assert abs(frequency_hz(loud[:, 0], 48_000) - 997) < 0.05
    # Where one resampler ends and the next begins there is a seam, but no click.
    assert np.abs(np.diff(loud[1_000:-1_000, 0])).max() < 1.3 * 0.5 * 2 * np.pi * 997 / 48_000
    assert rig.graph.streams[player.index].underruns == 0


# -- rates -------------------------------------------------------------------------------------


@pytest.mark.parametrize("variable", [False, True])
def test_a_change_of_rate_loses_nothing_and_with_variable_rate_it_glides(variable: bool) -> None:
    rig = Rig()
    heard = rig.capture()
    client = rig.client()
    player = client.play(S16, STEREO, s16(sine(4.0)), tlength=ms(100), variable_rate=variable)
    rig.run(1.0)
    client.ask(Command.UPDATE_PLAYBACK_STREAM_SAMPLE_RATE, channel=player.channel, rate=47_900)
    rig.run(1.0)
    client.ask(Command.UPDATE_PLAYBACK_STREAM_SAMPLE_RATE, channel=player.channel, rate=48_000)
    rig.run(1.5)
    player.drain()
    rig.run(1.0)
    loud = heard.trimmed()
    assert abs(len(loud) - 4 * 48_000 - 100) <= 5
    middle = loud[70_000:90_000, 0]
    assert abs(frequency_hz(middle, 48_000) - 997 * 479 / 480) < 0.05
    steps = np.abs(np.diff(loud[1_000:-1_000, 0]))
    if variable:
        assert steps.max() < 0.5 * 2 * np.pi * 997 / 48_000 + 0.001


def test_what_a_drain_lets_out_is_the_sound_to_its_last_frame_and_no_more() -> None:
    rig = Rig()
    heard = rig.capture(clocked=True)
    client = rig.client()
    spec = Spec(SampleFormat.S16LE, 1, 22_050)
    word = np.full((2_205, 1), 0.5, np.float32)
    player = client.play(spec, (0,), tlength=ms(120, 2, 22_050))
    rig.run(0.1)
    for _ in range(3):
        player.data = memoryview(s16(word))
        player.feed()
        player.drain()
        rig.run(0.3)
    loud = np.abs(heard.sound[:, 0]) > 0.05
    edges = np.flatnonzero(np.diff(loud.astype(int)))
    lengths = edges[1::2] - edges[::2]
    assert len(lengths) == 3 and np.abs(lengths - 4_800).max() <= 4


def test_nothing_of_what_was_flushed_is_heard_later() -> None:
    rig = Rig()
    heard = rig.capture(clocked=True)
    client = rig.client()
    player = client.play(Spec(SampleFormat.S16LE, 2, 44_100), STEREO, s16(sine(1.0, rate=44_100)), prebuf=FRAME)
    rig.run(0.5)
    client.ask(Command.FLUSH_PLAYBACK_STREAM, channel=player.channel)
    rig.run(0.2)
    before = len(heard.sound)
    player.data = memoryview(bytes(44_100 * FRAME))
    player.feed()
    rig.run(0.8)
    assert not heard.sound[before:].any()
