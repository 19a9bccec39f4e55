"""QEMU's console: pictures as copies and in shared memory, the pointer's shape, keys, and wrong or hostile peers."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millrace.budget import Budget
from millrace.doors.canvas import BAND_PIXELS, Canvas
from millrace.doors.qemu.input import AT_ONCE, MOTION_WAITS, UNANSWERED_MAX, WAITING_MAX, ConsoleInput
from millrace.doors.qemu.screen import SHAPES_KNOWN_MAX, TOLD_MAX, QemuScreen
from millrace.errors import ConfigError, GraphError, RemoteProtocolError
from millrace.graph.model import Ids
from millrace.graph.pictures import Mode
from millrace.graph.screen import Picture, Reader, Screen
from millrace.graph.screens import Screens
from millrace.graph.seat import Watcher
from millrace.io.sharedpicture import SharedPicture, shared_picture
from millrace.pixels.rects import Point, Rect, Size
from millrace.rights.model import OWNER
from millrace.sim.qemuscreen import ARGB, RGB565, XRGB, FakeConsole, Pixels, exchange
from millrace.wire.qemu.client import Console, DisplayClient
from millrace.wire.qemu.dbus import CALL, Message
from millrace.wire.qemu.display import FDS_MAX, MAP, PICTURE_MAX, ScreenPeer
from millrace.wire.qemu.values import Reader as Values
from millrace.wire.qemu.values import Writer

MIB = 1024 * 1024


def noise(width: int, height: int, seed: int = 1) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 4), np.uint8)


class Sent(DisplayClient):
    """What is sent to QEMU's console, decoded; QEMU answers nothing."""

    def __init__(self) -> None:
        super().__init__(0, False, 0)
        self.calls: list[tuple[str, list[int]]] = []

    def _ask(
        self, what: str, path: str, interface: str, member: str, signature: str = "", body: bytes = b"",
        destination: str | None = None, fds: tuple[int, ...] = (),
    ) -> None:  # fmt: skip
        if what == "input":
            assert path == "/org/qemu/Display1/Console_2"
            self.calls.append((member, Values(body).values(signature)))


class Rig:
    """A console with its door, and one viewer once `watch` was called."""

    def __init__(
        self, limit: int = 64 * MIB, label: str = "virtio-vga", over: Callable[[], bool] = lambda: False
    ) -> None:  # fmt: skip
        self.console, self.closed = FakeConsole(), list[int]()
        self.budget = Budget(limit=limit)
        self.screens = Screens("alice", Ids(), self.budget)
        self.peer = ScreenPeer(1000, self._close)
        self.client = Sent()
        self.input = ConsoleInput(self.client, 2, lambda: None)
        self.reports: list[str] = []
        self.woken = 0
        self.door = QemuScreen(
            self.screens, self.peer, Console(2, label, 0, True), "door/1", self.input, shared_picture,
            lambda cause, why: self.reports.append(cause), self._wake, over,
        )  # fmt: skip
        self.screen = self.door.screen
        self.now_ns = 10**9
        self.reader: Reader | None = None
        exchange(self.console, self.peer, self.peer.take)

    def _wake(self) -> None:
        self.woken += 1

    def _close(self, fd: int) -> None:
        self.closed.append(fd)
        os.close(fd)

    def step(self, fds: tuple[int, ...] = ()) -> None:
        self.now_ns += 10**6
        self.peer.receive_fds([os.dup(fd) for fd in fds])
        exchange(self.console, self.peer, self.run)
        self.publish()

    def run(self) -> int:
        """What a connection does in its turns; how many it takes."""
        turns = 0
        while self.door.busy:
            self.door.receive(self.now_ns)
            turns += 1
        return turns

    def publish(self) -> None:
        self.door.publish()
        self.run()

    def watch(self) -> Reader:
        self.reader = self.screen.read(Watcher("viewer/1", OWNER))
        self.run()
        self.publish()
        return self.reader

    def shown(self) -> Pixels:
        assert self.screen.memory is not None
        return self.screen.memory.picture

    def taken(self) -> Picture:
        assert self.reader is not None
        picture = self.reader.take(self.now_ns)
        assert picture is not None
        picture.release()
        return picture


# -- copies -------------------------------------------------------------------------------------------


def test_listener_offers_shared_memory_and_answers_before_all_else() -> None:
    rig = Rig()
    assert rig.console.properties == {"Interfaces": [MAP]}
    serial = rig.console.call("GetAll", "s", Writer().text("s", MAP), "org.freedesktop.DBus.Properties")
    exchange(rig.console, rig.peer, rig.run)
    assert rig.console.answered == [serial]


@pytest.mark.parametrize("format_", [XRGB, ARGB])
def test_picture_of_copies_is_the_one_painted(format_: int) -> None:
    rig = Rig()
    rig.watch()
    picture = noise(200, 150)
    rig.console.scanout(picture, format_)
    rig.step()
    assert (rig.shown() == picture).all() and rig.taken().damage == (Rect(0, 0, 200, 150),)
    picture[10:26, 9:18] = noise(9, 16, 2)
    rig.console.update(9, 10, picture[10:26, 9:18], format_)
    rig.step()
    assert (rig.shown() == picture).all() and rig.taken().damage == (Rect(9, 10, 9, 16),)


def test_scanout_of_same_size_is_no_new_mode_and_only_what_differs_is_damage() -> None:
    rig = Rig()
    rig.watch()
    picture = noise(320, 200)
    rig.console.scanout(picture)
    rig.step()
    memory = rig.screen.memory
    rig.taken()
    picture[50:60, 100:140] ^= 255
    rig.console.scanout(picture)
    rig.step()
    assert rig.screen.memory is memory and (rig.shown() == picture).all()
    assert rig.taken().damage == (Rect(100, 50, 40, 10),)
    serial = rig.screen.serial
    rig.console.scanout(picture)
    rig.step()
    assert rig.screen.serial == serial, "nothing has changed"


def test_whole_lines_that_changed_in_part_are_damage_only_there() -> None:
    """A VGA card reports whole lines."""
    rig = Rig(label="VGA")
    rig.watch()
    picture = noise(640, 480)
    rig.console.scanout(picture)
    rig.step()
    rig.taken()
    picture[100:140, 320:340] ^= 1
    rig.console.update(0, 90, picture[90:150])
    rig.step()
    assert (rig.shown() == picture).all() and rig.taken().damage == (Rect(320, 100, 20, 40),)


def test_many_small_updates_are_one_picture() -> None:
    rig = Rig()
    rig.watch()
    picture = noise(720, 400)
    rig.console.scanout(picture)
    rig.step()
    rig.taken()
    before = rig.screen.serial
    for row in range(25):
        picture[row * 16 : row * 16 + 16, :9] = noise(9, 16, row)
        rig.console.update(0, row * 16, picture[row * 16 : row * 16 + 16, :9])
    rig.step()
    assert rig.screen.serial == before + 1 and (rig.shown() == picture).all()


def test_hundreds_of_small_updates_are_a_few_rectangles_that_cover_them() -> None:
    rig = Rig()
    rig.watch()
    picture = noise(720, 400)
    rig.console.scanout(picture)
    rig.step()
    seen = rig.shown().copy()
    rig.taken()
    for n in range(500):
        x, y = 9 * (n % 80), 16 * (n * 7 % 25)
        picture[y : y + 16, x : x + 9] = noise(9, 16, n)
        rig.console.update(x, y, picture[y : y + 16, x : x + 9])
    rig.step()
    damage = rig.taken().damage
    for rect in damage:
        seen[rect.y : rect.bottom, rect.x : rect.right] = rig.shown()[rect.y : rect.bottom, rect.x : rect.right]
    assert (seen == picture).all() and len(damage) < 64


def test_caret_that_did_not_change_is_no_picture() -> None:
    rig = Rig()
    rig.watch()
    rig.console.scanout(noise(64, 64))
    rig.step()
    serial = rig.screen.serial
    rig.console.update(9, 16, noise(64, 64)[16:32, 9:18])
    rig.step()
    assert rig.screen.serial == serial


def test_size_changes_at_any_time_and_held_picture_stays() -> None:
    rig = Rig()
    reader = rig.watch()
    for size in ((640, 480), (720, 400), (64, 64), (1280, 800)):
        picture = noise(*size)
        rig.console.scanout(picture)
        rig.step()
        assert rig.screen.memory is not None and rig.screen.memory.mode.width == size[0]
        assert (rig.shown() == picture).all() and rig.input.size == Size(*size)
    held = reader.take(rig.now_ns)
    assert held is not None
    rig.console.scanout(noise(8, 8))
    rig.step()
    assert bytes(held.pixels[:8]) == picture.tobytes()[:8]
    held.release()
    rig.door.close()
    reader.end()
    assert rig.budget.held == 0


def test_time_of_a_picture_is_its_first_call_less_what_the_card_takes() -> None:
    for label, delay_ms in (("virtio-vga", 2), ("VGA", 15), ("qxl-vga", 30)):
        rig = Rig(label=label)
        rig.console.scanout(noise(8, 8))
        rig.step()
        assert rig.screen.painted_ns == rig.now_ns - delay_ms * 10**6


def test_picture_that_follows_another_at_once_has_its_own_time() -> None:
    rig = Rig()
    rig.console.scanout(noise(8, 8))
    rig.step()
    for _ in range(3):
        rig.console.update(0, 0, noise(2, 2, rig.now_ns))
        rig.peer.receive(rig.console.data_to_send(), 0)
        rig.door.publish()
        rig.now_ns += 10**9
        rig.door.receive(rig.now_ns)
        assert rig.door.due, "it was painted after the one before was published"
    rig.publish()
    assert rig.screen.painted_ns == rig.now_ns - 2 * 10**6


def test_disabled_console_is_black_until_next_picture() -> None:
    rig = Rig()
    rig.console.scanout(noise(32, 32))
    rig.console.disable()
    rig.step()
    assert not rig.shown().any()
    rig.console.scanout(noise(32, 32))
    rig.step()
    assert (rig.shown() == noise(32, 32)).all()


# -- shared memory ------------------------------------------------------------------------------------


class Memory:
    """A memfd that QEMU paints into."""

    def __init__(self, width: int, height: int, stride: int = 0, offset: int = 0) -> None:
        self.width, self.height, self.stride, self.offset = width, height, stride or width * 4, offset
        self.fd = os.memfd_create("qemu", os.MFD_CLOEXEC)
        os.ftruncate(self.fd, offset + self.stride * height)

    def paint(self, picture: Pixels, y: int = 0) -> None:
        for row, line in enumerate(picture):
            os.pwrite(self.fd, line.tobytes(), self.offset + (y + row) * self.stride)

    def show(self, rig: Rig) -> None:
        rig.console.scanout_map(self.fd, self.width, self.height, self.stride, self.offset)
        rig.step((self.fd,))


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
    assert "no memory" in rig.door.trouble
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


# -- what can't be shown ------------------------------------------------------------------------------


def test_unknown_format_is_told_and_sound_goes_on() -> None:
    rig = Rig()
    rig.console.scanout(noise(8, 8), RGB565)
    rig.step()
    assert "0x10020565 is not supported" in rig.door.trouble and rig.screen.memory is None
    rig.console.update(0, 0, noise(4, 4), XRGB)
    rig.step()
    assert rig.screen.memory is None
    rig.console.scanout(noise(8, 8))
    rig.step()
    assert not rig.door.trouble and rig.screen.memory is not None


def test_opengl_is_refused_and_told() -> None:
    rig = Rig()
    rig.console.call("ScanoutDMABUF", "", Writer())
    rig.console.call("UpdateDMABUF", "", Writer())
    rig.step()
    assert len(rig.console.refused) == 2 and "gl=on" in rig.door.trouble


def test_picture_without_room_is_told_and_a_smaller_one_shown() -> None:
    rig = Rig(limit=MIB)
    rig.console.scanout(noise(640, 480))
    rig.step()
    assert "no room for its 640 × 480" in rig.door.trouble and rig.screen.memory is None
    rig.console.scanout(noise(64, 48))
    rig.step()
    assert not rig.door.trouble and (rig.shown() == noise(64, 48)).all()
    rig.door.close()
    rig.door.close()
    assert rig.budget.held == 0 and len(rig.screens) == 0


def test_huge_shared_picture_allocates_nothing_it_has_no_room_for() -> None:
    rig = Rig(limit=8 * MIB)
    memory = Memory(8, 8)
    rig.console.scanout_map(memory.fd, 4096, 4096, 16_384)
    rig.step((memory.fd,))
    assert "no room" in rig.door.trouble and rig.budget.held < MIB


Broken = Callable[[FakeConsole], object]
BROKEN: dict[str, Broken] = {
    "arguments": lambda one: one.call("Scanout", "s", Writer().text("s", "x")),
    "too few pixels": lambda one: one.call("Scanout", "uuuuay", numbers("uuuu", 8, 8, 32, XRGB).blob(bytes(255))),
    "short rows": lambda one: one.call("Update", "iiiiuuay", numbers("iiiiuu", 0, 0, 8, 1, 31, XRGB).blob(bytes(64))),
    "negative": lambda one: one.call("Update", "iiiiuuay", numbers("iiiiuu", 0, 0, -8, 1, 32, XRGB).blob(bytes(64))),
    "enormous": lambda one: one.call("Scanout", "uuuuay", numbers("uuuu", 2**31, 8, 32, XRGB).blob(bytes(64))),
    "cursor": lambda one: one.call("CursorDefine", "iiiiay", numbers("iiii", 32, 32, 0, 0).blob(bytes(64))),
    "no descriptor": lambda one: one.scanout_map(3, 8, 8, 32),
    "blob": lambda one: one.call("Scanout", "uuuuay", numbers("uuuu", 8, 8, 32, XRGB).number("u", 2**20)),
}  # fmt: skip


def numbers(signature: str, *values: int) -> Writer:
    out = Writer()
    for code, value in zip(signature, values, strict=True):
        out.number(code, value)
    return out


@pytest.mark.parametrize("what", BROKEN)
def test_malformed_call_ends_the_connection(what: str) -> None:
    rig = Rig()
    BROKEN[what](rig.console)
    with pytest.raises(RemoteProtocolError):
        rig.step()


def test_descriptors_without_messages_are_bounded_and_closed() -> None:
    rig = Rig()
    hear, ring = os.pipe()
    rig.peer.receive_fds([os.dup(hear) for _ in range(FDS_MAX + 1)])
    with pytest.raises(RemoteProtocolError, match="17 descriptors"):
        rig.peer.receive(b"l", 0)
    rig.door.close()
    assert len(rig.closed) == FDS_MAX + 1
    os.close(hear)
    os.close(ring)


def test_descriptors_of_calls_that_need_none_are_closed() -> None:
    rig = Rig()
    hear, ring = os.pipe()
    rig.console.call("MouseSet", "iii", numbers("iii", 1, 2, 1), fds=(hear,))
    rig.step((hear,))
    memory = Memory(8, 8)
    rig.console.scanout_map(memory.fd, 8, 8, 32)
    rig.peer.receive_fds([os.dup(memory.fd)])
    rig.peer.receive(rig.console.data_to_send(), 0)
    assert len(rig.closed) == 1
    rig.door.close()
    assert len(rig.closed) == 2, "that of a call which nobody took"
    os.close(hear)
    os.close(ring)


def test_length_of_a_picture_is_checked_before_it_is_buffered() -> None:
    peer = ScreenPeer(0)
    peer.receive(b"OK x\r\nAGREE_UNIX_FD\r\n", 0)
    wrong = struct.pack("<cBBBIII", b"l", CALL, 0, 1, 2 * PICTURE_MAX, 1, 8)
    with pytest.raises(RemoteProtocolError, match="at most"):
        peer.receive(wrong, 0)
    rig = Rig()
    rig.console.mouse(1, 2, True)
    rig.peer.receive(rig.console.data_to_send() + wrong, 0)
    with pytest.raises(RemoteProtocolError, match="at most"):
        rig.run()


def test_large_message_is_received_in_any_pieces() -> None:
    rig = Rig()
    picture = noise(300, 200)
    rig.console.mouse(1, 2, False)
    rig.console.scanout(picture)
    rig.console.update(0, 0, picture[:20, :20])
    data = rig.console.data_to_send()
    for at in range(0, len(data), 60_001):
        rig.peer.receive(data[at : at + 60_001], 0)
        assert rig.peer.partial_bytes <= len(data)
        rig.run()
    assert (rig.shown() == picture).all() and rig.peer.partial_bytes == 0


# -- work and memory ------------------------------------------------------------------------------------


def always() -> bool:
    return True


def test_each_turn_does_little_of_what_qemu_sends() -> None:
    """A turn that is over ends after one step, be it a call or a band of a picture."""
    rig = Rig(over=always)
    reader = rig.watch()
    for n in range(400):
        rig.console.mouse(n, n, True)
    rig.peer.receive(rig.console.data_to_send(), 0)
    assert rig.run() >= 400
    rig.console.scanout(noise(1024, 1024))
    rig.peer.receive(rig.console.data_to_send(), 0)
    rig.door.receive(rig.now_ns)
    rig.door.publish()
    rig.door.receive(rig.now_ns)
    assert rig.peer.partial_bytes > 4 * MIB, "it is still charged"
    assert rig.door.busy and reader.take(10**10) is None, "no part of a picture is shown"
    assert rig.run() >= 1024 * 1024 // BAND_PIXELS - 2
    assert rig.peer.partial_bytes == 0 and reader.take(10**10) is not None
    rig.console.disable()
    rig.peer.receive(rig.console.data_to_send(), 0)
    assert rig.run() >= 1024 * 1024 // BAND_PIXELS and not rig.shown().any()


def test_size_that_qemu_tells_is_taken_in_turns() -> None:
    rig = Rig(over=always)
    picture = noise(640, 480)
    rig.console.scanout(picture)
    rig.step()
    rig.door.set_size(Size(800, 600))
    rig.door.settle_size()
    assert rig.woken and rig.shown().shape == (480, 640, 4) and rig.door.busy
    assert rig.run() >= 640 * 480 // BAND_PIXELS
    assert rig.shown().shape == (600, 800, 4) and (rig.shown()[:480, :640] == picture).all()


def test_parts_at_ever_new_places_allocate_few_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    rig, modes = Rig(), []
    before = Screen.set_mode

    def set_mode(screen: Screen, mode: Mode, pixels: memoryview, now_ns: int) -> None:
        modes.append(mode)
        before(screen, mode, pixels, now_ns)

    monkeypatch.setattr(Screen, "set_mode", set_mode)
    rig.console.scanout(noise(8, 8))
    rig.step()
    dots = {(7 * n, 5 * n): noise(1, 1, n) for n in range(300)}
    for (x, y), dot in dots.items():
        rig.console.update(x, y, dot)
    rig.step()
    assert len(modes) < 30 and all((rig.shown()[y, x] == dot).all() for (x, y), dot in dots.items())
    last = modes[-1]
    for x, y in ((-1, 0), (0, -5), (-(2**31), 0), (16_384, 0), (0, 2**31 - 1)):
        rig.console.update(x, y, noise(1, 1))
    rig.step()
    assert modes[-1] == last, "no surface of QEMU has such parts"
    assert rig.budget.held < 4 * last.width * last.height + MIB


def test_lines_of_a_larger_picture_are_shown_before_its_size_is_told() -> None:
    rig = Rig()
    rig.console.scanout(noise(640, 480))
    rig.step()
    picture = noise(800, 600, 2)
    for y in range(0, 600, 20):
        rig.console.update(0, y, picture[y : y + 20])
    rig.step()
    assert (rig.shown() == picture).all()


def test_empty_picture_is_none() -> None:
    rig = Rig()
    rig.console.call("Scanout", "uuuuay", numbers("uuuu", 0, 0, 0, XRGB).blob(b""))
    rig.console.update(0, 0, noise(20, 10))
    rig.step()
    rig.console.scanout(noise(20, 10, 3))
    rig.step()
    assert (rig.shown() == noise(20, 10, 3)).all()


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


def test_troubles_without_end_are_logged_a_few_times(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig()
    for n in range(100):
        rig.console.call(f"Unknown{n}", "", Writer())
        rig.console.scanout(noise(8, 8), 1000 + n)
        rig.console.scanout(noise(8, 8))
    rig.step()
    assert len(caplog.records) == TOLD_MAX and not rig.door.trouble


# -- the pointer's shape --------------------------------------------------------------------------------


def test_cursor_has_shape_hot_spot_and_place() -> None:
    rig = Rig()
    rig.console.mouse(30, 40, True)
    rig.step()
    assert rig.screen.cursor.shape == 0, "no shape yet"
    rig.console.cursor(noise(16, 24), 3, 4)
    rig.step()
    cursor = rig.screen.cursor
    assert cursor.shown and (cursor.hot, cursor.at) == (Point(3, 4), Point(30, 40))
    shape = rig.screen.shape(cursor.shape)
    assert shape is not None and shape.pixels == noise(16, 24).tobytes() and shape.size == Size(16, 24)
    rig.console.mouse(31, 40, False)
    rig.step()
    assert not rig.screen.cursor.shown and rig.screen.cursor.at == Point(31, 40)


def test_shape_that_returns_keeps_its_number_and_many_are_bounded() -> None:
    rig = Rig()
    numbers = []
    for seed in (1, 2, 1):
        rig.console.cursor(noise(8, 8, seed))
        rig.step()
        numbers.append(rig.screen.cursor.shape)
    assert numbers[0] == numbers[2] != numbers[1]
    for seed in range(10, 110):
        rig.console.cursor(noise(8, 8, seed))
    rig.step()
    assert len(rig.door._shapes) == SHAPES_KNOWN_MAX
    last = rig.screen.cursor
    rig.console.cursor(noise(600, 2))
    rig.step()
    assert rig.screen.cursor == last, "nobody points with so much"


# -- input ----------------------------------------------------------------------------------------------


def sized(rig: Rig) -> Rig:
    rig.console.scanout(noise(64, 48))
    rig.step()
    return rig


def test_keys_arrive_by_number_and_those_held_are_released_at_the_end() -> None:
    rig = Rig()
    rig.door.key(0x1E, True)
    rig.door.key(0x1E, True)
    rig.door.key(0xC8, True)
    rig.door.key(0xC8, False)
    rig.door.key(0x1234, True)
    assert rig.client.calls == [("Press", [0x1E]), ("Press", [0x1E]), ("Press", [0xC8]), ("Release", [0xC8])]
    rig.door.close()
    assert rig.client.calls[4:] == [("Release", [0x1E])]


def test_positions_are_kept_within_the_screen_and_precede_buttons() -> None:
    rig = sized(Rig())
    rig.door.pointer(Point(10, 20), 0, False)
    rig.door.pointer(Point(100, -3), 0b101, False)
    rig.door.pointer(Point(63, 0), 0b100, False)
    assert rig.client.calls == [
        ("SetAbsPosition", [10, 20]), ("SetAbsPosition", [63, 0]), ("Press", [0]), ("Press", [2]), ("Release", [0]),
    ]  # fmt: skip
    rig.door.close()
    assert rig.client.calls[5:] == [("Release", [2])]


def test_notch_of_the_wheel_is_one_press() -> None:
    rig = sized(Rig())
    for buttons in (0b1000, 0, 0b10000, 0):
        rig.door.pointer(Point(0, 0), buttons, False)
    assert rig.client.calls == [("Press", [3]), ("Release", [3]), ("Press", [4]), ("Release", [4])]


def test_pointer_follows_what_the_guest_takes() -> None:
    rig = sized(Rig())
    rig.door.set_absolute(False)
    assert rig.screen.relative
    rig.door.pointer(Point(5, 6), 0, True)
    rig.door.pointer(Point(-2, 1), 0, True)
    rig.door.pointer(Point(10, 10), 0, False)
    moves = [values for member, values in rig.client.calls if member == "RelMotion"]
    assert moves == [[5, 6], [-2, 1], [7, 3]]
    rig.door.set_absolute(True)
    assert not rig.screen.relative
    rig.door.pointer(Point(2, -3), 0, True)
    assert rig.client.calls[-1] == ("SetAbsPosition", [12, 7])


def test_movements_are_joined_while_qemu_does_not_answer_and_none_is_lost() -> None:
    rig = sized(Rig())
    rig.door.set_absolute(False)
    for _ in range(20):
        rig.door.pointer(Point(1, 2), 0, True)
    assert len(rig.client.calls) == MOTION_WAITS + 1
    rig.client.unanswered = 0
    rig.input.send_motion()
    sums = [sum(values[i] for _, values in rig.client.calls) for i in range(2)]
    assert sums == [20, 40]


def test_clicks_are_dropped_while_qemu_hangs_and_releases_are_not() -> None:
    rig = sized(Rig())
    rig.door.pointer(Point(1, 1), 1, False)
    rig.client.unanswered = UNANSWERED_MAX
    rig.door.pointer(Point(9, 9), 0b11, False)
    rig.door.pointer(Point(9, 9), 0b10, False)
    rig.door.size_wish(Size(800, 600))
    assert [member for member, _ in rig.client.calls] == ["SetAbsPosition", "Press", "Release"]


def test_long_text_arrives_whole_in_order_and_no_faster_than_a_guest_takes_keys() -> None:
    rig = sized(Rig())
    text = [(0x02 + n * 7 % 50, down) for n in range(2_000) for down in (True, False)]
    for code, down in text:
        rig.door.key(code, down)
    assert len(rig.client.calls) == AT_ONCE and rig.input.pacing
    ticks = 0
    while len(rig.client.calls) < len(text):
        # QEMU answers late, and all at once.
        if ticks % 300 == 299:
            rig.client.unanswered = 0
            rig.input.answered()
        rig.input.pace()
        ticks += 1
        assert len(rig.client.calls) <= AT_ONCE + ticks and rig.client.unanswered <= UNANSWERED_MAX
    assert rig.client.calls == [("Press" if down else "Release", [code]) for code, down in text]
    for _ in range(AT_ONCE):
        rig.input.pace()
    assert not rig.input.pacing, "nothing more is due"


def test_keys_without_room_are_refused_aloud_and_none_stays_down() -> None:
    rig = sized(Rig())
    rig.client.unanswered = UNANSWERED_MAX
    rig.door.key(0x1E, True)
    for _ in range(WAITING_MAX - 1):
        rig.door.key(0x30, True)
    for down in (True, False):
        with pytest.raises(ConfigError, match="has not taken the last 20000 keys"):
            rig.door.key(0x31, down)
    rig.door.key(0x1E, False)
    assert not rig.client.calls and not rig.input.pacing
    rig.client.unanswered = 0
    rig.input.answered()
    assert len(rig.client.calls) == AT_ONCE
    rig.door.close()
    assert sorted(rig.client.calls[AT_ONCE:]) == [("Release", [0x1E]), ("Release", [0x30])]


def test_size_is_a_wish() -> None:
    rig = Rig()
    rig.door.size_wish(Size(1024, 768))
    rig.door.size_wish(Size(0, 768))
    assert rig.client.calls == [("SetUIInfo", [0, 0, 0, 0, 1024, 768])]


# -- the canvas -----------------------------------------------------------------------------------------


def done(steps: Iterator[None]) -> int:
    """Run steps to their end; how many there were."""
    return sum(1 for _ in steps)


@settings(max_examples=60, deadline=None)
@given(st.integers(129, 300), st.integers(129, 200), st.lists(st.tuples(*[st.integers(0, 300)] * 4), max_size=6))
def test_canvas_shows_what_was_painted_whatever_is_compared(
    width: int, height: int, parts: list[tuple[int, int, int, int]]
) -> None:
    screens = Screens("alice", Ids(), Budget())
    rig = Rig()
    screen = screens.add(rig.door, "x", "door/1")
    canvas, truth = Canvas(screen), noise(width, height)
    done(canvas.replace(Size(width, height), truth, 0))
    canvas.publish(0)
    reader = screen.read(Watcher("viewer/1", OWNER))
    seen = np.zeros_like(truth)
    for seed, (x, y, wide, high) in enumerate(parts):
        at = Rect(x, y, wide, high).common(canvas.whole)
        if not at.area:
            continue
        rows = truth[at.y : at.bottom, at.x : at.right].copy()
        rows[: 1 + seed] = noise(at.width, min(1 + seed, at.height), seed)
        truth[at.y : at.bottom, at.x : at.right] = rows
        done(canvas.paint(at, rows))
        canvas.publish(seed)
        picture = reader.take(10**9 * (seed + 1))
        if picture is not None:
            for rect in picture.damage:
                seen[rect.y : rect.bottom, rect.x : rect.right] = truth[rect.y : rect.bottom, rect.x : rect.right]
            picture.release()
            assert (seen == truth).all()
    assert screen.memory is not None and (screen.memory.picture == truth).all()


def test_distant_changes_of_a_large_part_are_a_box_in_each_band() -> None:
    canvas = Canvas(Rig().screen)
    picture = noise(1024, 512)
    done(canvas.replace(Size(1024, 512), picture, 0))
    canvas.publish(0)
    reader = canvas.screen.read(Watcher("viewer/1", OWNER))
    first = reader.take(10**9)
    assert first is not None
    first.release()
    high = BAND_PIXELS // 1024
    for y in (3, 3 + 4 * high):
        picture[y, 500 + y] ^= 255
    done(canvas.paint(canvas.whole, picture))
    canvas.publish(1)
    second = reader.take(2 * 10**9)
    assert second is not None and set(second.damage) == {Rect(503, 3, 1, 1), Rect(503 + 4 * high, 3 + 4 * high, 1, 1)}


def test_canvas_without_room_changes_nothing() -> None:
    rig = Rig(limit=MIB)
    canvas = Canvas(rig.screen)
    done(canvas.replace(Size(100, 100), noise(100, 100), 0))
    held = rig.budget.held
    with pytest.raises(GraphError):
        done(canvas.show(Size(1000, 1000), 0))
    assert rig.budget.held == held and canvas.size == Size(100, 100) and (rig.shown() == noise(100, 100)).all()


def test_message_says_how_many_descriptors_it_came_with() -> None:
    assert Message(CALL, 0, 1, {9: 2}).fds == 2 and Message(CALL, 0, 1, {}).fds == 0
