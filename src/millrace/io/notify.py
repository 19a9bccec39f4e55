"""Notifications to systemd (sd_notify(3)): ready, stopping, and the watchdog's keepalive."""

from __future__ import annotations

import os
import socket


def notify(text: str) -> None:
    """Notify systemd; does nothing when not started by it."""
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return
    address = "\0" + path[1:] if path.startswith("@") else path
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        try:
            sock.sendto(text.encode(), address)
        except OSError:
            # Losing the supervisor must not stop the sound.
            return
