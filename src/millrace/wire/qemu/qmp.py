"""The part of QMP needed to hand QEMU a connection (QEMU's docs/interop/qmp-spec), sans-IO."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from millrace.dsp.convert import Buffer
from millrace.errors import PeerLost, RemoteProtocolError
from millrace.text import printable
from millrace.units import NS_PER_S, HostNs
from millrace.wire.chunk import Chunk
from millrace.wire.contract import AnswerDue
from millrace.wire.decoding import json_value

_LINE_MAX = 64 * 1024
"""Ample: a greeting is a few hundred bytes long, an error a sentence."""
_LINES_MAX = 1000
"""The three answers may be mixed with the machine's events, but not with endless ones."""
_FD_NAME = "millrace"
PEER_TO_PEER_MAJOR = 8
ANSWER_NS = 10 * NS_PER_S


@dataclass(frozen=True, slots=True)
class HandedOver:
    """QEMU has accepted the descriptor.

    `silent` says why no listener for sound may be registered over it; empty if one may.
    """

    silent: str = ""


# QMP is lock-step here: the greeting, then three commands, each sent after the answer to the one before. The descriptor
# goes with `getfd`, in the same write: QEMU takes it when it parses the command. Events of the machine may come in
# between and are skipped. QEMU serves one client on a QMP socket at a time, so a socket that is taken sends no greeting
# at all, which only the deadline notices.
class QmpHandover(AnswerDue):
    """Passes QEMU a descriptor as a D-Bus display client."""

    def __init__(self, fd: int, now_ns: HostNs) -> None:
        self._fd = fd
        self._answer_by_ns = now_ns + ANSWER_NS
        self._events: list[HandedOver] = []
        self._buffer = bytearray()
        self._steps: list[tuple[str, dict[str, Any]]] = [
            ("qmp_capabilities", {}),
            ("getfd", {"fdname": _FD_NAME}),
            ("add_client", {"protocol": "@dbus-display", "fdname": _FD_NAME}),
        ]
        self._out: list[Chunk] = []
        self._greeted = False
        self._silent = ""
        self._lines = 0

    def receive(self, data: Buffer, now_ns: HostNs) -> None:
        """Take bytes; RemoteProtocolError if QEMU refuses or this is not QMP."""
        del now_ns
        # Only new bytes are searched: a long line in small pieces would otherwise cost quadratic time.
        scanned = len(self._buffer)
        self._buffer += data
        while (end := self._buffer.find(b"\n", scanned)) >= 0:
            line = bytes(self._buffer[:end])
            del self._buffer[: end + 1]
            scanned = 0
            if line.strip():
                self._line(line)
        if len(self._buffer) > _LINE_MAX:
            raise RemoteProtocolError("this is not a QMP socket: the line is too long")

    def _line(self, line: bytes) -> None:
        self._lines += 1
        if self._lines > _LINES_MAX:
            raise RemoteProtocolError(f"QMP: {_LINES_MAX} lines without an answer")
        try:
            said = json_value(line)
        except RemoteProtocolError as refused:
            raise RemoteProtocolError(f"this is not a QMP socket: {refused}") from None
        if not isinstance(said, dict):
            raise RemoteProtocolError("this is not a QMP socket")
        if "error" in said:
            error = said["error"]
            text = printable(error.get("desc", "") if isinstance(error, dict) else "")
            remedy = self._silent or "it must run with -display dbus,p2p=on,audiodev=ID"
            raise RemoteProtocolError(f"QEMU refuses: {text}; {remedy}")
        if "QMP" in said and not self._greeted:
            self._greeted = True
            self._check_version(said["QMP"])
            self._next()
        elif "return" in said:
            self._next()

    def _check_version(self, greeting: object) -> None:
        """QEMU 7.2 crashes when a listener for sound is registered over such a connection (seen with Debian's 7.2.22).

        One for a screen does it no harm.
        """
        try:
            major = int(greeting["version"]["qemu"]["major"])  # type: ignore[index]
        except (TypeError, KeyError, ValueError):
            return
        if major < PEER_TO_PEER_MAJOR:
            self._silent = (
                f"QEMU {major} crashes when its sound is attached over QMP; for sound run it with"
                " -display dbus,addr=ADDRESS,audiodev=ID and attach with --dbus ADDRESS"
            )

    def _next(self) -> None:
        if not self._steps:
            self._answer_by_ns = None
            self._events.append(HandedOver(self._silent))
            return
        name, arguments = self._steps.pop(0)
        text = msgspec.json.encode({"execute": name, "arguments": arguments})
        self._out.append(Chunk(bytearray(text + b"\n"), (self._fd,) if name == "getfd" else ()))

    def events(self) -> list[HandedOver]:
        """The events since the last call."""
        out, self._events = self._events, []
        return out

    def _overdue(self) -> PeerLost:
        return PeerLost(
            f"no answer on the QMP socket for {ANSWER_NS // NS_PER_S} s: it serves one client at a time, and none"
            " while QEMU is stopped; give Millrace its own socket (-qmp unix:PATH,server=on,wait=off)"
        )

    def data_to_send(self) -> list[Chunk]:
        """See `Sender`."""
        out, self._out = self._out, []
        return out
