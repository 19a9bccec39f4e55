"""Finding a guest's objects by the keys that users type, and parsing levels."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from millrace.errors import ConfigError
from millrace.guest.find import find_mix, find_sink, node_of, parse_volume, split_key
from millrace.guest.notfound import NotFound
from millrace.sim.rig import Rig
from tests.unit.test_graph import add


@pytest.fixture
def guest() -> Any:
    """A guest with two sinks, a source and a stream."""
    rig = Rig()
    rig.graph.add_sink("music", "Music")
    rig.graph.add_source("microphone", "Microphone")
    return SimpleNamespace(name="alice", graph=rig.graph, stream=add(rig))


@pytest.mark.parametrize(
    ("text", "gain"),
    [
        ("100%", 1.0), ("50%", 0.125), (" 200 % ", 8.0), ("0%", 0.0), ("400%", 64.0), ("0dB", 1.0), ("-6DB", 0.50119),
        ("+36db", 63.0957), ("-200 dB", 1e-10),
    ],
)  # fmt: skip
def test_volume_is_cubic_percentage_or_level(text: str, gain: float) -> None:
    assert parse_volume(text) == pytest.approx(gain, rel=1e-4)


@pytest.mark.parametrize(
    "text", ["400.1%", "-1%", "36.1dB", "-201dB", "nan%", "infdB", "%", "dB", "50", "50percent", ""]
)
def test_invalid_volume_is_refused_with_valid_forms(text: str) -> None:
    with pytest.raises(ConfigError, match="volume: ") as refused:
        parse_volume(text)
    assert any(word in str(refused.value) for word in ("0% to 400%", "-200db to 36db", "50% nor a level such as -6dB"))


def test_key_is_kind_and_name_that_may_contain_slash() -> None:
    assert split_key("sink/music") == ("sink", "music") and split_key("sink/a/b") == ("sink", "a/b")
    for key in ("music", "sink/", "", "\x1b[2J"):
        with pytest.raises(ConfigError, match="give a name as `millrace ls` shows it") as refused:
            split_key(key)
        assert "\x1b" not in str(refused.value)


def test_sinks_are_found_by_name_former_name_and_number(guest: Any) -> None:
    first, music = guest.graph.sinks.values()
    assert find_sink(guest, "music") is find_sink(guest, str(music.id)) is music
    assert find_sink(guest, "default") is first
    assert find_sink(guest, "microphone") is None and find_sink(guest, "99") is None


def test_nodes_are_found_only_by_their_own_kind(guest: Any) -> None:
    (source,) = guest.graph.sources.values()
    stream = guest.stream
    assert node_of(guest, "stream", str(stream.id)) is stream
    assert node_of(guest, "sink", "music").name == "music" and node_of(guest, "source", "microphone") is source
    assert node_of(guest, "source", str(source.id)) is source
    for kind, name in (
        ("stream", "tone"), ("stream", "99"), ("stream", f"+{stream.id}"), ("sink", "microphone"), ("source", "music"),
        ("tap", str(stream.id)), ("listener", "music"),
    ):  # fmt: skip
        assert node_of(guest, kind, name) is None, (kind, name)


def test_link_target_must_be_sink_or_source(guest: Any) -> None:
    assert find_mix(guest, "sink/music").name == "music" and find_mix(guest, "source/microphone").capture
    for key in ("sink/microphone", "stream/1", "sink/\x1b[2J"):
        with pytest.raises(
            NotFound, match=r"guest alice has no .*; it has sink/millrace, sink/music, source/microphone"
        ):
            find_mix(guest, key)
    with pytest.raises(ConfigError):
        find_mix(guest, "music")
