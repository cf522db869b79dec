// The actions for a cell, a column or the rows shown: the menu of the right mouse button, of the menu key and
// of Shift+F10; and files of what is shown.
import { command, h } from "./common.js";
import { page } from "./library.js";
import { keyOf } from "./layout.js";
import { openMenu, tidy } from "./menu.js";

/** @import { Cell, Row, View } from "./grid.js" */
/** @import { Sort } from "./protocol.js" */
/** @import { selecting } from "./selection.js" */
/** @import { Place } from "./menu.js" */

const PAUSE = 250; // milliseconds between parts of a file: a Jupyter server drops faster output
const MIME = { csv: "text/csv", xlsx: "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet" };

// The order with this column first, up or down, or without it.
/** @param {Sort} by @param {number} c @param {boolean | null} up @returns {Sort} */
export const sortedBy = (by, c, up) => [...(up === null ? [] : [/** @type {[number, boolean]} */ ([c, up])]), ...by.filter(([one]) => one !== c)];

/** @param {View} view @param {ReturnType<typeof selecting>} picked @param {(by: Sort) => void} sort @param {() => void} relaid @param {(item: Row, cell: number, ofCell: boolean) => void} history */
export function menus(view, picked, sort, relaid, history) {
  const { answers, body, focus, holder, screen, table } = view;
  /** @type {(() => void) | null} */
  let close = null;
  let saving = false;

  async function save(/** @type {"csv" | "xlsx"} */ as) {
    if (saving) return;
    saving = true;
    view.hear(`Making the ${as === "csv" ? "CSV" : "Excel"} file…`, 0, true);
    try {
      /** @type {DataView<ArrayBuffer>[]} */
      const pieces = [];
      let { name = "table", rows = 0, parts } = await answers.file(as, 0, pieces);
      for (let part = 1; part < parts; part++) {
        await new Promise((done) => setTimeout(done, PAUSE));
        view.hear(`Fetching the file: ${Math.round((100 * part) / parts)} %`, 0, true);
        ({ parts } = await answers.file(as, part, pieces));
      }
      let blob = new Blob(pieces, { type: MIME[as] });
      if (as === "csv") blob = new Blob([await new Response(blob.stream().pipeThrough(new DecompressionStream("gzip"))).blob()], { type: MIME[as] });
      const link = h("a", { href: URL.createObjectURL(blob), download: name });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 60000);
      view.hear(`Saved ${rows.toLocaleString()} row${rows === 1 ? "" : "s"} as ${name}`);
    } catch (error) {
      view.hear("");
      view.tell(error instanceof Error ? error.message : String(error), 12);
    } finally {
      saving = false;
    }
  }

  // Items about a column, from a cell or a heading.
  function aboutColumn(/** @type {number} */ c) {
    const { head } = table;
    const column = head.columns[c];
    const now = head.sort.find(([one]) => one === c);
    const more = head.sort.length > 1 ? ", then as now" : "";
    return [
      { label: `Sort ascending${now ? "" : more}`, off: now?.[1] === true, act: () => sort(sortedBy(head.sort, c, true)) },
      { label: `Sort descending${now ? "" : more}`, off: now?.[1] === false, act: () => sort(sortedBy(head.sort, c, false)) },
      now && { label: "Do not sort by this column", act: () => sort(sortedBy(head.sort, c, null)) },
      /** @type {const} */ ("line"),
      c < head.pinned
        ? { label: "Let the column go from the left", act: () => view.say({ t: "columns", act: "unpin", c }) }
        : { label: "Pin the column at the left", off: !pinnable(c), act: () => view.say({ t: "columns", act: "pin", c }) },
      { label: "Hide the column", off: head.columns.length < 2, act: () => view.say({ t: "columns", act: "hide", c }) },
      table.group === column.name
        ? { label: "Do not group the rows", act: () => view.say({ t: "group" }) }
        : { label: "Group by this column", act: () => view.say({ t: "group", c }) },
      head.hidden > 0 && { label: `Show the ${head.hidden} hidden column${head.hidden === 1 ? "" : "s"}`, act: () => view.say({ t: "columns", act: "all" }) },
      keyOf(view, column) in page().widths && { label: "Fit the width to the content", act: () => {
        delete page().widths[keyOf(view, column)];
        relaid();
      } },
    ];
  }

  // Whether the other columns have room left beside the pinned ones.
  function pinnable(/** @type {number} */ c) {
    const columns = screen.grid.getColumns();
    const width = (/** @type {number} */ i) => columns[i]?.width ?? 0;
    const pinned = [...Array(table.head.pinned).keys()].reduce((sum, i) => sum + width(i), width(c));
    return pinned < 0.7 * holder.clientWidth;
  }

  const files = () => [
    { label: "Save as CSV", off: saving, act: () => void save("csv") },
    { label: "Save as Excel", off: saving, act: () => void save("xlsx") },
  ];

  const back = (/** @type {HTMLElement | null} */ to) => (/** @type {boolean} */ here) => {
    close = null;
    if (!here) return;
    if (to?.isConnected) to.focus();
    else if (screen.drawn) screen.grid.focus();
  };

  // For a cell; the selection is kept if it contains the cell.
  function ofCell(/** @type {Cell} */ { row, cell }, /** @type {Place} */ place) {
    close?.();
    const item = table.at(row);
    if (!item || item.texts || focus.editing) return;
    if (item.group) {
      const { group, rid } = item;
      close = openMenu(body, group.text, [
        { label: group.open ? "Close the group" : "Open the group", keys: "Enter", act: () => view.say({ t: "toggle", rid }) },
        { label: "Do not group the rows", act: () => view.say({ t: "group" }) },
      ], place, back(null));
      return;
    }
    if (!picked.covers(row, cell)) screen.grid.setActiveCell(row, cell);
    const { head } = table;
    const rows = picked.rows();
    const column = head.columns[cell];
    close = openMenu(body, `${column.name}, row ${row + 1}`, tidy([
      { label: "Copy", keys: `${command}C`, act: () => picked.copy() },
      { label: "Copy as CSV", act: () => picked.copy("csv") },
      "line",
      { label: "History of the cell", act: () => history(item, cell, true) },
      { label: "History of the row", act: () => history(item, cell, false) },
      "line",
      { label: "Show only rows with this value", off: item.gone, act: () => view.say({ t: "only", rid: item.rid, c: cell }) },
      table.filtered && { label: "Show all rows", act: () => view.say({ t: "filter", text: "" }) },
      ...aboutColumn(cell),
      "line",
      ...files(),
      "line",
      head.remove && { label: rows > 1 ? `Delete ${rows.toLocaleString()} rows` : "Delete the row", keys: command === "⌘" ? "⌘⌫" : "Ctrl+Delete", danger: true, off: item.gone, act: () => picked.remove() },
    ]), place, back(null));
  }

  function ofHeading(/** @type {number} */ c, /** @type {Place} */ place, /** @type {HTMLElement | null} */ from) {
    close?.();
    close = openMenu(body, table.head.columns[c].name, tidy([...aboutColumn(c), "line", ...files()]), place, back(from));
  }

  const boxOf = (/** @type {Element} */ node) => {
    const { left, top, bottom } = node.getBoundingClientRect();
    return { left: left + 8, top, bottom };
  };
  // The menu key sends an event without a position, also for a heading.
  holder.addEventListener("contextmenu", (event) => {
    if (!screen.drawn || focus.editing) return; // an editor has the browser's own menu
    const target = /** @type {Element} */ (event.target);
    const heading = /** @type {HTMLElement | null} */ (target.closest(".slick-header-column"));
    const cell = screen.grid.getCellFromEvent(event);
    if (!heading && !cell) {
      if (target.closest("[data-sink]")) event.preventDefault(); // keys.js handles the key
      return;
    }
    event.preventDefault();
    event.stopPropagation(); // not the notebook's own menu
    const byKey = event.button !== 2 && !event.clientX && !event.clientY;
    const place = byKey ? boxOf(heading ?? target) : { left: event.clientX, top: event.clientY, bottom: event.clientY };
    if (heading) ofHeading(Number(heading.dataset.id?.slice(1)), place, heading.querySelector("button"));
    else if (cell) ofCell(cell, place);
  });

  return {
    // Opens the menu at the cell with the focus.
    atFocus() {
      const cell = screen.grid.getActiveCell();
      const node = cell && screen.grid.getCellNode(cell.row, cell.cell);
      if (cell && node) ofCell(cell, boxOf(node));
    },
    close: () => close?.(),
  };
}
