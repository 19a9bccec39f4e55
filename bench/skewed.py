"""`millrace` on a machine whose clock is off by $PPM: python -m bench.skewed serve …

What a listener sees of it is what it would see of a card that is off by as much the other way.
"""

from __future__ import annotations

import os
import time

_real = time.monotonic_ns
_BEGAN, _RATE = _real(), 1 + float(os.environ["PPM"]) * 1e-6


def _skewed() -> int:
    return _BEGAN + round((_real() - _BEGAN) * _RATE)


if __name__ == "__main__":
    time.monotonic_ns = _skewed
    from millrace.cli.main import main

    main()
