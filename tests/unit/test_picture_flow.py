"""What may be on its way to a viewer, what its answers say of the line, its settings, and the keys that it holds."""

from __future__ import annotations

import pytest

from millrace.budget import ENDED
from millrace.codec.picturesettings import PICTURE_SETTING_NAMES, PictureSettings, changed_picture
from millrace.errors import ConfigError
from millrace.graph.pictures import KeyPress
from millrace.guest.hands import Hands
from millrace.io.turns import Turns
from millrace.outlets.pictureflow import (
    FIRST_PICTURES,
    GROWTH,
    PICTURES_MAX,
    RATE_STEPS,
    PictureFlow,
    rate_step,
)
from millrace.pixels.rects import Point
from millrace.units import NS_PER_MS, NS_PER_S
from tests.watch import Painter

RTT = 20 * NS_PER_MS


def over(rate: int, sizes: list[int], interval_ns: int, flow: PictureFlow | None = None) -> PictureFlow:
    """The flow after pictures of these sizes were sent over such a line as it allowed, one an interval at most."""
    flow = flow or PictureFlow()
    now, free, arrivals = 0, 0, []
    for serial, size in enumerate(sizes, 1):
        while not flow.ready(RTT) or (arrivals and arrivals[0][1] <= now):
            serial_, at = arrivals.pop(0)
            now = max(now, at)
            flow.acknowledged(serial_, at, RTT)
        flow.sent(serial, size, now)
        free = max(free, now) + size * 8 * NS_PER_S // rate
        arrivals.append((serial, free + RTT))
        now += interval_ns
    for serial_, at in arrivals:
        flow.acknowledged(serial_, at, RTT)
    return flow


@pytest.mark.parametrize("rate", [500_000, 5_000_000, 50_000_000])
def test_rate_of_the_line_is_found_from_acknowledgements(rate: int) -> None:
    flow = over(rate, [200_000] * 30, 30 * NS_PER_MS)
    assert flow.rate is not None and 0.9 * rate < flow.rate < 1.1 * rate and not flow.pictures and not flow.bytes_on_way


def test_nothing_is_concluded_from_small_pictures_that_pass_at_once() -> None:
    assert over(1_000_000_000, [3_000] * 100, 33 * NS_PER_MS).rate is None


def test_small_picture_that_comes_late_makes_no_slow_line() -> None:
    flow = PictureFlow()
    for serial in range(1, 50):
        flow.sent(serial, 2_000, serial * NS_PER_S)
        flow.acknowledged(serial, serial * NS_PER_S + 400 * NS_PER_MS, RTT)
    assert flow.rate is None


def test_line_that_has_become_slow_is_noticed_with_small_pictures() -> None:
    flow = PictureFlow()
    flow.line.rate = flow.viewer.rate = 4_000_000
    over(300_000, [3_000] * 100, 33 * NS_PER_MS, flow)
    assert flow.rate is not None and flow.rate < 450_000


def test_estimate_grows_while_most_of_it_passes_without_waiting() -> None:
    flow = PictureFlow()
    flow.line.rate = flow.viewer.rate = 1_000_000
    over(20_000_000, [4_000] * 200, 33 * NS_PER_MS, flow)
    assert flow.rate is not None and flow.rate >= 1_000_000 * GROWTH
    idle = PictureFlow()
    idle.line.rate = idle.viewer.rate = 1_000_000
    assert over(20_000_000, [100] * 200, 33 * NS_PER_MS, idle).rate == 1_000_000


def test_only_what_the_line_holds_is_on_its_way() -> None:
    flow = PictureFlow()
    for serial in range(1, 10):
        if flow.ready(RTT):
            flow.sent(serial, 1_000, 0)
    assert flow.pictures == FIRST_PICTURES
    flow.acknowledged(2, RTT, RTT)
    flow.line.rate = flow.viewer.rate = 8_000_000
    serial = 2
    while flow.ready(RTT):
        serial += 1
        flow.sent(serial, 20_000, RTT)
    # 8 Mbit/s for the round trip and 33 ms are 53 kB, and the last picture reaches beyond that.
    assert flow.pictures == 3
    flow.line.rate = flow.viewer.rate = 1_000_000_000
    while flow.ready(RTT):
        serial += 1
        flow.sent(serial, 10, RTT)
    assert flow.pictures == PICTURES_MAX
    flow.acknowledged(99, 2 * RTT, RTT)
    assert flow.ready(RTT) and not flow.bytes_on_way


def test_slow_viewer_on_a_fast_line_is_sent_good_pictures_but_few() -> None:
    flow, ms, now = PictureFlow(), NS_PER_MS, 0
    for serial in range(1, 30):
        flow.sent(serial, 100_000, now)
        # Over the line in 2 ms, decoded in 100.
        flow.acknowledged(serial, now + 2 * ms, 0, now + 100 * ms)
        now += 120 * ms
    assert flow.rate is not None and flow.rate > 300_000_000 and rate_step(flow.rate, None) is None
    serial = 30
    while flow.ready(0):
        flow.sent(serial, 20_000, now)
        serial += 1
    # 100 kB in 100 ms are 33 kB in 33 ms.
    assert flow.pictures == 2


def test_encoders_rate_follows_the_line_with_reserve() -> None:
    assert rate_step(None, None) is None and rate_step(1_000_000_000, 4_000_000) is None
    assert rate_step(5_000_000, None) == 4_000_000 and rate_step(1, None) == RATE_STEPS[0]
    # It stays where it is while the line still carries that, and does not go up for a little more.
    assert rate_step(4_100_000, 4_000_000) == 4_000_000 and rate_step(6_700_000, 4_000_000) == 4_000_000
    assert rate_step(10_000_000, 4_000_000) == 8_000_000 and rate_step(3_000_000, 4_000_000) == 2_000_000
    assert rate_step(20_000_000, None) == 16_000_000 and rate_step(33_000_000, None) is None


def test_picture_settings_are_parsed_and_shown() -> None:
    base = PictureSettings()
    made = changed_picture(base, {"picture": "2.5M", "fps": "15", "scale": "0.25"})
    assert made == PictureSettings(2_500_000, 15, 0.25)
    assert made.as_dict() == {"picture": "2500k", "fps": 15, "scale": "0.25"}
    assert changed_picture(base, {name: str(text) for name, text in made.as_dict().items()}) == made
    for picture in ("auto", "off", "lossless"):
        assert changed_picture(base, {"picture": picture}).picture == picture
    assert tuple(base.as_dict()) == PICTURE_SETTING_NAMES


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("picture", "good", "auto, off, lossless"), ("picture", "1k", "50k"), ("fps", "0", "1 to 60"),
        ("fps", "61", "1 to 60"), ("scale", "0", "0.1 to 1"), ("scale", "nan", "number"),
        ("codec", "vp8", "picture, fps"),
    ],
)  # fmt: skip
def test_wrong_picture_settings_say_what_is_possible(name: str, text: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        changed_picture(PictureSettings(), {name: text})


def test_held_keys_and_buttons_are_released_once() -> None:
    hands, painter = Hands(Turns(), ENDED), Painter()
    for code, down in ((1, True), (2, True), (2, True), (3, True), (3, False)):
        hands.key(painter, KeyPress(code, down))
    hands.pointer(painter, Point(4, 5), 0b01001, False)
    painter.typed.clear()
    assert hands.keys == (1, 2)
    hands.release(painter)
    hands.release(painter)
    assert painter.typed == [(2, False), (1, False), (4, 5, 0, False)]
    hands.pointer(painter, Point(7, -7), 1, True)
    hands.release(painter)
    assert painter.typed[-1] == (0, 0, 0, True)
    hands.key(painter, KeyPress(9, True))
    hands.forget()
    hands.release(painter)
    assert painter.typed[-1] == (9, True) and not hands.keys
