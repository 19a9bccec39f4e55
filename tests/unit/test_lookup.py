"""Looking up a machine's socket: files that others put there can neither block the daemon nor lead it elsewhere."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from millrace.io import lookup
from millrace.io.lookup import LINKS_MAX, found_below


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A folder of a guest's own, with a socket in it and one beside it."""
    for name in ("vm", "vm/fs", "host"):
        (tmp_path / name).mkdir()
    with closing(socket.socket(socket.AF_UNIX)) as own, closing(socket.socket(socket.AF_UNIX)) as other:
        own.bind(str(tmp_path / "vm" / "own"))
        other.bind(str(tmp_path / "host" / "sock"))
        yield tmp_path


def reached(path: Path, *folders: Path) -> os.stat_result:
    with found_below(str(path), tuple(map(str, folders))) as found:
        return os.stat(found)


def make_links(place: Path) -> None:
    for name, target in (
        ("up", ".."), ("good", "up/vm/./own"), ("whole", f"{place}/vm/good"), ("loop", "loop"), ("out", "../host/sock"),
        ("none", "../host/nothing"), ("root", f"/proc/self/root{place}/vm/own"), ("into", "fs/x"),
        ("file", "own/x"), ("again", f"/proc/{os.getpid()}/root{place}/vm/own"),
    ):  # fmt: skip
        (place / "vm" / name).symlink_to(target)


def test_links_resolve_as_in_the_kernel(place: Path) -> None:
    make_links(place)
    own = (place / "vm" / "own").stat()
    for name in ("own", "good", "whole", "up/vm/own"):
        assert os.path.samestat(reached(place / "vm" / name, place / "vm"), own), name
    for name in ("own", "good", "whole", "root", "again"):
        assert os.path.samestat(reached(place / "vm" / name), own), name
    assert os.path.samestat(reached(place / "vm" / "out"), (place / "host" / "sock").stat())


def test_nothing_is_revealed_about_paths_outside(place: Path) -> None:
    make_links(place)
    for name in ("out", "none", "loop", "file", "root", "again"):
        with pytest.raises(FileNotFoundError):
            reached(place / "vm" / name, place / "vm")
    for path in (place / "host" / "sock", place / "vm"):
        with pytest.raises(FileNotFoundError):
            reached(path, place / "vm", place / "nothing")


def test_mounts_of_another_process_are_not_taken_for_ours(place: Path) -> None:
    """There anybody may have bound somebody else's socket to a name in a folder of their own."""
    (place / "vm" / "link").symlink_to(f"/proc/{os.getppid()}/root{place}/vm/own")
    with pytest.raises(FileNotFoundError):
        reached(place / "vm" / "link", place / "vm")


def test_guest_folder_of_another_user_is_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Anyone who can write to its parent folder can replace it by a link."""
    (place / "theirs").symlink_to("host")
    own = (place / "host" / "sock").stat()
    assert os.path.samestat(reached(place / "theirs" / "sock", place / "theirs"), own)
    if os.getuid() == 0:
        os.lchown(place / "theirs", 4711, -1)
    else:
        monkeypatch.setattr(os, "getuid", lambda: 4711)
    with pytest.raises(FileNotFoundError):
        reached(place / "theirs" / "sock", place / "theirs")


def test_user_file_systems_are_never_accessed(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FUSE: a lookup in it, a stat of what is in it, a link there that is read, may never end."""
    make_links(place)
    inside = os.fspath(place / "vm" / "fs")

    def is_inside(descriptor: int | None) -> bool:
        return descriptor is not None and os.readlink(f"/proc/self/fd/{descriptor}").startswith(inside)

    real_open, real_fstat = os.open, os.fstat

    def opened(path: Any, flags: int, *more: Any, dir_fd: int | None = None) -> int:
        assert not is_inside(dir_fd)
        return real_open(path, flags, *more, dir_fd=dir_fd)

    def looked_at(descriptor: int) -> os.stat_result:
        assert not is_inside(descriptor)
        return real_fstat(descriptor)

    before = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patch:
        patch.setattr(lookup, "mount_number", lambda descriptor: 2 if is_inside(descriptor) else 1)
        patch.setattr(lookup, "may_be_asked", lambda descriptor, pid: not is_inside(descriptor))
        patch.setattr(os, "open", opened)
        patch.setattr(os, "fstat", looked_at)
        for folders in ((), (place / "vm",)):
            for name in ("fs", "fs/x", "fs/x/y"):
                with pytest.raises(OSError, match="FUSE"):
                    reached(place / "vm" / name, *folders)
        with pytest.raises(OSError, match="FUSE"):
            reached(place / "vm" / "into")
        with pytest.raises(FileNotFoundError):
            reached(place / "vm" / "into", place / "vm")
        with pytest.raises(OSError, match="FUSE"):
            reached(place / "vm" / "fs" / "x", place / "vm" / "fs")
    assert len(os.listdir("/proc/self/fd")) == before


def test_link_loops_end(place: Path) -> None:
    for n in range(LINKS_MAX + 1):
        (place / "vm" / f"l{n}").symlink_to(f"l{n + 1}")
    (place / "vm" / f"l{LINKS_MAX + 1}").symlink_to("own")
    assert reached(place / "vm" / "l2")
    with pytest.raises(OSError, match="Too many levels"):
        reached(place / "vm" / "l1")


def test_owner_doors_open_even_if_mounts_are_unreadable(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup, "are_known", lambda: False)
    with found_below(str(place / "vm" / "own"), ()) as found:
        assert found == str(place / "vm" / "own")
    with found_below("\0abstract", ()) as found:
        assert found == "\0abstract"
