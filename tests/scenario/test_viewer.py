"""The viewer against a daemon on virtual time: what it shows, when, what it says, and how it goes on."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Sequence

import numpy as np
import pytest

from millrace.client.canvas import Canvas, Decoder
from millrace.client.faces import Unseen
from millrace.client.steps import Step
from millrace.client.viewer import NoSound, Viewer, ViewerOptions
from millrace.errors import ConfigError, GraphError, MillraceError, PeerLost, RemoteProtocolError
from millrace.io import clock
from millrace.pixels.blockcode import Stamp, read
from millrace.pixels.rects import Point, Rect, Size
from millrace.sim.desktop import CODE, Desktop
from millrace.units import NS_PER_MS, NS_PER_S
from millrace.wire.peer.messages import Bye, Fault, Trouble
from millrace.wire.peer.pictures import (
    ChangeView,
    CursorChanged,
    Gone,
    Hidden,
    Key,
    KeyboardHeld,
    ModeChanged,
    Part,
    PartType,
    Pointer,
    Refresh,
    SizeWish,
    TakeKeyboard,
    Text,
)

from ..pictures import PictureDaemon, Session
from ..virtual import run

SIZE = Size(560, 160)
URL = "ws://localhost/default"


class Seen(Unseen):
    """Notes what it is shown, and when."""

    def __init__(self) -> None:
        self.pictures: list[tuple[int, Stamp | None, np.ndarray]] = []
        self.sizes: list[Size] = []
        self.reasons: list[str] = []
        self.cursors: list[CursorChanged] = []
        self.holders: list[KeyboardHeld] = []

    def resized(self, canvas: Canvas) -> None:
        self.sizes.append(canvas.size)

    def draw(self, canvas: Canvas, changed: Sequence[Rect], painted_ns: int) -> None:
        self.pictures.append((clock.now_ns(), read(canvas.pixels, CODE), canvas.pixels.copy()))

    def cursor(self, canvas: Canvas, cursor: CursorChanged) -> None:
        self.cursors.append(cursor)

    def keyboard(self, held: KeyboardHeld) -> None:
        self.holders.append(held)

    def old(self, why: str) -> None:
        self.reasons.append(why)


class Sound:
    """Sound that is so old when it is heard, or none."""

    number = 5

    def __init__(self, age_ns: int | None, picture_first: bool = False) -> None:
        self.age_ns, self.picture_first = age_ns, picture_first

    def heard_ns(self, now: int) -> int | None:
        return None if self.age_ns is None else now - self.age_ns


class Place:
    """A daemon, a viewer of it, and its first session."""

    def __init__(self, daemon: PictureDaemon, viewer: Viewer, seen: Seen, session: Session, events: list[str]) -> None:
        self.daemon, self.viewer, self.seen, self.session, self.events = daemon, viewer, seen, session, events


@contextlib.asynccontextmanager
async def watching(
    playout_ns: int | None = None, picture_first: bool = False, **options: object
) -> AsyncIterator[Place]:
    """A viewer; with `playout_ns`, it hears sound that is so old."""
    async with PictureDaemon().running() as daemon, asyncio.timeout(120):
        seen, events = Seen(), []  # type: ignore[var-annotated]
        viewer = Viewer(
            URL,
            seen,
            ViewerOptions(token="t", socket=daemon.socket, **options),  # type: ignore[arg-type]
            Sound(playout_ns, picture_first),
            lambda kind, text: events.append(f"{kind}: {text}"),
        )
        task = asyncio.create_task(viewer.run())
        yield Place(daemon, viewer, seen, await daemon.sessions.get(), events)
        viewer.stop()
        await task


def test_every_picture_arrives_exactly_at_once_and_is_acknowledged_with_its_times() -> None:
    async def main() -> None:
        desktop = Desktop(SIZE, "typing")
        async with watching(name="me", screen="screen/3", keyboard=True, settings={"fps": "30"}) as here:
            watch = here.session.watch
            assert (watch.name, watch.screen, watch.listener, watch.keyboard) == ("me", "screen/3", 5, True)
            assert watch.settings == {"fps": "30"} and "avc1" in watch.codecs and "zstd" in watch.formats
            assert here.daemon.requests[0].headers["Authorization"] == "Bearer t"
            await here.session.mode(desktop.picture)
            await here.session.until_shown(1)
            for step in range(2, 20):
                painted = clock.now_ns()
                serial = await here.session.picture(desktop.picture, desktop.paint(painted), painted)
                shown = await here.session.until_shown(serial)
                assert serial == step and shown.skew_ns is None and shown.queue == 0
                assert abs(shown.drawn_ns - painted) < NS_PER_MS >= abs(shown.decoded_ns - painted)
                times = (shown.arrived_ns, shown.decoded_ns, shown.drawing_ns, shown.drawn_ns)
                assert list(times) == sorted(times) and times[0] > painted - NS_PER_MS
                when, stamp, pixels = here.seen.pictures[-1]
                assert stamp == Stamp(desktop.number, painted) and when - painted < NS_PER_MS
                assert np.array_equal(pixels[:, :, :3], desktop.picture[:, :, :3])
                await asyncio.sleep(0.033)
            assert here.seen.sizes == [SIZE] and here.session.taken == []
            assert here.events[0] == "joined: viewer/7 sees default, screen/3 a desktop"
            assert here.viewer.figures.pictures == 19 and here.viewer.figures.replaced == 0

    run(main())


def test_small_changes_are_decoded_without_a_change_of_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    where: list[bool] = []
    decode = Decoder.steps

    def noted(self: Decoder, parts: Sequence[Part]) -> list[Step]:
        where.append(threading.current_thread() is threading.main_thread())
        return decode(self, parts)

    monkeypatch.setattr(Decoder, "steps", noted)

    async def main() -> None:
        desktop = Desktop(SIZE, "typing")
        async with watching() as here:
            await here.session.mode(desktop.picture)
            await here.session.until_shown(1)
            for _ in range(2):
                await here.session.until_shown(
                    await here.session.picture(desktop.picture, desktop.paint(clock.now_ns()))
                )
            await here.session.until_shown(await here.session.picture(desktop.picture, [Rect(0, 0, 560, 160)]))

    run(main())
    assert where == [False, True, True, False]


def test_pictures_wait_for_the_sound_being_heard() -> None:
    """Sound is heard 100 ms after its capture, so each picture is shown 100 ms after it was painted."""

    async def main() -> None:
        desktop = Desktop(SIZE)
        async with watching(playout_ns=100 * NS_PER_MS) as here:
            await here.session.mode(desktop.picture)
            times = {}
            for _ in range(30):
                times[desktop.number + 1] = painted = clock.now_ns()
                await here.session.picture(desktop.picture, desktop.paint(painted), painted)
                await asyncio.sleep(0.033)
            await here.session.until_shown(31)
            delays = [when - times[stamp.number] for when, stamp, _ in here.seen.pictures if stamp and stamp.number]
            assert len(delays) == 30 and all(99 * NS_PER_MS <= delay <= 102 * NS_PER_MS for delay in delays)
            skews = [shown.skew_ns for shown in here.session.shown]
            assert all(skew is not None and abs(skew) <= 2 * NS_PER_MS for skew in skews[1:])
            held = [shown.drawing_ns - shown.decoded_ns for shown in here.session.shown[1:]]
            assert all(90 * NS_PER_MS <= ns <= 102 * NS_PER_MS for ns in held), "the time in which they wait is told"
            # Each is acknowledged when it comes, or the daemon would wait for it to be drawn.
            assert here.session.taken == list(range(1, 32)) and max(one.queue for one in here.session.shown) == 3

    run(main())


def test_no_picture_waits_for_sound_that_follows_it() -> None:
    async def main() -> None:
        desktop = Desktop(SIZE)
        async with watching(playout_ns=20 * NS_PER_MS, picture_first=True) as here:
            await here.session.mode(desktop.picture)
            times = {}
            for _ in range(10):
                times[desktop.number + 1] = painted = clock.now_ns()
                await here.session.picture(desktop.picture, desktop.paint(painted), painted)
                await asyncio.sleep(0.033)
            await here.session.until_shown(11)
            delays = [when - times[stamp.number] for when, stamp, _ in here.seen.pictures if stamp and stamp.number]
            assert len(delays) == 10 and all(delay <= 3 * NS_PER_MS for delay in delays)
            skews = [shown.skew_ns for shown in here.session.shown][1:]
            assert all(skew is not None and -20 * NS_PER_MS <= skew <= -17 * NS_PER_MS for skew in skews)
            assert here.session.taken == []

    run(main())


def test_picture_that_is_replaced_before_it_is_drawn_says_so() -> None:
    async def main() -> None:
        desktop = Desktop(SIZE, "typing")
        async with watching(playout_ns=100 * NS_PER_MS) as here:
            await here.session.mode(desktop.picture)
            await here.session.until_shown(1)
            for _ in range(3):
                painted = clock.now_ns()
                await here.session.picture(desktop.picture, desktop.paint(painted), painted)
            await asyncio.sleep(0.03)
            # The sound ends, so all that waited for it are due at once.
            here.viewer._sound = NoSound()
            here.viewer._present()
            await here.session.until_shown(4)
            told = {shown.serial: (bool(shown.drawn_ns), shown.skew_ns) for shown in here.session.shown}
            assert [told[serial] for serial in (2, 3, 4)] == [(False, None), (False, None), (True, None)]
            assert here.viewer.figures.replaced == 2

    run(main())


def test_late_pictures_are_applied_together_and_drawn_once() -> None:
    async def main() -> None:
        desktop = Desktop(SIZE, "typing")
        async with watching(playout_ns=100 * NS_PER_MS) as here:
            await here.session.mode(desktop.picture)
            await here.session.until_shown(1)
            for step in range(6):
                painted = clock.now_ns() - 200 * NS_PER_MS - step
                changed = desktop.paint(painted)
                here.session.wire.send_piece(b"", painted_ns=painted)
                await here.session.picture(desktop.picture, changed, painted)
            await here.session.until_shown(13)
            assert np.array_equal(here.seen.pictures[-1][2][:, :, :3], desktop.picture[:, :, :3])
            assert {shown.serial for shown in here.session.shown} == set(range(1, 14))

    run(main())


@pytest.mark.parametrize("told", [False, True])
def test_sound_that_connects_while_the_viewer_is_being_answered_is_told(told: bool) -> None:
    """`told`: the viewer is also told by its sound, at a moment when it can't pass that on."""

    class Later(Sound):
        def __init__(self) -> None:
            super().__init__(None)
            self.found: int | None = None

        @property
        def number(self) -> int | None:  # type: ignore[override]
            if self.found is None:
                self.found = 7
                asyncio.get_running_loop().call_soon(viewer.hear if told else int, 7)
                return None
            return self.found

    async def main() -> None:
        nonlocal viewer
        async with PictureDaemon().running() as daemon, asyncio.timeout(120):
            viewer = Viewer(URL, Seen(), ViewerOptions(token="t", socket=daemon.socket), Later())
            task = asyncio.create_task(viewer.run())
            session = await daemon.sessions.get()
            await asyncio.sleep(0.1)
            assert session.watch.listener is None and session.came == [ChangeView({}, 7)]
            viewer.stop()
            await task

    viewer: Viewer
    run(main())


def test_what_a_person_does_reaches_the_daemon() -> None:
    async def main() -> None:
        async with watching() as here:
            await asyncio.sleep(0.1)
            viewer = here.viewer
            viewer.key(0x1E, True)
            viewer.pointer(Point(3, 4), 1)
            # This daemon does not know a wheel that turns sideways.
            viewer.pointer(Point(3, 4), 0x101)
            viewer.type_text("é")
            viewer.wish_size(Size(800, 600))
            viewer.take_keyboard()
            viewer.hide(True)
            viewer.configure({"picture": "2M"})
            viewer.hear(9)
            await asyncio.sleep(0.1)
            assert here.session.came == [
                Key(0x1E, True), Pointer(3, 4, 1), Pointer(3, 4, 1), Text("é"), SizeWish(800, 600),
                TakeKeyboard(True), Hidden(True),
                ChangeView({"picture": "2M"}), ChangeView({}, 9),
            ]  # fmt: skip

    run(main())


def test_modes_cursors_keyboard_and_loss_of_the_machine_are_told_in_order() -> None:
    async def main() -> None:
        async with watching() as here:
            session, arrow = here.session, bytes(range(4)) * 6
            await session.mode(Desktop(SIZE).picture)
            session.wire.send_shape(Part(PartType.SHAPE, Rect(0, 0, 2, 3), arrow, dx=4))
            await session.say(CursorChanged(4, 10, 20, 1, 1), KeyboardHeld(False, "alice"), KeyboardHeld(True))
            await session.say(ModeChanged(SIZE.width, SIZE.height, 1, relative=True))
            await session.say(Gone("the machine is off"))
            await session.mode(Desktop(Size(600, 200)).picture)
            await session.until_shown(2)
            assert here.seen.sizes == [SIZE, Size(600, 200)] and here.viewer.canvas.size == Size(600, 200)
            assert here.seen.cursors == [CursorChanged(4, 10, 20, 1, 1)] and 4 in here.viewer.canvas.shapes
            assert [held.who for held in here.seen.holders] == ["alice", ""] and here.viewer.keyboard.mine
            assert [why for why in here.seen.reasons if why] == ["the machine is off"] and here.seen.reasons[-1] == ""
            assert not here.viewer.relative

    run(main())


def test_a_damaged_picture_asks_for_a_key_picture_and_what_follows_waits_for_it() -> None:
    async def main() -> None:
        desktop = Desktop(SIZE, "typing")
        async with watching() as here:
            session = here.session
            await session.mode(desktop.picture)
            await session.parts([Part(PartType.ZSTD, Rect(0, 0, 9, 9), b"damage")])
            await session.picture(desktop.picture, desktop.paint(NS_PER_S))
            await session.until_shown(3)
            assert [type(one) for one in session.came].count(Refresh) == 1 and here.viewer.figures.refreshes == 1
            assert len(here.seen.pictures) == 1
            await session.picture(desktop.picture, [Rect(0, 0, SIZE.width, SIZE.height)], key=True)
            await session.until_shown(4)
            assert np.array_equal(here.seen.pictures[-1][2][:, :, :3], desktop.picture[:, :, :3])

    run(main())


def test_a_viewer_that_did_not_run_says_so_itself() -> None:
    async def main() -> None:
        desktop = Desktop(SIZE)
        async with watching() as here:
            await here.session.mode(desktop.picture)
            await here.session.until_shown(1)
            await asyncio.sleep(3)
            assert not [one for one in here.session.came if isinstance(one, Trouble)]
            at = clock.now_ns()
            asyncio.get_running_loop().waiting.now_ns += 600 * NS_PER_MS  # type: ignore[attr-defined]
            await asyncio.sleep(1)
            (trouble,) = [one for one in here.session.came if isinstance(one, Trouble)]
            assert (trouble.stage, trouble.cause) == ("viewer", "not run") and 400 < trouble.evidence["late_ms"] <= 600
            assert abs(trouble.at_ns - at) <= 100 * NS_PER_MS

    run(main())


def test_it_reconnects_with_the_reason_told_and_the_picture_comes_again() -> None:
    async def main() -> None:
        desktop = Desktop(SIZE)
        async with watching() as here:
            await here.session.mode(desktop.picture)
            await here.session.until_shown(1)
            here.viewer.configure({"fps": "10"})
            await here.session.websocket.close()
            again = await here.daemon.sessions.get()
            assert again.watch.settings == {"fps": "10"}
            assert here.seen.reasons[-1] == "the connection ended" and "lost: the connection ended" in here.events
            await again.mode(desktop.picture)
            await again.until_shown(1)
            assert here.seen.reasons[-1] == "" and len(here.seen.pictures) == 2

    run(main())


def test_a_farewell_for_good_ends_it() -> None:
    async def main() -> None:
        async with watching() as here:
            await here.session.say(Bye("the guest was removed", again=False))
            await asyncio.sleep(1)
            assert here.daemon.sessions.empty() and here.events[-1] == "ended: the guest was removed"

    run(main())


@pytest.mark.parametrize(
    ("said", "kind"),
    [(Fault("graph", "no screen/9", True), GraphError), (ModeChanged(16_000, 16_000, 1), RemoteProtocolError)],
)
def test_what_cannot_be_cured_is_raised(said: object, kind: type[MillraceError]) -> None:
    async def main() -> None:
        async with PictureDaemon().running() as daemon, asyncio.timeout(60):
            task = asyncio.create_task(Viewer(URL, Seen(), ViewerOptions(socket=daemon.socket)).run())
            session = await daemon.sessions.get()
            await session.say(said)  # type: ignore[arg-type]
            with pytest.raises(kind):
                await task

    run(main())


def test_a_lost_connection_is_an_error_for_one_that_does_not_reconnect() -> None:
    async def main() -> None:
        async with PictureDaemon().running() as daemon, asyncio.timeout(60):
            options = ViewerOptions(socket=daemon.socket, reconnect=False)
            task = asyncio.create_task(Viewer(URL, Seen(), options).run())
            await (await daemon.sessions.get()).websocket.close()
            with pytest.raises(PeerLost, match="the connection ended"):
                await task

    run(main())
    with pytest.raises(ConfigError, match="viewers connect to"):
        Viewer("http://x/default", Seen())


def test_a_guest_that_is_not_there_is_named() -> None:
    async def main() -> None:
        async with PictureDaemon().running() as daemon, asyncio.timeout(60):
            with pytest.raises(GraphError, match="your daemon has no guest 'alice'"):
                await Viewer("ws://localhost/alice", Seen(), ViewerOptions(socket=daemon.socket)).run()

    run(main())
