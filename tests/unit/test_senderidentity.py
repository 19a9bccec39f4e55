"""The sender on a connection must be the process that connected, and still be the same program."""

from __future__ import annotations

import os
import socket

import pytest
from msgspec.structs import replace

from millrace.io import senderidentity
from millrace.io.peers import identity_of
from millrace.io.senderidentity import SenderIdentity, watch_writers
from millrace.rights.grants import Identity

CONNECTED = Identity(os.getpid(), os.getuid(), "player", unproven=True)


def spoken(monkeypatch: pytest.MonkeyPatch, program: str) -> list[Identity]:
    """What a witness tells when the process that connected writes twice, and is now `program`."""
    told: list[Identity] = []
    monkeypatch.setattr(senderidentity, "identity_of", lambda pid, uid: Identity(pid, uid, program, unproven=True))
    ours, theirs = socket.socketpair()
    with ours, theirs:
        watch_writers(ours)
        watch = SenderIdentity(ours.fileno(), CONNECTED, told.append)
        for _ in range(2):
            if not watch.done:
                theirs.send(b"x")
                watch.reading()
                watch.read(len(ours.recv(1)))
        assert watch.done
    return told


def test_connecting_program_is_proven_by_its_first_message(monkeypatch: pytest.MonkeyPatch) -> None:
    assert spoken(monkeypatch, "player") == [Identity(os.getpid(), os.getuid(), "player")]


def test_process_that_executes_another_program_is_that_program(monkeypatch: pytest.MonkeyPatch) -> None:
    told = spoken(monkeypatch, "shell")
    assert [identity.program for identity in told] == ["shell", "shell"]
    assert [identity.unproven for identity in told] == [True, False]


def test_bytes_queued_before_look_up_prove_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The program that was looked up need not have written them: its process may have been another one then."""
    told: list[Identity] = []
    monkeypatch.setattr(senderidentity, "identity_of", lambda pid, uid: CONNECTED)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        watch_writers(ours)
        theirs.send(b"early")
        watch = SenderIdentity(ours.fileno(), CONNECTED, told.append)
        for _ in range(2):
            watch.reading()
            watch.read(len(ours.recv(3)))
            assert not watch.done and told == []
        theirs.send(b"x")
        watch.reading()
        watch.read(len(ours.recv(3)))
    assert watch.done and told == [Identity(os.getpid(), os.getuid(), "player")]


def test_sender_other_than_the_one_that_connected_is_looked_up_and_has_to_write_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[Identity] = []
    monkeypatch.setattr(senderidentity, "identity_of", lambda pid, uid: Identity(pid, uid, "player", unproven=True))
    ours, theirs = socket.socketpair()
    with ours, theirs:
        watch_writers(ours)
        watch = SenderIdentity(ours.fileno(), replace(CONNECTED, pid=os.getppid()), told.append)
        for _ in range(2):
            theirs.send(b"x")
            watch.reading()
            watch.read(len(ours.recv(1)))
    assert [(identity.pid, identity.unproven) for identity in told] == [(os.getpid(), True), (os.getpid(), False)]


def test_sender_that_could_not_be_seen_is_not_the_one_before() -> None:
    told: list[Identity] = []
    ours, theirs = socket.socketpair()
    with ours, theirs:
        watch_writers(ours)
        watch = SenderIdentity(ours.fileno(), CONNECTED, told.append)
        theirs.send(b"x")
        watch.reading()
        ours.recv(1)
        watch.reading()
        watch.read(1)
    assert watch.done and told == [Identity(0, os.getuid())]


def test_sender_in_another_pid_namespace_is_known_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Identity] = []
    monkeypatch.setattr(SenderIdentity, "reading", lambda self: setattr(self, "_writer", 0))
    ours, theirs = socket.socketpair()
    with ours, theirs:
        watch = SenderIdentity(ours.fileno(), identity_of(0, 1000), told.append)
        watch.reading()
        watch.read(1)
    assert watch.done and told == [Identity(0, 1000, sandbox="container:?")]
