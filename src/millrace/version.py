"""Ground: the release. This is the only place that says it; pyproject.toml reads it here."""

from __future__ import annotations

__version__ = "0.2.0"
