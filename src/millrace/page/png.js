// PNG files from pixels, without a canvas: what is read back of one is falsified by browsers that resist fingerprinting.
const SIGNATURE = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a], BLOCK = 65_535, ADLER = 65_521, RGBA = 4;
const CRCS = Uint32Array.from({ length: 256 }, (_, n) => { for (let k = 0; k < 8; k++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1; return n; });

function crc(bytes) {
  let sum = 0xffffffff;
  for (const byte of bytes) sum = CRCS[(sum ^ byte) & 0xff] ^ (sum >>> 8);
  return ~sum;
}

function adler(bytes) {
  let [a, b] = [1, 0];
  for (const byte of bytes) { a = (a + byte) % ADLER; b = (b + a) % ADLER; }
  return b * 65_536 + a;
}

/** A chunk: length, name, data and checksum (PNG, 5.3). */
function chunk(name, data) {
  const out = new Uint8Array(12 + data.length), view = new DataView(out.buffer);
  view.setUint32(0, data.length);
  for (let n = 0; n < 4; n++) out[4 + n] = name.charCodeAt(n);
  out.set(data, 8);
  view.setUint32(8 + data.length, crc(out.subarray(4, 8 + data.length)));
  return out;
}

/** A stream of zlib in which nothing is compressed (RFC 1950; RFC 1951, 3.2.4). */
function stored(bytes) {
  const blocks = Math.ceil(bytes.length / BLOCK), out = new Uint8Array(2 + 5 * blocks + bytes.length + 4), view = new DataView(out.buffer);
  out.set([0x78, 1]);
  for (let n = 0, to = 2; n < blocks; n++) {
    const part = bytes.subarray(n * BLOCK, (n + 1) * BLOCK);
    out[to] = n === blocks - 1;
    view.setUint16(to + 1, part.length, true);
    view.setUint16(to + 3, ~part.length, true);
    out.set(part, to + 5);
    to += 5 + part.length;
  }
  view.setUint32(out.length - 4, adler(bytes));
  return out;
}

/** The PNG file of `rgba`, width × height pixels of four bytes (PNG, 11.2.2: 8 bits, colour type 6). */
export function png(width, height, rgba) {
  const head = new Uint8Array(13), view = new DataView(head.buffer), line = width * RGBA, lines = new Uint8Array(height * (line + 1));
  view.setUint32(0, width);
  view.setUint32(4, height);
  head.set([8, 6], 8);
  for (let y = 0; y < height; y++) lines.set(rgba.subarray(y * line, (y + 1) * line), y * (line + 1) + 1);
  return new Blob([Uint8Array.from(SIGNATURE), chunk("IHDR", head), chunk("IDAT", stored(lines)), chunk("IEND", new Uint8Array())], { type: "image/png" });
}

/** `rgba` made smaller: the mean of the pixels that fall on each, by their alpha. Returns [width, height, rgba]. */
export function shrunk(width, height, rgba, scale) {
  const [w, h] = [width, height].map((side) => Math.max(1, Math.floor(side * scale))), sums = new Float64Array(w * h * RGBA), counts = new Uint32Array(w * h);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const to = Math.floor(y * h / height) * w + Math.floor(x * w / width), from = (y * width + x) * RGBA, alpha = rgba[from + 3];
      counts[to] += 1;
      for (let n = 0; n < 3; n++) sums[to * RGBA + n] += rgba[from + n] * alpha;
      sums[to * RGBA + 3] += alpha;
    }
  }
  const out = new Uint8ClampedArray(w * h * RGBA);
  for (let k = 0; k < out.length; k++) out[k] = k % RGBA === 3 ? sums[k] / counts[k >> 2] : sums[k] / (sums[k | 3] || 1);
  return [w, h, out];
}
