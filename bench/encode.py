"""What a picture costs the encoder, beside bare x264 with swscale on the same pictures in the same run.

1920 × 1080, thirty pictures a second, three kinds of desktop and a film. CPU time is that of the encoding thread, with
comparison and colour conversion; the bare encoder codes whole pictures (ultrafast, zerolatency, crf 23) by PyAV. Then
what text takes as a palette, and how long a viewer takes to decode the largest parts that it decodes at once.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from tests.painting import Canvas, blank_screen, glyphs, photo, steps
from tests.picturerig import Rig, View, shown

from millrace.client.canvas import Decoder
from millrace.codec.palette import Palettes
from millrace.codec.stills import ZstdStills
from millrace.codec.x264 import libx264
from millrace.codec.yuv import libyuv
from millrace.daemon.allocator import SPARE_BYTES, pin_malloc
from millrace.outlets.line import LAN_RATE, Line
from millrace.outlets.picturechoice import Formats
from millrace.outlets.picturework import Lacking, PictureWork, Task
from millrace.pixels.convert import Plane
from millrace.pixels.rects import Rect, Size
from millrace.units import NS_PER_S
from millrace.wire.peer.pictures import Part, PartType

SIZE = Size(1920, 1080)
WHOLE = Rect(0, 0, 1920, 1080)
KINDS = ("caret", "typing", "scroll", "drag", "film")
PICTURES, SKIPPED = 60, 15
SLOW = 5_000_000
STEP_NS = NS_PER_S // 30
DECODED = 200
PINNED_ONLY = 128 * 1024
"""What glibc lets a heap keep once its mmap threshold is set."""
Encode = Callable[[Plane, list[Rect]], tuple[Part, ...]]


def desktop() -> Plane:
    """Three windows of text over a photo."""
    picture = blank_screen(SIZE)
    photo(picture, WHOLE, 1)
    for number, place in enumerate((Rect(60, 60, 900, 700), Rect(700, 300, 900, 700), Rect(1300, 40, 560, 500))):
        glyphs(picture, place, number)
    return picture


def millrace(first: Plane) -> tuple[Encode, Canvas]:
    """The encoder as it is used, on a fast line."""
    work = PictureWork(SIZE, 1, Formats(), False, LAN_RATE, time.monotonic_ns)
    canvas, now_ns = Canvas(SIZE), NS_PER_S
    made = work.make(Task(now_ns, first, (WHOLE,), lacking=(Lacking((WHOLE,), ()),)))
    while made.given:
        canvas.apply(made.given[0].parts)
        left = made.given[0].left
        made = work.make(Task(now_ns, lacking=(left,) if left.missing or left.rough else ()))

    def encode(picture: Plane, rects: list[Rect]) -> tuple[Part, ...]:
        nonlocal now_ns
        now_ns += STEP_NS
        return work.make(Task(now_ns, picture, tuple(rects))).parts

    return encode, canvas


def bare() -> Encode:
    """Whole pictures by PyAV."""
    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.thread_count = SIZE.width, SIZE.height, "yuv420p", 1
    encoder.time_base = Fraction(1, 30)
    encoder.options = {"preset": "ultrafast", "tune": "zerolatency", "crf": "23", "g": "999999"}

    def encode(picture: Plane, rects: list[Rect]) -> tuple[Part, ...]:
        frame = av.VideoFrame.from_ndarray(picture, format="bgra").reformat(format="yuv420p")
        return tuple(Part(PartType.VIDEO, WHOLE, bytes(packet)) for packet in encoder.encode(frame))

    return encode


def timed(encode: Encode, picture: Plane, rects: list[Rect]) -> tuple[float, int, tuple[Part, ...]]:
    """CPU ms, bytes and parts of one picture."""
    began_ns = time.thread_time_ns()
    parts = encode(picture, rects)
    return (time.thread_time_ns() - began_ns) / 1e6, sum(len(part.data) for part in parts), parts


def measured(kind: str) -> str:
    """One row: both encoders take each picture in turn."""
    picture = desktop()
    ours, canvas = millrace(picture)
    theirs = bare()
    theirs(picture, [WHOLE])
    rows: list[tuple[float, ...]] = []
    errors = []
    for rects in steps(kind, picture, 1, PICTURES):
        *mine, parts = timed(ours, picture, rects)
        canvas.apply(parts)
        *other, _ = timed(theirs, picture, rects)
        rows.append((*mine, *other))
        errors.append(canvas.error(picture) if len(rows) % 15 == 0 else 99.0)
    cpu, sent, bare_cpu, whole = np.array(rows[SKIPPED:]).T
    quality = "exact" if min(errors[SKIPPED:]) == 99 else f"{min(errors[SKIPPED:]):.0f} dB"
    return (
        f"| {kind} | {np.median(cpu):.2f} / {np.percentile(cpu, 99):.1f} | {sent.mean() * 0.24:,.0f} | {quality} "
        f"| {np.median(bare_cpu):.1f} / {np.percentile(bare_cpu, 99):.1f} | {whole.mean() * 0.24:,.0f} |"
    )


def on_a_slow_line(kind: str) -> str:
    """One row: from paint to the arrival of its picture, on virtual time, without the time that encoding takes."""
    rig = Rig(SIZE, picture=SLOW)
    rig.picture[:] = desktop()
    view = rig.join(View())
    rig.settle(60)
    begun, line, waits = len(view.pictures), Line(SLOW), []
    rig.play(kind, PICTURES)
    ended_ns, end = rig.now_ns, len(view.pictures)
    for picture, sent_ns in zip(view.pictures[begun:end], view.times_ns[begun:end], strict=True):
        line.sent(picture.size, sent_ns)
        waits.append((sent_ns + line.queued_ns(sent_ns) - picture.painted_ns) / 1e6)
    while not shown(view, rig):
        rig.settle(0.02)
    exact_ms = (rig.now_ns - ended_ns) / 1e6
    return (
        f"| {kind} | {np.median(waits):.0f} / {np.percentile(waits, 99):.0f} | {end - begun} of {PICTURES} "
        f"| {f'{exact_ms:.0f} ms' if exact_ms else 'at once'} |"
    )


def written(width: int, height: int, smooth: bool) -> Plane:
    """Lines of real text in a terminal's font, light on dark; `smooth`: with grey edges."""
    image = Image.new("L", (width, height), 20)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(13)
    words = " ".join(word for word in __doc__.split() * 9)
    for line, y in enumerate(range(0, height, 16)):
        draw.text((1, y), words[37 * line :][: width // 6], 220, font)
    grey = np.asarray(image)
    return np.repeat((grey if smooth else np.where(grey > 120, 220, 20).astype(np.uint8))[:, :, None], 4, axis=2)


def of_few_colours(name: str, pixels: Plane) -> str:
    """A row of the table: its bytes by zstd and as a palette, and how long a viewer takes to decode each."""
    zstd = ZstdStills()
    plain, few = zstd.encode(pixels), Palettes(zstd.compress).encode(pixels)
    assert few is not None
    canvas, at = Decoder(), Rect(0, 0, pixels.shape[1], pixels.shape[0])
    canvas.resize(Size(at.width, at.height))
    took = []
    for kind, data in ((PartType.ZSTD, plain), (PartType.PALETTE, few)):
        each = []
        for _ in range(DECODED):
            began = time.thread_time()
            canvas.steps([Part(kind, at, data)])
            each.append((time.thread_time() - began) * 1e3)
        took.append(f"{np.median(each):.2f}")
    return f"| {name} | {len(plain)} | {len(few)} | {len(few) / len(plain):.2f} | {' / '.join(took)} |"


def dragged(spare: int) -> tuple[float, float]:
    """Median CPU ms and pages that the kernel gave to this thread, for a picture of a window that is dragged."""
    pin_malloc(spare)
    picture, rows = desktop(), []
    ours, _ = millrace(picture)
    for rects in steps("drag", picture, 1, PICTURES):
        before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
        cpu, *_ = timed(ours, picture, rects)
        rows.append((cpu, resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before))
    cpu, pages = np.median(rows[SKIPPED:], axis=0)
    return float(cpu), float(pages)


def main() -> None:
    """Entry point."""
    pin_malloc()
    print(f"x264 by {'ctypes' if libx264() else 'PyAV'}, colours by {'libyuv' if libyuv() else 'swscale'}")
    print("| 1920 × 1080, 30/s | CPU ms a picture, median / p99 | kbit/s | whole screen | bare x264: CPU ms | kbit/s |")
    print("|---|---|---|---|---|---|")
    for kind in KINDS:
        print(measured(kind), flush=True)
    print(
        f"\n| {SLOW // 1_000_000} Mbit/s | from paint to arrival, ms, median / p99 | pictures | exact after the last |"
    )
    print("|---|---|---|---|")
    for kind in KINDS:
        print(on_a_slow_line(kind), flush=True)
    print("\n| few colours | bytes by zstd | as a palette | of these | decoding, CPU ms: zstd / palette |")
    print("|---|---|---|---|---|")
    for smooth in (False, True):
        edges = "grey edges" if smooth else "two colours"
        for name, size in (("a letter", (8, 16)), ("a line", (640, 16)), ("64 K pixels", (640, 102))):
            print(of_few_colours(f"{name} of text, {edges}", written(*size, smooth)), flush=True)
    print("\n| drag, in a thread whose heap may keep free | CPU ms a picture, median | new pages a picture, median |")
    print("|---|---|---|")
    for spare in (PINNED_ONLY, SPARE_BYTES, SPARE_BYTES, PINNED_ONLY):
        with ThreadPoolExecutor(1) as pool:
            cpu, pages = pool.submit(dragged, spare).result()
        print(f"| {spare // 1024:,} KiB | {cpu:.2f} | {pages:.0f} |", flush=True)


if __name__ == "__main__":
    main()
