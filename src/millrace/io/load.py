"""The operating system's view of this thread, and of other processes."""

from __future__ import annotations

import os
from pathlib import Path

from millrace.units import HostNs


# Tells a thread that was ready to run, and got no processor, from one that was blocked or had nothing to do: only the
# first is the fault of other programs.
def run_delay_ns() -> HostNs:
    """How long this thread has waited for a processor (proc(5), schedstat); 0 if unknown."""
    try:
        return int(Path("/proc/thread-self/schedstat").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0


def resident_bytes() -> int:
    """This process's resident memory (proc(5), statm); 0 if unknown."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def is_stopped(pid: int) -> bool:
    """Whether a process is stopped (proc(5), stat: state T or t)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in ("T", "t")
    except (OSError, IndexError):
        return False
