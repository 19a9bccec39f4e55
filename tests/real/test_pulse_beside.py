"""The same commands to a guest and to a PulseAudio started beside it: they must be answered alike."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from .conftest import Bus, listens, need, wait_for

pytestmark = [pytest.mark.real, pytest.mark.beside]
NULL = "load-module module-null-sink sink_name="
QUOTES = (
    "device.description=O'Brien", '"device.description=O\\"Brien"', 'device.description="Two\\ words"',
    "'device.description=\"Two words\" a.b=c'", '\'device.description="a\\"b"\'', "\"device.description='a b'\"",
    "'device.description=\"a\\\\b\"'", "device.description=\\'a\\ b\\'", "'device.description=\\\"a b\\\"'",
    "device.description='a b'", 'device.description=hex:416200', "a=hex:6", "a=hex:0g", "a=b=c", "a", "",
)  # fmt: skip
"""Property lists, as a module gets them."""
ARGUMENTS = (
    "channel_map=surround-40", "channel_map=left,right", "channel_map=aux0,aux31", "channel_map=aux32",
    "channel_map=5.1", "channels=6", "channels=12", "channels=33", "channels=2 channel_map=mono", "rate=0x5dc0",
    "rate=010000", "rate=+48000", "rate=48000.5", "rate=0", "format=S16NE", "format=s99", "nonsense=1", "rate=1 rate=1",
)  # fmt: skip
ON_A_SINK = (
    "module-loopback source=base.monitor sink=base2 latency_msec=0x20",
    "module-loopback source=base.monitor sink=base2 latency_msec=+20",
    "module-loopback source=base.monitor sink=base2 adjust_time=x",
    "module-loopback source=base.monitor sink=base2 sink_dont_move=perhaps",
    "module-loopback source=nowhere",
    "module-remap-sink sink_name=r1 master=base resample_method=soxr-vhq",
    "module-remap-sink sink_name=r2 master=base resample_method=good",
    "module-remap-sink sink_name=r3 master=nowhere",
    "module-remap-sink sink_name=r4 master=base channels=2 master_channel_map=mono",
    "module-remap-source source_name=r5 master=base.monitor channels=1",
    "module-combine-sink sink_name=c1 slaves=base,base2",
    "module-combine-sink sink_name=c2 slaves=base,nowhere",
    "module-combine-sink sink_name=c3 slaves=base adjust_time=x",
    "module-virtual-sink sink_name=v1 master=base",
    "module-virtual-sink sink_name=v2 master=base use_volume_sharing=x",
    "module-null-source source_name=n1 rate=8000",
    "module-null-source source_name=n2 latency_time=x",
    "module-sine frequency=0",
)
"""Modules that need others, with base and base2 as their masters."""
NAMES = (
    ("set-sink-volume", "a b", "50%"), ("set-sink-volume", "nowhere", "50%"), ("set-sink-mute", "@NONE@", "1"),
    ("set-sink-volume", "base", "200%"), ("set-sink-volume", "base", "30%", "40%"), ("get-sink-volume", "base"),
    ("set-default-sink", "a b"), ("set-default-sink", "nowhere"), ("suspend-source", "a b", "1"),
    ("suspend-source", "base.monitor", "1"), ("move-sink-input", "99999", "base"), ("set-sink-port", "base", "x"),
    ("set-card-profile", "0", "off"), ("play-sample", "nothing"), ("play-sample", "a b"), ("remove-sample", "a b"),
    ("unload-module", "99999"), ("send-message", "/card/x", "y"), ("kill-sink-input", "99999"),
)  # fmt: skip


@pytest.fixture
def beside(bus: Bus, tmp_path: Path) -> str:
    """The address of a PulseAudio with nothing but the protocol and a sink."""
    need("pulseaudio", "pactl")
    home = tmp_path / "pulseaudio"
    home.mkdir(mode=0o700)
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    bus.spawn(
        "pulseaudio", "-n", "--daemonize=no", "--exit-idle-time=-1", "--realtime=no", "--high-priority=no",
        "--use-pid-file=no", "-L", f"module-native-protocol-unix socket={home}/native auth-anonymous=1",
        "-L", "module-null-sink sink_name=millrace", env={"HOME": str(home), "XDG_RUNTIME_DIR": str(home)}, **quiet,
    )  # fmt: skip
    wait_for(lambda: listens(home / "native"), 10, "PulseAudio is there")
    return f"unix:{home}/native"


def said(bus: Bus, server: str, *words: str) -> tuple[int, str]:
    """What a command says, with any number of an object in the place of its own."""
    env = bus.env | {"PULSE_SERVER": server}
    done = subprocess.run(["pactl", *words], env=env, capture_output=True, text=True, timeout=10)
    text = done.stdout + done.stderr
    return done.returncode, re.sub(r"^\d+$", "N", text, flags=re.MULTILINE)


def described(bus: Bus, server: str, name: str) -> list[str]:
    """How a sink made by a module is listed."""
    text = said(bus, server, "list", "sinks")[1]
    found = re.search(rf"Name: {name}\n.*?(?=\n\n|\Z)", text, re.DOTALL)
    kept = r"Description|Driver|Channel Map|Mute|Balance|Monitor Source"
    return re.findall(rf"^\s*(?:{kept}): .*", found[0], re.MULTILINE) if found else []


def test_a_guest_answers_as_pulseaudio_does(bus: Bus, beside: str) -> None:
    servers = (bus.env["PULSE_SERVER"], beside)
    for name in ("base", "base2"):
        for server in servers:
            assert said(bus, server, *f"{NULL}{name}".split())[0] == 0
    commands = [("load-module", "module-null-sink", f"sink_name=q{n}", f"sink_properties={text}")
                for n, text in enumerate(QUOTES)]  # fmt: skip
    commands += [("load-module", "module-null-sink", f"sink_name=a{n} {text}") for n, text in enumerate(ARGUMENTS)]
    commands += [("load-module", *text.split()) for text in ON_A_SINK]
    commands += NAMES
    for command in commands:
        ours, theirs = (said(bus, server, *command) for server in servers)
        assert ours == theirs, command
    for name in ("base", *(f"q{n}" for n in range(len(QUOTES))), *(f"a{n}" for n in range(len(ARGUMENTS))), "c1", "r1"):
        ours, theirs = (described(bus, server, name) for server in servers)
        assert ours == theirs, name
