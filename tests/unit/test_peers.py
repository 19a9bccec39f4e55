"""Identifying a process by files that others may have made."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from millrace.io import mounts, peers
from millrace.io.mounts import Mount, may_be_asked, mount_of
from millrace.io.peers import identity_of, program_of, sandbox_of
from millrace.rights.grants import Identity

OURS = b"21 1 254:0 / / rw - ext4 /dev/vda rw\n22 21 0:40 / /home/a/x\\040y rw,nosuid shared:3 - fuse.sshfs b: rw\n"
THEIRS = b"31 1 0:50 / / rw - tmpfs tmpfs rw\n32 31 0:51 / /a rw - fuse slow rw\n33 31 0:52 / /b rw - overlay o rw\n"


@pytest.fixture
def sleeper() -> Iterator[int]:
    process = subprocess.Popen(["sleep", "60"])
    try:
        # Until it is exec'd it is still what began it.
        while program_of(process.pid) != "sleep":
            pass
        yield process.pid
    finally:
        process.kill()
        process.wait()


def test_mount_is_found_by_its_id() -> None:
    assert mount_of(21, OURS) == Mount("254:0", "ext4") and mount_of(22, OURS) == Mount("0:40", "fuse.sshfs")
    assert mount_of(1, OURS) is None and mount_of(2, OURS) is None and mount_of(0, b"") is None
    assert mount_of(5, b"5 1 0:1 / /\n") is None and mount_of(5, b"5 - x") is None


@pytest.mark.parametrize(
    ("number", "asked"), [(21, True), (22, False), (31, True), (32, False), (33, False), (99, False), (0, False)]
)
def test_only_system_file_systems_are_read(number: int, asked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """FUSE, or in a world of their own anything over it: such a file can hold up whoever asks it, for good."""
    monkeypatch.setattr(mounts, "mount_number", lambda descriptor: number)
    monkeypatch.setattr(mounts, "_root", lambda: 7)
    monkeypatch.setattr(mounts, "_table", lambda process: OURS if process == "self" else THEIRS)
    assert may_be_asked(0, 4711) is asked


def test_root_on_fuse_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container without rights of root's has its root on fuse-overlayfs."""
    table = b"7 1 0:9 / / rw - fuse.fuse-overlayfs o rw\n8 7 0:9 /usr /usr rw - fuse.fuse-overlayfs o rw\n"
    monkeypatch.setattr(mounts, "_root", lambda: 7)
    monkeypatch.setattr(mounts, "_table", lambda process: table)
    for number in (7, 8):
        monkeypatch.setattr(mounts, "mount_number", lambda descriptor, number=number: number)
        assert may_be_asked(0, 4711)


def test_files_on_user_file_systems_are_not_read(sleeper: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """An AppImage can say that root owns what is in it."""

    asked: list[Any] = []
    monkeypatch.setattr(peers, "may_be_asked", lambda descriptor, pid: False)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fstat", asked.append)
        program, sandbox = program_of(sleeper), sandbox_of(sleeper)
    assert program.startswith("/") and program.endswith("bin/sleep") and "flatpak" not in sandbox
    assert not asked, "it may never answer"


def test_flatpak_like_root_in_container_is_still_that_container(monkeypatch: pytest.MonkeyPatch) -> None:
    own = "0::/system.slice/millrace.service\n"
    cgroups = {"self": own, "9": "0::/system.slice/docker-0123456789abcdef0123.scope\n", "8": own}
    monkeypatch.setattr(peers, "_flatpak_info", lambda pid: "[Application]\nname=org.mozilla.firefox\n")
    monkeypatch.setattr(Path, "read_text", lambda self, **how: cgroups[self.parent.name])
    assert sandbox_of(9) == "container:0123456789ab"
    assert sandbox_of(8) == "flatpak:org.mozilla.firefox"
    # We are in that container too: it tells nobody apart.
    cgroups["self"] = cgroups["9"]
    assert sandbox_of(9) == "flatpak:org.mozilla.firefox"


def test_nobody_is_identified_if_proc_shows_other_processes(sleeper: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after `unshare --pid --fork` without a /proc of its own."""
    assert identity_of(sleeper, 0).names == ("sleep",)
    monkeypatch.setattr(os, "getpid", lambda: 1)
    assert identity_of(sleeper, 0).names == ()


def test_process_without_a_number_here_is_in_another_container() -> None:
    """The kernel reports 0 for it (pid_namespaces(7)), and refuses a signal to its pidfd with EINVAL."""
    found = identity_of(0, 1000, 12345)
    assert found == Identity(0, 1000, sandbox="container:?", unproven=True)
    assert found.names == ("container:?", "container:*")


def test_process_that_cannot_be_asked_for_is_unknown(sleeper: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(pidfd: int, number: int) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(peers.signal, "pidfd_send_signal", refused)
    assert identity_of(sleeper, 0, 12345).names == ()


def test_process_that_exits_during_look_up_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its pid, and so what was read, may be another process's by then."""
    process = subprocess.Popen(["sleep", "60"])
    pidfd = os.pidfd_open(process.pid)

    def ends(pid: int) -> str:
        process.kill()
        process.wait()
        return "sleep"

    try:
        monkeypatch.setattr(peers, "sandbox_of", lambda pid: "")
        monkeypatch.setattr(peers, "program_of", lambda pid: "sleep")
        assert identity_of(process.pid, 0, pidfd).names == ("sleep",)
        monkeypatch.setattr(peers, "program_of", ends)
        assert identity_of(process.pid, 0, pidfd).names == ()
    finally:
        os.close(pidfd)
        process.kill()
        process.wait()
