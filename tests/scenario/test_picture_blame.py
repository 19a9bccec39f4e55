"""Every kind of picture fault is blamed on its cause; `bench picture_faults` tries more seeds."""

from __future__ import annotations

import pytest

from millrace.symptoms import CAUSES
from tests import pictureends
from tests.picturefaults import KINDS, Kind, blamed


def _names(kinds: tuple[Kind, ...] | tuple[pictureends.Kind, ...]) -> list[str]:
    return [kind.name.replace(" ", "_") for kind in kinds]


@pytest.mark.parametrize("kind", KINDS, ids=_names(KINDS))
def test_first_incident_names_the_fault_and_its_time(kind: Kind) -> None:
    outcome = blamed(kind, 1)
    assert outcome.right, f"named {outcome.named}, off by {outcome.off_ms:.0f} ms"


# In real time: its incident may be late on a busy machine, and another program may delay the daemon.
@pytest.mark.parametrize("kind", pictureends.ENDS, ids=_names(pictureends.ENDS))
def test_what_ends_a_connection_is_named(kind: pictureends.Kind) -> None:
    at_ns, found = pictureends.injected(kind, 1)
    assert any((one.stage, one.cause) == (kind.stage, kind.cause) and one.at_ns >= at_ns for one in found)


def test_all_causes_of_pictures_are_tried() -> None:
    own = {"screen", "picture", "viewer"}
    tried = {(kind.stage, kind.cause) for kind in (*KINDS, *pictureends.KINDS)}
    # These are told once a second, of all characters meanwhile, or after a deadline, so they have no moment to judge.
    tried |= {("screen", cause) for cause in ("no key", "no layout", "no answer")}
    assert {cause for cause in CAUSES if cause[0] in own} <= tried and len(tried) >= 15
