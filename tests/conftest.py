"""What holds for all tests."""

from __future__ import annotations

from hypothesis import settings

# Other work may load this machine: how long an example takes says nothing.
settings.register_profile("millrace", deadline=None)
settings.load_profile("millrace")
