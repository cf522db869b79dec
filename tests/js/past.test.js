import assert from "node:assert/strict";
import { test } from "node:test";
import { textsOf } from "../../notebook_rt/widgets/history.js";
import { Travel, gapPlace, lostText, momentText, stepOf } from "../../notebook_rt/widgets/past.js";
import { Pack } from "./pack.js";

/** @import { HistoryReply } from "../../notebook_rt/widgets/protocol.js" */

function travelling() {
  /** @type {(number | null)[]} */
  const said = [];
  let now = 0;
  return { said, travel: new Travel((at) => said.push(at), () => now), wait: (/** @type {number} */ ms) => (now += ms) };
}

test("one question is on its way at a time, and the last that came up is asked next", () => {
  const { said, travel } = travelling();
  travel.heard(0);
  for (let at = 1; at <= 200; at++) travel.ask(at);
  assert.deepEqual(said, [1]);
  assert.equal(travel.pending, true);
  travel.heard(0); // such as a gap that was found: no answer
  assert.deepEqual(said, [1]);
  travel.heard(1);
  assert.deepEqual(said, [1, 200]);
  travel.heard(2);
  assert.deepEqual(said, [1, 200]);
  assert.equal(travel.pending, false);
});

test("the way back to live is asked for like a moment", () => {
  const { said, travel } = travelling();
  travel.heard(4);
  travel.ask(7);
  travel.ask(null);
  travel.heard(5);
  assert.deepEqual(said, [7, null]);
});

test("a kernel that does not answer is asked again when somebody asks", () => {
  const { said, travel, wait } = travelling();
  travel.heard(0);
  travel.ask(1);
  travel.ask(2);
  wait(5001);
  travel.ask(3);
  assert.deepEqual(said, [1, 3]);
});

test("a step is round, and five hundred of them or more reach over the whole", () => {
  for (const span of [1000, 5000, 60e3, 3600e3, 86400e3, 7 * 86400e3]) {
    const step = stepOf(span);
    assert.match(String(step), /^[125]0*$/);
    assert.ok(step >= 10 && span / step >= 100 && span / step <= 500 + 1e-6, `${span}: ${step}`);
  }
  assert.equal(stepOf(3600e3), 10e3);
});

test("a moment of today is a time, another one has its day", () => {
  const noon = new Date(2026, 2, 1, 12, 0, 0).getTime() * 1000;
  assert.equal(momentText(noon + 1_250_000, noon), "12:00:01");
  assert.equal(momentText(noon + 1_250_000, noon, true), "12:00:01.2");
  assert.equal(momentText(noon, noon, true), "12:00:00.0");
  assert.equal(momentText(noon - 86400e6, noon), "2026-02-28 12:00:00");
});

test("a gap is drawn where it was, and to the right end while it goes on", () => {
  assert.deepEqual(gapPlace([150, 200], 100, 300), [25, 25]);
  assert.deepEqual(gapPlace([50, 150], 100, 300), [0, 25]);
  assert.deepEqual(gapPlace([200, null], 100, 300), [50, 50]);
  assert.deepEqual(gapPlace([10, 20], 100, 300), [0, 0]);
});

test("a gap says from when to when, and why", () => {
  const noon = new Date(2026, 2, 1, 12, 0, 0).getTime() * 1000;
  assert.equal(lostText([noon, noon + 60e6, "no network"], noon), "from 12:00:00 to 12:01:00 (no network)");
  assert.equal(lostText([noon, noon + 3e5, "read"], noon), "from 12:00:00.0 to 12:00:00.3 (read)");
  assert.equal(lostText([noon, null, "no network"], noon), "since 12:00:00 (no network)");
});

test("what a cell was is written as the cell is, with every digit that one of its values has", () => {
  const pack = new Pack();
  /** @type {HistoryReply} */
  const reply = { kind: "history", cols: [
    { name: "price", shape: "number", format: "", ...pack.cells("number", [1, 2.125]) },
    { name: "note", shape: "text", format: "", ...pack.cells("text", ["<b>", ""]) },
  ] };
  const text = textsOf(reply, pack.view());
  assert.equal(text(0, 0), (1).toFixed(3));
  assert.equal(text(0, 1), "2.125");
  assert.equal(text(1, 0), "<b>");
  assert.equal(text(1, null), "");
});
