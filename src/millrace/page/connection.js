// The connection to the daemon, in a Worker, so that a busy page does not make packets look late. It speaks the same protocol as the
// command-line listener (docs/peer-protocol.md), decodes, and sends sound to the worklet over a separate port.
import { Blame } from "./blame.js";
import { DaemonClock, NS_PER_MS, NS_PER_S } from "./clock.js";
import { Allowance, HEADER_BYTES, MEDIA, Refusal, checkedFormat, formatAllowance, newsAllowance, parseMessage, parsePacket, plain } from "./messages.js";

const PING_MS = 2000, REPORT_MS = 500, AGAIN_MS = [100, 200, 400, 500];
const DAMAGED_MS = 20, PULSE_MS = 50, UNSURE = NS_PER_S, STALL = 250 * NS_PER_MS, STATS = 250 * NS_PER_MS;
let origin = 0;
const nowNs = () => (performance.now() + performance.timeOrigin - origin) * 1e6;

/** Whether this browser can decode Opus (WebCodecs). */
async function hasOpus() {
  if (!("AudioDecoder" in globalThis)) return false;
  return (await AudioDecoder.isConfigSupported({ codec: "opus", sampleRate: 48000, numberOfChannels: 2 })).supported;
}

/** Loads libopus in WebAssembly for browsers that can't decode Opus. Returns whether that worked. */
async function loadedOpus() {
  if (!("WebAssembly" in globalThis)) return false;
  try { await import("./opus-decoder.min.js"); } catch { return false; }
  return "opus-decoder" in globalThis;
}

/** A WebCodecs decoder, or a WebAssembly one with the same methods. It calls `put` with decoded planes and `damaged` when it fails. */
async function opusDecoder(format, own, put, damaged) {
  const channels = format.positions.length;
  if (own) {
    const made = new AudioDecoder({ output: (data) => put(planesOf(data)), error: damaged });
    made.configure({ codec: "opus", sampleRate: format.rate, numberOfChannels: channels });
    return {
      decode: (payload, position) => made.decode(new EncodedAudioChunk({ type: "key", timestamp: position * 1e6 / format.rate, data: payload })),
      flush: () => made.flush(), close: () => { if (made.state !== "closed") made.close(); },
    };
  }
  const made = new globalThis["opus-decoder"].OpusDecoder({
    channels, streamCount: format.streams, coupledStreamCount: format.coupled, preSkip: 0, sampleRate: format.rate,
    channelMappingTable: format.mapping.length ? format.mapping : channels > 1 ? [0, 1] : [0],
  });
  await made.ready;
  return { decode: (payload) => put(made.decodeFrame(payload).channelData), flush: async () => {}, close: () => made.free() };
}

function planesOf(data) {
  const planes = Array.from({ length: data.numberOfChannels }, (_, planeIndex) => {
    const plane = new Float32Array(data.numberOfFrames);
    data.copyTo(plane, { planeIndex, format: "f32-planar" });
    return plane;
  });
  data.close();
  return planes;
}

// Ordering. Control messages and packets arrive in order; decoding may be asynchronous (WebCodecs). `waiting` holds the media times of
// the packets that are being decoded, and each output takes the first one, as decoders keep the order; it is emptied whenever the decoder
// is replaced. A silence must not overtake sound that is still being decoded: it is passed on only after a flush. What matters for the
// clock is when a packet arrives, so `arrived` is sent before decoding, not after.
//
// The connection may break and come back by itself at any time. The worklet keeps playing what it has, and keeps the sound card's clock;
// only the daemon's clock is measured anew (`rejoined`), since it may be another machine's now. `stop`, a Bye for good, and a message
// that is not understood are the only ends.
class Connection {
  constructor({ url, protocols, hello, port, voice, wasm }) {
    Object.assign(this, { url, protocols, hello, port, wasm });
    this.blame = new Blame(PULSE_MS * NS_PER_MS); this.holes = []; this.lost = this.unclaimed = 0;
    if (voice) this.voice = new Voice(voice, (message) => this.send(message), (packet) => this.packet(packet));
    this.clock = new DaemonClock();
    this.allowance = new Allowance(); this.formats = formatAllowance(); this.news = newsAllowance();
    this.tries = 0; this.bytes = 0; this.welcome = null; this.first = null; this.stats = null; this.device = 0;
    port.onmessage = ({ data }) => this.told(data);
  }

  async begin() {
    this.own = !this.wasm && await hasOpus();
    this.hello.codecs = [...(this.own || await loadedOpus() ? ["opus"] : []), "s16", "f32"];
    setInterval(() => this.pulse(), PULSE_MS);
    setInterval(() => this.send({ type: "ping", t: Math.round(nowNs()) }), PING_MS);
    setInterval(() => this.report(), REPORT_MS);
    this.connect();
  }

  connect() {
    const socket = this.socket = new WebSocket(this.url, this.protocols);
    socket.binaryType = "arraybuffer";
    let opened = false;
    socket.onopen = () => { opened = true; this.send(this.hello); this.send({ type: "ping", t: Math.round(nowNs()) }); };
    socket.onmessage = ({ data }) => this.heard(data);
    socket.onclose = () => this.broken(opened);
  }

  // The random factor keeps the listeners of a daemon that restarts from all returning at the same moment.
  broken(opened) {
    if (!opened) on("shut");
    this.voice?.speak(false);
    this.blame.silence();
    this.port.postMessage({ what: "silence" });
    const wait = this.tries < AGAIN_MS.length ? AGAIN_MS[this.tries] : this.tries > 120 ? 5000 : 500;
    if (!this.tries++) on("lost", "The connection was lost; retrying.");
    setTimeout(() => this.connect(), wait * (0.8 + 0.4 * Math.random()));
  }

  send(message) {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(message));
  }

  /** Answer a ping, unless the server sends pings but does not read the answers. */
  answer(message) {
    if (this.socket?.readyState === WebSocket.OPEN && this.socket.bufferedAmount < 65536) this.send(message);
  }

  /** Send a microphone packet, or drop it if the socket is backed up; the daemon conceals the loss. */
  packet(made) {
    if (this.socket?.readyState === WebSocket.OPEN && this.socket.bufferedAmount < 65536) this.socket.send(made);
  }

  /** Change quality while it plays. */
  set({ settings }) {
    const { latency, ...rest } = settings;
    Object.assign(this.hello.settings, rest);
    this.send({ type: "set", settings });
  }

  stop() {
    this.send({ type: "bye", reason: "stopped", again: false });
    // It may be stopped before it knows what it can decode, and has a socket.
    if (this.socket) this.socket.onclose = null;
    this.socket?.close();
    close();
  }

  /** A message that is not understood ends the connection for good: after reconnecting the server would send it again. */
  heard(data) {
    try {
      if (typeof data === "string") this.control(parseMessage(data)); else this.media(data);
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      on("ended", error.message);
      this.stop();
    }
  }

  control(message) {
    const now = nowNs();
    if (message.type === "ping") this.answer({ type: "pong", t: message.t, now: Math.round(now) });
    else if (message.type === "pong") this.clock.add(message.t, message.now, now);
    else if (!this.news.take(1, now)) throw new Refusal("The server floods this page with messages.");
    else if (message.type === "welcome") {
      if (this.welcome) { this.clock = new DaemonClock(); this.port.postMessage({ what: "rejoined" }); }
      this.tries = 0; this.welcome = message;
      on("joined", message);
    } else if (message.type === "format") this.format(message.format, now);
    else if (message.type === "microphone") {
      this.voice?.speak(message.allowed && message.wanted);
      on("microphone", !message.allowed ? "forbidden" : message.wanted ? "on" : "ready");
    } else if (message.type === "settings") {
      const { latency } = message.settings;
      if (latency && latency !== this.hello.latency) { this.hello.latency = latency; this.port.postMessage({ what: "profile", name: latency }); }
      on("settings", message.settings);
    } else if (message.type === "silence") { this.blame.silence(); this.flushed(() => this.port.postMessage({ what: "silence" })); }
    else if (message.type === "error") on("refused", plain(message.message));
    else if (message.type === "bye" && message.again === false) { on("ended", plain(message.reason)); this.stop(); }
  }

  // Everything that belongs to the old format goes before the worklet gets the new one: the decoder, the packets in it, and the expected
  // next number.
  format(given, now) {
    if (!this.formats.take(1, now)) throw new Refusal("The server changes the format of its sound too often.");
    const format = this.current = checkedFormat(given);
    this.waiting = [];
    this.blame.silence();
    this.decoder?.close();
    this.decoder = null;
    const channels = format.positions.length, codec = format.lookahead * NS_PER_S / format.rate;
    this.port.postMessage({ what: "format", rate: format.rate, channels, codec });
    if (format.codec === "opus") this.decode(format);
  }

  /** Create a decoder for `format`. After a decoding error it is replaced; packets in flight are lost. */
  async decode(format) {
    const damaged = () => {
      if (this.current !== format) return;
      this.decoder = null; this.lost += Math.max(1, this.waiting.length); this.waiting = [];
      setTimeout(() => { if (this.current === format && !this.decoder) this.decode(format); }, DAMAGED_MS);
    };
    try {
      const made = await opusDecoder(format, this.own, (planes) => this.decoded(planes), damaged);
      if (this.current === format) this.decoder = made; else made.close();
    } catch (error) {
      on("refused", `This browser can't decode the sound (${plain(error)}). Choose the codec s16.`);
    }
  }

  media(buffer) {
    const now = nowNs(), format = this.current, packet = parsePacket(buffer, format);
    if (!packet) return;
    const { frames, sequence, position, hostNs, follows, payload } = packet, length = frames * NS_PER_S / format.rate;
    if (!this.allowance.take(length, now)) return;
    this.port.postMessage({ what: "arrived", media: hostNs, length, now, follows });
    if (this.clock.offset(now) === null) this.blame.anew();
    this.unclaimed += this.blame.arrived(now, length, sequence, follows);
    const media = hostNs - format.lookahead * NS_PER_S / format.rate;
    this.bytes += buffer.byteLength;
    if (format.codec !== "opus") { this.block(media, pcm(format, payload)); return; }
    if (!this.decoder) return;
    this.waiting.push(media);
    this.decoder.decode(payload, position);
  }

  /** A damaged packet may decode to nothing or to the wrong channels: count it as lost. */
  decoded(planes) {
    const media = this.waiting.shift();
    if (planes.length !== this.current.positions.length || !planes[0].length) this.lost++;
    else if (media !== undefined) this.block(media, planes);
  }

  block(media, planes) {
    this.first ??= nowNs();
    this.port.postMessage({ what: "block", media, planes }, planes.map((plane) => plane.buffer));
  }

  /** Call `then` when everything submitted so far is decoded. */
  flushed(then) {
    if (this.decoder) this.decoder.flush().then(then, then);
    else then();
  }

  /**
   * Check that this worker gets to run, and report the cause of each gap to the daemon. While a packet is overdue its cause is not known
   * yet (lost, or late?), so a gap waits for the answer, but no longer than UNSURE.
   */
  pulse() {
    const now = nowNs(), { blame } = this;
    if (blame.ticked(now) > STALL && this.stats?.state === "playing") this.holes.push(now);
    if (this.unclaimed) {
      const verdict = blame.lost(now, this.unclaimed);
      this.lost += this.unclaimed;
      this.unclaimed = 0;
      if (verdict) this.trouble(verdict);
    }
    while (this.holes.length && !(blame.unsure(now) && now - this.holes[0] < UNSURE)) this.trouble(blame.hole(this.holes.shift()));
  }

  trouble({ stage, cause, at, evidence }) {
    const offset = this.clock.offset(nowNs());
    this.send({ type: "trouble", what: "underrun", stage, cause, at_ns: offset === null ? 0 : Math.round(at + offset), evidence });
  }

  /** Statistics from the worklet; a gap in the sound is reported at once. */
  told(stats) {
    if (stats.hole !== undefined) { this.holes = [...this.holes.slice(-15), nowNs()]; return; }
    this.blame.pulled(nowNs(), STATS);
    const jitter = this.blame.worst;
    this.blame.worst = 0;
    const offset = this.clock.offset(nowNs(), stats.mediaRate), device = Math.max(0, stats.lag);
    // None is negative: then a clock has jumped, and the next pong tells by how much.
    const sum = offset === null || stats.age === null ? -1 : stats.age + offset + device, latency = sum < 0 ? null : sum;
    this.stats = { ...stats, device, latency, offset, spread: jitter, lost: this.lost, rtt: this.clock.rtt, bytes: this.bytes, first: this.first };
    on("stats", this.stats);
  }

  report() {
    const s = this.stats;
    if (!s || !this.welcome) return;
    const whole = (value) => Math.max(0, Math.round(value || 0)), network = (s.rtt ?? 0) / 2;
    this.send({
      type: "report", latency_ns: whole(s.latency), fill_ns: whole(s.fill), underruns: s.underruns, lost: this.lost,
      skipped: Math.round(s.skipped + s.accelerated + s.overrun), output: "browser", target_ns: whole(s.targetDelay), drift_ppm: s.ppm,
      locked: s.locked, bridged: s.concealments - s.underruns,
      ledger: s.latency === null ? {} : {
        path: Math.round(s.path + s.offset), network: whole(network), codec: whole(s.codec), jitter: whole(s.jitter),
        period: whole(s.pull), late: Math.round(s.late), device: whole(s.device),
      },
    });
  }
}

const VOICE_FRAMES = 480, LOOKAHEAD = 312;

// The microphone's packets carry times of this page's clock, counted in frames from when it began to send, so an encoder that stutters
// does not show up as jitter. No block is encoded unless the guest records, and closing the encoder drops what is in it: no sound from
// after the recording leaves the browser.
/** The microphone: encodes 10 ms blocks from its worklet to Opus, only while the guest records. */
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
let connection = null;
onmessage = ({ data }) => {
  if (data.what === "begin") { origin = data.origin; connection = new Connection(data); connection.begin(); } else connection?.[data.what](data);
};
