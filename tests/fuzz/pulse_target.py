"""Coverage-guided fuzzing of the PulseAudio door (atheris; run by hand: python tests/fuzz/pulse_target.py).

Invariant: whatever bytes a client sends, the door serves them or raises RemoteProtocolError, and another client's sound
stays bit-exact. `tests/unit/test_fuzz.py` runs the same function on random input in every test run.
"""

from __future__ import annotations

import sys

import numpy as np

from millrace.dsp.convert import SampleFormat, encode
from millrace.errors import RemoteProtocolError
from millrace.sim.rig import Rig
from millrace.sim.signals import count
from millrace.wire.pulse.tagstruct import Spec

SIGNAL = count(9600)
DATA = encode(SampleFormat.S16LE, SIGNAL)


def one_input(data: bytes) -> None:
    """A hostile client sends `data` while another plays."""
    rig = Rig()
    heard = rig.capture()
    player = rig.client().play(Spec(SampleFormat.S16LE, 2, 48_000), (1, 2), DATA)
    player.drain()
    hostile = rig.client()
    rig.run(0.05)
    # Its answers are not parsed: they may be to requests that a real client never makes.
    rig.clients.remove(hostile)
    plays = False
    for at in range(0, len(data), 97):
        try:
            hostile.server.receive(data[at : at + 97], rig.now_ns)
        except RemoteProtocolError:
            break
        hostile.server.data_to_send()
        plays = plays or len(rig.graph.streams) > 1
    rig.run(0.05)
    # It has the right to mute, move or kill the other stream, and to play beside it; only effects of malformed messages
    # are judged.
    hostile.server.closed()
    rig.run(0.5)
    stream = rig.door.input_at(player.index)
    untouched = stream is not None and stream.gains == (1.0, 1.0) and not stream.mute and rig.sink.gains == (1.0, 1.0)
    if untouched and not rig.sink.mute and stream is not None and stream.sink is rig.sink and not plays:
        sound = heard.trimmed()
        assert len(sound) == 0 or np.array_equal(sound, SIGNAL[: len(sound)])


def main() -> None:
    """Fuzz until stopped."""
    import atheris

    atheris.instrument_all()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
