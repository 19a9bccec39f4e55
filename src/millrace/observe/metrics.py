"""Prometheus metrics, of the guests that whoever asks may see.

Labels are a guest's name, a stage and a cause: never a listener or a stream, whose numbers have no bound.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from millrace import __version__
from millrace.guest.guest import Guest

if TYPE_CHECKING:
    from millrace.daemon.app import Daemon

_GUEST = ["guest"]


class Collected:
    """A collector for one request."""

    def __init__(self, daemon: Daemon, guests: list[Guest], whole: bool) -> None:
        self._daemon, self._guests, self._whole = daemon, guests, whole

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client."""
        info = GaugeMetricFamily("millrace_info", "What runs.", labels=["version"])
        info.add_metric([__version__], 1)
        yield info
        yield from self._of_guests()
        yield self._incidents()
        if self._whole:
            yield from self._of_daemon()

    def _of_daemon(self) -> Iterator[Metric]:
        daemon = self._daemon
        yield CounterMetricFamily("millrace_cycles", "Times that a graph was run.", daemon.driver.cycles)
        yield CounterMetricFamily("millrace_refused", "Requests that were refused.", daemon.refused())
        yield GaugeMetricFamily("millrace_objects", "Objects in the registry.", len(daemon.registry))
        yield GaugeMetricFamily(
            "millrace_requests_waiting", "Programs that wait for an answer.", _count(daemon.prompts)
        )
        yield GaugeMetricFamily("millrace_policy_running", "Whether a session manager is there.", bool(daemon.policy()))
        yield GaugeMetricFamily("millrace_store_trouble", "Whether changes can't be kept.", bool(daemon.store.trouble))

    def _of_guests(self) -> Iterator[Metric]:
        def family(kind: type[Metric], name: str, text: str, values: list[float]) -> Metric:
            made = kind(f"millrace_guest_{name}", text, labels=_GUEST)  # type: ignore[call-arg]
            for guest, value in zip(self._guests, values, strict=True):
                made.add_metric([guest.name], value)  # type: ignore[attr-defined]
            return made

        gauge, counter, guests = GaugeMetricFamily, CounterMetricFamily, self._guests
        yield family(gauge, "running", "Whether its graph runs.", [g.graph.running for g in guests])
        yield family(gauge, "streams", "Streams.", [len(g.graph.streams) for g in guests])
        yield family(gauge, "clients", "PulseAudio clients.", [len(g.door.clients) for g in guests])
        yield family(gauge, "listeners", "Listeners.", [len(g.sessions) for g in guests])
        yield family(gauge, "quantum_seconds", "Length of a cycle.", [g.graph.quantum_ns / 1e9 for g in guests])
        budgets = [g.graph.budget for g in guests]
        yield family(gauge, "held_bytes", "What it makes the daemon hold.", [b.held for b in budgets])
        yield family(gauge, "held_bytes_max", "What it may make the daemon hold.", [b.limit for b in budgets])
        yield family(counter, "no_memory", "What was refused for want of that.", [b.refusals for b in budgets])
        yield family(
            gauge, "latency_seconds_max", "Its slowest listener's latency, from the mix to the ear.",
            [max((s.report.latency_ns for s in g.sessions), default=0) / 1e9 for g in guests],
        )  # fmt: skip
        yield family(
            gauge,
            "sent_bits_per_second",
            "What its listeners are sent.",
            [sum(s.bitrate() for s in g.sessions) for g in guests],
        )
        yield family(counter, "late_cycles", "Cycles that ran late.", [g.graph.late_cycles for g in guests])
        yield family(counter, "refused_captures", "Recordings refused.", [g.door.refused_captures for g in guests])

    def _incidents(self) -> Metric:
        made = CounterMetricFamily(
            "millrace_incidents",
            "What could have been heard, by guest, stage and cause.",
            labels=["guest", "stage", "cause"],
        )
        names = {guest.name for guest in self._guests}
        for (guest, stage, cause), count in sorted(self._daemon.incidents.totals().items()):
            if guest in names or (not guest and self._whole):
                made.add_metric([guest, stage, cause], count)
        return made


def _count(things: Iterable[object]) -> int:
    return sum(1 for _ in things)


def exposition(daemon: Daemon, guests: list[Guest], whole: bool) -> bytes:
    """The text that Prometheus reads; `whole` for whoever may see all of the daemon."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Collected(daemon, guests, whole))
    return generate_latest(registry)
