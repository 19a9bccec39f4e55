"""The whole path with real sound in virtual time: guest, graph, outlet, bad network, listener, simulated card.

Everything between the client's bytes and the card's frames is the product's own code; only sockets and clocks are
simulated.
"""

from __future__ import annotations

import numpy as np

from millrace.codec.settings import CodecSettings, changed
from millrace.dsp.convert import SampleFormat, Samples, encode
from millrace.lab.scenario import Scenario
from millrace.media.audio import AudioPacket
from millrace.outlets.peer import Subscriber
from millrace.outlets.queue import Message
from millrace.outlets.subscribers import Subscribers
from millrace.playout.playout import Playout
from millrace.sim.card import FakeCard
from millrace.sim.clocks import SimClock
from millrace.sim.net import NetEmulator
from millrace.sim.rig import START_NS, Rig
from millrace.units import NS_PER_S, HostNs, default_map
from millrace.wire.peer.messages import FormatChanged, Hello, Silence
from millrace.wire.peer.session import PeerClient
from millrace.wire.pulse.tagstruct import Spec

TRUE_EPOCH: HostNs = 3 * 10**12
_STEREO = (1, 2)


def _is_media(message: Message) -> bool:
    return isinstance(message, bytes)


class SoundRun:
    """One guest that plays `signal` (frames, 2) at 48 kHz, and one listener."""

    def __init__(
        self, scenario: Scenario, signal: Samples, settings: dict[str, str], latency: str = "normal", seed: int = 1
    ) -> None:
        self.scenario = scenario
        self.now_ns = TRUE_EPOCH
        self.daemon = SimClock(scenario.daemon_ppm, scenario.wander_ppm, 0.3)
        self.rig = Rig(scenario.rate)
        self.net: NetEmulator[Message] = NetEmulator(scenario.path, seed, _is_media)
        self.playout = Playout(scenario.rate, default_map(2), latency)
        period = scenario.rate * scenario.period_ns // NS_PER_S
        card_clock = SimClock(scenario.card_ppm, scenario.wander_ppm, 2.0)
        self.card = FakeCard(scenario.rate, 2, period, card_clock, TRUE_EPOCH)
        self.fills: list[tuple[HostNs, HostNs, float, float]] = []
        """(time, fill, late, ratio ppm) at every pull."""
        self._wire = PeerClient(Hello(), TRUE_EPOCH)
        outlet = Subscriber(1, "lab", self._send, lambda: True)
        outlet.settings = changed(CodecSettings(), settings)
        Subscribers(self.rig.graph).join(outlet, self.rig.sink)
        self._player = self.rig.client()
        spec = Spec(SampleFormat.F32LE, 2, scenario.rate)
        self._player.play(spec, _STEREO, encode(SampleFormat.F32LE, signal)).drain()

    def _send(self, messages: object) -> None:
        assert isinstance(messages, tuple | list)
        for message in messages:
            self.net.send(message, self.now_ns, len(message))

    def _daemon_ns(self) -> HostNs:
        return START_NS + int(float(self.daemon.read(np.array([float(self.now_ns - TRUE_EPOCH)]))[0]))

    def _daemon_due_ns(self) -> HostNs | None:
        deadline = self.rig.driver.next_timeout()
        if deadline is None:
            return None
        shown = np.array([float(max(0, deadline - START_NS))])
        return TRUE_EPOCH + int(float(self.daemon.when(shown)[0])) + 1

    def run(self, seconds: float) -> Samples:
        """Let true time pass; return all that was heard so far, (frames, 2)."""
        end = self.now_ns + round(seconds * NS_PER_S)
        while True:
            deadlines = (self._daemon_due_ns(), self.net.next_timeout(), self.card.next_timeout())
            due = min(d for d in deadlines if d is not None)
            if due > end:
                break
            self.now_ns = max(self.now_ns, due)
            self._daemon_step()
            self._listener_step()
            self.card.handle_timeout(self.now_ns, self._pull)
        self.now_ns = end
        return self.card.sound

    def _daemon_step(self) -> None:
        rig = self.rig
        rig.now_ns = max(rig.now_ns, self._daemon_ns())
        deadline = rig.driver.next_timeout()
        if deadline is not None and deadline <= rig.now_ns:
            rig.driver.handle_timeout(rig.now_ns)
        for client in rig.clients:
            client.exchange()

    def _listener_step(self) -> None:
        for message in self.net.receive(self.now_ns):
            self._wire.receive(message, self.now_ns)
        for event in self._wire.events():
            if isinstance(event, AudioPacket):
                self.playout.push(event, self.now_ns)
            elif isinstance(event, FormatChanged):
                self.playout.set_format(event.format)
            elif isinstance(event, Silence):
                self.playout.silence()

    def _pull(self, out: Samples, now_ns: HostNs) -> None:
        self.playout.pull(out, now_ns)
        play = self.playout
        self.fills.append((now_ns - TRUE_EPOCH, play.fill_ns, play.late_ns, play.ratio_ppm))
