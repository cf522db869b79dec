import assert from "node:assert/strict";
import { test } from "node:test";
import { ago } from "../../notebook_rt/widgets/common.js";
import { checked, notJson } from "../../notebook_rt/widgets/editors.js";
import { described, sparkline } from "../../notebook_rt/widgets/health.js";
import { sortedBy } from "../../notebook_rt/widgets/gridmenu.js";
import { frozen, share } from "../../notebook_rt/widgets/layout.js";
import { hueOf, lookOf } from "../../notebook_rt/widgets/looks.js";
import { stepped, tidy } from "../../notebook_rt/widgets/menu.js";
import { readTime, shownTime } from "../../notebook_rt/widgets/times.js";
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
  for (const text of ["1.5", "x", "1e3", "-", "12,34", "1,0000", "1 5"]) assert.equal(refused("integer", text), true, text);
  for (const text of ["1", "-.5", "1e-7", "NaN", "-Infinity", "inf", "1,000.5", "1,00,000.5", "1.", "1,000e3"]) assert.equal(refused("number", text), false, text);
  for (const text of ["1.2.3", "one", "e5", "--1", "1,5", "2,75", "1.234,56", "1 5.5"]) assert.equal(refused("number", text), true, text);
  assert.match(checked(column("n", { shape: "number" }), "1,5")?.msg ?? "", /^“1,5” is not a number: a comma groups thousands/);
  assert.equal(refused("text", ""), true);
  assert.equal(refused("text", "", true), false);
  assert.equal(refused("text", null), false);
});

test("a time is edited as it is shown and stays the same one", () => {
  for (const text of ["2024-07-01T10:00:00.123+00:00", "1999-12-31T23:59:59+00:00", "2024-07-01T10:00:00.123456+00:00", "1969-12-31T23:59:59.999999+00:00"]) {
    const read = readTime("timestamptz", shownTime("timestamptz", text));
    assert.equal(Date.parse(read ?? ""), Date.parse(text), text);
    assert.equal(/\.(\d+)/.exec(read ?? "")?.[1], /\.(\d+)/.exec(text)?.[1]);
  }
  assert.equal(shownTime("timestamp", "2026-03-31T14:30:00"), "2026-03-31 14:30:00");
  assert.equal(readTime("timestamp", "2026-3-1 4:30"), "2026-03-01T04:30:00");
  assert.equal(readTime("date", " 2026-03-31 "), "2026-03-31");
  assert.equal(readTime("timestamptz", "2026-03-31 14:30+02:00"), "2026-03-31T14:30:00+02:00");
  assert.equal(shownTime("timestamptz", "infinity"), "infinity");
});

test("what is no time is refused with one that is", () => {
  for (const text of ["", "soon", "2026-02-30", "2026-13-01", "31.3.2026", "2026-03-31 25:00", "<b>"]) assert.equal(readTime("timestamptz", text), null, text);
  assert.equal(readTime("date", "2026-03-31 14:30"), null);
  assert.equal(checked(column("due", { shape: "date" }), "soon")?.msg, "“soon” is not a date like 2026-03-31");
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

test("a menu is walked by arrows round its ends, and by letters", () => {
  const labels = ["Copy", "Copy as CSV", "Hide", "Delete"];
  assert.deepEqual(["ArrowDown", "ArrowUp", "Home", "End"].map((key) => stepped(key, 3, labels)), [0, 2, 0, 3]);
  assert.equal(stepped("ArrowUp", 0, labels), 3);
  assert.deepEqual([stepped("c", 0, labels), stepped("c", 1, labels), stepped("x", 2, labels)], [1, 0, 2]);
  assert.deepEqual([stepped("Enter", 0, labels), stepped(" ", 0, labels)], [-1, -1]);
});

test("a menu has no line that separates nothing", () => {
  const item = { label: "Copy", act() {} };
  assert.deepEqual(tidy(["line", item, "line", null, "line", item, false, "line"]), [item, "line", item]);
});

test("who sorts by a column has it first, and the others as they were", () => {
  assert.deepEqual(sortedBy([[1, true], [2, false]], 2, true), [[2, true], [1, true]]);
  assert.deepEqual(sortedBy([[1, true], [2, false]], 1, null), [[2, false]]);
});

test("pinned columns leave room for the others", () => {
  assert.equal(frozen(2, [100, 100, 100], 500), 2);
  assert.equal(frozen(2, [100, 300, 100], 500), 1);
  assert.equal(frozen(3, [10, 10, 10], 500), 2);
  assert.equal(frozen(0, [10, 10], 500), 0);
  assert.equal(frozen(1, [100, 100], 0), 1);
});

test("a bar goes from nothing to its value, on both sides", () => {
  const look = (/** @type {number} */ value, /** @type {[number, number]} */ range, style = "bar") =>
    lookOf(column("n", { shape: "number", style }), { v: [value], f: [0], k: ["number"] }, 0, range, String(value));
  assert.deepEqual(look(5, [0, 10])?.props, { "--nrt-from": "0%", "--nrt-to": "50%" });
  assert.deepEqual(look(-5, [-10, 10])?.props, { "--nrt-from": "25%", "--nrt-to": "50%" });
  assert.deepEqual(look(20, [15, 20])?.props, { "--nrt-from": "0%", "--nrt-to": "100%" });
  assert.deepEqual(look(0, [0, 0])?.props, { "--nrt-from": "0%", "--nrt-to": "0%" });
  assert.equal(look(NaN, [0, 1]), null);
  assert.deepEqual([look(1, [0, 1], "updown")?.arrow, look(-1, [0, 1], "updown")?.arrow, look(0, [0, 1], "updown")], ["▲", "▼", null]);
  assert.deepEqual([look(1, [-1, 4], "color")?.classes, look(-1, [-1, 4], "color")?.classes], [["nrt-heat-up"], ["nrt-heat-down"]]);
});

test("a text has the colour that was said for it, or one of its own", () => {
  const row = { v: ["open"], f: [0], k: [/** @type {const} */ ("text")] };
  assert.deepEqual(lookOf(column("s", { style: { open: "green" } }), row, 0, undefined, "open")?.classes, ["nrt-tag", "nrt-in-green"]);
  assert.equal(lookOf(column("s", { style: { open: "green" } }), row, 0, undefined, "toString"), null);
  assert.equal(lookOf(column("s", { style: "color" }), row, 0, undefined, "open")?.props["--nrt-hue"], String(hueOf("open")));
  assert.notEqual(hueOf("open"), hueOf("held"));
});
