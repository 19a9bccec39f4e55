"""Opus through libopus by ctypes: every encoder control can be changed during playback.

PyAV's encoder can't change bitrate, FEC or DTX at run time, so the library is called directly (opus.h,
opus_multistream.h, opus_defines.h of libopus 1.3 and later; RFC 6716). The library in PyAV's wheel is preferred, so
that every host runs the same version; otherwise the system's is used. `MILLRACE_LIBOPUS` overrides both. ctypes
releases the GIL during calls.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import importlib.util
import os
from collections.abc import Iterator
from ctypes import POINTER, c_char_p, c_int, c_int32, c_ubyte, c_void_p
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from millrace.codec.settings import CodecSettings
from millrace.dsp.convert import Samples
from millrace.errors import CodecError
from millrace.units import Positions

OPUS_RATE = 48_000
MAX_FRAMES = 5760
"""120 ms, the longest Opus packet."""
# RFC 6716: a packet holds at most 120 ms, six frames of 20 ms with up to 1,275 bytes each, and 7 bytes that describe
# them.
_PACKET_MAX = 1275 * 6 + 7

# Request numbers of opus_defines.h.
_SET_BITRATE, _SET_VBR, _SET_BANDWIDTH = 4002, 4006, 4008
_SET_COMPLEXITY, _SET_FEC, _SET_LOSS, _SET_DTX = 4010, 4012, 4014, 4016
_GET_LOOKAHEAD, _GET_BITRATE = 4027, 4003
_AUTO = -1000
_BANDWIDTH = {"auto": _AUTO, "narrow": 1101, "medium": 1102, "wide": 1103, "superwide": 1104, "full": 1105}
_APPLICATION = {"voip": 2048, "audio": 2049, "lowdelay": 2051}

# Channel orders of mapping family 1 (RFC 7845, section 5.1.1.2: the Vorbis order).
_FL, _FR, _FC, _LFE = "front-left", "front-right", "front-center", "lfe"
_RL, _RR, _SL, _SR = "rear-left", "rear-right", "side-left", "side-right"
_VORBIS_ORDER: dict[int, Positions] = {
    3: (_FL, _FC, _FR),
    4: (_FL, _FR, _RL, _RR),
    5: (_FL, _FC, _FR, _RL, _RR),
    6: (_FL, _FC, _FR, _RL, _RR, _LFE),
    7: (_FL, _FC, _FR, _SL, _SR, "rear-center", _LFE),
    8: (_FL, _FC, _FR, _SL, _SR, _RL, _RR, _LFE),
}


def _candidates() -> Iterator[str]:
    if named := os.environ.get("MILLRACE_LIBOPUS"):
        yield named
    spec = importlib.util.find_spec("av")
    if spec and spec.origin:
        home = Path(spec.origin).parent
        for folder in (home.parent / "av.libs", home / ".dylibs", home):
            yield from sorted(str(p) for p in folder.glob("libopus[-.]*"))
    if system := ctypes.util.find_library("opus"):
        yield system
    yield "libopus.so.0"


# Prototypes are declared once for the whole process. Without them ctypes would take the addresses that the library
# returns for C ints.
@lru_cache(maxsize=1)
def libopus() -> ctypes.CDLL:
    """The loaded library, with the prototypes in use declared. CodecError if there is none."""
    for name in _candidates():
        try:
            lib = ctypes.CDLL(name)
        except OSError:
            continue
        _declare(lib)
        return lib
    raise CodecError("libopus was not found: install libopus0 or the Python package av")


def _declare(lib: ctypes.CDLL) -> None:
    err, mapping = POINTER(c_int), POINTER(c_ubyte)
    handle = c_void_p
    lib.opus_get_version_string.restype = c_char_p
    lib.opus_strerror.restype = c_char_p
    lib.opus_encoder_create.restype = handle
    lib.opus_encoder_create.argtypes = [c_int32, c_int, c_int, err]
    lib.opus_encode_float.argtypes = [handle, handle, c_int, handle, c_int32]
    lib.opus_encoder_destroy.argtypes = [handle]
    lib.opus_decoder_create.restype = handle
    lib.opus_decoder_create.argtypes = [c_int32, c_int, err]
    lib.opus_decode_float.argtypes = [handle, c_char_p, c_int32, handle, c_int, c_int]
    lib.opus_decoder_destroy.argtypes = [handle]
    surround = lib.opus_multistream_surround_encoder_create
    surround.restype = handle
    surround.argtypes = [c_int32, c_int, c_int, err, err, mapping, c_int, err]
    lib.opus_multistream_encode_float.argtypes = [handle, handle, c_int, handle, c_int32]
    lib.opus_multistream_encoder_destroy.argtypes = [handle]
    lib.opus_multistream_decoder_create.restype = handle
    lib.opus_multistream_decoder_create.argtypes = [c_int32, c_int, c_int, c_int, mapping, err]
    lib.opus_multistream_decode_float.argtypes = [handle, c_char_p, c_int32, handle, c_int, c_int]
    lib.opus_multistream_decoder_destroy.argtypes = [handle]


def version() -> str:
    """libopus's own version string."""
    text: bytes = libopus().opus_get_version_string()
    return text.decode()


def _checked(code: int) -> int:
    if code < 0:
        raise CodecError(f"libopus: {libopus().opus_strerror(c_int(code)).decode()}")
    return code


def wire_order(positions: Positions) -> tuple[int, tuple[int, ...]]:
    """(mapping family, order): our channel `order[i]` travels as channel i.

    Family 0 is mono and stereo, 1 the surround layouts of Vorbis, 255 discrete channels.
    """
    channels = len(positions)
    if channels <= 2:
        return 0, tuple(range(channels))
    vorbis = _VORBIS_ORDER.get(channels)
    if vorbis is not None and set(vorbis) == set(positions):
        return 1, tuple(positions.index(name) for name in vorbis)
    return 255, tuple(range(channels))


class Layout(NamedTuple):
    """What listeners must know of an encoder: its streams, and its own delay in frames at 48 kHz."""

    streams: int
    coupled: int
    mapping: tuple[int, ...]
    lookahead: int


class _State:
    """An encoder state of libopus."""

    def __init__(self, channels: int, application: str, family: int) -> None:
        lib, error, kind = libopus(), c_int(), _APPLICATION[application]
        self.streams, self.coupled, self.mapping = 1, channels - 1, tuple(range(channels))
        if family == 0:
            self._handle = lib.opus_encoder_create(OPUS_RATE, channels, kind, ctypes.byref(error))
            self._encode, self._ctl = lib.opus_encode_float, lib.opus_encoder_ctl
            self._destroy = lib.opus_encoder_destroy
        else:
            streams, coupled, mapping = c_int(), c_int(), (c_ubyte * channels)()
            self._handle = lib.opus_multistream_surround_encoder_create(
                OPUS_RATE, channels, family, ctypes.byref(streams), ctypes.byref(coupled), mapping, kind,
                ctypes.byref(error),
            )  # fmt: skip
            self.streams, self.coupled, self.mapping = streams.value, coupled.value, tuple(mapping)
            self._encode, self._ctl = lib.opus_multistream_encode_float, lib.opus_multistream_encoder_ctl
            self._destroy = lib.opus_multistream_encoder_destroy
        _checked(error.value)

    def apply(self, settings: CodecSettings) -> None:
        """Apply `settings` from the next frame on, without resetting the encoder."""
        self.set(_SET_BITRATE, settings.bitrate)
        self.set(_SET_VBR, int(settings.vbr))
        self.set(_SET_COMPLEXITY, settings.complexity)
        self.set(_SET_FEC, int(settings.fec))
        self.set(_SET_DTX, int(settings.dtx))
        self.set(_SET_BANDWIDTH, _BANDWIDTH[settings.bandwidth])

    # `opus_encoder_ctl` is variadic. ctypes can't declare the types of such arguments, and would pass a plain integer
    # as a C int, which cuts off the upper half of the encoder's address. So each argument is wrapped.
    def set(self, request: int, value: int) -> None:
        """One encoder control."""
        _checked(self._ctl(c_void_p(self._handle), c_int(request), c_int32(value)))

    def get(self, request: int) -> int:
        """The value of an encoder control."""
        value = c_int32()
        _checked(self._ctl(c_void_p(self._handle), c_int(request), ctypes.byref(value)))
        return value.value

    def encode(self, block: Samples, scratch: _Scratch) -> bytes:
        """See `OpusEncoder.encode`."""
        # Copying to a fixed address is cheaper than querying each array for its own.
        frames = len(block)
        scratch.samples[:frames] = block
        size = self._encode(self._handle, scratch.samples_at, frames, scratch.packet_at, scratch.packet_max)
        return bytes(scratch.packet[: _checked(size)])

    def close(self) -> None:
        """Free it; nothing may be done with it afterwards. A second call does nothing."""
        if getattr(self, "_handle", None):
            self._destroy(self._handle)
            self._handle = None

    def __del__(self) -> None:
        self.close()


class _Scratch:
    """What encoders read from and write to. The packet is copied out before the next call."""

    def __init__(self, channels: int, streams: int) -> None:
        packet = ctypes.create_string_buffer(_PACKET_MAX * max(1, streams))
        self.packet, self.packet_max = memoryview(packet).cast("B"), len(packet)
        self.packet_at = ctypes.addressof(packet)
        self.samples: Samples = np.empty((MAX_FRAMES, channels), np.float32)
        self.samples_at: int = self.samples.__array_interface__["data"][0]


# For each encoder of its own, it would be as much memory as its state. Threads that encode at once each take another.
@lru_cache(maxsize=256)
def _unused(channels: int, streams: int) -> list[_Scratch]:
    """The scratches for encoders of this shape that none uses just now."""
    return []


@lru_cache(maxsize=256)
def _layout(channels: int, application: str, family: int) -> Layout:
    state = _State(channels, application, family)
    try:
        return Layout(state.streams, state.coupled, state.mapping, state.get(_GET_LOOKAHEAD))
    finally:
        state.close()


# Not to be called from two threads at once: libopus keeps no lock, and ctypes releases the GIL meanwhile, so nothing
# else would prevent it. Most listeners hear nothing for hours: the state is made at the first sound.
class OpusEncoder:
    """One encoder at 48 kHz. Channels are in wire order (see `wire_order`)."""

    def __init__(self, channels: int, settings: CodecSettings, family: int = 0) -> None:
        self.channels, self.family, self._settings = channels, family, settings
        self.streams, self.coupled, self.mapping, self.lookahead_frames = _layout(
            channels, settings.application, family
        )
        self._loss = settings.loss
        self._unused = _unused(channels, self.streams)
        self._state: _State | None = None
        self._closed = False

    def _begun(self) -> _State:
        """The state, made now if there is none."""
        if self._closed:
            raise CodecError("the encoder is closed")
        if self._state is None:
            state = _State(self.channels, self._settings.application, self.family)
            state.apply(self._settings)
            state.set(_SET_LOSS, self._loss)
            self._state = state
        return self._state

    def configure(self, settings: CodecSettings) -> None:
        """Apply `settings` from the next frame on, without resetting the encoder."""
        if self._settings.application != settings.application:
            raise CodecError("application can't change in a running encoder; make a new one")
        self._settings = settings
        if self._state is not None:
            self._state.apply(settings)
        self.expect_loss(settings.loss)

    def expect_loss(self, percent: int) -> None:
        """Make packets depend less on earlier ones, and carry more in-band FEC if that is on."""
        self._loss = percent
        if self._state is not None:
            self._state.set(_SET_LOSS, percent)

    @property
    def bitrate(self) -> int:
        """The target bitrate in force, bit/s."""
        return self._begun().get(_GET_BITRATE)

    def encode(self, block: Samples) -> bytes:
        """Encode (frames, channels) float32 of one legal frame length."""
        state = self._state or self._begun()
        try:
            scratch = self._unused.pop()
        except IndexError:
            scratch = _Scratch(self.channels, self.streams)
        try:
            return state.encode(block, scratch)
        finally:
            self._unused.append(scratch)

    def close(self) -> None:
        """Free the libopus state; nothing may be encoded afterwards."""
        self._closed = True
        state, self._state = self._state, None
        if state is not None:
            state.close()


class OpusDecoder:
    """One decoder state at 48 kHz; the multistream layout is that of the encoder."""

    def __init__(self, channels: int, streams: int = 1, coupled: int = -1, mapping: tuple[int, ...] = ()) -> None:
        lib, error = libopus(), c_int()
        self.channels = channels
        if channels <= 2:
            self._state = lib.opus_decoder_create(OPUS_RATE, channels, ctypes.byref(error))
            self._decode, self._destroy = lib.opus_decode_float, lib.opus_decoder_destroy
        else:
            table = (c_ubyte * channels)(*mapping)
            self._state = lib.opus_multistream_decoder_create(
                OPUS_RATE, channels, streams, coupled, table, ctypes.byref(error)
            )
            self._decode = lib.opus_multistream_decode_float
            self._destroy = lib.opus_multistream_decoder_destroy
        _checked(error.value)
        self._out: Samples = np.empty((MAX_FRAMES, channels), np.float32)
        self._out_at = self._out.__array_interface__["data"][0]

    def decode(self, packet: bytes) -> Samples:
        """One packet to (frames, channels); CodecError for a damaged one."""
        return self._run(packet, len(self._out), 0)

    def conceal(self, frames: int) -> Samples:
        """Packet loss concealment for `frames` that never arrived (a multiple of 2.5 ms)."""
        return self._run(None, frames, 0)

    # libopus conceals by itself if the packet carries no FEC, so no caller needs to know. `frames` must be the exact
    # length of what was lost: FEC covers one packet, and only the one directly before.
    def recover(self, packet: bytes, frames: int) -> Samples:
        """The `frames` lost before `packet`, from its in-band FEC, or else concealed."""
        return self._run(packet, frames, 1)

    def _run(self, packet: bytes | None, frames: int, fec: int) -> Samples:
        if not 0 < frames <= len(self._out):
            raise CodecError(f"Opus has no packets of {frames} frames")
        size = len(packet) if packet else 0
        got = self._decode(self._state, packet or None, size, self._out_at, frames, fec)
        return self._out[: _checked(got)].copy()

    def __del__(self) -> None:
        if getattr(self, "_state", None):
            self._destroy(self._state)
