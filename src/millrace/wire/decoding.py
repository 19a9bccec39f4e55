"""Messages in JSON and MessagePack from another machine: understood, or a RemoteProtocolError, nothing else.

A decoder has more ways to fail than its own error: bytes that are no UTF-8, surrogates that stand alone, nesting deeper
than the stack. What is foreign is decoded here.
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


def understood(decode: Callable[[D], T], data: D) -> T:
    """What `decode` makes of `data`."""
    try:
        return decode(data)
    except RecursionError:
        raise RemoteProtocolError("message not understood: it is nested too deeply") from None
    except UnicodeError:
        raise RemoteProtocolError("message not understood: it is not UTF-8") from None
    except msgspec.MsgspecError as error:
        raise RemoteProtocolError(f"message not understood: {printable(error)}") from None


def json_value(data: bytes) -> Any:
    """JSON of no particular form."""
    return understood(_json.decode, data)
