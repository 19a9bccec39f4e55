"""The clipboard between a machine and its viewers: who may have what, in which order, and that it never crosses."""

from __future__ import annotations

import pytest

from millrace.budget import LISTENERS, MIB, PROGRAMS
from millrace.errors import ConfigError, RemoteProtocolError, RightsError
from millrace.graph.clipboard import Clipboard
from millrace.guest.clips import FETCH_NS, ViewerClip
from millrace.media.clip import CLIP_BYTES_MAX, PIECE_BYTES, ClipText, check_size, clip_text
from millrace.rights.model import Principal, Right, implied
from millrace.units import NS_PER_MS
from millrace.wire.peer.clips import CLIP, LAST, Clip, ClipboardState, Clips, Copied, Paste, pack_clip
from millrace.wire.peer.messages import Fault
from millrace.wire.peer.pictures import TakeKeyboard, Watch, Watching
from tests.unit.test_screens import Rig
from tests.watch import Desk, Remote, clip, words

ALICE = frozenset({"alice"})
WATCHES = Principal("token/1", implied(Right.TYPE), ALICE)
COPIES = Principal("token/2", implied(Right.CLIPBOARD), ALICE)
USES = Principal("token/3", implied(Right.TYPE | Right.CLIPBOARD), ALICE)
WRITER = Watch(keyboard=True, formats=["raw"])


class Board:
    """A machine's clipboard: what it is asked for."""

    def __init__(self, desk: Desk, door: str = "door/7") -> None:
        self.asked: list[str] = []
        self.got: list[str | None] = []
        self.clipboard = desk.home.screens.open_clipboard(self, door)

    def clip_offered(self) -> None:
        self.asked.append("offered")

    def clip_withdrawn(self) -> None:
        self.asked.append("withdrawn")

    def clip_wanted(self) -> None:
        self.asked.append("wanted")

    def paste(self) -> None:
        self.clipboard.ask(lambda text: self.got.append(None if text is None else text.whole()))


def a_desk() -> tuple[Desk, Board]:
    desk = Desk()
    desk.add()
    return desk, Board(desk)


def a_remote(desk: Desk, principal: Principal = USES, watch: Watch = WRITER) -> Remote:
    remote = Remote(desk, watch, principal=principal)
    desk.run(30)
    return remote


def _fetch(desk: Desk, remote: Remote, number: int) -> None:
    remote.wire.send_paste(number)
    desk.run(30)


# -- out of the machine --------------------------------------------------------------------------


def test_what_the_machine_copied_is_told_at_once_and_sent_when_it_is_pasted() -> None:
    desk, board = a_desk()
    remote = a_remote(desk)
    assert remote.news(Watching)[-1].clipboard and remote.news(ClipboardState) == [ClipboardState(True, 0)]
    board.clipboard.copied()
    desk.run(30)
    assert remote.news(ClipboardState) == [ClipboardState(True, 1)] and not board.asked and not remote.clips
    _fetch(desk, remote, 1)
    assert board.asked == ["wanted"]
    board.clipboard.supply(words("grüße\n日本"))
    desk.run(30)
    assert remote.clips == [clip(1, "grüße\n日本".encode())]


def test_viewers_without_the_right_are_told_nothing_and_get_nothing() -> None:
    desk, board = a_desk()
    remote = a_remote(desk, WATCHES)
    board.clipboard.copied()
    desk.run(30)
    assert remote.news(Watching)[-1].clipboard is False and not remote.news(ClipboardState)
    for number in (0, 1):
        _fetch(desk, remote, number)
    remote.say(Copied(1))
    board.paste()
    board.clipboard.supply(words("secret"))
    desk.run(30)
    faults = remote.news(Fault)
    assert [(one.code, one.right) for one in faults] == [
        ("rights", "clipboard")
    ] * 3 and "may not clipboard in guest alice" in faults[0].message
    assert not remote.clips and board.got == [None] and not board.asked


def test_all_who_paste_the_same_text_get_it_by_one_request() -> None:
    desk, board = a_desk()
    first, second = a_remote(desk), a_remote(desk, COPIES)
    board.clipboard.copied()
    desk.run(30)
    _fetch(desk, first, 1)
    _fetch(desk, second, 1)
    board.clipboard.supply(words("once"))
    board.clipboard.supply(words("and never again"))
    desk.run(30)
    assert board.asked == ["wanted"] and first.clips == second.clips == [clip(1, b"once")]


def test_texts_leave_listeners_their_room_in_a_guest_that_its_programs_have_filled() -> None:
    desk, board = a_desk()
    remote = a_remote(desk)
    board.clipboard.copied()
    desk.run(30)
    budget = desk.home.admission.budget
    budget.limit = 16 * MIB
    budget.open("sample", {"data": int(budget.limit * PROGRAMS) - budget.held})
    for text in ("x" * 600_000, "short"):
        _fetch(desk, remote, 1)
        board.clipboard.supply(words(text))
        desk.run(30)
    refused, sent = remote.clips
    assert refused.text is None and "no room" in refused.why and sent == clip(1, b"short")
    assert budget.has_room(128 * 1024, LISTENERS)


def test_text_that_was_replaced_meanwhile_is_not_handed_out_as_the_one_asked_for() -> None:
    desk, board = a_desk()
    remote = a_remote(desk)
    board.clipboard.copied()
    desk.run(30)
    _fetch(desk, remote, 1)
    board.clipboard.copied()
    board.clipboard.supply(words("the second"))
    desk.run(30)
    assert [(one.number, one.text is None) for one in remote.clips] == [(1, True)]
    _fetch(desk, remote, 1)
    assert remote.clips[-1].text is None and "something else" in remote.clips[-1].why
    _fetch(desk, remote, 2)
    board.clipboard.refuse("the program there does not hand it over")
    desk.run(30)
    assert remote.clips[-1] == clip(2, b"the program there does not hand it over", True)
    board.clipboard.emptied()
    desk.run(30)
    assert remote.news(ClipboardState)[-1] == ClipboardState(True, 0)


def test_viewers_are_told_once_of_the_newest_of_many_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    desk, board = a_desk()
    remotes, told = [a_remote(desk), a_remote(desk, COPIES)], list[ViewerClip]()
    changed = ViewerClip.clip_changed

    def counted(clip: ViewerClip) -> None:
        told.append(clip)
        changed(clip)

    monkeypatch.setattr(ViewerClip, "clip_changed", counted)
    board.clipboard.copied()
    desk.run(30)
    for _ in range(1000):
        board.clipboard.copied()
        board.clipboard.emptied()
    board.clipboard.copied()
    assert told == [remote.session.clip for remote in remotes] * 2
    # What is asked for now is the text before, of which the viewer knows.
    _fetch(desk, remotes[0], 1)
    assert remotes[0].clips[-1].text is None and not board.asked
    assert [remote.news(ClipboardState)[-1] for remote in remotes] == [ClipboardState(True, 1002)] * 2
    _fetch(desk, remotes[0], 1002)
    assert board.asked == ["wanted"]
    board.clipboard.emptied()
    desk.run(30)
    assert len(told) == 6 and [one.news(ClipboardState)[-1].number for one in remotes] == [0, 0]


def test_machine_that_does_not_hand_over_its_text_is_not_waited_for_for_ever() -> None:
    desk, board = a_desk()
    remote = a_remote(desk)
    board.clipboard.copied()
    desk.run(30)
    _fetch(desk, remote, 1)
    desk.run(FETCH_NS // NS_PER_MS - 2_000)
    assert not remote.clips
    desk.run(4_000)
    assert [one.text is None for one in remote.clips] == [True] and "may be stopped" in remote.clips[0].why
    board.clipboard.supply(words("too late"))
    _fetch(desk, remote, 1)
    board.clipboard.supply(words("in time"))
    desk.run(30)
    assert remote.clips[1:] == [clip(1, b"in time")] and board.asked == ["wanted", "wanted"]


# -- into the machine ----------------------------------------------------------------------------


def test_what_a_viewer_copied_is_sent_only_when_the_machine_pastes_it() -> None:
    desk, board = a_desk()
    remote, other = a_remote(desk), a_remote(desk)
    board.clipboard.copied()
    remote.say(Copied(7))
    desk.run(30)
    assert board.asked == ["offered"] and not remote.news(Paste)
    assert other.news(ClipboardState)[-1].number == 0, "what one viewer copied is not told to another"
    board.paste()
    desk.run(30)
    assert remote.news(Paste) == [Paste(7)] and remote.session.account.part("pasting") == CLIP_BYTES_MAX
    remote.wire.send_clip(clip(7, b"x\r\ny" * 20_000))
    desk.run(30)
    assert board.got == ["x\ny" * 20_000] and not remote.session.account.part("pasting") and not other.clips


def test_into_the_machine_only_with_the_keyboard() -> None:
    desk, board = a_desk()
    remote, other = a_remote(desk), a_remote(desk)
    other.say(Copied(1))
    a_remote(desk, COPIES).say(Copied(1))
    desk.run(30)
    assert not board.asked and "pasting needs the keyboard" in other.news(Fault)[0].message
    other.say(TakeKeyboard(True))
    other.say(Copied(1))
    remote.say(Copied(2))
    assert board.asked == ["offered"]


def test_text_of_a_viewer_that_leaves_withdraws_or_refuses_is_not_to_be_had() -> None:
    desk, board = a_desk()
    remote = a_remote(desk)
    remote.say(Copied(1))
    board.paste()
    desk.run(30)
    remote.wire.send_clip(clip(1, b"not now", True))
    desk.run(30)
    assert board.got == [None]
    board.paste()
    remote.leave()
    assert board.got == [None, None] and board.asked == ["offered", "withdrawn"]
    assert not remote.session.account.held
    remote = a_remote(desk)
    remote.say(Copied(1))
    remote.say(Copied(0))
    board.paste()
    assert board.asked[2:] == ["offered", "withdrawn"] and board.got == [None] * 3


def test_newer_text_on_either_side_ends_the_older() -> None:
    desk, board = a_desk()
    remote = a_remote(desk)
    remote.say(Copied(1))
    board.paste()
    board.clipboard.copied()
    assert board.got == [None] and board.asked == ["offered"], "the machine has taken its clipboard back by itself"
    remote.say(Copied(2))
    board.paste()
    remote.say(Copied(3))
    assert board.got == [None, None]
    board.paste()
    board.paste()
    assert board.got == [None] * 3, "it is asked for once"


def test_too_much_text_and_what_is_no_text_is_refused_with_a_sentence() -> None:
    desk, board = a_desk()
    remote = a_remote(desk)
    remote.say(Copied(1))
    board.paste()
    desk.run(30)
    for message in (bytes([CLIP, 0, 1, 0, 0, 0]) + b"\xff\xfe", bytes([CLIP, LAST, 1, 0, 0, 0]) + b"more"):
        remote.session.receive(message, desk.now_ns)
    desk.run(30)
    assert board.got == [None] and "no valid UTF-8 text" in remote.news(Fault)[0].message and remote.ended is None
    board.paste()
    desk.run(30)
    for message in pack_clip(Clip(1, ClipText((b"x" * PIECE_BYTES,) * (CLIP_BYTES_MAX // PIECE_BYTES + 1)))):
        remote.wire.send_packed(message)
    desk.run(300)
    assert isinstance(remote.ended, RemoteProtocolError) and board.got == [None, None]
    with pytest.raises(ConfigError, match=r"has 1.1 MB; 1.0 MB at most"):
        check_size(1_100_000)
    with pytest.raises(ConfigError):
        clip_text(b"\xe9" * CLIP_BYTES_MAX, "latin-1")
    assert clip_text(b"a\r\nb\0\xe9", "latin-1").whole() == "a\nb\0é"


def test_without_memory_nothing_is_asked_for() -> None:
    desk, board = a_desk()
    remote = a_remote(desk)
    remote.say(Copied(1))
    budget = desk.home.admission.budget
    budget.open("else", {"all": budget.limit - budget.held - CLIP_BYTES_MAX // 2}, 1.0)
    board.paste()
    desk.run(30)
    assert board.got == [None] and not remote.news(Paste)


# -- machines that come and go -------------------------------------------------------------------


def test_clipboard_comes_and_goes_with_its_machine() -> None:
    desk = Desk()
    screen = desk.add()
    remote = a_remote(desk)
    remote.say(Copied(1))
    desk.run(30)
    assert "can't be reached" in remote.news(Fault)[0].message and not remote.news(ClipboardState)
    board = Board(desk)
    desk.run(30)
    assert remote.news(ClipboardState) == [ClipboardState(True)]
    remote.say(Copied(1))
    board.paste()
    board.clipboard.keep(words("kept"))
    desk.home.screens.close_clipboard(board.clipboard)
    desk.run(30)
    assert remote.news(ClipboardState) == [ClipboardState(False)] and board.got == [None]
    assert board.asked == ["offered"] and desk.home.screens.clipboard_of("door/7") is None
    desk.remove(screen)
    desk.home.screens.close()


def test_two_machines_and_two_guests_do_not_share_a_clipboard() -> None:
    desk, board = a_desk()
    desk.add("other", "door/8")
    other_board = Board(desk, "door/8")
    other_desk, board_of_bob = a_desk()
    alice, other = a_remote(desk), a_remote(desk, watch=Watch(screen=_key(desk, "door/8"), formats=["raw"]))
    bob = a_remote(other_desk)
    alice.say(Copied(1))
    for one in (other_board, board_of_bob):
        one.paste()
        assert one.got == [None] and not one.asked
    board.clipboard.copied()
    board.clipboard.supply(words("alice's"))
    desk.run(30)
    other_desk.run(30)
    assert alice.news(ClipboardState)[-1].number == 1
    assert [one.news(ClipboardState)[-1].number for one in (other, bob)] == [0, 0]
    for one in (other, bob):
        _fetch(one.desk, one, 1)
        assert all(clip.text is None for clip in one.clips)


def _key(desk: Desk, door: str) -> str:
    return next(one.key for one in desk.home.screens if one.door == door)


def test_clipboard_asks_for_the_right_itself() -> None:
    rig, desk = Rig(), Desk()
    desk.add()
    remote = a_remote(desk, WATCHES)
    clip: ViewerClip = remote.session.clip
    clipboard = Clipboard("alice", Board(desk), rig.screens.seat, rig.budget.open("clipboard"))
    for verb in (clipboard.join, clipboard.offer, clipboard.fetch):
        with pytest.raises(RightsError):
            verb(clip)


# -- the wire ------------------------------------------------------------------------------------


def test_text_in_pieces() -> None:
    text = "".join(map(chr, range(32, 1000))).encode() * 100
    pieces = list(pack_clip(clip(5, text)))
    assert len(pieces) == -(-len(text) // PIECE_BYTES)
    clips = Clips()
    clips.ask(5)
    assert [clips.take(piece) for piece in pieces[:-1]] == [None] * (len(pieces) - 1) and clips.held_bytes
    assert clips.take(pieces[-1]) == clip(5, text) and not clips.held_bytes
    assert clips.take(pieces[-1]) is None, "an answer is taken once"
    assert list(pack_clip(clip(1, b""))) == [bytes([CLIP, LAST, 1, 0, 0, 0])]


@pytest.mark.parametrize(
    "message", [bytes([CLIP]), bytes([CLIP, 1, 6, 0, 0, 0]), bytes([CLIP, 3, 5, 0, 0, 0]) + b"x" * 1001]
)
def test_broken_pieces_are_refused(message: bytes) -> None:
    clips = Clips()
    clips.ask(5)
    with pytest.raises(RemoteProtocolError):
        clips.take(message)


def test_contents_do_not_show_in_a_clip() -> None:
    assert "secret" not in repr(clip(1, b"secret"))
