// A guest's screen on the page: the canvas and what is said over it, the keyboard and the pointer, size and full screen. The connection, the
// decoders and all drawing are in a worker (viewing.js).
import { Clipboard } from "./clipboard.js";
import { drawCursor } from "./cursor.js";
import { el } from "./draw.js";
import { pictureFacts } from "./lines.js";
import { CTRL_ALT_DEL, Keys, scanCode } from "./keys.js";
import { plain } from "./messages.js";
import { Pointing } from "./pointer.js";
import { lacking } from "./rights.js";
import { remember, remembered } from "./scale.js";
import { SizeWish } from "./sizewish.js";
import { textField } from "./textfield.js";

const $ = (id) => document.getElementById(id);
const SHORT = "(max-height: 30rem) and (orientation: landscape)", SHAPES_MAX = 64, NOTE_MS = 10000, SNAP = 0.04, ROOM_MIN = 160, ROOM_SHARE = 0.55, EDGE = 28, ACTS_MAX = 64;
const FINGERS = matchMedia("(any-pointer: coarse)").matches && !matchMedia("(any-pointer: fine)").matches;
// Gecko does not tell the output device's part of the delay (listen.js): so many nanoseconds are taken for it.
const GECKO = /Gecko\/\d/.test(navigator.userAgent), GECKO_DEVICE = 25e6;

// What is shown follows from a few facts, told by the worker and by the page, and `draw` is the only place where they meet:
//   screens   the guest's screens as the API lists them
//   state     idle (nothing to watch), connecting, on, lost, gone, ended, forbidden
//   why       what is said with it; in `on` nothing is said
//   joined    whether the worker has a connection, or makes one again by itself
//   captured  whether keys go to the guest: from a click into the picture until it loses the focus, or Ctrl+Alt+Shift
/**
 * The page's screen. `join(guest)` gives {url, protocols}, `probe(guest)` the HTTP status of its address. `told` is called with state,
 * size and keyboard, and what they are now, and with what was refused. A picture that `fills` the window grows with it.
 */
export class Viewer {
  constructor({ join, probe, told = () => {}, fills = false }) {
    Object.assign(this, { join, probe, told, fills, preferred: {} });
    this.guest = ""; this.screens = null; this.state = "idle"; this.why = ""; this.joined = false; this.listener = null; this.delay = null;
    this.first = false; this.name = this.absent = "";
    this.clip = new Clipboard({
      post: (what, detail) => this.worker?.postMessage({ what, ...detail }), works: () => this.mine && document.hasFocus(),
      note: (text) => this.refused(text), draw: () => this.drawKeyboard(),
    });
    this.sizes = new SizeWish({ send: (width, height) => this.say({ type: "size", width, height }), say: (text) => this.remark(text) });
    this.wanted = null; this.reset();
    this.keys = new Keys((code, down, key, locks) => this.act({ type: "key", code, down, ...(key && { key }), locks }), () => this.leave());
    this.pointing = new Pointing($("stage"), () => this.aimed(), (message) => this.act({ type: "pointer", ...message }));
    this.begin();
    this.listen();
    this.draw();
  }

  /** Hand the canvas to the worker. This must be while the page loads: Chromium may show nothing of a canvas that was handed over later. */
  begin() {
    const canvas = $("picture").transferControlToOffscreen?.();
    if (!canvas) return;
    this.worker = new Worker(new URL("./viewing.js", import.meta.url), { type: "module" });
    this.worker.onmessage = ({ data }) => this[`on_${data.what}`]?.(data.detail);
    this.worker.onerror = (event) => this.on_ended(event.message || "The page's worker failed to start. Reload the page.");
    this.worker.postMessage({ what: "begin", canvas, origin: performance.timeOrigin }, [canvas]);
  }

  /** What belongs to one connection. */
  reset() {
    this.id = ""; this.mode = null; this.mayType = false; this.mine = false; this.who = ""; this.captured = false; this.stats = null;
    this.cursor = null; this.shapes = new Map(); this.settings = {}; this.note = "";
    this.asking = this.bare = false; this.acts = [];
    this.clip.reset(); this.sizes.forget();
  }

  say(message) { this.worker?.postMessage({ what: "say", message }); }

  // The click that takes the keyboard is one for the guest too, and who clicks may type on without waiting for the answer.
  /** Send what the user does with keys and pointer, or keep it until the keyboard is granted: all or nothing, lest a release be missing. */
  act(message) {
    if (this.mine) { this.say(message); return; }
    if (!this.asking) return;
    const last = this.acts.at(-1), moved = message.type === "pointer" && last?.type === "pointer" && last.buttons === message.buttons;
    if (moved) this.acts.pop(); else if (this.acts.length === ACTS_MAX) this.acts = [];
    this.acts.push(message);
  }
  ask() { Object.assign(this, { asking: true, acts: [] }); this.say({ type: "keyboard", take: true }); }
  /** The keyboard is granted, or is not. */
  answered(granted) {
    const { acts } = this;
    Object.assign(this, { asking: false, acts: [] });
    if (granted) for (const message of acts) this.say(message);
  }

  // -- what to watch ----------------------------------------------------------------------------

  /** The guest that is chosen, and its screens: null if the daemon lists none. `absent` says why there is none, if that is known. */
  choose(guest, screens, absent = "") {
    const keys = (list) => list?.map((one) => one.key ?? one.id).join() ?? null, moved = guest !== this.guest;
    if (!moved && keys(screens) === keys(this.screens)) {
      Object.assign(this, { screens, absent });
      // The connection may be back before the API tells what the guest's doors do.
      if (this.bare && this.state === "gone" && this.why !== this.noScreen()) this.turn("gone", this.noScreen());
      this.drawNone();
      this.drawFacts();
      return;
    }
    const had = Boolean(this.screens?.length);
    Object.assign(this, { guest, screens, absent });
    // Another guest is not asked for a size because this one was.
    if (moved) { this.wanted = null; if (!this.fills) $("screen-scale").value = remembered(guest); }
    if (!screens?.length) {
      // The connection tells why; until then the picture stays.
      if (!moved && screens && this.joined && this.mode) { if (this.state !== "gone" && this.state !== "lost") this.turn("gone", "The screen is gone."); } else this.stop();
      // The connection may have told of the new screen, and shown it, before the API lists it.
    } else if (moved || (!had && (!this.joined || (this.state === "gone" && this.wanted)))) this.watch();
    else this.draw();
  }

  /** Begin, or begin again. */
  watch() {
    if (!this.guest || !this.screens?.length) return;
    if (!this.worker) { this.turn("ended", "This browser is too old to show screens (it has no OffscreenCanvas). Use a current one, or “millrace view”."); return; }
    const { url, protocols } = this.join(this.guest);
    this.reset();
    this.joined = true;
    this.turn("connecting");
    const watch = { screen: this.wanted, settings: this.preferred, listener: this.listener, keyboard: false };
    this.worker.postMessage({ what: "watch", url, protocols, watch });
    if (this.delay !== null) this.worker.postMessage({ what: "sound", delay: this.delay, first: this.first });
  }

  stop() {
    this.worker?.postMessage({ what: "stop" });
    this.joined = false;
    this.release();
    this.reset();
    this.turn("idle");
  }

  /** Watch no more, and say why. */
  end(why) {
    this.screens ??= [];
    this.worker?.postMessage({ what: "stop" });
    this.turn("ended", why);
  }

  turn(state, why = "") {
    Object.assign(this, { state, why });
    if (state !== "on") this.release();
    this.told("state", { state, why });
    this.draw();
  }

  /** The sound that this page plays: its listener's number, and statistics; null when it ends. With `first` no picture waits for it. */
  sound(listener, stats, first = false) {
    const { state, age, device } = stats ?? {}, plays = state === "playing" && age !== null;
    const delay = plays ? age + device + (GECKO ? GECKO_DEVICE : 0) : null;
    if (listener !== this.listener) { this.listener = listener; if (this.state === "on") this.say({ type: "set", settings: {}, listener }); }
    if (delay === null && this.delay === null) return;
    Object.assign(this, { delay, first });
    this.worker?.postMessage({ what: "sound", delay, first });
  }

  // -- what the worker tells --------------------------------------------------------------------

  on_watching(message) {
    this.id = `viewer/${message.viewer}`; this.name = plain(message.name); this.mayType = message.may_type === true; this.settings = message.settings ?? {};
    $("screen-quality").value = this.shownQuality();
    this.clip.allowed = message.clipboard === true;
    this.bare = !message.screen;
    if (this.bare) this.turn("gone", this.noScreen());
    if (document.hidden) this.say({ type: "hidden", hidden: true });
    this.draw();
  }
  on_mode(mode) {
    const same = this.mode?.generation === mode.generation && this.state === "on";
    this.mode = mode;
    const [width, height] = this.size;
    this.told("size", { width, height });
    if (same) { document.exitPointerLock?.(); this.draw(); } else { this.fit(); this.wishSize(); }
  }
  on_drawn() { this.turn("on"); }
  on_settings(message) { this.settings = message.settings; $("screen-quality").value = this.shownQuality(); this.fit(); }
  on_clipboard(state) { this.clip.state(state); }
  on_paste(wish) { this.clip.wanted(wish); }
  on_clip(clip) { this.clip.clip(clip); }
  on_screens() { /* The API lists them. */ }
  on_stats(stats) { this.stats = stats; this.drawFacts(); }
  on_refused({ why, right }) { this.refused(lacking({ right, guest: this.guest }, why)); }
  refused(text) {
    if (!this.mine) { this.answered(false); this.release(); }
    this.remark(text);
  }
  /** Say something above the picture for a while. */
  remark(text) {
    this.note = text;
    this.told("error", { why: text });
    clearTimeout(this.noted);
    this.noted = setTimeout(() => { this.note = ""; this.drawFacts(); }, NOTE_MS);
    this.drawFacts();
  }
  on_gone({ why }) { this.bare = false; this.turn("gone", `${plain(why) || "The screen is gone"}. It is shown again as soon as it is back.`); }
  on_ended(why) { this.joined = false; this.turn("ended", why || "The daemon has ended the connection."); }

  on_keyboard({ mine, who }) {
    const lost = this.mine && !mine, won = mine && !this.mine;
    Object.assign(this, { mine, who: plain(who) });
    if (won) { this.sizes.forget(); this.wishSize(); }
    this.told("keyboard", { mine, who: this.who });
    if (mine || who) this.answered(mine);
    // The daemon has released what was held.
    if (lost) { this.keys.forget(); this.pointing.buttons = 0; this.release(); }
    this.draw();
  }

  on_shape({ number, ...shape }) {
    this.shapes.delete(number); this.shapes.set(number, shape);
    if (this.shapes.size > SHAPES_MAX) this.shapes.delete(this.shapes.keys().next().value);
    this.drawCursor();
  }
  on_cursor(message) { this.cursor = message; this.drawCursor(); }

  /** The connection broke. A refused WebSocket has no status, so a plain request asks for the reason. */
  async on_lost({ opened, why }) {
    const { guest } = this;
    Object.assign(this, { mine: false, who: "", captured: false });
    this.answered(false);
    const said = why || (this.state === "lost" ? "" : "the connection was lost");
    this.turn(this.mode || this.state === "lost" ? "lost" : "connecting", said ? `${said[0].toUpperCase()}${said.slice(1)}. Reconnecting…` : this.why);
    if (opened) return;
    const status = await this.probe(guest);
    if (guest !== this.guest || (this.state !== "lost" && this.state !== "connecting")) return;
    if (!status) this.turn(this.state, "The daemon does not answer. Reconnecting…");
    if (status !== 401 && status !== 403) return;
    this.worker.postMessage({ what: "stop" });
    this.joined = false;
    this.turn("forbidden", "You may not watch this guest. Whoever runs Millrace can give you the right “watch”.");
  }

  // -- keyboard and pointer ---------------------------------------------------------------------

  listen() {
    const stage = $("stage");
    for (const kind of ["keydown", "keyup"]) stage.addEventListener(kind, (event) => this.typed(event));
    stage.addEventListener("pointerdown", (event) => this.touched(event), true);
    stage.addEventListener("blur", () => this.release());
    // The picture keeps the focus while another window has it, and takes the keys again with the window.
    addEventListener("blur", () => this.release());
    addEventListener("focus", () => { if (this.again && document.activeElement === stage && this.mine) this.capture(); });
    document.addEventListener("visibilitychange", () => { if (document.hidden) this.release(); this.say({ type: "hidden", hidden: document.hidden }); });
    document.addEventListener("fullscreenchange", () => this.full());
    document.addEventListener("pointerlockchange", () => this.draw());
    new ResizeObserver(() => { this.fit(); this.wishSize(); }).observe($("screen-room"));
    new ResizeObserver(() => this.fit()).observe($("screen-tools"));
    $("screen-tab").addEventListener("click", () => $("screen-tools").focus());
    $("screen-hide").addEventListener("click", () => { this.bar(false); stage.focus(); this.capture(); });
    // A phone held sideways: there the controls come from a tab, as in full screen.
    const shorten = () => { document.body.classList.toggle("short", matchMedia(SHORT).matches); this.fit(); };
    addEventListener("resize", shorten); shorten();
    $("screen-keyboard").addEventListener("click", () => this.hold(!this.mine));
    $("screen-delete").addEventListener("click", () => { this.keys.chord(CTRL_ALT_DEL); stage.focus(); });
    $("screen-copy").addEventListener("click", () => { this.clip.copy(); stage.focus(); });
    $("screen-paste").addEventListener("click", async () => { if (!this.mine) this.hold(true); await this.clip.read(); stage.focus(); });
    $("screen-full").addEventListener("click", () => this.toggleFull());
    $("screen-again").addEventListener("click", () => this.watch()); $("screen-scale").addEventListener("change", () => this.sized());
    $("screen-quality").addEventListener("change", () => this.prefer($("screen-quality").value));
    $("screen-choice").addEventListener("change", () => { this.wanted = $("screen-choice").value; this.watch(); });
    $("screen-full").hidden = !document.fullscreenEnabled;
    textField($("screen-text"), $("screen-type"), this);
  }

  /** Take or give up the keyboard. The answer tells who has it. */
  hold(take) {
    if (!take) this.release();
    if (take) this.ask(); else this.say({ type: "keyboard", take });
    if (take) { this.captured = true; this.keys.learn(); $("stage").focus({ preventScroll: true }); this.draw(); }
  }

  /** A click into the picture: it takes the keyboard if nobody has it, and the pointer's movements if the guest wants those. */
  touched(event) {
    this.keys.shifts(event);
    if (this.state !== "on" || !this.mayType) return;
    if (event.pointerType !== "touch") $("stage").focus({ preventScroll: true });
    this.capture();
    if (this.mode.relative && this.works && !document.pointerLockElement) $("stage").requestPointerLock?.()?.catch?.(() => {});
  }
  capture() {
    if (this.captured || this.state !== "on" || !this.mayType) return;
    if (!this.mine) { if (this.who) return; this.ask(); }
    this.captured = true;
    this.keys.learn();
    this.draw();
  }

  typed(event) {
    if (!this.captured) {
      // Reached with the Tab key, the picture does not keep it: Enter begins.
      if (event.type === "keydown" && event.code === "Enter" && this.mayType && this.state === "on") { event.preventDefault(); this.capture(); }
      return;
    }
    if (this.mine && this.clip.keeps(event, () => this.keys.event(event))) return;
    if (this.works && this.keys.event(event, (text) => this.act({ type: "text", text }))) event.preventDefault();
    else if (scanCode(event.code)) event.preventDefault();
  }

  /** Release everything that is held; the keys belong to the page again. */
  release() {
    this.clip.drop();
    this.keys?.release();
    this.pointing?.release();
    if (!this.captured) return;
    this.captured = false;
    this.again = !document.hasFocus();
    this.draw();
  }
  leave() {
    this.release();
    document.exitPointerLock?.();
    $("screen-keyboard").focus();
  }

  /** Whether keys are for the guest: the keyboard is here, or has been asked for. */
  get works() { return this.mine || this.asking; }
  /** The screen that the pointer acts on; null if it does not. A guest with a mouse has its pointer elsewhere than the click that begins. */
  aimed() { return this.mode && this.state === "on" && (this.mine || (this.asking && !this.mode.relative)) ? this.mode : null; }

  // -- size -------------------------------------------------------------------------------------

  async toggleFull() {
    if (document.fullscreenElement) { await document.exitFullscreen(); return; }
    // Firefox takes the keyboard with this option, Chromium by its own call.
    await $("screen-frame").requestFullscreen({ navigationUI: "hide", keyboardLock: "browser" });
    navigator.keyboard?.lock?.().catch(() => {});
    $("stage").focus();
    this.capture();
  }
  full() {
    const full = Boolean(document.fullscreenElement);
    $("screen-full").textContent = full ? "Leave full screen" : "Full screen";
    if (!full) { navigator.keyboard?.unlock?.(); this.bar(true); }
    this.fit();
    this.wishSize();
  }

  /** In full screen and in a frame: whether the controls can be had at the upper edge. Ctrl+Alt+Shift shows them nevertheless. */
  bar(on) { $("screen-frame").classList.toggle("bare", !on); }

  /** The room for the picture, in CSS pixels: what the window leaves below the controls. */
  room() {
    if (this.fills || document.fullscreenElement) return [innerWidth, innerHeight];
    const room = $("screen-room"), left = innerHeight - (room.getBoundingClientRect().top + scrollY) - EDGE;
    return [room.clientWidth, Math.round(Math.max(ROOM_MIN, innerHeight * ROOM_SHARE, left))];
  }

  /** The size of the guest's screen. That of the picture is another if it is scaled: `millrace set viewer/N scale=0.5`. */
  get size() {
    const { width, height } = this.mode, scale = Number(this.settings.scale) || 1, [listed] = this.screens ?? [];
    if (scale === 1) return [width, height];
    const near = Math.abs((listed?.width ?? 0) * scale - width) <= 1 && Math.abs(listed.height * scale - height) <= 1;
    return near ? [listed.width, listed.height] : [Math.round(width / scale), Math.round(height / scale)];
  }

  /** Lay the picture out: as large as fits, in whole device pixels if that is near. It grows beyond its size only where it fills the screen or frame. */
  fit() {
    if (!this.mode) return;
    const [width, height] = this.size, [wide, tall] = this.room(), scaled = width !== this.mode.width, dpr = devicePixelRatio || 1, { style } = $("stage");
    let zoom = Math.min(wide / width, tall / height);
    if (!this.fills && !document.fullscreenElement) zoom = Math.min(zoom, 1);
    if ($("screen-scale").value === "actual") zoom = 1 / dpr;
    const whole = Math.round(zoom * dpr);
    if (whole >= 1 && zoom * dpr >= whole && zoom * dpr - whole < SNAP * whole) zoom = whole / dpr;
    style.width = `${width * zoom}px`; style.height = `${height * zoom}px`;
    $("picture").classList.toggle("whole", !scaled && Number.isInteger(Math.round(zoom * dpr * 1000) / 1000));
    this.zoom = zoom * width / this.mode.width;
    this.drawCursor();
  }

  /** Another choice of size. */
  sized() {
    if (!this.fills) remember(this.guest, $("screen-scale").value);
    this.sizes.forget();
    this.fit();
    this.wishSize();
    if ($("screen-scale").value === "guest" && !this.mine && this.mode) this.remark("Only the viewer with the keyboard can resize the guest: take the keyboard first.");
  }

  /** Ask the guest for a screen of the size of the window, if that is chosen. */
  wishSize() { if ($("screen-scale").value === "guest" && this.mine && this.mode) this.sizes.ask(this.room(), () => this.size); }

  /** Ask for this quality, now and after each reconnection. */
  prefer(picture) {
    this.preferred = { picture };
    this.say({ type: "set", settings: this.preferred });
  }

  shownQuality() {
    const current = String(this.settings.picture ?? "auto"), select = $("screen-quality");
    if (![...select.options].some((one) => one.value === current)) select.append(el("option", { value: current }, current));
    return current;
  }

  // -- drawing ----------------------------------------------------------------------------------

  draw() {
    const { state, mode, screens, captured } = this, some = Boolean(screens?.length || mode) || state === "gone" || state === "ended";
    $("screen").hidden = screens === null;
    $("screen-frame").hidden = !some;
    $("screen-none").hidden = some;
    this.drawNone();
    $("stage").hidden = !mode;
    $("screen-frame").dataset.state = state;
    $("screen-frame").classList.toggle("captured", captured && this.mine);
    $("veil").hidden = state === "on";
    $("veil-text").textContent = state === "connecting" || state === "idle" ? "Connecting…" : this.why;
    $("screen-again").hidden = (state !== "ended" && state !== "forbidden") || !screens?.length;
    $("stage").setAttribute("aria-label", `Screen of ${this.guest}${mode ? `, ${mode.width} by ${mode.height}` : ""}`);
    this.drawKeyboard();
    this.drawChoice();
    this.drawFacts();
    this.drawCursor();
  }

  noScreen() { return `${this.absent || `This guest has no screen ${this.mode ? "any more" : "at present"}.`} It is shown here as soon as there is one.`; }
  drawNone() { $("screen-none").textContent = this.absent || "This guest has no screen. Attach a machine, and its screen is shown here."; }

  drawKeyboard() {
    const { mine, mayType, captured } = this, on = this.state === "on", held = $("screen-keyboard"), who = this.who === this.name ? `Another browser of ${this.who}` : this.who;
    const begin = `${FINGERS ? "Tap" : "Click"} the picture to type.`;
    const locked = Boolean(document.pointerLockElement), leave = locked ? "Ctrl+Alt+Shift frees the pointer and the keyboard" : "Ctrl+Alt+Shift frees the keyboard";
    $("screen-scale").querySelector("[value=guest]").disabled = on && !mayType;
    held.hidden = $("screen-delete").hidden = $("screen-type").hidden = !(on && mayType);
    held.textContent = mine ? "Give up keyboard" : "Take keyboard";
    $("screen-delete").disabled = !mine;
    $("screen-copy").hidden = !(on && this.clip.waits);
    $("screen-paste").hidden = !(on && mayType && this.clip.readable);
    const says = !mayType ? "You can watch, but not type." : mine ? (captured ? (FINGERS ? "You are typing." : `You are typing. ${leave}.`) : `You have the keyboard. ${begin}`)
      : who ? `${who} has the keyboard.` : begin;
    $("screen-who").textContent = on ? says : "";
  }

  drawChoice() {
    const select = $("screen-choice"), listed = this.screens ?? [];
    $("screen-chosen").hidden = listed.length < 2;
    const all = listed.map((one) => [one.key ?? one.id, plain(one.label ?? one.name ?? one.key ?? one.id)]);
    if (document.activeElement === select || all.join() === select.dataset.all) return;
    select.dataset.all = all.join();
    select.replaceChildren(...all.map(([value, label]) => el("option", { value }, label)));
    if (this.wanted) select.value = this.wanted;
  }

  drawFacts() {
    const { stats, mode } = this;
    if (this.state !== "on" || !mode) { $("screen-facts").textContent = ""; return; }
    $("screen-facts").textContent = [this.size.join(" × "), ...pictureFacts(stats), this.note].filter(Boolean).join(", ");
  }

  drawCursor() { drawCursor(this, $("stage"), $("guest-cursor")); }
}
