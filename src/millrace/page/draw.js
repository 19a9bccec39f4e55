// Elements, and the graph.

/** An element with attributes (functions become listeners) and children. */
export function el(tag, attributes = {}, ...children) {
  const svg = ["svg", "g", "rect", "text", "path", "polyline", "title"].includes(tag);
  const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name, value);
    else if (value !== false && value !== null) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

/** A node's name for display. Streams of one application differ only in their own names. */
export function titled(node) {
  if (!node.id.startsWith("stream")) return String(node.application || node.name);
  return [...new Set([node.application, node.name])].filter(Boolean).join(": ");
}

/** Whether anything plays into a sink or source, or hears it. A sink without either runs as well, on silence. */
export const used = (sink, { streams, sinks, listeners, recorders, doors }) =>
  [...streams, ...sinks].some((node) => node.linked_to.includes(sink.id)) || [...listeners, ...recorders].some((node) => node.sink === sink.id)
  // Machines record the microphone, and are not listed as recorders.
  || (sink.id.startsWith("source/") && sink.name === "microphone" && doors.some((door) => door.recording));

export const counted = (count, what) => `${count} ${what}${count === 1 ? "" : "s"}`;
const KINDS = ["stream", "sink", "source", "listener", "recorder"];
/** How many of each kind: "2 streams, 1 sink". */
const census = (nodes) => KINDS.map((kind) => [kind, nodes.filter((node) => node.id.startsWith(`${kind}/`)).length])
  .filter(([, count]) => count).map(([kind, count]) => counted(count, kind)).join(", ");
/** What a graph leaves out; empty if nothing. */
export const left = (hidden) => (hidden ? `${hidden} more ${hidden === 1 ? "is" : "are"} not shown` : "");

/** Streams, sinks and listeners in three columns, with lines between what is linked: of the guest `whole`, those in `one`; `hidden` are not. */
export function graph(one, width, whole, hidden) {
  const columns = [[...one.streams], [...one.sinks, ...one.sources], [...one.listeners, ...one.recorders]];
  const rows = Math.max(1, ...columns.map((column) => column.length)), height = rows * 56 + 8, place = {};
  // One unit is one pixel, so letters keep their size on a phone: there the boxes are narrower, and names are shortened.
  const gap = Math.round(width * 0.09), wide = Math.floor((width - 2 * gap - 8) / 3), letters = Math.floor((wide - 12) / 8.2);
  const boxes = columns.flatMap((column, c) => column.map((node, r) => {
    const x = 4 + c * (wide + gap), y = 8 + r * 56;
    place[node.id] = [x, y];
    const label = titled(node), sink = c === 1, quiet = sink ? !used(node, whole) : node.state && node.state !== "running";
    return el("g", { class: quiet ? "quiet" : "" }, el("title", {}, `${label}, ${node.id}`), el("rect", { x, y, width: wide, height: 44, rx: 6 }),
      el("text", { x: x + 6, y: y + 18 }, shortened(label, letters)), el("text", { x: x + 6, y: y + 35 }, node.id));
  }));
  const link = (from, to) => {
    if (!place[from] || !place[to]) return null;
    const [ax, ay] = place[from], [bx, by] = place[to], x = ax + wide, y = ay + 22, end = by + 22;
    return bx > ax ? el("path", { d: `M${x},${y} C${x + gap / 2},${y} ${bx - gap / 2},${end} ${bx},${end}` })
      : el("path", { d: `M${x},${y} C${x + gap},${y} ${bx + wide + gap},${end} ${bx + wide},${end}` });
  };
  const lines = [...one.streams, ...one.sinks, ...one.sources].flatMap((node) => node.linked_to.map((to) => link(node.id, to)))
    .concat([...one.listeners, ...one.recorders].map((node) => link(node.sink, node.id))).filter(Boolean);
  const told = [`Graph of guest ${one.name}: ${census(columns.flat())}`, left(hidden)].filter(Boolean).join("; ");
  return el("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": told }, ...lines, ...boxes);
}

/** Shortened to at most `letters` by cutting the middle: names often differ only at their ends. */
function shortened(text, letters) {
  const all = [...text], end = Math.max(1, Math.floor((letters - 1) / 2));
  return all.length <= letters ? text : `${all.slice(0, letters - 1 - end).join("")}…${all.slice(-end).join("")}`;
}
