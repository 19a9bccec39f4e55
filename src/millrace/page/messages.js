// Validation of the daemon's messages: the server may be hostile. The rules are those of the Python
// module `millrace.wire.peer.messages`: an invalid packet counts as lost, an invalid message ends the connection.

export const HEADER_BYTES = 24, MEDIA = 1, MEDIA_FOLLOWS = 2;
const MESSAGE_MAX = 65536, TEXT_MAX = 300, CHANNELS_MAX = 32, RATE_MIN = 1000, RATE_MAX = 384000, SAMPLES_MAX = 8 * RATE_MAX;
const PACKET_MAX_MS = 120, OPUS_RATE = 48000, OPUS_STEP = OPUS_RATE / 400, LOOKAHEAD_MAX_MS = 100, TIME_MAX = 2n ** 63n;
const PCM_BYTES = { s16: 2, f32: 4 };
const AHEAD_NS = 10e9, FASTER = 1.05, FORMATS_AHEAD = 100, FORMATS_PER_NS = 10 / 1e9, NEWS_AHEAD = 1000, NEWS_PER_NS = 100 / 1e9;

/** An error that ends the connection; the message is shown to the user. */
export class Refusal extends Error {}

const isCount = (value) => Number.isSafeInteger(value) && value >= 0;
const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
const isText = (value) => typeof value === "string";
const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const isByteList = (value) => Array.isArray(value) && value.length <= CHANNELS_MAX && value.every((n) => isCount(n) && n < 256);

// A message is checked as a whole before any of it is used, and its type is looked up as an own property, so a name such as "constructor"
// finds nothing. Fields that are not listed are ignored: a newer daemon may send more.
const CHECKS = {
  welcome: (m) => isCount(m.listener) && isText(m.guest) && isText(m.sink) && isObject(m.settings),
  format: (m) => isObject(m.format),
  settings: (m) => isObject(m.settings),
  silence: () => true,
  microphone: (m) => typeof m.allowed === "boolean" && typeof m.wanted === "boolean",
  ping: (m) => isNumber(m.t),
  pong: (m) => isNumber(m.t) && isNumber(m.now),
  error: (m) => isText(m.message),
  bye: (m) => m.reason === undefined || isText(m.reason),
};

/** Server text for display: bounded, without control characters, line breaks or direction marks. */
export function plain(text) {
  return String(text ?? "").replace(/[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu, " ").slice(0, TEXT_MAX);
}

/** Parses a control message; throws Refusal. */
export function parseMessage(text) {
  if (text.length > MESSAGE_MAX) throw new Refusal(`The server sent a message of ${text.length} characters.`);
  let message = null;
  try { message = JSON.parse(text); } catch { /* Refused below. */ }
  const check = isObject(message) && Object.hasOwn(CHECKS, message.type) ? CHECKS[message.type] : null;
  if (!check?.(message)) throw new Refusal("The server sent a message that this page does not understand: it may be another version, or not Millrace. Reload the page.");
  return message;
}

/** Checks a stream format before anything is allocated for it, and fills in defaults; throws Refusal. */
export function checkedFormat(given) {
  const format = { lookahead: 0, streams: 1, coupled: 0, mapping: [], order: [], ...given }, { codec, rate, positions } = format;
  const channels = Array.isArray(positions) ? positions.length : 0, numbers = [format.generation, format.lookahead, format.streams, format.coupled];
  if (codec !== "opus" && !(isText(codec) && Object.hasOwn(PCM_BYTES, codec))) throw new Refusal(`The server sends sound in “${plain(codec)}”, which this page can't play.`);
  const fits = isCount(rate) && rate >= RATE_MIN && rate <= RATE_MAX && channels >= 1 && channels <= CHANNELS_MAX && rate * channels <= SAMPLES_MAX;
  if (!fits) throw new Refusal(`The server sends sound of ${channels} channels at ${plain(rate)} Hz, which is invalid.`);
  const lists = positions.every(isText) && isByteList(format.mapping) && isByteList(format.order) && numbers.every(isCount);
  if (!lists || format.lookahead * 1000 > rate * LOOKAHEAD_MAX_MS || (codec === "opus" && !opusFits(format, channels))) {
    throw new Refusal("The server sent an invalid sound format.");
  }
  return format;
}

/** RFC 7845, section 5.1.1. */
function opusFits({ rate, streams, coupled, mapping }, channels) {
  if (rate !== OPUS_RATE) return false;
  if (channels <= 2) return true;
  const whole = streams >= 1 && streams <= CHANNELS_MAX && coupled <= streams && mapping.length === channels;
  return whole && mapping.every((n) => n < streams + coupled || n === 255);
}

/** Parses a media packet of `format`; null if it is invalid or belongs to another format. */
export function parsePacket(buffer, format) {
  if (!format || buffer.byteLength <= HEADER_BYTES) return null;
  const view = new DataView(buffer), kind = view.getUint8(0), frames = view.getUint16(2, true), size = buffer.byteLength - HEADER_BYTES;
  if ((kind !== MEDIA && kind !== MEDIA_FOLLOWS) || view.getUint8(1) !== (format.generation & 255)) return null;
  const position = view.getBigUint64(8, true), hostNs = view.getBigUint64(16, true);
  if (!frames || frames * 1000 > format.rate * PACKET_MAX_MS || position >= TIME_MAX || hostNs >= TIME_MAX) return null;
  const whole = format.codec === "opus" ? frames % OPUS_STEP === 0 && size <= MESSAGE_MAX : size === frames * PCM_BYTES[format.codec] * format.positions.length;
  if (!whole) return null;
  return {
    frames, sequence: view.getUint32(4, true), position: Number(position), hostNs: Number(hostNs), follows: kind === MEDIA_FOLLOWS,
    payload: new Uint8Array(buffer, HEADER_BYTES),
  };
}

/** A budget that refills over time. See clock/allowance.py. */
export class Allowance {
  constructor(most = AHEAD_NS, perNs = FASTER) { Object.assign(this, { most, perNs, left: most, at: null }); }
  take(amount, now) {
    this.left = Math.min(this.most, this.left + Math.max(0, now - (this.at ?? now)) * this.perNs);
    this.at = now;
    if (amount > this.left) return false;
    this.left -= amount;
    return true;
  }
}

/** Limits format changes: each one creates a decoder. */
export const formatAllowance = () => new Allowance(FORMATS_AHEAD, FORMATS_PER_NS);

/** Limits messages other than sound and pings: each is passed on to the page, which displays it. */
export const newsAllowance = () => new Allowance(NEWS_AHEAD, NEWS_PER_NS);
