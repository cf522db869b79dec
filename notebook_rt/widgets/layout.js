// The grid's columns and its height: SlickGrid's definitions; widths by content, kept once the user changes
// them.
import { cellNode, draftNode, groupNode } from "./cell.js";
import { isCut, isDraft } from "./decode.js";
import { h } from "./common.js";
import { editorOf } from "./editors.js";
import { page } from "./library.js";

/** @import { editing } from "./edits.js" */
/** @import { Read, Row, View } from "./grid.js" */
/** @import { Column } from "./protocol.js" */
/** @import { Column as SlickColumn } from "slickgrid" */
/** @typedef {Omit<SlickColumn<Row>, "editor" | "field"> & { field: any, width: number, editor?: any, drafted?: any }} Drawn */

export const ROW = 28;
const FRAME = 2;
const HEAD = 31 + FRAME; // the heading, and the frame
export const FOOT = 28; // the totals
const FROZEN = 0.7; // maximum, as a share of the width
const WIDE = 320; // a column is not made wider automatically, except into spare room
const NARROW = 180; // a text column shrinks to this if that makes all columns fit; a name never shrinks
/** @type {CanvasRenderingContext2D | null} */
let pen = null;

// The width that the name and the first values need, and the minimum, with a long name cut.
/** @returns {[wish: number, least: number]} */
function needs(/** @type {Column} */ column, /** @type {string[]} */ values, /** @type {string} */ font, /** @type {string} */ mono) {
  const breadth = (/** @type {string} */ text, /** @type {number} */ weight, /** @type {string} */ font) => {
    pen ??= /** @type {CanvasRenderingContext2D} */ (document.createElement("canvas").getContext("2d"));
    pen.font = `${weight} ${font}`;
    return pen.measureText(text.slice(0, 160)).width;
  };
  const longest = Math.max(0, ...values.map((text) => breadth(text, column.key ? 600 : 400, column.shape === "json" ? mono : font)));
  const name = breadth(column.name, 600, font) + 34;
  const inside = Math.max(longest + (column.style ? 42 : 26) + (column.total ? breadth(column.total, 400, font) : 0), column.needed ? breadth("required", 400, font) + 24 : 64);
  return [Math.ceil(Math.max(name, inside)), Math.ceil(Math.min(Math.max(Math.min(name, NARROW), inside), WIDE))];
}

// The width of a scroll bar on this platform.
function scrollBar(/** @type {HTMLElement} */ parent) {
  const probe = h("div", { style: "position: absolute; width: 50px; overflow-y: scroll" });
  parent.append(probe);
  const width = probe.offsetWidth - probe.clientWidth;
  probe.remove();
  return width;
}

export const keyOf = (/** @type {View} */ { table }, /** @type {Column} */ column) => `${table.head.name}\u0000${column.name}`;

/** @param {View} view @param {ReturnType<typeof editing>} edits @returns {Drawn[]} */
export function columnsOf(view, edits) {
  const { answers, body, focus, holder, table } = view;
  const { head, formats } = table;
  const { font, mono } = fonts(holder);
  /** @type {number[]} */
  const wishes = [];
  const columns = head.columns.map((column, c) => {
    const numeric = column.shape === "number" || column.shape === "integer";
    const values = {
      typed: (/** @type {Row} */ row) => (row.texts ? row.texts.get(c) ?? null : formats[c].typed(row, c)),
      shown: (/** @type {Read} */ row) => formats[c].text(row, c),
      cut: () => {
        const row = table.at(focus.editing?.row);
        return row !== undefined && isCut(row, c);
      },
      fetch: () => answers.text(focus.editing?.rid ?? 0, c),
      place: edits.place,
    };
    const width = page().widths[keyOf(view, column)];
    const [wish, least] = width ? [width, width] : needs(column, table.samples(c), font, mono);
    wishes.push(wish);
    const node = h("button", { type: "button", class: "nrt-sort", tabindex: "0", text: column.name });
    return {
      id: `c${c}`, field: c, name: node, toolTip: `${column.name} (${column.type}${column.key ? ", key" : ""})`,
      width: least, minWidth: 48, sortable: true,
      cssClass: numeric ? "nrt-right" : "", headerCssClass: numeric ? "nrt-right" : "",
      headerCellAttrs: { "aria-colindex": c + 1 }, cellAttrs: { "aria-colindex": c + 1 },
      formatter: (/** @type {number} */ _row, /** @type {number} */ cell, /** @type {unknown} */ _value, /** @type {unknown} */ _column, /** @type {Row} */ row) => row.group ? groupNode(row.group, cell, headingOf(head), table.groupText(row.group, cell), column.total) : (isDraft(row) ? draftNode(column, row, cell) : cellNode(formats[cell], column, row, cell, table.range(cell))),
      editor: column.editable ? editorOf(column, values) : null,
      drafted: editorOf(column, values, true),
    };
  });
  const free = columns.filter((column) => !(keyOf(view, head.columns[column.field]) in page().widths));
  const texts = free.filter((column) => ["text", "json"].includes(head.columns[column.field].shape));
  const used = columns.reduce((sum, column) => sum + column.width, 0);
  const bar = table.total * ROW > head.height - HEAD - footOf(head.columns) ? scrollBar(body) : 0;
  share((body.parentElement?.clientWidth ?? 0) - FRAME - bar - used, free, texts, wishes);
  return columns;
}

// The column for a heading's value: the first that scrolls, if there is room.
const headingOf = (/** @type {{ pinned: number, columns: Column[] }} */ { pinned, columns }) => (pinned < columns.length && !columns[pinned].total ? pinned : 0);

// SlickGrid's metadata of a heading: its value spans the columns up to the first total; it is not editable.
export function headed(/** @type {{ pinned: number, columns: Column[] }} */ head) {
  const first = headingOf(head);
  const end = first < head.pinned ? head.pinned : head.columns.length;
  const total = head.columns.findIndex(({ total }, c) => c > first && total);
  const colspan = (total > 0 ? Math.min(total, end) : end) - first;
  return { cssClasses: "nrt-group", columns: Object.fromEntries(head.columns.map((_, c) => [`c${c}`, c === first ? { colspan, editor: null } : { editor: null }])) };
}

// Spare room goes to columns that are cut; missing room is taken from wide texts, if they have enough.
/** @typedef {{ field: number, width: number }} Wide */
export function share(/** @type {number} */ spare, /** @type {Wide[]} */ free, /** @type {Wide[]} */ texts, /** @type {number[]} */ wishes) {
  if (spare < 0 && texts.reduce((sum, column) => sum + Math.max(0, column.width - NARROW), spare) < 0) return;
  for (const column of spare < 0 ? texts.sort((a, b) => b.width - a.width) : free) {
    const change = spare < 0 ? Math.min(0, Math.max(spare, NARROW - column.width)) : Math.min(spare, wishes[column.field] - column.width);
    column.width += change;
    spare -= change;
  }
}

// The height of the totals; 0 if there are none.
const footOf = (/** @type {Column[]} */ columns) => (columns.some(({ total }) => total) ? FOOT : 0);

// The number of columns that stay at the left: the pinned ones, as long as there is room for others.
export function frozen(/** @type {number} */ pinned, /** @type {number[]} */ widths, /** @type {number} */ room) {
  let used = 0;
  let n = 0;
  while (n < Math.min(pinned, widths.length - 1) && (used += widths[n]) <= FROZEN * (room || Infinity)) n++;
  return n;
}

// Widens columns whose width the user has not set if their content needs it; never narrows. Returns true if
// any changed.
export function widen(/** @type {View} */ view) {
  const { holder, screen, table } = view;
  const { widths } = page();
  const { font, mono } = fonts(holder);
  let wider = false;
  for (const column of screen.grid.getColumns()) {
    const about = table.head.columns[Number(column.field)];
    if (keyOf(view, about) in widths) continue;
    const [, least] = needs(about, table.samples(Number(column.field)), font, mono);
    if (least <= (column.width ?? 0)) continue;
    column.width = least;
    wider = true;
  }
  return wider;
}

function fonts(/** @type {HTMLElement} */ holder) {
  const style = getComputedStyle(holder);
  return { font: `${style.fontSize} ${style.fontFamily}`, mono: `12px ${style.getPropertyValue("--nrt-mono")}` }; // for JSON (grid.view.css)
}

export function keepWidth(/** @type {View} */ view, /** @type {string | number} */ id) {
  const column = view.screen.grid.getColumns().find((one) => one.id === id);
  if (column?.width) page().widths[keyOf(view, view.table.head.columns[Number(column.field)])] = column.width;
}

// No wider than its columns; as high as its rows need, in whole rows, up to the requested height. It never
// gets lower, so that nothing below jumps.
export function fit(/** @type {View} */ { body, holder, screen, table }) {
  const grid = screen.drawn ? screen.grid : null;
  const total = table.length;
  holder.dataset.total = String(total);
  /** @type {HTMLElement | null} */
  const pane = holder.querySelector(".slick-viewport-right.slick-viewport-top, .slick-viewport-top");
  const [barX, barY] = pane ? [pane.offsetHeight - pane.clientHeight, pane.offsetWidth - pane.clientWidth] : [0, 0];
  const around = HEAD + footOf(table.head.columns) + barX;
  const rows = Math.min(total || 2, Math.floor((table.head.height - around) / ROW));
  const height = Math.max(around + Math.max(rows, 1) * ROW, parseFloat(holder.style.height) || 0);
  const width = grid?.getColumns().reduce((sum, column) => sum + (column.width ?? 0), FRAME + barY);
  const before = holder.style.cssText;
  holder.style.height = `${height}px`;
  if (width) {
    holder.style.maxWidth = `${width}px`;
    body.style.maxWidth = `${Math.max(width, 460)}px`;
  }
  if (holder.style.cssText !== before) grid?.resizeCanvas();
}
