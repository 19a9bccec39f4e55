"""Which pictures wait for the sound that is played beside them."""

from __future__ import annotations

import pytest

from millrace.backends.clocked import NullOutput
from millrace.client.listener import Listener, ListenerOptions
from millrace.client.ownsound import NoSound, OwnSound


@pytest.mark.parametrize(("latency", "first"), [("low", True), ("10ms", True), ("normal", False), ("60ms", False)])
def test_no_picture_waits_for_sound_that_is_as_early_as_it_can_be(latency: str, first: bool) -> None:
    sound: OwnSound = Listener("ws://127.0.0.1:1/default", NullOutput(), ListenerOptions(latency=latency))
    assert sound.picture_first is first and sound.number is None and sound.heard_ns(5) is None


def test_without_sound_nothing_waits() -> None:
    sound: OwnSound = NoSound()
    assert sound.picture_first and sound.number is None and sound.heard_ns(5) is None
