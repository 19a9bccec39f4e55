"""How long a door waits before it looks for its machine again."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from millrace.errors import BudgetError, GraphError, MillraceError, PeerLost, RemoteProtocolError
from millrace.guest.machines import attached
from millrace.guest.machines.address import parse_door
from millrace.guest.machines.attached import AttachedMachine
from millrace.guest.machines.retries import Retries, said
from millrace.io.turns import Turns
from millrace.units import NS_PER_S, HostNs

SECOND: HostNs = NS_PER_S


def waits(retries: Retries, error: Exception, up_ns: HostNs | None, times: int) -> list[float]:
    return [retries.after(error, up_ns) for _ in range(times)]


def test_machine_that_is_not_there_is_looked_for_each_second_and_at_once_after_a_session() -> None:
    retries = Retries()
    assert waits(retries, PeerLost("refused"), None, 4) == [0.5, 1, 1, 1]
    assert waits(retries, GraphError("no room"), None, 2) == [1, 1]
    assert waits(retries, PeerLost("closed"), SECOND, 2) == [0.25, 0.25]


@pytest.mark.parametrize(("error", "up_ns"), [
    (RemoteProtocolError("the screen is too large"), SECOND), (RemoteProtocolError("not a VNC server"), None),
    (BudgetError("no room"), SECOND), (ValueError("a bug"), None), (MillraceError("a bug"), SECOND),
])  # fmt: skip
def test_machine_that_is_no_use_is_looked_for_ever_more_seldom_until_it_has_lasted(
    error: Exception, up_ns: HostNs | None
) -> None:
    retries = Retries()
    assert waits(retries, error, up_ns, 9) == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    assert retries.after(PeerLost("closed"), SECOND) == 0.25
    assert retries.after(error, up_ns) == 30, "that it was lost in between makes it no better"
    assert retries.after(RemoteProtocolError("nonsense"), 60 * SECOND) == 0.5


def test_short_waits_are_not_told() -> None:
    assert said(1) == ""
    assert said(4) == "; retrying after 4 s, or at once if you attach again"


class Wrong(AttachedMachine):
    """A door whose machine lets us in and sends nonsense."""

    async def _session(self) -> None:
        self._attached()
        raise RemoteProtocolError("nonsense")


def test_door_waits_as_long_as_it_says_and_no_longer_once_attached_again(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []

    async def asked_within(door: AttachedMachine, seconds: float) -> bool:
        waited.append(seconds)
        if len(waited) == 5:
            assert door.error == "nonsense; retrying after 8 s, or at once if you attach again"
            assert door.retake(door.spec, attached.anywhere)
        if len(waited) == 6:
            raise asyncio.CancelledError
        return False

    async def main() -> None:
        account = SimpleNamespace(close=lambda: None)
        home: Any = SimpleNamespace(
            name="alice", machine_changed=lambda *_: None, report=lambda *_: None, turns=Turns(),
            admission=SimpleNamespace(account=lambda *_: account),
        )  # fmt: skip
        door = Wrong(1, home, parse_door("vnc://vm:5900"))
        monkeypatch.setattr(Wrong, "_asked_within", asked_within)
        with pytest.raises(asyncio.CancelledError):
            await door._run()

    asyncio.run(main())
    assert waited == [0.5, 1, 2, 4, 8, 0.5]
