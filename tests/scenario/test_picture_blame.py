"""Every kind of picture fault is blamed on its cause, in virtual time; `bench picture_faults` tries more seeds."""

from __future__ import annotations

import pytest

from millrace.symptoms import CAUSES
from tests.picturefaults import KINDS, Kind, blamed


@pytest.mark.parametrize("kind", KINDS, ids=[kind.name.replace(" ", "_") for kind in KINDS])
def test_first_incident_names_the_fault_and_its_time(kind: Kind) -> None:
    outcome = blamed(kind, 1)
    assert outcome.right, f"named {outcome.named}, off by {outcome.off_ms:.0f} ms"


def test_all_causes_of_pictures_are_tried() -> None:
    own = {"screen", "picture", "viewer"}
    by_connection = {("viewer", "broke the protocol"), ("viewer", "left")}
    tried = {(kind.stage, kind.cause) for kind in KINDS}
    assert {cause for cause in CAUSES if cause[0] in own} - tried == by_connection and len(tried) >= 15
