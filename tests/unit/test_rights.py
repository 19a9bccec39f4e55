"""Rights, tokens, the limit on guesses, and what is saved of them."""

from __future__ import annotations

import pytest

from millrace.control.sessions import ENDED_MAX, Sessions, is_session
from millrace.errors import ConfigError, RightsError
from millrace.rights.model import EVERYTHING, OWNER, Principal, Right, parse_rights, show_rights
from millrace.rights.tokens import (
    FailureLimit,
    Token,
    TokenBook,
    digest_of,
    expired,
    expiry,
    new_secret,
    parse_expiry,
)
from millrace.units import NS_PER_S

ALICE = Principal("token/1", parse_rights("hear,speak"), frozenset({"alice"}))


def test_rights_imply_seeing_and_admins_may_everything() -> None:
    assert show_rights(parse_rights("hear")) == ["see", "hear"]
    assert parse_rights("admin") == parse_rights("all") == EVERYTHING
    with pytest.raises(ConfigError, match="listen"):
        parse_rights("hear,listen")


def test_rights_not_granted_are_denied() -> None:
    assert ALICE.may(Right.HEAR, "alice") and ALICE.may(Right.SEE, "alice")
    assert not ALICE.may(Right.CONTROL, "alice")
    assert not ALICE.may(Right.HEAR, "bob") and not ALICE.may(Right.SEE, "bob")
    assert not ALICE.may(Right.HEAR) and OWNER.may(Right.ADMIN)
    with pytest.raises(RightsError, match="may not control in guest alice") as lacking:
        ALICE.demand(Right.CONTROL, "alice")
    assert (lacking.value.right, lacking.value.guest) == ("control", "alice")
    with pytest.raises(RightsError, match="token/1 has no right `admin` for all guests") as lacking:
        ALICE.demand(Right.ADMIN)
    assert (lacking.value.right, lacking.value.guest) == ("admin", "")


def test_latest_signed_out_sessions_of_a_secret_are_kept() -> None:
    sessions, secret = Sessions("key"), digest_of("secret")
    session = sessions.make("token/1", secret)
    number = sessions.proven(session, secret)
    assert number and sessions.whose(session) == "token/1" and is_session(session)
    assert sessions.proven(session, digest_of("other")) is None and Sessions("other").proven(session, secret) is None
    sessions.end(secret, number)
    assert sessions.proven(session, secret) is None and Sessions("key").proven(session, secret) == number
    for n in range(ENDED_MAX):
        sessions.end(digest_of("other"), str(n))
    assert sessions.over(secret, number), "nobody evicts another's session"
    for n in range(ENDED_MAX):
        sessions.end(secret, str(n))
    assert not sessions.over(secret, number) and sessions.over(secret, "0")


def made(id_: int, secret: str, expires_s: int = 0) -> Token:
    return Token(id_, "t", digest_of(secret), Right.HEAR, frozenset({"alice"}), 0, expires_s)


def test_token_is_found_by_secret_until_expired_or_revoked() -> None:
    book, secret = TokenBook(), new_secret(bytes(range(32)))
    assert secret == "mr_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"
    book.add(made(1, secret, expires_s=100))
    book.add(made(2, "other"))
    found = book.find(digest_of(secret), 99)
    assert found is not None and found.principal.key == "token/1"
    assert book.find(digest_of(secret), 100) is None and expired(found, 100)
    assert book.find(digest_of(secret[:-1]), 5) is None and book.find(digest_of(""), 5) is None
    book.remove(1)
    assert book.find(digest_of(secret), 5) is None and len(book) == 1
    assert secret not in repr(found)


@pytest.mark.parametrize("wall_s", [-(10**10), -3600, -1800, -1, 0, 1, 1_800_000_000, 2**31, 2**32, 2**40])
def test_token_expires_whatever_the_wall_clock_shows(wall_s: int) -> None:
    """A clock that was never set may show 1970 or earlier, and one that was set wrongly may show anything."""
    token = made(1, "s", expires_s=expiry(wall_s, 3600))
    assert not expired(token, wall_s) and not expired(token, wall_s + 3598)
    assert expired(token, wall_s + 3601) and expired(token, wall_s + 10**9)
    forever = made(2, "t", expires_s=expiry(wall_s, 0))
    assert not expired(forever, wall_s) and not expired(forever, wall_s + 10**10)


def test_expiry_times_are_parsed() -> None:
    assert [parse_expiry(t) for t in ("30s", "5m", "8h", "7d", "2w", "never")] == [
        30,
        300,
        28_800,
        604_800,
        1_209_600,
        0,
    ]
    for text in ("", "8", "0h", "-1h", "8 years"):
        with pytest.raises(ConfigError, match="expires"):
            parse_expiry(text)


def test_guessing_address_is_throttled_and_others_are_not() -> None:
    limit = FailureLimit(burst=3, every_ns=NS_PER_S)
    assert [limit.failed("evil", n) for n in range(5)] == [False, False, False, True, True]
    assert not limit.failed("good", 5)
    # Whoever was refused for it owes no more for that.
    assert [limit.failed("evil", 2 * NS_PER_S + n) for n in range(3)] == [False, False, True]
    for n in range(5000):
        limit.failed(f"host{n}", 0)
    assert len(limit._debts) <= limit.SOURCES_MAX


def test_ipv6_network_counts_as_one_address() -> None:
    limit = FailureLimit(burst=2)
    assert [limit.failed(f"2001:db8:1:2::{n}", 0) for n in range(3)] == [False, False, True]
    assert not limit.failed("2001:db8:1:3::1", 0)
    assert [limit.failed(text, 0) for text in ("192.0.2.1", "::ffff:192.0.2.1", "192.0.2.1")] == [False, False, True]


def test_any_text_has_a_digest() -> None:
    assert len({digest_of(text) for text in ("", "\udce9", "\ud800", "\0", "é")}) == 5


def test_persistent_guesser_is_not_evicted_by_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FailureLimit, "SOURCES_MAX", 3)
    limit = FailureLimit(burst=5, every_ns=NS_PER_S)
    for number in range(5):
        assert not limit.failed("10.0.0.1", 0)
        limit.failed(f"10.0.1.{number}", 0)
    assert limit.failed("10.0.0.1", 0)
