"""A PulseAudio connection that is frozen to a value, in any state, continues from it, even in another process."""

from __future__ import annotations

import random

import msgspec
import pytest

from millrace.doors.pulse.client import PulseClient
from millrace.doors.pulse.handlers import HANDLERS
from millrace.doors.pulse.state import read_client
from millrace.dsp.convert import SampleFormat
from millrace.rights.grants import ANY, Permission, Verdict
from millrace.sim.rig import Rig, RigClient
from millrace.wire.pulse.client import Failed, PulseClientSession, record_fields
from millrace.wire.pulse.constants import COOKIE_BYTES, PROTOCOL_VERSION, Command, Err
from millrace.wire.pulse.tagstruct import Spec

SPEC = Spec(SampleFormat.S16LE, 2, 48_000)
SOUND = bytes(range(256)) * 16
NAME = {"application.name": b"thawed\0"}


def conversation() -> bytes:
    """The requests of a client that subscribes to events and uploads a sound."""
    wire = PulseClientSession()
    wire.send_request(Command.AUTH, {"version": PROTOCOL_VERSION, "cookie": bytes(COOKIE_BYTES)})
    wire.send_request(Command.SET_CLIENT_NAME, {"props": NAME})
    wire.send_request(Command.SUBSCRIBE, {"mask": 0xFFF})
    upload = {"name": "bell", "spec": SPEC, "map": (1, 2), "length": len(SOUND), "props": {}}
    wire.send_request(Command.CREATE_UPLOAD_STREAM, upload)
    wire.send_block(0, SOUND)
    wire.send_request(Command.FINISH_UPLOAD_STREAM, {"channel": 0})
    wire.send_request(Command.GET_SERVER_INFO)
    wire.send_request(Command.CREATE_UPLOAD_STREAM, upload | {"name": "gong"})
    wire.send_request(Command.GET_CLIENT_INFO_LIST)
    return wire.data_to_send()


def thawed(client: RigClient, rig: Rig) -> PulseClient:
    """The server's side of a connection, continued in `rig`."""
    frozen = msgspec.msgpack.encode(client.server.freeze())
    return PulseClient(rig.door, HANDLERS, read_client(frozen))


def answered(rig: Rig, seed: int, freezing: bool) -> tuple[bytes, list[int]]:
    """All answers to the conversation, sent in pieces by `seed`, and the memory that the connection held after each."""
    client, said, rng, out = rig.client(login=False), conversation(), random.Random(seed), b""
    held: list[int] = []
    while said:
        size = rng.choice((1, 7, 100, 1_000))
        assert client.server.receive(said[:size], rig.now_ns) == len(said[:size])
        said = said[size:]
        if freezing:
            client.server = thawed(client, rig)
        out += client.server.data_to_send()
        held.append(client.server.account.held)
    return out, held


@pytest.mark.parametrize("seed", range(4))
def test_connection_frozen_anywhere_answers_as_if_it_was_not(seed: int) -> None:
    whole, frozen = Rig(), Rig()
    expected = answered(whole, seed, freezing=False)
    assert b"thawed" in expected[0] and answered(frozen, seed, freezing=True) == expected
    assert frozen.graph.budget.held == whole.graph.budget.held
    for rig in (whole, frozen):
        assert [(sample.name, bytes(sample.data)) for sample in rig.door.samples] == [("bell", SOUND)]


def test_connection_continues_in_another_process() -> None:
    here, there = Rig(), Rig()
    client = here.client()
    client.ask(Command.SUBSCRIBE, mask=0xFFF)
    upload = {"name": "bell", "spec": SPEC, "map": (1, 2), "length": len(SOUND), "props": {}}
    channels = client.play(SPEC, (1, 2), SOUND).channel, client.play(SPEC, (1, 2), sync_id=4).channel
    drain = client.send(Command.DRAIN_PLAYBACK_STREAM, channel=channels[0])
    recorded = client.ask(Command.CREATE_RECORD_STREAM, **record_fields(SPEC, (1, 2), source_name="millrace.monitor"))
    client.server.extensions.add("module-stream-restore")
    channel = client.ask(Command.CREATE_UPLOAD_STREAM, **upload)["channel"]
    client.wire.send_block(channel, SOUND)
    sent = client.wire.data_to_send()
    client.server.receive(sent[:1000], here.now_ns)
    # Not read yet: a reply, and events.
    client.wire.send_request(Command.GET_SERVER_INFO)
    said = sent[1000:] + client.wire.data_to_send()
    client.server.receive(said, here.now_ns)
    here.client()
    before = client.server.state
    client.server, client.rig = thawed(client, there), there
    there.clients.append(client)
    after = client.server.state
    assert list(there.door.clients) == [before.index] and client.server.name == "test"
    assert after.known and after.extensions == before.extensions
    notices = len(client.notices)
    client.exchange()
    assert any(reply.fields.get("server_version") or reply.fields.get("host") for reply in client.replies.values())
    assert len(client.notices) > notices
    assert [told["channel"] for told in client.named(Command.PLAYBACK_STREAM_KILLED)] == [*channels], (
        "no nodes are here"
    )
    assert [told["channel"] for told in client.named(Command.RECORD_STREAM_KILLED)] == [recorded["channel"]]
    assert client.replies[drain] == Failed(drain, Command.DRAIN_PLAYBACK_STREAM, Err.NOENTITY)
    assert not after.told_sinks and not here.door.playback and not here.door.records and not here.door.clients.get(7)
    notices = len(client.notices)
    client.ask(Command.FINISH_UPLOAD_STREAM, channel=channel)
    assert [(sample.name, bytes(sample.data)) for sample in there.door.samples] == [("bell", SOUND)]
    assert len(client.notices) > notices, "it still gets events"
    assert client.ask(Command.CREATE_UPLOAD_STREAM, **upload)["channel"] == channel + 1
    client.close()
    assert not there.door.clients


@pytest.mark.parametrize("allow", [True, False])
@pytest.mark.parametrize("what", [Permission.CONNECT, Permission.MONITOR])
def test_request_waiting_for_a_decision_is_included(what: Permission, allow: bool) -> None:
    here, there = Rig(), Rig()
    for rig in (here, there):
        rig.admission.grants.set(what, ANY, Verdict.PROMPT)
    client = here.client(login=False)
    client.wire.send_request(Command.AUTH, {"version": PROTOCOL_VERSION, "cookie": bytes(COOKIE_BYTES)})
    client.exchange()
    if what is Permission.MONITOR:
        client.ask(Command.SET_CLIENT_NAME, props=NAME)
        client.wire.send_request(
            Command.CREATE_RECORD_STREAM, record_fields(SPEC, (1, 2), source_name="millrace.monitor", fragsize=4_096)
        )
        client.exchange()
    (before,) = here.prompts
    held, answers = client.server.account.held, len(client.replies)
    client.server, client.rig = thawed(client, there), there
    there.clients.append(client)
    (prompt,) = there.prompts
    assert not list(here.prompts)
    assert (prompt.key, prompt.what, prompt.expires_ns) == (before.key, what, before.expires_ns)
    assert client.server.account.held == held and len(client.replies) == answers
    there.prompts.decide(prompt, allow)
    client.exchange()
    assert bool(there.graph.taps if what is Permission.MONITOR else there.door.clients) is allow
    assert len(client.replies) == answers + 1
    assert not client.server.state.asked and not client.server.subject.pending
