// Text from and for the guest's clipboard in the screen protocol's binary messages (docs/picture-protocol.md, "The clipboard").
import { Refusal } from "./messages.js";

const CLIP = 17, HEAD_BYTES = 6, PIECE_BYTES = 32768, LAST = 1, REFUSED = 2;
export const CLIP_MAX = 2 ** 20;

/** Whether a binary message is text from the clipboard. */
export const isClip = (buffer) => buffer.byteLength > 0 && new Uint8Array(buffer)[0] === CLIP;

/** The messages that carry a text; null refuses it. */
export function* packClip(number, text) {
  const bytes = new TextEncoder().encode(text ?? ""), refused = text === null ? REFUSED : 0;
  for (let at = 0; at === 0 || at < bytes.byteLength; at += PIECE_BYTES) {
    const piece = bytes.subarray(at, at + PIECE_BYTES), message = new Uint8Array(HEAD_BYTES + piece.byteLength), view = new DataView(message.buffer);
    view.setUint8(0, CLIP); view.setUint8(1, refused | (at + PIECE_BYTES >= bytes.byteLength ? LAST : 0)); view.setUint32(2, number, true);
    message.set(piece, HEAD_BYTES);
    yield message;
  }
}

/** Puts the pieces of an answer together. Only one is asked for at a time; what still arrives for the one before is skipped. */
export class Clips {
  constructor() { this.asked = null; this.pieces = []; this.size = 0; }

  ask(number) { this.asked = number; this.pieces = []; this.size = 0; }

  /** Takes one message; returns {number, text, refused} with the last one of an answer. Throws Refusal. */
  take(buffer) {
    if (buffer.byteLength < HEAD_BYTES) throw new Refusal("The server sent text that is cut short.");
    const view = new DataView(buffer), flags = view.getUint8(1), number = view.getUint32(2, true);
    if (number !== this.asked) return null;
    this.pieces.push(new Uint8Array(buffer, HEAD_BYTES));
    this.size += buffer.byteLength - HEAD_BYTES;
    if (this.size > CLIP_MAX) throw new Refusal("The server sent more text than fits on the clipboard.");
    if (!(flags & LAST)) return null;
    const bytes = new Uint8Array(this.size);
    let at = 0;
    for (const piece of this.pieces) { bytes.set(piece, at); at += piece.byteLength; }
    this.ask(null);
    return { number, text: new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes), refused: (flags & REFUSED) !== 0 };
  }
}
