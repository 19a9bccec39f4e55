"""Records the traffic of real programs for `seeds/`: `python -m tests.fuzz.record`, where they are installed.

Each program connects through a proxy, which keeps the first 12 KB of each direction. Run by hand when a protocol has
been extended or a program is to be added.
"""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tests.fuzz.live import MILLRACE
from tests.fuzz.seeds import RECORDED
from tests.real.browser import FLAGS, own_page
from tests.real.clients import BOOT_SECTOR, OSCILLATOR, browser_command

KEPT_MAX = 12 * 1024


class Tap:
    """A proxy in front of a socket; it keeps both directions, of the first connection or of `all_`.

    A socket that the client hands over is tapped too: `handed` has what its receiver sends on it.
    """

    def __init__(self, path: Path | None, behind: Path | tuple[str, int], all_: bool = False) -> None:
        """Without a path it listens on a free TCP port."""
        self.said, self.heard = bytearray(), bytearray()
        self.each: list[bytearray] = []
        """What the client sent, by connection."""
        self.handed: list[bytearray] = []
        self._behind, self._all = behind, all_
        if path is None:
            self._listener = socket.create_server(("127.0.0.1", 0))
        else:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(str(path))
            self._listener.listen(8)
        self.port = 0 if path is not None else int(self._listener.getsockname()[1])
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        self._serve(self._listener.accept()[0])
        while self._all:
            self._serve(self._listener.accept()[0])

    def _serve(self, client: socket.socket) -> None:
        if isinstance(self._behind, tuple):
            server = socket.create_connection(self._behind)
        else:
            server = socket.socket(socket.AF_UNIX)
            server.connect(str(self._behind))
        own = bytearray()
        self.each.append(own)
        for ends in ((server, client, [self.heard], None), (client, server, [self.said, own], self._hand)):
            threading.Thread(target=_carry, args=ends, daemon=True).start()

    def _hand(self, fd: int) -> int:
        """A replacement for a handed-over socket, with a tap in between."""
        mine, theirs = socket.socketpair()
        kept = bytearray()
        self.handed.append(kept)
        behind = socket.socket(fileno=fd)
        for ends in ((mine, behind, [kept], None), (behind, mine, [], None)):
            threading.Thread(target=_carry, args=ends, daemon=True).start()
        return theirs.detach()


def _carry(
    source: socket.socket, sink: socket.socket, kept: list[bytearray], hand: Callable[[int], int] | None
) -> None:
    with contextlib.suppress(OSError):
        while True:
            data, fds = (source.recv(65_536), []) if sink.family != socket.AF_UNIX else _received(source)
            if not data:
                break
            for one in kept:
                one += data
            if hand is not None:
                fds = [hand(fd) for fd in fds]
            if fds:
                socket.send_fds(sink, [data], fds)
            else:
                sink.sendall(data)
            for fd in fds:
                os.close(fd)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


def _received(source: socket.socket) -> tuple[bytes, list[int]]:
    data, fds, _, _ = socket.recv_fds(source, 65_536, 16)
    return data, fds


def _private() -> list[bytes]:
    """Words that identify this machine, and must not be kept."""
    words = [socket.gethostname(), tempfile.gettempdir(), getpass.getuser()]
    for path in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
        with contextlib.suppress(OSError):
            words.append(Path(path).read_text().strip())
    return [word.encode() for word in words if len(word) > 3]


def _keep(wire: str, name: str, data: bytes) -> None:
    for private in _private():
        data = data.replace(private, b"x" * len(private))
    folder = RECORDED / wire
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.bin").write_bytes(data[:KEPT_MAX])
    print(f"{wire}/{name}: {min(len(data), KEPT_MAX)} bytes")


def pulse(runtime: Path, env: dict[str, str]) -> None:
    """Record PulseAudio clients."""
    tone = runtime / "tone.wav"
    subprocess.run(["sox", "-n", "-r", "44100", "-c", "2", str(tone), "synth", "0.4", "sine", "440"], check=True)
    sounding = runtime / "page.html"
    sounding.write_text(OSCILLATOR)
    programs = {
        "paplay": ["paplay", str(tone)],
        "pacat": ["pacat", "--latency-msec=50", "--channels=1", str(tone)],
        "parec": ["timeout", "1", "parec", "--device=millrace.monitor"],
        "pactl-list": ["pactl", "list"],
        "pactl-info": ["pactl", "info"],
        "pactl-load": ["pactl", "load-module", "module-null-sink", "sink_name=n", "sink_properties='a.b=\"a b\"'"],
        "pactl-remap": ["pactl", "load-module", "module-remap-sink", "sink_name=r", "master=millrace", "channels=2",
                        "channel_map=front-right,front-left", "master_channel_map=front-left,front-right", "remix=no",
                        "sink_properties=\"device.description='One Two' a.b=c\""],
        "pactl-loopback": ["pactl", "load-module", "module-loopback", "source=millrace.monitor", "latency_msec=40",
                           "sink_input_properties=media.role=music"],
        "pactl-combine": ["pactl", "load-module", "module-combine-sink", "sink_name=c", "slaves=millrace",
                          "rate=44100", "format=s16le", "channel_map=surround-40", "channels=4"],
        "pactl-odd": ["pactl", "load-module", "module-null-sink", "sink_name=o", "rate=0", "nonsense=1"],
        "extensions": [sys.executable, "-m", "tests.fuzz.extensions"],
        "pactl-subscribe": ["timeout", "0.5", "pactl", "subscribe"],
        "pactl-volume": ["pactl", "set-sink-volume", "@DEFAULT_SINK@", "50%"],
        "pactl-sample": ["pactl", "upload-sample", str(tone), "bell"],
        "pactl-play": ["pactl", "play-sample", "bell"],
        "ffmpeg": ["ffmpeg", "-v", "error", "-i", str(tone), "-f", "pulse", "seed"],
        "mpv": ["mpv", "--no-config", "--no-video", "--ao=pulse", "--volume=50", str(tone)],
        "chromium": browser_command("chromium", runtime / "profile", sounding),
        "gst": ["gst-launch-1.0", "-q", *f"filesrc location={tone} ! wavparse ! audioconvert ! pulsesink".split()],
    }  # fmt: skip
    for name, command in programs.items():
        if shutil.which(command[0]) is None:
            continue
        path = runtime / f"{name}.sock"
        tap = Tap(path, runtime / "millrace" / "default" / "pulse")
        own = env | {"PULSE_SERVER": f"unix:{path}", "PULSE_COOKIE": str(runtime / "none")}
        subprocess.run(["timeout", "5", *command], env=own, capture_output=True, check=False)
        time.sleep(0.2)
        _keep("pulse-client", name, bytes(tap.said))
        _keep("pulse-server", name, bytes(tap.heard))


def http(runtime: Path) -> None:
    """Record HTTP clients; their tokens are invalid."""
    path = runtime / "http.sock"
    for name, words in {
        "curl": ["http://localhost/health", "-H", "Authorization: Bearer none"],
        "curl-upgrade": ["http://localhost/victim", "-H", "Connection: Upgrade", "-H", "Upgrade: websocket"],
        "curl-post": ["http://localhost/session", "-X", "POST", "-d", "", "-b", "millrace=none"],
    }.items():
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        tap = Tap(path, runtime / "millrace" / "api.sock")
        subprocess.run(
            ["curl", "-s", "--max-time", "3", "--unix-socket", str(path), *words], capture_output=True, check=False
        )
        time.sleep(0.1)
        _keep("http", name, bytes(tap.said))


def page(address: str, link: str) -> None:
    """Record a browser that opens the page: each of its requests once."""
    host, _, port = address.rpartition(":")
    tap = Tap(None, (host, int(port)), all_=True)
    with tempfile.TemporaryDirectory(prefix="mrrec") as profile:
        opened = link.replace(address, f"127.0.0.1:{tap.port}")
        command = ["chromium", *FLAGS, f"--user-data-dir={profile}", opened]
        subprocess.run(["timeout", "-k", "1", "6", *command], capture_output=True, check=False)
    said = re.sub(rb"m[rs]_[\w.-]{20,}", b"none", bytes(tap.said)).replace(str(tap.port).encode(), port.encode())
    said = said.replace(b"guest=default", b"guest=victim")
    heads = [part.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" for part in re.split(rb"(?=(?:GET|POST) /)", said)[1:]]
    _keep("http", "chromium", b"".join({head.partition(b"\r\n")[0]: head for head in heads}.values()))


async def _listen(link: str, profile: Path) -> None:
    flags = ("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream")
    async with own_page(profile, *flags) as opened:
        await opened.open(link)
        await opened.until("document.querySelector('#guest').value")
        await opened.click("#listen")
        await opened.until(
            "millrace.listener && millrace.listener.stats && millrace.listener.stats.state === 'playing'"
        )
        await asyncio.sleep(1.5)


def page_socket(address: str, link: str, runtime: Path, env: dict[str, str]) -> None:
    """Record the page's WebSocket in a real Chromium: its handshake, and what it sends while it plays."""
    host, _, port = address.rpartition(":")
    tap = Tap(None, (host, int(port)), all_=True)
    sounding = [
        subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL)
        for command in (["parec", "--device=microphone"], ["pacat", "/dev/urandom"])
    ]
    try:
        asyncio.run(_listen(link.replace(address, f"127.0.0.1:{tap.port}"), runtime / "chromium"))
    finally:
        for one in sounding:
            one.kill()
    said = max((one for one in tap.each if b"GET /default" in one), key=len)
    _, end, frames = said.partition(b"\r\n\r\n")
    assert end and frames
    _keep("peer-listener", "chromium", bytes(frames))


def dbus(runtime: Path, env: dict[str, str]) -> None:
    """Record QEMU on a bus, as seen by Millrace."""
    folder = runtime / "vm"
    folder.mkdir()
    (folder / "boot.img").write_bytes(BOOT_SECTOR)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    address = f"unix:path={folder}/bus"
    bus = subprocess.Popen(["dbus-daemon", "--session", "--nofork", f"--address={address}"], **quiet)
    time.sleep(0.5)
    machine = [
        "qemu-system-x86_64", "-M", "pc,pcspk-audiodev=a", "-audiodev", "dbus,timer-period=5000,id=a", "-nodefaults",
        "-drive", f"format=raw,file={folder}/boot.img", "-display", f"dbus,addr={address},audiodev=a",
    ]  # fmt: skip
    vm = subprocess.Popen(machine, **quiet)
    try:
        time.sleep(2)
        tap = Tap(folder / "tapped", folder / "bus")
        attach = [*MILLRACE, "attach", "qemu", "--dbus", f"unix:path={folder}/tapped"]
        subprocess.run(attach, env=env, check=True, timeout=20)
        time.sleep(2)
        _keep("dbus-server", "qemu", bytes(tap.heard))
        for number, kept in enumerate(tap.handed):
            _keep("dbus-audio", f"qemu-{number}", bytes(kept))
    finally:
        vm.kill()
        bus.terminate()


def main() -> None:
    """Entry point."""
    with tempfile.TemporaryDirectory(prefix="mrrec") as name:
        runtime = Path(name)
        env = os.environ | dict.fromkeys(("XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_STATE_HOME"), name)
        daemon = subprocess.Popen([*MILLRACE, "serve", "--listen", "127.0.0.1:0"], env=env, stdout=subprocess.PIPE)
        try:
            assert daemon.stdout is not None
            while b"ready" not in daemon.stdout.readline():
                pass
            shown = subprocess.run([*MILLRACE, "ls", "--json"], env=env, capture_output=True, check=True).stdout
            link = subprocess.run([*MILLRACE, "page"], env=env, capture_output=True, check=True, text=True).stdout
            dbus(runtime, env)
            page(json.loads(shown)["listen"], link.split()[-1])
            link = subprocess.run([*MILLRACE, "page"], env=env, capture_output=True, check=True, text=True).stdout
            socket_env = env | {"PULSE_SERVER": f"unix:{runtime}/millrace/default/pulse"}
            page_socket(json.loads(shown)["listen"], link.split()[-1], runtime, socket_env)
            pulse(runtime, env)
            http(runtime)
        finally:
            daemon.terminate()
            daemon.wait(30)


if __name__ == "__main__":
    main()
