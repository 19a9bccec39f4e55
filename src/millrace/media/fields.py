"""Integer types for untrusted input, with bounds."""

from __future__ import annotations

from typing import Annotated

import msgspec

INT_MAX = 2**63 - 1
Count = Annotated[int, msgspec.Meta(ge=0, le=INT_MAX)]
"""A number that only increases: a position, a total, a time."""
Signed = Annotated[int, msgspec.Meta(ge=-INT_MAX, le=INT_MAX)]
