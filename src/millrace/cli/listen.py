"""`millrace listen`: hear a guest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from millrace.client.listener import Listener


def parse_settings(words: list[str]) -> dict[str, str]:
    """'name=value' words to a dict; ConfigError for anything else."""
    from millrace.errors import ConfigError

    out: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name or not value:
            raise ConfigError(f"{word!r}: settings are NAME=VALUE, such as bitrate=32k")
        out[name] = value
    return out


def listen(
    url: Annotated[str, typer.Argument(help="ws://HOST:PORT/GUEST or wss://…")] = "ws://127.0.0.1:8642/default",
    to: Annotated[
        str, typer.Option(help="device, device:NAME, wav:FILE, wav32:FILE, raw:-, raw:FILE or null:")
    ] = "device",
    latency: Annotated[
        str, typer.Option(help="low, normal, robust, or a fixed margin over the path: 30ms.")
    ] = "normal",
    mic: Annotated[
        str | None,
        typer.Option(help="Send this: device, device:NAME, wav:FILE, tone:440, null."),
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="NAME=VALUE as in `millrace set`; may be given again.")
    ] = None,
    sink: Annotated[str | None, typer.Option(help="Hear this sink of the guest instead of its default.")] = None,
    name: Annotated[str, typer.Option(help="What `millrace ls` shows.")] = "",
    seconds: Annotated[float | None, typer.Option(help="End after this long.")] = None,
    token_file: Annotated[Path | None, typer.Option(help="File with the bearer token; or $MILLRACE_TOKEN.")] = None,
    ca: Annotated[Path | None, typer.Option(help="Trust this authority's TLS certificates (PEM).")] = None,
    cert: Annotated[Path | None, typer.Option(help="TLS certificate to show (PEM), where the daemon knows it.")] = None,
    key: Annotated[Path | None, typer.Option(help="Its key (PEM), if that is not in the same file.")] = None,
    insecure: Annotated[bool, typer.Option(help="Accept any TLS certificate.")] = False,
    no_reconnect: Annotated[bool, typer.Option("--no-reconnect", help="End when the connection does.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
) -> None:
    """Play a guest's sound here.

    Examples:

      millrace listen ws://127.0.0.1:8642/default

      millrace listen ws://server:8642/alice --to wav:out.wav --set codec=s16

      millrace listen --latency low --set bitrate=64k

      millrace listen --mic device                               # and be heard, while something in the guest records

      millrace listen --to raw:- | ffmpeg -f s16le -ar 48000 -ac 2 -i - out.mp3
    """
    from millrace.cli.run import run
    from millrace.client.listener import Listener, ListenerOptions
    from millrace.client.microphone import make_microphone
    from millrace.client.outputs import make_output
    from millrace.clock.jitter import asked_of_daemon

    options = ListenerOptions(
        microphone=make_microphone(mic) if mic else None,
        name=name, settings=parse_settings(settings or []), latency=latency, sink=sink,
        ca_file=str(ca or ""), cert=str(cert or ""), key=str(key or ""),
        token=_token(token_file), insecure=insecure, reconnect=not no_reconnect,
    )  # fmt: skip
    listener = Listener(url, make_output(to, asked_of_daemon(latency)), options)
    if not quiet:
        listener.on_event = lambda kind, text: typer.echo(f"{kind}: {text}", err=True)
    run(_listen(listener, seconds))
    if not quiet:
        _sum_up(listener)


def _sum_up(listener: Listener) -> None:
    """How it went."""
    report = listener.report()
    typer.echo(
        f"played {listener.played_s:.1f} s to {listener.output.name}: {report.underruns} underruns,"
        f" {report.lost} packets lost, {report.skipped} frames skipped",
        err=True,
    )


def _token(path: Path | None) -> str:
    import os

    from millrace.daemon.config import read_token

    return read_token(path) if path else os.environ.get("MILLRACE_TOKEN", "")


async def _listen(listener: Listener, seconds: float | None) -> None:
    import asyncio

    from millrace.cli.run import on_stop

    on_stop(listener.stop)
    if seconds is not None:
        asyncio.get_running_loop().call_later(seconds, listener.stop)
    await listener.run()
