"""Hostile clients for every door of a running daemon. Each runs one session after another until it is stopped."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from millrace.wire.pulse.constants import COOKIE_BYTES
from tests.fuzz import clientseeds, seeds, verdicts
from tests.fuzz.mutate import Mutator, repair_at
from tests.fuzz.verdicts import Heard

Connect = Callable[[], socket.socket]
TIMEOUT_S = 0.15
PAUSE_S = 0.01
HELD_MAX = 20
"""Connections that are left open and silent, for the daemon to close."""


class Attacker(threading.Thread, ABC):
    """The hostile client of one door. `findings` are violations in what the daemon sent."""

    def __init__(self, name: str, connect: Connect, seed: int, stop: threading.Event) -> None:
        super().__init__(name=name, daemon=True)
        self.mutator = Mutator(seed)
        self.counts: Counter[str] = Counter()
        self.findings: list[str] = []
        self._connect, self._over = connect, stop
        self._held: list[socket.socket] = []

    def run(self) -> None:
        """Run sessions until `stop` is set."""
        while not self._over.is_set():
            try:
                sock = self._connect()
            except OSError:
                self.counts["not taken"] += 1
                self._over.wait(0.05)
                continue
            self.counts["sessions"] += 1
            # Pause, so that the guest's limits on its share of time don't end up being all that is tested.
            self._over.wait(PAUSE_S)
            sock.settimeout(TIMEOUT_S)
            with contextlib.suppress(OSError):
                self.session(sock)
            self._leave(sock)
        while self._held:
            self._held.pop().close()

    @abstractmethod
    def session(self, sock: socket.socket) -> None:
        """Run one session."""

    def _leave(self, sock: socket.socket) -> None:
        """Close the connection normally, by a reset, or not at all."""
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

    def exchange(self, sock: socket.socket, messages: list[bytes]) -> Heard:
        """Send messages in pieces, and collect what comes back."""
        rng, heard = self.mutator.random, Heard()
        with contextlib.suppress(OSError):
            for message in messages:
                cut = rng.randrange(len(message) + 1) if rng.random() < 0.2 else len(message)
                for piece in (message[:cut], message[cut:]):
                    sock.sendall(piece)
                self.counts["messages"] += 1
                if rng.random() < 0.2:
                    self.hear(sock, heard, 0.0)
                    if heard.ended:
                        break
        with contextlib.suppress(OSError):
            self.hear(sock, heard, rng.choice((0.0, 0.02, TIMEOUT_S)))
        self.counts["ended by the daemon"] += heard.ended
        self.counts["reset"] += heard.reset
        return heard

    @staticmethod
    def hear(sock: socket.socket, heard: Heard, timeout_s: float) -> None:
        """Read until nothing arrives for so long, with a limit: a recorder is sent sound without end."""
        sock.settimeout(timeout_s or 0.0001)
        ends = time.monotonic() + 2 * timeout_s
        try:
            while data := sock.recv(65_536):
                heard.data += data
                if time.monotonic() > ends:
                    return
            heard.ended = True
        except TimeoutError:
            pass
        except ConnectionError:
            heard.ended = heard.reset = True
        finally:
            sock.settimeout(TIMEOUT_S)

    def judge(self, wrong: str) -> None:
        """Note a verdict: empty, or what is wrong."""
        if wrong:
            self.findings.append(f"{self.name}: {wrong}")


class Pulse(Attacker):
    """PulseAudio's protocol."""

    cookie = bytes(COOKIE_BYTES)

    def session(self, sock: socket.socket) -> None:
        """See `Attacker`."""
        messages = self.mutator.session(clientseeds.pulse()[0], repair_at(0, ">I", 20))
        heard = self.exchange(sock, [clientseeds.with_cookie(message, self.cookie) for message in messages])
        self.judge(verdicts.pulse(heard))
        if heard.ended and messages in clientseeds.pulse()[0]:
            which = clientseeds.pulse()[0].index(messages)
            self.findings.append(f"{self.name}: session {which} as it was recorded was ended: {heard.data[-40:]!r}")


class Native(Attacker):
    """The native protocol: a client that violates it must get a Fault with serial 0 before the end."""

    def session(self, sock: socket.socket) -> None:
        """See `Attacker`."""
        messages = self.mutator.session(clientseeds.native(), repair_at(0, "<I", 8))
        heard = self.exchange(sock, messages)
        # On a unix socket, nothing that was sent before a reset is lost.
        heard.reset = False
        self.judge(verdicts.native(heard))
        if heard.ended and messages in clientseeds.native():
            self.findings.append(f"{self.name}: a session as it was recorded was ended: {heard.data[-200:]!r}")


class Http(Attacker):
    """HTTP: no request is answered by 500 or left without an answer."""

    token = ""

    def session(self, sock: socket.socket) -> None:
        """See `Attacker`."""
        heard = self.exchange(sock, self.mutator.session(seeds.http(self.token)))
        for status, _ in verdicts.answers(bytes(heard.data)):
            self.counts[f"HTTP {status}"] += 1
        self.judge(verdicts.http(heard))


class WebSocket(Http):
    """The peer protocol, over a handshake that is mostly valid."""

    path = b"/victim"
    sessions = staticmethod(clientseeds.peer_listener)

    def session(self, sock: socket.socket) -> None:
        """See `Attacker`."""
        rng = self.mutator.random
        (upgrade,) = next(s for s in seeds.http(self.token) if s[0].startswith(b"GET /victim"))
        upgrade = upgrade.replace(b"/victim", self.path, 1)
        sock.sendall(upgrade if rng.random() < 0.9 else self.mutator.message(upgrade))
        begun = Heard()
        self.hear(sock, begun, TIMEOUT_S)
        head, _, first = bytes(begun.data).partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 101"):
            self.counts[f"not upgraded: {head[9:12].decode('ascii', 'replace') or 'no answer'}"] += 1
            self.judge(verdicts.http(begun))
            return
        frames = [masked(rng.randbytes(4), one) for one in self.mutator.session(self.sessions())]
        if rng.random() < 0.2:
            frames = [self.mutator.message(frame) if rng.random() < 0.2 else frame for frame in frames]
        heard = self.exchange(sock, frames)
        heard.data[:0] = first
        if heard.ended:
            self.counts["last word"] += any(kind == verdicts.CLOSE for kind, _ in verdicts.frames(bytes(heard.data)))
        self.judge(verdicts.websocket(heard))


class View(WebSocket):
    """The picture protocol, likewise."""

    path = b"/victim/screen"
    sessions = staticmethod(clientseeds.viewer)


def masked(mask: bytes, payload: bytes) -> bytes:
    """A client's WebSocket frame (RFC 6455, section 5.2): a text frame if the payload begins like JSON."""
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
    """The socket over which connections are handed to the daemon."""

    def session(self, sock: socket.socket) -> None:
        """See `Attacker`."""
        request = self.mutator.message(b'{"guest": "victim"}\n')
        mine, theirs = socket.socketpair()
        reader, writer = os.pipe()
        choices: list[list[Any]] = [[], [theirs.fileno()], [reader], [theirs.fileno(), reader, writer]]
        heard = Heard()
        with mine, theirs:
            try:
                socket.send_fds(sock, [request], self.mutator.random.choice(choices))
                self.hear(sock, heard, TIMEOUT_S)
            finally:
                os.close(reader)
                os.close(writer)
        self.counts["messages"] += 1
        self.judge(verdicts.handed(heard))


def unix(path: Path) -> Connect:
    """A function that connects to a unix socket."""

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
    """A function that connects over TCP."""
    return lambda: socket.create_connection((host, port), 2.0)
