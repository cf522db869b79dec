// A menu over the page: at the pointer, or at a cell. Arrows, Home and End move, Enter and Space choose, a
// letter moves to the next item that begins with it, Escape and Tab close; the focus returns to where it was.
import { h } from "./common.js";

/** @typedef {{ label: string, keys?: string, act: () => void, off?: boolean, danger?: boolean }} Item */
/** @typedef {{ left: number, top: number, bottom: number }} Place */

// The next item for a key, of the items that can be chosen; -1 if it is not a key of this menu.
export function stepped(/** @type {string} */ key, /** @type {number} */ now, /** @type {string[]} */ labels) {
  const n = labels.length;
  if (key === "ArrowDown") return (now + 1) % n;
  if (key === "ArrowUp") return (now - 1 + n) % n;
  if (key === "Home") return 0;
  if (key === "End") return n - 1;
  if (key.length !== 1 || key === " ") return -1;
  const from = [...labels.keys()].map((i) => (now + 1 + i) % n);
  return from.find((i) => labels[i].toLowerCase().startsWith(key.toLowerCase())) ?? now;
}

// The items without unavailable ones, and without needless separators.
/** @param {(Item | "line" | null | false | undefined)[]} wanted @returns {(Item | "line")[]} */
export function tidy(wanted) {
  /** @type {(Item | "line")[]} */
  const items = [];
  for (const item of wanted) {
    if (!item || (item === "line" && (!items.length || items[items.length - 1] === "line"))) continue;
    items.push(item);
  }
  if (items[items.length - 1] === "line") items.pop();
  return items;
}

// Shows a menu in `parent`; returns a function that closes it. `left` is called when it is closed: with true
// if the focus was in it.
/** @param {HTMLElement} parent @param {string} label @param {(Item | "line")[]} items @param {Place} place @param {(here: boolean) => void} left */
export function openMenu(parent, label, items, place, left) {
  /** @type {HTMLButtonElement[]} */
  const buttons = [];
  const node = h("div", { class: "nrt-menu", role: "menu", "aria-label": label, tabindex: "-1" }, ...items.map((item) => {
    if (item === "line") return h("hr", { role: "separator" });
    const button = h(
      "button", { type: "button", role: "menuitem", tabindex: "-1", class: item.danger ? "nrt-danger" : "", disabled: item.off, onclick: () => {
        close();
        item.act();
      } },
      h("span", { text: item.label }), item.keys ? h("kbd", { "aria-hidden": "true", text: item.keys }) : null,
    );
    if (item.keys) button.setAttribute("aria-keyshortcuts", item.keys.replace("⌘", "Meta+").replace("Ctrl", "Control"));
    if (!item.off) buttons.push(button);
    // Not pointerenter: a menu that opens under a resting pointer would take the focus from the keyboard.
    button.addEventListener("pointermove", (event) => {
      if (!item.off && (event.movementX || event.movementY)) button.focus();
    });
    return button;
  }));
  const root = () => /** @type {Document | ShadowRoot} */ (parent.getRootNode());
  const away = (/** @type {Event} */ event) => !event.composedPath().includes(node) && close();
  const hidden = () => document.visibilityState === "visible" || close();
  let open = true;
  function close() {
    if (!open) return;
    open = false;
    const here = node.contains(root().activeElement);
    removeEventListener("pointerdown", away, true);
    removeEventListener("wheel", away, true);
    removeEventListener("resize", close);
    document.removeEventListener("visibilitychange", hidden);
    node.remove();
    left(here);
  }
  node.addEventListener("keydown", (event) => {
    event.stopPropagation();
    if (["Escape", "Tab"].includes(event.key)) close();
    else if (event.ctrlKey || event.metaKey || event.altKey) return;
    else {
      const now = buttons.indexOf(/** @type {HTMLButtonElement} */ (root().activeElement));
      const next = buttons.length ? stepped(event.key, now, buttons.map((one) => one.textContent ?? "")) : -1;
      if (next < 0) return;
      buttons[next].focus();
    }
    event.preventDefault();
  });
  node.addEventListener("contextmenu", (event) => {
    event.preventDefault();
    event.stopPropagation();
  });
  node.popover = "manual";
  parent.append(node);
  node.showPopover?.();
  const zoom = node.currentCSSZoom ?? 1;
  const { width, height } = node.getBoundingClientRect();
  const above = place.bottom + height > innerHeight - 4 && place.top > innerHeight - place.bottom;
  node.style.left = `${Math.max(4, Math.min(place.left, innerWidth - width - 4)) / zoom}px`;
  node.style.top = `${Math.max(4, above ? place.top - height : Math.min(place.bottom, innerHeight - height - 4)) / zoom}px`;
  (buttons[0] ?? node).focus();
  addEventListener("pointerdown", away, true);
  addEventListener("wheel", away, { capture: true, passive: true }); // not scroll: rows that arrive above cause scroll events, too
  addEventListener("resize", close);
  document.addEventListener("visibilitychange", hidden);
  return close;
}
