"""X servers for tests: what they show, read by xwd, and programs that draw and read keys."""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.ports import free_port, serves

from .conftest import listens, need, wait_for

Picture = NDArray[np.uint8]
_number = 0


def free_display() -> int:
    """A display that nobody has."""
    global _number
    while True:
        _number += 1
        display = 100 + os.getpid() % 500 * 100 + _number
        if not Path(f"/tmp/.X11-unix/X{display}").exists() and not Path(f"/tmp/.X{display}-lock").exists():
            return display


class XServer:
    """A display, with the programs in it."""

    def __init__(self, folder: Path, *command: str) -> None:
        """`command` starts the server; {} in it becomes the display."""
        self.folder = folder
        self.display = f":{free_display()}"
        self.env = os.environ | {"DISPLAY": self.display, "HOME": str(folder)}
        self.env.pop("XAUTHORITY", None)
        self.processes: list[subprocess.Popen[bytes]] = []
        self.log = (folder / "x.log").open("ab")
        self.start(*(part.format(self.display) for part in command))
        wait_for(lambda: listens(Path(f"/tmp/.X11-unix/X{self.display[1:]}")), 20, "the X server is there")

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(command, env=self.env, stdout=self.log, stderr=self.log)
        self.processes.append(process)
        return process

    def terminal(self, script: str) -> None:
        """A terminal that runs a shell script."""
        font = ("-fn", "fixed", "-geometry", "60x20+10+10", "-bg", "#203040", "-fg", "#ffee88")
        self.start("xterm", *font, "-e", "sh", "-c", script)

    def run(self, *command: str) -> str:
        done = subprocess.run(command, env=self.env, capture_output=True, timeout=20)
        assert done.returncode == 0, done.stderr
        return done.stdout.decode()

    def picture(self) -> Picture:
        """What the server itself says that it shows: rows, columns, B, G and R. XWDFile.h, version 7."""
        done = subprocess.run(["xwd", "-root", "-silent"], env=self.env, capture_output=True, timeout=20, check=True)
        head = struct.unpack(">25I", done.stdout[:100])
        width, height, bits, row, colours = head[4], head[5], head[11], head[12], head[19]
        assert bits == 32
        pixels = np.frombuffer(done.stdout, np.uint8, row * height, head[0] + colours * 12)
        return pixels.reshape(height, row // 4, 4)[:, :width, :3]

    def close(self) -> None:
        """End the programs and the server; x11vnc frees its shared memory only if it is asked to end."""
        for process in reversed(self.processes):
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)
        self.log.close()


@contextmanager
def x11vnc(folder: Path, *args: str, layout: str = "us") -> Iterator[tuple[XServer, str]]:
    """An X display behind x11vnc, and its door."""
    need("Xvfb", "x11vnc", "xterm", "xwd", "xdotool", "setxkbmap")
    x, port = XServer(folder, "Xvfb", "{}", "-screen", "0", "640x480x24"), free_port()
    # Without a window manager it has no selection of its own for 45 s, unless it is told so.
    x.env["X11VNC_AVOID_WINDOWS"] = "never"
    try:
        # It reads the keyboard's layout when it starts.
        x.run("setxkbmap", layout)
        server = x.start("x11vnc", "-display", x.display, "-rfbport", str(port), "-localhost", "-forever", *args)
        wait_for(lambda: serves(port) or server.poll() is not None, 20, "x11vnc accepts connections")
        assert server.poll() is None, (folder / "x.log").read_text(errors="replace")[-2000:]
        yield x, f"vnc://127.0.0.1:{port}"
    finally:
        x.close()
