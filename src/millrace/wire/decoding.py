"""Decodes JSON and MessagePack from untrusted peers; the only possible error is RemoteProtocolError.

A decoder can fail in more ways than with its own exception: invalid UTF-8, lone surrogates, nesting deeper than the
stack. So all untrusted messages are decoded here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from millrace.errors import RemoteProtocolError
from millrace.text import printable

T = TypeVar("T")
D = TypeVar("D", str, bytes)

_json = msgspec.json.Decoder()


# `UnicodeError` is a ValueError but no MsgspecError, and RecursionError is neither; a session that let one of them out
# would take its runner's path for bugs in the daemon, with a traceback for whatever a stranger sends.
def understood(decode: Callable[[D], T], data: D) -> T:
    """Decode `data`, turning every failure into a RemoteProtocolError."""
    try:
        return decode(data)
    except RecursionError:
        raise RemoteProtocolError("message not understood: it is nested too deeply") from None
    except UnicodeError:
        raise RemoteProtocolError("message not understood: it is not UTF-8") from None
    except msgspec.MsgspecError as error:
        raise RemoteProtocolError(f"message not understood: {printable(error)}") from None


def json_value(data: bytes) -> Any:
    """Decode JSON without a schema."""
    return understood(_json.decode, data)
