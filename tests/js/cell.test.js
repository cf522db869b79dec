import assert from "node:assert/strict";
import { test } from "node:test";
import { disputeOf, draftText, indented, makeFormat, timeText } from "../../notebook_rt/widgets/cell.js";
import { ROW_MARK, decodeColumn, decodeInts } from "../../notebook_rt/widgets/decode.js";
import { Pack, column } from "./pack.js";

/** @import { Kind, Shape, Value } from "../../notebook_rt/widgets/protocol.js" */
/** @import { Draft, Row } from "../../notebook_rt/widgets/grid.js" */

const one = (/** @type {Value} */ value, /** @type {Kind} */ kind, flag = 0) => ({ v: [value], f: [flag], k: [kind] });
const format = (/** @type {Shape} */ shape, text = "") => makeFormat({ shape, format: text });

test("columns are read from a buffer that is not aligned", () => {
  for (const shift of [0, 1, 3, 8]) {
    const pack = new Pack();
    const numbers = pack.cells("number", [1.5, null, -3e300]);
    const texts = pack.cells("text", ["", "añ→😀", null, "b"]);
    const ints = pack.add(Int32Array.of(7, -1));
    const view = pack.view(shift);
    assert.deepEqual([...decodeColumn(numbers, view)[0]], [1.5, 0, -3e300]);
    assert.deepEqual([...decodeColumn(numbers, view)[1]], [0, 1, 0]);
    assert.deepEqual([...decodeColumn(texts, view)[0]], ["", "añ→😀", "", "b"]);
    assert.deepEqual([...decodeInts(ints, view)], [7, -1]);
  }
});

test("a time has a fraction only where there is one, of three or six digits", () => {
  assert.equal(timeText(0, true), "1970-01-01 00:00:00");
  assert.equal(timeText(1_700_000_000_123_000, true), "2023-11-14 22:13:20.123");
  assert.equal(timeText(1_700_000_000_000_001, true), "2023-11-14 22:13:20.000001");
  assert.equal(timeText(-1, true), "1969-12-31 23:59:59.999999");
});

test("digits after the point are the same all down a column and only grow", () => {
  const price = format("number");
  assert.equal(price.learn([1, 2.5]), true);
  assert.equal(price.text(one(1, "number"), 0), "1.0");
  assert.equal(price.learn([1.25]), true);
  assert.equal(price.learn([3]), false);
  assert.equal(price.learn([180 + 29 / 10 + 0.05]), false, "182.95000000000002 is 182.95");
  assert.equal(price.text(one(3, "number"), 0), "3.00");
});

test("a value that the digits would hide is written with an exponent", () => {
  const rate = format("number");
  rate.learn([0.5]);
  assert.equal(rate.text(one(3e-7, "number"), 0), "3e-7");
});

test("a format is followed", () => {
  assert.equal(format("number", ".1%").text(one(0.256, "number"), 0), "25.6%");
  assert.equal(format("number", ",.2f").text(one(1234.5, "number"), 0), "1,234.50");
  assert.equal(format("integer", ",d").text(one(1234567, "number"), 0), "1,234,567");
  assert.equal(format("integer").text(one(1234567, "number"), 0), "1234567");
  assert.equal(format("integer", ",").text(one(1234567, "number"), 0), "1,234,567");
  assert.equal(format("integer", ",d").text(one(1e15, "number"), 0), "1,000,000,000,000,000");
  // Decimals and long integers come as texts: grouped without losing a digit.
  assert.equal(format("integer", ",d").text(one("12345678901234567891", "text"), 0), "12,345,678,901,234,567,891");
  assert.equal(format("number", ",").text(one("1234567.10", "text"), 0), "1,234,567.10");
  assert.equal(format("number", ",.2f").text(one("-1234567.891", "text"), 0), "-1,234,567.89");
  assert.equal(format("number", ",.2f").text(one("<b>", "text"), 0), "<b>");
  assert.equal(format("text", ",").text(one("1234567", "text"), 0), "1234567");
});

test("null, truth, infinity and dates have their words", () => {
  assert.equal(format("text").text(one("", "text", 1), 0), "null");
  assert.equal(format("bool").text(one(1, "bool"), 0), "true");
  assert.equal(format("number").text(one(Infinity, "number"), 0), "Infinity");
  assert.equal(format("date").text(one(86400e6, "local"), 0), "1970-01-02");
});

test("an editor starts with a text that the kernel reads back as the same value", () => {
  assert.equal(format("timestamptz").typed(one(1_700_000_000_123_000, "instant"), 0), "2023-11-14T22:13:20.123+00:00");
  assert.equal(format("timestamp").typed(one(0, "local"), 0), "1970-01-01T00:00:00");
  assert.equal(format("number").typed(one(0.1, "number"), 0), "0.1");
  assert.equal(format("number").typed(one(0, "number", 1), 0), null);
});

test("JSON with a number that JavaScript would round stays as it came", () => {
  assert.equal(indented('{"a":1}'), '{\n  "a": 1\n}');
  assert.equal(indented('{"a":12345678901234567}'), '{"a":12345678901234567}');
  assert.equal(indented("not json"), "not json");
});

test("a cell of a new row says what becomes of it if nothing is typed", () => {
  /** @type {any} */
  const row = { texts: new Map([[3, null], [4, "x"]]) };
  /** @type {Draft} */
  const draft = row;
  assert.equal(draftText(column("a", { needed: true }), draft, 0)[0], "required");
  assert.equal(draftText(column("a", { filled: true }), draft, 0)[0], "default");
  assert.equal(draftText(column("a"), draft, 0)[0], "null");
  assert.deepEqual(draftText(column("a"), draft, 3), ["null", "nrt-null nrt-typed"]);
  assert.equal(draftText(column("a"), draft, 4)[0], "x");
});

test("a conflict about a row says who deleted it", () => {
  const row = (/** @type {"mine" | "theirs"} */ deleted) => /** @type {Row} */ (/** @type {unknown} */ ({ m: new Map([[ROW_MARK, { kind: "conflict", deleted }]]) }));
  assert.match(disputeOf(row("mine")) ?? "", /^you deleted/);
  assert.match(disputeOf(row("theirs")) ?? "", /^somebody else deleted/);
  assert.equal(disputeOf(undefined), undefined);
});
