// This browser's session. It is kept in localStorage, which belongs to the page's origin, port included: a cookie would go to every port
// of the host, whoever listens there. Browsers never send it by themselves. Behind a proxy, each path of an origin has its own entry.
/** Where the daemon is: a proxy may serve it under any path. */
const ROOT = new URL("../", import.meta.url);
const NAME = `millrace ${ROOT.pathname}`;
let here = null;

/** A URL of the daemon. */
export const at = (path) => new URL(path, ROOT);
/** The URL of one of its WebSockets. */
export function socketUrl(path) {
  const url = at(path);
  url.protocol = url.protocol.replace("http", "ws");
  return url.href;
}

/** The session, or null. Another tab may have started or ended it. */
export function kept() {
  try { return here ?? localStorage.getItem(NAME); } catch { return here; }
}

/** Store a session, or delete it with null. If the browser stores nothing, the session lasts as long as this page. */
export function keep(session) {
  here = null;
  try { if (session === null) localStorage.removeItem(NAME); else localStorage.setItem(NAME, session); } catch { here = session; }
}

/** Use a session or token in this page alone, and store it nowhere. */
export function lend(secret) { here = secret; }

/** Request headers that carry the session. */
export const headers = (session) => (session === null ? {} : { Authorization: `Bearer ${session}` });

const isA = (answer, type) => (answer.headers.get("Content-Type") ?? "").startsWith(type);

/** What the daemon says in an answer. One of another server may be a whole page, which is not shown: its text is "". */
export const said = async (answer) => isA(answer, "text/plain") ? (await answer.text()).trim() : "";

/** The value in an answer of the API. That of a proxy, or of whoever else is there, has none. */
export async function valueOf(answer) {
  const value = isA(answer, "application/json") ? await answer.json().catch(() => null) : answer.ok ? null : { error: await said(answer) };
  if (value === null) throw new Error("the answer is not the daemon's");
  const { status } = answer, error = value.error || (status >= 502 && status <= 504 ? `the proxy can't reach the daemon (${status})` : `status ${status}`);
  if (!answer.ok) throw Object.assign(new Error(error), { status, right: value.right, guest: value.guest });
  return value;
}

/** WebSocket subprotocols that carry the session: a browser can set no headers on a WebSocket. */
export const protocols = () => (kept() === null ? [] : ["millrace", `millrace.bearer.${kept()}`]);

/** Call `changed` when another tab starts or ends a session. */
export function watch(changed) {
  addEventListener("storage", ({ key }) => { if (key === NAME || key === null) changed(); });
}
