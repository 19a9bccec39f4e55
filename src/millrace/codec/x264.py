"""H.264 through libx264 by ctypes: a QP for each picture, macroblocks marked as unchanged, a rate that can be changed.

PyAV's encoder has none of these. x264 has no stable ABI, but a number of its own in the name of `x264_encoder_open`, so
the structures below are used only with a library that has that name; with any other, `video_encoder` takes PyAV's
encoder. Offsets are those of x264.h of build 165 on 64-bit systems. Options are set by `x264_param_parse`, which needs
none.

Only what changed in the area of a stream is converted and coded. What was never part of it is grey: key
pictures are small, and whoever shows the stream draws only the rectangles that belong to it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from ctypes import byref, c_char_p, c_int, c_void_p
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from millrace.codec.library import found
from millrace.codec.videoencoder import GREY, Encoded, VideoEncoder
from millrace.errors import CodecError
from millrace.pixels.convert import Convert, PixelFormat, Plane, blank
from millrace.pixels.difference import cells_of, in_cells
from millrace.pixels.rects import Rect, Size

BUILD = 165
_OPEN = f"x264_encoder_open_{BUILD}"
_PARAM_BYTES, _PICTURE_BYTES = 4096, 1024
"""More than the structures take."""
# Offsets in x264_param_t.
_WIDTH, _HEIGHT, _CSP, _MB_INFO = 28, 32, 36, 628
# Offsets in x264_picture_t.
_TYPE, _QP, _KEYFRAME, _PTS, _IMAGE_CSP, _PLANES, _STRIDES, _PLANE, _INFO = 0, 4, 12, 16, 40, 44, 48, 64, 112
_CSP_I420, _CSP_NV12 = 2, 4
_TYPE_AUTO, _TYPE_IDR = 0, 1
_CONSTANT = 1
"""A macroblock is what it was in the previous picture (X264_MBINFO_CONSTANT)."""
_QP_MAX = 51
RATE_BUFFER_MS = 100
QP = 24
"""For a line that takes any rate: 42 dB in luma on text."""
_OPTIONS = {
    "threads": "1", "keyint": "infinite", "scenecut": "0", "weightp": "0", "repeat-headers": "1", "annexb": "1",
    "fps": "30", "colormatrix": "smpte170m", "colorprim": "smpte170m", "transfer": "smpte170m", "fullrange": "off",
    "log": "-1",
}  # fmt: skip


class _Nal(ctypes.Structure):
    """x264_nal_t: the payloads of a picture's units lie behind each other, so that of the first is all of them."""

    _fields_ = (
        ("ref_idc", c_int), ("type", c_int), ("long_startcode", c_int), ("first_mb", c_int), ("last_mb", c_int),
        ("payload_bytes", c_int), ("payload", c_void_p), ("padding", c_int),
    )  # fmt: skip


@lru_cache(maxsize=1)
def libx264() -> ctypes.CDLL | None:
    """The loaded library, with the prototypes in use declared; None if there is none of this build."""
    if ctypes.sizeof(c_void_p) != 8:
        return None
    for lib in found("x264"):
        if hasattr(lib, _OPEN):
            _declare(lib)
            return lib
    return None


def _declare(lib: ctypes.CDLL) -> None:
    getattr(lib, _OPEN).restype = c_void_p
    getattr(lib, _OPEN).argtypes = [c_void_p]
    lib.x264_param_default_preset.argtypes = [c_void_p, c_char_p, c_char_p]
    lib.x264_param_parse.argtypes = [c_void_p, c_char_p, c_char_p]
    lib.x264_picture_init.argtypes = [c_void_p]
    lib.x264_encoder_encode.argtypes = [c_void_p, c_void_p, c_void_p, c_void_p, c_void_p]
    lib.x264_encoder_reconfig.argtypes = [c_void_p, c_void_p]
    lib.x264_encoder_close.argtypes = [c_void_p]
    lib.x264_encoder_close.restype = None


class _Fields:
    """A structure as bytes, with numbers at offsets."""

    def __init__(self, size: int) -> None:
        self._bytes = ctypes.create_string_buffer(size)
        self.at = ctypes.addressof(self._bytes)

    def put(self, offset: int, value: int, kind: type[ctypes._SimpleCData[int]] = c_int) -> None:
        kind.from_buffer(self._bytes, offset).value = value

    def get(self, offset: int) -> int:
        value: int = c_int.from_buffer(self._bytes, offset).value
        return value


# Not to be called from two threads at once. ctypes releases the GIL during calls.
class X264Encoder(VideoEncoder):
    """One stream of BT.601, limited range, 4:2:0, in Annex B with parameter sets before each key picture.

    `rate` is in bit/s; None for a line that takes anything: the quality is constant then.
    """

    codec = "avc1"

    def __init__(self, size: Size, rate: int | None, convert: Convert) -> None:
        lib = libx264()
        if lib is None:
            raise CodecError(f"no libx264 of build {BUILD}; PyAV's wheels have it")
        self._lib, self._convert, self.rate = lib, convert, rate
        self._planes = blank(PixelFormat.NV12, size)
        self._high, self._wide = self._planes.planes[0].shape
        self._parameters = _Fields(_PARAM_BYTES)
        self._in, self._out = _Fields(_PICTURE_BYTES), _Fields(_PICTURE_BYTES)
        self._marks: NDArray[np.uint8] = np.zeros(cells_of(Size(self._wide, self._high)), np.uint8)
        self._handle: int | None = None
        self._number = 0
        self._set_parameters()
        self._set_picture()
        handle = getattr(lib, _OPEN)(self._parameters.at)
        if not handle:
            raise CodecError(f"libx264 refused a stream of {self._wide} × {self._high}")
        self._handle = handle

    def _set_parameters(self) -> None:
        self._lib.x264_param_default_preset(self._parameters.at, b"ultrafast", b"zerolatency")
        # A check of the offsets: 0 × 0 and I420 are the defaults.
        if [self._parameters.get(at) for at in (_WIDTH, _HEIGHT, _CSP, _MB_INFO)] != [0, 0, _CSP_I420, 0]:
            raise CodecError("libx264 has other structures than its build number says")
        for name, value in (_OPTIONS | self._rate_options()).items():
            self._parse(name, value)
        for at, number in ((_WIDTH, self._wide), (_HEIGHT, self._high), (_CSP, _CSP_NV12), (_MB_INFO, 1)):
            self._parameters.put(at, number)

    def _rate_options(self) -> dict[str, str]:
        if self.rate is None:
            # The two ratios widen the range within which a picture may set its own QP; otherwise it is 20 to 25.
            return {"qp": str(QP - 1), "ipratio": "12", "pbratio": "24"}
        kbit = max(1, self.rate // 1000)
        return {
            "crf": str(QP), "vbv-maxrate": str(kbit), "vbv-bufsize": str(max(1, kbit * RATE_BUFFER_MS // 1000)),
        }  # fmt: skip

    def _parse(self, name: str, value: str) -> None:
        if self._lib.x264_param_parse(self._parameters.at, name.encode(), value.encode()):
            raise CodecError(f"libx264 refused {name}={value}")

    def _set_picture(self) -> None:
        self._lib.x264_picture_init(self._in.at)
        self._in.put(_IMAGE_CSP, _CSP_NV12)
        self._in.put(_PLANES, 2)
        for index, plane in enumerate(self._planes.planes):
            self._in.put(_STRIDES + 4 * index, plane.strides[0])
            self._in.put(_PLANE + 8 * index, plane.ctypes.data, ctypes.c_int64)

    @property
    def name(self) -> str:
        """See `VideoEncoder`."""
        return "H.264 by libx264, in software"

    def encode(self, picture: Plane, changed: Iterable[Rect], key: bool = False, qp: int | None = None) -> Encoded:
        """See `VideoEncoder`."""
        key = key or not self._number
        rects = [rect.even() for rect in changed]
        if key:
            for plane in self._planes.planes:
                plane[:] = GREY
        self._convert(picture, self._planes, rects)
        self._marks[:] = _CONSTANT
        for rect in rects:
            self._marks[in_cells(rect)] = 0
        return self._encoded(key, qp)

    def _encoded(self, key: bool, qp: int | None) -> Encoded:
        picture = self._in
        picture.put(_TYPE, _TYPE_IDR if key else _TYPE_AUTO)
        picture.put(_QP, min(qp, _QP_MAX) + 1 if qp is not None and self.rate is None else 0)
        picture.put(_PTS, self._number, ctypes.c_int64)
        # Cleared by x264 after each call, which frees nothing of ours.
        picture.put(_INFO, 0 if key else self._marks.ctypes.data, ctypes.c_int64)
        nals, count = ctypes.POINTER(_Nal)(), c_int()
        size = self._lib.x264_encoder_encode(self._handle, byref(nals), byref(count), picture.at, self._out.at)
        if size <= 0:
            raise CodecError("libx264 failed to encode a picture")
        self._number += 1
        return Encoded(ctypes.string_at(nals[0].payload, size), bool(self._out.get(_KEYFRAME)))

    def set_rate(self, rate: int) -> bool:
        """See `VideoEncoder`. A stream without a rate stays so."""
        if self.rate is None or rate == self.rate:
            return self.rate is not None
        self.rate = rate
        for name, value in self._rate_options().items():
            self._parse(name, value)
        if self._lib.x264_encoder_reconfig(self._handle, self._parameters.at) < 0:
            raise CodecError(f"libx264 refused a rate of {rate} bit/s")
        return True

    def close(self) -> None:
        """See `VideoEncoder`."""
        handle, self._handle = self._handle, None
        if handle:
            self._lib.x264_encoder_close(handle)

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self.close()
