"""The process at the other end of a connection on this machine, as the kernel knows it."""

from __future__ import annotations

import configparser
import os
import re
import signal
import stat
from pathlib import Path

from millrace.rights.grants import Identity

_SNAP = re.compile(r"/snap\.([A-Za-z0-9-]+)[.]")
_CONTAINER = re.compile(
    r"(?:docker|libpod|crio|cri-containerd)[-/]([0-9a-f]{12})"
    r"|/lxc(?:\.payload)?[./]([\w.-]{1,64})"
    r"|/machine-([\w.-]{1,64})\.scope"
)


def is_ours(uid: int | None) -> bool:
    """Whether a peer's user is this one or root.

    In a user namespace the kernel shows every user that has no number there as one and the same (user_namespaces(7)):
    that one proves nothing, whoever we are ourselves.
    """
    return uid is not None and uid in (os.getuid(), 0) and uid != _overflow_uid()


def _overflow_uid() -> int:
    """The number that stands for users without one here; -1 where everybody has one."""
    try:
        begin, outside, count = map(int, Path("/proc/self/uid_map").read_text().split()[:3])
        if (begin, outside, count) == (0, 0, 2**32 - 1):
            return -1
        return int(Path("/proc/sys/kernel/overflowuid").read_text())
    except (OSError, ValueError):
        return -1


def program_of(pid: int) -> str:
    """What a process runs: a name if the file is the system's own, else its whole path; empty if it can't be told.

    From proc(5), /proc/PID/exe, whose link leads to the file itself. What a process calls itself is not asked.
    """
    try:
        exe = Path(f"/proc/{pid}/exe")
        # What is no UTF-8 is shown as escapes: rules, messages and the store are made of text.
        path = os.fsencode(exe.readlink()).decode(errors="backslashreplace").removesuffix(" (deleted)")
        status = exe.stat()
    except OSError:
        return ""
    system = status.st_uid == 0 and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return Path(path).name if system else path


def _read_in(folder: int, name: str, size: int) -> str:
    """A small regular file in a folder of somebody else's: no links are followed, nothing is waited for."""
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(f"{name} is not a file")
        return os.read(descriptor, size).decode("utf-8", "replace")
    finally:
        os.close(descriptor)


def _flatpak(pid: int) -> str:
    """The application's id, from /.flatpak-info in the process's own root, as portals read it (flatpak-run(1))."""
    try:
        root = os.open(f"/proc/{pid}/root", os.O_RDONLY | os.O_DIRECTORY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        text = _read_in(root, ".flatpak-info", 64 * 1024)
    except OSError:
        return ""
    finally:
        os.close(root)
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        parser.read_string(text)
    except configparser.Error:
        return "flatpak:?"
    return f"flatpak:{parser.get('Application', 'name', fallback='?')[:200]}"


def sandbox_of_cgroup(text: str) -> str:
    """snap:NAME or container:ID from /proc/PID/cgroup (cgroups(7)); empty where it names neither."""
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
    """Whether a process lives in another mount namespace than this one: its files are not ours."""
    try:
        return os.readlink(f"/proc/{pid}/ns/mnt") != os.readlink("/proc/self/ns/mnt")
    except OSError:
        return False


def sandbox_of(pid: int) -> str:
    """flatpak:APP, snap:NAME or container:ID; empty for a process like any other."""
    flatpak = _flatpak(pid)
    if flatpak:
        return flatpak
    try:
        cgroup = Path(f"/proc/{pid}/cgroup").read_text(errors="replace")[:65536]
        own = Path("/proc/self/cgroup").read_text(errors="replace")
    except OSError:
        cgroup = own = ""
    named = "" if cgroup == own else sandbox_of_cgroup(cgroup)
    return named or ("container:?" if _other_world(pid) else "")


def identity_of(pid: int, uid: int, pidfd: int | None = None) -> Identity:
    """Who a process is. With its descriptor (SO_PEERPIDFD) a number that was given to another since is noticed."""
    found = Identity(pid, uid, program_of(pid), sandbox_of(pid), unproven=True)
    if pidfd is not None:
        try:
            signal.pidfd_send_signal(pidfd, 0)
        except ProcessLookupError:
            return Identity(pid, uid)
        except PermissionError:
            return found
    return found
