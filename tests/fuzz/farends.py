"""Hostile machines: VNC, SPICE, QMP and D-Bus servers that the daemon connects to, and that send mutated messages."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.fuzz import seeds
from tests.fuzz.mutate import Mutator, repair_line
from tests.fuzz.parsers import DBUS, SPICE

TIMEOUT_S = 0.5


class FarEnd(threading.Thread):
    """One server, which serves one connection at a time, with one session for each."""

    def __init__(self, listener: socket.socket, serve: Callable[[socket.socket, Mutator], None], seed: int) -> None:
        super().__init__(daemon=True)
        self._listener, self._serve, self._mutator = listener, serve, Mutator(seed)
        self.sessions = 0

    def run(self) -> None:
        """Serve until the socket is closed."""
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.sessions += 1
            with sock, contextlib.suppress(OSError):
                sock.settimeout(TIMEOUT_S)
                self._serve(sock, self._mutator)


def _say(sock: socket.socket, messages: list[bytes], mutator: Mutator) -> list[int]:
    """Send messages, and read the answers; returns the descriptors received."""
    fds: list[int] = []
    for message in messages:
        sock.sendall(message)
        if mutator.random.random() < 0.3:
            fds += _hear(sock, 0.01)
    return fds + _hear(sock, mutator.random.choice((0.02, 0.1, TIMEOUT_S)))


def _hear(sock: socket.socket, timeout_s: float) -> list[int]:
    sock.settimeout(timeout_s)
    got: list[int] = []
    with contextlib.suppress(TimeoutError):
        while True:
            data, fds, _, _ = socket.recv_fds(sock, 65_536, 8)
            got += fds
            if not data:
                break
    sock.settimeout(TIMEOUT_S)
    return got


def vnc(sock: socket.socket, mutator: Mutator) -> None:
    """A VNC server."""
    _say(sock, mutator.session(seeds.vnc()), mutator)


def spice(key: bytes) -> Callable[[socket.socket, Mutator], None]:
    """A SPICE server."""

    def serve(sock: socket.socket, mutator: Mutator) -> None:
        link = sock.recv(4096)
        sessions = {
            1: seeds.spice_main, 2: seeds.spice_display, 3: seeds.spice_inputs, 4: seeds.spice_cursor
        }.get(link[20] if len(link) > 20 else 0, seeds.spice_sound)()  # fmt: skip
        begin = [seeds.spice_reply(key), bytes(4)]
        if mutator.random.random() < 0.2:
            begin = [mutator.message(part) for part in begin]
        _say(sock, [*begin, *mutator.session(sessions, SPICE)], mutator)

    return serve


def _dbus(sock: socket.socket, mutator: Mutator, on_bus: bool) -> None:
    """A bus or a machine on D-Bus; on a socket handed over for its sound, it sends sound."""
    for fd in _say(sock, mutator.session(seeds.dbus_display(on_bus), DBUS), mutator):
        with socket.socket(fileno=fd) as sound, contextlib.suppress(OSError):
            sound.settimeout(TIMEOUT_S)
            _say(sound, mutator.session(seeds.dbus_audio(), DBUS), mutator)


def dbus(sock: socket.socket, mutator: Mutator) -> None:
    """A message bus."""
    _dbus(sock, mutator, on_bus=True)


def qmp(sock: socket.socket, mutator: Mutator) -> None:
    """QEMU's monitor: it receives a descriptor, and speaks D-Bus on it."""
    lines = seeds.qmp()[0] if mutator.random.random() < 0.5 else mutator.session(seeds.qmp(), repair_line)
    for fd in _say(sock, lines, mutator):
        if mutator.random.random() < 0.9:
            with socket.socket(fileno=fd) as display, contextlib.suppress(OSError):
                display.settimeout(TIMEOUT_S)
                _dbus(display, mutator, on_bus=False)
        else:
            os.close(fd)


class FarEnds:
    """All hostile machines, and the doors through which a guest is attached to them."""

    def __init__(self, folder: Path, seed: int, each: int = 2) -> None:
        self.ends: list[tuple[str, FarEnd]] = []
        self.doors: list[str] = []
        self._listeners: list[socket.socket] = []
        public = rsa.generate_private_key(65_537, 1024).public_key()
        key = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        for n in range(each):
            for kind, serve in (("vnc", vnc), ("spice", spice(key))):
                listener = socket.create_server(("127.0.0.1", 0))
                self._add(kind, listener, serve, seed + n)
                self.doors.append(f"{kind}://127.0.0.1:{listener.getsockname()[1]}")
            for kind, serve in (("qmp", qmp), ("dbus", dbus)):
                path = folder / f"{kind}{n}"
                listener = socket.socket(socket.AF_UNIX)
                listener.bind(str(path))
                listener.listen(64)
                self._add(kind, listener, serve, seed + n)
                self.doors.append(f"qmp:{path}" if kind == "qmp" else f"dbus:unix:path={path}")

    def _add(
        self, kind: str, listener: socket.socket, serve: Callable[[socket.socket, Mutator], None], seed: int
    ) -> None:
        end = FarEnd(listener, serve, seed)
        self._listeners.append(listener)
        self.ends.append((kind, end))
        end.start()

    def sessions(self) -> Counter[str]:
        """The number of connections to each kind."""
        out: Counter[str] = Counter()
        for kind, end in self.ends:
            out[f"machine {kind}"] += end.sessions
        return out

    def close(self) -> None:
        """Stop serving."""
        for listener in self._listeners:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
