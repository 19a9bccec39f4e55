"""Makes what shows a viewer's picture, as `--to` names it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from millrace.client.faces import Face, Unseen
from millrace.errors import ConfigError, OutputLost
from millrace.text import quoted

if TYPE_CHECKING:
    from millrace.client.recording import Recording
    from millrace.client.viewer import Viewer

CHOICES = "window, FILE.png, FILE.mkv, y4m:-, y4m:FILE, null:"
Y4M_FPS = 30


class Shown:
    """A face, with what else belongs to it. `ended` is called once it takes no more; with an error if that is one."""

    def __init__(
        self, to: str, title: str, full_screen: bool, sound: bool, ended: Callable[[OutputLost | None], None],
        share_clipboard: bool = True,
    ) -> None:  # fmt: skip
        self.to, self._sound, self._share_clipboard = to, sound, share_clipboard
        self.recording: Recording | None = None
        self._viewer: Viewer | None = None
        self._loop = asyncio.get_running_loop()
        self._told = ended
        self._open: Callable[[], None] = lambda: None
        self._close: Callable[[], None] = lambda: None
        self._attach: Callable[[Viewer], None] = lambda viewer: None
        self.face = self._made(to, title, full_screen)

    def _made(self, to: str, title: str, full_screen: bool) -> Face:
        kind = kind_of(to)
        if kind == "window":
            return self._window(title, full_screen)
        if kind == "png":
            from millrace.client.stills import PngFile

            return PngFile(Path(to), lambda: self._told(None))
        if kind == "mkv":
            return self._recording(Path(to))
        return self._y4m(to.partition(":")[2]) if kind == "y4m" else Unseen()

    def _window(self, title: str, full_screen: bool) -> Face:
        from millrace.client.window import Window

        window = Window(title, lambda: self._told(None), full_screen, self._share_clipboard)
        self._open, self._close, self._attach = window.open, window.close, window.attach
        return window

    def _recording(self, path: Path) -> Face:
        from millrace.client.recording import Recording

        self.recording = made = Recording(path, self._sound, self._daemon_ns, self._ended)
        self._close = made.close
        return made

    def _y4m(self, where: str) -> Face:
        from millrace.client.stills import Y4mStream, y4m_file

        try:
            file = y4m_file(where)
        except OSError as error:
            raise ConfigError(f"{where}: {error.strerror}") from None
        made = Y4mStream(file, f"y4m:{where}", Y4M_FPS, self._ended)
        self._close = made.close
        return made

    def _daemon_ns(self) -> int:
        return 0 if self._viewer is None else self._viewer.daemon_ns()

    def _ended(self, why: OutputLost | None) -> None:
        """From an output's thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._told, why)

    def open(self, viewer: Viewer) -> None:
        """Show what this viewer sees."""
        self._viewer = viewer
        self._attach(viewer)
        self._open()

    def close(self) -> None:
        """Finish files, close windows."""
        self._close()


def kind_of(to: str) -> str:
    """window, png, mkv, y4m or null; ConfigError lists the choices."""
    if to in ("window", "null:"):
        return to.rstrip(":")
    if to.startswith("y4m:") and len(to) > 4:
        return "y4m"
    suffix = Path(to).suffix.lower()
    if suffix in (".png", ".mkv"):
        return suffix[1:]
    raise ConfigError(f"--to {quoted(to)}: use one of {CHOICES}")
