// A guest's desktop in a frame of another page, which `embed.js` makes there. It is told by messages what to show and with which secret, keeps
// that in no storage, and tells the page around it what becomes of it.
import { Listener } from "./listen.js";
import { plain } from "./messages.js";
import { Objects } from "./objects.js";
import { at, headers, kept, lend, protocols, socketUrl } from "./session.js";
import { absence, absenceCode } from "./standing.js";
import { Viewer } from "./viewer.js";

const $ = (id) => document.getElementById(id);
const AGAIN_MS = 1000, FOLLOWED = "api/v1/events?kinds=guest,screen,door", SCALES = ["fit", "actual", "guest"];
const REFUSALS = {
  401: "The token is not valid: it has been revoked or has expired.", 403: "This token may not watch the guest.", 404: "There is no such guest.",
};
/** Pages of these origins may show this one. The browser sees to that as well (frame-ancestors). */
const origins = [location.origin, ...document.querySelector("meta[name=origins]").content.split(" ").filter(Boolean)];
const own = (name) => `${encodeURIComponent(name)}/screen`;
let guest = "", around = "", player = null, joined = null, objects = new Objects();

const viewer = new Viewer({
  join: (name) => ({ url: socketUrl(own(name)), protocols: protocols() }),
  probe: (name) => ask(own(name)),
  told: (what, detail) => what === "state" ? turned(detail) : tell({ what, ...detail }),
  fills: true,
});
globalThis.millrace = { get viewer() { return viewer; }, get listener() { return player; } };

/** The HTTP status of an address of the daemon; 0 if it does not answer. */
const ask = (path) => fetch(at(path), { headers: headers(kept()) }).then(({ status }) => status, () => 0);

function tell(message) { if (around) parent.postMessage({ millrace: 1, ...message }, around); }

const CODES = { 401: "token", 403: "rights", 404: "guest" };
let turns = 0;
/** Tell a state, with its code. Why the daemon has ended the connection, or refuses it, it says to a plain request. */
async function turned({ state, why }) {
  const turn = ++turns, doors = objects.of("door", guest), bare = state === "gone" || (state === "idle" && viewer.screens?.length === 0);
  let code = bare ? absenceCode(doors) : state === "lost" || why ? "daemon" : "";
  if (state === "ended" || state === "forbidden") code = viewer.worker ? CODES[await ask(own(guest))] ?? "daemon" : "browser";
  if (turn === turns) tell({ what: "state", state, why: why || (bare ? absence(doors) : ""), code });
}

// Nothing is said to a page of another origin, and nothing it says is heard: messages can come from any window that knows this one.
addEventListener("message", ({ source, origin, data }) => {
  if (source !== parent || parent === window || !origins.includes(origin) || data?.millrace !== 1) return;
  around = origin;
  if (data.what === "open") open(data);
  else if (data.what === "settings") apply(data.settings);
  else if (data.what === "focus") $("stage").focus();
});

function open(message) {
  if (typeof message.guest !== "string" || typeof message.token !== "string" || guest) return;
  ({ guest } = message);
  lend(message.token);
  document.title = guest;
  apply(message.settings);
  follow();
}

// -- what is there ------------------------------------------------------------------------------

/** Follow the guest's screens. A refused WebSocket has no status, so a plain request asks for the reason. */
async function follow() {
  const status = await ask(own(guest));
  if (Object.hasOwn(REFUSALS, status)) { viewer.end(REFUSALS[status]); return; }
  const socket = new WebSocket(socketUrl(FOLLOWED), protocols());
  objects = new Objects();
  socket.onmessage = ({ data }) => { objects.apply(JSON.parse(data)); if (objects.whole) show(); };
  socket.onclose = () => setTimeout(follow, AGAIN_MS);
}

function show() {
  const doors = objects.of("door", guest);
  viewer.choose(guest, objects.of("screen", guest), absence(doors));
  // What its machine's door says may come after the screen has gone.
  if (viewer.state === "gone" || viewer.state === "idle") turned(viewer);
}

// -- settings -----------------------------------------------------------------------------------

/** Take on what is valid of these; the rest is left as it is. */
function apply(settings) {
  if (typeof settings !== "object" || settings === null) return;
  const { picture, scale, sound, tools } = settings;
  if (typeof picture === "string") viewer.prefer(picture);
  if (SCALES.includes(scale)) { $("screen-scale").value = scale; $("screen-scale").dispatchEvent(new Event("change")); }
  if (typeof tools === "boolean") { $("screen-tools").hidden = $("screen-tab").hidden = !tools; viewer.bar(true); }
  if (typeof sound === "boolean") hear(sound);
}

const toggle = $("screen-sound");
toggle.textContent = "Sound";
toggle.addEventListener("click", () => hear(!player));

// Before anybody has clicked or typed in this frame, browsers let no sound begin.
function hear(on) {
  if (on === Boolean(player)) return;
  removeEventListener("pointerup", touched);
  if (!on) { player.stop(); player = null; silent(""); return; }
  if (navigator.userActivation?.hasBeenActive === false) {
    addEventListener("pointerup", touched, { once: true });
    silent("The sound begins with the next click.");
    return;
  }
  player = new Listener(socketUrl(encodeURIComponent(guest)), {
    protocols: protocols(), latency: "normal", settings: { codec: "opus", bitrate: "128k", channels: "stereo" }, microphone: false, probe: () => ask(encodeURIComponent(guest)), on: heard,
  });
  toggle.setAttribute("aria-pressed", "true");
  player.start();
}

function heard(what, detail) {
  if (what === "stats") { viewer.sound(joined, detail); return; }
  if (what === "joined") { joined = detail.listener; tell({ what: "sound", plays: true }); }
  else if (what === "ended") { player = null; silent(detail); }
  else if (what === "still") tell({ what: "sound", plays: false, why: detail });
}

const touched = () => hear(true);

function silent(why) {
  viewer.sound(joined = null, null);
  toggle.setAttribute("aria-pressed", "false");
  tell({ what: "sound", plays: false, why });
}

if (parent !== window) for (const origin of origins) parent.postMessage({ millrace: 1, what: "ready" }, origin);
