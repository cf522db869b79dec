// The grid's columns and its height: SlickGrid's definitions, widths by content, kept once changed.
import { cellNode, isCut } from "./cell.js";
import { h } from "./common.js";
import { editorOf } from "./editors.js";
import { page } from "./library.js";

export const ROW = 28;
const HEAD = 48; // the heading, and room for a scroll bar
const pen = document.createElement("canvas").getContext("2d");

function widthOf(column, values, font) {
  const breadth = (text, weight) => {
    pen.font = `${weight} ${font}`;
    return pen.measureText(text.slice(0, 40)).width;
  };
  const longest = Math.max(0, ...values.slice(0, 60).map((text) => breadth(text, column.key ? 600 : 400)));
  return Math.round(Math.min(Math.max(breadth(column.name, 600) + 34, longest + 26, 64), 320));
}

const keyOf = (view, column) => `${view.head.name}\u0000${column.name}`;

export function columnsOf(view, edits) {
  const { head, formats, rows } = view;
  const { fontSize, fontFamily } = getComputedStyle(view.holder);
  const font = `${fontSize} ${fontFamily}`;
  return head.columns.map((column, c) => {
    const numeric = column.shape === "number" || column.shape === "integer";
    const samples = [...rows.at.values()].slice(0, 60).map((row) => formats[c].text(row, c));
    const values = {
      typed: (row) => formats[c].typed(row, c),
      cut: () => Boolean(view.editing && rows.at.get(view.editing.row) && isCut(rows.at.get(view.editing.row), c)),
      fetch: () => edits.fetchText(view.editing.rid, c),
      place: edits.place,
    };
    const node = h("button", { type: "button", class: "nrt-sort", tabindex: "0", text: column.name });
    return {
      id: `c${c}`, field: c, name: node, toolTip: `${column.name} (${column.type}${column.key ? ", key" : ""})`,
      width: page().widths[keyOf(view, column)] ?? widthOf(column, samples, font), minWidth: 48, sortable: true,
      cssClass: numeric ? "nrt-right" : "", headerCssClass: numeric ? "nrt-right" : "",
      headerCellAttrs: { "aria-colindex": c + 1 }, cellAttrs: { "aria-colindex": c + 1 },
      formatter: (_row, cell, _value, _column, row) => cellNode(formats[cell], head.columns[cell], row, cell),
      editor: column.editable ? editorOf(column, values) : null,
    };
  });
}

export function keepWidths(view) {
  for (const column of view.grid.getColumns()) page().widths[keyOf(view, view.head.columns[column.field])] = column.width;
}

// As high as its rows need, up to what was asked for; it never shrinks, so that nothing below jumps.
export function fit(view) {
  const needs = Math.min(view.head.height, HEAD + Math.max(view.total, 4) * ROW);
  if (needs <= (parseFloat(view.holder.style.height) || 0)) return;
  view.holder.style.height = `${needs}px`;
  view.grid?.resizeCanvas();
}
