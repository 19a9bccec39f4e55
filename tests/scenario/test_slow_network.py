"""A network slower than the bitrate, with unlimited buffers: a listener lags by seconds and no more."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from millrace.guest.listener import ListenerSession
from millrace.rights.model import OWNER
from millrace.sim.net import NetEmulator, Path
from millrace.sim.rig import START_NS
from millrace.units import NS_PER_MS, NS_PER_S, HostNs
from millrace.wire.peer.messages import Hello, Ping, Pong, decode_from_daemon, encode_message, unpack_media
from tests.unit.test_graph import add
from tests.unit.test_guest_home import House

STEP_NS = 20 * NS_PER_MS
FORWARD_NS = 20 * NS_PER_MS


class Heard:
    """A daemon that plays to a listener behind a slow network, in virtual time."""

    def __init__(self, path: Path, settings: dict[str, str], answers: bool = True) -> None:
        self.house = House()
        self.rig = self.house.rig
        self.down: NetEmulator[str | bytes] = NetEmulator(path, 1, lambda message: isinstance(message, bytes))
        self.answers = answers
        self.pongs: list[tuple[HostNs, str]] = []
        self.ages: list[tuple[HostNs, HostNs]] = []
        """When each packet arrived, and how old it was."""
        self.sequences: list[int] = []
        self.probes = 0
        self.session = ListenerSession(
            self.house.home, 7, "10.0.0.7", self._write, lambda: True, self.rig.now_ns, OWNER
        )
        self.session.receive(encode_message(Hello(settings=settings)), self.rig.now_ns)

    def _write(self, messages: Sequence[str | bytes]) -> None:
        for message in messages:
            self.down.send(message, self.rig.now_ns, len(message))

    def run(self, seconds: int) -> None:
        rig, session = self.rig, self.session
        end, ticked = rig.now_ns + seconds * NS_PER_S, rig.now_ns
        while rig.now_ns < end:
            rig.run(STEP_NS / NS_PER_S)
            now = rig.now_ns
            for message in self.down.receive(now):
                self._arrived(message, now)
            while self.pongs and self.pongs[0][0] <= now:
                session.receive(self.pongs.pop(0)[1], now)
            due = session.next_timeout()
            if due is not None and due <= now:
                session.wire.keepalive.heard(now)
                session.handle_timeout(now)
            if now - ticked >= NS_PER_S:
                ticked = now
                session.tick(now)

    def _arrived(self, message: str | bytes, now: HostNs) -> None:
        if isinstance(message, bytes):
            packet = unpack_media(message)
            assert packet is not None
            self.ages.append((now, now - packet.host_ns))
            self.sequences.append(packet.sequence)
            return
        told = decode_from_daemon(message)
        if isinstance(told, Ping):
            self.probes += 1
            if self.answers:
                self.pongs.append((now + FORWARD_NS, encode_message(Pong(told.t, now))))

    def oldest_ns(self, since_s: int) -> HostNs:
        return max(age for at, age in self.ages if at >= self.ages[0][0] + since_s * NS_PER_S)

    def causes(self) -> set[tuple[str, str]]:
        return {(one.stage, one.cause) for one in self.house.symptoms}


def _heard(path: Path, seconds: int, answers: bool = True) -> Heard:
    heard = Heard(path, {"codec": "s16"}, answers)
    add(heard.rig)
    heard.run(seconds)
    return heard


S16_BPS = 48_000 * 2 * 2 * 8
THIN = Path(delay_ns=20 * NS_PER_MS, rate_bps=S16_BPS * 7 // 10)


def test_listener_on_slow_network_lags_by_bounded_seconds() -> None:
    heard = _heard(THIN, 40)
    assert heard.oldest_ns(0) < 5 * NS_PER_S
    # What was dropped is counted on both sides, and an incident names the network.
    dropped = heard.session.outlet.dropped_packets
    missing = heard.sequences[-1] + 1 - len(heard.sequences)
    assert dropped > 200 and dropped - 200 < missing <= dropped
    assert len(heard.sequences) > 1200
    assert heard.causes() == {("send", "line full")}
    evidence = heard.house.symptoms[-1].evidence
    behind = evidence["behind_ms"]
    assert isinstance(behind, float) and behind >= 2000
    # It never falls silent permanently: the network carries what it can.
    gaps = np.diff([at for at, _ in heard.ages])
    assert gaps.max() < 3 * NS_PER_S


def test_listener_on_slow_but_sufficient_network_loses_nothing() -> None:
    heard = _heard(Path(delay_ns=600 * NS_PER_MS, rate_bps=S16_BPS * 12 // 10), 20)
    assert heard.session.outlet.dropped_packets == 0 and not heard.house.symptoms
    assert heard.sequences == list(range(len(heard.sequences)))
    assert heard.oldest_ns(0) < NS_PER_S


def test_two_second_network_stall_loses_nothing() -> None:
    stall = (START_NS + 5 * NS_PER_S, START_NS + 7 * NS_PER_S)
    heard = _heard(Path(stalls=(stall,)), 12)
    assert heard.session.outlet.dropped_packets == 0
    assert heard.sequences == list(range(len(heard.sequences)))


def test_listener_without_pongs_is_not_measured() -> None:
    heard = _heard(Path(), 20, answers=False)
    assert heard.session.outlet.dropped_packets == 0 and heard.probes > 2


def test_idle_listener_is_not_probed() -> None:
    heard = Heard(Path(), {})
    heard.run(60)
    assert heard.probes <= 60 // 8 + 1


def test_bitrate_of_a_listener_that_was_idle_is_that_of_the_last_second() -> None:
    heard = Heard(Path(), {"codec": "s16"})
    heard.run(60)
    assert not heard.session.bitrate()
    add(heard.rig)
    heard.run(1)
    assert 0.9 * S16_BPS < heard.session.bitrate() < 1.2 * S16_BPS


def test_lossy_queue_bounds_backlog_on_slow_network() -> None:
    net: NetEmulator[bytes] = NetEmulator(Path(delay_ns=0, rate_bps=8_000, queue_ns=NS_PER_S), 1)
    for n in range(100):
        net.send(bytes(100), n * 50 * NS_PER_MS, 100)
    due = [net.next_timeout()]
    while net.receive(due[-1] or 0):
        due.append(net.next_timeout())
    assert net.lost > 30 and (due[-2] or 0) <= 99 * 50 * NS_PER_MS + NS_PER_S + 100 * NS_PER_MS
