"""How much work a JPEG may be: each of its scans takes as long as decoding the whole picture."""

from __future__ import annotations

from millrace.errors import CodecError

SCANS_MAX = 10
"""Scans of a picture. Servers send one, and libjpeg's progressive pictures have ten, but a picture may repeat any of
them, in 16 bytes each."""


def check_scans(data: bytes) -> None:
    """CodecError if a JPEG has more than `SCANS_MAX` scans (ITU-T T.81, B.1.1.3: within a scan, 0xFF is stuffed)."""
    if data.count(b"\xff\xda") > SCANS_MAX:
        raise CodecError(f"a JPEG of more than {SCANS_MAX} scans")
