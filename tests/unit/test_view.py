"""`millrace view`: its words, its window on SDL's dummy display, its figures."""

from __future__ import annotations

import asyncio
import ctypes
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from millrace.cli import view as command
from millrace.cli.main import app
from millrace.cli.outputfile import demand_new
from millrace.client.canvas import Canvas
from millrace.client.clipboard import SharedClipboard
from millrace.client.faces import Unseen
from millrace.client.figures import Figures
from millrace.client.lettering import letter, lettered
from millrace.client.pictureoutputs import Shown, target
from millrace.client.recording import Recording
from millrace.client.steps import CursorShape
from millrace.client.stills import PngFile, Y4mStream
from millrace.client.viewer import ViewerOptions
from millrace.client.window import Window, sdl
from millrace.errors import ConfigError, MillraceError, PeerLost
from millrace.pixels.rects import Point, Rect, Size
from millrace.sim.desktop import Desktop
from millrace.units import NS_PER_MS
from millrace.wire.peer.pictures import CursorChanged, KeyboardHeld

SIZE = Size(560, 160)


# -- words ---------------------------------------------------------------------------------------


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    made: list[Any] = []
    monkeypatch.setattr(command, "_run", made.append)
    return made


def test_words_become_a_plan(plans: list[Any]) -> None:
    words = "view ws://x:1/alice --set picture=2M --set bitrate=32k --seconds 10m --screen screen/3 --name me -q"
    assert CliRunner().invoke(app, words.split()).exit_code == 0
    (plan,) = plans
    assert (plan.url, plan.kind, plan.for_ns, plan.quiet) == ("ws://x:1/alice", "window", 600 * 10**9, True)
    assert plan.options.settings == {"picture": "2M"} and plan.sound_settings == {"bitrate": "32k"}
    assert plan.options.keyboard and plan.options.screen == "screen/3" and plan.options.socket is None


@pytest.mark.parametrize(
    ("words", "settings", "keyboard"),
    [("", {}, True), ("--view-only", {}, False), ("--to a.mkv", {}, False),
     ("--to a.png", {"picture": "lossless"}, False),
     ("--to a.png --set picture=auto", {"picture": "auto"}, False)],
)  # fmt: skip
def test_files_take_no_keyboard_and_a_single_picture_is_exact(
    words: str, settings: dict[str, str], keyboard: bool, plans: list[Any]
) -> None:
    CliRunner().invoke(app, ["view", *words.split()])
    assert (plans[0].options.settings, plans[0].options.keyboard) == (settings, keyboard)
    assert plans[0].url == "ws://localhost/default" and plans[0].options.socket is not None


@pytest.mark.parametrize(
    "words", ["--to a.gif", "--to y4m:", "--to png:-", "--to mkv:", "--to y4m:- --json", "--set picture", "--seconds x"]
)
def test_wrong_words_are_refused(words: str, plans: list[Any]) -> None:
    assert isinstance(CliRunner().invoke(app, ["view", *words.split()]).exception, ConfigError) and not plans


def test_outputs_are_made_by_their_names(tmp_path: Path) -> None:
    found = {
        to: target(to, "alice/b")
        for to in ("window", "null:", "A.PNG", "png:a.x", "png:", "b.mkv", "mkv:b", "y4m:-", "y4m:c.png")
    }
    assert found == {
        "window": ("window", ""), "null:": ("null", ""), "A.PNG": ("png", "A.PNG"), "png:a.x": ("png", "a.x"),
        "png:": ("png", "alice-b.png"), "b.mkv": ("mkv", "b.mkv"), "mkv:b": ("mkv", "b"), "y4m:-": ("y4m", "-"),
        "y4m:c.png": ("y4m", "c.png"),
    }  # fmt: skip

    async def main() -> None:
        kinds = {"null:": Unseen, f"{tmp_path}/a.png": PngFile, f"{tmp_path}/a.mkv": Recording}
        for to, kind in (kinds | {f"y4m:{tmp_path}/a.y4m": Y4mStream}).items():
            shown = Shown(to, "t", False, True, lambda why: None)
            assert type(shown.face) is kind and (shown.recording is not None) == (kind is Recording)
            shown.close()
        begun: list[Path] = []
        shown = Shown(f"{tmp_path}/b.mkv", "t", False, True, lambda why: None, on_file=begun.append)
        canvas = Canvas()
        canvas.resize(Size(64, 48))
        shown.face.resized(canvas)
        shown.face.draw(canvas, [], 1)
        shown.close()
        assert begun == [tmp_path / "b.mkv"]
        (tmp_path / "link").symlink_to(tmp_path / "victim")
        with pytest.raises(ConfigError, match="is a link to a file that does not exist"):
            Shown(f"y4m:{tmp_path}/link", "t", False, True, lambda why: None, replace=False)
        with pytest.raises(ConfigError, match="No such file"):
            Shown(f"y4m:{tmp_path}/no/a.y4m", "t", False, True, lambda why: None)

    asyncio.run(main())


def test_a_file_that_is_there_is_only_overwritten_on_request(tmp_path: Path, plans: list[Any]) -> None:
    for kind, name in (("png:", "a.png"), ("mkv:", "a.mkv"), ("y4m:", "a.y4m"), ("", "b.png")):
        there = tmp_path / name
        there.write_bytes(b"mine")
        for words in (["view", "--to"], ["listen", "--to"] if kind == "y4m:" else ["view", "--to"]):
            to = f"wav:{there}" if words[0] == "listen" else f"{kind}{there}"
            refused = CliRunner().invoke(app, [*words, to]).exception
            assert (
                isinstance(refused, ConfigError) and str(refused) == f"{there} already exists; --overwrite replaces it"
            )
        assert not plans and there.read_bytes() == b"mine"
        CliRunner().invoke(app, ["view", "--to", f"{kind}{there}", "--overwrite"])
        assert plans.pop().kind == (kind or "png:").rstrip(":")
        link, victim = tmp_path / f"l{name}", tmp_path / f"victim {name}"
        link.symlink_to(victim)
        assert isinstance(CliRunner().invoke(app, ["view", "--to", f"{kind}{link}"]).exception, ConfigError)
        assert not plans and not victim.exists()
    CliRunner().invoke(app, ["view", "--to", "y4m:/dev/null"])
    assert plans
    demand_new("-", False)


@pytest.mark.parametrize(
    ("to", "pictures", "got", "interrupted", "lost", "ended", "raises"),
    [("a.mkv", 3, 3, True, "", "", None), ("a.mkv", 0, 0, True, "", "", 130), ("a.mkv", 3, 0, False, "", "", 3),
     ("a.png", 1, 0, False, "", "", 3), ("a.png", 1, 1, False, "", "gone", None), ("a.mkv", 3, 3, False, "", "gone", 6),
     ("a.png", 0, 0, False, "no daemon", "", 6), ("null:", 0, 0, False, "no daemon", "", 6),
     ("null:", 0, 0, True, "no daemon", "", None), ("null:", 0, 0, False, "", "", None)],
)  # fmt: skip
def test_what_came_decides_the_exit_code(
    to: str, pictures: int, got: int, interrupted: bool, lost: str, ended: str, raises: int | None
) -> None:
    kind = target(to, "")[0]
    plan = command._Plan("ws://x/y", to, kind, "", ViewerOptions(), {}, False, None, False, True)
    figures = Figures()
    figures.pictures = pictures
    viewer: Any = SimpleNamespace(figures=figures, lost=PeerLost(lost) if lost else None, ended=ended, trouble="")
    shown: Any = SimpleNamespace(got=lambda pictures: got)
    found = None
    try:
        command._judge(plan, shown, viewer, interrupted)
    except (MillraceError, typer.Exit) as error:
        found = error.exit_code
    assert found == raises


@pytest.mark.parametrize("quiet", [False, True])
def test_viewer_is_told_of_its_listener_and_its_user_of_both(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], quiet: bool
) -> None:
    told: list[int] = []

    class Sound:
        def __init__(self, *args: Any) -> None:
            *_, self.on_event, self.on_welcome = args

        async def run(self) -> None:
            self.on_welcome(7)
            self.on_event("lost", "no answer")

        def stop(self) -> None:
            pass

    class Picture:
        def __init__(self, *args: Any) -> None:
            *_, self.on_event = args
            self.figures, self.hear, self.ended, self.lost, self.trouble = Figures(), told.append, "", None, ""

        async def run(self) -> None:
            await asyncio.sleep(0)
            self.on_event("joined", "viewer/5 sees alice")
            self.on_event("ended", "it is said at the end")

        def stop(self) -> None:
            pass

    monkeypatch.setattr("millrace.client.viewer.Viewer", Picture)
    monkeypatch.setattr("millrace.client.listener.Listener", Sound)
    plan = command._Plan("ws://x/y", "null:", "null", "null:", ViewerOptions(), {}, False, None, False, quiet)
    asyncio.run(command._view(plan))
    lines = [] if quiet else ["joined: viewer/5 sees alice", "sound, lost: no answer"]
    said = sorted(line for line in capsys.readouterr().err.splitlines() if ": " in line)
    assert told == [7] and said == lines


def test_figures_are_percentiles_in_ms() -> None:
    figures = Figures()
    for step in range(101):
        figures.decoded(step * NS_PER_MS)
        figures.shown(True, step * NS_PER_MS, -step * NS_PER_MS)
    figures.shown(False, 10**9, 10**9)
    figures.shown(True, None, None)
    found = json.loads(json.dumps(figures.as_dict()))
    assert (found["pictures"], found["replaced"]) == (102, 1)
    assert found["latency_ms"] == {"p50": 50, "p5": 5, "p95": 95, "p99": 99} and found["skew_ms"]["p50"] == -50
    assert Figures().as_dict()["skew_ms"] is None


@pytest.mark.parametrize("size", [(1, 1), (5, 5), (40, 60), (30, 3000), (600, 800)])
def test_words_fit_a_picture_of_any_size(size: tuple[int, int]) -> None:
    picture = np.full((*size, 4), 9, np.uint8)
    letter(picture, "no daemon answers; start one with `millrace serve` " * 20)
    letter(picture, "")
    assert picture.shape == (*size, 4) and picture.max() in (0, 9, *range(200, 256))


# -- the window ----------------------------------------------------------------------------------


class Machine:
    """Takes the place of a viewer."""

    def __init__(self) -> None:
        self.relative = False
        self.came: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args: self.came.append((name, *args))


class Place:
    """A window without a display, and a canvas."""

    def __init__(self) -> None:
        self.closed = 0
        self.window = Window("default", self._close)
        self.machine, self.canvas, self.sdl = Machine(), Canvas(), sdl()

    def _close(self) -> None:
        self.closed += 1

    def show(self, desktop: Desktop) -> None:
        self.canvas.resize(desktop.size)
        self.window.resized(self.canvas)
        self.canvas.pixels[:] = desktop.picture
        self.window.draw(self.canvas, [Rect(0, 0, desktop.size.width, desktop.size.height)], 0)

    @property
    def pixels(self) -> np.ndarray:
        with self.window._surface() as pixels:
            return pixels[:, :, :3].copy()

    def push(self, kind: int, **fields: Any) -> None:
        event = self.sdl.SDL_Event()
        event.type = kind
        for path, value in fields.items():
            *outer, last = path.split("__")
            part = event
            for name in outer:
                part = getattr(part, name)
            setattr(part, last, value)
        self.sdl.SDL_PushEvent(ctypes.byref(event))
        self.window._poll()


def in_window(monkeypatch: pytest.MonkeyPatch, work: Callable[[Place], None]) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")

    async def main() -> None:
        place = Place()
        place.window.attach(place.machine)  # type: ignore[arg-type]
        place.window.open()
        try:
            work(place)
        finally:
            place.window.close()

    asyncio.run(main())


def test_window_shares_its_clipboard(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(place: Place) -> None:
        shared, window = place.window.clipboard, place.window
        assert isinstance(shared, SharedClipboard)
        window._write_text("grüße\n日本")
        assert window._read_text() == "grüße\n日本"
        calls: list[object] = []
        for name in ("focus", "keyboard", "copied"):
            monkeypatch.setattr(shared, name, lambda *args, name=name: calls.append((name, *args)))
        window._poll()
        calls.clear()
        place.push(place.sdl.SDL_CLIPBOARDUPDATE)
        place.push(place.sdl.SDL_WINDOWEVENT, window__event=place.sdl.SDL_WINDOWEVENT_FOCUS_LOST)
        place.push(place.sdl.SDL_WINDOWEVENT, window__event=place.sdl.SDL_WINDOWEVENT_FOCUS_GAINED)
        window.keyboard(KeyboardHeld(True))
        assert calls == [("copied",), ("focus", False), ("focus", True), ("keyboard", True)]
        assert Window("default", place._close, share_clipboard=False).clipboard is None

    in_window(monkeypatch, work)


def test_only_what_changed_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(place: Place) -> None:
        desktop = Desktop(SIZE, "typing")
        place.show(desktop)
        assert np.array_equal(place.pixels, desktop.picture[:, :, :3])
        place.canvas.pixels[:] = 7
        place.window.draw(place.canvas, [Rect(10, 20, 30, 40), Rect(550, 150, 10, 10)], 0)
        expected = desktop.picture[:, :, :3].copy()
        expected[20:60, 10:40] = expected[150:160, 550:560] = 7
        assert np.array_equal(place.pixels, expected)
        place.window.draw(place.canvas, [Rect(x, 0, 1, 1) for x in range(100)], 0)

    in_window(monkeypatch, work)


def test_an_old_picture_is_grey_until_there_is_a_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(place: Place) -> None:
        desktop = Desktop(SIZE)
        place.show(desktop)
        place.window.old("the machine is off")
        grey, pixels = desktop.picture[:, :, :3] // 3 + 40, place.pixels
        # In full screen, where there is no title, the words in the picture are all that says why.
        words = lettered("the machine is off", SIZE.width)[:, :, :3]
        at = Rect(197, 73, 166, 34)
        assert 0.02 < (words > 200).mean() < 0.3
        assert np.array_equal(pixels[at.y : at.bottom, at.x : at.right], words)
        pixels[at.y : at.bottom, at.x : at.right] = grey[at.y : at.bottom, at.x : at.right]
        assert np.array_equal(pixels, grey)
        assert b"the machine is off" in place.sdl.SDL_GetWindowTitle(place.window._window)
        place.window.old("")
        assert np.array_equal(place.pixels, desktop.picture[:, :, :3])

    in_window(monkeypatch, work)


def test_the_machines_cursor_is_drawn_for_those_who_only_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(place: Place) -> None:
        desktop = Desktop(SIZE)
        place.show(desktop)
        before = place.pixels
        place.canvas.apply([CursorShape(1, np.full((8, 8, 4), 255, np.uint8))])
        for at in (Point(50, 60), Point(5, 6)):
            place.window.cursor(place.canvas, CursorChanged(1, at.x, at.y, 2, 2))
            expected = before.copy()
            expected[at.y - 2 : at.y + 6, at.x - 2 : at.x + 6] = 255
            assert np.array_equal(place.pixels, expected)
        place.window.draw(place.canvas, [Rect(0, 0, 10, 10)], 0)
        assert np.array_equal(place.pixels, expected)
        place.window.keyboard(KeyboardHeld(True))
        assert np.array_equal(place.pixels, before)

    in_window(monkeypatch, work)


def test_events_reach_the_machine_of_whoever_has_the_keyboard(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(place: Place) -> None:
        sdl2, came = place.sdl, place.machine.came
        place.show(Desktop(SIZE))
        came.clear()
        place.push(sdl2.SDL_KEYDOWN, key__keysym__scancode=4)
        assert came == []
        place.push(sdl2.SDL_KEYUP, key__keysym__scancode=4)
        place.window.keyboard(KeyboardHeld(True))
        place.push(
            sdl2.SDL_KEYDOWN, key__keysym__scancode=4, key__keysym__sym=ord("ö"), key__keysym__mod=sdl2.KMOD_CTRL
        )
        place.push(
            sdl2.SDL_KEYDOWN, key__keysym__scancode=4, key__keysym__sym=ord("ö"), key__keysym__mod=sdl2.KMOD_CTRL,
            key__repeat=1,
        )  # fmt: skip
        place.push(sdl2.SDL_MOUSEMOTION, motion__x=30, motion__y=40)
        place.push(sdl2.SDL_MOUSEBUTTONDOWN, button__button=3)
        place.push(sdl2.SDL_MOUSEWHEEL, wheel__y=-1)
        place.push(sdl2.SDL_MOUSEWHEEL, wheel__x=1)
        place.push(sdl2.SDL_WINDOWEVENT, window__event=sdl2.SDL_WINDOWEVENT_FOCUS_LOST)
        at = Point(30, 40)
        assert came == [
            ("key", 0x1E, True, "ö", 0), ("key", 0x1E, True, "ö", 0), ("pointer", at, 0, False),
            ("pointer", at, 4, False), ("pointer", at, 20, False), ("pointer", at, 4, False),
            ("pointer", at, 260, False), ("pointer", at, 4, False), ("key", 0x1E, False, "", None),
            ("pointer", at, 0, False),
        ]  # fmt: skip
        place.push(sdl2.SDL_WINDOWEVENT, window__event=sdl2.SDL_WINDOWEVENT_MINIMIZED)
        place.push(sdl2.SDL_WINDOWEVENT, window__event=sdl2.SDL_WINDOWEVENT_RESTORED)
        assert came[-2:] == [("hide", True), ("hide", False)]

    in_window(monkeypatch, work)


def test_a_mouse_moves_by_distances_once_it_is_grabbed(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(place: Place) -> None:
        sdl2, came = place.sdl, place.machine.came
        place.show(Desktop(SIZE))
        place.window.keyboard(KeyboardHeld(True))
        place.machine.relative = True
        place.push(sdl2.SDL_MOUSEBUTTONDOWN, button__button=1)
        came.clear()
        place.push(sdl2.SDL_MOUSEMOTION, motion__xrel=-3, motion__yrel=2)
        assert came == [("pointer", Point(-3, 2), 0, True)]

    in_window(monkeypatch, work)


def test_the_windows_own_keys_and_its_closing(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(place: Place) -> None:
        sdl2, came = place.sdl, place.machine.came
        place.show(Desktop(SIZE))
        place.window.keyboard(KeyboardHeld(True))
        place.window._command("full screen")
        place.window._command("full screen")
        place.window._command("grab")
        place.window._command("keyboard")
        assert ("take_keyboard", False) in came
        place.window._command("quit")
        place.push(sdl2.SDL_QUIT)
        assert place.closed == 2

    in_window(monkeypatch, work)


def test_a_picture_larger_than_the_window_is_made_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(place: Place) -> None:
        desktop = Desktop(Size(4000, 2000))
        place.show(desktop)
        pixels = place.pixels
        high, wide = pixels.shape[:2]
        assert wide < 4000 and high < 2000
        assert np.array_equal(pixels[high // 2, wide // 2], desktop.picture[1000, 2000, :3])

    in_window(monkeypatch, work)
