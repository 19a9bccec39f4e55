"""Reading a configuration table: types, defaults, and what an error says."""

from __future__ import annotations

from typing import Any

import pytest

from millrace.errors import ConfigError
from millrace.io.toml import Table


def test_values_are_typed_and_defaults_apply() -> None:
    table = Table({"name": "a", "on": False, "many": ["x"], "inner": {"deep": "d"}, "free": 7}, "outer")
    assert (table.text("name"), table.take("on", bool, True), table.texts("many")) == ("a", False, ["x"])
    assert (table.text("none"), table.take("none", bool, True), table.texts("none", ("d",))) == ("", True, ["d"])
    assert (table.any("free"), table.any("none", 3)) == (7, 3)
    inner = table.table("inner")
    assert inner.where == "outer.inner" and inner.rest() == {"deep": "d"}
    inner.end()
    table.end()


@pytest.mark.parametrize(
    ("value", "kind", "told"),
    [
        (5, str, "outer.key must be a string, not 5"), ("yes", bool, "outer.key must be true or false, not 'yes'"),
        (True, list, "outer.key must be a list, not true"), ([], dict, "outer.key must be a table, not []"),
    ],
)  # fmt: skip
def test_value_of_wrong_type_is_named(value: Any, kind: type, told: str) -> None:
    with pytest.raises(ConfigError) as said:
        Table({"key": value}, "outer").take("key", kind)
    assert str(said.value) == told


def test_path_may_start_in_home_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    table = Table({"cert": "~/c.pem", "key": "k.pem"})
    assert [table.path(key) for key in ("cert", "key", "none")] == ["/home/ann/c.pem", "k.pem", ""]


def test_list_holds_strings_only() -> None:
    with pytest.raises(ConfigError, match=r"^key must be a list of strings"):
        Table({"key": ["a", 1]}).texts("key")


def test_unknown_key_is_named_with_known_ones() -> None:
    table = Table({"b": "", "sp\x1beed": 1, "colour": 2}, "outer")
    table.text("a"), table.text("b")
    with pytest.raises(ConfigError) as said:
        table.end()
    assert str(said.value) == r"outer: unknown colour, sp\x1beed; known: a, b"
