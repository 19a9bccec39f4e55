"""Viewers of screens against each other and against the daemon: no pixel, key or delay of one reaches another."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest

from millrace.errors import BudgetError
from millrace.guest.guest import Guest
from millrace.guest.machines.address import parse_door
from millrace.guest.viewer import ViewerSession
from millrace.io.clock import now_ns
from millrace.outlets.picturetimes import STAGES
from millrace.pixels.rects import Rect
from millrace.sim.net import Path as Line
from millrace.units import NS_PER_MS
from millrace.wire.peer.messages import Bye, Fault, Hello, Report, encode_message
from millrace.wire.peer.pictures import Gone, Key, KeyboardHeld, PartType, TakeKeyboard, Watch
from tests.painting import steps
from tests.scenario.tenants import Rig, running
from tests.scenario.watchers import Watcher, painter_of, watching
from tests.watch import Desk, Painter, Remote

WHOLE = Rect(0, 0, 320, 200)
FULL = Watch(formats=["raw", "zstd", "jpeg", "png"], codecs=["avc1"])


# -- in virtual time -----------------------------------------------------------------------------


def film(desk: Desk, screen: Painter, ms: int) -> None:
    """A film plays for so long."""
    for rects in steps("film", screen.pixels, 1, ms // 35):
        screen.screen.painted(rects, desk.now_ns)
        desk.run(35)


def keys_of(remote: Remote, since: int = 0) -> list[int]:
    """When key pictures have arrived at a viewer."""
    found = list(zip(remote.pieces, remote.arrived, strict=True))[since:]
    return sorted({arrived_ns for piece, arrived_ns in found if piece.key and piece.last})


def test_fifty_viewers_that_join_a_film_at_once_share_one_key_picture() -> None:
    desk = Desk(encodes=True)
    screen = desk.add(width=480, height=340)
    first = Remote(desk, FULL, draws=False)
    film(desk, screen, 1_500)
    assert keys_of(first), "the film is video"
    before = len(first.pieces)
    remotes = [Remote(desk, FULL, draws=False) for _ in range(50)]
    film(desk, screen, 490)
    assert len({group.sort for group in desk.groups if group.sessions}) == desk.made == 1
    assert len(keys_of(first, before)) == 1 and len(screen.screen.readers) == 1
    for remote in remotes:
        assert len(keys_of(remote)) == 1 and remote.pieces[0].parts == remotes[0].pieces[0].parts


def test_viewers_that_join_all_the_time_cause_two_key_pictures_a_second_at_most() -> None:
    desk = Desk(encodes=True)
    screen = desk.add(width=480, height=340)
    first = Remote(desk, FULL, draws=False)
    film(desk, screen, 1_500)
    before = len(first.pieces)
    for _ in range(30):
        Remote(desk, FULL, draws=False)
        film(desk, screen, 105)
    keys = keys_of(first, before)
    assert 4 <= len(keys) <= 7
    assert all(later - earlier >= 490 * NS_PER_MS for earlier, later in itertools.pairwise(keys))
    told = next(one for one in desk.house.symptoms if one.stage == "picture")
    assert told.cause == "key pictures" and told.subject == screen.screen.key


def test_viewer_that_never_acknowledges_costs_little_and_nobody_else_anything() -> None:
    alone, beside = _ages(0), _ages(5)
    assert alone == beside


def _ages(silent: int) -> list[int]:
    """How old pictures are at one viewer, beside others that never acknowledge any, or never read."""
    desk = Desk(encodes=True)
    screen = desk.add(width=320, height=200)
    one = Remote(desk)
    others = [Remote(desk, acks=False) for _ in range(silent)]
    deaf = [Remote(desk) for _ in range(silent)]
    desk.run(100)
    for remote in deaf:
        remote.reads = False
    before = desk.home.admission.budget.held
    for colour in range(100):
        screen.fill(WHOLE, colour, desk.now_ns)
        desk.run(35)
    assert np.array_equal(one.canvas, screen.pixels)
    for other in others:
        # What it has not acknowledged is on its way, and then nothing.
        assert len(other.ages) == 1 and other.ended is None and other.session.flow.pictures == 1
    for remote in deaf:
        assert remote.session.flow.pictures == 1 and remote.bytes < 600_000
    assert desk.home.admission.budget.held - before < 300_000 * (2 * silent + 1)
    return one.ages


def test_slow_viewer_gets_an_encoder_of_its_own_rate_and_others_keep_theirs() -> None:
    desk = Desk(encodes=True)
    screen = desk.add(width=480, height=340)
    fast, slow = Remote(desk, FULL), Remote(desk, FULL, path=Line(10 * NS_PER_MS, rate_bps=2_000_000))
    film(desk, screen, 5_000)
    rates = {group.sort.rate for group in desk.groups if group.sessions}
    assert None in rates and any(rate and 500_000 <= rate <= 2_000_000 for rate in rates) and len(rates) == 2
    assert max(fast.ages) < 60 * NS_PER_MS
    desk.run(4_000)
    assert slow.drawn.exact(screen.pixels)


@pytest.mark.parametrize(("kind", "rate"), [("scroll", 20_000_000), ("film", 20_000_000), ("film", 2_000_000)])
def test_encoder_keeps_to_the_line_that_was_measured(kind: str, rate: int) -> None:
    desk = Desk(encodes=True)
    screen = desk.add(width=640, height=400)
    screen.pixels[:] = 230
    near, far = Remote(desk, FULL), Remote(desk, FULL, Line(20 * NS_PER_MS, rate_bps=rate))
    for rects in steps(kind, screen.pixels, 1, 90):
        screen.screen.painted(rects, desk.now_ns)
        desk.run(35)
    # Once the line is known, nothing is older than its round trip and what may wait on it: 33 ms, and a picture.
    assert max(near.ages) < 60 * NS_PER_MS and sorted(far.ages[30:])[len(far.ages[30:]) * 9 // 10] < 120 * NS_PER_MS
    assert len(far.ages) > 30
    desk.run(4_000)
    assert near.drawn.exact(screen.pixels) and far.drawn.exact(screen.pixels)


# -- against a daemon ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["typing", "scroll", "film"])
def test_picture_is_exact_once_the_screen_is_still(tmp_path: Path, kind: str) -> None:
    async def test(rig: Rig) -> None:
        painter = painter_of(rig, "alice", 230)
        painter.show(320, 200, now_ns())
        full = {"formats": ["raw", "zstd", "jpeg", "png"], "codecs": ["avc1", "vp8"]}
        one, other = await watching(rig, **full), await watching(rig, **full)
        reading = [asyncio.create_task(one.goes_on()), asyncio.create_task(other.goes_on())]
        for rects in steps(kind, painter.pixels, 1, 15):
            painter.screen.painted(rects, now_ns())
            await asyncio.sleep(0.03)
        for task in reading:
            task.cancel()
        await asyncio.gather(*reading, return_exceptions=True)
        await asyncio.gather(one.shows(painter), other.shows(painter))
        assert one.types & {PartType.ZSTD, PartType.VIDEO}
        (first, second) = await views(rig)
        assert first["shown"] > 1 and second["shown"] > 1 and set(first["ledger_ms"]) <= set(STAGES)
        whole = await told(rig, "latency", painter.screen.key)
        assert {way["listener"] for way in whole["listeners"]} <= {first["id"], second["id"]}
        assert all(abs(sum(stage["ms"] for stage in way["stages"]) - way["sum_ms"]) < 0.1 for way in whole["listeners"])
        for key, named in ((painter.screen.key, {"source", "painted", "encoder"}), (first["id"], {"line", "pictures"})):
            said = await told(rig, "explain", key)
            assert said["guest"] == "alice" and named <= {step["stage"] for step in said["steps"]}
        metrics = (await rig.ask("GET", "/metrics", ""))[1]
        assert 'millrace_guest_viewers{guest="alice"} 2.0' in metrics

    running(tmp_path, test)


async def told(rig: Rig, what: str, target: str, secret: str = "", status: int = 200) -> dict[str, Any]:
    """What the API says of an object."""
    found, text = await rig.ask("GET", f"/api/v1/{what}?target={target}", secret)
    assert found == status, text
    out: dict[str, Any] = json.loads(text)
    return out


def test_pixels_of_one_guest_never_reach_anothers_viewer(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        alice, bob = painter_of(rig, "alice", 11), painter_of(rig, "bob", 200)
        secret = await rig.token("alices", "type", ["alice"])
        one, other = await watching(rig, secret), await watching(rig, guest="bob")
        await asyncio.gather(one.shows(alice), other.shows(bob))
        for step in range(1, 20):
            alice.fill(Rect(step, 0, 5, 5), 11 + step, now_ns())
            bob.fill(Rect(0, step, 5, 5), 200 + step, now_ns())
            await asyncio.gather(one.shows(alice), other.shows(bob))
        assert max(one.seen) < 100 < min(other.seen)
        # Its screens, and even that they exist, are none of a stranger's business.
        for path in ("/bob/screen", "/nobody/screen"):
            status, text = await rig.ask("GET", path, secret)
            assert status == 404 and "VGA" not in text
        seen = await rig.token("seer", "see", ["alice"])
        assert (await told(rig, "explain", alice.screen.key, seen))["guest"] == "alice"
        for key in (bob.screen.key, rig.daemon.worker.guest("bob").viewers.sessions[0].key):
            for what in ("explain", "latency"):
                assert "VGA" not in str(await told(rig, what, key, seen, 404))
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await watching(rig, secret, "bob")
        assert refused.value.status == 404
        taken = await watching(rig, secret, screen=None)
        await taken.say(TakeKeyboard(True))
        await taken.say(Key(0x1E, True))
        await taken.until(KeyboardHeld)
        listed = json.loads((await rig.ask("GET", "/api/v1/state?guest=bob", ""))[1])["guests"][0]
        assert [view["screen"] for view in listed["viewers"]] == [bob.screen.key] and not bob.typed

    running(tmp_path, test)


def test_screen_of_another_guest_can_not_be_asked_for(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        painter_of(rig, "alice", 11)
        bob = painter_of(rig, "bob", 200)
        headers = {"Authorization": f"Bearer {await rig.token('alices', 'watch', ['alice'])}"}
        socket = await rig.http.ws_connect(f"ws://{rig.daemon.serving.address}/alice/screen", headers=headers)
        watcher = Watcher(socket, Watch(screen=bob.screen.key))
        fault = await watcher.until(Fault)
        assert fault.fatal and "screen" in fault.message
        await watcher.ends()

    running(tmp_path, test)


def test_rights_that_end_while_watching_and_typing_end_both_at_once(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        alice = painter_of(rig, "alice", 11)
        secret = await rig.token("typist", "type", ["alice"])
        typist, other = await watching(rig, secret, keyboard=True), await watching(rig)
        await typist.shows(alice)
        await typist.say(Key(0x1D, True))
        while not alice.typed:
            await asyncio.sleep(0.01)
        token = next(token for token in rig.daemon.worker.access.tokens if token.name == "typist")
        assert await rig.daemon.worker.access.revoke(token.id)
        # At once, what it held down is released, and it is sent nothing of what is painted from now on.
        alice.fill(Rect(0, 0, 9, 9), 77, now_ns())
        assert alice.typed == [(0x1D, True), (0x1D, False)]
        guest = rig.daemon.worker.guest("alice")
        assert guest.screens.seat.who is None and guest.viewers.sessions[0].sending.closed
        bye = await typist.until(Bye)
        assert not bye.again
        await typist.ends()
        assert [view.key for view in guest.viewers.sessions] == [f"viewer/{other.wire.watching.viewer}"]  # type: ignore[union-attr]
        await other.shows(alice)
        assert 77 not in typist.seen

    running(tmp_path, test)


@pytest.mark.parametrize("may", ["see", "hear", "speak", "control"])
def test_watching_needs_its_right(tmp_path: Path, may: str) -> None:
    async def test(rig: Rig) -> None:
        painter_of(rig, "alice", 11)
        secret = await rig.token(may, may, ["alice"])
        assert (await rig.ask("GET", "/alice/screen", secret))[0] == 403
        assert (await rig.ask("GET", "/alice/screen", await rig.token("watch", "watch", ["alice"])))[0] == 426

    running(tmp_path, test)


def test_viewer_is_listed_and_set_by_itself_or_by_its_listener(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        painter_of(rig, "alice", 11)
        key = {"Authorization": f"Bearer {rig.daemon.worker.access.key}"}
        sound = await rig.http.ws_connect(f"ws://{rig.daemon.serving.address}/alice", headers=key)
        await sound.send_str(encode_message(Hello()))
        welcome = json.loads((await sound.receive()).data)
        watcher = await watching(rig, name="phone", listener=welcome["listener"], keyboard=True)
        await watcher.until(KeyboardHeld)
        number = watcher.wire.watching.viewer  # type: ignore[union-attr]
        (view,) = await views(rig)
        assert (view["id"], view["name"], view["by"], view["keyboard"]) == (f"viewer/{number}", "phone", "owner", True)
        assert view["listener"] == f"listener/{welcome['listener']}" and view["settings"]["picture"] == "auto"
        for target, settings, expected in (
            (f"viewer/{number}", {"picture": "2M", "fps": 10}, 200),
            (f"viewer/{number}", {"picture": "best"}, 400),
            (f"viewer/{number}", {"volume": "5%"}, 400),
            (f"listener/{welcome['listener']}", {"scale": 0.5, "bitrate": "64k"}, 200),
            (f"listener/{welcome['listener']}", {"scale": "7", "bitrate": "32k"}, 400),
            ("viewer/1", {"fps": 5}, 404),
        ):
            status, text = await rig.ask("POST", "/api/v1/set", "", {"target": target, "settings": settings})
            assert status == expected, (target, settings, text)
        (view,) = await views(rig)
        assert view["settings"] == {"picture": "2M", "fps": 10, "scale": "0.5"}
        (listener,) = (await state(rig))["listeners"]
        assert listener["settings"]["bitrate"] == 64_000
        assert listener["name"] == "owner", "it gave no name"
        await sound.close()

    running(tmp_path, test)


def test_player_is_not_told_of_the_delay_that_the_viewer_adds_to_its_picture(tmp_path: Path) -> None:
    """The viewer waits for the sound, unless the listener asked for the picture first."""

    async def test(rig: Rig) -> None:
        painter_of(rig, "alice", 11)
        (sink,) = rig.daemon.worker.guests["alice"].graph.sinks.values()
        key = {"Authorization": f"Bearer {rig.daemon.worker.access.key}"}
        sound = await rig.http.ws_connect(f"ws://{rig.daemon.serving.address}/alice", headers=key)
        await sound.send_str(encode_message(Hello()))
        number = json.loads((await sound.receive()).data)["listener"]

        async def told(latency_ns: int) -> None:
            async with asyncio.timeout(5):
                while sink.outlet_latency_ns != latency_ns:
                    await asyncio.sleep(0.005)

        async def change(target: str, settings: dict[str, str]) -> None:
            assert (await rig.ask("POST", "/api/v1/set", "", {"target": target, "settings": settings}))[0] == 200

        await sound.send_str(encode_message(Report(latency_ns=60 * NS_PER_MS)))
        await told(60 * NS_PER_MS)
        watcher = await watching(rig, name="phone", listener=number)
        await told(0)
        viewer = f"viewer/{watcher.wire.watching.viewer}"  # type: ignore[union-attr]
        for latency, reported in (("low", 60 * NS_PER_MS), ("normal", 0)):
            await change(f"listener/{number}", {"latency": latency})
            await sound.send_str(encode_message(Report(latency_ns=60 * NS_PER_MS)))
            await told(reported)
        await change(viewer, {"picture": "off"})
        await told(60 * NS_PER_MS)
        await change(viewer, {"picture": "auto"})
        await told(0)
        await watcher.socket.close()
        await told(60 * NS_PER_MS)
        await sound.close()

    running(tmp_path, test)


def test_latencies_are_renewed_once_for_all_that_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Listeners and viewers that come, go and report are many, and each renewal looks at all of them."""
    renewed: list[Guest] = []
    renew = Guest._renew_latencies

    def counted(guest: Guest) -> Iterator[None]:
        renewed.append(guest)
        return renew(guest)

    async def test(rig: Rig) -> None:
        guest = rig.daemon.worker.guest("alice")
        renewed.clear()
        for _ in range(300):
            guest.latency_changed()
        assert not renewed
        while guest.turns.waiting:
            await asyncio.sleep(0)
        assert renewed == [guest]

    monkeypatch.setattr(Guest, "_renew_latencies", counted)
    running(tmp_path, test)


async def state(rig: Rig) -> Any:
    return json.loads((await rig.ask("GET", "/api/v1/state?guest=alice", ""))[1])["guests"][0]


async def views(rig: Rig) -> Any:
    return (await state(rig))["viewers"]


def test_viewer_is_told_why_its_machine_is_gone_and_removing_the_guest_ends_it(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        guest = rig.daemon.worker.guest("alice")
        machine = rig.daemon.worker.attach(guest, parse_door("qmp:/nowhere"))
        alice = painter_of(rig, "alice", 11, machine.key)
        watcher = await watching(rig)
        await watcher.shows(alice)
        while not machine.view().error:
            await asyncio.sleep(0.01)
        guest.screens.remove(alice.screen)
        gone = await watcher.until(Gone)
        assert machine.view().error in gone.why
        back = painter_of(rig, "alice", 60, machine.key)
        await watcher.shows(back)
        await rig.daemon.worker.remove_guest("alice")
        assert not (await watcher.until(Bye)).again
        await watcher.ends()

    running(tmp_path, test)


def test_bad_message_ends_only_its_sender(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        alice = painter_of(rig, "alice", 11)
        bad, good = await watching(rig), await watching(rig)
        await bad.socket.send_str('{"type":"key","code":9999,"down":true}')
        fault = await bad.until(Fault)
        assert fault.fatal and fault.code == "protocol"
        await bad.ends()
        alice.fill(Rect(0, 0, 9, 9), 99, now_ns())
        await good.shows(alice)
        causes = [(one.stage, one.cause) for one in rig.daemon.worker.diagnosis.incidents]
        assert ("viewer", "broke the protocol") in causes

    running(tmp_path, test)


def test_viewer_that_ends_for_want_of_memory_has_not_broken_the_protocol(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(rig: Rig) -> None:
        painter_of(rig, "alice", 11)
        one = await watching(rig)

        def without_room(session: ViewerSession, message: str | bytes, now_ns: int) -> None:
            raise BudgetError("no room for this viewer")

        monkeypatch.setattr(ViewerSession, "receive", without_room)
        await one.socket.send_str('{"type":"take","take":true}')
        fault = await one.until(Fault)
        assert fault.fatal and (fault.code, fault.message) == ("limit", "no room for this viewer")
        await one.ends()
        assert ("viewer", "broke the protocol") not in [
            (one.stage, one.cause) for one in rig.daemon.worker.diagnosis.incidents
        ]

    running(tmp_path, test)
