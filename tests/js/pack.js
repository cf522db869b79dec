// Messages as the kernel packs them (columns.py), for the tests.
/** @import { Cells, Kind, Span } from "../../notebook_rt/widgets/protocol.js" */

export class Pack {
  /** @type {number[]} */
  #bytes = [];

  /** @returns {Span} */
  add(/** @type {ArrayBufferView} */ array) {
    const at = this.#bytes.length;
    this.#bytes.push(...new Uint8Array(array.buffer, array.byteOffset, array.byteLength));
    while (this.#bytes.length % 8) this.#bytes.push(0);
    return [at, array.byteLength];
  }
  /** @returns {Cells} */
  cells(/** @type {Kind} */ kind, /** @type {(number | string | null)[]} */ values, cut = 0) {
    const flags = this.add(Uint8Array.from(values, (value) => (value === null ? 1 : cut)));
    if (kind !== "text") return { kind, flags, values: this.add(Float64Array.from(values, (value) => Number(value ?? 0))) };
    const texts = values.map((value) => new TextEncoder().encode(String(value ?? "")));
    let end = 0;
    const ends = this.add(Int32Array.from(texts, (text) => (end += text.length)));
    return { kind, flags, ends, values: this.add(Uint8Array.from(texts.flatMap((text) => [...text]))) };
  }
  // The buffer, at an odd place of a larger one: a comm's need not be aligned.
  view(shift = 3) {
    const whole = new Uint8Array(shift + this.#bytes.length);
    whole.set(this.#bytes, shift);
    return new DataView(whole.buffer, shift);
  }
}

/** @returns {import("../../notebook_rt/widgets/protocol.js").Column} */
export const column = (/** @type {string} */ name, /** @type {object} */ more = {}) => ({
  name, type: "text", shape: "text", key: false, editable: true, nullable: true, needed: false, filled: false, choices: [], format: "", style: "", total: "", ...more,
});
