"""The page against bad pieces of pictures: it takes exactly those that Python's viewer takes."""

from __future__ import annotations

import asyncio
import base64
import json
import random

import pytest

from millrace.errors import RemoteProtocolError
from millrace.pixels.rects import Rect as Area
from millrace.wire.peer.pictures import HEAD_BYTES, check_part, unpack_piece
from tests.fuzz.mutate import Mutator

from .browser import Chromium, Page
from .screenserver import DRAW, KEY, LAST, MOVE, RAW, SHAPE, VIDEO, ZSTD, Rect, ScreenServer, part, piece

pytestmark = [pytest.mark.real, pytest.mark.beside, pytest.mark.xdist_group("heavy")]
WIDTH, HEIGHT = 64, 48
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
            check_part(one, Area(0, 0, WIDTH, HEIGHT))
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
        part(VIDEO, at, b"y" * 9), part(DRAW, at), part(SHAPE, Rect(1, 1, 4, 4), bytes(64), dx=3), part(99, at, b"new"),
    ]  # fmt: skip
    right = [piece(dice.sample(parts, 3), n + 1, flags=dice.choice([0, LAST, LAST | KEY])) for n in range(4)]
    return right + [mutator.message(one) for one in right for _ in range(3)]


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
