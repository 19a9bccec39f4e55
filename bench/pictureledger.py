"""The ledger of pictures against the code block in them: what the daemon adds up, and what the pixels say.

Both are means over the same pictures, those that show something new for the first time. The ledger's sums are read from
the metrics before and after.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple
from urllib.request import Request, urlopen

from prometheus_client.parser import text_string_to_metric_families

from bench.common import Daemon
from millrace.outlets.picturetimes import STAGES
from millrace.pixels.blockcode import Stamp
from millrace.units import HostNs

APART_MS = 2
"""The goal."""
FAMILY = "millrace_guest_picture_stage_seconds"


class Sums(NamedTuple):
    """Pictures measured so far in guest `default`, and seconds by stage."""

    pictures: float
    seconds: dict[str, float]


def sums(bus: Daemon) -> Sums:
    """As the daemon's metrics have them now."""
    asked = Request(f"http://{bus.listen}/metrics", headers={"Authorization": f"Bearer {bus.env['MILLRACE_TOKEN']}"})
    with urlopen(asked, timeout=10) as answer:
        text = answer.read().decode()
    samples = [one for family in text_string_to_metric_families(text) for one in family.samples]
    own = [one for one in samples if one.name.startswith(FAMILY) and one.labels["guest"] == "default"]
    pictures = next(one.value for one in own if one.name == f"{FAMILY}_count")
    return Sums(pictures, {one.labels["stage"]: one.value for one in own if one.name == f"{FAMILY}_sum"})


def means(before: Sums, after: Sums) -> dict[str, float]:
    """Ms of each stage, of the pictures in between; empty without any."""
    count = after.pictures - before.pictures
    return {name: (after.seconds[name] - before.seconds[name]) * 1000 / count for name in STAGES} if count else {}


def first_seen(seen: Iterable[tuple[Stamp, HostNs]]) -> list[float]:
    """Ms from painting to drawing, of the first picture that shows each number."""
    newest, found = -1, []
    for stamp, when in seen:
        if stamp.number > newest:
            newest = stamp.number
            found.append((when - stamp.time_ns) / 1e6)
    return found


def told(ledger: dict[str, float], code: list[float]) -> str:
    """Both, and how far they are apart."""
    if not ledger or not code:
        return "ledger: no picture was measured"
    whole, measured = sum(ledger.values()), sum(code) / len(code)
    stages = ", ".join(f"{name} {ms:.1f}" for name, ms in ledger.items())
    return (
        f"ledger {whole:.1f} ms ({stages}), code block {measured:.1f}, {whole - measured:+.1f} apart (goal {APART_MS})"
    )
