// What SlickGrid does not report to a screen reader: the grid's name, its order, the text of its active cell.
import { disputeOf, draftText, groupText } from "./cell.js";
import { isDraft } from "./decode.js";
import { h, setText } from "./common.js";

/** @import { View } from "./grid.js" */
/** @import { Sort } from "./protocol.js" */

export function accessible(/** @type {View} */ { holder, screen, table }) {
  /** @type {Sort} */
  let shown = []; // [[column, ascending]]

  // Describes the grid as a whole to a screen reader.
  function describe() {
    holder.setAttribute("aria-label", `${table.head.title || table.head.name}, live table`);
    holder.setAttribute("aria-colcount", String(table.head.columns.length));
    holder.setAttribute("aria-multiselectable", "true");
    for (const node of holder.querySelectorAll(".slick-pane, .slick-viewport, .grid-canvas")) node.removeAttribute("tabindex");
    for (const node of holder.querySelectorAll(".slick-viewport")) {
      node.setAttribute("role", "rowgroup");
      node.setAttribute("tabindex", "0");
    }
    // The two nodes that hold the keyboard focus become rows of one cell, with the text of the active one.
    for (const node of /** @type {NodeListOf<HTMLElement>} */ (holder.querySelectorAll(':scope > [tabindex="0"]'))) {
      node.setAttribute("role", "row");
      node.dataset.sink = "";
      node.append(h("span", { role: "gridcell", class: "nrt-hear", text: `${table.head.name}, use the arrow keys` }));
    }
  }

  function sorted(by = shown) {
    shown = by;
    for (const node of /** @type {NodeListOf<HTMLElement>} */ (holder.querySelectorAll(".slick-header-column"))) {
      const found = by.find(([c]) => `c${c}` === node.dataset.id);
      node.setAttribute("aria-sort", found ? (found[1] ? "ascending" : "descending") : "none");
    }
  }

  function sinks() {
    const cell = screen.grid.getActiveCell();
    const row = table.at(cell?.row);
    if (!cell || !row) return;
    const column = table.head.columns[cell.cell];
    const dispute = disputeOf(row);
    const text = row.group ? groupText(row.group) : isDraft(row)
      ? `${column.name}: ${draftText(column, row, cell.cell)[0]}, new row`
      : `${column.name}: ${table.formats[cell.cell].text(row, cell.cell)}, row ${cell.row + 1} of ${table.total}${dispute ? `, ${dispute}: Enter to decide` : row.gone ? ", deleted" : ""}`;
    for (const node of holder.querySelectorAll("[data-sink] > span")) setText(node, text);
  }

  return { describe, sorted, sinks };
}
