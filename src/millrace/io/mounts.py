"""Whether a file may be asked for anything at once, or some program would have to answer first.

A file system of a user's own (FUSE) is a program. One that does not answer holds up all that ask it, for good: not
even SIGKILL ends that wait. So the daemon asks nothing of a file that others chose before it knows what that is on,
which the kernel tells by itself (/proc/PID/mountinfo, proc(5)).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import cache

TABLE_MAX = 256 * 1024
"""As much is read of somebody else's mounts; flatpaks have some dozens."""
_THE_KERNELS_OWN = frozenset(
    ("tmpfs", "ramfs", "ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "bcachefs", "zfs", "squashfs", "erofs")
)
"""Those that no user's program answers for, whoever mounted them. Not overlay, which may lie over another's."""


_MOUNT = re.compile(rb"mnt_id:\s*(\d+)")


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of the table: the device (major:minor) and the kind."""

    device: str
    kind: str


def mount_of(number: int, table: bytes) -> Mount | None:
    """The mount of that number, which is the whole machine's, in a process's table."""
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
    """The number of the mount that an open file is on; 0 if it can't be told."""
    found = _MOUNT.search(_read(f"/proc/self/fdinfo/{descriptor}"))
    return int(found[1]) if found else 0


@cache
def _root() -> int:
    """The mount that our own root is on."""
    root = os.open("/", os.O_PATH | os.O_CLOEXEC)
    try:
        return mount_number(root)
    finally:
        os.close(root)


def may_be_asked(descriptor: int, pid: int) -> bool:
    """Whether a file of a process's, open with O_PATH, may be asked for anything at once.

    What is mounted where we live was mounted by root, but for FUSE; what our own root is on, we ask in any case.
    Elsewhere anybody could have mounted it.
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
    """Whether mounts can be told apart: not without /proc."""
    return _root() != 0


def is_proc(descriptor: int) -> bool:
    """Whether an open file is one of /proc, whose links lead to files rather than to names."""
    mount = mount_of(mount_number(descriptor), _table("self"))
    return mount is not None and mount.kind == "proc"
