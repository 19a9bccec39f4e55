"""What `millrace ls` and the API show."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable
from typing import Any, TypeVar

from millrace.budget import Budget
from millrace.doors.ingress import IngressStatus, PlayoutStatus, Program, recorder_of, status_of
from millrace.dsp.mix import gain_to_cubic
from millrace.graph.graph import Graph
from millrace.graph.model import Levelled, Sink, Stream, Tap
from millrace.guest.config import stream_table
from millrace.guest.guest import Guest
from millrace.guest.listener import ListenerSession

View = dict[str, Any]
T = TypeVar("T")


def _volume(node: Levelled) -> View:
    percents = [round(gain_to_cubic(g) / 655.36) for g in node.gains]
    return {"volume": percents[0] if len(set(percents)) == 1 else percents, "mute": node.mute}


def sink_view(guest: Guest, sink: Sink) -> View:
    """One sink."""
    return {
        "id": sink.key, "name": sink.name, "aliases": list(sink.aliases),
        "description": sink.description, "state": sink.state.value,
        "default": guest.graph.default is sink, "channels": len(sink.positions), "rate": guest.graph.rate,
        "peak": round(sink.level, 4), "rms": round(sink.rms, 4),
        "linked_to": [link.target.key for link in sink.links], **_volume(sink),
    }  # fmt: skip


def _remembered(guest: Guest, stream: Stream) -> View:
    """Under which key a session manager remembers it, and what is remembered there."""
    group = guest.door.group(stream)
    rule = guest.door.rules.restored(group)
    out: View = {"key": stream_table(guest.name) + group, "levels": [], "mute": None, "sink": None}
    if rule is not None:
        levels = rule.fitted(stream.positions)
        out |= {"levels": list(levels), "mute": rule.mute, "sink": f"sink/{rule.device}" if rule.device else None}
    return out


def stream_view(guest: Guest, stream: Stream) -> View:
    """One stream."""
    out: View = {
        "id": stream.key, "name": stream.name, "state": stream.state.value, "sink": stream.sink.key,
        "linked_to": [link.target.key for link in stream.links],
        "application": stream.props.get("application.name", ""), "role": stream.props.get("media.role", ""),
        "map": ",".join(stream.positions), "levels": [gain_to_cubic(g) for g in stream.gains],
        "remembered": _remembered(guest, stream), "chosen": list(stream.chosen), "placed": stream.placed,
        "ducked_db": round(20 * math.log10(stream.trim), 1),
        "underruns": stream.underruns,
        "ahead_ms": round(guest.graph.ahead(stream) * 1000 / guest.graph.rate, 1), **_volume(stream),
    }  # fmt: skip
    return out | ingress_view(status_of(stream))


def ingress_view(status: IngressStatus) -> View:
    """What a door tells of a stream; nothing where it is made in the graph's own format."""
    if status.format is None:
        return {}
    out: View = {
        "door": status.door, "format": status.format.name, "rate": status.format.rate,
        "channels": len(status.format.positions), "corked": status.corked, "fill_ms": round(status.fill_ns / 1e6, 1),
    }  # fmt: skip
    return out | ({"resampler": status.resampler} if status.playout is None else _playout_view(status.playout))


def _playout_view(playout: PlayoutStatus) -> View:
    percent, drift = playout.real_time_percent, playout.drift_ppm
    return {
        "margin_ms": round(playout.target_ns / 1e6, 1), "latency_ms": round(playout.latency_ns / 1e6, 1),
        "underruns": playout.underruns, "bridged": playout.concealed, "skipped": playout.skipped,
        "guest_volume": list(playout.gains), "frames": playout.frames,
        "real_time_percent": None if percent is None else round(percent, 2),
        "drift_ppm": None if drift is None else round(drift, 1),
    }  # fmt: skip


def microphone_view(session: ListenerSession) -> View:
    """A listener's microphone."""
    out: View = {"state": session.microphone_state}
    if session.microphone is None:
        return out
    status = session.microphone.status()
    if (playout := status.playout) is not None:
        out |= {
            "stream": session.microphone.node.key, "fill_ms": round(status.fill_ns / 1e6, 1),
            "target_ms": round(playout.target_ns / 1e6, 1), "underruns": playout.underruns,
            "bridged": playout.concealed, "lost": playout.lost, "skipped": playout.skipped,
            "splices": playout.splices,
        }  # fmt: skip
    return out


def latency_ms(session: ListenerSession) -> float | None:
    """From the mix to the ear, as the listener reports it; None while it plays nothing, and always where it writes a
    file: what is in that is heard at no moment of the bus."""
    return round(session.report.latency_ns / 1e6, 2) or None


def listener_view(session: ListenerSession) -> View:
    """One listener."""
    outlet, report, latency = session.outlet, session.report, latency_ms(session)
    group = outlet.group
    return {
        "id": outlet.key, "name": outlet.name, "address": session.address,
        "by": session.principal.key, "sink": group.sink.key if group else None,
        "settings": outlet.settings.as_dict(), "latency_profile": session.latency,
        "microphone": microphone_view(session), "bitrate": session.bitrate(),
        "latency_ms": None if latency is None else round(latency, 1), "fill_ms": round(report.fill_ns / 1e6, 1),
        "ledger_ms": {name: round(ns / 1e6, 2) for name, ns in report.breakdown.items()},
        "target_ms": round(report.target_ns / 1e6, 1), "drift_ppm": report.drift_ppm, "locked": report.locked,
        "underruns": report.underruns, "bridged": report.concealed, "lost": report.lost, "skipped": report.skipped,
        "loss_percent": outlet.loss_percent, "output": report.output,
        "sent_packets": outlet.sent_packets, "dropped_packets": outlet.dropped_packets, "queued": outlet.queued,
        "rtt_ms": None if session.rtt_ns is None else round(session.rtt_ns / 1e6, 2),
    }  # fmt: skip


def recorder_view(node: Tap) -> View:
    """One recorder."""
    return {
        "id": f"recorder/{node.id}", "name": node.name, "sink": node.sink.key if node.sink else None,
        "running": node.clocked, "application": node.props.get("application.name", ""),
    }  # fmt: skip


def client_view(client: Program) -> View:
    """One program's connection."""
    identity = client.subject.identity
    return {
        "id": f"client/{client.index}", "name": client.name,
        "program": str(identity), "sandbox": identity.sandbox, "pid": identity.pid, "uid": identity.uid,
    }  # fmt: skip


def guest_summary(guest: Guest) -> View:
    """One guest, without what is in it."""
    graph = guest.graph
    return {
        "id": f"guest/{guest.id}", "name": guest.name, "rate": graph.rate, "channels": len(graph.positions),
        "pulse": str(guest.pulse_path), "native": str(guest.native_path),
        "default": graph.default.key if graph.default is not None else None,
    }  # fmt: skip


def _all(view: Callable[[T], View], things: Iterable[T]) -> Generator[None, None, list[View]]:
    """A view of each, in steps."""
    out: list[View] = []
    for thing in list(things):
        out.append(view(thing))
        yield
    return out


def memory_view(budget: Budget) -> View:
    """What a guest makes the daemon hold, in bytes, what it may, and for what."""
    return {"held": budget.held, "max": budget.limit, "refused": budget.refusals, "for": budget.shares()}


def _recorders(graph: Graph) -> list[Tap]:
    """The recorders of programs, those of one door after those of another."""
    told = [(tap, recorder_of(tap)) for tap in graph.taps.values()]
    found = [(tap, recorder.door) for tap, recorder in told if recorder is not None]
    return [tap for tap, _ in sorted(found, key=lambda one: one[1], reverse=True)]


def guest_view(guest: Guest) -> Generator[None, None, View]:
    """One guest with everything in it, in steps."""
    graph = guest.graph
    return {
        "name": guest.name, "state": "running" if graph.running else "idle", "rate": graph.rate,
        "quantum_ms": round(graph.quantum_ns / 1e6, 2), "late_cycles": graph.late_cycles,
        "clients": len(guest.door.clients), "memory": memory_view(guest.graph.budget),
        "refused_logins": guest.admission.refused_logins, "refused_captures": guest.admission.refused_captures,
        "pulse": str(guest.pulse_path), "pulse_tcp": guest.pulse_tcp, "native": str(guest.native_path),
        "sinks": (yield from _all(lambda sink: sink_view(guest, sink), graph.sinks.values())),
        "sources": (yield from _all(lambda source: sink_view(guest, source), graph.sources.values())),
        "doors": [machine.view() for machine in guest.machines],
        "streams": (yield from _all(
            lambda stream: stream_view(guest, stream), (s for s in graph.streams.values() if s.links)
        )),
        "recorders": (yield from _all(recorder_view, _recorders(guest.graph))),
        "listeners": (yield from _all(listener_view, guest.sessions)),
    }  # fmt: skip
