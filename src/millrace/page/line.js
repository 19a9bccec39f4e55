// The line to the daemon, in a Worker: what a busy page does must not make packets look late. It speaks the same protocol as the
// command line's listener (docs/peer-protocol.md), decodes, and hands sound to the worklet by a port of their own.
import { NS_PER_S, OffsetFilter } from "./clock.js";

const HEADER_BYTES = 24, MEDIA = 1, MEDIA_FOLLOWS = 2, PING_MS = 2000, REPORT_MS = 500, AGAIN_MS = [100, 200, 400, 500];
let origin = 0;
const nowNs = () => (performance.now() + performance.timeOrigin - origin) * 1e6;

/** What this browser can play: Opus where it has WebCodecs, else the daemon sends PCM. */
async function codecs() {
  if (!("AudioDecoder" in globalThis)) return ["s16", "f32"];
  const { supported } = await AudioDecoder.isConfigSupported({ codec: "opus", sampleRate: 48000, numberOfChannels: 2 });
  return supported ? ["opus", "s16", "f32"] : ["s16", "f32"];
}

class Line {
  constructor({ url, hello, port, voice }) {
    Object.assign(this, { url, hello, port });
    if (voice) this.voice = new Voice(voice, (message) => this.send(message), (packet) => this.packet(packet));
    this.clock = new OffsetFilter();
    this.tries = 0; this.bytes = 0; this.welcome = null; this.first = null; this.stats = null; this.device = 0;
    port.onmessage = ({ data }) => this.told(data);
  }

  async begin() {
    this.hello.codecs = await codecs();
    setInterval(() => this.send({ type: "ping", t: Math.round(nowNs()) }), PING_MS);
    setInterval(() => this.report(), REPORT_MS);
    this.connect();
  }

  connect() {
    const line = this.line = new WebSocket(this.url);
    line.binaryType = "arraybuffer";
    line.onopen = () => { this.send(this.hello); this.send({ type: "ping", t: Math.round(nowNs()) }); };
    line.onmessage = ({ data }) => (typeof data === "string" ? this.control(JSON.parse(data)) : this.media(data));
    line.onclose = () => this.lost();
  }

  lost() {
    this.voice?.speak(false);
    this.port.postMessage({ what: "silence" });
    const wait = this.tries < AGAIN_MS.length ? AGAIN_MS[this.tries] : this.tries > 120 ? 5000 : 500;
    if (!this.tries++) on("lost", "The connection broke off; trying again.");
    setTimeout(() => this.connect(), wait * (0.8 + 0.4 * Math.random()));
  }

  send(message) {
    if (this.line?.readyState === WebSocket.OPEN) this.line.send(JSON.stringify(message));
  }

  /** A line that is full loses packets of the microphone, and the daemon conceals them. */
  packet(made) {
    if (this.line?.readyState === WebSocket.OPEN && this.line.bufferedAmount < 65536) this.line.send(made);
  }

  /** Change quality while it plays. */
  set({ settings }) {
    Object.assign(this.hello.settings, settings);
    this.send({ type: "set", settings });
  }

  stop() {
    this.send({ type: "bye", reason: "stopped", again: false });
    this.line.onclose = null;
    this.line.close();
    close();
  }

  control(message) {
    const now = nowNs();
    if (message.type === "ping") this.send({ type: "pong", t: message.t, now: Math.round(now) });
    else if (message.type === "pong") this.clock.add(message.t, message.now, now);
    else if (message.type === "welcome") {
      if (this.welcome) { this.clock = new OffsetFilter(); this.port.postMessage({ what: "rejoined" }); }
      this.tries = 0; this.welcome = message;
      on("joined", message);
    } else if (message.type === "format") this.format(message.format);
    else if (message.type === "microphone") {
      this.voice?.speak(message.allowed && message.wanted);
      on("microphone", !message.allowed ? "forbidden" : message.wanted ? "on" : "ready");
    } else if (message.type === "settings") on("settings", message.settings);
    else if (message.type === "silence") this.flushed(() => this.port.postMessage({ what: "silence" }));
    else if (message.type === "error") on("refused", message.message);
    else if (message.type === "bye" && !message.again) { on("ended", message.reason); this.stop(); }
  }

  format(format) {
    this.current = format;
    this.waiting = [];
    this.expected = null;
    if (this.decoder && this.decoder.state !== "closed") this.decoder.close();
    this.decoder = null;
    const channels = format.positions.length, codec = format.lookahead * NS_PER_S / format.rate;
    this.port.postMessage({ what: "format", rate: format.rate, channels, codec });
    if (format.codec === "opus") {
      this.decoder = new AudioDecoder({ output: (data) => this.decoded(data), error: (error) => on("refused", String(error)) });
      this.decoder.configure({ codec: "opus", sampleRate: format.rate, numberOfChannels: channels });
    }
  }

  media(buffer) {
    const now = nowNs(), view = new DataView(buffer), kind = view.getUint8(0), format = this.current;
    if (buffer.byteLength < HEADER_BYTES || (kind !== MEDIA && kind !== MEDIA_FOLLOWS) || !format) return;
    if (view.getUint8(1) !== (format.generation & 255)) return;
    const frames = view.getUint16(2, true), position = Number(view.getBigUint64(8, true)), hostNs = Number(view.getBigUint64(16, true));
    const length = frames * NS_PER_S / format.rate;
    this.port.postMessage({ what: "arrived", media: hostNs, length, now, follows: kind === MEDIA_FOLLOWS });
    const media = hostNs - format.lookahead * NS_PER_S / format.rate, payload = new Uint8Array(buffer, HEADER_BYTES);
    this.bytes += buffer.byteLength;
    if (!this.decoder) { this.block(media, pcm(format, payload)); return; }
    this.waiting.push(media);
    this.decoder.decode(new EncodedAudioChunk({ type: "key", timestamp: position * 1e6 / format.rate, data: payload }));
  }

  decoded(data) {
    const planes = Array.from({ length: data.numberOfChannels }, (_, planeIndex) => {
      const plane = new Float32Array(data.numberOfFrames);
      data.copyTo(plane, { planeIndex, format: "f32-planar" });
      return plane;
    });
    data.close();
    const media = this.waiting.shift();
    if (media !== undefined) this.block(media, planes);
  }

  block(media, planes) {
    this.first ??= nowNs();
    this.port.postMessage({ what: "block", media, planes }, planes.map((plane) => plane.buffer));
  }

  /** After what is being decoded. */
  flushed(then) {
    if (this.decoder?.state === "configured") this.decoder.flush().then(then, () => {});
    else then();
  }

  /** The worklet tells how it fares. */
  told(stats) {
    const offset = this.clock.offset(nowNs(), stats.mediaRate), device = Math.max(0, stats.lag);
    const latency = offset === null || stats.age === null ? null : stats.age + offset + device;
    this.stats = { ...stats, device, latency, offset, rtt: this.clock.rtt, bytes: this.bytes, first: this.first };
    on("stats", this.stats);
  }

  report() {
    const s = this.stats;
    if (!s || !this.welcome) return;
    const whole = (value) => Math.max(0, Math.round(value || 0)), network = (s.rtt ?? 0) / 2;
    this.send({
      type: "report", latency_ns: whole(s.latency), fill_ns: whole(s.fill), underruns: s.underruns, lost: 0,
      skipped: Math.round(s.skipped + s.cut + s.overrun), output: "browser", target_ns: whole(s.margin), drift_ppm: s.ppm,
      locked: s.locked, bridged: s.carried - s.underruns,
      ledger: s.latency === null ? {} : {
        path: Math.round(s.path + s.offset), network: whole(network), codec: whole(s.codec), jitter: whole(s.jitter),
        period: whole(s.pull), late: Math.round(s.late), device: whole(s.device),
      },
    });
  }
}

const VOICE_FRAMES = 480, LOOKAHEAD = 312;

/** The microphone: blocks of 10 ms from its worklet, Opus on the line, and nothing unless somebody records. */
class Voice {
  constructor(port, send, packet) {
    Object.assign(this, { send, packet });
    this.generation = 0; this.encoder = null;
    port.onmessage = ({ data }) => this.feed(data);
  }
  speak(wanted) {
    if (wanted === Boolean(this.encoder)) return;
    if (!wanted) {
      this.encoder.close();
      this.encoder = null;
      this.send({ type: "silence", position: this.position });
      return;
    }
    this.generation++;
    this.position = this.sequence = 0;
    this.began = nowNs();
    const format = { generation: this.generation, codec: "opus", rate: 48000, positions: ["mono"], lookahead: LOOKAHEAD, streams: 1, coupled: 0, mapping: [0], order: [] };
    this.send({ type: "format", format });
    this.encoder = new AudioEncoder({ output: (chunk) => this.encoded(chunk), error: (error) => on("refused", String(error)) });
    this.encoder.configure({ codec: "opus", sampleRate: 48000, numberOfChannels: 1, bitrate: 64000, opus: { frameDuration: 10000 } });
    this.fed = 0;
  }
  feed(block) {
    if (!this.encoder) return;
    const timestamp = this.fed * 1e6 / 48000, options = { format: "f32", sampleRate: 48000, numberOfFrames: block.length, numberOfChannels: 1, timestamp, data: block };
    this.fed += block.length;
    const data = new AudioData(options);
    this.encoder.encode(data);
    data.close();
  }
  encoded(chunk) {
    const made = new ArrayBuffer(HEADER_BYTES + chunk.byteLength), view = new DataView(made);
    view.setUint8(0, MEDIA); view.setUint8(1, this.generation & 255); view.setUint16(2, VOICE_FRAMES, true);
    view.setUint32(4, this.sequence++, true); view.setBigUint64(8, BigInt(this.position), true);
    view.setBigUint64(16, BigInt(Math.round(this.began + this.position * NS_PER_S / 48000)), true);
    chunk.copyTo(new Uint8Array(made, HEADER_BYTES));
    this.position += VOICE_FRAMES;
    this.packet(made);
  }
}

/** Interleaved PCM to planes. */
function pcm(format, payload) {
  const channels = format.positions.length, view = new DataView(payload.buffer, payload.byteOffset, payload.byteLength);
  const [bytes, read] = {
    s16: [2, (at) => view.getInt16(at, true) / 32768], f32: [4, (at) => view.getFloat32(at, true)],
  }[format.codec];
  const frames = Math.floor(payload.byteLength / (bytes * channels));
  return Array.from({ length: channels }, (_, c) => Float32Array.from({ length: frames }, (_, k) => read((k * channels + c) * bytes)));
}

const on = (what, detail) => postMessage({ what, detail });
let line = null;
onmessage = ({ data }) => {
  if (data.what === "begin") { origin = data.origin; line = new Line(data); line.begin(); } else line?.[data.what](data);
};
