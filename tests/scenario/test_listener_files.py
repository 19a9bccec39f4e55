"""`millrace listen` into files that can't be written any further: it says why, and exits with the documented code."""

from __future__ import annotations

import asyncio
import sys
import wave
from pathlib import Path

import numpy as np

from millrace.client.bus import connect
from millrace.daemon.app import Daemon
from millrace.daemon.config import Config
from millrace.rights.model import Right
from tests.places import small_disk


async def listened(daemon: Daemon, token: Path, to: str) -> tuple[int, str]:
    """The exit code and the output of a listener that writes to `to`."""
    command = [sys.executable, "-m", "millrace.cli.main", "listen", f"{daemon.serving.url}/default", "--to", to]
    command += ["--token-file", str(token), "--set", "codec=f32", "--seconds", "20"]
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    try:
        _, said = await asyncio.wait_for(process.communicate(), 30)
    finally:
        if process.returncode is None:
            process.kill()
    return process.returncode or 0, said.decode()


async def noise(daemon: Daemon) -> None:
    """A guest that plays for ever."""
    block = np.random.default_rng(1).uniform(-0.5, 0.5, (4800, 2)).astype(np.float32)
    path = daemon.config.runtime / "default" / "native"
    async with connect(path, name="noise") as bus, bus.play(channels=2) as stream:
        while True:
            await stream.write(block)


def test_listener_with_full_output_says_why_and_exits_with_7(tmp_path: Path) -> None:
    async def main() -> None:
        daemon = Daemon(Config("127.0.0.1:0", runtime=tmp_path / "r", state=tmp_path / "state.db"))
        await daemon.start()
        token = tmp_path / "token"
        _, secret = await daemon.worker.access.new("t", Right.SEE | Right.HEAR, ["default"], 0)
        token.write_text(secret)
        token.chmod(0o600)
        playing = asyncio.create_task(noise(daemon))
        wav = tmp_path / "d" / "x.wav"
        try:
            outputs = ("raw:/dev/full", f"wav:{wav}")
            raw, (code, said) = await asyncio.gather(*(listened(daemon, token, to) for to in outputs))
            assert raw[0] == 7 and "millrace: raw:/dev/full: No space left on device" in raw[1], raw
            assert code == 7 and f"millrace: {wav}: " in said and "s were written" in said, said
            assert "Traceback" not in said
        finally:
            playing.cancel()
            await daemon.stop()
        with wave.open(str(wav)) as file:
            assert file.getnframes() == (wav.stat().st_size - 44) // 4 > 20_000

    with small_disk(tmp_path / "d"):
        asyncio.run(main())
