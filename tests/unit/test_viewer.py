"""A viewer's session: its greeting, pointer, keyboard, settings and end, in virtual time."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

from millrace.clock.allowance import AHEAD_NS
from millrace.errors import ConfigError, RemoteProtocolError
from millrace.guest.company import Company
from millrace.guest.cursor import CURSOR_NS, SentCursor
from millrace.guest.home import Machine, MachineView
from millrace.guest.notfound import NotFound
from millrace.guest.troubles import TROUBLE_NS
from millrace.guest.viewers import Viewers
from millrace.pixels.rects import Rect, Size
from millrace.rights.model import OWNER, Certificate, Principal, Right, implied
from millrace.rights.tokens import Token
from millrace.units import NS_PER_MS
from millrace.wire.peer.messages import Bye, Configured, Fault, Trouble
from millrace.wire.peer.pictures import (
    ChangeView,
    CursorChanged,
    Key,
    KeyboardHeld,
    ModeChanged,
    Pointer,
    Screens,
    SizeWish,
    TakeKeyboard,
    Text,
    Watch,
    Watching,
)
from tests.bare import bare, members_of
from tests.watch import SPOT, Desk, Remote

WATCHES = Principal("token/1", implied(Right.WATCH), frozenset({"alice"}))
TYPES = Principal("token/2", implied(Right.TYPE), frozenset({"alice"}))


def test_viewer_is_greeted_and_sees_the_screen_and_its_changes() -> None:
    desk = Desk()
    screen = desk.add()
    screen.fill(SPOT, 200, desk.now_ns)
    remote = Remote(desk, Watch(name="phone", formats=["raw"]))
    desk.run(50)
    first = [type(one).__name__ for one in remote.told]
    assert first[:4] == ["Watching", "Screens", "KeyboardHeld", "ModeChanged"]
    (watching,) = remote.news(Watching)
    assert (watching.viewer, watching.guest, watching.label, watching.may_type) == (101, "alice", "VGA", True)
    assert watching.screen == screen.screen.key and watching.settings["picture"] == "auto"
    assert np.array_equal(remote.canvas, screen.pixels) and remote.pieces[-1].key
    screen.fill(Rect(0, 0, 2, 2), 90, desk.now_ns)
    desk.run(50)
    assert np.array_equal(remote.canvas, screen.pixels)
    assert not remote.pieces[-1].key and remote.pieces[-1].parts[0].at == Rect(0, 0, 2, 2)
    assert next(change for change, key in desk.changes if key == "viewer/101") == "new"
    assert screen.interval_ns == 1_000 * NS_PER_MS // 30


def test_viewer_without_a_name_has_that_of_its_token() -> None:
    desk = Desk()
    desk.add()
    named = Token(5, "Alice Smith", b"", TYPES.rights, TYPES.guests, 0).principal
    holder, other = Remote(desk, Watch(keyboard=True), principal=named), Remote(desk, Watch(name="phone"))
    plain = Remote(desk, principal=Token(6, "", b"", WATCHES.rights, WATCHES.guests, 0).principal)
    desk.run(50)
    assert [one.session.name for one in (holder, other, plain)] == ["Alice Smith", "phone", "token/6"]
    assert [watching.name for watching in holder.news(Watching)] == ["Alice Smith"]
    assert [held.who for held in other.news(KeyboardHeld)][-1:] == ["Alice Smith"]
    certified = Certificate("bob", Right.WATCH, frozenset({"alice"})).principal
    assert [one.label for one in (OWNER, certified)] == ["owner", "bob"]


def test_scaled_picture_and_pointer() -> None:
    desk = Desk()
    screen = desk.add()
    remote = Remote(desk, Watch(settings={"scale": "0.5"}, keyboard=True))
    desk.run(30)
    screen.fill(SPOT, 200, desk.now_ns)
    desk.run(50)
    assert remote.canvas.shape == (24, 32, 4) and np.array_equal(remote.canvas, screen.pixels[::2, ::2])
    remote.say(Pointer(31, 0, 1))
    remote.say(Pointer(500, -3, 0))
    assert screen.typed == [(62, 0, 1, False), (63, 0, 0, False)]
    screen.point(20, 10)
    desk.run(30)
    assert (remote.cursor.x, remote.cursor.y, remote.cursor.hot_x) == (10, 5, 1)


def test_new_size_of_the_screen_is_a_new_mode() -> None:
    desk = Desk()
    screen = desk.add()
    remote = Remote(desk)
    desk.run(30)
    screen.show(100, 30, desk.now_ns)
    screen.fill(SPOT, 7, desk.now_ns)
    desk.run(50)
    modes = remote.news(ModeChanged)
    assert [(one.width, one.height) for one in modes] == [(64, 48), (100, 30)]
    assert modes[0].generation != modes[1].generation and np.array_equal(remote.canvas, screen.pixels)
    assert remote.news(Screens)[-1].screens[0].width == 100


def test_pointer_is_sent_in_its_newest_state_with_each_shape_once() -> None:
    desk = Desk()
    screen = desk.add()
    remote = Remote(desk)
    desk.run(30)
    for x in range(40):
        screen.point(x, 9)
    desk.run(30)
    assert len(remote.news(CursorChanged)) <= 2 and remote.cursor.x == 39 and remote.shapes == {1: b"\1" * 16}
    screen.point(3, 3, 2)
    desk.run(30)
    screen.point(4, 3, 1)
    desk.run(30)
    assert remote.cursor.shape == 1 and sum(piece.serial == 0 for piece in remote.pieces) == 2


def test_pointer_is_due_once_for_each_state_and_again_in_a_new_picture() -> None:
    desk = Desk()
    screen, sent = desk.add(), SentCursor()
    assert sent.due(screen.screen) is not None
    sent.send(screen.screen, Size(64, 48), Remote(desk).session.wire, desk.now_ns)
    assert sent.due(screen.screen) is None
    sent.again()
    assert sent.due(screen.screen) == desk.now_ns + CURSOR_NS


def test_pointer_kind_is_told() -> None:
    desk = Desk()
    screen = desk.add()
    remote = Remote(desk, Watch(keyboard=True))
    desk.run(30)
    screen.screen.set_relative(True)
    desk.run(30)
    assert [one.relative for one in remote.news(ModeChanged)] == [False, True]
    remote.say(Pointer(5, 5))
    remote.say(Pointer(-2, 3, 0, True))
    assert screen.typed == [(-2, 3, 0, True)]


# -- the keyboard --------------------------------------------------------------------------------


def test_keyboard_is_taken_over_and_everybody_is_told() -> None:
    desk = Desk()
    screen = desk.add()
    anna, ben = Remote(desk, Watch(name="anna", keyboard=True)), Remote(desk, Watch(name="ben", keyboard=True))
    desk.run(30)
    assert anna.keyboard == (True, "anna") and ben.keyboard == (False, "anna")
    anna.say(Key(0x1D, True))
    anna.say(Key(0x1E, True))
    assert anna.news(Watching)[0].buttons == 9
    anna.say(Pointer(5, 5, 0b110001001))
    ben.say(TakeKeyboard(True))
    # What she held down is released while she still has it, and the pointer stays where it is.
    assert screen.typed[3:] == [(0x1E, False), (0x1D, False), (5, 5, 0, False)]
    desk.run(30)
    assert anna.keyboard == (False, "ben") and ben.keyboard == (True, "ben")
    anna.say(Key(0x1E, True))
    desk.run(30)
    assert len(screen.typed) == 6 and anna.news(Fault)[-1].code == "rights"
    ben.say(SizeWish(800, 600))
    assert screen.typed[-1] == (800, 600)
    ben.say(TakeKeyboard(False))
    desk.run(30)
    assert anna.keyboard == (False, "") and desk.home.screens.seat.who is None


def test_name_of_a_viewer_is_printable_wherever_it_is_told() -> None:
    desk = Desk()
    desk.add()
    remote = Remote(desk, Watch(name="\u202eevil\x1b[2J", keyboard=True))
    desk.run(30)
    assert remote.keyboard == (True, r"\u202eevil\x1b[2J")


def test_keys_are_released_when_their_viewer_leaves() -> None:
    desk = Desk()
    screen = desk.add()
    remote, other = Remote(desk, Watch(name="anna", keyboard=True)), Remote(desk)
    desk.run(30)
    remote.say(Key(0x38, True))
    remote.leave()
    assert screen.typed == [(0x38, True), (0x38, False)]
    desk.run(30)
    assert other.keyboard == (False, "") and not remote.session.account.held
    assert ("remove", "viewer/101") in desk.changes


def test_watching_needs_no_right_to_type_and_gives_none() -> None:
    desk = Desk()
    screen = desk.add()
    remote = Remote(desk, Watch(keyboard=True), principal=WATCHES)
    desk.run(30)
    assert remote.news(Watching)[0].may_type is False and remote.keyboard == (False, "")
    remote.say(TakeKeyboard(True))
    remote.say(Key(0x1E, True))
    desk.run(30)
    assert [one.code for one in remote.news(Fault)] == ["rights", "rights"] and not screen.typed
    assert Remote(desk, Watch(keyboard=True), principal=TYPES).session.keyboard.allowed


def test_text_is_typed_as_keys_of_a_us_keyboard_or_not_at_all() -> None:
    desk = Desk()
    screen = desk.add()
    remote = Remote(desk, Watch(keyboard=True))
    desk.run(30)
    remote.say(Text("aB\n"))
    down = [(0x1E, True, "a"), (0x1E, False), (0x2A, True), (0x30, True, "B"), (0x30, False), (0x2A, False)]
    assert screen.typed == [*down, (0x1C, True), (0x1C, False)]
    remote.say(Text("aä日"))
    desk.run(30)
    assert (
        screen.typed[8:] == [(0x1E, True, "a"), (0x1E, False)]
        and "no key for 'ä日'; the rest is typed" in remote.news(Fault)[0].message
    )


# -- the machine ---------------------------------------------------------------------------------


def test_viewer_stays_when_the_machine_is_lost_and_goes_on_when_it_is_back() -> None:
    desk = Desk()
    screen = desk.add()
    remote = Remote(desk, Watch(screen=screen.screen.key, keyboard=True))
    desk.run(30)
    remote.say(Key(0x1E, True))
    desk.remove(screen)
    desk.run(30)
    assert remote.gone == ["VGA is gone"] and remote.ended is None and remote.session.listed is None
    remote.say(Key(0x1E, False))
    # Another machine's screen isn't what it asked for.
    desk.add("other", "door/8")
    desk.run(30)
    assert remote.session.listed is None
    back = desk.add()
    back.fill(SPOT, 77, desk.now_ns)
    desk.run(60)
    assert np.array_equal(remote.canvas, back.pixels) and remote.news(Watching)[-1].screen == back.screen.key
    remote.say(Key(0x30, True))
    assert back.typed == [(0x30, True)]


def test_viewer_is_told_why_its_screen_is_gone_whatever_becomes_of_the_machine() -> None:
    desk = Desk()
    screen, remote = desk.add(), Remote(desk, Watch())
    machine = bare(
        Machine,
        id=7,
        key="door/7",
        stop=None,
        failed=None,
        view=lambda: MachineView("door/7", "x11 :1", "detached", why, "", 1, False, ""),
    )
    desk.home.machines.append(machine)
    desk.run(30)
    why = "it was detached"
    desk.remove(screen)
    desk.home.machines.clear()
    why = ""
    desk.run(30)
    assert remote.gone == ["VGA: it was detached"]


@pytest.mark.parametrize(("key", "error", "said"), [
    ("door/7", "the connection was lost", "VGA: the connection was lost"), ("door/7", "", "VGA is gone"),
    ("door/8", "the connection was lost", "VGA is gone"),
])  # fmt: skip
def test_reason_is_that_of_the_screens_own_machine_if_it_gives_one(key: str, error: str, said: str) -> None:
    desk = Desk()
    screen, remote = desk.add(), Remote(desk, Watch())
    for name, why in (("door/6", "another trouble"), (key, error)):
        view = MachineView(name, "x11 :1", "detached", why, "", 1, False, "")
        desk.home.machines.append(bare(Machine, id=7, key=name, stop=None, failed=None, view=lambda view=view: view))
    desk.run(30)
    desk.remove(screen)
    desk.run(30)
    assert remote.gone == [said]


def test_viewer_waits_for_the_first_screen() -> None:
    desk = Desk()
    remote = Remote(desk)
    desk.run(30)
    assert remote.news(Watching)[0].screen is None and not remote.pieces
    screen = desk.add(width=0)
    desk.run(30)
    assert remote.news(Screens)[-1].screens[0].width == 0 and not remote.pieces
    screen.show(20, 10, desk.now_ns)
    screen.fill(SPOT, 5, desk.now_ns)
    desk.run(60)
    assert np.array_equal(remote.canvas, screen.pixels)


def test_screen_that_does_not_exist_is_refused() -> None:
    desk = Desk()
    desk.add()
    remote = Remote(desk, Watch(screen="screen/99"))
    desk.run(30)
    assert isinstance(remote.ended, NotFound)
    assert isinstance(_refused(desk, Watch(version=2)), RemoteProtocolError)
    assert isinstance(_refused(desk, Watch(settings={"fps": "0"})), ConfigError)


def _refused(desk: Desk, watch: Watch) -> Exception | None:
    remote = Remote(desk, watch)
    desk.run(30)
    return remote.ended


# -- settings ------------------------------------------------------------------------------------


def test_settings_change_during_watching() -> None:
    desk = Desk()
    screen = desk.add()
    remote = Remote(desk)
    desk.run(30)
    remote.say(ChangeView({"picture": "2M", "fps": "10"}))
    desk.run(30)
    assert remote.news(Configured)[0].settings == {"picture": "2M", "fps": 10, "scale": "1"}
    assert screen.interval_ns == 100 * NS_PER_MS
    for wrong in ({"picture": "fine"}, {"scale": "2"}, {"colour": "no"}):
        remote.say(ChangeView(wrong))
    desk.run(30)
    assert [one.code for one in remote.news(Fault)] == ["settings"] * 3 and remote.session.settings.fps == 10
    remote.say(ChangeView({"picture": "off"}))
    sent = len(remote.pieces)
    screen.fill(SPOT, 1, desk.now_ns)
    desk.run(300)
    assert len(remote.pieces) == sent and screen.interval_ns is None
    remote.session.configure({"picture": "auto"})
    desk.run(1_100)
    assert np.array_equal(remote.canvas, screen.pixels)


def test_sound_listener_must_be_its_own() -> None:
    desk = Desk()
    desk.add()
    desk.house.listeners = {("listener/7", "owner"), ("listener/8", "token/1")}
    remote = Remote(desk, Watch(listener=7))
    desk.run(30)
    assert remote.session.listener == "listener/7" and desk.viewers.of_listener("listener/7") == [remote.session]
    remote.say(ChangeView(listener=8))
    desk.run(30)
    assert remote.session.listener is None and "no listener/8" in remote.news(Fault)[0].message
    remote.say(ChangeView({"fps": "5"}))
    remote.say(ChangeView(listener=7))
    remote.say(ChangeView({"fps": "6"}))
    assert remote.session.listener == "listener/7"


# -- troubles and the end ------------------------------------------------------------------------


def test_session_uses_nothing_else_of_the_other_viewers() -> None:
    assert {"guest", "clock"} < members_of(Company) <= {*dir(Viewers), "guest", "clock", "totals", "wholes"}


def test_session_that_is_over_leaves_no_garbage() -> None:
    desk = Desk(encodes=True)
    screen = desk.add()
    remote = Remote(desk, Watch(formats=["raw"], keyboard=True))
    desk.run(60)
    assert np.array_equal(remote.canvas[:, :, :3], screen.pixels[:, :, :3])
    gone, encoder = weakref.ref(remote.session), weakref.ref(desk.groups[0].pictures)
    gc.disable()
    try:
        remote.leave()
        remote.session.forget()
        del remote
        assert gone() is None and encoder() is None
    finally:
        gc.enable()


def test_trouble_is_reported_as_the_viewers() -> None:
    desk = Desk()
    desk.add()
    remote = Remote(desk)
    desk.run(30)
    remote.say(Trouble("froze", "network", "late", evidence={"late_ms": 80.0}))
    remote.say(Trouble("froze", "store", "can't write"))
    no_video, symptom = desk.house.symptoms
    assert (no_video.stage, no_video.cause) == ("viewer", "no video")
    for _ in range(200):
        remote.say(Trouble("froze", "network", "late"))
    assert len(desk.house.symptoms) <= AHEAD_NS // TROUBLE_NS
    assert (symptom.stage, symptom.cause, symptom.subject) == ("network", "late", "viewer/101")


def test_pointer_without_the_keyboard_is_refused_once() -> None:
    desk = Desk()
    desk.add()
    one, two = Remote(desk), Remote(desk, Watch(keyboard=True))
    desk.run(30)
    for x in range(20):
        one.say(Pointer(x, 5))
    desk.run(30)
    assert len(one.news(Fault)) == 1
    two.say(TakeKeyboard(False))
    desk.run(30)
    one.say(Pointer(5, 5))
    desk.run(30)
    assert len(one.news(Fault)) == 1


def test_bye_ends_the_session() -> None:
    desk = Desk()
    desk.add()
    remote = Remote(desk)
    desk.run(30)
    remote.say(Bye("done"))
    assert remote.session.closing
    remote.session.closed()
    remote.session.closed()
    remote.session.forget()
    assert not desk.viewers.sessions and not desk.home.screens.first.screen.readers  # type: ignore[union-attr]
