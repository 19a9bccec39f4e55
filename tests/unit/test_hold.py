"""How long a door leaves a server alone."""

from __future__ import annotations

from millrace.guest.machines.hold import Hold


def waits(hold: Hold, count: int) -> list[float]:
    out = []
    for _ in range(count):
        hold.begin("why")
        out.append(hold.take()[0])
    return out


def test_waits_become_longer_until_a_session_has_lasted_or_somebody_attaches() -> None:
    hold = Hold("waiting")
    assert hold.take() == (0.0, "") and hold.state == "waiting"
    assert waits(hold, 6) == [30, 120, 480, 1800, 1800, 1800]
    hold.lasted(1800)
    assert waits(hold, 1) == [1800]
    hold.lasted(1801)
    assert waits(hold, 2) == [30, 120]
    hold.reset()
    hold.begin("why", "; do this")
    assert hold.take() == (30, "why; retrying after 30 s, or at once if you attach again; do this")
    hold.begin("why", soon=True)
    assert hold.take() == (2, "why; retrying after 2 s, or at once if you attach again") and waits(hold, 1) == [120]
    hold.reset()
    assert waits(hold, 1) == [30]
    hold.begin("why")
    hold.drop()
    assert hold.take() == (0.0, "") and waits(hold, 1) == [120]
