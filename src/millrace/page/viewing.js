// The connection that carries a guest's screen, in a Worker of its own, so that a busy page delays no picture. It speaks the screen
// protocol (docs/picture-protocol.md), decodes, and draws on the page's canvas, which is handed to it.
import { Ages } from "./ages.js";
import { Clips, isClip, packClip } from "./clips.js";
import { NS_PER_MS, NS_PER_S } from "./clock.js";
import { Allowance, Refusal, plain } from "./messages.js";
import { Overlays } from "./overlays.js";
import { Pacing } from "./pacing.js";
import { DRAW, FRAME, MOVE, OVERLAYS, SHAPE, VIDEO, isPiece, parsePiece, parseScreenMessage, partFits } from "./pictures.js";
import { png, shrunk } from "./png.js";
import { Preparation, Surface, release } from "./surface.js";
import { Video, codecs } from "./video.js";
import { Zstd } from "./zstd.js";

const PING_MS = 2000, FIRST_PINGS = 5, STATS_MS = 500, TICKS = 4, PULSE_MS = 4, AGAIN_MS = [100, 200, 400, 500], VERSION = 1, SUBPROTOCOL = "millrace-screen.1";
const REFRESH_MS = 1000, AHEAD = 4, WAITING_MAX = 64 * 2 ** 20, REFUSED_MAX = 5, LINE_MAX = 65536, NEWS_AHEAD = 4000, NEWS_PER_NS = 500 / 1e9, TAKEN = 5 * NS_PER_MS;
// What a piece and each of its parts take besides their bytes: those of a hostile server may have none.
const PIECE_MEMORY = 1024, PART_MEMORY = 400;
/** How many times its own pixels a picture may copy by parts that have no bytes: 1,024 copies of a large one take minutes. */
const COPIED_MAX = 64;
/** Browsers show no larger picture as their pointer. */
const CURSOR_MAX = 128;
const GECKO = /Gecko\/\d/.test(navigator.userAgent);
let origin = 0;
const nowNs = () => (performance.now() + performance.timeOrigin - origin) * 1e6;
const on = (what, detail) => postMessage({ what, detail });

// A picture goes three ways, strictly in the order of the serials: `arrived` holds those that are complete, `ready` those that are decoded
// and wait for their time, and then it is drawn. Decoding is asynchronous but one picture at a time, since each changes what the one before
// has left; it runs at most AHEAD pictures ahead of drawing, because decoders have few pictures to lend. Nothing is left out: what is late is
// applied together with the newest.
//
// Damage is told once a second until a picture that needs nothing before it has come. In the meantime pictures are drawn as well as they
// can be. The last picture stays on the canvas, whatever happens to the connection; a mode takes effect with its first picture.
class View {
  constructor({ canvas, gecko = GECKO }) {
    this.surface = new Surface(canvas); this.video = new Video(); this.pacing = new Pacing(gecko); this.overlaid = ["vp8"];
    this.socket = this.wish = this.drawn = null; this.tries = 0;
    this.begin();
  }

  // -- the connection ---------------------------------------------------------------------------

  /** Watch a guest, or another one: `url`, `protocols`, and the message `watch` without what this worker can decode. */
  async watch({ url, protocols, watch }) {
    this.stop();
    const wish = this.wish = { url, protocols: [SUBPROTOCOL, ...protocols], watch };
    this.able ??= Promise.all([codecs(), Zstd.load()]);
    const [able, zstd] = await this.able;
    if (this.wish !== wish) return;
    this.codecs ??= able;
    this.preparation = new Preparation(zstd, this.video);
    this.formats = ["raw", ...(zstd ? ["zstd", "palette"] : []), "jpeg", "png"];
    this.tries = 0;
    this.connect();
  }

  /** What belongs to one connection. */
  begin() {
    release(this.ready?.flatMap((picture) => picture.prepared) ?? []);
    this.arrived = []; this.ready = []; this.waiting = 0; this.parts = null; this.mode = null; this.serial = 0; this.whole = true;
    this.damage = null; this.since = 0; this.gap = false; this.asked = -Infinity; this.told = null; this.epoch = {};
    this.ages = new Ages(); this.clips = new Clips();
    this.news = new Allowance(NEWS_AHEAD, NEWS_PER_NS);
    this.video.lose();
    this.overlays?.close();
    this.overlays = new Overlays();
    this.parting = ""; this.ticks = [];
    this.counts = { bytes: 0, since: nowNs() };
  }

  connect() {
    const { url, protocols, watch } = this.wish, socket = this.socket = new WebSocket(url, protocols);
    let opened = false;
    this.begin();
    socket.binaryType = "arraybuffer";
    socket.onopen = () => {
      opened = true;
      this.send({ type: "watch", version: VERSION, ...watch, codecs: this.codecs, formats: this.formats, overlays: this.overlaid.filter((one) => this.codecs.includes(one)) });
      for (let n = 0; n < FIRST_PINGS; n++) setTimeout(() => this.ping(), n * 50);
    };
    socket.onmessage = ({ data }) => { if (socket === this.socket) this.heard(data); };
    socket.onclose = () => { if (socket === this.socket) this.broken(opened); };
  }

  broken(opened) {
    const wait = this.tries < AGAIN_MS.length ? AGAIN_MS[this.tries] : this.tries > 120 ? 5000 : 500;
    this.tries++;
    const why = this.parting;
    this.begin();
    this.socket = null;
    on("lost", { opened, why });
    this.again = setTimeout(() => { if (this.wish) this.connect(); }, wait * (0.8 + 0.4 * Math.random()));
  }

  /** End the connection; the last picture stays. */
  stop() {
    clearTimeout(this.again);
    this.send({ type: "bye", reason: "stopped", again: false });
    const socket = this.socket;
    this.socket = this.wish = null;
    socket?.close();
    this.begin();
  }

  send(message) { if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(message)); }

  /** Send what a later message replaces, unless the line is backed up. */
  offer({ message }) { if ((this.socket?.bufferedAmount ?? 0) < LINE_MAX) this.send(message); }

  /** Send what the user did, or wants. What was painted while the page was hidden, or wanted none, is old when it comes. */
  say({ message }) {
    if (message.type === "hidden" || message.type === "set") this.ages.anew();
    this.send(message);
  }

  ping() { this.send({ type: "ping", t: Math.round(nowNs()) }); }

  /** A message that is not understood ends the connection for good: after reconnecting the server would send it again. */
  heard(data) {
    try {
      if (typeof data === "string") this.control(parseScreenMessage(data)); else if (isClip(data)) this.clip(data); else if (isPiece(data)) this.piece(parsePiece(data));
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      this.end(error.message);
    }
  }

  end(why) { this.stop(); on("ended", why); }

  control(message) {
    const now = nowNs();
    if (message.type === "ping") this.offer({ message: { type: "pong", t: message.t, now: Math.round(now) } });
    else if (message.type === "pong") this.ages.pong(message.t, message.now, now);
    else if (!this.news.take(1, now)) throw new Refusal("The server floods this page with messages.");
    else if (message.type === "mode") this.turn(message);
    else if (message.type === "watching") { this.tries = 0; on("watching", message); }
    else if (message.type === "error" && message.fatal === true) this.end(plain(message.message));
    else if (message.type === "error") on("refused", { why: plain(message.message), right: message.right });
    else if (message.type === "bye") { this.parting = plain(message.reason); if (message.again === false) this.end(this.parting); }
    else on(message.type, message);
  }

  // -- the clipboard ----------------------------------------------------------------------------

  clip(data) {
    const clip = this.clips.take(data);
    if (clip) on("clip", clip.refused ? { ...clip, text: plain(clip.text) } : clip);
  }
  /** Ask for the guest's text of that number. */
  paste({ number }) { this.clips.ask(number); this.send({ type: "paste", number }); }
  /** Give the guest the text that it asked for; null: it is not to be had. */
  text({ number, text }) { if (this.socket?.readyState === WebSocket.OPEN) for (const message of packClip(number, text)) this.socket.send(message); }

  // -- pictures ---------------------------------------------------------------------------------

  /** The pictures that follow have another size; one that was not sent to its end never will be. The same generation again: only the pointer's kind has changed. */
  turn(mode) {
    if (mode.generation === this.mode?.generation) { on("mode", mode); return; }
    this.mode = mode;
    this.ages.anew();
    this.drop();
    this.whole = true;
    on("mode", mode);
  }

  /** Forget the pieces of a picture that is not complete. */
  drop() {
    this.gap ||= this.parts !== null;
    this.waiting -= this.parts?.size ?? 0;
    this.parts = null;
  }

  piece(piece) {
    if (!piece) { this.gap = true; this.damaged("damaged", this.serial + 1); return; }
    if (!piece.serial) { this.shapes(piece.parts); return; }
    if (piece.serial !== (this.whole ? this.serial + 1 : this.serial)) { this.drop(); this.gap = true; this.damaged("missing", piece.serial); }
    const { serial, painted, key, last, parts, size } = piece, memory = size + PIECE_MEMORY + PART_MEMORY * parts.length, mode = this.mode && piece.generation === (this.mode.generation & 0xffff) ? this.mode : null;
    this.parts ??= { serial, painted, key, mode, parts: [], size: 0, copied: 0, gap: this.gap };
    for (const { type, w, h } of parts) if (type === MOVE || type === DRAW) this.parts.copied += w * h;
    if (this.mode && this.parts.copied > COPIED_MAX * this.mode.width * this.mode.height) throw new Refusal("The server sends pictures that take too long to draw.");
    this.gap = false; this.serial = serial; this.whole = last;
    this.parts.parts.push(...parts); this.parts.size += memory; this.parts.key &&= key;
    this.waiting += memory; this.counts.bytes += size;
    if (this.waiting > WAITING_MAX) throw new Refusal("The server sends pictures faster than this page can show them.");
    if (!last) return;
    this.arrived.push(this.parts);
    this.parts = null;
    // While it waits for the sound the daemon may send more.
    const now = nowNs();
    this.arrived.at(-1).came = now;
    if (this.pacing.due(painted, now) > now + TAKEN) this.send({ type: "taken", serial, queue: this.arrived.length + this.ready.length });
    this.pump();
  }

  /** Something is missing or wrong: ask for a key picture, once a second until there is one, numbered `since` or later. */
  damaged(why, since = 0) {
    this.damage = why;
    this.since = Math.max(this.since, since);
    const now = performance.now();
    if (now - this.asked < REFRESH_MS) return;
    this.asked = now;
    this.send({ type: "refresh", why });
  }

  /** Decode what has arrived, and draw what is due. */
  async pump() {
    if (this.pumping) return;
    this.pumping = true;
    while (this.arrived.length && this.ready.length < AHEAD) {
      const picture = this.arrived.shift(), { epoch } = this;
      await this.prepare(picture);
      if (this.epoch !== epoch) { release(picture.prepared); continue; }
      picture.decoded = nowNs();
      this.ready.push(picture);
      this.draw();
    }
    this.pumping = false;
    this.draw();
  }

  async prepare(picture) {
    const { parts, mode, prepared = picture.prepared = [] } = picture, { epoch, overlays } = this;
    if (picture.gap) this.video.lose();
    if (picture.gap || !mode) overlays.lose();
    if (!mode) return;
    overlays.begin(mode);
    for (const [n, part] of parts.entries()) {
      if (part.type === SHAPE) { this.shapes([part]); continue; }
      const made = part.type === FRAME || part.type === OVERLAYS ? await this.overlay(part, mode) : await this.part(part, mode, parts, n);
      if (made) { prepared.push(...made); made.forEach((one) => overlays.touch(one)); }
      if (this.epoch !== epoch) return;
      if (!made) { picture.key = false; this.damaged({ [VIDEO]: "decoder", [FRAME]: "overlay" }[part.type] ?? "damaged"); }
    }
    prepared.push(...overlays.parts());
    if (picture.key && picture.serial >= this.since) this.damage = null;
    if (this.video.refused >= REFUSED_MAX) this.without();
    if (overlays.refused >= REFUSED_MAX) { this.overlaid = []; this.socket?.close(); }
  }

  /** What to draw for a part: a list of prepared parts; null if it is damaged. */
  async part(part, mode, parts, n) {
    const more = part.type === VIDEO ? following(parts, n) : [];
    const fits = partFits(part, mode) && more.every((one) => partFits(one, mode));
    const made = fits ? await this.preparation.part(part, more).catch(() => null) : null;
    return made && [made];
  }

  /** A part that says something of overlays: these are drawn after all others. */
  async overlay(part, mode) {
    if (part.type === FRAME) return await this.overlays.frame(part) ? [] : null;
    if (!partFits(part, mode)) return null;
    this.overlays.place(part);
    return [];
  }

  /** This browser says that it decodes the codec, and does not: go on without it. */
  without() {
    const { avc } = this.video;
    this.video.refused = 0;
    this.codecs = this.codecs.filter((one) => (one === "avc1") !== avc);
    this.socket?.close();
  }

  /** Draw, in order, all pictures whose time has come. */
  draw() {
    const now = nowNs();
    let due = 0, next = Infinity;
    for (const [n, picture] of this.ready.entries()) {
      const at = this.pacing.due(picture.painted, now);
      if (at <= now) due = n + 1;
      else next = Math.min(next, at);
    }
    for (const picture of this.ready.splice(0, due)) this.show(picture);
    clearTimeout(this.timer);
    if (this.ready.length) this.timer = setTimeout(() => this.draw(), Math.max(0, Math.min(PULSE_MS, (next - now) / NS_PER_MS)));
    if (due && this.arrived.length) this.pump();
  }

  show(picture) {
    const { mode, painted, serial, came, decoded } = picture, before = nowNs();
    if (mode && mode !== this.drawn) { this.drawn = mode; this.surface.size(mode.width, mode.height); }
    try { for (const part of picture.prepared) this.surface.apply(part); } catch { this.damaged("drawing"); }
    const now = nowNs(), remote = (at) => this.ages.remote(at, now), drawn = remote(now), skew = this.pacing.skew(painted, now + this.pacing.compose), queue = this.arrived.length + this.ready.length;
    if (picture.prepared.length) this.pacing.drew(now - before);
    this.waiting -= picture.size;
    this.send({ type: "shown", serial, decoded_ns: remote(decoded), drawn_ns: drawn, skew_ns: skew === null ? null : Math.round(skew), queue,
      arrived_ns: remote(came), drawing_ns: remote(before) });
    this.ages.drawn(painted, drawn, skew);
    if (mode && mode === this.mode && this.told !== mode) { this.told = mode; on("drawn", { serial, width: mode.width, height: mode.height }); }
  }

  /** Cursors: they become pictures for CSS. */
  shapes(parts) {
    for (const { type, x, y, w, h, dx, bytes } of parts) {
      if (type !== SHAPE || w * h * 4 !== bytes.byteLength || !w || !h || w > 512 || h > 512) continue;
      const pixels = new Uint8ClampedArray(bytes.byteLength);
      for (let k = 0; k < bytes.byteLength; k += 4) { pixels[k] = bytes[k + 2]; pixels[k + 1] = bytes[k + 1]; pixels[k + 2] = bytes[k]; pixels[k + 3] = bytes[k + 3]; }
      const scale = Math.min(1, CURSOR_MAX / Math.max(w, h)), address = (...picture) => new FileReaderSync().readAsDataURL(png(...picture));
      const url = address(w, h, pixels), small = scale < 1 ? address(...shrunk(w, h, pixels, scale)) : undefined;
      on("shape", { number: dx & 0xffff, url, small, scale, width: w, height: h, x, y });
    }
  }

  // -- what the page tells ----------------------------------------------------------------------

  /** Where the sound is: as in Pacing. */
  sound({ delay, first }) { this.pacing.sound(delay, nowNs(), first); }

  tick() {
    if (!this.socket) return;
    const { counts } = this, now = nowNs(), { pictures, latency, skew } = this.ages.take(), sum = (name) => this.ticks.reduce((all, one) => all + one[name], 0);
    this.ticks = [...this.ticks.slice(1 - TICKS), { pictures, bytes: counts.bytes, ns: now - counts.since }];
    const seconds = sum("ns") / NS_PER_S;
    on("stats", { fps: sum("pictures") / seconds, rate: sum("bytes") * 8 / seconds, latency, skew, rtt: this.ages.clock.rtt, codec: this.video.codec });
    Object.assign(counts, { bytes: 0, since: now });
    if (this.damage) this.damaged(this.damage);
  }
}

/** The parts that draw more of the video part at `n`. */
function following(parts, n) {
  const more = [];
  for (const part of parts.slice(n + 1)) {
    if (part.type === VIDEO) break;
    if (part.type === DRAW) more.push(part);
  }
  return more;
}

let view = null;
onmessage = ({ data }) => {
  if (data.what !== "begin") { view?.[data.what](data); return; }
  origin = data.origin;
  view = new View(data);
  setInterval(() => view.ping(), PING_MS);
  setInterval(() => view.tick(), STATS_MS);
};
