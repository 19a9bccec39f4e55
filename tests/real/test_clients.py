"""Real PulseAudio clients through a daemon and a listener to a WAV file, whose samples are judged.

With pcm every frame must arrive once and in order. Clients that convert or resample the sound themselves are judged by
frequency, level and continuity instead.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from millrace.dsp.convert import SampleFormat, encode
from millrace.dsp.measure import frequency_hz, level_dbfs, phase_jumps, silent_runs
from millrace.dsp.resample import SoxrResampler
from millrace.sim.signals import count, sine

from .clients import BOOT_SECTOR, CONVERTING, EXACT, FIREFOX_PREFS, OSCILLATOR, browser_command
from .conftest import Bus, need, read_wav, running, trimmed, wait_for, write_wav
from .parallel import Part, Together

pytestmark = pytest.mark.real
SECONDS = 10
PCM = ("--set", "codec=s16")
OPUS = "paplay-opus"
NEEDED = ("sox", "ogg123", "pulseaudio", "pactl", "ffmpeg", "paplay")
"""The programs that clients started through a shell run."""


def s16(signal_: np.ndarray) -> np.ndarray:
    return np.frombuffer(encode(SampleFormat.S16LE, signal_), "<i2").reshape(signal_.shape)


@pytest.fixture
def numbered(tmp_path: Path) -> tuple[Path, np.ndarray]:
    """10 s in which every frame is numbered."""
    frames = s16(count(48_000 * SECONDS))
    return write_wav(tmp_path / "count.wav", frames), frames


@pytest.fixture
def tone(tmp_path: Path) -> Path:
    """10 s of 997 Hz at −6 dBFS."""
    return write_wav(tmp_path / "tone.wav", s16(sine(SECONDS)))


def numbers(offset: int) -> np.ndarray:
    """10 s of numbered frames that begin at `offset`."""
    return s16(count(offset + 48_000 * SECONDS)[offset:])


def exact(frames: np.ndarray) -> Callable[[np.ndarray, int, int], None]:
    """A judge that checks that every frame arrived once and in order."""

    def judge(heard: np.ndarray, rate: int, stalls: int) -> None:
        assert rate == 48_000
        judge_numbered(heard, frames, stalls)

    return judge


def judge_opus(heard: np.ndarray, rate: int, stalls: int) -> None:
    left = trimmed(heard, 300)[:, 0].astype(np.float32) / 32768
    assert abs(len(left) / rate - SECONDS) < 0.05
    middle = left[rate // 2 : rate * 9]
    assert abs(frequency_hz(middle, rate) - 997) < 0.1
    assert abs(level_dbfs(middle) - -6.02) < 0.1
    assert not silent_runs(middle, 8)


def judge_converted(heard: np.ndarray, rate: int, stalls: int) -> None:
    """Check that the tone is whole; each stall of the machine excuses two of its seconds."""
    if not stalls:
        judge_tone(heard, rate, SECONDS)
        return
    left = heard[: SECONDS * rate, 0].astype(np.float32) / 32768
    seconds = [left[at * rate : (at + 1) * rate] for at in range(1, SECONDS - 1)]
    whole = [
        abs(frequency_hz(one, rate) - 997) < 0.1
        and abs(level_dbfs(one) + 6.02) < 0.1
        and not len(phase_jumps(one, rate, 997))
        for one in seconds
    ]
    # A gap across the boundary of two seconds breaks both.
    assert whole.count(False) <= 2 * stalls and any(whole), f"{whole}, {stalls} stalls"


def all_parts() -> dict[str, Part]:
    """Every client. Those that play numbered frames play different numbers each."""
    tone = s16(sine(SECONDS))
    parts = {}
    for number, (name, command) in enumerate(EXACT.items(), 1):
        frames = numbers(1000 * number)
        parts[name] = Part(command, frames, PCM, exact(frames))
    for name, command in CONVERTING.items():
        parts[name] = Part(command, tone, PCM, judge_converted)
    return parts | {OPUS: Part(["paplay", "{wav}"], tone, ("--set", "bitrate=128k"), judge_opus)}


@pytest.fixture(scope="module")
def together(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Together]:
    """The clients that the selected tests need and this machine has, after all have played at the same time."""
    items = [one for one in request.session.items if one.path == request.path and hasattr(one, "callspec")]
    wanted = {one.callspec.params.get("name") for one in items}
    parts = {
        name: part
        for name, part in all_parts().items()
        if name in wanted and all(map(shutil.which, programs(part.command)))
    }
    with running(tmp_path_factory.mktemp("together") / "run") as bus:
        playing = Together(bus, tmp_path_factory.mktemp("clients"), parts)
        playing.play()
        yield playing


def programs(command: list[str]) -> list[str]:
    """The programs that a client's command line runs."""
    return [command[0], *NEEDED] if command[0] == "sh" else [command[0]]


@pytest.mark.xdist_group("heavy")
@pytest.mark.parametrize("name", EXACT)
def test_every_frame_of_every_client_arrives_once_and_in_order(name: str, together: Together) -> None:
    need(*programs(EXACT[name]))
    together.judged(name)


def holes(heard: np.ndarray) -> int:
    """The number of runs of silence."""
    silent = ~heard.any(axis=1)
    return int(np.count_nonzero(np.diff(silent.astype(np.int8)) == 1))


def judge_numbered(heard: np.ndarray, frames: np.ndarray, stalls: int = 0) -> None:
    """Check that all frames arrived once and in order, with at most as many gaps as the machine had `stalls`."""
    loud = heard[heard.any(axis=1)]
    assert len(loud) == len(frames), f"{len(frames) - len(loud)} frames are missing (negative: doubled)"
    wrong = np.flatnonzero((loud != frames).any(axis=1))
    assert not len(wrong), f"{len(wrong)} frames differ, the first is {wrong[0]}"
    assert holes(heard) <= stalls, f"{holes(heard)} gaps"


@pytest.mark.xdist_group("heavy")
@pytest.mark.parametrize("name", CONVERTING)
def test_converting_clients_keep_frequency_level_and_continuity(name: str, together: Together) -> None:
    need(*programs(CONVERTING[name]))
    together.judged(name)


@pytest.mark.xdist_group("heavy")
@pytest.mark.parametrize("name", [OPUS])
def test_opus_has_no_gap_and_keeps_level(name: str, together: Together) -> None:
    need("paplay")
    together.judged(name)


def test_vlc_of_another_user_plays_over_tcp_with_the_cookie(bus: Bus) -> None:
    """VLC refuses to run as root, so it runs as nobody, and uses TCP and the cookie instead of this user's socket."""
    need("cvlc", "setpriv")
    with tempfile.TemporaryDirectory() as name, socket.create_server(("127.0.0.1", 0)) as free:
        shared = Path(name)
        shared.chmod(0o777)
        port = free.getsockname()[1]
        free.close()
        wav = write_wav(shared / "tone.wav", s16(sine(SECONDS)))
        config = bus.runtime / "config.toml"
        config.write_text(f'[guest.default]\npulse_tcp = "127.0.0.1:{port}"\n')
        bus.stop()
        bus.args = ("--config", str(config))
        bus.start()
        cookie = shared / "cookie"
        cookie.write_bytes((bus.pulse().parent / "cookie").read_bytes())
        cookie.chmod(0o644)
        listener = bus.listener(bus.runtime / "out.wav", *PCM)
        as_nobody = ["setpriv", "--reuid=65534", "--clear-groups"] if os.getuid() == 0 else []
        env = {
            "PULSE_SERVER": f"tcp:127.0.0.1:{port}",
            "PULSE_COOKIE": str(cookie),
            "HOME": name,
            "XDG_RUNTIME_DIR": name,
        }
        bus.run(*as_nobody, "cvlc", "--no-video", "--aout=pulse", "--play-and-exit", "-q", str(wav), env=env)
        sound, rate = bus.hear(listener, bus.runtime / "out.wav")
        judge_tone(trimmed(sound), rate, SECONDS)


def broken_seconds(sound: np.ndarray, rate: int) -> int:
    """How many of the seconds 1 to 5 are not the complete tone."""
    left = trimmed(sound, 300)[rate : 6 * rate, 0].astype(np.float32) / 32768
    assert len(left) == 5 * rate
    seconds = left.reshape(5, rate)
    return sum(abs(frequency_hz(one, rate) - 997) > 0.1 or abs(level_dbfs(one) + 6.02) > 0.1 for one in seconds)


@pytest.mark.alone
@pytest.mark.parametrize("browser", ["chromium", "firefox"])
def test_browsers_play_a_page(browser: str, bus: Bus, tmp_path: Path) -> None:
    need("chromium" if browser == "chromium" else "firefox-esr")
    page, profile = tmp_path / "page.html", tmp_path / "profile"
    page.write_text(OSCILLATOR)
    profile.mkdir()
    (profile / "user.js").write_text(FIREFOX_PREFS)
    command = browser_command(browser, profile, page)
    opened = bus.spawn(*command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: any(s["state"] == "running" for s in bus.guest()["streams"]), 40, "the page plays")
    # A browser that plays is still starting up, which causes gaps of its own: it generates the sound continuously with
    # hardly any buffer. A gap in every recording is our fault; one that is gone in the next was the browser's.
    for attempt in range(3):
        out = tmp_path / f"{attempt}.wav"
        before = len(bus.stalls())
        listener = bus.listener(out, *PCM)
        time.sleep(7.5)
        listener.send_signal(signal.SIGINT)
        assert listener.wait(10) == 0
        broken, stalls = broken_seconds(*read_wav(out)), len(bus.stalls()) - before
        if not broken:
            break
    opened.terminate()
    opened.wait(20)
    # A gap across the boundary of two seconds breaks both.
    assert broken <= 2 * stalls and broken < 5, f"{broken} of 5 seconds are not the tone; {stalls} stalls"


def test_qemus_pulseaudio_output_is_complete(bus: Bus, tmp_path: Path) -> None:
    need("qemu-system-x86_64")
    image = tmp_path / "boot.img"
    image.write_bytes(BOOT_SECTOR)
    listener = bus.listener(tmp_path / "out.wav", *PCM)
    guest = bus.spawn(
        "qemu-system-x86_64", "-M", "pc,pcspk-audiodev=a", "-audiodev", f"pa,id=a,server={bus.env['PULSE_SERVER']}",
        "-drive", f"format=raw,file={image}", "-display", "none", "-nodefaults",
    )  # fmt: skip
    wait_for(lambda: any(s["state"] == "running" for s in bus.guest()["streams"]), 40, "the guest beeps")
    time.sleep(6)
    guest.terminate()
    guest.wait(10)
    sound, rate = bus.hear(listener, tmp_path / "out.wav")
    left = trimmed(sound, 300)[rate : 5 * rate, 0].astype(np.float32) / 32768
    # QEMU generates the square wave at 32 kHz from whole samples: 996.6 Hz.
    assert abs(frequency_hz(left, rate) - 996.6) < 0.1
    assert not silent_runs(left, 4)


def judge_tone(sound: np.ndarray, rate: int, seconds: float, level: float = -6.02) -> None:
    left = sound[:, 0].astype(np.float32) / 32768
    assert abs(len(left) / rate - seconds) < 0.25
    middle = left[rate : rate * int(seconds - 1)]
    assert abs(frequency_hz(middle, rate) - 997) < 0.1
    assert abs(level_dbfs(middle) - level) < 0.1
    assert not len(phase_jumps(middle, rate, 997))


def test_parec_and_ffmpeg_record_the_monitor_bit_for_bit(
    bus: Bus, numbered: tuple[Path, np.ndarray], tmp_path: Path
) -> None:
    need("paplay", "parec", "ffmpeg")
    wav, frames = numbered
    raw = tmp_path / "rec.raw"
    with raw.open("wb") as out:
        recorder = bus.spawn("parec", "--raw", "--rate=48000", "--format=s16le", "-d", "millrace.monitor", stdout=out)
        grabbed = tmp_path / "grab.wav"
        grabber = bus.spawn(
            "ffmpeg", "-v", "error", "-f", "pulse", "-sample_rate", "48000", "-i", "millrace.monitor", str(grabbed)
        )
        wait_for(lambda: len(bus.guest()["recorders"]) == 2, what="both record")
        bus.run("paplay", str(wav))
        time.sleep(0.5)
        recorder.send_signal(signal.SIGINT)
        grabber.send_signal(signal.SIGINT)
        recorder.wait(10)
        grabber.wait(10)
    for sound in (np.frombuffer(raw.read_bytes(), "<i2").reshape(-1, 2), read_wav(grabbed)[0]):
        judge_numbered(trimmed(sound), frames, len(bus.stalls()))


def test_30_ms_file_plays_completely(bus: Bus, tmp_path: Path) -> None:
    need("paplay")
    frames = s16(count(1440))
    listener = bus.listener(tmp_path / "out.wav", *PCM)
    bus.run("paplay", str(write_wav(tmp_path / "short.wav", frames)))
    sound, _ = bus.hear(listener, tmp_path / "out.wav")
    assert np.array_equal(trimmed(sound), frames)


@pytest.mark.beside
def test_pactl_shows_and_changes_what_users_expect(bus: Bus, tone: Path) -> None:
    need("pactl", "paplay")
    assert "Default Sink: millrace" in bus.run("pactl", "info").stdout
    module = bus.run("pactl", "load-module", "module-null-sink", "sink_name=music").stdout.strip()
    assert "music" in bus.run("pactl", "list", "short", "sinks").stdout
    bus.run("pactl", "set-default-sink", "music")
    player = bus.spawn("paplay", str(tone))
    stream = wait_for(lambda: bus.guest()["streams"], what="the stream shows")[0]
    number = "0"
    assert "music" in {s["name"] for s in bus.guest()["sinks"] if s["id"] == stream["sink"]}
    bus.run("pactl", "set-sink-input-volume", number, "50%")
    bus.run("pactl", "set-sink-input-mute", number, "1")
    shown = bus.guest()["streams"][0]
    assert shown["volume"] == 50 and shown["mute"]
    bus.run("pactl", "move-sink-input", number, "millrace")
    bus.run("pactl", "set-sink-volume", "millrace", "-6dB")
    bus.run("pactl", "unload-module", module)
    assert [s["name"] for s in bus.guest()["sinks"]] == ["millrace"]
    assert abs(bus.guest()["sinks"][0]["volume"] - 79) <= 1
    for kind in ("sinks", "sources", "sink-inputs", "source-outputs", "clients", "modules", "cards", "samples"):
        bus.run("pactl", "list", kind)
    failed = subprocess.run(["pactl", "load-module", "module-nonsense"], env=bus.env, capture_output=True, text=True)
    assert failed.returncode != 0 and "Module initialization failed" in failed.stderr
    bus.run("pactl", "upload-sample", str(tone), "bell")
    bus.run("pactl", "play-sample", "bell")
    player.terminate()


@pytest.mark.beside
def test_pactl_subscribe_reports_a_stream(bus: Bus, tmp_path: Path) -> None:
    need("pactl", "paplay")
    watcher = bus.spawn("pactl", "subscribe", stdout=subprocess.PIPE)
    time.sleep(0.3)
    bus.run("paplay", str(write_wav(tmp_path / "short.wav", s16(count(4800)))))
    time.sleep(0.3)
    watcher.send_signal(signal.SIGINT)
    text = watcher.communicate(timeout=5)[0].decode()
    for expected in ("'new' on sink-input", "'remove' on sink-input", "'change' on sink", "'new' on client"):
        assert expected in text


def unlike(heard: np.ndarray, said: np.ndarray) -> float:
    """The RMS of the difference between two signals at their best alignment, relative to the second."""
    size = 1 << (len(heard) + len(said)).bit_length()
    alike = np.fft.irfft(np.fft.rfft(heard, size) * np.conj(np.fft.rfft(said, size)), size)[: len(heard)]
    part = heard[int(np.argmax(alike)) :][: len(said)]
    left = np.pad(part, (0, len(said) - len(part))) - said
    return float(np.sqrt(np.mean(left**2) / np.mean(said**2)))


def test_espeak_words_are_played_at_the_right_time(bus: Bus, tmp_path: Path) -> None:
    """Compares what espeak-ng plays at 22.05 kHz with the file that it writes; a slip of 13 samples would show."""
    need("espeak-ng")
    text = "one, two, three. Hello there. Wait; what? Yes."
    bus.run("espeak-ng", "-w", str(tmp_path / "said.wav"), text)
    sound, rate = read_wav(tmp_path / "said.wav")
    said = SoxrResampler(rate, 48_000, 1).finish_of(sound[:, :1].astype(np.float32))[:, 0]
    for attempt in range(3):
        stalls, target = len(bus.stalls()), tmp_path / f"heard{attempt}.wav"
        listener = bus.listener(target, *PCM)
        bus.run("espeak-ng", text)
        heard, rate = bus.hear(listener, target)
        assert rate == 48_000
        share = unlike(heard[:, 0].astype(np.float32), said)
        if share < 0.02 or len(bus.stalls()) == stalls:
            break
    assert share < 0.02


def test_kill_9_of_a_client_leaves_others_bit_exact(
    bus: Bus, numbered: tuple[Path, np.ndarray], tmp_path: Path
) -> None:
    need("paplay", "pacat")
    wav, frames = numbered
    listener = bus.listener(tmp_path / "out.wav", *PCM)
    victims = [bus.spawn("pacat", "--raw", "/dev/zero") for _ in range(3)]
    player = bus.spawn("paplay", str(wav))
    time.sleep(3)
    for victim in victims:
        victim.kill()
    assert player.wait(30) == 0
    sound, _ = bus.hear(listener, tmp_path / "out.wav")
    judge_numbered(trimmed(sound), frames, len(bus.stalls()))
