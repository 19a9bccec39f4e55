"""JPEGs of machines that would take long to decode."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from millrace.codec.scans import check_scans
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
    check_scans(encoded(progressive=True))
    assert PictureDecoder("jpeg", WIDE * HIGH).decode(data) is not None


def test_picture_with_one_scan_more_than_any_has_is_refused_before_it_is_decoded() -> None:
    data = encoded(progressive=True)
    last = data.rindex(b"\xff\xda")
    repeated = data[:last] + 2 * data[last:-2] + data[-2:]
    with pytest.raises(CodecError, match="more than 10 scans"):
        PictureDecoder("jpeg", 1 << 20).decode(repeated)
