"""Commands that attach and detach machines, and hand over their connections."""

from __future__ import annotations

import json
import os
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from millrace.cli import api, attach
from millrace.errors import ConfigError, GraphError
from millrace.io.paths import HANDOVER_SOCKET
from tests.answering import COMMAND, Daemon, Turn, said


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> Daemon:
    made = Daemon()
    monkeypatch.setattr(api, "call", made.call)
    return made


def door(state: str, **more: str) -> dict[str, str]:
    return {"id": "door/7", "door": "qmp:/q", "state": state, "machine": "", "error": "", "hint": ""} | more


def doors(*states: dict[str, str]) -> list[Turn]:
    other = {"name": "other", "doors": [door("attached", machine="wrong")]}
    return [Turn({"guests": [other, {"name": "vm a", "doors": [door("x", id="door/6"), one]}]}) for one in states]


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    made: list[float] = []
    monkeypatch.setattr("time.sleep", made.append)
    return made


def test_attach_prints_that_machine_is_attached(daemon: Daemon, naps: list[float]) -> None:
    daemon.answers["POST /api/v1/guests/vm%20a/doors"] = door("waiting")
    daemon.answers["GET /api/v1/state"] = doors(door("waiting"), door("attached", machine="win11"), door("gone"))
    out = said("attach", "qemu", "--qmp", "q", "--guest", "vm a")
    assert out == "door/7 qmp:/q attached (win11)\n" and len(naps) == 2
    assert daemon.asked[0][1] == {"door": f"qmp:{Path('q').absolute()}", "vm": ""}


@pytest.mark.parametrize("told", [{"error": "QEMU has no sound on D-Bus"}, {"hint": "this VNC server has no sound"}])
def test_attach_prints_what_an_attached_machine_lacks(told: dict[str, str], daemon: Daemon, naps: list[float]) -> None:
    daemon.answers["POST /api/v1/guests/vm%20a/doors"] = door("waiting")
    daemon.answers["GET /api/v1/state"] = doors(door("attached", machine="win11", **told))
    out = said("attach", "qemu", "--qmp", "q", "--guest", "vm a")
    assert out == f"door/7 qmp:/q attached (win11)\n{''.join(told.values())}\n"


def test_attach_once_is_told_to_the_daemon(daemon: Daemon, naps: list[float]) -> None:
    daemon.answers["POST /api/v1/guests/vm%20a/doors"] = door("waiting")
    daemon.answers["GET /api/v1/state"] = doors(*[door("attached")] * 4)
    for words in (["qemu", "--qmp", "q"], ["spice", "h:1"], ["vnc", "h:1"], ["x11", ":1"]):
        said("attach", *words, "--guest", "vm a", "--once")
    told = [body["once"] for _, body in daemon.asked if body and "door" in body]
    assert told == [True] * 4


def test_attaching_to_a_second_guest_is_asked_for(daemon: Daemon, naps: list[float]) -> None:
    daemon.answers["POST /api/v1/guests/vm%20a/doors"] = door("waiting")
    daemon.answers["GET /api/v1/state"] = doors(*[door("attached")] * 2)
    said("attach", "x11", ":1", "--guest", "vm a", "--also")
    said("attach", "x11", ":1", "--guest", "vm a")
    assert [body for _, body in daemon.asked if body and "door" in body] == [
        {"door": "x11::1", "also": True}, {"door": "x11::1"},
    ]  # fmt: skip


def test_attach_prints_why_machine_is_not_attached_and_retries(daemon: Daemon, naps: list[float]) -> None:
    daemon.answers["POST /api/v1/guests/vm%20a/doors"] = door("waiting")
    daemon.answers["GET /api/v1/state"] = doors(door("waiting", error="no such file"))
    keeps = "Millrace keeps trying until the machine answers; `millrace detach door/7` ends that\n"
    words = ("attach", "qemu", "--dbus", "unix:path=/b", "--vm", "w", "--guest", "vm a")
    assert said(*words) == f"door/7 qmp:/q waiting\nno such file\n{keeps}"
    assert daemon.asked[0][1] == {"door": "dbus:unix:path=/b", "vm": "w"} and len(naps) == 1
    daemon.answers["GET /api/v1/state"] = [Turn({"guests": []})]
    whole = f"door/7 qmp:/q waiting\nno answer yet\n{keeps}"
    assert said("attach", "qemu", "--qmp", "/q", "--guest", "vm a") == whole
    assert len(naps) == 21 and sum(naps) <= 2.5, "two seconds at most"


def test_script_gets_only_the_door_on_standard_output(
    daemon: Daemon, naps: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    for state in (door("waiting", error="no such file"), door("attached", machine="win11")):
        daemon.answers["POST /api/v1/guests/vm%20a/doors"] = door("waiting")
        daemon.answers["GET /api/v1/state"] = doors(state)
        COMMAND.main(["attach", "vnc", "h:5901", "--guest", "vm a", "--json"], standalone_mode=False)
        out, err = capsys.readouterr()
        assert json.loads(out) == state and err.partition("\n")[0] == state["error"]


@pytest.mark.parametrize(("words", "body"), [
    ("spice h:5930", {"door": "spice://h:5930"}), ("spice h:5930 --tls", {"door": "spice+tls://h:5930"}),
    ("spice unix:/s", {"door": "spice+unix:///s"}), ("vnc h:1", {"door": "vnc://h:1"}),
    ("vnc unix:/v --password-file /p", {"door": "vnc+unix:///v", "password_file": "/p"}),
    ("spice h:1 --tls --password-file p --ca-file c",
     {"door": "spice+tls://h:1", "password_file": "@p", "ca_file": "@c"}),
    ("vnc h:1 --ca-file /c", {"door": "vnc://h:1", "ca_file": "/c"}), ("vnc h:1 --tls", {"door": "vnc+tls://h:1"}),
])  # fmt: skip
def test_network_address_is_sent_with_absolute_paths(
    daemon: Daemon, naps: list[float], words: str, body: dict[str, str]
) -> None:
    daemon.answers["POST /api/v1/guests/default/doors"] = door("attached")
    daemon.answers["GET /api/v1/state"] = [Turn({"guests": []})]
    said("attach", *words.split())
    here = {name: value.replace("@", f"{Path.cwd()}/") for name, value in body.items()}
    assert daemon.asked[0] == ("POST /api/v1/guests/default/doors", here)


@pytest.mark.parametrize("kind", ["spice", "vnc"])
def test_tls_is_not_dropped_for_a_socket_of_this_host(daemon: Daemon, kind: str) -> None:
    with pytest.raises(ConfigError, match="--tls is for HOST:PORT, and unix:/s is a socket"):
        said("attach", kind, "unix:/s", "--tls")
    assert daemon.asked == []


@pytest.mark.parametrize("words", ["", "--qmp /q --dbus unix:path=/b", "--p2p 5 --qmp /q"])
def test_attach_qemu_takes_exactly_one_way(daemon: Daemon, words: str) -> None:
    with pytest.raises(ConfigError, match="one of --qmp SOCKET, --dbus ADDRESS, --p2p FD"):
        said("attach", "qemu", *words.split())
    assert daemon.asked == []


@pytest.fixture
def handover(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / "millrace").mkdir()
    return tmp_path / "millrace" / HANDOVER_SOCKET


def answering(path: Path, answer: bytes) -> tuple[threading.Thread, list[Any]]:
    """A daemon that takes one descriptor, and writes into it to show that it has it."""
    listening, got = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM), list[Any]()
    listening.bind(str(path))
    listening.listen()

    def serve() -> None:
        with listening, listening.accept()[0] as line:
            data, fds, _, _ = socket.recv_fds(line, 65536, 4)
            got.append(json.loads(data))
            for fd in fds:
                os.write(fd, b"hello")
                os.close(fd)
            line.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    return thread, got


def test_descriptor_is_handed_over_unchanged(daemon: Daemon, handover: Path) -> None:
    thread, got = answering(handover, b'{"id": "door/3", "door": "p2p", "state": "attached", "machine": ""}\n')
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert said("attach", "qemu", "--p2p", str(ours.fileno()), "--guest", "win11") == "door/3 p2p attached\n"
        thread.join(10)
        assert theirs.recv(16) == b"hello" and got == [{"guest": "win11"}]
    assert daemon.asked == []


@pytest.mark.parametrize(("answer", "kind", "why"), [
    (b'{"error": "there is no guest x"}', GraphError, "there is no guest x"),
    (b"", GraphError, "the daemon gave no answer"),
])  # fmt: skip
def test_refused_descriptor_is_reported_with_reason(
    handover: Path, answer: bytes, kind: type[Exception], why: str
) -> None:
    thread, _ = answering(handover, answer)
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(kind, match=why):
        said("attach", "qemu", "--p2p", str(ours.fileno()))
    thread.join(10)


def test_handing_over_needs_daemon_and_socket(handover: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(ConfigError, match=r"no daemon answers at .*attach\.sock; start one"):
        attach._given_descriptor("default", ours.fileno())
    with open("/dev/null") as null, pytest.raises(ConfigError, match=r"descriptor \d+ is not a socket"):
        attach._given_descriptor("default", null.fileno())
    with pytest.raises(ConfigError, match="descriptor 1000000 is not a socket"):
        attach._given_descriptor("default", 1_000_000)


def test_silent_daemon_is_reported(handover: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def send(*args: object) -> None:
        raise TimeoutError("timed out")

    monkeypatch.setattr(socket, "send_fds", send)
    ours, theirs = socket.socketpair()
    with ours, theirs, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(str(handover))
        listening.listen()
        with pytest.raises(ConfigError, match=r"the daemon at .*attach\.sock does not answer"):
            attach._given_descriptor("default", ours.fileno())


def test_detach_takes_either_name(daemon: Daemon) -> None:
    assert said("detach", "door/7") == said("detach", "7") == ""
    assert daemon.asked == [("DELETE /api/v1/doors/7", None)] * 2
