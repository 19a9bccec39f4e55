"""How an HTTP connection ends: in time, although its peer reads nothing, and without what its errors hold."""

from __future__ import annotations

import asyncio
from asyncio.sslproto import _SSLProtocolTransport
from typing import Any
from unittest.mock import Mock

import pytest
from aiohttp import web

from millrace.errors import bare
from millrace.server.http.connection import HttpConnection
from millrace.server.http.reading import ReadInTime, unwritten, waiting

from ..virtual import run

CLOSES = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
REST = b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n"


@pytest.fixture(autouse=True)
def kernel(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """What the kernel holds for the peer."""
    held = {"unread": 0}
    monkeypatch.setattr("millrace.server.http.reading.unread", lambda transport: held["unread"])
    return held


async def answered(request: web.BaseRequest) -> web.StreamResponse:
    return web.Response(text="yes")


def connected() -> tuple[HttpConnection, Any]:
    """A connection, and its transport, which stays open however it is closed."""
    loop = asyncio.get_running_loop()
    connection, transport = HttpConnection(web.Server(answered), loop=loop, lingering_time=0.1), Mock()
    transport.is_closing.return_value = False
    transport.get_write_buffer_size.return_value = 100_000
    connection.connection_made(transport)
    return connection, transport


@pytest.mark.parametrize("given_up", [True, False])
def test_request_that_ends_just_after_a_stop_has_given_it_up_is_no_error(
    given_up: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        waiter = asyncio.get_running_loop().create_future()

        async def ended(request: web.BaseRequest) -> web.StreamResponse:
            # As aiohttp's `shutdown` does; another error of that kind is still one.
            connection._handler_waiter = waiter
            waiter.cancel() if given_up else waiter.set_result(None)
            return web.Response(text="yes")

        connection = HttpConnection(web.Server(ended), loop=asyncio.get_running_loop())
        transport = Mock()
        transport.is_closing.return_value = False
        transport.get_write_buffer_size.return_value = 0
        connection.connection_made(transport)
        await asyncio.sleep(0)
        connection.data_received(CLOSES)
        await asyncio.sleep(0.05)
        assert connection._handler_waiter is waiter
        connection.connection_lost(None)

    run(main())
    assert bool(caplog.records) is not given_up


@pytest.mark.parametrize("end", ["answered", "end of file", "closed meanwhile"])
def test_closed_connection_that_is_not_read_is_cut(monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    monkeypatch.setattr("millrace.server.http.connection.CLOSE_TIMEOUT_S", 0.05)

    async def main() -> None:
        connection, transport = connected()
        await asyncio.sleep(0)
        if end == "answered":
            connection.data_received(CLOSES)
        else:
            connection.eof_received()
        await asyncio.sleep(0.01)
        if end == "closed meanwhile":
            connection.connection_lost(None)
            await asyncio.sleep(0.1)
            assert not transport.abort.called
            return
        async with asyncio.timeout(5):
            while not transport.abort.called:
                await asyncio.sleep(0.01)
        connection.connection_lost(None)

    run(main())


def test_closed_connection_is_not_cut_while_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("millrace.server.http.connection.CLOSE_TIMEOUT_S", 0.02)

    async def main() -> None:
        connection, transport = connected()
        left = [100_000, 60_000, 30_000, 10_000, 9_990]
        transport.get_write_buffer_size.side_effect = lambda: left.pop(0)
        await asyncio.sleep(0)
        connection.eof_received()
        async with asyncio.timeout(5):
            while left:
                assert not transport.abort.called
                await asyncio.sleep(0.005)
        assert transport.abort.called
        connection.connection_lost(None)

    run(main())


@pytest.mark.parametrize("reads", [True, False])
def test_response_may_take_long_while_it_is_read(monkeypatch: pytest.MonkeyPatch, reads: bool) -> None:
    monkeypatch.setattr("millrace.server.http.reading.READ_S", 0.08)

    async def main() -> None:
        transport, left = Mock(), 100_000

        def unread() -> int:
            nonlocal left
            left -= 5_000 if reads else 1
            return left

        transport.is_closing.return_value = False
        transport.get_write_buffer_size = unread
        async with ReadInTime(transport):
            await asyncio.sleep(0.3)

    if reads:
        run(main())
    else:
        with pytest.raises(TimeoutError):
            run(main())


@pytest.mark.parametrize("reads", [True, False])
def test_what_the_kernel_holds_counts_as_unread(
    monkeypatch: pytest.MonkeyPatch, kernel: dict[str, int], reads: bool
) -> None:
    """It takes megabytes at once: for minutes what is written grows, or only what it holds changes."""
    monkeypatch.setattr("millrace.server.http.reading.READ_S", 0.08)

    async def main() -> None:
        transport, written = Mock(), 4_000_000
        transport.is_closing.return_value = False
        transport.get_write_buffer_size.return_value = 100_000
        kernel["unread"] = 3_900_000
        async with ReadInTime(transport, lambda: written):
            for _ in range(20):
                await asyncio.sleep(0.02)
                written += 10_000
                kernel["unread"] += 0 if reads else 10_000

    if reads:
        run(main())
    else:
        with pytest.raises(TimeoutError):
            run(main())


def test_tls_connection_that_was_closed_twice_has_nothing_unread() -> None:
    """asyncio's transport of TLS cannot be asked any more."""
    lower = Mock(_app_protocol=None)
    lower._get_write_buffer_size.return_value = 7
    transport = _SSLProtocolTransport(Mock(), lower)
    assert unwritten(transport) == 7
    transport.close()
    assert unwritten(transport) == 7
    transport.close()
    assert unwritten(transport) is None and waiting(transport) == 0


def test_error_in_asking_a_transport_is_not_taken_for_its_end() -> None:
    lower = Mock(_app_protocol=None)
    lower._get_write_buffer_size = lambda: lower.missing.name
    lower.missing = b""
    with pytest.raises(AttributeError, match="'bytes' object"):
        unwritten(_SSLProtocolTransport(Mock(), lower))


def test_body_that_breaks_off_after_its_answer_keeps_no_frames() -> None:
    async def main() -> None:
        connection, _ = connected()
        task = connection._task_handler
        connection.data_received(REST)
        await asyncio.sleep(0.02)
        connection.data_received(b"zz\r\n")
        error = connection._messages[-1][0].exc  # type: ignore[union-attr]
        assert error.__traceback__ is not None and task is not None
        await asyncio.gather(task, return_exceptions=True)
        assert error.__traceback__ is None and not connection._messages

    run(main())


def test_error_is_bared_with_those_that_led_to_it() -> None:
    try:
        try:
            raise ValueError("first")
        except ValueError as first:
            raise KeyError("second") from first
    except KeyError as second:
        assert second.__cause__ is not None
        # Two that refer to each other.
        second.__cause__.__context__ = second
        bare(second)
        assert second.__traceback__ is None and second.__cause__.__traceback__ is None
        second.__cause__.__context__ = None
    bare(None)


def test_malformed_request_is_refused_without_its_own_bytes() -> None:
    async def main() -> None:
        connection, transport = connected()
        await asyncio.sleep(0)
        connection.data_received(b"GET / HTTP/1.1\r\nHost: a\x01ValueError\r\n\r\n")
        async with asyncio.timeout(5):
            while not transport.close.called:
                await asyncio.sleep(0.005)
        written = [*transport.write.call_args_list, *transport.writelines.call_args_list]
        sent = b"".join(b"".join(one.args[0]) if isinstance(one.args[0], list) else one.args[0] for one in written)
        assert sent.startswith((b"HTTP/1.0 400", b"HTTP/1.1 400"))
        assert sent.endswith(b"\r\n\r\nInvalid header value char"), sent
        connection.connection_lost(None)

    run(main())
