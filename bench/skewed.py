"""`millrace` on a machine whose clock is off by $PPM: python -m bench.skewed serve …

To a listener it looks as if its own card were off by the same amount in the other direction.
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
