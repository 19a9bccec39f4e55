"""`millrace` that notes how a key becomes a picture: python -m bench.keyed serve …

When it ends it writes a JSON object to the file $STAMPS, all times in ns of CLOCK_MONOTONIC: `keys`, when each key was
sent to QEMU; `painted`, [painted, when that was published]; `sent`, [viewer, serial, painted]; `drawn`, [viewer,
serial, when the viewer was heard to have drawn it].
"""

from __future__ import annotations

import atexit
import json
import os
import time
from pathlib import Path
from typing import Any


def stamp(path: str) -> None:
    """Take the stamps in this process, and write them at its end."""
    from millrace.doors.qemu.screen import QemuScreen
    from millrace.graph.pictures import KeyPress
    from millrace.graph.screen import Screen
    from millrace.guest.viewer import ViewerSession
    from millrace.guest.viewerpictures import ViewerPictures
    from millrace.wire.peer.pictures import Shown

    clock = time.monotonic_ns
    rows: dict[str, list[Any]] = {"keys": [], "painted": [], "sent": [], "drawn": []}
    kept: set[ViewerPictures] = set()
    key, painted, note, acknowledged = QemuScreen.key, Screen.painted, ViewerPictures._note, ViewerSession._acknowledged

    def keyed(self: QemuScreen, press: KeyPress) -> None:
        key(self, press)
        if press.down:
            rows["keys"].append(clock())

    def published(self: Screen, rects: Any, now_ns: int, *more: Any) -> None:
        rows["painted"].append((now_ns, clock()))
        painted(self, rects, now_ns, *more)

    def noted(self: ViewerPictures, picture: Any, serial: int, now_ns: int) -> None:
        rows["sent"].append((id(self), serial, picture.painted_ns))
        # So that no other has its id.
        kept.add(self)
        note(self, picture, serial, now_ns)

    def shown(self: ViewerSession, event: Any, now_ns: int) -> None:
        if isinstance(event, Shown) and event.drawn_ns:
            # A page's own idea of this clock is off by half of what its quickest ping took.
            rows["drawn"].append((id(self.pictures), event.serial, clock()))
        acknowledged(self, event, now_ns)

    QemuScreen.key, Screen.painted = keyed, published  # type: ignore[method-assign]
    ViewerPictures._note, ViewerSession._acknowledged = noted, shown  # type: ignore[method-assign]
    atexit.register(lambda: Path(path).write_text(json.dumps(rows)))


if __name__ == "__main__":
    from millrace.cli.main import main

    stamp(os.environ["STAMPS"])
    main()
