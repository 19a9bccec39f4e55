"""Settings for all tests."""

from __future__ import annotations

import os
import sys

from hypothesis import settings

# Hundreds of processes load the same modules. If none may write bytecode, each of them compiles numpy and all of
# Millrace again, and a daemon takes twice as long to start.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Other work may load the machine, so the time that an example takes means nothing.
settings.register_profile("millrace", deadline=None)
settings.load_profile("millrace")
