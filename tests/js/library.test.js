import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";
import { gzipSync } from "node:zlib";
import { Refused, library, page, whyNot } from "../../notebook_rt/widgets/library.js";

/** @import { ToKernel } from "../../notebook_rt/widgets/protocol.js" */

// A widget's model, and the kernel behind it: `answer` says what it sends for a library.
function modelOf(/** @type {(name: string) => [content: object, buffers: DataView[]]} */ answer) {
  /** @type {Set<(...args: any[]) => void>} */
  const listeners = new Set();
  /** @type {ToKernel[]} */
  const said = [];
  const model = {
    send() {},
    on: (/** @type {string} */ _event, /** @type {(...args: any[]) => void} */ listener) => void listeners.add(listener),
    off: (/** @type {string} */ _event, /** @type {(...args: any[]) => void} */ listener) => void listeners.delete(listener),
  };
  const say = (/** @type {ToKernel} */ word) => {
    said.push(word);
    if (word.t === "library") for (const listener of listeners) listener(...answer(word.name));
  };
  return { model, say, said, listeners };
}

const gzipped = (/** @type {string} */ text) => {
  const bytes = gzipSync(text);
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
};
const sends = (/** @type {DataView[]} */ ...buffers) => (/** @type {string} */ name) => /** @type {[object, DataView[]]} */ ([{ t: "library", name }, buffers]);

beforeEach(() => {
  page().libraries = {};
});

test("a library is asked for once a page", async () => {
  const kernel = modelOf(sends(gzipped("export default 42;")));
  const [one, two] = await Promise.all([library("a", kernel.model, kernel.say), library("a", kernel.model, kernel.say)]);
  assert.equal(one.default, 42);
  assert.equal(one, two);
  assert.deepEqual(kernel.said, [{ t: "library", name: "a" }]);
  assert.equal(kernel.listeners.size, 0);
});

test("code that the page refuses is an error, not a wait for ever, and the next widget asks anew", async () => {
  const broken = modelOf(sends(gzipped("this is not a module")));
  await assert.rejects(library("a", broken.model, broken.say), Refused);
  const whole = modelOf(sends(gzipped("export default 1;")));
  assert.equal((await library("a", whole.model, whole.say)).default, 1);
});

test("what cannot be unpacked is an error", async () => {
  for (const buffers of [[], [new DataView(new ArrayBuffer(8))]]) {
    const kernel = modelOf(sends(...buffers));
    await assert.rejects(library("a", kernel.model, kernel.say), Refused);
  }
});

test("a browser without DecompressionStream gets an error", async () => {
  const there = globalThis.DecompressionStream;
  // @ts-expect-error: older browsers have none
  delete globalThis.DecompressionStream;
  try {
    const kernel = modelOf(sends(gzipped("export default 1;")));
    await assert.rejects(library("a", kernel.model, kernel.say), /DecompressionStream/);
  } finally {
    globalThis.DecompressionStream = there;
  }
});

test("a kernel that does not have the library says why", async () => {
  const kernel = modelOf((name) => [{ t: "library", name, error: 'charts need the extra "plot"' }, []]);
  await assert.rejects(library("a", kernel.model, kernel.say), (/** @type {Error} */ error) => /cannot be drawn: charts need the extra/.test(whyNot(error)));
});
