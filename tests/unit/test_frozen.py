"""States in versions that can't be continued from, or damaged, are refused with a sentence."""

from __future__ import annotations

import dataclasses

import msgspec
import pytest

from millrace.doors.frozen import read_frozen
from millrace.errors import ConfigError
from millrace.graph import model, state


class Lamp(msgspec.Struct):
    version: int
    name: str
    lit: bool = False


def test_version_in_range_is_read_with_defaults_of_new_fields() -> None:
    assert read_frozen(msgspec.msgpack.encode({"version": 4, "name": "a"}), Lamp, range(4, 6), "lamp") == Lamp(4, "a")


@pytest.mark.parametrize("version", [3, 6])
def test_other_version_is_refused_whatever_else_it_holds(version: int) -> None:
    said = f"a lamp was frozen in version {version} of its state, and this Millrace continues from 4 to 5 only"
    with pytest.raises(ConfigError, match=said):
        read_frozen(msgspec.msgpack.encode({"version": version, "name": 7}), Lamp, range(4, 6), "lamp")


WHOLE = msgspec.msgpack.encode({"version": 4, "name": "first"})


@pytest.mark.parametrize(
    "data",
    [b"", b"\xc1", WHOLE[:-1], WHOLE + b"\0", b"\x81\xa7version\xa11", b"\x80", b"\x91" * 100_000,
     WHOLE.replace(b"first", b"fir\xff\xff"), WHOLE.replace(b"\xa5first", b"\xc0")],
    ids=range(9),
)  # fmt: skip
def test_damaged_states_are_refused_with_a_sentence(data: bytes) -> None:
    with pytest.raises(ConfigError, match=r"the state of a frozen lamp can't be read: .*; start the lamp anew"):
        read_frozen(data, Lamp, range(4, 6), "lamp")


BY_ACCOUNT = {"account", "charges"}
"""Frozen as the parts that the account holds."""


@pytest.mark.parametrize(
    ("node", "frozen", "other"),
    [
        (model.Stream, state.StreamState, {"ducked", "feed", "lane", "links", "stash", "taps", "trace"}),
        (model.Sink, state.SinkState, {"latest", "links", "master", "taps", "trace"}),
        (model.Tap, state.TapState, {"consumer", "sink", "source", "trace"}),
    ],
)
def test_a_new_field_of_a_node_is_frozen_too(node: type, frozen: type, other: set[str]) -> None:
    """`other` are frozen by their doors or sessions, under another name, or made anew."""
    kept = {field.name for field in msgspec.structs.fields(frozen)}
    assert {field.name for field in dataclasses.fields(node)} - kept == other | BY_ACCOUNT
