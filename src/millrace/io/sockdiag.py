"""Asking the kernel about one TCP connection (sock_diag(7)), however many others there are."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct

Address = tuple[str, int]

_NETLINK_SOCK_DIAG, _SOCK_DIAG_BY_FAMILY, _REQUEST = 4, 20, 1
_ERROR = 2
_ANY_STATE = _NO_COOKIE = 0xFFFF_FFFF
_HEADER = struct.Struct("=IHHII")
_ASKED = struct.Struct("=BBBBI")
_PLACE = struct.Struct("!HH16s16s")
_REST = struct.Struct("=III")
_PLACE_AT = _HEADER.size + 4
_UID_AT = _PLACE_AT + _PLACE.size + _REST.size + 12
_TIMEOUT_S = 0.1


def _place(local: Address, remote: Address, family: int) -> bytes:
    def packed(host: str) -> bytes:
        address = ipaddress.ip_address(host)
        if family == socket.AF_INET6 and address.version == 4:
            address = ipaddress.ip_address(f"::ffff:{host}")
        return address.packed.ljust(16, b"\0")

    return _PLACE.pack(local[1], remote[1], packed(local[0]), packed(remote[0]))


def _owner(line: socket.socket, place: bytes, family: int) -> int | None:
    asked = _ASKED.pack(family, socket.IPPROTO_TCP, 0, 0, _ANY_STATE) + place + _REST.pack(0, _NO_COOKIE, _NO_COOKIE)
    line.send(_HEADER.pack(_HEADER.size + len(asked), _SOCK_DIAG_BY_FAMILY, _REQUEST, 1, 0) + asked)
    answer = line.recv(4096)
    if len(answer) >= _HEADER.size + 4 and _HEADER.unpack_from(answer)[1] == _ERROR:
        code = -struct.unpack_from("=i", answer, _HEADER.size)[0]
        if code != errno.ENOENT:
            raise OSError(code, os.strerror(code))
        return None
    # Where nothing is connected the kernel tells of a socket that listens there: that is not the one.
    if len(answer) < _UID_AT + 4 or answer[_PLACE_AT : _PLACE_AT + _PLACE.size] != place:
        return None
    return int(struct.unpack_from("=I", answer, _UID_AT)[0])


def tcp_owner(local: Address, remote: Address) -> int | None:
    """The user whose socket at `local` is connected to `remote`; None where there is none.

    OSError where the kernel does not answer such questions; ValueError for what is no address. Layouts are
    linux/inet_diag.h's `inet_diag_req_v2` and `inet_diag_msg`.
    """
    version = ipaddress.ip_address(local[0]).version
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG) as line:
        line.settimeout(_TIMEOUT_S)
        for family in (socket.AF_INET, socket.AF_INET6) if version == 4 else (socket.AF_INET6,):
            owner = _owner(line, _place(local, remote, family), family)
            if owner is not None:
                return owner
    return None
