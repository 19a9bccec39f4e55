// Who watches the guest's screen, and who has its keyboard.
import { counted, el } from "./draw.js";
import { plain } from "./messages.js";

/** What to call each of them, by its number: those with the same name are numbered. */
export function viewerNames(viewers) {
  const all = viewers.map((one) => [one.id, plain(one.name)]), count = new Map();
  return new Map(all.map(([id, name]) => {
    count.set(name, (count.get(name) ?? 0) + 1);
    return [id, all.filter(([, other]) => other === name).length > 1 ? `${name} (${count.get(name)})` : name];
  }));
}

/**
 * Lines of the list. `own` is this page's viewer, `take` takes the keyboard, and is null for one who may not type. Without a screen there is
 * nothing to type into, whoever has the keyboard.
 */
export function viewerList(viewers, own, take, screen) {
  const names = viewerNames(viewers);
  const ordered = [...viewers].sort((a, b) => Number(b.keyboard) - Number(a.keyboard) || Number(b.id === own) - Number(a.id === own));
  return ordered.map((one) => {
    const name = names.get(one.id), facts = [one.id === own ? "this page" : plain(one.by === one.name ? "" : one.by), one.hidden ? "looks elsewhere" : one.fps >= 1 ? `${counted(Math.round(one.fps), "picture")} a second` : "",
      one.latency_ms === null ? "" : `${Math.round(one.latency_ms)} ms behind`].filter(Boolean).join(", ");
    const holds = one.keyboard && screen, over = holds && one.id !== own && take
      ? el("button", { type: "button", "aria-label": `Take the keyboard from ${name}`, click: take }, "Take over") : null;
    return el("li", {}, el("b", {}, name), el("span", { class: "soft" }, facts), el("span", { class: "holds" }, holds ? "has the keyboard" : ""), over);
  });
}
