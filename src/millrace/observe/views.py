"""Builds what `millrace ls` and the API show."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable
from typing import TypeVar

from millrace.budget import Budget
from millrace.doors.ingress import IngressStatus, PlayoutStatus, Program, recorder_of, status_of
from millrace.dsp.mix import gain_to_cubic
from millrace.graph.graph import Graph
from millrace.graph.model import Levelled, Sink, Stream, Tap
from millrace.graph.screens import Listed
from millrace.guest.config import stream_table
from millrace.guest.guest import Guest
from millrace.guest.listener import ListenerSession
from millrace.guest.viewer import ViewerSession
from millrace.observe.objects import (
    ClientView,
    GuestSummary,
    GuestView,
    ListenerView,
    MemoryView,
    MicrophoneView,
    RecorderView,
    RememberedView,
    ScreenView,
    SinkView,
    StreamView,
    ViewerView,
)

T = TypeVar("T")
V = TypeVar("V")


def _levels(node: Levelled) -> list[int]:
    return [gain_to_cubic(gain) for gain in node.gains]


def _percent(levels: list[int]) -> int | list[int]:
    percents = [round(level / 655.36) for level in levels]
    return percents[0] if len(set(percents)) == 1 else percents


def _default_like(guest: Guest, mix: Sink) -> Sink | None:
    """The default of its kind: the sink, or the source that is recorded by who names none."""
    return guest.pulse.door.recorded_by_default() if mix.capture else guest.graph.default


def sink_view(guest: Guest, sink: Sink) -> SinkView:
    """One sink."""
    return SinkView(
        id=sink.key, name=sink.name, aliases=list(sink.aliases),
        description=sink.description, state=sink.state.value,
        default=_default_like(guest, sink) is sink, channels=len(sink.positions), rate=guest.graph.rate,
        peak=round(sink.level, 4), rms=round(sink.rms, 4),
        linked_to=[link.target.key for link in sink.links], volume=_percent(_levels(sink)), mute=sink.mute,
    )  # fmt: skip


def _remembered(guest: Guest, stream: Stream) -> RememberedView:
    group = guest.group(stream)
    rule, key = guest.rules.restored(group), stream_table(guest.name) + group
    if rule is None:
        return RememberedView(key)
    sink = f"sink/{rule.device}" if rule.device else None
    return RememberedView(key, list(rule.fitted(stream.positions)), rule.mute, sink)


def stream_view(guest: Guest, stream: Stream) -> StreamView:
    """One stream."""
    levels = _levels(stream)
    out = StreamView(
        id=stream.key, name=stream.name, state=stream.state.value, sink=stream.sink.key,
        linked_to=[link.target.key for link in stream.links],
        application=stream.props.get("application.name", ""), role=stream.props.get("media.role", ""),
        map=",".join(stream.positions), levels=levels,
        remembered=_remembered(guest, stream), chosen=list(stream.chosen), placed=stream.placed,
        ducked_db=round(20 * math.log10(stream.trim), 1), underruns=stream.underruns,
        ahead_ms=round(guest.graph.ahead(stream) * 1000 / guest.graph.rate, 1),
        volume=_percent(levels), mute=stream.mute,
    )  # fmt: skip
    _add_ingress(out, status_of(stream))
    return out


def _add_ingress(out: StreamView, status: IngressStatus) -> None:
    """Add what its door knows of a stream; nothing if it is produced in the graph's own format."""
    if status.format is None:
        return
    out.door, out.format, out.rate = status.door, status.format.name, status.format.rate
    out.channels, out.corked = len(status.format.positions), status.corked
    out.fill_ms = round(status.fill_ns / 1e6, 1)
    if status.playout is None:
        out.resampler = status.resampler
    else:
        _add_playout(out, status.playout)


def _add_playout(out: StreamView, playout: PlayoutStatus) -> None:
    percent, drift = playout.real_time_percent, playout.drift_ppm
    out.margin_ms, out.latency_ms = round(playout.target_ns / 1e6, 1), round(playout.latency_ns / 1e6, 1)
    out.underruns, out.bridged, out.skipped = playout.underruns, playout.concealed, playout.skipped
    out.guest_volume, out.frames = list(playout.gains), playout.frames
    out.real_time_percent = None if percent is None else round(percent, 2)
    out.drift_ppm = None if drift is None else round(drift, 1)


def microphone_view(session: ListenerSession) -> MicrophoneView:
    """A listener's microphone."""
    status = None if session.microphone is None else session.microphone.status()
    if session.microphone is None or status is None or (playout := status.playout) is None:
        return MicrophoneView(session.microphone_state)
    return MicrophoneView(
        session.microphone_state, stream=session.microphone.node.key, fill_ms=round(status.fill_ns / 1e6, 1),
        target_ms=round(playout.target_ns / 1e6, 1), underruns=playout.underruns, bridged=playout.concealed,
        lost=playout.lost, skipped=playout.skipped, splices=playout.splices,
    )  # fmt: skip


def latency_ms(session: ListenerSession) -> float | None:
    """From the mix to the ear, as the listener reports it. None while it plays nothing, and always if it writes a file:
    that is not heard at any particular time."""
    return round(session.report.latency_ns / 1e6, 2) or None


def listener_view(session: ListenerSession) -> ListenerView:
    """One listener."""
    outlet, report, latency = session.outlet, session.report, latency_ms(session)
    group = outlet.group
    return ListenerView(
        id=outlet.key, name=outlet.name, address=session.address,
        by=session.principal.key, sink=group.sink.key if group else None,
        settings=outlet.shares, latency_profile=session.latency,
        microphone=microphone_view(session), bitrate=session.bitrate(),
        latency_ms=None if latency is None else round(latency, 1), fill_ms=round(report.fill_ns / 1e6, 1),
        ledger_ms={name: round(ns / 1e6, 2) for name, ns in report.breakdown.items()},
        target_ms=round(report.target_ns / 1e6, 1), drift_ppm=report.drift_ppm, locked=report.locked,
        underruns=report.underruns, bridged=report.concealed, lost=report.lost, skipped=report.skipped,
        loss_percent=outlet.loss_percent, output=report.output,
        sent_packets=outlet.sent_packets, dropped_packets=outlet.dropped_packets, queued=outlet.queued,
        rtt_ms=None if session.rtt_ns is None else round(session.rtt_ns / 1e6, 2),
    )  # fmt: skip


def recorder_view(node: Tap) -> RecorderView:
    """One recorder."""
    return RecorderView(
        id=f"recorder/{node.id}", name=node.name, sink=node.sink.key if node.sink else None,
        running=node.clocked, application=node.props.get("application.name", ""),
    )  # fmt: skip


def screen_view(guest: Guest, listed: Listed) -> ScreenView:
    """One screen."""
    memory, holder = listed.screen.memory, guest.screens.seat.who
    return ScreenView(
        id=listed.key, name=listed.label, door=listed.door,
        width=memory.mode.width if memory else 0, height=memory.mode.height if memory else 0,
        state=listed.state, viewers=sum(session.listed is listed for session in guest.viewers.sessions),
        keyboard=holder.key if holder else None, fps=round(listed.fps, 1), damage=listed.pixels,
    )  # fmt: skip


def _ms(ns: float | None) -> float | None:
    return None if ns is None else round(ns / 1e6, 2)


def viewer_view(session: ViewerSession) -> ViewerView:
    """One viewer."""
    times, flow = session.times, session.flow
    return ViewerView(
        id=session.key, name=session.name, address=session.address, by=session.principal.key,
        screen=session.listed.key if session.listed else None, listener=session.listener,
        settings=session.settings.as_dict(), codecs=sorted(session.codecs),
        keyboard=session.keyboard.held, hidden=session.hidden, bitrate=times.bitrate, line_rate=flow.rate,
        fps=round(times.fps, 1), latency_ms=_ms(times.latency_ns),
        ledger_ms={name: round(ns / 1e6, 2) for name, ns in times.breakdown.items()}, skew_ms=_ms(times.skew_ns),
        sent=session.pictures.sent, shown=times.shown, skipped=times.skipped,
        skipped_fps=round(times.skipped_fps, 1), on_way=flow.pictures, refreshed=session.refreshed,
        rtt_ms=_ms(session.rtt_ns),
    )  # fmt: skip


def client_view(client: Program) -> ClientView:
    """One program's connection."""
    identity = client.subject.identity
    return ClientView(
        id=f"client/{client.index}", name=client.name,
        program=str(identity), sandbox=identity.sandbox, pid=identity.pid, uid=identity.uid,
    )  # fmt: skip


def guest_summary(guest: Guest) -> GuestSummary:
    """One guest, without its contents."""
    graph = guest.graph
    return GuestSummary(
        id=f"guest/{guest.id}", name=guest.name, rate=graph.rate, channels=len(graph.positions),
        pulse=str(guest.pulse.path), native=str(guest.native_path),
        default=graph.default.key if graph.default is not None else None,
    )  # fmt: skip


def _all(view: Callable[[T], V], things: Iterable[T]) -> Generator[None, None, list[V]]:
    """A view of each, in steps."""
    # A copy, because things may come and go between the steps.
    out: list[V] = []
    for thing in list(things):
        out.append(view(thing))
        yield
    return out


def memory_view(budget: Budget) -> MemoryView:
    """What a guest makes the daemon hold."""
    return MemoryView(budget.held, budget.limit, budget.refusals, budget.shares())


def _recorders(graph: Graph) -> list[Tap]:
    """The recorders of applications, grouped by door."""
    told = [(tap, recorder_of(tap)) for tap in graph.taps.values()]
    found = [(tap, recorder.door) for tap, recorder in told if recorder is not None]
    return [tap for tap, _ in sorted(found, key=lambda one: one[1], reverse=True)]


# Built in steps, between which the guest goes on: the view is of no single moment, but every object in it was as
# shown at some moment since the request. A view of thousands of streams made at once would delay the guest's own
# cycles.
def guest_view(guest: Guest) -> Generator[None, None, GuestView]:
    """One guest with its contents, in steps."""
    graph = guest.graph
    return GuestView(
        name=guest.name, state="running" if graph.running else "idle", rate=graph.rate,
        quantum_ms=round(graph.quantum_ns / 1e6, 2), late_cycles=graph.late_cycles,
        clients=guest.clients, memory=memory_view(guest.graph.budget),
        refused_logins=guest.admission.refused_logins, refused_captures=guest.admission.refused_captures,
        pulse=str(guest.pulse.path), pulse_tcp=guest.pulse.tcp, native=str(guest.native_path),
        sinks=(yield from _all(lambda sink: sink_view(guest, sink), graph.sinks.values())),
        sources=(yield from _all(lambda source: sink_view(guest, source), graph.sources.values())),
        doors=[machine.view() for machine in guest.machines],
        streams=(yield from _all(
            lambda stream: stream_view(guest, stream), (s for s in graph.streams.values() if s.links)
        )),
        recorders=(yield from _all(recorder_view, _recorders(guest.graph))),
        listeners=(yield from _all(listener_view, guest.sessions)),
        screens=[screen_view(guest, listed) for listed in guest.screens],
        viewers=(yield from _all(viewer_view, guest.viewers.sessions)),
    )  # fmt: skip
