"""The packets of a track that are kept for new subscribers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from millrace.budget import Account
from millrace.media.packet import Cache, Flags, Gap, Item, Packet
from millrace.units import NS_PER_S

GROUP_NS_MAX = NS_PER_S // 2
GROUP_BYTES_MAX = 2_000_000
"""A new subscriber that got a longer group would be behind from the start; it gets a new key frame instead."""
HOLD_STEP = 64 * 1024
"""The budget is charged in steps of this size, not for each packet."""


def rounded_up(size: int) -> int:
    """`size`, rounded up to a whole step of the budget."""
    return -(-size // HOLD_STEP) * HOLD_STEP


class PacketCache(Protocol):
    """Packets that a new subscriber starts from."""

    def add(self, packet: Packet, starts: bool) -> None:
        """Add the next packet; `starts` if it is the first part of its access unit."""
        ...

    def clear(self) -> None:
        """Discard the kept packets, which are of no use any more."""
        ...

    def packets(self) -> tuple[Packet, ...]:
        """The kept packets."""
        ...


# The group is given up as a whole and never shortened from the front: without its key packet the rest can't be decoded.
# It stays empty until the next key packet begins another, and joiners until then wait for one.
class Group:
    """Everything since the last key packet, as long as that is short and the guest's budget has room."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._packets: list[Packet] = []
        self._bytes = self._held = 0

    def add(self, packet: Packet, starts: bool) -> None:
        """See `PacketCache`."""
        if packet.flags & Flags.KEY:
            self._packets.clear()
            self._bytes = 0
        elif not self._packets:
            return
        self._packets.append(packet)
        self._bytes += packet.weight
        span_ns = packet.dts_ns + packet.duration_ns - self._packets[0].dts_ns
        if span_ns > GROUP_NS_MAX or self._bytes > GROUP_BYTES_MAX or not self._hold():
            self.clear()

    def _hold(self) -> bool:
        needed = rounded_up(self._bytes)
        if needed != self._held:
            if not self._account.fits("cache", needed):
                return False
            self._held = needed
        return True

    def clear(self) -> None:
        """See `PacketCache`."""
        self._packets.clear()
        self._bytes = 0
        self._hold()

    def packets(self) -> tuple[Packet, ...]:
        """See `PacketCache`."""
        return tuple(self._packets)


# The parts of a unit that is still arriving are given out as well, since a new subscriber gets the remaining parts live
# and would otherwise have a unit without its beginning.
class Last:
    """The last complete access unit, and the parts of the next that have arrived."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._whole: list[Packet] = []
        self._next: list[Packet] = []

    def add(self, packet: Packet, starts: bool) -> None:
        """See `PacketCache`."""
        if starts:
            self._next = []
        elif not self._next:
            # The budget had no room for its beginning.
            return
        self._next.append(packet)
        if packet.flags & Flags.END:
            self._whole, self._next = self._next, []
        if not self._account.fits("cache", sum(held.weight for held in self._whole + self._next)):
            self.clear()

    def clear(self) -> None:
        """See `PacketCache`."""
        self._whole, self._next = [], []
        self._account.hold("cache", 0)

    def packets(self) -> tuple[Packet, ...]:
        """See `PacketCache`."""
        return (*self._whole, *self._next)


class Nowhere:
    """Keeps nothing."""

    def add(self, packet: Packet, starts: bool) -> None:
        """See `PacketCache`."""

    def clear(self) -> None:
        """See `PacketCache`."""

    def packets(self) -> tuple[Packet, ...]:
        """See `PacketCache`."""
        return ()


def make_cache(cache: Cache, account: Account) -> PacketCache:
    """The cache that a track asks for."""
    if cache is Cache.GROUP:
        return Group(account)
    return Last(account) if cache is Cache.LAST else Nowhere()


def with_gaps(packets: Sequence[Packet]) -> Iterable[Item]:
    """Cached packets, with a Gap wherever some are missing."""
    before: int | None = None
    for packet in packets:
        if before is not None and packet.number > before + 1:
            yield Gap(packet.number - before - 1, packet.pts_ns)
        before = packet.number
        yield packet
