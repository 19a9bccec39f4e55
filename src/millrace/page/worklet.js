// The real-time side: an AudioWorklet that pulls from the link. `performance` does not exist here, so the main thread sends
// pairs of audio clock and its own clock, and the line through them gives the time of each pull.
import { LOST, NS_PER_S, RateController, profileOf } from "./clock.js";
import { AdaptiveLink, LOOKAHEAD, PLAYING, QUIET, Voice } from "./link.js";

const STATS_FRAMES = 12000;

// Three clocks meet here. `currentFrame` counts the frames that the context has pulled, and is the only clock a worklet has. The main
// thread pairs it with the page's clock (`clock`), and `pullTime` is the line through those pairs: the time of a pull, free of the jitter
// with which it is called. The daemon's clock comes with the packets (`arrived`). Nothing here waits: until the card's clock is known
// (LOST), and while nothing is queued, the output stays silent.
//
// Everything else arrives as a message, named after the method that takes it. Messages are handled between two calls of `process`, never
// during one, so no state needs protection.
class Player extends AudioWorkletProcessor {
  constructor(options) {
    super();
    this.pace = new RateController(sampleRate, profileOf(options.processorOptions.profile));
    this.since = 0; this.peak = [0, 0]; this.squares = [0, 0]; this.holes = 0;
    this.format({ rate: sampleRate, channels: 2, codec: 0 });
    this.port.onmessage = ({ data }) => this[data.what](data);
  }
  /** The worker's port: packets and sound arrive on it, statistics are sent on it. */
  join({ port }) {
    this.worker = port;
    port.onmessage = ({ data }) => this[data.what](data);
  }
  format({ rate, channels, codec }) {
    this.rate = rate; this.channels = channels;
    this.pace.codec = codec;
    this.voice = new Voice(rate, channels, sampleRate);
    const tally = this.link && this.link.tally;
    this.link = new AdaptiveLink(rate, sampleRate, this.pace, this.voice);
    if (tally) this.link.tally = tally;
  }
  profile({ name }) { this.pace.jitter.change(profileOf(name)); }
  clock({ card, now, lag, period }) { this.pace.observed(card, now, lag, period); }
  arrived({ media, length, now, follows }) { this.pace.arrived(media, length, now, follows); }
  block({ media, planes }) {
    const { link, voice } = this, frames = planes[0].length;
    if (link.state === QUIET) voice.stop();
    const missing = link.missing(media);
    if (missing) voice.conceal(missing - link.replaced(missing));
    voice.write(planes, frames);
    link.written(media, frames);
  }
  silence() {
    if (this.link.state !== QUIET) this.voice.write(Array.from({ length: this.channels }, () => new Float32Array(2 * LOOKAHEAD)), 2 * LOOKAHEAD);
    this.link.end();
  }
  /** The context was suspended: its clock starts over at the next pair, and what was queued in the meantime is stale. */
  resumed() {
    this.pace.card.state = LOST;
    this.link.tally.skipped += Math.trunc(this.voice.fill);
    this.voice.stop();
    this.link.state = QUIET;
  }
  rejoined() { this.pace.media.restart(); this.silence(); }
  process(_, [out]) {
    const card = currentFrame * NS_PER_S / sampleRate, frames = out[0].length, pace = this.pace;
    const now = pace.pullTime(card);
    if (pace.card.state !== LOST && this.link.pull(frames, card, now)) {
      this.voice.read(out, this.link.lead, this.link.step);
      for (let c = 0; c < 2; c++) {
        for (const v of out[Math.min(c, out.length - 1)]) { this.peak[c] = Math.max(this.peak[c], Math.abs(v)); this.squares[c] += v * v; }
      }
    }
    const holes = this.link.tally.underruns + this.link.tally.concealments;
    if (holes !== this.holes) { this.holes = holes; this.worker?.postMessage({ hole: holes }); }
    this.since += frames;
    if (this.since >= STATS_FRAMES) { this.since = 0; this.tell(now); }
    return true;
  }
  tell(now) {
    const { link, pace, voice } = this;
    this.worker?.postMessage({
      state: link.state, now, age: link.state === PLAYING ? now - link.head : null, late: link.late, targetDelay: pace.targetDelay,
      jitter: pace.jitter.targetDelay + pace.moved, pull: pace.pull, codec: pace.codec, fill: voice.fill * NS_PER_S / this.rate,
      ppm: (1 / pace.ratio - 1) * 1e6, locked: pace.locked, lag: pace.lag, mediaRate: pace.media.rate, path: pace.media.yAfter(now, now),
      peak: this.peak, rms: this.squares.map((sum) => Math.sqrt(sum / STATS_FRAMES)), ...link.tally, overrun: voice.overrun,
    });
    this.peak = [0, 0]; this.squares = [0, 0];
  }
}
registerProcessor("millrace-player", Player);

const BLOCK = 480;

/** Sends captured sound to the worker in blocks of 10 ms. */
class Microphone extends AudioWorkletProcessor {
  constructor() {
    super();
    this.block = new Float32Array(BLOCK); this.have = 0;
    this.port.onmessage = ({ data }) => { this.worker = data.port; };
  }
  process([input]) {
    const plane = input[0];
    if (!plane) return true;
    for (const value of plane) {
      this.block[this.have++] = value;
      if (this.have === BLOCK) {
        this.worker?.postMessage(this.block, [this.block.buffer]);
        this.block = new Float32Array(BLOCK); this.have = 0;
      }
    }
    return true;
  }
}
registerProcessor("millrace-microphone", Microphone);
