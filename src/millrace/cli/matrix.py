"""`millrace matrix`: tests real virtual machines, every sound card with every door, by their recorded output."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from millrace.cli.console import say, show_json, warn
from millrace.cli.values import whole

if TYPE_CHECKING:
    import subprocess

    from millrace.lab.cells import Cell, Verdict


def matrix(
    cards: Annotated[
        str, typer.Option(help="all, or a comma-separated list of virtio hda ac97 es1370 usb pcspk.")
    ] = "all",
    doors: Annotated[str, typer.Option(help="all, or a comma-separated list of dbus spice vnc pa.")] = "all",
    directions: Annotated[str, typer.Option(help="all, out or in.")] = "all",
    seconds: Annotated[int, whole("--seconds", 3, 3600, "Seconds of sound in each cell.")] = 20,
    floor: Annotated[bool, typer.Option("--floor", help="Also record QEMU's own output (-audiodev wav).")] = False,
    binary: Annotated[str, typer.Option(metavar="PROGRAM", help="QEMU binary to run.")] = "qemu-system-x86_64",
    keep: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Keep recordings and logs in this folder.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, one object per line.")] = False,
) -> None:
    """Try virtual sound cards, each in a Linux guest that QEMU boots.

    Every cell of the matrix is a machine that plays or records; the result is printed.

    The guest is built once from Debian packages (apt, no root) into the cache folder. A cell takes its
    seconds and about eight more.

    Examples:

      millrace matrix --cards virtio,hda --doors dbus --seconds 60

      millrace matrix --json --keep out/matrix > matrix.jsonl
    """
    from millrace.cli.progress import progress
    from millrace.lab.cells import table_head, table_line

    cells = chosen_cells(cards, doors, directions, floor)
    images = guest_images()
    if not as_json:
        say(table_head())
    with progress("cells", len(cells)) as now:
        for cell in cells:
            now(f"{cell.card} by {cell.door}, {cell.direction}")
            verdict = run_cell(cell, images, seconds, binary, keep)
            show_json(verdict.row(), None) if as_json else say(table_line(verdict))


def chosen_cells(cards: str, doors: str, directions: str, floor: bool) -> list[Cell]:
    """The requested cells, grouped by card."""
    from millrace.errors import ConfigError
    from millrace.lab.cells import CARDS, DIRECTIONS, DOORS, FLOOR, Cell, parse_choice

    try:
        chosen = [parse_choice(*pair) for pair in ((cards, CARDS), (doors, DOORS), (directions, DIRECTIONS))]
    except ValueError as error:
        raise ConfigError(str(error)) from None
    return [
        cell
        for card in chosen[0]
        for cell in [
            *([Cell(card, FLOOR, "out")] if floor else []),
            *(Cell(card, door, way) for way in chosen[2] for door in chosen[1]),
        ]
    ]


def guest_images() -> Path:
    """The directory of the guest's kernel and initrd, which are built if missing or old; ConfigError if that fails."""
    import hashlib
    import subprocess
    import sys

    from millrace.errors import ConfigError
    from millrace.io.paths import cache_dir
    from millrace.lab.cells import RIG

    base = cache_dir() / "guest"
    # What the initrd was built by: a newer Millrace may have another guest.
    scripts, built_by = RIG / "build-guest", base / "out" / "built-by"
    wanted = hashlib.sha256(scripts.read_bytes() + (RIG / "guest" / "init").read_bytes()).hexdigest()
    if built_by.exists() and built_by.read_text() == wanted:
        return base / "out"
    warn(f"building the guest in {base} (once)")
    base.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(scripts), "--out", str(base / "out"), "--work", str(base / "work")]
    built = subprocess.run(command, capture_output=True, text=True)
    if built.returncode:
        why = (built.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ConfigError(f"the guest can't be built: {why}; it needs Debian's apt-get with lists (apt-get update)")
    built_by.write_text(wanted)
    return base / "out"


def run_cell(cell: Cell, images: Path, seconds: int, binary: str, keep: Path | None) -> Verdict:
    """Run one machine, from boot to power-off."""
    import shutil
    import tempfile

    from millrace.lab.cells import Verdict

    verdict = Verdict(cell.card, cell.door, cell.direction, note=cell.missing)
    if cell.missing:
        return verdict
    # Under /tmp, because socket paths must be short.
    with tempfile.TemporaryDirectory(prefix="mr-", dir="/tmp") as name:
        run = CellRun(cell, Path(name), verdict)
        try:
            run.run(images, seconds, binary)
        finally:
            run.stop()
            if keep is not None:
                target = keep / f"{cell.card}-{cell.door}-{cell.direction}"
                shutil.rmtree(target, ignore_errors=True)
                shutil.copytree(name, target, ignore=lambda _, names: {n for n in names if n in SOCKETS})
    verdict.finish()
    return verdict


SOCKETS = {"millrace", "qmp", "spice", "vnc", "bus"}


def _is_old(binary: str) -> bool:
    """Whether this QEMU is too old for sound over peer-to-peer D-Bus."""
    import re
    import subprocess

    from millrace.wire.qemu.qmp import PEER_TO_PEER_MAJOR

    said = subprocess.run([binary, "--version"], capture_output=True, text=True).stdout
    found = re.search(r"version (\d+)\.", said)
    return found is not None and int(found[1]) < PEER_TO_PEER_MAJOR


class CellRun:
    """A daemon, its listeners and the machine, each as a separate process."""

    def __init__(self, cell: Cell, d: Path, verdict: Verdict) -> None:
        self.cell, self.d, self.verdict = cell, d, verdict
        self._env = self._environment()
        self._started: list[subprocess.Popen[bytes]] = []

    # Every directory is the cell's own, so the daemon under test meets neither the user's daemon nor its
    # configuration. PULSE_SERVER and MILLRACE_TOKEN would lead the processes elsewhere, or let them in by another
    # right.
    def _environment(self) -> dict[str, str]:
        import os

        env = os.environ | {
            "XDG_RUNTIME_DIR": str(self.d),
            "XDG_CONFIG_HOME": str(self.d),
            "XDG_STATE_HOME": str(self.d),
        }
        return {key: value for key, value in env.items() if key not in ("PULSE_SERVER", "MILLRACE_TOKEN")}

    def run(self, images: Path, seconds: int, binary: str) -> None:
        """Run everything until the machine has powered off, then analyse the recordings."""
        import subprocess

        from millrace.lab.cells import FLOOR

        bus = self.cell.door == "dbus" and _is_old(binary)
        if bus:
            self._spawn(["dbus-daemon", "--session", "--nofork", f"--address=unix:path={self.d}/bus"])
        if self.cell.door != FLOOR:
            self._start_daemon(bus)
            self._start_listeners()
        command = self.cell.guest_command(self.d, images, seconds, binary, bus)
        with (self.d / "guest.out").open("wb") as out:
            machine = subprocess.Popen(command, env=self._env, stdout=out, stderr=subprocess.STDOUT)
        self._started.append(machine)
        self._watch(machine, seconds)
        self.verdict.take_guest((self.d / "guest.out").read_text(errors="replace"))
        self.stop()
        self._judge()

    def _start_daemon(self, bus: bool) -> None:
        import sys

        from millrace.errors import ConfigError

        address = self.cell.address(self.d, bus)
        doors = f'doors = ["{address}"]' if address else ""
        (self.d / "c.toml").write_text(f'[daemon]\nlisten = "127.0.0.1:0"\n[guest.default]\n{doors}\n')
        daemon = self._spawn([sys.executable, "-m", "millrace.cli.main", "serve", "--config", f"{self.d}/c.toml"])
        assert daemon.stdout is not None
        for line in daemon.stdout:
            if b"ready;" in line:
                return
        raise ConfigError("the daemon did not start")

    def _spawn(self, command: list[str]) -> subprocess.Popen[bytes]:
        import subprocess

        with (self.d / "log").open("ab") as log:
            process = subprocess.Popen(command, env=self._env, stdout=subprocess.PIPE, stderr=log)
        self._started.append(process)
        return process

    def _start_listeners(self) -> None:
        import sys

        from millrace.lab.cells import TONES_HZ

        listen = [sys.executable, "-m", "millrace.cli.main", "listen", "default", "-q", "--overwrite"]
        if self.cell.direction == "in":
            tones = ",".join(str(hz) for hz in TONES_HZ)
            self._spawn([*listen, "--to", "null:", "--mic", f"tone:{tones}"])
            return
        self._spawn([*listen, "--to", f"wav:{self.d}/pcm.wav", "--set", "codec=s16"])
        self._spawn([*listen, "--to", f"wav:{self.d}/opus.wav"])
        self._spawn([*listen, "--to", "null:"])

    def _watch(self, machine: subprocess.Popen[bytes], seconds: int) -> None:
        """Query the daemon's state a few times during playback; not often, as that takes CPU time from the guest."""
        import subprocess
        import time

        end = time.monotonic() + 120 + 3 * seconds
        pause = max(4.0, seconds / 5)
        while machine.poll() is None and time.monotonic() < end:
            try:
                machine.wait(pause)
            except subprocess.TimeoutExpired:
                state = self._state()
                for guest in state.get("guests", []):
                    self.verdict.take_state(guest)

    def _state(self) -> dict[str, Any]:
        """The state from the API, queried in this process: starting another would take CPU time from the guest."""
        import http.client
        import json
        import socket

        path = self.d / "millrace" / "api.sock"
        if not path.exists():
            return {}
        connection = http.client.HTTPConnection("localhost", timeout=5)
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.sock.connect(str(path))
            connection.request("GET", "/api/v1/state")
            state: dict[str, Any] = json.loads(connection.getresponse().read())
        except (OSError, ValueError, http.client.HTTPException):
            return {}
        finally:
            connection.close()
        return state

    # In reverse order, so that the listeners end, and finish their files, while the daemon is still there.
    def stop(self) -> None:
        """End the remaining processes in reverse order, and wait for each."""
        import subprocess
        import time

        time.sleep(0.5 if self._started else 0.0)
        for process in reversed(self._started):
            if process.poll() is None:
                process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._started.clear()

    def _judge(self) -> None:
        from millrace.lab.cells import FLOOR

        verdict = self.verdict
        if verdict.note:
            return
        tone = self.cell.card != "pcspk"
        if self.cell.direction == "in":
            verdict.take_analysis(self._analyse("mic.raw", "--raw", "48000,2,s16"))
        elif self.cell.door == FLOOR:
            verdict.take_analysis(self._analyse("floor.wav"), tone)
        else:
            verdict.take_analysis(self._analyse("pcm.wav"), tone)
            opus = self._analyse("opus.wav")
            verdict.gaps_opus = _gaps(opus)

    def _analyse(self, name: str, *more: str) -> str:
        import subprocess
        import sys

        from millrace.lab.cells import RIG

        command = [sys.executable, str(RIG / "analyse"), str(self.d / name), "--kind", "sine", "--json", *more]
        return subprocess.run(command, capture_output=True, text=True).stdout


def _gaps(text: str) -> int | None:
    import json

    try:
        found: int | None = json.loads(text)["sine"].get("gaps")
    except (ValueError, KeyError):
        return None
    return found
