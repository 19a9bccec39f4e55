// Carries sound from the daemon's clock to the audio context's: tape, resampler, splices, and the decisions of playout/adaptive.py.
import { NS_PER_MS, NS_PER_S } from "./clock.js";

/** A planar queue that keeps some frames behind the read position. See dsp/tape.py. */
export class Tape {
  constructor(capacity, history, channels) {
    this.capacity = capacity; this.history = history;
    this.data = Array.from({ length: channels }, () => new Float32Array(2 * (capacity + history)));
    this.head = this.end = history;
  }
  get fill() { return this.end - this.head; }
  write(planes, from, count) {
    const n = Math.min(count, this.capacity - this.fill);
    if (this.end + n > this.data[0].length) {
      const drop = this.head - this.history;
      for (const plane of this.data) plane.copyWithin(0, drop, this.end);
      this.head = this.history; this.end -= drop;
    }
    this.data.forEach((plane, c) => plane.set(planes[c].subarray(from, from + n), this.end));
    this.end += n;
    return n;
  }
  advance(frames) { this.head += frames; }
  clear() { this.head = this.end; }
}

const TAPS = 32, PHASES = 512, HALF = TAPS / 2;
export const LOOKAHEAD = HALF + 1;
/** Kaiser-windowed sinc with cutoff at 0.92 of Nyquist, interpolated linearly between phases. */
const TABLE = (() => {
  const table = new Float32Array((PHASES + 1) * TAPS), beta = 9, cutoff = 0.92;
  const bessel = (x) => { let sum = 1, term = 1; for (let k = 1; k < 30; k++) { term *= (x / (2 * k)) ** 2; sum += term; } return sum; };
  for (let p = 0; p <= PHASES; p++) {
    let total = 0;
    for (let t = 0; t < TAPS; t++) {
      const x = t - HALF + 1 - p / PHASES, w = x / HALF;
      const window = Math.abs(w) < 1 ? bessel(beta * Math.sqrt(1 - w * w)) / bessel(beta) : 0;
      const sinc = x === 0 ? cutoff : Math.sin(Math.PI * x * cutoff) / (Math.PI * x);
      total += table[p * TAPS + t] = sinc * window;
    }
    for (let t = 0; t < TAPS; t++) table[p * TAPS + t] /= total;
  }
  return table;
})();

const FINE_MS = 2, LOW_MS = 3, HIGH_MS = 13, BEYOND_MS = 2, ALIKE = 0.8;
const CONCEAL = 20 * NS_PER_MS, FADE_OUT = 20 * NS_PER_MS;

/** Queued sound and the operations on it. See playout/buffer.py and dsp/splice.py. */
export class Voice {
  constructor(rate, channels, outRate) {
    this.rate = rate; this.channels = channels; this.outRate = outRate;
    this.tape = new Tape(rate * 4, Math.floor(rate * 0.06), channels);
    this.fine = Math.floor(rate * FINE_MS / 1000); this.low = Math.floor(rate * LOW_MS / 1000);
    this.high = Math.floor(rate * HIGH_MS / 1000); this.beyond = Math.floor(rate * BEYOND_MS / 1000);
    this.overrun = 0;
    this.stop();
  }
  stop() {
    this.tape.clear();
    this.fraction = 0; this.concealed = 0; this.loop = null;
    this.fade = 0; this.fadeFrames = Math.floor(this.outRate * 0.005);
  }
  get fill() { return this.tape.fill - this.fraction; }
  get ready() { return Math.max(0, this.fill - LOOKAHEAD); }
  write(planes, count) {
    if (!count) return;
    if (this.concealed) {
      const n = Math.min(count, this.low), more = this.concealment(n);
      planes.forEach((plane, c) => { for (let k = 0; k < n; k++) plane[k] = more[c][k] + (plane[k] - more[c][k]) * (k + 1) / n; });
      this.concealed = 0;
    }
    this.overrun += count - this.tape.write(planes, 0, count);
  }
  conceal(frames) { if (frames > 0) this.tape.write(this.concealment(frames), 0, frames); }
  concealment(frames) {
    if (!this.concealed) this.loop = this.lastPeriod();
    const out = this.loop.map((plane) => {
      const made = new Float32Array(frames);
      for (let k = 0; k < frames; k++) {
        const ns = (this.concealed + k) * NS_PER_S / this.rate;
        made[k] = plane[(this.concealed + k) % plane.length] * Math.min(1, Math.max(0, (CONCEAL + FADE_OUT - ns) / FADE_OUT));
      }
      return made;
    });
    this.concealed += frames;
    return out;
  }
  lastPeriod() {
    const { end, data } = this.tape, { fine, low, high } = this;
    if (end < high + fine + low) return data.map(() => new Float32Array(high));
    const [at] = this.match(end - fine, end - high - fine, high - low);
    return data.map((plane) => plane.slice(end - (high - at), end));
  }
  /** Which of `count` + 1 offsets from `where` is most similar to the `fine` frames at `template`: [offset, similarity]. */
  match(template, where, count) {
    const { data } = this.tape, n = this.fine;
    const sum = (k) => { let s = 0; for (const plane of data) s += plane[k]; return s; };
    const one = Float64Array.from({ length: n }, (_, k) => sum(template + k));
    const many = Float64Array.from({ length: count + n }, (_, k) => sum(where + k));
    const own = Math.sqrt(one.reduce((s, v) => s + v * v, 0));
    let energy = 0, best = 0, likeness = -Infinity;
    for (let k = 0; k < n; k++) energy += many[k] * many[k];
    for (let at = 0; at <= count; at++) {
      let product = 0;
      for (let k = 0; k < n; k++) product += one[k] * many[at + k];
      const like = product / Math.sqrt(Math.max(energy, 0) + 1e-9);
      if (like > likeness) { likeness = like; best = at; }
      if (at < count) energy += many[at + n] ** 2 - many[at] ** 2;
    }
    return [best, own > 1e-4 ? likeness / own : 1];
  }
  /** Jump forward or back by `low` to `high` frames to a similar place, with a crossfade. Returns 0 if none is similar enough. */
  jump(low, high, alike, back) {
    const tape = this.tape, n = this.fine, from = back ? tape.head - high : tape.head + low;
    const [at, likeness] = this.match(tape.head, from, high - low);
    if (likeness < alike) return 0;
    const before = tape.data.map((plane) => plane.slice(tape.head, tape.head + n));
    const offset = back ? -(high - at) : low + at;
    tape.advance(offset);
    tape.data.forEach((plane, c) => { for (let k = 0; k < n; k++) plane[tape.head + k] += (before[c][k] - plane[tape.head + k]) * (1 - (k + 1) / n); });
    return Math.abs(offset);
  }
  accelerate(most) {
    if (most < this.low) return 0;
    const high = Math.min(this.high, most + this.beyond, this.tape.fill - 2 * this.fine);
    return high < this.low ? 0 : this.jump(this.low, high, most < this.high ? ALIKE : -1, false);
  }
  expand(most) {
    const high = Math.min(this.high, most + this.beyond, this.tape.head - this.fine, this.tape.capacity - this.tape.fill);
    if (most < this.low || high < this.low || this.tape.fill < this.fine) return 0;
    return this.jump(this.low, high, most < this.high ? ALIKE : -1, true);
  }
  skip(about) {
    const low = Math.max(this.fine, about - this.high), high = Math.min(about, this.tape.fill - 2 * this.fine);
    return high < low ? 0 : this.jump(low, high, -1, false);
  }
  drop(frames) {
    const n = Math.max(0, Math.min(frames, Math.floor(this.tape.fill)));
    this.tape.advance(n);
    this.fade = 0;
    return n;
  }
  /** Fill `out` from index `at`, advancing the tape by `step` frames per output frame. */
  read(out, at, step) {
    const { data } = this.tape, n = out[0].length;
    let head = this.tape.head, fraction = this.fraction;
    for (let k = at; k < n; k++) {
      const phase = fraction * PHASES, p = Math.floor(phase), mix = phase - p, row = p * TAPS, next = row + TAPS;
      const start = head - HALF + 1, gain = this.fade < this.fadeFrames ? ++this.fade / this.fadeFrames : 1;
      for (let c = 0; c < out.length; c++) {
        const plane = data[Math.min(c, data.length - 1)];
        let a = 0, b = 0;
        for (let t = 0; t < TAPS; t++) { const v = plane[start + t]; a += v * TABLE[row + t]; b += v * TABLE[next + t]; }
        out[c][k] = (a + (b - a) * mix) * gain;
      }
      fraction += step;
      const whole = Math.floor(fraction);
      head += whole; fraction -= whole;
    }
    this.tape.head = Math.min(head, this.tape.end);
    this.fraction = fraction;
  }
}

const STEER = 20 * NS_PER_MS, SPLICE = 2 * NS_PER_MS, SPLICE_EVERY = 60 * NS_PER_MS, LATE_START = 20 * NS_PER_MS;
const SKIP = 150 * NS_PER_MS, GAP_MAX = 500 * NS_PER_MS;
export const QUIET = "quiet", PRIMING = "priming", PLAYING = "playing";

// The order within `pull` matters, as in playout/adaptive.py: the pull is reported to the clock first, as the latency is measured against
// it; then the sound may start within this pull; then the speed is chosen; and only what is still missing at that speed is concealed. The
// tests run both implementations on the same traces, so a change to one must be made to the other.
/** The playout decisions. See playout/adaptive.py. */
export class AdaptiveLink {
  constructor(rate, outRate, pace, voice) {
    this.rate = rate; this.outRate = outRate; this.pace = pace; this.voice = voice;
    this.state = QUIET; this.late = 0; this.speed = 1; this.lead = 0;
    this.tally = { underruns: 0, concealments: 0, accelerated: 0, expanded: 0, skipped: 0, splices: 0, begun: 0 };
    this.tail = 0; this.ended = false; this.concealedNs = 0; this.stead = 0; this.splicedAt = 0; this.steeredAt = -STEER;
  }
  written(media, frames) {
    this.ended = false; this.concealedNs = this.stead = 0;
    if (this.state === QUIET) this.state = PRIMING;
    this.tail = media + frames * NS_PER_S / this.rate;
  }
  missing(media) {
    const gap = media - this.tail, playing = this.state === PLAYING || this.voice.fill > 0;
    return playing && !this.ended && gap > 0 && gap <= GAP_MAX ? Math.floor(gap * this.rate / NS_PER_S + 1e-3) : 0;
  }
  replaced(frames) { const done = Math.min(frames, Math.floor(this.stead)); this.stead -= done; return done; }
  end() { this.ended = true; }
  get head() { return this.tail - this.voice.fill * NS_PER_S / this.rate; }
  pull(frames, card, now) {
    this.pace.pulled(frames, card, now);
    this.lead = 0;
    if (this.state === PRIMING) this.tryStart(frames);
    if (this.state !== PLAYING) return false;
    if (now - this.steeredAt >= STEER) {
      this.steeredAt = now;
      let late = this.late = this.pace.late(this.head) + this.lead * NS_PER_S / this.outRate;
      if (Math.abs(late) > SPLICE) late = this.correct(late, now);
      this.speed = this.pace.speed(late);
    }
    const short = (frames - this.lead) * this.step - this.voice.ready;
    return short <= 0 || this.fillUp(short);
  }
  /** Media frames per output frame. */
  get step() { return this.speed * this.rate / this.outRate; }
  tryStart(frames) {
    const enough = frames * this.rate / this.outRate;
    if (this.voice.ready < enough && !this.ended) return;
    const late = this.pace.late(this.head);
    let wait = Math.trunc(-late * this.outRate / NS_PER_S);
    if (wait >= frames) { if (!this.ended) return; wait = 0; }
    this.lead = Math.max(0, wait);
    const left = this.voice.drop(late > LATE_START ? Math.trunc(late * this.rate / NS_PER_S) : 0);
    // Sound that arrived before playback began does not count as skipped.
    if (this.tally.begun) this.tally.skipped += left;
    this.tally.begun = 1;
    if (this.voice.ready >= enough || (this.ended && this.voice.fill > 0)) this.state = PLAYING;
    else if (this.ended) this.state = QUIET;
  }
  correct(late, now) {
    const frames = Math.trunc(Math.abs(late) * this.rate / NS_PER_S);
    let done = 0;
    if (late > SKIP) this.tally.skipped += done = this.voice.skip(frames);
    else if (now - this.splicedAt < SPLICE_EVERY) return late;
    else if (late > 0) { this.tally.accelerated += done = this.voice.accelerate(frames); this.tally.splices += done > 0; }
    else { done = -this.voice.expand(frames); this.tally.expanded -= done; this.tally.splices += done < 0; }
    this.splicedAt = now;
    return late - done * NS_PER_S / this.rate;
  }
  fillUp(short) {
    if (this.ended) { this.state = QUIET; return this.voice.fill > 0; }
    if (this.concealedNs >= CONCEAL + FADE_OUT) { this.state = PRIMING; return false; }
    const before = this.concealedNs, frames = Math.trunc(short) + 1;
    this.concealedNs += short * NS_PER_S / this.rate;
    this.tally.concealments += before === 0;
    this.tally.underruns += before <= CONCEAL && CONCEAL < this.concealedNs;
    this.voice.conceal(frames);
    this.stead += frames;
    return true;
  }
}
