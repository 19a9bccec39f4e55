"""The matrix of cards and doors: which cells exist, QEMU's command lines, and how recordings are judged."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from millrace.lab.cells import (
    CARDS,
    COLUMNS,
    DIRECTIONS,
    DOORS,
    FLOOR,
    RIG,
    RING_S,
    TONES_HZ,
    Cell,
    Verdict,
    parse_choice,
    table_head,
    table_line,
)

HERE, IMAGES = Path("/tmp/cell"), Path("/images")


def command(cell: Cell, bus: bool = False) -> list[str]:
    return cell.guest_command(HERE, IMAGES, 20, "qemu-8", bus)


def option(line: list[str], name: str) -> str:
    """The value of an option that occurs once."""
    assert line.count(name) == 1, line
    return line[line.index(name) + 1]


@pytest.mark.parametrize("door", [*DOORS, FLOOR])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_guest_plays_or_records_through_its_cells_door(door: str, direction: str) -> None:
    cell = Cell("hda", door, direction)
    line = command(cell)
    assert line[:2] == [sys.executable, str(RIG / "run-guest")] and (RIG / "run-guest").exists()
    assert (option(line, "--images"), option(line, "--device"), option(line, "--binary")) == (
        "/images",
        "hda",
        "qemu-8",
    )
    assert option(line, "--play") == ("sine" if direction == "out" else "none")
    assert option(line, "--seconds") == "20" and option(line, "--qmp") == "/tmp/cell/qmp"
    recorded = line[line.index("--record") :] if "--record" in line else []
    assert recorded == ([] if direction == "out" else ["--record", "20", "--rec-out", "/tmp/cell/mic.raw"])
    assert not any("{" in word for word in line), "every path is filled in"
    backend = {"vnc": "none", FLOOR: "wav"}.get(door, door)
    assert option(line, "--audiodev").split(",")[0] == backend
    if door in ("dbus", "vnc"):
        assert "audiodev=snd0" in option(line, "--qemu"), "a display with sound names its audiodev"
    assert ("--qemu" in line) is (door in ("dbus", "spice", "vnc"))
    if door == "spice":
        assert option(line, "--qemu") == "-spice unix=on,addr=/tmp/cell/spice,disable-ticketing=on"


def test_old_qemu_uses_bus_and_is_attached_there() -> None:
    cell = Cell("hda", "dbus", "out")
    assert option(command(cell, bus=True), "--qemu") == "-display dbus,addr=unix:path=/tmp/cell/bus,audiodev=snd0"
    assert cell.address(HERE, bus=True) == "dbus:unix:path=/tmp/cell/bus"
    assert cell.address(HERE, bus=False) == "qmp:/tmp/cell/qmp"
    assert option(command(cell), "--qemu") == "-display dbus,p2p=on,audiodev=snd0"
    assert Cell("hda", "spice", "in").address(HERE, False) == "spice+unix:///tmp/cell/spice"
    assert Cell("hda", "vnc", "out").address(HERE, False) == "vnc+unix:///tmp/cell/vnc"
    assert Cell("hda", "pa", "out").address(HERE, False) == Cell("hda", FLOOR, "out").address(HERE, False) == ""


def test_impossible_cells_say_why_and_all_others_exist() -> None:
    missing = {
        (card, door, way): why
        for card in CARDS for door in (*DOORS, FLOOR) for way in DIRECTIONS
        if (why := Cell(card, door, way).missing)
    }  # fmt: skip
    assert all(way == "in" for _, _, way in missing)
    assert {card for card, door, _ in missing if door == "dbus"} == {"usb", "pcspk"}
    assert (
        {card for card, door, _ in missing if door == "vnc"} == set(CARDS) == {c for c, d, _ in missing if d == FLOOR}
    )
    assert missing["hda", "vnc", "in"] == "VNC has no microphone" and "capture" in missing["usb", "spice", "in"]


def test_selection_keeps_order_and_names_unknown_entries() -> None:
    assert parse_choice("all", DOORS) == DOORS and parse_choice("vnc,dbus", DOORS) == ("vnc", "dbus")
    for text, word in (("vnc,jack", "'jack'"), ("", "''"), ("all,vnc", "'all'")):
        with pytest.raises(ValueError, match=f"{word}: there are dbus, spice, vnc, pa"):
            parse_choice(text, DOORS)


@pytest.mark.parametrize("suite", ["bookworm", "trixie"])
def test_guest_is_built_of_the_debian_that_apt_knows(suite: str, tmp_path: Path) -> None:
    """Of the release that this machine's apt has lists for; here it can't fetch them."""
    asked = f"#!/bin/sh\n[ $1 = indextargets ] && echo {suite} http://mirror/debian || exit 100\n"
    (tmp_path / "apt-get").write_text(asked)
    (tmp_path / "apt-get").chmod(0o755)
    work = tmp_path / "work"
    command = [sys.executable, str(RIG / "build-guest"), "--out", str(tmp_path / "out"), "--work", str(work)]
    built = subprocess.run(command, env={"PATH": str(tmp_path)}, capture_output=True, text=True)
    assert built.returncode == 1 and "exit status 100" in built.stderr
    listed = (work / "sources.list").read_text().splitlines()
    assert listed and all(f"http://mirror/debian {suite}" in line for line in listed)


# -- what came out -----------------------------------------------------------------------------


def analysed(
    events: list[tuple[float, int | None]] | None = None,
    gaps: list[tuple[float, float]] | None = None,
    count: int | None = None,
) -> str:
    """What the analyser says of a recording of 25 s with 20 s of sound in it."""
    found = [{"at": at, "dropped": dropped} for at, dropped in events or []]
    channel = {"freq": 997.0042, "ppm": 4.24, "residual_dB": -81.5}
    listed = gaps or []
    sine = {"seconds": 20.0, "channels": [channel, channel | {"freq": 1.0}], "first_events": found,
            "first_gaps": listed, "gaps": len(listed) if count is None else count}  # fmt: skip
    return json.dumps({"sine": sine, "file": {"frames": 25 * 48_000, "rate": 48_000}})


def judged(card: str = "hda", direction: str = "out", tone: bool = True, **said: Any) -> Verdict:
    verdict = Verdict(card, "dbus", direction)
    verdict.take_analysis(analysed(**said), tone)
    return verdict


def test_jumps_are_lost_or_repeated_frames() -> None:
    one = judged(events=[(1.0, 48), (2.0, -7), (3.0, 2), (4.0, None)])
    assert (one.jumps, one.lost, one.doubled) == (4, 50, 7)
    assert (one.hz, one.ppm, one.snr_db, one.seconds, one.note) == (997.0, 4.2, 81.5, 20.0, "")
    beep = judged(tone=False, events=[(1.0, 48)], gaps=[(1.0, 0.1)])
    assert (beep.jumps, beep.lost, beep.ppm, beep.snr_db, beep.gaps, beep.hz) == (0, 0, 0.0, None, 1, 997.0)


def test_gaps_are_counted_from_list_while_it_is_complete() -> None:
    assert judged(gaps=[(1.0, 0.1), (2.0, 0.1)]).gaps == 2
    listed = [(float(n), 0.1) for n in range(8)]
    assert judged(gaps=listed).gaps == 8 and judged(gaps=listed, count=9).gaps == 9


def test_start_of_microphone_tone_is_not_a_jump() -> None:
    # 25 s were recorded, and the tone is the last 20 of them.
    events = [(5.05, 100), (5.2, 3)]
    assert judged(direction="in", events=events).lost == 3
    assert judged(events=events).lost == 103


def test_ring_repeated_by_ac97_is_not_judged() -> None:
    end = [(10.0, 1), (19.5, 2), (20.0 - RING_S / 4, -480)]
    one = judged("ac97", events=end, gaps=[(5.0, 0.1), (20.0, 0.1)])
    assert (one.lost, one.doubled, one.gaps) == (3, 0, 1)
    assert judged("ac97", events=[(10.0, 1), (19.0, 2)], gaps=[(5.0, 0.1)]).gaps == 1, (
        "everything before the end is judged"
    )
    assert judged("ac97", events=[(10.0, 1), (19.0, 2)]).lost == 3 and judged("ac97").lost == 0
    other = judged("hda", events=end, gaps=[(5.0, 0.1), (20.0, 0.1)])
    assert (other.lost, other.doubled, other.gaps) == (3, 480, 2)
    assert judged("ac97", direction="in", events=[(19.5, 2), (24.99, 1)]).lost == 3


def test_silent_recording_is_reported() -> None:
    for text, why in (("", "no sound"), ("{}", "no sound"), ('{"sine": {"error": "too short"}}', "too short")):
        verdict = Verdict("hda", "dbus", "out")
        verdict.take_analysis(text)
        assert verdict.note == why and verdict.seconds == 0.0


def test_guest_that_did_not_run_is_reported_with_its_last_output() -> None:
    verdict = Verdict("hda", "dbus", "out")
    verdict.take_guest("boot\nstalls over 10 ms: 3 of 400: [[1.5, 12], [2.5, 44], [3.5, 11]]\nRIG bye\n")
    assert (verdict.stalls, verdict.worst_stall_ms, verdict.note) == (3, 44, "")
    for said, last in (("one\n\x20\nKernel  panic\n\n", "Kernel  panic"), ("", ""), ("x" * 500, "x" * 160)):
        verdict = Verdict("hda", "dbus", "out")
        verdict.take_guest(said)
        assert verdict.note == f"the guest did not run: {last}" and verdict.stalls == 0
    verdict.take_guest("stalls over 10 ms: 0: []\nRIG bye")
    assert verdict.worst_stall_ms == 0


def state(stream: dict[str, Any], *listeners: dict[str, Any]) -> dict[str, Any]:
    playing = {"door": "qemu", "state": "running", "fill_ms": 10.0, "ahead_ms": 5.0}
    return {
        "streams": [{"state": "running"}, playing | {"state": "idle"}, playing | stream],
        "listeners": list(listeners),
    }


def test_daemon_samples_are_reported_as_medians() -> None:
    heard = {"output": "null:", "latency_ms": 50.0}
    one = Verdict("hda", "dbus", "out")
    one.take_state(state({"real_time_percent": 90.0}, {"output": "x.wav", "latency_ms": None}, heard))
    one.take_state(state({"latency_ms": 40.0, "real_time_percent": 100.0}, heard))
    one.take_state(state({"fill_ms": 500.0}, heard | {"latency_ms": None}))
    one.take_state({"streams": [], "listeners": []})
    one.take_state(state({}, heard | {"latency_ms": 60.0}))
    one.finish()
    assert one.samples == {"latency": [65.0, 90.0, 75.0], "percent": [90.0, 100.0]}
    assert (one.latency_ms, one.real_time_percent) == (75.0, 95.0)
    never = Verdict("hda", "dbus", "out")
    never.finish()
    assert never.latency_ms is None and never.real_time_percent is None


def test_row_is_written_as_json_and_as_table_line() -> None:
    one = judged(events=[(1.0, 48)], gaps=[(2.0, 0.1)])
    row = one.row()
    assert row["lost"] == 48 and row["gaps_opus"] is None and "samples" not in row
    json.dumps(row)
    line = table_line(one)
    assert len(line) == len(table_head()) == sum(width for _, width in COLUMNS) + len(COLUMNS) - 1
    assert line.split() == ["hda", "dbus", "out", "20.0", "48", "0", "1", "-", "997.0", "4.2", "81.5", "-", "0"]
    one.stalls, one.worst_stall_ms = 3, 44
    assert table_line(one).endswith("3 (≤44)")
    one.note = "VNC has no microphone"
    assert table_line(one) == "    hda   dbus  out  VNC has no microphone"
    assert len(TONES_HZ) == 2 and max(TONES_HZ) < 24_000
