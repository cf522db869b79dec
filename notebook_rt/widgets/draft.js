// A new row, typed in place behind the last one: in the browser alone until it is saved as one insert.
// It is a row like the others, with the rid 0, and `texts`: what was typed, by column.

export function drafting(view, edits) {
  let back = null; // who had the focus before
  const missing = () => view.head.columns.findIndex((column, c) => column.needed && !view.draft.texts.has(c));

  // Where to begin: with what is needed, else with the first that nobody else fills in.
  const first = () => {
    const c = missing();
    return c >= 0 ? c : Math.max(0, view.head.columns.findIndex((column) => !column.filled));
  };

  function show(cell) {
    const { draft, grid } = view;
    grid.scrollRowIntoView(draft.at);
    grid.setActiveCell(draft.at, cell);
    if (!view.editing) grid.editActiveCell();
  }

  function add() {
    if (!view.grid || !view.head.add || !view.grid.getEditorLock().commitCurrentEdit()) return;
    if (!view.draft) {
      back = view.active;
      view.draft = { rid: 0, texts: new Map(), v: [], f: view.head.columns.map(() => 1), k: [], m: null, gone: false, saving: false };
      view.rows.keep(view.draft, view.total);
      view.recount();
      view.paint();
    }
    show(first());
  }

  // What an editor has: null for a null that was chosen, "" for nothing.
  function set(c, text) {
    if (text === "") view.draft.texts.delete(c);
    else view.draft.texts.set(c, text);
    view.grid.updateCell(view.draft.at, c);
  }

  // On to what is still missing; when nothing is, or nobody types it, the row is sent.
  function next() {
    const c = missing();
    if (c < 0 || c === view.grid.getActiveCell()?.cell) save();
    else show(c);
  }

  function save() {
    const { draft, grid } = view;
    if (!draft || draft.saving || !grid.getEditorLock().commitCurrentEdit()) return;
    draft.saving = true;
    view.say({ t: "insert", rid: 0, cells: [...draft.texts] });
    view.paint();
  }

  // The focus has gone to another row: a draft that lacks nothing is done.
  function left() {
    if (view.draft?.texts.size && missing() < 0) save();
  }

  // Takes the draft away; the focus goes to a cell in `row`, if it was here.
  function end(row, cell) {
    const here = view.active?.rid === 0;
    if (view.editing?.rid === 0) view.grid.getEditorLock().cancelCurrentEdit();
    view.draft = null;
    view.rows.keep(null);
    view.recount();
    view.paint();
    if (!here) return;
    edits.quiet();
    if (row >= 0) {
      view.grid.scrollRowIntoView(row);
      view.grid.setActiveCell(row, cell);
    }
    view.grid.focus();
  }

  function discard() {
    if (view.draft) end(view.rows.named.get(back?.rid)?.at ?? -1, back?.cell);
  }

  function reply({ kind, why, c, row }) {
    const { draft } = view;
    if (!draft) return;
    draft.saving = false;
    if (kind === "refused") {
      if (view.active?.rid === 0) show(c ?? 0);
      view.paint();
      edits.tellAt(draft.at, c ?? 0, why);
      return;
    }
    end(row, view.active?.cell);
    view.bar.hear(row >= 0 ? "Added" : "Added, but not among these rows");
  }

  // The columns are others now: what was typed stays with their names.
  function rename(before) {
    const { draft, head } = view;
    if (!draft) return;
    const typed = [...draft.texts].map(([c, text]) => [head.columns.findIndex(({ name }) => name === before[c].name), text]);
    draft.texts = new Map(typed.filter(([c]) => c >= 0));
    draft.f = head.columns.map(() => 1);
  }

  return { add, set, next, save, left, discard, reply, rename };
}
