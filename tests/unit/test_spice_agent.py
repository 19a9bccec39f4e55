"""The clipboard of a SPICE guest: its agent, which comes and goes, and its messages in pieces."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from millrace.doors.clipboard import ClipboardDoor
from millrace.errors import RemoteProtocolError
from millrace.media.clip import CLIP_BYTES_MAX
from millrace.wire.clips import ClipEvent, ClipGiven, ClipOffered, ClipSupplied, ClipWanted
from millrace.wire.peer.clips import ClipboardState, Copied
from millrace.wire.spice.agent import (
    ASKS_MAX,
    MESSAGE_MAX,
    PIECE_BYTES,
    PIECE_MAX,
    READ_AT_ONCE,
    TEXT_MAX,
    UNSENT_BYTES_MAX,
    UNSENT_MAX,
    SpiceAgent,
)
from millrace.wire.spice.channel import ChannelKind, SpiceChannel, SpiceMessage
from millrace.wire.spice.main import SpiceMain
from tests.fuzz import spiceserver as server
from tests.spicewire import linked, ticket
from tests.unit.test_clipboard import USES, WRITER
from tests.watch import Desk, Remote, clip, words

CLIPBOARD, CAPS, GRAB, REQUEST, RELEASE = 4, 6, 7, 8, 9
BY_DEMAND, SELECTION, CRLF = 1 << 5, 1 << 6, 1 << 9
ALL = 1 << 3 | BY_DEMAND | SELECTION
SEL = bytes(4)
TEXT = struct.pack("<I", 1)


class Guest:
    """A main channel with an agent in its guest."""

    def __init__(self, caps: int = ALL, tokens: int = 10, connected: bool = True) -> None:
        self.channel = SpiceChannel(ChannelKind.MAIN, 0, 0, "", lambda key, password: bytes(128), 0)
        self.agent = SpiceAgent(self.channel)
        self.channel.data_to_send()
        self.rest = b""
        self.says(103, struct.pack("<8I", 7, 1, 0, 0, int(connected), tokens, 5, 6))
        if caps and connected:
            self.announces(caps)

    def says(self, kind: int, body: bytes = b"") -> None:
        self.agent.take(SpiceMessage(kind, body))
        while self.agent.behind:
            self.agent.read()

    def announces(self, caps: int = ALL, asks: int = 0) -> None:
        self.tells(CAPS, struct.pack("<II", asks, caps))

    def tells(self, kind: int, body: bytes = b"", size: int = PIECE_BYTES) -> None:
        data = struct.pack("<IIQI", 1, kind, 0, len(body)) + body
        for at in range(0, len(data), size):
            self.says(109, data[at : at + size])

    def sent(self) -> list[tuple[int, bytes]]:
        """Messages of the channel."""
        found = []
        while True:
            while self.agent.unfinished:
                self.agent.go_on()
            found += _messages(self.channel)
            if not self.agent.unfinished:
                return found

    def told(self) -> list[tuple[int, bytes]]:
        """Messages of ours to the agent, as far as they are whole."""
        self.rest += b"".join(body for kind, body in self.sent() if kind == 107)
        found = []
        while len(self.rest) >= 20:
            _, kind, _, size = struct.unpack_from("<IIQI", self.rest)
            if len(self.rest) < 20 + size:
                break
            found.append((kind, self.rest[20 : 20 + size]))
            self.rest = self.rest[20 + size :]
        return found


def _messages(channel: SpiceChannel) -> list[tuple[int, bytes]]:
    """What was sent, without any more steps."""
    out, found = channel.data_to_send(), []
    while out:
        kind, size = struct.unpack_from("<HI", out)
        found.append((kind, out[6 : 6 + size]))
        out = out[6 + size :]
    return found


def test_agent_that_is_there_is_started_and_told_what_we_can() -> None:
    guest = Guest(caps=0)
    start, caps = guest.sent()
    assert start == (106, b"\xff" * 4) and caps[0] == 107 and caps[1][20:] == struct.pack("<II", 1, ALL)
    assert not guest.agent.clip_there
    guest.announces(asks=1)
    assert guest.agent.clip_there and guest.told() == [(CAPS, struct.pack("<II", 0, ALL))]
    without = Guest(connected=False)
    assert not without.sent()
    without.says(107)
    assert [kind for kind, _ in without.sent()] == [106, 107]
    without.announces(1 << 3)
    assert not without.agent.clip_there, "an agent that can only send each text as it is copied"
    without.says(115, struct.pack("<I", 7))
    without.announces()
    without.says(108, bytes(4))
    assert not without.agent.clip_there


@pytest.mark.parametrize("size", [1, 19, PIECE_BYTES])
@pytest.mark.parametrize("caps", [ALL, ALL & ~SELECTION])
def test_what_the_guest_says_whole_and_in_pieces(caps: int, size: int) -> None:
    guest = Guest(caps)
    sel = SEL if caps & SELECTION else b""
    guest.tells(GRAB, sel + struct.pack("<II", 2, 1), size)
    guest.tells(GRAB, sel + struct.pack("<I", 2), size)
    guest.tells(REQUEST, sel + TEXT, size)
    guest.tells(CLIPBOARD, sel + TEXT + "grüße\r\n".encode(), size)
    guest.tells(CLIPBOARD, sel + struct.pack("<I", 0), size)
    guest.tells(RELEASE, sel, size)
    guest.tells(12, b"else", size)
    offered, picture, wanted, text, nothing, released = guest.agent.events()
    assert (offered, picture, wanted) == (ClipOffered(True), ClipOffered(False), ClipWanted())
    assert text == ClipSupplied(words("grüße\n")) and isinstance(nothing, ClipSupplied) and "no text" in nothing.refused
    assert released == ClipOffered(False) and guest.agent.events() == []


def test_selections_of_x11_other_than_the_clipboard_are_left_alone() -> None:
    guest = Guest()
    guest.tells(GRAB, b"\1\0\0\0" + TEXT)
    assert guest.agent.events() == []


def test_what_is_said_to_the_guest() -> None:
    guest = Guest(ALL | CRLF)
    guest.told()
    agent = guest.agent
    agent.send_clip_offer(True)
    agent.send_clip_offer(False)
    agent.send_clip_request()
    guest.tells(REQUEST, SEL + struct.pack("<I", 2))
    guest.tells(REQUEST, SEL + TEXT)
    agent.send_clip_text(words("a\nb"))
    agent.go_on()
    agent.send_clip_text(words("nobody asks"))
    agent.go_on()
    guest.tells(REQUEST, SEL + TEXT)
    agent.send_clip_text(None)
    nothing = (CLIPBOARD, SEL + bytes(4))
    assert guest.told() == [
        (GRAB, SEL + TEXT), (RELEASE, SEL), (REQUEST, SEL + TEXT), nothing, (CLIPBOARD, SEL + TEXT + b"a\r\nb"), nothing
    ]  # fmt: skip
    given = [ClipGiven(words(text)) for text in ("a\nb", "nobody asks")]
    assert agent.events() == [ClipWanted(), *given, ClipWanted()]
    for _ in range(ASKS_MAX + 1):
        guest.tells(REQUEST, SEL + TEXT)
    assert guest.told() == [nothing] and agent.events() == [ClipWanted()]


def test_no_more_is_sent_than_the_server_has_given_tokens_for() -> None:
    guest = Guest(tokens=3)
    assert len(guest.sent()) == 2
    text = "x" * 10 * PIECE_BYTES
    guest.tells(REQUEST, SEL + TEXT)
    guest.agent.send_clip_text(words(text))
    guest.rest = b""
    assert guest.told() == []
    assert len(guest.rest) == 2 * PIECE_BYTES
    guest.says(110, struct.pack("<I", 5))
    assert guest.told() == [] and len(guest.rest) == 7 * PIECE_BYTES
    guest.says(110, struct.pack("<I", 10))
    assert guest.told() == [(CLIPBOARD, SEL + TEXT + text.encode())]


def test_agent_that_reads_nothing_is_kept_one_text_and_the_newest_offer() -> None:
    guest, text = Guest(tokens=0), words("x" * CLIP_BYTES_MAX)
    guest.tells(REQUEST, SEL + TEXT)
    guest.agent.send_clip_text(text)
    for _ in range(1000):
        guest.tells(REQUEST, SEL + TEXT)
        guest.agent.send_clip_offer(True)
        guest.agent.send_clip_request()
    assert guest.agent.events() == [ClipWanted()], "no other text is wanted meanwhile"
    assert len(guest.agent._unsent) <= UNSENT_MAX and not guest.agent.unfinished
    assert sum(len(piece) for _, piece in guest.agent._unsent) < 4096
    guest.says(110, struct.pack("<I", 1 << 30))
    told = guest.told()
    assert [kind for kind, _ in told].count(GRAB) == [kind for kind, _ in told].count(REQUEST) == 1
    assert told[-1] == (CLIPBOARD, SEL + TEXT + b"x" * CLIP_BYTES_MAX) and guest.rest == b""
    assert guest.agent.events() == [ClipGiven(text), ClipWanted()], "the next program is given what there is then"


def test_text_is_sent_in_small_steps_and_nothing_within_it() -> None:
    guest = Guest(tokens=1000)
    guest.told()
    guest.tells(REQUEST, SEL + TEXT)
    guest.agent.send_clip_text(words("x" * 100_000))
    guest.agent.go_on()
    assert sum(len(body) for _, body in _messages(guest.channel)) <= 17 * PIECE_BYTES and guest.agent.unfinished
    guest.agent.send_clip_offer(False)
    assert not _messages(guest.channel)
    guest.agent.giving.open(lambda: True)
    guest.agent.go_on()
    assert not guest.agent.unfinished and not _messages(guest.channel), "it leaves much unread"
    guest.agent.giving.open(lambda: False)
    rest = b"".join(body for _, body in guest.sent())
    assert rest.endswith(struct.pack("<IIQI", 1, RELEASE, 0, 4) + SEL) and rest.count(b"x") < 100_000


def test_no_more_of_a_text_is_made_than_can_be_sent_before_it_is_known_whether_the_server_reads() -> None:
    guest = Guest(tokens=1 << 20)
    guest.told()
    guest.tells(REQUEST, SEL + TEXT)
    guest.agent.send_clip_text(words("x" * 1_000_000))
    while guest.agent.unfinished:
        guest.agent.go_on()
    assert UNSENT_BYTES_MAX <= guest.channel.unsent_bytes < UNSENT_BYTES_MAX + 20 * PIECE_BYTES
    guest.channel.data_to_send()
    assert guest.agent.unfinished


def test_session_goes_on_while_more_of_a_text_is_to_be_sent() -> None:
    main = SpiceMain("", lambda key, password: bytes(128), 0)
    main.data_to_send()
    for kind, body in ((CAPS, struct.pack("<II", 0, ALL)), (REQUEST, SEL + TEXT)):
        main.agent.take(SpiceMessage(115, struct.pack("<I", 1000))) if kind == CAPS else None
        main.agent.take(SpiceMessage(109, struct.pack("<IIQI", 1, kind, 0, len(body)) + body))
    main.agent.send_clip_text(words("x" * 100_000))
    main.data_to_send()
    steps = 0
    while main.unfinished:
        main.receive(b"", 0)
        assert len(main.data_to_send()) < 20 * PIECE_BYTES
        steps += 1
    assert steps > 3 and not main.agent.giving.begun


def test_text_of_an_agent_that_goes_is_given_up() -> None:
    guest, text = Guest(tokens=0), words("x" * 10_000)
    guest.tells(REQUEST, SEL + TEXT)
    guest.agent.send_clip_text(text)
    guest.agent.events()
    guest.says(108, bytes(4))
    assert guest.agent.events() == [ClipGiven(text)] and not guest.agent.giving.begun


def test_text_is_read_as_it_comes_and_charged_meanwhile() -> None:
    guest = Guest()
    data = struct.pack("<IIQI", 1, CLIPBOARD, 0, 8 + 500_000) + SEL + TEXT + b"a\r\nb" * 125_000
    for at in range(0, len(data), PIECE_BYTES):
        assert len(guest.agent._data) < PIECE_BYTES and not guest.agent.events()
        assert guest.agent.held_bytes >= max(0, at * 3 // 4 - 3 * 16_384)
        guest.says(109, data[at : at + PIECE_BYTES])
    (supplied,) = guest.agent.events()
    assert isinstance(supplied, ClipSupplied) and supplied.text.whole() == "a\nb" * 125_000
    assert guest.agent.held_bytes == 0
    with pytest.raises(RemoteProtocolError, match="piece of 65537 bytes"):
        guest.says(109, bytes(PIECE_MAX + 1))


def test_few_messages_of_one_piece_are_read_at_once_and_the_next_piece_waits() -> None:
    main = SpiceMain("", ticket, 0)
    linked(main)
    data = struct.pack("<IIQI", 1, CAPS, 0, 8) + struct.pack("<II", 0, ALL)
    data += (struct.pack("<IIQI", 1, GRAB, 0, 8) + SEL + TEXT) * 1000
    data += (struct.pack("<IIQI", 1, CLIPBOARD, 0, 9) + SEL + TEXT + b"x") * 1000
    said = [server.message(109, data), server.message(108, bytes(4)), server.message(107)]
    main.receive(server.message(103, struct.pack("<8I", 7, 1, 0, 0, 1, 10, 5, 6)) + b"".join(said), 0)
    told = [main.agent.events()]
    assert main.unfinished and main.partial_bytes > len(data)
    while main.unfinished:
        main.receive(b"", 0)
        told.append(main.agent.events())
    assert max(map(len, told)) == READ_AT_ONCE and main.partial_bytes == 0
    offered, supplied = [ClipOffered(True)] * 1000, [ClipSupplied(words("x"))] * 1000
    assert [event for step in told for event in step] == offered + supplied and not main.agent.clip_there


def test_text_that_is_too_long_is_skipped() -> None:
    guest = Guest()
    guest.tells(CLIPBOARD, SEL + TEXT + bytes(TEXT_MAX + 1))
    guest.tells(12, bytes(MESSAGE_MAX + 1))
    guest.tells(CLIPBOARD, SEL + TEXT + b"x" * (CLIP_BYTES_MAX + 1))
    guest.tells(CLIPBOARD, SEL + TEXT + b"short")
    one, two, three = guest.agent.events()
    assert isinstance(one, ClipSupplied) and isinstance(two, ClipSupplied) and one.refused and two.refused
    assert three == ClipSupplied(words("short")) and len(guest.agent._data) == 0


@pytest.mark.parametrize(
    "says",
    [
        lambda guest: guest.says(109, struct.pack("<IIQI", 2, CAPS, 0, 8) + bytes(8)),
        lambda guest: guest.tells(CAPS, bytes(4)),
        lambda guest: guest.tells(GRAB),
        lambda guest: guest.tells(REQUEST, SEL),
        lambda guest: guest.says(110),
        lambda guest: guest.says(103, bytes(16)),
    ],
)
def test_broken_messages_end_the_session(says: Callable[[Guest], None]) -> None:
    guest = Guest()
    with pytest.raises(RemoteProtocolError):
        says(guest)


def test_clipboard_comes_and_goes_with_the_agent() -> None:
    desk, guest = Desk(), Guest()
    desk.add(door="door/3")
    door = ClipboardDoor(desk.home.screens, guest.agent, "door/3", lambda: None)
    guest.tells(GRAB, SEL + TEXT)
    door.receive(0)
    remote = Remote(desk, WRITER, principal=USES)
    desk.run(30)
    assert remote.news(ClipboardState) == [ClipboardState(True, 1)] and not door.recording and not door.streams
    remote.wire.send_paste(1)
    desk.run(30)
    guest.tells(CLIPBOARD, SEL + TEXT + b"theirs")
    door.receive(0)
    desk.run(30)
    assert remote.clips == [clip(1, b"theirs")]
    guest.told()
    remote.say(Copied(1))
    assert guest.told() == [(GRAB, SEL + TEXT)]
    guest.says(108, bytes(4))
    door.receive(0)
    desk.run(30)
    assert remote.news(ClipboardState)[-1] == ClipboardState(False)
    events: list[ClipEvent] = guest.agent.events()
    assert events == []
    door.close()
