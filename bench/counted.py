"""Passes a TCP connection on, and counts what comes back: python -m bench.counted PORT FILE

It prints the port where it listens, and keeps the number of bytes (u64) of all its connections in the file.
"""

from __future__ import annotations

import mmap
import socket
import struct
import sys
import threading
from pathlib import Path

CHUNK = 256 * 1024


class Counter:
    """The number of bytes, in a file."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data, self._total, self._lock = data, 0, threading.Lock()

    def add(self, number: int) -> None:
        with self._lock:
            self._total += number
            self._data[:8] = struct.pack("<Q", self._total)


def carry(source: socket.socket, to: socket.socket, count: Counter | None) -> None:
    """Pass on what `source` sends, until it ends."""
    try:
        while data := source.recv(CHUNK):
            to.sendall(data)
            if count is not None:
                count.add(len(data))
    except OSError:
        pass
    finally:
        for one in (source, to):
            one.close()


def main(port: int, path: Path) -> None:
    """Serve until killed."""
    path.write_bytes(bytes(8))
    with path.open("r+b") as file, socket.create_server(("127.0.0.1", 0)) as server:
        count = Counter(mmap.mmap(file.fileno(), 8))
        print(server.getsockname()[1], flush=True)
        while True:
            near, _ = server.accept()
            far = socket.create_connection(("127.0.0.1", port))
            for one in (near, far):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for of, to, counted in ((near, far, None), (far, near, count)):
                threading.Thread(target=carry, args=(of, to, counted), daemon=True).start()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
