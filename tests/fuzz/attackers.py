"""Bad clients of every door of a running daemon. Each speaks one session after another until it is told to stop."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from millrace.errors import RemoteProtocolError
from millrace.wire.native.messages import Fault
from millrace.wire.native.session import NativeWire
from millrace.wire.pulse.constants import COOKIE_BYTES
from tests.fuzz import seeds
from tests.fuzz.mutate import Mutator, repair_at

Connect = Callable[[], socket.socket]
PATIENCE_S = 0.15
PAUSE_S = 0.01
HELD_MAX = 20
"""Connections left open without a word, to be let go by the daemon."""


class Attacker(threading.Thread, ABC):
    """One door's bad client. `findings` are words that the daemon should not have said."""

    def __init__(self, name: str, connect: Connect, seed: int, stop: threading.Event) -> None:
        super().__init__(name=name, daemon=True)
        self.mutator = Mutator(seed)
        self.counts: Counter[str] = Counter()
        self.findings: list[str] = []
        self._connect, self._over = connect, stop
        self._held: list[socket.socket] = []

    def run(self) -> None:
        """Until `stop`."""
        while not self._over.is_set():
            try:
                sock = self._connect()
            except OSError:
                self.counts["not taken"] += 1
                self._over.wait(0.05)
                continue
            self.counts["sessions"] += 1
            # So that no door's share of the daemon is all that the fuzz exercises.
            self._over.wait(PAUSE_S)
            sock.settimeout(PATIENCE_S)
            with contextlib.suppress(OSError):
                self.session(sock)
            self._leave(sock)

    @abstractmethod
    def session(self, sock: socket.socket) -> None:
        """One session."""

    def _leave(self, sock: socket.socket) -> None:
        """Politely, by a reset, or not at all."""
        how = self.mutator.random.random()
        if how < 0.05:
            self._held.append(sock)
            if len(self._held) > HELD_MAX:
                self._held.pop(0).close()
            return
        if how < 0.3 and sock.family != socket.AF_UNIX:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()

    def exchange(self, sock: socket.socket, messages: list[bytes]) -> tuple[bytes, bool]:
        """Send messages in pieces; what came back, and whether the daemon ended it."""
        rng, heard, ended = self.mutator.random, bytearray(), False
        with contextlib.suppress(OSError):
            for message in messages:
                cut = rng.randrange(len(message) + 1) if rng.random() < 0.2 else len(message)
                for piece in (message[:cut], message[cut:]):
                    sock.sendall(piece)
                self.counts["messages"] += 1
                if rng.random() < 0.2 and (ended := self._hear(sock, heard, 0.0)):
                    break
        with contextlib.suppress(OSError):
            ended = self._hear(sock, heard, rng.choice((0.0, 0.02, PATIENCE_S))) or ended
        self.counts["ended by the daemon"] += ended
        return bytes(heard), ended

    @staticmethod
    def _hear(sock: socket.socket, heard: bytearray, patience_s: float) -> bool:
        sock.settimeout(patience_s or 0.0001)
        try:
            while True:
                data = sock.recv(65_536)
                if not data:
                    return True
                heard += data
        except TimeoutError:
            return False
        except ConnectionError:
            return True
        finally:
            sock.settimeout(PATIENCE_S)


class Pulse(Attacker):
    """PulseAudio's protocol."""

    cookie = bytes(COOKIE_BYTES)

    def session(self, sock: socket.socket) -> None:
        """See `Attacker`."""
        messages = self.mutator.session(seeds.pulse()[0], repair_at(0, ">I", 20))
        self.exchange(sock, [message.replace(bytes(COOKIE_BYTES), self.cookie) for message in messages])


class Native(Attacker):
    """The native protocol: who breaks it hears a Fault with serial 0 before the end."""

    def session(self, sock: socket.socket) -> None:
        """See `Attacker`."""
        sessions = seeds.native()
        heard, ended = self.exchange(sock, self.mutator.session(sessions, repair_at(0, "<I", 8)))
        wire = NativeWire(daemon=False)
        wire.receive_fds([-1] * 10_000)
        try:
            wire.receive(heard, 0)
        except RemoteProtocolError as error:
            self.findings.append(f"native: the daemon said {error}")
            return
        said = [message for message, _ in wire.events()]
        last = said[-1] if said else None
        if ended and not (isinstance(last, Fault) and last.serial == 0):
            self.findings.append(f"native: the connection ended after {last!r:.200}, without a Fault")
        if any(isinstance(one, Fault) and one.code == "internal" for one in said):
            self.findings.append("native: an internal error")


class Http(Attacker):
    """HTTP: nothing is answered by 500."""

    token = ""

    def session(self, sock: socket.socket) -> None:
        """See `Attacker`."""
        heard, _ = self.exchange(sock, self.mutator.session(seeds.http(self.token)))
        for line in heard.split(b"\r\n"):
            if line.startswith(b"HTTP/1.") and line[9:12].isdigit():
                status = line[9:12].decode()
                self.counts[f"HTTP {status}"] += 1
                if status.startswith("5") and status != "503":
                    self.findings.append(f"HTTP: {line!r}")


class WebSocket(Http):
    """The peer protocol, over a handshake that is right more often than not."""

    def session(self, sock: socket.socket) -> None:
        """See `Attacker`."""
        rng = self.mutator.random
        (upgrade,) = next(s for s in seeds.http(self.token) if s[0].startswith(b"GET /victim"))
        sock.sendall(upgrade if rng.random() < 0.9 else self.mutator.message(upgrade))
        heard = bytearray()
        self._hear(sock, heard, PATIENCE_S)
        if not heard.startswith(b"HTTP/1.1 101"):
            self.counts["not upgraded"] += 1
            return
        frames = [_frame(rng.randbytes(4), one) for one in self.mutator.session(seeds.peer_listener())]
        if rng.random() < 0.2:
            frames = [self.mutator.message(frame) if rng.random() < 0.2 else frame for frame in frames]
        said, ended = self.exchange(sock, frames)
        self.counts["last word"] += ended and (b'"fatal":true' in said or b"\x88" in said)


def _frame(mask: bytes, payload: bytes) -> bytes:
    """A client's WebSocket frame (RFC 6455, section 5.2): text for what begins like JSON."""
    first = bytes((0x81 if payload[:1] in (b"{", b"[", b'"') else 0x82,))
    size = len(payload)
    if size < 126:
        head = bytes((0x80 | size,))
    elif size < 65_536:
        head = b"\xfe" + size.to_bytes(2, "big")
    else:
        head = b"\xff" + size.to_bytes(8, "big")
    masked = bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))
    return first + head + mask + masked


class Handing(Attacker):
    """The socket on which connections are handed over."""

    def session(self, sock: socket.socket) -> None:
        """See `Attacker`."""
        request = self.mutator.message(b'{"guest": "victim"}\n')
        mine, theirs = socket.socketpair()
        reader, writer = os.pipe()
        choices: list[list[Any]] = [[], [theirs.fileno()], [reader], [theirs.fileno(), reader, writer]]
        with mine, theirs:
            try:
                socket.send_fds(sock, [request], self.mutator.random.choice(choices))
                heard = bytearray()
                self._hear(sock, heard, PATIENCE_S)
            finally:
                os.close(reader)
                os.close(writer)
        self.counts["messages"] += 1
        if heard:
            msgspec.json.decode(bytes(heard))


def unix(path: Path) -> Connect:
    """Connects to a unix socket."""

    def connect() -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(2.0)
        try:
            sock.connect(str(path))
        except OSError:
            sock.close()
            raise
        return sock

    return connect


def tcp(host: str, port: int) -> Connect:
    """Connects by TCP."""
    return lambda: socket.create_connection((host, port), 2.0)
