"""The client's side of an RFB login, up to the server's description of its screen, sans-IO.

RFC 6143 for RFB 3.8, and its appendix A for 3.3 and 3.7; "rfbproto" (the community's RFB specification) for VeNCrypt
and the names of security types.
"""

from __future__ import annotations

import re
import struct
from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

from millrace.errors import LoginRefused, PasswordRefused, RemoteProtocolError
from millrace.text import of_some_encoding, printable
from millrace.wire.contract import AnswerDue
from millrace.wire.vnc.messages import TlsWanted, VncEvent

NAME_MAX = 4096
_NONE, _VNC, _VENCRYPT = 1, 2, 19
_X509_NONE, _X509_VNC = 260, 261
_ANONYMOUS_TLS = frozenset({257, 258})
_USER = "a user name and password"
_NO_TLS = (
    "this VNC server, or somebody on the way to it, offers no TLS with certificates (VeNCrypt X509), and this door uses"
    " it in any case, since it has a CA file or --tls: nothing was sent"
)
_KINDS = {
    5: "RSA-AES", 6: "RSA-AES", 13: "RSA-AES", 129: "RSA-AES", 130: "RSA-AES", 133: "RSA-AES", 16: "Tight", 17: "Ultra",
    18: "anonymous TLS", 20: f"{_USER} (SASL)", 30: f"{_USER} (Apple)", 113: f"{_USER} (MS-Logon)",
    256: f"{_USER} (Plain)", 257: "anonymous TLS", 258: "anonymous TLS", 259: f"{_USER} (TLSPlain)",
    262: f"{_USER} (X509Plain)", 263: f"{_USER} (TLSSASL)", 264: f"{_USER} (X509SASL)",
}  # fmt: skip
"""What servers offer that is not supported."""
_VERSION = re.compile(rb"RFB (\d{3})\.(\d{3})\n")
_TOO_MANY = 2
Respond = Callable[[bytes, str], bytes]
"""(16-byte challenge, password) to the 16-byte answer."""
Step = Callable[[Any, bytes], None]


# Each step is called with exactly the bytes it asked for (`_then`) and sets the next one. A step that expects no bytes
# is called at once by the one before it.
#
# version → security → [VeNCrypt → TLS] → [challenge] → result → ServerInit → name → `_entered`
#
# With 3.3 the server decides on the security. Before 3.8, no result follows where there is no password, and no reason
# where there is one.
#
# Anybody on the path can take VeNCrypt out of what the server offers. So a client that was told to use TLS answers
# nothing else.
#
# Once the server has accepted the VeNCrypt type, nothing may be parsed until the TLS handshake is done: bytes that
# arrive there in plain text could have been injected by anyone on the path.
class VncLogin(AnswerDue):
    """One connection until it is let in."""

    def __init__(self, password: str, respond: Respond, tls: bool = False) -> None:
        """With `tls` it is never let in without; otherwise TLS is used if the server offers it."""
        self.name = ""
        self.is_qemu = False
        """Whether the server is QEMU, as the name says that it gives to a desktop (ui/vnc.c)."""
        self._password, self._respond, self._tls = password, respond, tls
        self._buffer = bytearray()
        self._out = bytearray()
        self._events: list[VncEvent] = []
        self._need = 12
        # The bare function: a bound method would be a cycle, which keeps the buffer until a full collection.
        self._step: Step = VncLogin._version
        self._paused = self._shaking = False
        self._answered = False
        self._size = (0, 0)
        self.own_bits = 0
        """Bits of one of the server's own pixels, as it has told; 0 if it has not."""
        self._minor = 8
        """Of version 3 of the protocol: 3, 7 or 8."""
        self.joining = False
        """Authenticated, and waiting for ServerInit. A server closes the connection here if another viewer has
        exclusive access."""

    @abstractmethod
    def _entered(self, width: int, height: int) -> None:
        """The server has described its screen."""

    def _then(self, need: int, step: Step) -> None:
        self._need, self._step = need, step

    def _version(self, part: bytes) -> None:
        told = _VERSION.fullmatch(part)
        if told is None:
            raise RemoteProtocolError("this is not a VNC server")
        version = (int(told[1]), int(told[2]))
        if version < (3, 3):
            raise RemoteProtocolError(f"this VNC server speaks RFB {version[0]}.{version[1]}; 3.3 is needed")
        # Numbers between those of the specifications mean 3.3.
        self._minor = 8 if version >= (3, 8) else 7 if version == (3, 7) else 3
        self._out += b"RFB 003.%03d\n" % self._minor
        self._then(*(4, VncLogin._security_decided) if self._minor == 3 else (1, VncLogin._security_count))

    def _security_decided(self, part: bytes) -> None:
        kind = int.from_bytes(part, "big")
        if kind == 0:
            self._then(4, VncLogin._reason_size)
        elif self._tls:
            raise LoginRefused(_NO_TLS)
        elif kind == _VNC:
            self._then(16, VncLogin._challenge)
        elif kind == _NONE:
            self._join()
        else:
            raise LoginRefused(f"this VNC server wants {_names([kind])}, which is not supported")

    def _security_count(self, part: bytes) -> None:
        if part[0] == 0:
            self._then(4, VncLogin._reason_size)
        else:
            self._then(part[0], VncLogin._security)

    def _security(self, part: bytes) -> None:
        if _VENCRYPT in part and self._minor == 8:
            self._out += bytes((_VENCRYPT,))
            self._then(2, VncLogin._vencrypt_version)
        elif self._tls:
            raise LoginRefused(_NO_TLS)
        elif _VNC in part:
            self._out += bytes((_VNC,))
            self._then(16, VncLogin._challenge)
        elif _NONE in part:
            self._out += bytes((_NONE,))
            if self._minor < 8:
                self._join()
            else:
                self._then(4, VncLogin._result)
        else:
            raise LoginRefused(f"this VNC server offers no supported authentication, but {_names(part)}")

    def _challenge(self, part: bytes) -> None:
        if not self._password:
            raise LoginRefused("this VNC server needs a password: --password-file")
        self._out += self._respond(part, self._password)
        self._answered = True
        self._then(4, VncLogin._result)

    def _vencrypt_version(self, part: bytes) -> None:
        if part < b"\0\2":
            raise RemoteProtocolError(f"unsupported VeNCrypt version: {part[0]}.{part[1]}; 0.2 is needed")
        self._out += b"\0\2"
        self._then(2, VncLogin._vencrypt_types)

    def _vencrypt_types(self, part: bytes) -> None:
        if part[0] != 0 or part[1] == 0:
            raise RemoteProtocolError("this VNC server refused VeNCrypt 0.2")
        self._then(4 * part[1], VncLogin._vencrypt_choice)

    def _vencrypt_choice(self, part: bytes) -> None:
        offered = struct.unpack(f">{len(part) // 4}I", part)
        # Some servers (TigerVNC) list what they offer without VeNCrypt, too.
        plain = () if self._tls else (_VNC, _NONE)
        chosen = next((kind for kind in (_X509_VNC, _X509_NONE, *plain) if kind in offered), None)
        if chosen is None and {_VNC, _NONE} & set(offered):
            raise LoginRefused(_NO_TLS)
        if chosen is None:
            certificate = "; give it a certificate (X509)" if _ANONYMOUS_TLS & set(offered) else ""
            raise LoginRefused(f"this VNC server offers {_names(offered)} only{certificate}")
        self._out += struct.pack(">I", chosen)
        self._then(*_AFTER[chosen])

    def _tls_vnc(self, part: bytes) -> None:
        self._start_tls(part)
        self._then(16, VncLogin._challenge)

    def _tls_none(self, part: bytes) -> None:
        self._start_tls(part)
        self._then(4, VncLogin._result)

    def _start_tls(self, part: bytes) -> None:
        if part != b"\1":
            raise RemoteProtocolError("this VNC server refused TLS")
        # Plaintext that arrived ahead of the handshake must never be taken for data inside TLS.
        if self._buffer:
            raise RemoteProtocolError("this VNC server sent data before the TLS handshake")
        self._paused = True
        self._events.append(TlsWanted())

    def tls_begins(self) -> None:
        """The handshake begins: everything received from here on was inside TLS. Anything earlier could be forged."""
        self._shaking = True

    def tls_ready(self) -> None:
        """The handshake is complete."""
        self._paused = False

    def _result(self, part: bytes) -> None:
        if part == bytes(4):
            self._join()
        elif self._minor < 8:
            self._reason(b"too many attempts" if int.from_bytes(part, "big") == _TOO_MANY else b"")
        else:
            self._then(4, VncLogin._reason_size)

    def _join(self) -> None:
        self._out += b"\1"
        self.joining = True
        self._then(24, VncLogin._server_init)

    def _reason_size(self, part: bytes) -> None:
        size = struct.unpack(">I", part)[0]
        if size > NAME_MAX:
            raise RemoteProtocolError("the VNC server refused with an oversized reason")
        self._then(size, VncLogin._reason)
        if size == 0:
            self._reason(b"")

    def _reason(self, part: bytes) -> None:
        text = printable(of_some_encoding(part).strip())
        if self._answered:
            raise PasswordRefused(f"the VNC server rejected the password{f' ({text})' if text else ''}")
        raise LoginRefused(f"the VNC server refused: {text or 'it gives no reason'}")

    def _server_init(self, part: bytes) -> None:
        self.joining = False
        self._size = struct.unpack(">HH", part[:4])
        self.own_bits = part[4]
        size = struct.unpack(">20xI", part)[0]
        if size > NAME_MAX:
            raise RemoteProtocolError(f"desktop name too long: {size} bytes")
        self._then(size, VncLogin._named)
        if size == 0:
            self._named(b"")

    def _named(self, part: bytes) -> None:
        self.is_qemu = part.startswith(b"QEMU")
        self.name = of_some_encoding(part).removeprefix("QEMU (").removesuffix(")")
        self._entered(*self._size)


_AFTER: dict[int, tuple[int, Step]] = {
    _X509_VNC: (1, VncLogin._tls_vnc), _X509_NONE: (1, VncLogin._tls_none),
    _VNC: (16, VncLogin._challenge), _NONE: (4, VncLogin._result),
}  # fmt: skip


def _names(kinds: Iterable[int]) -> str:
    """What these are called, each once."""
    return ", ".join(dict.fromkeys(_KINDS.get(kind, f"type {kind}") for kind in kinds))
