// A guest's desktop in any page: an iframe of the daemon's own origin, so that a busy page around it cannot hold it up. This module stands
// alone: it is served by the daemon, and is the npm package “millrace” (README.md, embed.d.ts).

const UNANSWERED_MS = 15000, LOADED_MS = 1500;
const FLAG = (value) => typeof value === "boolean";
/** Settings: what is valid, and how that is said. What a picture may be only the daemon knows whole: it answers with an error. */
const SETTINGS = {
  picture: [(value) => typeof value === "string" && /^(auto|lossless|off|\d+(\.\d+)? ?[kMG]?(bit\/s|b\/s|bps)?)$/i.test(value), "“auto”, “lossless”, “off” or a bit rate such as “2M”"],
  scale: [(value) => ["fit", "actual", "guest"].includes(value), "“fit”, “actual” or “guest”"], sound: [FLAG, "true or false"], tools: [FLAG, "true or false"],
};

// The secret goes to the frame in a message that only the daemon's origin can receive, never in an address. The frame takes messages from the
// origins that the daemon allows, and the browser shows it in pages of no others (`allowed_origins` in the daemon's configuration).
/** A guest's desktop in the page. It tells of itself by events, whose `detail` says more: see embed.d.ts. */
export class Millrace extends EventTarget {
  #token;
  #settings;
  /** The newest of each event. */
  #said = {};
  #heard = (event) => this.#told(event);

  constructor({ url, token, element, settings = {} }) {
    super();
    const { root, guest } = parts(url);
    if (typeof token !== "string" || !token) throw new TypeError("Millrace: token must be a string");
    checked(settings);
    if (!(element instanceof Element)) throw new TypeError("Millrace: element must be an element of the page");
    this.guest = guest; this.state = "connecting"; this.why = this.code = ""; this.size = null; this.keyboard = { mine: false, who: "" };
    this.#token = token; this.#settings = { ...settings };
    this.origin = root.origin;
    const frame = this.frame = document.createElement("iframe");
    frame.src = new URL("page/embed.html", root).href;
    frame.title = `Desktop of ${guest}`;
    frame.allow = "autoplay; fullscreen; clipboard-read; clipboard-write";
    frame.referrerPolicy = "no-referrer";
    // What a browser shows of a frame that is refused is not for the page's users.
    frame.style.cssText = "display:block;width:100%;height:100%;border:0;visibility:hidden";
    addEventListener("message", this.#heard);
    this.#await(UNANSWERED_MS);
    // A frame that is refused is loaded too, but says nothing.
    frame.addEventListener("load", () => { if (this.unanswered) this.#await(LOADED_MS); });
    element.append(frame);
  }

  /** End it, and remove it from the page. */
  close() {
    if (this.state === "closed") return;
    clearTimeout(this.unanswered);
    removeEventListener("message", this.#heard);
    this.frame.remove();
    this.#token = "";
    this.#turn("closed");
  }

  /** Fill the whole screen; to be called in answer to a click or key. */
  async fullscreen() { await this.frame.requestFullscreen(); }

  /** Give it the keyboard's focus. */
  focus() { this.frame.focus(); this.#send({ what: "focus" }); }

  /** Change settings; those that are not named stay as they are. TypeError for one that there is not, or that can't be so. */
  set(settings) {
    checked(settings);
    Object.assign(this.#settings, settings);
    this.#send({ what: "settings", settings });
  }

  /** Wait so long for the frame to answer. */
  #await(ms) {
    clearTimeout(this.unanswered);
    const why = `${this.origin} does not answer, or does not allow pages of ${location.origin} to show it: see allowed_origins.`;
    this.unanswered = setTimeout(() => this.#turn("refused", why, "origin"), ms);
  }

  #send(message) { this.frame.contentWindow?.postMessage({ millrace: 1, ...message }, this.origin); }

  #told({ source, origin, data }) {
    if (source !== this.frame.contentWindow || origin !== this.origin || data?.millrace !== 1) return;
    // It also says so after it was loaded again.
    if (data.what === "ready") {
      clearTimeout(this.unanswered);
      this.unanswered = null;
      this.frame.style.visibility = "";
      this.#send({ what: "open", guest: this.guest, token: this.#token, settings: this.#settings });
    } else if (data.what === "state") this.#turn(String(data.state), String(data.why ?? ""), String(data.code ?? ""));
    else if (data.what === "size") this.#tell("size", this.size = { width: Number(data.width), height: Number(data.height) });
    else if (data.what === "keyboard") this.#tell("keyboard", this.keyboard = { mine: data.mine === true, who: String(data.who ?? "") });
    else if (data.what === "error") this.#tell("error", { why: String(data.why ?? "") });
    else if (data.what === "sound") this.#tell("sound", { plays: data.plays === true, why: String(data.why ?? "") });
  }

  #turn(state, why = "", code = "") {
    Object.assign(this, { state, why, code });
    this.#tell("state", { state, why, code });
  }
  /** Tell what has changed; an error is told each time. */
  #tell(name, detail) {
    const said = JSON.stringify(detail);
    if (name !== "error" && this.#said[name] === said) return;
    this.#said[name] = said;
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}

function checked(settings) {
  if (typeof settings !== "object" || settings === null) throw new TypeError("Millrace: settings must be an object");
  for (const [name, value] of Object.entries(settings)) {
    if (!Object.hasOwn(SETTINGS, name)) throw new TypeError(`Millrace: there is no setting ${name}; there are ${Object.keys(SETTINGS).join(", ")}`);
    const [valid, said] = SETTINGS[name];
    if (!valid(value)) throw new TypeError(`Millrace: ${name} must be ${said}, not ${String(value)}`);
  }
}

/** The daemon's address and the guest's name: the guest is the last part of the path, as for `millrace view`. */
function parts(url) {
  const whole = new URL(url, location.href), at = whole.pathname.lastIndexOf("/"), guest = decodeURIComponent(whole.pathname.slice(at + 1));
  const protocol = { "ws:": "http:", "wss:": "https:", "http:": "http:", "https:": "https:" }[whole.protocol];
  if (!protocol || !guest) throw new TypeError(`Millrace: url must be like https://HOST:PORT/GUEST, not ${url}`);
  return { root: new URL(whole.pathname.slice(0, at + 1), `${protocol}//${whole.host}`), guest };
}
