// The keyboard of a phone, and input methods: what they type arrives as text.
const ERASE = { deleteContentBackward: "Backspace", deleteContentForward: "Delete", insertLineBreak: "Enter", insertParagraph: "Enter" };

/** Pass on to a viewer what is typed into a field; the button opens the device's keyboard. */
export function textField(field, button, viewer) {
  const keep = () => { field.value = " "; };
  keep();
  button.addEventListener("click", () => { if (!viewer.mine) viewer.hold(true); keep(); field.focus(); });
  for (const kind of ["keydown", "keyup"]) field.addEventListener(kind, (event) => { if (viewer.works && viewer.keys.event(event)) event.preventDefault(); });
  field.addEventListener("beforeinput", (event) => {
    const key = Object.hasOwn(ERASE, event.inputType) ? ERASE[event.inputType] : null;
    if (key && !event.isComposing) { event.preventDefault(); if (viewer.works) viewer.keys.chord([key]); }
  });
  const typed = (text) => { if (text) viewer.act({ type: "text", text }); keep(); };
  field.addEventListener("input", (event) => { if (!event.isComposing) typed(event.data); });
  field.addEventListener("compositionend", (event) => typed(event.data));
  field.addEventListener("blur", () => viewer.keys.release());
}
