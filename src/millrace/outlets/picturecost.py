"""What an encoder of a screen's pictures takes of memory, to be known without loading one."""

from __future__ import annotations

from millrace.budget import MIB
from millrace.pixels.rects import Size

WORK_BYTES, COPY_BYTES, CELL_BYTES = 2 * MIB, 4, 1.25
"""Memory of a screen's work: room for its compressors, which does not grow with the screen; a pixel of each copy of the
picture; and a pixel of what is known of its cells and of the last comparison."""


def scaled(size: Size, scale: float) -> Size:
    """The size of pictures at that scale."""
    return Size(max(1, round(size.width * scale)), max(1, round(size.height * scale)))


def work_bytes(size: Size, scale: float) -> int:
    """The most memory that the work for a screen of this size takes, that of a video encoder not included."""
    made, copies = scaled(size, scale), 1 if scale == 1 else 2
    return WORK_BYTES + round((copies * COPY_BYTES + CELL_BYTES) * made.width * made.height)
