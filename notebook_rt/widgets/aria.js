// What SlickGrid does not tell a screen reader: what the grid is, how it is sorted, what its active cell says.
import { disputeOf, draftText } from "./cell.js";
import { h, setText } from "./common.js";

export function accessible(view) {
  let shown = []; // [[column, ascending]]

  // What SlickGrid does not tell a screen reader of the grid as a whole.
  function describe() {
    view.holder.setAttribute("aria-label", `${view.head.name}, live table`);
    view.holder.setAttribute("aria-colcount", view.head.columns.length);
    view.holder.setAttribute("aria-multiselectable", "true");
    for (const node of view.holder.querySelectorAll(".slick-pane, .slick-viewport, .grid-canvas")) node.removeAttribute("tabindex");
    for (const node of view.holder.querySelectorAll(".slick-viewport")) {
      node.setAttribute("role", "rowgroup");
      node.setAttribute("tabindex", "0");
    }
    // The two places that hold the keyboard's focus are rows of one cell, which says the active one.
    for (const node of view.holder.querySelectorAll(':scope > [tabindex="0"]')) {
      node.setAttribute("role", "row");
      node.dataset.sink = "";
      node.append(h("span", { role: "gridcell", class: "nrt-hear", text: `${view.head.name}, use the arrow keys` }));
    }
  }

  function sorted(by = shown) {
    shown = by;
    for (const node of view.holder.querySelectorAll(".slick-header-column")) {
      const found = by.find(([c]) => `c${c}` === node.dataset.id);
      node.setAttribute("aria-sort", found ? (found[1] ? "ascending" : "descending") : "none");
    }
  }

  function sinks() {
    const cell = view.grid.getActiveCell();
    const row = cell && view.rows.at.get(cell.row);
    if (!row) return;
    const column = view.head.columns[cell.cell];
    const dispute = disputeOf(row);
    const text = row.texts
      ? `${column.name}: ${draftText(column, row, cell.cell)[0]}, new row`
      : `${column.name}: ${view.formats[cell.cell].text(row, cell.cell)}, row ${cell.row + 1} of ${view.total}${dispute ? `, ${dispute}: Enter to decide` : row.gone ? ", deleted" : ""}`;
    for (const node of view.holder.querySelectorAll("[data-sink] > span")) setText(node, text);
  }

  return { describe, sorted, sinks };
}
