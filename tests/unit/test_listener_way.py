"""What a listener is told that can't connect."""

from __future__ import annotations

import asyncio
import socket

import aiohttp
import pytest

from millrace.client.endpoint import hindrance
from millrace.client.options import ListenerOptions


@pytest.mark.parametrize(("host", "said"), [
    ("127.0.0.1", "can't connect to 127.0.0.1:{port} (Connection refused); is `millrace serve` running there?"),
    ("nowhere.invalid", "there is no host nowhere.invalid"),
])  # fmt: skip
def test_who_cannot_connect_is_told_what_is_not_there(host: str, said: str) -> None:
    async def tried(port: int) -> str:
        async with aiohttp.ClientSession() as http:
            with pytest.raises(aiohttp.ClientConnectorError) as found:
                await http.get(f"http://{host}:{port}/")
        return hindrance(ListenerOptions(), found.value)

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        assert asyncio.run(tried(port)) == said.format(port=port)
