"""Ports of this host for servers that tests start."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
from pathlib import Path

_LISTEN = "0A"
"""A socket's state TCP_LISTEN: linux/tcp_states.h."""
_TRIES = 100
"""The ports of one process of tests."""
_number = itertools.count()


def free_port() -> int:
    """A port that nobody has: below those that the kernel gives to connections, where one may be taken at any time."""
    first = 20_000 + os.getpid() % 120 * 100
    for _ in range(_TRIES):
        port = first + next(_number) % _TRIES
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError(f"all ports of 127.0.0.1 from {first} to {first + _TRIES - 1} are taken")


def serves(port: int) -> bool:
    """Whether a program of this host accepts connections of IPv4 at a port. See proc(5)."""
    sockets = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return any(int(one[1].split(":")[1], 16) == port and one[3] == _LISTEN for one in sockets)
