"""The encoders of a daemon's guests: made on demand, at the guest's expense, with one pool of threads."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

from millrace.codec.picturesettings import PictureSettings
from millrace.errors import BudgetError
from millrace.guest.encoders import Encoders, load_encoders
from millrace.io.fairqueue import Customer
from millrace.outlets.encoded import EncodedPicture
from millrace.outlets.picturechoice import Formats
from millrace.pixels.rects import Rect, Size
from millrace.units import HostNs
from tests.gops import WATCHER
from tests.watch import Desk


class Sink:
    sparing = False

    def __init__(self) -> None:
        self.sizes: list[Size] = []
        self.pictures: list[EncodedPicture] = []

    def ready(self, now_ns: HostNs) -> bool:
        return True

    def push(self, picture: EncodedPicture) -> bool:
        self.pictures.append(picture)
        return True

    def resized(self, size: Size) -> None:
        self.sizes.append(size)


def test_encoder_is_made_works_and_gives_everything_back() -> None:
    async def test() -> None:
        await load_encoders()
        desk, encoders, sink, woken = Desk(), Encoders(), Sink(), asyncio.Event()
        encoders.close()
        painter = desk.add()
        painter.fill(Rect(0, 0, 9, 9), 5, desk.now_ns)
        budget = desk.home.admission.budget
        before = budget.held
        make = encoders.of(budget, "alice", desk.home.report, Customer())
        failures: list[Exception] = []
        pictures = make(painter.screen, PictureSettings(), Formats(), WATCHER, woken.set, failures.append)
        pictures.join(sink)
        async with asyncio.timeout(10):
            while not sink.pictures:
                woken.clear()
                pictures.handle_timeout(desk.now_ns)
                await woken.wait()
                list(pictures.deliver())
        assert sink.sizes == [Size(64, 48)] and sink.pictures[0].size and not failures
        assert budget.held > before
        pictures.close()
        encoders.close()
        assert budget.held == before
        budget.limit = 1
        with pytest.raises(BudgetError):
            make(painter.screen, PictureSettings(), Formats(), WATCHER, woken.set, failures.append)

    asyncio.run(test())


def test_daemon_that_shows_no_screen_loads_no_encoder() -> None:
    told = "import sys, millrace.daemon.app; print([name for name in ('av', 'PIL') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
