"""How long one thread may keep the interpreter from the others."""

from __future__ import annotations

import sys

SWITCH_S = 0.002
"""As long as a step of the event loop may take: with less, encoders would break up the loop's own steps."""


def set_switch_interval() -> None:
    """Have threads that run Python code let others run after `SWITCH_S`.

    CPython's 5 ms would be the least that a graph cycle waits for a thread that divides a picture into tiles.
    """
    sys.setswitchinterval(SWITCH_S)
