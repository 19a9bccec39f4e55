"""What a step of a VNC connection may cost, and what its parts are estimated to cost.

The unit is about a nanosecond of a slow core (`python -m bench vnc_steps` prints both). Nothing in `wire` reads a
clock, so costs are estimates; those of what a server can make expensive are its worst case. A step that was cheaper
than estimated costs nothing: whoever runs the connection looks at the clock after each step, and goes on if there is
time.
"""

from __future__ import annotations

WORK_MAX = 1_000_000
"""A step ends when it has cost this much, or a little more."""
PART_WORK = 4_500
"""A message or a piece of one, a rectangle, an event: whatever its size."""


class Work:
    """What the current step has cost so far."""

    __slots__ = ("spent",)

    def __init__(self) -> None:
        self.spent = 0

    @property
    def over(self) -> bool:
        """Whether the step has to end."""
        return self.spent >= WORK_MAX
