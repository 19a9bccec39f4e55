"""Memory of encoders of video, against what a guest is charged for them: each in a process of its own, fed with noise.

python -m bench encoder_memory
python -m bench.encoder_memory CODEC WIDTH HEIGHT [RATE]    # bytes resident
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from millrace.budget import MIB
from millrace.codec import yuv
from millrace.codec.avvideo import video_bytes, video_encoder
from millrace.codec.videoencoder import VideoEncoder
from millrace.daemon.allocator import pin_malloc
from millrace.pixels.rects import Rect, Size

SIZES = ((64, 64), (320, 240), (640, 480), (800, 600), (64, 2160), (4096, 64), (1280, 720), (1920, 1080), (3840, 2160))
PICTURES = 12
PIXELS = 1_000_000
"""Of all encoders together that are measured, unless a single one has more."""


def main() -> None:
    """Print what encoders of each size take."""
    for codec in ("avc1", "vp8"):
        for width, height in SIZES:
            took = max(resident(codec, width, height, rate) for rate in (None, 2_000_000))
            charged = video_bytes(codec, Size(width, height))
            print(f"{codec} {width} × {height}: {took / MIB:.1f} MiB, charged {charged / MIB:.1f}")


def resident(codec: str, width: int, height: int, rate: int | None) -> int:
    """Bytes that one encoder takes, in a new process."""
    words = [codec, str(width), str(height), *([] if rate is None else [str(rate)])]
    command = [sys.executable, "-m", "bench.encoder_memory", *words]
    return int(subprocess.run(command, capture_output=True, check=True, text=True, timeout=60).stdout)


def measured(codec: str, size: Size, rate: int | None) -> int:
    """Bytes that become this process's own with each encoder."""
    pin_malloc()
    noise = np.random.default_rng(1).integers(0, 255, (size.height + PICTURES, size.width, 4), np.uint8)
    # What a library takes once.
    opened(codec, Size(64, 64), rate, noise).close()
    count = max(1, PIXELS // (size.width * size.height))
    before = own_bytes()
    encoders = [opened(codec, size, rate, noise) for _ in range(min(8, count))]
    return (own_bytes() - before) // len(encoders)


def opened(codec: str, size: Size, rate: int | None, noise: np.ndarray) -> VideoEncoder:
    """An encoder that has made some pictures."""
    encoder = video_encoder(codec, size, rate, yuv.convert)
    for number in range(PICTURES):
        encoder.encode(noise[number : number + size.height], [Rect(0, 0, size.width, size.height)])
    return encoder


def own_bytes() -> int:
    """Memory of this process that it has written to."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Private_Dirty:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("this kernel does not say what memory a process has")


if __name__ == "__main__":
    codec_, width_, height_, *rate_ = sys.argv[1:]
    print(measured(codec_, Size(int(width_), int(height_)), int(rate_[0]) if rate_ else None))
