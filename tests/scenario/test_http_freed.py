"""What an HTTP connection made is freed by reference counting, however it ends.

Full collections of cyclic garbage are rare (daemon/collector.py), so whatever a client can leave in a cycle is memory
that it makes the daemon hold for a day, and that nobody is charged for.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import socket
import struct
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop
from aiohttp import web
from aiohttp.streams import StreamReader

from millrace.daemon.app import Daemon
from millrace.guest.listener import ListenerSession
from millrace.guest.viewer import ViewerSession
from millrace.io.metered import Metered
from millrace.server.http.connection import HttpConnection
from millrace.server.http.events import EventStream
from millrace.wire.peer.messages import Hello, encode_message
from tests import bus
from tests.fuzz.attackers import masked

TOKEN = "a-token-of-some-length"
KNOWN = f"Authorization: Bearer {TOKEN}\r\n"
MASK = b"abcd"
SESSIONS = (ListenerSession, ViewerSession, EventStream)
MADE = (web.BaseRequest, StreamReader, HttpConnection, Metered, web.WebSocketResponse, *SESSIONS)
ROUNDS = 3
SOON = 60


def request(line: str, *headers: str, body: bytes = b"") -> bytes:
    return "".join(f"{one}\r\n" for one in (f"{line} HTTP/1.1", "Host: localhost", *headers)).encode() + b"\r\n" + body


def post(path: str, *headers: str, body: bytes = b"") -> bytes:
    return request(f"POST {path}", *headers, body=body)


def upgraded(path: str, *headers: str, version: int = 13) -> bytes:
    """A request for a WebSocket."""
    key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
    own = ("Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Version: {version}", key)
    return request(f"GET {path}", *own, *headers)


AUTH, SIZE, CHUNKED = KNOWN.strip(), "Content-Length: 60000", "Transfer-Encoding: chunked"
BODY = b"x" * 50_000
HELLO, CLOSE = masked(MASK, encode_message(Hello()).encode()), b"\x88\x80" + MASK
SENT: dict[str, list[bytes]] = {
    "nothing": [],
    "half a request": [b"GET / HTTP/1.1\r\nHo"],
    "no request": [b"\x16\x03\x01 nonsense\r\n\r\n"],
    "a page": [request("GET /")],
    "no such page": [request("GET /page/none")],
    "health": [request("GET /health")],
    "no such command": [request("GET /api/v1/none", AUTH)],
    "a bad Host": [b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n"],
    "a stranger's": [request("GET /api/v1/state")],
    "a stranger's, with a body": [post("/api/v1/set", SIZE, body=BODY)],
    "a stranger's, with a broken body": [post("/api/v1/set", CHUNKED, body=b"4\r\nabcd\r\n"), b"zz\r\n"],
    "state": [request("GET /api/v1/state", AUTH)],
    "states": [request("GET /api/v1/openapi.json", AUTH) * 10],
    "metrics": [request("GET /metrics", AUTH)],
    "a command": [post("/api/v1/set", AUTH, "Content-Length: 2", body=b"{}")],
    "a command's half": [post("/api/v1/set", AUTH, SIZE, body=BODY)],
    "a command's half, later": [post("/api/v1/set", AUTH, SIZE, body=b"{"), BODY],
    "a command's broken body": [post("/api/v1/set", AUTH, CHUNKED, body=b"4\r\nabcd\r\n"), b"zz\r\n"],
    "a session": [post("/session", AUTH)],
    "a session's half": [post("/session", SIZE, body=BODY)],
    "a sign-out's half": [request("DELETE /session", AUTH, SIZE, body=BODY)],
    "an expectation": [post("/api/v1/set", AUTH, SIZE, "Expect: nonsense", body=BODY)],
    "a continuation": [post("/api/v1/set", AUTH, SIZE, "Expect: 100-continue")],
    "a listener": [upgraded("/alice", AUTH), HELLO],
    "a silent listener": [upgraded("/alice", AUTH)],
    "a stranger's listener": [upgraded("/alice")],
    "a listener of none": [upgraded("/none", AUTH)],
    "a listener of another version": [upgraded("/alice", AUTH, version=7)],
    "a listener with nonsense": [upgraded("/alice", AUTH), masked(MASK, b'{"type":"nonsense"')],
    "a listener with no frame": [upgraded("/alice", AUTH), HELLO, b"\x83\x80" + MASK],
    "a listener that closes": [upgraded("/alice", AUTH), HELLO, CLOSE],
    "a listener that leaves": [upgraded("/alice", AUTH), HELLO, masked(MASK, b'{"type":"bye"}')],
    "a viewer": [upgraded("/alice/screen", AUTH), masked(MASK, b'{"type":"hello","version":1}')],
    "a silent viewer": [upgraded("/alice/screen", AUTH)],
    "a viewer with nonsense": [upgraded("/alice/screen", AUTH), masked(MASK, b"nonsense")],
    "a viewer with no frame": [upgraded("/alice/screen", AUTH), b"\x83\x80" + MASK],
    "a watcher": [upgraded("/api/v1/events", AUTH)],
    "a watcher with a ping": [upgraded("/api/v1/events", AUTH), b"\x89\x80" + MASK],
    "a watcher with nonsense": [upgraded("/api/v1/events", AUTH), masked(MASK, b"nonsense")],
    "a watcher with no frame": [upgraded("/api/v1/events", AUTH), b"\x83\x80" + MASK],
    "a watcher that closes": [upgraded("/api/v1/events", AUTH), CLOSE],
    "a watcher without a handshake": [request("GET /api/v1/events", AUTH)],
    "a wall": [upgraded("/api/v1/thumbnails", AUTH), masked(MASK, b'{"show":["alice","none"]}')],
    "a wall with nonsense": [upgraded("/api/v1/thumbnails", AUTH), masked(MASK, b"nonsense")],
    "a wall with no frame": [upgraded("/api/v1/thumbnails", AUTH), b"\x83\x80" + MASK],
    "a wall that closes": [upgraded("/api/v1/thumbnails", AUTH), masked(MASK, b'{"show":["alice"]}'), CLOSE],
    "a wall without a handshake": [request("GET /api/v1/thumbnails", AUTH)],
    "a desktop to embed": [request("GET /page/embed.html")],
}


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


async def read(sock: socket.socket) -> None:
    """Read until the daemon closes, or sends nothing more."""
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(0.05):
            while await asyncio.get_running_loop().sock_recv(sock, 65_536):
                pass


async def half_closed(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_WR)
    await read(sock)
    sock.close()


ENDS: dict[str, Callable[[socket.socket], Coroutine[Any, Any, None] | None]] = {
    "reset": reset, "closed": socket.socket.close, "half-closed": half_closed,
}  # fmt: skip


async def visit(daemon: Daemon, sent: list[bytes], end: str) -> None:
    """One connection."""
    loop, (host, _, port) = asyncio.get_running_loop(), daemon.serving.address.rpartition(":")
    sock = socket.socket()
    sock.setblocking(False)
    await loop.sock_connect(sock, (host, int(port)))
    with contextlib.suppress(OSError):
        for part in sent:
            await loop.sock_sendall(sock, part)
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.01)
    if (ended := ENDS[end](sock)) is not None:
        await ended


def left() -> Counter[str]:
    return Counter(type(one).__name__ for one in gc.get_objects() if isinstance(one, MADE))


async def leaves(daemon: Daemon, sent: list[list[bytes]], end: str, before: Counter[str]) -> Counter[str]:
    """Visit the daemon; returns what it holds besides `before` when there has been time enough to free everything."""
    await asyncio.gather(*(visit(daemon, one, end) for one in sent))
    found = left() - before
    for _ in range(SOON):
        if not found:
            break
        await asyncio.sleep(0.05)
        found = left() - before
    return found


@pytest.mark.parametrize(
    ("end", "loop"),
    [*((end, uvloop.new_event_loop) for end in ENDS), ("reset", asyncio.new_event_loop)],
    ids=[*ENDS, "reset-asyncio"],
)
def test_no_http_connection_leaves_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    monkeypatch.setattr("millrace.server.http.api.BODY_S", 0.1)
    monkeypatch.setattr("millrace.daemon.serving.LINGER_S", 0.1)
    stayed: dict[str, Counter[str]] = {}

    async def test(daemon: Daemon) -> None:
        # What is frozen is not looked at: `left` has little to search, and what the first visits load does not count.
        await asyncio.gather(*(visit(daemon, sent, end) for sent in SENT.values()))
        await asyncio.sleep(0.5)
        gc.collect()
        gc.freeze()
        before = left()
        if not await leaves(daemon, [*SENT.values()] * ROUNDS, end, before):
            return
        for what, sent in SENT.items():
            if found := await leaves(daemon, [sent] * ROUNDS, end, before := left()):
                stayed[what] = found

    def run(main: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=loop) as runner:
            runner.run(main)

    # A record that pytest keeps would keep the error that it tells of.
    logging.disable()
    gc.disable()
    try:
        bus.running(tmp_path, test, run, token=TOKEN)
    finally:
        gc.enable()
        gc.unfreeze()
        logging.disable(logging.NOTSET)
    assert not stayed, "\n".join(f"{what}: {dict(found)}" for what, found in stayed.items())
