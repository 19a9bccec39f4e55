"""`millrace listen`: hear a guest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from millrace.cli.console import warn
from millrace.cli.outputfile import OVERWRITE, demand_new
from millrace.errors import ConfigError, NoDevice, PeerLost
from millrace.text import counted, parse_duration_ns
from millrace.units import NS_PER_S

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from millrace.client.listener import Listener, ListenerOptions
    from millrace.client.notices import Notice


LED_BACK = "PULSE_SERVER points to the guest you are listening to, so this listener ignores it"
NO_OTHER = "; or set PULSE_SERVER, which points to the guest you are listening to, to a server with a sound card"
SECONDS_MAX_NS = 365 * 86_400 * NS_PER_S


def parse_settings(words: list[str]) -> dict[str, str]:
    """Parse 'name=value' words into a dict; ConfigError for anything else."""
    from millrace.text import quoted

    out: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name or not value:
            raise ConfigError(f"{quoted(word)}: settings are NAME=VALUE, such as bitrate=32k")
        out[name] = value
    return out


_Where = Annotated[
    str,
    typer.Argument(
        metavar="GUEST|URL", help="A guest of your daemon on this machine, or ws://HOST:PORT/GUEST, wss://…"
    ),
]
_To = Annotated[
    str, typer.Option(metavar="OUTPUT", help="device, device:NAME, wav:FILE, wav32:FILE, raw:-, raw:FILE or null:")
]
_Latency = Annotated[str, typer.Option(help="low, normal, robust, or a fixed target delay such as 30ms.")]
_Mic = Annotated[
    str | None, typer.Option(metavar="INPUT", help="Microphone to send: device, device:NAME, wav:FILE, tone:440, null.")
]
_Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="A setting as in `millrace set`; can be repeated."),
]
_TokenFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="File with the bearer token; or $MILLRACE_TOKEN.")
]
_Cert = Annotated[
    Path | None, typer.Option(metavar="FILE", help="TLS client certificate (PEM), if the daemon accepts one.")
]
_Key = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Key of the client certificate (PEM), if in another file.")
]


def listen(
    where: _Where = "default",
    to: _To = "device",
    latency: _Latency = "normal",
    mic: _Mic = None,
    settings: _Settings = None,
    sink: Annotated[str | None, typer.Option(help="Listen to this sink instead of the guest's default.")] = None,
    name: Annotated[str, typer.Option(help="Name of this listener in `millrace ls`.")] = "",
    seconds: Annotated[str | None, typer.Option(metavar="DURATION", help="Stop this long after joining: 30m.")] = None,
    token_file: _TokenFile = None,
    ca: Annotated[Path | None, typer.Option(metavar="FILE", help="Trust this CA certificate (PEM).")] = None,
    cert: _Cert = None,
    key: _Key = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Accept any TLS certificate.")] = False,
    no_reconnect: Annotated[
        bool, typer.Option("--no-reconnect", help="Exit when the connection is lost instead of reconnecting.")
    ] = False,
    overwrite: OVERWRITE = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
) -> None:
    """Play a guest's sound here.

    Examples:

      millrace listen

      millrace listen alice --to wav:alice.wav

      millrace listen ws://server:8642/alice --to wav:out.wav --set codec=s16

      millrace listen --latency low --set bitrate=64k

      millrace listen --mic device    # and be heard while the guest records

      millrace listen --to raw:- | ffmpeg -f s16le -ar 48000 -ac 2 -i - out.mp3
    """
    from millrace.client.listener import Listener, ListenerOptions
    from millrace.client.microphone import make_microphone
    from millrace.client.outputs import make_output
    from millrace.clock.jitter import asked_of_daemon

    url, socket = _place(where)
    kept_out = any((one or "").split(":")[0] == "device" for one in (to, mic)) and _keep_out(url)
    options = ListenerOptions(
        microphone=make_microphone(mic) if mic else None,
        name=name, settings=parse_settings(settings or []), latency=latency,
        sink=sink and sink.removeprefix("sink/"),
        ca_file=str(ca or ""), cert=str(cert or ""), key=str(key or ""),
        token=_token(token_file), insecure=insecure, reconnect=not no_reconnect, socket=socket,
    )  # fmt: skip
    limit = _Limit(parse_duration_ns(seconds, "--seconds", 0, SECONDS_MAX_NS, "s") if seconds else None)
    _demand_new(to, overwrite)
    told = _told(options, url, kept_out, quiet)
    listener = Listener(url, make_output(to, asked_of_daemon(latency), overwrite), options, told, limit.joined)
    try:
        _hear(listener, limit, quiet)
    except NoDevice as error:
        raise ConfigError(f"{error}{NO_OTHER if kept_out else ''}") from None


def _demand_new(to: str, overwrite: bool) -> None:
    kind, _, where = to.partition(":")
    if kind in ("wav", "wav32", "raw"):
        demand_new(where, overwrite)


def _keep_out(url: str) -> bool:
    """Keep the listener's sound card from being the guest itself, which would be a feedback loop."""
    from millrace.client.soundserver import keep_out

    return keep_out(url, _tcp_of)


def _tcp_of(guest: str) -> list[str]:
    """The TCP addresses at which a guest speaks PulseAudio."""
    return [address for one in _guests(guest) for address in one.get("pulse_tcp", ())]


def _guests(name: str) -> list[dict[str, Any]]:
    """The state of the guest of that name of this user's own daemon, if there is one."""
    from millrace.cli.api import call, query_of
    from millrace.errors import GraphError

    try:
        found = call("GET", query_of("/api/v1/state", guest=name))
    except (ConfigError, GraphError):
        # No daemon, or no such guest: connecting to it will give the better error message.
        return []
    guests: list[dict[str, Any]] = found["guests"]
    return guests


def _place(where: str) -> tuple[str, Path | None]:
    """The URL, and for a guest of the local daemon its private socket, wherever the daemon listens on TCP."""
    from urllib.parse import quote

    from millrace.io.paths import API_SOCKET, runtime_dir

    if "://" in where:
        return where, None
    return f"ws://localhost/{quote(where, safe='', errors='surrogateescape')}", runtime_dir() / API_SOCKET


def _unheard(options: ListenerOptions, url: str) -> list[str]:
    """Of a guest of this user's own daemon: what plays there already and will not be heard."""
    from urllib.parse import unquote, urlsplit

    from millrace.cli.unheard import warning

    if options.socket is None:
        return []
    told = (warning(one, options.sink) for one in _guests(unquote(urlsplit(url).path.strip("/"))))
    return [one for one in told if one]


def _told(options: ListenerOptions, url: str, kept_out: bool, quiet: bool) -> Notice:
    """Prints the listener's events and, once it has joined, what is not heard."""
    from millrace.client.notices import unnoticed

    if quiet:
        return unnoticed
    notes = [*([LED_BACK] if kept_out else []), *_unheard(options, url)]

    def told(kind: str, text: str, /) -> None:
        if kind != "ended":
            warn(f"{kind}: {text}")
        while kind == "joined" and notes:
            warn(notes.pop(0))

    return told


def _hear(listener: Listener, limit: _Limit, quiet: bool) -> None:
    """Run the listener to its end."""
    from millrace.cli.run import run

    interrupted = run(_listen(listener, limit))
    if not quiet:
        _sum_up(listener)
    if listener.ended:
        raise PeerLost(f"the daemon has ended this listener: {listener.ended}")
    if listener.lost is not None and not listener.connections and not interrupted:
        raise listener.lost


def _sum_up(listener: Listener) -> None:
    """Print a summary."""
    report = listener.report()
    warn(
        f"played {listener.played_s:.1f} s to {listener.output.name} ({counted(report.underruns, 'underrun')},"
        f" {counted(report.lost, 'packet')} lost, {counted(report.skipped, 'frame')} skipped)"
    )


def _token(path: Path | None) -> str:
    import os

    from millrace.daemon.config import checked_token, read_token

    return read_token(path) if path else checked_token(os.environ.get("MILLRACE_TOKEN", ""), "MILLRACE_TOKEN")


class _Limit:
    """Stops a listener that long after it has joined; or after its start, as long as it has not. None: never."""

    def __init__(self, for_ns: int | None) -> None:
        self._for_ns = for_ns
        self._stop: Callable[[], None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, stop: Callable[[], None]) -> None:
        """The listener starts; `stop` stops it."""
        self._stop = stop
        self._restart()

    def joined(self, number: int) -> None:
        """It has joined; later times do not count."""
        self._restart()
        self._stop = None

    def _restart(self) -> None:
        import asyncio

        if self._for_ns is None or self._stop is None:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(self._for_ns / NS_PER_S, self._stop)


async def _listen(listener: Listener, limit: _Limit) -> bool:
    """Listen until the end; returns whether a signal was that."""

    from millrace.cli.run import on_stop

    stops: list[bool] = []

    def interrupt() -> None:
        stops.append(True)
        listener.stop()

    on_stop(interrupt)
    limit.begin(listener.stop)
    await listener.run()
    return bool(stops)
