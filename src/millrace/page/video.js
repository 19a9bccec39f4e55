// The video of a screen, decoded by WebCodecs: H.264 as in Annex B of its specification, or VP8 (RFC 6386).

const UNANSWERED_MS = 1000, PASSED_MAX = 16, SLICE = 1, IDR = 5, SPS = 7;
/** The colours of all video that the daemon encodes. Chromium would take VP8, which can't say, for BT.709. */
const COLOURS = { primaries: "bt709", transfer: "bt709", matrix: "smpte170m", fullRange: false };
/** WebCodecs' names of what this page can be sent, by the daemon's names. */
const CODECS = { avc1: "avc1.640028", vp8: "vp8" };

/** The daemon's names of the codecs that this browser decodes, best first. Browsers have a decoder only on secure pages. */
export async function codecs() {
  if (!("VideoDecoder" in globalThis)) return [];
  const able = await Promise.all(Object.values(CODECS).map((codec) => VideoDecoder.isConfigSupported({ codec }).then(({ supported }) => supported, () => false)));
  return Object.keys(CODECS).filter((_, n) => able[n]);
}

/** What an access unit is, from its first bytes: {avc, key, and of a key: codec, stream; of VP8's key also area, in pixels, and of its others hidden};
 *  null if it is neither H.264 nor VP8. Two streams with the same `stream` have pictures of the same size. */
export function unitOf(bytes) {
  if (bytes.byteLength < 4) return null;
  if (bytes[0] === 0 && bytes[1] === 0 && (bytes[2] === 1 || (bytes[2] === 0 && bytes[3] === 1))) return annexB(bytes);
  // RFC 6386, section 9.1: a frame tag, whose lowest bit is 0 in a key frame, which goes on with a start code, and bit 4 is 1 if it is shown.
  if (bytes[0] & 1) return { avc: false, key: false, codec: "", hidden: (bytes[0] & 16) === 0 };
  if (bytes.byteLength < 10 || bytes[3] !== 0x9d || bytes[4] !== 0x01 || bytes[5] !== 0x2a) return null;
  const side = (at) => bytes[at] | ((bytes[at + 1] & 0x3f) << 8);
  return { avc: false, key: true, codec: CODECS.vp8, stream: bytes.subarray(6, 10).join(), area: side(6) * side(8) };
}

/** The profile and level of H.264 come from its sequence parameter set, which precedes each key picture. */
function annexB(bytes) {
  const hex = (value) => value.toString(16).padStart(2, "0");
  let codec = "", stream = "", began = 0;
  for (let at = 2; at + 1 < bytes.byteLength; at++) {
    if (bytes[at] !== 1 || bytes[at - 1] || bytes[at - 2]) continue;
    const kind = bytes[at + 1] & 31;
    if (began) { stream = bytes.subarray(began, at).join(); began = 0; }
    if (kind === SPS) began = at + 1;
    if (kind === SPS && at + 4 < bytes.byteLength) codec = `avc1.${hex(bytes[at + 2])}${hex(bytes[at + 3])}${hex(bytes[at + 4])}`;
    else if (kind >= SLICE && kind <= IDR) return { avc: true, key: kind === IDR && codec !== "", codec, stream };
  }
  return null;
}

// One access unit goes in, one picture comes out, and the caller waits for it: pieces of a picture are applied strictly in order. What
// ends the wait is the picture with the same time stamp, a later one (then this one was not shown), an error, or UNANSWERED_MS.
//
// After an error, and after `lose`, only a key picture begins again. Chromium reports damage; Firefox, and both for VP8, decode it to
// rubbish without a word, so damage that is known otherwise (a number that is missing) must be told by `lose`.
/** Decodes access units one by one. `refused` counts the key pictures in a row that gave no picture; `avc` is whether the last was H.264. */
export class Video {
  constructor() { this.decoder = this.wanted = null; this.codec = this.stream = ""; this.stamp = this.refused = 0; this.avc = false; }

  /** The decoded picture, which the caller closes; null if there is none, and a key picture is needed. */
  async decode(bytes) {
    const unit = unitOf(bytes), ready = unit && (unit.key ? this.#begin(unit) : this.decoder !== null);
    const frame = ready ? await this.#answered(unit, bytes) : null;
    if (frame) this.refused = 0; else { this.refused += unit?.key ? 1 : 0; this.lose(); }
    return frame;
  }

  /** Decode one that is `hidden`: only later ones need it, and nothing is waited for. Returns whether it can be. */
  pass(bytes) {
    if (!this.decoder || this.decoder.decodeQueueSize >= PASSED_MAX) { this.lose(); return false; }
    this.#put("delta", ++this.stamp * 1000, bytes);
    return true;
  }

  async #answered(unit, data) {
    const timestamp = ++this.stamp * 1000, coming = new Promise((resolve) => { this.wanted = { timestamp, resolve }; });
    const timer = setTimeout(() => this.#answer(null), UNANSWERED_MS);
    this.#put(unit.key ? "key" : "delta", timestamp, data);
    const frame = await coming;
    clearTimeout(timer);
    return frame;
  }

  #put(type, timestamp, data) {
    try { this.decoder.decode(new EncodedVideoChunk({ type, timestamp, data })); } catch { this.#answer(null); }
  }

  /** The picture before is damaged or missing: nothing is decoded until a key picture. */
  lose() {
    if (this.decoder && this.decoder.state !== "closed") this.decoder.close();
    this.decoder = null; this.codec = "";
    this.#answer(null);
  }

  /** A decoder for the stream, a new one if it was another. Returns whether there is one. */
  #begin({ codec, avc, stream }) {
    this.avc = avc;
    if (this.decoder?.state === "configured" && this.codec === codec && this.stream === stream) return true;
    this.lose();
    const made = new VideoDecoder({ output: (frame) => this.#output(made, frame), error: () => { if (this.decoder === made) { this.decoder = null; this.#answer(null); } } });
    try { made.configure({ codec, optimizeForLatency: true, colorSpace: COLOURS }); } catch { return false; }
    this.decoder = made; this.codec = codec; this.stream = stream;
    return true;
  }

  #output(made, frame) {
    const wanted = this.wanted;
    if (made !== this.decoder || !wanted || frame.timestamp < wanted.timestamp) { frame.close(); return; }
    if (frame.timestamp > wanted.timestamp) { frame.close(); this.#answer(null); return; }
    this.#answer(frame);
  }

  #answer(frame) {
    this.wanted?.resolve(frame);
    this.wanted = null;
  }
}
