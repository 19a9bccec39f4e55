"""Doors' parts: formats, levels, the capture queue, addresses, passwords."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from millrace.daemon.config import load
from millrace.doors.capture import CaptureQueue
from millrace.doors.pushed import SpeedMeter
from millrace.doors.qemu.door import gains_of
from millrace.errors import ConfigError
from millrace.guest.machines.address import bus_path, parse_door, read_password
from millrace.media.format import AudioFormat
from millrace.sim.rig import Rig
from millrace.units import NS_PER_MS, NS_PER_S, default_map
from millrace.wire.qemu.audio import format_of

FORMATS = [
    format_of(bits, bool(signed), bool(floating), 48_000, 2, big)
    for bits, signed, floating in ((8, 0, 0), (8, 1, 0), (16, 0, 0), (16, 1, 0), (32, 0, 0), (32, 1, 0), (32, 1, 1))
    for big in (False, True)
]


@pytest.mark.parametrize("fmt", FORMATS, ids=lambda fmt: fmt.name)
def test_every_qemu_format_survives_a_round_trip(fmt: AudioFormat) -> None:
    signal = np.repeat(np.array([[-1.0], [-0.5], [0.0], [0.25], [0.75]], np.float32), 2, axis=1)
    data = fmt.encode(signal)
    assert len(data) == 5 * fmt.frame_bytes
    assert np.array_equal(fmt.decode(data), signal)
    assert len(fmt.decode(data + b"\1")) == 5


def test_unsigned_silence_is_mid_scale() -> None:
    assert format_of(8, False, False, 8_000, 1, False).encode(np.zeros((2, 1), np.float32)) == b"\x80\x80"
    assert format_of(16, False, False, 8_000, 1, True).encode(np.zeros((1, 1), np.float32)) == b"\x80\x00"
    assert format_of(16, False, False, 8_000, 1, False).name == "u16le"


def test_surround_uses_usb_audio_channel_order() -> None:
    assert format_of(16, True, False, 48_000, 6, False).positions[2:4] == ("front-center", "lfe")
    assert format_of(16, True, False, 48_000, 2, False).positions == default_map(2)


def test_guest_mixer_volume_is_cubic() -> None:
    full, half, off = gains_of((255, 128, 0))
    assert full == 1.0 and off == 0.0 and abs(half - 0.5**3) < 0.01


def test_capture_queue_fills_at_host_pace_and_keeps_newest() -> None:
    rig = Rig()
    source = rig.graph.add_source("microphone", "Microphone")
    queue = CaptureQueue(rig.graph, source, "vm", 44_100, default_map(2))
    rig.run(0.5)
    assert queue.fill_frames == 0 and not rig.graph.running
    queue.run(True)
    taken = 0
    for _ in range(100):
        rig.run(0.01)
        taken += len(queue.take(10_000))
    assert abs(taken - 44_100) < 900
    rig.run(1.0)
    assert queue.fill_frames <= 4410 + 500
    assert len(queue.take(100)) == 100
    queue.run(False)
    assert queue.fill_frames == 0
    queue.remove()
    assert not rig.graph.taps


def test_guest_speed_is_reported_after_three_seconds_excluding_pauses() -> None:
    meter, frames = SpeedMeter(), 0
    for second in range(6):
        meter.mark(second * NS_PER_S, frames)
        frames += 44_640
    assert meter.percent(48_000) == pytest.approx(93.0)
    meter.restart()
    assert meter.percent(48_000) is None


@pytest.mark.parametrize("block_ms", [5, 600, 990])
def test_guest_speed_covers_last_ten_seconds_for_any_block_size(block_ms: int) -> None:
    """A guest that writes rarely gives as many seconds of its past as one that writes often."""
    meter, frames, now_ns = SpeedMeter(), 0, 0
    for speed, seconds in ((0.5, 20), (1.0, 12)):
        for _ in range(seconds * 1000 // block_ms):
            now_ns += block_ms * NS_PER_MS
            frames += round(block_ms * 48 * speed)
            meter.mark(now_ns, frames)
    assert meter.percent(48_000) == pytest.approx(100.0)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("qmp:/run/vm.qmp", "qmp:/run/vm.qmp"),
        ("dbus:unix:path=/run/bus", "dbus:unix:path=/run/bus"),
        ("spice://h:5930", "spice://h:5930"),
        ("spice+tls://h:5931", "spice+tls://h:5931"),
        ("vnc://h", "vnc://h:5900"),
        ("vnc+unix:///run/vnc", "vnc+unix:///run/vnc"),
    ],
)
def test_door_addresses_are_parsed_as_shown(text: str, shown: str) -> None:
    spec = parse_door(text, password="secret")
    assert spec.text == shown and "secret" not in repr(spec)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "qmp:",
        "spice:h",
        "spice+ssl://h",
        "vnc+unix://run",
        "vnc+unix://run/vnc",
        "vnc+unix:///run/vnc#1",
        "spice://h:5900/vm7",
        "spice://unix:/run/spice",
        "spice://h?tls-port=5901",
        "ftp://h",
        "spice://u:p@h",
        "vnc://h:99999",
        "spice://",
        "dbus:tcp:host=x",
    ],
)
def test_invalid_addresses_are_refused_with_examples(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_door(text)


@pytest.mark.parametrize("text", ["spice://h:5930", "spice+unix:///s", "qmp:/q", "dbus:unix:path=/b", "x11::1"])
def test_door_without_tls_takes_no_ca_file(text: str) -> None:
    """It would be dropped, and whoever names one expects TLS."""
    said = r"has no TLS, which a CA file is for" + (r"; with TLS it is spice\+tls://h:5930$" if "h:" in text else "$")
    with pytest.raises(ConfigError, match=said):
        parse_door(text, ca_file="/ca.pem")


@pytest.mark.parametrize("text", ["spice+tls://h:5930", "vnc://h:1", "vnc+tls://h:1", "vnc+unix:///v"])
def test_door_with_tls_keeps_its_ca_file(text: str) -> None:
    spec = parse_door(text, ca_file="/ca.pem")
    assert (spec.ca_file, spec.text, spec.tls) == ("/ca.pem", text, "+tls" in text)


def test_bus_addresses() -> None:
    assert bus_path("tcp:host=x;unix:path=/run/a%20b,guid=1") == "/run/a b"
    assert bus_path("unix:abstract=/tmp/x") == "\0/tmp/x"


def test_password_file_must_be_a_private_regular_file(tmp_path: Path) -> None:
    secret = tmp_path / "pass"
    with pytest.raises(ConfigError, match="No such file"):
        read_password(secret)
    secret.write_bytes(b"gehe\xefm\n")
    secret.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        read_password(secret)
    secret.chmod(0o600)
    with pytest.raises(ConfigError, match="not a text file"):
        read_password(secret)
    secret.write_text("geheim\r\n")
    assert read_password(secret) == "geheim"
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(ConfigError, match="not a regular file"):
        read_password(tmp_path / "pipe")


def test_doors_are_read_from_configuration(tmp_path: Path) -> None:
    secret = tmp_path / "pass"
    secret.write_text("geheim\n")
    config = tmp_path / "c.toml"
    config.write_text(
        f'[guest.vm]\nmicrophone = false\ndoors = ["qmp:/q", {{ door = "vnc://h", password_file = "{secret}" }}]\n'
    )
    guest = load(config).guests[0]
    assert [door.text for door in guest.doors] == ["qmp:/q", "vnc://h:5900"] and not guest.microphone
    assert guest.doors[1].password_file == str(secret) and not guest.doors[1].password
    config.write_text('[guest.vm]\ndoors = [{ door = "qmp:/q", colour = "red" }]\n')
    with pytest.raises(ConfigError, match="colour"):
        load(config)
