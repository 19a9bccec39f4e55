"""Keeps a listener from using the guest it listens to as its sound server.

PULSE_SERVER points into a guest in a shell where that guest's applications are started. A listener started there would
play the guest's sound back into the guest, and hear it again.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from millrace.errors import ConfigError
from millrace.io.listeners import is_here
from millrace.io.paths import runtime_dir
from millrace.text import key_number, parse_address

SERVER = "PULSE_SERVER"
PORT = 4713
"""PulseAudio's default, for addresses without a port."""
CLIENT_CONFIGURATIONS = (Path("~/.config/pulse/client.conf"), Path("/etc/pulse/client.conf"))


class _Guest(NamedTuple):
    """Where a guest's applications connect: a socket, and the TCP addresses that its daemon reports."""

    name: str
    socket: Path
    tcp_of: Callable[[str], Sequence[str]]


def keep_out(url: str, tcp_of: Callable[[str], Sequence[str]]) -> bool:
    """Keep this process's sound out of the guest that `url` names. Returns whether PULSE_SERVER led there; it is then
    removed from the environment. `tcp_of` returns the TCP addresses at which a guest speaks PulseAudio.

    Raises ConfigError if this user's default sound server is that guest too.
    """
    guest = _guest_of(url, tcp_of)
    if guest is None:
        return False
    led_there = _leads_to(guest, os.environ.get(SERVER, ""))
    if led_there:
        # From the environment itself: libpulse reads it at every connection.
        del os.environ[SERVER]
    if SERVER not in os.environ and any(_leads_to(guest, server) for server in _defaults()):
        raise ConfigError(
            f"your sound server is the guest itself ({guest.socket}), which would play its own sound again;"
            f" set {SERVER} to a server with a sound card, or use no sound card"
            " (--to wav:FILE, raw:-, null:; --mic wav:FILE)"
        )
    return led_there


def _guest_of(url: str, tcp_of: Callable[[str], Sequence[str]]) -> _Guest | None:
    """The guest, if it is on this machine."""
    parts = urlsplit(url)
    name = unquote(parts.path.strip("/"), errors="surrogateescape")
    path = runtime_dir() / name / "pulse"
    return _Guest(name, path, tcp_of) if _is_here(parts.hostname or "") and path.is_socket() else None


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


# Compared by what is there and not by name: the same socket may be reached by a symbolic link or a bind mount, and
# the same port by any name of this host.
def _leads_to(guest: _Guest, server: str) -> bool:
    """Whether any address in a PULSE_SERVER value is the guest's socket, by any path, or one of its TCP ports."""
    addresses = [address.rpartition("}")[2] for address in server.split()]
    paths = [one.removeprefix("unix:") for one in addresses if one.startswith(("unix:", "/"))]
    if any(os.path.exists(path) and os.path.samefile(path, guest.socket) for path in paths):
        return True
    named = [_host_and_port(one) for one in addresses if not one.startswith(("unix:", "/"))]
    bound = [parse_address(one, "pulse_tcp") for one in guest.tcp_of(guest.name)] if named else []
    ports = {port for _, port in bound}
    found = [(ip, port) for host, port in named if port in ports for ip in _resolved(host)]
    return any(port == own_port and _reaches(ip, own) for ip, port in found for own, own_port in bound)


def _host_and_port(address: str) -> tuple[str, int]:
    """Parse `tcp:HOST:PORT`, `tcp6:[HOST]` and the like; libpulse accepts a bare HOST too."""
    bare = re.sub("^tcp[46]?:", "", address)
    found = re.fullmatch(r"(?:\[(.*)\]|([^:]*))(?::([0-9]+))?", bare)
    return ("", 0) if found is None else (found[1] or found[2], key_number(found[3]) if found[3] else PORT)


def _resolved(host: str) -> Iterator[str]:
    try:
        infos = socket.getaddrinfo(host or None, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        # A host that does not resolve can't be this guest.
        return
    yield from {str(info[4][0]) for info in infos}


def _reaches(ip: str, bound: str) -> bool:
    """Whether a connection to `ip` reaches a socket bound to `bound`, which may be the wildcard address."""
    one, other = ipaddress.ip_address(ip), ipaddress.ip_address(bound)
    if one == other or not other.is_unspecified or one.version != other.version:
        return one == other
    return is_here(ip)


def _defaults() -> list[str]:
    """Where libpulse connects without PULSE_SERVER: client.conf's server, else the socket in the runtime directory."""
    named = os.environ.get("PULSE_CLIENTCONFIG")
    for path in [Path(named)] if named else [path for path in map(_expanded, CLIENT_CONFIGURATIONS) if path]:
        server = _configured(path)
        if server:
            return [server]
    places = (os.environ.get("PULSE_RUNTIME_PATH"), f"{os.environ.get('XDG_RUNTIME_DIR', '')}/pulse")
    return [f"{place}/native" for place in places if place]


def _expanded(path: Path) -> Path | None:
    try:
        return path.expanduser()
    except RuntimeError:
        return None


def _configured(path: Path) -> str:
    """A client.conf's `default-server`; the last one counts."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    found = [value.strip() for name, _, value in (line.partition("=") for line in lines)
             if name.strip() == "default-server"]  # fmt: skip
    return found[-1] if found else ""
