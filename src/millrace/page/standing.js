// What state a guest is in, from its objects: on the wall in a word and a colour, on its own page in a sentence.
import { plain } from "./messages.js";

/** Why the machines of a guest can't be reached, a sentence for each; empty if all can, or it has none. */
export const doorTroubles = (doors) => doors.filter((one) => one.error).map((one) => `${plain(one.door)}: ${plain(one.error)}.`);

/** What its page says if a guest has no screen; empty if nothing is known but that. */
export function absence(doors) {
  const troubles = doorTroubles(doors);
  if (troubles.length) return troubles.join(" ");
  const waits = doors.filter((one) => one.state !== "attached").map((one) => `${plain(one.door)}: ${plain(one.state)}.`);
  return waits.length ? waits.join(" ") : doors.length ? "The machine of this guest shows no screen." : "";
}

/** {rank, state, word, why}; `troubled` is whether there were incidents lately. `rank` orders guests, those in trouble first; `state` is a class of the stylesheet; `why` is said over the picture. */
export function standing({ screen, door, viewer }, troubled) {
  const [first] = screen, broken = door.find((one) => one.error);
  if (broken) return { rank: 0, state: "down", word: "not reached", why: first ? "" : plain(broken.error) };
  if (!first) return { rank: troubled ? 1 : 3, state: "none", word: door.length ? "no screen" : "not attached", why: "no screen" };
  if (!first.width) return { rank: troubled ? 1 : 2, state: "idle", word: "blank", why: "nothing shown yet" };
  const used = viewer.some((one) => one.keyboard) ? ["used", "in use"] : viewer.length ? ["seen", "watched"] : ["idle", "free"];
  return { rank: troubled ? 1 : 2, state: used[0], word: used[1], why: "" };
}
