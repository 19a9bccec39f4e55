// What there is in the daemon, as far as this browser may see it: the whole state where a connection begins, and from then on each object
// that is new, has changed or is gone. A WebSocket leaves nothing out and keeps the order, and a daemon that can't get rid of its messages
// ends it: so nothing is lost but by the end of the connection, and then the whole is fetched again.
const KINDS = ["guest", "sink", "source", "stream", "recorder", "listener", "request", "incident", "grant", "token"];
const LISTS = { sinks: "sink", sources: "source", streams: "stream", recorders: "recorder", listeners: "listener" };
/** What to watch. */
export const WATCHED = `api/v1/events?kinds=${KINDS.join()}`;

export class Objects {
  #all = new Map();
  #names = [];
  /** Numbers told in the first look of a connection; null when that is over. */
  #seen = new Set();

  /** Begin with the answers of GET /state and GET /incidents. */
  load(state, incidents) {
    this.#all.clear();
    this.#names = state.names;
    this.#seen = new Set();
    for (const guest of state.guests) {
      for (const [list, kind] of Object.entries(LISTS)) for (const one of guest[list]) this.#put(kind, guest.name, one);
    }
    for (const one of incidents) this.#put("incident", one.guest, one);
  }

  #put(kind, guest, is) { this.#all.set(Number(is.id.split("/")[1]), { kind, guest, is }); }

  /** Take over a message of the event stream. What was there before, and is not told in a first look, is gone. */
  apply({ there, gone, synced }) {
    for (const n of gone) this.#all.delete(n);
    for (const { n, kind, guest, is } of there) {
      this.#all.set(n, { kind, guest, is });
      this.#seen?.add(n);
    }
    if (!synced || !this.#seen) return;
    for (const n of this.#all.keys()) if (!this.#seen.has(n)) this.#all.delete(n);
    this.#seen = null;
  }

  /** Those of a kind, the oldest first; of one guest, or of all. */
  of(kind, guest = null) {
    const found = [...this.#all].filter(([, one]) => one.kind === kind && (guest === null || one.guest === guest));
    return found.sort(([a], [b]) => a - b).map(([, one]) => one.is);
  }

  /** Whether everything has been told: of rules, requests and tokens only the event stream tells. */
  get whole() { return this.#seen === null; }

  /** Names of all guests. */
  get names() { return this.#seen ? this.#names : this.of("guest").map((one) => one.name); }

  /** A guest with what is in it, as GET /state has it; undefined where there is none. */
  guest(name) {
    if (!this.names.includes(name)) return undefined;
    const lists = Object.fromEntries(Object.entries(LISTS).map(([list, kind]) => [list, this.of(kind, name)]));
    return { name, ...lists, streams: lists.streams.filter((stream) => stream.linked_to.length) };
  }
}
