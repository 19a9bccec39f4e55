"""Prometheus metrics of screens and viewers, by guest; see `observe/metrics.py` for what labels may be."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    SummaryMetricFamily,
)

from millrace.guest.guest import Guest
from millrace.outlets.picturecounts import ENCODE_MS, KIND_NAMES, PictureCounts, Tally
from millrace.outlets.picturetimes import STAGES
from millrace.units import NS_PER_S

_GUEST = ["guest"]


def of_pictures(guests: list[Guest]) -> Iterator[Metric]:
    """All families, with the samples of these guests."""
    counts = [(guest, guest.viewers.counts) for guest in guests]
    yield from _screens(guests)
    yield from _sent(counts)
    yield _encoding(counts)
    yield _stages(guests)


def _screens(guests: list[Guest]) -> Iterator[Metric]:
    screens = GaugeMetricFamily("millrace_guest_screens", "Screens.", labels=_GUEST)
    viewers = GaugeMetricFamily("millrace_guest_viewers", "Viewers.", labels=_GUEST)
    painted = CounterMetricFamily("millrace_guest_painted_pictures", "Pictures painted.", labels=_GUEST)
    skipped = CounterMetricFamily(
        "millrace_guest_skipped_pictures", "Pictures painted that a viewer was not sent.", labels=_GUEST
    )
    latency = GaugeMetricFamily(
        "millrace_guest_picture_latency_seconds_max", "Age of a picture when its slowest viewer draws it.",
        labels=_GUEST,
    )  # fmt: skip
    skew = GaugeMetricFamily(
        "millrace_guest_picture_skew_seconds_max", "How far a picture is from its sound, at the worst viewer.",
        labels=_GUEST,
    )  # fmt: skip
    for guest in guests:
        times = [session.times for session in guest.viewers.sessions]
        screens.add_metric([guest.name], len(guest.screens))
        viewers.add_metric([guest.name], len(times))
        painted.add_metric([guest.name], guest.screens.painted)
        skipped.add_metric([guest.name], guest.viewers.skipped)
        latency.add_metric([guest.name], max((one.latency_ns or 0.0 for one in times), default=0.0) / NS_PER_S)
        skew.add_metric([guest.name], max((abs(one.skew_ns or 0.0) for one in times), default=0.0) / NS_PER_S)
    yield from (screens, viewers, painted, skipped, latency, skew)


def _sent(counts: list[tuple[Guest, PictureCounts]]) -> Iterator[Metric]:
    by_kind = [*_GUEST, "kind"]
    sent = CounterMetricFamily("millrace_guest_sent_pictures", "Pictures sent, to each viewer.", labels=_GUEST)
    keys = CounterMetricFamily("millrace_guest_key_pictures", "Key pictures encoded.", labels=_GUEST)
    size = CounterMetricFamily("millrace_guest_picture_bytes", "Bytes of pictures sent, by kind.", labels=by_kind)
    rects = CounterMetricFamily(
        "millrace_guest_picture_rectangles", "Rectangles of pictures sent, by kind.", labels=by_kind
    )
    for guest, counted in counts:
        sent.add_metric([guest.name], counted.sent)
        keys.add_metric([guest.name], counted.keys)
        for kind in KIND_NAMES:
            tally = counted.kinds.get(kind, Tally())
            size.add_metric([guest.name, kind], tally.bytes)
            rects.add_metric([guest.name, kind], tally.rects)
    yield from (sent, keys, size, rects)


def _encoding(counts: list[tuple[Guest, PictureCounts]]) -> Metric:
    made = HistogramMetricFamily(
        "millrace_guest_picture_encode_seconds", "Time that pictures take to encode.", labels=_GUEST
    )
    bounds = [*(f"{ms / 1000:g}" for ms in ENCODE_MS), "+Inf"]
    for guest, counted in counts:
        buckets = list(zip(bounds, map(float, accumulate(counted.buckets)), strict=True))
        made.add_metric([guest.name], buckets, counted.encode_ns / NS_PER_S)
    return made


def _stages(guests: list[Guest]) -> Metric:
    made = SummaryMetricFamily(
        "millrace_guest_picture_stage_seconds", "Time from painting to drawing, by stage, over all viewers.",
        labels=[*_GUEST, "stage"],
    )  # fmt: skip
    for guest in guests:
        totals = guest.viewers.totals
        for stage in STAGES:
            made.add_metric([guest.name, stage], totals.pictures, totals.ns[stage] / NS_PER_S)
    return made
