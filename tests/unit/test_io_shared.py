"""Memory shared with a client: it can't be shrunk under its reader, and neither side can make the other wait."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Awaitable, Callable, Iterator

import pytest

from millrace.errors import GraphError
from millrace.io import shared
from millrace.io.shared import Bell, mapped, pipe, shared_memory

SIZE = 8192


@pytest.fixture(autouse=True)
def _no_descriptor_is_left() -> Iterator[None]:
    before = set(os.listdir("/proc/self/fd"))
    yield
    assert set(os.listdir("/proc/self/fd")) == before


def test_both_sides_share_memory_of_fixed_size() -> None:
    fd, ours = shared_memory(SIZE)
    assert len(ours) == SIZE and not os.get_inheritable(fd)
    theirs = mapped(os.dup(fd), SIZE)
    ours[5:8] = b"abc"
    assert theirs[5:8] == b"abc"
    for size in (SIZE - 1, 0, SIZE + 1):
        with pytest.raises(PermissionError):
            os.ftruncate(fd, size)
    with pytest.raises(PermissionError):
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    theirs.close()
    ours.close()
    os.close(fd)


def test_memory_smaller_than_announced_is_refused() -> None:
    fd, ours = shared_memory(SIZE)
    ours.close()
    with pytest.raises(ValueError, match="greater than file size"):
        mapped(fd, SIZE + 4096)
    with pytest.raises(OSError):
        os.fstat(fd)


@pytest.mark.parametrize("size", [0, 1 << 62])
def test_missing_memfd_is_reported_and_no_descriptor_leaks(size: int) -> None:
    with pytest.raises(GraphError, match="can't create shared memory"):
        shared_memory(size)


def test_exhausted_descriptors_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> object:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(shared.os, "memfd_create", refuse)
    monkeypatch.setattr(shared.os, "pipe2", refuse)
    with pytest.raises(GraphError, match="can't create shared memory: Too many open files"):
        shared_memory(SIZE)
    with pytest.raises(GraphError, match="no file descriptor left for the stream: Too many open files"):
        pipe()


def test_pipe_never_blocks_and_is_not_inherited() -> None:
    read, write = pipe()
    assert not os.get_blocking(read) and not os.get_blocking(write)
    assert not os.get_inheritable(read) and not os.get_inheritable(write)
    with pytest.raises(BlockingIOError):
        os.read(read, 1)
    os.write(write, b"x")
    assert os.read(read, 2) == b"x"
    os.close(read)
    os.close(write)


class BellPair:
    """A bell, and the other side's ends of its two pipes."""

    def __init__(self) -> None:
        # As they may come from a client: it says itself whether its ends wait.
        hear, self.knock = os.pipe()
        self.hear, ring = os.pipe()
        fcntl.fcntl(ring, fcntl.F_SETPIPE_SZ, SIZE)
        os.set_blocking(self.hear, False)
        self.rung = 0
        self.bell = Bell(hear, ring, self._rung)

    def _rung(self) -> None:
        self.rung += 1

    def heard(self) -> bytes:
        try:
            return os.read(self.hear, 1 << 20)
        except BlockingIOError:
            return b""


def run(test: Callable[[BellPair], Awaitable[None]]) -> None:
    async def main() -> None:
        pair = BellPair()
        try:
            async with asyncio.timeout(20):
                await test(pair)
        finally:
            pair.bell.close()
            for fd in (pair.hear, pair.knock):
                if fd >= 0:
                    os.close(fd)

    asyncio.run(main())


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_bell_wakes_other_side_and_is_woken_by_it() -> None:
    async def test(pair: BellPair) -> None:
        pair.bell.ring()
        assert pair.heard() == b"\1"
        await settle()
        assert pair.rung == 0, "this side was not rung"
        os.write(pair.knock, b"\1\1\1")
        await settle()
        assert pair.rung == 1, "once, however often it was rung"
        os.write(pair.knock, b"\1")
        await settle()
        assert pair.rung == 2

    run(test)


def test_side_that_does_not_listen_blocks_nobody() -> None:
    async def test(pair: BellPair) -> None:
        for _ in range(SIZE + 100):
            pair.bell.ring()
        assert len(pair.heard()) == SIZE
        os.close(pair.hear)
        pair.hear = -1
        pair.bell.ring()

    run(test)


def test_closed_side_is_not_rung_again() -> None:
    async def test(pair: BellPair) -> None:
        os.write(pair.knock, b"\1")
        os.close(pair.knock)
        pair.knock = -1
        await settle()
        assert pair.rung == 1
        looked: list[int] = []
        read = os.read

        def counted(fd: int, size: int) -> bytes:
            looked.append(fd)
            return read(fd, size)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(shared.os, "read", counted)
            await settle()
        assert not looked, "a closed pipe is always readable: that would use all of the thread's time"
        assert pair.rung == 1

    run(test)


def test_spurious_wakeup_of_bell_reports_nothing() -> None:
    async def test(pair: BellPair) -> None:
        pair.bell._heard()
        assert pair.rung == 0

    run(test)


def test_closed_bell_leaves_nothing_in_event_loop() -> None:
    async def main() -> None:
        (hear, knock), (other, ring) = os.pipe(), os.pipe()
        bell = Bell(hear, ring, lambda: None)
        bell.close()
        assert not asyncio.get_running_loop().remove_reader(hear), "the descriptor's number may be reused"
        for fd in (knock, other):
            os.close(fd)

    asyncio.run(main())
