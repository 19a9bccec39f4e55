// When a picture is drawn. While sound plays, a picture waits until the sound that was captured with it is heard; otherwise it is drawn
// at once. Times are nanoseconds: of the daemon's clock for `painted` and `heard`, of the page's for `now`.
import { NS_PER_MS } from "./clock.js";

/** A picture is not held longer than this: then the sound's clock is wrong, or its delay is that of a recording. */
const HOLD_MAX = 700 * NS_PER_MS;
/** The sound's position must be this recent: the worklet reports four times a second. */
const STALE = 1000 * NS_PER_MS;
const DRAWING_FIRST = 4 * NS_PER_MS, DRAWING_MAX = 50 * NS_PER_MS, SMOOTHING = 0.1;
/** From drawing on the canvas to the screen. Firefox takes longer. */
const COMPOSE = 5 * NS_PER_MS, COMPOSE_GECKO = 12 * NS_PER_MS;

/** Holds pictures for the sound. */
export class Pacing {
  constructor(gecko = false) {
    this.compose = gecko ? COMPOSE_GECKO : COMPOSE;
    this.drawing = DRAWING_FIRST; this.delay = null; this.at = 0; this.first = false;
  }
  /**
   * Sound captured at `painted` is heard at `painted + delay` on the page's clock; `delay` is null while none plays. With `first` no
   * picture waits for it.
   */
  sound(delay, now, first = false) { this.delay = delay; this.at = now; this.first = first; }
  /** How far a picture painted then is behind the sound heard now; negative if it is early, null without sound. */
  skew(painted, now) { return this.delay === null || now - this.at > STALE ? null : now - this.delay - painted; }
  /** When to draw: `now` for at once. Drawing takes a while, so it begins that much earlier. */
  due(painted, now) {
    const skew = this.skew(painted, now);
    if (skew === null || this.first) return now;
    const wait = -skew - this.drawing - this.compose;
    return wait <= 0 || wait > HOLD_MAX ? now : now + wait;
  }
  /** A picture took that long to draw. */
  drew(took) { this.drawing += (Math.min(took, DRAWING_MAX) - this.drawing) * SMOOTHING; }
}
