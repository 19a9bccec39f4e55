"""pulsectl's own test suite, from its source archive on the package index, run against a Millrace guest."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from .conftest import lack, need

pytestmark = [pytest.mark.real, pytest.mark.beside]
VERSION = "24.12.0"
SUITE = "pulsectl.tests.test_with_dummy_instance"
NOT_OURS = "test_cli"
"""Tests of PulseAudio's CLI socket, which is not part of the native protocol."""
SUITE_S = 400
"""It starts four daemons, which takes a minute where other programs leave little processor time."""


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked source archive."""
    folder = tmp_path_factory.mktemp("pulsectl")
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:", "-d", str(folder)]
    got = subprocess.run([*command, f"pulsectl=={VERSION}"], capture_output=True, text=True, check=False)
    if got.returncode:
        lack(f"pulsectl's source, which pip can't fetch: {got.stderr[-300:]}")
    with tarfile.open(folder / f"pulsectl-{VERSION}.tar.gz") as archive:
        # Debian 12's Python 3.11.2 has no filters yet.
        archive.extractall(folder, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    return folder / f"pulsectl-{VERSION}"


def test_pulsectls_own_suite_passes(suite: Path, tmp_path: Path) -> None:
    need("pactl", "paplay")
    shim = tmp_path / "bin" / "pulseaudio"
    shim.parent.mkdir()
    shim.write_text(f"#!/bin/sh\nexec {sys.executable} {Path(__file__).with_name('pulseaudio_shim.py')}\n")
    shim.chmod(0o755)
    env = os.environ | {
        "PATH": f"{shim.parent}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "PULSE_COOKIE": str(tmp_path / "cookie"),
    }
    names = re.findall(r"def (test_\w+)", (suite / (SUITE.replace(".", "/") + ".py")).read_text())
    wanted = [word for name in names if name != NOT_OURS for word in ("-k", name)]
    command = [sys.executable, "-m", "unittest", "-v", *wanted, SUITE]
    log = tmp_path / "log"
    with log.open("wb") as out:
        ran = subprocess.Popen(command, env=env, cwd=suite, stdout=out, stderr=out, start_new_session=True)
    try:
        ran.wait(SUITE_S)
    except subprocess.TimeoutExpired:
        # With its daemons.
        os.killpg(ran.pid, signal.SIGKILL)
        ran.wait(10)
    said = log.read_text()
    assert ran.returncode == 0, said
    assert re.search(r"^Ran 15 tests", said, re.MULTILINE), said
