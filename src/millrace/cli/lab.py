"""`millrace lab`: tests the listener's timing with bad networks and inaccurate clocks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from millrace.cli.console import say, say_lines, show_json, tell
from millrace.cli.group import App
from millrace.cli.values import decimal, whole

if TYPE_CHECKING:
    from collections.abc import Iterator

    from millrace.lab.scenario import Outcome
    from millrace.sim.net import Path as NetPath

app = App(
    "millrace lab impair ws://127.0.0.1:8642 --delay 20ms --jitter 5ms --loss 2%",
    "millrace lab run ppm200/exp3 --hours 24 --policy all",
    help="Try bad networks and wrong clocks.",
)


@app.command("list")
def list_() -> None:
    """Name the policies, their sources, and the scenarios. Example: millrace lab list"""
    from millrace.lab.report import SOURCES
    from millrace.lab.scenario import matrix

    say("policies:")
    for name, source in SOURCES.items():
        say(f"  {name:14} {source}")
    rows = matrix()
    say(f"scenarios ({len(rows)} in the matrix; the daemon's clock in ppm / jitter / loss):")
    say_lines(f"  {name}" for name in rows if name.startswith("ppm50/"))


@app.command()
def run(
    scenarios: Annotated[
        list[str] | None, typer.Argument(metavar="SCENARIO", help="A scenario such as ppm200/exp3/loss2, or `matrix`.")
    ] = None,
    hours: Annotated[float, decimal("--hours", 0.0001, 1000, "Virtual time to run each scenario for.")] = 1.0,
    policy: Annotated[
        str, typer.Option(metavar="POLICIES", help="all, or a comma-separated list; see `millrace lab list`.")
    ] = "millrace",
    plots: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder for PNG plots of latency and ratio over time.")
    ] = None,
    jobs: Annotated[int, whole("--jobs", 1, 1024, "Number of parallel processes.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, one object per line.")] = False,
) -> None:
    """Run scenarios in virtual time and print the results.

    Examples:

      millrace lab run ppm200/exp3 --hours 24 --plots out/lab

      millrace lab run matrix --policy all --jobs 2 --json
    """

    from millrace.cli.progress import progress
    from millrace.lab.report import header, lost_rows, policies, row
    from millrace.lab.scenario import matrix, named

    names = [n for word in scenarios or ["ppm200/exp3"] for n in (matrix() if word == "matrix" else [word])]
    for name in names:
        named(name)
    work = [(name, one, hours, plots) for name in names for one in policies(policy)]
    if not as_json:
        say(header())
    outcomes = []
    with progress("scenarios", len(work)) as now:
        now(names[0])
        for outcome in _outcomes(work, jobs):
            outcomes.append(outcome)
            show_json(outcome.as_dict(), None) if as_json else say(row(outcome))
            now(f"after {outcome.scenario}")
    if not as_json:
        for text in lost_rows(outcomes):
            say(f"lost: {text}")


def _outcomes(work: list[tuple[str, str, float, Path | None]], jobs: int) -> Iterator[Outcome]:
    from concurrent.futures import ProcessPoolExecutor

    if jobs == 1:
        yield from map(_one, work)
        return
    with ProcessPoolExecutor(jobs) as pool:
        yield from pool.map(_one, work)


def _one(work: tuple[str, str, float, Path | None]) -> Outcome:
    import time

    from millrace.lab.report import run_one

    return run_one(*work, time.process_time)


@app.command()
def sound(
    scenario: Annotated[str, typer.Argument(help="A scenario such as ppm200/exp3/loss2.")] = "ppm300/exp3",
    seconds: Annotated[float, decimal("--seconds", 10, 86_400, "Virtual time to play for.")] = 130.0,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="As in `millrace set`.")
    ] = None,
    latency: Annotated[str, typer.Option(help="low, normal, robust, or fixed: 30ms.")] = "normal",
    to: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the received sound to this WAV file.")] = None,
) -> None:
    """Play a tone in virtual time and measure what is heard.

    A 997 Hz tone takes the whole path, codec included.

    Example: millrace lab sound ppm200/exp3/loss2 --set codec=opus
    """
    from millrace.cli.listen import parse_settings
    from millrace.lab.measure import measure_sound

    measured = measure_sound(scenario, seconds, parse_settings(settings or ["codec=f32"]), latency, to)
    for name, value in measured.items():
        say(f"  {name:28} {value}")


@app.command()
def impair(
    url: Annotated[str, typer.Argument(help="The daemon: ws://127.0.0.1:8642")] = "ws://127.0.0.1:8642",
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Address for listeners to connect to instead; loopback only.")
    ] = "127.0.0.1:8643",
    delay: Annotated[str, typer.Option(metavar="DURATION", help="Delay in each direction, such as 20ms.")] = "0ms",
    jitter: Annotated[str, typer.Option(metavar="DURATION", help="Mean of the one-sided jitter, such as 5ms.")] = "0ms",
    shape: Annotated[str, typer.Option(help="exp, saw or spikes.")] = "exp",
    loss: Annotated[str, typer.Option(metavar="PERCENT", help="Share of media packets lost, such as 2%.")] = "0%",
    bursts: Annotated[bool, typer.Option("--bursts", help="Lose packets in bursts of five.")] = False,
    reorder: Annotated[str, typer.Option(metavar="PERCENT", help="Share of packets reordered.")] = "0%",
    duplicate: Annotated[str, typer.Option(metavar="PERCENT", help="Share of packets duplicated.")] = "0%",
    rate: Annotated[
        str, typer.Option(help="Bits per second of the line, 1k to 10G, such as 256k or 20M; 0: any.")
    ] = "0",
    queue: Annotated[
        str, typer.Option(metavar="DURATION", help="With --rate: media that would wait longer than this is lost.")
    ] = "1s",
    seed: Annotated[int, whole("--seed", 0, 1 << 32, "Random seed; the same seed repeats the run.")] = 1,
) -> None:
    """Impair the connection between a listener and its daemon.

    Examples:

    \b
      millrace lab impair ws://127.0.0.1:8642 --delay 20ms --loss 2%
      millrace listen ws://127.0.0.1:8643/default \\
        --token-file $XDG_RUNTIME_DIR/millrace/key
    """
    from millrace.cli.run import run as run_async
    from millrace.sim.net import Path as NetPath

    _demand_daemon(url)
    path: NetPath = NetPath(
        delay_ns=_ns(delay, "--delay"), jitter=shape, jitter_ns=float(_ns(jitter, "--jitter")),
        loss=_share(loss, "--loss"), burst=bursts, reorder=_share(reorder, "--reorder"),
        duplicate=_share(duplicate, "--duplicate"), rate_bps=_rate(rate),
        queue_ns=_ns(queue, "--queue"),
    )  # fmt: skip
    run_async(_impair(url, listen, path, seed))


def _demand_daemon(url: str) -> None:
    from urllib.parse import urlsplit

    from millrace.errors import ConfigError
    from millrace.text import quoted

    try:
        parts = urlsplit(url)
        right = parts.scheme in ("ws", "wss", "http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        right = False
    if not right:
        raise ConfigError(f"{quoted(url)}: a daemon's address is ws://HOST:PORT or wss://HOST:PORT")


def _ns(text: str, option: str) -> int:
    from millrace.text import parse_duration_ns
    from millrace.units import NS_PER_S

    return parse_duration_ns(text, option, 0, 60 * NS_PER_S)


def _rate(text: str) -> int:
    from millrace.text import parse_size

    return 0 if text == "0" else parse_size(text, "--rate", 1_000, 10_000_000_000, ("bit/s", "b/s", "bps"))


def _share(text: str, option: str) -> float:
    from millrace.errors import ConfigError
    from millrace.text import parse_decimal, quoted

    if not text.endswith("%"):
        raise ConfigError(f"{option} {quoted(text)}: give a percentage, such as 2%")
    return parse_decimal(text, option, 0, 99.9, "%") / 100


async def _impair(url: str, listen: str, path: NetPath, seed: int) -> None:
    import asyncio

    from aiohttp import web

    from millrace.cli.run import on_stop
    from millrace.errors import ConfigError
    from millrace.io.listeners import bind_tcp
    from millrace.io.paths import KEY_FILE, runtime_dir
    from millrace.lab.impair import Impairment
    from millrace.text import counted, parse_address, quoted

    host, port = parse_address(listen, "--listen", "127.0.0.1:8643")
    if host not in ("127.0.0.1", "localhost", "::1"):
        raise ConfigError(f"--listen {quoted(listen)}: a loopback address and a port, such as 127.0.0.1:8643")
    stopping = asyncio.Event()
    on_stop(stopping.set)
    proxy = Impairment(url, path, seed)
    runner = web.AppRunner(proxy.application(), access_log=None)
    await runner.setup()
    try:
        for sock in bind_tcp(host, port):
            await web.SockSite(runner, sock).start()
        key = runtime_dir() / KEY_FILE
        token = f" --token-file {key}" if key.exists() else ""
        tell(f"millrace listen ws://{listen}/GUEST{token} now goes through a bad network to {url}; Ctrl-C ends it")
        await stopping.wait()
    except OSError as error:
        raise ConfigError(f"--listen {quoted(listen)}: {error.strerror}") from None
    finally:
        await runner.cleanup()
        tell(f"{counted(proxy.sessions, 'session')}, {counted(proxy.lost, 'message')} lost")
