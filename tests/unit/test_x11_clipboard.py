"""The clipboard of an X display: the selection, read and handed over, whole and in pieces."""

from __future__ import annotations

import struct

import pytest

from millrace.doors.x11.door import X11Door
from millrace.errors import RemoteProtocolError
from millrace.media.clip import CLIP_BYTES_MAX, PIECE_BYTES
from millrace.wire.clips import ClipOffered, ClipWanted
from millrace.wire.peer.clips import ClipboardState, Copied, Paste
from millrace.wire.x11.selections import ASKS_MAX, READ_BYTES, TRANSFERS_MAX, WHOLE_BYTES, Selections
from tests.fuzz import xserver
from tests.fuzz.xserver import BASE, CLIPBOARD, INCR, PLAIN, PROPERTY, ROOT, TARGETS, UTF8
from tests.unit.test_clipboard import USES, WRITER
from tests.unit.test_x11 import inside, sent
from tests.watch import Desk, Remote, clip, words

WINDOW, FETCH, OTHER = BASE + 2, BASE + 5, 0x900001
CREATE, CHANGE_WINDOW, DESTROY, CHANGE, GET, SET_OWNER, CONVERT, SEND = 1, 2, 4, 18, 20, 22, 24, 25
STRING = 31


def _memory(size: int) -> tuple[int, memoryview]:
    return 9, memoryview(bytearray(size))


class Hall:
    """A guest with an X display and a viewer that has the keyboard and every right."""

    def __init__(self, owner: int = 0) -> None:
        self.desk = Desk()
        self.wire = inside()
        self.number = 0
        """Of the last request."""
        screens = self.desk.home.screens
        self.door = X11Door(screens, self.wire, "X", "door/3", _memory, lambda told: None, lambda: None)
        self.door.receive(0)
        self.sent(own=False)
        self.says(*xserver.names())
        assert [one[0] for one in self.sent(own=False)] == [CREATE, 138, 23]
        self.says(xserver.reply(self.number, struct.pack("<I", owner)))
        self.remote = Remote(self.desk, WRITER, principal=USES)
        self.run()
        self.sent()

    def says(self, *messages: bytes) -> None:
        self.wire.receive(b"".join(messages), 0)
        self.door.receive(0)

    def run(self) -> None:
        self.desk.run(40)

    def sent(self, own: bool = True) -> list[bytes]:
        """The requests since the last call; those of the screen are left out."""
        requests = sent(self.wire)
        self.number += len(requests)
        return [one for one in requests if not own or one[0] not in (130, 143)]

    def state(self) -> ClipboardState:
        return self.remote.news(ClipboardState)[-1]

    def pastes(self, number: int = 1) -> None:
        self.remote.wire.send_paste(number)
        self.run()

    def copies(self, text: bytes, number: int = 1) -> None:
        """The viewer copies a text, and gives it when it is asked for."""
        self.remote.say(Copied(number))
        self.text = text

    def gives(self, number: int = 1) -> None:
        self.run()
        assert self.remote.news(Paste) == [Paste(number)]
        self.remote.wire.send_clip(clip(number, self.text))
        self.desk.run(100)


def notified(request: bytes) -> tuple[int, int, int]:
    """Whom a SendEvent tells that the selection is in which property, and of which target."""
    assert request[0] == SEND and request[12] == 31
    requestor, selection, target, name = struct.unpack_from("<IIII", request, 20)
    assert selection == CLIPBOARD
    return requestor, target, name


def changed(request: bytes) -> tuple[int, int, int, bytes]:
    """Window, property, type and data of a ChangeProperty."""
    assert request[0] == CHANGE
    window, name, kind, bits, count = struct.unpack_from("<IIIBxxxI", request, 4)
    return window, name, kind, request[24 : 24 + count * bits // 8]


# -- out of the display --------------------------------------------------------------------------


def test_owner_that_is_there_already_has_copied_something() -> None:
    assert Hall(owner=OTHER).state() == ClipboardState(True, 1)
    assert Hall().state() == ClipboardState(True, 0)


def test_text_is_converted_when_it_is_pasted() -> None:
    hall = Hall()
    hall.says(xserver.owned(OTHER))
    hall.run()
    assert hall.state() == ClipboardState(True, 1) and not hall.sent()
    hall.pastes()
    create, convert = hall.sent()
    assert create[0] == CREATE and struct.unpack_from("<II", create, 4) == (FETCH, ROOT)
    assert convert[0] == CONVERT and struct.unpack("<4xIIIII", convert) == (FETCH, CLIPBOARD, UTF8, PROPERTY, 0)
    hall.says(xserver.converted(FETCH))
    (get,) = hall.sent()
    assert get[0] == GET and get[1] == 1 and struct.unpack_from("<IIII", get, 4) == (FETCH, PROPERTY, 0, 0)
    hall.says(xserver.has(hall.number, "grüße".encode()))
    hall.run()
    assert hall.remote.clips == [clip(1, "grüße".encode())] and [one[0] for one in hall.sent()] == [DESTROY]
    hall.says(xserver.owned(0))
    hall.run()
    assert hall.state() == ClipboardState(True, 0)


def test_long_text_comes_in_pieces() -> None:
    hall = Hall(owner=OTHER)
    hall.pastes()
    hall.says(xserver.property_changed(FETCH, PROPERTY, False), xserver.converted(FETCH))
    hall.sent()
    hall.says(xserver.has(hall.number, struct.pack("<I", 9), INCR, bits=32))
    assert not hall.sent()
    for piece in (b"one ", b"two", b""):
        hall.says(xserver.property_changed(FETCH, PROPERTY, False))
        assert [one[0] for one in hall.sent()] == [GET]
        hall.says(xserver.has(hall.number, piece))
    hall.run()
    assert hall.remote.clips == [clip(1, b"one two")] and [one[0] for one in hall.sent()] == [DESTROY]
    hall.says(xserver.property_changed(FETCH, PROPERTY, False))
    assert not hall.sent()


def test_old_program_has_latin_1_and_a_picture_is_no_text() -> None:
    hall = Hall(owner=OTHER)
    hall.pastes()
    hall.sent()
    hall.says(xserver.converted(FETCH, 0))
    (convert,) = hall.sent()
    assert struct.unpack_from("<I", convert, 12) == (STRING,)
    hall.says(xserver.converted(FETCH))
    hall.sent()
    hall.says(xserver.has(hall.number, b"caf\xe9", STRING))
    hall.run()
    assert hall.remote.clips == [clip(1, "café".encode())]
    hall.pastes()
    hall.says(xserver.converted(FETCH + 1, 0), xserver.converted(FETCH + 1, 0))
    hall.run()
    assert hall.remote.clips[1:] == [clip(1, b"the machine's clipboard holds no text", True)]


@pytest.mark.parametrize("pieces", [False, True])
def test_text_that_is_too_long_is_refused(pieces: bool) -> None:
    hall = Hall(owner=OTHER)
    hall.pastes()
    hall.says(xserver.converted(FETCH))
    hall.sent()
    if pieces:
        hall.says(xserver.has(hall.number, bytes(4), INCR, bits=32))
        for _ in range(CLIP_BYTES_MAX // READ_BYTES + 1):
            assert not hall.remote.clips
            hall.says(xserver.property_changed(FETCH, PROPERTY, False))
            hall.sent()
            hall.says(xserver.has(hall.number, bytes(READ_BYTES)))
    else:
        hall.says(xserver.has(hall.number, bytes(READ_BYTES), after=CLIP_BYTES_MAX - READ_BYTES + 1))
    hall.run()
    assert hall.remote.clips[0].text is None and "1.0 MB at most" in hall.remote.clips[0].why
    assert hall.sent()[-1][0] == DESTROY


def test_what_comes_late_of_a_text_that_was_replaced_is_not_taken_for_the_new_one() -> None:
    hall = Hall(owner=OTHER)
    hall.pastes()
    hall.says(xserver.converted(FETCH))
    hall.sent()
    late = hall.number
    hall.says(xserver.owned(OTHER + 1))
    hall.run()
    assert hall.remote.clips[0].text is None and [one[0] for one in hall.sent()] == [DESTROY]
    hall.pastes(2)
    hall.says(xserver.has(late, b"the old one"), xserver.converted(FETCH))
    hall.run()
    assert len(hall.remote.clips) == 1 and [one[0] for one in hall.sent()] == [CREATE, CONVERT]


# -- into the display ----------------------------------------------------------------------------


def test_our_text_is_handed_to_whoever_pastes() -> None:
    hall = Hall(owner=OTHER)
    hall.copies("ä日".encode())
    (own,) = hall.sent()
    assert own[0] == SET_OWNER and struct.unpack("<4xIII", own) == (WINDOW, CLIPBOARD, 0)
    hall.says(xserver.owned(WINDOW))
    hall.run()
    assert hall.state() == ClipboardState(True, 0), "it is not told as if the display had copied it"
    hall.says(xserver.pasted(OTHER, TARGETS))
    listed, told = hall.sent()
    assert changed(listed)[:3] == (OTHER, 77, 4) and UTF8 in struct.unpack("<4I", changed(listed)[3])
    assert notified(told) == (OTHER, TARGETS, 77) and not hall.remote.news(Paste)
    hall.says(xserver.pasted(OTHER, UTF8), xserver.pasted(OTHER, STRING, 0), xserver.pasted(OTHER, PLAIN))
    assert not hall.sent()
    hall.gives()
    one, told, two, again, _, _ = hall.sent()
    assert changed(one) == (OTHER, 77, UTF8, "ä日".encode()) and notified(told) == (OTHER, UTF8, 77)
    assert changed(two) == (OTHER, STRING, STRING, b"\xe4?") and notified(again) == (OTHER, STRING, STRING)


def test_long_text_is_handed_over_in_pieces() -> None:
    hall = Hall()
    text = bytes(range(32, 127)) * 1000
    hall.copies(text)
    hall.says(xserver.pasted(OTHER, UTF8))
    hall.sent()
    hall.gives()
    watch, begun, told = hall.sent()
    assert watch[0] == CHANGE_WINDOW and struct.unpack("<4xIII", watch) == (OTHER, 0x800, 0x400000)
    assert changed(begun) == (OTHER, 77, INCR, struct.pack("<I", len(text))) and notified(told) == (OTHER, UTF8, 77)
    got = b""
    for left in range(-(-len(text) // PIECE_BYTES), -1, -1):
        hall.says(xserver.property_changed(OTHER, 77, True))
        piece, *rest = hall.sent()
        got += changed(piece)[3]
        assert len(changed(piece)[3]) <= PIECE_BYTES and bool(rest) == (left == 0)
    assert got == text and struct.unpack("<4xIII", rest[0]) == (OTHER, 0x800, 0)
    hall.says(xserver.property_changed(OTHER, 77, True))
    assert not hall.sent()


def test_program_that_asks_meanwhile_is_given_the_same_text_and_after_another_offer_the_new_one() -> None:
    hall = Hall()
    hall.copies(b"a" * 100_000)
    hall.says(xserver.pasted(OTHER, UTF8))
    hall.gives()
    held = hall.desk.home.admission.budget.held
    hall.sent()
    hall.says(xserver.pasted(OTHER + 1, UTF8))
    assert changed(hall.sent()[1])[:3] == (OTHER + 1, 77, INCR)
    hall.run()
    assert not hall.remote.news(Paste)
    hall.copies(b"new", 2)
    hall.sent()
    hall.says(xserver.pasted(OTHER + 2, UTF8))
    assert not hall.sent()
    hall.gives(2)
    assert changed(hall.sent()[0]) == (OTHER + 2, 77, UTF8, b"new")
    hall.says(xserver.property_changed(OTHER, 77, True))
    assert not hall.sent() and held - hall.desk.home.admission.budget.held > 90_000, "the older one is given up"


def test_text_is_charged_until_the_last_program_has_it() -> None:
    hall = Hall()
    budget = hall.desk.home.admission.budget
    before = budget.held
    hall.copies(b"a" * 100_000)
    hall.says(xserver.pasted(OTHER, UTF8), xserver.pasted(OTHER, STRING, 78))
    hall.gives()
    for name in (77, 78):
        assert 100_000 < budget.held - before < 110_000, "once, for all"
        for _ in range(-(-100_000 // PIECE_BYTES) + 1):
            hall.says(xserver.property_changed(OTHER, name, True))
    assert budget.held == before


def test_short_text_is_charged_no_longer_than_it_takes_to_hand_it_over() -> None:
    hall = Hall()
    held = hall.desk.home.admission.budget.held
    hall.copies(b"a" * 10_000)
    hall.says(xserver.pasted(OTHER, UTF8))
    hall.gives()
    assert len(hall.sent()) == 3 and hall.desk.home.admission.budget.held == held


def test_property_is_read_in_parts_which_are_charged() -> None:
    hall = Hall(owner=OTHER)
    hall.pastes()
    hall.says(xserver.converted(FETCH))
    whole = b"x" * (3 * READ_BYTES - 1)
    for at in range(0, len(whole), READ_BYTES):
        (get,) = hall.sent()[-1:]
        assert struct.unpack_from("<II", get, 16) == (at // 4, READ_BYTES // 4)
        assert hall.wire.partial_bytes >= at
        part = whole[at : at + READ_BYTES]
        hall.says(xserver.has(hall.number, part, after=len(whole) - at - len(part)))
    hall.run()
    assert hall.remote.clips == [clip(1, whole)] and hall.wire.partial_bytes == 0
    hall.sent()
    hall.pastes()
    hall.says(xserver.converted(FETCH + 1))
    assert hall.sent()[-1][0] == GET
    with pytest.raises(RemoteProtocolError, match="65568 at most"):
        hall.says(xserver.has(hall.number, bytes(READ_BYTES + 4)))


def test_what_is_not_to_be_had_is_refused() -> None:
    hall = Hall()
    hall.says(xserver.pasted(OTHER, UTF8))
    assert notified(hall.sent()[0]) == (OTHER, UTF8, 0), "we own nothing"
    hall.copies(b"x")
    hall.says(xserver.pasted(OTHER, 999), xserver.pasted(OTHER, UTF8, selection=1))
    assert [notified(one) for one in hall.sent()[1:2]] == [(OTHER, 999, 0)]
    hall.says(xserver.pasted(OTHER, UTF8))
    hall.remote.leave()
    told, gone = hall.sent()
    assert notified(told) == (OTHER, UTF8, 0) and struct.unpack("<4xIII", gone) == (0, CLIPBOARD, 0)


def test_programs_that_paste_without_end_are_bounded() -> None:
    selections = Selections()
    selections._atoms = {name: 300 + n for n, name in enumerate((b"CLIPBOARD", b"TARGETS", b"INCR", b"UTF8_STRING"), 1)}
    selections._atoms |= {b"text/plain;charset=utf-8": PLAIN, b"MILLRACE_CLIPBOARD": PROPERTY}
    selections.offer(True)
    said = [selections.event(xserver.pasted(OTHER, UTF8, name)) for name in range(1, ASKS_MAX + 2)]
    assert [len(one) for one in said] == [0] * ASKS_MAX + [1] and selections.events() == [ClipWanted()]
    selections.supply(words("x" * (WHOLE_BYTES + 1)))
    assert len(selections._transfers) == TRANSFERS_MAX


def test_before_the_names_are_known_nothing_is_said() -> None:
    selections = Selections()
    assert selections.owned(xserver.owned(OTHER)) == selections.event(xserver.pasted(OTHER, UTF8)) == []
    wire = inside()
    wire.send_clip_offer(True)
    assert all(one[0] != SET_OWNER for one in sent(wire)) and ClipOffered(True) not in wire.events()
