"""The sink that a guest begins with, removed and made again: a restart changes nothing of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from millrace.control.restored import restore
from millrace.control.store import StoredGuest
from millrace.daemon.app import Daemon
from millrace.observe.views import sink_view
from tests.bus import running
from tests.scenario.test_kept import ask


def sinks_of(daemon: Daemon) -> list[tuple[str, str, bool]]:
    """The sinks of the guest: name, description, and whether `default` finds it."""
    graph = daemon.worker.guest("alice").graph
    return [(sink.name, sink.description, sink.answers_to("default")) for sink in graph.sinks.values()]


@pytest.mark.parametrize(
    ("commands", "sinks", "default"),
    [
        ((("add", "music"), ("remove", "millrace")), {("music", "music", False)}, "music"),
        (
            (("add", "music"), ("remove", "millrace"), ("add", "millrace")),
            {("music", "music", False), ("millrace", "millrace", True)},
            "music",
        ),
        (
            (("add", "music"), ("remove", "millrace"), ("add", "default"), ("add", "millrace")),
            {("music", "music", False), ("default", "default", True), ("millrace", "millrace", False)},
            "music",
        ),
        (
            (("add", "music"), ("remove", "millrace"), ("add", "millrace"), ("remove", "music")),
            {("millrace", "millrace", True)},
            "millrace",
        ),
    ],
)
def test_first_sink_stays_as_it_was_left(
    commands: tuple[tuple[str, str], ...],
    sinks: set[tuple[str, str, bool]],
    default: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def change(daemon: Daemon) -> None:
        for verb, name in commands:
            await ask(daemon, f"sink.{verb}", guest="alice", **{"name" if verb == "add" else "sink": name})
        await same(daemon)

    async def same(daemon: Daemon) -> None:
        assert {
            (name, called if name != "millrace" else name, found) for name, called, found in sinks_of(daemon)
        } == sinks
        chosen = daemon.worker.guest("alice").graph.default
        assert chosen is not None and chosen.name == default

    async def counted_anew(daemon: Daemon) -> None:
        """The first sink is 0, its monitor is source 0, the microphone source 1, and then come the other sinks."""
        await same(daemon)
        guest = daemon.worker.guest("alice")
        door, mixes = guest.pulse.door, list(guest.graph.sinks.values())
        assert [door.sink_indexes.of(mix) for mix in mixes] == list(range(len(mixes)))
        sources = [mixes[0], guest.microphone, *mixes[1:]]
        assert [door.source_indexes.of(mix) for mix in sources] == list(range(len(sources)))

    for test in (change, counted_anew, counted_anew):
        running(tmp_path, test)
    assert "could not be restored" not in caplog.text


def test_default_source_is_shown_and_told(tmp_path: Path) -> None:
    async def test(daemon: Daemon) -> None:
        guest = daemon.worker.guest("alice")
        microphone, other = guest.microphone, guest.graph.add_source("other", "Other")
        touched: list[str] = []
        guest.graph.observers.append(lambda change, node: touched.append(node.key))

        def default() -> list[str]:
            return [mix.name for mix in guest.graph.sources.values() if sink_view(guest, mix).default]

        assert default() == ["microphone"]
        guest.pulse.door.set_default_source(other)
        assert default() == ["other"] and touched == [microphone.key, other.key]

    running(tmp_path, test)


def test_first_sink_stays_if_no_other_can_be_restored(tmp_path: Path) -> None:
    async def test(daemon: Daemon) -> None:
        restore(daemon.worker.guest("alice"), StoredGuest([("millrace", None)]))
        assert [(name, found) for name, _, found in sinks_of(daemon)] == [("millrace", True)]

    running(tmp_path, test)
