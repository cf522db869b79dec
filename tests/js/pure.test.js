import assert from "node:assert/strict";
import { test } from "node:test";
import { ago } from "../../notebook_rt/widgets/common.js";
import { checked, localTime, notJson } from "../../notebook_rt/widgets/editors.js";
import { described, sparkline } from "../../notebook_rt/widgets/health.js";
import { share } from "../../notebook_rt/widgets/layout.js";
import { column } from "./pack.js";

/** @import { Shape } from "../../notebook_rt/widgets/protocol.js" */

test("how long ago is said in the largest unit", () => {
  const now = Date.parse("2026-05-01T12:00:00Z");
  const said = (/** @type {number} */ seconds) => ago(new Date(now - seconds * 1000).toISOString(), now);
  assert.deepEqual([-3, 0, 4.9, 5, 59, 60, 3599, 3600, 86399].map(said), [
    "just now", "just now", "just now", "5 s ago", "59 s ago", "1 min ago", "59 min ago", "1 h ago", "23 h ago",
  ]);
  assert.equal(ago(null), "");
});

test("a typed text is refused where it can be no value of its column", () => {
  const refused = (/** @type {Shape} */ shape, /** @type {string | null} */ text, draft = false) => checked(column("n", { shape }), text, draft) !== null;
  for (const text of ["1", " -12 ", "1,000", "1 000", "−5"]) assert.equal(refused("integer", text), false, text);
  for (const text of ["1.5", "x", "1e3", "-"]) assert.equal(refused("integer", text), true, text);
  for (const text of ["1", "-.5", "1e-7", "NaN", "-Infinity", "inf", "1,000.5"]) assert.equal(refused("number", text), false, text);
  for (const text of ["1.2.3", "one", "e5", "--1"]) assert.equal(refused("number", text), true, text);
  assert.equal(refused("text", ""), true);
  assert.equal(refused("text", "", true), false);
  assert.equal(refused("text", null), false);
});

test("an instant is edited in this browser's time and stays the same instant", () => {
  for (const text of ["2024-07-01T10:00:00.123+00:00", "1999-12-31T23:59:59+00:00"]) {
    assert.equal(new Date(localTime(text)).getTime(), new Date(text).getTime());
  }
});

test("what is not JSON is said in words", () => {
  assert.equal(notJson('{"a": [1, null]}'), "");
  assert.match(notJson("{a}"), /^Not JSON: /);
});

test("room to spare goes to columns that are cut, up to their wish", () => {
  const columns = [{ field: 0, width: 100 }, { field: 1, width: 320 }];
  share(90, columns, [columns[1]], [150, 400]);
  assert.deepEqual(columns.map(({ width }) => width), [150, 360]);
});

test("missing room comes from the widest texts, if they have enough, else the grid scrolls", () => {
  const columns = [{ field: 0, width: 300 }, { field: 1, width: 320 }];
  share(-200, columns, [...columns], [300, 320]);
  assert.deepEqual(columns.map(({ width }) => width), [240, 180]);
  share(-500, columns, [...columns], [300, 320]);
  assert.deepEqual(columns.map(({ width }) => width), [240, 180]);
});

test("a sparkline spans its box, and one value does not divide by nothing", () => {
  assert.equal(sparkline([0, 10]), "0.0,15.0 64.0,2.0");
  assert.equal(sparkline([5]), "0.0,2.0");
  assert.equal(sparkline([]), "");
});

test("a sparkline goes on over what was not measured", () => {
  assert.equal(sparkline([null, 10, null, 0, null]), "16.0,2.0 48.0,15.0");
  assert.equal(sparkline([null, null]), "");
});

test("a picture is described in words", () => {
  const lag = { name: "Lag", meaning: "from there to here", now: "12 ms", points: [null, 44.4, 12] };
  assert.equal(described(lag), "Lag, from there to here: now 12 ms, at most 44 in five minutes");
  assert.match(described({ ...lag, now: "", points: [null] }), /nothing measured/);
});
