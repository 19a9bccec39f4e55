"""A real headless Firefox, driven over WebDriver BiDi, with the methods of browser.Page that its tests use."""

from __future__ import annotations

import asyncio
import itertools
import json
from pathlib import Path
from types import TracebackType
from typing import Any

import aiohttp

from .browser import Driven

PREFS = """
user_pref("app.update.disabledForTesting", true);
user_pref("browser.shell.checkDefaultBrowser", false);
user_pref("datareporting.policy.dataSubmissionEnabled", false);
user_pref("media.volume_scale", "0.0");
user_pref("network.captive-portal-service.enabled", false);
user_pref("network.connectivity-service.enabled", false);
user_pref("toolkit.telemetry.enabled", false);
"""


class Firefox(Driven):
    """One page of one browser."""

    def __init__(self, profile: Path, env: dict[str, str], display: str = "", prefs: str = "") -> None:
        """With `display`, an X server's, it has a window there; `prefs` are more lines of its user.js."""
        self._profile, self._env = profile, env | ({"DISPLAY": display} if display else {})
        self._window = () if display else ("--headless",)
        self._prefs = PREFS + prefs
        self._serial = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self.errors: list[str] = []

    async def __aenter__(self) -> Firefox:
        self._profile.mkdir(parents=True, exist_ok=True)
        (self._profile / "user.js").write_text(self._prefs)
        self._process = await asyncio.create_subprocess_exec(
            "firefox-esr", *self._window, "--no-remote", "--profile", str(self._profile),
            "--remote-debugging-port", "0", "about:blank", env=self._env,
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        told = self._profile / "WebDriverBiDiServer.json"
        async with asyncio.timeout(60):
            while not told.exists() or not told.read_text().strip():
                await asyncio.sleep(0.1)
        where = json.loads(told.read_text())
        self._http = aiohttp.ClientSession()
        self._websocket = await self._http.ws_connect(
            f"ws://{where['ws_host']}:{where['ws_port']}/session", max_msg_size=0
        )
        self._reader = asyncio.create_task(self._read())
        await self.send("session.new", capabilities={})
        await self.send("session.subscribe", events=["log.entryAdded"])
        tree = await self.send("browsingContext.getTree")
        self._context = tree["contexts"][0]["context"]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reader.cancel()
        await self._http.close()
        self._process.kill()
        await self._process.wait()

    async def _read(self) -> None:
        async for message in self._websocket:
            told = json.loads(message.data)
            if told.get("id") in self._waiting:
                self._waiting.pop(told["id"]).set_result(told)
            elif told.get("method") == "log.entryAdded" and told["params"]["level"] == "error":
                self.errors.append(str(told["params"]["text"]))

    async def send(self, method: str, **params: Any) -> dict[str, Any]:
        """Send one command of the protocol, and await its answer."""
        serial = next(self._serial)
        future = self._waiting[serial] = asyncio.get_running_loop().create_future()
        await self._websocket.send_json({"id": serial, "method": method, "params": params})
        try:
            async with asyncio.timeout(60):
                answer = await future
        except TimeoutError:
            raise AssertionError(f"Firefox hangs: no answer to {method} {params} within 60 s") from None
        assert answer["type"] == "success", (method, answer)
        result: dict[str, Any] = answer["result"]
        return result

    async def open(self, url: str) -> None:
        """Navigate to a URL."""
        await self.send("browsingContext.navigate", context=self._context, url=url, wait="complete")

    async def run(self, script: str) -> Any:
        """Evaluate an expression and await its value, with user activation as after a click."""
        answer = await self.send(
            "script.evaluate", expression=f"(async () => JSON.stringify((await ({script})) ?? null))()",
            target={"context": self._context}, awaitPromise=True, userActivation=True,
        )  # fmt: skip
        assert answer["type"] == "success", answer
        return json.loads(answer["result"]["value"])

    async def click(self, selector: str) -> None:
        """Click in the middle of an element, by real mouse events."""
        x, y = await self.middle(selector)
        moves = [
            {"type": "pointerMove", "x": round(x), "y": round(y)},
            {"type": "pointerDown", "button": 0},
            {"type": "pointerUp", "button": 0},
        ]
        pointer = {"type": "pointer", "id": "mouse", "actions": moves}
        await self.send("input.performActions", context=self._context, actions=[pointer])
