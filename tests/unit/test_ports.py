"""Of tests.ports: ports for the servers that tests start."""

from __future__ import annotations

import socket

import pytest

from tests import ports
from tests.ports import free_port


def test_port_is_one_that_nobody_has() -> None:
    first = free_port()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", first))
        others = [free_port() for _ in range(ports._TRIES)]
    # Other programs of this host may have some of them.
    assert first not in others and ports._TRIES // 2 < len(set(others)) < ports._TRIES


def test_without_a_free_port_the_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    class Taken(socket.socket):
        def bind(self, address: object) -> None:
            raise OSError("taken")

    monkeypatch.setattr(socket, "socket", Taken)
    with pytest.raises(OSError, match=r"all ports of 127\.0\.0\.1 from \d+ to \d+ are taken"):
        free_port()
