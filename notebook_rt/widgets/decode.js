// Decodes cells from a message: its binary columns to values and flags, and the meaning of a row's flags.

/** @import { Cells, Span, Value } from "./protocol.js" */
/** @import { Draft, Row } from "./grid.js" */

export const ROW_MARK = -1; // the column of a mark about the whole row
const NULL = 1;
const CUT = 2;

export const isNull = (/** @type {{ f: ArrayLike<number> }} */ row, /** @type {number} */ c) => (row.f[c] & NULL) !== 0;
export const isCut = (/** @type {{ f: ArrayLike<number> }} */ row, /** @type {number} */ c) => (row.f[c] & CUT) !== 0;

// Whether a row is the new one being typed.
/** @type {(row: Row) => row is Draft} */
export const isDraft = /** @type {any} */ ((/** @type {Row} */ row) => row.texts !== undefined);

// A column of a message as `[values, flags]`.
/** @returns {[values: ArrayLike<Value> & Iterable<Value>, flags: Uint8Array]} */
export function decodeColumn(/** @type {Cells} */ column, /** @type {DataView} */ buffer) {
  const at = (/** @type {Span} */ [offset, length]) => [buffer.byteOffset + offset, length];
  const [fo, fl] = at(column.flags);
  const flags = new Uint8Array(buffer.buffer, fo, fl);
  const [vo, vl] = at(column.values);
  if (column.kind !== "text") {
    // A comm's buffer need not start at a multiple of 8.
    const bytes = vo % 8 ? buffer.buffer.slice(vo, vo + vl) : buffer.buffer;
    return [new Float64Array(bytes, vo % 8 ? 0 : vo, vl / 8), flags];
  }
  const [eo, el] = at(column.ends ?? [0, 0]);
  const ends = new Int32Array(buffer.buffer.slice(eo, eo + el));
  const decoder = new TextDecoder();
  let start = 0;
  const values = Array.from(ends, (end) => {
    const text = decoder.decode(new Uint8Array(buffer.buffer, vo + start, end - start));
    start = end;
    return text;
  });
  return [values, flags];
}

export function decodeInts(/** @type {Span} */ [offset, length], /** @type {DataView} */ buffer) {
  const start = buffer.byteOffset + offset;
  return new Int32Array(buffer.buffer.slice(start, start + length));
}
