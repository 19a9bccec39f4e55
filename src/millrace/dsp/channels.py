"""Channel maps: the matrix that turns one layout into another.

Coefficients follow ITU-R BS.775-4, Annex 4: a channel that the target lacks is
folded into its neighbours at -3 dB (0.7071), and each output is scaled down where
its inputs could add up past full scale, so a downmix of full-scale channels does
not clip. LFE is dropped on the way down, as BS.775 leaves it optional and stereo
loudspeakers rarely carry it.
"""

from __future__ import annotations

from enum import Enum
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from millrace.units import Positions

Matrix = NDArray[np.float32]

_H = 0.7071067811865476
_LEFT = ("front-left", "rear-left", "side-left", "front-left-of-center", "top-front-left", "top-rear-left")
_RIGHT = tuple(name.replace("left", "right") for name in _LEFT)

# Where a position goes when the target lacks it: the first row whose targets all exist is taken.
_FOLD: dict[str, tuple[tuple[tuple[str, float], ...], ...]] = {
    "mono": ((("front-left", 1.0), ("front-right", 1.0)), (("front-center", 1.0),)),
    "front-center": ((("front-left", _H), ("front-right", _H)), (("mono", _H),)),
    "front-left": ((("mono", 0.5),), (("front-center", 0.5),)),
    "front-right": ((("mono", 0.5),), (("front-center", 0.5),)),
    "rear-center": (
        (("rear-left", _H), ("rear-right", _H)),
        (("side-left", _H), ("side-right", _H)),
        (("front-left", 0.5), ("front-right", 0.5)),
        (("mono", 0.5),),
    ),
    "lfe": ((),),
}


def _side_fold(name: str) -> tuple[tuple[tuple[str, float], ...], ...]:
    """Rear, side, top and wide channels: to the same side's sister, else the front, else mono."""
    side = "left" if "left" in name else "right"
    sister = {"rear": "side", "side": "rear"}.get(name.split("-")[0])
    rows: list[tuple[tuple[str, float], ...]] = []
    if sister is not None:
        rows.append(((f"{sister}-{side}", 1.0),))
    rows.append(((f"front-{side}", _H),))
    rows.append((("mono", 0.5),))
    rows.append((("front-center", 0.5),))
    return tuple(rows)


def _rows_for(name: str) -> tuple[tuple[tuple[str, float], ...], ...]:
    if name in _FOLD:
        return _FOLD[name]
    if name in _LEFT or name in _RIGHT:
        return _side_fold(name)
    if name.startswith("top-"):
        return ((("front-left", 0.5), ("front-right", 0.5)), (("mono", 0.5),))
    return ((("mono", 1.0),),)


def _route(name: str, index: int, target: Positions, matrix: Matrix) -> None:
    if name in target:
        matrix[index, target.index(name)] = 1.0
        return
    for row in _rows_for(name):
        if all(to in target for to, _ in row):
            for to, gain in row:
                matrix[index, target.index(to)] += gain
            return
    if index < len(target) and name.startswith("aux"):
        matrix[index, index] = 1.0


def _normalised(matrix: Matrix, source: Positions) -> Matrix:
    """Scale the whole matrix so that no output can exceed full scale; leave plain copies alone."""
    peak = float(matrix.sum(axis=0).max(initial=0.0))
    if peak > 1.0 and len(source) > 1:
        matrix /= np.float32(peak)
    return matrix


@lru_cache(maxsize=256)
def mix_matrix(source: Positions, target: Positions) -> Matrix | None:
    """The (source channels, target channels) matrix, or None where the layouts are the same.

    Mono goes to every target but LFE at full level, as every sound server does.
    """
    if source == target:
        return None
    matrix = np.zeros((len(source), len(target)), np.float32)
    if source == ("mono",):
        for i, name in enumerate(target):
            matrix[0, i] = 0.0 if name == "lfe" else 1.0
        if "front-left" in target:
            matrix[0, :] = [1.0 if n in ("front-left", "front-right", "mono") else 0.0 for n in target]
    else:
        for index, name in enumerate(source):
            _route(name, index, target, matrix)
        matrix = _normalised(matrix, source)
    if not matrix.any():
        for i in range(min(matrix.shape)):
            matrix[i, i] = 1.0
    matrix.setflags(write=False)
    return matrix


class Mapping(Enum):
    """How the channels of one layout find those of another."""

    MIX = "mix"
    """By name, what the target lacks folded into its neighbours."""
    NAMES = "names"
    """By name, or not at all."""
    INDEX = "index"
    """The first to the first, whatever they are called."""


@lru_cache(maxsize=256)
def mapped(source: Positions, target: Positions, mapping: Mapping) -> Matrix | None:
    """As `mix_matrix`, in any of the ways there are."""
    if mapping is Mapping.MIX or source == target:
        return mix_matrix(source, target)
    if mapping is Mapping.INDEX:
        matrix = np.eye(len(source), len(target), dtype=np.float32)
    else:
        matrix = np.array([[float(a == b) for b in target] for a in source], np.float32)
    matrix.setflags(write=False)
    return matrix
