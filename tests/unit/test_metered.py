"""What HTTP clients send is parsed in turns: it waits, nothing of it is lost, and no more is read meanwhile."""

from __future__ import annotations

import asyncio
from typing import cast

from millrace.graph.share import SLICE_NS
from millrace.io.metered import Metered, charge
from millrace.io.turns import Turns


class Parser(asyncio.Protocol):
    """Takes a whole share for each piece that it is given."""

    def __init__(self) -> None:
        self.worked_ns = 0
        self.got = b""
        self.ended = False

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        self.worked_ns += SLICE_NS
        self.got += data

    def eof_received(self) -> None:
        """See asyncio."""
        self.ended = True


class Line:
    """A transport whose other side has much to say."""

    def __init__(self) -> None:
        self.reading, self.protocol = True, cast(Metered, None)

    def pause_reading(self) -> None:
        """See asyncio."""
        self.reading = False

    def resume_reading(self) -> None:
        """See asyncio."""
        self.reading = True

    def is_closing(self) -> bool:
        """See asyncio."""
        return False

    def get_protocol(self) -> Metered:
        """See asyncio."""
        return self.protocol

    def send(self, data: bytes) -> None:
        """Have it come in, as asyncio does."""
        self.protocol.get_buffer(-1)[: len(data)] = data
        self.protocol.buffer_updated(len(data))


def connected() -> tuple[Line, Parser, Turns]:
    """A line, what parses it, and at whose expense."""
    line, parser = Line(), Parser()
    turns = Turns(lambda: parser.worked_ns)
    line.protocol = Metered(parser, turns)
    line.protocol.connection_made(cast(asyncio.Transport, line))
    return line, parser, turns


def test_past_its_share_a_line_is_not_read_and_goes_on_in_order() -> None:
    async def main() -> None:
        line, parser, turns = connected()
        line.send(b"a")
        assert line.reading and not turns.ready()
        # What had been read when it was paused, as aiohttp's own resuming may let happen.
        line.send(b"b")
        line.send(b"c")
        assert not line.reading and parser.got == b"a"
        await asyncio.sleep(0)
        assert line.reading and parser.got == b"abc"
        line.send(b"d")
        line.protocol.eof_received()
        assert parser.got == b"abcd" and parser.ended

    asyncio.run(main())


def test_who_is_known_pays_from_there_on() -> None:
    async def main() -> None:
        line, parser, strangers = connected()
        own = Turns(lambda: parser.worked_ns)
        line.send(b"a")
        charge(cast(asyncio.Transport, line), own)
        before = strangers.used_ns
        line.send(b"b")
        assert parser.got == b"ab" and own.used_ns == SLICE_NS
        assert strangers.used_ns == before and not own.ready()

    asyncio.run(main())
