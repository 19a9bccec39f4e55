"""What holds for all tests."""

from __future__ import annotations

import os
import sys

from hypothesis import settings

# Hundreds of processes load the same modules. Where none may keep what it has compiled, each compiles numpy and all of
# Millrace anew: a daemon takes twice the time to start.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Other work may load this machine: how long an example takes says nothing.
settings.register_profile("millrace", deadline=None)
settings.load_profile("millrace")
