"""Listeners as users run them: reconnecting, changed while they play, slow, refused."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from millrace.dsp.measure import frequency_hz, level_dbfs
from millrace.sim.signals import sine

from .conftest import MILLRACE, Bus, lack, need, read_wav, sound_server, trimmed, wait_for, write_wav
from .test_clients import PCM, judge_numbered, s16

pytestmark = pytest.mark.real


def play_tone(bus: Bus, tmp_path: Path, seconds: float = 20) -> subprocess.Popen[bytes]:
    need("paplay")
    return bus.spawn("paplay", str(write_wav(tmp_path / "tone.wav", s16(sine(seconds)))))


def test_everything_in_ls_exists_and_can_be_changed_during_playback(bus: Bus, tmp_path: Path) -> None:
    play_tone(bus, tmp_path, 60)
    bus.listener(tmp_path / "out.wav", "--set", "bitrate=128k")
    bus.spawn(*MILLRACE, "listen", bus.url(), "--to", "null:", "-q")
    wait_for(lambda: len(bus.guest()["listeners"]) == 2 and bus.guest()["streams"], what="all joined")
    first = bus.guest()["listeners"][0]["id"]
    time.sleep(2.2)
    before = next(x for x in bus.guest()["listeners"] if x["id"] == first)["bitrate"]
    assert 60_000 < before < 220_000
    bus.cli("set", first, "bitrate=24k", "frame=40ms", "complexity=3", "fec=on", "loss=10", "dtx=on", "vbr=off")

    def shown() -> dict[str, Any]:
        return next(x for x in bus.guest()["listeners"] if x["id"] == first)

    assert shown()["settings"]["bitrate"] == 24_000
    wait_for(lambda: shown()["bitrate"] < 40_000, what="a thinner line")
    clocked = next(x for x in bus.guest()["listeners"] if x["output"] == "null:")
    assert 1 < clocked["latency_ms"] < 250 and clocked["fill_ms"] > 0
    stream = bus.guest()["streams"][0]
    assert (stream["format"], stream["rate"], stream["channels"]) == ("s16le", 48_000, 2)
    bus.cli("sink", "add", "music")
    bus.cli("move", stream["id"], "sink/music")
    bus.cli("set", stream["id"], "volume=-12dB")
    wait_for(lambda: any(s["name"] == "music" and 0.1 < s["peak"] < 0.14 for s in bus.guest()["sinks"]), what="moved")
    bus.cli("link", stream["id"], "sink/default", "--matrix", "0,0.5;0,0")
    wait_for(lambda: any(s["name"] == "millrace" and s["peak"] > 0.05 for s in bus.guest()["sinks"]), what="linked")
    assert len(bus.guest()["streams"][0]["linked_to"]) == 2
    assert bus.cli("link", "sink/music", "sink/music", check=False).returncode == 3
    assert bus.cli("link", stream["id"], "sink/music", "--matrix", "1,2,3", check=False).returncode == 3
    assert bus.cli("link", stream["id"], "sink/music", "--matrix", "x", check=False).returncode == 2
    bus.cli("unlink", stream["id"], "sink/default")
    assert "no other link" in bus.cli("unlink", stream["id"], "sink/music", check=False).stderr
    bus.cli("set", "sink/music", "mute=on")
    text = bus.cli("ls").stdout
    assert "muted" in text and "sink/" in text and "listener/" in text
    assert bus.cli("set", stream["id"], "volume=loud", check=False).returncode == 2
    assert "neither a percentage" in bus.cli("set", stream["id"], "volume=loud", check=False).stderr
    assert bus.cli("set", "stream/99999", "volume=10%", check=False).returncode == 3
    for wrong, code in (("nobody", 3), ("--sink=nothing", 3), ("--set=foo=bar", 2), ("--set=bitrate=1", 2)):
        done = bus.cli("listen", "--to", "null:", wrong, check=False)
        assert done.returncode == code and len(done.stderr.splitlines()) == 1, (wrong, done.stderr)


def test_guests_are_added_isolated_and_removed(bus: Bus, tmp_path: Path) -> None:
    need("paplay", "pactl")
    out = bus.cli("guest", "add", "alice").stdout
    assert "PULSE_SERVER=unix:" in out
    in_alice = {"PULSE_SERVER": f"unix:{bus.pulse('alice')}"}
    in_guest = bus.listener(tmp_path / "alice.wav", *PCM, guest="alice")
    beside = bus.listener(tmp_path / "default.wav", *PCM)
    player = play_tone(bus, tmp_path, 2)
    assert bus.run("pactl", "list", "sink-inputs", env=in_alice).stdout == ""
    assert player.wait(10) == 0
    # Then play something in alice, so that silence before it can be told from a listener that received nothing at all.
    other = write_wav(tmp_path / "other.wav", s16(sine(1.0, hz=500.0)))
    bus.run("paplay", str(other), env=in_alice)
    wait_for(lambda: bus.guest("alice")["state"] == "idle", 15, "alice falls idle")
    for listener, file, hz, seconds in ((in_guest, "alice.wav", 500, 1.0), (beside, "default.wav", 997, 2.0)):
        sound, rate = bus.hear(listener, tmp_path / file)
        heard = trimmed(sound)
        assert abs(len(heard) / rate - seconds) < 0.1, "only its own sound"
        assert abs(frequency_hz(heard[2400:-2400, 0].astype(np.float32), rate) - hz) < 1.0
    bus.listener(tmp_path / "more.wav", *PCM, guest="alice")
    assert bus.cli("guest", "add", "alice", check=False).returncode != 0
    assert bus.cli("guest", "add", "../evil", check=False).returncode != 0
    bus.cli("guest", "remove", "alice")
    assert wait_for(lambda: bus.processes[-1].poll() is not None, what="alice's listener ends")
    assert not bus.pulse("alice").exists()


def test_listener_reconnects_and_plays_everything_that_follows(bus: Bus, tmp_path: Path) -> None:
    need("paplay")
    listener = bus.listener(tmp_path / "out.wav", *PCM)
    assert bus.stop() == 0
    time.sleep(1.0)
    bus.start()
    wait_for(lambda: bus.guest()["listeners"], 10, "the listener returns")
    frames = s16(sine(1.0))
    bus.run("paplay", str(write_wav(tmp_path / "after.wav", frames)))
    sound, _ = bus.hear(listener, tmp_path / "out.wav")
    assert len(trimmed(sound)) >= 47_990


def test_listener_that_never_reads_loses_only_its_own_packets(bus: Bus, tmp_path: Path) -> None:
    need("paplay")
    good = bus.listener(tmp_path / "good.wav", *PCM)
    stuck = bus.listener(tmp_path / "stuck.wav", "--set", "codec=f32")
    frames = s16(np.tile(np.arange(1, 30_001, dtype=np.float32)[:, None] / 32768, (16, 2)))
    player = bus.spawn("paplay", str(write_wav(tmp_path / "count.wav", frames)))
    time.sleep(1.0)
    stuck.send_signal(signal.SIGSTOP)
    assert player.wait(30) == 0
    dropped = max(x["dropped_packets"] for x in bus.guest()["listeners"])
    stuck.kill()
    assert dropped > 0
    sound, _ = bus.hear(good, tmp_path / "good.wav")
    judge_numbered(trimmed(sound), frames, len(bus.stalls()))


def test_ctrl_c_leaves_complete_files_and_notifies_clients(bus: Bus, tmp_path: Path) -> None:
    player = play_tone(bus, tmp_path)
    listener = bus.listener(tmp_path / "out.wav", *PCM)
    time.sleep(2.0)
    assert bus.stop(signal.SIGINT) == 0
    assert player.wait(5) != 0
    assert not bus.pulse().exists()
    sound, rate = read_wav(tmp_path / "out.wav")
    listener.send_signal(signal.SIGINT)
    assert listener.wait(5) == 0
    sound, rate = read_wav(tmp_path / "out.wav")
    assert abs(frequency_hz(trimmed(sound)[4800:, 0].astype(np.float32), rate) - 997) < 0.5
    size = (tmp_path / "out.wav").stat().st_size
    assert int.from_bytes((tmp_path / "out.wav").read_bytes()[4:8], "little") == size - 8


def test_raw_output_is_real_time_sound(bus: Bus, tmp_path: Path) -> None:
    play_tone(bus, tmp_path)
    done = bus.spawn(*MILLRACE, "listen", bus.url(), "--to", "raw:-", "-q", "--seconds", "4", stdout=subprocess.PIPE)
    data = np.frombuffer(done.communicate(timeout=20)[0], "<i2").reshape(-1, 2)[:, 0].astype(np.float32) / 32768
    assert 2.5 * 48_000 < len(data) < 4.5 * 48_000
    loud = data[np.flatnonzero(np.abs(data) > 0.01)[0] :]
    assert abs(level_dbfs(loud[24_000:72_000]) - -6.02) < 1.5


@pytest.mark.beside
def test_listener_ends_with_its_reader(bus: Bus, tmp_path: Path) -> None:
    play_tone(bus, tmp_path)
    listener = bus.spawn(*MILLRACE, "listen", bus.url(), "--to", "raw:-", "-q", stdout=subprocess.PIPE)
    assert listener.stdout is not None
    assert listener.stdout.read(1000)
    listener.stdout.close()
    assert listener.wait(10) == 0


@pytest.mark.beside
def test_others_need_a_token_and_cross_origin_pages_are_refused(bus: Bus, tmp_path: Path) -> None:
    import http.client

    host, _, port = bus.listen.rpartition(":")

    def status(headers: dict[str, str]) -> int:
        connection = http.client.HTTPConnection(host, int(port), timeout=5)
        connection.request("GET", "/api/v1/state", headers=headers)
        return connection.getresponse().status

    own = {"Authorization": f"Bearer {bus.key}"}
    assert status({}) == status({"Host": "evil.example"}) == 401
    assert status(own) == status(own | {"Origin": f"http://{bus.listen}"}) == 200
    assert status(own | {"Origin": "http://evil.example"}) == 403


def test_tls_and_token_over_a_network_address(bus: Bus, tmp_path: Path) -> None:
    """This machine by an address other than loopback, so that the token is required."""
    need("openssl", "paplay")
    address = _own_address()
    cert, key, token = tmp_path / "c.pem", tmp_path / "k.pem", tmp_path / "token"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=test",
         "-keyout", key, "-out", cert],
        check=True, capture_output=True,
    )  # fmt: skip
    token.write_text("correct-horse-battery-staple\n")
    token.chmod(0o600)
    bus.stop()
    bus.args = ("--tls-cert", str(cert), "--tls-key", str(key), "--token-file", str(token))
    bus.listen = f"{address}:0"
    bus.start()
    listen = [*MILLRACE, "listen", bus.url(scheme="wss"), "--insecure", "--to", f"wav:{tmp_path / 'out.wav'}", "-q"]
    refused = subprocess.run(listen, env=bus.env, capture_output=True, text=True, timeout=20)
    assert refused.returncode == 4 and "token" in refused.stderr
    trusting = subprocess.run(
        [a for a in listen if a != "--insecure"], env=bus.env, capture_output=True, text=True, timeout=20
    )
    assert trusting.returncode == 4 and "certificate" in trusting.stderr
    wrong = tmp_path / "wrong"
    wrong.write_text("wrong-wrong-wrong-wrong")
    wrong.chmod(0o600)
    assert (
        subprocess.run([*listen, "--token-file", wrong], env=bus.env, capture_output=True, timeout=20).returncode == 4
    )
    listener = bus.spawn(*listen, "--token-file", str(token), *PCM)
    wait_for(lambda: bus.guest()["listeners"], what="joined")
    frames = s16(sine(1.0))
    bus.run("paplay", str(write_wav(tmp_path / "one.wav", frames)))
    sound, _ = bus.hear(listener, tmp_path / "out.wav")
    assert len(trimmed(sound)) >= 47_990
    assert "correct-horse" not in bus.log.read_text()


def _own_address() -> str:
    """A non-loopback address of this machine, from connecting a UDP socket to a test address; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            lack("an address besides loopback (this machine has no route)")
        return str(probe.getsockname()[0])


@pytest.mark.beside
def test_wrong_usage_says_what_to_do(bus: Bus, tmp_path: Path) -> None:
    second = subprocess.run(
        [*MILLRACE, "serve", "--listen", "127.0.0.1:0"], env=bus.env, capture_output=True, text=True
    )
    assert second.returncode == 2 and "another daemon runs" in second.stderr
    assert "ws://HOST:PORT/GUEST" in bus.cli("listen", "localhost", "--to", "null:", check=False).stderr
    nowhere = bus.cli("listen", bus.url() + "nobody", "--to", "null:", check=False)
    assert nowhere.returncode == 3 and "no such guest" in nowhere.stderr
    bad = bus.cli("listen", bus.url(), "--to", "tape:", check=False)
    assert bad.returncode == 2 and "wav:FILE" in bad.stderr
    setting = bus.cli("listen", bus.url(), "--to", "null:", "--set", "bitrate=1", check=False)
    assert setting.returncode == 2 and "6k to 510k" in setting.stderr
    env = bus.env | {"XDG_RUNTIME_DIR": str(tmp_path)}
    none = subprocess.run([*MILLRACE, "ls"], env=env, capture_output=True, text=True)
    assert none.returncode == 2 and "millrace serve" in none.stderr
    full = Path("/dev/full")
    if full.exists():
        disk = bus.spawn(*MILLRACE, "listen", bus.url(), "--to", "wav:/dev/full", "-q", *PCM, stderr=subprocess.PIPE)
        _, text = disk.communicate(timeout=20)
        assert disk.returncode == 7 and b"No space left" in text
    assert os.path.exists(bus.pulse())


@pytest.mark.beside
def test_token_admits_a_listener_and_its_end_ends_it(bus: Bus, tmp_path: Path) -> None:
    secret = bus.cli(
        "token", "new", "--guest", "default", "--may", "hear", "--expires", "1h", "--name", "x"
    ).stdout.strip()
    assert secret.startswith("mr_")
    file = tmp_path / "token"
    file.write_text(secret)
    file.chmod(0o600)
    said = tmp_path / "said"
    with said.open("w") as err:
        command = [*MILLRACE, "listen", bus.url(), "--to", "null:", "--token-file", str(file)]
        listener = bus.spawn(*command, stderr=err)
    seen = wait_for(lambda: bus.guest()["listeners"], 15, "the listener joins")[0]
    assert seen["by"] == "token/1"
    assert secret not in bus.cli("token", "list", "--json").stdout
    assert secret.encode() not in Path(f"/proc/{listener.pid}/cmdline").read_bytes()
    bus.cli("token", "revoke", "token/1")
    assert listener.wait(10) == 6
    again = subprocess.run([*command, "--no-reconnect"], env=bus.env, capture_output=True, text=True, timeout=20)
    assert again.returncode == 4 and "access denied (401)" in again.stderr
    bus.stop()
    assert secret not in bus.log.read_text()


@pytest.mark.beside
def test_guests_volumes_and_tokens_survive_kill_9(bus: Bus) -> None:
    bus.cli("guest", "add", "carol")
    bus.cli("set", "sink/default", "volume=50%", "--guest", "carol")
    bus.cli("token", "new", "--guest", "carol")
    bus.stop(signal.SIGKILL)
    bus.start()
    assert bus.guest("carol")["sinks"][0]["volume"] == 50
    assert re.search(r"token/1 .*\bcarol\b", bus.cli("token", "list").stdout)
    bus.cli("guest", "remove", "carol")


@pytest.mark.beside
def test_parec_records_only_what_it_is_granted(bus: Bus, tmp_path: Path) -> None:
    need("parec")
    bus.cli("revoke", "monitor")
    command = ["parec", "--raw", "-d", "millrace.monitor"]
    refused = subprocess.run(command, env=bus.env, capture_output=True, text=True, timeout=20)
    assert refused.returncode != 0 and "Access denied" in refused.stderr
    # parec is a link to pacat, and the kernel names the real executable.
    bus.cli("grant", "monitor", "--program", "pacat")
    recorder = bus.spawn(*command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: bus.guest()["recorders"], 10, "it records")
    bus.cli("revoke", "monitor", "--program", "pacat")
    assert recorder.wait(10) != 0
    assert bus.guest()["refused_captures"] == 1
    assert "pacat may not record the monitor" in bus.cli("grants").stdout


def test_listener_moves_to_a_new_sound_server_when_its_own_ends(bus: Bus, tmp_path: Path) -> None:
    """As when a headset is unplugged: the application notices nothing, and nothing has to be restarted."""
    need("pulseaudio", "parec")
    home = tmp_path / "server"
    server, waker = sound_server(bus, home)
    there = {"PULSE_SERVER": f"unix:{home}/native"}
    player = play_tone(bus, tmp_path, 90)
    listener = bus.spawn(*MILLRACE, "listen", bus.url(), "--to", "device", env=there, stderr=subprocess.PIPE)

    def hears() -> bool:
        """Whether the server's sink plays the tone."""
        command = ["timeout", "1.5", "parec", "--raw", "-d", "@DEFAULT_MONITOR@", "--rate=48000", "--latency-msec=50"]
        done = subprocess.run([*command, "--channels=1"], env=bus.env | there, capture_output=True)
        sound = np.frombuffer(done.stdout[: len(done.stdout) // 2 * 2], "<i2").astype(np.float32) / 32768
        loud = sound[len(sound) // 2 :]
        return len(loud) > 9_600 and level_dbfs(loud) > -12 and abs(frequency_hz(loud, 48_000) - 997.0) < 3.0

    wait_for(hears, 30, "the tone on the server")
    for _ in range(2):
        server.kill()
        server.wait()
        waker.wait(10)
        time.sleep(2)
        assert listener.poll() is None and player.poll() is None
        server, waker = sound_server(bus, home)
        wait_for(hears, 30, "the tone on the server that is there now")
    found = [(one["stage"], one["cause"]) for one in bus.incidents()]
    assert found.count(("device", "lost")) >= 2
    listener.send_signal(signal.SIGINT)
    assert listener.wait(10) == 0
    assert listener.stderr is not None and b"device is open again" in listener.stderr.read()
