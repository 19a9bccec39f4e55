"""What PulseAudio clients see of a rig's objects, and modules that they load."""

from __future__ import annotations

from typing import Any

from millrace.dsp.convert import SampleFormat
from millrace.sim.rig import RigClient
from millrace.wire.pulse.client import record_fields
from millrace.wire.pulse.constants import Command
from millrace.wire.pulse.tagstruct import Spec

# -- modules -----------------------------------------------------------------------------------


def load(client: RigClient, name: str, argument: str = "") -> int:
    reply = client.ask(Command.LOAD_MODULE, name=name, argument=argument)
    index: int = reply["index"]
    return index


def sinks_of(client: RigClient) -> dict[str, dict[str, Any]]:
    return {sink["name"]: sink for sink in client.ask_list(Command.GET_SINK_INFO_LIST)}


def sources_of(client: RigClient) -> dict[str, dict[str, Any]]:
    return {source["name"]: source for source in client.ask_list(Command.GET_SOURCE_INFO_LIST)}


def quiet_recorder() -> dict[str, Any]:
    return record_fields(Spec(SampleFormat.S16LE, 1, 48_000), (0,), source_name="quiet")
