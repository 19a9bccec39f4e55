"""The clipboard of a VNC server, with and without the extension, from its bytes to the viewers and back."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest

from millrace.doors.clipboard import MachineClipboard
from millrace.doors.vnc.door import VncDoor
from millrace.doors.vnc.screen import VncScreen
from millrace.errors import RemoteProtocolError
from millrace.media.clip import CLIP_BYTES_MAX
from millrace.wire.clips import ClipGiven, ClipOffered, ClipSupplied, ClipWanted
from millrace.wire.peer.clips import Clip, ClipboardState, Copied, Paste
from millrace.wire.vnc.client import VncClient
from millrace.wire.vnc.cuttext import CUT_BYTES_MAX, CutText, Said
from millrace.wire.vnc.messages import Encoding
from millrace.wire.vnc.work import WORK_MAX, Work
from tests.fuzz import vncserver
from tests.fuzz.vncserver import update
from tests.unit.test_clipboard import USES, WRITER
from tests.unit.test_vnc_pictures import HEIGHT, WIDTH, client, passed, said
from tests.vncdear import stuffed, text
from tests.watch import Desk, Remote, clip, words

TEXT, CAPS, REQUEST, PEEK, NOTIFY, PROVIDE = 1, 1 << 24, 1 << 25, 1 << 26, 1 << 27, 1 << 28


def cut(body: bytes, extended: bool = True) -> bytes:
    """A ServerCutText, or by its first byte a ClientCutText."""
    return struct.pack(">Bxxxi", 3, -len(body) if extended else len(body)) + body


def flags(number: int, rest: bytes = b"") -> bytes:
    return cut(struct.pack(">I", number) + rest)


def provided(text: bytes, size: int | None = None) -> bytes:
    return zlib.compress(struct.pack(">I", len(text) if size is None else size) + text)


CAPABLE = flags(CAPS | REQUEST | PEEK | NOTIFY | PROVIDE | TEXT, struct.pack(">I", 20 << 20))


class Hall:
    """A guest with a VNC server and a viewer that has the keyboard and every right."""

    def __init__(self, *first: bytes) -> None:
        self.desk = Desk()
        self.wire: VncClient = client()
        # The server has let us in before there was a door.
        screens = self.desk.home.screens
        self.screen = VncScreen(screens, self.wire, "door/3", lambda: None)
        self.door = VncDoor(self.desk.house.rig.graph, self.wire, screen=self.screen)
        self.board: MachineClipboard = self.screen.clipboard()
        self.door.clipboard = self.board
        self.says(update(vncserver.rect(0, 0, WIDTH, HEIGHT, -223)), *first)
        self.remote = Remote(self.desk, WRITER, principal=USES)
        self.run()
        self.sent()

    def says(self, *messages: bytes) -> None:
        passed(self.door, b"".join(messages))

    def run(self) -> None:
        self.desk.run(40)
        passed(self.door, b"")

    def sent(self) -> bytes:
        """What the server was told of its clipboard."""
        out, kept = self.wire.data_to_send(), b""
        while out:
            size = {0: 20, 2: 4, 3: 10, 4: 8, 5: 6, 6: 8}[out[0]]
            if out[0] == 2:
                size += 4 * struct.unpack_from(">H", out, 2)[0]
            if out[0] == 6:
                size += abs(struct.unpack_from(">i", out, 4)[0])
                kept += out[:size]
            out = out[size:]
        return kept

    def pastes(self, number: int) -> list[Clip]:
        self.remote.wire.send_paste(number)
        self.run()
        return self.remote.clips

    def state(self) -> ClipboardState:
        return self.remote.news(ClipboardState)[-1]


def _message(number: int, rest: bytes = b"") -> bytes:
    return b"\6" + flags(number, rest)[1:]


def test_extension_is_asked_for_with_pictures_and_answered_with_what_is_understood() -> None:
    vnc = client()
    said(vnc, CAPABLE)
    assert (
        vnc.data_to_send() == _message(CAPS | REQUEST | PEEK | NOTIFY | PROVIDE | TEXT, bytes(4)) and vnc.cut.extended
    )
    fresh = VncClient(48_000, 2, "", lambda challenge, text: b"", 0, (Encoding.RAW,))
    said(fresh, b"RFB 003.008\n\1\1" + bytes(4) + struct.pack(">HH16xI", 8, 8, 0))
    assert struct.pack(">I", 0xC0A1E5CE) in fresh.data_to_send()


def test_text_of_a_server_with_the_extension_is_asked_for_when_it_is_pasted() -> None:
    hall = Hall(CAPABLE)
    hall.says(flags(NOTIFY | TEXT))
    hall.run()
    assert hall.state() == ClipboardState(True, 1) and hall.sent() == b""
    assert hall.pastes(1) == [] and hall.sent() == _message(REQUEST | TEXT)
    hall.says(flags(PROVIDE | TEXT, provided("grüße\r\n日本\0".encode())))
    hall.run()
    assert hall.remote.clips == [clip(1, "grüße\n日本".encode())]
    hall.says(flags(NOTIFY))
    hall.run()
    assert hall.state() == ClipboardState(True, 0)


def test_text_for_a_server_with_the_extension_is_sent_when_it_asks() -> None:
    hall = Hall(CAPABLE)
    hall.remote.say(Copied(1))
    assert hall.sent() == _message(NOTIFY | TEXT)
    hall.says(flags(PEEK))
    assert hall.sent() == _message(NOTIFY | TEXT)
    hall.says(flags(REQUEST | TEXT))
    hall.run()
    assert hall.remote.news(Paste) == [Paste(1)]
    hall.remote.wire.send_clip(clip(1, "ä\nb".encode()))
    hall.run()
    sent = hall.sent()
    assert sent[:8] == struct.pack(">Bxxxi", 6, 8 - len(sent)) and sent[8:12] == struct.pack(">I", PROVIDE | TEXT)
    assert zlib.decompress(sent[12:]) == struct.pack(">I", 6) + "ä\r\nb\0".encode()
    hall.remote.leave()
    assert hall.sent() == _message(NOTIFY)


def test_server_without_the_extension_gets_and_sends_whole_texts() -> None:
    hall = Hall()
    hall.says(cut(b"caf\xe9\n", False))
    hall.run()
    assert hall.state() == ClipboardState(True, 1) and hall.pastes(1) == [clip(1, "café\n".encode())]
    assert hall.desk.home.admission.budget.held > 0 and hall.sent() == b""
    hall.remote.say(Copied(1))
    hall.run()
    assert hall.remote.news(Paste) == [Paste(1)], "it can't ask, so it must have the text before"
    hall.remote.wire.send_clip(clip(1, "é日".encode()))
    hall.run()
    assert hall.sent() == struct.pack(">Bxxxi", 6, 2) + b"\xe9?"
    assert hall.state() == ClipboardState(True, 0)


def test_what_a_server_sends_back_is_not_copied_again() -> None:
    hall = Hall()
    hall.remote.say(Copied(1))
    hall.run()
    hall.remote.wire.send_clip(clip(1, b"mine"))
    hall.run()
    hall.says(cut(b"mine", False))
    hall.run()
    assert not hall.remote.news(ClipboardState)[1:]
    hall.says(cut(b"theirs", False))
    hall.run()
    assert hall.state() == ClipboardState(True, 1)


def test_text_that_is_too_long_is_skipped_and_the_session_goes_on() -> None:
    hall = Hall()
    hall.says(cut(b"x" * (CLIP_BYTES_MAX + 1), False), cut(b"y" * (CUT_BYTES_MAX + 1), False))
    assert hall.wire.partial_bytes == 0
    assert hall.pastes(2)[0].text is None and "has 2.1 MB; 1.0 MB at most" in hall.remote.clips[0].why
    hall.says(cut(b"short", False))
    assert hall.pastes(3)[1] == clip(3, b"short")
    hall = Hall(CAPABLE)
    hall.says(flags(NOTIFY | TEXT))
    hall.pastes(1)
    hall.says(flags(PROVIDE | TEXT, provided(bytes(CUT_BYTES_MAX), 2 * CUT_BYTES_MAX)))
    hall.run()
    assert hall.remote.clips[0].text is None
    assert CutText(Work()).too_long(CUT_BYTES_MAX + 1).refused


def test_text_without_room_in_the_budget_is_refused() -> None:
    hall = Hall()
    budget = hall.desk.home.admission.budget
    budget.open("else", {"all": budget.limit - budget.held - 1000}, 1.0)
    hall.says(cut(b"x" * 2000, False))
    assert hall.pastes(1)[0].text is None and "no room" in hall.remote.clips[0].why


def test_clipboard_ends_with_the_session() -> None:
    hall = Hall()
    hall.says(cut(b"x" * 2000, False))
    held = hall.desk.home.admission.budget.held
    hall.door.close()
    hall.run()
    assert hall.state() == ClipboardState(False) and held - hall.desk.home.admission.budget.held >= 2000


PROVIDES = struct.pack(">I", PROVIDE | TEXT)


def read(cuts: CutText, body: bytes) -> Said:
    """What an extended cut text says."""
    reading = cuts.read(len(body), extended=True)
    need = next(reading)
    try:
        while True:
            part, body = body[:need], body[need:]
            need = reading.send(part)
    except StopIteration as done:
        assert not body
        said: Said = done.value
        return said


@pytest.mark.parametrize(
    "body", [b"", b"abc", PROVIDES + b"no zlib", PROVIDES + zlib.compress(b"xy"), PROVIDES + provided(b"short", 6)]
)
def test_broken_extended_text_ends_the_session(body: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        read(CutText(Work()), body)


def test_formats_that_are_not_understood_are_ignored() -> None:
    cuts = CutText(Work())
    for number in (PROVIDE | 2, REQUEST | 2, 0):
        assert read(cuts, struct.pack(">I", number)) == (None, b"")
    assert read(cuts, struct.pack(">I", NOTIFY | 2)) == (ClipOffered(False), b"")
    assert read(cuts, struct.pack(">I", REQUEST | 3)) == (ClipWanted(), b"")
    assert read(cuts, struct.pack(">I", PROVIDE | TEXT) + provided(b"\xff\0"))[0] == ClipSupplied(
        refused="the clipboard holds no valid UTF-8 text"
    )
    for event in (ClipOffered(True, words("secret")), ClipSupplied(words("secret"))):
        assert "secret" not in repr(event)


@pytest.mark.parametrize(
    ("data", "whole"),
    [
        ("grüße".encode("latin-1"), "grüße"), ("grüße, 日本".encode(), "grüße, 日本"),
        (b"a" * 16_383 + "ü".encode() + b"b" * 20_000, "a" * 16_383 + "ü" + "b" * 20_000),
        ("ü".encode() + b"b" * 40_000 + b"\xfc", "Ã¼" + "b" * 40_000 + "ü"), (b"ab\xc3", "abÃ"), (b"", ""),
    ],
)  # fmt: skip
def test_text_without_the_extension_is_utf8_if_it_can_be_and_else_latin1(data: bytes, whole: str) -> None:
    vnc = client()
    vnc.receive(cut(data, False), 0)
    while vnc.unfinished:
        vnc.receive(b"", 0)
    (event,) = vnc.events()
    assert isinstance(event, ClipOffered) and event.text is not None and event.text.whole() == whole


# -- the work ------------------------------------------------------------------------------------


def test_text_that_inflates_from_far_more_than_it_needs_is_refused_and_passed_over() -> None:
    hall = Hall(CAPABLE)
    hall.says(flags(NOTIFY | TEXT))
    hall.pastes(1)
    hall.says(cut(PROVIDES + stuffed(text(b"ab\0"), 2_000_000)), flags(NOTIFY))
    hall.run()
    (got,) = hall.remote.clips
    assert got.text is None and "compressed bytes for a text of 3" in got.why
    assert hall.state() == ClipboardState(True, 0), "the session goes on"


def test_text_is_taken_in_pieces_which_are_charged_until_it_is_handed_on() -> None:
    whole = "a\r\n日" * 100_000
    for data, shown in ((cut(PROVIDES + provided(whole.encode())), ClipSupplied),
                        (cut(whole.encode("latin-1", "replace"), False), ClipOffered)):  # fmt: skip
        vnc, steps, most = client(), 0, 0
        while data or vnc.unfinished:
            chunk, data = (b"", data) if vnc.unfinished else (data[:65536], data[65536:])
            vnc.receive(chunk, 0)
            assert vnc.work.spent < 2 * WORK_MAX
            steps, most = steps + bool(vnc.work.over), max(most, vnc.cut.held_bytes)
        assert steps >= 10 and vnc.cut.held_bytes == 0 and min(most, vnc.partial_bytes) > 250_000
        (event,) = vnc.events()
        assert isinstance(event, shown) and event.text is not None
        assert event.text.whole() == ("a\n日" if shown is ClipSupplied else "a\n?") * 100_000
        assert vnc.partial_bytes == 0


def given(cuts: CutText, work: Work, whole: str) -> bytes:
    """What is sent of a text, whose making takes steps of bounded cost."""
    making, steps = cuts.provide(words(whole)), 0
    try:
        while True:
            next(making)
            assert 0 < work.spent < WORK_MAX * 3 // 2 and cuts.held_bytes > 0
            work.spent, steps = 0, steps + 1
    except StopIteration as made:
        assert steps >= len(whole) // 20_000 and cuts.held_bytes == 0
        return bytes(made.value)


@pytest.mark.parametrize("asks", (NOTIFY, 0))
def test_text_is_made_into_a_message_in_pieces(asks: int) -> None:
    letters = np.random.default_rng(1).integers(0, 128, CLIP_BYTES_MAX, np.uint8).tobytes().decode()
    for whole in ("\n" * CLIP_BYTES_MAX, "日" * (CLIP_BYTES_MAX // 3), letters):
        whole, work = words(whole).whole(), Work()
        cuts = CutText(work)
        read(cuts, struct.pack(">II", CAPS | REQUEST | PROVIDE | TEXT | asks, 4 * CLIP_BYTES_MAX))
        sent = given(cuts, work, whole)
        if not asks:
            assert sent == struct.pack(">Bxxxi", 6, len(whole)) + whole.encode("latin-1", "replace")
            continue
        data = whole.replace("\n", "\r\n").encode() + b"\0"
        assert sent[:12] == struct.pack(">BxxxiI", 6, 8 - len(sent), PROVIDE | TEXT)
        assert len(sent) <= 8 + (1 << 20), "QEMU and libvncserver take no more"
        assert zlib.decompress(sent[12:]) == struct.pack(">I", len(data)) + data


def test_newest_text_waits_while_the_server_leaves_much_unread() -> None:
    vnc, full = client(), [True]
    vnc.giving.open(lambda: full[0])
    older, newest = words("a" * CLIP_BYTES_MAX), words("b" * 100_000)
    for one in (older, older, newest):
        vnc.send_clip_text(one)
        vnc.receive(b"", 0)
        assert not vnc.unfinished and vnc.data_to_send() == b"" and vnc.cut.held_bytes == 0
    full[0], steps = False, 0
    while vnc.unfinished:
        assert vnc.data_to_send() == b""
        vnc.receive(b"", 0)
        steps += 1
    assert vnc.data_to_send() == struct.pack(">Bxxxi", 6, 100_000) + b"b" * 100_000 and steps >= 3
    assert vnc.events() == [ClipGiven(newest)]


def test_texts_that_wait_to_be_taken_are_charged() -> None:
    for data in (cut("é".encode() * 100_000, False), flags(PROVIDE | TEXT, provided(b"x" * 200_000))):
        vnc = client()
        vnc.receive(data, 0)
        while vnc.unfinished:
            vnc.receive(b"", 0)
        assert vnc.waiting and vnc.partial_bytes > 200_000
        assert vnc.take() is not None and vnc.partial_bytes > 200_000, "until the next one is taken"
        assert vnc.take() is None and vnc.partial_bytes == 0


def test_what_a_server_sends_unasked_is_charged_as_it_is_kept() -> None:
    hall = Hall()
    held = hall.desk.home.admission.budget.held
    for whole, size in (("é" * 100_000, 200_000), ("a" * 300_000 + "😀", 300_004), ("", 0)):
        hall.says(cut(whole.encode(), False))
        assert 0 <= hall.desk.home.admission.budget.held - held - size < 2000


def test_what_comes_back_is_known_again_in_small_steps_and_only_until_something_else_is_copied() -> None:
    hall, whole = Hall(), "é" * 500_000
    hall.remote.say(Copied(1))
    hall.run()
    hall.remote.wire.send_clip(clip(1, whole.encode()))
    hall.desk.run(300)
    passed(hall.door, b"")
    assert len(hall.sent()) == 8 + len(whole)
    data = cut(whole.encode("latin-1"), False)
    hall.wire.receive(data, 0)
    spent = [hall.wire.work.spent]
    while hall.wire.unfinished:
        hall.wire.receive(b"", 0)
        spent.append(hall.wire.work.spent)
    assert max(spent) < 2 * WORK_MAX and sum(spent) > 90 * len(whole) and not hall.wire.waiting
    for said_then in (cut(b"else", False), cut(b"y" * (CUT_BYTES_MAX + 1), False)):
        hall.wire.cut._sent = b"digest"
        hall.says(said_then)
        assert hall.wire.cut._sent == b""


def test_server_that_can_not_be_told_is_sent_texts_at_once_without_the_extension() -> None:
    """So x11vnc with libvncserver 0.9.14, which has the extension and ends the session when it is sent a text by it."""
    hall = Hall(flags(CAPS | REQUEST | PEEK | PROVIDE | TEXT, struct.pack(">I", 1 << 20)))
    hall.remote.say(Copied(1))
    hall.run()
    assert hall.remote.news(Paste) == [Paste(1)] and hall.sent() == b""
    hall.remote.wire.send_clip(clip(1, "é日".encode()))
    hall.run()
    assert hall.sent() == struct.pack(">Bxxxi", 6, 2) + b"\xe9?"
    hall.says(cut(b"\xe9?", False))
    hall.run()
    assert not hall.remote.news(ClipboardState)[1:], "what comes back is not new"
    hall.remote.leave()
    assert hall.sent() == b""
