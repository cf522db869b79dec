// The keyboard in the grid, except for the keys that SlickGrid handles (arrows, Home, End, pages, Tab).

/** @import { drafting } from "./draft.js" */
/** @import { editing } from "./edits.js" */
/** @import { Cell, View } from "./grid.js" */
/** @import { menus } from "./gridmenu.js" */
/** @import { selecting } from "./selection.js" */

/** @type {Record<string, [rows: number, columns: number]>} */
const STEPS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
const limit = (/** @type {number} */ n, /** @type {number} */ count) => Math.min(Math.max(n, 0), count - 1);

/** @param {View} view @param {ReturnType<typeof selecting>} picked @param {ReturnType<typeof editing>} edits @param {ReturnType<typeof drafting>} draft @param {ReturnType<typeof menus>} menu */
export function keyboard(view, picked, edits, draft, menu) {
  const { focus, screen, table } = view;
  // Returns true if it has handled the key.
  function pressed(/** @type {KeyboardEvent} */ key, /** @type {number} */ row, /** @type {number} */ cell) {
    const column = table.head.columns[cell];
    const command = key.ctrlKey || key.metaKey;
    const item = table.at(row);
    const letter = key.key.toLowerCase();
    const step = STEPS[key.key];
    if (item?.group && !command && !key.shiftKey && !key.altKey) {
      const folds = key.key === "Enter" || key.key === " " || key.key === (item.group.open ? "ArrowLeft" : "ArrowRight");
      if (folds) view.say({ t: "toggle", rid: item.rid });
      if (folds || key.key === "Delete" || key.key === "F2" || key.key.length === 1) return true;
    }
    if (step && key.shiftKey && picked.current) {
      const [r, c] = picked.current.to ?? picked.current.from;
      const next = limit(r + step[0], table.total);
      picked.extend(next, limit(c + step[1], table.head.columns.length));
      screen.grid.scrollRowIntoView(next);
      return true;
    }
    if (key.key === "ContextMenu" || (key.shiftKey && key.key === "F10")) {
      menu.atFocus();
      return true;
    }
    if (command && letter === "c") {
      picked.copy();
      return true;
    }
    if (command && letter === "a") {
      picked.select([[0, table.total - 1]], 0, table.head.columns.length - 1, [0, 0]);
      return true;
    }
    if (command && letter === "z" && !key.shiftKey) {
      view.say({ t: "undo" });
      return true;
    }
    if (key.key === "Insert" || (command && letter === "i")) {
      draft.add();
      return true;
    }
    if (command && (key.key === "Delete" || key.key === "Backspace")) {
      if (item?.texts) draft.discard();
      else picked.remove();
      return true;
    }
    if (item?.texts && key.key === "Enter") {
      draft.next();
      return true;
    }
    if (table.draft && key.key === "Escape") {
      draft.discard();
      return true;
    }
    if (key.key === "Enter" && edits.open(row, cell)) return true;
    if (key.key === "F2") {
      if (!edits.open(row, cell)) screen.grid.editActiveCell();
      return true;
    }
    if (key.key === "Delete" && item?.texts) {
      draft.set(cell, "");
      return true;
    }
    if (key.key === "Delete" && column.editable && item && !item.gone) {
      edits.send(item, cell, null);
      return true;
    }
    if (key.key.length === 1 && !command && !key.altKey && key.key !== " " && (column.editable || item?.texts) && !edits.conflicting(row, cell)) {
      screen.grid.editActiveCell();
      const input = /** @type {any} */ (screen.grid.getCellEditor())?.input;
      if (!input || !["text", "textarea"].includes(input.type)) return false;
      input.value = key.key;
      return true;
    }
    return false;
  }

  // While an editor is open, it handles all keys except Enter in a draft.
  function typing(/** @type {KeyboardEvent} */ key) {
    if (focus.editing?.rid !== 0 || key.key !== "Enter") return false;
    if (screen.grid.getEditorLock().commitCurrentEdit()) draft.next();
    return true;
  }

  return (/** @type {any} */ event, /** @type {Cell} */ { row, cell }) => {
    const key = event.getNativeEvent?.() ?? event;
    if (focus.editing ? !typing(key) : !pressed(key, row, cell)) return;
    event.stopImmediatePropagation();
    event.preventDefault();
  };
}
