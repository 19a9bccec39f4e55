"""The playback speed: from packet arrivals and a card's pulls to the speed that keeps the latency on target.

A frame captured at T (daemon's clock) is due at M(T) + target delay on ours, where M is the path at its best and the
target delay is what jitter requires. The card's next frame is heard at C(N), where C is the card's own line. So

    late = C(N) − M(T of the next frame) − target delay

is known from sample positions; it is smooth, and independent of single packets and callbacks. The speed is the ratio of
the two clocks, fed forward, plus late / τ. The position itself integrates, so a proportional term settles the error
with the time constant τ, and without an integrator nothing can wind up. Within the deadband only the ratio counts. A
slow movement of the target delay is fed forward too.
"""

from __future__ import annotations

from millrace.clock.drift import CARD_JUMP_NS, RATE_MAX, DriftEstimator, Lock
from millrace.clock.jitter import JitterProfile, JitterTarget
from millrace.units import NS_PER_MS, NS_PER_S, Frames, HostNs

# Until both clocks are known, their ratio is not, and only this correction keeps the latency: it has to be quick. With
# the ratio fed forward little is left to correct, and 12 s keep the noise of the estimates out of the pitch.
TAU_ACQUIRE_S, TAU_LOCKED_S = 2.0, 12.0
DEADBAND_NS = 2_000.0
CORRECTION_MAX = 1_000e-6
"""1.7 cents, which is inaudible. Errors that would need more are spliced."""
SLEW_PER_S = 500e-6
FOLLOW_MAX = 0.03
"""Resampling follows a clock up to 52 cents, enough for the 2 % of QEMU; beyond that, sound is spliced."""
REFRESH_NS = NS_PER_S
# The longest Opus packet: a longer step is not a lost packet but a pause, whose length says nothing about the network.
LOST_MAX_NS = 120 * NS_PER_MS
ROUNDING_NS = 1_000
"""Capture times of whole frames are not whole nanoseconds; a step this small is none."""
# A stall of this machine is noticed at a pull that comes late. The packets that waited meanwhile are read over the next
# moments, so a stall explains their lateness for 300 ms. Up to 3 ms are ordinary scheduling.
_STALL_MEMORY_NS = 300 * NS_PER_MS
_STALL_MIN_NS = 3 * NS_PER_MS


class RateController:
    """Both clocks, the target delay, and the speed. `codec_ns` is the codec's delay."""

    __slots__ = (
        "_arrived_ns", "_card_ns", "_correction",
        "_media_end_ns", "_moved_ns", "_origin_ns", "_pull_ns", "_rate", "_refreshed_ns", "_stall_ns",
        "_stalled_ns", "_steered_ns", "_tau_s", "card", "codec_ns", "jitter", "media",
    )  # fmt: skip

    def __init__(
        self, rate: int, profile: JitterProfile, drift_max: float = RATE_MAX, tau_s: float = TAU_ACQUIRE_S
    ) -> None:
        self._tau_s = tau_s
        self.media = DriftEstimator(drift_max)
        self.card = DriftEstimator(jump_ns=CARD_JUMP_NS, stall_ns=0.0)
        self.jitter = JitterTarget(profile)
        self.codec_ns = 0
        self._rate = rate
        self._card_ns = 0.0
        self._pull_ns = 0.0
        self._origin_ns: HostNs = 0
        self._correction = 0.0
        self._steered_ns = 0.0
        self._refreshed_ns: HostNs | None = None
        self._moved_ns = 0.0
        self._stall_ns, self._stalled_ns = 0.0, 0
        self._arrived_ns, self._media_end_ns = 0, 0

    def arrived(self, media_ns: HostNs, length_ns: HostNs, now_ns: HostNs, follows: bool = False) -> None:
        """A packet with `length_ns` of sound captured from `media_ns` on has arrived.

        `follows` says that it was sent together with the previous one: then it was early, which proves nothing.
        """
        # A packet that arrives within a quarter of its length after the one before was queued with it somewhere on the
        # way, or sent with it by a sender that does not set `follows`.
        step = media_ns - self._media_end_ns
        together = now_ns - self._arrived_ns < length_ns // 4
        self._arrived_ns, self._media_end_ns = now_ns, media_ns + length_ns
        if follows or together:
            # A packet that waited behind the previous one says nothing of its own.
            return
        late = self.media.observe(media_ns, now_ns)
        if ROUNDING_NS < step <= LOST_MAX_NS:
            # Lost sound is made up when this packet arrives, one packet later than the lost one should have arrived.
            self.jitter.add(late + length_ns)
        # While this machine was stalled, packets waited here and not in the network. Lateness that such a stall
        # explains is not jitter, and must not raise the latency for good.
        own_stall = self._stall_ns if now_ns - self._stalled_ns < _STALL_MEMORY_NS else 0.0
        if late > own_stall + _STALL_MIN_NS or own_stall == 0.0:
            self.jitter.add(late)
        if self._refreshed_ns is None:
            self._refreshed_ns = now_ns
        elif now_ns - self._refreshed_ns >= REFRESH_NS:
            self.jitter.refresh((now_ns - self._refreshed_ns) / NS_PER_S)
            self._refreshed_ns = now_ns
            self._moved_ns = 0.0

    def pulled(self, frames: Frames, now_ns: HostNs) -> None:
        """The card takes `frames` more now. A late pull reveals that this machine was stalled."""
        self._take(frames, now_ns)
        self._stalled(self.card.observe(round(self._card_ns), now_ns), now_ns)

    def pulled_on_time(self, frames: Frames, due_ns: HostNs, now_ns: HostNs) -> None:
        """As `pulled`, by a puller that runs on this machine's own clock: `due_ns` is exact, `now_ns` may be late."""
        self._take(frames, now_ns)
        self._card_ns = due_ns
        self.card.observe(due_ns, due_ns)
        self._stalled(now_ns - due_ns, now_ns)

    # What a pull takes is heard after what all earlier pulls took, so the card's position at this pull is the sum of
    # those: this pull's frames are added at the next one. Between two refreshes the target moves by `moving`, and
    # `_moved_ns` is what it has moved since the last. A refresh adds the same amount to the target itself and sets
    # `_moved_ns` to 0, so the sum never jumps.
    def _take(self, frames: Frames, now_ns: HostNs) -> None:
        self._card_ns += self._pull_ns
        self._pull_ns = frames * NS_PER_S / self._rate
        if self._refreshed_ns is not None:
            self._moved_ns = self.jitter.moving * (now_ns - self._refreshed_ns) / NS_PER_S

    def _stalled(self, late: float, now_ns: HostNs) -> None:
        if late > _STALL_MIN_NS + self._pull_ns:
            self._stall_ns, self._stalled_ns = late, now_ns

    @property
    def target_delay_ns(self) -> float:
        """How long after the best arrival of its packet a frame is heard.

        A pull takes its last frame one period before that is heard, so the period is included.
        """
        return self.jitter.target_delay_ns + self._moved_ns + self._pull_ns + self.codec_ns

    def parts_ns(self) -> dict[str, float]:
        """The components of the target delay."""
        return {"jitter": self.jitter.target_delay_ns + self._moved_ns, "period": self._pull_ns, "codec": self.codec_ns}

    def late_ns(self, media_ns: float) -> float:
        """How much too late the frame captured at `media_ns` would be heard if it were the card's next."""
        origin = self._origin_ns
        return self.card.y_after(self._card_ns, origin) - self.media.y_after(media_ns, origin) - self.target_delay_ns

    @property
    def locked(self) -> bool:
        """Both clocks are known."""
        return self.media.state is Lock.LOCKED and self.card.state is Lock.LOCKED

    @property
    def ratio(self) -> float:
        """Media seconds per second of the card, as far as the clocks are known and resampling may follow."""
        ratio = (1.0 + self.card.rate) / (1.0 + self.media.rate)
        return max(1.0 - FOLLOW_MAX, min(1.0 + FOLLOW_MAX, ratio))

    def speed(self, late_ns: float) -> float:
        """Media seconds to play per second of the card."""
        tau_s = TAU_LOCKED_S if self.locked else self._tau_s
        beyond = 0.0 if -DEADBAND_NS < late_ns < DEADBAND_NS else late_ns
        wanted = (beyond / tau_s - self.jitter.moving) / NS_PER_S
        wanted = max(-CORRECTION_MAX, min(CORRECTION_MAX, wanted))
        # The correction is slew-limited, because a step in speed is a step in pitch. The limit is in the card's time,
        # so that a late pull does not allow a larger step.
        step = SLEW_PER_S * (self._card_ns - self._steered_ns) / NS_PER_S
        self._steered_ns = self._card_ns
        self._correction += max(-step, min(step, wanted - self._correction))
        return self.ratio * (1.0 + self._correction)
