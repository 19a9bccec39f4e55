"""The page against bad pieces of pictures: it takes exactly those that Python's viewer takes."""

from __future__ import annotations

import asyncio
import base64
import json
import random

import pytest

from millrace.errors import RemoteProtocolError
from millrace.pixels.rects import Rect as Area
from millrace.wire.peer.overlays import OVERLAYS_MAX, VISIBLE_MAX, Place, pack_overlays, unpack_overlays
from millrace.wire.peer.pictures import HEAD_BYTES, PartType, check_part, unpack_piece
from tests.fuzz.mutate import Mutator

from .browser import Chromium, Page
from .screenserver import (
    DRAW,
    FRAME,
    KEY,
    LAST,
    MOVE,
    OVERLAYS,
    RAW,
    SHAPE,
    VIDEO,
    ZSTD,
    Rect,
    ScreenServer,
    part,
    piece,
)  # fmt: skip

pytestmark = [pytest.mark.real, pytest.mark.beside, pytest.mark.xdist_group("heavy")]
WIDTH, HEIGHT = 64, 48
WHOLE, NOWHERE = Area(0, 0, WIDTH, HEIGHT), Rect(0, 0, 0, 0)
JUDGE = """import("/page/pictures.js").then(({ isPiece, parsePiece, partFits }) => {
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer;
  return PIECES.map((text) => {
    const data = bytes(text);
    if (!isPiece(data)) return "skipped";
    const found = parsePiece(data);
    return found && found.parts.every((one) => partFits(one, { width: 64, height: 48 })) ? "taken" : "damaged";
  });
})"""


def judged(data: bytes) -> str:
    """How Python's viewer judges a piece."""
    try:
        found = unpack_piece(data)
        if found is None:
            return "skipped"
        for one in found.parts:
            check_part(one, WHOLE)
            if one.type == PartType.OVERLAYS:
                unpack_overlays(one.data, WHOLE)
    except RemoteProtocolError:
        return "damaged"
    return "taken"


def pieces(seed: int) -> list[bytes]:
    """Pieces that are right, and the same slightly changed."""
    dice, mutator = random.Random(seed), Mutator(seed)
    at = Rect(dice.randrange(32), dice.randrange(24), dice.randrange(1, 33), dice.randrange(1, 25))
    raw = bytes(at.w * at.h * 4)
    parts = [
        part(RAW, at, raw), part(ZSTD, at, b"x" * 20), part(MOVE, Rect(8, 8, 8, 8), dx=dice.randrange(-9, 10)),
        part(VIDEO, at, b"y" * 9), part(DRAW, at), part(FRAME, NOWHERE, b"z" * dice.randrange(9), dx=1),
        part(SHAPE, Rect(1, 1, 4, 4), bytes(64), dx=3), part(99, at, b"new"),
    ]  # fmt: skip
    right = [piece(dice.sample(parts, 3), n + 1, flags=dice.choice([0, LAST, LAST | KEY])) for n in range(4)]
    return right + [mutator.message(one) for one in right for _ in range(3)]


def listed(seed: int) -> bytes:
    """Overlays that are right, or wrong by a little: parts beyond the picture, too many of them, changed bytes."""
    dice, mutator = random.Random(seed), Mutator(seed)
    count = dice.choice((1, 2, 3, OVERLAYS_MAX, OVERLAYS_MAX + 1))
    each = dice.choice((0, 1, VISIBLE_MAX // count, VISIBLE_MAX // count + 1))
    places = []
    for _ in range(count):
        x, y, width, height = (dice.randrange(*ends) for ends in ((-9, 9), (-9, 9), (40, 99), (40, 99)))
        times = 60 if dice.random() < 0.01 else 1
        at = Area(x, y, width * times, height * times)
        right, left, top, below = at.right + (dice.random() < 0.002), max(0, at.x), max(0, at.y), dice.random() < 0.01
        parts = [Area(left, top, min(WIDTH, right) - left, at.bottom - top if below else 1) for _ in range(each)]
        places.append(Place(dice.randrange(65_536), at, tuple(parts)))
    data = pack_overlays(places)
    return mutator.message(data)[: 1 << 16] if dice.random() < 0.4 else data


LISTED = """import("/page/pictures.js").then(({ parseOverlays }) => TEXTS.map((text) => {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const sides = ({ x, y, w, h }) => [x, y, w, h];
  const found = parseOverlays(bytes, { width: 64, height: 48 });
  return found?.map((one) => [one.number, sides(one.at), one.visible.map(sides)]) ?? null;
}))"""


def unpacked(data: bytes) -> list[list[object]] | None:
    """What Python's viewer makes of overlays."""
    try:
        places = unpack_overlays(data, WHOLE)
    except RemoteProtocolError:
        return None
    return [[n, sides(at), [sides(one) for one in visible]] for n, at, visible in places]


def sides(rect: Area) -> list[int]:
    return [rect.x, rect.y, rect.width, rect.height]


def test_page_takes_the_overlays_that_python_takes(chromium: Chromium) -> None:
    given = [b"", *(listed(seed) for seed in range(300))]
    expected = [unpacked(data) for data in given]
    assert sum(one is None for one in expected) > 50 and sum(one is not None for one in expected) > 100
    assert max(sum(len(place[2]) for place in one) for one in expected if one) == VISIBLE_MAX  # type: ignore[arg-type,misc]

    async def main() -> None:
        async with ScreenServer() as server, Page(chromium) as page:
            await page.open(f"{server.url}page/style.css")
            texts = json.dumps([base64.b64encode(data).decode() for data in given])
            assert await page.run(LISTED.replace("TEXTS", texts)) == expected
            await pieces_of_overlays(page)

    async def pieces_of_overlays(page: Page) -> None:
        pieces = [piece([part(OVERLAYS, NOWHERE, data)], 1) for data in given]
        texts = json.dumps([base64.b64encode(data).decode() for data in pieces])
        assert await page.run(JUDGE.replace("PIECES", texts)) == [judged(data) for data in pieces]

    asyncio.run(main())


def test_page_takes_the_pieces_that_python_takes(chromium: Chromium) -> None:
    async def main() -> None:
        async with ScreenServer() as server, Page(chromium) as page:
            await page.open(f"{server.url}page/style.css")
            seen: set[str] = set()
            for seed in range(60):
                given = pieces(seed)
                texts = json.dumps([base64.b64encode(data).decode() for data in given])
                theirs = await page.run(JUDGE.replace("PIECES", texts))
                for data, their in zip(given, theirs, strict=True):
                    # Of what is too short for a header, the page looks at the kind only.
                    assert their == judged(data) or len(data) < HEAD_BYTES, (seed, data.hex(), their, judged(data))
                seen |= set(theirs)
            assert seen == {"taken", "damaged", "skipped"}

    asyncio.run(main())
