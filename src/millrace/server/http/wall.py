"""Walls: thumbnails of many guests over one WebSocket, those that changed and that the wall has in view.

The wall says which guests it has in view: `{"show": ["alice", "bob"]}`. For each change of a thumbnail it is sent a
binary message, little-endian: kind 1, length of the guest's name (one byte each); width and height of the thumbnail, x,
y, width and height of the part that changed (two bytes each); the name, and the part as a PNG or JPEG. It is sent JSON
for a guest of which it is shown nothing: `{"guest": "bob", "why": "…"}`, with an empty `why` when that is over. If a
right is lacking, `right` names it.
"""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Callable, Mapping

from aiohttp import WSCloseCode, WSMsgType, web

from millrace.absent import nothing
from millrace.control.plane import LocalGuests
from millrace.control.requests import parsed
from millrace.errors import ConfigError, MillraceError, lacking
from millrace.guest.guest import Guest
from millrace.guest.thumbnails import Thumbnail
from millrace.io.later import Later
from millrace.io.turns import Turns
from millrace.rights.model import Principal, Right
from millrace.server.http.connection import CLOSE_TIMEOUT_S
from millrace.server.http.events import hang_up, messages
from millrace.text import parse_json
from millrace.wire.arguments import Arguments

TICK_S = 0.25
"""How often a wall looks for new thumbnails: one is late by no more."""
LOOKS = 4
"""Guests whose screens stand still are looked at, and asked about rights, every so many of these times."""
SHOWN_MAX = 256
"""Guests that a wall shows at a time."""
MESSAGE_MAX = 32 * 1024
THUMBNAIL = 1
_HEAD = struct.Struct("<BBHHHHHH")
UNKNOWN = f'the only message accepted here is {{"show": [GUEST, …]}} with at most {SHOWN_MAX} guests'


class Show(Arguments):
    """The guests in view from now on."""

    show: list[str]


def thumbnail_message(guest: str, made: Thumbnail) -> bytes:
    """A thumbnail, or what changed of it, as it is sent."""
    name, at = guest.encode(), made.still.at
    head = _HEAD.pack(THUMBNAIL, len(name), made.size.width, made.size.height, at.x, at.y, at.width, at.height)
    return head + name + made.still.data


def _reason(error: MillraceError) -> dict[str, str]:
    """Why a guest is not shown, as it is sent."""
    right, _ = lacking(error)
    return {"why": str(error)} | ({"right": right} if right else {})


class _Tile:
    """What a wall was told of one guest."""

    def __init__(self) -> None:
        self.guest: Guest | None = None
        self.sent = 0
        """The serial of the thumbnail that it has."""
        self.why = {"why": ""}

    @property
    def still(self) -> bool:
        """Whether nothing has happened to the guest's screen."""
        return self.guest is not None and self.guest.thumbnails.still(self.sent)


# Nothing is queued: a thumbnail is looked for when the one before has been written, and is then the newest. So a wall
# that reads slowly is sent fewer, and costs no memory. Rights are asked for before each thumbnail, and once a second,
# since a guest may be another one of the same name, and a principal may have lost it.
class Wall:
    """One wall."""

    def __init__(
        self, guests: LocalGuests, principal: Principal, turns: Turns, cut: Callable[[], None] = nothing
    ) -> None:
        """`cut` aborts the connection, without a Close that nobody would read."""
        self.principal, self._cut = principal, cut
        self._guests, self._turns = guests, turns
        self._tiles: dict[str, _Tile] = {}
        self._times = 0
        self._wake = asyncio.Event()
        self._ended = ""
        self._unread = Later(cut)

    def end(self, why: str) -> None:
        """Its principal's rights have ended: send nothing more, and close, without a word if it reads none."""
        self._show([])
        self._ended = why
        self._unread.begin(CLOSE_TIMEOUT_S)
        self._wake.set()

    def lose(self, guest: str) -> None:
        """A guest was removed: a later one of the same name is a different guest."""
        self.principal = self.principal.without(guest)

    async def serve(self, websocket: web.WebSocketResponse) -> None:
        """Serve the wall until it leaves."""
        sending = self._turns.task(lambda: self._send(websocket))
        try:
            async for message in messages(websocket, self._turns):
                if message.type is not WSMsgType.TEXT or not self._asked(message.data):
                    await hang_up(websocket, self._cut, WSCloseCode.INVALID_TEXT, UNKNOWN)
                    break
        finally:
            self._show([])
            self._unread.close()
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    def _asked(self, text: str) -> bool:
        try:
            asked = parsed(Show, parse_json(text, "the message"))
        except ConfigError:
            return False
        if len(asked.show) > SHOWN_MAX:
            return False
        if not self._ended:
            self._show(asked.show)
            self._wake.set()
        return True

    def _show(self, names: list[str]) -> None:
        """Have these in view; nothing is read for the others."""
        before, self._tiles = self._tiles, {name: self._tiles.get(name) or _Tile() for name in names}
        for name, tile in before.items():
            if name not in self._tiles:
                self._hide(tile)

    def _hide(self, tile: _Tile) -> None:
        guest, tile.guest, tile.sent = tile.guest, None, 0
        if guest is not None:
            guest.thumbnails.hide(self)

    async def _send(self, websocket: web.WebSocketResponse) -> None:
        while not self._ended:
            due = self._due()
            seen = {guest.name: guest for guest in self._guests.visible(self.principal)} if due else {}
            for name in due:
                await self._send_one(websocket, name, seen)
                await self._turns.turn()
            await self._rest()
        self._unread.close()
        await hang_up(websocket, self._cut, WSCloseCode.POLICY_VIOLATION, self._ended)

    def _due(self) -> list[str]:
        """The guests to look at this time: those where something may have happened, and once a second all."""
        self._times += 1
        every = self._times % LOOKS == 0
        return [name for name, tile in self._tiles.items() if every or not tile.still]

    async def _rest(self) -> None:
        """Until it is time to look again, which without anything in view is when that changes."""
        try:
            async with asyncio.timeout(TICK_S if self._tiles else None):
                await self._wake.wait()
        except TimeoutError:
            return
        self._wake.clear()

    async def _send_one(self, websocket: web.WebSocketResponse, name: str, seen: Mapping[str, Guest]) -> None:
        """Send what is new of a guest. It may have gone out of view while something else was sent."""
        tile = self._tiles.get(name)
        if tile is None:
            return
        try:
            newest, why = self._newest(name, tile, seen), {"why": ""}
        except MillraceError as error:
            newest, why = None, _reason(error)
            self._hide(tile)
        if why != tile.why:
            # A thumbnail follows the next time, when it is asked again whether it may.
            tile.why = why
            await websocket.send_str(json.dumps({"guest": name, **why}))
        elif newest is not None:
            tile.sent = newest.serial
            await websocket.send_bytes(thumbnail_message(name, newest))

    def _newest(self, name: str, tile: _Tile, seen: Mapping[str, Guest]) -> Thumbnail | None:
        """The newest thumbnail of a guest; a MillraceError says why there is none."""
        guest = seen.get(name) or self._guests.guest(self.principal, name, Right.WATCH)
        self.principal.demand(Right.WATCH, name)
        if guest is not tile.guest:
            self._hide(tile)
            tile.guest = guest
            guest.thumbnails.show(self)
        return guest.thumbnails.after(tile.sent)
