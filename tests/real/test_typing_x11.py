"""Typing into X displays of any layout: what xterm, Tk and xev receive is what the viewer typed."""

from __future__ import annotations

import asyncio
import importlib.util
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from millrace.errors import PeerLost
from millrace.guest.hands import Hands
from millrace.guest.machines.x11 import X11Machine
from millrace.pixels.rects import Size
from millrace.wire.peer.pictures import Key, Text
from tests.gops import WATCHER
from tests.places import lack

from .conftest import need, wait_for
from .test_layouts import NAMES, TYPED
from .test_screens_vnc import tigervnc, watching, x11vnc
from .test_screens_x11 import xvfb
from .watched import Watched
from .xserver import XServer

pytestmark = [pytest.mark.real, pytest.mark.beside]
LAYOUTS = ("us", "de", "fr", "ru,us")
SAID = "Zoë zahlt 20 € an @öäü: {[~]} \\ | ^ ` 'ß' Привет! kůň 日本 \U0001f680"
"""Characters of several layouts, and some that no key of them has."""
SIZE = Size(640, 480)
SHIFT, CAPS, A, ALT_GR, Q = 0x2A, 0x3A, 0x1E, 0xB8, 0x10
ENTRY = """
import sys, tkinter
root = tkinter.Tk()
root.geometry("600x100+0+0")
text = tkinter.StringVar()
entry = tkinter.Entry(root, textvariable=text)
entry.pack(fill="x")
entry.focus_force()
def write(*args):
    with open(sys.argv[1], "w", encoding="utf-8") as file:
        file.write(text.get())
text.trace_add("write", write)
root.mainloop()
"""


@contextmanager
def display(folder: Path, kind: str) -> Iterator[XServer]:
    need("setxkbmap", "xterm", "xdotool", "xset")
    with xvfb(folder, "-noreset") if kind == "Xvfb" else tigervnc(folder) as x:
        x.env["LC_ALL"] = "C.UTF-8"
        yield x


def terminal(x: XServer) -> Path:
    """A terminal that writes down what it is typed, as it comes."""
    out = x.folder / "typed"
    out.write_text("")
    x.start("xterm", "-u8", "-geometry", "90x20+0+0", "-e", "sh", "-c", f"stty raw -echo; exec cat > {out}")
    focused(x, "--onlyvisible", "--class", "xterm")
    return out


def entry(x: XServer) -> Path:
    if importlib.util.find_spec("_tkinter") is None:
        lack("tkinter")
    out = x.folder / "typed"
    out.write_text("")
    x.start(sys.executable, "-c", ENTRY, str(out))
    focused(x, "--onlyvisible", "--name", "^tk$")
    return out


class Person:
    """Somebody who types."""

    def __init__(self, one: Watched) -> None:
        self._screen = one.screen
        self._hands = Hands(one.guest.turns, one.guest.admission.budget.open("viewer"))

    def text(self, text: str) -> None:
        self._hands.control(Text(text), WATCHER, self._screen, SIZE)

    def key(self, code: int, down: bool, meaning: str = "", locks: int | None = 0) -> None:
        self._hands.control(Key(code, down, meaning, locks), WATCHER, self._screen, SIZE)

    def keys(self, typed: Iterable[tuple[int, int, str]]) -> None:
        for with_key, code, meaning in typed:
            if with_key:
                self.key(with_key, True, NAMES[with_key])
            self.key(code, True, meaning)
            self.key(code, False)
            if with_key:
                self.key(with_key, False)


async def arrives(one: Watched, out: Path, said: str) -> None:
    """Wait until so much was typed; it must be this."""
    with suppress(AssertionError):
        await one.until(lambda: len(out.read_text()) >= len(said), "so much is typed", 10)
    assert out.read_text() == said


def focused(x: XServer, *search: str) -> None:
    """Give the keyboard to a program's window, once it is there."""

    def done() -> bool:
        command = ("xdotool", "search", *search, "windowfocus", "--sync")
        return subprocess.run(command, env=x.env, capture_output=True, timeout=20).returncode == 0

    wait_for(done, 20, "the program has the keyboard")


def layout(x: XServer) -> str:
    """The whole layout, with what every key means."""
    return x.run("xkbcomp", "-xkb", x.display, "-")


@pytest.mark.parametrize("program", [terminal, entry])
@pytest.mark.parametrize("server", ["Xvfb", "Xvnc"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_text_arrives_whatever_the_layout(
    tmp_path: Path, server: str, program: Callable[[XServer], Path], name: str
) -> None:
    # Tk reads the whole layout anew for each character that no key has, and may lose one that comes meanwhile.
    steps = [SAID] if program is terminal else [*SAID[:-1]]

    async def test(x: XServer) -> None:
        x.run("setxkbmap", name)
        before, out = layout(x), program(x)
        async with watching(tmp_path, f"x11:{x.display}") as one:
            person = Person(one)
            for end in range(len(steps)):
                person.text(steps[end])
                await arrives(one, out, "".join(steps[: end + 1]))
        assert layout(x) == before

    with display(tmp_path, server) as x:
        asyncio.run(test(x))


@pytest.mark.parametrize("server", ["Xvfb", "Xvnc"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_keys_mean_what_they_mean_to_the_viewer(tmp_path: Path, server: str, name: str) -> None:
    """A German keyboard with dead keys, AltGr and Shift, at a display of any layout."""

    async def test(x: XServer) -> None:
        x.run("setxkbmap", name)
        out = terminal(x)
        async with watching(tmp_path, f"x11:{x.display}") as one:
            person = Person(one)
            person.keys(TYPED)
            await arrives(one, out, "zöß/@€ééè")

    with display(tmp_path, server) as x:
        asyncio.run(test(x))


def test_layout_that_changes_and_locks_are_followed(tmp_path: Path) -> None:
    """Also Caps Lock, which the viewer and the display have or have not; and nothing is left pressed or locked."""

    async def test(x: XServer) -> None:
        out, said = terminal(x), ""
        async with watching(tmp_path, f"x11:{x.display}") as one:
            person = Person(one)
            for name in ("us", "de", "ru,us", "fr", "us(dvorak)", "us,il"):
                x.run("setxkbmap", *name.removesuffix(")").replace("(", " -variant ").split())
                await asyncio.sleep(0.1)
                person.text("Zäßq@;1{")
                person.keys([(SHIFT, Q, "Q"), (0, A, "ä"), (0, A, "й"), (SHIFT, A, "ä"), (ALT_GR, Q, "@"), (0, A, "7")])
                said += "Zäßq@;1{Qäйä@7"
                await arrives(one, out, said)
            x.run("setxkbmap", "de")
            for on in (True, False):
                if on:
                    x.run("xdotool", "key", "Caps_Lock")
                # What has changed has to be told first.
                await asyncio.sleep(0.1)
                person.text("aBäÖ€1")
                person.key(A, True, "a", 0)
                person.key(A, False)
                person.key(A, True, "A", 4)
                person.key(A, False)
                person.key(CAPS, True, "CapsLock", 4)
                person.key(CAPS, False)
                said += "aBäÖ€1aA"
                await arrives(one, out, said)
                await one.until(lambda: "Caps Lock:   off" in x.run("xset", "q"), "it is off")

    with display(tmp_path, "Xvfb") as x:
        asyncio.run(test(x))


@pytest.mark.parametrize("server", ["Xvnc", "x11vnc"])
def test_letters_arrive_over_vnc_as_they_are_typed_with_caps_lock(tmp_path: Path, server: str) -> None:
    """TigerVNC tells whether it is on; x11vnc does not, and is not sent the key."""

    async def test(x: XServer, door: str) -> None:
        x.env["LC_ALL"] = "C.UTF-8"
        out, said = terminal(x), ""
        async with watching(tmp_path, door) as one:
            person = Person(one)
            await one.until(lambda: one.screen.memory is not None, "it is shown")
            for locks in (0, 4, 4, 0):
                letters = "aA" if not locks else "Aa"
                person.key(CAPS, True, "CapsLock", locks)
                person.key(CAPS, False)
                await asyncio.sleep(0.3)
                person.key(A, True, letters[0], locks)
                person.key(A, False)
                person.keys([(SHIFT, A, letters[1])])
                await asyncio.sleep(0.3)
                person.text("bC1ö")
                said += letters + "bC1ö"
                await arrives(one, out, said)

    need("xdotool", "xterm")
    if server == "Xvnc":
        with tigervnc(tmp_path) as x:
            asyncio.run(test(x, f"vnc+unix://{tmp_path}/vnc"))
    else:
        with x11vnc(tmp_path, "-nopw") as (x, door):
            asyncio.run(test(x, door))


@pytest.mark.parametrize("server", ["Xvfb", "Xvnc"])
def test_keys_that_a_killed_daemon_has_given_are_given_back_and_none_of_a_users(tmp_path: Path, server: str) -> None:
    async def test(x: XServer) -> None:
        x.run("xmodmap", "-e", "keycode 248 = F20 F20")
        before = layout(x)
        async with watching(tmp_path, f"x11:{x.display}") as one:
            (machine,) = one.guest.machines
            assert isinstance(machine, X11Machine) and machine._stream is not None
            Person(one).text("".join(chr(0x4E00 + number) for number in range(12)))
            await one.until(lambda: layout(x) != before, "keys are given a meaning")
            machine._stream._end(PeerLost("killed"))
            assert layout(x) != before
            await one.until(lambda: machine.sessions == 2 and layout(x) == before, "they mean nothing again")
            assert "MILLRACE_KEYS" not in x.run("xprop", "-root")

    with display(tmp_path, server) as x:
        asyncio.run(test(x))


@pytest.mark.parametrize("server", ["Xvfb", "Xvnc"])
def test_daemons_on_one_display_have_a_list_of_keys_each(tmp_path: Path, server: str) -> None:
    async def test(x: XServer) -> None:
        def lists() -> set[str]:
            return {line.partition("(")[0] for line in x.run("xprop", "-root").splitlines() if "MILLRACE" in line}

        door = f"x11:{x.display}"
        for name in ("one", "other"):
            (tmp_path / name).mkdir()
        async with watching(tmp_path / "one", door) as one, watching(tmp_path / "other", door) as other:
            Person(one).text(chr(0x4E00))
            await one.until(lambda: lists() == {"MILLRACE_KEYS"}, "one has a list")
            Person(other).text(chr(0x4E01))
            await one.until(lambda: lists() == {"MILLRACE_KEYS", "MILLRACE_KEYS_2"}, "the other has one besides")
            (machine,) = one.guest.machines
            await machine.stop("it was detached")
            await one.until(lambda: lists() == {"MILLRACE_KEYS_2"}, "only its own is deleted")
            keys = x.run("xmodmap", "-pke")
            assert "U4E01" in keys and "U4E00" not in keys
            await one.until(lambda: not lists() and "U4E01" not in x.run("xmodmap", "-pke"), "it means nothing again")

    with display(tmp_path, server) as x:
        asyncio.run(test(x))


def test_server_does_not_repeat_what_is_held_and_its_setting_stays(tmp_path: Path) -> None:
    """Between a press and its release a line may stall for long: the viewer's keyboard says how often it is pressed."""

    async def test(x: XServer) -> None:
        log = tmp_path / "xev"
        with log.open("wb") as out:
            x.processes.append(subprocess.Popen(["xev", "-event", "keyboard"], env=x.env, stdout=out))
        focused(x, "--onlyvisible", "--name", "Event Tester")
        before = x.run("xset", "q")
        async with watching(tmp_path, f"x11:{x.display}") as one:
            person = Person(one)
            for again in (1, 5):
                for _ in range(again):
                    person.key(A, True, "a")
                # The server would begin to repeat after 0.66 s.
                await asyncio.sleep(1.5)
                person.key(A, False)
            await one.until(lambda: log.read_text().count("KeyRelease event") >= 6, "all are released")
            await asyncio.sleep(0.3)
            assert log.read_text().count("KeyPress event") == 6
            assert x.run("xset", "q") == before

    with xvfb(tmp_path, "-noreset") as x:
        asyncio.run(test(x))
