"""`millrace demo` (and `make run`): sends sound and a picture through the whole chain, and measures what arrives."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from millrace.cli.console import tell, warn
from millrace.cli.values import decimal

if TYPE_CHECKING:
    from millrace.cli.demoscreen import DemoScreen
    from millrace.client.listener import Listener
    from millrace.daemon.app import Daemon
    from millrace.dsp.convert import Samples

_TONES_HZ = (440.0, 554.37, 659.26, 880.0)
_LEVEL = 0.5


def demo(
    seconds: Annotated[float, decimal("--seconds", 0.1, 3600, "How long the sample guest plays.")] = 8.0,
    to: Annotated[
        str, typer.Option(metavar="OUTPUT", help="Where to listen; default: the sound card, else out/demo.wav.")
    ] = "",
    stay: Annotated[
        bool | None, typer.Option("--stay/--no-stay", help="Keep serving afterwards (default on a terminal).")
    ] = None,
) -> None:
    """Play a sample guest, hear and watch it, and measure what arrived.

    Examples:

      millrace demo

      millrace demo --to wav:demo.wav --no-stay
    """
    import sys

    from millrace.cli.run import run

    run(_demo(seconds, to, sys.stdout.isatty() if stay is None else stay))


def tune(seconds: float, rate: int = 48_000) -> Samples:
    """A stereo test tune: an arpeggio of sines, each faded in and out."""
    import numpy as np

    part = int(seconds * rate / len(_TONES_HZ))
    edge = np.minimum(1.0, np.minimum(np.arange(part), np.arange(part)[::-1]) / (0.01 * rate))
    t = np.arange(part) / rate
    mono = np.concatenate([_LEVEL * edge * np.sin(2 * np.pi * f * t) for f in _TONES_HZ])
    return np.repeat(mono[:, None], 2, axis=1).astype(np.float32)


async def _demo(seconds: float, to: str, stay: bool) -> None:
    import asyncio

    from millrace.cli.run import on_stop
    from millrace.daemon.app import Daemon
    from millrace.daemon.config import Config
    from millrace.errors import ConfigError
    from millrace.io.paths import API_SOCKET

    config = Config(listen="127.0.0.1:0", state=Path(":memory:"))
    running = (config.runtime / API_SOCKET).is_socket()
    try:
        daemon = Daemon(config)
    except ConfigError as error:
        beside = "; the demo starts a daemon of its own: stop yours first, or see it with `millrace view`"
        raise ConfigError(f"{error}{beside if running else ''}") from None
    stopping = asyncio.Event()
    on_stop(stopping.set)
    try:
        await daemon.start()
        tell(f"bus         {daemon.serving.url}, guest 'default'")
        screen = await _play_and_listen(daemon, seconds, to)
        _go_on(daemon, stay)
        if stay:
            screen.go_on()
            await stopping.wait()
        screen.close()
    finally:
        await daemon.stop()


async def _play_and_listen(daemon: Daemon, seconds: float, to: str) -> DemoScreen:
    import asyncio

    from millrace.backends.clocked import NullOutput
    from millrace.backends.device import DeviceOutput
    from millrace.cli.demoscreen import DemoScreen
    from millrace.client.listener import Listener, ListenerOptions
    from millrace.client.outputs import make_output
    from millrace.client.pulse import PulsePlayer
    from millrace.io.clock import now_ns
    from millrace.io.paths import API_SOCKET
    from millrace.lab.sync import HeardOutput

    guest = daemon.worker.guests["default"]
    url, own = "ws://localhost/default", daemon.config.runtime / API_SOCKET
    where = _room_for(Path("out/demo.wav"))
    to = _chosen(to, url)
    # The file is measured; the sound card or the null output provides the clock and the latency figure.
    heard = Listener(url, make_output(f"wav:{where}", "normal"), ListenerOptions(name="demo file", socket=own))
    output = make_output(to, "normal")
    noted = HeardOutput(output, now_ns) if isinstance(output, NullOutput | DeviceOutput) else None
    clocked = Listener(url, noted or output, ListenerOptions(name=to, socket=own))
    screen = DemoScreen(daemon, clocked)
    tasks = [asyncio.create_task(x.run()) for x in (heard, clocked, screen.viewer)]
    await asyncio.sleep(0.3)
    player = await PulsePlayer.connect(guest.pulse.path, "millrace demo")
    tell(f"guest plays {seconds:g} s of tones through the PulseAudio door (any application can), and paints a desktop")
    playing = asyncio.create_task(player.play(tune(seconds), 48_000))
    await asyncio.sleep(seconds * 0.6)
    latency_ns = clocked.report().latency_ns
    rates = {s.outlet.name: s.bitrate() for s in guest.sessions}
    screen.note_rate()
    await playing
    await player.close()
    exact = await screen.settle()
    for one in (heard, clocked, screen.viewer):
        one.stop()
    await asyncio.gather(*tasks)
    _measure(where, heard, clocked, latency_ns, max(rates.values(), default=0))
    screen.tell(exact, noted)
    return screen


def _room_for(path: Path) -> Path:
    from millrace.errors import ConfigError

    try:
        path.parent.mkdir(exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{path.parent.absolute()}: {error.strerror}; run this in a folder that you can write to"
        ) from None
    return path


def _chosen(to: str, url: str) -> str:
    """The named output, or else a sound card if there is one. The card must not be the guest itself."""
    from millrace.client.soundserver import keep_out

    if to.partition(":")[0] in ("", "device"):
        # The demo's guest does not listen on TCP.
        keep_out(url, lambda guest: ())
    return to or _card_or_nothing()


def _card_or_nothing() -> str:
    from millrace.backends.device import device_names

    names = device_names()
    if names:
        tell(f"listener    plays on {names[0]}")
        return "device"
    tell("listener    no sound card here: playing to out/demo.wav, timed by a null output")
    return "null:"


def _measure(where: Path, heard: Listener, clocked: Listener, latency_ns: int, bitrate: int) -> None:
    import wave

    import numpy as np

    from millrace.dsp.convert import SampleFormat, decode
    from millrace.dsp.measure import frequency_hz, level_dbfs

    with wave.open(str(where)) as file:
        rate = file.getframerate()
        data = file.readframes(file.getnframes())
    samples = np.empty(len(data) // 2, np.float32)
    decode(SampleFormat.S16LE, data, samples)
    sound = _without_clicks(samples[::2].copy(), rate)
    found = np.flatnonzero(np.abs(sound) > 0.01)
    if not len(found):
        warn("no sound arrived; run `millrace ls` while it plays to see where the sound stops")
        raise typer.Exit(1)
    sound = sound[found[0] : found[-1]]
    part = len(sound) // len(_TONES_HZ)
    tones = [frequency_hz(sound[i * part : (i + 1) * part], rate) for i in range(len(_TONES_HZ))]
    report = clocked.report()
    tell(f"heard       {len(sound) / rate:.2f} s of sound in {where}")
    tell(f"frequency   {', '.join(f'{t:.1f}' for t in tones)} Hz (played: {', '.join(f'{t:.1f}' for t in _TONES_HZ)})")
    tell(f"level       {level_dbfs(sound):.1f} dBFS (played: {level_dbfs(tune(8)[:, 0]):.1f})")
    tell(f"latency     {_latency(latency_ns, clocked.output.name, clocked.playout is not None)}")
    tell(f"bitrate     {bitrate / 1000:.0f} kb/s ({heard.format.codec if heard.format else '?'}; PCM would be 1,536)")
    tell(f"underruns   {report.underruns}, packets lost {report.lost}")


def _latency(latency_ns: int, output: str, plays: bool) -> str:
    if not plays:
        return f"none: {output} does not play in real time"
    if not latency_ns:
        return f"not measured: {output} was not playing then"
    return f"{latency_ns / 1e6:.0f} ms from the guest's mix to the listener's output"


def _without_clicks(sound: Samples, rate: int) -> Samples:
    """Silence where the desktop's clicks are, which are measured elsewhere."""
    from millrace.dsp.measure import tone_onsets
    from millrace.sim.painted import CLICK_HZ, CLICK_S

    around = rate // 400
    for at in tone_onsets(sound, rate, CLICK_HZ, round(CLICK_S * rate)):
        sound[max(0, at - around) : at + around + round(CLICK_S * rate)] = 0.0
    return sound


def _go_on(daemon: Daemon, stay: bool) -> None:
    guest = daemon.worker.guests["default"]
    tell()
    if stay:
        tell("the demo goes on, with its desktop, until you press Ctrl-C here. See and hear it")
        tell(f"  in a browser:         {daemon.page_link()}")
        tell("                        (for one browser, once)")
        tell("  in another terminal:  millrace view     # its desktop in a window, with its sound")
        tell("                        millrace ls       # who plays, listens and watches")
        tell("play something into it, in a third terminal:")
    else:
        tell("next steps: start the bus in a terminal of its own, and leave it running")
        tell("  millrace serve        # it prints a link for your browser")
        tell("in another terminal, hear its guest `default`, or see what there is")
        tell("  millrace listen")
        tell("  millrace ls")
        tell("in a third terminal, play something into it:")
    tell(f"  export PULSE_SERVER=unix:{guest.pulse.path}")
    tell("  mpv song.flac         # or any other program that plays sound")
    if not stay:
        tell("attach a virtual machine, a VNC server or an X display, and see its screen:")
        tell("  millrace attach x11 :0 && millrace view")
