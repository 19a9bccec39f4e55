// The pointer: mouse, pen and fingers on the picture, as positions of the guest's screen, or as movements while the pointer is locked.

const LEFT = 1, RIGHT = 4, UP = 8, DOWN = 16, WHEEL_LEFT = 128, WHEEL_RIGHT = 256, BACK = 3, FORWARD = 4;
/** From the bits of `MouseEvent.buttons` to those of the protocol: left, right, middle, back, forward. */
const BUTTONS = [LEFT, RIGHT, 2, 32, 64];
const EVERY_MS = 8, NOTCH = 120, NOTCHES_MAX = 10, TAP_MS = 500, SLOP = 10, SCROLL = 24;
const buttonsOf = (bits) => BUTTONS.reduce((sum, bit, n) => sum | (bits & (1 << n) ? bit : 0), 0);

// Positions are sent at most every EVERY_MS; the newest is sent at last. A change of buttons is sent at once, with its own position. A notch
// of the wheel is a button that is pressed and released.
//
// A finger presses only once it is clear what it does: a tap is a click, a long one a right click; a finger that moves drags. Two fingers
// scroll, and a tap of two is a right click.
/** Sends what a pointer does: `send({x, y, buttons, relative})`; `screen()` is {width, height, relative}, or null to send nothing. */
export class Pointing {
  constructor(stage, screen, send) {
    Object.assign(this, { stage, screen, send });
    this.buttons = 0; this.at = null; this.sentAt = -Infinity; this.moved = [0, 0]; this.wheeled = [0, 0]; this.fingers = new Map(); this.touch = null;
    for (const [kind, does] of [["pointerrawupdate", "move"], ["pointermove", "move"], ["pointerdown", "press"], ["pointerup", "lift"], ["pointercancel", "lift"]]) {
      stage.addEventListener(kind, (event) => this[event.pointerType === "touch" ? `${does}Finger` : does](event));
    }
    stage.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    stage.addEventListener("contextmenu", (event) => event.preventDefault());
    // A mouse's own buttons for back and forward are the guest's, as all others.
    for (const kind of ["mousedown", "mouseup", "auxclick"]) {
      stage.addEventListener(kind, (event) => { if ((event.button === BACK || event.button === FORWARD) && this.screen()) event.preventDefault(); });
    }
  }

  /** Where an event is on the guest's screen. */
  place({ clientX, clientY }, { width, height }) {
    const box = this.stage.getBoundingClientRect(), within = (value, most) => Math.max(0, Math.min(most - 1, Math.floor(value)));
    return [within((clientX - box.left) * width / box.width, width), within((clientY - box.top) * height / box.height, height)];
  }

  move(event) {
    const screen = this.screen();
    if (!screen) return;
    if (!screen.relative) this.at = this.place(event, screen);
    else if (document.pointerLockElement && event.type === "pointermove") { this.moved[0] += event.movementX; this.moved[1] += event.movementY; }
    const buttons = buttonsOf(event.buttons), changed = buttons !== this.buttons;
    this.buttons = buttons;
    if (changed) this.tell(); else if (screen.relative || this.at.join() !== this.told) this.soon();
  }
  press(event) {
    const screen = this.screen();
    if (!screen) return;
    this.stage.setPointerCapture?.(event.pointerId);
    if (!screen.relative) this.at = this.place(event, screen);
    this.buttons = buttonsOf(event.buttons);
    this.tell();
  }
  lift(event) { this.press(event); }

  /** Send the newest position, now or when it is time. */
  soon() {
    const wait = this.sentAt + EVERY_MS - performance.now();
    if (wait <= 0) this.tell();
    else this.timer ??= setTimeout(() => this.tell(), wait);
  }

  tell(extra = 0) {
    clearTimeout(this.timer);
    this.timer = null;
    const screen = this.screen();
    if (!screen || (!screen.relative && !this.at)) return;
    this.sentAt = performance.now();
    const [x, y] = screen.relative ? this.moved.map(Math.trunc) : this.at;
    if (screen.relative) this.moved = [this.moved[0] - x, this.moved[1] - y];
    this.told = `${x},${y}`;
    this.send({ x, y, buttons: this.buttons | extra, relative: Boolean(screen.relative) });
  }

  /** Press and release a button. */
  click(bit) { this.tell(bit); this.tell(); }

  wheel(event) {
    const screen = this.screen();
    if (!screen) return;
    event.preventDefault();
    if (!screen.relative) this.at = this.place(event, screen);
    // Both browsers tell by wheelDeltaX and Y how far a wheel was turned, whatever a notch scrolls here. With Shift they tell of a wheel that
    // turns up and down as of one that turns sideways; the guest has Shift itself.
    const [x, y] = [event.wheelDeltaX ?? -event.deltaX, event.wheelDeltaY ?? -event.deltaY];
    if (event.shiftKey && !y) this.scroll(0, x); else this.scroll(x, y);
  }

  /** Turn the wheel to the left and up; parts of a notch add up. */
  scroll(...by) {
    for (const [axis, [back, forth]] of [[WHEEL_RIGHT, WHEEL_LEFT], [DOWN, UP]].entries()) {
      this.wheeled[axis] += by[axis];
      const notches = Math.trunc(this.wheeled[axis] / NOTCH);
      this.wheeled[axis] -= notches * NOTCH;
      for (let n = Math.min(NOTCHES_MAX, Math.abs(notches)); n > 0; n--) this.click(notches > 0 ? forth : back);
    }
  }

  /** Release all buttons. */
  release() {
    this.forget();
    if (!this.buttons) return;
    this.buttons = 0;
    this.tell();
  }

  // -- fingers ----------------------------------------------------------------------------------

  pressFinger(event) {
    const screen = this.screen();
    if (!screen) return;
    event.preventDefault();
    this.fingers.set(event.pointerId, [event.clientX, event.clientY]);
    if (this.fingers.size === 1) {
      this.at = this.place(event, screen);
      this.touch = { from: [event.clientX, event.clientY], state: "tap", long: setTimeout(() => this.held(), TAP_MS) };
      this.tell();
    } else if (this.touch?.state === "tap") { clearTimeout(this.touch.long); this.touch.state = "two"; }
  }

  /** A finger that rests is a right click. */
  held() {
    if (this.touch?.state !== "tap") return;
    this.touch.state = "done";
    this.click(RIGHT);
  }

  moveFinger(event) {
    const screen = this.screen(), { touch } = this, before = this.fingers.get(event.pointerId);
    if (!screen || !touch || !before) return;
    const far = Math.hypot(event.clientX - touch.from[0], event.clientY - touch.from[1]) > SLOP;
    if (touch.state === "two" || touch.state === "scroll") {
      if (far) touch.state = "scroll";
      // Two fingers report the same way: each counts half.
      this.scroll(...[0, 1].map((axis) => ([event.clientX, event.clientY][axis] - before[axis]) * NOTCH / SCROLL / this.fingers.size));
    } else if (touch.state === "drag" || (touch.state === "tap" && far)) {
      if (touch.state === "tap") { clearTimeout(touch.long); touch.state = "drag"; this.buttons = LEFT; this.tell(); }
      this.at = this.place(event, screen);
      this.soon();
    }
    this.fingers.set(event.pointerId, [event.clientX, event.clientY]);
  }

  liftFinger(event) {
    this.fingers.delete(event.pointerId);
    const { touch } = this;
    if (this.fingers.size || !touch) return;
    const tapped = event.type === "pointerup";
    this.forget();
    if (touch.state === "drag") { this.buttons = 0; this.tell(); }
    else if (tapped && touch.state === "tap") this.click(LEFT);
    else if (tapped && touch.state === "two") this.click(RIGHT);
  }

  forget() {
    clearTimeout(this.touch?.long);
    this.touch = null;
    this.fingers.clear();
  }
}
