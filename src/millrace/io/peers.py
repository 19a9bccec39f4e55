"""Who is at the other end of a connection on this machine, as the kernel knows it."""

from __future__ import annotations

import ipaddress
from pathlib import Path

TABLES = {4: Path("/proc/net/tcp"), 6: Path("/proc/net/tcp6")}
_LOCAL, _REMOTE, _UID = 1, 2, 7


def _entry(host: str, port: int, version: int) -> str:
    """An address as /proc/net/tcp writes it: each 32-bit word in this machine's byte order, then the port."""
    address = ipaddress.ip_address(host)
    if version == 6 and address.version == 4:
        address = ipaddress.ip_address(f"::ffff:{host}")
    packed = address.packed
    words = [packed[at : at + 4][::-1].hex().upper() for at in range(0, len(packed), 4)]
    return f"{''.join(words)}:{port:04X}"


def program_of(pid: int) -> str:
    """The name of the program that a process runs; empty where it can't be told.

    From proc(5), /proc/PID/exe. What a process calls itself is not asked: that can be anything.
    """
    try:
        name = Path(f"/proc/{pid}/exe").readlink().name
    except OSError:
        return ""
    return name.removesuffix(" (deleted)")


def loopback_uid(peer: tuple[str, int], own: tuple[str, int]) -> int | None:
    """The user that owns the socket which connects `peer` to `own`, both here; None where it can't be told.

    proc(5), /proc/net/tcp: the peer's own entry has the addresses the other way round.
    """
    for version, table in TABLES.items():
        try:
            local, remote = _entry(peer[0], peer[1], version), _entry(own[0], own[1], version)
            lines = table.read_text().splitlines()[1:]
        except (OSError, ValueError):
            continue
        if version == 4 and ":" in peer[0]:
            continue
        for line in lines:
            fields = line.split()
            if len(fields) > _UID and fields[_LOCAL] == local and fields[_REMOTE] == remote:
                return int(fields[_UID])
    return None
