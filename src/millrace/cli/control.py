"""`millrace set`, `move`, `link`, `guest`, `sink`: changes during playback."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from millrace.cli.console import say, tell
from millrace.cli.group import App
from millrace.cli.values import whole

MATRIX_GAIN_MAX = 16.0
_GUEST = Annotated[
    str | None,
    typer.Option("--guest", help="Its guest. Default: guest `default` if it has one of that name, else the only one."),
]


def set_(
    target: Annotated[str, typer.Argument(help="stream/N, sink/NAME, listener/N or viewer/N.")],
    settings: Annotated[list[str], typer.Argument(metavar="NAME=VALUE", help="Settings to change.")],
    guest: _GUEST = None,
) -> None:
    """Change volume and mute, or the settings of a listener or viewer.

    Streams, sinks and sources have volume (50%, -6dB, or one value per channel: 40%,60%) and mute (on, off).

    Listeners have codec (opus s16 s24 f32), bitrate (6k to 510k), vbr, complexity (0 to 10),
    frame (auto 2.5ms 5ms 10ms 20ms 40ms 60ms), fec, loss (0 to 100), dtx, bandwidth, application, channels,
    latency (low, normal, robust, 30ms) and mic (on, off).

    Viewers have picture (auto, off, lossless, or a bit rate such as 2M), fps (1 to 60) and scale (0.1 to 1). Set of a
    listener, they change at its viewers.

    Examples:

      millrace set stream/7 volume=50% mute=off

      millrace set listener/3 bitrate=32k frame=20ms complexity=5 fec=on dtx=on

      millrace set viewer/4 picture=2M fps=30 scale=0.5
    """
    from millrace.cli.api import call
    from millrace.cli.listen import parse_settings

    parsed = parse_settings(settings)
    _tell(call("POST", "/api/v1/set", {"target": target, "settings": parsed, "guest": guest}), " ".join(settings))


def move(
    target: Annotated[str, typer.Argument(help="stream/N or listener/N.")],
    to: Annotated[str, typer.Argument(metavar="SINK", help="sink/NAME.")],
    guest: _GUEST = None,
) -> None:
    """Move a stream or a listener to another sink of its guest.

    Example: millrace move stream/7 sink/music
    """
    from millrace.cli.api import call

    _tell(call("POST", "/api/v1/move", {"target": target, "to": to, "guest": guest}), f"moved to {to}")


def parse_matrix(text: str) -> list[list[float]]:
    """Parse '1,0;0,1' into rows of numbers; ConfigError for anything else."""
    from millrace.text import parse_decimal

    what = "--matrix (rows of numbers, such as '1,0;0,1')"
    return [[parse_decimal(number, what, -MATRIX_GAIN_MAX, MATRIX_GAIN_MAX) for number in row.split(",")]
            for row in text.split(";")]  # fmt: skip


def link(
    source: Annotated[str, typer.Argument(help="stream/N or sink/NAME.")],
    to: Annotated[str, typer.Argument(metavar="SINK", help="sink/NAME.")],
    matrix: Annotated[str | None, typer.Option(help="Mix matrix, one row for each source channel: 'a,b;c,d'.")] = None,
    guest: _GUEST = None,
) -> None:
    """Link a stream or a sink to one more sink, or change its mix.

    Examples:

      millrace link stream/7 sink/music

    \b
      # left and right swapped
      millrace link stream/7 sink/millrace --matrix '0,1;1,0'
    """
    from millrace.cli.api import call

    rows = parse_matrix(matrix) if matrix else None
    linked = call("POST", "/api/v1/links", {"source": source, "to": to, "matrix": rows, "guest": guest})
    _tell(linked, f"linked to {to}")


def unlink(
    source: Annotated[str, typer.Argument(help="stream/N or sink/NAME.")],
    to: Annotated[str, typer.Argument(metavar="SINK", help="sink/NAME.")],
    guest: _GUEST = None,
) -> None:
    """Remove a link. Example: millrace unlink stream/7 sink/music"""
    from millrace.cli.api import call

    _tell(call("DELETE", "/api/v1/links", {"source": source, "to": to, "guest": guest}), f"no longer linked to {to}")


def _tell(changed: dict[str, Any], what: str) -> None:
    """Print what was changed, and in which guest: several may have one of that name."""
    if "guest" in changed:
        # A daemon older than this command does not report it.
        tell(f"guest {changed['guest']}, {changed['target']}: {what}")


guest_app = App(
    "millrace guest add alice",
    "millrace listen alice",
    "millrace guest remove alice",
    help="Add and remove guests of the running daemon.",
)
sink_app = App(
    "millrace sink add music --guest alice",
    "millrace move stream/7 sink/music",
    "millrace sink remove music --guest alice",
    help="Add and remove a guest's sinks.",
)


@guest_app.command("add")
def guest_add(
    name: Annotated[str, typer.Argument(help="Name: letters, digits, '_', '.', '-'.")],
    rate: Annotated[int, whole("--rate", 8000, 384_000, "Sample rate of the graph, in Hz.")] = 48_000,
    channels: Annotated[int, whole("--channels", 1, 8, "Channels of its default sink, 1 to 8.")] = 2,
) -> None:
    """Add a guest. Example: millrace guest add alice"""
    from millrace.cli.api import call

    guest = call("POST", "/api/v1/guests", {"name": name, "rate": rate, "channels": channels})
    say(f"export PULSE_SERVER=unix:{guest['pulse']}")


@guest_app.command("remove")
def guest_remove(name: Annotated[str, typer.Argument(metavar="GUEST", help="Its name.")]) -> None:
    """Remove a guest: its clients and listeners end. Example: millrace guest remove alice"""
    from millrace.cli.api import call, path_of

    call("DELETE", path_of("guests", name))


@sink_app.command("add")
def sink_add(
    name: Annotated[str, typer.Argument(help="Its name.")],
    guest: Annotated[str, typer.Option(help="The guest.")] = "default",
    description: Annotated[str, typer.Option(metavar="TEXT", help="Name shown to users.")] = "",
) -> None:
    """Add a sink. Example: millrace sink add music"""
    from millrace.cli.api import call, path_of

    call("POST", path_of("guests", guest, "sinks"), {"name": name, "description": description})


@sink_app.command("remove")
def sink_remove(
    name: Annotated[str, typer.Argument(metavar="SINK", help="Its name, or sink/N as `millrace ls` shows it.")],
    guest: Annotated[str, typer.Option(help="The guest.")] = "default",
) -> None:
    """Remove a sink; its streams move to the default sink. Example: millrace sink remove music"""
    from millrace.cli.api import call, path_of

    call("DELETE", path_of("guests", guest, "sinks", name.removeprefix("sink/")))
