"""The clipboard of a machine over QEMU's D-Bus interface: what QEMU calls, what it is called, and who may call."""

from __future__ import annotations

from typing import Any

import pytest

from millrace.doors.clipboard import ClipboardDoor
from millrace.errors import RemoteProtocolError
from millrace.media.clip import CLIP_BYTES_MAX, PIECE_BYTES
from millrace.sim.qemu import ServerWire
from millrace.wire.clips import ClipEvent, ClipGiven, ClipOffered, ClipSupplied, ClipWanted
from millrace.wire.peer.clips import ClipboardState, Copied
from millrace.wire.qemu.client import DisplayClient
from millrace.wire.qemu.clipboard import ASKS_MAX, INTERFACE, PATH
from millrace.wire.qemu.dbus import ERROR, PROPERTIES, Message
from millrace.wire.qemu.values import Writer
from tests.fuzz.seeds import dbus_answer
from tests.unit.test_clipboard import USES, WRITER
from tests.watch import Desk, Remote, clip, words

MIME = "text/plain;charset=utf-8"


def mimes(*names: str) -> bytes:
    body = Writer()
    for name in names:
        body.text("s", name)
    return Writer().number("u", len(body.bytes())).bytes() + body.bytes()


def numbers(*values: int) -> bytes:
    body = Writer()
    for value in values:
        body.number("u", value)
    return body.bytes()


class Qemu:
    """QEMU's end of the connection of a `DisplayClient`."""

    def __init__(self) -> None:
        self.client, self.wire = DisplayClient(0, False, 0), ServerWire()
        self.answers: dict[int, Message] = {}
        self.calls: list[Message] = []
        for _ in range(8):
            self.pump()
            for message in self.calls:
                self.wire.send_reply(message, *dbus_answer(message))
            self.calls.clear()
        assert self.client.events()
        self.client.send_register_clipboard()
        self.pump()

    def pump(self) -> None:
        """Messages both ways."""
        for _ in range(2):
            while self.client.unfinished:
                self.client.receive(b"", 0)
            for chunk in self.client.data_to_send():
                self.wire.receive(bytes(chunk.data), 0)
            for message in self.wire.events():
                if message.reply_to is None:
                    self.calls.append(message)
                else:
                    self.answers[message.reply_to] = message
            for chunk in self.wire.data_to_send():
                self.client.receive(bytes(chunk.data), 0)

    def accept(self) -> None:
        (register,) = self.news()
        assert (register.member, register.path, register.interface) == ("Register", PATH, INTERFACE)
        self.wire.send_reply(register)
        self.pump()

    def news(self) -> list[Message]:
        """What it was called since the last time."""
        self.pump()
        out, self.calls = self.calls, []
        return out

    def call(self, member: str, signature: str = "", body: bytes = b"", interface: str = INTERFACE) -> int:
        serial = self.wire.send_call(PATH, interface, member, signature, body)
        self.pump()
        return serial

    def grab(self, serial: int, *names: str, selection: int = 0) -> int:
        return self.call("Grab", "uuas", numbers(selection, serial) + mimes(*names))

    def request(self, *names: str, selection: int = 0) -> int:
        return self.call("Request", "uas", numbers(selection) + mimes(*names))

    def events(self) -> list[ClipEvent]:
        return self.client.clipboard.events()


def qemu() -> Qemu:
    one = Qemu()
    one.accept()
    assert one.client.clipboard.clip_there
    return one


def test_qemu_is_answered_at_once_while_it_registers_us() -> None:
    one = Qemu()
    asked = one.call("GetAll", "s", Writer().text("s", INTERFACE).bytes(), PROPERTIES)
    assert one.answers[asked].values("a{sv}") == [{}] and not one.client.clipboard.clip_there
    one.accept()
    assert one.client.clipboard.clip_there
    refused = Qemu()
    (register,) = refused.news()
    refused.wire.send_error(register, "org.qemu.Display1.Error.Invalid", "Clipboard peer already registered!")
    refused.pump()
    assert not refused.client.clipboard.clip_there and not refused.client.events()


def test_newest_grab_counts() -> None:
    one = qemu()
    answered = one.grab(5, "image/png", MIME)
    assert one.events() == [ClipOffered(True)] and answered in one.answers
    one.grab(4, MIME)
    one.grab(6, MIME, selection=1)
    assert one.events() == []
    one.grab(6, "image/png")
    assert one.events() == [ClipOffered(False)]
    one.call("Register")
    one.grab(0, MIME)
    one.call("Release", "u", numbers(0))
    one.call("Release", "u", numbers(1))
    assert one.events() == [ClipOffered(True), ClipOffered(False)]


def test_text_of_the_machine_is_requested() -> None:
    one = qemu()
    answers: list[tuple[str, Any]] = [(MIME, "grüße\r\n".encode()), ("image/png", b"\x89PNG"), (MIME, b"\xff")]
    answers.append((MIME, b"x" * (CLIP_BYTES_MAX + 1)))
    for mime, data in answers:
        one.client.clipboard.send_clip_request()
        (request,) = one.news()
        assert request.member == "Request" and request.values("uas") == [0, [MIME]]
        one.wire.send_reply(request, "say", Writer().text("s", mime).blob(data).bytes())
        one.pump()
    text, *refused = one.events()
    assert text == ClipSupplied(words("grüße\n"))
    assert [isinstance(each, ClipSupplied) and bool(each.refused) for each in refused] == [True] * 3
    one.client.clipboard.send_clip_request()
    one.wire.send_error(one.news()[0], "org.freedesktop.DBus.Error.Failed", "no data")
    one.pump()
    assert one.events() == [ClipSupplied(refused="the machine does not provide its text")]


def test_our_text_is_offered_with_a_newer_serial_and_handed_over_when_it_is_requested() -> None:
    one = qemu()
    one.grab(5, MIME)
    one.events()
    clipboard = one.client.clipboard
    clipboard.send_clip_offer(True)
    (grab,) = one.news()
    assert grab.member == "Grab" and grab.values("uuas") == [0, 6, [MIME]]
    first, second = one.request(MIME, "image/png"), one.request(MIME)
    assert one.events() == [ClipWanted()] and first not in one.answers
    clipboard.send_clip_text(words("ä日"))
    one.pump()
    assert one.answers[first].values("say") == one.answers[second].values("say") == [MIME, "ä日".encode()]
    asked = one.request(MIME)
    clipboard.send_clip_text(None)
    one.pump()
    assert one.answers[asked].kind == ERROR
    for names in (("image/png",), ()):
        assert one.answers[one.request(*names)].kind == ERROR
    assert one.answers[one.request(MIME, selection=1)].kind == ERROR
    many = [one.request(MIME) for _ in range(ASKS_MAX + 1)]
    assert [asked in one.answers for asked in many] == [False] * ASKS_MAX + [True]
    one.wire.send_reply(grab)
    one.pump()
    clipboard.send_clip_offer(False)
    assert [message.member for message in one.news()] == ["Release"]


def test_requests_that_wait_for_our_text_hold_nothing_but_their_headers() -> None:
    one = qemu()
    for _ in range(ASKS_MAX):
        one.call("Request", "uas", numbers(0) + mimes(MIME) + bytes(CLIP_BYTES_MAX))
    assert [len(ask.body) for ask in one.client.clipboard._asks] == [0] * ASKS_MAX


def test_one_offer_and_one_request_are_on_their_way_and_the_newest_waits() -> None:
    one = qemu()
    clipboard = one.client.clipboard
    for number in range(1000):
        clipboard.send_clip_offer(number % 2 == 0)
        clipboard.send_clip_request()
    grab, request = one.news()
    assert (grab.member, request.member) == ("Grab", "Request") and len(clipboard._calls) == 2
    one.wire.send_reply(grab)
    (release,) = one.news()
    assert release.member == "Release"
    one.wire.send_reply(release)
    one.wire.send_reply(request, "say", Writer().text("s", MIME).blob(b"of an older text").bytes())
    (again,) = one.news()
    assert again.member == "Request" and one.events() == [], "the answer is not that to the newest request"
    one.wire.send_reply(again, "say", Writer().text("s", MIME).blob(b"the newest").bytes())
    one.pump()
    assert one.events() == [ClipSupplied(words("the newest"))] and not clipboard._calls


def test_text_of_the_machine_is_read_in_pieces_which_are_charged() -> None:
    one, size = qemu(), 1_000_000
    one.client.clipboard.send_clip_request()
    (request,) = one.news()
    one.wire.send_reply(request, "say", Writer().text("s", MIME).blob("é".encode() * (size // 2)).bytes())
    one.wire.send_call(PATH, INTERFACE, "Grab", "uuas", numbers(0, 9) + mimes(MIME))
    steps = 0
    for chunk in one.wire.data_to_send():
        one.client.receive(bytes(chunk.data), 0)
    while one.client.clipboard.reading:
        assert not one.events(), "what came after it waits"
        assert one.client.unfinished and one.client.partial_bytes > size + max(0, steps - 1) * PIECE_BYTES
        one.client.receive(b"", 0)
        steps += 1
    assert steps >= size // PIECE_BYTES
    one.client.receive(b"", 0)
    supplied, offered = one.events()
    assert isinstance(supplied, ClipSupplied) and supplied.text.whole() == "é" * (size // 2)
    assert offered == ClipOffered(True) and one.client.partial_bytes == 0


def test_our_text_is_handed_over_a_piece_at_a_time_while_qemu_reads() -> None:
    one, full = qemu(), [False]
    clipboard, text = one.client.clipboard, words("x" * 100_000)
    clipboard.giving.open(lambda: full[0])
    first, second = one.request(MIME), one.request(MIME)
    one.events()
    clipboard.send_clip_text(text)
    one.client.receive(b"", 0)
    one.client.receive(b"", 0)
    third, full[0] = one.wire.send_call(PATH, INTERFACE, "Request", "uas", numbers(0) + mimes(MIME)), True
    one.client.send_key(0, 30, True)
    sent = one.client.data_to_send()
    assert max(len(chunk.data) for chunk in sent) <= PIECE_BYTES + 4 and len(sent) == 3
    assert not one.client.unfinished and not one.client.data_to_send(), "it leaves much unread"
    full[0] = False
    for chunk in sent:
        one.wire.receive(bytes(chunk.data), 0)
    one.pump()
    one.pump()
    assert one.answers[first].values("say") == one.answers[second].values("say") == [MIME, b"x" * 100_000]
    assert [call.member for call in one.news()] == ["Press"], "which followed the text"
    assert one.events() == [ClipGiven(text), ClipWanted()] and third not in one.answers


def test_calls_to_other_objects_and_from_others_are_refused() -> None:
    one = qemu()
    elsewhere = one.wire.send_call("/else", INTERFACE, "Grab", "uuas", numbers(0, 9) + mimes(MIME))
    unknown = one.call("Steal")
    one.pump()
    assert one.answers[elsewhere].kind == one.answers[unknown].kind == ERROR and one.events() == []
    # On a bus, others may call as well.
    one.client.clipboard._destination = ":1.2"
    stranger = one.grab(9, MIME)
    assert one.answers[stranger].kind == ERROR and one.events() == []


@pytest.mark.parametrize("member", ["Grab", "Release", "Request"])
def test_wrong_arguments_end_the_connection(member: str) -> None:
    one = qemu()
    with pytest.raises(RemoteProtocolError):
        one.call(member, "s", Writer().text("s", "x").bytes())


def test_clipboard_reaches_viewers_and_goes_with_the_session() -> None:
    desk, one = Desk(), qemu()
    desk.add(door="door/3")
    door = ClipboardDoor(desk.home.screens, one.client.clipboard, "door/3", lambda: None)
    one.grab(1, MIME)
    door.receive(0)
    remote = Remote(desk, WRITER, principal=USES)
    desk.run(30)
    assert remote.news(ClipboardState) == [ClipboardState(True, 1)]
    remote.say(Copied(4))
    assert [message.member for message in one.news()] == ["Grab"]
    asked = one.request(MIME)
    door.receive(0)
    desk.run(30)
    remote.wire.send_clip(clip(4, b"mine"))
    desk.run(30)
    one.pump()
    assert one.answers[asked].values("say") == [MIME, b"mine"]
    door.close()
    desk.run(30)
    assert remote.news(ClipboardState)[-1] == ClipboardState(False)
