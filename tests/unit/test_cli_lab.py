"""The laboratory's commands in virtual time and over a bad network: what they run and print."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from millrace.cli import lab
from millrace.errors import ConfigError
from millrace.lab.scenario import Outcome, named
from millrace.lab.scenario import matrix as rows
from millrace.units import NS_PER_MS, NS_PER_S
from tests.commandline import said

# -- virtual time --------------------------------------------------------------------------------


def test_list_names_all_scenarios() -> None:
    lines = said("list").splitlines()
    at = next(at for at, line in enumerate(lines) if line.startswith("scenarios"))
    shown = [line.strip() for line in lines[at + 1 :]]
    assert lines[0] == "policies:" and lines[1].startswith("  millrace ")
    assert f"scenarios ({len(rows())} in the matrix;" in "\n".join(lines)
    assert shown and set(shown) <= set(rows()) and all(named(one) for one in shown)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was run, instead of running it."""
    made: list[Any] = []

    def run_one(scenario: str, policy: str, hours: float, plots: Path | None, clock: Callable[[], float]) -> Outcome:
        assert clock() > 0, "seconds of CPU"
        made.append((scenario, policy, hours, plots))
        return Outcome(scenario, policy, hours, xruns=len(made))

    monkeypatch.setattr("millrace.lab.report.run_one", run_one)
    return made


def test_each_scenario_runs_with_each_policy_and_prints_one_line(ran: list[Any]) -> None:
    lines = said("run").splitlines()
    assert ran == [("ppm200/exp3", "millrace", 1.0, None)] and len(lines) == 2 and "scenario" in lines[0]
    ran.clear()
    told = said("run", "ppm50/none", "ppm200/saw5", "--policy", "all", "--hours", "0.5", "--plots", "p", "--json")
    outcomes = [json.loads(line) for line in told.splitlines()]
    assert [(one["scenario"], one["policy"]) for one in outcomes] == [(one[0], one[1]) for one in ran]
    assert len({one[1] for one in ran}) * 2 == len(ran) > 2 and {one[2:] for one in ran} == {(0.5, Path("p"))}
    ran.clear()
    said("run", "matrix", "--json")
    assert [one[0] for one in ran] == rows()
    for words in (["nonsense"], ["ppm50/none", "nonsense"], ["ppm50/none", "--policy", "nobody"], ["--hours", "0"]):
        ran.clear()
        with pytest.raises(ConfigError):
            said("run", *words)
        assert ran == [], "nothing runs before all names are validated"


def test_scenarios_are_distributed_over_processes(ran: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    pools: list[int] = []

    class Pool:
        def __init__(self, jobs: int) -> None:
            pools.append(jobs)

        def __enter__(self) -> Any:
            return SimpleNamespace(map=map)

        def __exit__(self, *error: object) -> None:
            pools.append(0)

    monkeypatch.setattr("concurrent.futures.ProcessPoolExecutor", Pool)
    said("run", "ppm50/none", "--jobs", "2")
    assert pools == [2, 0] and len(ran) == 1
    said("run", "ppm50/none")
    assert pools == [2, 0], "a single process needs no pool"


def test_tone_is_measured_with_requested_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr("millrace.lab.measure.measure_sound", lambda *args: asked.append(args) or {"snr_db": 80.5})
    assert said("sound") == f"  {'snr_db':28} 80.5\n"
    said("sound", "ppm50/none", "--seconds", "20", "--set", "codec=opus", "--latency", "low", "--to", "x.wav")
    assert asked == [("ppm300/exp3", 130.0, {"codec": "f32"}, "normal", None),
                     ("ppm50/none", 20.0, {"codec": "opus"}, "low", Path("x.wav"))]  # fmt: skip


# -- a bad network -------------------------------------------------------------------------------


@pytest.fixture
def impaired(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    made: list[Any] = []

    async def impair(*args: Any) -> None:
        made.append(args)

    monkeypatch.setattr(lab, "_impair", impair)
    monkeypatch.setattr("millrace.cli.run.run", asyncio.run)
    return made


def test_impairments_are_passed_on_as_given(impaired: list[Any]) -> None:
    said("impair")
    (url, listen, good, seed) = impaired.pop()
    assert (url, listen, seed) == ("ws://127.0.0.1:8642", "127.0.0.1:8643", 1)
    assert (good.delay_ns, good.loss, good.burst, good.reorder, good.duplicate, good.rate_bps) == (0, 0, False, 0, 0, 0)
    said("impair", "wss://h:1", "--listen", "[::1]:2", "--delay", "20ms", "--jitter", "5ms", "--shape", "saw", "--loss",
         "2%", "--bursts", "--reorder", "3%", "--duplicate", "4%", "--rate", "256k",
         "--queue", "2s", "--seed", "7")  # fmt: skip
    (url, listen, bad, seed) = impaired.pop()
    assert (url, listen, seed) == ("wss://h:1", "[::1]:2", 7)
    assert (bad.delay_ns, bad.jitter, bad.jitter_ns) == (20 * NS_PER_MS, "saw", 5.0 * NS_PER_MS)
    assert (bad.loss, bad.burst, bad.reorder, bad.duplicate, bad.rate_bps) == (0.02, True, 0.03, 0.04, 256_000)
    said("impair", "--rate", "20M")
    assert impaired.pop()[2].rate_bps == 20_000_000, "that of a line, which is more than a codec's"
    assert (good.queue_ns, bad.queue_ns) == (NS_PER_S, 2 * NS_PER_S)


@pytest.mark.parametrize("words", [
    "ftp://h:1", "h:1", "ws://", "ws://h:0", "ws://h:x", "ws://[", "--loss 2", "--loss 100%", "--loss x%",
    "--reorder -1%", "--delay 5", "--delay 61s", "--shape round", "--rate x", "--queue 5", "--seed -1",
    "--duplicate nan%", "--rate 999", "--rate 11G",
])  # fmt: skip
def test_impossible_impairment_is_refused_before_listening(impaired: list[Any], words: str) -> None:
    with pytest.raises(ConfigError):
        said("impair", *words.split())
    assert impaired == []


class Proxy:
    """One that counts, and serves nothing."""

    sessions, lost = 1, 5

    def __init__(self, url: str, path: Any, seed: int) -> None:
        self.given = url, path, seed

    def application(self) -> Any:
        from aiohttp import web

        return web.Application()


def test_proxy_prints_how_to_connect_and_what_it_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("millrace.lab.impair.Impairment", Proxy)
    monkeypatch.setattr("millrace.cli.run.on_stop", lambda stop: asyncio.get_running_loop().call_soon(stop))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    path: Any = None
    asyncio.run(lab._impair("ws://h:1", "127.0.0.1:0", path, 1))
    assert capsys.readouterr().out.splitlines() == [
        "millrace listen ws://127.0.0.1:0/GUEST now goes through a bad network to ws://h:1; Ctrl-C ends it",
        "1 session, 5 messages lost",
    ]
    (tmp_path / "millrace").mkdir()
    (tmp_path / "millrace" / "key").touch()
    asyncio.run(lab._impair("ws://h:1", "127.0.0.1:0", path, 1))
    assert f"/GUEST --token-file {tmp_path}/millrace/key now" in capsys.readouterr().out
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for listen, why in (("0.0.0.0:1", "a loopback address"), ("x", "HOST:PORT"), (f"127.0.0.1:{port}", "in use")):
            with pytest.raises(ConfigError, match=f"--listen.*{why}"):
                asyncio.run(lab._impair("ws://h:1", listen, path, 1))
