"""The page against a bad server: it refuses what Python's listener refuses, and damage costs only those packets."""

from __future__ import annotations

import asyncio
import base64
import json
import random
from typing import Any

import pytest
from aiohttp import web

from millrace.codec.parameters import checked_parameters, packet_fits
from millrace.errors import RemoteProtocolError
from millrace.wire.peer.messages import FormatChanged, decode_from_daemon, unpack_media
from tests.fuzz import clientseeds
from tests.fuzz.mutate import Mutator
from tests.real.browser import Chromium, Page
from tests.real.conftest import Bus
from tests.real.pages import in_browser
from tests.scenario.test_hostile_server import BYE, WELCOME, opus, packets, serving, stream

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("heavy")]
JUDGE = """import('/page/messages.js').then(({ parseMessage, checkedFormat, parsePacket, Refusal }) => {
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer;
  let format = null;
  return MESSAGES.map(([kind, data]) => {
    try {
      if (kind === "packet") return parsePacket(bytes(data), format) ? "taken" : "lost";
      const message = parseMessage(new TextDecoder().decode(bytes(data)));
      if (message.type === "format") format = checkedFormat(message.format);
      return "taken";
    } catch (error) { return error instanceof Refusal ? "refused" : String(error); }
  });
})"""


def pythons(messages: list[tuple[str, bytes]]) -> list[str]:
    """How Python's listener judges the messages."""
    out: list[str] = []
    fmt = None
    for kind, data in messages:
        try:
            if kind == "packet":
                packet = unpack_media(data)
                own = packet is not None and fmt is not None and packet.generation == fmt.generation & 0xFF
                out.append("taken" if own and packet_fits(packet, fmt) else "lost")
                continue
            message = decode_from_daemon(data.decode("utf-8", "replace"))
            if isinstance(message, FormatChanged):
                fmt = checked_parameters(message.format)
            out.append("taken")
        except RemoteProtocolError:
            out.append("lost" if kind == "packet" else "refused")
    return out


def traffic(seed: int) -> list[tuple[str, bytes]]:
    """A daemon's messages, slightly mutated."""
    mutator = Mutator(seed)
    session = mutator.session(clientseeds.peer_daemon())
    return [("text" if message[:1] in (b"{", b"[", b'"') else "packet", message) for message in session]


@pytest.mark.beside
def test_page_accepts_no_packet_that_python_refuses(chromium: Chromium, bus: Bus) -> None:
    async def test(page: Page) -> None:
        seen: set[str] = set()
        for seed in range(150):
            messages = traffic(seed)
            given = [(kind, base64.b64encode(data).decode()) for kind, data in messages]
            theirs: list[str] = await page.run(JUDGE.replace("MESSAGES", json.dumps(given)))
            ours = pythons(messages)
            assert set(theirs) <= {"taken", "lost", "refused"}, (seed, theirs)
            for (kind, data), our, their in zip(messages, ours, theirs, strict=True):
                # The page only checks the fields that it uses.
                assert kind == "text" or our == their or "refused" in ours, (seed, data[:200], our, their)
            seen |= set(theirs)
        assert seen == {"taken", "lost", "refused"}

    in_browser(chromium, bus, test)


LISTEN = """import('/page/listen.js').then(async ({ Listener }) => {
  const told = globalThis.told = [];
  const made = globalThis.bad = new Listener('URL', { name: 'bad', latency: 'normal', settings: {}, on: (what, detail) => told.push([what, detail]) });
  await made.start();
  return true;
})"""  # noqa: E501


async def opened(page: Page, url: str) -> None:
    """Listen to a server from a page of the server's own origin: a page may connect to no other."""
    await page.open(url.replace("ws:", "http:").replace("/g", "/page/style.css"))
    await page.run(LISTEN.replace("URL", url))


def test_bad_server_ends_in_a_sentence_and_damage_does_not_end(chromium: Chromium, bus: Bus) -> None:
    rng = random.Random(1)
    sent = [rng.randbytes(50) if n % 10 == 5 else payload for n, payload in enumerate(opus(250))]

    async def damaged(websocket: web.WebSocketResponse) -> None:
        for item in (WELCOME, stream()):
            await websocket.send_str(json.dumps(item))
        for packet in packets(sent):
            await websocket.send_bytes(packet)
            await asyncio.sleep(0.018)

    def saying(*script: Any) -> Any:
        async def speak(websocket: web.WebSocketResponse) -> None:
            for item in (WELCOME, *script, BYE):
                await websocket.send_str(item if isinstance(item, str) else json.dumps(item))

        return speak

    async def test(page: Page) -> None:
        for script, words in (
            ([stream(rate=-1)], "at -1 Hz"),
            ([stream(codec="flac")], "can't play"),
            (["[" * 50_000], "does not understand"),
            ([stream(generation=n) for n in range(200)], "too often"),
        ):
            async with serving(saying(*script)) as url:
                await opened(page, url)
                await page.until("told.some(([what]) => what === 'ended')")
                assert words in await page.run("told.find(([what]) => what === 'ended')[1]")
        async with serving(damaged) as url:
            await opened(page, url)
            await page.until("(bad.stats || {}).state === 'playing'")
            await asyncio.sleep(2)
            assert await page.run("bad.stats.state") == "playing"
            assert await page.run("bad.stats.lost") > 0
            assert not [what for what in await page.run("told.map(([what]) => what)") if what in ("ended", "refused")]
        assert not page.errors

    in_browser(chromium, bus, test)


UNREAD = """(async () => {
  const told = [], line = { readyState: 1, bufferedAmount: 0, sent: 0, send(data) { this.sent++; this.bufferedAmount += data.length; }, close() {} };
  Object.assign(globalThis, { WebSocket: Object.assign(function () { return line; }, { OPEN: 1 }), postMessage: (message) => told.push(message) });
  await import('/page/connection.js');
  onmessage({ data: { what: "begin", origin: 0, url: "", protocols: [], hello: {}, port: { postMessage() {} } } });
  while (!line.onmessage) await new Promise((resolve) => setTimeout(resolve, 10));
  const pings = (count) => { const before = line.sent; for (let n = 0; n < count; n++) line.onmessage({ data: '{"type":"ping","t":1}' }); return line.sent - before; };
  const few = pings(10), all = pings(100000), held = line.bufferedAmount;
  line.bufferedAmount = 0;
  return { few, all, held, again: pings(1), ended: told.filter(({ what }) => what === "ended").length };
})()"""  # noqa: E501


@pytest.mark.beside
def test_pings_without_reading_do_not_fill_browser_memory(chromium: Chromium, bus: Bus) -> None:
    """The real connection.js, on a WebSocket that does not send: it stops answering until it can send again."""

    async def test(page: Page) -> None:
        # Open a page that does not start connection.js by itself.
        await page.open(bus.link().partition("#")[0] + "page/style.css")
        told = await page.run(UNREAD)
        assert told["few"] == 10 and told["again"] == 1 and not told["ended"]
        assert told["all"] < 5000 and told["held"] < 100_000

    in_browser(chromium, bus, test)


FLOOD = """(async () => {
  const told = [], line = { readyState: 1, bufferedAmount: 0, closed: false, send() {}, close() { this.closed = true; } };
  Object.assign(globalThis, { WebSocket: Object.assign(function () { return line; }, { OPEN: 1 }), postMessage: (message) => told.push(message), close() {} });
  await import('/page/connection.js');
  onmessage({ data: { what: "begin", origin: 0, url: "", protocols: [], hello: { settings: {} }, port: { postMessage() {} } } });
  while (!line.onmessage) await new Promise((resolve) => setTimeout(resolve, 10));
  const say = (message, count) => { for (let n = 0; n < count && !line.closed; n++) line.onmessage({ data: JSON.stringify(message) }); };
  say(MESSAGE, 500);
  const few = told.length, ended = line.closed;
  say(MESSAGE, 100000);
  return { few, ended, all: told.length, last: told.at(-1) };
})()"""  # noqa: E501


@pytest.mark.beside
@pytest.mark.parametrize("message", [
    {"type": "error", "message": "no"}, {"type": "settings", "settings": {"latency": "low"}},
    {"type": "microphone", "allowed": False, "wanted": True},
    {"type": "welcome", "listener": 1, "guest": "g", "sink": "s", "settings": {}},
])  # fmt: skip
def test_flood_of_events_ends_in_a_sentence(chromium: Chromium, bus: Bus, message: dict[str, Any]) -> None:
    async def test(page: Page) -> None:
        await page.open(bus.link().partition("#")[0] + "page/style.css")
        told = await page.run(FLOOD.replace("MESSAGE", json.dumps(message)))
        assert told["few"] == 500 and not told["ended"]
        assert told["all"] < 3_000 and told["last"] == {
            "what": "ended", "detail": "The server floods this page with messages.",
        }  # fmt: skip

    in_browser(chromium, bus, test)
