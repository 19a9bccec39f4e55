"""`millrace view` as users run it: in a window of a real X server, and into files that FFmpeg reads."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from millrace.io.clock import now_ns
from millrace.pixels.blockcode import Stamp, read
from millrace.pixels.rects import Size
from millrace.sim.desktop import CODE, Desktop
from millrace.wire.peer.clips import Clip, ClipboardState, Copied, Paste
from millrace.wire.peer.pictures import Gone, Key, KeyboardHeld, Pointer, TakeKeyboard
from tests.watch import clip

from ..pictures import PictureDaemon, Session
from ..places import small_disk
from .conftest import MILLRACE, need

pytestmark = [pytest.mark.real, pytest.mark.beside]
SIZE = Size(720, 520)
LIMIT_S = 60


class Display:
    """An X server without a window manager: a window lies where it wishes."""

    def __init__(self, number: str) -> None:
        self.env = os.environ | {"DISPLAY": number}

    async def run(self, *command: str) -> bytes:
        process = await asyncio.create_subprocess_exec(*command, env=self.env, stdout=subprocess.PIPE)
        out, _ = await process.communicate()
        return out

    async def pixels(self) -> np.ndarray:
        """What the server shows: rows, columns, B, G and R."""
        grab = ("-f", "x11grab", "-draw_mouse", "0", "-video_size", "1024x768", "-i", self.env["DISPLAY"])
        data = await self.run(
            "ffmpeg", "-v", "error", *grab, "-frames:v", "1", "-f", "rawvideo", "-pix_fmt", "bgr0", "-"
        )
        return np.frombuffer(data, np.uint8).reshape(768, 1024, 4)[:, :, :3]

    async def title(self) -> str:
        return (await self.run("xwininfo", "-root", "-tree")).decode()


@contextlib.asynccontextmanager
async def display() -> AsyncIterator[Display]:
    reader, writer = os.pipe()
    server = await asyncio.create_subprocess_exec(
        "Xvfb", "-displayfd", str(writer), "-screen", "0", "1024x768x24", pass_fds=(writer,), stderr=subprocess.DEVNULL
    )
    os.close(writer)
    try:
        with os.fdopen(reader) as numbers:
            yield Display(f":{(await asyncio.to_thread(numbers.readline)).strip()}")
    finally:
        server.kill()
        await server.wait()


@contextlib.asynccontextmanager
async def view(url: str, *words: str, env: dict[str, str] | None = None, **options: Any) -> AsyncIterator[Any]:
    """`millrace view`, killed at the end unless it has ended."""
    command = [*MILLRACE, "view", url, *words]
    process = await asyncio.create_subprocess_exec(
        *command, env=env or dict(os.environ), stderr=subprocess.PIPE, **options
    )
    try:
        async with asyncio.timeout(LIMIT_S):
            yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def until(check: Any, what: str) -> Any:
    for _ in range(300):
        if found := await check():
            return found
        await asyncio.sleep(0.05)
    raise AssertionError(f"not within 15 s: {what}")


async def painted(session: Session, desktop: Desktop, count: int) -> None:
    for _ in range(count):
        now = now_ns()
        await session.until_shown(await session.picture(desktop.picture, desktop.paint(now), now))
        await asyncio.sleep(0.02)


def placed(desktop: Desktop) -> tuple[slice, slice]:
    left, top = (1024 - desktop.size.width) // 2, (768 - desktop.size.height) // 2
    return slice(top, top + desktop.size.height), slice(left, left + desktop.size.width)


def test_window_shows_exactly_what_is_painted_and_sends_what_is_typed() -> None:
    need("Xvfb", "ffmpeg", "xdotool", "xwininfo")

    async def main() -> None:
        daemon, desktop = PictureDaemon(), Desktop(SIZE, "typing")
        async with display() as x, daemon.on_tcp() as url, view(url, "--sound", "off", env=x.env) as viewer:
            session = await daemon.sessions.get()
            assert session.watch.keyboard
            await session.mode(desktop.picture)
            await session.say(KeyboardHeld(True))
            await painted(session, desktop, 20)
            place = placed(desktop)
            assert np.array_equal((await x.pixels())[place], desktop.picture[:, :, :3])
            left, top = place[1].start, place[0].start
            words = f"mousemove {left + 100} {top + 50} click 1 key a click 4"
            await x.run("xdotool", *words.split(), "keydown", "Right")
            came = session.came

            async def typed() -> bool:
                return Key(0xCD, True, "", 0) in came

            await until(typed, "keys")
            keys = [one for one in came if isinstance(one, Key)]
            assert keys == [Key(0x1E, True, "a", 0), Key(0x1E, False), Key(0xCD, True, "", 0)]
            points = [one for one in came if isinstance(one, Pointer) and (one.x, one.y) == (100, 50)]
            assert [one.buttons for one in points][-5:] == [0, 1, 0, 8, 0]
            await x.run("xdotool", "keyup", "Right", "keydown", "Control_L", "keydown", "Alt_L", "key", "k")

            async def gives_up() -> bool:
                return TakeKeyboard(False) in came

            await until(gives_up, "the keyboard is given up")
            await x.run("xdotool", "keyup", "Alt_L", "keyup", "Control_L")
            before = len([one for one in came if isinstance(one, Key)])
            await session.say(KeyboardHeld(False, "alice"))
            await x.run("xdotool", "key", "b")

            async def titled() -> bool:
                return "alice has the keyboard" in await x.title()

            await until(titled, "the title says who")
            assert len([one for one in came if isinstance(one, Key)]) == before
            viewer.send_signal(signal.SIGINT)
            assert await viewer.wait() == 0

    asyncio.run(main())


def test_keys_go_along_with_what_they_type_and_the_locks_and_composed_text_as_text() -> None:
    need("Xvfb", "xdotool", "xwininfo", "setxkbmap")
    say = "shift+7 at dead_acute e Caps_Lock a Multi_key apostrophe o"
    expected = [
        Key(0x2A, True, "", 0), Key(0x08, True, "/", 0), Key(0xB8, True, "AltGraph", 0), Key(0x10, True, "@", 0),
        Key(0x0D, True, "Dead", 0), Key(0x12, True, "é", 0), Key(0x3A, True, "", 4), Key(0x1E, True, "A", 4),
    ]  # fmt: skip
    last = Key(0x18, True, "Ó", 4)

    async def main() -> None:
        daemon, desktop = PictureDaemon(), Desktop(SIZE, "typing")
        async with display() as x, daemon.on_tcp() as url:
            x.env["LC_ALL"] = "C.UTF-8"
            async with view(url, "--sound", "off", env=x.env):
                session = await daemon.sessions.get()
                await session.mode(desktop.picture)
                await session.say(KeyboardHeld(True))
                await painted(session, desktop, 5)
                await x.run("setxkbmap", "de", "-option", "compose:menu")
                await x.run("xdotool", "mousemove", "500", "400")
                # SDL learns of the layout before the next keys.
                await asyncio.sleep(0.5)
                for word in say.split():
                    await x.run("xdotool", "key", word)

                async def typed() -> bool:
                    return any(isinstance(one, Key) and one.key == "Ó" for one in session.came)

                await until(typed, "keys")
                pressed = [one for one in session.came if isinstance(one, Key) and one.down]
                # The apostrophe is taken by the Compose key; the Shift that it needs is not.
                assert [one for one in pressed if one.code != 0xDD] == [*expected, Key(0x2A, True, "", 4), last]

    asyncio.run(main())


def test_clipboard_is_shared_with_the_machine_while_the_user_works_there() -> None:
    need("Xvfb", "xdotool", "xclip")

    async def main() -> None:
        daemon, desktop = PictureDaemon(), Desktop(SIZE, "typing")
        async with display() as x, daemon.on_tcp() as url, view(url, "--sound", "off", env=x.env):
            session = await daemon.sessions.get()
            await session.mode(desktop.picture)
            await session.say(KeyboardHeld(True), ClipboardState(True))
            place = placed(desktop)
            await x.run("xdotool", "mousemove", str(place[1].start + 100), str(place[0].start + 50), "click", "1")
            xclip = ("xclip", "-selection", "clipboard", "-target", "UTF8_STRING")

            async def came(kind: type) -> Any:
                async def found() -> Any:
                    return next((one for one in session.came if isinstance(one, kind)), None)

                return await until(found, kind.__name__)

            copying = await asyncio.create_subprocess_exec(*xclip, "-i", "-quiet", env=x.env, stdin=subprocess.PIPE)
            assert copying.stdin is not None
            copying.stdin.write("grüße\n日本".encode())
            copying.stdin.close()
            assert await came(Copied) == Copied(1)
            session.wire.send_paste(1)
            await session.flush()
            assert await came(Clip) == clip(1, "grüße\n日本".encode())
            await session.say(ClipboardState(True, 5))
            assert await came(Paste) == Paste(5)
            session.wire.send_clip(clip(5, "ä of the machine".encode()))
            await session.flush()

            async def pasted() -> bool:
                return (await x.run(*xclip, "-o")).decode() == "ä of the machine"

            await until(pasted, "the machine's text is on the clipboard")
            assert await copying.wait() == 0
            assert [one for one in session.came if isinstance(one, Copied)] == [Copied(1)]

    asyncio.run(main())


def test_window_greys_the_picture_says_why_and_goes_on() -> None:
    need("Xvfb", "ffmpeg", "xdotool", "xwininfo")

    async def main() -> None:
        daemon, desktop = PictureDaemon(), Desktop(SIZE, "still")
        async with display() as x, daemon.on_tcp() as url, view(url, "--sound", "off", env=x.env):
            session, place = await daemon.sessions.get(), placed(desktop)
            await session.mode(desktop.picture)
            await painted(session, desktop, 1)
            await session.say(Gone("the machine is off"))

            async def grey() -> bool:
                pixels = (await x.pixels())[place]
                return bool((pixels[:40] == desktop.picture[:40, :, :3] // 3 + 40).all())

            await until(grey, "the picture is grey")
            assert "the machine is off" in await x.title()
            await session.websocket.close()
            again = await daemon.sessions.get()
            await again.mode(desktop.picture)
            await painted(again, desktop, 1)
            assert np.array_equal((await x.pixels())[place], desktop.picture[:, :, :3])
            assert "the machine is off" not in await x.title()

    asyncio.run(main())


def test_png_is_the_exact_picture(tmp_path: Path) -> None:
    async def main() -> None:
        daemon, desktop = PictureDaemon(), Desktop(SIZE, "scroll")
        async with daemon.on_tcp() as url, view(url, "--to", str(tmp_path / "a.png")) as viewer:
            session = await daemon.sessions.get()
            assert session.watch.settings == {"picture": "lossless"} and not session.watch.keyboard
            await session.mode(desktop.picture)
            assert await viewer.wait() == 0
            assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), desktop.picture[:, :, 2::-1])

    asyncio.run(main())


def stamps(path: Path) -> list[Stamp | None]:
    """The codes of all pictures that ffmpeg decodes."""
    done = subprocess.run(
        ["ffmpeg", "-v", "error", "-i", str(path), "-vsync", "0", "-f", "rawvideo", "-pix_fmt", "gray", "-"],
        capture_output=True, timeout=60,
    )  # fmt: skip
    frames = np.frombuffer(done.stdout, np.uint8).reshape(-1, SIZE.height, SIZE.width)
    return [read(frame, CODE) for frame in frames]


def test_killed_recording_lacks_only_its_last_moment(tmp_path: Path) -> None:
    need("ffmpeg", "ffprobe")

    async def main() -> None:
        daemon, desktop = PictureDaemon(), Desktop(SIZE, "typing")
        words = ("--to", str(tmp_path / "a.mkv"), "--sound", "off")
        async with daemon.on_tcp() as url, view(url, *words) as viewer:
            session = await daemon.sessions.get()
            await session.mode(desktop.picture)
            await painted(session, desktop, 60)
            await asyncio.sleep(1.5)
            viewer.kill()
            await viewer.wait()
        found = [stamp.number for stamp in stamps(tmp_path / "a.mkv") if stamp]
        assert found == sorted(found) and found[-1] >= 60 and len(found) >= 30

    asyncio.run(main())


def test_recording_ends_whole_and_with_a_sentence_on_a_full_disk(tmp_path: Path) -> None:
    need("ffmpeg", "ffprobe")

    async def main() -> None:
        daemon, desktop = PictureDaemon(), Desktop(SIZE, "typing")
        words = ("--to", str(tmp_path / "a.mkv"), "--sound", "off")
        async with daemon.on_tcp() as url, view(url, *words) as viewer:
            session = await daemon.sessions.get()
            await session.mode(desktop.picture)
            await painted(session, desktop, 20)
            viewer.send_signal(signal.SIGTERM)
            assert await viewer.wait() == 0
        found = stamps(tmp_path / "a.mkv")
        assert all(found[1:]) and found[-1] is not None and found[-1].number == 20
        noise = np.random.default_rng(1)
        with small_disk(tmp_path / "d"):
            words = ("--to", str(tmp_path / "d" / "a.mkv"), "--sound", "off")
            async with daemon.on_tcp() as url, view(url, *words) as viewer:
                session = await daemon.sessions.get()
                while viewer.returncode is None and not session.websocket.closed:
                    picture = noise.integers(0, 256, (200, 300, 4), np.uint8)
                    with contextlib.suppress(ConnectionError):
                        await (session.mode(picture) if session.wire.sent == 0 else session.picture(picture, WHOLE))
                    await asyncio.sleep(0.1)
                said = (await viewer.stderr.read()).decode()
                assert await viewer.wait() == 7 and "a.mkv: " in said and "the recording ends here" in said

    from millrace.pixels.rects import Rect

    WHOLE = [Rect(0, 0, 300, 200)]
    asyncio.run(main())


def test_y4m_is_read_by_ffmpeg(tmp_path: Path) -> None:
    need("ffmpeg")

    async def main() -> None:
        daemon, desktop = PictureDaemon(), Desktop(SIZE, "still")
        reader, writer = os.pipe()
        into = ["ffmpeg", "-v", "error", "-i", "-", "-frames:v", "30", "-c:v", "ffv1", str(tmp_path / "a.mkv")]
        ffmpeg = await asyncio.create_subprocess_exec(*into, stdin=reader)
        os.close(reader)
        async with daemon.on_tcp() as url, view(url, "--to", "y4m:-", stdout=writer) as viewer:
            os.close(writer)
            session = await daemon.sessions.get()
            await session.mode(desktop.picture)
            await painted(session, desktop, 1)
            assert await ffmpeg.wait() == 0 and await viewer.wait() == 0
        found = stamps(tmp_path / "a.mkv")
        assert len(found) == 30 and found[-1] is not None and found[-1].number == 1

    asyncio.run(main())


@pytest.mark.parametrize("library", ["numpy", "uvloop"])
def test_missing_library_is_a_sentence(library: str) -> None:
    code = f"import sys; sys.modules[{library!r}] = None; from millrace.cli.main import main; main()"
    command = [sys.executable, "-c", code, "listen", "ws://127.0.0.1:1/default", "--no-reconnect", "--to", "null:"]
    done = subprocess.run(command, capture_output=True, text=True)
    (said,) = done.stderr.splitlines()
    assert done.returncode == 1 and said.startswith(f"millrace: the library {library} is missing or broken")


@pytest.mark.parametrize(
    ("without", "said"),
    [
        ("sys.modules['sdl2'] = None", "install Millrace with the extra `view`"),
        ("pass", "no window can be opened here (neither DISPLAY nor WAYLAND_DISPLAY is set)"),
        ("import os; os.environ['DISPLAY'] = ':9999'", "no display that DISPLAY=:9999 names can be used"),
        ("import os; os.environ['WAYLAND_DISPLAY'] = 'w-9'", "no display that WAYLAND_DISPLAY=w-9 names can be used"),
    ],
)
def test_no_window_is_a_sentence(without: str, said: str) -> None:
    code = f"import sys; {without}; from millrace.cli.main import main; main()"
    env = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY")}
    done = subprocess.run(
        [sys.executable, "-c", code, "view", "ws://127.0.0.1:1/default"], env=env, capture_output=True, text=True
    )
    assert done.returncode == 2 and said in done.stderr.splitlines()[-1]
