"""A listener's session in the daemon: the peer protocol on one side, an outlet on the other."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from millrace.absent import nothing
from millrace.budget import LISTENERS
from millrace.clock.jitter import asked_of_daemon
from millrace.clock.settled import Settling
from millrace.codec.parameters import CodecParameters
from millrace.codec.settings import CODECS, CodecSettings, changed
from millrace.doors.microphone import MicrophoneStream
from millrace.errors import BudgetError, ConfigError, GraphError, MillraceError, RemoteProtocolError
from millrace.graph.model import Sink
from millrace.guest.home import Home
from millrace.guest.notfound import missing_sink
from millrace.guest.troubles import report_trouble
from millrace.io.clock import now_ns
from millrace.media.audio import AudioPacket
from millrace.outlets.peer import Subscriber
from millrace.outlets.queue import Write
from millrace.rights.model import Principal
from millrace.symptoms import Evidence, Symptom, last_heard
from millrace.text import parse_switch
from millrace.units import NS_PER_MS, NS_PER_S, HostNs
from millrace.wire.peer.messages import (
    VERSION,
    Bye,
    Configure,
    Configured,
    Fault,
    FormatChanged,
    FromListener,
    Hello,
    Microphone,
    Report,
    Silence,
    Trouble,
    Welcome,
    encode_message,
)
from millrace.wire.peer.session import BEHIND_MAX_NS, PeerServer

_NAME_MAX = 100
LISTENER_BYTES = 96 * 1024
"""Memory of a listener: its connection, its send buffer and its state."""
BREAKDOWN = ("path", "network", "codec", "jitter", "late", "period", "device")
"""The known components of a listener's latency; others in a report are dropped."""
TICK_MAX_NS = 1_500 * NS_PER_MS
"""With longer than this between two ticks, the daemon was stopped."""
DISPLACED = "its own encoder made room for another listener's"
"""Why one shares an encoder with other settings than it asked for."""
LOSS_PACKETS = 250
"""Packets over which loss is measured: 5 s of 20 ms frames."""


def _leave(session: ListenerSession, why: str) -> None:
    """End one that nobody serves."""
    session.closed()


# Control messages and sound share one connection but come from two places: messages are queued in `wire`, and packets
# are written by the outlet when the graph runs. Their order is part of the protocol (a format precedes its packets,
# Welcome precedes everything), so whatever queues a message flushes it before it lets the outlet do anything else.
#
# A session ends in one of several ways (its connection, its rights, its guest or a Bye), and more than one of them
# may happen. `closed` therefore does its work once, and nothing is reported to or about a session that has left.
class ListenerSession:
    """One connected listener. `write` sends messages; `room` says whether the connection can take more."""

    def __init__(
        self, guest: Home, id_: int, address: str, write: Write, room: Callable[[], bool], now_ns: HostNs,
        principal: Principal, end: Callable[[ListenerSession, str], None] = _leave, wake: Callable[[], None] = nothing,
    ) -> None:  # fmt: skip
        """`end` ends it at once, and has it told why; `wake` has it ticked though it rests."""
        self.guest = guest
        self.principal = principal
        self._left = False
        always = guest.make_room("listener", principal, LISTENER_BYTES)
        self.account = guest.admission.budget.open("listener", {"itself": LISTENER_BYTES}, LISTENERS, always=always)
        self.address = address
        self.wire = PeerServer(now_ns)
        self.outlet = Subscriber(id_, address, write, self._room_for, self._may_queue, self._dropped, wake)
        self.outlet.principal = principal
        self._in_force: CodecSettings | None = None
        """The settings that the listener was told last."""
        self._room, self._end = room, end
        self._behind_ns: HostNs = 0
        """How far behind the listener was when last measured."""
        self._probed_packets = 0
        self.report = Report()
        self.drift = Settling()
        self.closing = False
        self._codec_reason = ""
        self._rate_mark: tuple[HostNs, int] = (now_ns, 0)
        self._bitrate = 0
        self._ticked_ns = now_ns
        self._resting = False
        self._loss_mark: tuple[int, int | None] = (0, None)
        self.microphone: MicrophoneStream | None = None
        self.may_speak = True
        self.latency = "normal"
        """The latency profile, or fixed latency, that the listener uses."""
        self._offered = False
        self._told: tuple[bool, bool] | None = None

    @property
    def key(self) -> str:
        """The name users and the API use."""
        return self.outlet.key

    @property
    def rtt_ns(self) -> HostNs | None:
        """Round-trip time to the listener."""
        return self.wire.keepalive.clock.rtt_ns

    @property
    def heard_ns(self) -> HostNs:
        """When the last message from the listener arrived."""
        return self.wire.keepalive.heard_ns

    def bitrate(self) -> int:
        """Bit/s sent recently."""
        return self._bitrate

    # -- the connection ----------------------------------------------------------------------

    def receive(self, message: str | bytes, now_ns: HostNs) -> None:
        """Process one message, unless the session has left; RemoteProtocolError ends it."""
        if self._left:
            return
        self.wire.receive(message, now_ns)
        for event in self.wire.events():
            self._handle(event, now_ns)
        self._measure(now_ns)

    def flush(self) -> None:
        """Send pending messages."""
        for message in self.wire.data_to_send():
            self.outlet.send(message)
        self.outlet.flush()

    def relieved(self) -> None:
        """See `Attendee`."""
        if not self._left:
            self.flush()

    def next_timeout(self) -> HostNs | None:
        """See `Timed`."""
        return self.wire.next_timeout()

    def handle_timeout(self, now_ns: HostNs) -> None:
        """See `Timed`; PeerLost if the peer is gone."""
        self.wire.handle_timeout(now_ns)
        self.flush()

    def tick(self, now_ns: HostNs) -> bool:
        """See `Ticked`. Update bitrate and lag, and send what the connection had no room for.

        Raises the error that ended the sound, if there was one.
        """
        if self._resting:
            # What has been sent since then was sent within the last second.
            self._rate_mark, self._ticked_ns = (now_ns - NS_PER_S, self._rate_mark[1]), now_ns
        if (error := self.outlet.take_error()) is not None:
            raise error
        if self._in_force not in (None, self.outlet.shares):
            # It shares another encoder, since its own was given up, or has its own again.
            self._tell_settings()
        then, sent = self._rate_mark
        if now_ns - then >= NS_PER_S:
            self._bitrate = (self.outlet.sent_bytes - sent) * 8 * NS_PER_S // (now_ns - then)
            self._rate_mark = (now_ns, self.outlet.sent_bytes)
        # If the daemon itself was stopped, the answers to its probes lie unread and say nothing about the listener.
        stalled, self._ticked_ns = now_ns - self._ticked_ns > TICK_MAX_NS, now_ns
        if stalled:
            self.flush()
        else:
            self._measure(now_ns)
        self._resting = self._rests()
        return self._resting

    def _rests(self) -> bool:
        """Whether nothing was sent in the last second, nothing waits, and all is known to have arrived."""
        outlet = self.outlet
        idle = outlet.sent_bytes == self._rate_mark[1] and outlet.rests and not (self._bitrate or self._behind_ns)
        return idle and outlet.sent_packets == self._probed_packets

    def _room_for(self) -> bool:
        return self._behind_ns < BEHIND_MAX_NS and self._room()

    # What the listener has not received yet waits in kernels, proxies and routers, where nothing can be dropped. So no
    # more is written while it is too far behind, and the outlet's queue drops what is old.
    def _measure(self, now_ns: HostNs) -> None:
        """Find out how far behind the listener is, and send what it may have."""
        self._behind_ns = self.wire.probes.behind_ns(now_ns)
        self.flush()
        if self.outlet.sent_packets != self._probed_packets and not self.outlet.queued and self._room_for():
            self._probed_packets = self.outlet.sent_packets
            self.wire.probe(now_ns)
            self.flush()

    def closed(self) -> None:
        """The connection or its rights are gone."""
        if self._left:
            return
        self._left = True
        self.account.close()
        microphone, self.microphone = self.microphone, None
        try:
            if microphone is not None:
                microphone.remove()
        finally:
            self.guest.outlets.leave(self.outlet)
            self.guest.latency_changed()

    def displace(self, why: str) -> None:
        """Its place and its memory are somebody else's from now on."""
        self._end(self, why)

    # -- events ------------------------------------------------------------------------------

    def _handle(self, event: FromListener | AudioPacket, now_ns: HostNs) -> None:
        if isinstance(event, AudioPacket):
            if self.microphone is not None:
                self.microphone.push(event, now_ns)
        elif isinstance(event, Hello):
            self._greet(event)
        elif isinstance(event, Configure):
            try:
                self.configure(event.settings)
            except (ConfigError, BudgetError) as error:
                self.wire.send_message(Fault("settings", str(error)))
        elif isinstance(event, Report):
            event.breakdown = {name: event.breakdown[name] for name in BREAKDOWN if name in event.breakdown}
            event.output = event.output[:_NAME_MAX]
            self.report = event
            self.drift.observe(event.drift_ppm if event.locked else None, now_ns)
            self._feed_back_loss()
            self.guest.latency_changed()
        elif isinstance(event, Trouble):
            report_trouble(self.guest, self.principal, self.key, event, now_ns)
        elif isinstance(event, FormatChanged):
            if self.microphone is not None:
                self._set_format(self.microphone, event.format)
        elif isinstance(event, Silence):
            if self.microphone is not None:
                self.microphone.stop()
        elif isinstance(event, Bye):
            self.closing = True

    def _may_queue(self, size: int) -> bool:
        return self.account.fits("queue", size, LISTENERS)

    def _dropped(self) -> None:
        evidence = {
            "queued": self.outlet.queued, "behind_ms": round(self._behind_ns / NS_PER_MS, 1),
            "rtt_ms": round((self.rtt_ns or 0) / NS_PER_MS, 1),
        }  # fmt: skip
        self.guest.report(self.silent("send", "line full", evidence, now_ns()))

    def silent(self, stage: str, cause: str, evidence: Evidence, now_ns: HostNs) -> Symptom:
        """A symptom dated back to the listener's last message, if that is long ago."""
        return last_heard(stage, cause, self.guest.name, self.outlet.key, evidence, self.heard_ns, now_ns)

    # Loss is measured over at least `LOSS_PACKETS` packets: the listener's own count of those lost, over those sent.
    # In a shorter interval a single lost packet would look like heavy loss, and the encoder would spend its bits on
    # redundancy.
    def _feed_back_loss(self) -> None:
        """Pass the recent packet loss on to the encoder."""
        sent, lost = self.outlet.sent_packets, self.report.lost
        sent_before, lost_before = self._loss_mark
        if sent - sent_before < LOSS_PACKETS:
            return
        missed = 0 if lost_before is None else max(0, lost - lost_before)
        self._loss_mark = sent, lost
        self.outlet.loss_percent = min(100, round(100 * missed / (sent - sent_before)))
        if self.outlet.group is not None:
            self.outlet.group.update_loss()

    # What the listener asks for (version, settings, sink) is checked before Welcome. Welcome is on its way before the
    # outlet joins, because joining sends the format and may send sound at once.
    def _greet(self, hello: Hello) -> None:
        if hello.version != VERSION:
            raise RemoteProtocolError(
                f"unsupported version of the peer protocol: {hello.version}; this daemon speaks {VERSION}"
            )

        outlet = self.outlet
        outlet.name = (hello.name or self.principal.label)[:_NAME_MAX] or self.address
        outlet.latency, self.latency = asked_of_daemon(hello.latency), hello.latency
        outlet.tracks = hello.tracks
        outlet.codecs = tuple(c for c in hello.codecs if c in CODECS)
        base = CodecSettings(application="lowdelay" if outlet.latency == "low" else "audio")
        outlet.settings, self._codec_reason = self._agreed(changed(base, hello.settings))
        sink = self._find_sink(hello.sink)
        self._in_force = outlet.settings
        self.wire.send_message(Welcome(outlet.id, self.guest.name, sink.name, self._shown()))
        self.flush()
        self.guest.outlets.join(outlet, sink)
        self._offered = hello.microphone
        self.may_speak = self.guest.config.microphone and self.guest.admission.may_speak(self.principal)
        try:
            self.microphone = self._make_microphone() if self.may_speak else None
        except GraphError as error:
            self.refuse_microphone(error)
        self.update_microphone()

    # -- the microphone ----------------------------------------------------------------------

    @property
    def microphone_state(self) -> str:
        """off (not offered), forbidden, ready, or on (while something in the guest records)."""
        if not self._offered:
            return "off"
        if not self.may_speak:
            return "forbidden"
        return "on" if self.guest.recording else "ready"

    # The microphone's stream exists while the listener *may* speak; the listener sends only while something
    # *records*. So it is listed, and can be muted or given a volume, before it is ever heard. It is created only
    # after the offer in Hello.
    def update_microphone(self) -> None:
        """Tell the listener whether it may speak and is being recorded, if either has changed."""
        if not self._offered or self._left:
            return
        if not self.may_speak and self.microphone is not None:
            self.microphone.remove()
            self.microphone = None
            self.guest.outlets.retry()
        state = (self.may_speak, self.may_speak and self.guest.recording)
        if state != self._told:
            self._told = state
            self.wire.send_message(Microphone(*state))
            self.flush()

    def _set_format(self, microphone: MicrophoneStream, fmt: CodecParameters) -> None:
        """Its packets have this format from now on. Without room for them it is refused, and the listener plays on."""
        try:
            microphone.set_format(fmt)
        except BudgetError as error:
            self.refuse_microphone(error)

    def refuse_microphone(self, why: GraphError) -> None:
        """There is no room for its microphone, which may be switched on again later."""
        self.may_speak = False
        self.update_microphone()
        self.wire.send_message(Fault.of(why))
        self.flush()

    def _make_microphone(self) -> MicrophoneStream | None:
        """A stream for the listener's microphone, unless it has one or offers none."""
        if self.microphone is not None or not self._offered or self._left:
            return None
        guest, outlet = self.guest, self.outlet
        others = partial(guest.make_room, "microphone", self.principal)
        return MicrophoneStream(guest.graph, guest.microphone, outlet.name, outlet.key, others)

    def _find_sink(self, name: str | None) -> Sink:
        graph = self.guest.graph
        for sink in graph.sinks.values():
            if name is not None and (name == sink.key or sink.answers_to(name)):
                return sink
        if name is not None:
            raise missing_sink(self.guest.name, name, (sink.name for sink in graph.sinks.values()))
        assert graph.default is not None
        return graph.default

    def _agreed(self, wanted: CodecSettings) -> tuple[CodecSettings, str]:
        """The wanted codec if the listener supports it, else the best that it does, and the reason."""
        codecs = self.outlet.codecs
        if wanted.codec in codecs:
            return wanted, ""
        for codec in CODECS:
            if codec in codecs:
                return changed(wanted, {"codec": codec}), f"the listener can't decode {wanted.codec}"
        raise RemoteProtocolError(f"no common codec: this daemon has {', '.join(CODECS)}")

    # All or nothing: first everything is checked, then comes what may find no memory (the microphone's stream, then the
    # encoder), and only then is anything changed.
    def configure(self, changes: dict[str, str]) -> CodecSettings:
        """Change settings during playback; ConfigError says what is wrong. If it is refused, nothing has changed."""
        rest = dict(changes)
        spoken, latency = rest.pop("mic", None), rest.pop("latency", self.latency)
        asked = asked_of_daemon(latency)
        settings, reason = self._agreed(changed(self.outlet.settings, rest))
        may_speak = self.may_speak if spoken is None else self._checked_switch(spoken)
        microphone = self._make_microphone() if may_speak else None
        try:
            self.guest.outlets.configure(self.outlet, settings)
        except MillraceError:
            if microphone is not None:
                microphone.remove()
            raise
        self._codec_reason, self.may_speak, self.latency, self.outlet.latency = reason, may_speak, latency, asked
        self.microphone = microphone or self.microphone
        self.update_microphone()
        if self.outlet.group is not None:
            self.outlet.group.update_latency()
        self._tell_settings()
        return settings

    def _tell_settings(self) -> None:
        self._in_force = self.outlet.shares
        self.wire.send_message(Configured(self._shown()))
        self.flush()

    def _checked_switch(self, text: str) -> bool:
        """Whether the microphone is switched on; ConfigError if the listener may not speak."""
        on = parse_switch(text, "mic")
        if on and not self.guest.admission.may_speak(self.principal):
            raise ConfigError(f"mic: {self.principal.key} has no right to speak in guest {self.guest.name}")
        return on

    def _shown(self) -> dict[str, Any]:
        shown = self.outlet.shares.as_dict() | {"latency": self.latency}
        displaced = self.outlet.shares != self.outlet.settings
        if reason := DISPLACED if displaced else self._codec_reason:
            shown["reason"] = reason
        return shown

    def fault(self, error: MillraceError) -> None:
        """Tell the listener which error ends the session."""
        self.outlet.send(encode_message(Fault.of(error, fatal=True)))

    def forget(self) -> None:
        """Let go of the connection."""
        self.outlet.forget()

    def stop(self, why: str) -> list[str | bytes]:
        """See `Attendee`."""
        self.outlet.forget()
        self.wire.send_message(Bye(why, again=False))
        return list(self.wire.data_to_send())

    def bye(self, reason: str, again: bool) -> None:
        """Tell the listener that the session ends."""
        self.wire.send_message(Bye(reason, again))
        self.flush()
