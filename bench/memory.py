"""One guest's attacks on the daemon's memory: what it makes the daemon hold must stay within its budget.

Each attack has its own daemon. Resident memory is read before and during the attack; `held` is the budget's own
account. The effect on other guests' sound is the subject of `python -m bench neighbours`.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from bench.common import Daemon, daemon, memory_kib
from millrace.wire.native.messages import HEADER, Call, Hello, frame
from millrace.wire.pulse.client import Failed, PulseClientSession, Reply, playback_fields, record_fields
from millrace.wire.pulse.constants import COOKIE_BYTES, PROTOCOL_VERSION, Command
from millrace.wire.pulse.tagstruct import Spec

S16, FLOAT = 3, 5
STEREO = (1, 2)
TIMEOUT_S = 10.0
OVERHEAD_MIB = 64
"""What may come on top of the budget: code that is loaded on first use, what the allocator keeps, and short-lived
buffers."""


class Client:
    """An authenticated PulseAudio connection that counts its refusals."""

    def __init__(self, path: str) -> None:
        self.wire = PulseClientSession()
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(TIMEOUT_S)
        self.sock.connect(path)
        self.done = self.refused = 0
        self.ask([Command.AUTH], version=PROTOCOL_VERSION, cookie=bytes(COOKIE_BYTES))
        self.ask([Command.SET_CLIENT_NAME], props={"application.name": b"worst\0"})

    def ask(self, commands: list[Command], **fields: Any) -> None:
        """Send the same request for each, and wait for the answers."""
        for command in commands:
            self.wire.send_request(command, fields)
        self.finish(len(commands))

    def finish(self, waits: int) -> None:
        """Send the queued requests, and wait for so many answers."""
        self.sock.sendall(self.wire.data_to_send())
        while waits and (data := self.sock.recv(1 << 18)):
            self.wire.receive(data)
            for event in self.wire.events():
                self.done += isinstance(event, Reply)
                self.refused += isinstance(event, Failed)
                waits -= isinstance(event, Reply | Failed)


def clients(bus: Daemon, count: int) -> Iterator[Client]:
    """As many connections as are accepted."""
    for _ in range(count):
        with contextlib.suppress(OSError):
            yield Client(bus.pulse("worst").removeprefix("unix:"))


def total(held: list[Client], asked: int, what: str) -> str:
    """The result of an attack."""
    return f"{asked} {what} asked for, {sum(c.refused for c in held)} refused"


def streams(bus: Daemon, held: list[Any]) -> str:
    """10,000 streams with full buffers."""
    sound = bytes(65_472)
    for client in clients(bus, 100):
        held.append(client)
        fields = playback_fields(Spec(S16, 2, 44_100), STEREO, corked=True)
        client.ask([Command.CREATE_PLAYBACK_STREAM] * 100, **fields)
        with contextlib.suppress(OSError):
            for channel in range(client.done - 2):
                for _ in range(6):
                    client.wire.send_block(channel, sound)
                client.sock.sendall(client.wire.data_to_send())
    return total(held, 10_000, "streams")


def uploads(bus: Daemon, held: list[Any]) -> str:
    """44 uploads of 16 MiB on 22 connections, started and never finished."""
    size, sound = 16 << 20, bytes(65_472)
    for client in clients(bus, 22):
        held.append(client)
        fields = {"name": "s", "spec": Spec(S16, 2, 48_000), "map": STEREO, "length": size, "props": {}}
        client.ask([Command.CREATE_UPLOAD_STREAM] * 2, **fields)
        with contextlib.suppress(OSError):
            for channel in range(client.done - 2):
                for _ in range(size // len(sound)):
                    client.sock.sendall(client.wire.data_to_send())
                    client.wire.send_block(channel, sound)
    return total(held, 44, "uploads")


def properties(bus: Daemon, held: list[Any]) -> str:
    """Properties of 480 kB on each of 1,536 streams."""
    props = {f"p{n}": bytes(60_000) for n in range(8)}
    fields = playback_fields(Spec(S16, 2, 48_000), STEREO, corked=True) | {"props": props}
    for client in clients(bus, 6):
        held.append(client)
        for _ in range(256):
            client.ask([Command.CREATE_PLAYBACK_STREAM], **fields)
    return total(held, 1_536, "streams")


def recorders(bus: Daemon, held: list[Any]) -> str:
    """Recorders that are never read."""
    fields = record_fields(Spec(FLOAT, 2, 48_000), STEREO, source_name="@DEFAULT_MONITOR@")
    for client in clients(bus, 40):
        held.append(client)
        client.ask([Command.CREATE_RECORD_STREAM] * 10, **fields)
    time.sleep(20)
    return total(held, 400, "recorders")


def halves(bus: Daemon, held: list[Any]) -> str:
    """Commands of 1 MiB on 900 connections, of which the last byte never comes."""
    sent = 0
    header = (1 << 20).to_bytes(4, "big") + b"\xff" * 4 + bytes(12)
    for client in clients(bus, 900):
        held.append(client)
        with contextlib.suppress(OSError):
            client.sock.sendall(header + bytes((1 << 20) - 1))
            sent += 1
    return f"{sent} commands of 1 MiB, all but their last byte"


def answers(bus: Daemon, held: list[Any]) -> str:
    """Lists of 200 streams, requested continuously on 200 connections that never read."""
    fields = playback_fields(Spec(S16, 2, 48_000), STEREO, corked=True) | {"props": {"p": bytes(10_000)}}
    one = next(clients(bus, 1))
    held.append(one)
    one.ask([Command.CREATE_PLAYBACK_STREAM] * 200, **fields)
    asked = 0
    for client in clients(bus, 200):
        held.append(client)
        for _ in range(50):
            client.wire.send_request(Command.GET_SINK_INPUT_INFO_LIST, {})
        with contextlib.suppress(OSError):
            client.sock.sendall(client.wire.data_to_send())
            asked += 50
    time.sleep(5)
    return f"{asked} lists of 2 MB asked for"


def native(bus: Daemon, held: list[Any]) -> str:
    """Native connections: calls of 1 MB that are queued, and messages that never end."""
    path = f"{bus.runtime}/millrace/worst/native"
    call = frame(Call(1, "set", {"target": [{}] * 900_000}))
    for _ in range(200):
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(TIMEOUT_S)
        with contextlib.suppress(OSError):
            sock.connect(path)
            sock.sendall(frame(Hello(1, "worst")) + call * 4 + HEADER.pack(1 << 20, 2, 0, 0) + bytes(1_000_000))
        held.append(sock)
    return "200 connections"


def _upgrade(bus: Daemon, path: str) -> bytes:
    return (
        f"GET {path} HTTP/1.1\r\nHost: {bus.listen}\r\nAuthorization: Bearer {bus.env['MILLRACE_TOKEN']}\r\n"
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    ).encode()


def watchers(bus: Daemon, held: list[Any]) -> str:
    """20 watchers that read nothing but answer pings, while 200 streams are renamed continuously."""
    host, _, port = bus.listen.rpartition(":")
    for _ in range(20):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect((host, int(port)))
        sock.sendall(_upgrade(bus, "/api/v1/events"))
        held.append(sock)
        threading.Thread(target=_pong, args=(sock,), daemon=True).start()
    client = next(clients(bus, 1))
    held.append(client)
    fields = playback_fields(Spec(S16, 2, 48_000), STEREO, corked=True)
    client.ask([Command.CREATE_PLAYBACK_STREAM] * 200, **fields)
    until, count = time.monotonic() + 8, 0
    while time.monotonic() < until:
        for channel in range(200):
            name = f"{count} " + "x" * 3_000
            client.wire.send_request(Command.SET_PLAYBACK_STREAM_NAME, {"channel": channel, "name": name})
        client.finish(200)
        count += 1
    return f"{200 * count} names of 3 kB told to 20 watchers"


def _pong(sock: socket.socket) -> None:
    """Send an unsolicited pong (RFC 6455, 5.5.3), so that the daemon takes the connection to be alive."""
    with contextlib.suppress(OSError):
        while True:
            time.sleep(5)
            sock.sendall(b"\x8a\x80\x00\x00\x00\x00")


ATTACKS: dict[str, Callable[[Daemon, list[Any]], str]] = {
    run.__name__: run for run in (streams, uploads, properties, recorders, halves, answers, native, watchers)
}


def run(name: str) -> bool:
    """Run one attack; returns whether memory stayed within the budget and the overhead."""
    held: list[Any] = []
    with daemon("--guest", "worst") as bus:
        before, most, ended = memory_kib(bus.pid), 0, threading.Event()

        def look() -> None:
            nonlocal most
            while not ended.wait(0.05):
                most = max(most, memory_kib(bus.pid))

        looking = threading.Thread(target=look, daemon=True)
        looking.start()
        done = ATTACKS[name](bus, held)
        time.sleep(1)
        (memory,) = (guest["memory"] for guest in bus.state()["guests"])
        ended.set()
        looking.join()
        for one in held:
            (one.sock if isinstance(one, Client) else one).close()
        time.sleep(3)
        (after,) = (guest["memory"] for guest in bus.state()["guests"])
    grown = (most - before) / 1024
    within = grown <= memory["max"] / (1 << 20) + OVERHEAD_MIB
    print(
        f"{name:11} {grown:6.0f} MiB {memory['held'] / (1 << 20):6.0f} MiB {after['held'] / (1 << 20):7.1f} MiB"
        f"   {'within' if within else 'TOO MUCH'}: {done}",
        flush=True,
    )
    return within


def main() -> None:
    """Entry point."""
    print(f"memory: what the worst of one guest adds to the daemon; budget 256 MiB, overhead {OVERHEAD_MIB} MiB")
    print(f"{'':11} {'resident':>10} {'held':>10} {'held after':>11}")
    names = [name for name in ATTACKS if name in sys.argv[1:]] or list(ATTACKS)
    within = [run(name) for name in names]
    if not all(within):
        sys.exit(1)


if __name__ == "__main__":
    main()
