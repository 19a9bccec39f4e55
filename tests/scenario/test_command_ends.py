"""`millrace view` and `listen` that end before their time, or got nothing: each says why, with an exit code."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from millrace.daemon.app import Daemon
from millrace.guest.config import GuestConfig
from millrace.guest.machines.address import DoorSpec
from millrace.rights.model import Right
from tests.bus import config

PATIENCE_S = 240
"""For eight programs that start at once, on a machine that is busy."""
GUESTS = (GuestConfig("default"), GuestConfig("spare"), GuestConfig("waits"))


async def ran(*words: str, joined: asyncio.Event | None = None) -> tuple[int, str]:
    """The exit code and the messages of a command; `joined` is set once it is connected."""
    command = [sys.executable, "-m", "millrace.cli.main", *words]
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    said = ""
    try:
        assert process.stderr is not None
        async with asyncio.timeout(PATIENCE_S):
            async for line in process.stderr:
                said += line.decode()
                if "joined" in said and joined is not None:
                    joined.set()
            return await process.wait(), said
    finally:
        if process.returncode is None:
            process.kill()


def test_commands_that_got_nothing_or_were_ended_fail_with_the_cause(tmp_path: Path) -> None:
    async def main() -> None:
        daemon = Daemon(config(tmp_path, guests=GUESTS))
        await daemon.start()
        deadline = asyncio.get_running_loop().call_later(PATIENCE_S, asyncio.current_task().cancel)  # type: ignore[union-attr]
        tokens = {}
        for name, rights in (("all", Right.SEE | Right.HEAR | Right.WATCH), ("see", Right.SEE)):
            _, secret = await daemon.worker.access.new(name, rights, [one.name for one in GUESTS], 0)
            tokens[name] = tmp_path / name
            tokens[name].write_text(secret)
            tokens[name].chmod(0o600)

        def spare(*words: str, token: str = "all", guest: str = "spare") -> list[str]:
            url = f"{daemon.serving.url}/{guest}"
            return [words[0], url, *words[1:], "--token-file", str(tokens[token])]

        daemon.worker.attach(daemon.worker.guest("waits"), DoorSpec("x11", str(tmp_path / "X9")))
        try:
            events = [asyncio.Event(), asyncio.Event()]
            watching = asyncio.create_task(ran(*spare("view", "--to", "null:", "--sound", "null:"), joined=events[0]))
            hearing = asyncio.create_task(ran(*spare("listen", "--to", "null:"), joined=events[1]))
            empty = await asyncio.gather(
                ran(*spare("view", "--to", str(tmp_path / "a.png"))),
                ran(*spare("view", "--to", str(tmp_path / "a.mkv"), "--seconds", "10", "-q")),
                ran(*spare("view", "--to", "null:", token="see")), ran(*spare("listen", "--to", "null:", token="see")),
                ran("view", "ws://127.0.0.1:1/x", "--to", "null:", "--seconds", "1", "-q"),
                ran("listen", "ws://127.0.0.1:1/x", "--to", "null:", "--seconds", "1", "-q"),
                ran(*spare("view", "--to", str(tmp_path / "a.png"), guest="waits")),
            )  # fmt: skip
            none = "guest spare has no screen; attach one: `millrace attach --help`"
            assert [code for code, _ in empty] == [3, 3, 4, 4, 6, 6, 3]
            assert empty[0][1].endswith(f"millrace: {none}\n")
            assert empty[1][1] == f"millrace: nothing was written: no picture arrived within 10 s; {none}\n"
            assert "this token may not watch spare: it needs the right `watch`" in empty[2][1]
            assert "this token may not hear spare: it needs the right `hear`" in empty[3][1]
            for _, said in empty[4:6]:
                assert "can't connect to 127.0.0.1:1 (Connection refused)" in said
            door = str(tmp_path / "X9")
            assert f"millrace: guest waits has no screen: x11:{door}: no X server at" in empty[6][1], empty[6]
            for joined in events:
                await asyncio.wait_for(joined.wait(), PATIENCE_S)
            # A viewer belongs to its listener as soon as both are connected, though no sound has been played yet.
            guest = daemon.worker.guest("spare")
            while not any(viewer.listener for viewer in guest.viewers.sessions):
                await asyncio.sleep(0.02)
            await daemon.worker.remove_guest("spare")
            for kind, ended in (("viewer", await watching), ("listener", await hearing)):
                assert ended[0] == 6 and f"the daemon has ended this {kind}: the guest was removed" in ended[1], ended
        finally:
            deadline.cancel()
            await daemon.stop()
        assert not (tmp_path / "a.png").exists() and not (tmp_path / "a.mkv").exists()

    asyncio.run(main())
