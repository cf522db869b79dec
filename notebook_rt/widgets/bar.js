// The bar above the grid: its caption and name, the number of rows, the table's status; adding and deleting
// rows; the filter.
import { command, h, setText, svg } from "./common.js";

/** @import { View } from "./grid.js" */
/** @import { Around, Head } from "./protocol.js" */

const ICONS = {
  add: "M6 2 V10 M2 6 H10",
  remove: "M2 3.5 H10 M4.5 3.5 V2 H7.5 V3.5 M3.2 3.5 L3.7 10.2 H8.3 L8.8 3.5 M5.1 5.4 V8.4 M6.9 5.4 V8.4",
};
const STILL = 1000; // milliseconds

function iconButton(/** @type {"add" | "remove"} */ icon, /** @type {string} */ label, /** @type {string} */ key, /** @type {() => void} */ onclick) {
  return h(
    "button", { type: "button", class: "nrt-icon", "aria-label": label, title: `${label} (${key})`, "data-act": icon, onclick },
    svg("svg", { viewBox: "0 0 12 12", width: "14", height: "14", "aria-hidden": "true" },
      svg("path", { d: ICONS[icon], fill: "none", stroke: "currentColor", "stroke-width": "1.3", "stroke-linecap": "round", "stroke-linejoin": "round" })),
  );
}

// `acts` are `add`, `remove`, `save` and `discard` for rows, and `undo`.
/** @param {View} view @param {Record<"add" | "remove" | "save" | "discard" | "undo", () => void>} acts */
export function barOf(view, acts) {
  const { table } = view;
  const caption = h("p", { class: "nrt-caption" });
  const name = h("span", { class: "nrt-word" });
  const count = h("span", { class: "nrt-soft", role: "status" });
  const status = h("span", { class: "nrt-status" });
  const live = h("span", { class: "nrt-soft nrt-live", "aria-live": "polite" });
  const add = iconButton("add", "Add a row", `${command}I`, acts.add);
  const remove = iconButton("remove", "Delete the selected rows", command === "⌘" ? "⌘⌫" : "Ctrl+Delete", acts.remove);
  const undo = h("button", { type: "button", class: "nrt-button", text: "Undo", title: `Take the last change back (${command}Z)`, onclick: acts.undo });
  const save = h("button", { type: "button", class: "nrt-button nrt-main", text: "Save row", title: "Save the new row (Enter)", onclick: acts.save });
  const discard = h("button", { type: "button", class: "nrt-button", text: "Discard", title: "Discard the new row (Escape)", onclick: acts.discard });
  const filter = h("input", {
    class: "nrt-filter", type: "search", placeholder: "Filter:  acme  price>10", "aria-label": "Filter rows",
    autocomplete: "off", spellcheck: "false",
  });
  const trouble = h("span", { class: "nrt-trouble", role: "status" });
  const note = h("p", { class: "nrt-note", role: "status" });
  const rows = h("span", { class: "nrt-rows", role: "group", "aria-label": "Rows" }, undo, save, discard, add, remove);
  const search = h("span", { class: "nrt-search" }, filter, trouble);
  caption.hidden = note.hidden = rows.hidden = undo.hidden = true;
  view.body.append(caption, h("div", { class: "nrt-tools" }, name, count, status, live, rows, search), note);

  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let typing;
  filter.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => {
      typing = undefined;
      view.say({ t: "filter", text: filter.value });
    }, 180);
  });
  filter.addEventListener("keydown", (event) => event.stopPropagation());

  // The note appears and disappears, and moves the rows: never while a pointer is moving to one.
  let noted = "";
  let moved = -STILL;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let placing;
  function place() {
    const wait = moved + STILL - performance.now();
    if (wait > 0) later(wait);
    else note.hidden = !noted;
  }
  // A blocked page gets its pointer events late: those already queued are handled before a timer.
  function later(wait = 0) {
    clearTimeout(placing);
    if (wait < Infinity) placing = setTimeout(place, wait);
  }
  /** @param {"pointermove" | "pointerdown" | "pointerup" | "pointerleave"} event @param {(moment: PointerEvent) => number} when */
  const pointer = (event, when) => view.body.addEventListener(event, (moment) => {
    moved = when(moment);
    place();
  });
  pointer("pointermove", ({ buttons }) => (buttons ? Infinity : performance.now()));
  pointer("pointerdown", () => Infinity);
  pointer("pointerup", () => performance.now());
  pointer("pointerleave", () => -STILL);

  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let hearing;
  let leaving = 0;
  return {
    // Shows a finished action, for a moment, or for the seconds in which it can be undone.
    hear(/** @type {string} */ text, seconds = 0, stay = false) {
      setText(live, text);
      undo.hidden = !seconds;
      clearTimeout(hearing);
      if (!stay) hearing = setTimeout(() => this.hear(""), (seconds || 4) * 1000);
    },
    // Updates the available actions on rows.
    offer(/** @type {boolean} */ selected) {
      const { head, draft } = table;
      rows.hidden = !head.add && !head.remove && !draft && undo.hidden;
      add.hidden = !head.add || Boolean(draft);
      save.hidden = discard.hidden = !draft;
      save.disabled = Boolean(draft?.saving);
      remove.hidden = !head.remove || Boolean(draft);
      remove.disabled = !selected;
    },
    // Takes a whole state: the caption and the name.
    whole(/** @type {Head} */ head) {
      setText(caption, head.title);
      caption.hidden = !head.title;
      name.hidden = Boolean(head.title);
      setText(name, head.name);
      name.title = head.name; // it may be cut
    },
    // Takes the small rest of the state: the number of rows, the status, and the filter (also another view's)
    // unless the user is typing one here.
    around(/** @type {Around} */ content) {
      leaving = content.leaving ?? leaving;
      if (content.filter !== undefined && typing === undefined && /** @type {Document | ShadowRoot} */ (filter.getRootNode()).activeElement !== filter) filter.value = content.filter;
      if (content.trouble !== undefined) {
        setText(trouble, content.trouble);
        filter.toggleAttribute("aria-invalid", Boolean(content.trouble));
      }
      if (content.total !== undefined || content.leaving !== undefined || content.filter !== undefined) {
        const there = table.count - leaving;
        const known = table.head.columns.length > 0; // else the number is unknown
        setText(count, known ? `${there.toLocaleString()} row${there === 1 ? "" : "s"}${filter.value ? " found" : ""}` : "");
      }
      if (content.status !== undefined) {
        setText(status, ["live", "past"].includes(content.status) ? "" : content.status);
        status.dataset.status = content.status;
      }
      if (content.note !== undefined) {
        noted = content.note;
        if (noted) setText(note, noted);
        note.style.visibility = noted ? "" : "hidden";
        later();
      }
    },
  };
}
