"""A recorder that is frozen to a value goes on from it, in another guest's graph, without a lost or repeated byte."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from millrace.doors.pulse.record import RecordStream
from millrace.doors.pulse.state import RecordState
from millrace.dsp.convert import SampleFormat, Samples
from millrace.graph.model import Tap
from millrace.sim.rig import Rig, RigClient
from millrace.sim.signals import sine
from millrace.wire.pulse.client import record_fields
from millrace.wire.pulse.constants import Command
from millrace.wire.pulse.tagstruct import Spec

HALF = 0x8000
"""A volume of one eighth."""


def continued(client: RigClient, channel: int) -> None:
    """Replace the recorder by another one, made from its state alone."""
    rig, server = client.rig, client.server
    old = server.records.pop(channel)
    frozen = msgspec.msgpack.encode(old.freeze())
    source = old.node.sink
    del rig.door.records[old.node.id]
    rig.graph.remove_tap(old.node)
    assert source is not None
    node = Tap(old.node.id, old.node.name, old.node.positions, active=old.node.active, clocked=old.node.clocked)
    record = RecordStream(server, msgspec.msgpack.decode(frozen, type=RecordState), node, rig.graph)
    rig.door.begin_record(record, source)
    server.keep_record(record)


def recorded(rate: int, freezing: bool, fragment_ms: int = 20, **options: bool) -> tuple[Samples, int]:
    rig = Rig()
    client, player = rig.client(), rig.client()
    spec = Spec(SampleFormat.F32LE, 2, rate)
    fields = record_fields(
        spec, (1, 2), source_name="millrace.monitor", fragsize=max(8, rate * 8 * fragment_ms // 1_000), **options
    )
    channel = client.ask(Command.CREATE_RECORD_STREAM, **fields)["channel"]
    sound = (sine(1.0, 997, 48_000) * 32_767).astype("<i2").tobytes()
    player.play(Spec(SampleFormat.S16LE, 2, 48_000), (1, 2), sound, tlength=19_200)
    for step in range(12):
        rig.run(0.0531)
        if freezing:
            continued(client, channel)
        # The ramp takes as long as a block, and soxr gives out other blocks after it was frozen.
        if step == 5 and fragment_ms < 400:
            index = rig.door.indexes.outputs.of(client.server.records[channel].node)
            client.ask(Command.SET_SOURCE_OUTPUT_VOLUME, index=index, volume=(HALF, HALF))
        if step == 8:
            client.server.congested = True
        if step == 10:
            client.server.congested = False
        if step == 6 and options.get("variable_rate"):
            client.ask(Command.UPDATE_RECORD_STREAM_SAMPLE_RATE, channel=channel, rate=rate - 100)
        if step == 7:
            client.ask(
                Command.SET_RECORD_STREAM_BUFFER_ATTR, channel=channel, maxlength=rate * 8,
                fragsize=rate * 8, adjust_latency=False, early_requests=False,
            )  # fmt: skip
    record = client.server.records[channel]
    assert record.state.write_index == len(client.recorded[channel]) + record.queued_bytes
    return np.frombuffer(bytes(client.recorded[channel]), np.float32).reshape(-1, 2), record.state.write_index


@pytest.mark.parametrize(
    ("rate", "options"),
    [
        (48_000, {}), (44_100, {}), (44_100, {"fragment_ms": 400}), (44_100, {"variable_rate": True}),
        (25, {"peak_detect": True}), (25, {}),
    ],
)  # fmt: skip
def test_recorder_continues_without_difference(rate: int, options: dict[str, bool]) -> None:
    (whole, written), (frozen, written_frozen) = (recorded(rate, how, **options) for how in (False, True))
    frames = min(len(whole), len(frozen))
    assert abs(len(whole) - len(frozen)) <= 4 * 1_024 and frames > rate // 3
    assert np.abs(whole).max() > (0.1 if options or rate > 100 else 0.0)
    off = float(np.abs(frozen[:frames] - whole[:frames]).max())
    # At a rate that was changed, the phase of the resampler is not a whole number.
    near = 1e-3 if options.get("variable_rate") else 2e-6
    assert off <= (near if rate == 44_100 else 0.0), off
    if rate != 44_100:
        assert written == written_frozen and len(whole) == len(frozen)
