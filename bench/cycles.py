"""The daemon of bench/painted.py, which notes how late each cycle of sound begins: python -m bench.cycles serve …

When it ends it writes JSON to the file $STAMPS, in ns: [when it began, how late, how long a cycle is] of each. With
$ALWAYS its machine paints although nobody watches.
"""

from __future__ import annotations

import atexit
import json
import os
from pathlib import Path
from typing import Any

from bench.painted import serve


def stamp(path: str) -> None:
    """Take the stamps in this process, and write them at its end."""
    from millrace.graph.graph import Graph

    rows: list[tuple[int, int, int]] = []
    run = Graph.handle_timeout

    def handled(self: Graph, now_ns: int) -> None:
        # What is finished or started later has no time at which it was due.
        if self.running and self._steps is None and (due := self.next_timeout()) is not None and due <= now_ns:
            rows.append((now_ns, now_ns - due, self.quantum_ns))
        run(self, now_ns)

    Graph.handle_timeout = handled  # type: ignore[method-assign]
    atexit.register(lambda: Path(path).write_text(json.dumps(rows)))


def always() -> None:
    """Paint although nobody watches."""
    from millrace.sim.painted import PaintedMachine

    show = PaintedMachine.show

    def shown(self: PaintedMachine, screen: Any, now_ns: int) -> None:
        self.always = True
        show(self, screen, now_ns)

    PaintedMachine.show = shown  # type: ignore[method-assign]


if __name__ == "__main__":
    # The stamps of pictures, which bench/painted.py would take, would go to the same file.
    stamp(os.environ.pop("STAMPS"))
    if "ALWAYS" in os.environ:
        always()
    serve()
