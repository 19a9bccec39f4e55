"""The program that a rule is for: never one that no program can be."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from msgspec import UNSET

from millrace.control import rules
from millrace.control.restored import restore
from millrace.control.results import RuleSet
from millrace.control.rules import PROGRAM_MAX
from millrace.errors import ConfigError
from millrace.guest.notfound import NotFound
from millrace.rights.grants import ANY, Identity, Permission, Subject, Verdict
from millrace.rights.model import Right
from tests.hall import Hall, guest_of, with_guests

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
    by_name, by_file = "system programs are known by name", "programs are known by their file"

    async def test(hall: Hall) -> None:
        for given, program, why in [
            (system, "tool_x", by_name), (tmp_path / "link", "tool_x", by_name),
            (tmp_path / "other", f"{users}", by_file), (users, f"{users}", ""),
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
            ("flatpak:", "matches no program"), (".", "bare name"), ("..", "bare name"), ("firefox ", "with a space"),
            ("fire*", "there are no other patterns"), ("fire?", "no other patterns"), ("snap:f*", "no other patterns"),
            ("x" * 256, "255 bytes at most"), ("ä" * 128, "255 bytes at most"), ("x\0", "a NUL"),
            ("x" * (PROGRAM_MAX + 1), "program: 4096 characters at most"),
            ("token:999", f"no token for guest alice is 'token:999'; there are: token:{number}$"),
            (bobs.id.replace("/", ":"), "no token for guest alice"), (f"token:0{number}", "no token for guest alice"),
        ]:  # fmt: skip
            with pytest.raises(ConfigError, match=why):
                await hall.ask("grant", program=program, **RULE)
        assert await hall.ask("grants") == []
        for program in ("no_such_tool", "x" * 255, "container:?", "flatpak:org.x/stable", f"token:{number}", "token:*"):
            assert (await hall.ask("grant", program=program, **RULE)).program == program
        long = await hall.ask("grant", program="container:" + "0123456789abcdef" * 4, **RULE)
        assert long.program == "container:0123456789ab" and "first 12 digits of their ID" in long.note

    with_guests(tmp_path, test)


@pytest.mark.usefixtures("owned_by_root")
def test_path_that_leads_to_no_program_is_refused_in_the_same_words(tmp_path: Path) -> None:
    """Whoever may make rules in one guest does not learn from it what there is on this machine."""
    program_at(tmp_path / "text", 0o644)
    (tmp_path / "folder").mkdir()
    (tmp_path / "round").symlink_to("round")

    async def test(hall: Hall) -> None:
        for name in ("text", "folder", "round", "none", "none/tool", "text/tool", "x" * 256, "a\0b", "fire*"):
            with pytest.raises(ConfigError, match=r"matches no program: none is there\. If one will be, owned by root"):
                await hall.ask("grant", program=f"{tmp_path}/{name}", **RULE)
        for program in ("/", "/usr/bin", "/usr/bin/..", "/tmp/"):
            with pytest.raises(ConfigError, match="matches no program: none is there"):
                await hall.ask("grant", program=program, **RULE)
        assert await hall.ask("grants") == []
        program_at(tmp_path / "none")
        assert (await hall.ask("grant", program=f"{tmp_path}/none", **RULE)).program == "none"

    with_guests(tmp_path, test)


def test_path_of_connected_program_is_taken_though_its_file_has_gone(tmp_path: Path) -> None:
    async def test(hall: Hall) -> None:
        connected: Any = Mock(subject=Subject(Identity(program="/opt/gone/tool")))
        hall.worker.sessions[connected] = None
        assert await hall.ask("grant", program="/opt/gone/tool", **RULE) == RuleSet(program="/opt/gone/tool")
        assert [rule.note for rule in await hall.ask("grants")] == [UNSET]

    with_guests(tmp_path, test)


def test_path_that_can_not_be_looked_up_is_stored_with_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(path: str) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    monkeypatch.setattr(rules, "program_file", forbidden)

    async def test(hall: Hall) -> None:
        done = await hall.ask("grant", program="/home/b/tool", **RULE)
        assert done.program == "/home/b/tool"
        assert done.note.startswith(
            "it can't be looked up (Permission denied), and the rule is for the file of that path"
        )
        for program in ("/home/b/../b/tool", "/home//b/tool", "/home/b/tool/"):
            with pytest.raises(ConfigError, match="give the path of the file itself"):
                await hall.ask("grant", program=program, **RULE)

    with_guests(tmp_path, test)


def test_script_is_known_by_its_interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule for its file would never apply. One for a system's script may be for the program that it starts."""
    monkeypatch.setattr(rules, "SYSTEM", f"{tmp_path}")
    monkeypatch.setattr("millrace.io.peers._is_the_systems", lambda status: not status.st_mode & stat.S_IWGRP)
    program_at(tmp_path / "dash")
    (tmp_path / "sh").symlink_to("dash")

    async def test(hall: Hall) -> None:
        script, system = program_at(tmp_path / "mine", 0o775), program_at(tmp_path / "fox")
        for first, known in [
            (f"#!{tmp_path}/sh -e", "dash"), ("#! /usr/bin/env -S A=1 sh -e", "dash"),
            ("#!/nowhere/perl", "/nowhere/perl"), ("#!", "dash"), ("#!/usr/bin/env lua", "lua"),
        ]:  # fmt: skip
            script.write_text(f"{first}\nexec true\n")
            with pytest.raises(ConfigError, match=f"it is a script and runs as its interpreter, '{known}'"):
                await hall.ask("grant", program=f"{script}", **RULE)
        system.write_text(f"#!{tmp_path}/sh\n")
        runs_as = f"{system} is a script and runs as its interpreter, dash: the rule is for a fox that it starts"
        assert await hall.ask("grant", program="fox", **RULE) == RuleSet(program="fox", note=f"{runs_as}; {NOBODY}")
        done = await hall.ask("grant", program=f"{system}", **RULE)
        assert done.note == f"stored as fox: system programs are known by name; {runs_as}; {NOBODY}"

    with_guests(tmp_path, test)


def test_rule_that_an_older_version_stored_and_never_applies_is_listed_with_the_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    system = os.path.realpath(shutil.which("sh") or "/bin/sh")
    wrong = {
        system: f"known as '{Path(system).name}', system programs",
        "/opt/none": "none is there",
        "fire*": "patterns",
    }

    async def test(hall: Hall) -> None:
        alice = hall.worker.guests["alice"]
        for program in (*wrong, "tool", ANY):
            await hall.worker.grant(alice, Permission.CAMERA, program, Verdict.DENY)
        listed = {rule.program: rule.note for rule in await hall.ask("grants")}
        assert all(why in str(listed.pop(program)) for program, why in wrong.items())
        assert listed == {"tool": UNSET, ANY: UNSET}
        told = {rule.note for rule in await hall.ask("grants", guest_of(Right.SEE))}
        assert told == {UNSET}
        restore(alice, hall.worker.store.guest("alice"))
        assert len(caplog.messages) == len(wrong)
        for program, why in wrong.items():
            begin = f"guest alice: a rule about camera: '{program}' matches no program: "
            assert any(text.startswith(begin) and why in text for text in caplog.messages)
        for program in wrong:
            assert (await hall.ask("grant", program=program, **RULE | {"allow": None})).program == program
        assert {rule.program for rule in await hall.ask("grants")} == {"tool", ANY}

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
