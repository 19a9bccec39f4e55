// How large a guest's picture is shown here: each guest's own choice, which outlasts the page. A frame of another page may have no storage.
const NAME = (guest) => `millrace.size.${guest}`;

/** The choice for a guest: "fit", "actual" or "guest". */
export function remembered(guest) {
  try { return localStorage.getItem(NAME(guest)) ?? "fit"; } catch { return "fit"; }
}

/** Keep it. */
export function remember(guest, choice) {
  try { if (choice === "fit") localStorage.removeItem(NAME(guest)); else localStorage.setItem(NAME(guest), choice); } catch { /* It lasts as long as the page. */ }
}
