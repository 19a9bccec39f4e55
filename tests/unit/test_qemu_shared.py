"""Pictures that QEMU shares as memory: what is copied of them, when, and how much at a time."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from millrace.doors.canvas import BAND_PIXELS
from millrace.graph.seat import Watcher
from millrace.io.sharedpicture import SharedPicture, shared_picture
from millrace.pixels.rects import Damage, Rect
from millrace.rights.model import OWNER
from millrace.sim.qemuscreen import RGB565
from tests.qemuconsole import MIB, Memory, Rig, always, noise


@pytest.mark.parametrize(("stride", "offset"), [(0, 0), (300 * 4 + 64, 4096)])
def test_shared_picture_is_copied_where_it_changed(stride: int, offset: int) -> None:
    rig = Rig()
    rig.watch()
    memory, picture = Memory(300, 200, stride, offset), noise(300, 200)
    memory.paint(picture)
    memory.show(rig)
    assert (rig.shown() == picture).all()
    rig.taken()
    picture[20:30, 40:60] ^= 255
    memory.paint(picture)
    rig.console.update_map(0, 0, 300, 200)
    rig.step()
    assert (rig.shown() == picture).all() and rig.taken().damage == (Rect(40, 20, 20, 10),)
    assert len(rig.console.answered) == 2, "QEMU waits for the answer to a ScanoutMap"
    rig.door.close()


@pytest.mark.parametrize("stride", [0, 700 * 4 + 64])
def test_large_shared_pictures_are_copied_whole_or_by_bands(stride: int) -> None:
    rig = Rig()
    rig.watch()
    memory, picture = Memory(700, 600, stride), noise(700, 600)
    memory.paint(picture)
    memory.show(rig)
    rig.taken()
    picture[100:400, 40:60] ^= 255
    memory.paint(picture)
    rig.console.update_map(0, 10, 700, 580)
    rig.step()
    damage = rig.taken().damage
    assert (rig.shown() == picture).all()
    assert sum(rect.area for rect in damage) == (20 * 300 if stride else 700 * 580)
    rig.door.close()


def test_shared_picture_is_not_copied_while_nobody_watches() -> None:
    rig = Rig()
    memory, picture = Memory(300, 200), noise(300, 200)
    memory.paint(picture)
    memory.show(rig)
    rig.console.update_map(0, 0, 300, 200)
    rig.step()
    assert rig.screen.memory is not None and not rig.shown().any()
    rig.watch()
    assert (rig.shown() == picture).all()
    assert rig.taken().damage == (Rect(0, 0, 300, 200),)


def test_copies_and_shared_memory_alternate() -> None:
    rig = Rig()
    rig.watch()
    memory = Memory(64, 64)
    before = len(os.listdir("/proc/self/fd"))
    for seed in range(3):
        memory.paint(noise(64, 64, seed))
        memory.show(rig)
        assert (rig.shown() == noise(64, 64, seed)).all()
        rig.console.scanout(noise(64, 64, 10 + seed))
        rig.console.update_map(0, 0, 64, 64)
        rig.step()
        assert (rig.shown() == noise(64, 64, 10 + seed)).all()
    rig.door.close()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("size", [0, 100])
def test_memory_that_was_shrunk_leaves_the_last_picture_and_is_told(size: int) -> None:
    rig = Rig()
    rig.watch()
    memory, picture = Memory(300, 200), noise(300, 200)
    memory.paint(picture)
    memory.show(rig)
    os.ftruncate(memory.fd, size)
    rig.console.update_map(0, 0, 300, 200)
    rig.step()
    assert "less memory" in rig.door.trouble and (rig.shown() == picture).all()
    rig.console.scanout(noise(300, 200, 2))
    rig.step()
    assert not rig.door.trouble and (rig.shown() == noise(300, 200, 2)).all()


def test_descriptor_of_no_memory_is_refused() -> None:
    rig = Rig()
    rig.watch()
    hear, ring = os.pipe()
    rig.console.scanout_map(hear, 8, 8, 32)
    rig.step((hear,))
    assert "not memory" in rig.door.trouble
    os.close(hear)
    os.close(ring)
    one = os.open(__file__, os.O_RDONLY)
    assert shared_picture(one) is None
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(one)


def test_shared_picture_is_read_as_far_as_it_goes() -> None:
    memory = Memory(4, 4)
    memory.paint(noise(4, 4))
    shared = SharedPicture(memory.fd)
    whole = bytearray(64)
    assert shared.read(0, memoryview(whole)) and bytes(whole) == noise(4, 4).tobytes()
    assert not shared.read(16, memoryview(whole))
    shared.close()
    shared.close()
    assert not shared.read(0, memoryview(whole))


def test_huge_shared_picture_allocates_nothing_it_has_no_room_for() -> None:
    rig = Rig(limit=8 * MIB)
    memory = Memory(8, 8)
    rig.console.scanout_map(memory.fd, 4096, 4096, 16_384)
    rig.step((memory.fd,))
    assert "no room" in rig.door.trouble and rig.budget.held < MIB


def _alike(rig: Rig) -> None:
    rig.console.scanout(noise(300, 200))


def _unsupported(rig: Rig) -> None:
    rig.console.scanout(noise(300, 200), RGB565)


def _unsupported_map(rig: Rig) -> None:
    memory = Memory(300, 200)
    rig.console.scanout_map(memory.fd, 300, 200, 1200, format_=RGB565)
    rig.peer.receive_fds([os.dup(memory.fd)])


def _too_large(rig: Rig) -> None:
    memory = Memory(300, 200)
    rig.console.scanout_map(memory.fd, 8192, 8192, 32_768)
    rig.peer.receive_fds([os.dup(memory.fd)])


# A reader waits for what is copied now. QEMU may end that with something else, and then be silent.
@pytest.mark.parametrize("instead", [_alike, _unsupported, _unsupported_map, _too_large])
def test_reader_that_waits_for_shared_memory_sees_the_screen_whatever_comes_instead(
    instead: Callable[[Rig], None],
) -> None:
    rig = Rig(over=always)
    rig.watch()
    memory = Memory(300, 200)
    memory.paint(noise(300, 200))
    memory.show(rig)
    rig.taken()
    assert rig.reader is not None
    rig.reader.end()
    rig.console.update_map(0, 0, 300, 200)
    rig.step()
    reader = rig.screen.read(Watcher("viewer/2", OWNER))
    assert reader.take(10**10) is None, "what is there is old"
    instead(rig)
    rig.step()
    taken = reader.take(10**10)
    assert taken is not None and (taken.plane == noise(300, 200)).all()
    rig.door.close()


class Counting(SharedPicture):
    """Counts what is read of it at once."""

    most = 0

    def read(self, at: int, into: memoryview) -> bool:
        Counting.most = max(Counting.most, into.nbytes)
        return super().read(at, into)


@pytest.mark.parametrize(("width", "height", "stride"), [(1, 16_384, 16_384), (2048, 1024, 8192), (1024, 2, 1 << 27)])
def test_shared_picture_is_read_a_little_at_a_time(
    monkeypatch: pytest.MonkeyPatch, width: int, height: int, stride: int
) -> None:
    rig = Rig(over=always)
    monkeypatch.setattr(rig.door, "_open", Counting)
    monkeypatch.setattr(Counting, "most", 0)
    rig.watch()
    rig.console.scanout_map(memory := os.memfd_create("qemu"), width, height, stride)
    os.ftruncate(memory, stride * height)
    rig.step((memory,))
    assert rig.screen.memory is not None and rig.screen.memory.mode.height == height and not rig.door.trouble
    assert 0 < Counting.most <= 4 * BAND_PIXELS
    rig.door.close()
    os.close(memory)


def test_shared_picture_is_not_shown_before_it_is_copied() -> None:
    rig = Rig(over=always)
    memory = Memory(300, 200)
    memory.show(rig)
    rig.watch()
    rig.taken()
    assert rig.reader is not None
    rig.reader.end()
    memory.paint(noise(300, 200))
    for picture in (noise(300, 200), noise(300, 200)):
        rig.console.update_map(0, 0, 300, 200)
        rig.step()
        reader = rig.screen.read(Watcher("viewer/1", OWNER))
        assert rig.woken and reader.take(10**10) is None, "what is there is old"
        rig.run()
        rig.publish()
        taken = reader.take(10**10)
        assert taken is not None and (taken.plane == picture).all(), "even where nothing differs"
        taken.release()
        reader.end()


def test_flood_of_reports_joins_no_rectangles_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig()
    rig.watch()
    memory, picture = Memory(300, 200), noise(300, 200)
    memory.paint(picture)
    memory.show(rig)
    rig.taken()
    picture[20:180:3, 40:60] ^= 255
    memory.paint(picture)
    added = [0]
    before = Damage.add

    def counted(self: Damage, rect: Rect) -> None:
        added[0] += 1
        before(self, rect)

    monkeypatch.setattr(Damage, "add", counted)
    for number in range(1_000):
        rig.console.update_map(40, 20 + number % 160, 20, 1)
    rig.step()
    assert (rig.shown() == picture).all() and added[0] < 50
