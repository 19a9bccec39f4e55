"""The cost of a packet: a track's fan-out with its invariants and queues, against the minimum for a fan-out.

The figures are per packet and subscriber, pushed and taken, in groups of 30 pictures. The minimum has a bounded deque
for each subscriber and nothing else.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from millrace.budget import Budget
from millrace.graph.packetqueue import PacketQueue
from millrace.graph.packets import Track
from millrace.graph.seat import Seat, Watcher
from millrace.media.format import VideoFormat
from millrace.media.packet import Cache, Demand, Flags, Kind, Packet, Parameters, TrackInfo, Upstream
from millrace.rights.model import OWNER
from millrace.units import NS_PER_MS, NS_PER_S

SUBSCRIBERS = (1, 10, 100, 250)
PACKETS, GROUP = 1_500, 30
PICTURE_NS = 33 * NS_PER_MS
BYTES_MAX = 1024 * 1024


class Idle:
    """A source that ignores every request."""

    def demand(self, wanted: Demand) -> None:
        """See `PacketSource`."""

    def upstream(self, event: Upstream, who: Watcher | None) -> None:
        """See `PacketSource`."""


def pictures() -> list[Packet]:
    """Groups of pictures of one kilobyte."""
    out = []
    for number in range(PACKETS):
        flags = Flags.END | (Flags.KEY if number % GROUP == 0 else Flags(0))
        at_ns = number * PICTURE_NS
        out.append(Packet(number, 0, at_ns, at_ns, PICTURE_NS, at_ns, flags, bytes(1_000)))
    return out


def least(count: int, packets: list[Packet]) -> Callable[[], None]:
    """A deque and a count of bytes for each subscriber."""
    queues: list[deque[Packet]] = [deque() for _ in range(count)]
    held = [0] * count

    def run() -> None:
        for packet in packets:
            size = len(packet.payload)
            for index, queue in enumerate(queues):
                queue.append(packet)
                held[index] += size
                while held[index] > BYTES_MAX:
                    held[index] -= len(queue.popleft().payload)
            for index, queue in enumerate(queues):
                while queue:
                    held[index] -= len(queue.popleft().payload)

    return run


def whole(count: int, packets: list[Packet], stuck: bool = False) -> Callable[[], None]:
    """The track, and a queue for each subscriber; with `stuck`, subscribers take nothing."""
    budget = Budget(limit=1 << 40)
    track = Track(TrackInfo("track/1", Kind.VIDEO, cache=Cache.GROUP), Seat("default"), budget)
    publisher = track.publish(Idle())
    publisher.push(Parameters(0, "h264", VideoFormat(640, 360)))
    queues = [PacketQueue(budget.open("listener")) for _ in range(count)]
    for queue in queues:
        queue.join(track, Watcher("listener/1", OWNER), 0)

    def run() -> None:
        for packet in packets:
            publisher.push(packet)
            if stuck:
                continue
            for queue in queues:
                while queue.take(packet.arrived_ns):
                    pass

    return run


def us_each(run: Callable[[], None], count: int) -> float:
    """Microseconds of this thread's CPU time per packet and subscriber."""
    began = time.thread_time_ns()
    run()
    return (time.thread_time_ns() - began) * 1_000_000 / NS_PER_S / PACKETS / count


def main() -> None:
    """Print a line for each number of subscribers."""
    packets = pictures()
    print("subscribers   least   track and queues   nobody takes    (µs a packet and subscriber)")
    for count in SUBSCRIBERS:
        figures = [us_each(make(count, packets), count) for make in (least, whole)]
        figures.append(us_each(whole(count, packets, stuck=True), count))
        print(f"{count:11d}  {figures[0]:6.2f}  {figures[1]:16.2f}  {figures[2]:13.2f}")
