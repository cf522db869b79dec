// The keyboard in the grid, but for what SlickGrid does itself (arrows, Home, End, pages, Tab).

const STEPS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
const limit = (n, count) => Math.min(Math.max(n, 0), count - 1);

export function keyboard(view, picked, edits, draft) {
  // True: this key has been dealt with.
  function pressed(key, row, cell) {
    const column = view.head.columns[cell];
    const command = key.ctrlKey || key.metaKey;
    const item = view.rows.at.get(row);
    const letter = key.key.toLowerCase();
    const step = STEPS[key.key];
    if (step && key.shiftKey && view.selection) {
      const [r, c] = view.selection.to ?? view.selection.from;
      const next = [limit(r + step[0], view.total), limit(c + step[1], view.head.columns.length)];
      picked.extend(...next);
      view.grid.scrollRowIntoView(next[0]);
      return true;
    }
    if (command && letter === "c") {
      picked.copy();
      return true;
    }
    if (command && letter === "a") {
      picked.select([[0, view.total - 1]], 0, view.head.columns.length - 1, [0, 0]);
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
    if (view.draft && key.key === "Escape") {
      draft.discard();
      return true;
    }
    if (key.key === "Enter" && edits.open(row, cell)) return true;
    if (key.key === "F2") {
      if (!edits.open(row, cell)) view.grid.editActiveCell();
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
      view.grid.editActiveCell();
      const input = view.grid.getCellEditor()?.input;
      if (!input || !["text", "textarea"].includes(input.type)) return false;
      input.value = key.key;
      return true;
    }
    return false;
  }

  // While an editor is open, only a draft's Enter is not the editor's.
  function typing(key) {
    if (view.editing.rid !== 0 || key.key !== "Enter") return false;
    if (view.grid.getEditorLock().commitCurrentEdit()) draft.next();
    return true;
  }

  return (event, { row, cell }) => {
    const key = event.getNativeEvent?.() ?? event;
    if (view.editing ? !typing(key) : !pressed(key, row, cell)) return;
    event.stopImmediatePropagation();
    event.preventDefault();
  };
}
