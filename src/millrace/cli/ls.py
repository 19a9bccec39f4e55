"""`millrace ls`: guests, streams, listeners, screens, viewers."""

from __future__ import annotations

import re
from typing import Annotated, Any

import typer

from millrace.cli.columns import column, say_folded
from millrace.cli.console import show_json
from millrace.cli.unheard import unheard
from millrace.text import counted, quoted


def ls(
    guest: Annotated[str | None, typer.Argument(metavar="GUEST", help="Only this guest.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show guests, sinks, streams, listeners, screens and viewers.

    Examples:

      millrace ls

      millrace ls alice

      millrace ls --json | jq '.guests[].listeners[].latency_ms'

      millrace ls --json | jq '.guests[].viewers[].ledger_ms'
    """
    from millrace.cli.api import call, query_of

    state = call("GET", query_of("/api/v1/state", guest=guest))
    if as_json:
        show_json(state)
        return
    for one in state["guests"]:
        _guest(one)
    if state.get("trouble"):
        say_folded(f"changes can't be saved: {state['trouble']}", 4)
    if state.get("requests"):
        say_folded(f"pending: {counted(state['requests'], 'request')}; `millrace grants` shows them", 4)
    if "policy" in state and state["policy"] is None:
        say_folded(
            "no session manager is running: nothing is remembered and requests get no answer; see millrace-policy", 4
        )


INDENT = 15
"""The column where the name begins, and the indent of folded lines."""
FPS = 30
"""The most pictures a second that a viewer is sent, unless it is set otherwise."""
MACHINES = {"qmp": "QEMU", "dbus": "QEMU", "p2p": "QEMU", "spice": "SPICE", "vnc": "VNC", "x11": "X11"}


def _guest(guest: dict[str, Any]) -> None:
    late = f", {counted(guest['late_cycles'], 'late cycle')}" if guest["late_cycles"] else ""
    say_folded(
        f"guest {guest['name']}  {guest['state']}, {guest['rate']} Hz, quantum {guest['quantum_ms']} ms,"
        f" {counted(guest['clients'], 'PulseAudio client')}{late}",
        INDENT,
    )
    used = in_use(guest)
    for sink in guest["sinks"]:
        state = _state(sink, used)
        _row(sink["id"], sink["name"], f"{state:<9} {_volume(sink)}", "*" if sink["default"] else " ")
    for source in guest.get("sources", []):
        state = _state(source, used)
        if state == "running" or source["mute"] or source["volume"] != 100:
            _row(source["id"], source["name"], f"{state:<9} {_volume(source)}")
    for door in guest.get("doors", []):
        _row(door["id"], door["machine"] or _kind_of(door["door"]), f"{door['state']:<9} {_door(door)}")
    for stream in guest["streams"]:
        _row(stream["id"], _label(stream), f"{stream['state']:<9} {_volume(stream)}  {_stream(stream)}")
    for recorder in guest["recorders"]:
        _row(recorder["id"], recorder["name"], f"of {recorder['sink']}")
    for listener in guest["listeners"]:
        _row(listener["id"], listener["name"], _listener(listener) + _missed(guest, listener["sink"]))
    for screen in guest.get("screens", []):
        _row(screen["id"], screen["name"], f"{screen['state']:<9} {_screen(screen)}")
    for viewer in guest.get("viewers", []):
        _row(viewer["id"], viewer["name"], _viewer(viewer))


def _missed(guest: dict[str, Any], heard: str) -> str:
    missed = [stream["id"] for stream in unheard(guest, heard)]
    more = f" and {len(missed) - 1} more" if len(missed) > 1 else ""
    return f", does not hear {missed[0]}{more}" if missed else ""


def in_use(guest: dict[str, Any]) -> set[str]:
    """The sinks and sources that something plays into or hears."""
    played = [sink for node in (*guest["streams"], *guest["sinks"]) for sink in node.get("linked_to", ())]
    heard = [one["sink"] for one in (*guest["recorders"], *guest["listeners"])]
    # Machines record the microphone, and are not listed as recorders.
    recording = any(door["recording"] for door in guest.get("doors", ()))
    recorded = [one["id"] for one in guest.get("sources", ()) if recording and one["name"] == "microphone"]
    return {*played, *heard, *recorded}


def _state(sink: dict[str, Any], used: set[str]) -> str:
    """A sink's state. While anything in the guest runs, all its sinks do, on silence."""
    return "unused" if sink["state"] == "running" and sink["id"] not in used else str(sink["state"])


def _row(id_: str, name: str, rest: str, mark: str = " ") -> None:
    say_folded(f" {mark}{id_:<12} {column(name, 16)} {rest}", INDENT)


def _kind_of(door: str) -> str:
    """The kind of a machine whose name is unknown, from its door's scheme without '+tls' and the like."""
    scheme = re.split("[:+]", door, maxsplit=1)[0]
    return MACHINES.get(scheme, scheme)


def _door(door: dict[str, Any]) -> str:
    parts = [door["door"], "records" if door["recording"] else "", door["error"] or door["hint"]]
    return ", ".join(part for part in parts if part)


def _screen(screen: dict[str, Any]) -> str:
    parts = [f"{screen['width']}×{screen['height']}"] if screen["width"] else []
    parts.append(f"of {screen['door']}")
    if screen["viewers"]:
        parts.append(counted(screen["viewers"], "viewer"))
    if screen["fps"]:
        parts.append(f"{screen['fps']:.0f}/s")
    if screen["keyboard"]:
        parts.append(f"keyboard {screen['keyboard']}")
    return ", ".join(parts)


def _viewer(viewer: dict[str, Any]) -> str:
    settings = viewer["settings"]
    parts = [f"← {viewer['screen'] or 'no screen'}", f"picture {settings['picture']}"]
    if settings["scale"] != "1":
        parts.append(f"scale {settings['scale']}")
    if settings["fps"] != FPS:
        parts.append(f"fps {settings['fps']}")
    parts.append(f"{viewer['bitrate'] / 1000:.0f} kb/s sent, {viewer['fps']:.0f}/s")
    if viewer["skipped_fps"] >= 1:
        parts.append(f"{viewer['skipped_fps']:.0f}/s skipped")
    if viewer["latency_ms"] is not None:
        parts.append(f"latency {viewer['latency_ms']:.0f} ms")
    if viewer["skew_ms"] is not None:
        parts.append(f"{viewer['skew_ms']:+.0f} ms to its sound")
    parts += [word for word in ("keyboard", "hidden") if viewer[word]]
    return ", ".join(parts)


def _label(stream: dict[str, Any]) -> str:
    return str(stream["application"] or stream["name"])


def faults_of(listener: dict[str, Any]) -> list[str]:
    """A listener's fault counts, as text."""
    underruns = [counted(listener["underruns"], "underrun")] if listener["underruns"] else []
    return underruns + [f"{listener[key]} {key}" for key in ("lost", "skipped") if listener[key]]


def latency_of(listener: dict[str, Any]) -> str:
    """A listener's latency; a dash if it has none, because it writes a file or plays nothing at the moment."""
    return "-" if listener["latency_ms"] is None else f"{listener['latency_ms']} ms"


def _volume(node: dict[str, Any]) -> str:
    volume = node["volume"]
    text = f"{volume}%" if isinstance(volume, int) else "/".join(f"{v}%" for v in volume)
    return f"{text} muted" if node["mute"] else text


def _stream(stream: dict[str, Any]) -> str:
    # A daemon older than this command reports only one sink.
    parts = [f"→ {' '.join(stream.get('linked_to', [stream['sink']]))}"]
    if stream["name"] != _label(stream):
        parts.append(quoted(stream["name"]))
    if "format" in stream:
        parts.append(f"{stream['format']} {stream['rate']} Hz {stream['channels']} ch, fill {stream['fill_ms']} ms")
    if stream.get("drift_ppm") is not None:
        parts.append(f"{stream['drift_ppm']:+.0f} ppm")
    if stream["underruns"]:
        parts.append(counted(stream["underruns"], "underrun"))
    return ", ".join(parts)


def _listener(listener: dict[str, Any]) -> str:
    settings = listener["settings"]
    faults = faults_of(listener)
    faults += [f"{listener['dropped_packets']} dropped"] if listener["dropped_packets"] else []
    mic = listener.get("microphone", {}).get("state", "off")
    clock = [f"mic {mic}"] if mic != "off" else []
    clock += [f"{listener['drift_ppm']:+.0f} ppm"] if listener.get("locked") else []
    codec = f"opus {settings['bitrate'] // 1000}k" if settings["codec"] == "opus" else settings["codec"]
    # A listener that writes a file has neither latency nor fill.
    fill = [f"fill {listener['fill_ms']} ms"] if listener["latency_ms"] is not None or listener["fill_ms"] else []
    return ", ".join(
        [
            f"← {listener['sink']}", codec, f"{listener['bitrate'] / 1000:.0f} kb/s sent",
            f"latency {latency_of(listener)}", *fill, *clock, *faults,
        ]
    )  # fmt: skip
