// A new row, typed in place after the last one: only in the browser until it is saved as one insert. It is a
// row like the others, with the rid 0, and `texts`: what was typed, by column.

/** @import { editing } from "./edits.js" */
/** @import { Active, View } from "./grid.js" */
/** @import { Column, ReplyMessage } from "./protocol.js" */

/** @param {View} view @param {ReturnType<typeof editing>} edits */
export function drafting(view, edits) {
  const { focus, screen, table } = view;
  /** @type {Active | null} */
  let back = null; // what had the focus before
  const missing = () => table.head.columns.findIndex((column, c) => column.needed && !table.draft?.texts.has(c));

  // The column to begin with: the first that needs a value, else the first that is not filled automatically.
  const first = () => {
    const c = missing();
    return c >= 0 ? c : Math.max(0, table.head.columns.findIndex((column) => !column.filled));
  };

  function show(/** @type {number} */ cell) {
    const { draft } = table;
    const { grid } = screen;
    if (!draft) return;
    grid.scrollRowIntoView(draft.at);
    grid.setActiveCell(draft.at, cell);
    if (!focus.editing) grid.editActiveCell();
  }

  function add() {
    if (!screen.drawn || !table.head.add || !screen.grid.getEditorLock().commitCurrentEdit()) return;
    if (!table.draft) {
      back = focus.active;
      table.type({ rid: 0, at: table.total, texts: new Map(), v: [], f: table.head.columns.map(() => 1), k: [], m: null, gone: false, saving: false });
      view.recount();
      view.paint();
    }
    show(first());
  }

  // The text of an editor: null for a chosen null, "" for nothing.
  function set(/** @type {number} */ c, /** @type {string | null} */ text) {
    const { draft } = table;
    if (!draft) return;
    if (text === "") draft.texts.delete(c);
    else draft.texts.set(c, text);
    screen.grid.updateCell(draft.at, c);
  }

  // Moves on to the next column that needs a value; sends the row if there is none, or if it was left empty.
  function next() {
    const c = missing();
    if (c < 0 || c === screen.grid.getActiveCell()?.cell) save();
    else show(c);
  }

  function save() {
    const { draft } = table;
    if (!draft || draft.saving || !screen.grid.getEditorLock().commitCurrentEdit()) return;
    draft.saving = true;
    view.hold(); // the new row may take its place
    view.say({ t: "insert", rid: 0, cells: [...draft.texts] });
    view.paint();
  }

  // The focus has moved to another row: a complete draft is saved.
  function left() {
    if (table.draft?.texts.size && missing() < 0) save();
  }

  // Removes the draft; the focus moves to a cell in `row`, if it was here.
  function end(/** @type {number} */ row, /** @type {number | undefined} */ cell) {
    const here = focus.active?.rid === 0;
    if (focus.editing?.rid === 0) screen.grid.getEditorLock().cancelCurrentEdit();
    table.type(null);
    view.recount();
    view.paint();
    if (!here) return;
    edits.quiet();
    if (row >= 0 && cell !== undefined) {
      screen.grid.scrollRowIntoView(row);
      screen.grid.setActiveCell(row, cell);
    }
    screen.grid.focus();
  }

  function discard() {
    if (table.draft) end(table.named(back?.rid)?.at ?? -1, back?.cell);
  }

  function reply(/** @type {ReplyMessage} */ content) {
    const { draft } = table;
    if (!draft) return;
    const { c } = content;
    draft.saving = false;
    if (content.kind === "refused") {
      if (focus.active?.rid === 0) show(c ?? 0);
      view.paint();
      edits.tellAt(draft.at, c ?? 0, content.why);
      return;
    }
    const row = content.kind === "inserted" ? content.row : -1;
    end(row, focus.active?.cell);
    view.hear(row >= 0 ? "Added" : "Added, but not among these rows");
  }

  // The columns have changed: the typed texts stay with their names.
  function rename(/** @type {Column[]} */ before) {
    const { draft, head } = table;
    if (!draft) return;
    /** @type {[number, string | null][]} */
    const typed = [...draft.texts].map(([c, text]) => [head.columns.findIndex(({ name }) => name === before[c].name), text]);
    draft.texts = new Map(typed.filter(([c]) => c >= 0));
    draft.f = head.columns.map(() => 1);
  }

  return { add, set, next, save, left, discard, reply, rename };
}
