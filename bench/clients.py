"""The same checks of real PulseAudio clients against Millrace, PulseAudio and PipeWire.

All are judged alike, by what parec records from the monitor of the sink `default`. Each check has its own
server, so that nothing is left over from another.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from tests.real.clients import BOOT_SECTOR, CONVERTING, EXACT, FIREFOX_PREFS, OSCILLATOR, browser_command
from tests.real.conftest import write_wav

from bench.rig import FORMAT, NUMBERED, SECONDS, TONE, Bench, judge_numbered, judge_tone, trimmed
from bench.servers import Server, installed
from millrace.dsp.measure import level_dbfs, silent_runs

Check = Callable[[Bench], None]


def exact(name: str) -> Check:
    """A client that must deliver every frame."""

    def check(bench: Bench) -> None:
        with bench.recorder() as sound:
            bench.run(*bench.fill(EXACT[name], bench.numbered))
        judge_numbered(sound())

    return check


def converting(name: str) -> Check:
    """A client that converts the sound itself."""

    def check(bench: Bench) -> None:
        with bench.recorder() as sound:
            bench.run(*bench.fill(CONVERTING[name], bench.tone))
        judge_tone(sound())

    return check


def recording(*command: str, skip: int = 0) -> Check:
    """A client that records the monitor."""

    def check(bench: Bench) -> None:
        with bench.recorder(*command) as sound:
            bench.run("paplay", str(bench.numbered))
        data = sound().tobytes()[skip:]
        judge_numbered(np.frombuffer(data[: len(data) // 4 * 4], "<i2").reshape(-1, 2))

    return check


def page(browser: str) -> Check:
    """A browser that plays a page."""

    def check(bench: Bench) -> None:
        html = bench.folder / "page.html"
        html.write_text(OSCILLATOR)
        profile = bench.folder / "profile"
        profile.mkdir()
        (profile / "user.js").write_text(FIREFOX_PREFS)
        with bench.recorder() as sound:
            player = bench.spawn(*browser_command(browser, profile, html))
            end = time.monotonic() + 30
            while not bench.inputs() and time.monotonic() < end:
                time.sleep(0.2)
            time.sleep(6)
            player.terminate()
            player.wait(10)
        judge_tone(sound())

    return check


def qemu(bench: Bench) -> None:
    """QEMU's own PulseAudio output."""
    image = bench.folder / "boot.img"
    image.write_bytes(BOOT_SECTOR)
    with bench.recorder() as sound:
        bench.spawn(
            "qemu-system-x86_64", "-M", "pc,pcspk-audiodev=a",
            "-audiodev", f"pa,id=a,server={bench.env['PULSE_SERVER']}",
            "-drive", f"format=raw,file={image}", "-display", "none", "-nodefaults",
        )  # fmt: skip
        time.sleep(6)
        bench.started[-1].terminate()
    judge_tone(sound(), 996.6, None)


def short_file(bench: Bench) -> None:
    """30 ms of sound play completely, into a sink that is already running."""
    frames = NUMBERED[:1440]
    bench.spawn("pacat", "--raw", "/dev/zero")
    with bench.recorder() as sound:
        bench.run("paplay", str(write_wav(bench.folder / "short.wav", frames)))
    heard = trimmed(sound())
    assert np.array_equal(heard, frames), f"{len(heard)} of {len(frames)} frames"


def two_mix(bench: Bench) -> None:
    """Two players at once: neither has a gap."""
    with bench.recorder() as sound:
        players = [bench.spawn("paplay", "--volume=32768", str(bench.tone)) for _ in range(2)]
        assert all(p.wait(15) == 0 for p in players)
    heard = sound()
    assert np.abs(heard[:, 0].astype(float)).max() > 300
    assert not silent_runs(trimmed(heard, 300)[4800:-48_000, 0].astype(np.float32), 8)


def kill_9(bench: Bench) -> None:
    """Other clients are killed; this one loses nothing."""
    with bench.recorder() as sound:
        victims = [bench.spawn("pacat", "--raw", "/dev/zero") for _ in range(3)]
        player = bench.spawn("paplay", str(bench.numbered))
        time.sleep(1.5)
        for victim in victims:
            victim.kill()
        assert player.wait(15) == 0
    judge_numbered(sound())


def stopped(bench: Bench) -> None:
    """One client is stopped by SIGSTOP; another loses nothing."""
    with bench.recorder() as sound:
        victim = bench.spawn("pacat", "--raw", "/dev/zero")
        player = bench.spawn("paplay", str(bench.numbered))
        time.sleep(1)
        victim.send_signal(signal.SIGSTOP)
        assert player.wait(15) == 0
    judge_numbered(sound())


def drain_time(bench: Bench) -> None:
    """paplay returns when the file has been played to its end: not before, and not much later."""
    began = time.monotonic()
    bench.run("paplay", str(bench.tone))
    took = time.monotonic() - began
    assert SECONDS - 0.05 < took < SECONDS + 0.6, f"{took:.2f} s for {SECONDS} s"


def volume(bench: Bench) -> None:
    """A stream's volume takes effect: 50 % is −18.06 dB."""
    player, stream = bench.playing()
    bench.run("pactl", "set-sink-input-volume", str(stream["index"]), "50%")
    with bench.recorder() as sound:
        time.sleep(1)
    player.kill()
    left = sound()[12_000:24_000, 0].astype(np.float32) / 32768
    assert abs(level_dbfs(left) - -24.08) < 0.1, f"{level_dbfs(left):.2f} dBFS"


def mute(bench: Bench) -> None:
    """A muted stream is silent."""
    player, stream = bench.playing()
    bench.run("pactl", "set-sink-input-mute", str(stream["index"]), "1")
    time.sleep(0.5)
    with bench.recorder() as sound:
        time.sleep(0.5)
    player.kill()
    assert not sound()[:12_000].any()


def move(bench: Bench) -> None:
    """A stream is moved and continues."""
    bench.run("pactl", "load-module", "module-null-sink", "sink_name=music")
    player, stream = bench.playing()
    bench.run("pactl", "move-sink-input", str(stream["index"]), "music")
    music = next(s["index"] for s in bench.sinks() if s["name"] == "music")
    assert bench.inputs()[0]["sink"] == music
    assert player.wait(15) == 0


def default_sink(bench: Bench) -> None:
    """The default sink changes, and new streams go there."""
    bench.run("pactl", "load-module", "module-null-sink", "sink_name=music")
    bench.run("pactl", "set-default-sink", "music")
    time.sleep(0.3)
    assert bench.run("pactl", "get-default-sink").strip() == "music"
    player, stream = bench.playing()
    assert stream["sink"] == next(s["index"] for s in bench.sinks() if s["name"] == "music")
    player.kill()


def sink_volume(bench: Bench) -> None:
    """A sink's volume reads back."""
    bench.run("pactl", "set-sink-volume", "millrace", "-6dB")
    assert "-6.0" in bench.run("pactl", "get-sink-volume", "millrace")


def unload(bench: Bench) -> None:
    """A null sink is removed, and its stream is moved elsewhere."""
    module = bench.run("pactl", "load-module", "module-null-sink", "sink_name=music").strip()
    player, stream = bench.playing()
    bench.run("pactl", "move-sink-input", str(stream["index"]), "music")
    bench.run("pactl", "unload-module", module)
    assert [s["name"] for s in bench.sinks()] == ["millrace"]
    assert player.wait(15) == 0


def combine(bench: Bench) -> None:
    """module-combine-sink plays on both."""
    bench.run("pactl", "load-module", "module-null-sink", "sink_name=music")
    bench.run("pactl", "load-module", "module-combine-sink", "sink_name=both", "slaves=default,music")
    time.sleep(0.5)
    with bench.recorder() as sound:
        bench.run("paplay", "-d", "both", str(bench.tone))
    judge_tone(sound(), level=None)


def samples(bench: Bench) -> None:
    """The sample cache plays."""
    with bench.recorder() as sound:
        bench.run("pactl", "upload-sample", str(bench.tone), "bell")
        bench.run("pactl", "play-sample", "bell", "millrace")
        time.sleep(SECONDS)
    judge_tone(sound())
    bench.run("pactl", "remove-sample", "bell")
    assert "bell" not in bench.run("pactl", "list", "short", "samples")


def subscribe(bench: Bench) -> None:
    """Subscribed events are sent."""
    watcher = bench.spawn("pactl", "subscribe", stdout=subprocess.PIPE)
    time.sleep(0.3)
    bench.run("paplay", str(write_wav(bench.folder / "short.wav", TONE[:9600])))
    time.sleep(0.3)
    watcher.send_signal(signal.SIGINT)
    text = watcher.communicate(timeout=5)[0].decode()
    for expected in ("'new' on sink-input", "'remove' on sink-input", "'new' on client"):
        assert expected in text, f"no {expected}"


def latency_asked(bench: Bench) -> None:
    """pacat --latency-msec=20: the latency that it reports stays near that."""
    player = bench.spawn(
        "pacat", *FORMAT, "--latency-msec=20", "-v", str(bench.folder / "count.raw"), stderr=subprocess.PIPE
    )
    assert player.wait(15) == 0 and player.stderr is not None
    text = player.stderr.read().decode()
    seen = [int(part.split("Latency: ")[1].split(" usec")[0]) for part in text.split("\r") if "Latency: " in part]
    assert seen, "no latency was reported"
    assert float(np.median(seen[len(seen) // 4 :])) < 45_000, f"{np.median(seen) / 1000:.0f} ms"


def bad_module(bench: Bench) -> None:
    """Loading an unknown module fails, with an error message."""
    done = subprocess.run(["pactl", "load-module", "module-nonsense"], env=bench.env, capture_output=True, text=True)
    assert done.returncode != 0 and "fail" in done.stderr.lower(), done.stderr


def listing(kind: str) -> Check:
    """`pactl list KIND`."""
    return lambda bench: bool(bench.run("pactl", "list", kind)) and None


def kill_client(bench: Bench) -> None:
    """A stream is killed by another client; its own client ends with an error."""
    player, stream = bench.playing()
    kill = bench.folder / "kill.py"
    kill.write_text(KILL.format(path=str(bench.server.socket), index=stream["index"]))
    bench.run(sys.executable, str(kill))
    assert player.wait(10) != 0


KILL = """
import asyncio
from pathlib import Path
from millrace.client.pulse import PulsePlayer
from millrace.wire.pulse.constants import Command
async def main():
    player = await PulsePlayer.connect(Path({path!r}), "killer")
    await player.ask(Command.KILL_SINK_INPUT, index={index})
asyncio.run(main())
"""
RATES = [
    ("u8", 8_000),
    ("s16be", 22_050),
    ("s24le", 44_100),
    ("s24-32le", 96_000),
    ("float32be", 192_000),
    ("ulaw", 16_000),
]


def odd_format(name: str, rate: int) -> Check:
    """pacat with an unusual format: sox makes the bytes."""
    sox = {
        "u8": "-e unsigned -b 8", "s16be": "-e signed -b 16 -B", "s24le": "-e signed -b 24 -L",
        "s24-32le": "-e signed -b 32 -L", "float32be": "-e float -b 32 -B", "ulaw": "-e mu-law -b 8",
    }[name]  # fmt: skip

    def check(bench: Bench) -> None:
        raw = bench.folder / "odd.raw"
        bench.run("sh", "-c", f"sox -q {bench.tone} -D -r {rate} {sox} -t raw {raw}")
        if name == "s24-32le":
            raw.write_bytes((np.frombuffer(raw.read_bytes(), "<i4") >> 8).astype("<i4").tobytes())
        with bench.recorder() as sound:
            bench.run("pacat", "--raw", f"--rate={rate}", f"--format={name}", "--channels=2", str(raw))
        judge_tone(sound(), level=None if name in ("u8", "ulaw") else -6.02)

    return check


GRAB = ["-v", "error", "-f", "pulse", "-sample_rate", "48000", "-i", "millrace.monitor", "-f", "s16le", "-"]
CHECKS: dict[str, Check] = {
    **{f"plays: {name}": exact(name) for name in EXACT},
    **{f"plays: {name}": converting(name) for name in CONVERTING},
    **{f"plays: pacat {name} {rate} Hz": odd_format(name, rate) for name, rate in RATES},
    "plays: Chromium": page("chromium"),
    "plays: Firefox": page("firefox"),
    "plays: QEMU -audiodev pa": qemu,
    "records: parec": recording("parec", *FORMAT, "-d", "millrace.monitor"),
    "records: parec, 10 ms": recording("parec", *FORMAT, "--latency-msec=10", "-d", "millrace.monitor"),
    "records: ffmpeg": recording("ffmpeg", *GRAB),
    "records: arecord": recording(
        "sh", "-c", "PULSE_SOURCE=millrace.monitor exec arecord -q -D pulse -t raw -f S16_LE -r 48000 -c 2"
    ),
    "records: GStreamer": recording(
        "gst-launch-1.0", "-q", "pulsesrc", "device=millrace.monitor", "!",
        "audio/x-raw,format=S16LE,rate=48000,channels=2", "!", "fdsink",
    ),
    "a 30 ms file is whole": short_file,
    "two players at once": two_mix,
    "kill -9 of others": kill_9,
    "SIGSTOP of another": stopped,
    "drain ends on time": drain_time,
    "latency asked is latency had": latency_asked,
    "stream volume": volume, "stream mute": mute, "stream move": move, "stream kill": kill_client,
    "sink volume": sink_volume, "default sink": default_sink, "null sink unloaded": unload, "combine sink": combine,
    "unknown module": bad_module, "sample cache": samples, "subscribe": subscribe,
    **{f"pactl list {kind}": listing(kind) for kind in
       ("sinks", "sources", "sink-inputs", "source-outputs", "clients", "modules", "samples")},
}  # fmt: skip


def verdict(kind: str, check: Check) -> str:
    """ "ok", or what is wrong."""
    with tempfile.TemporaryDirectory(prefix="mr") as name:
        server = Server(kind, Path(name))
        bench = Bench(server)
        try:
            check(bench)
        except (AssertionError, IndexError, StopIteration, subprocess.SubprocessError) as error:
            return (str(error).splitlines() or ["failed"])[0][:60]
        finally:
            bench.close()
            server.stop()
    return "ok"


def main() -> None:
    """Print the table. A failed check is repeated once, because a stall of the machine is not the server's fault."""
    kinds = installed()
    passed = dict.fromkeys(kinds, 0)
    only = [word.removeprefix("--only=") for word in sys.argv if word.startswith("--only=")]
    names = [name for name in CHECKS if not only or any(word in name for word in only)]
    print(f"clients: {len(names)} checks of real clients; the judge is parec on the sink's monitor")
    for name in names:
        results = []
        for kind in kinds:
            result = verdict(kind, CHECKS[name])
            if result != "ok":
                result = verdict(kind, CHECKS[name])
            passed[kind] += result == "ok"
            results.append(f"{kind}: {result}")
        print(f"  {name:34} {' | '.join(results)}", flush=True)
    print("  " + ", ".join(f"{kind} {count_} of {len(names)}" for kind, count_ in passed.items()))
    missing = [p for p in ("chromium", "firefox-esr", "qemu-system-x86_64", "pipewire-pulse") if not shutil.which(p)]
    if missing:
        print(f"  not installed: {', '.join(missing)}")
