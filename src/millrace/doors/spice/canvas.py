"""What a SPICE server has drawn: its surfaces, and the images that it expects to be kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from millrace.budget import Account
from millrace.codec.video import PictureDecoder
from millrace.errors import CodecError, RemoteProtocolError
from millrace.pixels.rects import Rect
from millrace.wire.spice.display import CACHE_PIXELS
from millrace.wire.spice.draws import PATTERN, SOURCE, THERE, Base, Blended, Copied, Drawing, Keyed, Raster
from millrace.wire.spice.images import KEEP, PIXELS_MAX, REPLACE, Image, ImageKind, NotUnderstood, Pixels, decoded

SURFACES_MAX = 1024
_CACHED = (ImageKind.FROM_CACHE, ImageKind.FROM_CACHE_LOSSLESS)


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


def raster(rop3: int, pattern: Pixels, source: Pixels, there: Pixels) -> NDArray[np.uint8]:
    """A ternary raster operation on every bit: bit n of `rop3` is the result for pattern, source and there = n."""
    out = np.zeros_like(there)
    for number in range(8):
        if rop3 >> number & 1:
            term = there if number & 1 else ~there
            term = term & (source if number & 2 else ~source)
            out |= term & (pattern if number & 4 else ~pattern)
    return out


class Canvas:
    """Surfaces by number, and kept images by name, charged to `account`. Surface 0 is charged to its screen."""

    def __init__(self, account: Account) -> None:
        self.surfaces: dict[int, Pixels] = {}
        self._account = account
        self._kept: dict[int, Pixels] = {}
        self._jpeg: PictureDecoder | None = None

    def close(self) -> None:
        """Give everything back."""
        self.surfaces.clear()
        self._kept.clear()
        self._charge()

    def _charge(self) -> None:
        self._account.hold("surfaces", sum(made.nbytes for number, made in self.surfaces.items() if number))
        self._account.hold("images", sum(kept.nbytes for kept in self._kept.values()))

    def create(self, number: int, pixels: Pixels) -> None:
        """A new surface; BudgetError if there is no room for it."""
        if len(self.surfaces) >= SURFACES_MAX:
            raise RemoteProtocolError(f"more than {SURFACES_MAX} SPICE surfaces")
        self.surfaces[number] = pixels
        self._charge()

    def destroy(self, number: int) -> None:
        """A surface is gone."""
        self.surfaces.pop(number, None)
        self._charge()

    def forget(self, names: Iterable[int] | None) -> None:
        """Images are no longer needed; None means all."""
        for name in list(self._kept) if names is None else names:
            self._kept.pop(name, None)
        self._charge()

    # -- images --------------------------------------------------------------------------------------

    def _pixels(self, image: Image) -> Pixels:
        if image.kind == ImageKind.SURFACE:
            found = self.surfaces.get(image.surface)
        elif image.kind in _CACHED:
            found = self._kept.get(image.name)
        elif image.kind == ImageKind.JPEG:
            found = self._from_jpeg(image)
        else:
            found = decoded(image)
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
        self._kept.pop(name, None)
        self._kept[name] = pixels
        total = sum(kept.shape[0] * kept.shape[1] for kept in self._kept.values())
        while total > CACHE_PIXELS:
            oldest = self._kept.pop(next(iter(self._kept)))
            total -= oldest.shape[0] * oldest.shape[1]
        self._charge()

    # -- drawings ------------------------------------------------------------------------------------

    def visible(self, base: Base) -> list[Rect]:
        """The parts of a drawing that lie on its surface."""
        surface = self.surfaces.get(base.surface)
        if surface is None:
            raise RemoteProtocolError(f"a drawing on SPICE surface {base.surface}, which does not exist")
        whole = Rect(0, 0, surface.shape[1], surface.shape[0])
        return [part for rect in base.parts if (part := rect.common(whole)).area]

    def draw(self, drawing: Drawing) -> list[Rect]:
        """Draw, and return what changed; NotUnderstood, having changed nothing, if that is not possible here."""
        if isinstance(drawing, Raster):
            return self._raster(drawing)
        if isinstance(drawing, Copied):
            return self._copied(drawing)
        if isinstance(drawing, Keyed):
            return self._each(drawing, drawing.image, drawing.source, _keyed(drawing.colour))
        if isinstance(drawing, Blended):
            return self._each(drawing, drawing.image, drawing.source, _blended(drawing.alpha))
        raise NotUnderstood(drawing.why)

    def _each(
        self, drawing: Keyed | Blended, image: Image, source: Rect, paint: Callable[[Pixels, Pixels], None]
    ) -> list[Rect]:
        surface, parts, pixels = drawing.base.surface, self.visible(drawing.base), self._pixels(image)
        for part in parts:
            paint(part_of(self.surfaces[surface], part), stretched(pixels, source, drawing.base.box, part))
        return parts

    def _raster(self, drawing: Raster) -> list[Rect]:
        base, rop3, parts = drawing.base, drawing.rop3, self.visible(drawing.base)
        pixels = None if drawing.image is None else self._pixels(drawing.image)
        colour = np.frombuffer(drawing.colour.to_bytes(4, "little"), np.uint8)
        for part in parts:
            there = part_of(self.surfaces[base.surface], part)
            source = there
            if pixels is not None and drawing.source is not None:
                source = stretched(pixels, drawing.source, base.box, part)
            simple: dict[int, Pixels] = {SOURCE: source, PATTERN: colour, THERE: there}
            there[:] = simple[rop3] if rop3 in simple else raster(rop3, colour, source, there)
        return parts

    def _copied(self, drawing: Copied) -> list[Rect]:
        base, parts = drawing.base, self.visible(drawing.base)
        surface, dx, dy = self.surfaces[base.surface], drawing.origin.x - base.box.x, drawing.origin.y - base.box.y
        whole = Rect(0, 0, surface.shape[1], surface.shape[0])
        if not all(whole.holds(part.moved(dx, dy)) for part in parts):
            raise RemoteProtocolError("a SPICE copy from outside its surface")
        # All are taken before any is changed: the parts of one region are copied together.
        taken = [part_of(surface, part.moved(dx, dy)).copy() for part in parts]
        for part, pixels in zip(parts, taken, strict=True):
            part_of(surface, part)[:] = pixels
        return parts

    def show(self, pixels: Pixels, number: int, box: Rect, parts: Iterable[Rect]) -> list[Rect]:
        """Draw a video's picture stretched to a box of a surface, and return what changed."""
        shown = self.visible(Base(number, box, tuple(parts)))
        for part in shown:
            source = Rect(0, 0, pixels.shape[1], pixels.shape[0])
            part_of(self.surfaces[number], part)[:] = stretched(pixels, source, box, part)
        return shown


def _keyed(colour: int) -> Callable[[Pixels, Pixels], None]:
    key = np.frombuffer(colour.to_bytes(4, "little"), np.uint8)[:3]

    def paint(there: Pixels, source: Pixels) -> None:
        np.copyto(there, source, where=(source[:, :, :3] != key).any(axis=2)[:, :, None])

    return paint


def _blended(alpha: int) -> Callable[[Pixels, Pixels], None]:
    def paint(there: Pixels, source: Pixels) -> None:
        over = source.astype(np.uint16) * alpha // 255
        under = there * (255 - over[:, :, 3:4]) // 255
        there[:] = np.minimum(over + under, 255)

    return paint
