/** The guest's cursor: the browser's own while one types here, drawn over the picture, as `image`, while somebody else does. */
export function drawCursor({ cursor, mode, shapes, mine, state, zoom = 1 }, stage, image) {
  const shape = cursor && shapes.get(cursor.shape), own = mine && !mode?.relative;
  const x = cursor?.hot_x ?? shape?.x ?? 0, y = cursor?.hot_y ?? shape?.y ?? 0, shown = Boolean(shape) && cursor.shown !== false, by = shape?.scale ?? 1;
  stage.style.cursor = !own ? "" : shown ? `url(${shape.small ?? shape.url}) ${Math.floor(x * by)} ${Math.floor(y * by)}, default` : cursor && !shown ? "none" : "";
  image.hidden = own || !shown || state !== "on";
  if (image.hidden) return;
  if (image.getAttribute("src") !== shape.url) image.setAttribute("src", shape.url);
  Object.assign(image.style, { width: `${shape.width * zoom}px`, transform: `translate(${(cursor.x - x) * zoom}px, ${(cursor.y - y) * zoom}px)` });
}
