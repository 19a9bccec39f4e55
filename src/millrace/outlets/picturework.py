"""Encodes the pictures of one screen: the heavy part, which runs in another thread.

`PictureWork` keeps a copy of what was sent, the reference. What is encoded is read from the reference only, so that it
does not matter what the source paints meanwhile. A picture is made in this order:

1. What really changed is found, and what scrolled. The reference is brought up to date.
2. Each changed rectangle is sent losslessly, as video, or later (`picturechoice`).
3. What viewers see less than exactly and is still by now is sent again, as far as the line and 5 ms allow.
4. Viewers that lack something are sent that from the reference, those that lack the same together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from millrace.codec.avvideo import video_bytes
from millrace.codec.palette import Palettes
from millrace.codec.stills import GOOD, ROUGH, ZstdStills, encode_jpeg
from millrace.graph.pictures import touched
from millrace.outlets.cells import EXACT, FAIR, LOSSY, PALETTE, PHOTO, STALE, UNKNOWN, CellMap
from millrace.outlets.filmstream import FilmStream
from millrace.outlets.picturechoice import (
    FILM_PIXELS,
    ONCE_SHARES,
    SHARPEN_SHARES,
    SMALL,
    SMALL_BYTES,
    TILE_PIXELS,
    TILE_PIXELS_MIN,
    Formats,
    How,
    Room,
    choice,
    fewer,
    is_film,
    limit,
    tiles,
)
from millrace.outlets.picturecost import scaled
from millrace.outlets.reference import Reference
from millrace.outlets.scaled import Scaled
from millrace.pixels.convert import Plane
from millrace.pixels.difference import Cells, from_cells, in_cells, joined, part_of
from millrace.pixels.rects import Damage, Move, Rect, Size
from millrace.pixels.scroll import SCROLL_PIXELS_MIN
from millrace.units import NS_PER_MS, HostNs
from millrace.wire.peer.pictures import PIXEL_BYTES, VIDEO_KEY, Part, PartType

SHARPEN_NS: HostNs = 5 * NS_PER_MS
"""Sharpening takes no longer than this in one picture; new paint would have to wait for it."""
WORK_NS: HostNs = 60 * NS_PER_MS
"""After twice this, what a viewer still lacks is sent with the next picture."""
SMALL_TASK, SMALL_RECTS = SCROLL_PIXELS_MIN - 1, 4
"""A small task has at most so many pixels, in so many rectangles. Of more pixels, rectangles may be joined to one that
is a film."""
PROBE_BYTES = 128 * 1024
"""What a viewer is sent at first, and acknowledges, before anything is known of its line."""
PROBED_ROWS = 16
VIDEO_RECTS_MAX = 16


class Lacking(NamedTuple):
    """What some viewers lack: rectangles that are old or missing, and rectangles that they see less than exactly.

    With `probe`, they are sent little at once.
    """

    missing: tuple[Rect, ...]
    rough: tuple[Rect, ...]
    probe: bool = False


class Task(NamedTuple):
    """What to encode: a picture, or nothing new.

    `key`: some viewer lacks the video so far. `video`: there may be some; `ask`: if there should be, make nothing yet.
    """

    now_ns: HostNs
    picture: Plane | None = None
    damage: tuple[Rect, ...] = ()
    moves: tuple[Move, ...] = ()
    key: bool = False
    lacking: tuple[Lacking, ...] = ()
    video: bool = True
    ask: bool = False
    covered: tuple[Rect, ...] = ()
    """Where viewers draw overlays into the picture."""


class Given(NamedTuple):
    """The answer to a `Lacking`: parts, and what is still lacking after them."""

    parts: tuple[Part, ...]
    left: Lacking


class Made(NamedTuple):
    """An encoded picture. `touched` is what changed by it; `video` are the rectangles to draw from its video."""

    parts: tuple[Part, ...]
    touched: tuple[Rect, ...]
    video: tuple[Rect, ...]
    key: bool
    given: tuple[Given, ...]
    due_ns: HostNs | None
    """When there will be something to sharpen."""
    encode_ns: HostNs
    asks: bool = False
    """Nothing was made, as some of it is best sent as video: call `make` again, and say whether there may be some."""


class PictureWork:
    """The state of one screen's encoder. It belongs to one thread at a time."""

    def __init__(
        self, size: Size, scale: float, formats: Formats, lossless: bool, rate: int, clock: Callable[[], HostNs]
    ) -> None:
        self.size, self.formats = scaled(size, scale), formats
        self._lossless, self._clock = lossless, clock
        self.rate = rate
        self.whole = Rect(0, 0, self.size.width, self.size.height)
        self.cells = CellMap(self.size)
        self._scaled = Scaled(self.size, scale) if scale != 1 else None
        self._copy = Reference(self.size, self.cells, self._scaled)
        self.reference = self._copy.picture
        self._zstd = ZstdStills()
        self._palettes = Palettes(self._zstd.compress)
        shown = None if lossless else formats.video
        self._video = None if shown is None else FilmStream(shown, self.whole, rate)
        self._may_video = False
        """Whether the picture may have video."""
        self._found: tuple[list[Move], list[Rect]] | None = None
        """What has changed in the picture that was asked about."""
        self._began_ns: HostNs = 0

    @property
    def video_bytes(self) -> int:
        """The most memory that video takes: that of the whole screen; 0 if there is never any."""
        return video_bytes(self.formats.video, self.size) if self.formats.video and self._video else 0

    @property
    def video(self) -> str:
        """What encodes its video, in words; empty while there is none."""
        return "" if self._video is None else self._video.name

    @property
    def _share(self) -> int:
        return self.rate // 240

    def make(self, task: Task) -> Made:
        """Encode what the task asks for."""
        self._began_ns = self._clock()
        self._may_video = (task.video or task.ask) and self._video is not None
        moves, boxes = self._found or self._changed(task)
        room = Room(self._share, ONCE_SHARES * self._share)
        stills, film = self._divided(boxes, room)
        if film and task.ask:
            self._found = moves, boxes
            return Made((), (), (), False, (), None, self._clock() - self._began_ns, asks=True)
        self._found, self._may_video = None, self._may_video and task.video
        shown, video = self._as_video(film, task)
        spent = sum(len(part.data) for part in (*stills, *shown))
        sharp = self._sharpened(task.now_ns, round(SHARPEN_SHARES * self._share) - spent)
        changed = tuple(move.to for move in moves) + tuple(boxes) + video + tuple(part.at for part in sharp)
        parts = (*(Part(PartType.MOVE, move.to, dx=move.dx, dy=move.dy) for move in moves), *shown, *stills, *sharp)
        key = bool(shown and shown[0].flags & VIDEO_KEY)
        given = tuple(self._given(one, changed, shown if key else (), task.now_ns) for one in task.lacking)
        due_ns = self.cells.due_ns()
        return Made(parts, changed, video, key, given, due_ns, self._clock() - self._began_ns)

    def _changed(self, task: Task) -> tuple[list[Move], list[Rect]]:
        if task.picture is None:
            return [], []
        moves, boxes = self._copy.take(task.picture, task.damage, task.moves, task.now_ns)
        if touched(moves, list(task.covered)):
            # What viewers have there is of an overlay, and a move may lead on from where another has led.
            return [], [*boxes, *(move.to for move in moves)]
        return moves, boxes

    # Nothing that may take long is to come of it: no comparison of whole screens, no scrolls, no video, no sharpening.
    def is_small(self, task: Task) -> bool:
        """Whether `make` takes well under a millisecond: little was painted, and surely fits the line as it is."""
        pixels = sum(rect.area for rect in task.damage)
        if task.picture is None or task.moves or task.lacking or self._copy.fresh or self._scaled is not None:
            return False
        if len(task.damage) > SMALL_RECTS or pixels > SMALL_TASK or pixels * PIXEL_BYTES > ONCE_SHARES * self._share:
            return False
        due_ns = self.cells.due_ns()
        if due_ns is not None and due_ns <= task.now_ns:
            return False
        return not any(self._may_be_film(rect) for rect in task.damage)

    def _may_be_film(self, rect: Rect) -> bool:
        if rect.area < FILM_PIXELS:
            return False
        density = self.cells.known_density(rect)
        return is_film(PHOTO + 1 if density is None else density, rect.area, self.cells.often(rect))

    def close(self) -> None:
        """Free the video encoder. The next video begins with a key picture."""
        if self._video is not None:
            self._video.close()

    # -- how it is sent --------------------------------------------------------------------------

    def _divided(self, boxes: Sequence[Rect], room: Room) -> tuple[list[Part], list[Rect]]:
        """Stills, and the rectangles that are to be video."""
        stills: list[Part] = []
        film: list[Rect] = []
        for box in sorted(boxes, key=lambda box: box.area):
            video: list[Rect] = []
            surely = box.area < FILM_PIXELS and box.area * PIXEL_BYTES <= room.share
            if surely or (box.area <= SMALL and room.once > SMALL_BYTES):
                parts = [self._exactly(box)]
                self.cells.sent(box, EXACT)
            else:
                parts, video = self._judged(box, room)
            room = room.less(sum(len(part.data) for part in parts))
            stills += parts
            film += [box] if sum(tile.area for tile in video) > 0.9 * box.area else video
        return stills, film

    # A box is sent losslessly or not as a whole: half of it would fill the line, and the other half be video besides.
    def _judged(self, box: Rect, room: Room) -> tuple[list[Part], list[Rect]]:
        """A box as stills, and the tiles of it that are to be video."""
        often, guesses = self.cells.often(box), [(tile, self._guess(tile)) for tile in tiles(box)]
        if not self._may_video:
            return self._one_by_one(guesses, often, room), []
        film = [tile for tile, size in guesses if is_film(size / tile.area, tile.area, often)]
        text = [tile for tile in guesses if tile[0] not in film]
        parts = self._all_exactly(text, limit(box.area, often, room))
        if parts is None:
            return [], [tile for tile, _ in guesses]
        for part in parts:
            self.cells.sent(part.at, EXACT)
        return parts, film

    def _all_exactly(self, guesses: Sequence[tuple[Rect, float]], room: int) -> list[Part] | None:
        """All these tiles losslessly; None if they take more bytes. A guess may be wrong by a factor of two."""
        if sum(size for _, size in guesses) > 2 * room:
            return None
        parts: list[Part] = []
        for tile, _ in guesses:
            parts.append(self._exactly(tile))
            room -= len(parts[-1].data)
            if room < 0:
                return None
        return parts

    def _one_by_one(self, guesses: Sequence[tuple[Rect, float]], often: bool, room: Room) -> list[Part]:
        """Tiles as stills without video: what does not fit becomes a rough JPEG, or waits."""
        parts: list[Part] = []
        for tile, guess in guesses:
            part: Part | None = None
            if guess < 2 * room.once:
                part = self._exactly(tile)
                guess = len(part.data)
            how = choice(guess, tile.area, often, room, self.formats, self._lossless)
            if how is How.JPEG:
                part = self._jpeg(tile, ROUGH, LOSSY)
            elif how is How.LATER or part is None:
                self.cells.sent(tile, STALE)
                continue
            else:
                self.cells.sent(tile, EXACT)
            parts.append(part)
            room = room.less(len(part.data))
        return parts

    def _guess(self, tile: Rect) -> float:
        """Bytes that a tile takes losslessly: what it took before, or from a few of its rows."""
        density = self.cells.known_density(tile)
        if density is None and tile.area > TILE_PIXELS_MIN * 4:
            y = tile.y + (tile.height - PROBED_ROWS) // 2
            band = Rect(tile.x, y, tile.width, PROBED_ROWS).common(tile)
            density = len(self._packed(band).data) / band.area
        return (UNKNOWN if density is None else density) * tile.area

    def _exactly(self, tile: Rect) -> Part:
        if not self.formats.zstd:
            return Part(PartType.RAW, tile, part_of(self.reference, tile).tobytes())
        part = self._packed(tile)
        self.cells.measured(tile, len(part.data))
        return part

    def _packed(self, tile: Rect) -> Part:
        pixels = part_of(self.reference, tile)
        few = self._palettes.encode(pixels) if self.formats.palette else None
        if few is not None and (tile.area <= SMALL or len(few) <= PALETTE * tile.area):
            return Part(PartType.PALETTE, tile, few)
        return Part(PartType.ZSTD, tile, self._zstd.encode(pixels))

    def _jpeg(self, tile: Rect, quality: int, level: int) -> Part:
        self.cells.sent(tile, level)
        return Part(PartType.JPEG, tile, encode_jpeg(part_of(self.reference, tile), quality))

    # -- video -----------------------------------------------------------------------------------

    def _as_video(self, film: list[Rect], task: Task) -> tuple[tuple[Part, ...], tuple[Rect, ...]]:
        """One picture of video, and the rectangles to draw from it."""
        if not film or self._video is None:
            return (), ()
        if task.key:
            # Viewers that wait for this picture lack all that is shown as video.
            film = film + from_cells(joined(self.cells.levels == LOSSY, 0), self.whole)
        rects = fewer(list(Damage(film).rects), VIDEO_RECTS_MAX)
        parts = self._video.encode(self.reference, rects, task.now_ns, task.key)
        for rect in rects:
            self.cells.sent(rect, LOSSY)
        return parts, tuple(rects)

    def set_rate(self, rate: int) -> None:
        """Keep to another rate in bit/s; see `FilmStream`."""
        self.rate = rate
        if self._video is not None:
            self._video.set_rate(rate)

    # -- sharpening ------------------------------------------------------------------------------

    def _sharpened(self, now_ns: HostNs, room: int) -> list[Part]:
        """Send again what is still by now, text first, within so many bytes."""
        parts: list[Part] = []
        due_ns = self.cells.due_ns()
        if room <= 0 or due_ns is None or now_ns < due_ns:
            return parts
        deadline_ns, whole_room = self._clock() + SHARPEN_NS, room
        for tile in self._unsharp_tiles(self.cells.unsharp(now_ns)):
            if self._clock() > deadline_ns:
                break
            part = self._sharper(tile)
            # A tile that alone is too large for a slow line is sent all the same, or it never would be.
            if len(part.data) > room and (parts or room < whole_room):
                break
            parts.append(part)
            room -= len(part.data)
        for part in parts:
            self.cells.sent(part.at, FAIR if part.type == PartType.JPEG else EXACT)
        return parts

    def _unsharp_tiles(self, cells: Cells) -> list[Rect]:
        """Old places first, then text, then photos."""
        if not cells.any():
            return []
        pixels = max(TILE_PIXELS_MIN, min(TILE_PIXELS, self._share))
        found = [tile for rect in from_cells(joined(cells, 0), self.whole) for tile in tiles(rect, pixels)]
        levels = self.cells.levels
        found = [tile for tile in found if cells[in_cells(tile)].any()]
        return sorted(found, key=lambda tile: (levels[in_cells(tile)].max() != STALE, self._density(tile)))

    def _density(self, tile: Rect) -> float:
        density = self.cells.known_density(tile)
        return UNKNOWN if density is None else density

    def _sharper(self, tile: Rect) -> Part:
        level = self.cells.levels[in_cells(tile)].max()
        photo = self.formats.jpeg and not self._lossless and level == LOSSY
        if photo and self._density(tile) > PHOTO:
            return Part(PartType.JPEG, tile, encode_jpeg(part_of(self.reference, tile), GOOD))
        part = self._exactly(tile)
        if photo and len(part.data) > PHOTO * tile.area:
            return Part(PartType.JPEG, tile, encode_jpeg(part_of(self.reference, tile), GOOD))
        return part

    # -- viewers that lack something -------------------------------------------------------------

    def _given(self, lacking: Lacking, changed: tuple[Rect, ...], key: tuple[Part, ...], now_ns: HostNs) -> Given:
        """What brings such viewers up to date with the reference, as far as there is room."""
        missing = Damage((*lacking.missing, *(rect for rect in changed if lacking.missing)))
        if not missing:
            return self._refined(lacking)
        drawn = [part.at for part in key]
        if key:
            missing = Damage(rect for rect in missing.rects if not any(held.holds(rect) for held in drawn))
        hot = self.cells.hot(now_ns) if self._may_video and not key else np.zeros((0, 0), np.bool_)
        found = [tile for rect in missing.rects for tile in tiles(rect)]
        waiting = [tile for tile in found if hot.size and hot[in_cells(tile)].mean() > 0.5]
        found = [tile for tile in found if tile not in waiting]
        rough = [*lacking.rough, *drawn]
        parts, left = self._filled(found, rough, lacking.probe)
        return Given((*key, *parts), Lacking((*waiting, *left), tuple(rough)))

    def _filled(self, found: list[Rect], rough: list[Rect], probe: bool) -> tuple[list[Part], list[Rect]]:
        """Parts for what is missing, and what did not fit; if all of it fits losslessly, it is sent so."""
        room = ONCE_SHARES * self._share
        may_jpeg = self.formats.jpeg and not self._lossless
        every, room = sum(map(self._guess, found)) > room, min(room, PROBE_BYTES) if probe else room
        parts: list[Part] = []
        for index, tile in enumerate(found):
            late = self._clock() - self._began_ns > 2 * WORK_NS
            if parts and (room <= 0 or late):
                return parts, found[index:]
            if may_jpeg and (every or self._guess(tile) > room):
                rough.append(tile)
                part = Part(PartType.JPEG, tile, encode_jpeg(part_of(self.reference, tile), ROUGH))
            else:
                part = self._exactly(tile)
            parts.append(part)
            room -= len(part.data)
        return parts, []

    def _refined(self, lacking: Lacking) -> Given:
        """Send exactly what such viewers see roughly, while there is nothing else to do."""
        pixels = max(TILE_PIXELS_MIN, min(TILE_PIXELS, self._share))
        found = [tile for rect in Damage(lacking.rough).rects for tile in tiles(rect, pixels)]
        parts: list[Part] = []
        room, deadline_ns = round(SHARPEN_SHARES * self._share), self._clock() + SHARPEN_NS
        while found and (not parts or (room > 0 and self._clock() < deadline_ns)):
            parts.append(self._exactly(found.pop(0)))
            room -= len(parts[-1].data)
        return Given(tuple(parts), Lacking((), Damage(found).rects))
