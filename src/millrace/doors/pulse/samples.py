"""The sample cache: sounds that a guest's programs upload and then play by name."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import msgspec

from millrace.budget import ENTRY_BYTES, Account, size_of
from millrace.doors.pulse.formats import CommandError
from millrace.doors.pulse.indexes import Counter
from millrace.dsp.convert import Buffer
from millrace.media.format import AudioFormat
from millrace.wire.pulse.constants import Change, Err, Facility
from millrace.wire.pulse.tagstruct import Props

CACHE_BYTES_MAX = 64 * 1024 * 1024
CACHED_BYTES = 1024
"""Memory overhead of a cached sample, besides its sound, name and properties."""


class Sample(msgspec.Struct, frozen=True):
    """An uploaded sound."""

    index: int
    name: str
    format: AudioFormat
    data: Buffer
    props: Props

    @property
    def weight(self) -> int:
        """Its size in memory."""
        return len(self.data) + sys.getsizeof(self.name) + size_of(self.props) + CACHED_BYTES


# The whole sample is charged when it is announced, but its memory is allocated when the first block arrives. An
# upload that is never sent costs its guest room and the daemon nothing.
@dataclass(slots=True)
class Upload:
    """A sample being uploaded."""

    name: str
    format: AudioFormat
    length: int
    props: Props
    data: bytearray = field(default_factory=bytearray)
    fill: int = 0

    @property
    def weight(self) -> int:
        """Its size in memory when complete."""
        return self.length + sys.getsizeof(self.name) + size_of(self.props) + ENTRY_BYTES

    def write(self, block: memoryview) -> None:
        """Append uploaded data; anything beyond the announced length is dropped."""
        if not self.data:
            self.data = bytearray(self.length)
        end = min(self.fill + len(block), self.length)
        self.data[self.fill : end] = block[: end - self.fill]
        self.fill = end

    def finish(self) -> bytearray:
        """The data received, cut to whole frames."""
        del self.data[self.fill // self.format.frame_bytes * self.format.frame_bytes :]
        return self.data


class SampleCache:
    """One guest's samples by name, charged to the guest."""

    def __init__(self, account: Account, publish: Callable[[Facility, Change, int], None], counter: Counter) -> None:
        self._account, self._publish, self._counter = account, publish, counter
        self._samples: dict[str, Sample] = {}

    def __iter__(self) -> Iterator[Sample]:
        return iter(list(self._samples.values()))

    def get(self, name: str) -> Sample | None:
        """The sample with that name."""
        return self._samples.get(name)

    @property
    def sound_bytes(self) -> int:
        """Size of the sound data of all samples."""
        return sum(len(sample.data) for sample in self._samples.values())

    def add(self, name: str, fmt: AudioFormat, data: Buffer, props: Props) -> None:
        """Store a sample. One that replaces another has its index, as in PulseAudio."""
        before = self.get(name)
        self.store(Sample(before.index if before else self._counter.take(), name, fmt, data, props))

    def store(self, sample: Sample) -> None:
        """Store an uploaded sample, replacing one of the same name."""
        before = self.get(sample.name)
        used = self.sound_bytes - (len(before.data) if before else 0)
        if used + len(sample.data) > CACHE_BYTES_MAX:
            raise CommandError(Err.TOOLARGE, "the sample cache is full")
        self._account.hold(("sample", sample.name), sample.weight)
        self._samples[sample.name] = sample
        self._publish(Facility.SAMPLE_CACHE, Change.CHANGE if before else Change.NEW, sample.index)

    def drop(self, name: str) -> Sample | None:
        """Remove a sample; None if there is none with that name."""
        sample = self._samples.pop(name, None)
        if sample is not None:
            self._account.hold(("sample", name), 0)
            self._publish(Facility.SAMPLE_CACHE, Change.REMOVE, sample.index)
        return sample
