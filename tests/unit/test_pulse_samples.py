"""Samples: uploads that arrive in pieces, and the cache that charges them to the guest's budget."""

from __future__ import annotations

import pytest

from millrace.budget import Budget
from millrace.doors.pulse import samples
from millrace.doors.pulse.formats import CommandError
from millrace.doors.pulse.indexes import Counter
from millrace.doors.pulse.samples import CACHED_BYTES, Sample, SampleCache, Upload
from millrace.dsp.convert import SampleFormat
from millrace.errors import BudgetError
from millrace.media.format import AudioFormat
from millrace.units import default_map
from millrace.wire.pulse.constants import Change, Err, Facility

S16 = AudioFormat(SampleFormat.S16LE, 44_100, default_map(2))


class Cache:
    """A cache, its guest's budget, and what was published of it."""

    def __init__(self, limit: int = 1 << 30) -> None:
        self.budget = Budget("guest", limit)
        self.told: list[tuple[Facility, Change, int]] = []
        self.samples = SampleCache(self.budget.open("cache"), lambda *change: self.told.append(change), Counter())

    def store(self, index: int, name: str, size: int) -> Sample:
        sample = Sample(index, name, S16, bytes(size), {})
        self.samples.store(sample)
        return sample


def test_upload_is_whole_frames_and_at_most_the_announced_length() -> None:
    upload = Upload("bell", S16, 12, {})
    for piece in (b"abcde", b"", b"fg"):
        upload.write(memoryview(piece))
    assert upload.fill == 7 and len(upload.data) == 12 and upload.finish() == b"abcd"
    upload = Upload("bell", S16, 12, {})
    for piece in (b"abcdefgh", b"ijklmnop", b"q"):
        upload.write(memoryview(piece))
    assert upload.fill == len(upload.data) == 12 and upload.finish() == b"abcdefghijkl"
    assert Upload("bell", S16, 12, {}).finish() == b""


def test_upload_is_charged_for_its_announced_length() -> None:
    small, large = Upload("bell", S16, 4, {}), Upload("bell", S16, 4_000, {})
    assert large.weight - small.weight == 3_996 and small.weight > 4 + len("bell")
    assert Upload("bell", S16, 4, {"media.role": b"event\0"}).weight > small.weight + len("media.roleevent")
    assert Upload("bell" * 100, S16, 4, {}).weight - small.weight == 396
    large.write(memoryview(b"abcd"))
    assert large.weight - small.weight == 3_996, "the received part was charged"


def test_sample_is_found_by_name_until_removed_and_changes_are_announced() -> None:
    cache = Cache()
    bell, gong = cache.store(7, "bell", 400), cache.store(8, "gong", 800)
    assert cache.samples.get("bell") is bell and cache.samples.get("drum") is None
    assert list(cache.samples) == [bell, gong] and cache.samples.sound_bytes == 1_200
    again = cache.store(9, "bell", 40)
    assert cache.samples.get("bell") is again and cache.samples.sound_bytes == 840
    assert cache.samples.drop("gong") is gong and cache.samples.drop("gong") is None
    kinds = [(Change.NEW, 7), (Change.NEW, 8), (Change.CHANGE, 9), (Change.REMOVE, 8)]
    assert cache.told == [(Facility.SAMPLE_CACHE, kind, index) for kind, index in kinds]


def test_replaced_sample_keeps_its_index_and_one_that_was_removed_has_another() -> None:
    cache = Cache()
    for name in ("bell", "gong", "bell"):
        cache.samples.add(name, S16, bytes(40), {})
    assert cache.samples.drop("gong")
    cache.samples.add("gong", S16, bytes(40), {})
    assert {sample.name: sample.index for sample in cache.samples} == {"bell": 0, "gong": 2}
    kinds = [(Change.NEW, 0), (Change.NEW, 1), (Change.CHANGE, 0), (Change.REMOVE, 1), (Change.NEW, 2)]
    assert cache.told == [(Facility.SAMPLE_CACHE, kind, index) for kind, index in kinds]


def test_samples_may_be_removed_while_iterating() -> None:
    cache = Cache()
    for index in range(3):
        cache.store(index, f"s{index}", 4)
    for sample in cache.samples:
        cache.samples.drop(sample.name)
    assert not list(cache.samples)


def test_stored_sample_is_charged_and_released() -> None:
    cache = Cache()
    sample = cache.store(1, "bell", 4_000)
    assert cache.budget.held == sample.weight > 4_000 + CACHED_BYTES
    weights = [Sample(1, name, S16, b"", props).weight for name, props in (("a", {}), ("ab", {}), ("a", {"b": b"c"}))]
    assert weights[1] == weights[0] + 1 < weights[2]
    cache.store(2, "bell", 400)
    assert 400 + CACHED_BYTES < cache.budget.held < 4_000
    cache.samples.drop("bell")
    assert cache.budget.held == 0


def test_replacement_beyond_budget_leaves_existing_sample() -> None:
    cache = Cache(limit=10_000)
    before = cache.store(1, "bell", 4_000)
    with pytest.raises(BudgetError):
        cache.store(2, "bell", 20_000)
    assert cache.samples.get("bell") is before and cache.budget.held == before.weight and len(cache.told) == 1


def test_full_cache_still_accepts_replacements(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(samples, "CACHE_BYTES_MAX", 1_000)
    cache = Cache()
    cache.store(1, "bell", 600)
    cache.store(2, "gong", 400)
    cache.store(3, "bell", 600)
    for name, size in (("bell", 601), ("drum", 1)):
        with pytest.raises(CommandError, match="cache is full") as refused:
            cache.store(4, name, size)
        assert refused.value.code is Err.TOOLARGE
    assert cache.samples.sound_bytes == 1_000 and len(cache.told) == 3
