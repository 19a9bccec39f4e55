"""Record streams: a source or monitor, in the client's format, in blocks of at most the fragment size."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from millrace.budget import size_of
from millrace.doors.ingress import Recorder, RecorderStatus
from millrace.doors.pulse.attrs import Layout, RecordAttr
from millrace.dsp.convert import Samples, encode
from millrace.dsp.mix import ramp
from millrace.dsp.resample import SINC_BYTES, Resampler, SincResampler, make_resampler, resampler_bytes, stretched
from millrace.graph.graph import Graph
from millrace.graph.model import Tap
from millrace.media.format import AudioFormat
from millrace.rights.grants import UNKNOWN, Subject
from millrace.units import NS_PER_MS, Frames, HostNs
from millrace.wire.pulse.constants import Change, Command
from millrace.wire.pulse.tagstruct import Props

DELIVER_NS = 50 * NS_PER_MS
"""Sound is delivered this often, however large the requested fragment: a recorder that is stopped with
SIGINT would lose an incomplete fragment."""


UNREAD_STEP = 64 * 1024
"""Sound queued for a client that does not read is charged in steps of this size."""


class RecordOwner(Protocol):
    """A record stream's interface to its connection."""

    index: int
    subject: Subject
    congested: bool
    unread_since_ns: HostNs

    @property
    def program(self) -> Subject | None:
        """The program that owns the stream; None for a module's."""
        ...

    def record_changed(self, record: RecordStream, kind: Change) -> None:
        """The graph has moved or removed the stream's node."""
        ...

    def send_block(self, channel: int, data: bytes) -> None:
        """Send recorded sound."""
        ...

    def notice(self, command: Command, **values: Any) -> None:
        """Send a notice."""
        ...


class RecordStream(Recorder):
    """One source-output; the graph's `Consumer`."""

    def __init__(
        self, owner: RecordOwner, channel: int, fmt: AudioFormat, attr: RecordAttr, node: Tap, graph: Graph,
        props: Props, peak_detect: bool, glide: bool = False,
    ) -> None:  # fmt: skip
        self.owner, self.channel, self.format, self.attr = owner, channel, fmt, attr
        self.node, self.graph, self.props = node, graph, props
        self.layout = Layout(fmt.frame_bytes, fmt.rate)
        self.corked = False
        self.fail_on_suspend = False
        self.keeps_awake = True
        """Whether it keeps the graph running when nothing plays."""
        self._glide = glide
        self.gains: tuple[float, ...] = (1.0,) * len(fmt.positions)
        self.mute = False
        self.write_index = 0
        self._applied: Samples | None = None
        """The gains in force: `_asked` is the volume and mute they came from, `_unity` whether they are all 1."""
        self._asked: tuple[tuple[float, ...], bool] | None = None
        self._unity = True
        self._queue = bytearray()
        self._peak_detect = peak_detect
        self._meter: PeriodMeter | None = None
        self._resampler: Resampler | None = None
        self._threshold = 0
        self.apply_attr(attr)
        self.set_rate(fmt.rate)
        node.records = True
        node.asks = {"props": size_of(props), "resampler": self._resampler_bytes(fmt.rate)}

    def apply_attr(self, attr: RecordAttr) -> None:
        """Apply buffer attributes."""
        self.attr = attr
        fragment_ns = self.layout.to_ns(attr.fragsize)
        self.node.latency_ask_ns = max(2_500_000, min(fragment_ns, 40 * NS_PER_MS))
        self._threshold = min(attr.fragsize, self.layout.to_bytes(DELIVER_NS))

    def _resampler_bytes(self, rate: int) -> int:
        channels = len(self.format.positions)
        if self._metered(rate):
            return 0
        if self._glide:
            return SINC_BYTES * channels
        return resampler_bytes(self.graph.rate, rate, channels, self._low_delay(rate))

    def _metered(self, rate: int) -> bool:
        """Whether each frame summarises its period: for peak meters, or where a resampler would delay by minutes."""
        return self._peak_detect or stretched(rate, self.graph.rate)

    def _low_delay(self, rate: int) -> bool:
        return Layout(self.format.frame_bytes, rate).to_ns(self.attr.fragsize) < 150 * NS_PER_MS

    def change_rate(self, rate: int) -> None:
        """Switch to another rate; BudgetError if there is no room for the resampler."""
        self.node.account.hold("resampler", self._resampler_bytes(rate))
        self.set_rate(rate)

    def set_rate(self, rate: int) -> None:
        """Switch to another rate, without charging for it."""
        self.format = AudioFormat(self.format.sample, rate, self.format.positions)
        self.layout = Layout(self.format.frame_bytes, rate)
        channels = len(self.format.positions)
        self._meter = PeriodMeter(self.graph.rate, rate, self._peak_detect) if self._metered(rate) else None
        if self._meter is not None:
            self._resampler = None
        elif isinstance(self._resampler, SincResampler) and self._glide:
            self._resampler.ratio = rate / self.graph.rate
        elif self._glide:
            self._resampler = SincResampler(rate / self.graph.rate, channels)
        else:
            self._resampler = make_resampler(self.graph.rate, rate, channels, self._low_delay(rate))

    @property
    def queued_bytes(self) -> int:
        """Bytes recorded but not sent."""
        return len(self._queue)

    def status(self) -> RecorderStatus:
        """See `Recorder`."""
        program = self.owner.program
        return RecorderStatus("pulse", self.format, UNKNOWN if program is None else program.identity)

    def set_corked(self, corked: bool) -> None:
        """Pause or resume. A corked recorder does not keep the graph running."""
        self.set_active(not corked)
        self.graph.touch(self.node)

    def set_active(self, active: bool) -> None:
        """Start or stop recording."""
        self.corked = not active
        self.node.active, self.node.clocked = active, active and self.keeps_awake

    def flush(self) -> None:
        """Discard what has not been sent."""
        self._queue.clear()
        self.node.account.hold("queue", 0)

    def remove(self) -> None:
        """Remove the stream."""
        self.graph.remove_tap(self.node)

    def ended(self) -> None:
        """The graph has removed the stream, whatever the cause."""
        self._queue.clear()

    def consume(self, block: Samples, position: Frames, level: float) -> None:
        """See `Consumer.consume`."""
        del position, level
        if self._meter is not None:
            block = self._meter.feed(block)
        elif self._resampler is not None:
            block = self._resampler.process(block)
        if not len(block):
            return
        data = encode(self.format.sample, self._levelled(block))
        self.write_index += len(data)
        self._queue += data
        self._deliver()

    def _levelled(self, block: Samples) -> Samples:
        """Apply the recorder's own level; its source's is already applied. A change ramps over the block."""
        asked = self.gains, self.mute
        before, gains = self._applied, self._applied
        if gains is None or asked != self._asked:
            self._applied = gains = np.asarray((0.0,) * len(self.gains) if self.mute else self.gains, np.float32)
            self._asked, self._unity = asked, bool((gains == 1.0).all())
            if before is not None and not np.array_equal(before, gains):
                return block * (before + ramp(len(block)) * (gains - before))
        return block if self._unity else block * gains

    def idle(self, position: Frames) -> None:
        """See `Consumer.idle`: a running recorder keeps the graph clocked, so this one is corked."""
        del position

    def _room(self) -> int:
        """How many bytes may be queued for a client that does not read."""
        paid = self.node.account.part("queue")
        wanted = min(len(self._queue), self.attr.maxlength)
        if wanted <= paid or self.node.account.fits("queue", paid := -(-wanted // UNREAD_STEP) * UNREAD_STEP):
            return self.attr.maxlength
        return self.node.account.part("queue")

    # Sound is sent as soon as there is enough of it, with no request from the client, so a client that stops reading
    # would make the queue grow without end. While the connection is congested nothing is handed to it; the newest
    # sound is kept, as a recorder that resumes wants to be current.
    def _deliver(self) -> None:
        """Send once enough is queued. While the client does not read, keep the newest sound, up to maxlength and to
        what the guest's budget allows."""
        if self.owner.congested:
            excess = len(self._queue) - self._room()
            if excess > 0:
                frame = self.layout.frame_bytes
                excess = -(-excess // frame) * frame
                del self._queue[:excess]
                self.graph.troubled(self.node, "unread", self.owner.unread_since_ns)
            return
        if len(self._queue) < self._threshold:
            return
        data, self._queue = bytes(self._queue), bytearray()
        self.node.account.hold("queue", 0)
        for at in range(0, len(data), self.attr.fragsize):
            self.owner.send_block(self.channel, data[at : at + self.attr.fragsize])


class PeriodMeter:
    """Produces one frame per 1/rate second: the peak magnitude, for volume meters, or the mean."""

    def __init__(self, rate_in: int, rate_out: int, peaks: bool) -> None:
        self._step = rate_in / max(1, rate_out)
        self._peaks = peaks
        self._fill = 0.0
        self._frames: Frames = 0
        self._gathered: Samples | None = None

    def feed(self, block: Samples) -> Samples:
        """Feed (frames, channels); return the completed periods, one frame each."""
        out: list[Samples] = []
        at = 0
        while at < len(block):
            take = min(len(block) - at, max(1, round(self._step - self._fill)))
            self._gather(block[at : at + take])
            self._fill += take
            at += take
            if self._fill >= self._step - 0.5:
                assert self._gathered is not None
                out.append(self._gathered if self._peaks else self._gathered / np.float32(self._frames))
                self._fill -= self._step
                self._gathered, self._frames = None, 0
        return np.array(out, np.float32).reshape(len(out), block.shape[1])

    def _gather(self, part: Samples) -> None:
        own: Samples = np.abs(part).max(axis=0) if self._peaks else part.sum(axis=0)
        self._frames += len(part)
        if self._gathered is None:
            self._gathered = own
        else:
            self._gathered = np.maximum(self._gathered, own) if self._peaks else self._gathered + own
