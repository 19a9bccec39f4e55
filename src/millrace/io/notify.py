"""systemd's notifications (sd_notify(3)): ready, stopping, and the watchdog's sign of life."""

from __future__ import annotations

import os
import socket


def notify(text: str) -> None:
    """Tell systemd, where it listens; elsewhere nothing happens."""
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return
    address = "\0" + path[1:] if path.startswith("@") else path
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        try:
            sock.sendto(text.encode(), address)
        except OSError:
            # A supervisor that is gone must not take the sound along.
            return
