"""What only pictures need is imported with the first picture: `serve` and `--help` start without it."""

from __future__ import annotations

import subprocess
import sys


def test_daemon_starts_without_the_libraries_of_pictures() -> None:
    code = "import sys, millrace.daemon.app; print(*({'av', 'PIL'} & set(sys.modules)))"
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert made.stdout.strip() == ""
