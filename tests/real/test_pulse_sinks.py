"""Sinks and modules through common programs, with PulseAudio itself as the reference."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from millrace.dsp.channels import mix_matrix
from millrace.dsp.convert import SampleFormat, encode
from millrace.dsp.measure import frequency_hz
from millrace.sim.signals import sine

from .conftest import Bus, need, read_wav, wait_for, write_wav

pytestmark = pytest.mark.real
BARE = ("pulseaudio", "-n", "--daemonize=no", "--exit-idle-time=-1", "--use-pid-file=no", "--realtime=no")


@pytest.fixture
def reference(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment for clients of a PulseAudio without other modules."""
    need("pulseaudio", "pactl")
    env = os.environ | {"XDG_RUNTIME_DIR": str(tmp_path), "HOME": str(tmp_path), "PULSE_STATE_PATH": str(tmp_path)}
    env["PULSE_SERVER"] = f"unix:{tmp_path}/bare"
    loads = (
        f"module-native-protocol-unix socket={tmp_path}/bare auth-anonymous=1",
        "module-null-sink sink_name=millrace",
    )
    command = [*BARE, *(f"--load={module}" for module in loads)]
    server = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: subprocess.run(["pactl", "info"], env=env, capture_output=True).returncode == 0)
        yield env
    finally:
        server.terminate()
        server.wait(10)


FRONT, REAR = "front-left,front-right", "rear-left,rear-right"
MAPS = ("mono", "mono,mono", FRONT, f"{FRONT},{FRONT}", f"{FRONT},front-center,rear-center",
        f"{FRONT},{REAR},front-center,lfe", f"{FRONT},{REAR},side-left,side-right")  # fmt: skip


def test_channels_are_mixed_as_by_pulseaudio(tmp_path: Path) -> None:
    """Compares every remixing matrix with the one that PulseAudio logs when it remixes a stream."""
    need("pulseaudio", "pacat")
    log, env = tmp_path / "log", os.environ | {"XDG_RUNTIME_DIR": str(tmp_path), "HOME": str(tmp_path)}
    env["PULSE_SERVER"] = f"unix:{tmp_path}/bare"
    loads = [f"module-null-sink sink_name=map{n} channel_map={map_}" for n, map_ in enumerate(MAPS)]
    loads.append(f"module-native-protocol-unix socket={tmp_path}/bare auth-anonymous=1")
    with log.open("wb") as file:
        server = subprocess.Popen([*BARE, "-vvv", *(f"--load={load}" for load in loads)], env=env, stderr=file)

    def printed(source: str, sink: int, outputs: int) -> list[list[float]]:
        begin, channels = log.stat().st_size, source.count(",") + 1
        shape = f"--channels={channels}", f"--channel-map={source}", f"--device=map{sink}"
        with subprocess.Popen(["pacat", "--raw", *shape, "/dev/zero"], env=env) as player:
            row = re.compile(r"O\d+ +\|((?: +[0-9.]+)+)\n")
            wait_for(lambda: len(row.findall(log.read_text()[begin:])) >= outputs)
            player.kill()
        return [[float(gain) for gain in one.split()] for one in row.findall(log.read_text()[begin:])[:outputs]]

    try:
        wait_for(lambda: subprocess.run(["pactl", "info"], env=env, capture_output=True).returncode == 0)
        for source, (sink, target) in product(MAPS, enumerate(MAPS)):
            if source != target:
                ours = mix_matrix(tuple(source.split(",")), tuple(target.split(",")))
                rows = printed(source, sink, target.count(",") + 1)
                assert ours is not None and np.allclose(ours.T, rows, atol=2e-3), (source, target, rows)
    finally:
        server.terminate()
        server.wait(10)


# PulseAudio 17 accepts twice the maximum rate of 16; Millrace follows 16.
TOO_FAST_FOR_16 = "module-null-sink sink_name=x rate=387841"
# One line per module, as typed after `pactl load-module`.
LOADS = r"""
module-null-sink sink_name=a sink_properties=device.description=O'Brien
module-null-sink sink_name=b sink_properties="device.description='My sink' foo.bar=baz"
module-null-sink sink_name=c sink_properties='device.description="My sink" foo.bar=baz'
module-null-sink sink_name=x sink_properties=device.description=O\'Brien\ x
module-null-sink sink_name=x nonsense=1
module-null-sink sink_name=d rate=44100 format=u8 channels=4
module-null-sink sink_name=x channels=4 channel_map=stereo
module-null-sink sink_name=e rate=44100 format=s16 channel_map=surround-51
module-null-sink sink_name=f rate=44100 format=float32 channel_map=left,right,subwoofer,aux3
module-null-sink sink_name=x rate=999999999
module-null-sink sink_name=slow rate=1 format=s16
module-null-sink sink_name=fast rate=387840 format=s16
module-null-sink sink_name=x rate=0
module-null-sink sink_name=x format=floaty
module-null-sink sink_name=a
module-null-sink sink_name=x sink_name=y
module-null-sink garbage
module-null-sink sink_name=x sink_properties='unterminated
module-null-sink sink_name=x channels=33
module-null-sink sink_name=with/slash
module-null-sink sink_name=
module-null-sink sink_name=x sink_properties=device.description
module-null-sink sink_name=g sink_properties=device.description=A,device.x=y
module-null-sink sink_name=x channel_map='front-left , front-right'
module-null-sink sink_name=h rate=8000 format=alaw channels=9
module-always-sink
module-always-sink
module-native-protocol-unix
module-remap-sink sink_name=i master=a channels=2 master_channel_map=front-right,front-left remix=no
module-remap-sink master=nowhere
module-remap-source source_name=j master=a.monitor
module-loopback source=a.monitor sink=c latency_msec=20
module-loopback source=a.monitor sink=c
module-loopback source=a.monitor sink=a latency_msec=30000
module-loopback source=nowhere
module-loopback source=a.monitor sink=c latency_msec=0
module-loopback source=a.monitor sink=c latency_msec=30001
module-loopback source=a.monitor sink=c source_dont_move=x
module-loopback source=a.monitor sink=c rate=22050 format=u8 channels=1 sink_input_properties=a.b=c
module-loopback source=a.monitor sink=c sink_properties=a.b=c
module-virtual-sink master=a
module-virtual-sink master=nowhere
module-virtual-source master=k use_volume_sharing=no
module-sine frequency=1000
module-sine frequency=0
module-sine bogus=1
module-sine-source frequency=1000
module-rescue-streams
module-suspend-on-idle timeout=5
module-card-restore
module-switch-on-connect
module-switch-on-connect
module-null-source source_name=k
module-combine-sink sink_name=l slaves=a,c
module-combine-sink sink_name=m slaves=a,nowhere
module-null-sink sink_name=q0 sink_properties=device.description=O'Brien
module-null-sink sink_name=q1 sink_properties="device.description=O\"Brien"
module-null-sink sink_name=q2 sink_properties=device.description="Two\ words"
module-null-sink sink_name=q3 sink_properties='device.description="a\"b"'
module-null-sink sink_name=q4 sink_properties='device.description="a\\b"'
module-null-sink sink_name=q5 sink_properties=device.description=hex:416200
module-null-sink sink_name=x sink_properties=device.description=\'a\ b\'
module-null-sink sink_name=x sink_properties='device.description=\"a b\"'
module-null-sink sink_name=x sink_properties=a=hex:6
module-null-sink sink_name=x sink_properties=a=hex:0g
module-null-sink sink_name=q6 rate=0x5dc0 format=s16le
module-null-sink sink_name=q7 rate=010000 format=s16le
module-null-sink sink_name=x rate=+48000
module-loopback source=a.monitor sink=c latency_msec=+20
module-loopback source=a.monitor sink=c adjust_time=x
module-remap-sink sink_name=q8 master=a resample_method=soxr-vhq
module-remap-sink master=a resample_method=good
module-combine-sink sink_name=x slaves=a adjust_time=x
module-virtual-sink sink_name=x master=a use_volume_sharing=x
module-null-source source_name=x latency_time=x
module-nonsense
"""


def pactl(env: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["pactl", *words], env=env, capture_output=True, text=True, timeout=20, check=False)


def shown(env: dict[str, str], kind: str) -> dict[str, Any]:
    """The listing of sinks or sources by name, without what depends on the machine."""
    # PulseAudio says "Monitor of", and "Monitor Source of" once the description has been changed.
    made = json.loads(pactl(env, "-f", "json", "list", kind).stdout.replace("Monitor Source of", "Monitor of"))
    told = ("description", "channel_map", "sample_specification", "driver")
    odd = ("device.api", "device.icon_name", "device.class")
    return {
        one["name"]: {key: one[key] for key in told}
        | {"props": {key: value for key, value in one["properties"].items() if key not in odd}}
        for one in made
        if not one["name"].startswith(("millrace", "microphone"))
    }


@pytest.mark.beside
def test_modules_accept_refuse_and_create_the_same_as_pulseaudio(bus: Bus, reference: dict[str, str]) -> None:
    bus.run("pactl", "unload-module", "module-always-sink")
    with_16 = " 16." in subprocess.run(["pulseaudio", "--version"], capture_output=True, text=True, check=True).stdout
    for line in [*LOADS.strip().splitlines(), *([TOO_FAST_FOR_16] if with_16 else ())]:
        name, _, argument = line.partition(" ")
        theirs, ours = (pactl(env, "load-module", name, argument) for env in (reference, bus.env))
        assert (theirs.returncode, theirs.stderr) == (ours.returncode, ours.stderr), line
    for kind in ("sinks", "sources"):
        theirs_shown, ours_shown = shown(reference, kind), shown(bus.env, kind)
        names = "a a.2 a.vsink b c g i j k k.vsource l q0 q1 q2 q3 q4 q5 q8 sine_input with_slash"
        for name in names.split():
            # If no rate was given, each server uses its own.
            for made in (theirs_shown, ours_shown):
                for full in (name, f"{name}.monitor"):
                    made.get(full, {}).pop("sample_specification", None)
        assert ours_shown == theirs_shown


# Common commands about sinks, defaults and loopbacks, one per line, as typed after `pactl`.
ASKED = """
set-sink-port millrace speaker
set-sink-port nowhere speaker
set-sink-port a;b speaker
set-sink-volume a;b 50%
set-sink-mute @NONE@ 1
suspend-source a;b 1
play-sample nothing
play-sample a;b
remove-sample a;b
set-source-port millrace.monitor speaker
set-card-profile 0 off
set-port-latency-offset card port 3
set-default-sink @NONE@
set-default-sink @DEFAULT_SINK@
set-default-sink nowhere
set-default-source @NONE@
set-default-source @DEFAULT_MONITOR@
load-module module-null-sink sink_name=two
load-module module-null-sink sink_name=three
set-default-sink two
set-default-source three.monitor
set-sink-volume two 30%
set-sink-mute two 1
set-source-volume two.monitor 40%
get-default-sink
unload-module module-null-sink
get-default-sink
load-module module-null-sink sink_name=three
get-default-source
load-module module-null-sink sink_name=two
get-default-sink
get-sink-volume two
get-sink-mute two
get-source-volume two.monitor
load-module module-loopback source=three.monitor sink=two
move-sink-input LOOP three
move-source-output LOOP two.monitor
load-module module-null-source source_name=gone
move-source-output LOOP gone
unload-module module-null-source
set-sink-input-volume LOOP 25%
set-sink-volume two 30% 80%
get-sink-volume two
set-sink-volume two 10% 20% 30%
set-sink-volume two +10% -5%
get-sink-volume two
set-source-output-mute LOOP 1
"""


def looped(env: dict[str, str], command: str) -> str:
    """The index of the only loopback's stream, or of its recorder."""
    kind = "sink-inputs" if "sink-input" in command else "source-outputs"
    return pactl(env, "list", "short", kind).stdout.split()[0]


@pytest.mark.beside
def test_defaults_levels_ports_and_loopbacks_answer_as_pulseaudios_do(bus: Bus, reference: dict[str, str]) -> None:
    for module in ("module-device-restore", "module-default-device-restore"):
        pactl(reference, "load-module", module)
    version = json.loads(pactl(reference, "-f", "json", "info").stdout)["server_version"]
    before_17 = int(version.split(".")[0]) < 17
    for line in ASKED.strip().splitlines():
        theirs, ours = (
            pactl(env, *(looped(env, line) if word == "LOOP" else word for word in line.split()))
            for env in (reference, bus.env)
        )
        if line.startswith(("load-module", "get-default")) and "two" not in ours.stdout:
            # Indexes differ between the servers, and PulseAudio falls back to a sink other than the first.
            ours.stdout = theirs.stdout = ""
        if line.startswith("set-default") and "@NONE@" in line and before_17:
            assert (theirs.returncode, theirs.stderr) == (1, "Failure: Invalid argument\n")
            assert (ours.returncode, ours.stderr, ours.stdout) == (0, "", ""), line
            continue
        assert (theirs.returncode, theirs.stderr, theirs.stdout) == (ours.returncode, ours.stderr, ours.stdout), line
    told = ("volume", "mute", "corked", "client")
    for kind in ("sink-inputs", "source-outputs"):
        theirs_shown, ours_shown = (
            [{key: one[key] for key in told} for one in json.loads(pactl(env, "-f", "json", "list", kind).stdout)]
            for env in (reference, bus.env)
        )
        assert len(ours_shown) == 1 and ours_shown == theirs_shown
    for rate in (1, 25, 999, 384_000, 387_840):
        command = ["parec", "-d", "two.monitor", f"--rate={rate}", "--channels=1", "--latency-msec=20"]
        for env in (reference, bus.env):
            recorder = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            sought = f"1ch {rate}Hz"
            wait_for(lambda env=env, sought=sought: sought in pactl(env, "list", "short", "source-outputs").stdout)
            recorder.terminate()
            assert recorder.communicate(timeout=10)[1] == b""


def test_sox_records_the_monitor_that_it_names(bus: Bus, tmp_path: Path) -> None:
    need("sox", "paplay")
    tone = write_wav(tmp_path / "tone.wav", np.frombuffer(encode(SampleFormat.S16LE, sine(8)), "<i2").reshape(-1, 2))
    player = bus.spawn("paplay", str(tone))
    wait_for(lambda: bus.guest()["streams"] and bus.guest()["streams"][0]["state"] == "running", what="it plays")
    name = bus.run("pactl", "get-default-sink").stdout.strip()
    bus.run("sox", "-q", "-t", "pulseaudio", f"{name}.monitor", str(tmp_path / "heard.wav"), "trim", "0", "2")
    player.terminate()
    sound, rate = read_wav(tmp_path / "heard.wav")
    middle = sound[len(sound) // 2 :, 0].astype(np.float32) / 32768
    assert abs(middle).max() > 0.3 and abs(frequency_hz(middle, rate) - 997) < 1
