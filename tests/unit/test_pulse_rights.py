"""The right that each command of PulseAudio's protocol needs: the table is complete, so a new command must be added."""

from __future__ import annotations

import pytest

from millrace.doors.pulse.handlers import HANDLERS
from millrace.doors.pulse.rights import NEEDS, OF_INPUT, OF_OUTPUT
from millrace.dsp.convert import SampleFormat
from millrace.rights.model import GUEST_RIGHTS, Principal, Right
from millrace.sim.rig import Rig
from millrace.wire.pulse.constants import Command, Err
from millrace.wire.pulse.tagstruct import Spec
from tests.caller import Caller

S16 = Spec(SampleFormat.S16LE, 2, 48_000)

LOOKS = ("GET_", "LOOKUP_", "STAT", "SUBSCRIBE", "SEND_OBJECT_MESSAGE")
OWN = ("AUTH", "EXIT", "CLIENT_NAME", "_STREAM", "CLIENT_PROPLIST", "EXTENSION", "CARD", "_PORT")
"""What is about the client itself or its own streams; EXTENSION asks for its right itself, and there are no cards."""


def test_every_command_affecting_others_needs_a_right() -> None:
    unsorted = [
        command.name
        for command in HANDLERS
        if command not in NEEDS and not command.name.startswith(LOOKS) and not any(word in command.name for word in OWN)
    ]
    assert unsorted == []
    assert NEEDS.keys() <= HANDLERS.keys(), "a right for a command that is not supported"


def test_each_command_needs_the_right_of_its_kind() -> None:
    by_right: dict[Right, set[str]] = {}
    for command, right in NEEDS.items():
        by_right.setdefault(right, set()).add(command.name)
    assert by_right.keys() == {Right.SPEAK, Right.HEAR, Right.CONTROL, Right.LINK}
    assert by_right[Right.HEAR] == {"CREATE_RECORD_STREAM"}
    assert by_right[Right.SPEAK] == {"CREATE_PLAYBACK_STREAM", "CREATE_UPLOAD_STREAM", "PLAY_SAMPLE"}
    assert by_right[Right.LINK] == {"LOAD_MODULE", "UNLOAD_MODULE"}
    kinds = ("SET_", "MOVE_", "SUSPEND_", "KILL_", "REMOVE_SAMPLE")
    assert all(name.startswith(kinds) for name in by_right[Right.CONTROL])


def test_own_streams_may_always_be_ended_or_turned_down() -> None:
    for own, kind in ((OF_INPUT, "SINK_INPUT"), (OF_OUTPUT, "SOURCE_OUTPUT")):
        assert {command.name for command in own} == {f"SET_{kind}_VOLUME", f"SET_{kind}_MUTE", f"KILL_{kind}"}
        assert all(NEEDS[command] is Right.CONTROL for command in own)


@pytest.mark.parametrize("command", NEEDS, ids=lambda command: command.name)
def test_command_without_right_is_refused_before_its_handler_runs(command: Command) -> None:
    rig = Rig()
    served: list[Command] = []
    caller = Caller(rig, {command: lambda client, request: served.append(request.command)})
    caller.ask(command, index=0)
    assert served == [command]
    others = GUEST_RIGHTS & ~NEEDS[command]
    rig.admission.principal = Principal("guest/default", others, frozenset({"default"}))
    assert caller.ask(command, index=0) is Err.ACCESS and served == [command]


def test_own_streams_need_no_right_and_others_streams_do() -> None:
    rig = Rig()
    caller, other = Caller(rig), Caller(rig)
    own, others = (one.play(S16, (1, 2))["index"] for one in (caller, other))
    recorder, foreign = (one.record(S16, (1, 2))["index"] for one in (caller, other))
    rig.admission.principal = Principal("guest/default", Right.SEE, frozenset({"default"}))
    for index, expected in ((own, {}), (others, Err.ACCESS)):
        assert caller.ask(Command.SET_SINK_INPUT_MUTE, index=index, mute=True) == expected
        assert caller.ask(Command.SET_SINK_INPUT_VOLUME, index=index, volume=(1,)) == expected
        assert caller.ask(Command.KILL_SINK_INPUT, index=index) == expected
    for index, expected in ((recorder, {}), (foreign, Err.ACCESS)):
        assert caller.ask(Command.SET_SOURCE_OUTPUT_MUTE, index=index, mute=True) == expected
        assert caller.ask(Command.SET_SOURCE_OUTPUT_VOLUME, index=index, volume=(1,)) == expected
        assert caller.ask(Command.KILL_SOURCE_OUTPUT, index=index) == expected
