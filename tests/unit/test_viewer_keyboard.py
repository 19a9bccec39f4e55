"""What a viewer is told of the keyboard: who has it, and once that it has not."""

from __future__ import annotations

from millrace.errors import RightsError
from millrace.guest.viewerkeyboard import ViewerKeyboard
from millrace.pixels.rects import Size
from millrace.wire.peer.messages import Fault
from millrace.wire.peer.pictures import Key, KeyboardHeld
from tests.watch import Desk, Remote

SIZE = Size(64, 48)


def keyboard(remote: Remote) -> ViewerKeyboard:
    desk, session = remote.desk, remote.session
    return ViewerKeyboard(desk.home, session.who, session.wire, session.sending, session.account, session.blame)


def test_viewer_without_the_keyboard_is_refused_once_until_it_is_told_who_has_it() -> None:
    desk = Desk()
    screen, remote = desk.add().screen, Remote(desk)
    desk.run(20)
    remote.told.clear()
    one = keyboard(remote)
    assert one.allowed and not one.held
    for _ in range(2):
        for _ in range(3):
            one.control(Key(30, True), screen, SIZE, desk.now_ns)
            one.tell("bob")
        desk.run(20)
        assert [held.who for held in remote.news(KeyboardHeld)] == ["bob"]
        assert [fault.code for fault in remote.news(Fault)] == ["rights", "rights"]
        one.tell("")
        desk.run(20)
        assert [(held.mine, held.who) for held in remote.news(KeyboardHeld)] == [(False, "")]
    one.control(Key(30, True), None, SIZE, desk.now_ns)
    one.release(None)
    one.refuse(RightsError("no"))
    desk.run(20)
    assert [fault.message for fault in remote.news(Fault)] == ["no"]
