"""Where a machine is, whatever its address is called: whether two doors lead to the same one.

Nothing is looked up in the DNS. A host that is given by name is known once a connection to it has been made.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from contextlib import suppress
from typing import Any, TypeAlias

from millrace.guest.machines.address import DoorSpec, bus_path
from millrace.io.lookup import found_below

Whereabouts: TypeAlias = tuple[str, str, int]
"""`tcp`, host and port, or `unix`, path and 0."""
HERE = "this host"


def of_spec(spec: DoorSpec) -> Whereabouts | None:
    """Where a door leads, as far as its address says it; None for a connection that was handed over."""
    if spec.connection is not None or spec.kind == "p2p":
        return None
    if spec.host:
        return "tcp", canonical_host(spec.host), spec.port
    return of_path(bus_path(spec.address) if spec.kind == "dbus" else spec.address)


# Its path, and not the file itself, which is another one each time its server starts.
def of_path(path: str) -> Whereabouts:
    """A unix socket, whichever links and folders lead to it, also while it is not there."""
    folder, _, name = path.rpartition("/")
    if path.startswith("\0"):
        return "unix", path, 0
    above = _real(folder or "/") or os.path.normpath(folder or "/")
    return "unix", _real(path) or os.path.join(above, name), 0


def _real(path: str) -> str:
    """The path of what is there without links; empty if nothing is, or it may never answer."""
    with suppress(OSError), found_below(path, ()) as found:
        return os.readlink(found) if found != path else os.path.normpath(path)
    return ""


def of_connection(peer: Any, own: Any) -> Whereabouts:
    """Where a TCP connection leads, by both its addresses: from this host to itself they are the same."""
    host = HERE if peer[0] == own[0] else canonical_host(peer[0])
    return "tcp", host, peer[1]


def canonical_host(host: str) -> str:
    """One spelling of each address of which all are known; a name in lower case.

    RFC 6761, section 6.3: `localhost` and names below it are loopback. A server is reached by all of a host's loopback
    addresses, so they count as one.
    """
    name = host.lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return HERE
    address = _literal(name)
    if address is None:
        return name
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    address = mapped or address
    return HERE if address.is_loopback or address.is_unspecified else str(address)


def _literal(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        pass
    try:
        # Short and hexadecimal forms (127.1, 0x7f000001), which connections take too: inet_aton(3).
        return ipaddress.IPv4Address(socket.inet_aton(name))
    except (OSError, UnicodeError):
        return None
