"""What is done for many viewers of a guest takes no more than its slice at a time."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from millrace.absent import nothing
from millrace.errors import CodecError
from millrace.graph.share import SLICE_NS
from millrace.guest.viewers import VIEWERS_MAX
from millrace.outlets import pictures
from millrace.outlets.encoded import EncodedPicture
from millrace.server.http import attend
from millrace.server.http.attend import VIEWER, Attendants, Attended
from millrace.units import NS_PER_MS, NS_PER_S
from millrace.wire.peer.messages import Bye, Fault
from millrace.wire.peer.pictures import ChangeView, Key, Part, PartType, TakeKeyboard
from tests.picturerig import Rig, View
from tests.turning import HandTurned
from tests.watch import SPOT, Desk, Remote

WRITE_NS = NS_PER_MS // 20


def costly(viewers: int) -> tuple[Desk, Any, list[Remote], list[int]]:
    """A screen with so many viewers, to each of whom it takes time to write; and the time spent."""
    worked = [0]
    desk = Desk()
    desk.turns = desk.home.turns = HandTurned(lambda: worked[0])
    desk.viewers._following._over = desk.viewers._sharing._leaving._over = desk.turns.over
    screen = desk.add()
    remotes = [Remote(desk) for _ in range(viewers)]

    def slow(write: Any) -> Any:
        def costly(messages: Any) -> None:
            worked[0] += WRITE_NS
            write(messages)

        return costly

    for remote in remotes:
        remote.session.sending._write = slow(remote._write)
    desk.run(100)
    return desk, screen, remotes, worked


def rounds(desk: Desk, worked: list[int]) -> int:
    """How many rounds are made until nothing waits, none of which takes more than the guest's slice."""
    number = 0
    while desk.turns.waiting:
        before = worked[0]
        desk.turns._round()
        number += 1
        assert worked[0] - before <= SLICE_NS + 4 * WRITE_NS
    return number


def test_round_of_many_viewers_takes_no_more_than_the_guests_slice_at_a_time() -> None:
    desk, screen, remotes, worked = costly(VIEWERS_MAX)
    screen.point(9, 9)
    screen.show(50, 40, desk.now_ns)
    screen.fill(SPOT, 5, desk.now_ns)
    desk.now_ns += NS_PER_S // 20
    written = worked[0]
    assert rounds(desk, worked) >= VIEWERS_MAX * WRITE_NS // (2 * SLICE_NS)
    assert worked[0] - written >= VIEWERS_MAX * WRITE_NS
    desk.run(200)
    assert all(np.array_equal(remote.canvas, screen.pixels) for remote in remotes)


def test_pictures_that_wait_for_many_viewers_are_sent_no_more_than_the_guests_slice_at_a_time() -> None:
    desk, _, remotes, worked = costly(VIEWERS_MAX)
    desk.run(1_000)
    data = bytes(SPOT.area * 4)
    picture = EncodedPicture(10**6, 0, (Part(PartType.RAW, SPOT, data),), True, len(data))
    before = worked[0]
    for remote in remotes:
        remote.session.push(picture)
    desk.groups[0].wake()
    assert rounds(desk, worked) >= VIEWERS_MAX * WRITE_NS // (2 * SLICE_NS)
    assert worked[0] - before == VIEWERS_MAX * WRITE_NS


def attended(remotes: list[Remote], monkeypatch: pytest.MonkeyPatch) -> tuple[Attendants, list[Any]]:
    """Those that serve these viewers, and the sessions whose connections they have ended."""

    def end(session: Any, attended: Attended) -> None:
        session.closed()
        ended.append(session)

    made, ended = Attendants(Any, Any), list[Any]()  # type: ignore[arg-type]
    for remote in remotes:
        write = remote.session.sending._write
        made._sockets[remote.session] = Attended(SimpleNamespace(close_code=1000), nothing, VIEWER, write, 0)  # type: ignore[arg-type]
    monkeypatch.setattr(made, "_end", end)
    return made, ended


def test_viewers_whose_rights_end_are_stopped_at_once_and_disconnected_in_turns(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    desk, screen, remotes, worked = costly(VIEWERS_MAX)
    attendants, ended = attended(remotes, monkeypatch)
    typist = remotes[3]
    typist.say(TakeKeyboard(True))
    typist.say(Key(30, True))
    desk.run(20)
    typed, before = len(screen.typed), worked[0]
    for remote in remotes:
        attendants._dismiss(remote.session, "the token was revoked")
    # At once: the keys are released, nobody may type, and nobody is sent anything more.
    assert worked[0] == before and not ended and screen.typed[typed:] == [(30, False)]
    assert desk.home.screens.seat.who is None and all(one.session.closing for one in remotes)
    screen.fill(SPOT, 5, desk.now_ns)
    assert not any(one.session.sending.open or one.session.ready(desk.now_ns) for one in remotes)
    # One whose connection ends meanwhile is told before, and one that is gone is no concern of this any more.
    attendants._part(remotes[0].session)
    del attendants._sockets[remotes[1].session]
    assert rounds(desk, worked) >= VIEWERS_MAX * WRITE_NS // (2 * SLICE_NS)
    assert len(ended) == len(remotes) - 1 and not caplog.records and not attendants._parting
    assert len(desk.viewers.groups[0].sessions) == 1
    assert worked[0] - before == len(ended) * WRITE_NS, "each is sent one message"
    pieces = [len(one.pieces) for one in remotes]
    desk.run(50)
    for remote in [remotes[0], *remotes[2:]]:
        assert remote.news(Bye) == [Bye("the token was revoked", again=False)]
    assert [len(one.pieces) for one in remotes] == pieces


def test_viewers_of_a_guest_that_is_removed_are_stopped_at_once_and_disconnected_in_turns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    desk, _, remotes, worked = costly(VIEWERS_MAX)
    attendants, ended = attended(remotes, monkeypatch)
    before, numbers = worked[0], list[int]()

    async def main() -> None:
        ending = asyncio.create_task(attendants.end_guest(desk.home, "the guest was removed"))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        assert all(one.session.closing for one in remotes) and len(ended) < len(remotes) // 4
        while not ending.done():
            numbers.append(worked[0])
            desk.turns._round()
            await asyncio.sleep(0)

    asyncio.run(main())
    assert len(ended) == len(remotes) and not desk.viewers.sessions and not attendants._parting
    assert worked[0] - before == len(ended) * WRITE_NS, "each is sent one message"
    steps = [after - earlier for earlier, after in pairwise(numbers)]
    assert max(steps) <= 2 * (SLICE_NS + 4 * WRITE_NS), "a round, and what goes on after it"


def test_viewer_that_speaks_when_its_rights_have_ended_is_told_so_before_it_is_disconnected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its message may have its turn before the end of its rights has."""
    _, _, (remote,), _ = costly(1)
    attendants, ended = attended([remote], monkeypatch)
    order: list[str] = []

    async def messages(*_: Any) -> Any:
        attendants._dismiss(remote.session, "the token was revoked")
        yield SimpleNamespace(data="never looked at")

    async def hang_up(*_: Any) -> None:
        order.append(f"hang up of {len(ended)}")

    monkeypatch.setattr(attend, "messages", messages)
    monkeypatch.setattr(attend, "hang_up", hang_up)
    asyncio.run(attendants._serve(remote.session, attendants._sockets[remote.session], SimpleNamespace(rearm=nothing)))  # type: ignore[arg-type]
    assert order == ["hang up of 1"]


def test_viewer_that_leaves_takes_no_longer_because_of_the_others() -> None:
    rig = Rig()
    views = [rig.join(View()) for _ in range(40)]
    rig.settle(1)

    def leave() -> None:
        for view in views:
            rig.encoder.leave(view)

    assert 0 < lines_run(pictures.__file__, leave) <= 10 * len(views)


# In a thread of its own: what traces the others, as a coverage tool does, is left alone.
def lines_run(file: str, work: Callable[[], None]) -> int:
    """How many lines of a file it takes."""
    lines = Counter[int]()

    def counted(frame: Any, event: str, _: Any) -> Any:
        lines[0] += event == "line" and frame.f_code.co_filename == file
        return counted

    def traced() -> None:
        sys.settrace(counted)
        work()

    with ThreadPoolExecutor(1) as threads:
        threads.submit(traced).result()
    return lines[0]


def test_viewers_of_an_encoder_that_ends_are_told_no_more_than_the_guests_slice_at_a_time() -> None:
    desk, screen, remotes, worked = costly(VIEWERS_MAX)
    desk.run(1_000)
    before = worked[0]
    desk.viewers._sharing._failed(desk.groups[0], CodecError("no more"))
    assert worked[0] == before and not screen.screen.readers
    # Whoever leaves or changes its mind before it is told is no concern of this any more.
    remotes[-1].leave()
    remotes[-2].say(ChangeView({"fps": "9"}))
    assert rounds(desk, worked) >= VIEWERS_MAX * WRITE_NS // (2 * SLICE_NS)
    desk.run(100)
    assert all(len(remote.news(Fault)) == 1 for remote in remotes[:-1])
    # Few stay until there is another encoder, which takes a while.
    for remote in remotes[3:-1]:
        remote.leave()
    screen.fill(SPOT, 5, desk.now_ns)
    desk.run(6_500)
    assert all(np.array_equal(remote.canvas, screen.pixels) for remote in remotes[:3])
