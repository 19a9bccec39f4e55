// The videos that a machine sends itself, which this page draws over the picture (docs/picture-protocol.md). Each has a decoder and keeps
// its newest frame: what is painted below must not show, so that frame is drawn again whenever a part of the picture was drawn there.
import { AREA_MAX, OVERLAY, OVERLAYS_MAX, STARTS, parseOverlays } from "./pictures.js";
import { around, meet } from "./surface.js";
import { Video, unitOf } from "./video.js";

/** Frames of all videos together are no larger than so many pictures: a decoder keeps several. */
const SCREENS = 4, TOUCHED_MAX = 32;
/** Pixels of the largest frame of a video: that of its last key frame, or one that is shown until a later one can be. */
const areaOf = ({ coded, newest }) => Math.max(coded, newest ? newest.codedWidth * newest.codedHeight : 0);

/** The videos of one connection. `refused` counts the key frames in a row, of any of them, that gave no frame. */
export class Overlays {
  constructor() { this.videos = new Map(); this.list = []; this.mode = null; this.refused = 0; }

  /** A picture begins. In the first of another mode there are no overlays. */
  begin(mode) {
    if (mode !== this.mode) this.list = [];
    this.mode = mode; this.listed = false; this.fresh = new Set(); this.touched = [];
  }

  /** Decode a frame. Returns whether it could be; if not, its video goes on with one that needs nothing before it. */
  async frame({ dx: number, flags, bytes }) {
    const unit = unitOf(bytes), room = Math.min(AREA_MAX, SCREENS * this.mode.width * this.mode.height), one = this.videos.get(number) ?? { video: new Video(), newest: null, coded: 0 };
    if (!unit || unit.avc || unit.area > room || !(flags & STARTS || one.video.decoder)) { one.video.lose(); return false; }
    if (unit.key) one.coded = unit.area;
    this.videos.delete(number); this.videos.set(number, one);
    this.#limit(room, number);
    if (unit.hidden) return one.video.pass(bytes);
    const { refused } = one.video, frame = await one.video.decode(bytes);
    if (frame) this.refused = 0; else this.refused += one.video.refused - refused;
    if (!frame || this.videos.get(number) !== one) { frame?.close(); return false; }
    one.newest?.close();
    one.newest = frame;
    this.fresh.add(number);
    return true;
  }

  /** End the videos whose last frame is the oldest, until there is room beside one. */
  #limit(room, beside) {
    let area = 0;
    for (const one of this.videos.values()) area += areaOf(one);
    for (const [number, one] of this.videos) {
      if (number === beside || (this.videos.size <= OVERLAYS_MAX && area <= room)) return;
      area -= areaOf(one);
      this.#end(number, one);
    }
  }

  #end(number, { video, newest }) {
    this.videos.delete(number);
    video.lose();
    newest?.close();
  }

  /** Other overlays, or in other places: all are drawn. */
  place({ bytes }) { this.list = parseOverlays(bytes, this.mode); this.listed = true; }

  /** A part of the picture is drawn there. */
  touch({ x, y, w, h }) {
    this.touched.push({ x, y, w, h });
    if (this.touched.length > TOUCHED_MAX) this.touched = [this.touched.reduce(around)];
  }

  /** What is drawn after all parts of the picture: prepared parts, with a frame of their own each. */
  parts() {
    const out = [];
    for (const { number, at, visible } of this.list) {
      const newest = this.videos.get(number)?.newest, covered = (one) => this.touched.some((box) => meet(one, box));
      if (!newest || !visible.length || !(this.listed || this.fresh.has(number) || visible.some(covered))) continue;
      visible.forEach((one) => this.touch(one));
      out.push({ type: OVERLAY, frame: newest.clone(), at, visible });
    }
    return out;
  }

  /** Frames are missing: each video waits for one that needs nothing before it. */
  lose() { for (const { video } of this.videos.values()) video.lose(); }

  close() { for (const [number, one] of this.videos) this.#end(number, one); }
}
