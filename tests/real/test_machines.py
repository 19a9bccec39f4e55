"""Real QEMU through every door: D-Bus (QMP, a bus, a handed-over connection), SPICE, VNC; and a real Linux in it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from millrace.dsp.measure import frequency_hz, level_dbfs
from millrace.io.crypto import vnc_answer
from tests.ports import free_port

from .clients import BOOT_SECTOR, old_qemu
from .conftest import MILLRACE, Bus, listens, need, read_wav, trimmed, wait_for

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("heavy")]
PCM = ("--set", "codec=s16")
BEEP_HZ = 996.6
"""QEMU generates the square wave from whole samples."""
FOLLOWED = 0.03
"""A guest that gets too little processor time runs slow, and its link follows it by up to this much: such a pitch
is due to load, not a fault. A wrong rate (44.1 for 48 kHz) would be 8.8 % away."""
NO_SUCH = ("--cards", "pcspk", "--doors", "dbus", "--directions", "in")
"""A combination that does not exist: the matrix builds its guest, and boots none."""


class Vm:
    """The smallest guest that makes a sound, in its own QEMU."""

    def __init__(self, bus: Bus, folder: Path, audiodev: str, *args: str) -> None:
        self.bus, self.folder = bus, folder
        image = folder / "boot.img"
        image.write_bytes(BOOT_SECTOR)
        self.command = [
            "qemu-system-x86_64", "-M", "pc,pcspk-audiodev=a", "-audiodev", f"{audiodev},id=a", "-nodefaults",
            "-drive", f"format=raw,file={image}", *args,
        ]  # fmt: skip
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, **options: Any) -> subprocess.Popen[bytes]:
        with (self.folder / "qemu.log").open("ab") as log:
            self.process = self.bus.spawn(*self.command, stdout=log, stderr=log, **options)
        return self.process

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)


def said_of(done: subprocess.CompletedProcess[str]) -> str:
    """What a command said: `attach` prints the door, and on standard error why the machine does not answer."""
    return done.stdout + done.stderr


def door(bus: Bus) -> dict[str, Any]:
    found: dict[str, Any] = bus.guest()["doors"][0]
    return found


def wait_attached(bus: Bus) -> None:
    try:
        wait_for(lambda: door(bus)["state"] == "attached", 30, "the machine is attached")
    except AssertionError:
        raise AssertionError(f"not attached: {door(bus)}, {bus.log.read_text()}") from None


def beeps(bus: Bus, target: Path, seconds: float = 3.0) -> None:
    """Listen for a while, and judge the sound."""
    listener = bus.listener(target, *PCM)
    wait_for(lambda: any(s["state"] == "running" for s in bus.guest()["streams"]), 30, "the guest beeps")
    time.sleep(seconds)
    listener.terminate()
    assert listener.wait(10) == 0
    sound, rate = read_wav(target)
    left = trimmed(sound, 300)[:, 0].astype(np.float32) / 32768
    assert len(left) > (seconds - 1) * rate
    assert abs(frequency_hz(left[rate // 2 :], rate) - BEEP_HZ) < BEEP_HZ * FOLLOWED


def dbus_vm(bus: Bus, folder: Path) -> tuple[Vm, list[str]]:
    """A machine with sound over D-Bus, and the arguments that attach it."""
    return on_a_bus(bus, folder) if old_qemu() else (peer_to_peer(bus, folder), ["--qmp", str(folder / "qmp")])


def peer_to_peer(bus: Bus, folder: Path) -> Vm:
    """A machine whose connections are handed to it over QMP."""
    qmp = ("-qmp", f"unix:{folder}/qmp,server=on,wait=off")
    return Vm(bus, folder, "dbus,timer-period=5000", "-display", "dbus,p2p=on,audiodev=a", *qmp)


def on_a_bus(bus: Bus, folder: Path) -> tuple[Vm, list[str]]:
    """A machine on a bus of its own, which has QMP too, and the arguments that attach it."""
    address, qmp = f"unix:path={folder}/vmbus", ("-qmp", f"unix:{folder}/qmp,server=on,wait=off")
    bus.spawn("dbus-daemon", "--session", "--nofork", f"--address={address}", stderr=subprocess.DEVNULL)
    wait_for(lambda: listens(folder / "vmbus"), 10, "the bus is there")
    vm = Vm(bus, folder, "dbus,timer-period=5000", "-display", f"dbus,addr={address},audiodev=a", *qmp)
    return vm, ["--dbus", address]


def test_qemu_is_attached_over_qmp_when_it_appears_and_again_after_kill_9(bus: Bus, tmp_path: Path) -> None:
    need("qemu-system-x86_64", "dbus-daemon")
    vm, how = dbus_vm(bus, tmp_path)
    said = said_of(bus.cli("attach", "qemu", *how))
    assert "waiting" in said and "keeps trying" in said
    for attempt in range(2):
        vm.start()
        wait_attached(bus)
        beeps(bus, tmp_path / f"{attempt}.wav")
        vm.kill()
        wait_for(lambda: door(bus)["state"] == "waiting" and not bus.guest()["streams"], 10, "its end is noticed")
    wait_for(lambda: "yet" in door(bus)["error"], 5, "it says that there is no machine yet")
    bus.cli("detach", door(bus)["id"])
    assert not bus.guest()["doors"]


def test_restarted_daemon_finds_its_machine_again(bus: Bus, tmp_path: Path) -> None:
    need("qemu-system-x86_64", "dbus-daemon")
    vm, (option, where) = dbus_vm(bus, tmp_path)
    vm.start()
    bus.stop()
    bus.args = (option.replace("--", "--qemu-"), where)
    for attempt in range(2):
        bus.start()
        wait_attached(bus)
        beeps(bus, tmp_path / f"{attempt}.wav", 2.0)
        if attempt == 0:
            bus.stop()


def test_machine_on_a_bus_that_is_attached_over_qmp_is_not_harmed_and_the_way_told(bus: Bus, tmp_path: Path) -> None:
    need("qemu-system-x86_64", "dbus-daemon")
    vm, how = on_a_bus(bus, tmp_path)
    machine = vm.start()
    wait_for(lambda: listens(tmp_path / "qmp"), 10, "QMP is there")
    said = said_of(bus.cli("attach", "qemu", "--qmp", str(tmp_path / "qmp")))
    assert ("--dbus ADDRESS" if old_qemu() else "-display dbus,p2p=on") in said
    time.sleep(1)
    bus.cli("detach", door(bus)["id"])
    bus.cli("attach", "qemu", *how)
    wait_attached(bus)
    beeps(bus, tmp_path / "out.wav", 2.0)
    assert machine.poll() is None, "the machine was not harmed"


def test_connection_made_by_another_program_is_handed_over(bus: Bus, tmp_path: Path) -> None:
    need("qemu-system-x86_64")
    vm = peer_to_peer(bus, tmp_path)
    machine = vm.start()
    wait_for(lambda: listens(tmp_path / "qmp"), 10, "QMP is there")
    mine, theirs = socket.socketpair()
    hand_to_qemu(tmp_path / "qmp", theirs)
    os.set_inheritable(mine.fileno(), True)
    done = subprocess.run(
        [*MILLRACE, "attach", "qemu", "--p2p", str(mine.fileno())], env=bus.env, pass_fds=(mine.fileno(),),
        capture_output=True, text=True, timeout=20,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    mine.close()
    if old_qemu():
        # Over such a connection the version can't be told, so docs/machines.md warns of this.
        assert machine.wait(20) == -signal.SIGSEGV, "QEMU 7.2 crashes when a client connects to its sound peer to peer"
    else:
        wait_attached(bus)
        beeps(bus, tmp_path / "out.wav", 2.0)
        vm.kill()
    wait_for(lambda: not bus.guest()["doors"], 10, "the door goes with its connection")


def hand_to_qemu(path: Path, end: socket.socket) -> None:
    with socket.socket(socket.AF_UNIX) as qmp:
        qmp.connect(str(path))
        lines = qmp.makefile("r")
        lines.readline()
        for command, arguments, fds in (
            ("qmp_capabilities", {}, []),
            ("getfd", {"fdname": "t"}, [end.fileno()]),
            ("add_client", {"protocol": "@dbus-display", "fdname": "t"}, []),
        ):
            socket.send_fds(qmp, [json.dumps({"execute": command, "arguments": arguments}).encode()], fds)
            while "return" not in (answer := json.loads(lines.readline())):
                assert "error" not in answer, answer
    end.close()


def test_machines_on_a_bus_are_distinguished_by_name(bus: Bus, tmp_path: Path) -> None:
    need("qemu-system-x86_64", "dbus-daemon")
    address = f"unix:path={tmp_path}/bus"
    bus.spawn("dbus-daemon", "--session", "--nofork", f"--address={address}", stderr=subprocess.DEVNULL)
    wait_for(lambda: listens(tmp_path / "bus"), 10, "the bus is there")
    display = ("-display", f"dbus,addr={address},audiodev=a")
    machines = {}
    for name in ("alpha", "beta"):
        (tmp_path / name).mkdir()
        machines[name] = Vm(bus, tmp_path / name, "dbus,timer-period=5000", *display, "-name", name)
        machines[name].start()
    bus.cli("attach", "qemu", "--dbus", address, "--vm", "beta")
    wait_attached(bus)
    assert door(bus)["machine"] == "beta"
    beeps(bus, tmp_path / "out.wav", 2.0)
    machines["beta"].kill()
    wait_for(lambda: door(bus)["state"] == "waiting" and not bus.guest()["streams"], 10, "its end is noticed")
    machines["beta"].start()
    wait_attached(bus)
    bus.cli("detach", door(bus)["id"])
    said = said_of(bus.cli("attach", "qemu", "--dbus", address, "--vm", "gamma"))
    assert "there are: 'alpha', 'beta'" in said or "there are: 'beta', 'alpha'" in said


def test_peer_that_never_answers_disturbs_nobody(bus: Bus, tmp_path: Path) -> None:
    need("qemu-system-x86_64", "dbus-daemon")
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(tmp_path / "bus"))
        mute.listen()
        threading.Thread(target=lambda: (mute.accept(), time.sleep(60)), daemon=True).start()
        bus.cli("guest", "add", "other")
        bus.cli("attach", "qemu", "--guest", "other", "--dbus", f"unix:path={tmp_path}/bus")
        vm, how = dbus_vm(bus, tmp_path)
        bus.cli("attach", "qemu", *how)
        vm.start()
        wait_attached(bus)
        beeps(bus, tmp_path / "out.wav", 2.0)
        error = wait_for(lambda: bus.guest("other")["doors"][0]["error"], 20, "it is given up")
        assert "does not answer" in error


def secret(path: Path, text: str) -> Path:
    path.write_text(text + "\n")
    path.chmod(0o600)
    return path


def test_spice_with_ticket_reports_another_viewer(bus: Bus, tmp_path: Path) -> None:
    need("qemu-system-x86_64")
    args = ("-object", "secret,id=p,data=geheim", "-spice", f"unix=on,addr={tmp_path}/spice,password-secret=p")
    Vm(bus, tmp_path, "spice,timer-period=5000", *args, "-display", "none").start()
    wait_for(lambda: listens(tmp_path / "spice"), 10, "SPICE is there")
    wrong = secret(tmp_path / "wrong", "nonsense")
    assert "password is wrong" in said_of(
        bus.cli("attach", "spice", f"unix:{tmp_path}/spice", "--password-file", str(wrong))
    )
    bus.cli("detach", door(bus)["id"])
    right = secret(tmp_path / "right", "geheim")
    bus.cli("attach", "spice", f"unix:{tmp_path}/spice", "--password-file", str(right))
    wait_attached(bus)
    beeps(bus, tmp_path / "out.wav", 2.0)
    bus.cli("guest", "add", "viewer")
    bus.cli("attach", "spice", f"unix:{tmp_path}/spice", "--password-file", str(right), "--guest", "viewer", "--also")
    wait_for(lambda: door(bus)["state"] == "displaced", 15, "the first notices")
    assert "SPICE_DEBUG_ALLOW_MC=1" in door(bus)["error"]
    assert bus.guest("viewer")["doors"][0]["state"] == "attached"
    bus.cli("attach", "spice", f"unix:{tmp_path}/spice", "--also")
    wait_attached(bus)
    wait_for(lambda: bus.guest("viewer")["doors"][0]["state"] == "displaced", 15, "the place was taken back")


def certificate(folder: Path) -> None:
    """ca-cert.pem, server-cert.pem and server-key.pem for localhost, under the names that QEMU expects."""
    (folder / "ext").write_text("basicConstraints=CA:FALSE\nsubjectAltName=DNS:localhost,IP:127.0.0.1\n")
    new = "openssl req -newkey rsa:2048 -nodes -subj"
    for command in (
        f"{new} /CN=ca -x509 -days 2 -keyout ca-key.pem -out ca-cert.pem",
        f"{new} /CN=localhost -keyout server-key.pem -out server.csr",
        "openssl x509 -req -in server.csr -CA ca-cert.pem -CAkey ca-key.pem -CAcreateserial -days 2 -extfile ext"
        " -out server-cert.pem",
    ):
        subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)


def test_spice_and_vnc_inside_tls(bus: Bus, tmp_path: Path) -> None:
    need("qemu-system-x86_64", "openssl")
    certificate(tmp_path)
    spice, vnc = free_port(), 6900 + os.getpid() % 900
    credentials = f"tls-creds-x509,id=t,dir={tmp_path},endpoint=server,verify-peer=off"
    vm = Vm(
        bus, tmp_path, "spice,timer-period=5000", "-device", "VGA", "-object", credentials,
        "-spice", f"tls-port={spice},addr=127.0.0.1,disable-ticketing=on,x509-dir={tmp_path}",
        "-vnc", f"127.0.0.1:{vnc - 5900},tls-creds=t,audiodev=a",
    )  # fmt: skip
    vm.start()
    ca = str(tmp_path / "ca-cert.pem")
    bus.cli("attach", "spice", f"localhost:{spice}", "--tls", "--ca-file", ca)
    wait_attached(bus)
    beeps(bus, tmp_path / "spice.wav", 2.0)
    bus.cli("detach", door(bus)["id"])
    bus.cli("attach", "vnc", f"localhost:{vnc}", "--ca-file", ca)
    wait_attached(bus)
    beeps(bus, tmp_path / "vnc.wav", 2.0)
    bus.cli("detach", door(bus)["id"])
    assert "TLS" in said_of(bus.cli("attach", "vnc", f"localhost:{vnc}"))


@contextlib.contextmanager
def exclusive_viewer(path: Path, password: str) -> Iterator[None]:
    """A VNC viewer that requests exclusive access."""
    with socket.socket(socket.AF_UNIX) as viewer:
        viewer.settimeout(10)
        viewer.connect(str(path))
        viewer.recv(12)
        viewer.sendall(b"RFB 003.008\n")
        viewer.recv(8)
        viewer.sendall(b"\2")
        viewer.sendall(vnc_answer(viewer.recv(16), password))
        assert viewer.recv(4) == bytes(4)
        viewer.sendall(b"\0")
        assert viewer.recv(24)
        yield


def test_vnc_with_a_password(bus: Bus, tmp_path: Path) -> None:
    need("qemu-system-x86_64")
    args = ("-object", "secret,id=p,data=geheim", "-device", "VGA")
    Vm(bus, tmp_path, "none", *args, "-vnc", f"unix:{tmp_path}/vnc,password-secret=p,audiodev=a").start()
    wait_for(lambda: listens(tmp_path / "vnc"), 10, "VNC is there")
    assert "--password-file" in said_of(bus.cli("attach", "vnc", f"unix:{tmp_path}/vnc"))
    bus.cli("detach", door(bus)["id"])
    wrong = secret(tmp_path / "wrong", "nonsense")
    assert "rejected the password" in said_of(
        bus.cli("attach", "vnc", f"unix:{tmp_path}/vnc", "--password-file", str(wrong))
    )
    bus.cli("detach", door(bus)["id"])
    right = secret(tmp_path / "right", "geheim")
    bus.cli("attach", "vnc", f"unix:{tmp_path}/vnc", "--password-file", str(right))
    wait_attached(bus)
    beeps(bus, tmp_path / "out.wav", 2.0)
    with exclusive_viewer(tmp_path / "vnc", "geheim"):
        wait_for(lambda: door(bus)["state"] == "displaced", 15, "it says that another viewer has the screen")
        assert "exclusive access" in door(bus)["error"]
    wait_attached(bus)


def test_vnc_server_without_sound_is_attached_for_its_picture(bus: Bus, tmp_path: Path) -> None:
    """TigerVNC has no audio. (QEMU 7.2 offers audio by default, so it can't serve as the example.)"""
    need("Xvnc")
    path = tmp_path / "xvnc"
    command = (
        "Xvnc",
        f":{70 + os.getpid() % 900}",
        "-SecurityTypes",
        "None",
        "-rfbport",
        "-1",
        "-rfbunixpath",
        str(path),
    )
    bus.spawn(*command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: listens(path), 20, "VNC is there")
    bus.cli("attach", "vnc", f"unix:{path}")
    wait_attached(bus)
    assert "PULSE_SERVER" in door(bus)["hint"]


def test_parec_records_a_listeners_microphone_while_allowed(bus: Bus, tmp_path: Path) -> None:
    need("parec")
    bus.spawn(*MILLRACE, "listen", bus.url(), "--to", "null:", "--mic", "tone:440", "-q")
    # The listener exists from its connection on, but offers its microphone a moment later.
    listener = wait_for(
        lambda: [one for one in bus.guest()["listeners"] if one["microphone"]["state"] != "off"],
        15,
        "the listener joins",
    )[0]
    assert listener["microphone"]["state"] == "ready"
    raw = tmp_path / "mic.raw"
    with raw.open("wb") as out:
        recorder = bus.spawn("parec", "--raw", "--rate=48000", "--format=s16le", "--channels=1", stdout=out)
        wait_for(lambda: raw.stat().st_size > 48_000 * 2 * 5, 30, "five seconds are recorded")
        assert bus.guest()["listeners"][0]["microphone"]["state"] == "on"
        bus.cli("set", listener["id"], "mic=off")
        assert bus.guest()["listeners"][0]["microphone"]["state"] == "forbidden"
        recorder.terminate()
        recorder.wait(10)
    bus.cli("set", listener["id"], "mic=on")
    assert bus.guest()["listeners"][0]["microphone"]["state"] == "ready"
    sound = np.frombuffer(raw.read_bytes()[: raw.stat().st_size // 2 * 2], "<i2")[:, None]
    spoken = trimmed(sound, 0)[:, 0].astype(np.float32) / 32768
    middle = spoken[24_000 : 24_000 + 48_000 * 3]
    assert abs(frequency_hz(middle, 48_000) - 440) < 1.0
    assert abs(level_dbfs(middle) - -6.02) < 0.3


def matrix(folder: Path, *args: str) -> list[dict[str, Any]]:
    """The rows that `millrace matrix` prints. The guest is built on first use and kept in this user's cache."""
    need("qemu-system-x86_64", "apt-get")
    env = os.environ | {"HOME": os.environ.get("HOME", str(folder))}
    done = subprocess.run([*MILLRACE, "matrix", "--json", *args], env=env, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


# In a group of its own: it waits for packages, and the tests of browsers need not wait for them too.
@pytest.mark.beside
@pytest.mark.xdist_group("guest")
def test_guest_is_built_and_impossible_combination_says_why(tmp_path: Path) -> None:
    (row,) = matrix(tmp_path, *NO_SUCH)
    assert "does not record" in row["note"]


def clean(row: dict[str, Any]) -> bool:
    """Whether only stalls of this machine, which the rig counts, caused jumps or gaps."""
    return bool(row["jumps"] <= row["stalls"] and row["gaps"] <= row["stalls"])


def sounded(folder: Path, door: str, directions: str = "all") -> list[dict[str, Any]]:
    """A Linux guest plays, and another records; or one of them does."""
    return matrix(folder, "--cards", "ac97", "--doors", door, "--directions", directions, "--seconds", "6")


@pytest.mark.alone
def test_real_linux_plays_and_records_cleanly(tmp_path: Path) -> None:
    """Two guests at a time: each takes a whole processor while it boots, and a fifth of one while it plays."""
    # Both would build the guest.
    matrix(tmp_path, *NO_SUCH)
    doors = ("dbus", "pa")
    with ThreadPoolExecutor() as pool:
        takes = [row for rows in pool.map(lambda door: sounded(tmp_path, door), doors) for row in rows]
    # An emulated processor has stalls that the rig does not see; they do not occur twice. No other boots meanwhile.
    found = [row if clean(row) else sounded(tmp_path, row["door"], row["direction"])[0] for row in takes]
    assert [(row["door"], row["direction"]) for row in found] == [
        ("dbus", "out"),
        ("dbus", "in"),
        ("pa", "out"),
        ("pa", "in"),
    ]
    for row in found:
        assert not row["note"], row
        assert row["seconds"] > 5.5 and abs(row["hz"] - 997) < 2.0, row
        assert clean(row), row
