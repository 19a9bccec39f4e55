"""Which guests have anything to note each second."""

from __future__ import annotations

from pathlib import Path

from millrace.graph.driver import TimerDriver
from tests.hall import Hall, with_guests
from tests.watch import Painter


def names(hall: Hall) -> list[str]:
    return sorted(guest.name for guest in hall.worker.active())


def test_guest_is_active_while_anything_plays_or_is_shown(tmp_path: Path) -> None:
    async def test(hall: Hall) -> None:
        alice = hall.worker.guests["alice"]
        bob = hall.worker.guests["bob"].graph
        assert not names(hall)
        stream = hall.play("bob")
        bob.activate(stream)
        assert names(hall) == ["bob"]
        screen = alice.screens.add(Painter(), "VGA", "door/1")
        assert names(hall) == ["alice", "bob"]
        alice.screens.remove(screen)
        assert names(hall) == ["bob"]
        bob.remove_stream(stream)
        driver: TimerDriver = hall.worker.driver
        while (due := driver.next_timeout()) is not None:
            driver.handle_timeout(due)
        assert not names(hall)
        # A guest that has just gone is not looked for.
        alice.screens.add(Painter(), "VGA", "door/1")
        await hall.worker.remove_guest("alice")
        assert not names(hall)

    with_guests(tmp_path, test)
