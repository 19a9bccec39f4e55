"""How often an X display is copied, whatever its readers ask for."""

from __future__ import annotations

from millrace.units import NS_PER_MS, NS_PER_S
from millrace.wire.x11.events import Captured
from tests.fuzz import xserver
from tests.unit.test_x11 import SHM, copying, says, sent


def test_readers_that_change_their_minds_put_no_copy_off() -> None:
    wire, copies = copying(), 0
    says(wire, xserver.attached())
    now_ns = 0
    for flip in range(1000):
        now_ns += 5 * NS_PER_MS
        wire.receive(xserver.damaged(1, 2, 3, 4), now_ns)
        wire.send_watch(NS_PER_S // (60 if flip % 2 else 59))
        if (due := wire.next_timeout()) is not None and due <= now_ns:
            wire.handle_timeout(now_ns)
        copies += wire._copies_due
        image = bytes((SHM, 4))
        for number in [number for number, said in wire._requests._waiting.items() if said.request[:2] == image]:
            wire.receive(xserver.copied(number), now_ns)
        if any(isinstance(event, Captured) for event in wire.events()):
            wire.painted(now_ns)
        sent(wire)
    assert 200 < copies <= 310, "at most 60 a second, and not many fewer"
    wire.receive(xserver.damaged(1, 2, 3, 4), now_ns)
    due = wire.next_timeout()
    assert due is None or due <= now_ns + NS_PER_S // 59
