"""The event loop on virtual time: hours pass at once, but not while anything is left to do."""

from __future__ import annotations

import asyncio
import os
import time

from millrace.io import clock, timer
from tests import virtual


def test_time_jumps_to_the_next_deadline_and_the_program_sees_it() -> None:
    async def test() -> None:
        began, loop = clock.now_ns(), asyncio.get_running_loop()
        order: list[str] = []
        loop.call_later(7200, order.append, "later")
        loop.call_later(3600, order.append, "first")
        await asyncio.sleep(10_000)
        assert order == ["first", "later"] and timer.now_ns is clock.now_ns
        assert abs(clock.now_ns() - began - 10_000 * 10**9) < 10**9

    real = time.monotonic()
    virtual.run(test())
    assert time.monotonic() - real < 1000, "nobody has waited"
    assert clock.now_ns is timer.now_ns is time.monotonic_ns, "the real clock is back"


def test_time_stands_still_while_a_thread_works_or_data_arrives() -> None:
    async def test() -> None:
        loop, (reading, writing) = asyncio.get_running_loop(), os.pipe()
        heard = asyncio.Event()
        loop.add_reader(reading, heard.set)
        try:
            async with asyncio.timeout(0.001):
                await asyncio.to_thread(time.sleep, 0.05)
                os.write(writing, b"x")
                await heard.wait()
        finally:
            loop.remove_reader(reading)
            os.close(reading)
            os.close(writing)

    virtual.run(test())
