// How fast to play: clock estimates, target delay and rate control, a port of the Python package `millrace.clock`.
// Times are nanoseconds as doubles. tests/real/test_page_python.py runs both on the same traces.

export const NS_PER_S = 1e9, NS_PER_MS = 1e6;

/** The line below all points with the least average distance: [value at the last point, slope]. See clock/envelope.py. */
export function lineBelow(points) {
  const hull = [];
  for (const [x, y] of points) {
    while (hull.length > 1) {
      const [ax, ay] = hull[hull.length - 2], [bx, by] = hull[hull.length - 1];
      if ((bx - ax) * (y - ay) > (by - ay) * (x - ax)) break;
      hull.pop();
    }
    hull.push([x, y]);
  }
  const last = points[points.length - 1][0];
  if (hull.length === 1) return [hull[0][1], 0];
  const mean = points.reduce((sum, p) => sum + p[0], 0) / points.length;
  let k = 1;
  while (hull[k][0] < mean) k++;
  const [ax, ay] = hull[k - 1], [bx, by] = hull[k], slope = (by - ay) / (bx - ax);
  return [ay + (last - ax) * slope, slope];
}

/** A second-order delay-locked loop; see clock/dll.py for its constants. */
export class Dll {
  constructor(phase = 0, rate = 0) { this.phase = phase; this.rate = rate; }
  update(measured, dtS, bandwidthHz) {
    const step = Math.min(2 * Math.PI * bandwidthHz * dtS, 0.7);
    this.phase += this.rate * dtS;
    const error = measured - this.phase;
    this.phase += Math.SQRT2 * step * error;
    this.rate += step * step * error / dtS;
    return error;
  }
}

export const LOST = "lost", ACQUIRE = "acquire", LOCKED = "locked";
const RATE_MAX = 5e-3, STEADY_AFTER = 60 * NS_PER_S;
const BUCKET_ACQUIRE = 0.1 * NS_PER_S, BUCKET_LOCKED = 0.5 * NS_PER_S, WINDOW = 20 * NS_PER_S;
const SPAN_MIN = 1.5 * NS_PER_S, SPAN_LOCK = 5 * NS_PER_S, SPAN_SURE = 15 * NS_PER_S;
const LOCK_WITHIN = 25e-6, USUAL = 7.5e-4, SMALLER = 4e-4, STEP = NS_PER_MS, STEP_UP_BUCKETS = 8, STEPS_MAX = 4, STEPS_WITHIN = 20 * NS_PER_S;
const LOST_AFTER = 600 * NS_PER_S, BROKEN = 2 * NS_PER_S;
const STALL = NS_PER_S, STALL_LATE_MAX = 60 * NS_PER_S, CATCH_UP = 0.1, CARD_JUMP = 0.25 * NS_PER_S;
const clamp = (value, most) => Math.max(-most, Math.min(most, value));

/** Drift of one clock against another, from pairs of times of which the second can only be late. See clock/drift.py. */
export class DriftEstimator {
  constructor(jump = BROKEN, stallFor = STALL) { this.jump = jump; this.stallFor = stallFor; this.steps = 0; this.restart(); }
  begin(x, y) {
    this.state = ACQUIRE;
    this.x0 = x; this.y0 = y;
    this.phase = 0; this.lineU = 0; this.points = [];
    this.best = Infinity; this.bestU = 0; this.bestD = 0;
    this.closeAt = BUCKET_ACQUIRE;
    this.dll = new Dll(0, this.rate * NS_PER_S);
    this.dllU = 0; this.slopeBefore = null; this.lockedAt = 0; this.above = []; this.stall = null;
    this.alike = 0; this.steppedAt = 0;
  }
  restart() { this.rate = 0; this.measured = false; this.begin(0, 0); this.state = LOST; }
  observe(x, y) {
    const u = x - this.x0, d = y - this.y0 - u;
    const late = d - this.phase - this.rate * (u - this.lineU);
    if (this.state === LOST || late < -BROKEN || u - this.closeAt > LOST_AFTER) { this.begin(x, y); return 0; }
    if (late > this.jump) {
      if (this.isHeldUp(late, y)) return late;
      this.begin(x, y);
      return 0;
    }
    this.stall = null;
    if (late < this.best) { this.best = late; this.bestU = u; this.bestD = d; }
    if (u >= this.closeAt) this.close(u);
    else if (late < 0 && !this.points.length) this.phase += late;
    return late;
  }
  /**
   * Whether a pair this late was only delayed on its way; otherwise it is from a clock that had stopped. A line that was stalled catches
   * up: pairs stay late for at most `stallFor`, or their lateness falls by CATCH_UP of the time in each such period.
   */
  isHeldUp(late, y) {
    if (late > STALL_LATE_MAX) return false;
    const { since, first } = this.stall ?? { since: y, first: late };
    if (this.stall && y - since > this.stallFor) {
      if (late > first - CATCH_UP * (y - since)) return false;
      this.stall = { since: y, first: late };
    } else this.stall = { since, first };
    return true;
  }
  close(u) {
    const best = this.best, point = [this.bestU, this.bestD], points = this.points;
    this.best = Infinity;
    this.closeAt = u + (this.state === LOCKED ? BUCKET_LOCKED : BUCKET_ACQUIRE);
    if (point[0] < u - WINDOW || (points.length && point[0] <= points[points.length - 1][0])) return;
    if (this.state === LOCKED && this.standsOut(point, best)) return;
    this.points.push(point);
    while (this.points[0][0] < u - WINDOW) this.points.shift();
    if (point[0] - this.points[0][0] < SPAN_MIN) { this.lowerOnly(point); return; }
    const [measured, slope] = lineBelow(this.points);
    this.follow(point[0], measured, clamp(slope, RATE_MAX));
  }
  lowerOnly(point) {
    const under = point[1] - this.phase - this.rate * (point[0] - this.lineU);
    if (under < 0) this.phase += under;
    this.dll = new Dll(this.phase + this.rate * (point[0] - this.lineU), this.rate * NS_PER_S);
    this.dllU = point[0];
  }
  follow(u, measured, slope) {
    const dt = (u - this.dllU) / NS_PER_S, dll = this.dll;
    if (this.state === ACQUIRE) {
      dll.update(measured, dt, 1);
      dll.rate = (this.measured ? this.rate : slope) * NS_PER_S;
      this.tryLock(u, slope);
    } else dll.update(measured, dt, u - this.lockedAt > STEADY_AFTER ? 0.02 : 0.05);
    this.dllU = u; this.phase = dll.phase; this.lineU = u;
    this.rate = clamp(dll.rate / NS_PER_S, RATE_MAX);
  }
  tryLock(u, slope) {
    const before = this.slopeBefore, span = u - this.points[0][0], size = Math.abs(slope);
    this.slopeBefore = slope;
    if (span < SPAN_LOCK) return;
    const later = this.points.filter(([at]) => at >= u - span / 2);
    if (size > SMALLER && Math.abs(lineBelow(later)[1]) < size - SMALLER) this.points = later;
    else if (before !== null && Math.abs(slope - before) < LOCK_WITHIN && (size < USUAL || (size < RATE_MAX && span >= SPAN_SURE))) {
      this.state = LOCKED; this.lockedAt = u; this.measured = true;
      this.dll.rate = slope * NS_PER_S;
    }
  }
  standsOut(point, best) {
    if (best < -STEP) this.shift(point[0], best);
    if (best <= 2 * STEP) { this.above = []; return false; }
    this.above.push([point, best]);
    if (this.above.length >= STEP_UP_BUCKETS) {
      this.shift(point[0], Math.min(...this.above.map(([, over]) => over)));
      this.points.push(...this.above.map(([kept]) => kept));
      this.above = [];
    }
    return true;
  }
  shift(u, by) {
    this.points = this.points.map(([at, d]) => [at, d + by]);
    this.phase += by; this.dll.phase += by; this.steps++;
    const soon = u - this.steppedAt < STEPS_WITHIN && this.alike * by > 0;
    this.alike = (soon ? this.alike : 0) + (by > 0 ? 1 : -1);
    this.steppedAt = u;
    if (Math.abs(this.alike) >= STEPS_MAX) { this.state = ACQUIRE; this.points = []; this.slopeBefore = null; this.alike = 0; }
  }
  get ppm() { return (1 / (1 + this.rate) - 1) * 1e6; }
  yAfter(x, origin) {
    const u = x - this.x0;
    return (this.y0 - origin) + u + this.phase + this.rate * (u - this.lineU);
  }
}

const BINS = 1024, BIN = 0.5 * NS_PER_MS, TAIL = 0.05, FEW = 100;
const HALF_LIFE_S = 300, PEAK_HALF_LIFE_S = 6 * 3600, YOUNG_S = 60;
const CALM = 1e4, YOUNG = 2e5, FAST = 5e5, GROW_ONCE = 15 * NS_PER_MS;
const profile = (start, floor, ceiling, guard, late) => (
  { start: start * NS_PER_MS, floor: floor * NS_PER_MS, ceiling: ceiling * NS_PER_MS, guard: guard * NS_PER_MS, late });
export const PROFILES = {
  low: profile(3, 1, 60, 0.5, 1e-3), normal: profile(8, 4, 250, 1, 1e-5), robust: profile(60, 40, 500, 5, 1e-8),
};

/** A profile by name, or a fixed latency such as 30ms. */
export function profileOf(name) {
  const fixed = parseFloat(name);
  return Object.hasOwn(PROFILES, name) ? PROFILES[name] : (fixed > 0 ? profile(fixed, fixed, fixed, 0, 1) : PROFILES.normal);
}

/** The target delay above the fastest arrival: grows at once, shrinks slowly. See clock/jitter.py. */
export class JitterTarget {
  constructor(chosen) {
    this.profile = chosen;
    this.targetDelay = this.wanted = chosen.start;
    this.counts = new Float64Array(BINS); this.recent = new Float64Array(BINS);
    this.peak = this.second = 0;
    this.growing = false; this.age = 0; this.moving = 0;
  }
  /** Change the profile, keeping the measured jitter. */
  change(chosen) {
    this.profile = chosen;
    this.targetDelay = Math.min(Math.max(this.targetDelay, chosen.floor), chosen.ceiling);
    this.age = this.moving = 0;
  }
  add(late) {
    this.recent[Math.min(BINS - 1, Math.max(0, Math.trunc(late / BIN)))]++;
    if (late > this.second) [this.peak, this.second] = [Math.max(late, this.peak), Math.min(late, this.peak)];
    if (late + this.profile.guard > this.targetDelay) {
      const grown = Math.min(late * 1.1 + this.profile.guard, this.targetDelay + GROW_ONCE);
      this.targetDelay = Math.max(this.targetDelay, Math.min(grown, this.profile.ceiling));
    }
  }
  refresh(dt) {
    const forget = 0.5 ** (dt / HALF_LIFE_S), hold = 0.5 ** (dt / PEAK_HALF_LIFE_S);
    for (let k = 0; k < BINS; k++) this.counts[k] = this.counts[k] * forget + this.recent[k];
    this.recent.fill(0);
    this.wanted = this.want();
    this.peak *= hold; this.second *= hold;
    this.approach(dt);
  }
  want() {
    const { floor, ceiling, guard, late } = this.profile, counts = this.counts;
    const total = counts.reduce((sum, n) => sum + n, 0);
    if (total < FEW) return Math.max(this.targetDelay, floor);
    let above = 0, k = BINS;
    while (k > 0 && above + counts[k - 1] <= TAIL * total) above += counts[--k];
    let weighed = 0, tail = 0;
    for (let n = k; n < BINS; n++) { tail += counts[n]; weighed += counts[n] * (n - k + 0.5); }
    const excess = weighed / Math.max(tail, 1e-9) * BIN;
    let wanted = k * BIN + (late < TAIL ? excess * Math.log(TAIL / late) : 0);
    wanted = Math.min(wanted, this.second * (1.05 + 10 / Math.sqrt(total)));
    return Math.min(Math.max(wanted + guard, floor), ceiling);
  }
  approach(dt) {
    this.targetDelay += this.moving * dt;
    const shrinking = this.moving < 0, error = this.wanted - this.targetDelay;
    this.moving = 0; this.age += dt;
    const young = this.age < YOUNG_S;
    if (error > 0 && young) this.targetDelay = this.wanted;
    else if (error > 0) {
      this.growing = error > NS_PER_MS || (this.growing && error > CALM);
      this.moving = this.growing ? CALM : 0;
    } else if (-error > (shrinking ? NS_PER_MS / 4 : young ? NS_PER_MS : Math.max(2 * NS_PER_MS, 0.1 * this.targetDelay))) {
      this.moving = -error > 20 * NS_PER_MS ? -FAST : young ? -YOUNG : -CALM;
    }
  }
}

const TAU_ACQUIRE = 2, TAU_LOCKED = 12, DEADBAND = 2000, CORRECTION_MAX = 1e-3, SLEW = 5e-4, FOLLOW_MAX = 0.03;
const REFRESH = NS_PER_S, LOST_MAX = 120 * NS_PER_MS, ROUNDING = 1000, STALL_MEMORY = 300 * NS_PER_MS, STALL_MIN = 3 * NS_PER_MS;

/** Both clocks, the target delay and the playback speed. The card's position comes from the audio context. See clock/pace.py. */
export class RateController {
  constructor(rate, chosen) {
    this.rate = rate;
    this.media = new DriftEstimator(); this.card = new DriftEstimator(CARD_JUMP, 0);
    this.jitter = new JitterTarget(chosen);
    this.lag = 0; this.period = 0;
    this.codec = 0; this.cardAt = 0; this.pull = 0; this.correction = 0; this.steered = 0;
    this.refreshed = null; this.moved = 0; this.stall = 0; this.stalledAt = 0; this.arrivedAt = 0; this.mediaEnd = 0;
  }
  arrived(media, length, now, follows = false) {
    const step = media - this.mediaEnd, together = now - this.arrivedAt < Math.floor(length / 4);
    this.arrivedAt = now; this.mediaEnd = media + length;
    if (follows || together) return;
    const late = this.media.observe(media, now);
    if (ROUNDING < step && step <= LOST_MAX) this.jitter.add(late + length);
    const own = now - this.stalledAt < STALL_MEMORY ? this.stall : 0;
    if (late > own + STALL_MIN || own === 0) this.jitter.add(late);
    if (this.refreshed === null) this.refreshed = now;
    else if (now - this.refreshed >= REFRESH) {
      this.jitter.refresh((now - this.refreshed) / NS_PER_S);
      this.refreshed = now; this.moved = 0;
    }
  }
  /** The frame at audio time `card` is heard at `now`. It is pulled `lag` earlier, together with the rest of its `period`. */
  observed(card, now, lag = 0, period = 0) {
    this.lag = lag; this.period = period;
    const late = this.card.observe(card, now);
    if (late > STALL_MIN + 20 * NS_PER_MS) { this.stall = late; this.stalledAt = now; }
  }
  /** When the context pulls, or pulled, the frame at audio time `card`. */
  pullTime(card) { return this.card.yAfter(card, 0) - this.lag; }
  /** The context pulls `frames` from its position `card`. */
  pulled(frames, card, now) {
    this.cardAt = card; this.pull = Math.max(frames * NS_PER_S / this.rate, this.period);
    if (this.refreshed !== null) this.moved = this.jitter.moving * (now - this.refreshed) / NS_PER_S;
  }
  get targetDelay() { return this.jitter.targetDelay + this.moved + this.pull + this.codec; }
  late(media) { return this.pullTime(this.cardAt) - this.media.yAfter(media, 0) - this.targetDelay; }
  get locked() { return this.media.state === LOCKED && this.card.state === LOCKED; }
  get ratio() {
    const ratio = (1 + this.card.rate) / (1 + this.media.rate);
    return Math.max(1 - FOLLOW_MAX, Math.min(1 + FOLLOW_MAX, ratio));
  }
  speed(late) {
    const tau = this.locked ? TAU_LOCKED : TAU_ACQUIRE, beyond = Math.abs(late) < DEADBAND ? 0 : late;
    const wanted = clamp((beyond / tau - this.jitter.moving) / NS_PER_S, CORRECTION_MAX);
    const step = SLEW * (this.cardAt - this.steered) / NS_PER_S;
    this.steered = this.cardAt;
    this.correction += Math.max(-step, Math.min(step, wanted - this.correction));
    return this.ratio * (1 + this.correction);
  }
}

const DRIFT_MAX = 1e-3, READING = 20 * NS_PER_MS;
/** Whether two round trips can both be true; otherwise a clock has jumped between them, or stood still while its machine slept. */
const agree = (one, later) => Math.abs(later.remote - later.local - (one.remote - one.local)) <= (one.rtt + later.rtt) / 2 + READING + DRIFT_MAX * Math.abs(later.local - one.local);

/** The offset between two clocks, measured by round trips. See clock/sync.py. */
export class OffsetFilter {
  constructor() { this.trips = []; }
  /** Returns whether a clock has jumped. */
  add(sent, remote, received) {
    const trip = { local: Math.floor((sent + received) / 2), remote, rtt: received - sent }, before = this.trips.slice(-15);
    this.trips = [...before.filter((one) => agree(one, trip)), trip];
    return this.trips.length <= before.length;
  }
  get rtt() { return this.trips.length ? Math.min(...this.trips.map((trip) => trip.rtt)) : null; }
  offset(now, rate = 0) {
    if (!this.trips.length) return null;
    const worth = (trip) => trip.rtt / 2 + 20e-6 * (now - trip.local);
    const best = this.trips.reduce((a, b) => (worth(b) < worth(a) ? b : a));
    return best.remote - best.local - rate * (now - best.local);
  }
}

/** Pings are two seconds apart. If none was answered for so long, a machine has slept, the tab was frozen, or the line was dead. */
const ANSWERED = 5 * NS_PER_S;

/** The daemon's clock, which is known while it answers pings. Time spent asleep is not latency. */
export class DaemonClock extends OffsetFilter {
  constructor() { super(); this.answered = -Infinity; }
  /** Returns whether the daemon's clock was not known until now: what happened before can't be measured. */
  add(sent, remote, received) {
    const unknown = received - this.answered > ANSWERED;
    this.answered = received;
    return super.add(sent, remote, received) || unknown;
  }
  offset(now, rate = 0) { return now - this.answered > ANSWERED ? null : super.offset(now, rate); }
}
