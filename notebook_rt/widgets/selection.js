// What is selected: by pointer and keyboard, told to the kernel, copied as tab separated text.

const MANY = 1000;

export function selecting(view) {
  let told = null;

  function select(runs, left, right, from, to = null) {
    view.selection = runs.length ? { runs, left, right, from, to } : null;
    view.paint();
    clearTimeout(told);
    told = setTimeout(tell, 60);
  }

  function tell() {
    clearTimeout(told);
    const runs = view.selection?.runs ?? [];
    view.say({ t: "select", rows: runs.length ? [runs[0][0], runs[runs.length - 1][1]] : [0, -1] });
  }

  // Deletes the selected rows: those that are here by name, so that it is these though rows move meanwhile.
  function remove() {
    const { head, rows, selection } = view;
    if (!selection || !head.rows) return;
    const rids = [];
    for (const [first, last] of selection.runs) {
      for (let row = first; row <= last && rids.length < MANY; row++) rids.push(rows.at.get(row)?.rid);
    }
    if (rids.length < MANY && !rids.includes(undefined)) view.say({ t: "delete", rids });
    else {
      tell();
      view.say({ t: "delete" });
    }
  }

  // From where the selection began to here.
  function extend(row, cell) {
    const [r, c] = view.selection.from;
    select([[Math.min(r, row), Math.max(r, row)]], Math.min(c, cell), Math.max(c, cell), [r, c], [row, cell]);
  }

  let dragging = false;
  const find = (event) => view.grid?.getCellFromEvent(event);
  view.holder.addEventListener("pointerdown", (event) => {
    // SlickGrid puts the page's text selection back after a click: a caret in a code cell would take the focus.
    if (!event.target.closest("input, textarea, select")) getSelection().removeAllRanges();
    const cell = event.button === 0 && !event.shiftKey && !view.editing ? find(event) : null;
    dragging = Boolean(cell);
    if (cell) select([[cell.row, cell.row]], cell.cell, cell.cell, [cell.row, cell.cell]);
  });
  view.holder.addEventListener("pointerover", (event) => {
    // What is in a cell may be replaced under a pressed button, so the cell itself meets the pointer, and has its hint.
    const over = event.target.closest(".slick-cell");
    if (over) over.title = over.querySelector(".nrt-v")?.title ?? "";
    const cell = dragging && event.buttons & 1 ? find(event) : null;
    if (cell && view.selection) extend(cell.row, cell.cell);
  });
  view.holder.addEventListener("pointerup", () => (dragging = false));

  function copy() {
    const { selection } = view;
    if (!selection) return;
    const range = [selection.runs[0][0], selection.runs[selection.runs.length - 1][1], selection.left, selection.right];
    const text = new Promise((resolve) => view.waiting.set("copy", resolve));
    view.say({ t: "copy", range });
    const written = globalThis.ClipboardItem && navigator.clipboard?.write
      ? navigator.clipboard.write([new ClipboardItem({ "text/plain": text.then(({ text }) => new Blob([text], { type: "text/plain" })) })])
      : text.then(({ text }) => navigator.clipboard.writeText(text));
    Promise.all([text, written]).then(
      ([{ rows }]) => view.bar.hear(`Copied ${rows} row${rows === 1 ? "" : "s"}`),
      () => view.tell("The browser did not allow copying."),
    );
  }

  // Tab separated text, put down from the first selected cell on; one value fills what is selected.
  function paste(text) {
    const { selection, head } = view;
    const top = view.rows.at.get(selection?.runs[0][0]);
    if (!top) return;
    const first = selection.runs[0];
    let cells = text.replace(/\r?\n$/, "").split(/\r?\n/).map((line) => line.split("\t"));
    if (cells.length === 1 && cells[0].length === 1 && many()) {
      cells = Array(first[1] - first[0] + 1).fill(Array(selection.right - selection.left + 1).fill(cells[0][0]));
    }
    // A time without a zone is meant as it is shown: in this browser's.
    cells = cells.map((line) => line.map((value, n) => {
      const moment = head.columns[selection.left + n]?.shape === "timestamptz" && /^\d{4}-\d\d-\d\d[T ][\d:.]+$/.test(value) && new Date(value);
      return moment && !Number.isNaN(moment.getTime()) ? moment.toISOString() : value;
    }));
    view.say({ t: "paste", rid: top.rid, c: selection.left, cells });
  }
  view.holder.addEventListener("paste", (event) => {
    if (view.editing || !view.selection) return;
    event.preventDefault();
    event.stopPropagation();
    paste(event.clipboardData.getData("text/plain"));
  });

  // Whether a drawn cell is selected, and whether with others.
  function covers(row, cell) {
    const { selection } = view;
    return Boolean(selection && cell >= selection.left && cell <= selection.right && selection.runs.some(([first, last]) => row >= first && row <= last));
  }

  function many() {
    const { runs, left, right } = view.selection;
    return runs.length > 1 || runs[0][0] !== runs[0][1] || left !== right;
  }

  return { select, extend, copy, remove, covers, many };
}
