"""JPEGs of machines that would take long to decode."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from millrace.codec.jpeg import decode_jpeg
from millrace.codec.scans import SCANS_MAX, check_scans
from millrace.codec.video import PictureDecoder
from millrace.errors import CodecError

WIDE, HIGH = 64, 48


def encoded(progressive: bool) -> bytes:
    picture = np.random.default_rng(1).integers(0, 256, (HIGH, WIDE, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(picture).save(out, "JPEG", progressive=progressive)
    return out.getvalue()


def test_what_servers_send_is_decoded() -> None:
    data = encoded(progressive=False)
    check_scans(data)
    assert len(decode_jpeg(data, WIDE, HIGH)) == WIDE * HIGH * 4
    assert PictureDecoder("jpeg", WIDE * HIGH).decode(data) is not None


def test_picture_whose_scans_are_repeated_is_refused_before_it_is_decoded() -> None:
    data = encoded(progressive=True)
    last = data.rindex(b"\xff\xda")
    repeated = data[:last] + SCANS_MAX * data[last:-2] + data[-2:]
    for decode in (lambda: decode_jpeg(repeated, WIDE, HIGH), lambda: PictureDecoder("jpeg", 1 << 20).decode(repeated)):
        with pytest.raises(CodecError, match="scans"):
            decode()
