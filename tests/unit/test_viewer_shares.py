"""What viewers are being sent is divided among principals."""

from __future__ import annotations

import pytest

from millrace.budget import SHARES, VIEWERS
from millrace.pixels.rects import Rect
from millrace.rights.model import ALL_GUESTS, OWNER, Principal, Right, implied
from tests.watch import Desk, Remote

CROWD = Principal("token/1", implied(Right.WATCH), ALL_GUESTS)
OTHER = Principal("token/2", implied(Right.WATCH), ALL_GUESTS)
TYPIST = Principal("token/3", implied(Right.TYPE), ALL_GUESTS)


@pytest.mark.parametrize("principal", [OTHER, TYPIST, OWNER], ids=lambda one: one.key)
def test_viewers_that_acknowledge_nothing_leave_others_pictures(principal: Principal) -> None:
    desk = Desk()
    budget = desk.home.admission.budget
    budget.limit = 64 * 1024 * 1024
    screen = desk.add(width=640, height=360)
    crowd = [Remote(desk, principal=CROWD, acks=False, draws=False) for _ in range(40)]
    one = Remote(desk, principal=principal, draws=False)
    for colour in range(60):
        screen.fill(Rect(0, 0, 640, 360), colour, desk.now_ns)
        desk.run(33)
    assert sum(remote.session.account.held for remote in crowd) <= budget.limit * SHARES[VIEWERS] * 3 / 4
    assert len(one.arrived) >= 50
