"""Addresses of a guest's machines, as given to `millrace attach` or in the configuration."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import msgspec

from millrace.errors import ConfigError, RightsError
from millrace.io.files import read_secret
from millrace.text import parse_address, parse_host, printable, quoted, show_address, well_formed

EXAMPLES = (
    "qmp:/run/vm.qmp, dbus:unix:path=/run/bus, spice://HOST:PORT, spice+tls://, spice+unix:///PATH, vnc://HOST:PORT,"
    " vnc+tls://, x11::1"
)
_PORTS = {"spice": 5900, "vnc": 5900}
_ADMIN = "admin"
"""The right that is lacking, outside all guests."""


@dataclass(frozen=True, slots=True)
class DoorSpec:
    """The address of one machine's door. Without a `host`, `address` is a path or a D-Bus address."""

    kind: str
    address: str
    host: str = ""
    port: int = 0
    tls: bool = False
    """Without TLS there is no session."""
    vm: str = ""
    password: str = field(default="", repr=False)
    password_file: str = ""
    """Read on every attempt: some hosts generate a new password each time a machine starts."""
    ca_file: str = ""
    """Whose certificates are trusted; with one there is no session without TLS either."""
    channels: int = 2
    connection: socket.socket | None = field(default=None, repr=False, compare=False)
    """A connection that was handed over; the machine owns it."""
    below: tuple[str, ...] = ()
    """Folders to which `address` is confined, checked again when it is opened; empty means anywhere."""

    @property
    def text(self) -> str:
        """The address in the form that users write; it contains no password."""
        if self.kind in ("qmp", "dbus", "p2p", "x11"):
            return f"{self.kind}:{self.address}"
        scheme = f"{self.kind}+tls" if self.tls else self.kind
        return (
            f"{scheme}://{show_address(self.host, self.port)}"
            if self.host
            else f"{self.kind}+unix://{quote(self.address)}"
        )


class Place(msgspec.Struct, frozen=True):
    """A place where a guest's own admins may attach machines: a folder of this host, or a host and port."""

    folder: str = ""
    host: str = ""
    port: int = 0
    """0 means any port."""


def parse_places(texts: Iterable[str], what: str) -> tuple[Place, ...]:
    """Parse places such as '/run/alice', 'vm7.example.org' and '10.0.0.7:5900'."""
    out = []
    for text in texts:
        if text.startswith("/"):
            folder = os.path.normpath(text)
            if folder.strip("/") == "":
                raise ConfigError(
                    f"{what}: {quoted(text)} would allow the whole host; name a folder that belongs to this guest"
                )
            out.append(Place(folder))
        elif ":" in text.strip("[]") and not text.endswith("]"):
            host, port = parse_address(text, what, "10.0.0.7:5900")
            out.append(Place(host=parse_host(host, what).lower(), port=port))
        else:
            out.append(Place(host=parse_host(text.removeprefix("[").removesuffix("]"), what).lower()))
    return tuple(out)


def confined(spec: DoorSpec, places: Iterable[Place], guest: str) -> DoorSpec:
    """Check a door requested by a guest's own admin; RightsError unless the configuration assigns it to that guest.

    The daemon opens a door's address with its own rights, and could reach its own sockets, those of other guests'
    machines, and any service on loopback. So anyone short of a full admin may name only what the guest was given.
    """
    if spec.ca_file:
        raise RightsError(
            "only a token with every right may name a CA file; or use `doors` in the configuration", _ADMIN
        )
    if spec.host:
        if any(place.host == spec.host and place.port in (0, spec.port) for place in places):
            return spec
    else:
        path = bus_path(spec.address) if spec.kind == "dbus" else spec.address
        folders = tuple(place.folder for place in places if place.folder)
        if path.startswith("/") and any(os.path.normpath(path).startswith(f"{folder}/") for folder in folders):
            return replace(spec, below=folders)
    raise RightsError(
        f"only a token with every right may attach {quoted(spec.text)}: `attach` in [guest.{guest}] lists what this"
        " guest's admins may attach",
        _ADMIN,
    )


def parse_door(text: str, vm: str = "", password: str = "", ca_file: str = "") -> DoorSpec:
    """Parse a door; ConfigError says what is wrong with it."""
    spec = _parsed(text, vm, password)
    # Nothing that was told to use TLS may go without: what has none is refused a CA file.
    if ca_file and not (spec.tls or spec.kind == "vnc"):
        secured = f"; with TLS it is spice+tls://{show_address(spec.host, spec.port)}" if spec.host else ""
        raise ConfigError(f"door {quoted(text)} has no TLS, which a CA file is for{secured}")
    return replace(spec, ca_file=ca_file)


def _parsed(text: str, vm: str, password: str) -> DoorSpec:
    kind, colon, rest = well_formed(text, "door").partition(":")
    if kind in ("qmp", "dbus") and colon and rest:
        if kind == "dbus":
            bus_path(rest)
        return DoorSpec(kind, rest, vm=vm)
    if kind == "x11" and colon:
        return DoorSpec(kind, display_path(rest))
    scheme, plus, how = kind.partition("+")
    if scheme not in _PORTS or how not in ("", "tls", "unix") or (plus and not how) or not rest.startswith("//"):
        raise ConfigError(f"door {quoted(text)}: write one of {EXAMPLES}")
    try:
        parts = urlsplit(text)
        port = parts.port or _PORTS[scheme]
    except ValueError as error:
        raise ConfigError(f"door {quoted(text)}: {printable(error)}; write one of {EXAMPLES}") from None
    if parts.username or parts.password:
        raise ConfigError("put the password in a file (--password-file), not in the address")
    if parts.query or parts.fragment:
        raise ConfigError(f"door {quoted(text)}: nothing may follow ? or #; in a path they are written %3F and %23")
    if how == "unix":
        if parts.netloc or not parts.path.startswith("/"):
            raise ConfigError(f"door {quoted(text)}: use three slashes and an absolute path: {scheme}+unix:///PATH")
        return DoorSpec(scheme, unquote(parts.path), password=password)
    if parts.path.strip("/"):
        raise ConfigError(f"door {quoted(text)}: no path follows the port; a socket is {scheme}+unix:///PATH")
    host = parse_host(parts.hostname or "", f"door {quoted(text)}: {scheme}://HOST:PORT")
    return DoorSpec(scheme, "", host, port, how == "tls", password=password)


def display_path(text: str) -> str:
    """The socket of an X display, given as such or as ':1'; ConfigError for a display elsewhere."""
    if text.startswith("/"):
        return text
    number = text.removeprefix("unix").removeprefix(":").removesuffix(".0")
    if not re.fullmatch(r"[0-9]{1,5}", number) or ":" not in text:
        raise ConfigError(f"X display {quoted(text)}: write :1, or the path of a socket on this host")
    return f"/tmp/.X11-unix/X{int(number)}"


def bus_path(address: str) -> str:
    """The socket of a D-Bus address: its path, or NUL followed by its abstract name.

    D-Bus Specification 0.43, "Server Addresses". Only unix sockets can pass descriptors.
    """
    for one in address.split(";"):
        transport, _, pairs = one.partition(":")
        options = dict(pair.partition("=")[::2] for pair in pairs.split(","))
        if transport == "unix" and options.get("path"):
            return unquote(options["path"])
        if transport == "unix" and options.get("abstract"):
            return "\0" + unquote(options["abstract"])
    raise ConfigError(f"D-Bus address {quoted(address)}: unix:path=/… is needed; only unix sockets carry descriptors")


def read_password(path: Path) -> str:
    """Read a password from a file; ConfigError if other users can read it or it is not a regular file."""
    if path.exists() and not path.is_file():
        raise ConfigError(
            f"password file {path} is not a regular file, which it must be because it is read on every attempt"
        )
    return read_secret(path, "password")
