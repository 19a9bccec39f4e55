"""A change of several settings that is refused changes none of them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from millrace.errors import BudgetError, ConfigError, MillraceError
from millrace.guest.listener import ListenerSession
from millrace.rights.model import OWNER
from millrace.wire.peer.messages import Configure, Fault, Hello, decode_from_daemon, encode_message
from tests.scenario.test_ingress import House


class Scene(House):
    """A guest with two listeners that share an encoder, and no memory for another one."""

    def __init__(self, folder: Path, **settings: str) -> None:
        super().__init__(folder)
        self.sent: list[str | bytes] = []
        self.session = self.joined(settings)
        self.joined({})
        self.session.configure({"mic": "off"})

    def joined(self, settings: dict[str, str]) -> ListenerSession:
        session = ListenerSession(
            self.guest, self.graph.ids.take(), "x", self.sent.extend, lambda: True, self.now_ns, OWNER
        )
        hello = Hello(name="x", codecs=["opus", "s16"], settings={"codec": "opus"} | settings, microphone=True)
        session.receive(encode_message(hello), self.now_ns)
        self.guest.listener_changed("new", session)
        return session

    def leave_free(self, size: int) -> None:
        budget = self.guest.admission.budget
        budget.limit = budget.held + size

    def state(self) -> Any:
        session, budget = self.session, self.guest.admission.budget
        return (
            session.may_speak, session.microphone_state, session.latency, session.outlet.latency,
            session.outlet.settings, session._shown(), session.outlet.group, len(self.graph.streams), budget.held,
        )  # fmt: skip


def scene(folder: Path, **settings: str) -> Scene:
    async def made() -> Scene:
        return Scene(folder, **settings)

    return asyncio.run(made())


CHANGES = {"mic": "on", "latency": "robust", "codec": "s16", "channels": "mono"}


@pytest.mark.parametrize("free", [0, 100, 120_000])
def test_listener_without_memory_for_another_encoder_keeps_its_settings(free: int, tmp_path: Path) -> None:
    house = scene(tmp_path)
    house.leave_free(free)
    before = house.state()
    with pytest.raises(BudgetError):
        house.session.configure(CHANGES)
    assert house.state() == before
    house.leave_free(2**30)
    house.session.configure(CHANGES)
    session = house.session
    assert session.may_speak and session.microphone is not None and session.latency == "robust"
    assert session.outlet.settings.codec == "s16"


@pytest.mark.parametrize("wrong", [{"bitrate": "loud"}, {"latency": "soon"}, {"mic": "perhaps"}, {"volume": "1"}])
def test_invalid_setting_changes_none_of_the_others(wrong: dict[str, str], tmp_path: Path) -> None:
    house = scene(tmp_path)
    before = house.state()
    with pytest.raises(MillraceError) as refused:
        house.session.configure(CHANGES | wrong)
    assert isinstance(refused.value, ConfigError) and house.state() == before


def test_refused_settings_are_reported_and_listener_continues(tmp_path: Path) -> None:
    house = scene(tmp_path)
    house.leave_free(0)
    house.sent.clear()
    house.session.receive(encode_message(Configure({"codec": "s16"})), house.now_ns)
    (fault,) = [decode_from_daemon(message) for message in house.sent if isinstance(message, str)]
    assert isinstance(fault, Fault) and not fault.fatal and not house.session.closing
