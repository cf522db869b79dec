// The rows of the window that the kernel has sent: values, flags, marks, by position and by name.
import { ROW_MARK, decodeColumn, decodeInts } from "./decode.js";

/** @import { Around, CellsMessage, GridMessage, MarkKind, WindowMessage } from "./protocol.js" */
/** @import { Draft, Format, Mark, Read, Row } from "./grid.js" */

/** @returns {Mark} */
function markOf(/** @type {number} */ c, /** @type {MarkKind} */ kind, /** @type {any[]} */ more) {
  if (kind !== "conflict") return { kind, why: more[0] };
  if (c !== ROW_MARK) return { kind, base: more[0], mine: more[1], theirs: more[2], lost: more[3] };
  return { kind, deleted: more[0], told: more[1], more: more[2] };
}

export class Rows {
  first = 0;
  /** @type {Map<number, Row>} */
  at = new Map(); // the row's number in the table to the row
  /** @type {Map<number, Row>} */
  named = new Map(); // rid to the row
  /** @type {Read | null} */
  sample = null; // a row of wide values, for the widths of the columns
  /** @type {Draft | null} */
  draft = null; // the new row, after the last one

  get size() {
    return this.at.size;
  }

  // Replaces the whole window.
  fill(/** @type {GridMessage | WindowMessage} */ content, /** @type {DataView} */ buffer, /** @type {Format[]} */ formats) {
    const rids = decodeInts(content.rids, buffer);
    const columns = content.cols.map((column) => decodeColumn(column, buffer));
    const kinds = content.cols.map((column) => column.kind);
    this.first = content.first;
    this.at = new Map();
    this.named = new Map();
    for (let i = 0; i < rids.length; i++) {
      /** @type {Row} */
      const row = {
        rid: rids[i], at: content.first + i, v: columns.map(([values]) => values[i]),
        f: columns.map(([, flags]) => flags[i]), k: kinds, m: null, gone: false,
      };
      this.at.set(row.at, row);
      this.named.set(row.rid, row);
    }
    formats.forEach((format, c) => format.learn(columns[c][0]));
    if ("samples" in content && content.samples) {
      const wide = content.samples.map((column) => decodeColumn(column, buffer));
      this.sample = { v: wide.map(([values]) => values[0] ?? ""), f: wide.map(([, flags]) => flags[0] ?? 1), k: content.samples.map((column) => column.kind) };
      formats.forEach((format, c) => format.learn(wide[c][0]));
    }
    this.mark(content);
  }

  // Keeps a draft at a position, in these rows too; null removes it.
  keep(/** @type {Draft | null} */ draft, /** @type {number} */ at) {
    if (this.draft && this.at.get(this.draft.at) === this.draft) this.at.delete(this.draft.at);
    this.named.delete(0);
    this.draft = draft;
    if (!draft) return;
    draft.at = at;
    this.at.set(at, draft);
    this.named.set(0, draft);
  }

  // Marks and deleted rows are small lists for the whole window; returns the positions that they change.
  mark(/** @type {Around} */ content) {
    /** @type {Set<number>} */
    const touched = new Set();
    if (content.marks) {
      for (const row of this.at.values()) if (row.m) {
        touched.add(row.at);
        row.m = null;
      }
      for (const [i, c, kind, ...more] of content.marks) {
        const row = this.at.get(this.first + i);
        if (!row) continue;
        (row.m ??= new Map()).set(c, markOf(c, kind, more));
        touched.add(row.at);
      }
    }
    if (content.groups) {
      for (const row of this.at.values()) if (row.group) {
        touched.add(row.at);
        row.group = undefined;
      }
      for (const [i, text, rows, open, totals] of content.groups) {
        const row = this.at.get(this.first + i);
        if (row) row.group = { text, rows, open, totals: new Map(totals) };
        touched.add(this.first + i);
      }
    }
    if (content.gone) {
      for (const row of this.at.values()) if (row.gone) {
        touched.add(row.at);
        row.gone = false;
      }
      for (const i of content.gone) {
        const row = this.at.get(this.first + i);
        if (row) row.gone = true;
        touched.add(this.first + i);
      }
    }
    return touched;
  }

  // Applies the changed cells; returns them, and whether a format has changed.
  /** @returns {[cells: [row: number, column: number][], again: boolean]} */
  patch(/** @type {CellsMessage} */ content, /** @type {DataView} */ buffer, /** @type {Format[]} */ formats) {
    /** @type {[number, number][]} */
    const cells = [];
    let again = false;
    for (const column of content.cols) {
      const places = decodeInts(column.rows, buffer);
      const [values, flags] = decodeColumn(column, buffer);
      again = formats[column.c].learn(values) || again;
      for (let i = 0; i < places.length; i++) {
        const row = this.at.get(this.first + places[i]);
        if (!row) continue;
        row.v[column.c] = values[i];
        row.f[column.c] = flags[i];
        if (row.k[column.c] !== column.kind) row.k = row.k.with(column.c, column.kind);
        if (row.m?.get(column.c)?.kind === "sending") row.m.delete(column.c);
        cells.push([row.at, column.c]);
      }
    }
    return [cells, again];
  }
}
