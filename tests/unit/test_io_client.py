"""Why a machine was not reached, in words that say what to change."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest

from millrace.errors import PeerLost
from millrace.io import client
from millrace.io.client import ClientConnection, Mute, _why_not
from millrace.io.runner import StreamRunner
from millrace.io.sockets import why_not_unix

REFUSED = ConnectionRefusedError(111, "Connection refused")


def connect(ended: list[str]) -> ClientConnection:
    return ClientConnection(Mock(), lambda now: None, lambda why: ended.append(str(why)))


def test_display_number_is_recognised() -> None:
    assert _why_not(REFUSED, "vm7", 1, "") == "Connection refused (display :1 is port 5901)"
    assert _why_not(REFUSED, "vm7", 5901, "") == "Connection refused"


def test_path_that_is_not_a_socket_is_reported(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")

    async def tried() -> None:
        await connect([]).connect("", 0, str(file), None)

    with pytest.raises(PeerLost, match="it is not a socket"):
        asyncio.run(tried())
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "s"))
    assert why_not_unix(REFUSED, str(tmp_path / "s")) == why_not_unix(REFUSED, "\0abstract") == "Connection refused"


def test_connection_made_as_its_caller_gives_up_is_reported_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """An event loop that is cut off by a timeout after `connection_made` never calls `connection_lost`."""

    async def tried() -> None:
        ended: list[str] = []
        one = connect(ended)
        one._core.next_timeout.return_value = None  # type: ignore[attr-defined]
        one._core.data_to_send.return_value = b""  # type: ignore[attr-defined]

        async def too_late(factory: Callable[[], StreamRunner], *_: object, **__: object) -> None:
            factory().connection_made(Mock())
            raise TimeoutError

        monkeypatch.setattr(
            type(asyncio.get_running_loop()), "create_connection", lambda loop, *a, **k: too_late(*a, **k)
        )
        with pytest.raises(PeerLost, match="no answer at vm7:5901"):
            await one.connect("vm7", 5901, "", None)
        assert ended == [] and one._runner._lost
        one.closed()
        assert ended == []

    asyncio.run(tried())


def test_reset_before_first_byte_suggests_tls() -> None:
    ended: list[str] = []
    for plain in (True, False):
        one = connect(ended)
        one._plain = plain
        one.broke(ConnectionResetError(104, "Connection reset by peer"))
        one.closed()
    lost = "the connection was lost: Connection reset by peer"
    assert ended == [f"{lost}; if this is a TLS port of SPICE, add --tls", lost]


async def lingers(path: Path, closes: bool) -> tuple[bytes, list[str]]:
    """What a peer gets of one that is left after a last word, and who is told of its end."""
    got, told = bytearray(), list[str]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"unheard")
        while data := await reader.read(100):
            got.extend(data)
        if closes:
            writer.close()

    server = await asyncio.start_unix_server(serve, path)
    core = Mute()
    one = ClientConnection(core, lambda now: told.append("after"), lambda why: told.append("ended"))
    await one.connect("", 0, str(path), None)
    core.data_to_send = lambda: b"last word"  # type: ignore[method-assign]
    gone = asyncio.Event()
    one.linger(gone.set)
    async with asyncio.timeout(10):
        await gone.wait()
    server.close()
    return bytes(got), told


@pytest.mark.parametrize("closes", [True, False])
def test_peer_of_one_that_lingers_gets_all_and_has_time_to_read_it(
    closes: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "LINGER_S", 60 if closes else 0.05)
    assert asyncio.run(lingers(tmp_path / "s", closes)) == (b"last word", [])


def test_connection_that_was_never_made_does_not_linger() -> None:
    ended, gone = list[str](), list[str]()
    connect(ended).linger(lambda: gone.append("gone"))
    assert gone == ["gone"] and not ended
