"""Sizes that viewers wish of an X display: what its server has afterwards, whatever it refuses."""

from __future__ import annotations

import struct

import pytest

from millrace.errors import RemoteProtocolError
from millrace.pixels.rects import Point, Size
from millrace.wire.x11 import randr, requests
from millrace.wire.x11.numbered import PACKET, WAITING_MAX, Numbered
from millrace.wire.x11.said import REPLY_MAX, Said, no_more
from tests.fuzz import xserver
from tests.fuzz.xserver import HEIGHT, ROOT, WIDTH
from tests.unit.test_x11 import inside, says, sent

RANDR, CRTC, OUTPUT, FIRST = 140, 61, 62, 70
BAD_VALUE, BAD_MATCH, BAD_ACCESS = 2, 8, 10
LARGEST = Size(2000, 1500)


def resources(number: int, modes: dict[int, tuple[int, int, bytes]], there: bool = True) -> bytes:
    parts = [struct.pack("<IHH18xH4x", n, w, h, len(name)) for n, (w, h, name) in modes.items()]
    names = b"".join(name for _, _, name in modes.values())
    head = struct.pack("<IIHHHH8x", 4, 5, there, there, len(modes), len(names))
    return xserver.reply(number, head + struct.pack("<II", CRTC, OUTPUT)[: 8 * there] + b"".join(parts) + names)


class Server:
    """RandR as X.Org's server has it: what it refuses, and what it keeps."""

    def __init__(self) -> None:
        self.wire = inside()
        says(self.wire, xserver.cursor(12))
        self.wire.events(), sent(self.wire)
        self.number = 12
        self.modes = {FIRST: (WIDTH, HEIGHT, b"64x48")}
        self.output = {FIRST}
        self.shows, self.size = FIRST, (WIDTH, HEIGHT)
        self.broken: set[int] = set()
        """Requests for another width that are refused, or with a negative sign fail by their status."""
        self.asked: list[int] = []

    def wish(self, width: int, height: int) -> None:
        self.wire.send_size(Size(width, height))
        while made := sent(self.wire):
            for request in made:
                self.number = (self.number + 1) & 0xFFFF
                says(self.wire, self._answer(request))

    def _answer(self, request: bytes) -> bytes:
        if request[0] == 98:
            return xserver.reply(self.number, bytes((1, RANDR, 89, 0)))
        if request == requests.get_geometry(ROOT):
            return xserver.reply(self.number, struct.pack("<IhhHHH", ROOT, 0, 0, *self.size, 0), 24)
        assert request[0] == RANDR
        self.asked.append(request[1])
        made = getattr(self, f"_{request[1]}", None)
        code: bytes | int | None = xserver.reply(self.number) if made is None else made(request[4:])
        if code is None:
            return b""
        return xserver.error(self.number, code, RANDR, request[1]) if isinstance(code, int) else code

    def _fits(self, mode: int) -> bool:
        return mode in self.output and all(m <= s for m, s in zip(self.modes[mode][:2], self.size, strict=True))

    def _6(self, body: bytes) -> bytes:
        return xserver.reply(self.number, struct.pack("<4H", 1, 1, LARGEST.width, LARGEST.height))

    def _7(self, body: bytes) -> int | None:
        size, millimetres = struct.unpack_from("<HH", body, 4), struct.unpack_from("<II", body, 8)
        if 0 in millimetres:
            return BAD_VALUE
        if self.shows or (7 in self.broken and size[0] != WIDTH):
            return BAD_MATCH
        self.size = size
        return None

    def _16(self, body: bytes) -> bytes:
        width, height, length = *struct.unpack_from("<HH", body, 8), int.from_bytes(body[30:32], "little")
        new = max(self.modes) + 1
        self.modes[new] = (width, height, body[36 : 36 + length])
        return xserver.reply(self.number, struct.pack("<I", new))

    def _17(self, body: bytes) -> int | None:
        (mode,) = struct.unpack("<I", body)
        if mode in self.output:
            return BAD_ACCESS
        del self.modes[mode]
        return None

    def _18(self, body: bytes) -> int | None:
        if 18 in self.broken:
            return BAD_MATCH
        self.output.add(struct.unpack("<II", body)[1])
        return None

    def _19(self, body: bytes) -> int | None:
        (mode,) = struct.unpack_from("<I", body, 4)
        if mode not in self.output or mode == self.shows:
            return BAD_MATCH
        self.output.discard(mode)
        return None

    def _20(self, body: bytes) -> bytes:
        shows = struct.pack("<IhhHHIHHHHI", 4, 0, 0, *self.size, self.shows, 1, 1, 1, 1, OUTPUT)
        return xserver.reply(self.number, shows)

    def _21(self, body: bytes) -> bytes | int:
        (mode,) = struct.unpack_from("<I", body, 16)
        assert (mode != 0) == (len(body) == 28), "outputs as there is something to show"
        if mode and not self._fits(mode):
            return BAD_VALUE
        other = bool(mode) and self.modes[mode][0] != WIDTH
        if 21 in self.broken and other:
            return BAD_MATCH
        if -21 in self.broken and other:
            return xserver.reply(self.number, one=3)
        self.shows = mode
        return xserver.reply(self.number)

    def _25(self, body: bytes) -> bytes:
        return resources(self.number, self.modes)

    def holds(self, width: int, height: int) -> bool:
        """Whether it has this size and shows it, and no sizes of ours but that one."""
        ours = [mode for mode, (_, _, name) in self.modes.items() if name.startswith(b"millrace-")]
        shown = self.modes.get(self.shows, (0, 0, b""))
        return self.size == (width, height) == shown[:2] and set(ours) <= {self.shows}


def test_sizes_are_made_and_deleted_once_the_screen_has_another() -> None:
    one = Server()
    for n in range(100):
        one.wish(100 + n, 50 + n)
        assert one.holds(100 + n, 50 + n) and len(one.modes) == 2
    one.wish(WIDTH, HEIGHT)
    assert one.holds(WIDTH, HEIGHT) and list(one.modes) == [FIRST] and one.output == {FIRST}


def test_smallest_size_is_had() -> None:
    one = Server()
    one.wish(1, 1)
    assert one.holds(1, 1)


def test_size_that_the_server_has_is_not_made_again() -> None:
    one = Server()
    one.modes[99] = (320, 200, b"320x200")
    one.wish(320, 200)
    assert one.holds(320, 200) and 16 not in one.asked and one.output == {FIRST, 99}


def test_sizes_that_a_session_before_left_behind_are_deleted_in_parts() -> None:
    one = Server()
    left = 3 * randr.DELETED_MAX // 2
    one.modes |= {200 + n: (300 + n, 9, b"millrace-%dx9" % (300 + n)) for n in range(left)}
    one.output |= {200 + n for n in range(0, left, 2)}
    one.wish(320, 200)
    assert len(one.modes) == 2 + left - randr.DELETED_MAX and one.asked.count(17) == randr.DELETED_MAX
    one.wish(WIDTH, HEIGHT)
    assert list(one.modes) == [FIRST]


@pytest.mark.parametrize("size", [(2001, 300), (300, 1501), (16_384, 1)])
def test_size_beyond_what_the_server_can_have_changes_nothing(size: tuple[int, int]) -> None:
    one = Server()
    one.wish(*size)
    assert one.asked == [0, 6] and one.holds(WIDTH, HEIGHT)
    one.wish(320, 200)
    assert one.holds(320, 200)


@pytest.mark.parametrize("size", [(320, 200), (20, 16)], ids=["larger", "smaller"])
@pytest.mark.parametrize("broken", [7, 18, 21, -21])
def test_what_the_screen_had_is_set_again_if_a_size_fails(broken: int, size: tuple[int, int]) -> None:
    one = Server()
    one.broken = {broken}
    for _ in range(3):
        one.wish(*size)
        assert one.holds(WIDTH, HEIGHT) and list(one.modes) == [FIRST]
    one.broken = set()
    one.wish(*size)
    assert one.holds(*size)


def test_the_newest_wish_waits_for_the_one_on_its_way() -> None:
    wire = inside()
    says(wire, xserver.cursor(12))
    wire.events(), sent(wire)
    for size in (Size(0, 5), Size(70_000, 5), Size(320, 200), Size(300, 100), Size(310, 110)):
        wire.send_size(size)
    assert sent(wire) == [requests.query_extension(randr.RANDR)], "one at a time, and none that can't be"
    says(wire, xserver.reply(13, bytes(4)))
    assert sent(wire) == [requests.query_extension(randr.RANDR)], "for the newest"
    says(wire, xserver.reply(14, bytes(4)))
    assert sent(wire) == [], "a server without it is asked for no more"
    one = Server()
    for size in (Size(320, 200), Size(300, 100)):
        one.wire.send_size(size)
    one.wish(310, 110)
    assert one.holds(310, 110) and one.asked.count(16) == 2


@pytest.mark.parametrize("refused", [13, 14, 15, 16, 17, 18, 20, 22, 23])
def test_wish_ends_with_whatever_is_refused(refused: int) -> None:
    """The number of a refused request is free again, also for one that ends the connection if it is refused."""
    one = Server()
    answer = one._answer

    def refuse(request: bytes) -> bytes:
        said = answer(request)
        return xserver.error(one.number) if said and one.number == refused else said

    one._answer = refuse  # type: ignore[method-assign]
    one.wish(320, 200)
    one.wish(300, 100)
    assert one.holds(300, 100)
    # 65536 requests later the number means another request.
    for _ in range((refused - 1 - one.number) & 0xFFFF):
        one.wire.send_pointer(Point(1, 1), 0, False)
    one.wire.data_to_send()
    one.wire.send_memory(9, 4)
    with pytest.raises(RemoteProtocolError, match="refused"):
        says(one.wire, xserver.error(refused))


def test_server_without_outputs_and_with_a_setting_that_is_old_is_left_alone() -> None:
    wish = randr.Wish(ROOT, Size(WIDTH, HEIGHT), Size(320, 200))
    assert randr.Wish._resources(wish, resources(1, {}, there=False)) == []
    assert randr.Wish._setting(wish, xserver.reply(1, one=1)) == []


def test_answers_cut_short_end_the_connection() -> None:
    whole = resources(1, {9: (320, 200, b"a size")})
    made_of = randr.read_resources(whole, Size(320, 200))
    assert made_of == randr.Resources(CRTC, OUTPUT, 5, 9, ())
    for size in (PACKET, PACKET + 7, PACKET + 40, PACKET + 44):
        with pytest.raises(RemoteProtocolError, match="cut short"):
            randr.read_resources(whole[:size], Size(320, 200))
    shows = xserver.reply(1, struct.pack("<IhhHHIHHHHI", 4, 3, -4, 9, 9, 7, 2, 3, 1, 1, OUTPUT))
    assert randr.read_setting(shows) == randr.Setting(7, (OUTPUT,), 3, -4, 2)
    with pytest.raises(RemoteProtocolError, match="cut short"):
        randr.read_setting(shows[:PACKET])


def test_longer_list_of_sizes_than_any_server_has_ends_the_connection() -> None:
    wire = inside()
    says(wire, xserver.cursor(12))
    wire.send_size(Size(320, 200))
    says(wire, xserver.reply(13, bytes((1, RANDR, 89, 0))) + xserver.reply(14))
    says(wire, xserver.reply(15, struct.pack("<4H", 1, 1, 2000, 2000)))
    sizes = (randr.ANSWER_MAX - 40) // 40
    most = resources(16, {n: (n & 0x3FFF, 9, b"a size..") for n in range(sizes)})
    assert randr.ANSWER_MAX - 40 <= len(most) <= randr.ANSWER_MAX
    assert randr.read_resources(most, Size(320, 9)) == randr.Resources(CRTC, OUTPUT, 5, 320, ())
    with pytest.raises(RemoteProtocolError, match=f"{randr.ANSWER_MAX} at most"):
        says(wire, struct.pack("<BxHI24x", 1, 16, (randr.ANSWER_MAX - PACKET) // 4 + 1))


def test_numbers_begin_anew_and_none_is_waited_for_twice() -> None:
    one = Numbered(b"setup")
    assert one.send(b"a") == 1
    one.say(Said(b"b", no_more, bytes_max=64))
    assert one.sizes(bytearray(struct.pack("<BxHI24x", 1, 2, 8))) == (PACKET + 32, 64)
    assert one.sizes(bytearray(struct.pack("<BxHI24x", 1, 3, 8))) == (PACKET + 32, REPLY_MAX)
    assert one.sizes(bytearray(7)) == (PACKET, PACKET)
    assert b"".join(bytes(chunk.data) for chunk in one.data_to_send()) == b"setupab"
    for _ in range(0xFFFF):
        one.say(Said(b""))
    one.check()
    one.say(Said(b""))
    with pytest.raises(RemoteProtocolError, match="unanswered"):
        one.check()


def test_many_requests_that_wait_end_the_connection() -> None:
    one = Numbered(b"")
    for _ in range(WAITING_MAX):
        one.say(Said(b"", no_more))
    one.check()
    assert one.answered(1) == Said(b"", no_more) and one.answered(1) is None
    one.say(Said(b"", no_more))
    one.check()
    one.say(Said(b"", no_more))
    with pytest.raises(RemoteProtocolError, match="unanswered"):
        one.check()
