"""Answers over HTTP that may be large: whoever asks pays for one until it has been read."""

from __future__ import annotations

import asyncio
import logging

from aiohttp import web

from millrace.budget import CONNECTIONS, Budget

log = logging.getLogger("millrace.web")
SMALL = 32 * 1024
"""An answer up to this size goes out in one piece, and is part of what a connection takes anyway."""
READ_S = 30.0
"""One that is larger is read in that time, or the connection ends."""


async def send(request: web.Request, body: bytes, headers: dict[str, str], budget: Budget) -> web.StreamResponse:
    """Send `body`; BudgetError, before any of it is sent, where its reader has too much waiting for it already."""
    if len(body) <= SMALL:
        return web.Response(body=body, headers=headers)
    account = budget.open("answer", {"body": len(body)}, CONNECTIONS)
    answer = web.StreamResponse(headers=headers)
    answer.content_length = len(body)
    try:
        async with asyncio.timeout(READ_S):
            await answer.prepare(request)
            for at in range(0, len(body), SMALL):
                await answer.write(body[at : at + SMALL])
            await answer.write_eof()
    except TimeoutError:
        what = f"{request.method} {request.path}"
        log.warning("web, %s: connection ended: an answer of %d bytes was not read in %d s", what, len(body), READ_S)
        if request.transport is not None:
            request.transport.abort()
    finally:
        account.close()
    return answer
