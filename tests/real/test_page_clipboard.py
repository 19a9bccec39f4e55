"""The clipboard of a guest and that of a real browser: what goes where, when, and nothing before that."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from millrace.media.clip import CLIP_BYTES_MAX
from millrace.wire.keys import BY_NAME
from millrace.wire.peer.clips import Clip, Clips, pack_clip
from tests.real.screenpages import HEIGHT, WIDTH, begin
from tests.watch import clip

from .browser import Chromium, Page
from .conftest import need
from .firefox import Firefox
from .pages import Browser
from .screenserver import ScreenServer, painted
from .xscreen import XScreen

pytestmark = [pytest.mark.real, pytest.mark.beside, pytest.mark.xdist_group("heavy")]
CONTROL, V = BY_NAME["ControlLeft"].code, BY_NAME["KeyV"].code
READ = "navigator.clipboard.readText()"


def on_page(
    chromium: Chromium, test: Callable[[Page, ScreenServer], Awaitable[None]], *may: str, clipboard: bool = True
) -> None:
    """Run a test on a page that may do this with the browser's clipboard, and has the guest's keyboard."""

    async def main() -> None:
        async with ScreenServer() as server, Page(chromium) as page:
            grant = {"browserContextId": page._context, "permissions": list(may)}
            await page._whole.send("Browser.grantPermissions", **grant)
            await page.send("Emulation.setFocusEmulationEnabled", enabled=True)
            await begin(page, server, painted(WIDTH, HEIGHT), clipboard=clipboard)
            await page.click("#stage")
            await captures(page, server)
            await test(page, server)
            assert not page.errors

    asyncio.run(main())


async def captures(page: Browser, server: ScreenServer) -> None:
    """The picture was clicked into: the viewer is given the keyboard."""
    await server.until("keyboard", take=True)
    await server.tell("keyboard", mine=True, who="somebody")
    await page.until("document.querySelector('.captured') !== null")


async def give(server: ScreenServer, number: int, text: str, refused: bool = False) -> None:
    assert server.line is not None
    for piece in pack_clip(clip(number, text.encode(), refused)):
        await server.line.send_bytes(piece)


async def got(server: ScreenServer, number: int) -> Clip:
    """The page's answer to `paste`."""
    clips = Clips()
    clips.ask(number)
    await server.tell("paste", number=number)
    async with asyncio.timeout(15):
        while True:
            while server.clips:
                answer = clips.take(server.clips.pop(0))
                if answer is not None:
                    return answer
            await asyncio.sleep(0.02)


async def paste(page: Page) -> None:
    """Ctrl+V, as a user presses it."""
    await page.send("Input.dispatchKeyEvent", type="rawKeyDown", code="ControlLeft", key="Control", modifiers=2)
    await page.send(
        "Input.dispatchKeyEvent", type="rawKeyDown", code="KeyV", key="v", modifiers=2, commands=["paste"]
    )  # fmt: skip
    await page.send("Input.dispatchKeyEvent", type="keyUp", code="KeyV", key="v", modifiers=2)
    await page.send("Input.dispatchKeyEvent", type="keyUp", code="ControlLeft", key="Control")


def shown(selector: str) -> str:
    return f"document.querySelector('{selector}').checkVisibility()"


def test_text_of_the_guest_is_put_on_the_clipboard_while_one_types_there(chromium: Chromium) -> None:
    async def test(page: Page, server: ScreenServer) -> None:
        await server.tell("clipboard", there=True, number=0)
        await server.tell("clipboard", there=True, number=1)
        await server.until("paste", number=1)
        text = "\ufeffgrüße\n日本 " + "x" * 100_000
        await give(server, 1, text)
        await page.until(f"{READ}.then((text) => text.length === {len(text)})")
        assert await page.run(READ) == text
        # It came from there, so it is not offered to it.
        await paste(page)
        await server.until("key", code=V, down=False)
        assert not [one for one in server.got if one["type"] == "copied"]
        await server.tell("clipboard", there=True, number=2)
        await server.until("paste", number=2)
        await give(server, 2, "that is \x1b a picture", refused=True)
        await page.until("document.querySelector('#screen-facts').textContent.includes('that is   a picture')")

    on_page(chromium, test, "clipboardReadWrite", "clipboardSanitizedWrite")


def test_text_copied_elsewhere_is_offered_when_it_is_pasted_and_before_the_key(chromium: Chromium) -> None:
    async def test(page: Page, server: ScreenServer) -> None:
        await server.tell("clipboard", there=True, number=0)
        text = "ä日" * 30_000
        await page.run(f"navigator.clipboard.writeText({text!r})")
        await asyncio.sleep(0.3)
        assert not [one for one in server.got if one["type"] == "copied"], "nothing before it is pasted"
        await paste(page)
        await server.until("key", code=V, down=False)
        told = [
            (one["type"], one.get("code"), one.get("down")) for one in server.got if one["type"] in ("copied", "key")
        ]
        assert told[:3] == [("key", CONTROL, True), ("copied", None, None), ("key", V, True)]
        assert await got(server, 1) == clip(1, text.encode())
        assert (await got(server, 9)).text is None
        await page.run(f"navigator.clipboard.writeText('x'.repeat({CLIP_BYTES_MAX + 1}))")
        await paste(page)
        await page.until("document.querySelector('#screen-facts').textContent.includes('too long')")
        await page.run("navigator.clipboard.writeText('for a menu')")
        await page.click("#screen-paste")
        await server.until("copied", number=2)
        assert await got(server, 2) == clip(2, b"for a menu")

    on_page(chromium, test, "clipboardReadWrite", "clipboardSanitizedWrite")


def test_without_permission_a_click_copies(chromium: Chromium) -> None:
    async def test(page: Page, server: ScreenServer) -> None:
        await page.run("navigator.clipboard.writeText = () => Promise.reject(new DOMException('', 'NotAllowedError'))")
        assert not await page.run(shown("#screen-copy"))
        await server.tell("clipboard", there=True, number=1)
        await server.until("paste", number=1)
        await give(server, 1, "by a click")
        await page.until(shown("#screen-copy"))
        await page.click("#screen-copy")
        await page.until(f"!{shown('#screen-copy')}")
        assert await page.run(READ) == "by a click"

    on_page(chromium, test, "clipboardReadWrite")


def test_without_the_right_nothing_is_offered_and_keys_go_on(chromium: Chromium) -> None:
    async def test(page: Page, server: ScreenServer) -> None:
        await page.run("navigator.clipboard.writeText('a secret')")
        await paste(page)
        await server.until("key", code=V, down=False)
        assert not [one for one in server.got if one["type"] in ("copied", "paste")] and not server.clips
        assert not await page.run(shown("#screen-copy")) and not await page.run(shown("#screen-paste"))

    on_page(chromium, test, "clipboardReadWrite", "clipboardSanitizedWrite", clipboard=False)


def test_user_elsewhere_is_not_disturbed(chromium: Chromium) -> None:
    async def test(page: Page, server: ScreenServer) -> None:
        await server.tell("keyboard", mine=False, who="another")
        await page.until("document.querySelector('#screen-who').textContent.includes('another')")
        await page.run("navigator.clipboard.writeText('mine')")
        await server.tell("clipboard", there=True, number=1)
        await page.until(shown("#screen-copy"))
        assert not [one for one in server.got if one["type"] == "paste"] and await page.run(READ) == "mine"
        await page.click("#screen-copy")
        await server.until("paste", number=1)
        await give(server, 1, "theirs")
        await page.until(f"{READ}.then((text) => text === 'theirs')")

    on_page(chromium, test, "clipboardReadWrite", "clipboardSanitizedWrite")


# -- Firefox, in a window: with X's own clipboard, keys and clicks -------------------------------------


async def on_x(screen: XScreen, *command: str, text: str | None = None) -> str:
    """Run a program on that screen, with this input; returns its output."""
    process = await asyncio.create_subprocess_exec(
        *command, env=os.environ | {"DISPLAY": screen.display}, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL if text is not None else subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(15):
        out, _ = await process.communicate((text or "").encode())
    return (out or b"").decode()


async def copied(screen: XScreen, text: str) -> None:
    """Wait until that is the display's clipboard."""
    async with asyncio.timeout(15):
        while await on_x(screen, "xclip", "-selection", "clipboard", "-o") != text:
            await asyncio.sleep(0.05)


async def copies_and_pastes(page: Browser, server: ScreenServer, screen: XScreen) -> None:
    """A text of the guest is copied; one of another program is pasted."""
    await server.tell("clipboard", there=True, number=1)
    await server.until("paste", number=1)
    await give(server, 1, "grüße\n日本 " + "x" * 100_000)
    await copied(screen, "grüße\n日本 " + "x" * 100_000)
    text = "ä日" * 30_000
    await on_x(screen, "xclip", "-selection", "clipboard", "-i", text=text)
    await asyncio.sleep(0.3)
    assert not [one for one in server.got if one["type"] == "copied"], "nothing before it is pasted"
    await on_x(screen, "xdotool", "key", "ctrl+v")
    await server.until("key", code=V, down=False)
    told = [(one["type"], one.get("code")) for one in server.got if one["type"] in ("copied", "key")]
    assert told[:3] == [("key", CONTROL), ("copied", None), ("key", V)]
    assert await got(server, 1) == clip(1, text.encode())


async def copies_by_a_click(page: Browser, server: ScreenServer, screen: XScreen) -> None:
    """Who has no keyboard is not disturbed, and copies with the button."""
    await server.tell("keyboard", mine=False, who="another")
    await page.until("document.querySelector('#screen-who').textContent.includes('another')")
    await on_x(screen, "xclip", "-selection", "clipboard", "-i", text="mine")
    await server.tell("clipboard", there=True, number=2)
    await page.until(shown("#screen-copy"))
    await copied(screen, "mine")
    await page.click("#screen-copy")
    await server.until("paste", number=2)
    await give(server, 2, "theirs")
    await copied(screen, "theirs")
    await page.until(f"!{shown('#screen-copy')}")


def test_firefox_shares_the_clipboard_of_its_display_with_the_guest(tmp_path: Path) -> None:
    need("firefox-esr", "Xvfb", "xclip", "xdotool")

    async def main(screen: XScreen) -> None:
        firefox = Firefox(tmp_path / "profile", dict(os.environ), display=screen.display)
        async with ScreenServer() as server, firefox as page:
            picture = painted(WIDTH, HEIGHT)
            await begin(page, server, picture, clipboard=True)
            x, y = await asyncio.to_thread(screen.find, picture[..., :3])
            # A window without a window manager has the focus that the pointer is over.
            await on_x(screen, "xdotool", "mousemove", str(x + 50), str(y + 50), "click", "1")
            await captures(page, server)
            await copies_and_pastes(page, server, screen)
            await copies_by_a_click(page, server, screen)
            assert not page.errors

    with XScreen(tmp_path / "x", 1366, 900) as screen:
        asyncio.run(main(screen))
