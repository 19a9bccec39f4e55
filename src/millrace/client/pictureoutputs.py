"""Makes what shows a viewer's picture, as `--to` names it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from millrace.absent import nothing
from millrace.client.faces import Face, Unseen
from millrace.errors import ConfigError, OutputLost
from millrace.text import quoted

if TYPE_CHECKING:
    from millrace.client.recording import Recording
    from millrace.client.stills import PngFile
    from millrace.client.viewer import Viewer

CHOICES = "window, FILE.png, png:FILE, png:, FILE.mkv, mkv:FILE, y4m:-, y4m:FILE, null:"
Y4M_FPS = 30


class Shown:
    """A face, with what else belongs to it. `ended` is called once it takes no more; with an error if that is one."""

    def __init__(
        self, to: str, title: str, full_screen: bool, sound: bool, ended: Callable[[OutputLost | None], None],
        share_clipboard: bool = True, replace: bool = True, on_file: Callable[[Path], None] = lambda path: None,
    ) -> None:  # fmt: skip
        """`replace`: a file that is there may be overwritten. For `on_file` see `Recording`."""
        self.to, self._sound, self._share_clipboard, self._replace = to, sound, share_clipboard, replace
        self._on_file = on_file
        self.recording: Recording | None = None
        self._png: PngFile | None = None
        self._viewer: Viewer | None = None
        self._loop = asyncio.get_running_loop()
        self._told = ended
        self._open: Callable[[], None] = nothing
        self._close: Callable[[], None] = nothing
        self._attach: Callable[[Viewer], None] = lambda viewer: None
        self.face = self._made(to, title, full_screen)

    def _made(self, to: str, title: str, full_screen: bool) -> Face:
        kind, where = target(to, title)
        if kind == "window":
            return self._window(title, full_screen)
        if kind == "png":
            from millrace.client.stills import PngFile

            self._png = PngFile(Path(where), lambda: self._told(None))
            return self._png
        if kind == "mkv":
            return self._recording(Path(where))
        return self._y4m(where) if kind == "y4m" else Unseen()

    def _window(self, title: str, full_screen: bool) -> Face:
        from millrace.client.window import Window

        window = Window(title, lambda: self._told(None), full_screen, self._share_clipboard)
        self._open, self._close, self._attach = window.open, window.close, window.attach
        return window

    def _recording(self, path: Path) -> Face:
        from millrace.client.recording import Recording

        self.recording = made = Recording(path, self._sound, self._daemon_ns, self._ended, self._replace, self._on_file)
        self._close = made.close
        return made

    def _y4m(self, where: str) -> Face:
        from millrace.client.stills import Y4mStream, y4m_file

        made = Y4mStream(y4m_file(where, self._replace), f"y4m:{where}", Y4M_FPS, self._ended)
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

    def got(self, pictures: int) -> int:
        """How many of the viewer's pictures are in the output: of a PNG one, of a file that was not begun none."""
        if self.recording is not None:
            return pictures if self.recording.files else 0
        return pictures if self._png is None else int(self._png.written)

    def close(self) -> None:
        """Finish files, close windows."""
        self._close()


def target(to: str, guest: str) -> tuple[str, str]:
    """The kind of an output (window, png, mkv, y4m or null) and its file; ConfigError lists the choices.

    `png:` alone is a file of the guest's name. A y4m's file may be `-`, standard output.
    """
    if to in ("window", "null:"):
        return to.rstrip(":"), ""
    kind, colon, where = to.partition(":")
    if to == "png:" and guest:
        where = f"{guest.replace('/', '-')}.png"
    if colon and kind in ("png", "mkv", "y4m"):
        if where and (where != "-" or kind == "y4m"):
            return kind, where
    elif (suffix := Path(to).suffix.lower()) in (".png", ".mkv"):
        return suffix[1:], to
    raise ConfigError(f"--to {quoted(to)}: use one of {CHOICES}")
