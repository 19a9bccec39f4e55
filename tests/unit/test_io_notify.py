"""Notifications to systemd: a datagram to the socket named in the environment, and never a failure."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from millrace.io.notify import notify


@pytest.mark.parametrize("abstract", [False, True])
def test_notification_arrives_as_one_datagram(abstract: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"millrace-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind("\0" + name if abstract else name)
        supervisor.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + name if abstract else name)
        notify("READY=1\nSTATUS=läuft")
        assert supervisor.recv(100) == "READY=1\nSTATUS=läuft".encode()
        with pytest.raises(BlockingIOError):
            supervisor.recv(100)


def test_missing_receiver_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    notify("WATCHDOG=1")
    # Not even a socket is made where no supervisor is named.
    made: list[object] = []
    monkeypatch.setattr(socket, "socket", lambda *args: made.append(args))
    for name in ("", None):
        if name is None:
            monkeypatch.delenv("NOTIFY_SOCKET")
        else:
            monkeypatch.setenv("NOTIFY_SOCKET", name)
        notify("READY=1")
    assert not made
