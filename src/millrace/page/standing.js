// What state a guest is in, from its objects: on the wall in a word and a colour, on its own page in a sentence.
import { plain } from "./messages.js";

/** Why the machines of a guest can't be reached, a sentence for each; empty if all can, or it has none. */
export const doorTroubles = (doors) => doors.filter((one) => one.error).map((one) => `${plain(one.door)}: ${plain(one.error)}.`);

/** What is said beside a live screen of doors that wait: {text, why}, both empty if none does. */
export function doorRemark(doors) {
  const troubles = doorTroubles(doors), some = troubles.length > 1 ? "wait" : "waits";
  return troubles.length ? { text: `${troubles.length} of ${doors.length} doors ${some}`, why: troubles.join("\n") } : { text: "", why: "" };
}

const GUESTS = new Set(["machine", "screen", "client", "recorder", "requests", "guest", "rights"]);
/** Whether an incident is of the guest or its machine, and not of the host, or of who listens and watches. */
export const ofGuest = ({ stage, cause }) => GUESTS.has(stage) || (stage === "cycle" && cause !== "overran");

/** Why a guest has no screen, in a word for programs: docs/page.md lists them. */
export const absenceCode = (doors) => doors.some((one) => one.state === "displaced") ? "displaced" : doors.some((one) => one.error) ? "machine" : "screen";

const NO_PICTURE = { lost: "connection lost", gone: "no screen", ended: "ended", forbidden: "not allowed" };
/** What the browser's tab is called: what it shows, and whether that is live. `state` is the viewer's, `away` since when the daemon is gone. */
export const tabTitle = (what, state, away) => `${[plain(what), away ? "not connected" : NO_PICTURE[state]].filter(Boolean).join(", ") || "Connecting"} - Millrace`;

/** What its page says if a guest has no screen; empty if nothing is known but that. */
export function absence(doors) {
  const troubles = doorTroubles(doors);
  if (troubles.length) return troubles.join(" ");
  const waits = doors.filter((one) => one.state !== "attached").map((one) => `${plain(one.door)}: ${plain(one.state)}.`);
  if (waits.length || !doors.length) return waits.join(" ");
  return ["The machine of this guest shows no screen.", ...doors.filter((one) => one.hint).map((one) => `${plain(one.door)}: ${plain(one.hint)}.`)].join(" ");
}

/** {rank, state, word, why}; `troubled` is whether there were incidents of the guest lately. A screen that is there counts, whatever other doors wait for. `rank` orders guests, those in trouble first; `state` is a class of the stylesheet; `why` is said over the picture. */
export function standing({ screen, door, viewer }, troubled) {
  const [first] = screen, broken = door.find((one) => one.error);
  if (!first && broken) return { rank: 0, state: "down", word: "not reached", why: plain(broken.error) };
  if (!first) return { rank: troubled ? 1 : 3, state: "none", word: door.length ? "no screen" : "not attached", why: "no screen" };
  if (!first.width) return { rank: troubled ? 1 : 2, state: "idle", word: "blank", why: "nothing shown yet" };
  const used = viewer.some((one) => one.keyboard) ? ["used", "in use"] : viewer.length ? ["seen", "watched"] : ["idle", "free"];
  return { rank: troubled ? 1 : 2, state: used[0], word: used[1], why: "" };
}
