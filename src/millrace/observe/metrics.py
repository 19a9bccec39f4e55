"""Prometheus metrics of the guests that the requester may see.

Labels are a guest's name, a stage, a cause, and the kind of a picture's rectangles: never a listener or a stream, whose
number is unbounded.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from millrace.guest.guest import Guest
from millrace.observe.incidents import Incidents
from millrace.observe.picturemetrics import of_pictures
from millrace.version import __version__

_GUEST = ["guest"]


class Counters(msgspec.Struct, frozen=True):
    """Counters of the whole daemon."""

    cycles: int
    refused: int
    objects: int
    requests_waiting: int
    policy: bool
    store_trouble: bool


class Collected:
    """A collector for one request."""

    def __init__(self, counters: Counters, incidents: Incidents, guests: list[Guest], whole: bool) -> None:
        self._counters, self._totals, self._guests, self._whole = counters, incidents.totals(), guests, whole

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client."""
        info = GaugeMetricFamily("millrace_info", "What runs.", labels=["version"])
        info.add_metric([__version__], 1)
        yield info
        yield from self._of_guests()
        yield from of_pictures(self._guests)
        yield self._incidents()
        if self._whole:
            yield from self._of_daemon()

    def _of_daemon(self) -> Iterator[Metric]:
        counters = self._counters
        yield CounterMetricFamily("millrace_cycles", "Graph cycles run.", counters.cycles)
        yield CounterMetricFamily(
            "millrace_refused",
            "HTTP requests and commands that were refused for lack of a credential or a right. Programs: see"
            " millrace_guest_refused_logins_total and millrace_guest_refused_captures_total.",
            counters.refused,
        )
        yield GaugeMetricFamily("millrace_objects", "Objects in the registry.", counters.objects)
        yield GaugeMetricFamily(
            "millrace_requests_waiting", "Permission requests that are pending.", counters.requests_waiting
        )
        yield GaugeMetricFamily("millrace_policy_running", "Whether a session manager is running.", counters.policy)
        yield GaugeMetricFamily("millrace_store_trouble", "Whether changes can't be saved.", counters.store_trouble)

    def _of_guests(self) -> Iterator[Metric]:
        def family(kind: type[Metric], name: str, text: str, values: list[float]) -> Metric:
            made = kind(f"millrace_guest_{name}", text, labels=_GUEST)  # type: ignore[call-arg]
            for guest, value in zip(self._guests, values, strict=True):
                made.add_metric([guest.name], value)  # type: ignore[attr-defined]
            return made

        gauge, counter, guests = GaugeMetricFamily, CounterMetricFamily, self._guests
        yield family(gauge, "running", "Whether its graph runs.", [g.graph.running for g in guests])
        yield family(gauge, "streams", "Streams.", [len(g.graph.streams) for g in guests])
        yield family(gauge, "clients", "PulseAudio clients.", [g.clients for g in guests])
        yield family(gauge, "listeners", "Listeners.", [len(g.sessions) for g in guests])
        yield family(gauge, "quantum_seconds", "Length of a cycle.", [g.graph.quantum_ns / 1e9 for g in guests])
        budgets = [g.graph.budget for g in guests]
        yield family(gauge, "held_bytes", "Memory that the daemon holds on its behalf.", [b.held for b in budgets])
        yield family(gauge, "held_bytes_max", "Its memory budget.", [b.limit for b in budgets])
        yield family(
            counter,
            "no_memory",
            "Requests refused because its memory budget was used up.",
            [b.refusals for b in budgets],
        )
        yield family(
            gauge, "latency_seconds_max", "Latency of its slowest listener, from mixing to playing.",
            [max((s.report.latency_ns for s in g.sessions), default=0) / 1e9 for g in guests],
        )  # fmt: skip
        yield family(
            gauge,
            "sent_bits_per_second",
            "Bit rate sent to its listeners.",
            [sum(s.bitrate() for s in g.sessions) for g in guests],
        )
        yield family(counter, "late_cycles", "Cycles that ran late.", [g.graph.late_cycles for g in guests])
        yield family(
            counter,
            "refused_logins",
            "Programs that were not let in, by a rule or for a wrong cookie.",
            [g.admission.refused_logins for g in guests],
        )
        yield family(
            counter,
            "refused_captures",
            "Recordings that a rule for programs refused.",
            [g.admission.refused_captures for g in guests],
        )

    def _incidents(self) -> Metric:
        made = CounterMetricFamily(
            "millrace_incidents",
            "Incidents that could be heard, by guest, stage and cause.",
            labels=["guest", "stage", "cause"],
        )
        names = {guest.name for guest in self._guests}
        for (guest, stage, cause), count in sorted(self._totals.items()):
            if guest in names or (not guest and self._whole):
                made.add_metric([guest, stage, cause], count)
        return made


def exposition(counters: Counters, incidents: Incidents, guests: list[Guest], whole: bool) -> bytes:
    """The text that Prometheus reads; `whole` if the requester may see all of the daemon."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Collected(counters, incidents, guests, whole))
    return generate_latest(registry)
