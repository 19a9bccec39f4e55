"""Policy and rights with real clients: what is remembered, ducked, prompted for, refused; who a program is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from millrace.dsp.measure import level_dbfs
from millrace.io.peers import identity_of, sandbox_of_cgroup
from millrace.sim.signals import count, sine

from .conftest import MILLRACE, Bus, need, read_wav, trimmed, wait_for, write_wav
from .test_clients import PCM, judge_numbered, s16

pytestmark = pytest.mark.real
POLICY = [sys.executable, "-m", "millrace.cli.policy"]


@pytest.fixture
def lone(tmp_path: Path) -> Iterator[Bus]:
    """A daemon without a session manager."""
    runtime = tmp_path / "run"
    runtime.mkdir(mode=0o700)
    one = Bus(runtime, "--no-policy")
    one.start()
    yield one
    one.close()


def in_charge(bus: Bus, pid: int | None = None) -> Any:
    policy = bus.state()["policy"]
    return policy and (pid is None or policy["pid"] == pid)


def heard_level(path: Path, begin_s: float, end_s: float) -> float:
    """The level between two times, counted from the first sound."""
    sound, rate = read_wav(path)
    left = trimmed(sound)[:, 0].astype(np.float32) / 32768
    return level_dbfs(left[round(begin_s * rate) : round(end_s * rate)])


def test_call_ducks_the_music(bus: Bus, tmp_path: Path) -> None:
    need("paplay")
    wait_for(lambda: in_charge(bus), what="the policy")
    music = write_wav(tmp_path / "music.wav", s16(sine(5.0, 440.0)))
    silence = write_wav(tmp_path / "call.wav", np.zeros((48_000, 2)))
    listener = bus.listener(tmp_path / "out.wav", *PCM)
    player = bus.spawn("paplay", "--property=media.role=music", str(music))
    wait_for(lambda: any(s["state"] == "running" for s in bus.guest()["streams"]), what="music")
    time.sleep(1.5)
    bus.run("paplay", "--property=media.role=phone", str(silence))
    assert player.wait(20) == 0
    bus.hear(listener, tmp_path / "out.wav")
    sound, _ = read_wav(tmp_path / "out.wav")
    left = np.abs(sound[:, 0].astype(np.float32) / 32768)
    peaks = left[: len(left) // 480 * 480].reshape(-1, 480).max(axis=1)
    full, ducked = np.isclose(peaks, 0.5, atol=0.02), np.isclose(peaks, 0.05, atol=0.01)
    assert ducked.sum() > 60, "the music is 20 dB down for most of the call's second"
    first, last = np.flatnonzero(ducked)[[0, -1]]
    assert full[:first].sum() > 80 and full[last:].sum() > 80, "and as loud as before on either side of it"


def test_level_set_with_pactl_is_restored_and_survives_kill_9(bus: Bus, tmp_path: Path) -> None:
    need("paplay", "pactl")
    wait_for(lambda: in_charge(bus), what="the policy")
    tone = write_wav(tmp_path / "tone.wav", s16(sine(3.0, 440.0)))
    player = bus.spawn("paplay", str(tone))
    wait_for(lambda: bus.guest()["streams"], what="the stream")
    index = json.loads(bus.run("pactl", "-f", "json", "list", "sink-inputs").stdout)[0]["index"]
    bus.run("pactl", "set-sink-input-volume", str(index), "50%")
    assert player.wait(10) == 0
    time.sleep(0.6)
    bus.daemon.kill()  # type: ignore[union-attr]
    bus.daemon.wait()  # type: ignore[union-attr]
    bus.start()
    wait_for(lambda: in_charge(bus), what="the policy")
    listener = bus.listener(tmp_path / "out.wav", *PCM)
    bus.run("paplay", str(tone))
    bus.hear(listener, tmp_path / "out.wav")
    level = heard_level(tmp_path / "out.wav", 0.5, 2.5)
    assert abs(level - 20 * np.log10(0.5 * 0.125)) < 0.3, "pactl's 50 % is 1/8"


def test_killing_the_policy_during_playback_loses_no_frame(lone: Bus, tmp_path: Path) -> None:
    need("pacat")
    frames = s16(count(48_000 * 8))
    (tmp_path / "raw").write_bytes(frames.astype("<i2").tobytes())
    listener = lone.listener(tmp_path / "out.wav", *PCM)
    player = lone.spawn("pacat", "--raw", "--rate=48000", "--format=s16le", "--channels=2", str(tmp_path / "raw"))
    for _ in range(5):
        policy = lone.spawn(*POLICY)
        wait_for(lambda pid=policy.pid: in_charge(lone, pid), what="a policy in charge")
        policy.kill()
        policy.wait()
    assert player.wait(30) == 0
    sound, _ = lone.hear(listener, tmp_path / "out.wav")
    judge_numbered(trimmed(sound), frames, len(lone.stalls()))
    assert "no session manager" in lone.cli("ls").stdout


@pytest.mark.beside
def test_external_policy_takes_over_and_builtin_one_returns(bus: Bus, tmp_path: Path) -> None:
    need("paplay")
    wait_for(lambda: in_charge(bus, bus.daemon.pid), what="the built-in policy")  # type: ignore[union-attr]
    bus.cli("sink", "add", "music")
    (tmp_path / "own.toml").write_text('[roles]\nmusic = "sink/music"\n')
    own = bus.spawn(*POLICY, "--replace", "--config", str(tmp_path / "own.toml"))
    wait_for(lambda: in_charge(bus, own.pid), what="the new policy")
    tone = write_wav(tmp_path / "tone.wav", s16(sine(2.0)))
    bus.spawn("paplay", "--property=media.role=music", str(tone))
    wait_for(lambda: any(s["sink"] != bus.guest()["sinks"][0]["id"] for s in bus.guest()["streams"]), what="moved")
    own.kill()
    wait_for(lambda: in_charge(bus, bus.daemon.pid), what="the built-in policy again")  # type: ignore[union-attr]


@pytest.mark.beside
def test_parec_waits_for_permission_and_records_what_was_decided(bus: Bus, tmp_path: Path) -> None:
    need("parec")
    bus.cli("prompt", "microphone")

    def recorder() -> subprocess.Popen[bytes]:
        with (tmp_path / "raw").open("wb") as out:
            process = bus.spawn("parec", "--raw", "-d", "microphone", stdout=out, stderr=subprocess.PIPE)
        wait_for(lambda: json.loads(bus.cli("grants", "--json").stdout)["requests"], what="the request")
        return process

    def request() -> str:
        return str(json.loads(bus.cli("grants", "--json").stdout)["requests"][0]["id"])

    refused = recorder()
    assert not bus.guest()["recorders"]
    bus.cli("deny", request())
    assert refused.wait(10) == 1 and refused.stderr is not None
    assert b"Access denied" in refused.stderr.read()
    granted = recorder()
    bus.cli("grant", request(), "--always")
    wait_for(lambda: (tmp_path / "raw").stat().st_size > 10_000, what="sound")
    assert "pacat may record the microphone" in bus.cli("grants").stdout
    bus.cli("revoke", "microphone", "--program", "pacat")
    assert granted.wait(10) != 0


@pytest.mark.beside
def test_unknown_client_is_told_to_wait_and_then_refused(bus: Bus) -> None:
    need("pactl")
    bus.cli("prompt", "connect", "--program", "pactl")
    waiting = bus.spawn("pactl", "info", stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    requests = wait_for(lambda: json.loads(bus.cli("grants", "--json").stdout)["requests"], what="the request")
    assert requests[0]["program"] == "pactl" and waiting.poll() is None
    bus.cli("deny", requests[0]["id"], "--always")
    assert waiting.wait(10) != 0
    again = bus.spawn("pactl", "info", stderr=subprocess.PIPE)
    assert again.wait(10) != 0
    bus.cli("grant", "connect", "--program", "pactl")
    bus.run("pactl", "info")


@pytest.mark.beside
def test_guest_limited_to_speaking(bus: Bus, tmp_path: Path) -> None:
    need("pactl", "paplay", "parec")
    bus.stop()
    (tmp_path / "c.toml").write_text('[guest.default]\nrights = "speak"\n')
    bus.args = ("--config", str(tmp_path / "c.toml"))
    bus.start()
    for command in (
        ("pactl", "set-sink-volume", "@DEFAULT_SINK@", "10%"), ("pactl", "load-module", "module-null-sink"),
        ("pactl", "set-sink-mute", "@DEFAULT_SINK@", "1"), ("pactl", "set-default-sink", "default"),
        ("parec", "--raw", "-d", "default.monitor"), ("parec", "--raw", "-d", "microphone"),
        ("pactl", "suspend-sink", "default", "1"),
    ):  # fmt: skip
        done = subprocess.run(command, env=bus.env, capture_output=True, text=True, timeout=20)
        assert done.returncode != 0 and "denied" in done.stderr.lower(), (command, done)
    player = bus.spawn("paplay", str(write_wav(tmp_path / "tone.wav", s16(sine(3.0)))))
    wait_for(lambda: bus.guest()["streams"], what="it plays")
    index = json.loads(bus.run("pactl", "-f", "json", "list", "sink-inputs").stdout)[0]["index"]
    other = subprocess.run(["pactl", "set-sink-input-mute", str(index), "1"], env=bus.env, capture_output=True)
    assert other.returncode != 0, "another client's stream is not its own"
    assert player.wait(20) == 0


# -- identifying programs --------------------------------------------------------------------------------


@pytest.mark.beside
def test_program_is_identified_by_its_file_and_not_its_name(bus: Bus, tmp_path: Path) -> None:
    """A copy of pactl that calls itself firefox-esr is identified by its path."""
    need("pactl")
    fake = tmp_path / "firefox-esr"
    fake.write_bytes(Path("/usr/bin/pactl").read_bytes())
    fake.chmod(0o775)
    bus.cli("revoke", "connect")
    bus.cli("grant", "connect", "--program", "firefox-esr")
    done = subprocess.run([fake, "info"], env=bus.env, capture_output=True, timeout=20)
    assert done.returncode != 0
    bus.cli("grant", "connect", "--program", str(fake))
    bus.run(str(fake), "info")


IN_ROOT = "import os, sys; os.chroot(sys.argv[1]); print('there', flush=True); sys.stdin.read()"


def jailed(root: Path) -> subprocess.Popen[bytes]:
    """A process whose root is `root`."""
    command = [sys.executable, "-c", IN_ROOT, str(root)]
    if os.geteuid() != 0:
        command = ["unshare", "-r", *command]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"there\n"
    return process


INFO = "[Application]\nname=org.example.App\nruntime=x\n"


@pytest.mark.beside
@pytest.mark.parametrize("trap", ["", "symlink", "fifo", "directory", "garbage", "huge"])
def test_flatpak_is_identified_by_its_root_and_traps_there_are_harmless(tmp_path: Path, trap: str) -> None:
    info = tmp_path / ".flatpak-info"
    if trap == "symlink":
        (tmp_path / "real").write_text(INFO)
        info.symlink_to("real")
    elif trap == "fifo":
        os.mkfifo(info)
    elif trap == "directory":
        info.mkdir()
    elif trap == "garbage":
        info.write_bytes(b"\xff\x00[[[" * 100)
    elif trap == "huge":
        info.write_text(INFO + "x=" + "y" * 10_000_000)
    else:
        info.write_text(INFO)
    process = jailed(tmp_path)
    try:
        found = identity_of(process.pid, os.getuid())
    finally:
        process.kill()
        process.wait()
    named = {"": "flatpak:org.example.App", "huge": "flatpak:org.example.App", "garbage": "flatpak:?"}
    assert found.sandbox == named.get(trap, found.sandbox) and (trap in named or "flatpak" not in found.sandbox)


@pytest.mark.beside
def test_other_mount_namespace_is_a_container_and_its_paths_are_ignored(bus: Bus) -> None:
    need("unshare", "pactl")
    bus.cli("revoke", "connect", "--program", "container:*")
    # If the root is not a mount point (in a chroot), its propagation can't be changed.
    namespace = ["--mount", "--propagation", "unchanged"]
    inside = ["unshare", *namespace] if os.geteuid() == 0 else ["unshare", "-r", *namespace]
    done = subprocess.run([*inside, "pactl", "info"], env=bus.env, capture_output=True, text=True, timeout=20)
    assert done.returncode != 0 and "denied" in done.stderr.lower()
    bus.run("pactl", "info")


@pytest.mark.beside
def test_daemon_in_a_container_serves_programs_that_have_no_number_there(tmp_path: Path) -> None:
    """As with the daemon in one container and the programs in another, or on the host."""
    need("unshare", "pactl")
    own = [] if os.geteuid() == 0 else ["--map-current-user"]
    bus = Bus(tmp_path)
    bus.command = ["unshare", *own, "--pid", "--fork", "--kill-child=SIGTERM", *MILLRACE]
    bus.start()
    try:
        bus.run("pactl", "info")
        bus.cli("revoke", "connect", "--program", "container:*")
        denied = subprocess.run(["pactl", "info"], env=bus.env, capture_output=True, text=True, timeout=20)
        assert denied.returncode != 0 and "denied" in denied.stderr.lower()
        assert "Traceback" not in bus.log.read_text()
    finally:
        # `unshare` heeds nothing less while it waits; the daemon is told to end then.
        bus.stop(signal.SIGKILL)


@pytest.mark.beside
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/snap.firefox.firefox-ab12.scope", "snap:firefox"),
        ("0::/system.slice/docker-0123456789abcdef0123.scope", "container:0123456789ab"),
        ("0::/machine.slice/libpod-fedcba9876543210.scope/container", "container:fedcba987654"),
        ("12:pids:/docker/0123456789abcdef", "container:0123456789ab"),
        ("0::/lxc.payload.web/init.scope", "container:web"),
        ("0::/user.slice/user-1000.slice/session-2.scope", ""),
    ],
)
def test_snaps_and_containers_are_identified_by_control_group(line: str, expected: str) -> None:
    assert sandbox_of_cgroup(line + "\n") == expected


@pytest.mark.beside
def test_exited_process_is_nobody() -> None:
    process = subprocess.Popen(["true"])
    pidfd = os.pidfd_open(process.pid)
    process.wait()
    assert identity_of(process.pid, 0, pidfd).names == ()
    os.close(pidfd)
