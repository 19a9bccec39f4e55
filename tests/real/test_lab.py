"""The laboratory's commands, and its proxy between a real listener and a real daemon."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from millrace.dsp.measure import frequency_hz, level_dbfs
from millrace.sim.signals import sine
from tests.ports import free_port

from .conftest import MILLRACE, Bus, need, wait_for, write_wav
from .test_clients import s16

pytestmark = pytest.mark.real


def test_listener_behind_bad_network_plays_and_reports_losses(bus: Bus, tmp_path: Path) -> None:
    need("paplay")
    port = free_port()
    proxy = bus.spawn(
        *MILLRACE, "lab", "impair", f"ws://{bus.listen}", "--listen", f"127.0.0.1:{port}",
        "--delay", "20ms", "--jitter", "3ms", "--loss", "5%", stdout=subprocess.PIPE,
    )  # fmt: skip
    assert proxy.stdout is not None and b"bad network" in proxy.stdout.readline()
    raw = tmp_path / "heard.raw"
    with raw.open("wb") as out:
        listener = bus.spawn(
            *MILLRACE, "listen", f"ws://127.0.0.1:{port}/default", "--to", "raw:-", "--set", "fec=on", stdout=out,
            stderr=subprocess.PIPE, env={"MILLRACE_TOKEN": bus.key},
        )  # fmt: skip
        wait_for(lambda: bus.guest()["listeners"], what="the listener joins")
        player = bus.spawn("paplay", str(write_wav(tmp_path / "tone.wav", s16(sine(12)))))
        time.sleep(8)
        shown = bus.guest()["listeners"][0]
        assert shown["lost"] > 5, shown
        assert shown["latency_ms"] > 20
        player.wait(15)
        listener.send_signal(signal.SIGINT)
        told = listener.communicate(timeout=10)[1].decode()
    assert "packets lost" in told
    proxy.send_signal(signal.SIGINT)
    assert b"1 session, " in proxy.communicate(timeout=10)[0]
    sound = np.frombuffer(raw.read_bytes(), "<i2").reshape(-1, 2)[:, 0].astype(np.float32) / 32768
    start = int(np.flatnonzero(np.abs(sound) > 0.1)[0])
    middle = sound[start + 3 * 48_000 : start + 10 * 48_000]
    # The speed changes by up to 1,000 ppm to follow such a line, 1.7 cents.
    assert abs(frequency_hz(middle, 48_000) - 997) < 1.1
    assert abs(level_dbfs(middle) - -6.02) < 1.0


@pytest.mark.beside
def test_proxy_passes_refusals_on(bus: Bus) -> None:
    port = free_port()
    proxy = bus.spawn(
        *MILLRACE, "lab", "impair", f"ws://{bus.listen}", "--listen", f"127.0.0.1:{port}", stdout=subprocess.PIPE
    )
    assert proxy.stdout is not None and b"bad network" in proxy.stdout.readline()
    there = ("listen", f"ws://127.0.0.1:{port}/nobody", "--to", "null:")
    done = bus.cli(*there, check=False)
    # It is another address than the daemon's own, so nobody is told where the key to that is.
    assert done.returncode == 4 and "--token-file" in done.stderr and "millrace/key" not in done.stderr
    done = bus.cli(*there, "--token-file", f"{bus.runtime}/millrace/key", check=False)
    assert done.returncode == 3 and "no such guest" in done.stderr
    done = bus.cli("lab", "impair", "--loss", "200%", check=False)
    assert done.returncode == 2 and done.stderr.startswith("millrace: ")


@pytest.mark.beside
def test_lab_prints_table_json_and_plots(bus: Bus, tmp_path: Path) -> None:
    done = bus.cli("lab", "run", "ppm50/exp3", "--hours", "0.1", "--policy", "millrace,none", "--plots", str(tmp_path))
    assert "millrace" in done.stdout and "xruns" in done.stdout
    assert (tmp_path / "ppm50_exp3_millrace.png").stat().st_size > 10_000
    lines = bus.cli("lab", "run", "ppm0/none", "--hours", "0.1", "--json").stdout.splitlines()
    assert json.loads(lines[0])["policy"] == "millrace"
    assert "ppm50/exp3" in bus.cli("lab", "list").stdout
    assert "SNR" in bus.cli("lab", "sound", "ppm0/none", "--seconds", "12").stdout
    done = bus.cli("lab", "run", "nonsense", check=False)
    assert done.returncode == 2 and "ppm200/exp3" in done.stderr
