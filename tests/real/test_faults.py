"""Hostile and broken peers against a real daemon: each is disconnected, and the others do not notice."""

from __future__ import annotations

import os
import random
import signal
import socket
import struct
import time
from pathlib import Path

import numpy as np
import pytest

from millrace.sim.signals import count
from millrace.wire.pulse.client import PulseClientSession, playback_fields, record_fields
from millrace.wire.pulse.constants import Command
from millrace.wire.pulse.tagstruct import Spec

from .conftest import Bus, need, trimmed, wait_for, write_wav
from .test_clients import PCM, judge_numbered, s16

pytestmark = pytest.mark.real


def connect(bus: Bus) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(5)
    client.connect(str(bus.pulse()))
    return client


def greeted(bus: Bus) -> tuple[socket.socket, PulseClientSession]:
    client, wire = connect(bus), PulseClientSession()
    wire.send_request(Command.AUTH, {"version": 35, "cookie": bytes(256)})
    wire.send_request(Command.SET_CLIENT_NAME, {"props": {}})
    client.sendall(wire.data_to_send())
    return client, wire


def closed_by_peer(client: socket.socket) -> bool:
    try:
        while client.recv(65536):
            continue
        return True
    except ConnectionResetError:
        return True


def rss_kib(bus: Bus) -> int:
    assert bus.daemon is not None
    status = Path(f"/proc/{bus.daemon.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0])


def test_hostile_clients_leave_a_playing_client_bit_exact(bus: Bus, tmp_path: Path) -> None:
    need("paplay")
    frames = s16(count(48_000 * 8))
    listener = bus.listener(tmp_path / "out.wav", *PCM)
    player = bus.spawn("paplay", str(write_wav(tmp_path / "count.wav", frames)))
    time.sleep(0.5)
    noise = random.Random(1)
    for _ in range(20):
        with connect(bus) as client:
            client.sendall(noise.randbytes(noise.randint(1, 4000)))
    for header in ((0x7FFFFFFF, 0xFFFFFFFF, 0), (100, 0xFFFFFFFF, 0x80000000), (0x7FFFFFFF, 3, 0)):
        with connect(bus) as client:
            client.sendall(struct.pack(">IIIII", header[0], header[1], 0, 0, header[2]))
            assert closed_by_peer(client)
    host, _, port = bus.listen.rpartition(":")
    for junk in (
        b"\0" * 5000,
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /default HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01" * 50,
    ):
        with socket.create_connection((host, int(port)), timeout=5) as client:
            client.sendall(junk)
            client.recv(4096)
    greedy, wire = greeted(bus)
    for _ in range(2000):
        wire.send_request(Command.CREATE_PLAYBACK_STREAM, playback_fields(Spec(3, 2, 48_000), (1, 2)))
    greedy.sendall(wire.data_to_send())
    time.sleep(0.5)
    assert len(bus.guest()["streams"]) <= 257
    greedy.close()
    assert player.wait(30) == 0
    sound, _ = bus.hear(listener, tmp_path / "out.wav")
    judge_numbered(trimmed(sound), frames, len(bus.stalls()))


@pytest.mark.beside
def test_recorder_that_never_reads_is_bounded(bus: Bus, tmp_path: Path) -> None:
    need("paplay")
    stuck, wire = greeted(bus)
    for _ in range(8):
        wire.send_request(
            Command.CREATE_RECORD_STREAM, record_fields(Spec(5, 8, 192_000), ()) | {"map": tuple(range(1, 9))}
        )
    stuck.sendall(wire.data_to_send())
    wait_for(lambda: len(bus.guest()["recorders"]) == 8, what="recorders are there")
    before = rss_kib(bus)
    # Eight of them record 49 MB a second.
    time.sleep(4)
    assert rss_kib(bus) - before < 120 * 1024
    stuck.close()
    wait_for(lambda: not bus.guest()["recorders"], what="recorders are gone")


def test_stopped_player_does_not_disturb_and_continues(bus: Bus, tmp_path: Path) -> None:
    need("paplay")
    frames = s16(count(48_000 * 6))
    listener = bus.listener(tmp_path / "out.wav", *PCM)
    sleeper = bus.spawn("paplay", str(write_wav(tmp_path / "quiet.wav", np.zeros((48_000 * 6, 2), "<i2"))))
    player = bus.spawn("paplay", str(write_wav(tmp_path / "count.wav", frames)))
    time.sleep(1)
    sleeper.send_signal(signal.SIGSTOP)
    time.sleep(3)
    sleeper.send_signal(signal.SIGCONT)
    assert player.wait(20) == 0 and sleeper.wait(20) == 0
    sound, _ = bus.hear(listener, tmp_path / "out.wav")
    judge_numbered(trimmed(sound), frames, len(bus.stalls()))


@pytest.mark.beside
def test_sockets_are_private_and_symlinks_in_their_place_are_refused(bus: Bus, tmp_path: Path) -> None:
    assert bus.pulse().stat().st_mode & 0o777 == 0o600
    assert bus.pulse().parent.stat().st_mode & 0o777 == 0o700
    assert (bus.pulse().parent / "cookie").stat().st_mode & 0o777 == 0o600
    bus.stop()
    bus.pulse().parent.rmdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    os.symlink(elsewhere, bus.pulse().parent)
    failed = bus.cli("serve", "--listen", "127.0.0.1:0", check=False)
    assert failed.returncode == 2 and "must be a directory" in failed.stderr
    assert not list(elsewhere.iterdir())
    bus.pulse().parent.unlink()
    bus.start()
