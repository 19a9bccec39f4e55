"""The client's side of RFB with QEMU's audio extension, sans-IO.

RFC 6143 for RFB 3.8; "rfbproto" (the community's RFB specification) for VeNCrypt and the QEMU audio
messages. Numbers are big-endian, samples little-endian. No picture is requested.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from millrace.dsp.convert import Buffer
from millrace.errors import PasswordRefused, PeerLost, RemoteProtocolError
from millrace.text import printable
from millrace.units import NS_PER_S, HostNs
from millrace.wire.contract import AnswerDue

AUDIO_ENCODING = -259
DATA_MAX = 1024 * 1024
TEXT_MAX = 1024 * 1024
NAME_MAX = 4096
ANSWER_NS, SOUND_NS = 10 * NS_PER_S, 5 * NS_PER_S
S16 = 3
RATE_MAX = 48_000
_NONE, _VNC, _VENCRYPT = 1, 2, 19
_X509_NONE, _X509_VNC = 260, 261
_ANONYMOUS_TLS = frozenset({257, 258, 259, 263})
Respond = Callable[[bytes, str], bytes]
Step = Callable[["VncClient", bytes], None]
"""(16-byte challenge, password) to the 16-byte answer."""


@dataclass(frozen=True, slots=True)
class TlsWanted:
    """The server expects a TLS handshake on this connection."""


@dataclass(frozen=True, slots=True)
class Ready:
    """The server supports sound, and was asked for it in our format; `name` is the desktop's name."""

    name: str


@dataclass(frozen=True, slots=True)
class AudioBegin:
    """Sound begins."""


@dataclass(frozen=True, slots=True)
class AudioEnd:
    """Sound ends."""


@dataclass(frozen=True, slots=True)
class AudioData:
    """Interleaved s16 samples."""

    payload: bytes


VncEvent: TypeAlias = TlsWanted | Ready | AudioBegin | AudioEnd | AudioData


# Each step is called with exactly the bytes it asked for (`_then`) and sets the next one. A step that expects no bytes
# is called at once by the one before it.
#
# version → security → [VeNCrypt → TLS] → [challenge] → result → ServerInit → name → messages
#
# Sound is asked for as an encoding, and a server without it says nothing: it ignores encodings it does not know. QEMU
# confirms with an empty rectangle of that encoding, for which no update need be requested. Hence the deadline SOUND_NS,
# and hence no picture is ever sent.
#
# Once the server has accepted the VeNCrypt type, nothing may be parsed until the TLS handshake is done: bytes that
# arrive there in plain text could have been injected by anyone on the path.
class VncClient(AnswerDue):
    """One connection. `rate` and `channels` are requested from QEMU, which converts."""

    def __init__(self, rate: int, channels: int, password: str, respond: Respond, now_ns: HostNs) -> None:
        self.rate, self.channels = min(rate, RATE_MAX), min(channels, 2)
        self.name = ""
        self._password, self._respond = password, respond
        self._buffer = bytearray()
        self._out = bytearray()
        self._events: list[VncEvent] = []
        self._need = 12
        # The bare function: a bound method would be a cycle, which keeps the buffer until a full collection.
        self._step: Step = VncClient._version
        self._rectangles = 0
        self._answer_by_ns = now_ns + ANSWER_NS
        """When the handshake must be done, and then when the server must have announced sound."""
        self._waits = False
        self._paused = self._shaking = False
        self._answered = False
        self.joining = False
        """Authenticated, and waiting for ServerInit. A server closes the connection here if another viewer has
        exclusive access."""

    # -- in --------------------------------------------------------------------------------------

    def receive(self, data: Buffer, now_ns: HostNs) -> None:
        """Take bytes; RemoteProtocolError ends the connection."""
        if self._paused and not self._shaking:
            raise RemoteProtocolError("this VNC server sent data before the TLS handshake")
        self._buffer += data
        waited = self._waits
        self._run()
        if self._waits and not waited:
            self._answer_by_ns = now_ns + SOUND_NS

    @property
    def partial_bytes(self) -> int:
        """Bytes received of a message that is still incomplete."""
        return len(self._buffer)

    def _run(self) -> None:
        while len(self._buffer) >= self._need and not self._paused:
            part = bytes(self._buffer[: self._need])
            del self._buffer[: self._need]
            self._step(self, part)

    def _then(self, need: int, step: Step) -> None:
        self._need, self._step = need, step

    def _version(self, part: bytes) -> None:
        if not part.startswith(b"RFB "):
            raise RemoteProtocolError("this is not a VNC server")
        if part < b"RFB 003.008\n":
            raise RemoteProtocolError(f"this VNC server speaks {printable(part[4:11])}; 3.8 is needed")
        self._out += b"RFB 003.008\n"
        self._then(1, VncClient._security_count)

    def _security_count(self, part: bytes) -> None:
        if part[0] == 0:
            self._then(4, VncClient._reason_size)
        else:
            self._then(part[0], VncClient._security)

    def _security(self, part: bytes) -> None:
        if _VENCRYPT in part:
            self._out += bytes((_VENCRYPT,))
            self._then(2, VncClient._vencrypt_version)
        elif _VNC in part:
            self._out += bytes((_VNC,))
            self._then(16, VncClient._challenge)
        elif _NONE in part:
            self._out += bytes((_NONE,))
            self._then(4, VncClient._result)
        else:
            raise RemoteProtocolError(f"this VNC server offers no supported authentication: {list(part)}")

    def _challenge(self, part: bytes) -> None:
        if not self._password:
            raise RemoteProtocolError("this VNC server needs a password: --password-file")
        self._out += self._respond(part, self._password)
        self._answered = True
        self._then(4, VncClient._result)

    def _vencrypt_version(self, part: bytes) -> None:
        if part < b"\0\2":
            raise RemoteProtocolError(f"unsupported VeNCrypt version: {part[0]}.{part[1]}; 0.2 is needed")
        self._out += b"\0\2"
        self._then(2, VncClient._vencrypt_types)

    def _vencrypt_types(self, part: bytes) -> None:
        if part[0] != 0 or part[1] == 0:
            raise RemoteProtocolError("this VNC server refused VeNCrypt 0.2")
        self._then(4 * part[1], VncClient._vencrypt_choice)

    def _vencrypt_choice(self, part: bytes) -> None:
        offered = struct.unpack(f">{len(part) // 4}I", part)
        chosen = next((kind for kind in (_X509_VNC, _X509_NONE) if kind in offered), None)
        if chosen is None:
            what = "anonymous TLS only: give QEMU certificates (tls-creds-x509)"
            raise RemoteProtocolError(
                f"this VNC server offers {what if _ANONYMOUS_TLS & set(offered) else f'VeNCrypt {list(offered)} only'}"
            )
        self._out += struct.pack(">I", chosen)
        self._then(1, VncClient._tls_vnc if chosen == _X509_VNC else VncClient._tls_none)

    def _tls_vnc(self, part: bytes) -> None:
        self._start_tls(part)
        self._then(16, VncClient._challenge)

    def _tls_none(self, part: bytes) -> None:
        self._start_tls(part)
        self._then(4, VncClient._result)

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
        if part != bytes(4):
            self._then(4, VncClient._reason_size)
            return
        self._out += b"\1"
        self.joining = True
        self._then(24, VncClient._server_init)

    def _reason_size(self, part: bytes) -> None:
        size = struct.unpack(">I", part)[0]
        if size > NAME_MAX:
            raise RemoteProtocolError("the VNC server refused with an oversized reason")
        self._then(size, VncClient._reason)
        if size == 0:
            self._reason(b"")

    def _reason(self, part: bytes) -> None:
        text = printable(part.decode("utf-8", "replace").strip())
        if self._answered:
            raise PasswordRefused(f"the VNC server rejected the password{f' ({text})' if text else ''}")
        raise RemoteProtocolError(f"the VNC server refused: {text or 'it gives no reason'}")

    def _server_init(self, part: bytes) -> None:
        self.joining = False
        size = struct.unpack(">20xI", part)[0]
        if size > NAME_MAX:
            raise RemoteProtocolError(f"desktop name too long: {size} bytes")
        self._then(size, VncClient._named)
        if size == 0:
            self._named(b"")

    def _named(self, part: bytes) -> None:
        self.name = part.decode("utf-8", "replace").removeprefix("QEMU (").removesuffix(")")
        self._out += struct.pack(">BxHi", 2, 1, AUDIO_ENCODING)
        self._waits = True
        self._then(1, VncClient._message)

    # -- messages --------------------------------------------------------------------------------

    def _message(self, part: bytes) -> None:
        following: dict[int, tuple[int, Step]] = {
            0: (3, VncClient._update), 1: (5, VncClient._colours), 3: (7, VncClient._cut_text),
            255: (3, VncClient._audio),
        }  # fmt: skip
        # Bell, which has no body.
        if part[0] == 2:
            return
        if part[0] not in following:
            raise RemoteProtocolError(f"unexpected VNC message type {part[0]}")
        self._then(*following[part[0]])

    def _update(self, part: bytes) -> None:
        self._rectangles = struct.unpack(">xH", part)[0]
        self._next_rectangle()

    def _next_rectangle(self) -> None:
        self._then(*((12, VncClient._rectangle) if self._rectangles else (1, VncClient._message)))

    # Only the pseudo-encoding was asked for, so any other rectangle is a server that would send pictures, and its
    # length is not known here.
    def _rectangle(self, part: bytes) -> None:
        if struct.unpack(">8xi", part)[0] != AUDIO_ENCODING:
            raise RemoteProtocolError("unexpected picture: none was requested")
        self._rectangles -= 1
        # This pseudo-rectangle announces sound: set the format, then enable it.
        if self._waits:
            self._waits, self._answer_by_ns = False, None
            self._out += struct.pack(">BBHBBI", 255, 1, 2, S16, self.channels, self.rate)
            self._out += struct.pack(">BBH", 255, 1, 0)
            self._events.append(Ready(self.name))
        self._next_rectangle()

    def _colours(self, part: bytes) -> None:
        self._skip(6 * struct.unpack(">3xH", part)[0])

    def _cut_text(self, part: bytes) -> None:
        # The size is negative in the extended clipboard format.
        self._skip(abs(struct.unpack(">3xi", part)[0]))

    def _skip(self, size: int) -> None:
        if size > TEXT_MAX:
            raise RemoteProtocolError(f"VNC message too long: {size} bytes")
        self._then(size, VncClient._skipped)
        if size == 0:
            self._skipped(b"")

    def _skipped(self, part: bytes) -> None:
        del part
        self._then(1, VncClient._message)

    def _audio(self, part: bytes) -> None:
        kind, operation = struct.unpack(">BH", part)
        if kind != 1 or operation > 2:
            raise RemoteProtocolError(f"unexpected QEMU message type {kind}/{operation}")
        if operation == 2:
            self._then(4, VncClient._data_size)
            return
        self._events.append(AudioBegin() if operation == 1 else AudioEnd())
        self._then(1, VncClient._message)

    def _data_size(self, part: bytes) -> None:
        size = struct.unpack(">I", part)[0]
        if size > DATA_MAX:
            raise RemoteProtocolError(f"VNC audio message too long: {size} bytes; {DATA_MAX} at most")
        self._then(size, VncClient._data)
        if size == 0:
            self._data(b"")

    def _data(self, part: bytes) -> None:
        self._events.append(AudioData(part))
        self._then(1, VncClient._message)

    # -- out -------------------------------------------------------------------------------------

    def events(self) -> list[VncEvent]:
        """The events since the last call."""
        out, self._events = self._events, []
        return out

    def data_to_send(self) -> bytes:
        """See `Sender`."""
        out, self._out = bytes(self._out), bytearray()
        return out

    def _overdue(self) -> PeerLost | RemoteProtocolError:
        if not self._waits:
            # A VNC server speaks first, and others (SPICE, HTTP) wait for their client.
            silent = self._step is VncClient._version and not self._buffer
            other = ", or this is not a VNC server" if silent else ""
            return PeerLost(f"the VNC server does not answer; it may be stopped{other}")
        return RemoteProtocolError(
            f"this VNC server does not report within {SOUND_NS // NS_PER_S} s that it has sound;"
            " QEMU has with -vnc …,audiodev=ID"
        )
