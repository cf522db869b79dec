// Shared by all widgets: elements without HTML strings, the lease and the acknowledgement of the transport
// (transport.py is the other end), and the host's light or dark theme.
import "./common.css";

/** @import { Drawn, FromKernel, Model, Numbered, Say, ToKernel } from "./protocol.js" */
/** @typedef {Record<string, any>} Props attributes; `text`; `on…`: a listener */
/** @typedef {(Node | null)[]} Children */

// Creates an element. Text is set by textContent only: names and values are hostile input.
/** @type {<K extends keyof HTMLElementTagNameMap>(tag: K, props?: Props, ...children: Children) => HTMLElementTagNameMap[K]} */
export const h = (tag, props = {}, ...children) => dressed(document.createElement(tag), props, children);

/** @type {<K extends keyof SVGElementTagNameMap>(tag: K, props?: Props, ...children: Children) => SVGElementTagNameMap[K]} */
export const svg = (tag, props = {}, ...children) => dressed(document.createElementNS("http://www.w3.org/2000/svg", tag), props, children);

/** @type {<E extends Element>(node: E, props: Props, children: Children) => E} */
function dressed(node, props, children) {
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "text") node.textContent = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

/** @type {WeakMap<Element, Map<unknown, HTMLElement>>} */
const nodes = new WeakMap();

// Makes the children of `parent` match `items`, keeping the nodes (and the focus) of known keys.
/** @type {<T>(parent: Element, items: T[], keyOf: (item: T) => unknown, make: (item: T) => HTMLElement, draw: (node: any, item: T) => void) => void} */
export function keyed(parent, items, keyOf, make, draw) {
  const known = nodes.get(parent) ?? new Map();
  nodes.set(parent, known);
  const left = new Set(known.keys());
  let at = parent.firstElementChild;
  for (const item of items) {
    const key = keyOf(item);
    let node = known.get(key);
    if (!node) known.set(key, (node = make(item)));
    left.delete(key);
    draw(node, item);
    if (node === at) at = node.nextElementSibling;
    else parent.insertBefore(node, at);
  }
  for (const key of left) {
    known.get(key)?.remove();
    known.delete(key);
  }
}

export const command = /Mac|iP(hone|ad)/.test(globalThis.navigator?.platform ?? "") ? "⌘" : "Ctrl+";

export const setText = (/** @type {Node} */ node, /** @type {string} */ text) => {
  if (node.textContent !== text) node.textContent = text;
};

export function ago(/** @type {string | null} */ iso, now = Date.now()) {
  if (!iso) return "";
  const s = Math.max(0, (now - Date.parse(iso)) / 1000);
  if (s < 5) return "just now";
  if (s < 60) return `${Math.floor(s)} s ago`;
  if (s < 3600) return `${Math.floor(s / 60)} min ago`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ago`;
  return new Date(iso).toLocaleDateString();
}

// Any CSS colour as red, green, blue and opacity up to 255: hosts use rgb(), oklch(), color().
/** @type {CanvasRenderingContext2D | null} */
let pixel = null;
function rgbaOf(/** @type {string} */ colour) {
  pixel ??= /** @type {CanvasRenderingContext2D} */ (document.createElement("canvas").getContext("2d", { willReadFrequently: true }));
  pixel.clearRect(0, 0, 1, 1);
  pixel.fillStyle = colour;
  pixel.fillRect(0, 0, 1, 1);
  return pixel.getImageData(0, 0, 1, 1).data;
}

// Light or dark, from the actual background behind the widget: works in every host.
function watchTheme(/** @type {HTMLElement} */ root) {
  const above = (/** @type {Element} */ node) => node.parentElement ?? /** @type {Partial<ShadowRoot>} */ (node.getRootNode()).host;
  const look = () => {
    let node = above(root);
    let dark = matchMedia("(prefers-color-scheme: dark)").matches;
    while (node) {
      const [red, green, blue, opacity] = rgbaOf(getComputedStyle(node).backgroundColor);
      if (opacity > 127) {
        dark = 0.3 * red + 0.59 * green + 0.11 * blue < 128;
        break;
      }
      node = above(node);
    }
    root.dataset.theme = dark ? "dark" : "light";
  };
  const soon = () => [0, 150, 600].forEach((ms) => setTimeout(look, ms));
  const observer = new MutationObserver(soon);
  for (const node of [document.documentElement, document.body]) {
    observer.observe(node, { attributes: true, attributeFilter: ["class", "style", "theme", "data-jp-theme-light", "data-theme"] });
  }
  const media = matchMedia("(prefers-color-scheme: dark)");
  media.addEventListener("change", soon);
  soon();
  return () => {
    observer.disconnect();
    media.removeEventListener("change", soon);
  };
}

const SILENCE = 30000;
const MISSED = 12000; // the kernel sends a sign of life every 10 s, unless it considers this view gone
const FIRST_WORD = 6000;

// One view's end of the transport. `receive(content, buffers)` draws; it returns false if it could not use
// the message and needs the whole state again.
/** @param {{ model: Model, root: Element, receive: (content: any, buffers: DataView[]) => unknown, silent: (text: string, over?: boolean) => void }} ends */
function connect({ model, root, receive, silent }) {
  const view = `${Date.now().toString(36)}${Math.random().toString(36).slice(2)}`;
  let looking = false;
  let whole = false;
  let drawn = 0; // the number of the last message
  let looked = 0;
  let inside = false;
  let heard = 0;
  let closed = false;
  let frame = 0;
  /** @type {[Numbered<Drawn | { t: "beat" }>, DataView[]][]} */
  const waiting = []; // messages received since the last frame
  const say = (/** @type {ToKernel} */ content) => {
    try {
      model.send({ view, ...content });
    } catch {
      // The comm is gone (closing a tab in Lab destroys it first): the lease lapses automatically.
    }
  };
  const lookAgain = () => {
    const now = inside && document.visibilityState === "visible" && !closed;
    if (now === looking) return;
    looking = now;
    whole = false;
    waiting.length = 0;
    if (now) heard = heard || Date.now();
    say({ t: now ? "look" : "leave" });
  };
  const again = () => {
    whole = false;
    say({ t: "leave" });
    say({ t: "look" });
  };
  const draw = (/** @type {Numbered<Drawn | { t: "beat" }>} */ content, /** @type {DataView[]} */ buffers) => {
    if (closed || !looking) return;
    silent("");
    const mine = content.t !== "beat" && (!content.to || content.to === view);
    // A Jupyter server drops messages that are too many for it.
    if (whole && content.seq > drawn + 1 && !(mine && content.whole)) again();
    drawn = content.seq;
    if (mine && (whole || content.whole || content.t === "reply")) {
      whole = whole || content.whole;
      if (receive(content, buffers) === false) {
        again();
        return;
      }
    }
    if (content.ack) say({ t: "ack", seq: content.seq });
  };
  const nextFrame = () => {
    const next = waiting.shift();
    frame = next ? requestAnimationFrame(nextFrame) : 0;
    if (next) draw(...next);
  };
  // One message per frame: the first of two would not be visible.
  const custom = (/** @type {FromKernel} */ content, /** @type {DataView[]} */ buffers) => {
    if (closed) return;
    heard = Date.now();
    if (content.t === "gone") {
      closed = true;
      silent(content.why === "replaced" ? "Replaced: the cell that made this has run again." : "Closed.", true);
    } else if (!("seq" in content)) return;
    else if (frame) waiting.push([content, buffers]);
    else {
      frame = requestAnimationFrame(nextFrame);
      draw(content, buffers);
    }
  };
  model.on("msg:custom", custom);
  // Lab and Notebook cut the comms when the kernel restarts: the displayed state has no owner any more.
  const cut = () => {
    if (closed) return;
    closed = true;
    silent("The kernel was restarted. Run the cell to see this live.", true);
  };
  model.on("comm_live_update", cut);
  const eyes = new IntersectionObserver((entries) => {
    inside = entries[entries.length - 1].isIntersecting;
    lookAgain();
  });
  eyes.observe(root);
  const visibility = () => {
    say({ t: document.visibilityState === "visible" ? "visible" : "hidden" });
    lookAgain();
  };
  const online = () => say({ t: "online" });
  const offline = () => say({ t: "offline" });
  const hide = () => say({ t: "leave" });
  document.addEventListener("visibilitychange", visibility);
  addEventListener("online", online);
  addEventListener("offline", offline);
  addEventListener("pagehide", hide);
  const started = Date.now();
  const timer = setInterval(() => {
    if (!looking || closed) return;
    if (!whole || Date.now() - Math.max(heard, looked) > MISSED) {
      looked = Date.now();
      say({ t: "look" });
    }
    if (!whole && Date.now() - started > FIRST_WORD && heard <= started + 50) {
      silent("No answer from the kernel yet. If it is not running, run the cell again.", true);
    } else if (Date.now() - heard > SILENCE) {
      silent(`No word from the kernel for ${Math.round((Date.now() - heard) / 1000)} s.`);
    }
  }, 1000);
  return {
    say,
    close() {
      closed = true;
      clearInterval(timer);
      eyes.disconnect();
      document.removeEventListener("visibilitychange", visibility);
      removeEventListener("online", online);
      removeEventListener("offline", offline);
      removeEventListener("pagehide", hide);
      model.off("msg:custom", custom);
      model.off("comm_live_update", cut);
      say({ t: "leave" });
    },
  };
}

// Whether a key types or moves, as in a list or a field: no key combination, and no key that leaves a widget
// or runs a cell.
const isPlain = (/** @type {KeyboardEvent} */ event) =>
  !(event.ctrlKey || event.metaKey || event.altKey) && (event.key.length === 1 || /^(Arrow|Page|Home$|End$|Delete$|Backspace$)/.test(event.key) || (event.key === "Enter" && !event.shiftKey));

// An anywidget of `draw(root, say, model)`, which builds the elements and returns `receive`, or `{receive,
// close}`.
/** @typedef {(content: any, buffers: DataView[]) => unknown} Receive */
/** @param {(body: HTMLElement, say: Say, model: Model) => Receive | { receive: Receive, close?: () => void }} draw */
export function widget(draw) {
  return {
    render(/** @type {{ model: Model, el: HTMLElement }} */ { model, el }) {
      // The attribute disables JupyterLab's shortcuts, but not for the element that has the keyboard focus,
      // to which the single-key commands apply (D D deletes the cell, R makes it raw).
      const root = h("div", { class: "nrt", "data-lm-suppress-shortcuts": "true" });
      root.addEventListener("keydown", (event) => {
        if (isPlain(event)) event.stopPropagation();
      });
      const word = h("div", { class: "nrt-silent", role: "status" });
      const body = h("div", { class: "nrt-body" });
      root.append(body, word);
      el.append(root);
      /** @type {ReturnType<typeof connect> | null} */
      let link = null;
      const made = draw(body, (content) => link?.say(content), model);
      const { receive, close } = typeof made === "function" ? { receive: made, close: null } : made;
      const unwatch = watchTheme(root);
      link = connect({
        model,
        root,
        receive,
        silent(text, over = false) {
          setText(word, text);
          root.classList.toggle("nrt-quiet", Boolean(text));
          root.classList.toggle("nrt-over", over);
        },
      });
      return () => {
        unwatch();
        close?.();
        link.close();
      };
    },
  };
}

// A button that opens a panel below it; Escape closes the panel and returns the focus.
export function disclosure(/** @type {HTMLElement} */ face, /** @type {HTMLElement} */ panel, /** @type {string} */ label) {
  const id = `nrt-${Math.random().toString(36).slice(2)}`;
  const button = h("button", { type: "button", class: "nrt-pill", "aria-expanded": "false", "aria-controls": id });
  button.append(face);
  panel.id = id;
  panel.hidden = true;
  panel.setAttribute("role", "region");
  panel.setAttribute("aria-label", label);
  const set = (/** @type {boolean} */ open) => {
    panel.hidden = !open;
    button.setAttribute("aria-expanded", String(open));
  };
  button.addEventListener("click", () => set(Boolean(panel.hidden)));
  const escape = (/** @type {KeyboardEvent} */ event) => {
    if (event.key !== "Escape" || panel.hidden) return;
    event.stopPropagation();
    set(false);
    button.focus();
  };
  button.addEventListener("keydown", escape);
  panel.addEventListener("keydown", escape);
  return button;
}
