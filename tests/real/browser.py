"""A real headless Chromium, driven over its DevTools protocol."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import os
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import aiohttp

FLAGS = (
    "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync", "--mute-audio",
    "--disable-background-networking", "--disable-component-update", "--remote-debugging-port=0",
)  # fmt: skip


class Driven(ABC):
    """What tests do with a page, in any browser."""

    errors: list[str]

    @abstractmethod
    async def run(self, script: str) -> Any:
        """Evaluate an expression and await its value, with user activation as after a click."""

    async def until(self, script: str, seconds: float = 15.0) -> Any:
        """Wait until an expression is true; returns its value."""
        end = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < end:
            value = await self.run(script)
            if value:
                return value
            await asyncio.sleep(0.05)
        raise AssertionError(f"{script}: not within {seconds} s; {self.errors}")

    async def middle(self, selector: str) -> tuple[float, float]:
        """Scroll an element into view; returns the position of its middle."""
        x, y = await self.run(
            f"(() => {{ const e = document.querySelector({selector!r}); e.scrollIntoView({{block: 'center'}});"
            " const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        return x, y


class Chromium:
    """One browser. Its pages share its command-line flags; each has its own cookies, storage and window."""

    def __init__(self, profile: Path, *flags: str, display: str = "") -> None:
        """With `display`, an X server's, it has a window there."""
        self._profile, self._flags = profile, flags if display else ("--headless=new", *flags)
        self._env = os.environ | ({"DISPLAY": display} if display else {})
        self.address = ""

    def __enter__(self) -> Chromium:
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen(
            ["chromium", *FLAGS, *self._flags, f"--user-data-dir={self._profile}", "about:blank"],
            env=self._env, **quiet,
        )  # fmt: skip
        try:
            self.address = self._wait()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait(10)

    def _wait(self) -> str:
        """The port and the path that the browser writes to a file once it accepts connections."""
        told = self._profile / "DevToolsActivePort"
        end = time.monotonic() + 30
        while time.monotonic() < end:
            if told.exists() and len(words := told.read_text().split()) == 2:
                return f"ws://127.0.0.1:{words[0]}{words[1]}"
            time.sleep(0.1)
        raise AssertionError("Chromium can't be driven after 30 s")


class DevTools:
    """One connection of the DevTools protocol."""

    def __init__(self, websocket: aiohttp.ClientWebSocketResponse, told: Callable[[dict[str, Any]], None]) -> None:
        self._websocket, self._told = websocket, told
        self._serial = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for message in self._websocket:
            told = json.loads(message.data)
            if "id" in told:
                self._waiting.pop(told["id"]).set_result(told)
            else:
                self._told(told)

    async def send(self, method: str, **params: Any) -> dict[str, Any]:
        """Send one command, and await its answer."""
        serial = next(self._serial)
        future = self._waiting[serial] = asyncio.get_running_loop().create_future()
        await self._websocket.send_json({"id": serial, "method": method, "params": params})
        async with asyncio.timeout(60):
            answer = await future
        assert "error" not in answer, (method, answer)
        result: dict[str, Any] = answer["result"]
        return result

    def close(self) -> None:
        """Stop reading."""
        self._reader.cancel()


class Page(Driven):
    """One page in a browser context of its own, so that nothing is left over from other pages."""

    def __init__(self, browser: Chromium) -> None:
        self._browser = browser
        self.errors: list[str] = []

    async def __aenter__(self) -> Page:
        self._http = aiohttp.ClientSession()
        whole = self._browser.address
        self._whole = DevTools(await self._http.ws_connect(whole), lambda told: None)
        made = await self._whole.send("Target.createBrowserContext")
        self._context = made["browserContextId"]
        page = await self._whole.send(
            "Target.createTarget", url="about:blank", browserContextId=self._context, newWindow=True
        )
        where = f"{whole.partition('/devtools/')[0]}/devtools/page/{page['targetId']}"
        self._websocket = DevTools(await self._http.ws_connect(where, max_msg_size=0), self._told)
        for domain in ("Page", "Runtime", "Log"):
            await self.send(f"{domain}.enable")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._websocket.close()
        try:
            await self._whole.send("Target.disposeBrowserContext", browserContextId=self._context)
        finally:
            self._whole.close()
            await self._http.close()

    def _told(self, told: dict[str, Any]) -> None:
        if told["method"] == "Runtime.exceptionThrown":
            details = told["params"]["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description", details["text"]))
        elif told["method"] == "Log.entryAdded" and told["params"]["entry"]["level"] == "error":
            self.errors.append(told["params"]["entry"]["text"])

    async def send(self, method: str, **params: Any) -> dict[str, Any]:
        """Send one command of the protocol, and await its answer."""
        return await self._websocket.send(method, **params)

    async def open(self, url: str) -> None:
        """Navigate to a URL."""
        await self.send("Page.navigate", url=url)
        await self.until("document.readyState === 'complete'")

    async def run(self, script: str) -> Any:
        """Evaluate an expression and await its value, with user activation as after a click."""
        answer = await self.send(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    async def click(self, selector: str) -> None:
        """Click in the middle of an element, by real mouse events."""
        x, y = await self.middle(selector)
        for kind in ("mousePressed", "mouseReleased"):
            await self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    async def size(self, width: int, height: int, dark: bool = False) -> None:
        """Set the size of the viewport."""
        await self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        await self.send("Emulation.setScrollbarsHidden", hidden=True)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.send("Emulation.setEmulatedMedia", features=[scheme])

    async def screenshot(self, path: Path) -> None:
        """Save the whole page as a PNG."""
        shot = await self.send("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))


@contextlib.asynccontextmanager
async def own_page(profile: Path, *flags: str, display: str = "") -> AsyncIterator[Page]:
    """A page of a separate browser with extra flags; with `display`, in a window there."""
    with Chromium(profile, *flags, display=display) as browser:
        async with Page(browser) as page:
            yield page
