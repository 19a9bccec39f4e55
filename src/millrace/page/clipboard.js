// The guest's clipboard and the browser's. What the guest copies goes to the browser while the user works in the guest, or with a button;
// what the user copied elsewhere is offered to the guest when it is pasted there, and not before: any program of the guest may read it then.
import { CLIP_MAX } from "./clips.js";

const PASTE_MS = 100;
const pastes = ({ code, ctrlKey, metaKey, shiftKey, altKey }) =>
  !altKey && ((code === "KeyV" && (ctrlKey || metaKey)) || (code === "Insert" && shiftKey && !ctrlKey && !metaKey));

/** `post(what, detail)` tells the worker, `works()` says whether the user works in the guest, `note(text)` shows a sentence, `draw()` the buttons. */
export class Clipboard {
  constructor({ post, works, note, draw }) {
    Object.assign(this, { post, works, note, draw });
    this.last = null;
    this.reset();
    document.addEventListener("paste", (event) => this.event(event));
  }

  /** What belongs to one connection. */
  reset() {
    this.drop();
    Object.assign(this, { allowed: false, there: false, number: 0, got: null, mine: 0, text: null });
  }

  get open() { return this.allowed && this.there; }
  /** Whether the guest has a text that is not on the browser's clipboard. */
  get waits() { return this.open && this.number > 0 && this.taken !== this.number; }
  get readable() { return this.open && Boolean(navigator.clipboard?.readText); }

  // -- from the guest ---------------------------------------------------------------------------

  /** The guest has another text, or with number 0 none. */
  state({ there, number }) {
    const other = number !== this.number;
    Object.assign(this, { there, number });
    if (other) { this.got = this.taken = null; if (number && this.works()) this.fetch(); }
    this.draw();
  }

  fetch() { this.post("paste", { number: this.number }); }

  /** A text that was fetched, or why there is none. */
  async clip({ number, text, refused }) {
    if (number !== this.number) return;
    if (refused) { this.note(text); return; }
    this.got = text;
    try { await navigator.clipboard.writeText(text); this.took(number, text); } catch { /* The browser wants a click first: the button stays. */ }
    this.draw();
  }

  took(number, text) {
    this.last = text;
    if (number === this.number) { this.taken = number; this.got = null; }
  }

  /** The button: with a click, every browser lets a page write. */
  copy() {
    const { got, number } = this;
    if (got === null) { this.fetch(); return; }
    const write = (event) => { event.preventDefault(); event.clipboardData.setData("text/plain", got); };
    document.addEventListener("copy", write, { once: true });
    if (document.execCommand("copy")) this.took(number, got); else this.note("The browser does not let this page write to the clipboard. Allow it for this page.");
    document.removeEventListener("copy", write);
    this.draw();
  }

  // -- to the guest -----------------------------------------------------------------------------

  /** A key event of the screen. The key that pastes waits for the browser to tell what is pasted; `then` passes it on. Returns whether it waits. */
  keeps(event, then) {
    this.go();
    if (!this.open || event.type !== "keydown" || event.repeat || !pastes(event)) return false;
    this.then = then;
    this.timer = setTimeout(() => this.go(), PASTE_MS);
    return true;
  }

  event(event) {
    if (!this.then) return;
    event.preventDefault();
    this.offer(event.clipboardData?.getData("text/plain") ?? "");
    this.go();
  }

  go() { const { then } = this; this.drop(); then?.(); }
  drop() { clearTimeout(this.timer); this.then = null; }

  /** Offer the guest a text. One that came from it is there already. */
  offer(text) {
    if (!this.open || !text || (this.number > 0 && text === this.last)) return;
    if (new TextEncoder().encode(text).byteLength > CLIP_MAX) { this.note("The text on the clipboard is too long for the guest: 1 MiB at most."); return; }
    this.text = text;
    this.mine += 1;
    this.post("say", { message: { type: "copied", number: this.mine } });
  }

  /** The guest pastes what it was offered. */
  wanted({ number }) { this.post("text", { number, text: number === this.mine ? this.text : null }); }

  /** The button: offer what is on the browser's clipboard, which may ask the user. */
  async read() {
    try { this.offer(await navigator.clipboard.readText()); } catch { this.note("The browser does not let this page read the clipboard. Ctrl+V in the picture needs no permission."); }
  }
}
