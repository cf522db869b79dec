// The grid's columns and its height: SlickGrid's definitions, widths by content, kept once changed.
import { cellNode, draftNode, isCut } from "./cell.js";
import { h } from "./common.js";
import { editorOf } from "./editors.js";
import { page } from "./library.js";

export const ROW = 28;
const FRAME = 2;
const HEAD = 31 + FRAME; // the heading, and the frame
const WIDE = 320; // a column is no wider unasked, but where there is room
const NARROW = 180; // a text gives up what is more, where that makes all columns fit; a name always
const pen = document.createElement("canvas").getContext("2d");

// As wide as the name and the first values need; and the least of it, where a long name is cut.
function needs(column, values, font, mono) {
  const breadth = (text, weight, font) => {
    pen.font = `${weight} ${font}`;
    return pen.measureText(text.slice(0, 160)).width;
  };
  const longest = Math.max(0, ...values.map((text) => breadth(text, column.key ? 600 : 400, column.shape === "json" ? mono : font)));
  const name = breadth(column.name, 600, font) + 34;
  const inside = Math.max(longest + 26, column.needed ? breadth("required", 400, font) + 24 : 64);
  return [Math.ceil(Math.max(name, inside)), Math.ceil(Math.min(Math.max(Math.min(name, NARROW), inside), WIDE))];
}

// How wide a scroll bar is here.
function scrollBar(parent) {
  const probe = h("div", { style: "position: absolute; width: 50px; overflow-y: scroll" });
  parent.append(probe);
  const width = probe.offsetWidth - probe.clientWidth;
  probe.remove();
  return width;
}

const keyOf = (view, column) => `${view.head.name}\u0000${column.name}`;

export function columnsOf(view, edits) {
  const { head, formats, rows } = view;
  const style = getComputedStyle(view.holder);
  const font = `${style.fontSize} ${style.fontFamily}`;
  const mono = `12px ${style.getPropertyValue("--nrt-mono")}`; // of JSON (grid.css)
  const wishes = [];
  const columns = head.columns.map((column, c) => {
    const numeric = column.shape === "number" || column.shape === "integer";
    const samples = [...[...rows.at.values()].filter((row) => !row.texts).slice(0, 60), rows.sample].map((row) => formats[c].text(row, c));
    const values = {
      typed: (row) => (row.texts ? row.texts.get(c) ?? null : formats[c].typed(row, c)),
      shown: (row) => formats[c].text(row, c),
      cut: () => Boolean(view.editing && rows.at.get(view.editing.row) && isCut(rows.at.get(view.editing.row), c)),
      fetch: () => edits.fetchText(view.editing.rid, c),
      place: edits.place,
    };
    const width = page().widths[keyOf(view, column)];
    const [wish, least] = width ? [width, width] : needs(column, samples, font, mono);
    wishes.push(wish);
    const node = h("button", { type: "button", class: "nrt-sort", tabindex: "0", text: column.name });
    return {
      id: `c${c}`, field: c, name: node, toolTip: `${column.name} (${column.type}${column.key ? ", key" : ""})`,
      width: least, minWidth: 48, sortable: true,
      cssClass: numeric ? "nrt-right" : "", headerCssClass: numeric ? "nrt-right" : "",
      headerCellAttrs: { "aria-colindex": c + 1 }, cellAttrs: { "aria-colindex": c + 1 },
      formatter: (_row, cell, _value, _column, row) => (row.texts ? draftNode(column, row, cell) : cellNode(formats[cell], column, row, cell)),
      editor: column.editable ? editorOf(column, values) : null,
      drafted: editorOf(column, values, true),
    };
  });
  const free = columns.filter((column) => !(keyOf(view, head.columns[column.field]) in page().widths));
  const texts = free.filter((column) => ["text", "json"].includes(head.columns[column.field].shape));
  const used = columns.reduce((sum, column) => sum + column.width, 0);
  const bar = view.total * ROW > head.height - HEAD ? scrollBar(view.body) : 0;
  share(view.body.parentElement.clientWidth - FRAME - bar - used, free, texts, wishes);
  return columns;
}

// What is spare goes to columns that are cut; what is missing comes from wide texts, if they have enough.
function share(spare, free, texts, wishes) {
  if (spare < 0 && texts.reduce((sum, column) => sum + Math.max(0, column.width - NARROW), spare) < 0) return;
  for (const column of spare < 0 ? texts.sort((a, b) => b.width - a.width) : free) {
    const change = spare < 0 ? Math.min(0, Math.max(spare, NARROW - column.width)) : Math.min(spare, wishes[column.field] - column.width);
    column.width += change;
    spare -= change;
  }
}

export function keepWidth(view, id) {
  const column = view.grid.getColumns().find((one) => one.id === id);
  if (column) page().widths[keyOf(view, view.head.columns[column.field])] = column.width;
}

// No wider than its columns; as high as its rows need, whole ones, up to what was asked for. It
// never shrinks in height, so that nothing below jumps.
export function fit(view) {
  const { body, grid, head, holder } = view;
  const total = view.length();
  holder.dataset.total = total;
  const pane = holder.querySelector(".slick-viewport-right.slick-viewport-top, .slick-viewport-top");
  const [barX, barY] = pane ? [pane.offsetHeight - pane.clientHeight, pane.offsetWidth - pane.clientWidth] : [0, 0];
  const rows = Math.min(total || 2, Math.floor((head.height - HEAD - barX) / ROW));
  const height = Math.max(HEAD + barX + Math.max(rows, 1) * ROW, parseFloat(holder.style.height) || 0);
  const width = grid?.getColumns().reduce((sum, column) => sum + column.width, FRAME + barY);
  const before = holder.style.cssText;
  holder.style.height = `${height}px`;
  if (width) {
    holder.style.maxWidth = `${width}px`;
    body.style.maxWidth = `${Math.max(width, 460)}px`;
  }
  if (holder.style.cssText !== before) grid?.resizeCanvas();
}
