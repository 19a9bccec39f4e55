"""The clipboard that a viewer shares with its machine: when what is offered, and that nothing goes round in circles."""

from __future__ import annotations

from typing import Any

from millrace.client.clipboard import SharedClipboard
from millrace.media.clip import CLIP_BYTES_MAX
from millrace.wire.peer.clips import Clip, ClipboardState, Copied, Paste
from millrace.wire.peer.pictures import Watch
from millrace.wire.peer.viewing import ViewClient
from tests.watch import clip


class Wire(ViewClient):
    """Keeps what is said."""

    def __init__(self) -> None:
        super().__init__(Watch(), 0)
        self.said: list[Any] = []

    def send_message(self, message: Any) -> None:
        self.said.append(message)

    def send_paste(self, number: int) -> None:
        self.said.append(Paste(number))

    def send_clip(self, answer: Clip) -> None:
        self.said.append(answer)

    def news(self) -> list[Any]:
        out, self.said = self.said, []
        return out


class Desk:
    """A desktop with a clipboard, whose window has the focus and the keyboard if `works`."""

    def __init__(self, text: str = "", works: bool = True, number: int = 0) -> None:
        self.text, self.notes, self.wire, self.flushes = text, [], Wire(), 0
        self.shared = SharedClipboard(lambda: self.text, self.write, self.notes.append)
        self.shared.begin(self.wire, self.flush)
        self.shared.focus(works)
        self.shared.keyboard(works)
        self.shared.take(ClipboardState(True, number))

    def write(self, text: str) -> None:
        self.text = text
        # SDL tells of every change, whoever made it.
        self.shared.copied()

    def flush(self) -> None:
        self.flushes += 1

    def copy(self, text: str) -> None:
        self.text = text
        self.shared.copied()


def test_text_here_is_offered_while_the_user_works_there_and_sent_when_it_is_asked_for() -> None:
    desk = Desk("before")
    assert desk.wire.news() == [Copied(1)] and desk.flushes
    desk.copy("new")
    assert desk.wire.news() == [Copied(2)]
    desk.shared.take(Paste(2))
    desk.shared.take(Paste(1))
    first, second = desk.wire.news()
    assert first == clip(2, b"new") and (second.number, second.text) == (1, None)


def test_nothing_is_offered_while_the_user_is_elsewhere() -> None:
    desk = Desk("a password", works=False)
    desk.copy("another")
    desk.shared.focus(True)
    assert not desk.wire.news()
    desk.shared.keyboard(True)
    assert desk.wire.news() == [Copied(1)]
    desk.shared.focus(False)
    desk.copy("a third")
    assert not desk.wire.news()
    desk.shared.focus(True)
    assert desk.wire.news() == [Copied(2)]


def test_text_there_is_fetched_and_does_not_go_back() -> None:
    desk = Desk(number=1)
    assert desk.wire.news() == [Paste(1)]
    desk.shared.take(clip(1, b"theirs\r\n2"))
    assert desk.text == "theirs\n2" and not desk.wire.news()
    desk.shared.focus(False)
    desk.shared.focus(True)
    assert not desk.wire.news()
    desk.shared.take(ClipboardState(True, 2))
    desk.shared.take(ClipboardState(True, 3))
    desk.shared.take(clip(2, b"late"))
    assert desk.text == "theirs\n2" and desk.wire.news() == [Paste(2), Paste(3)]


def test_text_there_waits_until_the_user_is_back() -> None:
    desk = Desk(works=False, number=4)
    assert not desk.wire.news()
    desk.shared.keyboard(True)
    desk.shared.focus(True)
    desk.shared.focus(True)
    assert desk.wire.news() == [Paste(4)]


def test_newest_text_counts_whoever_copied_it() -> None:
    desk = Desk("local A")
    desk.wire.news()
    desk.shared.focus(False)
    desk.shared.take(ClipboardState(True, 1))
    desk.copy("local, newer")
    desk.shared.focus(True)
    assert desk.wire.news() == [Copied(2)] and desk.text == "local, newer"
    desk.shared.focus(False)
    desk.copy("local B")
    desk.shared.take(ClipboardState(True, 2))
    desk.shared.focus(True)
    assert desk.wire.news() == [Paste(2)]
    desk.copy("while it is fetched")
    assert desk.wire.news() == [Copied(3)]
    desk.shared.take(clip(2, b"theirs"))
    assert desk.text == "while it is fetched"


def test_text_that_is_gone_there_is_not_fetched() -> None:
    desk = Desk(works=False, number=4)
    desk.shared.take(ClipboardState(True, 0))
    desk.shared.focus(True)
    desk.shared.keyboard(True)
    assert not desk.wire.news()


def test_what_can_not_be_passed_on_is_said() -> None:
    desk = Desk("x" * (CLIP_BYTES_MAX + 1))
    assert not desk.wire.news() and "1.0 MB at most" in desk.notes[0]
    desk.shared.take(ClipboardState(True, 1))
    desk.shared.take(clip(1, b"it is \x1b[31ma picture", True))
    desk.shared.take(Clip(1, None, "it is not text", True))
    assert desk.notes[1] == r"it is \x1b[31ma picture" and "not text" in desk.notes[2]
    assert len(desk.text) > 1000


def test_without_a_connection_or_a_clipboard_there_nothing_is_said() -> None:
    desk = Desk("text")
    desk.wire.news()
    desk.shared.end()
    desk.copy("more")
    desk.shared.take(Paste(1))
    assert not desk.wire.news()
    desk.shared.begin(desk.wire, desk.flush)
    desk.shared.focus(True)
    assert not desk.wire.news()
    desk.shared.take(ClipboardState(True))
    assert desk.wire.news() == [Copied(1)], "numbers begin again with each connection"
