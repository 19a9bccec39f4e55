"""A mixer's requests to PulseAudio's extensions, through the real library: levels of streams, formats of devices.

`python -m tests.fuzz.extensions`, with $PULSE_SERVER.
"""

from __future__ import annotations

import ctypes
import os

from tests.real.libpulse import PTR, SUCCESS, U32, Connection, Map

VERSION = ctypes.CFUNCTYPE(None, PTR, U32, PTR)
INFO = ctypes.CFUNCTYPE(None, PTR, PTR, ctypes.c_int, PTR)
NAME = b"sink-input-by-media-role:music"


class Volume(ctypes.Structure):
    """pa_cvolume."""

    _fields_ = (("channels", ctypes.c_uint8), ("values", U32 * 32))


class Restored(ctypes.Structure):
    """pa_ext_stream_restore_info."""

    _fields_ = (
        ("name", ctypes.c_char_p), ("map", Map), ("volume", Volume), ("device", ctypes.c_char_p),
        ("mute", ctypes.c_int),
    )  # fmt: skip


def main() -> None:
    """Make each request once."""
    server = Connection(os.environ["PULSE_SERVER"], "extensions")
    told: list[str] = []
    version = server.keep(VERSION(lambda context, number, data: told.append(f"version {number}")))
    info = server.keep(INFO(lambda context, item, end, data: told.append("end" if end else "item")))
    done = server.keep(SUCCESS(lambda context, success, data: told.append("done" if success else "failed")))
    one = Restored(NAME, Map(2, (1, 2)), Volume(2, (0x8000, 0x8000)), b"millrace", 0)
    names = (ctypes.c_char_p * 2)(NAME, None)
    asked = [
        ("stream_restore_test", (version, None)),
        ("stream_restore_subscribe", (1, done, None)),
        ("stream_restore_write", (2, ctypes.byref(one), 1, 1, done, None)),
        ("stream_restore_read", (info, None)),
        ("stream_restore_delete", (names, done, None)),
        ("device_restore_test", (version, None)),
        ("device_restore_subscribe", (1, done, None)),
        ("device_restore_read_formats_all", (info, None)),
        ("device_restore_read_formats", (0, 0, info, None)),
        ("device_manager_test", (version, None)),
    ]
    for name, args in asked:
        before = len(told)
        server.call(f"pa_ext_{name}", server.context, *args)
        server.wait(lambda before=before: len(told) > before, name)  # type: ignore[misc]
        print(name, told[-1])
    server.close()


if __name__ == "__main__":
    main()
