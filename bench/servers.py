"""The sound servers that are compared: Millrace, PulseAudio, PipeWire, each with one sink called `default`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

MILLRACE = [sys.executable, "-m", "millrace.cli.main"]
PULSEAUDIO = [
    "pulseaudio", "-n", "--realtime=no", "--daemonize=no", "--exit-idle-time=-1", "--use-pid-file=no",
    "--load=module-native-protocol-unix socket={run}/sock auth-anonymous=1",
    "--load=module-null-sink sink_name=millrace rate=48000",
]  # fmt: skip
PIPEWIRE = "pipewire & sleep 1; wireplumber & sleep 1; exec pipewire-pulse"


class Server:
    """A running server with its own directory."""

    def __init__(self, kind: str, run: Path) -> None:
        self.kind, self.run = kind, run
        self.env = os.environ | {
            "XDG_RUNTIME_DIR": str(run), "XDG_CONFIG_HOME": str(run), "HOME": str(run),
            "SDL_AUDIODRIVER": "pulseaudio", "ALSA_CONFIG_PATH": "/usr/share/alsa/alsa.conf",
        }  # fmt: skip
        self.env.pop("PULSE_SERVER", None)
        commands = {
            "Millrace": [*MILLRACE, "serve", "--listen", "127.0.0.1:0"],
            "PulseAudio": [word.format(run=run) for word in PULSEAUDIO],
            "PipeWire": ["dbus-run-session", "sh", "-c", PIPEWIRE],
        }
        sockets = {"Millrace": "millrace/default/pulse", "PulseAudio": "sock", "PipeWire": "pulse/native"}
        self.socket = run / sockets[kind]
        self._process = subprocess.Popen(
            commands[kind], env=self.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        self.env["PULSE_SERVER"] = f"unix:{self.socket}"
        self._wait()

    def _wait(self) -> None:
        end = time.monotonic() + 15
        while subprocess.run(["pactl", "info"], env=self.env, capture_output=True).returncode:
            assert self._process.poll() is None and time.monotonic() < end, f"{self.kind} does not start"
            time.sleep(0.1)
        if self.kind == "PipeWire":
            load = ["pactl", "load-module", "module-null-sink", "sink_name=millrace", "rate=48000"]
            subprocess.run(load, env=self.env, check=True, capture_output=True)
            subprocess.run(["pactl", "set-default-sink", "millrace"], env=self.env, check=True)
            time.sleep(1)

    def stop(self) -> None:
        """Kill it and the processes that it started."""
        os.killpg(self._process.pid, 15)
        self._process.wait(15)


def installed() -> list[str]:
    """The servers installed on this machine."""
    programs = {"Millrace": "python3", "PulseAudio": "pulseaudio", "PipeWire": "pipewire-pulse"}
    return [kind for kind, program in programs.items() if shutil.which(program)]
