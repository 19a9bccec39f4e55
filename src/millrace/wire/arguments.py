"""The arguments of a command, which are the same over HTTP and the native protocol."""

from __future__ import annotations

import msgspec


class Arguments(msgspec.Struct, forbid_unknown_fields=True):
    """Unknown names are refused. Otherwise a token request with `guest` instead of `guests` would cover all guests."""
