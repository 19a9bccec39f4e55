"""A listener against a bad server: it plays what it can, and otherwise says what is wrong."""

from __future__ import annotations

import asyncio
import json
import random
import wave
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiohttp import web

from millrace.backends.wav import WavOutput
from millrace.client import endpoint
from millrace.client.blame import Blame
from millrace.client.listener import Listener, ListenerOptions
from millrace.client.notices import NoticeLimiter
from millrace.codec.opus import OpusEncoder
from millrace.codec.settings import CodecSettings
from millrace.errors import MillraceError, PeerLost, RemoteProtocolError
from millrace.server.http import assets as page
from millrace.sim.signals import sine
from millrace.text import SHOWN_MAX
from millrace.units import NS_PER_MS
from millrace.wire.peer.keepalive import ANSWERS_MAX, HELLO_MAX_NS
from millrace.wire.peer.messages import Hello, Ping, encode_message, pack_media
from millrace.wire.peer.session import PeerClient
from tests import virtual

Speak = Callable[[web.WebSocketResponse], Awaitable[None]]
WELCOME = {"type": "welcome", "listener": 1, "guest": "g", "sink": "s", "settings": {}}
BYE = {"type": "bye", "reason": "done", "again": False}


def stream(**changes: Any) -> dict[str, Any]:
    """A `format` message."""
    fmt: dict[str, Any] = {"generation": 1, "codec": "opus", "rate": 48_000, "positions": ["front-left", "front-right"]}
    return {"type": "format", "format": fmt | changes}


def packets(payloads: list[bytes], frames: int = 960, step: int = 960) -> list[bytes]:
    """Consecutive media packets; positions advance by `step`."""
    return [
        pack_media(1, frames, n, n * step, n * step * 1_000_000 // 48, payload) for n, payload in enumerate(payloads)
    ]


@asynccontextmanager
async def serving(speak: Speak, port: int = 0) -> AsyncIterator[str]:
    """A server that upgrades, runs `speak`, and closes. It serves the page's files too: a page connects only to its
    own origin."""

    async def upgrade(request: web.Request) -> web.WebSocketResponse:
        line = web.WebSocketResponse()
        await line.prepare(request)
        await speak(line)
        await line.close()
        return line

    async def no_picture(request: web.Request) -> web.Response:
        return web.Response(status=204)

    app = web.Application()
    app.add_routes([web.get("/g", upgrade), web.get("/page/{name}", page.serve), web.get("/favicon.ico", no_picture)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield f"ws://127.0.0.1:{runner.addresses[0][1]}/g"
    finally:
        await runner.cleanup()


def heard(script: list[Any], path: Path) -> Listener:
    """Run a listener to a WAV against a server that sends `script`, then bye."""

    async def speak(line: web.WebSocketResponse) -> None:
        for item in [WELCOME, *script, BYE]:
            if isinstance(item, bytes):
                await line.send_bytes(item)
            else:
                await line.send_str(item if isinstance(item, str) else json.dumps(item))

    async def main() -> Listener:
        async with serving(speak) as url:
            listener = Listener(url, WavOutput(path), ListenerOptions(reconnect=False))
            async with asyncio.timeout(20):
                await listener.run()
            return listener

    return virtual.run(main())


def opus(count: int) -> list[bytes]:
    encoder = OpusEncoder(2, CodecSettings())
    sound = sine(0.02 * count, channels=2)
    return [encoder.encode(sound[n * 960 : (n + 1) * 960]) for n in range(count)]


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ([stream(rate=0)], "at 0 Hz"),
        ([stream(rate=-1)], ">= 0"),
        ([stream(rate=2**31)], "2147483648 Hz"),
        ([stream(rate=10**400)], "not understood"),
        ([stream(codec="s16", rate=384_000, positions=["mono"] * 32)], "more than can be played"),
        ([stream(positions=[])], "0 channels"),
        ([stream(positions=["mono"] * 33)], "length <= 32"),
        ([stream(positions=["mono"] * 3, streams=255, mapping=[0, 1, 2])], "255 streams"),
        ([stream(positions=["mono"] * 3, streams=1, coupled=1, mapping=[0, 1, 2])], "3 channels from 1 streams"),
        ([stream(positions=["mono"] * 3, streams=2, coupled=1, mapping=[0, 1, 256])], "<= 255"),
        ([stream(codec="mp3\x1b[2J")], "'mp3"),
        ([stream(lookahead=2**40)], "look-ahead of"),
        ([stream(order=[0, 0])], "permutation"),
        ([stream(), *[stream(generation=n) for n in range(200)]], "too often"),
        (['{"type":"welcome","x":' + "[" * 60_000], "nested too deeply"),
        (["{" * 70_000], "70000 characters"),
        (['{"type":"silence","position":"\\ud800"}'], "not understood"),
        ([b"\1"], "1 bytes"),
        ([{"type": "error", "code": "x", "message": "no more", "fatal": True}], "no more"),
        ([{"type": "pong", "t": 2**62, "now": 0}], "no such ping"),
    ],
)
def test_unplayable_stream_ends_listener_with_a_sentence(tmp_path: Path, script: list[Any], says: str) -> None:
    with pytest.raises(RemoteProtocolError) as raised:
        heard(script, tmp_path / "out.wav")
    assert says in str(raised.value)
    assert "\x1b" not in str(raised.value)


def test_damaged_opus_costs_its_own_packets_only(tmp_path: Path) -> None:
    rng = random.Random(1)
    good = opus(100)
    sent = [rng.randbytes(rng.randrange(1, 200)) if n % 5 == 2 else payload for n, payload in enumerate(good)]
    sent[50] = b""
    listener = heard([stream(), *packets(sent)], tmp_path / "out.wav")
    assert listener.played_s == pytest.approx(2.0, abs=0.1)
    assert 10 <= listener.report().lost <= 21


def test_packets_of_impossible_length_are_skipped(tmp_path: Path) -> None:
    script = [stream(codec="s16"), *packets([b"\1\0" * 1920] * 20)]
    frame = b"\1\0" * 2
    script[5:5] = [
        pack_media(1, 960, 4, 3840, 0, b"\1"),
        pack_media(1, 0, 4, 3840, 0, b""),
        pack_media(1, 65_535, 4, 3840, 0, frame * 65_535),
        pack_media(1, 960, 4, 2**64 - 1, 2**64 - 1, frame * 960),
    ]
    assert heard(script, tmp_path / "out.wav").played_s == pytest.approx(0.4, abs=0.001)


def test_silence_in_file_counts_as_played(tmp_path: Path) -> None:
    script = [stream(codec="s16"), *packets([b"\1\0" * 1920] * 3, step=9600)]
    assert heard(script, tmp_path / "out.wav").played_s == pytest.approx((2 * 9600 + 960) / 48_000)


def test_time_without_a_server_is_silence_in_the_file_and_nobodys_lateness(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second server counts from other positions."""
    apart: list[Blame] = []
    monkeypatch.setattr(Blame, "apart", lambda blame: apart.append(blame))
    payload, lines = b"\1\0" * 1920, list[web.WebSocketResponse]()

    async def speak(line: web.WebSocketResponse) -> None:
        lines.append(line)
        first = len(lines) == 1
        await line.send_str(json.dumps(WELCOME))
        await line.send_str(json.dumps(stream(codec="s16")))
        await asyncio.sleep(1)
        for packet in packets([payload] * 3)[:2] if first else packets([payload]):
            await line.send_bytes(packet)
        await asyncio.sleep(1)
        if not first:
            await line.send_str(json.dumps(BYE))

    async def main() -> float:
        async with serving(speak) as url:
            listener = Listener(url, WavOutput(tmp_path / "out.wav"), ListenerOptions())
            began = asyncio.get_running_loop().time()
            async with asyncio.timeout(60):
                await listener.run()
            assert listener.connections == 2
            return asyncio.get_running_loop().time() - began

    took_s = virtual.run(main())
    with wave.open(str(tmp_path / "out.wav")) as file:
        sound = np.frombuffer(file.readframes(file.getnframes()), "<i2")[::2]
    assert len(sound) / 48_000 == pytest.approx(took_s, abs=0.1) and took_s > 4
    loud = np.flatnonzero(sound)
    assert len(loud) == 3 * 960 and loud[0] / 48_000 == pytest.approx(1, abs=0.1)
    assert (len(sound) - loud[-1]) / 48_000 == pytest.approx(1, abs=0.1)
    assert len(apart) == 2


@pytest.mark.parametrize("absent_s", [0.05, 0.7, 13.0])
def test_listener_is_back_within_a_second_of_the_servers_return(absent_s: float, tmp_path: Path) -> None:
    async def main() -> float:
        loop, arrivals = asyncio.get_running_loop(), asyncio.Queue[float]()

        async def speak(line: web.WebSocketResponse) -> None:
            arrivals.put_nowait(loop.time())
            await line.send_str(json.dumps(WELCOME))
            await line.receive()
            await line.receive()

        async with asyncio.timeout(60):
            async with serving(speak) as url:
                listener = Listener(url, WavOutput(tmp_path / "out.wav"), ListenerOptions())
                task = asyncio.create_task(listener.run())
                await arrivals.get()
            await asyncio.sleep(absent_s)
            returned_at = loop.time()
            async with serving(speak, int(url.split(":")[2].split("/")[0])):
                back_at = await arrivals.get()
                listener.stop()
                await task
        return back_at - returned_at

    assert virtual.run(main()) < 1


def test_position_jumps_do_not_fill_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "out.wav"
    script = [stream(), *packets(opus(400), step=48_000 * 59)]
    heard(script, path)
    assert path.stat().st_size < 62 * 48_000 * 4


def test_sound_faster_than_real_time_does_not_fill_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "out.wav"
    # A one-byte Opus packet is 60 ms of silence.
    heard([stream(), *packets([b"\xf8"] * 20_000, frames=960)], path)
    assert path.stat().st_size < 62 * 48_000 * 4


def test_server_without_welcome_times_out() -> None:
    wire = PeerClient(Hello(), 0)
    for n in range(HELLO_MAX_NS // (100 * NS_PER_MS)):
        wire.receive(encode_message(Ping(n)), n * 100 * NS_PER_MS)
        wire.handle_timeout(n * 100 * NS_PER_MS)
    with pytest.raises(PeerLost, match="no welcome"):
        wire.handle_timeout(HELLO_MAX_NS)


def test_random_messages_are_survived_or_refused(tmp_path: Path) -> None:
    rng = random.Random(7)
    good = [stream(), *packets(opus(10))]
    for n in range(60):
        script: list[Any] = []
        for item in good:
            raw = bytearray(item if isinstance(item, bytes) else json.dumps(item).encode())
            for _ in range(rng.randrange(3)):
                raw[rng.randrange(len(raw))] = rng.randrange(256)
            script.append(bytes(raw) if isinstance(item, bytes) else raw.decode("latin-1"))
        try:
            heard(script, tmp_path / f"{n}.wav")
        except MillraceError as error:
            assert str(error)


@pytest.mark.parametrize("nonsense", [False, True])
def test_server_sending_after_close_does_not_block_listener(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nonsense: bool
) -> None:
    monkeypatch.setattr(endpoint, "CLOSE_S", 0.2)

    async def main() -> None:
        gone = asyncio.Event()

        async def speak(line: web.WebSocketResponse) -> None:
            for item in (WELCOME, stream(), *([{"type": "nonsense"}] if nonsense else [])):
                await line.send_str(json.dumps(item))
            # The server does not read, so it does not see the Close.
            while not gone.is_set():
                await line.send_bytes(packets(opus(1))[0])
                await asyncio.sleep(0.02)

        async with serving(speak) as url:
            listener = Listener(url, WavOutput(tmp_path / "out.wav"), ListenerOptions(reconnect=False))
            asyncio.get_running_loop().call_later(0.3, listener.stop)
            try:
                async with asyncio.timeout(10):
                    await listener.run()
            except RemoteProtocolError:
                assert nonsense
            finally:
                gone.set()

    asyncio.run(main())


def test_pings_without_reading_do_not_fill_memory() -> None:
    wire = PeerClient(Hello(), 0)
    for n in range(1000):
        wire.receive(encode_message(Ping(n)), 0)
    assert len(wire.data_to_send()) <= ANSWERS_MAX


def test_endless_messages_do_not_fill_the_log() -> None:
    told: list[str] = []
    said = NoticeLimiter()
    for _ in range(1000):
        said(lambda kind, text: told.append(text), "error", "x" * 60_000)
    assert 0 < len(told) < 200
    assert max(map(len, told)) < 1000


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("error", {"type": "error", "code": "limit", "message": "x" * 60_000, "fatal": False}),
        ("settings", {"type": "settings", "settings": {"bitrate": "y" * 60_000}}),
        ("error", {"type": "settings", "settings": {"latency": "z" * 60_000}}),
    ],
)
def test_listener_repeats_server_texts_a_limited_number_of_times(
    kind: str, message: dict[str, Any], tmp_path: Path
) -> None:
    told: list[tuple[str, str]] = []

    async def main() -> None:
        async def speak(line: web.WebSocketResponse) -> None:
            for item in (WELCOME, stream(), *[message] * 300, BYE):
                await line.send_str(json.dumps(item))

        async with serving(speak) as url, asyncio.timeout(20):
            once = ListenerOptions(reconnect=False)
            await Listener(url, WavOutput(tmp_path / "w.wav"), once, lambda *event: told.append(event)).run()

    asyncio.run(main())
    texts = [text for what, text in told if what == kind]
    assert 0 < len(texts) < 290 and max(map(len, texts)) <= SHOWN_MAX


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirect_is_not_followed(status: int, tmp_path: Path) -> None:
    """A redirect could lead from wss:// to a server without TLS, and to any host, with the token."""
    asked: list[str] = []

    async def elsewhere(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.Response(status=status, headers={"Location": f"http://127.0.0.1:{request.url.port}/other"})

    async def main() -> None:
        app = web.Application()
        app.add_routes([web.get("/{name}", elsewhere)])
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"ws://127.0.0.1:{runner.addresses[0][1]}/g"
        listener = Listener(url, WavOutput(tmp_path / "w.wav"), ListenerOptions(token="mr_x"))
        try:
            async with asyncio.timeout(20):
                with pytest.raises(
                    RemoteProtocolError, match=r"redirects listeners to 'http://.*/other.*use that address"
                ):
                    await listener.run()
        finally:
            await runner.cleanup()

    asyncio.run(main())
    assert asked == ["/g"]


def test_listener_ended_for_good_is_told_why(tmp_path: Path) -> None:
    """As when a token expires or is revoked: without a reason it would look like the end of the sound."""
    told: list[tuple[str, str]] = []

    async def speak(line: web.WebSocketResponse) -> None:
        for item in [
            WELCOME,
            *[{"type": "error", "code": "settings", "message": "no", "fatal": False}] * 500,
            BYE | {"reason": "expired\x1b[2J"},
        ]:
            await line.send_str(json.dumps(item))

    async def main() -> None:
        async with serving(speak) as url:
            once = ListenerOptions(reconnect=False)
            listener = Listener(url, WavOutput(tmp_path / "out.wav"), once, lambda *event: told.append(event))
            async with asyncio.timeout(20):
                await listener.run()

    asyncio.run(main())
    assert told[-1] == ("ended", r"expired\x1b[2J") and len(told) < 300
