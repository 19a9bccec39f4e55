"""Large responses: encoded in steps. Over HTTP the requester's budget is charged until the response is read."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import msgspec
from aiohttp import web

from millrace.budget import REQUESTS, Budget
from millrace.errors import BudgetError, MillraceError, lacking
from millrace.server.http.reading import READ_S, ReadInTime, bound_unread
from millrace.wire.native.messages import FRAME_MAX, packed

log = logging.getLogger("millrace.web")
SMALL = 32 * 1024
"""Responses up to this size are sent in one piece and covered by the cost of the connection."""
ANSWER_BUFFER_BYTES = 256 * 1024
"""What the kernel may hold of larger ones for the client to read: at 100 ms, a few megabytes a second."""
ITEMS_AT_ONCE = 25
BYTES_AT_ONCE = 64 * 1024
"""A step ends after this many list items, or after the item with which it has made this many bytes."""
REPLY_MAX = FRAME_MAX - 1024
"""The largest value of a native reply."""


def refusal_of(error: MillraceError) -> dict[str, str]:
    """The body of a refusal: a sentence, and of one right that is lacking, which one and in which guest."""
    right, guest = lacking(error)
    return {"error": str(error)} | ({"right": right, "guest": guest} if right else {})


class _Step:
    """What was made since the last pause. A step ends after a number of list items, or of bytes."""

    def __init__(self, room: int | None = None) -> None:
        self._room, self._items, self._bytes = room, 0, 0

    async def made(self, size: int, items: int = 0) -> None:
        """Count what was made, and pause if that was enough; BudgetError if there is no room for it."""
        if self._room is not None:
            self._room -= size + 5
            if self._room < 0:
                raise BudgetError(
                    f"the answer does not fit in one message ({FRAME_MAX} bytes): ask for one guest or one object,"
                    " use `watch`, or use HTTP"
                )
        self._items += items
        self._bytes += size
        if self._items >= ITEMS_AT_ONCE or self._bytes >= BYTES_AT_ONCE:
            self._items = self._bytes = 0
            await asyncio.sleep(0)


async def as_json(value: Any) -> str:
    """Encode as JSON, with pauses: a guest may have thousands of streams, and sound must continue in between."""
    return await _json(value, _Step())


async def _json(value: Any, step: _Step) -> str:
    value = _opened(value)
    if isinstance(value, dict):
        return "{" + ", ".join([f"{json.dumps(str(k))}: {await _json(item, step)}" for k, item in value.items()]) + "}"
    if isinstance(value, list) and len(value) <= ITEMS_AT_ONCE:
        return "[" + ", ".join([await _json(item, step) for item in value]) + "]"
    if isinstance(value, list):
        return "[" + ", ".join([await _leaf_text(item, step, 1) for item in value]) + "]"
    return await _leaf_text(value, step)


async def _leaf_text(value: Any, step: _Step, items: int = 0) -> str:
    text = json.dumps(msgspec.to_builtins(value))
    await step.made(len(text), items)
    return text


def _opened(value: Any) -> Any:
    """A struct as a dict of its encoded field names, without unset fields; other values unchanged."""
    if not isinstance(value, msgspec.Struct):
        return value
    fields = zip(value.__struct_encode_fields__, value.__struct_fields__, strict=True)
    return {shown: item for shown, own in fields if (item := getattr(value, own)) is not msgspec.UNSET}


async def as_msgpack(value: Any) -> msgspec.Raw:
    """Encode a native reply with the same pauses; BudgetError as soon as it is too large for a message."""
    return await _packed(value, _Step(REPLY_MAX))


async def _packed(value: Any, step: _Step) -> msgspec.Raw:
    value = _opened(value)
    if isinstance(value, dict):
        return packed({key: await _packed(item, step) for key, item in value.items()})
    if isinstance(value, list) and len(value) <= ITEMS_AT_ONCE:
        return packed([await _packed(item, step) for item in value])
    if isinstance(value, list):
        return packed([await _leaf(item, step, 1) for item in value])
    return await _leaf(value, step)


async def _leaf(value: Any, step: _Step, items: int = 0) -> msgspec.Raw:
    made = packed(value)
    await step.made(memoryview(made).nbytes, items)
    return made


# A response that was made but not read is memory that a client makes the daemon hold. It is charged before it is
# sent, and must be read on, so a client can't keep many of them by not reading.
async def send(
    request: web.Request, body: bytes, headers: dict[str, str], budget: Budget, who: str
) -> web.StreamResponse:
    """Send `body`; BudgetError, before anything is sent, if the reader's budget has no room for it."""
    if len(body) <= SMALL:
        return web.Response(body=body, headers=headers)
    account = budget.open("answer", {"body": len(body)}, REQUESTS, who)
    bound_unread(request.transport, ANSWER_BUFFER_BYTES)
    answer = web.StreamResponse(headers=headers)
    answer.content_length = len(body)
    at = 0
    try:
        async with ReadInTime(request.transport, lambda: at):
            await answer.prepare(request)
            while at < len(body):
                await answer.write(body[at : at + SMALL])
                at += SMALL
            await answer.write_eof()
    except TimeoutError:
        what = f"{request.method} {request.path}"
        log.warning("web, %s: connection ended: a response of %d bytes was not read for %d s", what, len(body), READ_S)
        if request.transport is not None:
            request.transport.abort()
    finally:
        account.close()
    return answer
