"""Common to all wires: foreign JSON and MessagePack, arguments of commands, bytes with descriptors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace.errors import RemoteProtocolError
from millrace.wire.arguments import Arguments
from millrace.wire.chunk import Chunk
from millrace.wire.decoding import json_value, understood

DEEP = 100_000


class Both(msgspec.Struct):
    """A message of some form."""

    name: str
    count: int = 0


FORMS: list[tuple[Callable[[Any], Any], Callable[[Any], Any]]] = [
    (msgspec.json.encode, msgspec.json.Decoder(Both).decode),
    (msgspec.msgpack.encode, msgspec.msgpack.Decoder(Both).decode),
]


@pytest.mark.parametrize(("encode", "decode"), FORMS)
def test_message_is_decoded_or_error_says_what_is_wrong(
    encode: Callable[[Any], Any], decode: Callable[[Any], Any]
) -> None:
    assert understood(decode, encode({"name": "x", "count": 3, "new": True})) == Both("x", 3)
    for wrong, why in ((5, "Expected `object`, got `int`"), ({}, "`name`"), ({"name": 1}, r"`\$.name`")):
        with pytest.raises(RemoteProtocolError, match=f"message not understood: .*{why}"):
            understood(decode, encode(wrong))


@pytest.mark.parametrize("decode", [msgspec.json.decode, msgspec.msgpack.decode])
@given(data=st.binary(max_size=60))
def test_any_bytes_are_decoded_or_refused(decode: Callable[[Any], Any], data: bytes) -> None:
    try:
        understood(decode, data)
    except RemoteProtocolError as error:
        assert str(error).isprintable() and error.__cause__ is None and error.__suppress_context__


def test_too_deep_nesting_and_invalid_utf_8_are_told_apart() -> None:
    for decode, data in ((msgspec.json.decode, b"[" * DEEP), (msgspec.msgpack.decode, b"\x91" * DEEP)):
        with pytest.raises(RemoteProtocolError, match="nested too deeply"):
            understood(decode, data)
    for decode, data in ((msgspec.json.decode, b'"\xff"'), (msgspec.msgpack.decode, b"\xa1\xff")):
        with pytest.raises(RemoteProtocolError, match="not understood"):
            understood(decode, data)
    with pytest.raises(RemoteProtocolError, match="not UTF-8"):
        understood(msgspec.json.decode, '"\udc80"')


def test_internal_error_is_not_blamed_on_peer() -> None:
    def broken(data: bytes) -> None:
        raise KeyError("ours")

    with pytest.raises(KeyError):
        understood(broken, b"")


def test_any_json_value_is_accepted_but_must_be_json() -> None:
    assert json_value(b' {"a": [1, 2.5, null, "\\u00e4"]} ') == {"a": [1, 2.5, None, "ä"]}
    for data in (b"", b"{", b"nan", b'"\\ud800"', b"{} {}", b"\xff", b"1" * 5000 + b"x"):
        with pytest.raises(RemoteProtocolError, match="message not understood"):
            json_value(data)


class Taken(Arguments):
    """The arguments of a command."""

    guests: list[str] = msgspec.field(default_factory=list)


def test_unknown_argument_is_refused() -> None:
    """If `guest` were ignored where `guests` is meant, a token would apply to all guests."""
    assert msgspec.convert({"guests": ["alice"]}, Taken).guests == ["alice"] and Taken() == Taken([])
    with pytest.raises(msgspec.ValidationError, match="unknown field `guest`"):
        msgspec.convert({"guest": "alice"}, Taken)
    with pytest.raises(msgspec.ValidationError, match="unknown field `guest`"):
        msgspec.json.decode(b'{"guest": "alice"}', type=Taken)


def test_bytes_travel_with_their_own_descriptors() -> None:
    one, two = Chunk(), Chunk(bytearray(b"x"), (5,), give=True)
    one.data += b"y"
    assert bytes(Chunk().data) == b"" and Chunk().fds == () and not Chunk().give, "nobody else's bytes"
    assert (bytes(two.data), two.fds, two.give) == (b"x", (5,), True)
    assert one != two and not hasattr(one, "__dict__")
