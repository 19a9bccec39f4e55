"""What a command brings, over HTTP as over the native protocol."""

from __future__ import annotations

import msgspec


class Arguments(msgspec.Struct, forbid_unknown_fields=True):
    """A name that is not known is refused: a token for `guest`, where `guests` was meant, would be one for all."""
