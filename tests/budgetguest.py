"""A guest with little memory, and sound for its programs."""

from __future__ import annotations

from millrace.dsp.convert import SampleFormat, encode
from millrace.sim.rig import Player, Rig, RigClient
from millrace.sim.signals import sine
from millrace.wire.pulse.constants import NO_INDEX, Command
from millrace.wire.pulse.tagstruct import Spec

S16 = Spec(SampleFormat.S16LE, 2, 44_100)
STEREO = (1, 2)


def sound(seconds: float) -> bytes:
    return encode(SampleFormat.S16LE, sine(seconds))


class Guest:
    """A rig whose first client ends things, and whose state is compared with the state before."""

    def __init__(self, limit: int | None = None) -> None:
        self.rig = Rig()
        if limit is not None:
            self.rig.graph.budget.limit = limit
        self.other = self.rig.client()
        self.module = self.other.ask(Command.LOAD_MODULE, name="module-null-sink", argument="sink_name=extra")["index"]
        self.extra = self.other.ask(Command.GET_SINK_INFO, index=NO_INDEX, name="extra")["index"]
        self.before = self.state()

    def state(self) -> dict[str, object]:
        """The guest's limited resources, which must all be released again."""
        rig, door = self.rig, self.rig.door
        return {
            "held": rig.graph.budget.held, "shares": rig.graph.budget.shares(), "streams": dict(rig.graph.streams),
            "taps": dict(rig.graph.taps), "lanes": len(rig.graph._lanes), "observers": len(rig.graph.observers),
            "playback": dict(door.playback), "records": dict(door.records), "clients": sorted(door.clients),
            "known": [sorted(c.server._sinks) for c in rig.clients],
            "taps of sinks": [len(mix.taps) for mix in rig.graph.mixes()],
        }  # fmt: skip

    def play(self, client: RigClient, **changes: object) -> Player:
        return client.play(S16, STEREO, sound(3.0), **changes)
