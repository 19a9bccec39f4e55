"""A format of listeners' packets."""

from __future__ import annotations

from millrace.codec.parameters import CodecParameters
from millrace.units import default_map

FORMAT = CodecParameters(1, "s16", 48_000, list(default_map(2)))
