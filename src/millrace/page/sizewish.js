// Asking the guest for a screen of the window's size, and saying why none came of it.
const RESIZE_MS = 300, ANSWER_MS = 4000, SIDE_MIN = 64;

/** `send(width, height)` asks the daemon, `say(text)` tells the user. */
export class SizeWish {
  constructor({ send, say }) {
    Object.assign(this, { send, say });
    this.forget();
  }

  /** Another guest or connection, or another choice of size: nothing has been asked. */
  forget() {
    this.wished = "";
    clearTimeout(this.asking); clearTimeout(this.answer);
  }

  /** Ask for so many CSS pixels, once the window stands still; `size` gives the screen's own, [width, height]. */
  ask(room, size) {
    clearTimeout(this.asking);
    const [wide, tall] = room.map((side) => Math.max(SIDE_MIN, Math.floor(side * (devicePixelRatio || 1))) & ~1), wish = `${wide} × ${tall}`;
    if (wish === this.wished) return;
    this.asking = setTimeout(() => {
      this.wished = wish;
      this.send(wide, tall);
      const before = size().join(" × ");
      // Machines do not answer: they have another screen then, or they have not.
      clearTimeout(this.answer);
      this.answer = setTimeout(() => {
        if (size().join(" × ") === before && before !== wish) this.say(`The guest keeps its screen of ${before}: it can't have one of ${wish}, or does not want to.`);
      }, ANSWER_MS);
    }, RESIZE_MS);
  }
}
