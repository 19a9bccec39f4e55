// The daemon's objects that this browser has the right to see: the whole state at the start of a connection, then each object
// that is added, changed or removed. A WebSocket is reliable and ordered, and the daemon closes it when messages pile up,
// so changes are lost only when the connection ends, and then the whole state is fetched again.
const KINDS = ["guest", "sink", "source", "stream", "recorder", "listener", "door", "screen", "viewer", "request", "incident", "grant", "token"];
const LISTS = { sinks: "sink", sources: "source", streams: "stream", recorders: "recorder", listeners: "listener", doors: "door", screens: "screen", viewers: "viewer" };
/** The event stream to subscribe to. */
export const WATCHED = `api/v1/events?kinds=${KINDS.join()}`;

// GET /state gives the page something to show at once; the event stream then sends the same objects again, and every change. An object
// may have been removed between the two. There is no message about it, as the stream began after it was gone, but then it is not among
// those that the stream sent before `synced`.
export class Objects {
  #all = new Map();
  #names = [];
  /** Object numbers received in the connection's initial state; null once that is complete. */
  #seen = new Set();

  /** Start from the responses to GET /state and GET /incidents. */
  load(state, incidents) {
    this.#all.clear();
    this.#names = state.names;
    this.#seen = new Set();
    for (const guest of state.guests) {
      for (const [list, kind] of Object.entries(LISTS)) for (const one of guest[list] ?? []) this.#put(kind, guest.name, one);
    }
    for (const one of incidents) this.#put("incident", one.guest, one);
  }

  #put(kind, guest, is) { this.#all.set(Number(is.id.split("/")[1]), { kind, guest, is }); }

  /** Apply a message of the event stream. When the initial state is complete, objects that it did not contain are removed. */
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

  /** Objects of a kind, oldest first, in one guest or in all. */
  of(kind, guest = null) {
    const found = [...this.#all].filter(([, one]) => one.kind === kind && (guest === null || one.guest === guest));
    return found.sort(([a], [b]) => a - b).map(([, one]) => one.is);
  }

  /** Objects of these kinds of each guest, found in one pass: a function of a guest's name gives {kind: [objects]}. */
  byGuest(kinds) {
    const none = () => Object.fromEntries(kinds.map((kind) => [kind, []])), found = new Map();
    for (const { kind, guest, is } of this.#all.values()) {
      if (!kinds.includes(kind)) continue;
      if (!found.has(guest)) found.set(guest, none());
      found.get(guest)[kind].push(is);
    }
    return (name) => found.get(name) ?? none();
  }

  /** Whether the initial state is complete. Rules, requests and tokens arrive only on the event stream. */
  get whole() { return this.#seen === null; }

  /** Names of all guests. */
  get names() { return this.#seen ? this.#names : this.of("guest").map((one) => one.name); }

  /** A guest with its objects, in the form of GET /state; undefined if there is none. */
  guest(name) {
    if (!this.names.includes(name)) return undefined;
    const lists = Object.fromEntries(Object.entries(LISTS).map(([list, kind]) => [list, this.of(kind, name)]));
    return { name, ...lists, streams: lists.streams.filter((stream) => stream.linked_to.length) };
  }
}
