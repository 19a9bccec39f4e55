"""Levels and defaults of sinks and sources: saved by name over removal and restart, and undone if they can't be."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from millrace.control.store import Store
from millrace.daemon.app import Daemon
from millrace.dsp.convert import SampleFormat
from millrace.errors import ConfigError
from millrace.sim.rig import Rig, RigClient
from millrace.wire.pulse.client import Failed, Reply, record_fields
from millrace.wire.pulse.constants import NO_INDEX, Command, Err
from millrace.wire.pulse.tagstruct import Spec
from tests.nativebus import eventually, of_daemon, running
from tests.scenario.pulseviews import load, sinks_of

from .test_pulse_restore import Program

S16 = Spec(SampleFormat.S16LE, 2, 48_000)
HALF, FULL = (0x8000, 0x8000), (0x10000, 0x10000)


def server(client: RigClient) -> tuple[str, str]:
    info = client.ask(Command.GET_SERVER_INFO)
    return info["default_sink"], info["default_source"]


def source(client: RigClient, name: str) -> dict[str, Any]:
    return client.ask(Command.GET_SOURCE_INFO, index=NO_INDEX, name=name)


def test_removed_default_becomes_default_again_when_recreated() -> None:
    rig = Rig()
    rig.graph.add_source("microphone", "Microphone")
    client = rig.client()
    index = load(client, "module-null-sink", "sink_name=two")
    line = load(client, "module-null-source", "source_name=line")
    client.ask(Command.SET_DEFAULT_SINK, name="two")
    client.ask(Command.SET_DEFAULT_SOURCE, name="line")
    stream = rig.stream_at(client.play(S16, (1, 2)).index)
    record = client.ask(Command.CREATE_RECORD_STREAM, **record_fields(S16, (1, 2)))["index"]
    assert (stream.sink.name, server(client)) == ("two", ("two", "line"))
    client.ask(Command.UNLOAD_MODULE, index=index)
    client.ask(Command.UNLOAD_MODULE, index=line)
    assert (stream.sink.name, server(client)) == ("millrace", ("millrace", "microphone"))
    assert rig.record_at(record).node.sink is rig.door.find_source(NO_INDEX, "microphone")
    load(client, "module-null-sink", "sink_name=other")
    assert server(client) == ("millrace", "microphone")
    load(client, "module-null-sink", "sink_name=two")
    load(client, "module-null-source", "source_name=line")
    assert (stream.sink.name, server(client)) == ("two", ("two", "line"))
    # A monitor can be the default source too, and is removed and comes back with its sink.
    client.ask(Command.SET_DEFAULT_SOURCE, name="other.monitor")
    other = next(module for module in client.ask_list(Command.GET_MODULE_INFO_LIST) if "other" in module["argument"])
    client.ask(Command.UNLOAD_MODULE, index=other["index"])
    assert server(client)[1] != "other.monitor"
    load(client, "module-null-sink", "sink_name=other")
    assert server(client)[1] == "other.monitor"


def test_recreated_sink_gets_its_levels_back() -> None:
    rig = Rig()
    client = rig.client()
    index = load(client, "module-null-sink", "sink_name=two")
    for command, name in ((Command.SET_SINK_VOLUME, "two"), (Command.SET_SOURCE_VOLUME, "two.monitor")):
        client.ask(command, index=NO_INDEX, name=name, volume=(0x8000, 0x4000))
    client.ask(Command.SET_SINK_MUTE, index=NO_INDEX, name="two", mute=True)
    client.ask(Command.UNLOAD_MODULE, index=index)
    index = load(client, "module-null-sink", "sink_name=two")
    back = sinks_of(client)["two"]
    assert (back["volume"], back["mute"]) == ((0x8000, 0x4000), True)
    assert (source(client, "two.monitor")["volume"], source(client, "two.monitor")["mute"]) == ((0x8000, 0x4000), False)
    client.ask(Command.UNLOAD_MODULE, index=index)
    load(client, "module-null-sink", "sink_name=two channels=1")
    assert len(sinks_of(client)["two"]["volume"]) == 1 and 0x4000 < sinks_of(client)["two"]["volume"][0] < 0x8000


STEREO, SURROUND = (19_660, 58_982), (6_553, 13_107, 19_660, 26_214, 32_768, 39_321)


@pytest.mark.parametrize(
    ("kept", "argument", "given"),
    [
        (STEREO, "channels=1", (39_321,)),
        (SURROUND, "channels=1", (22_937,)),
        (STEREO, "channel_map=front-left,front-right,lfe", (19_660, 58_982, 39_321)),
        (SURROUND, "channel_map=front-left,front-right,lfe", (6_553, 13_107, 39_321)),
        (SURROUND, "channel_map=surround-40", SURROUND[:4]),
        (STEREO, "channel_map=surround-51", (*STEREO, *STEREO, 39_321, 39_321)),
        (SURROUND, "channel_map=aux0,aux1,aux2", (22_937,) * 3),
    ],
)
def test_saved_level_is_remapped_to_other_channels_by_name_and_side(
    kept: tuple[int, ...], argument: str, given: tuple[int, ...]
) -> None:
    """All figures are from PulseAudio."""
    rig = Rig()
    client = rig.client()
    index = load(
        client, "module-null-sink", f"sink_name=two channel_map={'surround-51' if len(kept) > 2 else 'stereo'}"
    )
    client.ask(Command.SET_SINK_VOLUME, index=NO_INDEX, name="two", volume=kept)
    client.ask(Command.UNLOAD_MODULE, index=index)
    load(client, "module-null-sink", f"sink_name=two {argument}")
    assert sinks_of(client)["two"]["volume"] == given


@pytest.mark.parametrize(
    ("argument", "kept"), [("restore_volume=no", (FULL, True)), ("restore_muted=0", (HALF, False))]
)
def test_device_restore_restores_what_its_arguments_say_and_nothing_when_unloaded(
    argument: str, kept: tuple[tuple[int, ...], bool]
) -> None:
    rig = Rig()
    client = rig.client()

    def again() -> tuple[tuple[int, ...], bool]:
        index = load(client, "module-null-sink", "sink_name=two")
        for _ in range(2):
            client.ask(Command.SET_SINK_VOLUME, index=NO_INDEX, name="two", volume=HALF)
            client.ask(Command.SET_SINK_MUTE, index=NO_INDEX, name="two", mute=True)
        client.ask(Command.UNLOAD_MODULE, index=index)
        index = load(client, "module-null-sink", "sink_name=two")
        shown = sinks_of(client)["two"]
        client.ask(Command.UNLOAD_MODULE, index=index)
        return shown["volume"], shown["mute"]

    assert again() == (HALF, True)
    modules = client.ask_list(Command.GET_MODULE_INFO_LIST)
    client.ask(Command.UNLOAD_MODULE, index=next(m["index"] for m in modules if m["name"] == "module-device-restore"))
    assert again() == (FULL, False)
    load(client, "module-device-restore", argument)
    assert again() == kept


@pytest.mark.parametrize(
    ("command", "name", "code"),
    [
        (Command.SET_DEFAULT_SINK, "@DEFAULT_SINK@", Err.INVALID),
        (Command.SET_DEFAULT_SINK, "", Err.INVALID),
        (Command.SET_DEFAULT_SINK, None, Err.INVALID),
        (Command.SET_DEFAULT_SINK, "nowhere", Err.NOENTITY),
        (Command.SET_DEFAULT_SOURCE, "@DEFAULT_MONITOR@", Err.INVALID),
        (Command.SET_DEFAULT_SOURCE, "nowhere", Err.NOENTITY),
    ],
)
def test_invalid_default_is_refused_with_pulseaudios_code(command: Command, name: str | None, code: Err) -> None:
    client = Rig().client()
    before = server(client)
    assert client.error(command, name=name) == code
    assert server(client) == before


def test_none_unsets_the_default() -> None:
    """As in PulseAudio 17: streams that named no sink follow, and a re-created sink is not the default again."""
    rig = Rig()
    rig.graph.add_source("microphone", "Microphone")
    client = rig.client()
    index = load(client, "module-null-sink", "sink_name=two")
    stream = rig.stream_at(client.play(S16, (1, 2)).index)
    recorder = client.ask(Command.CREATE_RECORD_STREAM, **record_fields(S16, (1, 2)))["index"]
    node = rig.record_at(recorder).node

    def shown() -> tuple[str, str, str, str]:
        return (*server(client), stream.sink.name, rig.door.source_name(node.sink))

    before = shown()
    client.ask(Command.SET_DEFAULT_SINK, name="two")
    client.ask(Command.SET_DEFAULT_SOURCE, name="two.monitor")
    assert shown() == ("two", "two.monitor", "two", "two.monitor")
    for command in (Command.SET_DEFAULT_SINK, Command.SET_DEFAULT_SOURCE):
        for _ in range(2):
            client.ask(command, name="@NONE@")
    assert shown() == before == ("millrace", "microphone", "millrace", "microphone")
    client.ask(Command.UNLOAD_MODULE, index=index)
    load(client, "module-null-sink", "sink_name=two")
    assert shown() == before


def test_unset_default_stays_unset_after_restart(tmp_path: Path) -> None:
    async def first(daemon: Daemon) -> None:
        program = Program(daemon)
        for name in ("millrace.monitor", "@NONE@"):
            assert isinstance(await program.ask(Command.SET_DEFAULT_SOURCE, name=name), Reply)

    async def second(daemon: Daemon) -> None:
        assert server(Program(daemon).client) == ("millrace", "microphone")

    running(tmp_path, first)
    running(tmp_path, second)


def test_ports_and_cards_are_refused_with_pulseaudios_codes() -> None:
    client = Rig().client()
    for command, name in ((Command.SET_SINK_PORT, "millrace"), (Command.SET_SOURCE_PORT, "millrace.monitor")):
        assert client.error(command, index=NO_INDEX, name=name, port="speaker") == Err.NOTIMPLEMENTED
        assert client.error(command, index=NO_INDEX, name="nowhere", port="speaker") == Err.NOENTITY
    assert client.error(Command.SET_CARD_PROFILE, index=0, name=None, profile="off") == Err.NOENTITY


def test_levels_and_defaults_survive_daemon_restart(tmp_path: Path) -> None:
    async def first(daemon: Daemon) -> None:
        program = Program(daemon)
        await program.ask(Command.LOAD_MODULE, name="module-null-sink", argument="sink_name=two")
        for command in (Command.SET_SINK_VOLUME, Command.SET_SOURCE_VOLUME):
            name = "two" if command is Command.SET_SINK_VOLUME else "microphone"
            assert isinstance(await program.ask(command, index=NO_INDEX, name=name, volume=HALF), Reply)
        await program.ask(Command.SET_SINK_MUTE, index=NO_INDEX, name="millrace", mute=True)
        await program.ask(Command.SET_DEFAULT_SINK, name="two")
        await program.ask(Command.SET_DEFAULT_SOURCE, name="millrace.monitor")
        async with of_daemon(daemon) as bus:
            await bus.set("sink/two", volume="20%")
        await program.ask(Command.SET_SINK_MUTE, index=NO_INDEX, name="two", mute=True)

    async def second(daemon: Daemon) -> None:
        program = Program(daemon)
        assert server(program.client) == ("millrace", "millrace.monitor")
        assert sinks_of(program.client)["millrace"]["mute"]
        assert source(program.client, "microphone")["volume"] == HALF
        await program.ask(Command.LOAD_MODULE, name="module-null-sink", argument="sink_name=two")
        assert server(program.client)[0] == "two"
        two = sinks_of(program.client)["two"]
        assert [round(100 * volume / 0x10000) for volume in two["volume"]] == [20, 20] and two["mute"]

    running(tmp_path, first)
    running(tmp_path, second)


def test_change_that_can_not_be_saved_is_refused_and_undone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(daemon: Daemon) -> None:
        program = Program(daemon)
        await program.ask(Command.LOAD_MODULE, name="module-null-sink", argument="sink_name=two")
        await program.ask(Command.SET_SINK_VOLUME, index=NO_INDEX, name="two", volume=HALF)

        def full(self: Store, *args: object) -> None:
            raise ConfigError("the disk is full")

        with monkeypatch.context() as patch:
            patch.setattr(Store, "keep_devices", full)
            refused = [
                await program.ask(Command.SET_SINK_VOLUME, index=NO_INDEX, name="two", volume=FULL),
                await program.ask(Command.SET_SOURCE_MUTE, index=NO_INDEX, name="two.monitor", mute=True),
                await program.ask(Command.SET_DEFAULT_SINK, name="two"),
                await program.ask(Command.SET_DEFAULT_SOURCE, name="two.monitor"),
                await program.ask(Command.SET_DEFAULT_SOURCE, name="@NONE@"),
            ]
        assert [failed.code for failed in refused if isinstance(failed, Failed)] == [Err.IO] * 5
        assert sinks_of(program.client)["two"]["volume"] == HALF
        assert not source(program.client, "two.monitor")["mute"]
        assert server(program.client) == ("millrace", "microphone")

    running(tmp_path, test)


def test_many_changes_are_written_together_and_all_acknowledged(tmp_path: Path) -> None:
    writes: list[int] = []

    async def test(daemon: Daemon) -> None:
        before = Store.keep_devices

        def counted(store: Store, guest: str, levels: dict[Any, Any], defaults: dict[str, str]) -> None:
            writes.append(len(levels))
            before(store, guest, levels, defaults)

        Store.keep_devices = counted  # type: ignore[method-assign]
        try:
            program = Program(daemon)
            sent = [
                program.client.send(Command.SET_SINK_VOLUME, index=NO_INDEX, name="millrace", volume=(v, v))
                for v in range(100)
            ]
            await eventually(lambda: program.client.exchange() or all(tag in program.client.replies for tag in sent))
        finally:
            Store.keep_devices = before  # type: ignore[method-assign]
        assert all(isinstance(program.client.replies[tag], Reply) for tag in sent)
        assert len(writes) < 10
        await asyncio.sleep(0)

    running(tmp_path, test)


def test_new_guest_of_same_name_gets_nothing_from_pending_change(tmp_path: Path) -> None:
    async def test(daemon: Daemon) -> None:
        program = Program(daemon)
        await program.ask(Command.SET_SINK_VOLUME, index=NO_INDEX, name="millrace", volume=HALF)
        async with daemon.worker.writer.turn:
            removing = asyncio.create_task(daemon.worker.remove_guest("alice"))
            await asyncio.sleep(0)
            program.client.send(Command.SET_SINK_MUTE, index=NO_INDEX, name="millrace", mute=True)
            await asyncio.sleep(0)
        await removing
        for _ in range(10):
            await asyncio.sleep(0.001)
        await daemon.worker.add_guest("alice", {})
        sink = daemon.worker.guest("alice").graph.default
        assert sink is not None and (sink.gains, sink.mute) == ((1.0, 1.0), False)

    running(tmp_path, test)
