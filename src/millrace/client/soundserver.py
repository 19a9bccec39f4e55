"""The sound server that a card of this process would be: not the guest that the process listens to.

A shell in which PULSE_SERVER leads into a guest is one where its applications are started. A listener that is started
there would play what it hears into the guest, and hear that again.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from millrace.errors import ConfigError
from millrace.io.paths import runtime_dir

SERVER = "PULSE_SERVER"
CLIENT_CONFIGURATIONS = (Path("~/.config/pulse/client.conf"), Path("/etc/pulse/client.conf"))


def keep_out(url: str) -> str:
    """Have this process's sound cards be elsewhere than in the guest that `url` names; returns what was done for that.

    ConfigError where even this user's own sound server is that guest.
    """
    guest = _socket_of(url)
    if guest is None:
        return ""
    done = ""
    if _leads_to(guest, os.environ.get(SERVER, "")):
        # libpulse reads it whenever it connects.
        del os.environ[SERVER]
        done = f"{SERVER} leads into the guest that is heard here, and is not used by this listener"
    if SERVER not in os.environ and any(_leads_to(guest, server) for server in _defaults()):
        raise ConfigError(
            f"this user's sound server is the guest itself ({guest}): it would hear its own sound again;"
            f" set {SERVER} to the server of a sound card, or use no card (--to wav:FILE, raw:-, null:; --mic wav:FILE)"
        )
    return done


def _socket_of(url: str) -> Path | None:
    """Where the guest's applications play, if it is one of this machine's."""
    parts = urlsplit(url)
    path = runtime_dir() / unquote(parts.path.strip("/"), errors="surrogateescape") / "pulse"
    return path if _is_here(parts.hostname or "") and path.is_socket() else None


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _leads_to(socket: Path, server: str) -> bool:
    """Whether one of a PULSE_SERVER's addresses is that socket, by whatever path."""
    return any(os.path.exists(path) and os.path.samefile(path, socket) for path in _paths(server))


def _paths(server: str) -> Iterator[str]:
    for address in server.split():
        _, _, bare = address.rpartition("}")
        if bare.startswith(("unix:", "/")):
            yield bare.removeprefix("unix:")


def _defaults() -> list[str]:
    """Where libpulse goes without PULSE_SERVER: client.conf's server, else the socket in the runtime folder."""
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
    """`default-server` of a client.conf; the last one counts."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    found = [value.strip() for name, _, value in (line.partition("=") for line in lines)
             if name.strip() == "default-server"]  # fmt: skip
    return found[-1] if found else ""
