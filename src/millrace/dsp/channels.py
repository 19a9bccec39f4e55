"""Channel maps: the matrix that converts one layout to another.

The rules are PulseAudio 16.1's defaults. A channel goes to the output of the same name. Side and rear loudspeakers
stand in for each other. Any other output without a namesake is made from the inputs on its side. An input that goes
nowhere is folded into its side, or from the centre into both sides, at a lower level than the side's own channels. An
output is scaled down if its inputs could add up to more than full scale, so a mix of full-scale channels does not clip.
LFE goes only to LFE, or into mono with all the others.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from millrace.units import POSITIONS, Positions

Matrix = NDArray[np.float32]

_MONO, _LFE = "mono", "lfe"
_LEFT, _RIGHT, _CENTRE = "left", "right", "centre"
_OWN, _FOLDED = 0.9, 0.1
"""The gain of an output's own inputs when others are folded into it, and the total gain of those others."""
_CENTRE_FOLDED = 0.5
"""The total gain of centre inputs in each of left and right, if there is no centre output."""
_STAND_INS = {
    "side-left": "rear-left",
    "side-right": "rear-right",
    "rear-left": "side-left",
    "rear-right": "side-right",
}
"""The input for a surround output without a namesake. 5.1 comes in two layouts, which films and sinks mix freely."""


def _side(name: str) -> str:
    if name.endswith("center") and "-of-" not in name:
        return _CENTRE
    return _LEFT if "left" in name else _RIGHT if "right" in name else ""


def _depth(name: str) -> str:
    return "front" if "front" in name else "rear" if "rear" in name else ""


# The order of the steps matters. Outputs are filled in their own order: a surround input stands in only as long as no
# earlier output was made from it. Only inputs that then go to no output are folded: a channel is never both copied and
# folded. Centres are folded before the sides, because a fold scales what its outputs have so far.
class _Mix:
    """A matrix under construction; each row is an output."""

    def __init__(self, source: Positions, target: Positions) -> None:
        self.source, self.target = source, target
        self.rows = np.zeros((len(target), len(source)), np.float32)
        self.heard: set[int] = set()
        """Inputs that go to some output."""

    def whole(self) -> Matrix:
        """The finished matrix: (source channels, target channels)."""
        for to in range(len(self.target)):
            self._to_namesakes(to)
            if not self.rows[to].any():
                self._fill(to)
        self._fold_centres()
        self._fold_side(_LEFT)
        self._fold_side(_RIGHT)
        return normalised(self.rows.T)

    def _to_namesakes(self, to: int) -> None:
        """Mono goes to everything except LFE, and everything goes to mono."""
        output = self.target[to]
        for at, name in enumerate(self.source):
            if name == output or (name == _MONO and output != _LFE):
                self._hear(to, [at], 1.0)
            elif output == _MONO:
                self._hear(to, [at], 1.0 / len(self.source))

    def _fill(self, to: int) -> None:
        if stand_ins := self._stand_ins(to):
            self._hear(to, stand_ins, 1.0)
            return
        side = _side(self.target[to])
        inputs = self._inputs(side)
        if not inputs and side == _CENTRE:
            inputs = self._inputs(_LEFT, _RIGHT)
        self._hear(to, inputs, 1.0 / max(1, len(inputs)))

    def _stand_ins(self, to: int) -> list[int]:
        name = _STAND_INS.get(self.target[to])
        return [at for at, one in enumerate(self.source) if one == name and at not in self.heard]

    def _fold_centres(self) -> None:
        if self._outputs(_CENTRE):
            self._fold_side(_CENTRE)
            return
        unheard = [at for at in self._inputs(_CENTRE) if at not in self.heard]
        outputs = self._outputs(_LEFT, _RIGHT)
        depths = {_depth(self.target[to]) for to in outputs}
        for to in outputs:
            own = _depth(self.target[to])
            here = [at for at in unheard if (depth := _depth(self.source[at])) == own or depth not in depths]
            if here:
                self._hear(to, here, _CENTRE_FOLDED / len(here))

    def _fold_side(self, side: str) -> None:
        unheard = [at for at in self._inputs(side) if at not in self.heard]
        if unheard:
            for to in self._outputs(side):
                self.rows[to] *= _OWN
                self._hear(to, unheard, _FOLDED / len(unheard))

    def _inputs(self, *sides: str) -> list[int]:
        return [at for at, name in enumerate(self.source) if _side(name) and _side(name) in sides]

    def _outputs(self, *sides: str) -> list[int]:
        return [to for to, name in enumerate(self.target) if _side(name) in sides]

    def _hear(self, to: int, inputs: Iterable[int], gain: float) -> None:
        for at in inputs:
            self.rows[to, at] = gain
            self.heard.add(at)


# The worst case is all inputs at full scale with the same sign, so the sum of an output's gains is the bound.
def normalised(matrix: Matrix) -> Matrix:
    """The matrix with each output scaled so that it can't exceed full scale."""
    return np.ascontiguousarray(matrix / np.maximum(matrix.sum(axis=0), 1.0), np.float32)


# Cached, and shared by all plans: a matrix is read-only. The cache is bounded because clients choose the layouts.
@lru_cache(maxsize=256)
def mix_matrix(source: Positions, target: Positions) -> Matrix | None:
    """The (source channels, target channels) matrix, or None if the layouts are the same.

    Auxiliary channels have no position. If that would leave silence, channels are mapped by index.
    """
    if source == target:
        return None
    matrix = _Mix(source, target).whole()
    if not matrix.any() and any(name.startswith("aux") for name in (*source, *target)):
        matrix = np.eye(len(source), len(target), dtype=np.float32)
    matrix.setflags(write=False)
    return matrix


class Mapping(Enum):
    """How the channels of one layout are mapped to those of another."""

    MIX = "mix"
    """By name; channels without a namesake are folded into their side, or made from it."""
    NAMES = "names"
    """By name only; channels without a namesake are dropped."""
    INDEX = "index"
    """By index, whatever the names."""


def by_name(source: Positions, target: Positions) -> Matrix:
    """Each channel to those of the same name; mixes only channels that share a name."""
    return normalised(np.array([[float(name == to) for to in target] for name in source], np.float32))


@lru_cache(maxsize=256)
def mapped(source: Positions, target: Positions, mapping: Mapping) -> Matrix | None:
    """As `mix_matrix`, for any mapping."""
    if mapping is Mapping.MIX or source == target:
        return mix_matrix(source, target)
    if mapping is Mapping.INDEX:
        matrix = np.eye(len(source), len(target), dtype=np.float32)
    else:
        matrix = by_name(source, target)
    matrix.setflags(write=False)
    return matrix


_VOLUME_GROUPS: tuple[frozenset[str], ...] = (
    frozenset(name for name in POSITIONS if "left" in name),
    frozenset(name for name in POSITIONS if "right" in name),
    frozenset(name for name in POSITIONS if name.endswith("center") and "-of-" not in name),
    frozenset({_LFE}),
)


def volume_for(volume: tuple[int, ...], source: Positions, target: Positions) -> tuple[int, ...]:
    """Volumes for other channels: each gets the mean of the same position, its side, or of all (`pa_cvolume_remap`)."""

    def mean(names: frozenset[str]) -> int | None:
        found = [v for name, v in zip(source, volume, strict=True) if name in names]
        return sum(found) // len(found) if found else None

    def one(name: str) -> int:
        near = mean(frozenset({name}))
        for side in _VOLUME_GROUPS:
            if near is None and name in side:
                near = mean(side)
        return sum(volume) // len(volume) if near is None else near

    return tuple(one(name) for name in target)
