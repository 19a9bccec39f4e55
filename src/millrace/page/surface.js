// What a screen shows: a canvas, and a copy of it in memory for what moves. All parts of a picture are applied in their order.
import { DRAW, JPEG, MOVE, OVERLAY, PALETTE, PNG, RAW, SHAPE, VIDEO, ZSTD, jpegSize, pngSize } from "./pictures.js";

const STALE_MAX = 32, COPIED_MAX = 0.6;
const GECKO = /Gecko\/\d/.test(navigator.userAgent), MIME = { [JPEG]: "image/jpeg", [PNG]: "image/png" };
const LITTLE = new Uint8Array(Uint32Array.of(1).buffer)[0] === 1;
export const meet = (a, b) => a.x < b.x + b.w && b.x < a.x + a.w && a.y < b.y + b.h && b.y < a.y + a.h;
const within = (a, b) => a.x >= b.x && a.y >= b.y && a.x + a.w <= b.x + b.w && a.y + a.h <= b.y + b.h;
export const around = (a, b) => {
  const x = Math.min(a.x, b.x), y = Math.min(a.y, b.y);
  return { x, y, w: Math.max(a.x + a.w, b.x + b.w) - x, h: Math.max(a.y + a.h, b.y + b.h) - y };
};

/** Pixels B, G, R, and an unused byte as R, G, B, 255. */
export function opaque(bytes) {
  const into = new Uint8ClampedArray(bytes.byteLength);
  if (!LITTLE) {
    for (let k = 0; k < bytes.byteLength; k += 4) { into[k] = bytes[k + 2]; into[k + 1] = bytes[k + 1]; into[k + 2] = bytes[k]; into[k + 3] = 255; }
    return into;
  }
  const aligned = bytes.byteOffset % 4 ? bytes.slice() : bytes;
  const from = new Uint32Array(aligned.buffer, aligned.byteOffset, bytes.byteLength >> 2), to = new Uint32Array(into.buffer);
  for (let k = 0; k < from.length; k++) { const v = from[k]; to[k] = 0xff000000 | (v & 0xff00) | ((v & 0xff) << 16) | ((v >>> 16) & 0xff); }
  return into;
}

/** The pixels of a rectangle of few colours (docs/picture-protocol.md) as R, G, B, 255; null if it is damaged. */
export function coloured({ bytes, w, h }, zstd) {
  const count = bytes[0] + 1, head = 1 + 3 * count, bits = [0, 1, 2, 4, 8].find((n) => count <= 1 << n), row = Math.ceil((w * bits) / 8);
  if (bytes.byteLength < head) return null;
  const rest = bytes.subarray(head), packed = rest.byteLength === row * h ? rest : zstd?.decode(rest, row * h);
  if (!packed) return null;
  const colours = new Uint32Array(count), each = new Uint8Array(colours.buffer), into = new Uint32Array(w * h);
  for (let k = 0; k < count; k++) each.set([bytes[3 * k + 3], bytes[3 * k + 2], bytes[3 * k + 1], 255], 4 * k);
  for (let y = 0, to = 0; y < h; y++) {
    for (let x = 0; x < w; x++, to++) {
      const bit = x * bits, index = bits && (packed[y * row + (bit >> 3)] >> (8 - bits - (bit & 7))) & ((1 << bits) - 1);
      if (index >= count) return null;
      into[to] = colours[index];
    }
  }
  return new Uint8ClampedArray(into.buffer);
}

// Preparing a part is what may take long or fail: decompressing, decoding. It may run ahead of drawing while a picture waits for the sound.
// A prepared part holds pixels, a bitmap or a video frame; `release` gives them back if it is never drawn.
/** Makes parts ready to be drawn. */
export class Preparation {
  constructor(zstd, video) { Object.assign(this, { zstd, video }); }

  /** The part with what is to be drawn; null if it is damaged. `more` are the further rectangles of the picture that a video part gets. */
  async part(part, more) {
    if (part.type === RAW) return { ...part, pixels: opaque(part.bytes) };
    if (part.type === ZSTD) {
      const bytes = this.zstd?.decode(part.bytes, part.w * part.h * 4);
      return bytes ? { ...part, pixels: opaque(bytes) } : null;
    }
    if (part.type === PALETTE) {
      const pixels = coloured(part, this.zstd);
      return pixels && { ...part, pixels };
    }
    if (part.type in MIME) return this.#still(part);
    if (part.type === VIDEO) {
      const frame = await this.video.decode(part.bytes);
      return frame && { ...part, more, frames: await damaged(frame, part, [part, ...more]) };
    }
    return part;
  }

  async #still(part) {
    const size = part.type === PNG ? pngSize(part.bytes) : jpegSize(part.bytes);
    if (size?.[0] !== part.w || size[1] !== part.h) return null;
    let bitmap;
    try { bitmap = await createImageBitmap(new Blob([part.bytes], { type: MIME[part.type] }), { colorSpaceConversion: "none", premultiplyAlpha: "none" }); } catch { return null; }
    if (bitmap.width === part.w && bitmap.height === part.h) return { ...part, bitmap };
    bitmap.close();
    return null;
  }
}

/** Give back what prepared parts hold. */
export function release(parts) {
  for (const part of parts) { part.bitmap?.close(); part.frame?.close(); part.frames?.forEach(({ frame }) => frame.close()); }
}

/**
 * A picture, or copies of its damage. Chromium converts the colours of the whole picture however little of it is drawn, so small damage is
 * copied out first, in the decoder's own format; Firefox copies slowly. The whole picture is kept too: later parts may draw more of it.
 */
async function damaged(frame, { dx, dy }, rects) {
  const whole = { frame, x: dx, y: dy }, box = frame.visibleRect, area = rects.reduce((sum, { w, h }) => sum + w * h, 0);
  if (GECKO || !frame.format || !box || area > COPIED_MAX * box.width * box.height) return [whole];
  const made = [];
  try {
    for (const one of rects) made.push(await copied(whole, one, box));
    return [whole, ...made];
  } catch {
    for (const { frame: each } of made) each.close();
    return [whole];
  }
}

/** A copy of a rectangle of a picture, extended to even coordinates, since the colours have half the resolution. */
async function copied({ frame, x: dx, y: dy }, one, box) {
  const { w, h } = one, x = one.x - dx, y = one.y - dy;
  const left = x & ~1, top = y & ~1, width = Math.min(box.width, (x + w + 1) & ~1) - left, height = Math.min(box.height, (y + h + 1) & ~1) - top;
  const rect = { x: box.x + left, y: box.y + top, width, height }, data = new Uint8Array(frame.allocationSize({ rect }));
  const layout = await frame.copyTo(data, { rect });
  const { format, timestamp, colorSpace } = frame;
  return { frame: new VideoFrame(data, { format, codedWidth: width, codedHeight: height, timestamp, layout, colorSpace, transfer: [data.buffer] }), x: left + dx, y: top + dy };
}

/** The canvas, and the pixels behind it. */
export class Surface {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d", { alpha: false });
    this.width = this.height = 0; this.stale = []; this.last = null;
  }

  /** Take on a size; the content is black. */
  size(width, height) {
    this.canvas.width = this.width = width; this.canvas.height = this.height = height;
    this.pixels = new Uint8ClampedArray(width * height * 4);
    this.stale = [];
    this.#keep(null);
  }

  /** Draw one prepared part. */
  apply(part) {
    const { type } = part;
    if (type === RAW || type === ZSTD || type === PALETTE) this.#put(part, part.pixels);
    else if (type === MOVE) this.#move(part);
    else if (type === VIDEO) this.#video(part);
    else if (type === DRAW) this.#draw(part, part.from ?? this.last);
    else if (type === OVERLAY) this.#overlay(part);
    else if (type !== SHAPE) {
      this.context.drawImage(part.bitmap, part.x, part.y);
      part.bitmap.close();
      this.#outdated(part);
    }
  }

  #put({ x, y, w, h }, pixels) {
    this.context.putImageData(new ImageData(pixels, w, h), x, y);
    for (let row = 0; row < h; row++) this.pixels.set(pixels.subarray(row * w * 4, (row + 1) * w * 4), ((y + row) * this.width + x) * 4);
    this.stale = this.stale.filter((one) => !within(one, { x, y, w, h }));
  }

  /** Move pixels in memory, and put them on the canvas from there: a canvas drawn onto itself takes longer. */
  #move({ x, y, w, h, dx, dy }) {
    const from = { x: x - dx, y: y - dy, w, h }, to = { x, y, w, h };
    this.#refresh(from);
    for (let k = 0; k < h; k++) {
      const row = dy > 0 ? h - 1 - k : k, at = ((from.y + row) * this.width + from.x) * 4;
      this.pixels.copyWithin(((y + row) * this.width + x) * 4, at, at + w * 4);
    }
    this.context.putImageData(new ImageData(this.pixels, this.width, this.height), 0, 0, x, y, w, h);
    this.stale = this.stale.filter((one) => !within(one, to));
  }

  #video(part) {
    const [whole, ...copies] = part.frames;
    this.#keep(whole);
    this.#draw(part, copies[0] ?? whole);
    part.more.forEach((one, n) => { one.from = copies[n + 1] ?? whole; });
  }

  #draw(part, from) {
    if (!from) return;
    const { x, y, w, h } = part;
    this.context.drawImage(from.frame, x - from.x, y - from.y, w, h, x, y, w, h);
    if (from.frame !== this.last?.frame) from.frame.close();
    this.#outdated(part);
  }

  /** A whole frame fills its place, of which only the visible rectangles are drawn. */
  #overlay({ frame, at, visible }) {
    const { context } = this;
    context.save();
    context.beginPath();
    for (const { x, y, w, h } of visible) context.rect(x, y, w, h);
    context.clip();
    context.drawImage(frame, at.x, at.y, at.w, at.h);
    context.restore();
    frame.close();
    for (const one of visible) this.#outdated(one);
  }

  /** The newest video picture, and its place on the screen: later parts may draw more of it. */
  #keep(whole) {
    this.last?.frame.close();
    this.last = whole;
  }

  /** The pixels in memory of a rectangle are older than the canvas. */
  #outdated({ x, y, w, h }) {
    const box = { x, y, w, h };
    this.stale = [...this.stale.filter((one) => !within(one, box)), box];
    if (this.stale.length > STALE_MAX) this.stale = [this.stale.reduce(around)];
  }

  /** Read what is older in memory back from the canvas, where it is needed. */
  #refresh(needed) {
    for (const box of this.stale.filter((one) => meet(one, needed))) {
      const { data } = this.context.getImageData(box.x, box.y, box.w, box.h);
      for (let row = 0; row < box.h; row++) this.pixels.set(data.subarray(row * box.w * 4, (row + 1) * box.w * 4), ((box.y + row) * this.width + box.x) * 4);
    }
    this.stale = this.stale.filter((one) => !meet(one, needed));
  }
}
