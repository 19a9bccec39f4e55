"""What HTTP clients send is parsed in turns: it waits, nothing of it is lost, and no more is read meanwhile."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from millrace.graph.share import SLICE_NS
from millrace.io.metered import Metered, charge, when_relieved
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


class FakeTransport:
    """A fake transport: its peer always has more to send."""

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


def connected() -> tuple[FakeTransport, Parser, Turns]:
    """A transport, its parser, and the turns that it is charged to."""
    transport, parser = FakeTransport(), Parser()
    turns = Turns(lambda: parser.worked_ns)
    transport.protocol = Metered(parser, turns)
    transport.protocol.connection_made(cast(asyncio.Transport, transport))
    return transport, parser, turns


def test_transport_is_paused_beyond_its_share_and_resumes_in_order() -> None:
    async def main() -> None:
        transport, parser, turns = connected()
        transport.send(b"a")
        assert transport.reading and not turns.ready()
        # What had been read when it was paused, as aiohttp's own resuming may let happen.
        transport.send(b"b")
        transport.send(b"c")
        assert not transport.reading and parser.got == b"a"
        await asyncio.sleep(0)
        assert transport.reading and parser.got == b"abc"
        transport.send(b"d")
        transport.protocol.eof_received()
        assert parser.got == b"abcd" and parser.ended

    asyncio.run(main())


@pytest.mark.parametrize("own", ["_reading_paused", "_buffer_paused"])
def test_transport_that_its_protocol_has_paused_is_left_paused(own: str) -> None:
    async def main() -> None:
        transport, parser, _ = connected()
        transport.send(b"a")
        transport.send(b"b")
        setattr(parser, own, True)
        await asyncio.sleep(0)
        assert parser.got == b"ab" and not transport.reading

    asyncio.run(main())


def test_identified_peer_pays_from_then_on() -> None:
    async def main() -> None:
        transport, parser, strangers = connected()
        own = Turns(lambda: parser.worked_ns)
        transport.send(b"a")
        charge(cast(asyncio.Transport, transport), own)
        before = strangers.used_ns
        transport.send(b"b")
        assert parser.got == b"ab" and own.used_ns == SLICE_NS
        assert strangers.used_ns == before and not own.ready()

    asyncio.run(main())


def test_room_that_there_is_again_is_told_until_the_connection_is_lost() -> None:
    class Writer(asyncio.Protocol):
        """Notes that it may write."""

        def resume_writing(self) -> None:
            """See asyncio."""
            told.append("inner")

    told: list[str] = []
    transport = FakeTransport()
    transport.protocol = metered = Metered(Writer(), Turns())
    metered.resume_writing()
    when_relieved(cast(asyncio.Transport, transport), lambda: told.append("room"))
    metered.resume_writing()
    metered.connection_lost(None)
    metered.resume_writing()
    assert told == ["inner", "inner", "room", "inner"]
