"""`millrace view`: see a guest's screen, hear it, and use it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from millrace.cli.console import show_json, warn
from millrace.cli.listen import SECONDS_MAX_NS, _Cert, _Key, _place, _Settings, _token, _Where, parse_settings
from millrace.cli.outputfile import OVERWRITE, demand_new
from millrace.errors import ConfigError, GraphError, MillraceError, NoDevice, OutputLost, PeerLost
from millrace.text import counted, parse_choice, parse_duration_ns
from millrace.units import NS_PER_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from millrace.client.listener import Listener
    from millrace.client.notices import Notice
    from millrace.client.pictureoutputs import Shown
    from millrace.client.viewer import Viewer, ViewerOptions

PNG_NS = 10 * NS_PER_S
"""How long a single picture may take."""

_To = Annotated[
    str,
    typer.Option(metavar="OUTPUT", help="window, FILE.png or png:FILE, FILE.mkv or mkv:FILE, y4m:-, y4m:FILE or null:"),
]
_Sound = Annotated[
    str, typer.Option(metavar="OUTPUT", help="Where the sound goes, as in `millrace listen --to`; or off.")
]
_Screen = Annotated[
    str | None, typer.Option(metavar="SCREEN", help="Another screen than the first: screen/7. `millrace ls` has them.")
]
_ViewOnly = Annotated[bool, typer.Option("--view-only", help="Don't take the keyboard.")]
_NoClipboard = Annotated[bool, typer.Option("--no-clipboard", help="Don't share the clipboard with the machine.")]
_FullScreen = Annotated[bool, typer.Option("--full-screen", help="Fill the desktop.")]
_Latency = Annotated[
    str, typer.Option(help="Of the sound: low (no picture waits for it), normal, robust, or such as 30ms.")
]
_Seconds = Annotated[str | None, typer.Option(metavar="DURATION", help="Stop after this time: 90, 30m, 8h.")]
_TokenFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="File with the bearer token; or $MILLRACE_TOKEN.")
]
_Ca = Annotated[Path | None, typer.Option(metavar="FILE", help="Trust this CA certificate (PEM).")]
_NoReconnect = Annotated[
    bool, typer.Option("--no-reconnect", help="Exit when the connection is lost instead of reconnecting.")
]
_Json = Annotated[bool, typer.Option("--json", help="At the end, print what was measured as JSON.")]


def view(
    where: _Where = "default",
    to: _To = "window",
    sound: _Sound = "",
    screen: _Screen = None,
    settings: _Settings = None,
    view_only: _ViewOnly = False,
    no_clipboard: _NoClipboard = False,
    full_screen: _FullScreen = False,
    latency: _Latency = "normal",
    name: Annotated[str, typer.Option(help="Name of this viewer in `millrace ls`.")] = "",
    seconds: _Seconds = None,
    json: _Json = False,
    token_file: _TokenFile = None,
    ca: _Ca = None,
    cert: _Cert = None,
    key: _Key = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Accept any TLS certificate.")] = False,
    no_reconnect: _NoReconnect = False,
    overwrite: OVERWRITE = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
) -> None:
    """Show a guest's screen here, with its sound, or record it.

    In the window, Ctrl-Alt-F is for full screen, Ctrl-Alt-G gives the machine all keys and the pointer, Ctrl-Alt-K
    takes the keyboard or gives it up, Ctrl-Alt-Q quits; with Del on the keypad, Ctrl-Alt-Del goes to the machine. With
    the right `clipboard`, text that is copied here can be pasted there, and the other way.

    Examples:

      millrace view

      millrace view ws://server:8642/alice --full-screen

      millrace view alice --to alice.png    # one picture, exact

      millrace view alice --to alice.mkv --seconds 10m    # picture and sound

      millrace view alice --to y4m:- | ffmpeg -i - alice.webm

      millrace view --set picture=2M --set fps=15    # a thin line

      millrace view --to null: --seconds 10 --json    # latency, skew
    """
    from millrace.client.viewer import ViewerOptions

    url, socket = _place(where)
    common = ViewerOptions(
        name=name, latency=latency, screen=screen, keyboard=not view_only, ca_file=str(ca or ""), cert=str(cert or ""),
        key=str(key or ""), token=_token(token_file), insecure=insecure, reconnect=not no_reconnect, socket=socket,
    )  # fmt: skip
    plan = _planned(url, to, overwrite, sound, common, settings or [], full_screen, seconds, json, quiet)
    _run(plan._replace(share_clipboard=not no_clipboard))


# No dataclass: every command would take the time to import `dataclasses`.
class _Plan(NamedTuple):
    """What is to be shown, and how."""

    url: str
    to: str
    kind: str
    sound: str
    options: ViewerOptions
    sound_settings: dict[str, str]
    full_screen: bool
    for_ns: int | None
    json: bool
    quiet: bool
    share_clipboard: bool = True
    overwrite: bool = False

    @property
    def records(self) -> bool:
        """Whether pictures are wanted in a file or a pipe."""
        return self.kind not in ("window", "null")


def _planned(
    url: str, to: str, overwrite: bool, sound: str, options: ViewerOptions, settings: list[str], full_screen: bool,
    seconds: str | None, json: bool, quiet: bool,
) -> _Plan:  # fmt: skip
    """What the words mean; ConfigError if they mean nothing."""
    from millrace.client.pictureoutputs import target
    from millrace.codec.picturesettings import PICTURE_SETTING_NAMES, PictureSettings, changed_picture
    from millrace.codec.settings import SETTING_NAMES, CodecSettings, changed

    kind, where = target(to, _title(url))
    to = where if kind == "png" else to
    if where != "-":
        demand_new(where, overwrite)
    if json and to == "y4m:-":
        raise ConfigError("--json and --to y4m:- would share standard output; write the pictures to a file")
    words = parse_settings(settings)
    pictures = {name: words.pop(name) for name in PICTURE_SETTING_NAMES if name in words}
    for name in words:
        parse_choice(name, "--set", (*PICTURE_SETTING_NAMES, *SETTING_NAMES))
    changed_picture(PictureSettings(), pictures)
    changed(CodecSettings(), words)
    if kind == "png":
        pictures.setdefault("picture", "lossless")
    options.settings, options.keyboard = pictures, options.keyboard and kind == "window"
    options.wait_for_screen = kind != "png"
    for_ns = parse_duration_ns(seconds, "--seconds", 0, SECONDS_MAX_NS, "s") if seconds else None
    return _Plan(url, to, kind, sound, options, words, full_screen, for_ns, json, quiet, overwrite=overwrite)


def _run(plan: _Plan) -> None:
    from millrace.cli.run import run

    figures = run(_view(plan))
    if plan.json:
        show_json(figures)


async def _view(plan: _Plan) -> dict[str, Any]:
    """View until the end; returns the figures."""
    from millrace.cli.run import on_stop
    from millrace.client.pictureoutputs import Shown
    from millrace.client.viewer import Viewer

    lost: list[OutputLost] = []
    interrupted: list[bool] = []

    def ended(why: OutputLost | None) -> None:
        if why is not None:
            lost.append(why)
        viewer.stop()

    def interrupt() -> None:
        interrupted.append(True)
        viewer.stop()

    def told(kind: str, text: str, /) -> None:
        if kind != "ended" and not plan.quiet:
            warn(f"{kind}: {text}")

    shown = Shown(
        plan.to, _title(plan.url), plan.full_screen, plan.sound != "off", ended, plan.share_clipboard, plan.overwrite,
        lambda path: told("file", str(path)),
    )  # fmt: skip
    listener = _listener(
        plan, shown, lambda kind, text: told(f"sound, {kind}", text), lambda number: viewer.hear(number)
    )
    viewer = Viewer(plan.url, shown.face, plan.options, listener, told)
    on_stop(interrupt)
    shown.open(viewer)
    try:
        await _both(plan, viewer, listener)
    finally:
        shown.close()
    if lost:
        raise lost[0]
    _judge(plan, shown, viewer, bool(interrupted))
    return viewer.figures.as_dict()


# Whoever records in a script has to learn that there is nothing in the file, or that it ended before its time.
def _judge(plan: _Plan, shown: Shown, viewer: Viewer, interrupted: bool) -> None:
    """Say what came, and raise if it is not what was wanted."""
    from millrace.cli.run import INTERRUPTED

    got = shown.got(viewer.figures.pictures)
    if not plan.quiet and (got or not plan.records):
        median = viewer.figures.as_dict()["skew_ms"]
        skew = f", picture {median['p50']:+.0f} ms after its sound" if median else ""
        files = [str(path) for path in shown.recording.files] if shown.recording is not None else [plan.to]
        warn(f"{counted(got, 'picture')} to {', '.join(files)}{skew}")
    if viewer.ended and not (plan.kind == "png" and got):
        raise PeerLost(f"the daemon has ended this viewer: {viewer.ended}")
    if got or (interrupted and not plan.records):
        return
    if interrupted:
        warn("nothing was written: stopped before a picture came")
        raise typer.Exit(INTERRUPTED)
    if viewer.lost is not None:
        raise viewer.lost
    if plan.records:
        came = "only part of a picture" if viewer.figures.pictures else "no picture"
        within_s = (plan.for_ns or PNG_NS) / NS_PER_S
        why = viewer.trouble or "`millrace ls` shows the guest's screens"
        raise GraphError(f"nothing was written: {came} arrived within {within_s:g} s; {why}")


def _title(url: str) -> str:
    from urllib.parse import unquote, urlsplit

    from millrace.text import printable

    return printable(unquote(urlsplit(url).path.strip("/")))


def _listener(plan: _Plan, shown: Shown, on_event: Notice, on_welcome: Callable[[int], None]) -> Listener | None:
    """The listener for the sound, if there is to be one."""
    from dataclasses import fields

    from millrace.client.listener import Listener, ListenerOptions
    from millrace.client.outputs import make_output
    from millrace.client.recording import RecordedSound
    from millrace.clock.jitter import asked_of_daemon

    where = plan.sound or _usual_sound(plan)
    if where == "off":
        return None
    common = {field.name: getattr(plan.options, field.name) for field in fields(ListenerOptions)}
    options = ListenerOptions(**common | {"settings": plan.sound_settings})
    if shown.recording is not None:
        return Listener(plan.url, RecordedSound(shown.recording), options, on_event, on_welcome)
    return Listener(plan.url, make_output(where, asked_of_daemon(options.latency)), options, on_event, on_welcome)


def _usual_sound(plan: _Plan) -> str:
    if plan.kind == "window":
        from millrace.backends.device import device_names

        if device_names():
            return "device"
        if not plan.quiet:
            warn("sound: no sound card here, so the picture is shown without; --sound names another output")
    return "record" if plan.kind == "mkv" else "off"


async def _both(plan: _Plan, viewer: Viewer, listener: Listener | None) -> None:
    """Run the viewer to its end, and beside it the listener, without which it goes on."""
    import asyncio
    import contextlib

    for_ns = plan.for_ns or (PNG_NS if plan.kind == "png" else None)
    if for_ns is not None:
        asyncio.get_running_loop().call_later(for_ns / NS_PER_S, viewer.stop)
    hearing = asyncio.create_task(_hear(listener)) if listener is not None else None
    try:
        await viewer.run()
    finally:
        if hearing is not None and listener is not None:
            listener.stop()
            with contextlib.suppress(asyncio.CancelledError):
                await hearing


async def _hear(listener: Listener) -> None:
    try:
        await listener.run()
    except NoDevice as error:
        warn(f"sound: {error}; the picture goes on without")
    except MillraceError as error:
        # Whoever may watch need not have the right to hear; and the viewer reports what concerns both.
        warn(f"sound: {error}; the picture goes on without")
