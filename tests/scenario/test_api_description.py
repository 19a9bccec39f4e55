"""The API's description against a daemon's answers: every operation, with at least one object of every kind."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import numpy as np
from jsonschema import Draft202012Validator

from millrace.client.bus import connect
from millrace.client.pulse import PulsePlayer
from millrace.daemon.app import Daemon
from millrace.doors.ingress import recorder_of
from millrace.symptoms import refusal
from millrace.wire.peer.messages import Hello, encode_message
from millrace.wire.pulse.client import playback_fields, record_fields
from millrace.wire.pulse.constants import Command
from millrace.wire.pulse.tagstruct import Spec
from tests import bus
from tests.scenario.tenants import Rig

API = "/api/v1"


class Answer(NamedTuple):
    """The answer of one operation."""

    operation: str
    status: int
    text: str


class House(Rig):
    """A daemon, with requests made as its own description says."""

    def __init__(self, daemon: Daemon, http: aiohttp.ClientSession) -> None:
        super().__init__(daemon, http)
        self.guest = daemon.worker.guests["alice"]
        self.answers: list[Answer] = []
        self.document: Any = None
        self.operations: dict[str, tuple[str, str, Any]] = {}

    async def read_description(self) -> None:
        self.document = json.loads((await self.ask("GET", f"{API}/openapi.json", ""))[1])
        for path, methods in self.document["paths"].items():
            for method, operation in methods.items():
                self.operations[operation["operationId"]] = path, method, operation

    async def do(self, operation: str, where: dict[str, str] | None = None, **args: Any) -> Any:
        path, method, _ = self.operations[operation]
        path = path.format(**where or {})
        if method == "get":
            path += "?" + "&".join(f"{key}={value}" for key, value in args.items())
        status, text = await self.ask(method.upper(), path, "", args if method != "get" and args else None)
        self.answers.append(Answer(operation, status, text))
        return json.loads(text)

    # -- objects -------------------------------------------------------------------------------

    async def furnish(self) -> None:
        alice = {"guest": "alice"}
        await self.do("guest.add", name="carol", rate=44_100)
        await self.do("sink.add", alice, name="second", description="A second one")
        await self.do("attach", alice, door="spice+unix:///nowhere/spice.sock")
        await self.do("token.new", may="see,hear", guests=["alice"], name="a token")
        await self.do("token.new", may="all", expires="never")
        await self.do("grant", alice, what="microphone", allow="prompt")
        await self.do("grant", alice, what="camera", allow=False, program="tool")
        await self.do("remember", key="notes/one", value="kept")

    async def player(self, held: AsyncExitStack, name: str) -> PulsePlayer:
        player = await PulsePlayer.connect(self.guest.pulse.path, name)
        held.push_async_callback(player.close)
        return player

    async def people(self, held: AsyncExitStack) -> str:
        """Start programs that play and record, one that waits for permission, a listener; returns a stream's key."""
        player = await self.player(held, "player")
        props = {"application.name": b"player\0", "media.role": b"music\0"}
        fields = playback_fields(Spec(5, 2, 44_100), (1, 2), props=props)
        await player.ask(Command.CREATE_PLAYBACK_STREAM, **fields)
        (stream,) = self.guest.graph.streams
        fields = record_fields(Spec(5, 2, 48_000), (1, 2), source_name="default.monitor")
        await player.ask(Command.CREATE_RECORD_STREAM, **fields)
        policy = await held.enter_async_context(connect(self.daemon.config.runtime / "native.sock", name="policy"))
        assert await policy.claim("policy")
        native = await held.enter_async_context(connect(self.guest.native_path, name="native"))
        played = await held.enter_async_context(native.play(guest="alice", latency_ms=100))
        await played.write(np.full((9_600, 2), 0.25, np.float32))
        url = f"ws://{self.daemon.serving.address}/alice"
        headers = {"Authorization": f"Bearer {self.daemon.worker.access.key}"}
        listener = await held.enter_async_context(self.http.ws_connect(url, headers=headers))
        await listener.send_str(encode_message(Hello(name="a listener", codecs=["opus"])))
        await listener.receive()
        asking = await self.player(held, "asking")
        fields = record_fields(Spec(5, 2, 48_000), (1, 2), source_name="microphone")
        waits = asyncio.create_task(asking.ask(Command.CREATE_RECORD_STREAM, **fields))
        held.callback(waits.cancel)
        while not list(self.daemon.worker.prompts):
            await asyncio.sleep(0.005)
        self.daemon.worker.report(refusal("alice", "somebody", "what they may not", "it may not"))
        await self.daemon.worker.second()
        return f"stream/{stream}"

    # -- requests ------------------------------------------------------------------------------

    async def look(self, stream: str) -> None:
        for operation in ("about", "page.link", "state", "grants", "requests", "incidents", "tokens"):
            await self.do(operation)
        await self.do("state", guest="alice")
        await self.do("recall", prefix="notes/")
        await self.do("latency", target=stream)
        await self.do("explain", target=stream)
        recorder = next(tap.id for tap in self.guest.graph.taps.values() if recorder_of(tap))
        await self.do("explain", target=f"recorder/{recorder}")
        await self.do("flight", {"guest": "alice"})

    async def change(self, stream: str) -> None:
        alice, link = {"guest": "alice"}, {"source": stream, "to": "sink/second", "guest": "alice"}
        await self.do("set", target=stream, settings={"volume": "50%"})
        await self.do("link", **link, matrix=[[1, 0], [0, 1]])
        await self.do("unlink", **link)
        await self.do("move", target=stream, to="sink/second", guest="alice")
        request = next(iter(self.daemon.worker.prompts)).key
        await self.do("decide", {"request": request.partition("/")[2]}, allow=True)
        await self.do("token.rotate", {"token": "1"})
        await self.do("token.revoke", {"token": "1"})
        await self.do("detach", {"door": self.guest.machines[0].key.partition("/")[2]})
        await self.do("sink.remove", alice | {"sink": "second"})
        await self.do("guest.remove", {"guest": "carol"})


@asynccontextmanager
async def asked(daemon: Daemon) -> AsyncIterator[House]:
    """A daemon that has answered every operation, while all of its objects still exist."""
    async with aiohttp.ClientSession() as http, AsyncExitStack() as held:
        house = House(daemon, http)
        await house.read_description()
        await house.furnish()
        stream = await house.people(held)
        await house.look(stream)
        await house.change(stream)
        yield house


def closed(schema: Any) -> Any:
    """The same schema, with undescribed properties forbidden."""
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: closed(value) for key, value in schema.items()}
    return made | {"additionalProperties": False} if "properties" in made and made.get("type") == "object" else made


def test_each_operation_answers_as_described(tmp_path: Path) -> None:
    async def test(daemon: Daemon) -> None:
        async with asked(daemon) as house:
            shapes = closed(house.document["components"])
            for shape in shapes["schemas"].values():
                Draft202012Validator.check_schema(shape)
            assert {one.operation for one in house.answers} == set(house.operations)
            for one in house.answers:
                _, _, operation = house.operations[one.operation]
                schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
                assert one.status == 200 and json.loads(one.text), one
                Draft202012Validator(closed(schema) | {"components": shapes}).validate(json.loads(one.text))
            status, text = await house.ask("GET", f"{API}/latency?target=stream/999", "")
            refused = {"$ref": "#/components/schemas/Refusal", "components": shapes}
            assert status == 404
            Draft202012Validator(refused).validate(json.loads(text))

    bus.running(tmp_path, test, guests=bus.BOTH)
