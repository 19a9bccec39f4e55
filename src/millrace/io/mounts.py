"""Tells whether a file is safe to access, or whether some program (FUSE) would have to answer first.

A user's FUSE file system is a program. If it does not answer, every process that accesses it hangs for good: not even
SIGKILL ends that wait. So the daemon accesses a file at an untrusted path only once it knows the file system, which the
kernel itself reports (/proc/PID/mountinfo, proc(5)).
"""

from __future__ import annotations

import os
import re
from functools import cache

import msgspec

TABLE_MAX = 256 * 1024
"""The most that is read of another process's mount table; flatpaks have a few dozen mounts."""
_THE_KERNELS_OWN = frozenset(
    ("tmpfs", "ramfs", "ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "bcachefs", "zfs", "squashfs", "erofs")
)
"""File systems that the kernel serves itself, whoever mounted them. Not overlay, whose layers may be on FUSE."""


_MOUNT = re.compile(rb"mnt_id:\s*(\d+)")


class Mount(msgspec.Struct, frozen=True):
    """One line of the mount table: the device (major:minor) and the file system type."""

    device: str
    kind: str


# Found by its bytes: a table may have thousands of lines, and is read for each untrusted path. The line begins with the
# ID and a space, so 12 is not found in 112 or 123.
def mount_of(number: int, table: bytes) -> Mount | None:
    """The mount with that ID in a process's table. Mount IDs are unique on the whole machine."""
    begin = (b"\n" + table).find(b"\n%d " % number)
    if begin < 0:
        return None
    fields, _, rest = table[begin:].partition(b"\n")[0].decode(errors="replace").partition(" - ")
    words, kind = fields.split(), rest.split()[:1]
    return Mount(words[2], kind[0]) if len(words) > 5 and kind else None


def _read(path: str) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        data = b""
        # Bounded, because the owner of a process decides how long its table is. A mount beyond the bound is unknown,
        # and so not asked.
        while len(data) < TABLE_MAX and (part := os.read(descriptor, TABLE_MAX)):
            data += part
        return data
    except OSError:
        return b""
    finally:
        os.close(descriptor)


def _table(process: int | str) -> bytes:
    return _read(f"/proc/{process}/mountinfo")


def mount_number(descriptor: int) -> int:
    """The ID of the mount that an open file is on; 0 if unknown."""
    found = _MOUNT.search(_read(f"/proc/self/fdinfo/{descriptor}"))
    return int(found[1]) if found else 0


@cache
def _root() -> int:
    """The ID of the mount that this process's root is on."""
    root = os.open("/", os.O_PATH | os.O_CLOEXEC)
    try:
        return mount_number(root)
    finally:
        os.close(root)


# The order of the questions: our own root first, since nearly every file is on it and its mount need not be looked up.
# Then our own table, in which only FUSE is doubtful, unless it is the file system of our root (as in some containers),
# which every other access asks too. Only a mount that is not in our table belongs to another namespace, where an
# unprivileged user may have mounted anything under any type; there the list of the kernel's own file systems decides.
def may_be_asked(descriptor: int, pid: int) -> bool:
    """Whether a file that belongs to process `pid`, open with O_PATH, is safe to access.

    In this mount namespace, everything except FUSE was mounted by root; and the file system of our own root is accessed
    anyway. A mount of another namespace could be anybody's, so only file systems served by the kernel are safe there.
    """
    number = mount_number(descriptor)
    if number and number == _root():
        return True
    ours = _table("self")
    mount, root = mount_of(number, ours), mount_of(_root(), ours)
    if mount is None:
        theirs = mount_of(number, _table(pid))
        return theirs is not None and theirs.kind in _THE_KERNELS_OWN
    return not mount.kind.startswith("fuse") or (root is not None and mount.device == root.device)


def are_known() -> bool:
    """Whether mounts can be identified, which needs /proc."""
    return _root() != 0


def is_proc(descriptor: int) -> bool:
    """Whether an open file is in /proc, whose magic links lead to files rather than to names."""
    mount = mount_of(mount_number(descriptor), _table("self"))
    return mount is not None and mount.kind == "proc"
