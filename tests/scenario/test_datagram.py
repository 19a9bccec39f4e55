"""Datagrams over loopback, with a session that echoes them, greets after a while, and times out."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

import pytest
import uvloop

from millrace.errors import PeerLost, RemoteProtocolError
from millrace.io.clock import now_ns
from millrace.io.datagram import DatagramRunner
from millrace.io.listeners import bind_udp
from millrace.units import NS_PER_MS, HostNs
from millrace.wire.contract import Address, Datagram, DatagramWire


class Echo:
    """Echoes every datagram, sends `later` to the first sender, and ends when nothing has arrived for a while."""

    def __init__(self, now_ns: HostNs, timeout_ns: HostNs = 10_000 * NS_PER_MS) -> None:
        self._out: list[Datagram] = []
        self._events: list[bytes] = []
        self._timeout_ns, self._until_ns = timeout_ns, now_ns + timeout_ns
        self._later: tuple[HostNs, Address] | None = None
        self._greeted = False

    def receive(self, data: Datagram, now_ns: HostNs) -> None:
        if data.payload == b"bad":
            raise RemoteProtocolError("a bad one")
        self._until_ns = now_ns + self._timeout_ns
        self._out.append(data)
        self._events.append(data.payload)
        if not self._greeted:
            self._greeted, self._later = True, (now_ns + 20 * NS_PER_MS, data.address)

    def events(self) -> list[bytes]:
        out, self._events = self._events, []
        return out

    def data_to_send(self) -> list[Datagram]:
        out, self._out = self._out, []
        return out

    def next_timeout(self) -> HostNs | None:
        return self._until_ns if self._later is None else min(self._until_ns, self._later[0])

    def handle_timeout(self, now_ns: HostNs) -> None:
        if now_ns >= self._until_ns:
            raise PeerLost("nobody speaks")
        if self._later is not None and now_ns >= self._later[0]:
            self._out.append(Datagram(b"later", self._later[1]))
            self._later = None


Test = Callable[[Echo, DatagramRunner, list[bytes], list[Exception], socket.socket], Awaitable[None]]


@pytest.fixture(params=["127.0.0.1", "::1"])
def host(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def running(host: str, test: Test, timeout_ns: HostNs = 10_000 * NS_PER_MS) -> None:
    async def main() -> None:
        heard: list[bytes] = []
        ends: list[Exception] = []
        wire = Echo(now_ns(), timeout_ns)
        session: DatagramWire[bytes] = wire
        runner = DatagramRunner(session, lambda: heard.extend(wire.events()), ends.append)
        bound = bind_udp(host, 0)
        with socket.socket(bound.family, socket.SOCK_DGRAM) as peer:
            peer.setblocking(False)
            peer.connect(bound.getsockname())
            await runner.start(bound)
            await test(wire, runner, heard, ends, peer)
            runner.close()
            await asyncio.sleep(0)

    uvloop.run(main())


async def said(peer: socket.socket) -> bytes:
    async with asyncio.timeout(10):
        return await asyncio.get_running_loop().sock_recv(peer, 2000)


def test_each_datagram_is_answered_and_deadlines_are_kept(host: str) -> None:
    async def test(
        wire: Echo, runner: DatagramRunner, heard: list[bytes], ends: list[Exception], peer: socket.socket
    ) -> None:
        peer.send(b"one")
        peer.send(b"x" * 1400)
        assert {await said(peer) for _ in range(3)} == {b"one", b"x" * 1400, b"later"}
        assert heard == [b"one", b"x" * 1400] and not ends and not runner.lost

    running(host, test)


def test_each_peer_is_answered_at_its_own_address(host: str) -> None:
    async def test(
        wire: Echo, runner: DatagramRunner, heard: list[bytes], ends: list[Exception], peer: socket.socket
    ) -> None:
        with socket.socket(peer.family, socket.SOCK_DGRAM) as other:
            other.setblocking(False)
            other.connect(peer.getpeername())
            for n in range(20):
                peer.send(b"mine %d" % n)
                other.send(b"other's %d" % n)
            async with asyncio.timeout(10):
                while len(heard) < 40:
                    await asyncio.sleep(0.005)
            mine, others = [await said(peer) for _ in range(21)], [await said(other) for _ in range(20)]
        assert [one for one in mine if one != b"later"] == [b"mine %d" % n for n in range(20)]
        assert others == [b"other's %d" % n for n in range(20)] and not ends

    running(host, test)


@pytest.mark.parametrize("bad", [True, False], ids=["bad", "silent"])
def test_session_ends_once_and_closes_its_socket(bad: bool) -> None:
    async def test(
        wire: Echo, runner: DatagramRunner, heard: list[bytes], ends: list[Exception], peer: socket.socket
    ) -> None:
        if bad:
            peer.send(b"bad")
            peer.send(b"bad")
        async with asyncio.timeout(10):
            while not ends:
                await asyncio.sleep(0.005)
            with pytest.raises(ConnectionRefusedError):
                while True:
                    peer.send(b"anybody?")
                    await asyncio.sleep(0.005)
        assert [type(end) for end in ends] == [RemoteProtocolError if bad else PeerLost]
        runner.flush()

    running("127.0.0.1", test, timeout_ns=(10_000 if bad else 50) * NS_PER_MS)
