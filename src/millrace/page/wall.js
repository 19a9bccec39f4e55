// The wall: every guest that this browser may see with a small picture of its screen, for operators. One connection carries the pictures of
// all guests that are in view (docs/page.md), and only what changed of each, at most once a second.
import { counted, el } from "./draw.js";
import { plain } from "./messages.js";
import { jpegSize, pngSize } from "./pictures.js";
import { lacking } from "./rights.js";
import { protocols, socketUrl } from "./session.js";
import { doorRemark, ofGuest, standing } from "./standing.js";

const HEAD = 14, KIND = 1, SIDE_MAX = 1024, SHOWN_MAX = 256, AGAIN_MS = 1000, TOLD_MS = 60, RECENT_S = 600, NAMED = 2, FILTERED_FROM = 12;
/** The least width of a tile, by how many there are: few are shown larger. */
const WIDTHS = [[6, "24rem"], [20, "18rem"], [Infinity, "13rem"]];

/** Parses a message with a thumbnail, or a changed part of one; null if it is damaged. */
export function parseThumbnail(buffer) {
  const view = new DataView(buffer);
  if (buffer.byteLength <= HEAD || view.getUint8(0) !== KIND) return null;
  const [width, height, x, y, w, h] = [2, 4, 6, 8, 10, 12].map((at) => view.getUint16(at, true)), from = HEAD + view.getUint8(1);
  if (!w || !h || width > SIDE_MAX || height > SIDE_MAX || x + w > width || y + h > height || from >= buffer.byteLength) return null;
  const bytes = new Uint8Array(buffer, from), size = pngSize(bytes) ?? jpegSize(bytes);
  if (size?.[0] !== w || size[1] !== h) return null;
  return { guest: new TextDecoder().decode(new Uint8Array(buffer, HEAD, from - HEAD)), width, height, x, y, w, h, bytes };
}

/** One guest on the wall. */
class Tile {
  constructor(name) {
    this.name = name; this.why = ""; this.drawn = this.away = false; this.busy = Promise.resolve();
    this.canvas = el("canvas", { width: 16, height: 10 });
    this.says = el("span", { class: "tile-says" });
    this.facts = el("span", { class: "soft" }); this.who = el("span", { class: "soft" }); this.mark = el("span", { class: "mark" }); this.word = el("span", { class: "word" });
    this.rank = 0;
    const picture = el("span", { class: "tile-picture" }, this.canvas, this.says);
    this.node = el("li", { "data-guest": name }, el("a", { href: `#/${encodeURIComponent(name)}` }, picture,
      el("span", { class: "tile-name" }, el("b", { title: name }, name), this.mark, this.word), this.facts, this.who));
  }

  /** Draw what has come, in its order: each part is drawn over the one before. */
  show(part) { this.busy = this.busy.then(() => this.#paint(part)); }

  async #paint({ width, height, x, y, w, h, bytes }) {
    const { canvas } = this;
    let bitmap;
    try { bitmap = await createImageBitmap(new Blob([bytes], { type: bytes[0] === 0x89 ? "image/png" : "image/jpeg" })); } catch { return; }
    if (canvas.width !== width || canvas.height !== height) { canvas.width = width; canvas.height = height; }
    if (bitmap.width === w && bitmap.height === h) canvas.getContext("2d", { alpha: false }).drawImage(bitmap, x, y);
    bitmap.close();
    this.drawn = true;
    this.say();
  }

  /** Say what is known of the guest: its objects by kind. */
  tell(objects, now) {
    const { screen, viewer, door, stream, incident } = objects, [first] = screen, sounds = stream.some((one) => one.state === "running");
    const recent = incident.filter((one) => now - one.last < RECENT_S).sort((a, b) => b.last - a.last);
    const own = recent.filter(ofGuest), { rank, state, word, why } = standing(objects, own.length > 0), doors = first ? doorRemark(door) : { text: "", why: "" };
    Object.assign(this, { rank, none: why });
    this.node.dataset.state = state;
    put(this.word, word);
    const size = first?.width ? `${first.width} × ${first.height}` : "", more = screen.length > 1 ? counted(screen.length, "screen") : "";
    put(this.facts, [size, more, sounds ? "plays sound" : "", doors.text].filter(Boolean).join(", "));
    if (this.facts.title !== doors.why) this.facts.title = doors.why;
    put(this.who, watchers(viewer));
    // Those of a busy host or of a listener's line are not the guest's fault, and are not marked as if they were.
    const sum = (all) => all.reduce((count, one) => count + one.count, 0), count = sum(own), around = sum(recent);
    put(this.mark, count ? counted(count, "incident") : around ? `${around} around it` : "");
    this.mark.classList.toggle("around", !count);
    const title = [...own, ...recent.filter((one) => !ofGuest(one))].slice(0, 5).map((one) => `${one.stage}: ${one.cause}`).join("\n");
    if (this.mark.title !== title) this.mark.title = title;
    this.say();
  }

  /** Say what is in the place of the picture; `away`: the daemon is gone, and nothing is on its way. */
  say(away = this.away) {
    this.away = away;
    const none = this.why || this.none || "", words = none || (this.drawn ? "" : away ? "no picture" : "…");
    put(this.says, words);
    this.says.hidden = !words;
    this.node.classList.toggle("old", Boolean(none));
  }
}

const put = (node, text) => { if (node.textContent !== text) node.textContent = text; };

/** Who watches, the one with the keyboard first: "alice types, bob watches, 2 more"; empty if nobody does. */
export function watchers(viewers) {
  const typing = viewers.filter((one) => one.keyboard), others = viewers.filter((one) => !one.keyboard);
  const named = [...typing, ...others].slice(0, NAMED).map((one) => `${plain(one.name)} ${one.keyboard ? "types" : "watches"}`);
  const more = viewers.length - named.length;
  return named.length ? [...named, ...(more ? [`${more} more`] : [])].join(", ") : "";
}

const KINDS = ["screen", "viewer", "door", "stream", "incident"];

/** All guests. `shown` is whether the wall is what the page shows. */
export class Wall {
  #tiles = new Map();
  #seen = new Set();
  #socket = null;
  #told = null;

  constructor(list, filter, facts) {
    Object.assign(this, { list, filter, facts, shown: false, away: "" });
    this.watcher = new IntersectionObserver((entries) => this.#moved(entries), { rootMargin: "150px" });
    filter.addEventListener("input", () => this.#sift());
    document.addEventListener("visibilitychange", () => this.#soon());
  }

  /** Show it, or no longer. */
  turn(shown) {
    if (shown === this.shown) return;
    this.shown = shown;
    if (shown) this.#connect(); else this.stop();
  }

  /** End the connection: the page shows something else, or its session is over. */
  stop() {
    this.shown = false;
    clearTimeout(this.again);
    this.#close();
    for (const tile of this.#tiles.values()) tile.node.remove();
    this.#tiles.clear(); this.#seen.clear(); this.watcher.disconnect();
  }

  /** Follow the guests: those that are new appear, those that are gone vanish. `now` is the daemon's, in seconds since 1970. */
  draw(objects, now) {
    if (!this.shown) return;
    const names = objects.names, of = objects.byGuest(KINDS);
    for (const [name, tile] of this.#tiles) if (!names.includes(name)) this.#drop(name, tile);
    for (const name of names) {
      if (!this.#tiles.has(name)) this.#add(name);
      this.#tiles.get(name).tell(of(name), now);
    }
    this.#sort(names);
    this.#sift();
  }

  /** Those in trouble first, otherwise in the order of the names. Nothing moves under the pointer or away from the focus. */
  #sort(names) {
    if (this.list.contains(document.activeElement) || this.list.querySelector("a:hover")) return;
    const tiles = names.map((name) => this.#tiles.get(name)).sort((a, b) => a.rank - b.rank);
    for (const [at, { node }] of tiles.entries()) if (this.list.children[at] !== node) this.list.insertBefore(node, this.list.children[at] ?? null);
    this.list.style.setProperty("--tile", WIDTHS.find(([most]) => tiles.length <= most)[1]);
  }

  #add(name) {
    const tile = new Tile(name);
    this.#tiles.set(name, tile);
    this.list.append(tile.node);
    this.watcher.observe(tile.node);
  }
  #drop(name, tile) {
    this.watcher.unobserve(tile.node);
    tile.node.remove();
    this.#tiles.delete(name); this.#seen.delete(name);
    this.#soon();
  }

  #sift() {
    const wanted = this.filter.value.trim().toLowerCase(), { size } = this.#tiles;
    let found = 0;
    for (const [name, { node }] of this.#tiles) { node.hidden = !name.toLowerCase().includes(wanted); found += node.hidden ? 0 : 1; }
    this.filter.parentElement.hidden = size <= FILTERED_FROM && !wanted;
    put(this.facts, [found === size ? counted(size, "guest") : `${found} of ${counted(size, "guest")}`, this.away].filter(Boolean).join(", "));
  }

  /** The daemon is gone: what is shown is as it was at `since`, a time for people; "" as soon as it is back. */
  lose(since) {
    this.away = since && `as of ${since}`;
    for (const tile of this.#tiles.values()) tile.say(Boolean(since));
    if (this.shown) this.#sift();
  }

  // -- pictures ---------------------------------------------------------------------------------

  #moved(entries) {
    for (const { target, isIntersecting } of entries) {
      const name = target.dataset.guest;
      if (isIntersecting) this.#seen.add(name); else this.#seen.delete(name);
    }
    this.#soon();
  }

  /** Tell which guests are in view, once for a burst of changes. */
  #soon() {
    clearTimeout(this.#told);
    this.#told = setTimeout(() => {
      const show = document.hidden ? [] : [...this.#seen].slice(0, SHOWN_MAX);
      if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify({ show }));
    }, TOLD_MS);
  }

  #connect() {
    const socket = this.#socket = new WebSocket(socketUrl("api/v1/thumbnails"), protocols());
    socket.binaryType = "arraybuffer";
    socket.onopen = () => { this.list.classList.remove("lost"); this.#soon(); };
    socket.onmessage = ({ data }) => { if (socket === this.#socket) this.#heard(data); };
    // What is shown may be old now. The page's own connection says why.
    socket.onclose = () => {
      if (socket !== this.#socket) return;
      this.list.classList.add("lost");
      this.again = setTimeout(() => { if (this.shown) this.#connect(); }, AGAIN_MS);
    };
  }
  #close() {
    const socket = this.#socket;
    this.#socket = null;
    socket?.close();
  }

  #heard(data) {
    if (typeof data !== "string") {
      const part = parseThumbnail(data);
      if (part) this.#tiles.get(part.guest)?.show(part);
      return;
    }
    const { guest, why, right } = JSON.parse(data), tile = this.#tiles.get(guest);
    if (!tile) return;
    tile.why = lacking({ right, guest }, plain(why));
    tile.say();
  }
}
