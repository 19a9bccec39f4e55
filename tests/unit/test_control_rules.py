"""The program that a rule is for: never one that no program can be."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from millrace.control import rules
from millrace.control.rules import PROGRAM_MAX
from millrace.errors import ConfigError
from millrace.guest.notfound import NotFound
from millrace.rights.grants import ANY, Identity, Permission, Subject, Verdict
from tests.hall import Hall, with_guests

RULE: dict[str, Any] = {"guest": "alice", "what": "camera", "allow": False}
NOBODY = "no such program is connected now"


@pytest.fixture
def owned_by_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files here are root's, whoever runs the tests."""
    monkeypatch.setattr("millrace.io.peers._is_the_systems", lambda status: not status.st_mode & stat.S_IWGRP)


def program_at(path: Path, mode: int = 0o755) -> Path:
    path.write_bytes(b"")
    path.chmod(mode)
    return path


@pytest.mark.usefixtures("owned_by_root")
def test_path_is_stored_as_the_name_that_the_program_is_known_by(tmp_path: Path) -> None:
    system, users = program_at(tmp_path / "tool_x"), program_at(tmp_path / "mine", 0o775)
    (tmp_path / "link").symlink_to(system)
    (tmp_path / "other").symlink_to(users)
    text = program_at(tmp_path / "text", 0o644)
    by_name, by_file = "system programs are known by name", "programs are known by their file"

    async def test(hall: Hall) -> None:
        for given, program, why in [
            (system, "tool_x", by_name), (tmp_path / "link", "tool_x", by_name),
            (tmp_path / "other", f"{users}", by_file), (users, f"{users}", ""), (text, f"{text}", ""),
            (tmp_path / "none", f"{tmp_path}/none", ""),
        ]:  # fmt: skip
            done = await hall.ask("grant", program=str(given), **RULE)
            assert done.program == program and done.note == (f"stored as {program}: {why}; " if why else "") + NOBODY
            assert [rule.program for rule in await hall.ask("grants")] == [program]
            assert (await hall.ask("grant", program=str(given), **RULE | {"allow": None})).program == program
            assert await hall.ask("grants") == []

    with_guests(tmp_path, test)


@pytest.mark.usefixtures("owned_by_root")
def test_bare_name_of_a_link_is_stored_as_the_program_that_it_leads_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As parec is a link to pacat: a rule for parec would never apply."""
    monkeypatch.setattr(rules, "SYSTEM", f"{tmp_path}")
    program_at(tmp_path / "pacat")
    (tmp_path / "parec").symlink_to("pacat")

    async def test(hall: Hall) -> None:
        done = await hall.ask("grant", program="parec", **RULE)
        assert (done.program, done.note) == ("pacat", f"stored as pacat: {tmp_path}/parec is a link to it; {NOBODY}")
        assert (await hall.ask("grant", program="pacat", **RULE)).note == NOBODY

    with_guests(tmp_path, test)


def test_rule_for_what_is_connected_is_made_without_a_word(tmp_path: Path) -> None:
    async def test(hall: Hall) -> None:
        connected: Any = Mock(subject=Subject(Identity(sandbox="snap:x")))
        hall.worker.sessions[connected] = None
        notes = [(await hall.ask("grant", program=name, **RULE)).note for name in ("snap:x", "snap:*", ANY, "snap:y")]
        assert notes == ["", "", "", NOBODY]
        assert (await hall.ask("grant", **RULE)).program == ANY

    with_guests(tmp_path, test)


def test_name_that_no_program_can_have_is_refused(tmp_path: Path) -> None:
    async def test(hall: Hall) -> None:
        alices = await hall.ask("token.new", may="hear", guests=["alice"])
        bobs = await hall.ask("token.new", may="hear", guests=["bob"])
        number = alices.id.removeprefix("token/")
        for program, why in [
            ("nope/x", "'nope/x' matches no program: give its absolute path, or its bare name"),
            ("", "the program is empty"), (" ", "the program is empty"),
            ("flatpack:x", "names with a colon are flatpak:NAME, snap:NAME, container:NAME, token:NAME"),
            ("flatpak:", "matches no program"), ("x" * (PROGRAM_MAX + 1), "program: 4096 characters at most"),
            ("token:999", f"no token for guest alice is 'token:999'; there are: token:{number}$"),
            (bobs.id.replace("/", ":"), "no token for guest alice"), (f"token:0{number}", "no token for guest alice"),
        ]:  # fmt: skip
            with pytest.raises(ConfigError, match=why):
                await hall.ask("grant", program=program, **RULE)
        assert await hall.ask("grants") == []
        for program in ("/opt/x/tool", "no_such_tool", "flatpak:org.x/stable", f"token:{number}", "token:*"):
            assert (await hall.ask("grant", program=program, **RULE)).program == program
        long = await hall.ask("grant", program="container:" + "0123456789abcdef" * 4, **RULE)
        assert long.program == "container:0123456789ab" and "first 12 digits of their ID" in long.note

    with_guests(tmp_path, test)


def test_rule_that_an_older_version_stored_by_a_path_can_be_deleted(tmp_path: Path) -> None:
    async def test(hall: Hall) -> None:
        old = os.path.realpath(shutil.which("sh") or "/bin/sh")
        await hall.worker.grant(hall.worker.guests["alice"], Permission.CAMERA, old, Verdict.DENY)
        await hall.ask("grant", program=old, **RULE | {"allow": None})
        assert await hall.ask("grants") == []
        with pytest.raises(NotFound, match="guest alice has no such rule"):
            await hall.ask("grant", program=old, **RULE | {"allow": None})

    with_guests(tmp_path, test)
