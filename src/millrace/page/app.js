// The control page: shows the state of the daemon and changes it, over the public API.
import { counted, el, graph, left, titled, used } from "./draw.js";
import { decibels, figures, levels, meters } from "./figures.js";
import { incident, listener } from "./lines.js";
import { Listener } from "./listen.js";
import { plain } from "./messages.js";
import { Objects, WATCHED } from "./objects.js";
import { REFUSALS, lacking, rightsLists } from "./rights.js";
import { at, headers, keep, kept, protocols, said, socketUrl, valueOf, watch } from "./session.js";
import { absence, tabTitle } from "./standing.js";
import { Viewer } from "./viewer.js";
import { viewerList } from "./viewers.js";
import { Wall } from "./wall.js";

const $ = (id) => document.getElementById(id);
const DRAW_EVERY_MS = 500, ENDED = 1008;
let drawn = 0, locked = false, socket = null;
/** How far the daemon's clock, by which tokens end and incidents are dated, is ahead of the browser's, in ms. */
let ahead = 0;
const daemonNow = () => (Date.now() + ahead) / 1000;
let state = {}, chosen = "", player = null, joined = null, ended = "";
const objects = new Objects();
globalThis.millrace = { get listener() { return player; }, get viewer() { return viewer; }, get state() { return { ...state, guests: [guest()].filter(Boolean) }; } };

// A 401 means that the session used for this request is over. Another tab may have ended it or begun a new one while the request was
// under way; then the request is repeated with the current one. Otherwise the page locks itself and sends the daemon nothing more until
// the user signs in.
async function api(method, path, body) {
  const session = kept(), type = body ? { "Content-Type": "application/json" } : {};
  const asked = fetch(at(`api/v1${path}`), { method, headers: { ...headers(session), ...type }, body: body ? JSON.stringify(body) : undefined });
  // What a browser says of a request that fails is not for people.
  const answer = await asked.catch(() => { throw new Error("the daemon does not answer"); });
  if (answer.status === 401) {
    // Another tab has signed in or out in the meantime.
    if (kept() !== session) return api(method, path, body);
    if (session !== null && !$("why").textContent) because(over());
    lock("not signed in");
    throw new Error("not signed in");
  }
  const date = Date.parse(answer.headers.get("Date"));
  if (date) ahead = date - Date.now();
  return valueOf(answer);
}

/** Why the session is over: the daemon says it as it closes the connection. */
const over = () => ended ? `Your session has ended: ${ended}. Sign in again.` : "Your session has ended. Sign in again.";

/** Show only the sign-in form, or everything but it. */
function shut(on) {
  $("login").hidden = !on;
  $("leave").hidden = on || kept() === null;
  document.body.classList.toggle("locked", on);
}

let away = "";
/** Whether the daemon is gone: what is shown of it is old. */
function lose(gone) {
  away = gone ? away || new Date().toLocaleTimeString() : "";
  document.body.classList.toggle("away", gone);
  wall.lose(away);
  entitle();
}
const entitle = () => { document.title = locked ? tabTitle("Sign in", "", "") : onWall() ? tabTitle("All guests", "", away) : tabTitle(chosen, viewer.state, away); };

/** This browser has no valid credential: show the sign-in form, and make no requests until somebody signs in. */
function lock(text) {
  locked = true;
  shut(true);
  say(text);
  socket?.close();
  if (player) { player.stop(); player = null; stopped("You are signed out."); }
  viewer.choose("", null);
  wall.stop();
  lose(false);
}

/** Say why the sign-in form is shown again. */
const because = (text, bad = false) => { $("why").textContent = text; $("why").className = bad ? "bad" : ""; };
/** Say what is wrong with the token that was entered. */
const wrong = (text) => { $("wrong").textContent = text; $("token").setAttribute("aria-invalid", String(Boolean(text))); };

/** Sign in with a token or a link's code. Returns "", or the reason for a refusal; `invalid` replaces that of a 401. */
async function enter(secret, invalid = REFUSALS[401]) {
  const answer = await fetch(at("session"), { method: "POST", headers: headers(secret) });
  if (!answer.ok) {
    // Of another refusal only the daemon knows the reason.
    const text = await said(answer);
    return answer.status === 401 ? invalid : REFUSALS[answer.status] ?? `Sign-in was refused: ${plain(text) || `status ${answer.status}`}`;
  }
  keep((await answer.json()).session ?? secret);
  unlock();
  return "";
}

function unlock() {
  locked = false;
  because("");
  wrong("");
  shut(false);
}

/** Sign out in every tab; the daemon closes everything that uses the session. */
async function leave() {
  const session = kept();
  keep(null);
  signedOut();
  const answer = await fetch(at("session"), { method: "DELETE", headers: headers(session) }).catch(() => null);
  if (!answer?.ok && answer?.status !== 401) say("signed out in this browser, but the daemon did not confirm it", true);
}

function signedOut() {
  because("");
  lock("signed out");
}

/** Another tab has signed in or out. */
function changed() {
  if (kept() === null) { if (!locked) signedOut(); } else if (locked) { unlock(); begin(); }
}

/** The one-time code in the fragment of a link from `millrace page`. */
const coded = () => new URLSearchParams(location.hash.slice(1)).get("in");
/** Sign in with a link's code, which is removed from the browser's history. */
async function entered() {
  const code = coded();
  if (!code) return;
  history.replaceState(null, "", location.pathname + location.search);
  const refused = await enter(code, "This link has already been used or has expired. Run “millrace page” for another one, or enter a token.");
  if (refused) because(refused, true);
}

/** Do what the user asked for, and show what went wrong. The result arrives on the event stream. */
async function act(work) {
  try { await work(); } catch (error) { trouble(error); }
  // A refused change must spring back to the actual value.
  soon();
}
/** Not being signed in is not an error. */
const trouble = (error) => say(lacking(error, error.message), !locked);
const say = (text, bad = false) => { $("status").textContent = text; $("status").className = bad ? "bad" : ""; };
const guest = () => objects.guest(chosen);
/** Whether this browser has a right in the guests that it sees. */
const may = (right) => !state.may || state.may.includes(right);
const set = (target, settings) => act(() => api("POST", "/set", { target, guest: chosen, settings }));

// -- looking ------------------------------------------------------------------------------------

/** Fetch the whole state, once per connection. */
async function look() {
  const asked = chosen, of = asked ? `?guest=${encodeURIComponent(asked)}` : "";
  let incidents;
  try {
    [state, incidents] = await Promise.all([api("GET", `/state${of}`), api("GET", "/incidents")]);
  } catch (error) {
    if (error.status !== 404 || !asked) throw error;
    // There is no such guest, or it may not be seen; the rest is fetched all the same.
    [state, incidents] = await Promise.all([api("GET", "/state"), api("GET", "/incidents")]);
  }
  if (locked) return;
  objects.load(state, incidents);
  shut(false);
  draw();
}

let due = false;
/** Draw soon, so that a burst of changes is drawn once. */
function soon() {
  if (due || locked) return;
  due = true;
  setTimeout(() => { due = false; if (!locked) draw(); }, Math.max(120, drawn + DRAW_EVERY_MS - performance.now()));
}

/** Follow changes after a successful look(). A browser whose session has ended learns that from look(): a failed WebSocket has no status. */
function follow() {
  if (locked) return;
  let lost = "the daemon answers, but the WebSocket that carries sound and changes does not open: a proxy must forward WebSockets; retrying";
  socket = new WebSocket(socketUrl(WATCHED), protocols());
  socket.onopen = () => { lost = "the daemon does not answer; retrying"; lose(false); say("connected"); measure(); };
  socket.onmessage = ({ data }) => { objects.apply(JSON.parse(data)); soon(); };
  socket.onclose = ({ code, reason }) => { ended = code === ENDED ? plain(reason) : ""; if (!locked) again(ended ? `${ended}; reconnecting` : lost); };
}

/** Subscribe to the shown guest's levels and latencies (once a second) while the page is visible. */
function measure() {
  if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify({ measure: document.hidden || onWall() || !chosen ? null : chosen }));
}

/** Show the state, then follow its changes: at the start, and whenever somebody has signed in, who may have other rights. */
const begin = () => look().then(follow, (error) => locked ? trouble(error) : again(`${error.message}; retrying`));

function again(text) {
  say(text, true);
  lose(true);
  setTimeout(begin, 1000);
}

// -- drawing ------------------------------------------------------------------------------------

/** Replace an element's children, unless the user is operating one of them. */
function fill(id, ...children) {
  const box = $(id), active = document.activeElement;
  if (box.contains(active) && active.matches("input, select")) return;
  const focus = box.contains(active) ? active.getAttribute("aria-label") : null;
  box.replaceChildren(...children);
  if (focus) box.querySelector(`[aria-label="${CSS.escape(focus)}"]`)?.focus();
}

// Lists show their first FOLD items, unless the user asks for all or filters them. The graph shows the same streams and sinks.
const FOLD = 12, unfolded = new Set();
/** Whether a node matches the filter. */
const found = (node) => `${node.id} ${node.application ?? ""} ${node.name}`.toLowerCase().includes($("filter").value.trim().toLowerCase());
/** The items of a list that are shown. */
const folded = (what, items) => (unfolded.has(what) ? items : items.slice(0, FOLD));
/** Items of a list as elements, and a button for the rest if there are more. */
function list(what, items, shape) {
  const open = unfolded.has(what), text = open ? `Show ${FOLD} ${what}` : `Show all ${items.length} ${what}`;
  const toggle = () => { if (open) unfolded.delete(what); else unfolded.add(what); draw(); document.querySelector(`[data-list="${what}"]`)?.focus(); };
  return [...folded(what, items).map(shape), items.length > FOLD ? el("button", { type: "button", class: "more", "data-list": what, click: toggle }, text) : null].filter(Boolean);
}

/** What is shown of a guest: its lists, filtered and folded. */
function shown(one) {
  const streams = folded("streams", one.streams.filter(found)), sinks = folded("sinks and sources", [...one.sinks, ...one.sources].filter(found));
  return { ...one, streams, sinks, sources: [], listeners: folded("listeners", one.listeners) };
}

function drawGraph() {
  const one = guest();
  if (!one) return;
  const part = shown(one), count = (of) => of.streams.length + of.sinks.length + of.sources.length + of.listeners.length, hidden = count(one) - count(part);
  fill("graph", graph(part, Math.max(280, $("graph").clientWidth), one, hidden));
  $("graph-rest").textContent = hidden ? `${left(hidden)} here: use the filter, or “Show all”.` : "";
}
addEventListener("resize", drawGraph);

function draw() {
  drawn = performance.now();
  const names = objects.names, select = $("guest");
  if (!chosen && names.length) {
    // Of many guests none is meant.
    if (names.length > FOLD && !location.hash) { history.replaceState(null, "", "#wall"); route(); return; }
    [chosen] = names;
    measure();
  }
  $("to-wall").hidden = names.length < 2 && !onWall();
  if (names.join() !== [...select.options].map((one) => one.value).join()) select.replaceChildren(...names.map((name) => el("option", {}, name)));
  select.value = chosen;
  select.title = chosen;
  wall.turn(onWall());
  entitle();
  drawMissing(names);
  if (onWall()) { wall.draw(objects, daemonNow()); return; }
  drawRights();
  drawOffers();
  drawScreen();
  const one = guest();
  if (!one) return;
  const sinks = [...one.sinks, ...one.sources], level = (node) => levelled(node, one);
  $("filtered").hidden = one.streams.length <= FOLD && sinks.length <= FOLD && !$("filter").value;
  const mix = [...list("streams", one.streams.filter(found), level), ...list("sinks and sources", sinks.filter(found), level)];
  fill("mix", ...(mix.length ? mix : [el("p", { class: "soft" }, "Nothing matches the filter.")]));
  fill("listeners", ...(one.listeners.length ? list("listeners", one.listeners, (each) => listener(each, set, changes())) : [el("p", { class: "soft" }, "No listeners.")]));
  drawGraph();
  const mine = objects.of("incident").filter((each) => !each.guest || each.guest === chosen)
    .sort((a, b) => b.last - a.last).slice(0, 30);
  fill("incidents", ...(mine.length ? mine.map(incident) : [el("li", { class: "soft none" }, "None.")]));
}

/** A guest that is not there, or not for this browser: say so, and offer those that are. Nothing else is shown in its place. */
function drawMissing(names) {
  const missing = !onWall() && !names.includes(chosen);
  document.body.classList.toggle("missing", missing);
  $("missing").hidden = !missing;
  if (!missing) return;
  if (player) toggle();
  viewer.choose("", null);
  $("missing-title").textContent = chosen ? `There is no guest “${plain(chosen)}”, or you may not see it.` : "There is no guest that you may see.";
  $("missing-help").textContent = names.length ? "There are:" : "Whoever runs Millrace can make one, or give you rights in one.";
  fill("missing-guests", ...names.map((name) => el("li", {}, el("a", { href: `#/${encodeURIComponent(name)}` }, name))));
}

/** What this browser has no right for is not offered. */
function drawOffers() {
  const hears = may("hear"), why = "You lack the right “hear” in this guest.";
  for (const id of ["listen", "screen-sound", "latency", "codec", "bitrate", "frame"]) { $(id).disabled = !hears; $(id).title = hears ? "" : why; }
  if (!player && (why === $("heard").textContent) === hears) $("heard").textContent = hears ? "Press Listen to hear this guest." : why;
  const speaks = may("speak");
  $("microphone").disabled = !speaks || !("AudioEncoder" in globalThis) || !navigator.mediaDevices;
  $("microphone").parentElement.title = !speaks ? "You lack the right “speak” in this guest."
    : $("microphone").disabled ? "Browsers open the microphone only on secure pages (https, or localhost), and Millrace needs one that encodes Opus." : "";
}

/** Attributes of a control that changes something: without the right, why it does not. */
const changes = () => may("control") ? {} : { disabled: true, title: "You lack the right “control” in this guest." };

function levelled(node, one) {
  const volume = Array.isArray(node.volume) ? Math.max(...node.volume) : node.volume, stream = node.id.startsWith("stream");
  const label = stream ? titled(node) : `${node.id.split("/")[0]} ${node.name}`;
  const range = el("input", { type: "range", min: 0, max: 150, value: volume, "aria-label": `Volume of ${label}, percent`, ...changes(),
    change: (event) => set(node.id, { volume: `${event.target.value}%` }) });
  const mute = el("button", { type: "button", "aria-pressed": String(node.mute), "aria-label": `Mute ${label}`, ...changes(),
    click: () => set(node.id, { mute: !node.mute }) }, node.mute ? "Muted" : "Mute");
  const move = stream && one.sinks.length > 1
    ? el("select", { "aria-label": `Sink of ${label}`, ...changes(), change: (event) => act(() => api("POST", "/move", { target: node.id, to: event.target.value, guest: chosen })) },
      ...one.sinks.map((sink) => el("option", { value: sink.id, selected: sink.id === node.sink }, sink.name))) : null;
  const idle = !stream && !used(node, one), level = stream || idle ? null : el("div", { class: "level" },
    el("meter", { min: -60, max: 0, high: -6, value: decibels(node.rms), "aria-label": `Level of ${label}, RMS, dB` }),
    el("span", { class: "soft" }, levels(node.peak, node.rms)));
  const facts = [idle ? "unused" : node.state, node.format && `${node.format} ${node.rate} Hz`, node.underruns && counted(node.underruns, "underrun"),
    node.drift_ppm != null && `${node.drift_ppm} ppm`, node.ducked_db && `${node.ducked_db} dB, ducked`].filter(Boolean).join(", ");
  return el("div", { class: "thing" }, el("b", {}, label), el("span", { class: "soft" }, ` ${node.id}, ${facts}`),
    el("div", { class: "row" }, range, el("div", { class: "beside" }, el("span", {}, `${volume} %`), mute, move)), level);
}

/** The guest's screen, if it has one. A daemon without screens lists none. */
function drawScreen() {
  const screens = state.guests?.some((one) => one.screens) ? guest()?.screens ?? null : null;
  if (guest()) viewer.choose(chosen, screens, absence(guest().doors));
  $("to-screen").hidden = $("screen").hidden;
  const viewers = guest()?.viewers ?? [];
  $("viewers-box").hidden = !viewers.length;
  fill("viewers", ...viewerList(viewers, viewer.id, viewer.mayType ? () => viewer.hold(true) : null, Boolean(screens?.length)));
}

/** Rules, requests and tokens. Only clients with every right see them, and only these are told `state.policy`. */
function drawRights() {
  if (!objects.whole) return;
  $("rights").hidden = state.policy === undefined;
  if ($("rights").hidden) return;
  const [rules, requests, tokens] = ["grant", "request", "token"].map((kind) => objects.of(kind));
  const does = (method, path, body) => act(() => api(method, path, body));
  for (const [id, lines] of Object.entries(rightsLists({ rules, requests, tokens }, does, daemonNow()))) fill(id, ...lines);
}

// -- listening ----------------------------------------------------------------------------------

function quality() {
  const frame = $("frame").value;
  return { codec: $("codec").value, bitrate: `${$("bitrate").value}k`, channels: "stereo", ...(frame === "auto" ? {} : { frame }) };
}

function toggle() {
  if (player) { player.stop(); player = null; stopped("Stopped."); return; }
  player = new Listener(socketUrl(encodeURIComponent(chosen)), {
    protocols: protocols(), latency: $("latency").value, settings: quality(), microphone: $("microphone").checked,
    probe: () => fetch(at(encodeURIComponent(chosen)), { headers: headers(kept()) }).then(({ status }) => status, () => 0),
    wasm: new URLSearchParams(location.search).get("decoder") === "wasm", on: heard,
  });
  listens(true);
  $("heard").textContent = "Connecting…";
  player.start();
}

/** Both buttons: in the player, and beside the picture. */
function listens(on) {
  for (const [id, stop] of [["listen", "Stop"], ["screen-sound", "Stop sound"]]) { $(id).textContent = on ? stop : "Listen"; $(id).setAttribute("aria-pressed", String(on)); }
}

function stopped(text) {
  viewer.sound(joined = null, null);
  meters([0, 0], [0, 0]);
  listens(false);
  $("heard").textContent = text;
}

function heard(what, detail) {
  if (what === "stats") { figures(detail); viewer.sound(joined, detail, $("latency").value === "low"); return; }
  if (what === "joined") joined = detail.listener;
  if (what === "joined") $("heard").textContent = `Hearing ${detail.guest}, sink ${detail.sink}.`;
  else if (what === "microphone") say({ on: "a program in the guest is recording your microphone", ready: "no program in the guest is recording your microphone", forbidden: "this guest does not allow microphones" }[detail]);
  else if (what === "ended") { player = null; stopped(detail); }
  else if (what === "settings") { if (detail.latency) $("latency").value = detail.latency; }
  else $("heard").textContent = detail;
  if (what === "still" || what === "joined" || what === "ended") $("heard").className = what === "still" ? "bad" : "";
  // Otherwise the meters would keep showing the last level.
  if (what === "still" || what === "ended") meters([0, 0], [0, 0]);
}

// -- what is shown: #wall, or #/GUEST -----------------------------------------------------------

const onWall = () => location.hash === "#wall";

/** Show a guest. */
function choose(name) {
  if (name === chosen) return;
  chosen = name;
  if (player) toggle();
  measure();
}

let routed = null;
/** Follow the address: the wall, a guest, or a section of what is shown. */
function route() {
  // A link that was opened in this tab changes only the fragment, and the browser loads nothing: begin anew.
  if (coded()) { location.reload(); return; }
  const wanted = location.hash.startsWith("#/") ? location.hash.slice(2) : null;
  if (wanted) try { choose(decodeURIComponent(wanted)); } catch { /* An address that somebody mistyped. */ }
  const walled = onWall(), shown = walled ? location.hash : chosen;
  // The place in one guest's page, or in the wall, says nothing of that in another.
  if (shown !== routed) { routed = shown; scrollTo(0, 0); }
  document.body.classList.toggle("walled", walled);
  $("guests").hidden = !walled;
  $("to-wall").setAttribute("aria-current", walled ? "page" : "false");
  if (walled) viewer.choose("", null);
  measure();
  // Before the state is there, nothing of it is chosen.
  if (state.names && !locked) draw();
}

// -- beginning ----------------------------------------------------------------------------------

const wall = new Wall($("tiles"), $("wall-filter"), $("wall-facts"));
const screenOf = (name) => `${encodeURIComponent(name)}/screen`;
const viewer = new Viewer({
  join: (name) => ({ url: socketUrl(screenOf(name)), protocols: protocols() }),
  probe: (name) => fetch(at(screenOf(name)), { headers: headers(kept()) }).then(({ status }) => status, () => 0),
  told: (what) => { if (what === "state") entitle(); },
});

for (const id of ["listen", "screen-sound"]) $(id).addEventListener("click", toggle);
$("guest").addEventListener("change", (event) => { history.pushState(null, "", `#/${encodeURIComponent(event.target.value)}`); route(); });
for (const kind of ["hashchange", "popstate"]) addEventListener(kind, route);
$("filter").addEventListener("input", () => draw());
$("bitrate").addEventListener("input", () => { $("bitrate-shown").textContent = `${$("bitrate").value} kb/s`; });
$("microphone").addEventListener("change", () => { if (player) { toggle(); toggle(); } });
for (const id of ["bitrate", "codec", "frame"]) $(id).addEventListener("change", () => player?.set(id === "frame" ? { frame: $("frame").value } : quality()));
$("latency").addEventListener("change", () => player?.set({ latency: $("latency").value }));
$("login").addEventListener("submit", async (event) => {
  event.preventDefault();
  const given = $("token").value;
  $("token").value = "";
  wrong("");
  because("");
  try {
    const refused = await enter(given);
    if (!refused) { await begin(); return; }
    wrong(refused);
  } catch { wrong("Millrace does not answer. Try again."); }
  $("token").focus();
});
$("leave").addEventListener("click", leave);
watch(changed);
document.addEventListener("visibilitychange", () => { measure(); soon(); });
// fill() did not redraw what the user was operating.
document.addEventListener("focusout", soon);
entered().catch(() => because("Millrace does not answer. Open the link again.", true)).then(() => { route(); return begin(); });
