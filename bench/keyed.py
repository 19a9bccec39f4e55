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
    from millrace.graph.screen import Screen
    from millrace.guest.viewer import ViewerSession
    from millrace.wire.peer.pictures import Shown

    clock = time.monotonic_ns
    rows: dict[str, list[Any]] = {"keys": [], "painted": [], "sent": [], "drawn": []}
    key, painted, push, acknowledged = QemuScreen.key, Screen.painted, ViewerSession.push, ViewerSession._acknowledged

    def keyed(self: QemuScreen, code: int, down: bool) -> None:
        key(self, code, down)
        if down:
            rows["keys"].append(clock())

    def published(self: Screen, rects: Any, now_ns: int, *more: Any) -> None:
        rows["painted"].append((now_ns, clock()))
        painted(self, rects, now_ns, *more)

    def pushed(self: ViewerSession, picture: Any) -> None:
        push(self, picture)
        rows["sent"].append((self.id, self.wire.sent, picture.painted_ns))

    def shown(self: ViewerSession, event: Any, now_ns: int) -> None:
        if isinstance(event, Shown) and event.drawn_ns:
            # A page's own idea of this clock is off by half of what its quickest ping took.
            rows["drawn"].append((self.id, event.serial, clock()))
        acknowledged(self, event, now_ns)

    QemuScreen.key, Screen.painted = keyed, published  # type: ignore[method-assign]
    ViewerSession.push, ViewerSession._acknowledged = pushed, shown  # type: ignore[method-assign]
    atexit.register(lambda: Path(path).write_text(json.dumps(rows)))


if __name__ == "__main__":
    from millrace.cli.main import main

    stamp(os.environ["STAMPS"])
    main()
