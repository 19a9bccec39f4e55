"""The fuzz's verdicts: they accept the ways in which each protocol may end, and nothing else."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import pytest

from millrace.wire.native.messages import Fault, Reply, frame
from millrace.wire.pulse.constants import COOKIE_BYTES, Command, Err
from millrace.wire.pulse.session import HEADER
from tests.fuzz import clientseeds, verdicts
from tests.fuzz.verdicts import Heard

Verdict = Callable[[Heard], str]


def command(payload: bytes) -> bytes:
    return HEADER.pack(len(payload), 2**32 - 1, 0, 0, 0) + payload


def failed(code: int) -> bytes:
    return command(struct.pack(">BIBIBI", 76, Command.ERROR, 76, 5, 76, code))


def answer(status: int, body: bytes = b"") -> bytes:
    return f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def closing(code: int) -> bytes:
    return b"\x88\x02" + code.to_bytes(2, "big")


DONE = frame(Reply(3, {}))
BROKEN = frame(Fault(0, "protocol", "a message of kind 9 from the wrong side"))
RIGHT: list[tuple[Verdict, bytes]] = [
    (verdicts.pulse, b""),
    (verdicts.pulse, failed(Err.NOENTITY)),
    (verdicts.pulse, HEADER.pack(4, 0, 0, 0, 0) + b"abcd"),
    (verdicts.native, DONE + BROKEN),
    (verdicts.http, answer(200) + answer(400, b"the body can't be read\n")),
    (verdicts.http, answer(503, b'{"ready": false}')),
    (verdicts.websocket, b'\x81\x0e{"type":"bye"}' + closing(1000)),
    (verdicts.websocket, closing(1002)),
    (verdicts.handed, b'{"error": "fd is not a socket"}\n'),
    (verdicts.handed, b'{"id": "door/3", "error": ""}\n'),
]
WRONG: list[tuple[Verdict, bytes]] = [
    (verdicts.pulse, failed(Err.NOENTITY)[:-3]),
    (verdicts.pulse, failed(Err.INTERNAL)),
    (verdicts.pulse, failed(99)),
    (verdicts.pulse, command(struct.pack(">BIBI", 76, Command.AUTH, 76, 5))),
    (verdicts.pulse, b"\0\0\0\4"),
    (verdicts.native, b""),
    (verdicts.native, DONE),
    (verdicts.native, DONE + BROKEN[:-4]),
    (verdicts.native, BROKEN + DONE),
    (verdicts.native, frame(Fault(0, "internal", "a bug"))),
    (verdicts.native, frame(Fault(0, "odd", "why"))),
    (verdicts.native, frame(Fault(0, "protocol", "KeyError: 5"))),
    (verdicts.http, b""),
    (verdicts.http, b"what?"),
    (verdicts.http, answer(500, b"sorry")),
    (verdicts.http, answer(400)),
    (verdicts.http, answer(404, b"Traceback (most recent call last)")),
    (verdicts.websocket, b""),
    (verdicts.websocket, b'\x81\x0e{"type":"bye"}'),
    (verdicts.websocket, closing(1011)),
    (verdicts.websocket, closing(1000)[:1]),
    (verdicts.websocket, b"\x83\0" + closing(1000)),
    (verdicts.handed, b""),
    (verdicts.handed, b"{}"),
    (verdicts.handed, b'{"error": ""}'),
    (verdicts.handed, b'{"error": "an internal error; the log has it"}'),
    (verdicts.handed, b"no JSON"),
]


@pytest.mark.parametrize(("verdict", "data"), RIGHT)
def test_correct_protocol_endings_are_accepted(verdict: Verdict, data: bytes) -> None:
    assert verdict(Heard(bytearray(data), ended=True)) == ""


@pytest.mark.parametrize(("verdict", "data"), WRONG)
def test_any_other_ending_is_found(verdict: Verdict, data: bytes) -> None:
    assert verdict(Heard(bytearray(data), ended=True))


@pytest.mark.parametrize("verdict", [verdicts.pulse, verdicts.native, verdicts.http, verdicts.websocket])
def test_open_connection_may_stop_within_a_message(verdict: Verdict) -> None:
    for data in (b"", failed(Err.BUSY)[:-3] if verdict is verdicts.pulse else DONE[:-1]):
        if verdict in (verdicts.pulse, verdicts.native) or not data:
            assert verdict(Heard(bytearray(data))) == ""


def door(**said: Any) -> dict[str, Any]:
    return {"door": "vnc://h", "state": "waiting", "sessions": 1, "error": "the server refuses"} | said


def test_machine_door_status_must_be_readable() -> None:
    assert not verdicts.door(door()) and not verdicts.door(door(state="attached", error=""))
    assert verdicts.door(door(error="")) and verdicts.door(door(error="TLS: [SSL] (_ssl.c:1006)"))


def test_cookie_is_inserted_at_its_place() -> None:
    cookie = bytes(range(1, 256)) + b"\xff"
    first = clientseeds.pulse()[0][0][0]
    made = clientseeds.with_cookie(first, cookie)
    assert len(made) == len(first) and made.endswith(cookie) and made[: -len(cookie)] == first[: -len(cookie)]
    assert clientseeds.with_cookie(bytes(2 * COOKIE_BYTES), cookie) == bytes(2 * COOKIE_BYTES)
