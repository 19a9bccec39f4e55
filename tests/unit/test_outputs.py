"""What listeners and commands write: disks that fill up, devices that take nothing, readers that go."""

from __future__ import annotations

import os
import queue
import threading
import time
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import miniaudio
import numpy as np
import pytest

from millrace.backends import device
from millrace.backends.base import Unwatched
from millrace.backends.clocked import NullOutput, RawOutput
from millrace.backends.wav import HEADER_BYTES, WavOutput
from millrace.client.outputs import make_output
from millrace.dsp.convert import SampleFormat, Samples
from millrace.errors import ConfigError, OutputLost
from millrace.io import files
from millrace.io.files import write_whole
from millrace.io.sockets import own_secret
from millrace.units import NS_PER_S, default_map
from tests.places import fill, lack, small_disk


@pytest.mark.parametrize("sample", [SampleFormat.S16LE, SampleFormat.F32LE])
@pytest.mark.parametrize("frames", [480, 777, 30_000])
def test_wav_on_full_disk_keeps_all_that_fits(sample: SampleFormat, frames: int, tmp_path: Path) -> None:
    with small_disk(tmp_path / "d"):
        path = tmp_path / "d" / "x.wav"
        out = WavOutput(path, sample)
        out.open(48_000, default_map(2))
        with pytest.raises(
            OutputLost, match=r"x\.wav: (No space left on device|File too large); \d\.\d s were written"
        ):
            for _ in range(200):
                out.write(np.full((frames, 2), 0.25, np.float32))
        out.write(np.zeros((480, 2), np.float32))
        out.close()
        data = path.read_bytes()
        frame = 4 if sample is SampleFormat.S16LE else 8
        said = int.from_bytes(data[40:44], "little")
        assert said == len(data) - HEADER_BYTES and said % frame == 0 and said > 90_000
        assert int.from_bytes(data[4:8], "little") == len(data) - 8
        if sample is SampleFormat.S16LE:
            with wave.open(str(path)) as file:
                sound = np.frombuffer(file.readframes(file.getnframes()), "<i2")
            assert len(sound) == said // 2 and (sound == 8192).all()


def test_wav_that_can_not_be_created_is_reported() -> None:
    out = WavOutput(Path("/dev/full"))
    with pytest.raises(OutputLost, match="No space left"):
        out.open(48_000, default_map(2))
    out.close()
    with pytest.raises(ConfigError, match="No such file"):
        WavOutput(Path("/no/such/x.wav")).open(48_000, default_map(2))


def ended(output: NullOutput, pull: Callable[[Samples], None] = lambda block: None) -> OutputLost | None:
    """Play, and wait until the output reports its end."""
    told: queue.Queue[OutputLost | None] = queue.Queue()

    class Watch(Unwatched):
        def output_ended(self, why: OutputLost | None) -> None:
            told.put(why)

    output.start(48_000, default_map(2), pull, Watch())
    try:
        return told.get(timeout=20)
    finally:
        output.stop()


def test_stalled_device_ends_output_with_reason() -> None:
    made = make_output("raw:/dev/full", "normal")
    assert isinstance(made, RawOutput)
    assert "raw:/dev/full: No space left on device" in str(ended(made))


def test_full_disk_ends_raw_output_too(tmp_path: Path) -> None:
    with small_disk(tmp_path / "d"):
        fill(tmp_path / "d")
        made = make_output(f"raw:{tmp_path / 'd' / 'filler'}", "low")
        assert isinstance(made, RawOutput)
        fill_again = threading.Timer(0.2, fill, (tmp_path / "d",))
        fill_again.start()
        why = str(ended(made))
        assert "No space left" in why or "too large" in why
        fill_again.join()


def test_closed_reader_ends_output_without_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    assert ended(RawOutput(os.fdopen(writer, "wb", buffering=0), "-")) is None


def test_non_blocking_pipe_gets_all_sound() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    count = iter(range(1, 1000))
    output = RawOutput(os.fdopen(writer, "wb", buffering=0), "-")
    wanted = 400 * 240 * 4
    read = bytearray()

    def read_all() -> None:
        while len(read) < wanted and (part := os.read(reader, 1000)):
            read.extend(part)

    thread = threading.Thread(target=read_all)
    thread.start()
    for _ in range(400):
        assert output.take(np.full((240, 2), next(count) / 1000, np.float32))
    thread.join(20)
    os.close(reader)
    output.stop()
    sound = np.frombuffer(bytes(read), "<i2")
    assert len(sound) == wanted // 2 and len(np.unique(sound)) == 400 and (np.diff(sound) >= 0).all()


def test_exception_in_pull_is_reported() -> None:
    def broken(block: Samples) -> None:
        raise RuntimeError("bug")

    assert "internal error" in str(ended(NullOutput(), broken))


def test_files_are_written_completely_or_left_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "report"
    write_whole(path, b"first")
    path.chmod(0o600)
    link = tmp_path / "link"
    link.symlink_to(path)
    write_whole(link, b"second")
    assert link.is_symlink() and path.read_bytes() == b"second" and path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(OutputLost, match="No such file"):
        write_whole(tmp_path / "no" / "report", b"x")
    with pytest.raises(OutputLost, match="No space left"):
        write_whole(Path("/dev/full"), b"x")
    assert Path("/dev/full").is_char_device()
    with small_disk(tmp_path / "d"):
        kept = tmp_path / "d" / "report"
        write_whole(kept, b"kept")
        with pytest.raises(OutputLost, match=r"No space left|too large"):
            write_whole(kept, bytes(1 << 20))
        assert kept.read_bytes() == b"kept" and [p.name for p in kept.parent.iterdir()] == ["report"]


def test_secret_is_written_completely_or_not_at_all(tmp_path: Path) -> None:
    assert own_secret(tmp_path / "key", lambda: "first") == own_secret(tmp_path / "key", lambda: "second") == "first"
    (tmp_path / "link").symlink_to(tmp_path / "key")
    assert own_secret(tmp_path / "link", lambda: "third") == "third" and not (tmp_path / "link").is_symlink()
    with small_disk(tmp_path / "d") as mounted:
        if not mounted:
            lack("a disk that can be mounted")
        (tmp_path / "d" / "key").touch(0o600)
        fill(tmp_path / "d")
        with pytest.raises(ConfigError, match="No space left"):
            own_secret(tmp_path / "d" / "key", lambda: "x" * 60)
        assert not (tmp_path / "d" / "key").exists()


def test_what_was_put_in_the_place_of_a_secret_or_of_a_new_file_is_not_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, unlink = tmp_path / "key", Path.unlink

    def plant(path: Path, missing_ok: bool = False) -> None:
        monkeypatch.undo()
        unlink(path, missing_ok)
        path.symlink_to(tmp_path / "theirs")

    monkeypatch.setattr(Path, "unlink", plant)
    with pytest.raises(ConfigError, match="can't be written"):
        own_secret(key, lambda: "secret")
    key.symlink_to(tmp_path / "theirs")
    for mode in (None, 0o600):
        with pytest.raises(FileExistsError):
            files._created(key, mode)
    assert not (tmp_path / "theirs").exists()


def test_new_file_through_link_is_created_at_target_and_private(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, here = tmp_path / "there", tmp_path / "here"
    there.mkdir()
    here.mkdir()
    (there / "report").touch(0o600)
    (here / "link").symlink_to(there / "report")
    opened, modes = os.open, []

    def watched(path: Path, *args: int) -> int:
        made = opened(path, *args)
        assert Path(path).parent == there
        modes.append(os.fstat(made).st_mode & 0o777)
        return made

    monkeypatch.setattr(os, "open", watched)
    write_whole(here / "link", b"x")
    assert modes == [0o600] and (there / "report").read_bytes() == b"x"
    assert (there / "report").stat().st_mode & 0o777 == 0o600 and [p.name for p in there.iterdir()] == ["report"]
    monkeypatch.undo()
    (there / "report").chmod(0o640)
    write_whole(here / "link", b"y")
    assert (there / "report").stat().st_mode & 0o777 == 0o640


class ReopenedDevice:
    """A sound device that records whether it was closed."""

    closed = False

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize("stopped", [True, False])
def test_device_reopened_while_stopping_is_closed(stopped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "RETRY_S", 0.001)
    made = ReopenedDevice()
    back = []

    class Watch(Unwatched):
        def device_back(self) -> None:
            back.append(True)

    class Output(device.DeviceOutput):
        def _open(self) -> ReopenedDevice:
            if stopped:
                self.stop()
            return made

    output = Output("", "normal")
    output._watch = Watch()
    output._revive(1, device.GONE)
    assert (made.closed, back) == ((True, []) if stopped else (False, [True]))
    output._close()
    assert made.closed


def test_each_reason_why_a_device_can_not_be_reopened_is_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(device, "RETRY_S", 0.001)
    reasons = iter(["no such device", "no such device", "busy", "busy", "busy"])

    class Output(device.DeviceOutput):
        def _open(self) -> ReopenedDevice:
            reason = next(reasons, None)
            if reason is not None:
                raise ConfigError(reason) if reason == "busy" else miniaudio.MiniaudioError(reason, -401)
            return ReopenedDevice()

    output = Output("Card", "normal")
    output._watch = Unwatched()
    output._revive(1, device.GONE)
    said = [record.getMessage() for record in caplog.records]
    until = "device:Card can't be opened, trying again until it can"
    assert said == [f"{until}: no such device", f"{until}: busy"], "in words"


SILENT = "has asked for nothing for 3 s; opening it again"


@pytest.mark.parametrize(
    ("silent_s", "said"),
    [
        ((0, 4, 0, 4, 0), []),
        ((0, 2, 0, 2, 0), []),
        ((4, 4), [SILENT]),
        ((0, 4, 4), [SILENT]),
        ((0, 1.5, 1.75, 2, 0.1, 0.1), ["still", "asks"]),
        ((0, 1.5, 1.75, 3.25, 3.5), ["still", SILENT]),
    ],
)
def test_device_is_told_still_before_it_counts_as_lost(silent_s: tuple[float, ...], said: list[str]) -> None:
    output, told, checks = device.DeviceOutput("", "normal"), list[str](), iter(silent_s)

    class Watch(Unwatched):
        def device_still(self, still: bool) -> None:
            told.append("still" if still else "asks")

    class Checks(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            for_s = next(checks, None)
            if for_s is None:
                output._stopping.set()
            output._called_ns = time.monotonic_ns() - int((for_s or 0) * NS_PER_S)
            return False

    output._wake, output._watch = Checks(), Watch()
    output._revive = lambda lost_ns, what: told.append(what)  # type: ignore[method-assign]
    output._keep()
    assert told == said


def test_only_a_device_that_has_stopped_is_said_to_be_gone() -> None:
    output, told = device.DeviceOutput("", "normal"), list[Any]()

    def revive(lost_ns: int, what: str) -> None:
        told.append((lost_ns, what))
        output._stopping.set()

    output._revive = revive  # type: ignore[method-assign]
    output._gone()
    output._keep()
    assert told == [(output._lost_ns, "is gone; waiting for it to return")]


@pytest.mark.parametrize("kind", ["wav", "wav32", "raw"])
def test_no_output_is_made_through_a_link_or_over_a_file_unasked(kind: str, tmp_path: Path) -> None:
    link, victim, there = tmp_path / "link", tmp_path / "victim", tmp_path / "there"
    link.symlink_to(victim)
    there.write_bytes(b"mine")

    def opened(path: Path, replace: bool) -> None:
        made = make_output(f"{kind}:{path}", "normal", replace)
        if isinstance(made, WavOutput):
            made.open(48_000, default_map(2))
            made.close()

    for path, said in ((link, "is a link to a file that does not exist"), (there, "already exists; --overwrite")):
        with pytest.raises(ConfigError, match=said):
            opened(path, False)
    assert not victim.exists() and there.read_bytes() == b"mine"
    opened(Path("/dev/null"), False)
    opened(tmp_path / "new", False)
    opened(link, True)
    assert victim.exists() and (tmp_path / "new").exists()
