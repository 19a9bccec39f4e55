"""Record what a guest plays into a WAV file: python examples/record.py FILE.wav [SECONDS] [GUEST]"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import wave

import numpy as np

import millrace

RATE = 48_000


async def main(path: str, seconds: float, guest: str) -> None:
    with open(path, "wb") as raw, wave.open(raw, "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(RATE)
        left, peak = round(seconds * RATE), 0.0
        async with millrace.connect(guest=guest, name="example") as bus:
            async with bus.record("sink/millrace", guest=guest, rate=RATE, channels=2) as recording:
                while left > 0:
                    block = (await recording.read())[:left]
                    left -= len(block)
                    peak = max(peak, float(np.abs(block).max(initial=0)))
                    file.writeframes((block * 32767).astype("<i2").tobytes())
                print(f"{path}: {seconds:g} s, {recording.missed} frames missed, peak {peak:.3f}")


if __name__ == "__main__":
    arguments = sys.argv[1:]
    path, seconds, guest = [*arguments, *["guest.wav", "5", "default"][len(arguments) :]]
    with contextlib.suppress(KeyboardInterrupt):
        try:
            asyncio.run(main(path, float(seconds), guest))
        except (millrace.MillraceError, OSError, ValueError) as error:
            raise SystemExit(str(error)) from None
