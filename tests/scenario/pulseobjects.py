"""Streams, recorders, modules and sinks, as a client or the graph lists them."""

from __future__ import annotations

from typing import Any

import numpy as np

from millrace.dsp.convert import SampleFormat
from millrace.sim.rig import Rig, RigClient
from millrace.wire.pulse.constants import Command
from millrace.wire.pulse.tagstruct import Spec

F32 = Spec(SampleFormat.F32LE, 2, 48_000)


def inputs(client: RigClient) -> list[dict[str, Any]]:
    return client.ask_list(Command.GET_SINK_INPUT_INFO_LIST)


def outputs(client: RigClient) -> list[dict[str, Any]]:
    return client.ask_list(Command.GET_SOURCE_OUTPUT_INFO_LIST)


def modules(client: RigClient) -> list[str]:
    return [module["name"] for module in client.ask_list(Command.GET_MODULE_INFO_LIST)]


def sink(rig: Rig, name: str) -> Any:
    return next(mix for mix in rig.graph.mixes() if mix.name == name)


def burst(client: RigClient, name: str, seconds: float = 0.1) -> None:
    """Play a constant on a sink, and drain it."""
    tone = np.full((round(48_000 * seconds), 2), 0.5, np.float32)
    player = client.play(F32, (1, 2), tone.tobytes(), sink_name=name, tlength=9600)
    client.send(Command.DRAIN_PLAYBACK_STREAM, channel=player.channel)
