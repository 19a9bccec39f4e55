// Who this browser is. It is kept in the storage of this page's origin, port and all: a cookie would go to every port of its host,
// whoever listens there. Nothing sends it by itself; behind a proxy, pages below another path of the same origin have names of their own.
const NAME = `millrace ${new URL(".", document.baseURI).pathname}`;
let here = null;

/** The session, or null. Another tab may have begun or ended it. */
export function kept() {
  try { return here ?? localStorage.getItem(NAME); } catch { return here; }
}

/** Keep a session, or with null forget it; where the browser keeps nothing, it lasts as long as this page. */
export function keep(session) {
  here = null;
  try { if (session === null) localStorage.removeItem(NAME); else localStorage.setItem(NAME, session); } catch { here = session; }
}

/** Headers of a request. */
export const headers = (session) => (session === null ? {} : { Authorization: `Bearer ${session}` });

/** Subprotocols of a WebSocket, which can have no headers. */
export const protocols = () => (kept() === null ? [] : ["millrace", `millrace.bearer.${kept()}`]);

/** Hear that another tab has begun or ended one. */
export function watch(changed) {
  addEventListener("storage", ({ key }) => { if (key === NAME || key === null) changed(); });
}
