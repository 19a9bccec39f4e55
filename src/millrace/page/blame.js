// Finds the cause of a gap in the sound; the page's version of client/blame.py. Times are in ns of this page's clock.
import { NS_PER_MS } from "./clock.js";

const LATE = 25 * NS_PER_MS, RECENT = 600 * NS_PER_MS, HEARD = 30 * NS_PER_MS, TIMELY = 10 * NS_PER_MS;
const WRAP = 2 ** 32, MISSING_MAX = 1000, DRIFT_MAX = 1e-3, KEPT = 8;

/** Remembers where a periodic event was late. */
class Gaps {
  constructor() { this.last = null; this.late = []; }
  mark(now, due) {
    const late = this.last === null ? 0 : now - this.last - due;
    if (late > LATE) this.late = [...this.late.slice(1 - KEPT), { last: this.last, began: this.last + due, ended: now }];
    this.last = now;
    return late;
  }
  rest() { this.last = null; }
  recent(now) {
    const found = this.late.filter((span) => now - span.ended < RECENT);
    return found.reduce((a, b) => (a === null || b.ended - b.began > a.ended - a.began ? b : a), null);
  }
  open(now, due) {
    if (this.last === null || now - this.last - due < LATE) return null;
    return { last: this.last, began: this.last + due, ended: now };
  }
}

const ms = (ns) => Math.round(ns / NS_PER_MS * 10) / 10;
const meet = (a, b) => b !== null && a.last < b.ended && b.last < a.ended;

/** When the common cause of these delays began: between the last event that came and the first that failed to. */
function began(...spans) {
  const there = spans.filter((span) => span !== null);
  return Math.floor((Math.max(...there.map((span) => span.last)) + Math.min(...there.map((span) => span.began))) / 2);
}

// The order in which `hole` looks for causes is that in which they produce each other's signs; client/blame.py has the reasons.
/** One listener's recent history. */
export class Blame {
  constructor(tick) {
    this.tick = tick;
    this.loop = new Gaps(); this.device = new Gaps(); this.network = new Gaps();
    this.packet = this.batch = 20 * NS_PER_MS; this.losses = []; this.next = null;
    this.gap = 0; this.gapOpen = false; this.due = 0; this.timely = 0;
    /** The jitter: the largest lateness since this was last reset to 0. */
    this.worst = 0;
  }
  ticked(now) { return this.loop.mark(now, this.tick); }
  pulled(now, period) { return this.device.mark(now, period); }
  /** A packet of that length arrived; `follows` if it was sent together with the one before. Returns how many packets before it are missing. */
  arrived(now, length, sequence, follows = false) {
    const missing = this.next === null ? 0 : (sequence - this.next + WRAP) % WRAP, lost = missing < MISSING_MAX ? missing : 0;
    if (lost) { this.gap = now - missing * length; this.gapOpen = true; }
    if (missing >= WRAP / 2) this.gapOpen = false;
    else this.next = (sequence + 1) % WRAP;
    if (follows) { this.batch += length; return lost; }
    this.network.mark(now, this.batch);
    this.due = this.due ? Math.min(now, this.due + (this.batch + lost * length) * (1 + DRIFT_MAX)) : now;
    this.packet = this.batch = length;
    if (now - this.due < TIMELY) this.timely = now;
    this.worst = Math.max(this.worst, now - this.due);
    return lost;
  }
  silence() { this.network.rest(); this.due = 0; this.next = null; this.gapOpen = false; }
  /** Lateness is measured anew: a machine may have slept. */
  anew() { this.due = 0; }
  unsure(now) { return this.gapOpen || this.network.open(now, this.batch) !== null; }
  /** `packets` packets are given up as lost. Returns a verdict if that is audible. */
  lost(now, packets) {
    this.gapOpen = false;
    const since = now - this.gap < RECENT ? this.gap : now;
    this.losses = [...this.losses.slice(-63), [since, packets]];
    return packets * this.packet < HEARD ? null : { stage: "network", cause: "packets lost", at: since, evidence: { packets } };
  }
  /** Sound was missing at `now`. Returns the cause. */
  hole(now) {
    const loop = this.loop.recent(now), device = this.device.recent(now);
    const network = this.network.open(now, this.batch) ?? this.network.recent(now);
    if (loop !== null) {
      const at = began(loop, meet(loop, device) ? device : null, meet(loop, network) ? network : null);
      const too = device === null ? {} : { device_late_ms: ms(device.ended - device.began) };
      return { stage: "listener", cause: "not run", at, evidence: { late_ms: ms(loop.ended - loop.began), ...too } };
    }
    if (device !== null) return { stage: "device", cause: "late", at: began(device), evidence: { late_ms: ms(device.ended - device.began) } };
    const lost = this.losses.filter(([at]) => now - at < RECENT);
    if (lost.length) {
      const packets = lost.reduce((sum, [, count]) => sum + count, 0);
      return { stage: "network", cause: "packets lost", at: lost[0][0], evidence: { packets } };
    }
    if (network !== null) return { stage: "network", cause: "stalled", at: began(network), evidence: { nothing_for_ms: ms(network.ended - network.began) } };
    const timely = Math.min(now, this.timely), lateFor = ms(now - timely);
    return { stage: "network", cause: "late", at: timely, evidence: lateFor ? { late_for_ms: lateFor } : {} };
  }
}
