"""Keys that a VNC server is told before it has told what it takes."""

from __future__ import annotations

import struct

from tests.fuzz import vncserver
from tests.fuzz.vncserver import update

from .test_vnc_pictures import client, said


def test_key_is_released_as_it_was_pressed_though_the_server_takes_codes_by_then() -> None:
    """TigerVNC ignores another release, and the key would stay down."""
    vnc = client()
    vnc.send_key(0x1E, True, "a")
    vnc.send_key(0, True, "ö")
    vnc.send_key(0, False)
    said(vnc, update(vncserver.rect(0, 0, 0, 0, -258)))
    vnc.data_to_send()
    vnc.send_key(0x1E, False)
    assert vnc.data_to_send() == struct.pack(">BBxxI", 4, 0, ord("a"))
    for down in (True, False):
        vnc.send_key(0x1E, down, "a" if down else "")
        assert vnc.data_to_send() == struct.pack(">BBHII", 255, 0, down, ord("a"), 0x1E)
