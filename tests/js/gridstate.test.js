import assert from "node:assert/strict";
import { test } from "node:test";
import { Answers, Focus, Screen, Table } from "../../notebook_rt/widgets/gridstate.js";
import { Pack, column } from "./pack.js";

/** @import { CellsMessage, Column, GridMessage, ToKernel, WindowMessage } from "../../notebook_rt/widgets/protocol.js" */
/** @import { Draft } from "../../notebook_rt/widgets/grid.js" */

const COLUMNS = [column("name"), column("price", { shape: "number", type: "float8" })];

/** @param {number} first @param {number[]} rids @param {number} total @param {object} [more] */
function windowOf(first, rids, total, more = {}) {
  const pack = new Pack();
  const rows = pack.add(Int32Array.from(rids));
  const cols = [pack.cells("text", rids.map((rid) => `n${rid}`)), pack.cells("number", rids.map((rid) => rid / 4))];
  const content = /** @type {WindowMessage} */ ({ t: "window", first, rids: rows, cols, total, ...more });
  return { content, buffer: pack.view() };
}

/** @param {Table} table @param {number[]} rids @param {Column[]} [columns] */
function begin(table, rids, columns = COLUMNS) {
  const { content, buffer } = windowOf(0, rids, rids.length);
  return table.whole(/** @type {GridMessage} */ (/** @type {unknown} */ ({ ...content, t: "grid", name: "t", columns, height: 300, add: true, remove: true, pinned: 0, hidden: 0, layout: 1 })), buffer);
}

/** @returns {Draft} */
const draftRow = () => ({ rid: 0, at: -1, texts: new Map(), v: [], f: [1, 1], k: [], m: null, gone: false });

test("a window replaces the rows of the one before", () => {
  const table = new Table();
  begin(table, [1, 2, 3]);
  const { content, buffer } = windowOf(10, [3, 7], 40);
  table.window(content, buffer);
  assert.equal(table.total, 40);
  assert.equal(table.at(0), undefined);
  assert.equal(table.at(11)?.rid, 7);
  assert.equal(table.named(3)?.at, 10);
  assert.equal(table.named(1), undefined);
});

test("columns that look alike are kept as they are, with what they may hold learnt anew", () => {
  const table = new Table();
  begin(table, [1]);
  const [first] = table.head.columns;
  assert.equal(begin(table, [1], [column("name", { nullable: false }), COLUMNS[1]]), true);
  assert.equal(table.head.columns[0], first);
  assert.equal(first.nullable, false);
  assert.equal(begin(table, [1], [column("other"), COLUMNS[1]]), false);
});

test("changed cells are put in their place, and end the mark of their sending", () => {
  const table = new Table();
  begin(table, [1, 2]);
  const row = table.at(1);
  assert.ok(row);
  row.m = new Map([[1, { kind: "sending" }]]);
  const pack = new Pack();
  const rows = pack.add(Int32Array.of(1));
  const message = /** @type {CellsMessage} */ ({ t: "cells", cols: [{ c: 1, rows, ...pack.cells("number", [9.125]) }] });
  const { changed, again } = table.cells(message, pack.view());
  assert.deepEqual(changed, [[1, 1]]);
  assert.equal(again, true); // a third digit after the point
  assert.equal(row.v[1], 9.125);
  assert.equal(row.m.size, 0);
});

test("marks and deleted rows are lists of the whole window: what is not in them is over", () => {
  const table = new Table();
  begin(table, [1, 2, 3]);
  const say = (/** @type {object} */ more) => table.cells(/** @type {CellsMessage} */ ({ t: "cells", cols: [], ...more }), new Pack().view());
  assert.deepEqual([...say({ marks: [[0, 1, "failed", "no"]], gone: [2] }).touched], [0, 2]);
  assert.equal(table.at(0)?.m?.get(1)?.why, "no");
  assert.equal(table.at(2)?.gone, true);
  assert.deepEqual([...say({ marks: [], gone: [] }).touched], [0, 2]);
  assert.equal(table.at(0)?.m, null);
  assert.equal(table.at(2)?.gone, false);
  assert.equal(say({}).touched.size, 0);
});

test("a row that is being typed stays behind the last one", () => {
  const table = new Table();
  begin(table, [1, 2]);
  table.type(draftRow());
  assert.equal(table.length, 3);
  assert.equal(table.at(2)?.rid, 0);
  const { content, buffer } = windowOf(0, [1, 2, 3], 3);
  table.window(content, buffer);
  assert.equal(table.at(2)?.rid, 3);
  assert.equal(table.at(3), table.draft);
  table.type(null);
  assert.equal(table.length, 3);
  assert.equal(table.at(3), undefined);
});

test("the focus stays with its row when rows move, and an open editor too", () => {
  const table = new Table();
  begin(table, [1, 2]);
  const focus = new Focus();
  const row = table.named(2);
  assert.ok(row);
  focus.set({ rid: 2, cell: 1 });
  focus.edit(row, 1);
  const { content, buffer } = windowOf(0, [9, 8, 2], 3);
  table.window(content, buffer);
  focus.place(table);
  assert.deepEqual(focus.editing, { rid: 2, row: 2, cell: 1 });
  focus.with(() => {
    assert.equal(focus.moving, true);
    focus.set(null);
  });
  assert.equal(focus.moving, false);
  assert.deepEqual(focus.active, { rid: 2, cell: 1 });
});

test("an answer goes to who asked for it", async () => {
  /** @type {ToKernel[]} */
  const said = [];
  const answers = new Answers((word) => said.push(word));
  const text = answers.text(4, 1);
  const copy = answers.copy([0, 1, 0, 1]);
  assert.deepEqual(said.map(({ t }) => t), ["text", "copy"]);
  answers.settle({ t: "reply", kind: "copy", text: "a\tb", rows: 1 });
  answers.settle({ t: "reply", kind: "text", rid: 4, c: 1, text: "whole" });
  assert.equal(await text, "whole");
  assert.equal((await copy).rows, 1);
});

test("a file comes in parts, and says why there is none", async () => {
  /** @type {ToKernel[]} */
  const said = [];
  const answers = new Answers((word) => said.push(word));
  /** @type {DataView[]} */
  const pieces = [];
  const first = answers.file("csv", 0, pieces);
  const buffer = new DataView(new ArrayBuffer(3));
  answers.settle({ t: "reply", kind: "file", part: 0, parts: 2, name: "t.csv", rows: 7 }, buffer);
  assert.equal((await first).name, "t.csv");
  assert.deepEqual(pieces, [buffer]);
  const none = answers.file("xlsx", 0, pieces);
  answers.settle({ t: "reply", kind: "file", part: 0, parts: 0, why: "too many" });
  await assert.rejects(none, /too many/);
  assert.deepEqual(said[1], { t: "export", as: "xlsx", part: 0 });
});

test("totals are written as their column is, a count as a count", () => {
  const table = new Table();
  begin(table, [1, 2], [column("name", { total: "count" }), column("price", { shape: "number", type: "float8", format: ",.2f", total: "sum" })]);
  table.cells(/** @type {CellsMessage} */ ({ t: "cells", cols: [], totals: [[0, 1234], [1, 98765.5]], ranges: [[1, -1, 4]] }), new Pack().view());
  assert.deepEqual([table.totalText(0), table.totalText(1)], ["1,234", "98,765.50"]);
  assert.deepEqual(table.range(1), [-1, 4]);
  table.cells(/** @type {CellsMessage} */ ({ t: "cells", cols: [], totals: [[1, null]] }), new Pack().view());
  assert.equal(table.totalText(1), "");
});

test("nobody but its owner changes a piece of state", () => {
  for (const [owner, name] of /** @type {[any, string][]} */ ([[new Table(), "total"], [new Table(), "head"], [new Focus(), "active"], [new Focus(), "editing"], [new Screen(), "grid"]])) {
    assert.throws(() => (owner[name] = null), TypeError);
  }
});
