"""Record what a guest plays into a WAV file: python examples/record.py FILE.wav [SECONDS] [GUEST]"""

from __future__ import annotations

import asyncio
import sys
import wave

import numpy as np

import millrace

RATE = 48_000


async def main(path: str, seconds: float, guest: str) -> None:
    with wave.open(path, "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(RATE)
        left = round(seconds * RATE)
        async with millrace.connect(guest=guest, name="example") as bus:
            async with bus.record("sink/millrace", guest=guest, rate=RATE, channels=2) as recording:
                while left > 0:
                    block = (await recording.read())[:left]
                    left -= len(block)
                    file.writeframes((block * 32767).astype("<i2").tobytes())
                print(f"{path}: {seconds:g} s, {recording.missed} frames missed, peak {np.abs(block).max():.3f}")


if __name__ == "__main__":
    arguments = sys.argv[1:]
    asyncio.run(
        main(
            arguments[0] if arguments else "guest.wav",
            float(arguments[1]) if len(arguments) > 1 else 5.0,
            arguments[2] if len(arguments) > 2 else "default",
        )
    )
