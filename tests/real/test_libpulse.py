"""What programs see through the real client library: clocks, flags and events."""

from __future__ import annotations

import ctypes
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from millrace.dsp.measure import frequency_hz
from millrace.sim.signals import count, sine

from .conftest import Bus, lack, need, trimmed, wait_for, write_wav
from .libpulse import (
    ADJUST_LATENCY,
    AUTO_TIMING_UPDATE,
    DONT_MOVE,
    FIX_CHANNELS,
    FIX_FORMAT,
    FIX_RATE,
    INTERPOLATE_TIMING,
    START_CORKED,
    START_MUTED,
    VARIABLE_RATE,
    Connection,
    Playback,
    Spec,
)
from .test_clients import s16

pytestmark = pytest.mark.real
S16 = Spec(3, 48_000, 2)
FRAME = 4


def ms(milliseconds: float) -> int:
    return int(milliseconds * 48) * FRAME


@pytest.fixture
def connection(bus: Bus) -> Iterator[Connection]:
    try:
        ctypes.CDLL("libpulse.so.0")
    except OSError:
        lack("libpulse.so.0")
    one = Connection(bus.env["PULSE_SERVER"])
    yield one
    one.close()


def clock_of_a_client_that_pauses(connection: Connection, tlength: int, pause: float, wrong: list[str]) -> None:
    """Write as requested, except for a pause every 0.4 s; `pa_stream_get_time` must stay near what was written."""
    flags = INTERPOLATE_TIMING | AUTO_TIMING_UPDATE | ADJUST_LATENCY
    stream = Playback(connection, S16, flags, tlength=ms(tlength))
    began, last, written = time.monotonic(), 0, 0
    while (now := time.monotonic() - began) < 2.5:
        size = stream.writable() if now % (0.4 + pause) < 0.4 else 0
        if size:
            stream.write(bytes(size))
            written += size
        shown = stream.time_us()
        # The library extrapolates by its own clock until its last timing request is answered.
        if shown is not None and not last <= shown <= written / ms(1) * 1000 + 1_000_000:
            wrong.append(f"{tlength} ms, pause {pause}: {shown} after {last} at {now:.2f} s, {written} bytes written")
            return
        last = shown or last
        time.sleep(0.01)
    stream.close()


def test_clock_of_a_pausing_client_does_not_jump(connection: Connection) -> None:
    wrong: list[str] = []
    cases = [(tlength, pause) for tlength in (50, 100) for pause in (0.1, 0.12)]
    threads = [
        threading.Thread(target=clock_of_a_client_that_pauses, args=(connection, tlength, pause, wrong))
        for tlength, pause in cases
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_stream_monitor_records_that_stream_only(bus: Bus, tmp_path: Path) -> None:
    need("paplay", "parec", "pacat")
    frames = s16(count(48_000 * 8))
    wav = write_wav(tmp_path / "count.wav", frames)
    noise = bus.spawn("pacat", "--raw", "/dev/urandom")
    before = wait_for(lambda: bus.guest()["streams"], what="the noise plays")[0]["id"]
    player = bus.spawn("paplay", "--latency-msec=200", str(wav))
    wait_for(lambda: [s["id"] for s in bus.guest()["streams"] if s["id"] != before], what="the stream is there")
    with (tmp_path / "one.raw").open("wb") as out:
        recorder = bus.spawn(
            "parec", "--raw", "--rate=48000", "--format=s16le", "--latency-msec=20",
            "--monitor-stream=1", stdout=out,
        )  # fmt: skip
        assert player.wait(20) == 0
        # The recording ends with the stream that it records.
        assert recorder.wait(10) != 0
    noise.kill()
    heard = np.frombuffer((tmp_path / "one.raw").read_bytes(), "<i2").reshape(-1, 2)
    loud = heard[heard.any(axis=1)]
    assert len(loud) > 12_000 and np.array_equal(loud, frames[-len(loud) :])


@pytest.mark.parametrize("rate", [44_100, 22_050])
def test_gstreamer_plays_other_rates_without_own_resampler(bus: Bus, rate: int, tmp_path: Path) -> None:
    need("gst-launch-1.0")
    wav = write_wav(tmp_path / "tone.wav", s16(np.pad(sine(2.0, rate=rate), ((0, rate // 2), (0, 0)))), rate)
    listener = bus.listener(tmp_path / "out.wav", "--set", "codec=s16")
    bus.run(
        "gst-launch-1.0", "-q", "filesrc", f"location={wav}", "!", "wavparse", "!", "audioconvert", "!", "pulsesink"
    )
    sound, out_rate = bus.hear(listener, tmp_path / "out.wav")
    left = trimmed(sound, 300)[:, 0].astype(np.float32) / 32768
    assert abs(len(left) / out_rate - 2.0) < 0.05
    assert abs(frequency_hz(left[out_rate // 4 : out_rate], out_rate) - 997) < 0.1


def test_flags_reach_the_server_through_libpulse(connection: Connection, bus: Bus) -> None:
    first = Playback(connection, S16, START_CORKED, prebuf=0)
    second = Playback(connection, S16, START_CORKED, prebuf=0, sync=first)
    for stream in (first, second):
        stream.write(bytes(ms(500)))
    second.do("cork", 0)
    time.sleep(0.2)
    for stream in (first, second):
        stream.do("update_timing_info")
    times = [stream.timing() for stream in (first, second)]
    assert times[0] is not None and times[1] is not None
    assert times[0].read_index > 0 and times[0].playing == times[1].playing == 1
    fixed = Playback(connection, Spec(3, 22_050, 1), FIX_FORMAT | FIX_RATE | FIX_CHANNELS)
    spec = Spec.from_buffer_copy(
        ctypes.string_at(connection.call("pa_stream_get_sample_spec", fixed.stream), ctypes.sizeof(Spec))
    )
    assert (spec.format, spec.rate, spec.channels) == (5, 48_000, 2)
    muted = Playback(connection, S16, START_MUTED | DONT_MOVE)
    assert [s["mute"] for s in bus.guest()["streams"]].count(True) == 1
    bus.run("pactl", "load-module", "module-null-sink", "sink_name=other")
    moved = subprocess.run(["pactl", "move-sink-input", str(muted.index), "other"], env=bus.env, capture_output=True)
    assert moved.returncode != 0
    variable = Playback(connection, S16, VARIABLE_RATE)
    variable.do("update_sample_rate", ctypes.c_uint32(44_100))
    assert bus.run("pactl", "list", "sink-inputs").stdout.count("44100Hz") >= 1
