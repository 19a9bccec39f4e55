"""Explain: where a picture comes from, how it is encoded, who watches, and why it comes as often as it does."""

from __future__ import annotations

from typing import NamedTuple

from millrace.codec.picturesettings import PictureSettings
from millrace.graph.screens import Listed
from millrace.guest.guest import Guest
from millrace.guest.viewer import ViewerSession
from millrace.guest.viewergroup import Group, for_viewers
from millrace.observe.explain import Step
from millrace.observe.picturelatency import of_viewer
from millrace.outlets.picturecounts import PictureCounts
from millrace.text import counted, printable, show_size
from millrace.units import NS_PER_MS

ALL = 0.9
"""This share of the pictures is all of them: both are counted over a second, not over the same one."""
FULL = 0.6
"""A line of which this share is used has no room: pictures are of unequal sizes."""
BUSY = 0.8
"""An encoder or a viewer that is at work for this share of the time can do no more."""
NAMED_MAX = 5
"""Viewers of one encoder that are named."""
_WORDS = {
    "zstd": "exact by zstd", "palette": "exact by palette", "raw": "exact, as pixels", "png": "exact by PNG",
    "jpeg": "rough by JPEG", "move": "moved, as scrolls are", "video": "as video",
}  # fmt: skip
_LOSSY = ("jpeg", "video")
_KNOWN = {"avc1", "vp8", "raw", "zstd", "palette", "jpeg", "png"}
"""What a viewer may say that it decodes; other words of it are not repeated."""


def explain_seen(guest: Guest, listed: Listed | None, session: ViewerSession | None) -> list[Step]:
    """A viewer, or else a screen."""
    if session is not None:
        return explain_viewer(guest, session)
    assert listed is not None
    return explain_screen(guest, listed)


def explain_screen(guest: Guest, listed: Listed) -> list[Step]:
    """A screen: its source, what is painted, each of its encoders, and who watches."""
    steps = [Step("source", _source(guest, listed)), Step("size", _size(listed)), Step("painted", _painted(listed))]
    watching = [session for session in guest.viewers.sessions if session.listed is listed]
    steps += _videos(listed, watching)
    groups = [group for group in guest.viewers.groups if group.listed is listed]
    for group in groups:
        steps += _encoder(group)
    steps += _further(listed, len(groups))
    steps += [Step("viewer", _watches(session)) for session in watching]
    if not watching:
        steps.append(Step("viewer", "nobody watches, so nothing is encoded for viewers"))
    return [*steps, Step("keyboard", _keyboard(guest))]


def explain_viewer(guest: Guest, session: ViewerSession) -> list[Step]:
    """A viewer: what it sees, how that is encoded, where the time goes, and why it gets as many pictures as it does."""
    steps = [Step("viewer", _who(session))]
    listed, group = session.listed, group_of(guest, session)
    if listed is None:
        return [*steps, Step("screen", "none: the guest has no screen now, and it is given the next one")]
    steps += [Step("screen", f"{listed.key}, {_source(guest, listed)}; {_size(listed)}"), _asked(session, group)]
    if group is None:
        return [*steps, Step("pictures", f"none are sent: {_unsent(session)}")]
    steps += [
        *_videos(listed, [session]),
        *_encoder(group),
        Step("line", _line(session)),
        Step("pictures", _pictures(session, listed, group)),
    ]
    steps += [Step(stage.stage, f"{stage.ns / 1e6:.1f} ms: {stage.why}") for stage in of_viewer(session)]
    if session.times.latency_ns is not None:
        steps.append(Step("latency", f"{session.times.latency_ns / 1e6:.1f} ms from painting to drawing, by its clock"))
    steps.append(Step("in sync", _sound(session)))
    return [*steps, Step("keyboard", _keyboard(guest))]


def group_of(guest: Guest, session: ViewerSession) -> Group | None:
    """The encoder that a viewer shares."""
    return next((group for group in guest.viewers.groups if session in group.sessions), None)


# -- the screen ----------------------------------------------------------------------------------


def _source(guest: Guest, listed: Listed) -> str:
    machine = next((machine for machine in guest.machines if machine.key == listed.door), None)
    if machine is None:
        return f"{listed.label!r} of {listed.door}"
    view = machine.view()
    name = f" ({printable(view.machine)})" if view.machine else ""
    trouble = view.error or (view.state if view.state != "attached" else "")
    return f"{listed.label!r} of {listed.door}{name}, attached as {view.door}" + (f", {trouble}" if trouble else "")


def _size(listed: Listed) -> str:
    memory = listed.screen.memory
    return "no picture yet" if memory is None else f"{memory.mode.width} × {memory.mode.height}"


def _painted(listed: Listed) -> str:
    memory, last = listed.screen.memory, f"{listed.screen.serial} since it was added"
    if memory is None or not listed.fps:
        return f"nothing in the last second; {last}"
    percent = 100 * listed.pixels / listed.fps / memory.mode.whole.area
    return f"{listed.fps:.1f} pictures a second, each of which changes {_share(percent)} of the screen; {last}"


def _videos(listed: Listed, watching: list[ViewerSession]) -> list[Step]:
    """The videos that the machine sends itself: who draws them as they came, and for whom they are decoded."""
    steps = []
    for overlay in listed.screen.overlays:
        at, lacks = overlay.at, {one.key: one.videos.lacks(overlay.track) for one in watching}
        passed = [f"passed through to {', '.join(_few([key for key, why in lacks.items() if not why]))}"]
        decoded = [f"decoded here for {', '.join(_few([f'{key}, which {why}' for key, why in lacks.items() if why]))}"]
        told = (passed if "" in lacks.values() else []) + (decoded if any(lacks.values()) else [])
        where = f"{overlay.track}, {at.width} × {at.height} at {at.x}, {at.y}, comes encoded from the machine"
        steps.append(Step("video", f"{where}: {'; '.join(told) or 'nobody sees it'}"))
    return steps


def _few(names: list[str]) -> list[str]:
    return names[:NAMED_MAX] + ([f"{len(names) - NAMED_MAX} more"] if len(names) > NAMED_MAX else [])


def _further(listed: Listed, encoders: int) -> list[Step]:
    """Readers that are not viewers' encoders: one of a wall, for example."""
    readers = listed.screen.readers
    if len(readers) <= encoders:
        return []
    names = ", ".join(sorted({reader.who.key for reader in readers} - {for_viewers(listed)}))
    return [Step("read", f"by {counted(len(readers) - encoders, 'further reader')}: {names}")]


def _share(percent: float) -> str:
    return f"{percent:.0f} %" if percent >= 10 else f"{percent:.2g} %"


def _keyboard(guest: Guest) -> str:
    holder = guest.screens.seat.who
    return "nobody has it" if holder is None else f"{holder.key} has it"


# -- an encoder ----------------------------------------------------------------------------------


def _encoder(group: Group) -> list[Step]:
    counts, now = group.pictures.counts, _lately(group)
    when = "in the last second" if now is not counts else "since it began; nothing in the last second"
    return [Step("encoder", _settings(group, now)), *_codecs(group, now, when)]


def _lately(group: Group) -> PictureCounts:
    """What an encoder has done in the last second; if that is nothing, what it has done at all."""
    counts = group.pictures.counts
    return counts.recent if counts.recent is not None and counts.recent.made else counts


def _encode_ms(counts: PictureCounts) -> float:
    return counts.encode_ns / counts.made / NS_PER_MS if counts.made else 0.0


def _settings(group: Group, now: PictureCounts) -> str:
    counts = group.pictures.counts
    names = [session.key for session in group.sessions]
    more = f" and {len(names) - NAMED_MAX} more" if len(names) > NAMED_MAX else ""
    rate = "no byte limit" if group.sort.rate is None else f"at most {show_size(group.sort.rate)}bit/s"
    asked = _named(group.sort.settings)
    took = f", lately in {_encode_ms(now):.1f} ms each" if counts.made else ""
    video = f"video is {group.pictures.video}" if group.pictures.video else "nothing was sent as video yet"
    keys = f", {counted(counts.keys, 'key picture')}" if counts.keys else ""
    whom = ", ".join(names[:NAMED_MAX]) + more
    return f"one for {whom} ({asked}, {rate}): {counted(counts.made, 'picture')} made{took}{keys}; {video}"


def _codecs(group: Group, counts: PictureCounts, when: str) -> list[Step]:
    """How much was sent by each codec, most first; what is not exact changes the picture."""
    whole = sum(tally.bytes for tally in counts.kinds.values())
    steps = []
    for kind, tally in sorted(counts.kinds.items(), key=lambda one: -one[1].bytes):
        share = f", {100 * tally.bytes / whole:.0f} % of {_bytes(whole)}" if whole else ""
        how = f"as {group.pictures.video or 'video'}" if kind == "video" else _WORDS[kind]
        text = f"{counted(tally.rects, 'rectangle')} {how}{share}, {when}"
        steps.append(Step("codec", text, changes=kind in _LOSSY))
    return steps


def _bytes(number: int) -> str:
    return f"{number / 1000:.0f} kB" if number >= 10_000 else f"{number} bytes"


# -- a viewer ------------------------------------------------------------------------------------


def _watches(session: ViewerSession) -> str:
    latency, skew = session.times.latency_ns, session.times.skew_ns
    parts = [f"{session.key} {session.name!r} of {session.principal.key}", f"{session.times.fps:.1f} pictures a second"]
    parts += [
        f"{session.times.bitrate / 1000:.0f} kb/s",
        *([] if latency is None else [f"{latency / 1e6:.0f} ms old when drawn"]),
    ]
    parts += [] if skew is None else [f"{skew / 1e6:+.0f} ms to its sound"]
    return ", ".join([*parts, *(["hidden"] if session.hidden else [])])


def _who(session: ViewerSession) -> str:
    rtt = "" if session.rtt_ns is None else f", round trip {session.rtt_ns / 1e6:.1f} ms"
    decodes = ", ".join(sorted((session.codecs | session.formats) & _KNOWN)) or "nothing that is known"
    return f"{session.name!r} at {session.address}{rtt}; decodes {decodes}; allowed by {session.principal.key}"


def _asked(session: ViewerSession, group: Group | None) -> Step:
    settings = session.settings
    text, given = _named(settings), settings if group is None else group.sort.settings
    if given != settings:
        text += f"; it shares the nearest encoder, of {_named(given)}, as there is no room for another"
    return Step("settings", text, changes=given.scale != 1 or given != settings)


def _named(settings: PictureSettings) -> str:
    return ", ".join(f"{name}={value}" for name, value in settings.as_dict().items())


def _unsent(session: ViewerSession) -> str:
    if session.settings.picture == "off":
        return "picture=off was asked for"
    if session.long_hidden:
        return "the viewer is hidden"
    return "it waits for an encoder; `millrace incidents` may say why"


def _line(session: ViewerSession) -> str:
    flow = session.flow
    carries = (
        "not measured, as nothing had to wait" if flow.rate is None else f"carries about {flow.rate / 1e6:.1f} Mb/s"
    )
    early = session.pictures.early
    told = f"; {counted(early, 'acknowledgement')} came before the picture can have arrived" if early else ""
    return (
        f"{carries}; {session.times.bitrate / 1000:.0f} kb/s are sent,"
        f" {counted(flow.pictures, 'picture')} on the way ({_bytes(flow.bytes_on_way)}){told}"
    )


def _sound(session: ViewerSession) -> str:
    skew = session.times.skew_ns
    if session.listener is None and skew is None:
        return "it has no listener here, so each picture is shown at once"
    told = "nothing is heard, so each picture is shown at once" if skew is None else (
        f"pictures are seen {abs(skew) / 1e6:.0f} ms {'after' if skew >= 0 else 'before'} their sound is heard"
    )  # fmt: skip
    return f"{session.listener or 'a listener of its own'}: {told}"


# -- why as many pictures --------------------------------------------------------------------------


class Pace(NamedTuple):
    """What decides how many pictures a viewer is sent: pictures a second, times in ms, rates in bit/s."""

    painted: float
    sent: float
    skipped: float
    asked: int
    line_rate: int | None
    bitrate: int
    encode_ms: float
    viewer_ms: float
    """In its decoder and drawing."""
    rtt_ms: float
    waits: bool
    """It is sent nothing now, before what is on its way has arrived."""


def _pictures(session: ViewerSession, listed: Listed, group: Group) -> str:
    times, flow = session.times, session.flow
    pace = Pace(
        painted=listed.fps, sent=times.fps, skipped=times.skipped_fps, asked=group.sort.settings.fps,
        line_rate=flow.rate, bitrate=times.bitrate, encode_ms=_encode_ms(_lately(group)),
        viewer_ms=sum(times.breakdown.get(stage, 0.0) for stage in ("decode", "draw")) / NS_PER_MS,
        rtt_ms=(session.rtt_ns or 0) / NS_PER_MS, waits=not flow.ready(session.rtt_ns),
    )  # fmt: skip
    hidden = "; the viewer is hidden" if session.hidden else ""
    return (
        f"{pace.painted:.1f} a second are painted, {pace.sent:.1f} sent, {pace.skipped:.1f} skipped"
        f" ({session.times.skipped} since it joined): {why(pace)}{hidden}"
    )


def why(pace: Pace) -> str:
    """Why a viewer gets as many pictures as it does, in words."""
    if not pace.painted:
        return "nothing is painted" + (", and what is not exact yet is sharpened" if pace.bitrate else "")
    if pace.skipped <= (1 - ALL) * pace.painted and pace.sent >= ALL * pace.painted:
        return "all that are painted"
    if pace.sent >= ALL * pace.asked:
        return f"as many as fps={pace.asked} allows"
    return _held_up(pace)


def _held_up(pace: Pace) -> str:
    interval_ms = 1000 / min(pace.painted, pace.asked)
    if pace.encode_ms >= BUSY * interval_ms:
        return f"encoding takes {pace.encode_ms:.0f} ms a picture"
    if pace.viewer_ms >= BUSY * interval_ms:
        return f"the viewer takes {pace.viewer_ms:.0f} ms to decode and draw a picture"
    if pace.waits or (pace.line_rate is not None and pace.bitrate >= FULL * pace.line_rate):
        return "the line is full, and the newest picture takes the place of those that wait"
    if pace.rtt_ms >= BUSY * interval_ms:
        return f"acknowledgements take {pace.rtt_ms:.0f} ms to come back, and few pictures are on their way at once"
    return "the daemon or the viewer is scheduled too seldom"
