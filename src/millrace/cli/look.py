"""`millrace top`, `dot` and `report`: a live view, a graph, and an archive for bug reports."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from millrace.cli.columns import LINE_MAX, folded, table
from millrace.cli.console import say, say_lines, screen, warn
from millrace.cli.ls import faults_of, in_use, latency_of
from millrace.cli.values import decimal
from millrace.errors import GraphError
from millrace.text import counted, printable, quoted

if TYPE_CHECKING:
    from rich.text import Text

HEADS = ("what", "name", "state", "level", "latency", "drift", "kb/s", "faults")
INCIDENTS = 5


def top(
    every: Annotated[float, decimal("--every", 0.1, 3600, "Seconds between updates.")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Print once and exit, for scripts and pipes.")] = False,
    guest: Annotated[str | None, typer.Option(help="Only this guest.")] = None,
) -> None:
    """Watch levels, latency, drift, faults and incidents live.

    For screens and viewers, pictures a second take the place of the level, and how much later a picture is seen than
    its sound is heard that of the drift. Runs until Ctrl-C.

    Example: millrace top
    """
    import time

    from rich.live import Live
    from rich.text import Text

    from millrace.cli.api import call, query_of

    console = screen()

    def look() -> Text:
        paths = (query_of(f"/api/v1/{what}", guest=guest) for what in ("state", "incidents"))
        state, incidents = map(call, ("GET", "GET"), paths)
        height = console.height - 1 if console.is_terminal and not once else None
        lines = picture(state, incidents[-INCIDENTS:], console.width if console.is_terminal else None, height)
        return Text("\n").join(lines)

    if once:
        console.print(look(), soft_wrap=True)
        return
    # A stop signal ends it as it ends every command that goes on until then: without an error.
    with (
        contextlib.suppress(SystemExit),
        Live(look(), console=console, screen=console.is_terminal, auto_refresh=False) as live,
    ):
        while True:
            time.sleep(every)
            live.update(look(), refresh=True)


def picture(
    state: dict[str, Any], incidents: list[dict[str, Any]], width: int | None, height: int | None
) -> list[Text]:
    """The output of `top` for a screen of that size. Incidents stay visible, however many streams there are."""
    from rich.text import Text

    from millrace.cli.incidents import INDENT, line

    told = [printable(line(shown), LINE_MAX) for shown in incidents]
    below = [[one] if width is None else list(folded(one, INDENT, width)) for one in told]
    while height is not None and len(below) > 1 and sum(map(len, below)) > height // 2:
        del below[0]
    above = table([HEADS, *(row for guest in state["guests"] for row in _rows(guest))], (0, 1, 2), width)
    room = len(above) if height is None else max(2, height - sum(map(len, below)))
    if len(above) > room:
        above = [*above[: room - 1], f"… {len(above) - room + 1} more lines; `millrace ls` shows all"]
    marked = [Text(one, "bold" if one.startswith(("what ", "guest ")) else "") for one in above]
    return marked + [Text(one) for lines in below for one in lines]


def _rows(guest: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    yield f"guest {guest['name']}", f"quantum {guest['quantum_ms']:g} ms", guest["state"], "", "", "", "", _late(guest)
    used = in_use(guest)
    for sink in (*guest["sinks"], *guest["sources"]):
        if sink["state"] == "running" and sink["id"] in used:
            yield sink["id"], printable(sink["name"]), sink["state"], _meter(sink["peak"]), "", "", "", ""
    for stream in guest["streams"]:
        label = printable(stream["application"] or stream["name"])
        drift = "" if stream.get("drift_ppm") is None else f"{stream['drift_ppm']:+.0f}"
        faults = counted(stream["underruns"], "underrun") if stream["underruns"] else ""
        queued_ms = stream.get("fill_ms", 0) + stream["ahead_ms"]
        yield stream["id"], label, stream["state"], "", f"{queued_ms:.1f} ms", drift, "", faults
    for one in guest["listeners"]:
        learning = "-" if one["latency_ms"] is None else "…"
        drift = f"{one['drift_ppm']:+.0f}" if one["locked"] else learning
        rate, late = f"{one['bitrate'] / 1000:.0f}", latency_of(one)
        name, output = printable(one["name"]), printable(one["output"])
        yield one["id"], name, output, "", late, drift, rate, ", ".join(faults_of(one))
    yield from _pictures(guest)


def _pictures(guest: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """Screens that are watched, and viewers. Their level is pictures a second; the drift is that from the sound."""
    for one in guest.get("screens", ()):
        if one["viewers"]:
            size = f"{one['width']}×{one['height']}"
            yield one["id"], printable(one["name"]), size, f"{one['fps']:.0f}/s", "", "", "", ""
    for one in guest.get("viewers", ()):
        late = "-" if one["latency_ms"] is None else f"{one['latency_ms']:.1f} ms"
        skew = "" if one["skew_ms"] is None else f"{one['skew_ms']:+.0f} ms"
        skipped = f"{one['skipped_fps']:.0f}/s skipped" if one["skipped_fps"] >= 1 else ""
        name, rate = printable(one["name"]), f"{one['bitrate'] / 1000:.0f}"
        sees = "hidden" if one["hidden"] else one["screen"] or "no screen"
        yield one["id"], name, sees, f"{one['fps']:.0f}/s", late, skew, rate, skipped


def _late(guest: dict[str, Any]) -> str:
    return counted(guest["late_cycles"], "late cycle") if guest["late_cycles"] else ""


def _meter(peak: float) -> str:
    import math

    db = 20 * math.log10(peak) if peak > 0 else -60.0
    return "█" * max(0, min(6, round((db + 60) / 10))) + f" {db:.0f} dB"


def dot(
    svg: Annotated[Path | None, typer.Option(metavar="FILE", help="Write an SVG, with Graphviz's dot.")] = None,
    guest: Annotated[str | None, typer.Option(help="Only this guest.")] = None,
) -> None:
    """Print the graph for Graphviz, or draw it.

    Examples:

      millrace dot | dot -Tpng -o graph.png

      millrace dot --svg graph.svg
    """
    from millrace.cli.api import call

    state = call("GET", "/api/v1/state")
    if guest is not None and all(one["name"] != guest for one in state["guests"]):
        raise GraphError(f"there is no guest {quoted(guest)}; `millrace ls` shows them")
    text = drawn(state, guest)
    if svg is None:
        say_lines(text.split("\n"))
        return
    import subprocess

    from millrace.errors import ConfigError
    from millrace.io.files import write_whole

    try:
        done = subprocess.run(["dot", "-Tsvg"], input=text.encode(), capture_output=True, check=True)
    except FileNotFoundError:
        raise ConfigError("Graphviz is needed for --svg: apt-get install graphviz") from None
    write_whole(svg, done.stdout)


def drawn(state: dict[str, Any], only: str | None = None) -> str:
    """The graph in Graphviz's language: a cluster for each guest, a shape for each kind of object."""
    lines = ["digraph millrace {", "  rankdir=LR; node [fontname=sans, fontsize=10]; edge [fontname=sans, fontsize=8];"]
    for number, guest in enumerate(state["guests"]):
        if only in (None, guest["name"]):
            lines += [f"  subgraph cluster_{number} {{", f"    label={_quoted('guest ' + guest['name'])};"]
            lines += [f"    {line}" for line in _of_guest(guest)] + ["  }"]
    return "\n".join([*lines, "}"])


def _of_guest(guest: dict[str, Any]) -> list[str]:
    own = guest["name"]

    def name(key: str) -> str:
        return _quoted(f"{own} {key}")

    lines = []
    for stream in guest["streams"]:
        label = f"{stream['application'] or stream['name']}\n{stream['id']}, {stream['state']}"
        lines.append(f"{name(stream['id'])} [shape=box, label={_quoted(label)}];")
        lines += [f"{name(stream['id'])} -> {name(sink)};" for sink in stream["linked_to"]]
    for sink in (*guest["sinks"], *guest["sources"]):
        lines.append(f"{name(sink['id'])} [shape=ellipse, label={_quoted(sink['name'] + chr(10) + sink['id'])}];")
        lines += [f"{name(sink['id'])} -> {name(other)};" for other in sink["linked_to"]]
    for recorder in guest["recorders"]:
        lines.append(f"{name(recorder['id'])} [shape=note, label={_quoted(recorder['name'])}];")
        lines.append(f"{name(recorder['sink'])} -> {name(recorder['id'])};")
    for one in guest["listeners"]:
        label = f"{one['name']}\n{one['settings']['codec']}, latency {latency_of(one)}"
        lines.append(f"{name(one['id'])} [shape=house, label={_quoted(label)}];")
        lines.append(f"{name(str(one['sink']))} -> {name(one['id'])};")
    return lines


def _quoted(text: str) -> str:
    text = "\n".join(printable(line) for line in text.split("\n"))
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def report(
    to: Annotated[Path, typer.Option(metavar="FILE", help="Archive to write.")] = Path("millrace-report.tar.gz"),
) -> None:
    """Collect what a bug report needs, without secrets or sound.

    It contains the state, the incidents, the last minute of every guest, and versions.

    Example: millrace report --to report.tar.gz
    """
    import io
    import platform
    import sys
    import tarfile
    import time
    from importlib.metadata import distributions

    from millrace.cli.api import call, path_of
    from millrace.io.files import write_whole

    state = call("GET", "/api/v1/state")
    packages = {d.metadata["Name"]: d.version for d in distributions()}
    parts: dict[str, Any] = {
        "state.json": state, "incidents.json": call("GET", "/api/v1/incidents"),
        "system.json": {"python": sys.version, "platform": platform.platform(), "packages": packages},
    }  # fmt: skip
    for guest in state["guests"]:
        flight = call("GET", path_of("guests", guest["name"], "flight"))
        if flight:
            parts[f"flight/{guest['name']}.json"] = flight
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in parts.items():
            data = json.dumps(content, indent=1).encode()
            info = tarfile.TarInfo(f"millrace-report/{name}")
            info.size, info.mtime = len(data), int(time.time())
            archive.addfile(info, io.BytesIO(data))
    write_whole(to, packed.getvalue())
    say(f"{to}: {', '.join(parts)}")
    warn("it contains names of guests and applications, and addresses: check it before you share it")
