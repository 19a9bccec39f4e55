"""X displays: what is asked of the server, what its answers become, and wrong servers."""

from __future__ import annotations

import os
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millrace.budget import MACHINES, Budget
from millrace.doors.x11.door import BAND_PIXELS, SHAPE_PIXELS, X11Door
from millrace.errors import PeerLost, RemoteProtocolError
from millrace.graph.model import Ids
from millrace.graph.pictures import KeyPress
from millrace.graph.screens import Screens
from millrace.pixels.cursors import straight
from millrace.pixels.rects import Point, Rect, Size
from millrace.symptoms import Symptom
from millrace.units import NS_PER_S
from millrace.wire.x11 import fakes, requests
from millrace.wire.x11.client import AT_ONCE, X11Client
from millrace.wire.x11.events import Captured, CursorShape, Ready, Resized
from millrace.wire.x11.setup import COOKIE, read_description, setup_request
from tests.fuzz import xserver
from tests.fuzz.xserver import BASE, FIRST_COPY, HEIGHT, MAJORS, ROOT, WIDTH
from tests.gops import WATCHER
from tests.received import received

WHOLE = Rect(0, 0, WIDTH, HEIGHT)
SHM, DAMAGE, TEST = (MAJORS[name][0] for name in (b"MIT-SHM", b"DAMAGE", b"XTEST"))


HUGE_CURSOR = xserver.reply(12, struct.pack("<hhHHHH", 0, 0, 65_535, 3, 0, 0))


def sent(wire: X11Client) -> list[bytes]:
    """The requests that it made."""
    data, out = b"".join(bytes(chunk.data) for chunk in wire.data_to_send()), []
    while data:
        size = 4 * int.from_bytes(data[2:4], "little")
        out.append(data[:size])
        data = data[size:]
    return out


def says(wire: X11Client, data: bytes, now_ns: int = 0) -> None:
    """The server says this, and the client goes on with it as its connection has it do."""
    received(wire, data, now_ns)


def inside() -> X11Client:
    wire = X11Client(b"", 0)
    assert bytes(wire.data_to_send()[0].data) == setup_request(b"")
    says(wire, b"".join([xserver.setup(), *xserver.extensions()]))
    return wire


def copying() -> X11Client:
    """With memory, and somebody who watches."""
    wire = inside()
    wire.events()
    wire.send_memory(99, WIDTH * HEIGHT * 4)
    wire.send_watch(0)
    return wire


def test_server_is_asked_for_its_extensions_and_told_what_to_watch() -> None:
    wire = X11Client(b"c" * 16, 0)
    assert COOKIE in bytes(wire.data_to_send()[0].data)
    wire.receive(xserver.setup(), 0)
    assert [asked[0] for asked in sent(wire)] == [98] * 4 and wire.next_timeout() is not None
    for one in xserver.extensions():
        wire.receive(one, 0)
    assert wire.events() == [Ready("The X"), Resized(Size(WIDTH, HEIGHT))] and wire.next_timeout() is None
    asked = sent(wire)
    assert requests.watch_damage(DAMAGE, BASE + 1, ROOT) in asked and requests.watch_size(ROOT) in asked
    assert [len(one) % 4 for one in asked] == [0] * len(asked)


def test_damage_is_copied_at_once_while_somebody_watches() -> None:
    wire = inside()
    wire.events(), sent(wire)
    wire.send_memory(99, WIDTH * HEIGHT * 4)
    (chunk,) = [chunk for chunk in wire.data_to_send() if chunk.fds]
    assert chunk.fds == (99,) and chunk.give
    wire.receive(xserver.damaged(1, 2, 3, 4), 5)
    assert sent(wire) == []
    wire.send_watch(0)
    copy = requests.get_image(SHM, ROOT, WHOLE, BASE + 2, 0)
    assert sent(wire) == [requests.forget_damage(DAMAGE, BASE + 1), copy]
    wire.receive(xserver.damaged(1, 2, 3, 4) + xserver.damaged(60, 0, 30, 5), 6)
    assert sent(wire) == [], "one at a time"
    wire.receive(xserver.copied(FIRST_COPY), 7)
    assert wire.events() == [Captured(((WHOLE, 0),))]
    assert sent(wire) == [], "the memory is read"
    wire.painted(7)
    asked = sent(wire)
    assert [struct.unpack_from("<hhHH", one, 8) for one in asked[1:]] == [(1, 2, 3, 4), (60, 0, 4, 5)]
    assert [int.from_bytes(one[28:32], "little") for one in asked[1:]] == [0, 48]


def test_slow_reader_has_copies_at_its_pace() -> None:
    wire = copying()
    wire.send_watch(NS_PER_S)
    wire.receive(xserver.copied(FIRST_COPY) + xserver.damaged(0, 0, 1, 1), 5)
    wire.painted(5)
    wire.receive(b"", 5)
    sent(wire)
    assert wire.next_timeout() == NS_PER_S
    wire.handle_timeout(NS_PER_S)
    assert len(sent(wire)) == 2 and wire.next_timeout() is None


def test_new_size_needs_new_memory_and_voids_what_was_being_copied() -> None:
    wire = copying()
    wire.receive(xserver.attached(), 0)
    sent(wire)
    wire.receive(xserver.resized(32, 20), 0)
    assert wire.events() == [Resized(Size(32, 20))]
    wire.send_memory(100, 32 * 20 * 4)
    wire.receive(xserver.copied(FIRST_COPY), 1)
    assert wire.events() == []
    assert requests.get_image(SHM, ROOT, Rect(0, 0, 32, 20), BASE + 4, 0) in sent(wire)


def test_size_is_told_when_the_server_has_the_memory_of_the_one_before() -> None:
    wire = copying()
    sent(wire)
    for n in range(1, 5_000):
        wire.receive(xserver.resized(100 + n, 20), 0)
        wire.receive(xserver.cursor_changed(), 0)
    assert wire.events() == [] and len(sent(wire)) == 0, "nothing waits but the newest"
    says(wire, xserver.cursor(12) + xserver.copied(FIRST_COPY), 1)
    assert [type(event) for event in wire.events()] == [CursorShape, Captured]
    wire.painted(1)
    assert sent(wire) == [requests.get_cursor(MAJORS[b"XFIXES"][0])], "once, and no copy of what is no more"
    wire.receive(xserver.attached(), 2)
    assert wire.events() == [Resized(Size(5_099, 20))]


def test_copy_that_the_server_refuses_is_made_again() -> None:
    wire = copying()
    sent(wire)
    wire.receive(xserver.error(FIRST_COPY), 1)
    wire.painted(1)
    assert len(sent(wire)) == 2
    with pytest.raises(RemoteProtocolError, match="refused"):
        wire.receive(xserver.error(13), 1)


def test_input_is_made_by_xtest() -> None:
    wire = inside()
    sent(wire)
    wire.send_key(0x1E, True)
    wire.send_key(0xC8, False)
    wire.send_key(0xFF, True)
    assert sent(wire) == [requests.query_extension(b"XKEYBOARD"), requests.fake_input(TEST, 2, 38, ROOT)]
    wire.send_pointer(Point(7, 8), 0b1001, False)
    wire.send_pointer(Point(-1, 99_999), 0b0001, True)
    fake = [(6, 0, 7, 8), (4, 1, 0, 0), (4, 4, 0, 0), (6, 1, -1, 32_767), (5, 4, 0, 0)]
    assert sent(wire) == [requests.fake_input(TEST, kind, detail, ROOT, x, y) for kind, detail, x, y in fake]


def test_wheel_and_side_buttons_have_their_numbers() -> None:
    every = fakes.pointer(Point(0, 0), 0, 0x1FF, True)
    assert [fake.detail for fake in every] == [1, 2, 3, 4, 5, 8, 9, 6, 7] and fakes.keycode(0xFF) == 0
    assert fakes.pointer(Point(0, 0), 0b11, 0b01, True) == [fakes.Fake(requests.BUTTON_RELEASE, 2)]


def test_cursor_is_asked_for_when_it_changed() -> None:
    wire = inside()
    wire.events(), sent(wire)
    wire.receive(xserver.cursor(12) + xserver.cursor_changed(), 0)
    (shape,) = wire.events()
    assert isinstance(shape, CursorShape)
    assert (shape.at, shape.hot, shape.size) == (Point(5, 6), Point(1, 2), Size(4, 3)) and len(shape.pixels) == 48
    assert sent(wire) == [requests.get_cursor(MAJORS[b"XFIXES"][0])]


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ([xserver.refused()], "no protocol specified; give the display's cookie"),
        ([xserver.setup(bits=16)], "depth of 24"),
        ([xserver.setup(65_535, 65_535)], "too large"),
        ([xserver.setup()[:40] + bytes(100)], "depth 0"),
        ([struct.pack("<BxHHH", 1, 11, 0, 65_535)], "at most"),
        ([xserver.setup(), xserver.reply(1)], "lacks the extension DAMAGE"),
        ([xserver.setup(), *xserver.extensions((1, 1))], "too old"),
        ([xserver.setup(), xserver.reply(77)], "reply to no request"),
        ([xserver.setup(), xserver.error(2)], "refused"),
        ([xserver.setup(), struct.pack("<BBHI24x", 1, 0, 1, 1 << 28)], "at most"),
        ([xserver.setup(), *xserver.extensions(), HUGE_CURSOR], "cursor of 65535"),
        ([xserver.setup(), *xserver.extensions(), xserver.resized(0, 5)], "too large"),
    ],
)
def test_wrong_server_ends_its_connection(said: list[bytes], hint: str) -> None:
    wire = X11Client(b"", 0)
    with pytest.raises(RemoteProtocolError, match=hint):
        for one in (*said, bytes(3_000)):
            says(wire, one)


def test_silent_server_is_given_up() -> None:
    wire = X11Client(b"", 0)
    due = wire.next_timeout()
    assert due is not None
    with pytest.raises(PeerLost, match="does not answer"):
        wire.handle_timeout(due)


EARLY = {
    "size": [xserver.resized(WIDTH + 8, HEIGHT)],
    "damage": [xserver.damaged(1, 2, 3, 4)],
    "cursor": [xserver.cursor_changed()],
    "selection": [xserver.owned(8), xserver.pasted(9, xserver.UTF8), xserver.converted(5)],
}


@pytest.mark.parametrize("place", range(9))
@pytest.mark.parametrize("early", EARLY.values(), ids=EARLY)
def test_events_before_the_session_begins_are_told_once_it_has(early: list[bytes], place: int) -> None:
    """Nothing but the size is lost: the whole screen is copied, and its cursor asked for, once it begins."""
    wire = X11Client(b"", 0)
    answers = xserver.extensions()
    says(wire, b"".join([xserver.setup(), *answers[:place], *early, *answers[place:]]))
    size = Size(WIDTH + 8, HEIGHT) if early is EARLY["size"] and place < 8 else Size(WIDTH, HEIGHT)
    assert wire.events() == [Ready("The X"), Resized(size)]
    assert requests.get_cursor(MAJORS[b"XFIXES"][0]) in sent(wire)


def test_answers_about_extensions_may_come_in_any_order() -> None:
    wire = X11Client(b"", 0)
    says(wire, b"".join([xserver.setup(), *reversed(xserver.extensions()[:4])]))
    # Their versions were asked for in that order.
    versions = [xserver.reply(5, struct.pack("<H", 2)), xserver.reply(6, struct.pack("<HH", 1, 2)), xserver.reply(7)]
    says(wire, b"".join(versions))
    assert wire.events() == []
    says(wire, xserver.reply(8))
    assert wire.events() == [Ready("The X"), Resized(Size(WIDTH, HEIGHT))]


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_end_at_most_the_connection(data: bytes, late: bool) -> None:
    wire = copying() if late else X11Client(b"", 0)
    try:
        wire.receive(data, 0)
    except RemoteProtocolError as error:
        assert str(error).isprintable()


def test_description_of_every_length_is_refused_or_read() -> None:
    body = xserver.setup()[8:]
    assert read_description(body).vendor == "The X"
    for size in range(len(body)):
        with pytest.raises(RemoteProtocolError):
            read_description(body[:size])


# -- the door --------------------------------------------------------------------------------------


def test_copies_become_pictures_and_the_screen_goes_with_the_session() -> None:
    wire, budget, told, memory = inside(), Budget(), [], bytearray(WIDTH * HEIGHT * 4)
    screens = Screens("alice", Ids(), budget)
    door = X11Door(
        screens, wire, "X display :1", "door/1", lambda size: (5, memoryview(memory)), told.append, lambda: None
    )
    door.receive(0)
    listed = screens.first
    assert told == [Ready("The X")] and listed is not None and door.streams == () and not door.recording
    screen = listed.screen
    reader = screen.read(WATCHER)
    picture = np.random.default_rng(3).integers(0, 256, len(memory), np.uint8)
    memory[:] = picture.tobytes()
    wire.receive(xserver.copied(FIRST_COPY + xserver.ASKED), 3)
    door.receive(3)
    taken = reader.take(3)
    assert taken is not None and bytes(taken.pixels) == bytes(memory) and taken.painted_ns == 3
    taken.release()
    wire.receive(xserver.cursor(12), 4)
    door.receive(4)
    assert screen.cursor.shown and screen.cursor.at == Point(5, 6) and screen.cursor.hot == Point(1, 2)
    screens.seat.take(WATCHER)
    sent(wire)
    reader.pointer(Point(900, 3), 0, False)
    reader.key(KeyPress(0x1E, True))
    assert len(sent(wire)) == 4 and screen.cursor.at == Point(WIDTH - 1, 3), "the fourth asks whether it answers"
    door.close()
    door.close()
    assert not len(screens) and budget.held == 0


def test_viewer_waits_for_what_was_painted_while_nobody_watched() -> None:
    wire, memory = inside(), bytearray(WIDTH * HEIGHT * 4)
    screens = Screens("alice", Ids(), Budget())
    door = X11Door(screens, wire, "X", "door/1", lambda size: (5, memoryview(memory)), lambda ready: None, lambda: None)
    door.receive(0)
    assert screens.first is not None
    screen = screens.first.screen
    reader = screen.read(WATCHER)
    assert reader.next_timeout() is None and reader.take(0) is None, "nothing was copied yet"
    wire.receive(xserver.copied(FIRST_COPY + xserver.ASKED), 1)
    door.receive(1)
    assert reader.next_timeout() == 0
    reader.end()
    reader = screen.read(WATCHER)
    assert reader.next_timeout() == 0, "nothing was painted since"
    reader.end()
    wire.receive(xserver.damaged(1, 2, 3, 4), 2)
    reader = screen.read(WATCHER)
    assert reader.next_timeout() is None
    wire.receive(xserver.copied(FIRST_COPY + xserver.ASKED + 2, 48), 3)
    door.receive(3)
    assert reader.next_timeout() == 0


class Served:
    """A door with a server in its hands. `over`: whether each turn is over at once."""

    full = False
    """Whether the server does not read."""

    def __init__(self, over: bool = False, budget: Budget | None = None) -> None:
        self.told: list[Symptom] = []
        self.screens = Screens("alice", Ids(), budget or Budget(), report=self.told.append)
        self.wire, self.memories = inside(), list[bytearray]()
        self.door = X11Door(
            self.screens, self.wire, "X", "door/1", self._memory, lambda ready: None, lambda: None, lambda: over,
            lambda: self.full,
        )  # fmt: skip
        self.turns()
        assert self.screens.first is not None
        self.screen = self.screens.first.screen
        self.reader = self.screen.read(WATCHER)

    def _memory(self, size: int) -> tuple[int, memoryview]:
        self.memories.append(bytearray(size))
        return 5, memoryview(self.memories[-1])

    def turns(self, data: bytes = b"") -> int:
        """What a connection does in its turns; how many it takes."""
        turns = 1
        self.wire.receive(data, 0)
        self.door.receive(0)
        while self.wire.unfinished or self.door.busy:
            self.wire.receive(b"", 0)
            self.door.receive(0)
            turns += 1
        return turns


def test_size_that_changes_while_copies_are_under_way_leaves_the_session() -> None:
    """The answers for the old size come in one piece with the new one, which has less room, or more."""
    for width, height in ((8, 8), (640, 480), (WIDTH, 8), (48, 64)):
        one, copy = Served(), FIRST_COPY + xserver.ASKED
        one.turns(xserver.attached(xserver.ATTACHED + xserver.ASKED))
        one.turns(xserver.damaged(0, 10, WIDTH, 30) + xserver.damaged(0, 0, 5, 5) + xserver.copied(copy))
        copies = xserver.copied(copy + 2) + xserver.copied(copy + 3)
        one.turns(xserver.resized(width, height) + copies)
        assert len(one.memories) == 2 and one.reader.take(0) is None, "nothing of the old size is shown"
        one.memories[1][:] = bytes(range(256)) * (width * height // 64)
        # New damage and the end of the old, memory in place of other memory, its answer, and a copy.
        copy += 3 + 2 + 3 + 2
        one.turns(xserver.attached(copy - 2))
        one.turns(xserver.copied(copy))
        taken = one.reader.take(0)
        assert taken is not None and bytes(taken.pixels) == bytes(one.memories[1])
        taken.release()
        one.door.close()


def test_each_turn_does_little_of_what_a_server_sends() -> None:
    one = Served(over=True)
    assert one.turns(xserver.damaged(1, 2, 3, 4) * 400) >= 400 // AT_ONCE
    one = Served(over=True)
    one.turns(xserver.attached(xserver.ATTACHED + xserver.ASKED) + xserver.copied(FIRST_COPY + xserver.ASKED))
    assert one.turns(xserver.resized(1024, 768)) < 10
    one.memories[1][:] = os.urandom(1024) * (1024 * 768 // 256)
    copy = FIRST_COPY + xserver.ASKED + 2 + 3 + 2
    one.turns(xserver.attached(copy - 2))
    one.wire.data_to_send()
    one.wire.receive(xserver.copied(copy) + xserver.damaged(0, 0, 9, 9) * 20, 0)
    one.door.receive(0)
    assert one.door.busy and not one.wire.data_to_send(), "no copy is asked for while the last one is painted"
    assert one.turns() >= 1024 * 768 // BAND_PIXELS and one.wire.data_to_send()
    taken = one.reader.take(0)
    assert taken is not None and bytes(taken.pixels) == bytes(one.memories[1])
    taken.release()
    assert one.turns(xserver.cursor(12, 512, 512)) >= 512 * 512 // SHAPE_PIXELS and one.screen.cursor.shown


def test_alpha_is_taken_out_of_colours() -> None:
    assert straight(bytes((50, 25, 0, 128, 9, 9, 9, 0)), Size(2, 1)) == bytes((100, 50, 0, 128, 255, 255, 255, 0))


# -- addresses -------------------------------------------------------------------------------------


def test_door_that_is_closed_does_nothing_with_what_still_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    one, asked = Served(), list[bool]()

    def over() -> bool:
        asked.append(True)
        return len(asked) > 99

    monkeypatch.setattr(one.door, "_over", over)
    one.door.close()
    one.wire._events.append(Resized(Size(8, 8)))
    one.door.receive(0)
    assert not asked and one.wire.events()


class Bounded(Served):
    """Its memory is charged as a session's is."""

    def __init__(self) -> None:
        self.budget = Budget(limit=1_000_000)
        self.account, self.files = self.budget.open("connection"), list[int]()
        super().__init__(budget=self.budget)

    def _memory(self, size: int) -> tuple[int, memoryview]:
        self.account.hold("copies", size, MACHINES)
        self.files.append(os.open(os.devnull, os.O_RDONLY))
        return self.files[-1], super()._memory(size)[1]


@pytest.mark.parametrize("side", [400, 1000])
def test_size_without_room_leaves_the_session_and_the_picture_before_until_there_is_another_size(side: int) -> None:
    """There is no room for the picture beside the copies, or not even for these."""
    one, copy = Bounded(), FIRST_COPY + xserver.ASKED
    one.turns(xserver.attached(xserver.ATTACHED + xserver.ASKED))
    one.turns(xserver.copied(copy))
    before = one.screen.memory
    one.turns(xserver.resized(side, side))
    assert one.screen.memory is before and len(one.memories[-1]) == 4 and one.account.held == 4
    assert f"no room for its {side} × {side}: this guest holds" in one.door.trouble
    asked = copy + 2 + 3
    one.turns(xserver.attached(asked) + xserver.damaged(0, 0, 5, 5))
    assert len(one.memories) == 3 - (side == 1000), "nothing is copied"
    one.turns(xserver.resized(48, 64))
    assert one.screen.memory is not None and one.screen.memory.mode.whole == Rect(0, 0, 48, 64)
    assert not one.door.trouble and one.account.held == 48 * 64 * 4
    one.door.close()
    for fd in {*one.files} - {one.files[1] if side == 400 else -1}:
        os.close(fd)
