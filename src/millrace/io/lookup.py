"""Looks up files at untrusted paths, component by component.

A path may lead onto a user's own file system (FUSE, see io/mounts.py). Looking into a directory there, following a link
or connecting to a socket makes a request to that file system, which may never answer. Opening a name with O_PATH in a
directory that is safe does not. So each step starts from the descriptor that the last one found, and the mount is
checked before anything else is asked of it.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

from millrace.io.mounts import are_known, is_proc, may_be_asked, mount_number

LINKS_MAX = 40
"""The kernel's own limit, path_resolution(7)."""
_NEVER = "a user's program serves that file system (FUSE) and may never answer; put the socket on another one"
_LOOK = os.O_PATH | os.O_CLOEXEC
TrustsLink = Callable[[os.stat_result], bool]


class _Walk:
    """A walk from the root, or from the current directory, to one file."""

    def __init__(self, path: str, trusts_link: TrustsLink, foreign: bool) -> None:
        """With `foreign`, the path may lead into another process's mounts (/proc/PID/root)."""
        self._trusts_link, self._foreign = trusts_link, foreign
        self._names = deque(path.split("/"))
        self.links = self._pid = 0
        self.at = os.open("/" if path.startswith("/") else ".", _LOOK)

    def close(self) -> None:
        """Close the current descriptor."""
        os.close(self.at)

    def go(self) -> None:
        """Walk to the end; raises OSError. Afterwards it is safe to make requests to what `at` refers to."""
        while self._names:
            name = self._names.popleft()
            if name not in ("", "."):
                self._step(name, bool(self._names))

    def _step(self, name: str, more: bool) -> None:
        if name.isdigit() and len(name) < 10 and self._foreign and is_proc(self.at):
            self._pid = int(name)
        # `finally` closes whichever of the two descriptors is not the current place: `found` and `at` are exchanged on
        # the way on.
        found = self._opened(name, more)
        try:
            status = self._asked(found)
            if not stat.S_ISLNK(status.st_mode):
                found, self.at = self.at, found
                return
            self._follow(name, found, status)
        finally:
            os.close(found)

    def _opened(self, name: str, more: bool) -> int:
        # O_DIRECTORY triggers an automount (autofs), so that the mounted directory is found.
        if more:
            with suppress(NotADirectoryError):
                return os.open(name, _LOOK | os.O_NOFOLLOW | os.O_DIRECTORY, dir_fd=self.at)
        return os.open(name, _LOOK | os.O_NOFOLLOW, dir_fd=self.at)

    def _asked(self, found: int) -> os.stat_result:
        if mount_number(found) != mount_number(self.at) and not may_be_asked(found, self._pid):
            raise OSError(errno.EOPNOTSUPP, _NEVER)
        return os.fstat(found)

    def _follow(self, name: str, link: int, status: os.stat_result) -> None:
        self.links += 1
        if self.links > LINKS_MAX or not self._trusts_link(status):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        if is_proc(link):
            self._jump(name)
            return
        target = os.readlink("", dir_fd=link)
        if target.startswith("/"):
            os.close(self.at)
            self.at = os.open("/", _LOOK)
        self._names.extendleft(reversed(target.split("/")))

    def _jump(self, name: str) -> None:
        """Follow a magic link in /proc. It leads to the file itself, whatever its text says, and possibly into another
        mount namespace, where the same names mean something else."""
        if not self._foreign:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        found = os.open(name, _LOOK, dir_fd=self.at)
        try:
            self._asked(found)
        except BaseException:
            os.close(found)
            raise
        os.close(self.at)
        self.at = found


@contextmanager
def _walked(path: str, trusts_link: TrustsLink, foreign: bool) -> Iterator[_Walk]:
    walk = _Walk(path, trusts_link, foreign)
    try:
        yield walk
    finally:
        walk.close()


def _name_of(descriptor: int) -> str:
    return os.readlink(f"/proc/self/fd/{descriptor}")


def _any_link(status: os.stat_result) -> bool:
    del status
    return True


def _our_link(status: os.stat_result) -> bool:
    """Whether root or this user made it. Otherwise a guest that can write to its folder's parent could redirect it."""
    return status.st_uid in (0, os.getuid())


def _real_folders(folders: tuple[str, ...]) -> list[str]:
    """The folders with links resolved; missing ones are left out."""
    found = []
    for folder in folders:
        with suppress(OSError), _walked(folder, _our_link, foreign=False) as walk:
            walk.go()
            found.append(_name_of(walk.at))
    return found


@contextmanager
def found_below(path: str, folders: tuple[str, ...]) -> Iterator[str]:
    """Yields a path to open instead of `path`: it refers to the file that is there now, if it is in one of `folders`.

    Links are followed first, and the file found is checked, so no link can be changed in between. A file elsewhere is
    reported as missing (OSError), whether it exists or not. Without folders any path is accepted. The yielded path is
    valid inside the `with` block only.
    """
    if not folders and (path.startswith("\0") or not are_known()):
        yield path
        return
    with ExitStack() as held:
        walk = held.enter_context(_walked(path, _any_link, foreign=not folders))
        try:
            walk.go()
            if folders and not _is_below(_name_of(walk.at), _real_folders(folders)):
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        except OSError as error:
            # Details are given only about the path as named, not about where a link led.
            if not folders or not walk.links:
                raise
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)) from error
        yield f"/proc/self/fd/{walk.at}"


def _is_below(path: str, folders: list[str]) -> bool:
    return any(path.startswith(f"{folder}/") for folder in folders)
