"""Sinks, sources and modules as PulseAudio clients know them: names, defaults, maps, arguments, what modules make."""

from __future__ import annotations

from pathlib import Path

import pytest

from millrace.daemon.app import Daemon
from millrace.daemon.store import Store
from millrace.errors import GraphError
from millrace.sim.rig import Rig
from millrace.wire.pulse.constants import NO_INDEX, Command

from .test_native import of_daemon, running


def test_the_first_sink_has_a_name_that_no_program_takes_for_none_and_the_old_one_finds_it() -> None:
    rig = Rig()
    client = rig.client()
    assert client.ask(Command.GET_SERVER_INFO)["default_sink"] == "millrace"
    for name in ("millrace", "default"):
        assert client.ask(Command.LOOKUP_SINK, name=name)["index"] == rig.sink.id
        assert client.ask(Command.LOOKUP_SOURCE, name=f"{name}.monitor")["index"] == rig.sink.id
    assert client.ask(Command.GET_SOURCE_INFO, index=NO_INDEX, name="default.monitor")["name"] == "millrace.monitor"
    with pytest.raises(GraphError, match="'default' exists already"):
        rig.graph.add_sink("default")


def test_what_was_kept_and_configured_for_the_old_name_counts_for_the_new_one(tmp_path: Path) -> None:
    store = Store(tmp_path / "s" / "state.db")
    store.keep_level("alice", "sink", "default", (0.5, 0.25), True)
    store.keep_sink("alice", "millrace", "somebody's own of before")
    store.close()

    async def test(daemon: Daemon) -> None:
        sink = daemon.guest("alice").graph.default
        assert sink is not None and sink.name == "millrace"
        assert (sink.gains, sink.mute) == ((0.5, 0.25), True)
        async with of_daemon(daemon) as bus:
            await bus.set("sink/default", mute=False)
            assert not sink.mute
            await bus.set("sink/millrace", volume="100%")
            assert sink.gains == (1.0, 1.0)
            async with bus.record("sink/default", guest="alice"):
                assert len(sink.taps) == 1

    running(tmp_path, test)
    again = Store(tmp_path / "s" / "state.db")
    assert again.levels("alice")["sink", "millrace"] == ((1.0, 1.0), False)
    again.close()
