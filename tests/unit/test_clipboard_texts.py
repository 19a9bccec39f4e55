"""Texts of the clipboard: their pieces, their steps, and what is charged for them and how long."""

from __future__ import annotations

import pytest

from millrace.errors import ConfigError
from millrace.media.clip import CLIP_BYTES_MAX, PIECE_BYTES, ClipReader, clip_text
from millrace.wire.peer.clips import Clip, Copied
from millrace.wire.peer.pictures import Watch
from tests.unit.test_clipboard import COPIES, Board, a_desk, a_remote
from tests.watch import Desk, Remote, clip, words

LONG = words("a" * (CLIP_BYTES_MAX - 4) + "😀")


def _held(desk: Desk) -> int:
    return desk.home.admission.budget.held


def _pasting(desk: Desk, board: Board, count: int) -> list[Remote]:
    """So many viewers, which have fetched the machine's text."""
    watch = Watch(formats=["raw"])
    remotes = [a_remote(desk, COPIES, watch) for _ in range(count)]
    board.clipboard.copied()
    desk.run(30)
    for remote in remotes:
        remote.wire.send_paste(1)
    desk.run(10)
    return remotes


def test_text_for_many_viewers_is_held_once_and_sent_in_turns() -> None:
    desk, board = a_desk()
    remotes = _pasting(desk, board, 20)
    held, written = _held(desk), [remote.bytes for remote in remotes]
    board.clipboard.supply(LONG)
    assert LONG.held_bytes <= _held(desk) - held < LONG.held_bytes + 1000
    assert [remote.bytes for remote in remotes] == written, "nothing in the step in which it comes"
    assert desk.turns.waiting == len(remotes)
    desk.run(30)
    assert all(remote.clips == [Clip(1, LONG)] for remote in remotes) and _held(desk) == held


def test_step_of_a_viewer_is_a_piece_of_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    desk, board = a_desk()
    (remote,) = _pasting(desk, board, 1)
    board.clipboard.supply(LONG)
    steps, before = 0, remote.bytes
    monkeypatch.setattr(desk.turns, "over", lambda: True)
    while desk.turns.waiting:
        desk.turns._round()
        assert remote.bytes - before <= PIECE_BYTES + 100
        steps, before = steps + 1, remote.bytes
    assert steps >= CLIP_BYTES_MAX // PIECE_BYTES


def test_viewer_that_does_not_read_is_sent_no_more_than_it_has_room_for_and_the_rest_stays_charged() -> None:
    desk, board = a_desk()
    slow, other = _pasting(desk, board, 2)
    held, slow.reads = _held(desk), False
    board.clipboard.supply(LONG)
    desk.run(1500)
    assert slow.unread < 5 * PIECE_BYTES and other.clips == [Clip(1, LONG)]
    assert LONG.held_bytes <= _held(desk) - held < LONG.held_bytes + 1000
    slow.reads = True
    desk.run(1500)
    assert slow.clips == [Clip(1, LONG)] and _held(desk) == held


@pytest.mark.parametrize("how", ["leaves", "pastes again", "machine gone"])
def test_what_a_viewer_is_no_longer_sent_is_charged_no_longer(how: str) -> None:
    desk, board = a_desk()
    (slow,) = _pasting(desk, board, 1)
    held, slow.reads = _held(desk), False
    board.clipboard.supply(LONG)
    desk.run(100)
    assert _held(desk) - held >= LONG.held_bytes
    if how == "leaves":
        slow.leave()
    elif how == "pastes again":
        slow.wire.send_paste(1)
        desk.run(10)
        assert board.asked == ["wanted", "wanted"]
    else:
        desk.home.screens.close_clipboard(board.clipboard)
        assert _held(desk) - held > CLIP_BYTES_MAX // 2, "it is held until the viewer is told"
    desk.run(100)
    assert _held(desk) <= held


@pytest.mark.parametrize("how", ["looks elsewhere", "pastes again"])
def test_viewer_is_sent_nothing_more_of_a_text_that_it_gave_up(how: str) -> None:
    desk, board = a_desk()
    (slow,) = _pasting(desk, board, 1)
    slow.reads = False
    board.clipboard.supply(LONG)
    desk.run(100)
    if how == "looks elsewhere":
        slow.session.clip.see(None)
    else:
        slow.wire.send_paste(1)
        desk.run(10)
    slow.reads, sent = True, slow.bytes
    desk.run(1500)
    assert slow.bytes - sent < PIECE_BYTES and not slow.clips


def test_refusal_is_sent_to_a_viewer_that_looks_elsewhere_meanwhile() -> None:
    desk, board = a_desk()
    (remote,) = _pasting(desk, board, 1)
    board.clipboard.refuse("there is no text")
    remote.session.clip.see(None)
    desk.run(100)
    assert [one.why for one in remote.clips] == ["there is no text"]


def test_text_that_there_is_no_room_for_is_refused() -> None:
    desk, board = a_desk()
    remotes = _pasting(desk, board, 3)
    budget = desk.home.admission.budget
    budget.open("else", {"all": budget.limit - budget.held - CLIP_BYTES_MAX // 2}, 1.0)
    board.clipboard.supply(LONG)
    desk.run(30)
    for remote in remotes:
        (answer,) = remote.clips
        assert answer.text is None and "no room" in answer.why


def test_refusals_wait_for_their_turn_too_and_outlast_the_machine() -> None:
    desk, board = a_desk()
    remotes = _pasting(desk, board, 3)
    written = [remote.bytes for remote in remotes]
    desk.home.screens.close_clipboard(board.clipboard)
    assert [remote.bytes for remote in remotes] == written
    desk.run(30)
    assert [remote.clips for remote in remotes] == [[clip(1, b"the machine is gone", True)]] * 3


def test_text_is_charged_until_the_machine_was_given_it_and_the_newest_takes_its_place() -> None:
    desk, board = a_desk()
    remote, texts = a_remote(desk), [words("a" * 500_000), words("b" * 100_000)]
    held = _held(desk)
    for number, text in enumerate(texts, 1):
        remote.say(Copied(number))
        board.paste()
        desk.run(30)
        board.clipboard.answer(remote.session.clip, text)
        remote.session.account.hold("pasting", 0)
        assert _held(desk) - held == text.held_bytes
    board.clipboard.given(texts[0])
    assert _held(desk) - held == texts[1].held_bytes, "it was replaced before"
    board.clipboard.given(texts[1])
    assert _held(desk) == held


def test_text_that_the_machine_can_not_be_given_for_want_of_memory_is_refused() -> None:
    desk, board = a_desk()
    remote = a_remote(desk)
    remote.say(Copied(1))
    board.paste()
    desk.run(30)
    budget = desk.home.admission.budget
    budget.open("else", {"all": budget.limit - budget.held}, 1.0)
    remote.wire.send_clip(clip(1, b"x" * CLIP_BYTES_MAX))
    desk.run(300)
    assert board.got == [None] and remote.ended is None


def test_text_has_the_forms_that_machines_take_piece_by_piece() -> None:
    whole = "grüße\n日\r" * 10_000
    text = words(whole)
    assert max(map(len, text.pieces)) <= PIECE_BYTES + 4 and len(text.pieces) > 5
    assert b"".join(text.crlf()).decode() == whole.replace("\n", "\r\n") and "grüße" not in repr(text)
    assert len(b"".join(text.crlf())) == text.size + text.lines
    assert b"".join(text.latin_1()) == whole.encode("latin-1", "replace") and text.chars == len(whole)
    latin = clip_text(b"\xfc\n" * 100_000, "latin-1")
    assert latin.whole() == "ü\n" * 100_000 and max(map(len, latin.pieces)) <= PIECE_BYTES + 4


def test_text_in_many_small_parts_takes_no_more_memory() -> None:
    reader = ClipReader()
    for _ in range(100_000):
        reader.add(b"x", last=False)
    reader.add(b"\0" * 100_000, last=False)
    reader.add(b"y", last=True)
    text = reader.text()
    assert text.held_bytes < 203_000 and text.whole() == "x" * 100_000 + "\0" * 100_000 + "y"
    for _ in range(100):
        reader.add(b"z" * CLIP_BYTES_MAX, last=False)
    assert reader.held_bytes < CLIP_BYTES_MAX + 10_000, "what is too long is not kept"


@pytest.mark.parametrize("size", (1, 2, 3, 5, 100))
def test_text_is_the_same_in_pieces_of_any_size(size: int) -> None:
    for whole in ("a\r\n\r\r\n\n日😀\r\0b\r\0\0\0\0\0\0", "", "\0\0\0", "\r", "a\r\n"):
        data, reader = whole.encode(), ClipReader()
        for at in range(0, len(data), size):
            reader.add(data[at : at + size], at + size >= len(data))
        assert reader.text().whole() == whole.rstrip("\0").replace("\r\n", "\n")
    reader = ClipReader()
    with pytest.raises(ConfigError, match="no valid UTF-8 text"):
        for byte in "é".encode()[:1], b"a":
            reader.add(byte, last=byte == b"a")
