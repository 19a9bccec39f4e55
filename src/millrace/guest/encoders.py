"""The encoders of pictures of all guests: their work is done by a few threads of its own."""

from __future__ import annotations

from collections.abc import Callable

from millrace.budget import Budget
from millrace.codec.picturesettings import PictureSettings
from millrace.graph.screen import Screen
from millrace.graph.seat import Watcher
from millrace.io.clock import now_ns
from millrace.io.offload import Offload
from millrace.outlets.encoded import MakePictures, Pictures
from millrace.outlets.picturechoice import Formats
from millrace.outlets.pictures import PictureEncoder


class Encoders:
    """Makes encoders. The pool of threads is made with the first one, and on its event loop."""

    def __init__(self) -> None:
        self._offload: Offload | None = None

    def of(self, budget: Budget) -> MakePictures:
        """Makes encoders at the expense of a guest."""

        def make(
            screen: Screen, settings: PictureSettings, formats: Formats, who: Watcher, wake: Callable[[], None],
            failed: Callable[[Exception], None],
        ) -> Pictures:  # fmt: skip
            if self._offload is None:
                self._offload = Offload()
            return PictureEncoder(
                screen, settings, who, wake, lane=self._offload.lane(), clock=now_ns, budget=budget, formats=formats,
                failed=failed,
            )  # fmt: skip

        return make

    def close(self) -> None:
        """End all work; called when there are no guests any more."""
        offload, self._offload = self._offload, None
        if offload is not None:
            offload.close()
