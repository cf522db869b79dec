// The selection: by pointer and keyboard, reported to the kernel, copied as tab-separated text.

import { readTime } from "./times.js";

const MANY = 1000;

/** @import { Selected, View } from "./grid.js" */
/** @import { Run } from "./protocol.js" */

export function selecting(/** @type {View} */ view) {
  const { answers, focus, holder, screen, table } = view;
  /** @type {Selected | null} */
  let selection = null;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let told;

  /** @param {Run[]} runs @param {number} left @param {number} right @param {[number, number]} from @param {[number, number] | null} [to] */
  function select(runs, left, right, from, to = null) {
    selection = runs.length ? { runs, left, right, from, to } : null;
    view.paint();
    clearTimeout(told);
    told = setTimeout(tell, 60);
  }

  function tell() {
    clearTimeout(told);
    const runs = selection?.runs ?? [];
    view.say({ t: "select", rows: runs.length ? [runs[0][0], runs[runs.length - 1][1]] : [0, -1] });
  }

  // Takes the current positions of the selected rows from the kernel; none if they are too many to follow.
  function follow(/** @type {Run[]} */ runs) {
    selection = selection && runs.length ? { ...selection, runs } : null;
  }

  // Deletes the selected rows: those that are here by name, so that they are the right ones even if rows move
  // meanwhile.
  function remove() {
    if (!selection || !table.head.remove) return;
    /** @type {number[]} */
    const rids = [];
    let known = true;
    for (const [first, last] of selection.runs) {
      for (let row = first; known && row <= last && rids.length < MANY; row++) {
        const item = table.at(row);
        if (item) rids.push(item.rid);
        else known = false;
      }
    }
    if (known && rids.length < MANY) view.say({ t: "delete", rids });
    else {
      tell();
      view.say({ t: "delete" });
    }
  }

  // Extends the selection from its start to here.
  function extend(/** @type {number} */ row, /** @type {number} */ cell) {
    if (!selection) return;
    const [r, c] = selection.from;
    select([[Math.min(r, row), Math.max(r, row)]], Math.min(c, cell), Math.max(c, cell), [r, c], [row, cell]);
  }

  let dragging = false;
  const find = (/** @type {Event} */ event) => (screen.drawn ? screen.grid.getCellFromEvent(event) : null);
  const closest = (/** @type {Event} */ event, /** @type {string} */ selector) => /** @type {Element} */ (event.target).closest(selector);
  holder.addEventListener("pointerdown", (event) => {
    // SlickGrid restores the page's text selection after a click: a caret in a code cell would take the
    // focus.
    if (!closest(event, "input, textarea, select")) getSelection()?.removeAllRanges();
    const cell = event.button === 0 && !event.shiftKey && !focus.editing ? find(event) : null;
    dragging = Boolean(cell);
    if (cell) select([[cell.row, cell.row]], cell.cell, cell.cell, [cell.row, cell.cell]);
  });
  holder.addEventListener("pointerover", (event) => {
    // The content of a cell may be replaced under a pressed button, so the cell itself gets the pointer
    // events, and has the tooltip.
    const over = /** @type {HTMLElement | null} */ (closest(event, ".slick-cell"));
    if (over) over.title = /** @type {HTMLElement | null} */ (over.querySelector(".nrt-v"))?.title ?? "";
    const cell = dragging && event.buttons & 1 ? find(event) : null;
    if (cell) extend(cell.row, cell.cell);
  });
  holder.addEventListener("pointerup", () => (dragging = false));

  function copy(/** @type {"csv" | undefined} */ as = undefined) {
    if (!selection) return;
    /** @type {[number, number, number, number]} */
    const range = [selection.runs[0][0], selection.runs[selection.runs.length - 1][1], selection.left, selection.right];
    const text = answers.copy(range, as);
    const written = globalThis.ClipboardItem && navigator.clipboard?.write
      ? navigator.clipboard.write([new ClipboardItem({ "text/plain": text.then(({ text }) => new Blob([text], { type: "text/plain" })) })])
      : text.then(({ text }) => navigator.clipboard.writeText(text));
    Promise.all([text, written]).then(
      ([{ rows }]) => view.hear(`Copied ${rows} row${rows === 1 ? "" : "s"}${as ? " as CSV" : ""}`),
      () => view.tell("The browser did not allow copying."),
    );
  }

  // Pastes tab-separated text from the first selected cell on; a single value fills the selection.
  function paste(/** @type {string} */ text) {
    const top = table.at(selection?.runs[0][0]);
    if (!selection || !top) return;
    const { left, right, runs: [first] } = selection;
    let cells = text.replace(/\r?\n$/, "").split(/\r?\n/).map((line) => line.split("\t"));
    if (cells.length === 1 && cells[0].length === 1 && many()) {
      cells = Array(first[1] - first[0] + 1).fill(Array(right - left + 1).fill(cells[0][0]));
    }
    // A time without a zone is read as it is shown: in this browser's zone.
    cells = cells.map((line) => line.map((value, n) => {
      return (table.head.columns[left + n]?.shape === "timestamptz" && readTime("timestamptz", value)) || value;
    }));
    view.say({ t: "paste", rid: top.rid, c: left, cells });
  }
  holder.addEventListener("paste", (event) => {
    if (focus.editing || !selection) return;
    event.preventDefault();
    event.stopPropagation();
    paste(event.clipboardData?.getData("text/plain") ?? "");
  });

  // Whether a drawn cell is selected, and whether with others.
  function covers(/** @type {number} */ row, /** @type {number} */ cell) {
    return Boolean(selection && cell >= selection.left && cell <= selection.right && selection.runs.some(([first, last]) => row >= first && row <= last));
  }

  function many() {
    if (!selection) return false;
    const { runs, left, right } = selection;
    return runs.length > 1 || runs[0][0] !== runs[0][1] || left !== right;
  }

  // Number of selected rows.
  const rows = () => selection?.runs.reduce((sum, [first, last]) => sum + last - first + 1, 0) ?? 0;

  return {
    rows,
    get current() {
      return selection;
    },
    select, follow, extend, copy, remove, covers, many,
  };
}
