"""Real clients that play at the same time: one daemon, and for each client a guest, a listener and distinct frames."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .conftest import Bus, trimmed, write_wav

TAKES = 3
AT_ONCE = 5
"""This many clients, with a listener each, use half of two processors."""


@dataclass(frozen=True)
class Part:
    """A client: its command line with {wav}, {raw} and {padded} in it, what it plays, and the listener's options.

    `judge` gets the recorded sound from the first loud frame to the last, its rate, and how often the machine or the
    guest's clients stalled in the meantime, by the daemon's incidents.
    """

    command: list[str]
    frames: np.ndarray
    listen: tuple[str, ...]
    judge: Callable[[np.ndarray, int, int], None]


@dataclass(frozen=True)
class Verdict:
    """What was wrong with a take, and how often the machine or the guest's clients stalled during it."""

    error: BaseException | None
    stalls: int


class Together:
    """Plays parts at the same time, each in its own guest: sound that leaks from one into another is wrong in both."""

    def __init__(self, bus: Bus, folder: Path, parts: dict[str, Part]) -> None:
        self.bus, self.folder, self.parts = bus, folder, parts
        self.guests = {name: f"client{number}" for number, name in enumerate(parts)}
        self.verdicts: dict[str, Verdict] = {}

    def play(self) -> None:
        """Play all parts. One that failed is repeated if a stall was recorded during it, up to `TAKES` takes in all."""
        for guest in self.guests.values():
            self.bus.call("POST", "/api/v1/guests", {"name": guest})
        again = list(self.parts)
        for _ in range(TAKES):
            for at in range(0, len(again), AT_ONCE):
                self.verdicts |= self._take(again[at : at + AT_ONCE])
            again = [name for name, one in self.verdicts.items() if one.error and one.stalls]
            if not again:
                break

    def judged(self, name: str) -> None:
        """Raise the error of a client's last take, if any."""
        if (error := self.verdicts[name].error) is not None:
            raise error

    def _take(self, names: list[str]) -> dict[str, Verdict]:
        # Starting programs load the machine, so no client plays before all listeners have started.
        all_listen = threading.Barrier(len(names), timeout=60)
        with ThreadPoolExecutor(len(names)) as pool:
            verdicts = pool.map(lambda name: self._verdict(name, all_listen), names)
            return dict(zip(names, verdicts, strict=True))

    def _verdict(self, name: str, all_listen: threading.Barrier) -> Verdict:
        part, guest = self.parts[name], self.guests[name]
        before = len(self.bus.stalls(guest))
        try:
            sound, rate = self._heard(part, guest, all_listen)
        except Exception as error:
            all_listen.abort()
            return Verdict(error, len(self.bus.stalls(guest)) - before)
        stalls = len(self.bus.stalls(guest)) - before
        try:
            part.judge(trimmed(sound), rate, stalls)
        except AssertionError as error:
            return Verdict(error, stalls)
        return Verdict(None, stalls)

    def _heard(self, part: Part, guest: str, all_listen: threading.Barrier) -> tuple[np.ndarray, int]:
        home = self.folder / guest
        home.mkdir(exist_ok=True)
        wav, raw, padded, out = (home / file for file in ("play.wav", "play.raw", "padded.wav", "out.wav"))
        write_wav(wav, part.frames)
        raw.write_bytes(part.frames.tobytes())
        write_wav(padded, np.concatenate((part.frames, np.zeros((24_000, 2), "<i2"))))
        listener = self.bus.listener(out, *part.listen, guest=guest)
        all_listen.wait()
        self.bus.run(
            *(word.format(wav=wav, raw=raw, padded=padded) for word in part.command),
            env={
                "ALSA_CONFIG_PATH": "/usr/share/alsa/alsa.conf",
                "PULSE_SERVER": f"unix:{self.bus.pulse(guest)}",
            },
        )
        return self.bus.hear(listener, out, guest)
