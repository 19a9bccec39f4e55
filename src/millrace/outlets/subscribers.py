"""All listeners of a guest: which of them share an encoder, and what becomes of them when there is no room for it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace

from millrace.codec.settings import CodecSettings, distance
from millrace.errors import GraphError
from millrace.graph.graph import Graph
from millrace.graph.model import Sink, Tap
from millrace.outlets.peer import SharedEncoder, Subscriber, encoder_tap
from millrace.rights.model import Principal
from millrace.units import HostNs
from millrace.wire.peer.messages import Fault, FormatChanged, encode_message


def _in_words(group: SharedEncoder | None) -> str:
    if group is None:
        return ""
    made = group.format()
    return f"{made.codec}, {made.rate} Hz, {'-'.join(made.positions)}"


Changed = Callable[[Subscriber, str, str], None]
"""Called when a listener's codec, rate or layout changes, with descriptions of the old and the new format."""


def _untold(outlet: Subscriber, before: str, after: str) -> None:
    """Ignore the change."""


MakeRoom = Callable[[Principal, Tap, SharedEncoder | None], None]
"""Has others make room for an encoder's tap for a principal, besides that of one that it gives up for it."""
InTurns = Callable[[Callable[[], Iterator[None]]], Callable[[], None]]
"""Returns what has these steps done soon."""


def _nobody(who: Principal, tap: Tap, ends: SharedEncoder | None) -> None:
    """Nobody makes room."""


def _at_once(steps: Callable[[], Iterator[None]]) -> Callable[[], None]:
    def do() -> None:
        for _ in steps():
            pass

    return do


class Subscribers:
    """All listeners of one guest, grouped by sink and settings."""

    def __init__(
        self, graph: Graph, clock: Callable[[], HostNs] = lambda: 0, changed: Changed = _untold,
        make_room: MakeRoom = _nobody, in_turns: InTurns = _at_once,
    ) -> None:  # fmt: skip
        """`clock` measures the time spent encoding."""
        self.graph, self._clock, self._changed, self._make_room = graph, clock, changed, make_room
        self.outlets: dict[int, Subscriber] = {}
        self.groups: list[SharedEncoder] = []
        self._generation = 0
        self._left: deque[tuple[Subscriber, Sink, str]] = deque()
        """Listeners whose encoder was given up, what it encoded, and how."""
        self._settle = in_turns(self._find_others)
        self._moved: dict[Subscriber, None] = {}
        """Listeners that share another encoder than they want."""
        self._return = in_turns(self._try_again)

    def encoding_ns(self) -> HostNs:
        """Time that all encoders together spent in their last cycle."""
        return sum(group.spent_ns for group in self.groups)

    def join(self, outlet: Subscriber, sink: Sink) -> None:
        """Start sending `sink` to `outlet`, unless its listener has left."""
        if outlet.left:
            return
        group = self._group_for(outlet, sink, outlet.settings)
        self.outlets[outlet.id] = outlet
        self._enter(outlet, group)

    def leave(self, outlet: Subscriber) -> None:
        """Stop sending to `outlet` for good: the listener has left."""
        outlet.left = True
        self.outlets.pop(outlet.id, None)
        self._exit(outlet)
        self.retry()

    def move(self, outlet: Subscriber, sink: Sink) -> None:
        """Send another sink to `outlet`; GraphError if it plays none."""
        if outlet.group is None:
            raise GraphError(f"{outlet.key} is not playing: it has left, is still connecting, or waits for an encoder")
        self._go_over(outlet, sink, outlet.settings)
        self.retry()

    def configure(self, outlet: Subscriber, settings: CodecSettings) -> None:
        """Change a listener's settings during playback, keeping the encoder's state if possible."""
        if not self._adapts(outlet, settings):
            assert outlet.group is not None
            self._go_over(outlet, outlet.group.sink, settings)
        self.retry()

    def _adapts(self, outlet: Subscriber, settings: CodecSettings) -> bool:
        """Change a listener's settings, unless it needs another encoder for that."""
        group, old = outlet.group, outlet.shares
        if group is not None and old != settings:
            # Codec, application and channels are fixed when an encoder is made; all else can change in a running one.
            kept = replace(settings, codec=old.codec, application=old.application, channels=old.channels)
            if kept != settings or len(group.outlets) > 1 or self._find(group.sink, settings) is not None:
                return False
            group.configure(settings)
        outlet.settings = settings
        return True

    def _go_over(self, outlet: Subscriber, sink: Sink, settings: CodecSettings) -> None:
        before = _in_words(outlet.group)
        # This is the only step that can fail. It comes first, so that on failure nothing changes for the listener.
        group = self._group_for(outlet, sink, settings)
        outlet.settings = settings
        if group is outlet.group:
            return
        self._exit(outlet)
        self._enter(outlet, group)
        self._tell(outlet, before)

    def _find(self, sink: Sink, settings: CodecSettings) -> SharedEncoder | None:
        same = (g for g in self.groups if g.sink is sink and g.settings == settings and not g.broken)
        return next(same, None)

    def _group_for(self, outlet: Subscriber, sink: Sink, settings: CodecSettings) -> SharedEncoder:
        """The encoder of a sink with these settings. For a new one, an encoder that is its alone makes room first."""
        group = self._find(sink, settings)
        if group is None:
            group = SharedEncoder(self.graph, sink, settings, self._generation + 1, self._clock)
            ends = outlet.group if outlet.group is not None and len(outlet.group.outlets) == 1 else None
            self._make_room(outlet.principal, group.tap, ends)
            if ends is not None and self._has_room(group.tap, ends.tap):
                self._exit(outlet)
            try:
                self.graph.add_tap(group.tap, sink)
            except GraphError:
                group.close()
                raise
            self._generation += 1
            self.groups.append(group)
        return group

    def _has_room(self, tap: Tap, ends: Tap | None) -> bool:
        return self.graph.accounts.has_room(tap, self.graph.taps.values(), ends)

    # -- when there is no room for another encoder ---------------------------------------------

    # Hundreds of listeners may share it.
    def give_up(self, group: SharedEncoder) -> None:
        """End an encoder now; its listeners go over to others in their guest's turns."""
        sink, made = group.sink, _in_words(group)
        for outlet in group.outlets:
            outlet.group = None
            self._left.append((outlet, sink, made))
        group.outlets = []
        self._end(group)
        self._settle()

    def _find_others(self) -> Iterator[None]:
        while self._left:
            outlet, sink, before = self._left.popleft()
            if outlet.group is None and not outlet.left:
                self._find_other(outlet, sink, before)
            yield

    def _find_other(self, outlet: Subscriber, sink: Sink, before: str) -> None:
        """Let a listener share the nearest encoder of its sink; without one, its session ends."""
        suit = (group for group in self.groups if group.sink is sink and group.settings.codec in outlet.codecs)
        sound = (group for group in suit if not group.broken)
        group = min(sound, key=lambda one: distance(one.settings, outlet.settings), default=None)
        if group is None:
            error = GraphError(f"guest {self.graph.name} is full: this listener made room for another")
            outlet.send(encode_message(Fault.of(error, fatal=True)))
            outlet.fail(error)
            return
        self._moved[outlet] = None
        self._enter(outlet, group)
        self._tell(outlet, before)

    # It takes nothing from others: whoever made room would have to give it up again.
    def retry(self) -> None:
        """There may be room again: whoever shares another encoder than it wants has its own, if there is."""
        if self._moved:
            self._return()

    def _try_again(self) -> Iterator[None]:
        for outlet in list(self._moved):
            if not outlet.left and not self._adapts(outlet, outlet.settings):
                self._take_up(outlet)
            if outlet.left or outlet.shares == outlet.settings:
                self._moved.pop(outlet, None)
            yield

    def _take_up(self, outlet: Subscriber) -> None:
        """Give a listener the encoder that it wants, if there is one or room for one."""
        group = outlet.group
        assert group is not None
        sink, settings = group.sink, outlet.settings
        ends = group.tap if len(group.outlets) == 1 else None
        if self._find(sink, settings) or self._has_room(encoder_tap(0, self.graph, sink, settings), ends):
            self._go_over(outlet, sink, settings)

    def _tell(self, outlet: Subscriber, before: str) -> None:
        """Tell the guest that a listener is sent something else than what it was sent before."""
        after = _in_words(outlet.group)
        if before and before != after:
            self._changed(outlet, before, after)

    @staticmethod
    def _enter(outlet: Subscriber, group: SharedEncoder) -> None:
        group.outlets.append(outlet)
        outlet.group = group
        outlet.send(encode_message(FormatChanged(group.format())))
        group.update_latency()

    def _exit(self, outlet: Subscriber) -> None:
        group, outlet.group = outlet.group, None
        if group is None:
            return
        group.outlets.remove(outlet)
        group.update_latency()
        if not group.outlets:
            self._end(group)

    def _end(self, group: SharedEncoder) -> None:
        self.groups.remove(group)
        self.graph.remove_tap(group.tap)
        group.close()
