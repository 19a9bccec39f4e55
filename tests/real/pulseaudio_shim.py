"""Replaces `pulseaudio` for a test suite that starts one: runs a Millrace guest on the sockets that the suite expects.

The suite passes its modules on standard input, and waits 4 s for `$XDG_RUNTIME_DIR/pulse/native`. Therefore this
program listens there at once, and forwards early connections as soon as the guest has the two sinks that the suite
expects; from then on that path is the guest's own socket. The microphone is denied, because PulseAudio without a card
has none. TCP is served by the daemon itself.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from types import FrameType


def pump(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
    except OSError:
        pass
    finally:
        for end in (source, target):
            end.close()


def start(base: Path, lines: list[str]) -> subprocess.Popen[bytes]:
    wanted = [re.search(r"module-native-protocol-tcp.* listen=(\S+) port=(\d+)", line) for line in lines]
    addresses = [f'"[{m[1]}]:{m[2]}"' if ":" in m[1] else f'"{m[1]}:{m[2]}"' for m in wanted if m]
    config = base / "millrace.toml"
    config.write_text(
        f'[guest.default]\npulse_tcp = [{", ".join(addresses)}]\n[guest.default.grants]\nmicrophone = "deny"\n'
    )
    command = [sys.executable, "-m", "millrace.cli.main", "serve", "--listen", "127.0.0.1:0", "--config", str(config)]
    env = os.environ | {"XDG_RUNTIME_DIR": str(base), "XDG_STATE_HOME": str(base), "XDG_CONFIG_HOME": str(base)}
    daemon = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert daemon.stdout is not None
    while b"ready;" not in (line := daemon.stdout.readline()):
        assert line, "the daemon ended"
    server = f"unix:{base}/millrace/default/pulse"
    subprocess.run(["pactl", "-s", server, "load-module", "module-null-sink"], check=True, stdout=subprocess.DEVNULL)
    shutil.copy(base / "millrace/default/cookie", Path.home() / "cookie")
    return daemon


def main() -> None:
    base = Path(os.environ["XDG_RUNTIME_DIR"])
    path = base / "pulse/native"
    path.parent.mkdir(exist_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    daemon = start(base, sys.stdin.read().splitlines())

    def stop(number: int, frame: FrameType | None) -> None:
        path.unlink(missing_ok=True)
        daemon.kill()
        daemon.wait()
        os._exit(0)

    signal.signal(signal.SIGTERM, stop)
    beside = path.with_name("guest")
    beside.symlink_to(base / "millrace/default/pulse")
    beside.rename(path)
    while True:
        client, _ = listener.accept()
        guest = socket.socket(socket.AF_UNIX)
        guest.connect(f"{base}/millrace/default/pulse")
        for ends in ((client, guest), (guest, client)):
            threading.Thread(target=pump, args=ends, daemon=True).start()


main()
