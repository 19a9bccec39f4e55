"""A listener's microphone, or a substitute for one, encoded as Opus.

A source delivers blocks on its own clock from its own thread. `MicrophoneSender` turns them into packets
while the daemon reports that something is recording.
"""

from __future__ import annotations

import math
import threading
import time
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np

from millrace.codec.opus import OPUS_RATE, OpusEncoder
from millrace.codec.parameters import CodecParameters
from millrace.codec.settings import CodecSettings
from millrace.dsp.convert import SampleFormat, Samples, decode
from millrace.dsp.resample import SoxrResampler
from millrace.errors import ConfigError
from millrace.text import parse_int, printable, quoted
from millrace.units import NS_PER_S, RATE_MAX, RATE_MIN, Frames, HostNs, Positions, default_map, frames_to_ns
from millrace.wire.peer.messages import FormatChanged, Silence, encode_message, pack_media

CHOICES = "device, device:NAME, wav:FILE, tone:440, tone:440,660, null"
PACKET_FRAMES = 480
PERIOD_FRAMES = 480
_BEHIND_MAX_NS = NS_PER_S
"""A source that is further behind than this, for example after a suspend, skips that time instead of catching up."""
_WIDTHS = {1: SampleFormat.U8, 2: SampleFormat.S16LE, 3: SampleFormat.S24LE, 4: SampleFormat.S32LE}
Push = Callable[[Samples], None]


class MicrophoneSource(Protocol):
    """Captures at 48 kHz."""

    name: str
    positions: Positions

    def start(self, push: Push) -> None:
        """Deliver (frames, channels) blocks from now on; raises ConfigError if that is not possible."""
        ...

    def stop(self) -> None:
        """Stop capturing."""
        ...


class LoopSource:
    """Plays frames in a loop, on this machine's clock."""

    def __init__(self, name: str, frames: Samples) -> None:
        self.name = name
        self.positions = default_map(frames.shape[1])
        self._frames = frames
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()

    def start(self, push: Push) -> None:
        """See `MicrophoneSource`."""
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, args=(push,), name=self.name, daemon=True)
        self._thread.start()

    def _run(self, push: Push) -> None:
        began, done = time.monotonic_ns(), 0
        while not self._stop.is_set():
            wait = began + frames_to_ns(done + PERIOD_FRAMES, OPUS_RATE) - time.monotonic_ns()
            if wait > 0:
                time.sleep(wait / NS_PER_S)
            elif -wait > _BEHIND_MAX_NS:
                began -= wait
            at = np.arange(done, done + PERIOD_FRAMES) % len(self._frames)
            push(self._frames[at])
            done += PERIOD_FRAMES

    def stop(self) -> None:
        """See `MicrophoneSource`."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(1.0)


def make_microphone(text: str) -> MicrophoneSource:
    """The source that `text` names; ConfigError lists the choices."""
    kind, _, rest = text.partition(":")
    if kind == "device":
        from millrace.backends.device import DeviceInput

        return DeviceInput(rest)
    if kind == "null" and not rest:
        return LoopSource("null", np.zeros((OPUS_RATE, 1), np.float32))
    if kind == "tone" and rest:
        return LoopSource(text, _tones(rest))
    if kind == "wav" and rest:
        return LoopSource(text, _wav(Path(rest)))
    raise ConfigError(f"--mic {quoted(text)}: use one of {CHOICES}")


def _tones(text: str) -> Samples:
    """One sine per channel at −6 dBFS. One second holds a whole number of periods of any integer frequency, so it loops
    without a click."""
    hz = [parse_int(part, "--mic tone: (Hz, such as tone:440)", 1, OPUS_RATE // 2 - 1) for part in text.split(",")]
    if len(hz) > 2:
        raise ConfigError(f"--mic tone:{printable(text)}: one or two frequencies in Hz, such as tone:440")
    t = np.arange(OPUS_RATE) / OPUS_RATE
    return np.stack([0.5 * np.sin(2 * math.pi * one * t) for one in hz], axis=1).astype(np.float32)


def _wav(path: Path) -> Samples:
    """The contents of a WAV file, at 48 kHz; a truncated file yields what it has."""
    try:
        with wave.open(str(path)) as file:
            channels, rate, width = file.getnchannels(), file.getframerate(), file.getsampwidth()
            data = file.readframes(file.getnframes())
    except OSError as error:
        raise ConfigError(f"--mic wav:{path}: {error.strerror}") from None
    except (wave.Error, EOFError) as error:
        raise ConfigError(f"--mic wav:{path}: {str(error) or 'there is no sound in it'}") from None
    fmt = _WIDTHS.get(width)
    if fmt is None or channels > 2 or not RATE_MIN <= rate <= RATE_MAX:
        raise ConfigError(f"--mic wav:{path}: one or two channels of 8 to 32 bits at 1 to 384 kHz are needed")
    flat = np.empty(len(data) // (channels * width) * channels, np.float32)
    decode(fmt, data[: len(flat) * width], flat)
    frames = flat.reshape(-1, channels)
    if len(frames) and rate != OPUS_RATE:
        frames = SoxrResampler(rate, OPUS_RATE, channels).finish_of(frames)
    if not len(frames):
        raise ConfigError(f"--mic wav:{path}: there is no sound in it")
    return frames


class MicrophoneSender:
    """Turns blocks into messages, which it passes to `send`. Used from the event loop only."""

    def __init__(self, source: MicrophoneSource, settings: CodecSettings, send: Callable[[str | bytes], None]) -> None:
        self.source, self._send = source, send
        self._settings = settings
        self._encoder: OpusEncoder | None = None
        self._generation = 0
        self._pending: Samples = np.zeros((0, len(source.positions)), np.float32)
        self._position: Frames = 0
        self._sequence = 0
        self._began_ns: HostNs = 0
        self.sent_packets = 0

    @property
    def speaking(self) -> bool:
        """Whether packets are being sent."""
        return self._encoder is not None

    # A new encoder and a new generation: nothing of an earlier recording is left in the encoder's memory, and late
    # packets of it can't be taken for these. The numbers of packets go on, positions start again at 0.
    def begin(self, now_ns: HostNs) -> None:
        """Something in the guest has begun to record: send from now on."""
        channels = len(self.source.positions)
        encoder = self._encoder = OpusEncoder(channels, self._settings)
        self._generation += 1
        self._pending = self._pending[:0]
        self._position, self._began_ns = 0, now_ns
        fmt = CodecParameters(
            self._generation, "opus", OPUS_RATE, list(self.source.positions), lookahead=encoder.lookahead_frames,
            coupled=channels - 1, mapping=list(encoder.mapping),
        )  # fmt: skip
        self._send(encode_message(FormatChanged(fmt)))

    def end(self) -> None:
        """Nothing records any more: from now on no sound leaves this machine."""
        if self._encoder is not None:
            self._encoder.close()
            self._encoder = None
            self._send(encode_message(Silence(self._position)))

    def feed(self, block: Samples) -> None:
        """Encode and send a captured (frames, channels) block; dropped while not speaking."""
        encoder = self._encoder
        if encoder is None:
            return
        self._pending = np.concatenate((self._pending, block))
        while len(self._pending) >= PACKET_FRAMES:
            part, self._pending = self._pending[:PACKET_FRAMES], self._pending[PACKET_FRAMES:]
            host_ns = self._began_ns + frames_to_ns(self._position, OPUS_RATE)
            payload = encoder.encode(part)
            self._send(pack_media(self._generation, PACKET_FRAMES, self._sequence, self._position, host_ns, payload))
            self._position += PACKET_FRAMES
            self._sequence += 1
            self.sent_packets += 1
