// Messages and pictures of the screen protocol (docs/picture-protocol.md), checked before anything is allocated for them: the server may
// be hostile. An invalid message ends the connection; an invalid piece of a picture is damage, for which a key picture is requested.
import { Refusal } from "./messages.js";

export const PIECE = 16, HEADER_BYTES = 16, PART_BYTES = 18;
export const LAST = 1, KEY = 2;
export const RAW = 1, ZSTD = 2, JPEG = 3, MOVE = 4, VIDEO = 5, SHAPE = 6, DRAW = 7, PNG = 8, PALETTE = 9, FRAME = 10, OVERLAYS = 11;
/** A flag of a part: it needs no part before it. */
export const STARTS = 1;
/** No part that is sent: what of a video is drawn over the picture. */
export const OVERLAY = 256;
export const AREA_MAX = 2 ** 26, OVERLAYS_MAX = 64;
const SIDE_MAX = 16384, VISIBLE_MAX = 1024, PLACE_AREA_MAX = 2 ** 24, SHAPE_SIDE_MAX = 512, PARTS_MAX = 1024, PIECE_MAX = 4 * 1024 * 1024, TEXT_MAX = 65536, SCREENS_MAX = 256, TIME_MAX = 2n ** 63n;
const isCount = (value) => Number.isSafeInteger(value) && value >= 0;
const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
const isText = (value) => typeof value === "string";
const isFlag = (value) => typeof value === "boolean";
const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const maybe = (check) => (value) => value === undefined || value === null || check(value);
const isMode = ({ width, height }) => isCount(width) && isCount(height) && width >= 1 && height >= 1 && width <= SIDE_MAX && height <= SIDE_MAX && width * height <= AREA_MAX;
const isScreen = (one) => isObject(one) && isText(one.key) && maybe(isText)(one.label);

const CHECKS = {
  watching: (m) => maybe(isCount)(m.viewer) && maybe(isText)(m.guest) && maybe(isText)(m.screen) && maybe(isText)(m.label) && maybe(isText)(m.name) && maybe(isText)(m.why) && maybe(isObject)(m.settings) && maybe(isFlag)(m.may_type) && maybe(isFlag)(m.clipboard),
  mode: (m) => isMode(m) && isCount(m.generation) && maybe(isFlag)(m.relative),
  cursor: (m) => isCount(m.shape) && ["x", "y", "hot_x", "hot_y"].every((name) => maybe(isNumber)(m[name])) && maybe(isFlag)(m.shown),
  keyboard: (m) => isFlag(m.mine) && maybe(isText)(m.who),
  clipboard: (m) => isFlag(m.there) && isCount(m.number),
  paste: (m) => isCount(m.number),
  settings: (m) => isObject(m.settings),
  gone: (m) => maybe(isText)(m.why),
  screens: (m) => Array.isArray(m.screens) && m.screens.length <= SCREENS_MAX && m.screens.every(isScreen),
  ping: (m) => isNumber(m.t),
  pong: (m) => isNumber(m.t) && isNumber(m.now),
  error: (m) => isText(m.message) && maybe(isText)(m.right),
  bye: (m) => maybe(isText)(m.reason),
};

/** Parses a control message; throws Refusal. Fields that are not listed are ignored: a newer daemon may send more. */
export function parseScreenMessage(text) {
  if (text.length > TEXT_MAX) throw new Refusal(`The server sent a message of ${text.length} characters.`);
  let message = null;
  try { message = JSON.parse(text); } catch { /* Refused below. */ }
  const check = isObject(message) && Object.hasOwn(CHECKS, message.type) ? CHECKS[message.type] : null;
  if (!check?.(message)) throw new Refusal("The server sent a message about the screen that this page does not understand: it may be another version. Reload the page.");
  return message;
}

/** Whether a binary message is a piece of a picture. Others are skipped: a newer daemon may send them. */
export function isPiece(buffer) {
  if (buffer.byteLength > PIECE_MAX) throw new Refusal(`The server sent a piece of a picture of ${buffer.byteLength} bytes.`);
  return buffer.byteLength > 0 && new Uint8Array(buffer)[0] === PIECE;
}

/** Parses a piece of a picture: its header, and its parts, which refer to `buffer`; null if it is damaged. Serial 0 is not a picture: it has only cursors. */
export function parsePiece(buffer) {
  if (buffer.byteLength < HEADER_BYTES) return null;
  const view = new DataView(buffer), painted = view.getBigUint64(8, true), flags = view.getUint8(1);
  const parts = painted < TIME_MAX ? parseParts(buffer, view) : null;
  return parts && { last: (flags & LAST) !== 0, key: (flags & KEY) !== 0, generation: view.getUint16(2, true), serial: view.getUint32(4, true),
    painted: Number(painted), parts, size: buffer.byteLength };
}

/** The parts of a piece; null if one is cut short. Parts of unknown types are skipped. */
function parseParts(buffer, view) {
  const parts = [];
  for (let at = HEADER_BYTES; at < buffer.byteLength;) {
    if (parts.length === PARTS_MAX || buffer.byteLength - at < PART_BYTES) return null;
    const type = view.getUint8(at), length = view.getUint32(at + 14, true), from = at + PART_BYTES;
    if (length > buffer.byteLength - from) return null;
    const [x, y, w, h] = [2, 4, 6, 8].map((offset) => view.getUint16(at + offset, true));
    const part = { type, flags: view.getUint8(at + 1), x, y, w, h, dx: view.getInt16(at + 10, true), dy: view.getInt16(at + 12, true), bytes: new Uint8Array(buffer, from, length) };
    if (type >= RAW && type <= OVERLAYS) parts.push(part);
    at = from + length;
  }
  return parts;
}

const inside = (x, y, w, h, mode) => x >= 0 && y >= 0 && w > 0 && h > 0 && x + w <= mode.width && y + h <= mode.height;
/** Whether a part lies within the screen and has the size that it must have. */
export function partFits(part, mode) {
  const { type, x, y, w, h, dx, dy, bytes } = part;
  if (type === SHAPE) return w > 0 && h > 0 && w <= SHAPE_SIDE_MAX && h <= SHAPE_SIDE_MAX && bytes.byteLength === w * h * 4;
  if (type === FRAME) return bytes.byteLength > 0;
  if (type === OVERLAYS) return parseOverlays(bytes, mode) !== null;
  if (!inside(x, y, w, h, mode)) return false;
  if (type === RAW) return bytes.byteLength === w * h * 4;
  if (type === MOVE) return bytes.byteLength === 0 && inside(x - dx, y - dy, w, h, mode);
  if (type === VIDEO || type === DRAW) return dx >= 0 && dy >= 0 && dx <= x && dy <= y && (type === DRAW) === (bytes.byteLength === 0);
  return bytes.byteLength > 0;
}

const within = (a, b) => a.x >= b.x && a.y >= b.y && a.x + a.w <= b.x + b.w && a.y + a.h <= b.y + b.h;
/** Which videos lie over the picture, the lowest first: [{number, at, visible}], of which `at` may reach beyond the picture; null if it is damaged. */
export function parseOverlays(bytes, mode) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength), list = [];
  let left = VISIBLE_MAX, scaled = 0, drawn = 0;
  for (let at = 0; at < bytes.byteLength;) {
    if (bytes.byteLength - at < 12 || list.length === OVERLAYS_MAX) return null;
    const number = view.getUint16(at, true), count = view.getUint16(at + 2, true), sides = (from) => ({ w: view.getUint16(from, true), h: view.getUint16(from + 2, true) });
    const place = { x: view.getInt16(at + 4, true), y: view.getInt16(at + 6, true), ...sides(at + 8) };
    at += 12; left -= count;
    if (left < 0 || bytes.byteLength - at < count * 8) return null;
    const visible = Array.from({ length: count }, (_, n) => ({ x: view.getUint16(at + n * 8, true), y: view.getUint16(at + n * 8 + 2, true), ...sides(at + n * 8 + 4) }));
    at += count * 8;
    scaled += place.w * place.h;
    drawn = visible.reduce((sum, one) => sum + one.w * one.h, drawn);
    if (!place.w || !place.h || Math.max(scaled, drawn) > PLACE_AREA_MAX || !visible.every((one) => inside(one.x, one.y, one.w, one.h, mode) && within(one, place))) return null;
    list.push({ number, at: place, visible });
  }
  return list;
}

const word = (bytes, at) => bytes[at] * 256 + bytes[at + 1];
/** Width and height of a PNG, from its first chunk (PNG, section 11.2.1); null if it is none. A picture of another size is not decoded. */
export function pngSize(bytes) {
  const head = [0x89, 0x50, 0x4e, 0x47, 13, 10, 26, 10, 0, 0, 0, 13, 0x49, 0x48, 0x44, 0x52];
  if (bytes.byteLength < 24 || head.some((value, n) => bytes[n] !== value)) return null;
  return [word(bytes, 16) * 65536 + word(bytes, 18), word(bytes, 20) * 65536 + word(bytes, 22)];
}

/** Width and height of a JPEG, from its frame header (ITU-T T.81, B.2.2); null if it has none. */
export function jpegSize(bytes) {
  if (bytes[0] !== 0xff || bytes[1] !== 0xd8) return null;
  for (let at = 2; at + 9 < bytes.byteLength && bytes[at] === 0xff;) {
    const marker = bytes[at + 1], frame = marker >= 0xc0 && marker <= 0xcf && marker !== 0xc4 && marker !== 0xc8 && marker !== 0xcc;
    if (frame) return [word(bytes, at + 7), word(bytes, at + 5)];
    at += 2 + word(bytes, at + 2);
  }
  return null;
}
