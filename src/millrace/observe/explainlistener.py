"""Explain a listener: what it hears, what is done to that on its way, and where the time goes."""

from __future__ import annotations

from millrace.codec.settings import show_settings
from millrace.graph.accounts import linked
from millrace.graph.model import Sink, Stream
from millrace.guest.guest import Guest
from millrace.guest.listener import ListenerSession
from millrace.observe.explain import LIMITED, Step, codec_of, explain_stream, late, level
from millrace.observe.latency import of_listener
from millrace.observe.views import microphone_view
from millrace.outlets.peer import SharedEncoder
from millrace.text import counted

NAMED_MAX = 5
"""Streams, and listeners of one encoder, that are named."""


def explain_heard(guest: Guest, thing: Stream | ListenerSession) -> list[Step]:
    """A stream or a listener."""
    return explain_stream(guest, thing) if isinstance(thing, Stream) else explain_listener(guest, thing)


def explain_listener(guest: Guest, session: ListenerSession) -> list[Step]:
    """A listener: its sink and what plays there, its encoder and settings, where the time goes, and what went wrong."""
    steps, group = [Step("listener", _who(session))], session.outlet.group
    if group is None:
        steps.append(Step("sink", "none now, so it hears nothing"))
    else:
        steps += [*_sink(guest, group.sink), *_encoder(guest, session, group), Step("line", _line(session))]
    steps += [Step(stage.stage, f"{stage.ns / 1e6:.1f} ms: {stage.why}") for stage in of_listener(session)]
    steps += [Step("latency", late(session)), *_faults(session), Step("microphone", _microphone(session))]
    watching = [viewer.key for viewer in guest.viewers.of_listener(session.key)]
    return [*steps, *([Step("viewer", f"{_few(watching)}: pictures in time with this sound")] if watching else [])]


def _who(session: ListenerSession) -> str:
    rtt = "" if session.rtt_ns is None else f", round trip {session.rtt_ns / 1e6:.1f} ms"
    output = session.report.output or "an unnamed output"
    return f"{session.outlet.name!r} at {session.address}{rtt}, playing on {output}; allowed by {session.principal.key}"


def _sink(guest: Guest, sink: Sink) -> list[Step]:
    """The sink or source that it hears, and what plays there."""
    nodes: list[Stream | Sink] = [*guest.graph.streams.values(), *guest.graph.sinks.values()]
    playing = [f"{node.key} {node.name!r}" for node in nodes if linked(node, sink)]
    text = f"{sink.key}, in which {_few(playing)} {'play' if len(playing) > 1 else 'plays'}"
    steps = [Step("hears", text if playing else f"{sink.key}, in which nothing plays")]
    return [*steps, level(f"{sink.kind} {sink.name}", sink), LIMITED]


def _encoder(guest: Guest, session: ListenerSession, group: SharedEncoder) -> list[Step]:
    """What its encoder does, for whom else, and whether it does what the listener asked for."""
    own, rate, positions = session.outlet.settings, guest.graph.rate, group.tap.positions
    steps = []
    if positions != group.sink.positions:
        text = f"{counted(len(group.sink.positions), 'channel')} mixed to {len(positions)}, as channels={own.channels}"
        steps.append(Step("channels", text, changes=True))
    if group.rate != rate:
        text = f"{rate} to {group.rate} Hz, because Opus runs at {group.rate} Hz"
        steps.append(Step("resampling", text, changes=True))
    lossy = group.settings.codec in ("opus", "s16")
    steps.append(Step("codec", f"{codec_of(group.settings)}; {_shared(session, group)}", changes=lossy))
    asked = f"{show_settings(own.as_dict())}, latency={session.latency}"
    if group.settings != own:
        asked += "; it shares the nearest encoder, as there is no room for another"
    return [*steps, Step("settings", asked, changes=group.settings != own)]


def _shared(session: ListenerSession, group: SharedEncoder) -> str:
    others = [outlet.key for outlet in group.outlets if outlet is not session.outlet]
    return f"encoded once for this and {_few(others)}" if others else "encoded for it alone"


def _line(session: ListenerSession) -> str:
    outlet = session.outlet
    queued = f", {counted(outlet.queued, 'packet')} waiting" if outlet.queued else ""
    kept = outlet.dropped_packets
    dropped = f"; {counted(kept, 'packet')} dropped, for which the connection had no room" if kept else ""
    return f"{session.bitrate() / 1000:.0f} kb/s are sent{queued}; {outlet.loss_percent} % lost lately{dropped}"


def _faults(session: ListenerSession) -> list[Step]:
    report = session.report
    told = [counted(report.underruns, "underrun")] * bool(report.underruns)
    told += [f"{counted(report.lost, 'packet')} lost"] * bool(report.lost)
    told += [f"{counted(report.concealed, 'late packet')} concealed"] * bool(report.concealed)
    told += [f"{counted(report.skipped, 'frame')} skipped"] * bool(report.skipped)
    text = f"{', '.join(told)} since it joined; `millrace incidents --about {session.key}`"
    return [Step("faults", text, changes=True)] if told else []


def _microphone(session: ListenerSession) -> str:
    view = microphone_view(session)
    return f"{view.state}, as {view.stream}" if isinstance(view.stream, str) else view.state


def _few(names: list[str]) -> str:
    more = len(names) - NAMED_MAX
    return ", ".join(names[:NAMED_MAX]) + (f" and {more} more" if more > 0 else "")
