"""Explain: the whole path of a stream in plain words. Every stage that changes the sound says so."""

from __future__ import annotations

import msgspec
import numpy as np

from millrace.codec.settings import CodecSettings
from millrace.doors.ingress import IngressStatus, RecorderStatus, described, status_of
from millrace.dsp.mix import gain_to_cubic
from millrace.graph.model import Levelled, Link, Sink, Stream, Tap
from millrace.guest.guest import Guest
from millrace.guest.listener import ListenerSession
from millrace.media.format import AudioFormat
from millrace.observe.views import latency_ms
from millrace.rights.grants import Permission
from millrace.text import counted


class Step(msgspec.Struct, frozen=True):
    """One stage of the path; `changes` says whether the stage alters the sound."""

    stage: str
    text: str
    changes: bool = False


LIMITED = Step("limiter", "peaks over full scale are limited; nothing else is changed")


def explain_stream(guest: Guest, stream: Stream) -> list[Step]:
    """Where a stream comes from, what is done to it, and who hears it."""
    status = status_of(stream)
    steps = [_who(stream, status), *_came_in(guest, stream, status), level("volume", stream)]
    for link in stream.links:
        steps += _linked(guest, stream.key, len(stream.positions), link, seen=set())
    if stream.underruns:
        steps.append(
            Step("faults", f"{counted(stream.underruns, 'underrun')}; `millrace incidents --about {stream.key}`")
        )
    return steps


def _who(stream: Stream, status: IngressStatus) -> Step:
    label = stream.props.get("application.name") or stream.name
    role = stream.props.get("media.role", "")
    head = f"{label!r}" + (f", role {role}" if role else "") + f", is {stream.state.value}"
    return Step("client", f"{head}; {status.origin}")


def _came_in(guest: Guest, stream: Stream, status: IngressStatus) -> list[Step]:
    if status.format is None:
        return [Step("format", f"at the guest's own {guest.graph.rate} Hz, {_channels(stream.positions)}")]
    steps = [Step("format", _format(status.format)), Step("buffer", status.buffer)]
    if status.playout is None:
        return [*steps, _resampling(status.format.rate, guest.graph.rate, status.resampler)]
    drift = status.playout.drift_ppm
    clock = "its clock is not measured yet" if drift is None else f"its clock is {drift:+.1f} ppm from this machine's"
    return [*steps, Step("clock", f"{clock}; resampling follows it, a few ppm at a time", changes=True)]


def _format(fmt: AudioFormat) -> str:
    return f"{fmt.name}, {fmt.rate} Hz, {_channels(fmt.positions)}"


def _channels(positions: tuple[str, ...]) -> str:
    return f"{len(positions)} channels ({', '.join(positions)})" if len(positions) > 1 else positions[0]


def _resampling(rate: int, own: int, method: str | None) -> Step:
    if method is None:
        return Step("resampling", f"none: the guest also runs at {own} Hz")
    text = f"{rate} to {own} Hz by {method}, because the guest's graph runs at {own} Hz"
    return Step("resampling", text, changes=True)


def level(stage: str, node: Levelled) -> Step:
    """The volume of a stream or sink."""
    percents = sorted({round(gain_to_cubic(gain) / 655.36) for gain in node.gains})
    text = "/".join(f"{p} %" for p in percents) + (", muted" if node.mute else "")
    if node.trim != 1.0:
        text += f", attenuated by {-20 * np.log10(node.trim):.0f} dB by a session manager"
    return Step(stage, text, changes=node.effective_gains != (1.0,) * len(node.gains))


def _linked(guest: Guest, key: str, channels: int, link: Link, seen: set[int]) -> list[Step]:
    sink = link.target
    if sink.id in seen:
        return []
    seen.add(sink.id)
    if link.matrix is not None:
        steps = [Step("link", f"{key} to {sink.key} through its own matrix: {link.matrix.tolist()}", changes=True)]
    elif channels != len(sink.positions):
        text = f"{key} to {sink.key}: {counted(channels, 'channel')} mixed to {len(sink.positions)}"
        steps = [Step("link", text, changes=True)]
    else:
        steps = [Step("link", f"{key} to {sink.key}, unchanged")]
    steps.append(level(f"{sink.kind} {sink.name}", sink))
    steps.append(LIMITED)
    steps += [heard(session) for session in guest.sessions if _hears(session, sink)]
    for further in sink.links:
        steps += _linked(guest, sink.key, len(sink.positions), further, seen)
    return steps


def _hears(session: ListenerSession, sink: Sink) -> bool:
    group = session.outlet.group
    return group is not None and group.sink is sink


def heard(session: ListenerSession) -> Step:
    """A listener: what it receives, and how late."""
    outlet, report = session.outlet, session.report
    text = (
        f"{outlet.key} {outlet.name!r} receives {codec_of(outlet.shares)},"
        f" playing on {report.output or 'an unnamed output'}; {late(session)}; allowed by {session.principal.key}"
    )
    return Step("listener", text, changes=True)


def codec_of(s: CodecSettings) -> str:
    """How sound is encoded with these settings."""
    if s.codec == "opus":
        extras = [name for name, on in (("FEC", s.fec), ("DTX", s.dtx), ("VBR", s.vbr)) if on]
        return ", ".join((f"Opus at {s.bitrate // 1000} kb/s", f"complexity {s.complexity}", *extras))
    return f"{s.codec}, lossless" if s.codec != "s16" else "s16, exact to 16 bits"


def late(session: ListenerSession) -> str:
    """How late a listener hears, and how its clock runs."""
    latency, report = latency_ms(session), session.report
    if latency is None:
        return "no latency: it writes a file or is not playing"
    clock = "the clocks are being measured"
    if session.drift.settled:
        clock = f"its clock runs {_against(report.drift_ppm)}, which resampling corrects"
    return f"latency {latency:.1f} ms (`millrace latency`), {clock}"


def _against(ppm: float) -> str:
    about = round(abs(ppm))
    return f"about {about} ppm {'fast' if ppm > 0 else 'slow'}" if about else "as this machine's does"


def explain_recorder(guest: Guest, node: Tap, recorder: RecorderStatus) -> list[Step]:
    """A recorder: what it records, in which format, and which rule permits it."""
    sink, identity = node.sink, recorder.identity
    what = Permission.MICROPHONE if sink is not None and sink.capture else Permission.MONITOR
    rules = {(p, name): verdict for p, name, verdict in guest.admission.grants}
    named = next((name for name in (*identity.names, "*") if (what, name) in rules), None)
    rule = f"by the rule for {named!r}" if named else "because no rule says otherwise"
    return [
        Step("client", f"{node.name!r}, {described(identity)}"), Step("source", sink.key if sink else "nothing"),
        Step("format", _format(recorder.format)), Step("rights", f"it may record the {what.value}, {rule}"),
    ]  # fmt: skip
