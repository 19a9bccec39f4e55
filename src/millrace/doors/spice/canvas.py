"""What a SPICE server has drawn: its surfaces, and the images that it expects to be kept."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from millrace.budget import Account
from millrace.codec.video import PictureDecoder
from millrace.errors import CodecError, RemoteProtocolError
from millrace.pixels.rects import Rect
from millrace.wire.spice.display import CACHE_PIXELS
from millrace.wire.spice.draws import PATTERN, SOURCE, Base, Blended, Copied, Drawing, Keyed, Raster
from millrace.wire.spice.images import KEEP, PIXELS_MAX, REPLACE, Image, ImageKind, NotUnderstood, Pixels, decoding

SURFACES_MAX, IMAGES_MAX = 1024, 64 * 1024
OBJECT_BYTES = 512
"""What a surface or a kept image takes besides its pixels."""
PIECE_COST, PART_COST = 1024 * 1024, 16 * 1024
"""What a drawing does in one step, and what a rectangle takes besides its pixels, in pixels that could be copied."""
RASTER_COST, KEYED_COST, BLENDED_COST, STRETCH_COST = 32, 16, 80, 110
"""How much longer than copying a pixel it takes to calculate one, to test, to blend, or to look it up elsewhere."""
MOVED_MAX = 4 * 1024 * 1024
"""Pixels that are copied within a surface in one step, and so as a move."""
_CACHED = (ImageKind.FROM_CACHE, ImageKind.FROM_CACHE_LOSSLESS)
Steps: TypeAlias = Generator[int, None, list[Rect]]
"""Painting: yields after each step how many pixels could be copied in that time; returns what has changed."""
Words: TypeAlias = NDArray[np.uint32]
Paint: TypeAlias = Callable[[Pixels, Pixels], None]
"""Changes what is there by a source of the same size."""


def part_of(pixels: Pixels, rect: Rect) -> Pixels:
    """A view of a rectangle, which lies inside."""
    return pixels[rect.y : rect.bottom, rect.x : rect.right]


def stretched(pixels: Pixels, source: Rect, box: Rect, part: Rect) -> Pixels:
    """What a part of the box shows when `source` is stretched to fill the box; nearest pixels."""
    if (source.width, source.height) == (box.width, box.height):
        return part_of(pixels, part.moved(source.x - box.x, source.y - box.y))
    rows = source.y + (np.arange(part.y, part.bottom) - box.y) * source.height // box.height
    columns = source.x + (np.arange(part.x, part.right) - box.x) * source.width // box.width
    return pixels[rows[:, None], columns]


def pieces(part: Rect, cost: int) -> Iterator[Rect]:
    """A rectangle in bands of about `PIECE_COST`, where a pixel has this cost."""
    rows = max(1, PIECE_COST // (cost * part.width))
    for y in range(part.y, part.bottom, rows):
        yield Rect(part.x, y, part.width, min(rows, part.bottom - y))


def _words(pixels: Pixels) -> Words:
    """The same pixels, four bytes at a time, which numpy copies much faster."""
    words: Words = pixels.view("<u4")[:, :, 0]
    return words


def raster(rop3: int, pattern: Words | np.uint32, source: Words, there: Words) -> Words:
    """A ternary raster operation on every bit: bit n of `rop3` is the result for pattern, source and there = n."""
    out = np.zeros_like(there)
    for number in range(8):
        if rop3 >> number & 1:
            term = there if number & 1 else ~there
            term = term & (source if number & 2 else ~source)
            out |= term & (pattern if number & 4 else ~pattern)
    return out


class Canvas:
    """Surfaces by number, and kept images by name, charged to `account`; surface 0 by whoever gives its memory."""

    def __init__(self, account: Account) -> None:
        self.surfaces: dict[int, Pixels] = {}
        self._account = account
        self._kept: dict[int, Pixels] = {}
        self._kept_pixels = 0
        self._jpeg: PictureDecoder | None = None

    def close(self) -> None:
        """Give everything back."""
        self.surfaces.clear()
        self.forget(None)
        self._charge_surfaces(self.surfaces)
        self._account.hold("decoding", 0)

    def _charge_surfaces(self, surfaces: dict[int, Pixels]) -> None:
        self._account.hold("surfaces", sum(made.nbytes + OBJECT_BYTES for number, made in surfaces.items() if number))

    def create(self, number: int, pixels: Pixels) -> None:
        """A new surface; BudgetError if there is no room for it."""
        if len(self.surfaces) >= SURFACES_MAX:
            raise RemoteProtocolError(f"more than {SURFACES_MAX} SPICE surfaces")
        surfaces = self.surfaces | {number: pixels}
        self._charge_surfaces(surfaces)
        self.surfaces = surfaces

    def destroy(self, number: int) -> None:
        """A surface is gone."""
        self.surfaces.pop(number, None)
        self._charge_surfaces(self.surfaces)

    def forget(self, names: Iterable[int] | None) -> None:
        """Images are no longer needed; None means all."""
        for name in list(self._kept) if names is None else self._kept.keys() & names:
            self._drop(name)
        self._charge_images()

    def _drop(self, name: int) -> None:
        dropped = self._kept.pop(name, None)
        self._kept_pixels -= 0 if dropped is None else dropped.shape[0] * dropped.shape[1]

    def _charge_images(self) -> None:
        self._account.hold("images", self._kept_pixels * 4 + len(self._kept) * OBJECT_BYTES)

    # -- images --------------------------------------------------------------------------------------

    def _pixels(self, image: Image) -> Generator[int, None, Pixels]:
        """An image's pixels, decoded in steps; BudgetError if there is no room for them."""
        if image.kind == ImageKind.SURFACE:
            found = self.surfaces.get(image.surface)
        elif image.kind in _CACHED:
            found = self._kept.get(image.name)
        elif image.kind == ImageKind.JPEG:
            found = self._from_jpeg(image)
        else:
            self._account.hold("decoding", image.decoded_bytes)
            found = yield from decoding(image)
        if found is None:
            raise NotUnderstood("images that were sent before")
        if found.shape[:2] != (image.height, image.width):
            raise RemoteProtocolError(f"a SPICE image of {image.width} × {image.height} that has another size")
        if image.flags & (KEEP | REPLACE) and image.kind != ImageKind.SURFACE:
            self._keep(image.name, found)
        return found

    def _from_jpeg(self, image: Image) -> Pixels | None:
        self._jpeg = self._jpeg or PictureDecoder("jpeg", PIXELS_MAX)
        try:
            return self._jpeg.decode(image.data)
        except CodecError as error:
            raise RemoteProtocolError(f"a SPICE image can't be decoded: {error}") from None

    # The server counts what it has asked to be kept, and tells what to forget. One that doesn't loses the oldest.
    def _keep(self, name: int, pixels: Pixels) -> None:
        if pixels.shape[0] * pixels.shape[1] > CACHE_PIXELS:
            return
        self._drop(name)
        # A view may keep rows that are much longer.
        self._kept[name] = pixels if abs(pixels.strides[0]) == pixels.shape[1] * 4 else pixels.copy()
        self._kept_pixels += pixels.shape[0] * pixels.shape[1]
        while self._kept_pixels > CACHE_PIXELS or len(self._kept) > IMAGES_MAX:
            self._drop(next(iter(self._kept)))
        self._charge_images()

    # -- drawings ------------------------------------------------------------------------------------

    def _surface(self, number: int) -> tuple[Pixels, Rect]:
        surface = self.surfaces.get(number)
        if surface is None:
            raise RemoteProtocolError(f"a drawing on SPICE surface {number}, which does not exist")
        return surface, Rect(0, 0, surface.shape[1], surface.shape[0])

    # What a drawing costs is not in its size: a rectangle takes longer than its pixels, most operations longer than a
    # copy, and a clip of rectangles that lie upon each other would paint the surface again and again.
    def drawing(self, drawing: Drawing) -> Steps:
        """Draw; NotUnderstood, having changed nothing, if that is not possible here."""
        if isinstance(drawing, Raster | Keyed | Blended):
            return self._drawn(drawing)
        if isinstance(drawing, Copied):
            return self._copied(drawing)
        raise NotUnderstood(drawing.why)

    def _drawn(self, drawing: Raster | Keyed | Blended) -> Steps:
        base, image, source = drawing.base, drawing.image, drawing.source
        surface, _ = self._surface(base.surface)
        cost, paint = _operation(drawing)
        try:
            if image is None or source is None:
                return (yield from self._painted(base, cost, lambda part: _alone(paint, part_of(surface, part))))
            pixels = yield from self._pixels(image)
            if pixels is surface:
                # What was not drawn yet must not be read as it is after.
                pixels, source = part_of(pixels, source).copy(), Rect(0, 0, source.width, source.height)
                yield 3 * source.area
            return (yield from self._stretched(base, pixels, source, cost, paint))
        finally:
            self._account.hold("decoding", 0)

    def _stretched(self, base: Base, pixels: Pixels, source: Rect, cost: int, paint: Paint) -> Steps:
        """Paint what a part of a picture is, stretched to the box."""
        surface, _ = self._surface(base.surface)
        if (source.width, source.height) != (base.box.width, base.box.height):
            cost += STRETCH_COST
        return (
            yield from self._painted(
                base, cost, lambda part: paint(part_of(surface, part), stretched(pixels, source, base.box, part))
            )
        )

    def _painted(self, base: Base, cost: int, paint: Callable[[Rect], None]) -> Steps:
        """Paint the parts that lie on the surface, in pieces, of which each pixel has this cost."""
        _, whole = self._surface(base.surface)
        changed = []
        for rect in base.parts:
            part = rect.common(whole)
            yield PART_COST * (1 if cost == 1 else 4)
            if part.area:
                changed.append(part)
                for piece in pieces(part, cost):
                    paint(piece)
                    yield cost * piece.area
        return changed

    # A region is copied as if all of it were taken before any is changed. Of a large one, bands are copied one after
    # the other, in the order in which none overwrites what another has yet to take.
    def _copied(self, drawing: Copied) -> Steps:
        base = drawing.base
        surface, whole = self._surface(base.surface)
        dx, dy = drawing.origin.x - base.box.x, drawing.origin.y - base.box.y
        parts = [part for rect in base.parts if (part := rect.common(whole)).area]
        if not all(whole.holds(part.moved(dx, dy)) for part in parts):
            raise RemoteProtocolError("a SPICE copy from outside its surface")
        yield PART_COST * len(base.parts)
        atomic = len(parts) == 1 and parts[0].area <= MOVED_MAX
        for band in bands(parts, whole, upwards=dy < 0):
            taken = [part_of(surface, part.moved(dx, dy)).copy() for part in band]
            for part, pixels in zip(band, taken, strict=True):
                part_of(surface, part)[:] = pixels
            if not atomic:
                yield sum(PART_COST + 3 * part.area for part in band) + PART_COST // 8 * len(parts)
        if atomic:
            yield 3 * parts[0].area
        return parts

    def showing(self, pixels: Pixels, number: int, box: Rect, parts: Iterable[Rect]) -> Steps:
        """Draw a video's picture stretched to a box of a surface."""
        source = Rect(0, 0, pixels.shape[1], pixels.shape[0])
        return self._stretched(Base(number, box, tuple(parts)), pixels, source, 1, _put)


def bands(parts: list[Rect], whole: Rect, upwards: bool) -> Iterator[list[Rect]]:
    """What lies of the parts in each band of a surface, from top to bottom or `upwards`."""
    rows = max(1, PIECE_COST // (4 * whole.width))
    starts = range(0, whole.height, rows)
    for y in reversed(starts) if upwards else starts:
        band = Rect(0, y, whole.width, rows).common(whole)
        found = [part for one in parts if (part := one.common(band)).area]
        if sum(part.area for part in found) > band.area:
            raise RemoteProtocolError("a SPICE copy to rectangles that overlap")
        yield found


def _alone(paint: Paint, there: Pixels) -> None:
    """Paint without a source."""
    paint(there, there)


def _put(there: Pixels, source: Pixels) -> None:
    _words(there)[:] = _words(source)


def _operation(drawing: Raster | Keyed | Blended) -> tuple[int, Paint]:
    """How a drawing paints, and what each pixel costs."""
    if isinstance(drawing, Keyed):
        return KEYED_COST, _keyed(drawing.colour)
    if isinstance(drawing, Blended):
        return BLENDED_COST, _blended(drawing.alpha)
    if drawing.rop3 == SOURCE and drawing.image is not None:
        return 1, _put
    rop3, colour = drawing.rop3, np.uint32(drawing.colour)

    def fill(there: Pixels, source: Pixels) -> None:
        _words(there)[:] = colour

    def calculate(there: Pixels, source: Pixels) -> None:
        words = _words(there)
        words[:] = raster(rop3, colour, _words(source), words)

    return (1, fill) if rop3 == PATTERN else (RASTER_COST, calculate)


def _keyed(colour: int) -> Paint:
    def paint(there: Pixels, source: Pixels) -> None:
        words = _words(source)
        np.copyto(_words(there), words, where=words & 0xFFFFFF != colour)

    return paint


def _blended(alpha: int) -> Paint:
    def paint(there: Pixels, source: Pixels) -> None:
        over = source.astype(np.uint16) * alpha // 255
        under = there * (255 - over[:, :, 3:4]) // 255
        there[:] = np.minimum(over + under, 255)

    return paint
