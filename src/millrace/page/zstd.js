// Zstandard frames (RFC 8878) decoded by libzstd in WebAssembly; see zstd-decoder.LICENSE.txt.

/** Decodes frames whose decoded size is known. Memory is kept between frames and grows to what the largest needed. */
export class Zstd {
  /** Load the decoder; null if this browser runs no WebAssembly. */
  static async load() {
    try {
      const answer = await fetch(new URL("./zstd-decoder.wasm", import.meta.url));
      if (!answer.ok) return null;
      const { instance } = await WebAssembly.instantiate(await answer.arrayBuffer(), { env: { emscripten_notify_memory_growth() {} } });
      return new Zstd(instance.exports);
    } catch {
      return null;
    }
  }
  constructor(exports) {
    this.exports = exports;
    this.places = [{ at: 0, size: 0 }, { at: 0, size: 0 }];
  }
  #place(index, size) {
    const place = this.places[index];
    if (place.size >= size) return place.at;
    if (place.at) this.exports.free(place.at);
    place.at = this.exports.malloc(size);
    place.size = place.at ? size : 0;
    if (!place.at) throw new RangeError("out of memory");
    return place.at;
  }
  /** The decoded bytes, valid until the next call; null unless the frame decodes to exactly `size` bytes. */
  decode(frame, size) {
    const from = this.#place(0, frame.byteLength), to = this.#place(1, size);
    new Uint8Array(this.exports.memory.buffer, from, frame.byteLength).set(frame);
    const got = this.exports.ZSTD_decompress(to, size, from, frame.byteLength);
    if (this.exports.ZSTD_isError(got) || got !== size) return null;
    return new Uint8Array(this.exports.memory.buffer, to, size);
  }
}
