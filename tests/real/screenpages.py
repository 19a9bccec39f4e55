"""A guest's screen on the page: what tests do with it, and what is painted there."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np

from tests.real.pages import Browser

from .browser import Chromium, Page
from .screenserver import (
    Picture,
    Rect,
    ScreenServer,
    painted,
)  # fmt: skip

WIDTH, HEIGHT = 320, 192


READ = """(() => {
  const from = document.querySelector("#picture"), to = document.createElement("canvas");
  to.width = from.width; to.height = from.height;
  const context = to.getContext("2d", { willReadFrequently: true });
  context.drawImage(from, 0, 0);
  const { data } = context.getImageData(0, 0, to.width, to.height);
  let text = "";
  for (let at = 0; at < data.length; at += 30000) text += String.fromCharCode(...data.subarray(at, at + 30000));
  return [to.width, to.height, btoa(text)];
})()"""


STATE = "document.querySelector('#screen-frame').dataset.state"


SAYS = "document.querySelector('#veil').hidden ? '' : document.querySelector('#veil-text').textContent"


async def canvas(page: Browser) -> Picture:
    """The canvas as (height, width, 3): B, G, R."""
    width, height, text = await page.run(READ)
    pixels = np.frombuffer(base64.b64decode(text), np.uint8).reshape(height, width, 4)
    return pixels[..., 2::-1]


async def shows(page: Browser, picture: Picture, off: int = 0, at: Rect | None = None) -> None:
    """Wait until the canvas shows the picture, or that part of it; each value may be `off`."""
    end, worst = asyncio.get_running_loop().time() + 30, -1
    while asyncio.get_running_loop().time() < end:
        seen = await canvas(page)
        if seen.shape[:2] == picture.shape[:2]:
            one, other = (seen, picture[..., :3]) if at is None else (at.of(seen), at.of(picture)[..., :3])
            worst = int(np.abs(one.astype(int) - other).max())
            if worst <= off:
                return
        await asyncio.sleep(0.05)
    raise AssertionError(f"the canvas shows something else: off by {worst}, of {seen.shape}; {page.errors}")


def over(picture: Picture, at: Rect, seed: int) -> tuple[Picture, Picture]:
    """The picture with other content in a rectangle, and that content."""
    new = painted(at.w, at.h, seed)
    out = picture.copy()
    out[at.y : at.y + at.h, at.x : at.x + at.w] = new
    return out, new


async def begin(page: Browser, server: ScreenServer, picture: Picture, **fields: Any) -> None:
    """Open the page and show a first picture."""
    await page.open(server.url)
    await server.until("watch")
    await server.welcome(picture.shape[1], picture.shape[0], **fields)
    await server.whole(picture)
    await page.until(f"{STATE} === 'on'")


def in_chromium(chromium: Chromium, test: Callable[[Page, ScreenServer], Awaitable[None]], **options: Any) -> None:
    """Run `test` with a page and a server."""

    async def main() -> None:
        async with ScreenServer(**options) as server, Page(chromium) as page:
            await test(page, server)

    asyncio.run(main())


# -- keyboard and pointer ---------------------------------------------------------------------------


async def press(page: Browser, code: str, key: str, down: bool) -> None:
    """A real key event."""
    if isinstance(page, Page):
        await page.send("Input.dispatchKeyEvent", type="rawKeyDown" if down else "keyUp", code=code, key=key)
        return
    value = {"Shift": "\ue008", "ArrowUp": "\ue013", "Tab": "\ue004"}.get(key, key)
    action = {"type": "keyDown" if down else "keyUp", "value": value}
    keyboard = {"type": "key", "id": "keyboard", "actions": [action]}
    await page.send("input.performActions", context=page._context, actions=[keyboard])


async def keys(page: Browser, server: ScreenServer) -> None:
    """A click takes the keyboard; keys arrive as scan codes, Tab too."""
    await begin(page, server, painted(WIDTH, HEIGHT))
    await page.until("document.querySelector('#screen-who').textContent.includes('Click the picture')")
    await press(page, "KeyA", "a", True)
    await press(page, "KeyA", "a", False)
    await page.click("#stage")
    await server.until("keyboard", take=True)
    assert not [one for one in server.got if one["type"] in ("key", "pointer")], "not before the keyboard is granted"
    await server.tell("keyboard", mine=True, who="somebody")
    await page.until("document.querySelector('.captured') !== null && document.activeElement.id === 'stage'")
    for code, key, number in (("KeyA", "a", 0x1E), ("ArrowUp", "ArrowUp", 0xC8), ("Tab", "Tab", 0x0F)):
        await press(page, code, key, True)
        await server.until("key", code=number, down=True)
        await press(page, code, key, False)
        await server.until("key", code=number, down=False)
    assert await page.run("document.activeElement.id") == "stage"


async def held_keys(page: Page, server: ScreenServer) -> None:
    """What is held is released when the page loses the focus; headless Firefox never has it."""
    await keys(page, server)
    await press(page, "ShiftLeft", "Shift", True)
    await server.until("key", code=0x2A, down=True)
    await page.click("h1")
    await server.until("key", code=0x2A, down=False)
    await press(page, "ShiftLeft", "Shift", False)
    before = len(server.got)
    await page.click("#screen-delete")
    await server.until("key", code=0xD3, down=False)
    sent = [(one["code"], one["down"]) for one in server.got[before:] if one["type"] == "key"]
    assert sent == [(0x1D, True), (0x38, True), (0xD3, True), (0xD3, False), (0x38, False), (0x1D, False)]
