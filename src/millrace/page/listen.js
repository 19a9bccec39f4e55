// The browser as a listener: the audio context, its clock, and the worker that owns the connection.
import { NS_PER_S } from "./clock.js";

const CLOCK_MS = 20, SILENT_MS = 4000, LAGS = 15, LAG_MOVED = 6e6, PERIOD_MAX = 30e6, PERIOD_MIN = 128e9 / 48000, OPENED_S = 0.03;
const REFUSALS = {
  401: "The sound has ended: this browser is no longer signed in.", 403: "You may not listen to this guest. Whoever runs Millrace can give you the right “hear”.",
  404: "There is no such guest, or you may not see it.",
};
/** What the browser says of a microphone that it does not open (Media Capture and Streams, section 10.2.2), and what to do. */
const NO_MICROPHONE = {
  NotAllowedError: "The browser does not let this page use the microphone. Allow it for this page, or listen without offering it.",
  NotFoundError: "The browser finds no microphone. Connect one, or listen without offering it.",
  NotReadableError: "The browser can't open the microphone: another program may hold it. Close that, or listen without offering it.",
};
const TOUCHES = ["pointerdown", "keydown"];
/**
 * Gecko would tell when a frame is heard only by `outputLatency`, whose first read queries the device. On PulseAudio that can deadlock, and
 * with it the tab for good, however long after the device's start it is read. So it is not read, and the latency shown lacks the device.
 */
const GECKO = /Gecko\/\d/.test(navigator.userAgent);

// Who owns what: the main thread has the audio context, its clock and the microphone's permission, because only it may; a worker has the
// connection and the decoders; the worklet has the sound. They are joined by message ports, so a main thread that is busy delays neither
// packets nor sound, only the clock's pairs, and those carry their own times.
/** Plays one guest. Calls `on(what, detail)` for joined, settings, stats, lost, refused, still, microphone and ended; `probe()` gives the HTTP status of its address. */
export class Listener {
  constructor(url, { protocols = [], latency, settings, microphone, wasm, probe, on }) {
    Object.assign(this, { url, protocols, latency, settings, microphone, wasm, probe, on });
    this.lags = []; this.lag = 0; this.period = 0; this.stats = null;
    this.still = this.over = false; this.from = OPENED_S; this.lastCard = 0;
  }

  /** Start playing. Browsers require this to be called from a click. What goes wrong ends it, with the reason. */
  async start() {
    try { await this.begin(); } catch (error) { this.end(error.message); }
  }

  /** It was not stopped, but ends. */
  end(why) {
    if (this.over) return;
    this.stop();
    this.on("ended", why);
  }

  // It may be stopped while it waits: for its files, or for the user, who is asked for the microphone.
  async begin() {
    this.begun = performance.now();
    this.context = new AudioContext({ latencyHint: this.latency === "robust" ? "playback" : "interactive", sampleRate: 48000 });
    // Pages without it may have its other interfaces nevertheless.
    if (!this.context.audioWorklet) throw new Error("Browsers play sound only on secure pages: serve Millrace with TLS (--tls-cert), or open the page on localhost.");
    const load = () => this.context.audioWorklet.addModule(new URL("./worklet.js", import.meta.url));
    // Chromium fails a load that this context shares with one that was closed meanwhile.
    await load().catch((error) => { if (this.over) throw error; return load(); });
    const voice = this.microphone && !this.over ? await this.capture() : null;
    if (this.over) { this.hush(); return; }
    const options = { outputChannelCount: [2], processorOptions: { profile: this.latency } }, channel = new MessageChannel();
    this.node = new AudioWorkletNode(this.context, "millrace-player", options);
    this.node.port.postMessage({ what: "join", port: channel.port1 }, [channel.port1]);
    this.node.connect(this.context.destination);
    this.worker = new Worker(new URL("./connection.js", import.meta.url), { type: "module" });
    this.worker.onmessage = ({ data }) => this.told(data);
    this.worker.onerror = (event) => this.on("refused", event.message || "The page's worker failed to start. Reload the page.");
    const hello = { type: "hello", version: 1, settings: this.settings, latency: this.latency, microphone: Boolean(this.microphone) };
    const ports = [channel.port2, ...(voice ? [voice] : [])];
    this.worker.postMessage({ what: "begin", url: this.url, protocols: this.protocols, hello, port: channel.port2, voice, wasm: this.wasm, origin: performance.timeOrigin }, ports);
    this.watch();
    this.timer = setInterval(() => this.tick(), CLOCK_MS);
    await this.context.resume();
  }

  /**
   * Browsers suspend an audio context on their own: for a call, a locked screen, a device taken by another program. The page says so,
   * and the next touch resumes it. By then the audio clock has stood still and what was queued is stale, so the worklet starts over.
   */
  watch() {
    this.watched = performance.now();
    this.context.onstatechange = () => {
      const running = this.context.state === "running";
      if (this.context.state === "closed" || running !== this.still) return;
      this.still = !running;
      if (this.still) { this.on("still", "The browser has stopped the sound. Click or tap the page to resume."); return; }
      this.lags = []; this.from = this.context.currentTime + OPENED_S;
      this.node.port.postMessage({ what: "resumed" });
      if (this.joined) this.on("joined", this.joined);
    };
    this.touched = () => { if (this.still) this.context.resume().catch((error) => this.on("still", error.message)); };
    for (const touch of TOUCHES) addEventListener(touch, this.touched);
  }

  /** Open the microphone and return the worker's port for the captured sound, which is sent only while the guest records. */
  async capture() {
    const audio = { channelCount: 1, echoCancellation: true, noiseSuppression: true, autoGainControl: true };
    try { this.captured = await navigator.mediaDevices.getUserMedia({ audio }); } catch ({ name, message }) { throw new Error(NO_MICROPHONE[name] ?? message); }
    if (this.over) return null;
    const node = new AudioWorkletNode(this.context, "millrace-microphone", { numberOfOutputs: 0 }), channel = new MessageChannel();
    node.port.postMessage({ port: channel.port1 }, [channel.port1]);
    this.context.createMediaStreamSource(this.captured).connect(node);
    return channel.port2;
  }

  stop() {
    if (this.over) return;
    this.over = true;
    clearInterval(this.timer);
    for (const touch of TOUCHES) removeEventListener(touch, this.touched);
    this.hush();
    this.worker?.postMessage({ what: "stop" });
    if (!this.context) return;
    // Chromium keeps a closed context, and all that it holds, as long as somebody listens to it.
    this.context.onstatechange = null;
    this.context.close();
  }

  /** Close the microphone. */
  hush() { this.captured?.getTracks().forEach((track) => track.stop()); }

  /** Change quality while it plays. Before that, what is asked for when it begins is changed. */
  set(settings) {
    const { latency, ...rest } = settings;
    Object.assign(this.settings, rest);
    this.latency = latency ?? this.latency;
    this.worker?.postMessage({ what: "set", settings });
  }

  /** The connection did not open. A refused WebSocket has no status, so a plain request asks for the reason. */
  async refused() {
    const why = REFUSALS[await this.probe()];
    if (why) this.end(why);
  }

  told({ what, detail }) {
    if (this.over) return;
    if (what === "shut") { this.refused(); return; }
    if (what === "ended") { this.end(detail); return; }
    if (what === "joined") this.joined = detail;
    if (what === "stats") detail = this.stats = { ...detail, first: detail.first === null ? null : detail.first / 1e6 - this.begun };
    this.on(what, detail);
  }

  /** The browser's output timestamp; none in Gecko. */
  heard() { return (GECKO ? null : this.context.getOutputTimestamp?.()) ?? {}; }

  /**
   * Report the audio clock by the time at which its frames leave the device. That is accurate to 0.1 ms, whereas `currentTime` jumps by
   * whole periods. How far the context pulls ahead of it varies by a period, so the smallest lead of LAGS measurements is used, and
   * kept until it changes by more than LAG_MOVED.
   */
  tick() {
    if (!this.still && this.context.state === "suspended" && performance.now() - this.watched > SILENT_MS) {
      this.still = true;
      this.on("still", "The browser plays no sound: it has no sound output, or another program holds that. Connect one, and click or tap the page.");
    }
    if (this.context.currentTime < this.from || this.still) return;
    const { contextTime, performanceTime } = this.heard(), now = performance.now() * 1e6;
    const known = contextTime > 0 && performanceTime > 0;
    const card = (known ? contextTime : this.context.currentTime) * NS_PER_S, heard = known ? performanceTime * 1e6 : now;
    // A clock that is not advancing says nothing about when frames are heard.
    if (card <= this.lastCard) return;
    this.lastCard = card;
    this.lags.push(this.context.currentTime * NS_PER_S - card - (now - heard));
    if (this.lags.length >= LAGS) {
      const least = Math.min(...this.lags), most = Math.max(...this.lags);
      if (Math.abs(least - this.lag) > LAG_MOVED || this.period === 0) { this.lag = least; this.period = Math.max(PERIOD_MIN, Math.min(most - least, PERIOD_MAX)); }
      this.lags = [];
    }
    if (this.period) this.node.port.postMessage({ what: "clock", card, now: heard, lag: this.lag, period: this.period });
  }
}
