// Lines of the lists of listeners and incidents, and what is said above the picture.
import { counted, el } from "./draw.js";

const FAULTS = {
  underruns: (n) => counted(n, "underrun"), lost: (n) => `${counted(n, "packet")} lost`,
  skipped: (n) => `${counted(n, "frame")} skipped`, dropped_packets: (n) => `${counted(n, "packet")} dropped`,
};

const RECENT_MS = 10_000, SEEN_MAX = 1000, SEEN = new Map();
/** Whether one of these totals of a listener has grown lately: what was long ago is no trouble now. */
function growing(id, totals, now) {
  if (SEEN.size > SEEN_MAX) SEEN.clear();
  const sum = totals.reduce((all, one) => all + one, 0), was = SEEN.get(id);
  if (!was || sum !== was.sum) SEEN.set(id, { sum, grown: was && sum > was.sum ? now : -Infinity });
  return now - SEEN.get(id).grown < RECENT_MS;
}

/** A listener and its settings: `set(id, settings)` changes them, `more` are attributes of their controls. */
export function listener(one, set, more, now = performance.now()) {
  const s = one.settings, faults = Object.entries(FAULTS).filter(([key]) => one[key]).map(([key, named]) => named(one[key]));
  const rate = el("input", { type: "range", min: 16, max: 256, step: 8, value: s.bitrate / 1000, "aria-label": `Bitrate of ${one.name}, kb/s`, ...more,
    change: (event) => set(one.id, { bitrate: `${event.target.value}k` }) });
  const choice = (what, options, current, name) => el("select", { "aria-label": `${what} of ${one.name}`, ...more, change: (event) => set(one.id, { [name]: event.target.value }) },
    ...(options.includes(current) ? options : [current, ...options]).map((text) => el("option", { selected: text === current }, text)));
  const frame = choice("Frame", ["auto", "5ms", "10ms", "20ms", "40ms"], s.frame_us ? `${s.frame_us / 1000}ms` : "auto", "frame");
  const latency = choice("Latency", ["low", "normal", "robust"], one.latency_profile, "latency");
  const codec = choice("Codec", ["opus", "s16", "f32"], s.codec, "codec");
  return el("div", { class: "thing" }, el("b", {}, one.name), el("span", { class: "soft" }, ` ${one.id}, ${one.output || "file"}`),
    el("div", {}, `${s.codec}, ${(one.bitrate / 1000).toFixed(0)} kb/s sent, latency ${one.latency_ms === null ? "-" : `${one.latency_ms} ms`}`
      + (one.locked ? `, ${one.drift_ppm >= 0 ? "+" : ""}${one.drift_ppm.toFixed(1)} ppm` : "")),
    faults.length ? el("div", { class: growing(one.id, Object.keys(FAULTS).map((key) => one[key] || 0), now) ? "bad" : "soft" }, faults.join(", ")) : null,
    el("div", { class: "row" }, ...(s.codec === "opus" ? [rate, el("span", {}, `${s.bitrate / 1000} kb/s`)] : []), el("div", { class: "beside" }, codec, frame, latency)));
}

/** What is said of a screen's pictures: how many, and how old; `stats` are the worker's, null before the first. */
export function pictureFacts(stats) {
  if (!stats) return [];
  const { fps, rate, latency, skew } = stats, ms = (ns) => `${Math.abs(ns / 1e6).toFixed(0)} ms`;
  return [fps < 0.5 ? "still" : `${counted(Math.round(fps), "picture")} a second`, rate < 1e6 ? `${(rate / 1e3).toFixed(0)} kb/s` : `${(rate / 1e6).toFixed(1)} Mb/s`,
    latency > 0 && `${ms(latency)} after painting`, skew !== null && `${ms(skew)} ${skew < 0 ? "before" : "after"} the sound`].filter(Boolean);
}

/** A key and value for display: late_ms 3.5 becomes "late 3.5 ms". */
const measured = (key, value) => {
  const [name, unit] = key.split(/_(?=(?:ms|ppm|s)$)/);
  return `${name.replaceAll("_", " ")} ${value}${unit ? ` ${unit}` : ""}`;
};

/** An incident, with its evidence. */
export function incident(one) {
  const clock = (at) => new Date(at * 1000).toLocaleTimeString(), when = clock(one.at), about = [one.guest, one.subject].filter(Boolean).join(" ") || "the daemon";
  const shown = Object.entries(one.evidence), varied = one.varied ?? [], told = (some) => some.map(([key, value]) => measured(key, value)).join(", ");
  const same = told(shown.filter(([key]) => !varied.includes(key))), first = told(shown.filter(([key]) => varied.includes(key)));
  const evidence = [same, first && `at first ${first}`].filter(Boolean).join("; ");
  const until = clock(one.last) === when ? "" : ` until ${clock(one.last)}`, times = one.count > 1 ? ` (× ${one.count}${until})` : "";
  return el("li", {}, el("b", {}, `${one.stage}: ${one.cause}`), ` ${when}, ${about}${times}: ${one.text}`,
    evidence ? el("div", { class: "soft" }, evidence) : null);
}
