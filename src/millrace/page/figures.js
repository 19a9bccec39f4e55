// The figures of the sound that this page plays: levels, a table, and plots of the last minute.
import { el } from "./draw.js";

const $ = (id) => document.getElementById(id);
const HISTORY = 240;
const history = { latency: [], targetDelay: [], spread: [], ppm: [], faults: [] };

/** Levels for display. */
export const levels = (peak, rms) => peak <= 0 ? "silent" : `peak ${decibels(peak).toFixed(0)} dB, RMS ${decibels(rms).toFixed(0)} dB`;
/** An amplitude in dB, −60 at least. */
export const decibels = (peak) => Math.max(-60, peak > 0 ? 20 * Math.log10(peak) : -60);

/** Show the levels of both channels. */
export function meters(peak, rms) {
  for (const [side, name] of ["left", "right"].entries()) {
    $(name).value = decibels(rms[side]);
    $(`${name}-shown`).textContent = levels(peak[side], rms[side]);
  }
}

let bytesBefore = [0, 0], rate = null, faultsBefore = 0;
/** Show a listener's statistics. */
export function figures(s) {
  meters(s.peak, s.rms);
  const ms = (ns) => (ns === null ? "…" : `${(ns / 1e6).toFixed(1).replace("-0.0", "0.0")} ms`), now = performance.now();
  const since = now - bytesBefore[1], begins = s.bytes < bytesBefore[0] || since > 5000;
  if (begins) rate = null;
  else if (since > 1000) rate = (s.bytes - bytesBefore[0]) * 8 / since;
  if (begins || since > 1000) bytesBefore = [s.bytes, now];
  const rows = { Latency: ms(s.latency), "Target delay": ms(s.targetDelay), "Off target": ms(s.late), Queued: ms(s.fill),
    Clock: s.locked ? `${s.ppm >= 0 ? "+" : ""}${s.ppm.toFixed(1)} ppm` : "measuring…", "Bit rate": rate === null ? "…" : `${rate.toFixed(0)} kb/s`,
    "Round trip": ms(s.rtt), Jitter: ms(s.spread), Underruns: s.underruns, Lost: s.lost, Concealed: s.concealments - s.underruns, "First sound": s.first === null ? "…" : `${s.first.toFixed(0)} ms` };
  $("figures").replaceChildren(...Object.entries(rows).map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, String(value)))));
  const faults = s.concealments + s.lost, scaled = (ns) => (ns === null ? null : ns / 1e6);
  const point = { latency: scaled(s.latency), targetDelay: scaled(s.targetDelay), spread: scaled(s.spread), ppm: s.locked ? s.ppm : null, faults: faults - Math.min(faultsBefore, faults) };
  faultsBefore = faults;
  for (const [key, value] of Object.entries(point)) {
    if (value !== null) history[key].push(value);
    if (history[key].length > HISTORY) history[key].shift();
  }
  $("plots").replaceChildren(plot("Latency, ms", history.latency), plot("Target delay, ms", history.targetDelay), plot("Jitter, ms", history.spread),
    plot("Drift, ppm", history.ppm), plot("Faults (concealed, underruns, lost)", history.faults));
}

function plot(title, values) {
  const low = Math.min(...values), high = Math.max(...values), span = Math.max(high - low, 1e-3);
  const points = values.map((value, k) => `${(k / (HISTORY - 1)) * 100},${38 - ((value - low) / span) * 36}`).join(" ");
  const shown = values.length ? `${low.toFixed(1)} to ${high.toFixed(1)}` : "nothing yet";
  return el("figure", {}, el("svg", { viewBox: "0 0 100 40", preserveAspectRatio: "none", role: "img", "aria-label": `${title}: ${shown}` },
    el("polyline", { points })), el("figcaption", {}, `${title}: ${shown}`));
}
