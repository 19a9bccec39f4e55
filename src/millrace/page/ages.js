// How old pictures are when they are drawn, and how far from their sound: of those that show how long paint takes to be seen. Times are in
// ns, of the daemon's clock for `painted`, `remote` and `drawn`.
import { DaemonClock } from "./clock.js";

/** One connection's pictures. */
export class Ages {
  constructor() {
    this.clock = new DaemonClock();
    this.newest = this.latency = this.skew = null; this.pictures = 0;
  }

  /** A ping was answered. What was painted while none was is not measured: one of the machines may have slept meanwhile. */
  pong(sent, remote, now) { if (this.clock.add(sent, remote, now)) this.newest = Math.max(this.newest ?? 0, remote); }

  /** A time of the page on the daemon's clock; 0 while that is not known. */
  remote(at, now) {
    const offset = this.clock.offset(now);
    return offset === null ? 0 : Math.max(0, Math.round(at + offset));
  }

  /** The next picture shows what was painted before, at another size or after the page was hidden. */
  anew() { this.newest = null; }

  /**
   * A picture was drawn. It is measured if it is the first that shows what was painted last, as the daemon does (outlets/picturetimes.py):
   * one that only sharpens what stands still, or the first one, which may have been painted long before, says nothing of how long paint
   * takes to be seen.
   */
  drawn(painted, drawn, skew) {
    const fresh = this.newest !== null && painted > this.newest;
    this.newest = Math.max(this.newest ?? 0, painted);
    if (fresh) { this.pictures++; this.latency = drawn ? drawn - painted : null; }
    if (fresh || skew === null) this.skew = drawn ? skew : null;
  }

  /** What was measured, and how many pictures since this was last asked. */
  take() {
    const { pictures, latency, skew } = this;
    this.pictures = 0;
    return { pictures, latency, skew };
  }
}
