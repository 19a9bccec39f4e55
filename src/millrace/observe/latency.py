"""The latency breakdown: how long each stage delays sound on its way to a listener's ear."""

from __future__ import annotations

import msgspec

from millrace.doors.ingress import Stage, status_of
from millrace.graph.model import Stream
from millrace.guest.guest import Guest
from millrace.guest.listener import ListenerSession
from millrace.units import HostNs, frames_to_ns

SOXR_HELD = 657
SINC_HELD = 19
"""Frames that the resamplers hold back, at the graph's rate (measured)."""


def of_stream(guest: Guest, stream: Stream, now_ns: HostNs) -> list[Stage]:
    """From the application's write to the graph's time line: the frame at position p is due at p / rate."""
    graph = guest.graph
    due_ns = max(0, frames_to_ns(graph.position, graph.rate) - now_ns) if graph.running else 0
    quantum = f"a quantum of {graph.quantum_ns / 1e6:g} ms is mixed at a time"
    ahead = Stage("graph", frames_to_ns(graph.ahead(stream), graph.rate), "received from the client, not yet mixed")
    status = status_of(stream)
    return [*status.stages, *_resampler(status.resampler, graph.rate), ahead, Stage("cycle", due_ns, quantum)]


def _resampler(method: str | None, rate: int) -> list[Stage]:
    if method is None:
        return []
    held = SINC_HELD if "sinc" in method else SOXR_HELD
    return [Stage("resampler", frames_to_ns(held, rate), f"{method} holds {held} frames back")]


def of_listener(session: ListenerSession) -> list[Stage]:
    """From the mix to the ear, as the listener reports it."""
    parts = session.report.breakdown
    if not parts:
        return []
    network = parts.get("network", 0)
    device = session.report.output or "its output"
    return [
        Stage("encoder and send", parts.get("path", 0) - network, "packets are sent after the cycle"),
        Stage("network", network, "half the shortest round trip"),
        Stage("codec", parts.get("codec", 0), f"{session.outlet.shares.codec}'s look-ahead"),
        Stage("jitter buffer", parts.get("jitter", 0), f"profile {session.outlet.latency}, adapts to the network"),
        Stage("off target", parts.get("late", 0), "being corrected"),
        Stage("output period", parts.get("period", 0), "what the output pulls at a time"),
        Stage("device", parts.get("device", 0), device),
    ]


class StageView(msgspec.Struct, frozen=True):
    """One stage: its delay, and the reason for it."""

    stage: str
    ms: float
    why: str


class WayView(msgspec.Struct, frozen=True):
    """The path to one listener or viewer. The total that it reports may differ slightly from the sum."""

    listener: str
    name: str
    stages: list[StageView]
    sum_ms: float
    reported_ms: float | None


class Breakdown(msgspec.Struct, frozen=True):
    """The components of the latency of a stream or screen, for each of its listeners or viewers.

    Of a listener or viewer it is only its own, and of a listener from the mix on: `stream` is then its sink.
    """

    stream: str
    name: str
    listeners: list[WayView]


def breakdown(guest: Guest, stream: Stream, now_ns: HostNs) -> Breakdown:
    """The breakdown for every listener of the stream's sinks."""
    first = of_stream(guest, stream, now_ns)
    sinks = {link.target for link in stream.links}
    ways = []
    for session in guest.sessions:
        group = session.outlet.group
        if group is None or group.sink not in sinks:
            continue
        stages, latency_ns = [*first, *of_listener(session)], session.report.latency_ns
        reported_ns = sum(s.ns for s in first) + latency_ns if latency_ns else None
        ways.append(way(session.outlet.key, session.outlet.name, stages, reported_ns))
    return Breakdown(stream.key, stream.name, ways)


def heard_breakdown(session: ListenerSession) -> Breakdown:
    """The breakdown for one listener, from the mix on."""
    outlet, group = session.outlet, session.outlet.group
    one = way(outlet.key, outlet.name, of_listener(session), session.report.latency_ns or None)
    return Breakdown("" if group is None else group.sink.key, "" if group is None else group.sink.name, [one])


def way(key: str, name: str, stages: list[Stage], reported_ns: float | None) -> WayView:
    """The path to one listener or viewer, with the total that it reports itself."""
    return WayView(
        listener=key, name=name, stages=[StageView(s.stage, round(s.ns / 1e6, 2), s.why) for s in stages],
        sum_ms=round(sum(s.ns for s in stages) / 1e6, 2),
        reported_ms=None if reported_ns is None else round(reported_ns / 1e6, 2),
    )  # fmt: skip
