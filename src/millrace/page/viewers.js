// Who watches the guest's screen, and who has its keyboard.
import { el } from "./draw.js";
import { plain } from "./messages.js";

/** Lines of the list. `own` is this page's viewer, `take` takes the keyboard, and is null for one who may not type. */
export function viewerList(viewers, own, take) {
  const ordered = [...viewers].sort((a, b) => Number(b.keyboard) - Number(a.keyboard) || Number(b.id === own) - Number(a.id === own));
  return ordered.map((one) => {
    const name = plain(one.name), facts = [one.id === own ? "this page" : plain(one.by), one.hidden ? "looks elsewhere" : one.fps >= 1 ? `${Math.round(one.fps)} pictures a second` : "",
      one.latency_ms === null ? "" : `${Math.round(one.latency_ms)} ms behind`].filter(Boolean).join(", ");
    const over = one.keyboard && one.id !== own && take
      ? el("button", { type: "button", "aria-label": `Take the keyboard from ${name}`, click: take }, "Take over") : null;
    return el("li", {}, el("b", {}, name), el("span", { class: "soft" }, facts), el("span", { class: "holds" }, one.keyboard ? "has the keyboard" : ""), over);
  });
}
