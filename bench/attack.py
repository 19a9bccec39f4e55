"""A guest's worst programs: `python -m bench.attack KIND PULSE NATIVE SECONDS`, bounded in time and number.

They are run at nice 19, so that the measurement shows the daemon's fairness and not the kernel's.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import select
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator

from millrace.wire.native.messages import Call, Hello, frame
from millrace.wire.pulse.client import Failed, PulseClientSession, Reply, playback_fields, record_fields
from millrace.wire.pulse.constants import COOKIE_BYTES, NO_INDEX, PROTOCOL_VERSION, Command
from millrace.wire.pulse.tagstruct import Spec

S16, FLOAT = 3, 5
STEREO = (1, 2)
UPGRADE = (
    "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
ends_s = 0.0
tally: Counter[str] = Counter()
"""Counts of what was done, by name."""


def left() -> bool:
    """Whether the deadline has not passed yet."""
    return time.monotonic() < ends_s


class Connection:
    """An authenticated connection."""

    def __init__(self, path: str) -> None:
        self.wire = PulseClientSession()
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(max(0.1, ends_s - time.monotonic()))
        while left():
            # EAGAIN: the listening socket's backlog is full (unix(7)).
            with contextlib.suppress(BlockingIOError):
                self.sock.connect(path)
                break
            time.sleep(0.005)
        self.last: Reply | None = None
        self.wire.send_request(Command.AUTH, {"version": PROTOCOL_VERSION, "cookie": bytes(COOKIE_BYTES)})
        self.wire.send_request(Command.SET_CLIENT_NAME, {"props": {"application.name": b"worst\0"}})

    def fileno(self) -> int:
        """For select."""
        return self.sock.fileno()

    def ask(self, command: Command, **fields: object) -> None:
        """Queue a request without waiting for its answer."""
        self.wire.send_request(command, fields)

    def push(self) -> None:
        """Send the queued requests."""
        self.sock.sendall(self.wire.data_to_send())

    def wait(self, replies: int, what: str = "") -> None:
        """Wait for so many answers; each one that is not a refusal counts as one of `what`."""
        self.push()
        have = 0
        while have < replies:
            have += self.take(what)

    def take(self, what: str) -> int:
        """Read once; returns how many answers arrived."""
        data = self.sock.recv(1 << 18)
        if not data:
            raise OSError("the daemon has cut it off")
        self.wire.receive(data)
        have = 0
        for event in self.wire.events():
            if isinstance(event, Reply):
                self.last, have = event, have + 1
                tally[what] += 1
            elif isinstance(event, Failed):
                have += 1
                tally["refused"] += 1
        return have

    def drop(self) -> None:
        """Read and discard whatever has arrived.

        Non-blocking, because a socket with a timeout would wait for data first.
        """
        self.sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while self.sock.recv(1 << 18):
                pass
        self.sock.settimeout(max(0.1, ends_s - time.monotonic()))


def streams(pulse: str, native: str) -> None:
    """10,000 streams that start at once and never have enough sound."""
    connections = []
    for _ in range(40):
        connection = Connection(pulse)
        connection.wait(2)
        connections.append(connection)
    for connection in connections:
        for _ in range(250):
            fields = playback_fields(Spec(S16, 2, 44_100), STEREO, prebuf=0, tlength=8820, adjust_latency=True)
            connection.ask(Command.CREATE_PLAYBACK_STREAM, **fields)
        connection.push()
        tally["streams asked for"] += 250
    while left():
        for connection in select.select(connections, [], [], 0.05)[0]:
            connection.take("streams had")


def resampled(pulse: str, native: str) -> None:
    """300 samples of 192 kHz at a time, played by the daemon itself."""
    connection = Connection(pulse)
    sound = random.Random(1).randbytes(192_000 * 4 // 2)
    fields = {"name": "s", "spec": Spec(S16, 2, 192_000), "map": STEREO, "length": len(sound), "props": {}}
    connection.ask(Command.CREATE_UPLOAD_STREAM, **fields)
    connection.wait(3)
    connection.wire.send_block(0, sound)
    connection.ask(Command.FINISH_UPLOAD_STREAM, channel=0)
    connection.wait(1)
    what, most = "samples of 192 kHz played", "of them begun at once"
    while left():
        before = tally[what]
        for _ in range(300):
            connection.ask(
                Command.PLAY_SAMPLE, sink_index=NO_INDEX, sink_name=None, volume=NO_INDEX, name="s", props={}
            )
        connection.wait(300, what)
        tally[most] = max(tally[most], tally[what] - before)
        time.sleep(0.4)


def recorders(pulse: str, native: str) -> None:
    """As many recorders of 192 kHz as the daemon allows, none of which ever reads."""
    connections = []
    for _ in range(8):
        connection = Connection(pulse)
        connections.append(connection)
        for _ in range(64):
            connection.ask(
                Command.CREATE_RECORD_STREAM, **record_fields(Spec(FLOAT, 2, 192_000), STEREO, fragsize=4096)
            )
        connection.wait(66, "recorders of 192 kHz")
    while left():
        time.sleep(0.05)


def uploads(pulse: str, native: str) -> None:
    """Uploads of samples on 22 connections that stop just before their end."""
    connections = []
    for _ in range(22):
        connection = Connection(pulse)
        connection.sock.settimeout(1)
        connections.append(connection)
        for channel in range(4):
            size = 8 << 20
            connection.ask(
                Command.CREATE_UPLOAD_STREAM, name=f"u{channel}", spec=Spec(S16, 2, 48_000), map=STEREO,
                length=size, props={},
            )  # fmt: skip
        with contextlib.suppress(OSError):
            connection.wait(6)
            for channel in range(4):
                for _ in range(127):
                    if left():
                        connection.wire.send_block(channel, bytes(65_536))
                        connection.push()
                        tally["KiB of unfinished samples"] += 64
    while left():
        time.sleep(0.05)


def fuzz(pulse: str, native: str) -> None:
    """Commands with random bytes changed, each on a new connection."""
    chance = random.Random(2)
    sample = PulseClientSession()
    sample.send_request(Command.AUTH, {"version": PROTOCOL_VERSION, "cookie": bytes(COOKIE_BYTES)})
    hello = sample.data_to_send()
    while left() and tally.total() < 50_000:
        for command in (Command.GET_SERVER_INFO, Command.GET_SINK_INFO_LIST, Command.STAT):
            sample.send_request(command, {})
        fields = playback_fields(Spec(S16, 2, 44_100), STEREO)
        sample.send_request(Command.CREATE_PLAYBACK_STREAM, fields)
        data = bytearray(sample.data_to_send() * 20)
        for _ in range(chance.randrange(1, 8)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(1)
            sock.connect(pulse)
            sock.sendall(hello + data)
        tally["connections with malformed messages"] += 1


def connections(pulse: str, native: str) -> None:
    """Connections made 200 at a time and dropped together."""
    while left() and tally.total() < 50_000:
        held = []
        for _ in range(200):
            sock = socket.socket(socket.AF_UNIX)
            sock.setblocking(False)
            held.append(sock)
            try:
                sock.connect(pulse)
            except OSError:
                time.sleep(0.001)
            else:
                tally["connections"] += 1
        for sock in held:
            sock.close()


def properties(pulse: str, native: str) -> None:
    """Properties of 30 kB, set on 100 streams again and again, while 100 clients are subscribed to changes."""
    watching = [Connection(pulse) for _ in range(100)]
    for other in watching:
        other.ask(Command.SUBSCRIBE, mask=0x2FF)
        other.push()
    connection = Connection(pulse)
    for _ in range(100):
        connection.ask(Command.CREATE_PLAYBACK_STREAM, **playback_fields(Spec(S16, 2, 48_000), STEREO))
    connection.wait(102)
    large = {f"p{n}": bytes(1000) for n in range(30)}
    while left() and tally.total() < 100_000:
        for channel in range(100):
            connection.ask(Command.UPDATE_PLAYBACK_STREAM_PROPLIST, channel=channel, mode=2, props=large)
            connection.wait(1, "property lists of 30 kB")
        for other in watching:
            other.drop()


def sinks(pulse: str, native: str) -> None:
    """Thousands of sinks, created up to the limit and removed again, with 250 streams moved from one to the next."""
    connection = Connection(pulse)
    for _ in range(250):
        connection.ask(Command.CREATE_PLAYBACK_STREAM, **playback_fields(Spec(S16, 2, 48_000), STEREO, prebuf=0))
    connection.wait(252)
    while left():
        made = []
        for _ in range(100):
            connection.ask(Command.LOAD_MODULE, name="module-null-sink", argument="")
            connection.wait(1, "commands about sinks")
            if connection.last is not None and "index" in connection.last.fields:
                made.append(connection.last.fields["index"])
            if not left():
                break
        for name in ("null", "null.2", "millrace"):
            connection.ask(Command.SET_DEFAULT_SINK, name=name)
        for index in made:
            connection.ask(Command.UNLOAD_MODULE, index=index)
        connection.wait(3 + len(made), "commands about sinks")


def lists(pulse: str, native: str) -> None:
    """Lists of 2,000 streams and of everything else, requested continuously on 50 connections."""
    owners = []
    for _ in range(8):
        connection = Connection(pulse)
        owners.append(connection)
        for _ in range(250):
            # With the usual two seconds of buffer each, a third of them would use up the guest's memory.
            fields = playback_fields(Spec(S16, 2, 48_000), STEREO, tlength=8820, corked=True)
            connection.ask(Command.CREATE_PLAYBACK_STREAM, **fields)
        connection.wait(252, "streams in a list")
    asking = [Connection(pulse) for _ in range(50)]
    every = (Command.GET_SINK_INPUT_INFO_LIST, Command.GET_CLIENT_INFO_LIST, Command.GET_SINK_INFO_LIST)
    while left():
        for connection in asking:
            connection.sock.setblocking(False)
            for command in every:
                connection.ask(command)
            with contextlib.suppress(OSError):
                connection.push()
                tally["lists asked for"] += len(every)
            with contextlib.suppress(OSError):
                connection.drop()
        time.sleep(0.01)


def calls(pulse: str, native: str) -> None:
    """The whole state, requested and watched continuously over the native protocol on 50 connections."""
    connections = []
    for _ in range(50):
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(native)
        sock.sendall(frame(Hello(1, "worst")) + frame(Call(1, "watch", {})))
        sock.setblocking(False)
        connections.append(sock)
    asked = b"".join(frame(Call(n, "state", {})) for n in range(2, 102))
    while left() and connections:
        for sock in list(connections):
            try:
                tally["calls for the state"] += 100 * sock.send(asked) // len(asked)
            except BlockingIOError:
                pass
            except OSError:
                connections.remove(sock)
                tally["connections cut off"] += 1
                continue
            with contextlib.suppress(OSError):
                while sock.recv(1 << 18):
                    pass
        time.sleep(0.01)


def web(pulse: str, native: str) -> None:
    """Empty messages on 20 WebSockets of listeners and of watchers, and requests for the state on 10 connections."""
    host, _, port = os.environ["ATTACK"].partition(":")
    head = f"Host: {host}:{port}\r\nAuthorization: Bearer {os.environ['ATTACK_TOKEN']}\r\n"
    empty = b"\x81\x80\0\0\0\0" * 4_000
    asked = f"GET /api/v1/state HTTP/1.1\r\n{head}\r\n".encode() * 20
    connections: dict[socket.socket, bytes] = {}

    def connect(number: int) -> None:
        path = "/worst" if number % 2 else "/api/v1/events"
        sock = socket.create_connection((host, int(port)))
        if number < 20:
            sock.sendall(f"GET {path} HTTP/1.1\r\n{head}{UPGRADE}\r\n".encode())
        sock.setblocking(False)
        connections[sock] = empty if number < 20 else asked

    for number in range(30):
        connect(number)
    while left():
        for sock, data in list(connections.items()):
            with contextlib.suppress(BlockingIOError):
                try:
                    sent = sock.send(data)
                    tally["messages by WebSocket" if data is empty else "bytes of HTTP requests"] += (
                        sent // 6 if data is empty else sent
                    )
                    while sock.recv(1 << 18):
                        pass
                except BlockingIOError:
                    continue
                except OSError:
                    sock.close()
                    del connections[sock]
                    tally["connections cut off"] += 1
                    connect(0 if data is empty else 20)
        time.sleep(0.002)


def bitrates(pulse: str, native: str) -> None:
    """120 listeners to noise, each at a different bitrate and Opus's highest complexity: 120 encoders."""
    connection = Connection(pulse)
    connection.ask(Command.CREATE_PLAYBACK_STREAM, **playback_fields(Spec(S16, 2, 48_000), STEREO, prebuf=0))
    connection.wait(3)
    noise = random.Random(3).randbytes(192_000)
    host, _, port = os.environ["ATTACK"].partition(":")
    head = f"Host: {host}:{port}\r\nAuthorization: Bearer {os.environ['ATTACK_TOKEN']}\r\n{UPGRADE}\r\n"
    listeners = []
    for number in range(120):
        sock = socket.create_connection((host, int(port)))
        settings = {"codec": "opus", "bitrate": str(64_000 + 500 * number), "complexity": "10", "frame": "20ms"}
        hello = json.dumps({"type": "hello", "version": 1, "name": f"b{number}", "settings": settings}).encode()
        sock.sendall(
            f"GET /worst HTTP/1.1\r\n{head}".encode() + b"\x81\xfe" + struct.pack(">HI", len(hello), 0) + hello
        )
        sock.setblocking(False)
        listeners.append(sock)
    while left():
        connection.wire.send_block(0, noise)
        connection.push()
        connection.drop()
        for sock in select.select(listeners, [], [], 0)[0]:
            if not sock.recv(1 << 18):
                listeners.remove(sock)
        tally["listeners at once"] = len(listeners)
        time.sleep(0.9)


KINDS: dict[str, Callable[[str, str], None]] = {
    run.__name__: run
    for run in (
        streams,
        resampled,
        recorders,
        uploads,
        fuzz,
        connections,
        properties,
        sinks,
        lists,
        bitrates,
        calls,
        web,
    )
}
FLOODS = ("fuzz", "connections", "lists", "calls", "web")
"""These start when the others have what they want: beside them, the guest's other programs would get little."""


def main() -> None:
    """Entry point."""
    global ends_s
    kind, pulse, native, seconds = sys.argv[1:]
    ends_s = time.monotonic() + float(seconds)
    while left():
        # A program that is disconnected, or refused because the rest of the guest has used everything up, tries again.
        with contextlib.suppress(OSError):
            KINDS[kind](pulse, native)
            break
        tally["beginnings anew"] += 1
        time.sleep(0.2)
    del tally[""]
    print(", ".join(f"{count} {what}" for what, count in tally.items()), flush=True)


def kinds() -> Iterator[str]:
    """Run them all."""
    yield from KINDS


if __name__ == "__main__":
    main()
