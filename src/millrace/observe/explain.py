"""Explain: a stream's whole way in plain words. No stage changes the sound without saying so."""

from __future__ import annotations

from typing import Any

import numpy as np

from millrace.dsp.convert import NAMES
from millrace.dsp.mix import gain_to_cubic
from millrace.graph.model import Levelled, Link, Sink, Stream
from millrace.guest.guest import Guest
from millrace.guest.listener import ListenerSession
from millrace.observe.views import latency_ms
from millrace.rights.grants import Permission, Subject
from millrace.text import counted

Step = dict[str, Any]


def _step(stage: str, text: str, changes: bool = False) -> Step:
    """`changes`: whether the sound leaves this stage other than it came."""
    return {"stage": stage, "text": text, "changes": changes}


def explain_stream(guest: Guest, stream: Stream) -> list[Step]:
    """Where it comes from, what is done to it, and who hears it."""
    steps = [_who(guest, stream), *_came_in(guest, stream), _level("volume", stream)]
    for link in stream.links:
        steps += _linked(guest, stream.key, len(stream.positions), link, seen=set())
    if stream.underruns:
        steps.append(_step("faults", f"it ran dry {stream.underruns} times; `millrace incidents --about {stream.key}`"))
    return steps


def _who(guest: Guest, stream: Stream) -> Step:
    pulse, native = guest.door.playback.get(stream.id), guest.native.get(stream.id)
    label = stream.props.get("application.name") or stream.name
    role = stream.props.get("media.role", "")
    head = f"{label!r}" + (f", role {role}" if role else "") + f", is {stream.state.value}"
    if pulse is not None:
        client = guest.door.clients.get(pulse.owner.index)
        who = f"{head}; it came by PulseAudio"
        return _step("client", who + (f" from {_identity(client.subject)}" if client else ""))
    if native is not None:
        return _step("client", f"{head}; it came by the native protocol from process {native.pid}")
    return _step("client", f"{head}; it comes from {_sender(guest, stream)}")


def _sender(guest: Guest, stream: Stream) -> str:
    door = next((a for a in guest.attachments if a.stream(stream.id)), None)
    if door is not None:
        return str(door.view()["door"])
    speaker = _speaker(guest, stream)
    return f"the microphone of {speaker}" if speaker else "somewhere that is not known here"


def _speaker(guest: Guest, stream: Stream) -> str:
    """The listener whose microphone it is, if it is one."""
    spoken = (s for s in guest.sessions if s.microphone is not None and s.microphone.node is stream)
    return next((s.outlet.key for s in spoken), "")


def _identity(subject: Subject) -> str:
    identity = subject.identity
    if not identity.pid:
        return "a connection whose program is not known"
    return f"{identity} (process {identity.pid} of user {identity.uid})"


def _came_in(guest: Guest, stream: Stream) -> list[Step]:
    graph = guest.graph
    pulse, native = guest.door.playback.get(stream.id), guest.native.get(stream.id)
    pushed = next((s for a in guest.attachments if (s := a.stream(stream.id))), None)
    if pulse is not None:
        fmt, attr, ns = pulse.format, pulse.attr, pulse.layout.to_ns
        steps = [
            _step("format", f"{NAMES[fmt.sample]}, {fmt.rate} Hz, {_channels(fmt.positions)}"),
            _step("buffer", f"the application asked for {ns(attr.tlength) / 1e6:.0f} ms, and starts when "
                  f"{ns(attr.prebuf) / 1e6:.0f} ms are there; {ns(pulse.queue.length) / 1e6:.0f} ms are in it now"),
        ]  # fmt: skip
        return [*steps, _resampling(fmt.rate, graph.rate, pulse.resample_method)]
    if native is not None:
        fill, target = (frames * 1000 / native.format.rate for frames in (native.fill, native.target))
        steps = [
            _step("format", f"{native.format.name}, {native.format.rate} Hz, {_channels(native.format.positions)}"),
            _step("buffer", f"a ring of {target:.0f} ms, as the application asked; {fill:.0f} ms are in it now"),
        ]
        return [*steps, _resampling(native.format.rate, graph.rate, native.resample_method)]
    if pushed is None:
        return [_step("format", f"at the guest's own {graph.rate} Hz, {_channels(stream.positions)}")]
    drift = pushed.drift_ppm
    clock = "its clock is not known yet" if drift is None else f"its clock is {drift:+.1f} ppm from this machine's"
    return [
        _step("format", f"{pushed.format.name}, {pushed.format.rate} Hz, {_channels(pushed.format.positions)}"),
        _step("buffer", f"a machine sends when it likes: {pushed.margin_ns / 1e6:.0f} ms are kept in hand"),
        _step("clock", f"{clock}; it is followed by resampling, a few ppm at a time", changes=True),
    ]


def _channels(positions: tuple[str, ...]) -> str:
    return f"{len(positions)} channels ({', '.join(positions)})" if len(positions) > 1 else positions[0]


def _resampling(rate: int, own: int, method: str | None) -> Step:
    if method is None:
        return _step("resampling", f"none: the guest runs at {own} Hz too")
    text = f"{rate} to {own} Hz by {method}, because the guest's graph runs at {own} Hz"
    return _step("resampling", text, changes=True)


def _level(stage: str, node: Levelled) -> Step:
    percents = sorted({round(gain_to_cubic(gain) / 655.36) for gain in node.gains})
    text = "/".join(f"{p} %" for p in percents) + (", muted" if node.mute else "")
    if node.trim != 1.0:
        text += f", turned down by {-20 * np.log10(node.trim):.0f} dB by a session manager"
    return _step(stage, text, changes=node.effective_gains != (1.0,) * len(node.gains))


def _linked(guest: Guest, key: str, channels: int, link: Link, seen: set[int]) -> list[Step]:
    sink = link.target
    if sink.id in seen:
        return []
    seen.add(sink.id)
    if link.matrix is not None:
        steps = [_step("link", f"{key} to {sink.key} by a matrix of its own: {link.matrix.tolist()}", changes=True)]
    elif channels != len(sink.positions):
        text = f"{key} to {sink.key}: {counted(channels, 'channel')} mixed to {len(sink.positions)}"
        steps = [_step("link", text, changes=True)]
    else:
        steps = [_step("link", f"{key} to {sink.key}, as it is")]
    steps.append(_level(f"{sink.kind} {sink.name}", sink))
    steps.append(_step("limiter", "peaks over full scale are limited; the rest is left as it is"))
    steps += [_heard(session) for session in guest.sessions if _hears(session, sink)]
    for further in sink.links:
        steps += _linked(guest, sink.key, len(sink.positions), further, seen)
    return steps


def _hears(session: ListenerSession, sink: Sink) -> bool:
    group = session.outlet.group
    return group is not None and group.sink is sink


def _heard(session: ListenerSession) -> Step:
    outlet, report = session.outlet, session.report
    s = outlet.settings
    if s.codec == "opus":
        extras = [name for name, on in (("FEC", s.fec), ("DTX", s.dtx), ("VBR", s.vbr)) if on]
        codec = ", ".join((f"Opus at {s.bitrate // 1000} kb/s", f"complexity {s.complexity}", *extras))
    else:
        codec = f"{s.codec}, lossless" if s.codec != "s16" else "s16, exact to 16 bits"
    text = (
        f"{outlet.key} {outlet.name!r} hears it by {codec}, on {report.output or 'an output that it does not name'};"
        f" {_late(session)}; allowed by {session.principal.key}"
    )
    return _step("listener", text, changes=True)


def _late(session: ListenerSession) -> str:
    latency, report = latency_ms(session), session.report
    if latency is None:
        return "no latency: it writes a file, or plays nothing now"
    clock = f"its card runs {report.drift_ppm:+.1f} ppm fast, and is followed"
    return f"latency {latency:.1f} ms (`millrace latency`), {clock if report.locked else 'clocks are being learnt'}"


def explain_recorder(guest: Guest, id_: int) -> list[Step]:
    """A recorder: what it hears, in which format, and which rule lets it."""
    record, native = guest.door.records.get(id_), guest.native_records.get(id_)
    if record is not None:
        client = guest.door.clients.get(record.owner.index)
        subject, node = (client.subject if client else Subject()), record.node
        fmt = f"{NAMES[record.format.sample]}, {record.format.rate} Hz, {_channels(record.format.positions)}"
    else:
        assert native is not None
        subject, node = Subject(), native.node
        fmt = f"{native.format.name}, {native.format.rate} Hz, {_channels(native.format.positions)}"
    sink = node.sink
    what = Permission.MICROPHONE if sink is not None and sink.capture else Permission.MONITOR
    rules = {(p, name): verdict for p, name, verdict in guest.admission.grants}
    named = next((name for name in (*subject.identity.names, "*") if (what, name) in rules), None)
    rule = f"by the rule for {named!r}" if named else "as no rule says otherwise"
    return [
        _step("client", f"{node.name!r}, {_identity(subject)}"), _step("source", sink.key if sink else "nothing"),
        _step("format", fmt), _step("rights", f"it may record the {what.value}, {rule}"),
    ]  # fmt: skip
