// What one may do: refusals in sentences, and the list of rules, requests and tokens.
import { el } from "./draw.js";
import { plain } from "./messages.js";

/** What is said of a token that is not taken, by the status of the answer. */
export const REFUSALS = {
  401: "The token is not valid: it was mistyped, has been revoked or has expired. Enter another one, or open a link.",
  429: "Too many wrong tokens from this address. Wait a few seconds.",
};

/** A refusal as a sentence for who reads it: the daemon's own, `text`, names the token. It names the right that is lacking, and where, as values. */
export function lacking({ right, guest }, text) {
  if (!right) return text;
  return `You lack the right “${plain(right)}” ${guest ? `in guest ${plain(guest)}` : "outside your guests"}.`;
}

const day = (seconds) => new Date(seconds * 1000).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });

/** When a token ends, or that it has. `now` is in seconds since 1970: no object changes when a token expires. */
export function tokenEnd({ expires, expired }, now) {
  if (expires === null || expires === undefined) return "never expires";
  return expired || expires <= now ? `expired ${day(expires)}` : `until ${day(expires)}`;
}

/** Lines of requests, rules and tokens. `does(method, path, body)` changes something. */
export function rightsLists({ rules, requests, tokens }, does, now) {
  const decide = (one, allow, always) => does("POST", `/requests/${encodeURIComponent(one.id)}`, { allow, always });
  const answer = (one, text, allow, always) => el("button", { type: "button", "aria-label": `${text}: ${one.program} ${one.what}`, click: () => decide(one, allow, always) }, text);
  const asked = requests.map((one) => el("div", { class: "thing", role: "alert" },
    el("b", {}, one.program), ` asks guest ${one.guest} for: ${one.what}`,
    el("div", { class: "row" }, answer(one, "Allow once", true, false), answer(one, "Always", true, true), answer(one, "Deny", false, false), answer(one, "Never", false, true))));
  const ruled = rules.map((one) => el("div", { class: "thing" }, `${one.guest}: ${one.program === "*" ? "any other program" : one.program} `
    + `${{ true: "may", false: "may not", prompt: "has to ask to" }[one.allow]} ${one.what === "connect" ? "connect" : `record the ${one.what}`} `,
    el("button", { type: "button", "aria-label": `Forget the rule for ${one.program}, ${one.what}`,
      click: () => does("POST", `/guests/${one.guest}/grants`, { what: one.what, program: one.program, allow: null }) }, "Forget")));
  const given = tokens.map((one) => token(one, does, now));
  if (!rules.length && !requests.length && !tokens.length) given.push(el("p", { class: "soft" }, "None."));
  return { requests: asked, grants: ruled, tokens: given };
}

function token(one, does, now) {
  const end = tokenEnd(one, now), over = end.startsWith("expired"), name = one.name || "without a name";
  return el("div", { class: `thing${over ? " over" : ""}` }, el("b", {}, name), el("span", { class: "soft" }, ` ${one.id}, `), el("span", { class: over ? "bad" : "soft" }, end),
    el("div", {}, `${one.may.join(", ")} in ${one.guests.map((guest) => (guest === "*" ? "all guests" : guest)).join(", ")} `,
      el("button", { type: "button", "aria-label": `Revoke ${one.name || one.id}`, click: () => does("DELETE", `/tokens/${one.id.split("/")[1]}`) }, over ? "Remove" : "Revoke")));
}
