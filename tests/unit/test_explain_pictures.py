"""What is said of screens and viewers: explanations, breakdowns and metrics, of a guest in virtual time."""

from __future__ import annotations

import re
from pathlib import Path as Folder
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.core import Metric

from millrace.graph.seat import Watcher
from millrace.guest.guest import Guest
from millrace.observe.explain import Step
from millrace.observe.explainpicture import Pace, explain_screen, explain_seen, explain_viewer, why
from millrace.observe.picturelatency import picture_breakdown
from millrace.observe.picturemetrics import of_pictures
from millrace.observe.views import screen_view, viewer_view
from millrace.outlets.picturetimes import STAGES
from millrace.pixels.rects import Rect
from millrace.rights.model import OWNER
from millrace.sim.net import Path
from millrace.units import NS_PER_MS, NS_PER_S
from millrace.wire.peer.pictures import Watch
from tests.painting import steps
from tests.watch import STEP_NS, Desk, Painter, Remote

FULL = Watch(formats=["raw", "zstd", "jpeg"], codecs=["avc1"])
HALF = Rect(0, 0, 160, 200)


def guest_of(desk: Desk, *machines: Any) -> Guest:
    """What is asked of a guest here."""
    guest: Any = SimpleNamespace(
        name="alice", screens=desk.home.screens, viewers=desk.viewers, machines=list(machines), admission=None
    )
    return guest  # type: ignore[no-any-return]


def played(desk: Desk, screen: Painter, kind: str = "fill", pictures: int = 60) -> None:
    """Two seconds of pictures."""
    moving = iter(steps(kind, screen.pixels, 1, pictures)) if kind != "fill" else None
    for number in range(pictures):
        if moving is None:
            screen.fill(HALF, number, desk.now_ns)
        else:
            screen.screen.painted(next(moving), desk.now_ns)
        desk.run(35)
        if number % 28 == 0:
            desk.viewers.second()


def text(found: list[Step], stage: str) -> str:
    return "\n".join(step.text for step in found if step.stage == stage)


def sample(metrics: list[Metric], name: str, **labels: str) -> float:
    found = [
        one.value for metric in metrics for one in metric.samples
        if one.name == name and one.labels == {"guest": "alice", **labels}
    ]  # fmt: skip
    assert len(found) == 1, (name, labels, found)
    return float(found[0])


def test_ledger_sums_to_the_age_of_the_picture_at_the_viewer() -> None:
    desk = Desk()
    screen = desk.add(width=320, height=200)
    remote = Remote(desk, path=Path(10 * NS_PER_MS))
    played(desk, screen)
    guest, times = guest_of(desk), remote.session.times
    assert times.latency_ns is not None and round(sum(times.breakdown.values())) == round(times.latency_ns)
    # The clocks of both ends are one here, but for half a step of it.
    measured = sum(remote.ages[-20:]) / 20
    assert abs(measured - times.latency_ns) <= STEP_NS / 2 + 1_000
    assert list(times.breakdown) == list(STAGES) and times.breakdown["network"] >= 10 * NS_PER_MS
    listed = desk.home.screens.first
    found = picture_breakdown(remote.session.key, listed, desk.viewers.sessions)
    assert listed is not None and found.stream == listed.key
    assert [one.listener for one in found.listeners] == [remote.session.key]
    way = found.listeners[0]
    assert abs(way.sum_ms - sum(stage.ms for stage in way.stages)) < 0.1 and way.reported_ms == pytest.approx(
        way.sum_ms
    )
    assert [stage.stage for stage in way.stages] == list(STAGES) and all(stage.why for stage in way.stages)
    assert viewer_view(remote.session).ledger_ms.keys() == times.breakdown.keys()
    assert explain_seen(guest, listed, None)[0].stage == "source"


def test_viewer_of_a_still_screen_has_no_latency() -> None:
    desk = Desk()
    screen = desk.add(width=320, height=200)
    screen.fill(HALF, 3, desk.now_ns)
    desk.run(5_000)
    remote = Remote(desk)
    desk.run(500)
    assert remote.pieces and remote.session.times.latency_ns is None
    assert picture_breakdown("screen/1", desk.home.screens.first, desk.viewers.sessions).listeners == []


def test_screen_is_explained_from_its_source_to_each_viewer() -> None:
    desk = Desk(encodes=True)
    screen = desk.add(width=320, height=200)
    view = SimpleNamespace(machine="win11", door="qmp:/q", error="", state="attached")
    guest = guest_of(desk, SimpleNamespace(key="door/7", view=lambda: view))
    listed = desk.home.screens.first
    assert listed is not None
    unseen = explain_screen(guest, listed)
    assert text(unseen, "source") == "'VGA' of door/7 (win11), attached as qmp:/q"
    assert text(unseen, "viewer") == "nobody watches, so nothing is encoded for viewers"
    assert text(unseen, "painted").startswith("nothing in the last second")
    one, two = Remote(desk, FULL), Remote(desk, FULL)
    played(desk, screen)
    found = explain_screen(guest, listed)
    assert text(found, "size") == "320 × 200"
    assert "pictures a second, each of which changes 50 % of the screen" in text(found, "painted")
    assert text(found, "encoder").startswith(f"one for {one.session.key}, {two.session.key} (picture=auto, fps=30")
    assert "exact by zstd" in text(found, "codec") and not any(step.changes for step in found)
    watching = text(found, "viewer").splitlines()
    assert len(watching) == 2 and f"{one.session.key} 'owner'" in watching[0] and "ms old when drawn" in watching[0]
    assert not text(found, "read")
    listed.screen.read(Watcher("screen/1 for walls", OWNER), NS_PER_S)
    assert text(explain_screen(guest, listed), "read") == "by 1 further reader: screen/1 for walls"
    desk.viewers.take_keyboard(two.session)
    assert text(explain_screen(guest, listed), "keyboard") == f"{two.session.key} has it"


def test_video_is_named_with_its_encoder_and_marked_as_a_change() -> None:
    desk = Desk(encodes=True)
    screen = desk.add(width=640, height=400)
    remote = Remote(desk, FULL)
    played(desk, screen, "film")
    guest = guest_of(desk)
    lossy = [step for step in explain_viewer(guest, remote.session) if step.changes]
    assert {step.stage for step in lossy} == {"codec"}
    assert ["% of " in step.text for step in lossy if "as H.264 by libx264, in software" in step.text] == [True]


def test_viewer_is_explained_with_its_line_its_stages_and_its_pictures() -> None:
    desk = Desk()
    screen = desk.add(width=320, height=200)
    remote = Remote(desk, path=Path(10 * NS_PER_MS))
    played(desk, screen)
    guest, session = guest_of(desk), remote.session
    found = explain_viewer(guest, session)
    assert session.listed is not None and session.rtt_ns is not None
    assert f"round trip {session.rtt_ns / 1e6:.1f} ms" in text(found, "viewer")
    assert text(found, "screen") == f"{session.listed.key}, 'VGA' of door/7; 320 × 200"
    assert text(found, "settings") == "picture=auto, fps=30, scale=1"
    assert "kb/s are sent" in text(found, "line") and "all that are painted" in text(found, "pictures")
    stages = [step for step in found if step.stage in STAGES]
    assert [step.stage for step in stages] == list(STAGES)
    total = float(text(found, "latency").split()[0])
    assert sum(float(step.text.split()[0]) for step in stages) == pytest.approx(total, abs=0.5)
    assert text(found, "in sync") == "it has no listener here, so each picture is shown at once"
    session.times.skew_ns = 34 * NS_PER_MS
    told = text(explain_viewer(guest, session), "in sync")
    assert told == "a listener of its own: pictures are seen 34 ms after their sound is heard"
    assert "acknowledgement" not in text(found, "line")
    session.pictures.early = 2
    assert "; 2 acknowledgements came before the" in text(explain_viewer(guest, session), "line")
    session.configure({"picture": "off"})
    assert text(explain_viewer(guest, session), "pictures") == "none are sent: picture=off was asked for"
    desk.remove(screen)
    desk.turns.run()
    assert text(explain_viewer(guest, session), "screen").startswith("none: the guest has no screen now")


PACE = Pace(30, 30, 0, 30, None, 1_000_000, 3, 5, 2, False)


@pytest.mark.parametrize(("changes", "told"), [
    ({}, "all that are painted"), ({"painted": 0, "sent": 0, "bitrate": 0}, "nothing is painted"),
    ({"painted": 0, "sent": 0}, "nothing is painted, and what is not exact yet is sharpened"),
    ({"painted": 60, "skipped": 30}, "as many as fps=30 allows"),
    ({"sent": 9, "skipped": 21, "line_rate": 1_200_000}, "the line is full"),
    ({"sent": 0, "waits": True}, "the line is full"),
    ({"sent": 9, "skipped": 21, "encode_ms": 90}, "encoding takes 90 ms a picture"),
    ({"sent": 9, "skipped": 21, "viewer_ms": 80, "line_rate": 9_000_000}, "the viewer takes 80 ms to decode and draw"),
    ({"sent": 9, "skipped": 21, "rtt_ms": 300}, "acknowledgements take 300 ms"),
    ({"sent": 9, "skipped": 21}, "the daemon or the viewer is scheduled too seldom"),
])  # fmt: skip
def test_reason_for_the_number_of_pictures(changes: dict[str, Any], told: str) -> None:
    assert why(PACE._replace(**changes)).startswith(told)


def test_viewer_on_a_thin_line_skips_and_is_told_so() -> None:
    desk = Desk()
    screen = desk.add(width=320, height=200)
    thin = Remote(desk, path=Path(10 * NS_PER_MS, rate_bps=4_000_000))
    played(desk, screen, pictures=100)
    assert thin.session.times.skipped > 20
    assert viewer_view(thin.session).skipped == thin.session.times.skipped
    found = text(explain_viewer(guest_of(desk), thin.session), "pictures")
    assert "the line is full" in found and f"({thin.session.times.skipped} since it joined)" in found


def test_metrics_count_what_was_painted_sent_skipped_and_where_the_time_went() -> None:
    desk = Desk(encodes=True)
    screen = desk.add(width=320, height=200)
    remote, gone = Remote(desk, FULL), Remote(desk, FULL)
    played(desk, screen)
    desk.home.screens.second(desk.now_ns)
    guest = guest_of(desk)

    def metrics() -> list[Metric]:
        return list(of_pictures([guest]))

    prefix, first = "millrace_guest_", metrics()
    assert sample(first, prefix + "screens") == 1 and sample(first, prefix + "viewers") == 2
    assert sample(first, prefix + "painted_pictures_total") == screen.screen.serial
    sent = sample(first, prefix + "sent_pictures_total")
    assert sent == remote.session.pictures.sent + gone.session.pictures.sent
    held = sample(first, prefix + "picture_bytes_total", kind="zstd")
    assert 0 < held < remote.bytes + gone.bytes and sample(first, prefix + "picture_bytes_total", kind="jpeg") == 0
    made = sample(first, prefix + "picture_encode_seconds_bucket", le="+Inf")
    assert made == sample(first, prefix + "picture_encode_seconds_count") and sent / 2 <= made <= sent
    counted = sample(first, prefix + "picture_stage_seconds_count", stage="draw")
    spent = sum(sample(first, prefix + "picture_stage_seconds_sum", stage=stage) for stage in STAGES)
    latency_ns = remote.session.times.latency_ns
    assert latency_ns is not None and counted > 50 and spent / counted == pytest.approx(latency_ns / NS_PER_S, rel=0.5)
    assert sample(first, prefix + "picture_latency_seconds_max") > 0
    # Counters keep what viewers and encoders that are gone had counted.
    for one in (remote, gone):
        one.leave()
    desk.remove(screen)
    last = metrics()
    assert sample(last, prefix + "viewers") == sample(last, prefix + "screens") == 0
    for name in ("painted_pictures_total", "sent_pictures_total", "skipped_pictures_total"):
        assert sample(last, prefix + name) == sample(first, prefix + name)
    assert sample(last, prefix + "picture_bytes_total", kind="zstd") == held


def test_dashboard_asks_for_pictures_by_the_names_that_the_metrics_have() -> None:
    desk = Desk()
    desk.add()
    there = {one.name for metric in of_pictures([guest_of(desk)]) for one in metric.samples}
    dashboard = (Folder(__file__).parents[2] / "contrib" / "grafana.json").read_text()
    asked = set(re.findall(r"millrace_guest_(?:pictu|paint|sent_p|skip)\w+", dashboard))
    assert len(asked) == 8 and asked <= there


def test_damage_of_a_screen_is_counted_in_pixels_a_second() -> None:
    desk = Desk()
    screen = desk.add(width=320, height=200)
    Remote(desk)
    played(desk, screen)
    listed = desk.home.screens.first
    assert listed is not None
    view = screen_view(guest_of(desk), listed)
    assert view.damage == pytest.approx(view.fps * HALF.area, rel=0.05) and view.fps > 20
