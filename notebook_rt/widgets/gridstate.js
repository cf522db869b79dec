// The state of the live grid, each piece with one owner: other modules read it, and change it only by these
// methods. Nothing here touches the page.
import { makeFormat } from "./cell.js";
import { Rows } from "./rows.js";

/** @import { SlickGrid } from "slickgrid" */
/** @import { Around, CellsMessage, Column, FileReply, GridMessage, Head, HistoryReply, ReplyMessage, Sort, ToKernel, WindowMessage } from "./protocol.js" */
/** @import { Active, Draft, Format, Group, Row } from "./grid.js" */

/** @type {Head & { sort: Sort }} */
const NOTHING = { name: "", title: "", columns: [], height: 0, add: false, remove: false, pinned: 0, hidden: 0, layout: 0, sort: [] };

// Whether columns look and are edited alike; their constraints may be learned again under an open editor.
const looks = (/** @type {{ columns: Column[], pinned: number }} */ { columns, pinned }) =>
  JSON.stringify([pinned, columns.map(({ name, type, shape, key, editable, choices, format, style, total }) => [name, type, shape, key, editable, choices.length > 0, format, style, total])]);

// The table as received from the kernel, and the new row (draft) after its last one.
export class Table {
  #head = NOTHING;
  /** @type {Format[]} */
  #formats = [];
  #total = 0;
  #filtered = false;
  #count = 0;
  #group = "";
  /** @type {Map<number, [low: number, high: number]>} */
  #ranges = new Map();
  /** @type {Map<number, number | string | null>} */
  #totals = new Map();
  #rows = new Rows();

  get head() {
    return this.#head;
  }
  get formats() {
    return this.#formats;
  }
  // Number of rows in the kernel, including headings.
  get total() {
    return this.#total;
  }
  // Number of rows without headings, including those of closed groups.
  get count() {
    return this.#count;
  }
  // The column by which rows are grouped; empty if none.
  get group() {
    return this.#group;
  }
  get filtered() {
    return this.#filtered;
  }
  get draft() {
    return this.#rows.draft;
  }
  // Minimum and maximum of a column over the rows shown.
  range(/** @type {number} */ c) {
    return this.#ranges.get(c);
  }
  // A column's total; null if there is no value; undefined if unknown.
  sum(/** @type {number} */ c) {
    return this.#totals.get(c);
  }
  // Number of rows in the grid, including the draft.
  get length() {
    return this.#total + (this.draft ? 1 : 0);
  }
  get empty() {
    return this.#total === 0 && this.#rows.size === 0;
  }
  // The row at a position, or with a name, if it is in the window.
  at(/** @type {number | undefined} */ place) {
    return place === undefined ? undefined : this.#rows.at.get(place);
  }
  named(/** @type {number | undefined} */ rid) {
    return rid === undefined ? undefined : this.#rows.named.get(rid);
  }

  // Texts of a column, for its width.
  samples(/** @type {number} */ c) {
    const few = [...this.#rows.at.values()].filter((row) => !row.texts && !row.group).slice(0, 60);
    const texts = [...few, ...(this.#rows.sample ? [this.#rows.sample] : [])].map((row) => this.#formats[c].text(row, c));
    return this.#head.columns[c].total ? [...texts, this.totalText(c)] : texts;
  }
  // A column's total, formatted like its cells; empty if there is none.
  totalText(/** @type {number} */ c) {
    return this.#written(c, this.#totals.get(c));
  }
  // The same for a group's rows.
  groupText(/** @type {Group} */ group, /** @type {number} */ c) {
    return this.#written(c, group.totals.get(c));
  }
  #written(/** @type {number} */ c, /** @type {number | string | null | undefined} */ value) {
    if (value === undefined || value === null) return "";
    if (this.#head.columns[c].total === "count") return value.toLocaleString();
    const read = { v: [], f: [], k: [] };
    Object.assign(read, { v: { [c]: value }, f: { [c]: 0 }, k: { [c]: typeof value === "number" ? "number" : "text" } });
    return this.#formats[c].text(read, c);
  }

  // Takes a whole state; returns false if its columns differ and the grid must be rebuilt.
  whole(/** @type {GridMessage} */ content, /** @type {DataView} */ buffer) {
    const before = this.#head.columns;
    const same = looks(this.#head) === looks(content);
    if (!same) this.#formats = content.columns.map(makeFormat);
    const columns = same ? before.map((column, c) => Object.assign(column, content.columns[c])) : content.columns;
    const { name, title, height, add, remove, pinned, hidden, layout, sort = [] } = content;
    this.#head = { name, title, height, add, remove, pinned, hidden, layout, sort, columns };
    this.#rows.fill(content, buffer, this.#formats);
    this.#around(content);
    return same;
  }

  window(/** @type {WindowMessage} */ content, /** @type {DataView} */ buffer) {
    this.#rows.fill(content, buffer, this.#formats);
    this.#around(content);
  }

  // Returns the changed cells, the rows whose marks changed, and whether a format has changed with them.
  cells(/** @type {CellsMessage} */ content, /** @type {DataView} */ buffer) {
    this.#around(content);
    const touched = this.#rows.mark(content);
    const [changed, again] = this.#rows.patch(content, buffer, this.#formats);
    return { changed, touched, again };
  }

  type(/** @type {Draft | null} */ draft) {
    this.#rows.keep(draft, this.#total);
  }

  #around(/** @type {Around} */ content) {
    this.#total = content.total ?? this.#total;
    if (content.sort) this.#head = { ...this.#head, sort: content.sort };
    this.#count = content.rows ?? this.#count;
    this.#group = content.group ?? this.#group;
    if (content.filter !== undefined) this.#filtered = content.filter !== "";
    if (content.ranges) this.#ranges = new Map(content.ranges.map(([c, low, high]) => [c, [low, high]]));
    if (content.totals) this.#totals = new Map(content.totals);
    if (this.draft) this.#rows.keep(this.draft, this.#total);
  }
}

// What is drawn: SlickGrid, once there are columns.
export class Screen {
  /** @type {SlickGrid<Row> | null} */
  #grid = null;

  get drawn() {
    return this.#grid !== null;
  }
  get grid() {
    if (!this.#grid) throw new Error("the grid is not drawn yet");
    return this.#grid;
  }
  show(/** @type {SlickGrid<Row>} */ grid) {
    this.#grid = grid;
  }
  clear() {
    this.#grid?.destroy();
    this.#grid = null;
  }
}

// The row that has the focus, wherever it is, and the cell that is being edited.
export class Focus {
  /** @type {Active | null} */
  #active = null;
  /** @type {{ rid: number, row: number, cell: number } | null} */
  #editing = null;
  #moving = false;

  get active() {
    return this.#active;
  }
  get editing() {
    return this.#editing;
  }
  // Whether the focus moves with its row, not because of the user.
  get moving() {
    return this.#moving;
  }
  set(/** @type {Active | null} */ active) {
    this.#active = active;
  }
  edit(/** @type {Row} */ { rid, at }, /** @type {number} */ cell) {
    this.#editing = { rid, row: at, cell };
  }
  done() {
    this.#editing = null;
  }
  // The row with the open editor may have moved.
  place(/** @type {Table} */ table) {
    const row = table.named(this.#editing?.rid);
    if (this.#editing && row) this.#editing = { ...this.#editing, row: row.at };
  }
  // Runs what moves the focus with its row; the focus stays with that row.
  with(/** @type {() => void} */ move) {
    const active = this.#active;
    this.#moving = true;
    try {
      move();
    } finally {
      this.#moving = false;
      this.#active = active;
    }
  }
}

// Requests to the kernel that wait for a reply: the whole text of a cell, the text to copy.
export class Answers {
  /** @type {Map<string, (reply: any) => void>} */
  #waiting = new Map();
  #say;

  constructor(/** @type {(word: ToKernel) => void} */ say) {
    this.#say = say;
  }
  /** @returns {Promise<string>} */
  text(/** @type {number} */ rid, /** @type {number} */ c) {
    return this.#ask(`${rid}:${c}`, { t: "text", rid, c }).then(({ text }) => text);
  }
  /** @returns {Promise<{ text: string, rows: number }>} */
  copy(/** @type {[number, number, number, number]} */ range, /** @type {"csv" | undefined} */ as = undefined) {
    return this.#ask("copy", { t: "copy", range, ...(as ? { as } : {}) });
  }
  // Appends a part of a file to the others; raises an error if there is none.
  /** @param {"csv" | "xlsx"} as @param {number} part @param {DataView[]} pieces @returns {Promise<FileReply>} */
  async file(as, part, pieces) {
    const { buffer, ...reply } = await this.#ask("file", { t: "export", as, part });
    if (reply.why !== undefined) throw new Error(reply.why);
    pieces.push(buffer);
    return reply;
  }
  // The history of a cell, or without `c` of its row.
  /** @returns {Promise<HistoryReply & { buffer?: DataView }>} */
  history(/** @type {number} */ rid, /** @type {number | undefined} */ c) {
    return this.#ask("history", { t: "history", rid, ...(c === undefined ? {} : { c }) });
  }
  settle(/** @type {ReplyMessage} */ reply, /** @type {DataView | undefined} */ buffer = undefined) {
    const key = ["copy", "file", "history"].includes(reply.kind) ? reply.kind : `${reply.rid}:${reply.c}`;
    this.#waiting.get(key)?.(buffer ? { ...reply, buffer } : reply);
    this.#waiting.delete(key);
  }
  #ask(/** @type {string} */ key, /** @type {ToKernel} */ word) {
    return new Promise((/** @type {(reply: any) => void} */ resolve) => {
      this.#waiting.set(key, resolve);
      this.#say(word);
    });
  }
}
