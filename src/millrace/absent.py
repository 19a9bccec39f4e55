"""Base layer: what is called in the place of somebody who is not there, so that no caller has to ask for `None`."""

from __future__ import annotations


def nothing() -> None:
    """Do nothing: nobody waits to be called, or it is over."""


def never() -> bool:
    """For whoever has no turn that may be over, or no connection that may be full."""
    return False
