"""Sounds that the programs of a guest upload, to be played by name."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from millrace.budget import ENTRY_BYTES, Account, size_of
from millrace.doors.pulse.formats import CommandError
from millrace.dsp.convert import Buffer
from millrace.media.format import AudioFormat
from millrace.wire.pulse.constants import Change, Err, Facility
from millrace.wire.pulse.tagstruct import Props

CACHE_BYTES_MAX = 64 * 1024 * 1024
CACHED_BYTES = 1024
"""What a cached sample takes besides its sound, name and properties."""


@dataclass(frozen=True, slots=True)
class Sample:
    """An uploaded sound."""

    index: int
    name: str
    format: AudioFormat
    data: Buffer
    props: Props

    @property
    def weight(self) -> int:
        """What it takes in memory."""
        return len(self.data) + sys.getsizeof(self.name) + size_of(self.props) + CACHED_BYTES


@dataclass(slots=True)
class Upload:
    """A sample on its way in."""

    name: str
    format: AudioFormat
    length: int
    props: Props
    data: bytearray = field(default_factory=bytearray)
    fill: int = 0

    @property
    def weight(self) -> int:
        """What it takes in memory when all of it has come."""
        return self.length + sys.getsizeof(self.name) + size_of(self.props) + ENTRY_BYTES

    def write(self, block: memoryview) -> None:
        """More of it has come; what is more than was announced is left out."""
        if not self.data:
            self.data = bytearray(self.length)
        end = min(self.fill + len(block), self.length)
        self.data[self.fill : end] = block[: end - self.fill]
        self.fill = end

    def finish(self) -> bytearray:
        """What has come of it, in whole frames."""
        del self.data[self.fill // self.format.frame_bytes * self.format.frame_bytes :]
        return self.data


class SampleCache:
    """One guest's samples, by name, at the guest's expense."""

    def __init__(self, account: Account, publish: Callable[[Facility, Change, int], None]) -> None:
        self._account, self._publish = account, publish
        self._samples: dict[str, Sample] = {}

    def __iter__(self) -> Iterator[Sample]:
        return iter(list(self._samples.values()))

    def get(self, name: str) -> Sample | None:
        """The sample of that name."""
        return self._samples.get(name)

    @property
    def sound_bytes(self) -> int:
        """What their sound alone takes."""
        return sum(len(sample.data) for sample in self._samples.values())

    def store(self, sample: Sample) -> None:
        """Keep an uploaded sound, replacing one of the same name."""
        before = self.get(sample.name)
        used = self.sound_bytes - (len(before.data) if before else 0)
        if used + len(sample.data) > CACHE_BYTES_MAX:
            raise CommandError(Err.TOOLARGE, "the sample cache is full")
        self._account.hold(("sample", sample.name), sample.weight)
        self._samples[sample.name] = sample
        self._publish(Facility.SAMPLE_CACHE, Change.CHANGE if before else Change.NEW, sample.index)

    def drop(self, name: str) -> Sample | None:
        """Forget an uploaded sound; None where there is none."""
        sample = self._samples.pop(name, None)
        if sample is not None:
            self._account.hold(("sample", name), 0)
            self._publish(Facility.SAMPLE_CACHE, Change.REMOVE, sample.index)
        return sample
