// Keys: from the `code` of a keyboard event, which names the place of a key whatever its layout, to XT scan codes (set 1), with 0x80 added
// for the extended ones. The names are those of the W3C's UI Events `code` values; the numbers those of IBM's and Microsoft's key tables.

const range = (first, names) => names.split(" ").map((name, n) => [name, first + n]);
const CODES = new Map([
  ...range(0x01, "Escape Digit1 Digit2 Digit3 Digit4 Digit5 Digit6 Digit7 Digit8 Digit9 Digit0 Minus Equal Backspace Tab"),
  ...range(0x10, "KeyQ KeyW KeyE KeyR KeyT KeyY KeyU KeyI KeyO KeyP BracketLeft BracketRight Enter ControlLeft"),
  ...range(0x1e, "KeyA KeyS KeyD KeyF KeyG KeyH KeyJ KeyK KeyL Semicolon Quote Backquote ShiftLeft Backslash"),
  ...range(0x2c, "KeyZ KeyX KeyC KeyV KeyB KeyN KeyM Comma Period Slash ShiftRight NumpadMultiply AltLeft Space CapsLock"),
  ...range(0x3b, "F1 F2 F3 F4 F5 F6 F7 F8 F9 F10 NumLock ScrollLock"),
  ...range(0x47, "Numpad7 Numpad8 Numpad9 NumpadSubtract Numpad4 Numpad5 Numpad6 NumpadAdd Numpad1 Numpad2 Numpad3 Numpad0 NumpadDecimal"),
  ...range(0x54, "PrintScreen F16 IntlBackslash F11 F12 NumpadEqual"), ...range(0x5d, "F13 F14 F15"), ...range(0x70, "KanaMode Lang2 Lang1 IntlRo"),
  ["Convert", 0x79], ["NonConvert", 0x7b], ["IntlYen", 0x7d], ["NumpadComma", 0x7e],
  ["MediaTrackPrevious", 0x90], ["MediaTrackNext", 0x99], ...range(0x9c, "NumpadEnter ControlRight"), ...range(0xa0, "AudioVolumeMute LaunchApp2 MediaPlayPause"),
  ["MediaStop", 0xa4], ["AudioVolumeDown", 0xae], ["AudioVolumeUp", 0xb0], ["BrowserHome", 0xb2], ["NumpadDivide", 0xb5],
  ["AltRight", 0xb8], ...range(0xc6, "Pause Home ArrowUp PageUp"), ["ArrowLeft", 0xcb], ["ArrowRight", 0xcd],
  ...range(0xcf, "End ArrowDown PageDown Insert Delete"), ...range(0xdb, "MetaLeft MetaRight ContextMenu Power Sleep"), ["WakeUp", 0xe3],
  ...range(0xe5, "BrowserSearch BrowserFavorites BrowserRefresh BrowserStop BrowserForward BrowserBack LaunchApp1 LaunchMail MediaSelect"),
  // Firefox's own names.
  ["VolumeMute", 0xa0], ["VolumeDown", 0xae], ["VolumeUp", 0xb0], ["OSLeft", 0xdb], ["OSRight", 0xdc],
]);
/** Keys without a `code`: those of a phone's keyboard, and AltGr on some systems. */
const NAMED = new Map(Object.entries({ AltGraph: "AltRight", Backspace: "Backspace", Enter: "Enter", Tab: "Tab", Escape: "Escape",
  ArrowUp: "ArrowUp", ArrowDown: "ArrowDown", ArrowLeft: "ArrowLeft", ArrowRight: "ArrowRight" }));
const MAC = /^Mac/.test(navigator.platform), WINDOWS = /^Win/.test(navigator.platform);
/** Keys of Japanese keyboards that Windows never releases. */
const UNRELEASED = new Set("Alphanumeric Eisu Romaji Hiragana Katakana HiraganaKatakana Zenkaku Hankaku ZenkakuHankaku".split(" "));
const SHIFTS = ["ShiftLeft", "ShiftRight"], UNKNOWN = new Set(["Unidentified", "Process"]);
/** Accents of dead keys: of what Chromium says of the place of one, the combining character. */
const ACCENTS = new Map(Object.entries({ "`": "\u0300", "'": "\u0301", "´": "\u0301", "^": "\u0302", "~": "\u0303", "¯": "\u0304", "˘": "\u0306", "˙": "\u0307",
  "¨": "\u0308", '"': "\u0308", "°": "\u030a", "˚": "\u030a", "˝": "\u030b", "ˇ": "\u030c", "¸": "\u0327", "˛": "\u0328" }));
/** What national layouts (xkeyboard-config) have on the dead keys of those places with Shift: by the place, or wherever it is. */
const SHIFTED = { "´": { Quote: "¨", "": "`" }, "'": { Quote: "¨", "": "`" }, "`": { Backquote: "~", "": "^" }, "^": { BracketLeft: "¨", "": "`" }, "~": { "": "^" }, "¨": { "": "^" } };
const LEAVE = ["ControlLeft", "AltLeft", "ShiftLeft"];
export const CTRL_ALT_DEL = ["ControlLeft", "AltLeft", "Delete"];

/** The locks that are on here (docs/picture-protocol.md); a Mac has no Num Lock, and its keypad types digits. */
const locks = (event) => (MAC || event.getModifierState("NumLock") ? 2 : 0) | (event.getModifierState("CapsLock") ? 4 : 0);

/** The scan code of a key; undefined if it has none. */
export const scanCode = (code) => CODES.get(code);

// A browser does not always tell when a key is released: the window loses the focus, the system takes a combination for itself, or, on a
// Mac, Command is held. A key that stays down repeats in the guest for good, so whatever is held is remembered and released.
//
// What a key means is told too: `key` of the event, a character or a name (docs/picture-protocol.md).
/** The keys that are down, and what they send. */
export class Keys {
  /** `send(code, down, key, locks)` sends a scan code, and of a pressed key what it means and which locks are on; `leave()` is called when Ctrl, Alt and Shift are pressed, which leaves the screen. */
  constructor(send, leave) { Object.assign(this, { send, leave, held: new Set() }); this.controlAt = -1; this.layout = null; }

  /** Learn the layout of the keyboard here, where the browser tells it. */
  async learn() { this.layout = await navigator.keyboard?.getLayoutMap?.().catch(() => null) ?? null; }

  /** What a dead key means: the combining character of its accent if that is known. */
  dead(event) {
    const plain = this.layout?.get(event.code), altGr = event.getModifierState("AltGraph"), shifted = SHIFTED[plain] ?? {};
    const accent = altGr ? (plain === "¨" ? "~" : "") : event.shiftKey ? shifted[event.code] ?? shifted[""] : plain;
    return ACCENTS.get(accent) ?? "Dead";
  }


  /** A key event of the screen. Returns whether it was for the guest. Where a browser that resists fingerprinting hides which key it is, `types(text)` types what it means. */
  event(event, types = null) {
    // An input method composes: its text follows.
    if (event.isComposing || event.keyCode === 229) return false;
    const code = CODES.has(event.code) ? event.code : NAMED.get(event.key);
    if (!code) return Boolean(types) && this.character(event, types);
    const down = event.type === "keydown", key = UNKNOWN.has(event.key) ? "" : event.key;
    // Chromium does not tell when a dead key is released.
    if (event.key === "Dead") {
      if (down && !event.repeat) { this.press(code, true, this.dead(event)); this.press(code, false); }
      return true;
    }
    if (!SHIFTS.includes(code)) this.shifts(event); else if (WINDOWS && !down) this.shifts({ shiftKey: false });
    if ((MAC && code === "CapsLock") || (WINDOWS && UNRELEASED.has(key))) {
      if (down || MAC) { this.press(code, true, key); this.press(code, false); }
      return true;
    }
    // Windows makes AltGr of a Ctrl and an Alt with the same time stamp.
    if (WINDOWS && down && code === "AltRight" && event.timeStamp === this.controlAt) this.press("ControlLeft", false);
    if (code === "ControlLeft" && down && !event.repeat) this.controlAt = event.timeStamp;
    this.press(code, down, key, CODES.has(event.code) ? locks(event) : undefined);
    if (MAC && !down && code.startsWith("Meta")) this.release();
    if (down && LEAVE.every((one) => this.held.has(one))) { this.release(); this.leave(); }
    return true;
  }

  character({ type, code, key, ctrlKey, metaKey }, types) {
    if (code || [...key].length !== 1 || ctrlKey || metaKey) return false;
    if (type === "keydown") types(key);
    return true;
  }

  press(code, down, key = "", locks = undefined) {
    if (!down && !this.held.has(code)) return;
    if (down) this.held.add(code); else this.held.delete(code);
    if (down) this.send(CODES.get(code), true, key, locks); else this.send(CODES.get(code), false);
  }

  /** Windows does not tell that a Shift key is released while the other one is down. Other events tell whether any is. */
  shifts({ shiftKey }) { if (!shiftKey) for (const code of SHIFTS) this.press(code, false); }

  /** Nothing is down any more. */
  forget() { this.held.clear(); }

  /** Release all that is down, last key first. */
  release() { for (const code of [...this.held].reverse()) this.press(code, false); }

  /** Press and release keys together. */
  chord(codes) {
    for (const code of codes) this.press(code, true);
    for (const code of [...codes].reverse()) this.press(code, false);
  }
}
