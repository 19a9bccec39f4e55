"""How much of a stream was rendered, on which its client's clock is based."""

from __future__ import annotations

from millrace.doors.pulse.rendered import NEVER, Rendered


def test_stream_not_started_has_rendered_nothing() -> None:
    rendered = Rendered()
    assert rendered.silent and rendered.playing_for == 0 and rendered.underrun_frames(1 << 40) is None
    rendered.broke_off(480)
    assert rendered.silent and rendered.underrun_frames(960) is None, "prebuffering is not an underrun"


def test_never_is_pulseaudios_value_for_never() -> None:
    assert NEVER == 0xFFFF_FFFF_FFFF_FFFF


def test_playing_since_last_silence_and_first_sound_is_reported_once() -> None:
    rendered = Rendered()
    assert rendered.taken(100) and not rendered.silent
    assert not rendered.taken(60) and rendered.playing_for == 160
    assert rendered.underrun_frames(10_000) == 0
    rendered.broke_off(480)
    assert rendered.silent and rendered.playing_for == 0
    assert rendered.taken(40) and rendered.playing_for == 40 and not rendered.taken(1)


def test_silence_lasts_as_long_as_it_was_rendered() -> None:
    rendered = Rendered()
    rendered.taken(100)
    rendered.broke_off(480)
    # It was looked at before the position came at which there is nothing to render.
    assert rendered.underrun_frames(240) == 0 and rendered.underrun_frames(480) == 0
    assert rendered.underrun_frames(720) == 240
    rendered.broke_off(720)
    assert rendered.underrun_frames(960) == 480, "it is still the same silence"
    rendered.taken(8)
    assert rendered.underrun_frames(10_000) == 0
    rendered.broke_off(1_200)
    assert rendered.underrun_frames(1_201) == 1


def test_paused_stream_starts_anew() -> None:
    rendered = Rendered()
    rendered.taken(100)
    rendered.broke_off(480)
    rendered.restart()
    assert rendered.silent and rendered.playing_for == 0 and rendered.underrun_frames(960) is None
    rendered.taken(100)
    rendered.restart()
    assert rendered.playing_for == 0 and rendered.underrun_frames(960) is None
    assert rendered.taken(8) and rendered.playing_for == 8
    rendered.broke_off(2_000)
    assert rendered.underrun_frames(2_100) == 100
