"""The latency of a picture stage by stage: from the paint in a machine to the picture that a viewer draws."""

from __future__ import annotations

from millrace.doors.ingress import Stage
from millrace.graph.screens import Listed
from millrace.guest.viewer import ViewerSession
from millrace.observe.latency import Breakdown, WayView, way
from millrace.outlets.picturetimes import STAGES


def of_viewer(session: ViewerSession) -> list[Stage]:
    """The stages of the pictures that it was sent last, on the average; empty until one was measured."""
    spent, settings = session.times.breakdown, session.settings
    if not spent:
        return []
    rtt = "" if session.rtt_ns is None else f"; half the round trip is {session.rtt_ns / 2e6:.1f} ms"
    why = {
        "door": "decoded, compared with what was there, and published as damage",
        "damage": f"until the encoder is free, there is room on the line, and fps={settings.fps} allows",
        "encode": "encoding what changed",
        "queue": "for a thread to encode in, and until it is written",
        "network": f"until all of it has arrived{rtt}",
        "decode": "at the viewer",
        "sound": "until the sound captured with it is heard" if session.listener else "shown at once, without sound",
        "draw": "into the viewer's window or canvas; its desktop shows that a little later",
    }
    return [Stage(stage, round(spent[stage]), why[stage]) for stage in STAGES]


def picture_breakdown(target: str, listed: Listed | None, sessions: list[ViewerSession]) -> Breakdown:
    """The breakdown for those of these viewers that see the screen; before its first picture a viewer has none."""
    ways = [_way(session) for session in sessions if session.listed is listed and session.times.breakdown]
    return Breakdown(target if listed is None else listed.key, listed.label if listed is not None else "", ways)


def _way(session: ViewerSession) -> WayView:
    latency_ns = session.times.latency_ns
    return way(session.key, session.name, of_viewer(session), None if latency_ns is None else round(latency_ns))
