"""Passes a TCP connection on, and counts what comes back: python -m bench.counted PORT FILE

It prints the port where it listens, and keeps the number of bytes (u64) in the file. One connection at a time.
"""

from __future__ import annotations

import mmap
import socket
import struct
import sys
import threading
from pathlib import Path

CHUNK = 256 * 1024


def carry(source: socket.socket, to: socket.socket, count: mmap.mmap | None) -> None:
    """Pass on what `source` sends, until it ends."""
    total = 0
    try:
        while data := source.recv(CHUNK):
            to.sendall(data)
            total += len(data)
            if count is not None:
                count[:8] = struct.pack("<Q", total)
    except OSError:
        pass
    finally:
        for one in (source, to):
            one.close()


def main(port: int, path: Path) -> None:
    """Serve until killed."""
    path.write_bytes(bytes(8))
    with path.open("r+b") as file, socket.create_server(("127.0.0.1", 0)) as server:
        count = mmap.mmap(file.fileno(), 8)
        print(server.getsockname()[1], flush=True)
        while True:
            near, _ = server.accept()
            far = socket.create_connection(("127.0.0.1", port))
            for one in (near, far):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=carry, args=(near, far, None), daemon=True).start()
            carry(far, near, count)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
