"""Shares of the daemon's time: who is charged, and whose waiting is told."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from millrace.control.principalturns import PrincipalTurns
from millrace.io.turns import Turns
from millrace.rights.model import OWNER, Principal, Right
from millrace.symptoms import Symptom


def principal(key: str, *guests: str) -> Principal:
    return Principal(key, Right.HEAR, frozenset(guests))


def test_guest_has_one_share_for_all_its_tokens() -> None:
    guests: dict[str, Any] = {"alice": SimpleNamespace(turns=Turns())}
    shares = PrincipalTurns(guests, lambda symptom: None)
    for key in ("token/1", "token/2", "certificate/c", "guest/alice"):
        assert shares.of(principal(key, "alice")) is guests["alice"].turns
    assert shares.of(OWNER) is shares.owner and shares.of(principal("owner", "alice")) is shares.owner
    assert shares.of(principal("guest/bob", "bob")) is shares.owner, "its guest is not there any more"


def test_principal_of_several_guests_has_a_share_of_its_own_until_it_is_gone() -> None:
    guests: dict[str, Any] = {"alice": SimpleNamespace(turns=Turns())}
    shares = PrincipalTurns(guests, lambda symptom: None)
    seen = {guests["alice"].turns, shares.owner, shares.strangers}
    for key in ("token/3", "certificate/e"):
        own = shares.of(principal(key, "alice", "bob"))
        assert own is shares.of(principal(key, "alice", "bob")) and own not in seen
        seen.add(own)
    before = shares.of(principal("token/3"))
    shares.forget("token/4")
    assert shares.of(principal("token/3")) is before
    shares.forget("token/3")
    assert shares.of(principal("token/3")) is not before


def test_it_is_told_which_principal_was_kept_waiting() -> None:
    told: list[Symptom] = []
    shares = PrincipalTurns({}, told.append)
    shares.of(principal("token/3"))._kept_waiting(5, 6)
    shares.of(principal("token/4"))
    assert [(one.guest, one.subject) for one in told] == [("", "token/3")]
