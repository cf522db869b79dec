// A big library, once a page: the first widget that needs it asks its kernel for the gzipped
// module and keeps it for all others, of whatever kernel. Never part of a widget's state.
import { h } from "./common.js";

const PAGE = Symbol.for("notebook_rt@1");

// What widgets of one page share: libraries by name, column widths.
export const page = () => (globalThis[PAGE] ??= { libraries: {}, widths: {} });

export function library(name, model, say) {
  const entry = (page().libraries[name] ??= {});
  entry.ready ??= new Promise((resolve) => (entry.resolve = resolve));
  if (entry.loading) return entry.ready;
  const receive = (content, buffers) => {
    if (content.t !== "library" || content.name !== name || entry.loading) return;
    entry.loading = true;
    const plain = new Blob([buffers[0]]).stream().pipeThrough(new DecompressionStream("gzip"));
    entry.resolve(new Response(plain).text().then(importText));
  };
  model.on("msg:custom", receive);
  const ask = () => {
    if (entry.loading || Date.now() - (entry.asked ?? 0) < 8000) return;
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

// A page may forbid modules of blob: URLs (its Content-Security-Policy) and still allow data: URLs.
async function importText(text) {
  const url = URL.createObjectURL(new Blob([text], { type: "text/javascript" }));
  try {
    return await import(url);
  } catch (refused) {
    // The second error would have the whole module in its words.
    return await import(`data:text/javascript;charset=utf-8,${encodeURIComponent(text)}`).catch(() => Promise.reject(refused));
  } finally {
    URL.revokeObjectURL(url);
  }
}

// Instead of a widget whose library the page refuses: why, and the static form, which the kernel makes.
export function unloaded(body, model, say, error) {
  const why =
    `The page refuses the code that draws this (${error.message}). Its Content-Security-Policy has to allow ` +
    "blob: or data: in script-src. What is shown does not follow changes; run the cell again to see them.";
  const holder = h("div", { class: "nrt-static" });
  body.replaceChildren(h("p", { class: "nrt-note nrt-unloaded", role: "alert", text: why }), holder);
  const receive = (content) => {
    if (content.t !== "static") return;
    model.off("msg:custom", receive);
    holder.replaceChildren(...textsOf(new DOMParser().parseFromString(content.html, "text/html").body));
  };
  model.on("msg:custom", receive);
  say({ t: "static" });
}

const PLAIN = ["p", "table", "caption", "thead", "tbody", "tr", "th", "td"];

// Copies of what is in `node`: plain elements without attributes, and texts; never HTML.
function textsOf(node) {
  return [...node.childNodes].map((child) => (PLAIN.includes(child.localName) ? h(child.localName, {}, ...textsOf(child)) : child.textContent));
}
