"""`millrace matrix`: the combinations of card, protocol and direction, QEMU's options for them, and the results.

The machine, its signals and the analyser are the scripts in lab/rig: a real Linux guest whose aplay and arecord play
and record.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RIG = Path(__file__).parent / "rig"
CARDS = ("virtio", "hda", "ac97", "es1370", "usb", "pcspk")
DOORS = ("dbus", "spice", "vnc", "pa")
DIRECTIONS = ("out", "in")
FLOOR = "wav"
"""QEMU's own WAV output, without any host audio: shows what QEMU itself does to the sound."""
_RATE = "out.frequency=48000,in.frequency=48000"
_AUDIODEV = {
    "dbus": f"dbus,timer-period=5000,{_RATE}", "spice": "spice,timer-period=5000",
    "vnc": f"none,{_RATE}", "pa": f"pa,server=unix:{{d}}/millrace/default/pulse,{_RATE}",
    FLOOR: "wav,path={d}/floor.wav,out.frequency=48000",
}  # fmt: skip
_QEMU = {
    "dbus": "-display dbus,p2p=on,audiodev=snd0", "spice": "-spice unix=on,addr={d}/spice,disable-ticketing=on",
    "vnc": "-device VGA -vnc unix:{d}/vnc,audiodev=snd0",
}  # fmt: skip
_OLD_QEMU, _OLD_ADDRESS = "-display dbus,addr=unix:path={d}/bus,audiodev=snd0", "dbus:unix:path={d}/bus"
"""QEMU 7.2 has no sound over peer-to-peer D-Bus."""
_ADDRESS = {"dbus": "qmp:{d}/qmp", "spice": "spice+unix://{d}/spice", "vnc": "vnc+unix://{d}/vnc"}
_NOT_THERE = {
    ("usb", "in"): "QEMU's usb-audio has no capture", ("pcspk", "in"): "a PC speaker does not record",
}  # fmt: skip
ONSET_S = 0.1
RING_S = 0.1
TONES_HZ = (997, 1497)


@dataclass(frozen=True, slots=True)
class Cell:
    """One combination."""

    card: str
    door: str
    direction: str

    @property
    def missing(self) -> str:
        """Why the combination does not exist; empty if it does."""
        if self.door in ("vnc", FLOOR) and self.direction == "in":
            return "VNC has no microphone"
        return _NOT_THERE.get((self.card, self.direction), "")

    def guest_command(self, d: Path, images: Path, seconds: int, binary: str, bus: bool) -> list[str]:
        """run-guest's arguments; `d` is the cell's own folder, `bus` asks for a D-Bus bus instead of peer to peer.

        It runs under this Python, because it needs numpy, which the system's Python may lack.
        """
        play = "none" if self.direction == "in" else "sine"
        out = [
            sys.executable, str(RIG / "run-guest"), "--images", str(images), "--device", self.card,
            "--binary", binary, "--quiet", "--audiodev", _AUDIODEV[self.door].format(d=d),
            "--play", play, "--seconds", str(seconds),
            "--qmp", f"{d}/qmp", "--log", f"{d}/guest.log",
        ]  # fmt: skip
        extra = (_OLD_QEMU if bus else _QEMU.get(self.door, "")).format(d=d)
        out += ["--qemu", extra] if extra else []
        return out + (["--record", str(seconds), "--rec-out", f"{d}/mic.raw"] if self.direction == "in" else [])

    def address(self, d: Path, bus: bool) -> str:
        """The address to attach; empty if QEMU connects by itself."""
        return (_OLD_ADDRESS if bus else _ADDRESS.get(self.door, "")).format(d=d)


def parse_choice(text: str, known: tuple[str, ...]) -> tuple[str, ...]:
    """'all' or comma-separated names; a ValueError names the one that is unknown."""
    names = known if text == "all" else tuple(text.split(","))
    for name in names:
        if name not in known:
            raise ValueError(f"{name!r}: there are {', '.join(known)}")
    return names


@dataclass(slots=True)
class Verdict:
    """The result of one cell."""

    card: str
    door: str
    direction: str
    seconds: float = 0.0
    lost: int = 0
    doubled: int = 0
    jumps: int = 0
    gaps: int = 0
    gaps_opus: int | None = None
    hz: float = 0.0
    ppm: float = 0.0
    snr_db: float | None = None
    latency_ms: float | None = None
    real_time_percent: float | None = None
    stalls: int = 0
    worst_stall_ms: int = 0
    note: str = ""
    samples: dict[str, list[float]] = field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        """For JSON."""
        names = (
            "card", "door", "direction", "seconds", "lost", "doubled", "jumps", "gaps", "gaps_opus", "hz", "ppm",
            "snr_db", "latency_ms", "real_time_percent", "stalls", "worst_stall_ms", "note",
        )  # fmt: skip
        return {name: getattr(self, name) for name in names}

    def take_analysis(self, text: str, tone: bool = True) -> None:
        """Take over the analyser's JSON, for the listener's file or the guest's recording."""
        analysis = json.loads(text or "{}")
        found = analysis.get("sine", {})
        if found.get("error") or "channels" not in found:
            self.note = found.get("error", "no sound")
            return
        first = found["channels"][0]
        self.seconds, self.hz = found["seconds"], round(first["freq"], 2)
        self.gaps = (
            sum(at < self._end(analysis) for at, _ in found["first_gaps"]) if found["gaps"] <= 8 else found["gaps"]
        )
        if tone:
            shifts = [event["dropped"] or 0 for event in self._after_onset(analysis)]
            self.jumps = len(shifts)
            self.lost, self.doubled = sum(s for s in shifts if s > 0), -sum(s for s in shifts if s < 0)
            self.ppm, self.snr_db = round(first["ppm"], 1), -first["residual_dB"]

    def _after_onset(self, analysis: dict[str, Any]) -> list[dict[str, Any]]:
        """Jumps, except at the start of a microphone's tone, which is switched on while the guest already records."""
        listed: list[dict[str, Any]] = analysis["sine"]["first_events"]
        events = [event for event in listed if event["at"] < self._end(analysis)]
        if self.direction == "out":
            return events
        began = analysis["file"]["frames"] / analysis["file"]["rate"] - self.seconds
        return [event for event in events if event["at"] > began + ONSET_S]

    def _end(self, analysis: dict[str, Any]) -> float:
        """Where judging ends: QEMU's AC97 plays its last ring buffer again after the sound has ended."""
        if self.card != "ac97" or self.direction == "in":
            return float("inf")
        events, gaps = analysis["sine"]["first_events"], analysis["sine"]["first_gaps"]
        last = max([event["at"] for event in events] + [at for at, _ in gaps], default=0.0)
        # The file continues in silence, so the end is found from the last event and the sound's length.
        return last - RING_S if last > self.seconds - RING_S else float("inf")

    def take_guest(self, said: str) -> None:
        """Take over what run-guest printed: this machine's own stalls, and whether the guest ran at all."""
        found = re.search(r"stalls over 10 ms: (\d+).*?: (\[.*\])", said)
        if found:
            self.stalls = int(found[1])
            self.worst_stall_ms = max((ms for _, ms in json.loads(found[2])), default=0)
        if "RIG bye" not in said:
            last = [line for line in said.splitlines() if line.strip()][-1:]
            self.note = f"the guest did not run: {' '.join(last)[:160]}"

    def take_state(self, guest: dict[str, Any]) -> None:
        """Sample the daemon's state while it plays."""
        streams = [s for s in guest["streams"] if s.get("door") and s["state"] == "running"]
        clocked = [x for x in guest["listeners"] if x["output"].startswith("null") and x["latency_ms"]]
        for stream in streams[:1]:
            if clocked:
                # A PulseAudio client requests a latency and fills the buffer to it: all of it is queued.
                before = stream.get("latency_ms", stream["fill_ms"] + stream["ahead_ms"])
                self.samples.setdefault("latency", []).append(before + clocked[0]["latency_ms"])
            if stream.get("real_time_percent") is not None:
                self.samples.setdefault("percent", []).append(stream["real_time_percent"])

    def finish(self) -> None:
        """Compute the medians of what was sampled."""
        for name, attribute in (("latency", "latency_ms"), ("percent", "real_time_percent")):
            if self.samples.get(name):
                setattr(self, attribute, round(statistics.median(self.samples[name]), 2))


COLUMNS = (
    ("card", 7), ("door", 6), ("dir", 4), ("s", 6), ("lost", 6), ("doubled", 8), ("gaps", 5), ("opus gaps", 10),
    ("Hz", 9), ("ppm", 8), ("SNR dB", 7), ("latency ms", 11), ("stalls", 10),
)  # fmt: skip


def table_head() -> str:
    """The header of the table."""
    return " ".join(f"{name:>{width}}" for name, width in COLUMNS)


def table_line(v: Verdict) -> str:
    """One row of the table as text."""

    def text(value: object) -> str:
        return "-" if value is None else str(value)

    if v.note:
        return f"{v.card:>7} {v.door:>6} {v.direction:>4}  {v.note}"
    stalls = f"{v.stalls} (≤{v.worst_stall_ms})" if v.stalls else "0"
    cells = (
        v.card, v.door, v.direction, v.seconds, v.lost, v.doubled, v.gaps, v.gaps_opus, v.hz, v.ppm, v.snr_db,
        v.latency_ms, stalls,
    )  # fmt: skip
    return " ".join(f"{text(value):>{width}}" for value, (_, width) in zip(cells, COLUMNS, strict=True))
