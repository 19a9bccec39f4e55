"""Records what real programs say, for `seeds/`: `python -m tests.fuzz.record`, where they are installed.

Each program speaks through a proxy; what went either way is kept, the first 12 KB of it. Run by hand, when a protocol
has grown or a program is to be added.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path

from tests.fuzz.live import MILLRACE
from tests.fuzz.seeds import RECORDED

KEPT_MAX = 12 * 1024


class Tap:
    """A unix socket in front of another: one connection, both ways kept."""

    def __init__(self, path: Path, behind: Path | tuple[str, int]) -> None:
        self.said, self.heard = bytearray(), bytearray()
        self._behind = behind
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(1)
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        client, _ = self._listener.accept()
        if isinstance(self._behind, tuple):
            server = socket.create_connection(self._behind)
        else:
            server = socket.socket(socket.AF_UNIX)
            server.connect(str(self._behind))
        back = threading.Thread(target=_carry, args=(server, client, self.heard), daemon=True)
        back.start()
        _carry(client, server, self.said)
        back.join(5)


def _carry(source: socket.socket, sink: socket.socket, kept: bytearray) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65_536):
            kept += data
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


def _private() -> list[bytes]:
    """What is this machine's own."""
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
    """Clients of PulseAudio."""
    tone = runtime / "tone.wav"
    subprocess.run(["sox", "-n", "-r", "44100", "-c", "2", str(tone), "synth", "0.4", "sine", "440"], check=True)
    programs = {
        "paplay": ["paplay", str(tone)],
        "pacat": ["pacat", "--latency-msec=50", "--channels=1", str(tone)],
        "parec": ["timeout", "1", "parec", "--device=millrace.monitor"],
        "pactl-list": ["pactl", "list"],
        "pactl-info": ["pactl", "info"],
        "pactl-load": ["pactl", "load-module", "module-null-sink", "sink_name=n", "sink_properties='a.b=\"a b\"'"],
        "pactl-subscribe": ["timeout", "0.5", "pactl", "subscribe"],
        "pactl-volume": ["pactl", "set-sink-volume", "@DEFAULT_SINK@", "50%"],
        "pactl-sample": ["pactl", "upload-sample", str(tone), "bell"],
        "pactl-play": ["pactl", "play-sample", "bell"],
        "ffmpeg": ["ffmpeg", "-v", "error", "-i", str(tone), "-f", "pulse", "seed"],
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
    """Clients of HTTP; their tokens are none."""
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
            pulse(runtime, env)
            http(runtime)
        finally:
            daemon.terminate()
            daemon.wait(30)


if __name__ == "__main__":
    main()
