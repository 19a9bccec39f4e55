"""Attacks by programs of a guest: what each records, moves and ends is only what it was granted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from millrace.client.bus import Bus
from millrace.errors import RightsError
from millrace.graph.model import Stream
from millrace.rights.grants import ANY, Identity, Permission, Verdict
from millrace.sim.rig import Rig as PulseRig
from millrace.sim.rig import RigClient
from millrace.wire.pulse.client import record_fields
from millrace.wire.pulse.constants import NO_INDEX, Command, Err
from millrace.wire.pulse.tagstruct import Spec
from tests.scenario.pulseviews import load
from tests.scenario.tenants import Rig, joined, running


def program(rig: PulseRig, name: str) -> RigClient:
    client = rig.client()
    client.server.subject.identity = Identity(1, 0, name)
    return client


def source(name: str) -> dict[str, Any]:
    return record_fields(Spec(3, 2, 48_000), (1, 2), source_name=name)


def test_programs_record_only_what_they_were_granted() -> None:
    rig = PulseRig()
    rig.graph.add_source("microphone", "Microphone")
    grants = rig.admission.grants
    grants.set(Permission.MICROPHONE, ANY, Verdict.DENY)
    grants.set(Permission.MICROPHONE, "firefox-esr", Verdict.ALLOW)
    allowed = program(rig, "firefox-esr")
    assert allowed.ask(Command.CREATE_RECORD_STREAM, **source("microphone"))["source_name"] == "microphone"
    for name in ("evil", ""):
        evil = program(rig, name)
        assert evil.error(Command.CREATE_RECORD_STREAM, **source("microphone")) == Err.ACCESS
        reply = evil.ask(Command.CREATE_RECORD_STREAM, **source("default.monitor"))
        target = {"index": reply["index"], "source_index": NO_INDEX, "source_name": "microphone"}
        assert evil.error(Command.MOVE_SOURCE_OUTPUT, **target) == Err.ACCESS
        # A program with the permission may not move another's recorder there either.
        assert allowed.error(Command.MOVE_SOURCE_OUTPUT, **target) == Err.ACCESS
    assert rig.admission.refused_captures == 6
    grants.set(Permission.MONITOR, ANY, Verdict.DENY)
    rig.admission.enforce()
    evil.exchange()
    assert len(evil.named(Command.RECORD_STREAM_KILLED)) == 1
    assert [record.owner for record in rig.door.records.values()] == [allowed.server]
    grants.set(Permission.MONITOR, ANY, None)
    assert program(rig, "evil").ask(Command.CREATE_RECORD_STREAM, **source("default.monitor"))


@pytest.mark.parametrize("denied", [Permission.MICROPHONE, Permission.MONITOR])
@pytest.mark.parametrize("remaps", range(4))
def test_remapped_source_needs_the_permission_of_what_it_records(denied: Permission, remaps: int) -> None:
    """However often it is remapped: remapped sources are sources, also those that are made from a monitor."""
    rig = PulseRig()
    rig.graph.add_source("microphone", "Microphone")
    protected = "microphone" if denied is Permission.MICROPHONE else "millrace.monitor"
    grants, loader = rig.admission.grants, program(rig, "mixer")
    grants.set(denied, ANY, Verdict.DENY)
    grants.set(denied, "mixer", Verdict.ALLOW)
    for number in range(1, remaps + 1):
        load(loader, "module-remap-source", f"source_name=remap{number} master={protected}")
        protected = f"remap{number}"
    evil = program(rig, "evil")
    assert evil.error(Command.CREATE_RECORD_STREAM, **source(protected)) == Err.ACCESS
    assert evil.error(Command.LOAD_MODULE, name="module-remap-source", argument=f"master={protected}") == Err.ACCESS
    assert loader.ask(Command.CREATE_RECORD_STREAM, **source(protected))
    # The other permission is not needed.
    other = Permission.MONITOR if denied is Permission.MICROPHONE else Permission.MICROPHONE
    grants.set(denied, ANY, None)
    grants.set(other, ANY, Verdict.DENY)
    assert evil.ask(Command.CREATE_RECORD_STREAM, **source(protected))


def test_program_can_not_move_or_end_source_streams() -> None:
    rig = PulseRig()
    microphone = rig.graph.add_source("microphone", "Microphone")
    voice = Stream(rig.graph.ids.take(), "voice", ("mono",))
    rig.graph.add_stream(voice, microphone)
    evil = program(rig, "evil")
    moved = {"index": voice.id, "sink_index": NO_INDEX, "sink_name": "millrace"}
    assert evil.error(Command.MOVE_SINK_INPUT, **moved) == Err.NOENTITY
    assert evil.error(Command.KILL_SINK_INPUT, index=voice.id) == Err.NOENTITY
    assert evil.error(Command.SET_SINK_INPUT_MUTE, index=voice.id, mute=True) == Err.NOENTITY
    assert voice.sink is microphone and not voice.mute


def test_microphone_permission_is_not_bypassed_by_links_or_moves(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        guest = rig.daemon.worker.guest("alice")
        voice = Stream(guest.graph.ids.take(), "voice", ("mono",))
        guest.graph.add_stream(voice, guest.microphone)
        secret = await rig.token("a", "hear,control,link", ["alice"])
        listener = await joined(rig, secret)
        heard = guest.sessions[0].outlet
        await rig.daemon.worker.grant(guest, Permission.MICROPHONE, ANY, Verdict.DENY)
        asked: list[tuple[str, dict[str, str]]] = [
            ("links", {"source": "source/microphone", "to": "sink/millrace", "guest": "alice"}),
            ("links", {"source": voice.key, "to": "sink/millrace"}),
            ("move", {"target": voice.key, "to": "sink/millrace"}),
            ("move", {"target": heard.key, "to": "source/microphone"}),
        ]
        async with Bus(guest.native_path, "evil", "") as program:
            for path, body in asked:
                status, text = await rig.ask("POST", f"/api/v1/{path}", secret, body)
                assert status == 403 and "record it" in text, (path, body, text)
                with pytest.raises(RightsError, match="record it"):
                    await program.call("link" if path == "links" else path, **body)
        assert not guest.microphone.links and [link.target for link in voice.links] == [guest.microphone]
        assert not guest.microphone.taps and not listener.closed
        for path, body in asked:
            assert (await rig.ask("POST", f"/api/v1/{path}", "", body))[0] == 200, "the owner may do so"

    running(tmp_path, test)
