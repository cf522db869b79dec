// A big library, loaded once per page: the first widget that needs it requests the gzipped module from its
// kernel and keeps it for all others, of any kernel. Never part of a widget's state.
import { h, setText } from "./common.js";

/** @import { Model, Say, Unnumbered } from "./protocol.js" */
/** @typedef {{ ready: Promise<any>, resolve: (module: any) => void, reject: (error: Error) => void, loading?: boolean, asked?: number }} Entry */

const PAGE = Symbol.for("notebook_rt@2");
const AGAIN = 8000; // milliseconds after which the request is repeated
const SLOW = 15000;

// Shared by the widgets of one page: libraries by name, column widths.
/** @returns {{ libraries: Record<string, Entry>, widths: Record<string, number> }} */
export const page = () => (/** @type {any} */ (globalThis)[PAGE] ??= { libraries: {}, widths: {} });

// The page blocks the code, or the browser cannot unpack it.
export class Refused extends Error {}

/** @returns {Entry} */
function entryOf(/** @type {string} */ name) {
  const { libraries } = page();
  if (!(name in libraries)) {
    /** @type {any} */
    const entry = {};
    entry.ready = new Promise((resolve, reject) => Object.assign(entry, { resolve, reject }));
    // A failure is reported to the waiting widgets; the next widget requests the library again.
    entry.ready.catch(() => delete libraries[name]);
    libraries[name] = entry;
  }
  return libraries[name];
}

// The module, as soon as any kernel has sent it; rejects if it cannot be loaded.
/** @returns {Promise<any>} */
export function library(/** @type {string} */ name, /** @type {Model} */ model, /** @type {Say} */ say) {
  const entry = entryOf(name);
  if (entry.loading) return entry.ready;
  const receive = (/** @type {Unnumbered} */ content, /** @type {DataView<ArrayBuffer>[]} */ buffers) => {
    if (content.t !== "library" || content.name !== name || entry.loading) return;
    entry.loading = true;
    if (content.error === undefined) load(buffers[0]).then(entry.resolve, entry.reject);
    else entry.reject(new Error(content.error));
  };
  model.on("msg:custom", receive);
  const ask = () => {
    if (entry.loading || Date.now() - (entry.asked ?? 0) < AGAIN) return;
    entry.asked = Date.now();
    say({ t: "library", name });
  };
  const timer = setInterval(ask, 1000);
  setTimeout(ask);
  const over = () => {
    clearInterval(timer);
    model.off("msg:custom", receive);
  };
  entry.ready.then(over, over);
  return entry.ready;
}

async function load(/** @type {DataView<ArrayBuffer>} */ gzipped) {
  try {
    const plain = new Blob([gzipped]).stream().pipeThrough(new DecompressionStream("gzip"));
    return await importText(await new Response(plain).text());
  } catch (error) {
    throw new Refused(error instanceof Error ? error.message : String(error));
  }
}

// A page may forbid modules from blob: URLs (its Content-Security-Policy) and still allow data: URLs.
async function importText(/** @type {string} */ text) {
  const url = URL.createObjectURL(new Blob([text], { type: "text/javascript" }));
  try {
    return await import(url);
  } catch (refused) {
    // The message of the second error would contain the whole module.
    return await import(`data:text/javascript;charset=utf-8,${encodeURIComponent(text)}`).catch(() => Promise.reject(refused));
  } finally {
    URL.revokeObjectURL(url);
  }
}

// The placeholder of a widget until its library is loaded; `over` removes it.
export function loading(/** @type {HTMLElement} */ body) {
  const node = h("p", { class: "nrt-loading", role: "status", text: "Loading…" });
  body.append(node);
  const slow = setTimeout(() => setText(node, "Waiting for the kernel, which has not sent the code that draws this yet. While a cell runs it may not be able to."), SLOW);
  return () => {
    clearTimeout(slow);
    node.remove();
  };
}

// Why a widget cannot be drawn, in a sentence.
export const whyNot = (/** @type {Error} */ error) =>
  error instanceof Refused
    ? `The page refuses the code that draws this (${error.message}). Its Content-Security-Policy has to allow ` +
      "blob: or data: in script-src. What is shown does not follow changes; run the cell again to see them."
    : `This cannot be drawn: ${error.message}. What is shown does not follow changes; run the cell again to see them.`;

// In place of a widget that cannot be drawn: the reason, and the static form, which the kernel makes.
export function unloaded(/** @type {HTMLElement} */ body, /** @type {Model} */ model, /** @type {Say} */ say, /** @type {Error} */ error) {
  const holder = h("div", { class: "nrt-static" });
  body.replaceChildren(h("p", { class: "nrt-note nrt-unloaded", role: "alert", text: whyNot(error) }), holder);
  const receive = (/** @type {Unnumbered} */ content) => {
    if (content.t !== "static") return;
    model.off("msg:custom", receive);
    holder.replaceChildren(...textsOf(new DOMParser().parseFromString(content.html, "text/html").body));
  };
  model.on("msg:custom", receive);
  say({ t: "static" });
}

/** @type {readonly (keyof HTMLElementTagNameMap)[]} */
const PLAIN = ["p", "table", "caption", "thead", "tbody", "tr", "th", "td"];

// Copies of the content of `node`: plain elements without attributes, and texts; never HTML.
/** @returns {(Node | string)[]} */
function textsOf(/** @type {Node} */ node) {
  return [...node.childNodes].map((child) => {
    const tag = PLAIN.find((name) => child instanceof Element && child.localName === name);
    if (!tag) return child.textContent ?? "";
    const copy = h(tag);
    copy.append(...textsOf(child));
    return copy;
  });
}
