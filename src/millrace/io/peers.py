"""The process at the other end of a connection on this machine, as the kernel knows it."""

from __future__ import annotations

import configparser
import errno
import os
import re
import signal
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from millrace.io.lookup import found_below
from millrace.io.mounts import may_be_asked
from millrace.rights.grants import Identity

SHEBANG_MAX = 256
"""How much of a script's first line the kernel reads (BINPRM_BUF_SIZE)."""
_SNAP = re.compile(r"/snap\.([A-Za-z0-9-]+)[.]")
_CONTAINER = re.compile(
    r"(?:docker|libpod|crio|cri-containerd)[-/]([0-9a-f]{12})"
    r"|/lxc(?:\.payload)?[./]([\w.-]{1,64})"
    r"|/machine-([\w.-]{1,64})\.scope"
)


def is_ours(uid: int | None) -> bool:
    """Whether a peer's user is this one or root.

    In a user namespace the kernel shows all users without a mapping as one overflow UID (user_namespaces(7)). That
    UID proves nothing, even if it is our own.
    """
    return uid is not None and uid in (os.getuid(), 0) and uid != _overflow_uid()


def _overflow_uid() -> int:
    """The overflow UID, which stands for unmapped users; -1 if all users are mapped."""
    try:
        begin, outside, count = map(int, Path("/proc/self/uid_map").read_text().split()[:3])
        if (begin, outside, count) == (0, 0, 2**32 - 1):
            return -1
        return int(Path("/proc/sys/kernel/overflowuid").read_text())
    except (OSError, ValueError):
        return -1


@contextmanager
def _opened(path: str, folder: int | None = None) -> Iterator[int]:
    """Open a process's file with O_PATH only, which makes no request to its file system and can't hang."""
    follow = 0 if folder is None else os.O_NOFOLLOW
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC | follow, dir_fd=folder)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def program_of(pid: int) -> str:
    """A process's program: a bare name if the file belongs to the system, else its full path; empty if unknown.

    It is read from /proc/PID/exe (proc(5)), which links to the file itself. What a process calls itself is not trusted.
    """
    try:
        with _opened(f"/proc/{pid}/exe") as exe:
            # Escape invalid UTF-8: rules, messages and the store hold text.
            path = os.fsencode(os.readlink(f"/proc/self/fd/{exe}")).decode(errors="backslashreplace")
            system = may_be_asked(exe, pid) and _is_the_systems(os.fstat(exe))
    except OSError:
        return ""
    path = path.removesuffix(" (deleted)")
    return Path(path).name if system else path


class ProgramFile(NamedTuple):
    """A program's file."""

    program: str
    """How a process is known that runs it (`program_of`)."""
    interpreter: str = ""
    """What a script names as its interpreter. Its process runs that, so it is known as that."""


def program_file(path: str) -> ProgramFile:
    """The program's file that `path` leads to; OSError if there is none, ENOEXEC if it is none."""
    with found_below(path, ()) as found:
        status, real = os.stat(found), os.fsencode(os.readlink(found)).decode(errors="backslashreplace")
        if not stat.S_ISREG(status.st_mode) or not status.st_mode & 0o111:
            raise OSError(errno.ENOEXEC, f"{path} is no program")
        interpreter = _interpreter(found)
    return ProgramFile(Path(real).name if _is_the_systems(status) else real, interpreter)


def _interpreter(path: str) -> str:
    """The interpreter that a script's first line names (execve(2)); empty for other files, and for unreadable ones."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return ""
    with open(descriptor, "rb", buffering=0) as file:
        head = file.read(SHEBANG_MAX) or b""
    if not head.startswith(b"#!"):
        return ""
    words = head[2:].partition(b"\n")[0].decode(errors="backslashreplace").split() or ["sh"]
    if Path(words[0]).name == "env":
        # It finds and executes the program that its first operand names.
        words = [word for word in words[1:] if not word.startswith("-") and "=" not in word] or words
    return words[0]


def _is_the_systems(status: os.stat_result) -> bool:
    # A file that only root can have written has the name that the distribution gave it.
    return status.st_uid == 0 and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


# Each step begins at the descriptor of the last one: a path would be looked up anew, and the process may have changed
# what it leads to.
def _flatpak_info(pid: int) -> str:
    """The contents of the file that flatpak puts into an application's root; OSError if there is none.

    It is a small regular file on a file system that the kernel serves itself. Anything else there is not accessed.
    """
    with _opened(f"/proc/{pid}/root") as root:
        if not may_be_asked(root, pid):
            raise OSError("the root file system is served by a program")
        with _opened(".flatpak-info", root) as info:
            if not may_be_asked(info, pid) or not stat.S_ISREG(os.fstat(info).st_mode):
                raise OSError("no file")
            with open(f"/proc/self/fd/{info}", "rb") as file:
                return file.read(64 * 1024).decode("utf-8", "replace")


def _flatpak(pid: int) -> str:
    """The application's ID from /.flatpak-info in the process's root, as portals read it (flatpak-run(1))."""
    try:
        text = _flatpak_info(pid)
    except OSError:
        return ""
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        parser.read_string(text)
    except configparser.Error:
        return "flatpak:?"
    return f"flatpak:{parser.get('Application', 'name', fallback='?')[:200]}"


def sandbox_of_cgroup(text: str) -> str:
    """snap:NAME or container:ID from /proc/PID/cgroup (cgroups(7)); empty if it names neither."""
    for line in text.splitlines():
        path = line.rpartition(":")[2]
        found = _SNAP.search(path)
        if found:
            return f"snap:{found[1]}"
        found = _CONTAINER.search(path)
        if found:
            return f"container:{found[1] or found[2] or found[3]}"
    return ""


def _other_world(pid: int) -> bool:
    """Whether a process is in another mount namespace, where paths mean other files."""
    try:
        return os.readlink(f"/proc/{pid}/ns/mnt") != os.readlink("/proc/self/ns/mnt")
    except OSError:
        return False


def _cgroup(pid: int) -> str:
    """The snap or container that a process runs in, unless this process runs in the same one."""
    try:
        named = sandbox_of_cgroup(Path(f"/proc/{pid}/cgroup").read_text(errors="replace")[:65536])
        return "" if named == sandbox_of_cgroup(Path("/proc/self/cgroup").read_text(errors="replace")) else named
    except OSError:
        return ""


def sandbox_of(pid: int) -> str:
    """flatpak:APP, snap:NAME or container:ID; empty for a process outside any sandbox.

    The control group comes first: a process can't leave it, whereas anybody in a container can fake a flatpak's root.
    """
    return _cgroup(pid) or _flatpak(pid) or ("container:?" if _other_world(pid) else "")


def _numbers_are_ours() -> bool:
    """Whether /proc belongs to this PID namespace. If a namespace was created without remounting /proc, the PIDs in it
    mean other processes than those that the kernel reports to us (pid_namespaces(7))."""
    try:
        return Path("/proc/self").readlink().name == str(os.getpid())
    except OSError:
        return False


def identity_of(pid: int, uid: int, pidfd: int | None = None) -> Identity:
    """A process's identity. With its pidfd (SO_PEERPIDFD), a PID that has been reused since is noticed."""
    if pid == 0:
        # The kernel reports 0 for a process that has no number in this PID namespace (pid_namespaces(7)): it is beside
        # or outside the container that this one runs in.
        return Identity(0, uid, sandbox="container:?", unproven=True)
    if not _numbers_are_ours():
        return Identity(pid, uid)
    found = Identity(pid, uid, program_of(pid), sandbox_of(pid), unproven=True)
    # Asked last. While the process exists its PID can't be given to another, so if it still exists now, what was read
    # from /proc was its own.
    if pidfd is not None:
        try:
            signal.pidfd_send_signal(pidfd, 0)
        except PermissionError:
            return found
        except OSError:
            # It has gone, or nothing can be found out about it.
            return Identity(pid, uid)
    return found
