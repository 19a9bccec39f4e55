"""Requests that no browser makes: each is answered with a 4xx and a sentence, and nothing is forged in the log."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from millrace.server.http import assets as page
from tests.bus import daemon_in

TOKEN = "a-token-of-some-length"
KNOWN = f"Authorization: Bearer {TOKEN}\r\n".encode()
UPGRADE = b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
KEY = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"


def request(line: bytes, *headers: bytes, body: bytes = b"") -> bytes:
    size = b"Content-Length: %d\r\n" % len(body) if body else b""
    host = b"" if any(header.startswith(b"Host:") for header in headers) else b"Host: localhost\r\n"
    return line + b" HTTP/1.1\r\n" + host + b"".join(headers) + size + b"Connection: close\r\n\r\n" + body


def post(body: bytes) -> bytes:
    return request(b"POST /api/v1/set", KNOWN, body=body)


ODD = {
    "host that is no address": request(b"GET /api/v1/state", b"Host: [::1\r\n", KNOWN),
    "host that is not text": request(b"GET /api/v1/state", b"Host: \xff\xfe\r\n", KNOWN),
    "origin that is no address": request(b"GET /api/v1/state", b"Origin: http://[\r\n", KNOWN),
    "origin with a port beyond": request(b"GET /api/v1/state", b"Origin: http://localhost:99999999\r\n", KNOWN),
    "two origins": request(b"GET /api/v1/state", b"Origin: http://localhost\r\nOrigin: null\r\n", KNOWN),
    "header that is not text": request(b"GET /api/v1/state", b"X-Odd: \xc3\x28\r\n", KNOWN),
    "token that is not text": request(b"GET /api/v1/state", b"Authorization: Bearer \xff\xff\r\n"),
    "cookie that is not text": request(b"GET /api/v1/state", b"Cookie: millrace=\xff\xff\r\n"),
    "handshake that is not text": request(b"GET /alice", KNOWN, UPGRADE, b"Sec-WebSocket-Key: \xc3\xa9\r\n"),
    "handshake with another version": request(b"GET /alice", KNOWN, UPGRADE.replace(b"13", b"99"), KEY),
    "handshake with a tab": request(b"GET /alice", KNOWN, UPGRADE.replace(b"n: U", b"n: U\t"), KEY),
    "upgrade that is not text": request(b"GET /alice", KNOWN, b"Upgrade: \xff\r\nConnection: Upgrade\r\n"),
    "body that is not text": post(b'{"target": "\xff\xfe"}'),
    "lone surrogate": post(b'{"target": "\\ud800", "settings": {}}'),
    "deep body": post(b"[" * 10_000),
    "deep object": post(b'{"target":' * 10_000),
    "huge number": post(b'{"target": ' + b"9" * 5_000 + b"}"),
    "number of another script": post('{"target": "sink/²", "settings": {"volume": "١٢"}}'.encode()),
    "body that is not packed as it says": request(
        b"POST /api/v1/set", KNOWN, b"Content-Encoding: gzip\r\n", body=b'{"target": 1}'
    ),
    "body beyond the size": post(b"x" * 70_000),
    "argument that is misspelt": post(b'{"target": "sink/1", "settings": {}, "guset": "alice"}'),
    "token for a guest by another word": request(
        b"POST /api/v1/tokens", KNOWN, body=b'{"may": "see", "guest": ["alice"]}'
    ),
    "query that is misspelt": request(b"GET /api/v1/state?gust=alice", KNOWN),
    "watcher of what is not there": request(b"GET /api/v1/events?kinds=strem", KNOWN, UPGRADE, KEY),
    "path with escapes": request(b"GET /%1b[2J%0aforged%0d%00", KNOWN),
    "long path": request(b"GET /" + b"a/" * 3_000, KNOWN),
    "path beyond the size": request(b"GET /" + b"a" * 9_000, KNOWN),
    "path that is not text": request(b"GET /%ff%fe", KNOWN),
    "query that is not text": request(b"GET /api/v1/explain?target=%ff%fe", KNOWN),
    "method with escapes": b"G\x1b[2JT / HTTP/1.1\r\nHost: x\r\n\r\n",
    "no HTTP at all": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
}


@pytest.mark.parametrize("odd", ODD, ids=str)
def test_malformed_request_is_refused_with_a_reason(tmp_path: Path, caplog: pytest.LogCaptureFixture, odd: str) -> None:
    async def main() -> bytes:
        async with daemon_in(tmp_path, token=TOKEN) as daemon:
            host, _, port = daemon.serving.address.rpartition(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(ODD[odd])
            answer = await reader.read(100_000)
            writer.close()
            return answer

    with caplog.at_level(logging.DEBUG):
        answer = asyncio.run(main())
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head[9:10] == b"4", head[:200]
    assert body.strip() and len(body) < 4_000
    assert all(line.isprintable() for line in body.decode().splitlines()), body
    for record in caplog.records:
        shown = logging.Formatter().format(record)
        assert record.exc_info is None and shown.isprintable(), shown


def test_unread_body_causes_no_traceback(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> bytes:
        async with daemon_in(tmp_path) as daemon:
            host, _, port = daemon.serving.address.rpartition(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            head = b"GET /health HTTP/1.1\r\nHost: localhost\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n"
            writer.write(head + b"{}")
            answer = await reader.read(100_000)
            await reader.read()
            writer.close()
            return answer

    with caplog.at_level(logging.DEBUG):
        answer = asyncio.run(main())
    assert answer.startswith(b"HTTP/1.1 200 ")
    said = [record for record in caplog.records if record.name == "millrace.http"]
    assert any("can't be read" in record.getMessage() for record in said)
    for record in said:
        assert record.exc_info is None and record.levelno <= logging.INFO


def test_unknown_names_read_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    take = page._read
    monkeypatch.setattr(page, "_kept", {})
    monkeypatch.setattr(page, "_read", lambda name: read.append(name) or take(name))

    async def ask(name: str) -> bool:
        return await page._file(name) is not None

    async def main() -> None:
        for turn in range(3):
            assert await ask("app.js") and await ask("opus-decoder.min.js")
            for number in range(100):
                assert not await ask(f"{turn}-{number}.js")
        for name in ("", ".", "..", "../config.py", "__init__.py", "zstd-decoder.LICENSE.txt", "app.js/"):
            assert not await ask(name)

    asyncio.run(main())
    assert sorted(read) == ["app.js", "opus-decoder.min.js"]
