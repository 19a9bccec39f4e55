"""The encoders of pictures of all guests: their work is done by a few threads of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from millrace.budget import Budget
from millrace.codec.picturesettings import PictureSettings
from millrace.graph.screen import Screen
from millrace.graph.seat import Watcher
from millrace.io.clock import now_ns, worked_ns
from millrace.io.fairqueue import Customer
from millrace.io.offload import Item, Lane, Offload
from millrace.outlets.encoded import MakePictures, Pictures
from millrace.outlets.picturechoice import Formats
from millrace.symptoms import Evidence, Report, Symptom
from millrace.units import HostNs

if TYPE_CHECKING:
    from millrace.outlets.pictures import PictureEncoder


# The libraries for video and stills take long to import (`python -X importtime -c "import millrace.outlets.pictures"`),
# which a daemon that shows no screen should not spend, and one that plays sound must not spend on its event loop.
def _load() -> type[PictureEncoder]:
    from millrace.outlets.pictures import PictureEncoder

    return PictureEncoder


async def load_encoders() -> None:
    """Get ready to make encoders, in another thread. Without this, the first one is made late."""
    await asyncio.to_thread(_load)


class Encoders:
    """Makes encoders. The pool of threads is made with the first one, and on its event loop."""

    def __init__(self) -> None:
        self._offload: Offload | None = None

    def of(self, budget: Budget, guest: str, report: Report, customer: Customer[Item]) -> MakePictures:
        """Makes encoders of a guest, at its expense; `customer` is its turn at the threads."""

        def make(
            screen: Screen, settings: PictureSettings, formats: Formats, who: Watcher, wake: Callable[[], None],
            failed: Callable[[Exception], None],
        ) -> Pictures:  # fmt: skip
            def told(cause: str, at_ns: HostNs, evidence: Evidence) -> None:
                report(Symptom("picture", cause, guest, screen.key, evidence, at_ns))

            return _load()(
                screen, settings, who, wake, lane=self.lane(customer), clock=now_ns, budget=budget, formats=formats,
                failed=failed, computed=worked_ns, told=told,
            )  # fmt: skip

        return make

    def lane(self, customer: Customer[Item]) -> Lane:
        """A way to the threads, for one user of a guest."""
        if self._offload is None:
            self._offload = Offload()
        return self._offload.lane(customer)

    def close(self) -> None:
        """End all work; called when there are no guests any more."""
        offload, self._offload = self._offload, None
        if offload is not None:
            offload.close()
