"""Command lines of real PulseAudio clients, for the tests and for the benchmark that compares servers."""

from __future__ import annotations

import subprocess
from pathlib import Path

from millrace.wire.qemu.qmp import PEER_TO_PEER_MAJOR

EXACT = {
    "paplay": ["paplay", "{wav}"],
    "pacat": ["pacat", "--rate=48000", "--format=s16le", "--channels=2", "--raw", "{raw}"],
    "pacat-50ms": ["pacat", "--latency-msec=50", "--rate=48000", "--format=s16le", "--channels=2", "--raw", "{raw}"],
    # ffmpeg exits without draining, so its file ends with silence, which may be lost.
    "ffmpeg": ["ffmpeg", "-v", "error", "-re", "-i", "{wav}", "-af", "apad=pad_dur=3", "-f", "pulse", "tone"],
    "sox": ["sox", "-q", "{wav}", "-t", "pulseaudio"],
    "mpv": ["mpv", "--no-config", "--really-quiet", "--no-video", "--ao=pulse", "{wav}"],
    "aplay": ["aplay", "-q", "-D", "pulse", "{wav}"],
    # pulsesink ends by its own clock, without draining: its file ends with silence too.
    "gstreamer": ["gst-launch-1.0", "-q", "filesrc", "location={padded}", "!", "wavparse", "!", "pulsesink"],
}
"""Clients whose every frame must arrive. `{wav}` is 48 kHz s16 stereo, `{raw}` its bytes; `{padded}` adds silence."""

TUNNEL = """
near={wav}.near
pulseaudio -n --daemonize=no --use-pid-file=no --exit-idle-time=-1 \\
  --load="module-native-protocol-unix socket=$near auth-anonymous=1" \\
  --load="module-tunnel-sink server=$PULSE_SERVER rate=48000" 2>/dev/null &
until PULSE_SERVER=unix:$near pactl info >/dev/null 2>&1; do sleep 0.1; done
PULSE_SERVER=unix:$near paplay {wav}
sleep 0.5
kill $!
"""
CONVERTING = {
    "ffplay (SDL)": ["ffplay", "-nodisp", "-autoexit", "-v", "error", "{wav}"],
    "ogg123": ["sh", "-c", "ffmpeg -y -v error -i {wav} -b:a 256k {wav}.ogg && ogg123 -q -d pulse {wav}.ogg"],
    "pulseaudio's tunnel": ["sh", "-c", TUNNEL],
    "paplay-44100": ["sh", "-c", "sox -q {wav} -r 44100 {wav}.44.wav && paplay {wav}.44.wav"],
    "pacat-96000-f32-mono": [
        "sh", "-c", "sox -q {wav} -r 96000 -c 1 -e float -b 32 -t raw {wav}.f && "
        "pacat --raw --rate=96000 --channels=1 --format=float32le {wav}.f",
    ],
}  # fmt: skip
"""Clients that convert or resample the sound themselves: judged by frequency, level and continuity."""

OSCILLATOR = """<script>
const c = new AudioContext(), o = c.createOscillator(), g = c.createGain();
o.frequency.value = 997; g.gain.value = 0.5;
o.connect(g); g.connect(c.destination); o.start(); c.resume();
</script>"""
"""A page that plays 997 Hz at −6 dBFS."""

FIREFOX_PREFS = """
user_pref("media.autoplay.default", 0);
user_pref("media.autoplay.blocking_policy", 0);
user_pref("datareporting.policy.dataSubmissionEnabled", false);
user_pref("app.update.enabled", false);
"""
_CHROMIUM = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
    "--autoplay-policy=no-user-gesture-required", "--remote-debugging-port=0",
)  # fmt: skip


def browser_command(browser: str, profile: Path, page: Path) -> list[str]:
    """Open `page` headless; for Firefox, `profile` contains a user.js with `FIREFOX_PREFS`."""
    if browser == "firefox":
        return ["firefox-esr", "--headless", "--profile", str(profile), f"file://{page}"]
    return ["chromium", *_CHROMIUM, f"--user-data-dir={profile}", f"file://{page}"]


_PIT_DIVISOR = 1197  # 1193182 Hz / 1197 = 996.8 Hz
_BEEP = (
    b"\xb0\xb6\xe6\x43"  # mov al, 0xb6; out 0x43, al: timer 2, square wave
    + b"\xb8" + _PIT_DIVISOR.to_bytes(2, "little")  # mov ax, divisor
    + b"\xe6\x42\x88\xe0\xe6\x42"  # out 0x42, al; mov al, ah; out 0x42, al
    + b"\xe4\x61\x0c\x03\xe6\x61"  # in al, 0x61; or al, 3; out 0x61, al: speaker on
    + b"\xf4\xeb\xfd"  # hlt; jmp back
)  # fmt: skip
BOOT_SECTOR = _BEEP.ljust(510, b"\0") + b"\x55\xaa"
"""A boot sector that beeps at 996.8 Hz for ever: the smallest guest that makes a sound."""


def old_qemu() -> bool:
    """QEMU 7.2 (Debian 12) has no audio over peer-to-peer D-Bus, so a bus is used there."""
    said = subprocess.run(["qemu-system-x86_64", "--version"], capture_output=True, text=True).stdout
    return int(said.split("version ")[1].split(".")[0]) < PEER_TO_PEER_MAJOR
