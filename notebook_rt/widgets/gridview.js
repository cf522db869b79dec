// The live grid: SlickGrid over a window of rows that the kernel keeps, sorts and filters. Here is
// what it is made of, what the kernel says, and what is drawn of it; the rest is beside (bar, rows,
// layout, selection, edits, draft, keys, aria).
import { accessible } from "./aria.js";
import { barOf } from "./bar.js";
import { ROW_MARK, makeFormat } from "./cell.js";
import { h, setText } from "./common.js";
import { drafting } from "./draft.js";
import { editing } from "./edits.js";
import { keyboard } from "./keys.js";
import { ROW, columnsOf, fit, keepWidth } from "./layout.js";
import { Rows } from "./rows.js";
import { selecting } from "./selection.js";

export default function gridView(body, say, lib) {
  const holder = h("div", { class: "nrt-grid" });
  const toast = h("p", { class: "nrt-toast", role: "alert" });
  toast.hidden = true;

  let toasting = null;
  let recounting = false; // the number of rows has changed under an open editor
  // What the parts share.
  const view = {
    body, holder, say, paint, recount,
    bar: null,
    grid: null,
    head: null,
    formats: [],
    total: 0,
    rows: new Rows(),
    active: null, // {rid, cell}: who has the focus, wherever it stands
    selection: null, // {runs: [[first, last]], left, right, from: [row, cell], to}
    editing: null, // {rid, row, cell}
    draft: null, // a row that is being typed
    waiting: new Map(), // "rid:c" or "copy" to what takes the kernel's answer
    length: () => view.total + (view.draft ? 1 : 0),
    tell(text, seconds = 6) {
      setText(toast, text);
      toast.hidden = !text;
      clearTimeout(toasting);
      if (text) toasting = setTimeout(() => view.tell(""), seconds * 1000);
    },
  };
  const aria = accessible(view);
  const picked = selecting(view);
  const edits = editing(view);
  const draft = drafting(view, edits);
  view.bar = barOf(view, { add: draft.add, remove: picked.remove, save: draft.save, discard: draft.discard, undo: () => say({ t: "undo" }) });
  body.append(holder, toast);
  const resized = new ResizeObserver(() => view.grid?.resizeCanvas());
  resized.observe(holder);

  // ---- the grid -------------------------------------------------------------------------------

  function build() {
    const { head, rows } = view;
    fit(view);
    const keys = head.columns.findIndex((column) => !column.key);
    const shadow = holder.getRootNode();
    const columns = columnsOf(view, edits);
    const drafted = Object.fromEntries(columns.map((column) => [column.id, { editor: column.drafted }]));
    const grid = (view.grid = new lib.SlickGrid(
      holder,
      {
        getLength: view.length, getItem: (i) => rows.at.get(i),
        getItemMetadata: (i) => (rows.at.get(i)?.texts ? { columns: drafted } : null),
      },
      columns,
      {
        rowHeight: ROW, enableColumnReorder: false, editable: true, autoEdit: false, enableCellNavigation: true,
        multiColumnSort: true, tristateMultiColumnSort: true, editorLock: new lib.SlickEditorLock(), frozenColumn: keys > 0 && keys < 3 ? keys - 1 : -1,
        editCommandHandler: (item, { field }, { serializedValue, editor }) => (item.texts ? draft.set(field, serializedValue) : edits.send(item, field, serializedValue, editor.start)),
        enableHtmlRendering: false, enableTextSelectionOnCells: false, emulatePagingWhenScrolling: false,
        shadowRoot: shadow instanceof ShadowRoot ? shadow : undefined, minRowBuffer: 6,
      },
    ));
    aria.describe();
    if (head.sort.length) grid.setSortColumns(head.sort.map(([c, up]) => ({ columnId: `c${c}`, sortAsc: up })));
    grid.onViewportChanged.subscribe(ask);
    grid.onRendered.subscribe(paint);
    grid.onColumnsResized.subscribe((_event, { triggeredByColumn }) => {
      keepWidth(view, triggeredByColumn);
      fit(view);
    });
    grid.onSort.subscribe((_event, { sortCols }) => {
      const by = sortCols.map(({ sortCol, sortAsc }) => [sortCol.field, sortAsc]);
      sorting = true;
      anchor = null;
      say({ t: "sort", by });
      aria.sorted(by);
      grid.scrollRowToTop(0);
    });
    grid.onActiveCellChanged.subscribe((_event, { row, cell }) => {
      const item = rows.at.get(row);
      view.active = item ? { rid: item.rid, cell } : null;
      if (item && !view.moving) {
        picked.select([[row, row]], cell, cell, [row, cell]);
        // Before the next key: one that ends the editing may follow at once.
        if (item.texts) queueMicrotask(() => view.active?.rid === 0 && !view.editing && grid.editActiveCell());
        else draft.left();
      }
      aria.sinks();
      edits.explain();
    });
    grid.onBeforeEditCell.subscribe((_event, { row, cell }) => {
      const item = rows.at.get(row);
      if (!item || item.gone) return false;
      view.editing = { rid: item.rid, row, cell };
      edits.quiet();
      say({ t: "hold", on: true });
      return true;
    });
    grid.onBeforeCellEditorDestroy.subscribe(() => {
      view.editing = null;
      say({ t: "hold", on: false });
      edits.quiet();
      if (recounting) setTimeout(recount);
    });
    grid.onValidationError.subscribe((_event, { editor, row, cell, validationResults }) => {
      edits.tellAt(row, cell, validationResults.msg);
      if (validationResults.learnt) say({ t: "doubt" }); // what is known of the column may be old
      editor.input.addEventListener("input", edits.quiet, { once: true });
    });
    grid.onKeyDown.subscribe(keyboard(view, picked, edits, draft));
    grid.onDblClick.subscribe((event, { row, cell }) => edits.open(row, cell) && event.stopImmediatePropagation());
    grid.onClick.subscribe((event, { row, cell }) => {
      if (event.getNativeEvent?.().shiftKey && view.selection) {
        picked.extend(row, cell);
        event.stopImmediatePropagation();
      } else if (edits.conflicting(row, cell)) setTimeout(() => edits.open(row, cell));
    });
    aria.sorted(head.sort);
    fit(view);
    holder.dataset.drawn = "";
  }

  // ---- drawing --------------------------------------------------------------------------------

  // Draws the rows at `which` places (null: all) again, but never the cell with an open editor. A cell
  // that is there stays and is filled anew: one that is replaced under a pressed button hears no click.
  function redraw(which) {
    const { grid } = view;
    const { top, bottom } = grid.getRenderedRange();
    const drawn = [];
    for (let row = top; row <= bottom; row++) {
      if (which && !which.has(row)) continue;
      if (view.editing?.row === row) {
        for (let c = 0; c < view.head.columns.length; c++) if (c !== view.editing.cell) grid.updateCell(row, c);
      } else if (grid.getCellNode(row, 0)) grid.updateRow(row);
      else drawn.push(row);
    }
    grid.invalidateRows(drawn);
    grid.render(); // and so paint
  }

  // What SlickGrid leaves to us on every drawn row: its number, the selection, the row that is gone.
  function paint() {
    holder.setAttribute("aria-rowcount", view.length() + 1);
    const many = Boolean(view.selection) && picked.many();
    for (const node of holder.querySelectorAll(".slick-row")) {
      const at = Number(node.dataset.row);
      node.setAttribute("aria-rowindex", at + 2);
      const row = view.rows.at.get(at);
      node.classList.toggle("nrt-gone", Boolean(row?.gone));
      node.classList.toggle("nrt-disputed", Boolean(row?.m?.has(ROW_MARK)));
      node.classList.toggle("nrt-draft", Boolean(row?.texts));
      node.classList.toggle("nrt-saving", Boolean(row?.saving));
      for (const cell of node.children) {
        const inside = picked.covers(at, Number(/ l(\d+)/.exec(cell.className)?.[1]));
        cell.classList.toggle("nrt-selected", inside && many);
        cell.setAttribute("aria-selected", String(inside));
      }
    }
    for (const node of holder.querySelectorAll(".slick-header-columns")) node.setAttribute("aria-rowindex", 1);
    view.bar.offer();
    aria.sinks();
  }

  function flash(cells) {
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    const colour = body.parentElement.dataset.theme === "dark" ? "rgb(250 204 21 / 32%)" : "rgb(250 204 21 / 45%)";
    for (const [row, c] of cells) {
      if (view.editing?.row === row && view.editing.cell === c) {
        edits.tellAt(row, c, `${view.head.columns[c].name} is now ${view.formats[c].text(view.rows.at.get(row), c)}; yours replaces it if you save.`, 10);
        continue;
      }
      view.grid.updateCell(row, c);
      if (!calm) view.grid.getCellNode(row, c)?.animate([{ backgroundColor: colour }, { backgroundColor: "transparent" }], { duration: 900, easing: "ease-out" });
    }
  }

  // ---- the window -----------------------------------------------------------------------------

  let anchor = null;
  let sorting = false; // somebody wants to see the first rows of a new order: nothing stays in its place
  let asked = 0;
  let asking = null;
  function ask() {
    if (asking) return;
    asking = setTimeout(() => {
      asking = null;
      asked = Date.now();
      const { grid, active, rows } = view;
      if (!grid) return;
      const { top, bottom } = grid.getViewport();
      // What must stay where it is on the screen: the row of the focus if it is seen, else the top row.
      const shown = active && rows.named.get(active.rid);
      const first = Math.max(0, grid.getVisibleRange ? grid.getVisibleRange().top : top);
      const stay = sorting ? null : shown && shown.at >= first && shown.at <= bottom ? shown : first > 0 ? rows.at.get(first) : null;
      anchor = stay ? { rid: stay.rid, row: stay.at } : null;
      say({ t: "window", first: top, last: bottom + 1, anchor: anchor && [anchor.rid, anchor.row] });
    }, Math.max(0, 40 - (Date.now() - asked)));
  }

  function moveTo(content) {
    if (!anchor || content.anchor === undefined || content.anchor < 0 || content.anchor === anchor.row) return;
    const shift = content.anchor - anchor.row;
    anchor.row = content.anchor;
    for (const viewport of holder.querySelectorAll(".slick-viewport")) {
      if (viewport.scrollHeight > viewport.clientHeight) viewport.scrollTop += shift * ROW;
    }
  }

  // Where the focus goes when its row is deleted for good: to what stands there now.
  function nearest() {
    const cell = view.grid.getActiveCell();
    const row = cell && view.rows.at.get(Math.min(cell.row, view.total - 1));
    return row ? { rid: row.rid, cell: cell.cell } : null;
  }

  // The focus goes with its row: moved if it is on the screen, kept in mind if it is not.
  function follow() {
    const { grid, active, rows } = view;
    if (!active || view.editing) return;
    const row = rows.named.get(active.rid);
    const now = grid.getActiveCell();
    const { top, bottom } = grid.getViewport();
    view.moving = true;
    if (!row || row.at < top || row.at > bottom) {
      if (now && rows.at.get(now.row)?.rid !== active.rid) grid.resetActiveCell();
      view.active = active;
    } else if (!now || now.row !== row.at) grid.setActiveCell(row.at, active.cell);
    view.moving = false;
  }

  // ---- what the kernel says -------------------------------------------------------------------

  function around(content) {
    view.total = content.total ?? view.total;
    if (view.draft) view.rows.keep(view.draft, view.total);
    view.bar.around(content);
    if (content.sort) ordered(content.sort);
  }

  // The order, whichever view asked for it.
  function ordered(by) {
    view.head.sort = by;
    const shown = view.grid?.getSortColumns().map(({ columnId, sortAsc }) => [Number(columnId.slice(1)), sortAsc]);
    if (!shown || JSON.stringify(shown) === JSON.stringify(by)) return;
    view.grid.setSortColumns(by.map(([c, up]) => ({ columnId: `c${c}`, sortAsc: up })));
    aria.sorted(by);
  }

  // SlickGrid would close an open editor.
  function recount() {
    recounting = Boolean(view.editing);
    if (recounting) return;
    view.grid.updateRowCount();
    fit(view);
  }

  // Whether columns look and are edited alike; what they may hold can be learnt anew under an open editor.
  const looks = (columns) => JSON.stringify(columns.map(({ name, type, shape, key, editable, choices, format }) => [name, type, shape, key, editable, choices.length > 0, format]));

  function whole(content, buffer) {
    const before = view.head?.columns ?? [];
    const same = view.grid && looks(before) === looks(content.columns);
    if (!same) view.formats = content.columns.map(makeFormat);
    view.head = { ...content, columns: same ? before.map((column, c) => Object.assign(column, content.columns[c])) : content.columns };
    if (!same) draft.rename(before);
    view.bar.whole(content);
    view.rows.fill(content, buffer, view.formats);
    around(content);
    if (view.grid && !same) {
      view.grid.destroy();
      holder.replaceChildren();
      view.grid = null;
    }
    if (!content.columns.length) return;
    if (!view.grid) build();
    else {
      recount();
      redraw(null);
    }
    ask();
  }

  function window_(content, buffer) {
    const { grid, rows } = view;
    const wasEmpty = view.total === 0 && rows.at.size === 0;
    const deleted = rows.named.get(view.active?.rid)?.gone;
    rows.fill(content, buffer, view.formats);
    around(content);
    if (wasEmpty && view.total) { // nobody knew how wide
      grid.setColumns(columnsOf(view, edits));
      aria.sorted();
    }
    if (view.editing) view.editing.row = rows.named.get(view.editing.rid)?.at ?? view.editing.row;
    const focus = deleted && !rows.named.has(view.active.rid) ? nearest() : view.active;
    recount();
    view.active = focus;
    sorting = false;
    moveTo(content);
    if (content.selection) view.selection = content.selection.length && view.selection ? { ...view.selection, runs: content.selection } : null;
    redraw(null);
    follow();
    edits.explain();
  }

  function cells(content, buffer) {
    const before = view.total;
    around(content);
    if (view.total !== before) recount();
    const touched = view.rows.mark(content);
    const [changed, again] = view.rows.patch(content, buffer, view.formats);
    if (again || touched.size) redraw(again ? null : touched);
    edits.explain();
    flash(changed);
  }

  function receive(content, buffers) {
    const buffer = buffers?.[0];
    if (content.t === "grid") whole(content, buffer);
    if (!view.grid || content.t === "grid") return;
    if (content.t === "reply") (content.rid === 0 || content.kind === "inserted" ? draft : edits).reply(content);
    else if (content.t === "window") window_(content, buffer);
    else if (content.t === "cells") cells(content, buffer);
  }

  return {
    receive,
    close() {
      resized.disconnect();
      view.grid?.destroy();
    },
  };
}
