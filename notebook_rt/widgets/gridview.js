// The live grid: SlickGrid over a window of rows that the kernel keeps, sorts and filters. This file builds
// it, handles the kernel's messages and draws; the state is in gridstate.js, the rest in the other modules
// (bar, rows, layout, selection, edits, draft, keys, aria).
import { accessible } from "./aria.js";
import { barOf } from "./bar.js";
import { ROW_MARK } from "./decode.js";
import { h, setText } from "./common.js";
import { drafting } from "./draft.js";
import { editing } from "./edits.js";
import { menus } from "./gridmenu.js";
import { Answers, Focus, Screen, Table } from "./gridstate.js";
import { histories } from "./history.js";
import { keyboard } from "./keys.js";
import { FOOT, ROW, columnsOf, fit, frozen, headed, keepWidth, widen } from "./layout.js";
import { timeSlider } from "./past.js";
import { selecting } from "./selection.js";
import rules from "./grid.view.css";

/** @import { Active, Row, View } from "./grid.js" */
/** @import { CellsMessage, GridMessage, ReplyMessage, Say, Sort, WindowMessage } from "./protocol.js" */
/** @typedef {ReturnType<typeof setTimeout> | undefined} Timer */

const HOLD = 350; // minimum ms for which a changed cell is tinted
const FADE = 600; // ms
const FEW = 20; // cells

/** @param {HTMLElement} body @param {Say} send @param {typeof import("slickgrid")} lib */
export default function gridView(body, send, lib) {
  const holder = h("div", { class: "nrt-grid" });
  const toast = h("p", { class: "nrt-toast", role: "alert" });
  toast.hidden = true;

  /** @type {Timer} */
  let toasting;
  let recounting = false; // the number of rows has changed under an open editor that could not be moved
  let counted = 0; // rows that SlickGrid knows of
  let held = false; // whether the kernel knows about an open editor
  let composing = false; // whether an input method is composing in the editor
  let moving = false; // whether the editor is being closed and reopened
  /** @type {Row | null} */
  let edited = null; // the row in which the editor is or was open
  const table = new Table();
  /** @type {Say} */
  const say = (word) => send(/** @type {any} */ ({ ...word, layout: table.head.layout }));
  const screen = new Screen();
  const focus = new Focus();
  const answers = new Answers(say);
  /** @type {View} */
  const view = Object.freeze({ body, holder, say, table, screen, focus, answers, tell, hear, paint, recount: () => arrange(), hold });
  const aria = accessible(view);
  const picked = selecting(view);
  const edits = editing(view);
  const draft = drafting(view, edits);
  const menu = menus(view, picked, sort, relaid, histories(view, edits));
  const bar = barOf(view, { add: draft.add, remove: picked.remove, save: draft.save, discard: draft.discard, undo: () => say({ t: "undo" }) });
  const slider = timeSlider((at) => say(at === null ? { t: "past" } : { t: "past", at }), leavable);
  body.append(...slider.nodes, holder, toast, h("style", { text: rules }));
  const edges = [h("div", { class: "nrt-edge nrt-edge-left" }), h("div", { class: "nrt-edge nrt-edge-right" })];
  const resized = new ResizeObserver(() => {
    if (!screen.drawn) return;
    rearrange(() => screen.grid.resizeCanvas());
    edge();
  });
  resized.observe(holder);
  body.addEventListener("compositionstart", () => (composing = true));
  body.addEventListener("compositionend", () => (composing = false));

  function tell(/** @type {string} */ text, seconds = 6) {
    setText(toast, text);
    toast.hidden = !text;
    clearTimeout(toasting);
    if (text) toasting = setTimeout(() => tell(""), seconds * 1000);
  }

  function hear(/** @type {string} */ text, undo = 0, stay = false) {
    bar.hear(text, undo, stay);
  }

  // Whether the live table can be left: nothing is being edited.
  function leavable() {
    if (table.draft) tell("Save or discard the new row first.");
    return !table.draft && (!focus.editing || screen.grid.getEditorLock().commitCurrentEdit());
  }

  // ---- the grid -------------------------------------------------------------------------------

  function build() {
    const { head } = table;
    fit(view);
    const shadow = holder.getRootNode();
    const columns = columnsOf(view, edits);
    const drafted = Object.fromEntries(columns.map((column) => [column.id, { editor: column.drafted }]));
    counted = table.length;
    const grid = new lib.SlickGrid(
      holder,
      {
        getLength: () => table.length, getItem: (/** @type {number} */ i) => /** @type {Row} */ (table.at(i)),
        getItemMetadata: (/** @type {number} */ i) => (table.at(i)?.group ? headed(table.head) : table.at(i)?.texts ? { columns: drafted } : null),
      },
      /** @type {any[]} */ (columns),
      {
        rowHeight: ROW, enableColumnReorder: false, editable: true, autoEdit: false, enableCellNavigation: true,
        multiColumnSort: true, tristateMultiColumnSort: true, editorLock: new lib.SlickEditorLock(),
        frozenColumn: frozen(head.pinned, columns.map(({ width }) => width), holder.clientWidth) - 1, skipFreezeColumnValidation: true,
        createFooterRow: head.columns.some(({ total }) => total), showFooterRow: true, footerRowHeight: FOOT,
        // SlickGrid passes the row at the editor's position, which may be another row by now.
        editCommandHandler: (/** @type {Row} */ _item, /** @type {any} */ { field }, /** @type {any} */ { serializedValue, editor }) => {
          const item = edited && (table.named(edited.rid) ?? edited);
          if (item?.texts) draft.set(field, serializedValue);
          else if (item) edits.send(item, field, serializedValue, editor.start);
        },
        enableHtmlRendering: false, enableTextSelectionOnCells: false, emulatePagingWhenScrolling: false,
        shadowRoot: shadow instanceof ShadowRoot ? shadow : undefined, minRowBuffer: 6,
      },
    );
    screen.show(grid);
    aria.describe();
    if (head.sort.length) grid.setSortColumns(head.sort.map(([c, up]) => ({ columnId: `c${c}`, sortAsc: up })));
    grid.onViewportChanged.subscribe(ask);
    grid.onRendered.subscribe(paint);
    grid.onScroll.subscribe(edge);
    grid.onColumnsResized.subscribe((_event, { triggeredByColumn }) => {
      keepWidth(view, triggeredByColumn);
      fit(view);
      edge();
    });
    grid.onSort.subscribe((_event, /** @type {any} */ { sortCols }) => {
      /** @type {Sort} */
      const by = sortCols.map((/** @type {any} */ { sortCol, sortAsc }) => [sortCol.field, sortAsc]);
      sort(by);
    });
    grid.onActiveCellChanged.subscribe((_event, { row, cell }) => {
      const item = table.at(row);
      focus.set(item ? { rid: item.rid, cell } : null);
      if (item && !focus.moving) {
        picked.select([[row, row]], cell, cell, [row, cell]);
        // Before the next key: a key that ends the edit may follow immediately.
        if (item.texts) queueMicrotask(() => focus.active?.rid === 0 && !focus.editing && grid.editActiveCell());
        else draft.left();
      }
      aria.sinks();
      edits.explain();
    });
    grid.onBeforeEditCell.subscribe((_event, { row, cell = 0 }) => {
      const item = table.at(row);
      if (!item || item.gone || item.group) return false;
      focus.edit(item, cell);
      edited = item;
      if (!moving) edits.quiet();
      hold();
      return true;
    });
    grid.onBeforeCellEditorDestroy.subscribe(() => {
      focus.done();
      if (moving) return;
      setTimeout(hold); // moving on to the next cell lets no row move in between
      edits.quiet();
      if (recounting) setTimeout(caughtUp);
    });
    grid.onValidationError.subscribe((_event, /** @type {any} */ { editor, row, cell, validationResults }) => {
      edits.tellAt(row, cell, validationResults.msg);
      if (validationResults.learnt) say({ t: "doubt" }); // the known column may be outdated
      editor.input.addEventListener("input", edits.quiet, { once: true });
    });
    grid.onKeyDown.subscribe(keyboard(view, picked, edits, draft, menu));
    grid.onDblClick.subscribe((event, { row, cell }) => {
      if (edits.open(row, cell)) event.stopImmediatePropagation();
    });
    grid.onClick.subscribe((/** @type {any} */ event, { row, cell }) => {
      if (event.getNativeEvent?.().shiftKey && picked.current) {
        picked.extend(row, cell);
        event.stopImmediatePropagation();
      } else if (table.at(row)?.group) say({ t: "toggle", rid: table.at(row)?.rid ?? 0 });
      else if (edits.conflicting(row, cell)) setTimeout(() => edits.open(row, cell));
    });
    aria.sorted(head.sort);
    fit(view);
    holder.append(...edges);
    total();
    edge();
    holder.dataset.drawn = "";
  }

  // Builds the grid again for other columns; the focus and the scroll position stay with their row.
  function rebuild(/** @type {string | undefined} */ name) {
    const root = /** @type {Document | ShadowRoot} */ (holder.getRootNode());
    const here = holder.contains(root.activeElement);
    const at = [...holder.querySelectorAll(".slick-viewport")].map(({ scrollTop }) => scrollTop);
    const rid = focus.active?.rid;
    menu.close();
    screen.clear();
    holder.replaceChildren();
    if (!table.head.columns.length) return;
    build();
    for (const viewport of holder.querySelectorAll(".slick-viewport")) viewport.scrollTop = Math.max(...at, 0);
    const row = table.named(rid);
    const cell = Math.max(0, table.head.columns.findIndex((column) => column.name === name));
    if (row && rid) focus.with(() => screen.grid.setActiveCell(row.at, cell));
    focus.set(row && rid ? { rid, cell } : null);
    if (row && rid) picked.select([[row.at, row.at]], cell, cell, [row.at, cell]);
    else picked.select([], 0, 0, [0, 0]);
    if (here) screen.grid.focus();
  }

  // Sorts in the kernel, and shows the first rows of the new order.
  function sort(/** @type {Sort} */ by) {
    sorting = true;
    anchor = null;
    say({ t: "sort", by });
    ordered(by);
    screen.grid.scrollRowToTop(0);
  }

  // Sets the widths after the user's own were reset.
  function relaid() {
    const { grid } = screen;
    const fresh = columnsOf(view, edits);
    grid.getColumns().forEach((column, i) => (column.width = fresh[i].width));
    wide();
  }

  function wide() {
    screen.grid.reRenderColumns(false);
    fit(view);
    edge();
  }

  // Adapts column widths to their content, a few times a second.
  /** @type {Timer} */
  let widening;
  function follows() {
    widening ??= setTimeout(() => {
      widening = undefined;
      if (screen.drawn && !focus.editing && widen(view)) wide();
    }, 300);
  }

  // Shades the edges behind which there is more to scroll to.
  function edge() {
    /** @type {HTMLElement | null} */
    const pane = holder.querySelector(".slick-viewport-right.slick-viewport-top") ?? holder.querySelector(".slick-viewport-top");
    const wide = [...holder.querySelectorAll(".slick-viewport-top")].find((node) => node.scrollWidth > node.clientWidth + 1 && getComputedStyle(node).overflowX !== "hidden");
    const shown = wide ?? pane;
    const more = [];
    if (shown && shown.scrollLeft > 1) more.push("left");
    if (shown && shown.scrollLeft + shown.clientWidth < shown.scrollWidth - 1) more.push("right");
    if (shown) {
      const [inside, outside] = [shown.getBoundingClientRect(), holder.getBoundingClientRect()];
      edges[0].style.left = `${inside.left - outside.left - 1}px`;
      edges[1].style.left = `${inside.left - outside.left - 1 + shown.clientWidth - 12}px`;
    }
    holder.dataset.more = more.join(" ");
  }

  // The totals of the rows shown.
  function total() {
    const { columns } = table.head;
    if (!columns.some((column) => column.total)) return;
    columns.forEach((column, c) => {
      const node = screen.grid.getFooterRowColumn(`c${c}`);
      const text = table.totalText(c);
      const numeric = ["number", "integer"].includes(column.shape);
      node.classList.toggle("nrt-right", numeric);
      node.setAttribute("role", "gridcell");
      node.parentElement?.setAttribute("role", "row");
      const said = node.querySelector(".nrt-total");
      if (said?.textContent === text && node.firstChild) return;
      node.replaceChildren(...(column.total ? [h("span", { class: "nrt-soft", text: column.total }), " ", h("span", { class: "nrt-total", text })] : []));
      node.title = text ? `${column.total} of ${column.name}: ${text}` : "";
    });
  }

  // ---- drawing --------------------------------------------------------------------------------

  // Redraws the rows at the positions `which` (null: all), but never the cell with an open editor. An
  // existing cell is kept and refilled: a cell that is replaced under a pressed button gets no click event. A
  // heading, however, has other cells than a row.
  function redraw(/** @type {Set<number> | null} */ which) {
    const { grid } = screen;
    const { top, bottom } = grid.getRenderedRange();
    const drawn = [];
    for (let row = top; row <= bottom; row++) {
      if (which && !which.has(row)) continue;
      if (focus.editing?.row === row) {
        for (let c = 0; c < table.head.columns.length; c++) if (c !== focus.editing.cell) grid.updateCell(row, c);
      } else if (grid.getCellNode(row, 0)?.parentElement?.classList.contains("nrt-group") === Boolean(table.at(row)?.group)) grid.updateRow(row);
      else drawn.push(row);
    }
    grid.invalidateRows(drawn);
    grid.render(); // this calls paint
  }

  // What SlickGrid does not set on drawn rows: the number, the selection, the mark of a deleted row.
  function paint() {
    holder.setAttribute("aria-rowcount", String(table.length + 1));
    const many = picked.many();
    for (const node of /** @type {NodeListOf<HTMLElement>} */ (holder.querySelectorAll(".slick-row"))) {
      const at = Number(node.dataset.row);
      node.setAttribute("aria-rowindex", String(at + 2));
      const row = table.at(at);
      node.classList.toggle("nrt-group", Boolean(row?.group));
      node.classList.toggle("nrt-gone", Boolean(row?.gone));
      node.classList.toggle("nrt-disputed", Boolean(row?.m?.has(ROW_MARK)));
      node.classList.toggle("nrt-draft", Boolean(row?.texts));
      node.classList.toggle("nrt-saving", Boolean(row?.saving));
      for (const cell of node.children) {
        const inside = picked.covers(at, Number(/ l(\d+)/.exec(cell.className)?.[1]));
        cell.classList.toggle("nrt-selected", inside && many);
        cell.setAttribute("aria-selected", String(inside));
        if (row?.group && cell.querySelector(".nrt-heading")) cell.setAttribute("aria-expanded", String(row.group.open));
        else cell.removeAttribute("aria-expanded");
      }
    }
    for (const node of holder.querySelectorAll(".slick-header-columns")) node.setAttribute("aria-rowindex", "1");
    bar.offer(picked.current !== null);
    aria.sinks();
  }

  // A changed cell is tinted until it rests. A fading cell is painted in every frame: if many are tinted, the
  // tint of resting cells ends without a fade.
  /** @type {Map<HTMLElement, number>} */
  const tinted = new Map(); // with the time of each one's last change
  /** @type {WeakMap<Element, Animation>} */
  const fading = new WeakMap();
  /** @type {Timer} */
  let resting;
  function rest() {
    const many = tinted.size > FEW;
    const before = performance.now() - HOLD;
    for (const [node, at] of tinted) {
      if (at > before) continue;
      tinted.delete(node);
      node.classList.remove("nrt-changed");
      if (!many) fading.set(node, node.animate([{ backgroundColor: "var(--nrt-tint)", offset: 0 }], { duration: FADE, easing: "ease-out" }));
    }
    resting = tinted.size ? setTimeout(rest, 100) : undefined;
  }

  function flash(/** @type {[row: number, column: number][]} */ cells, still = false) {
    const calm = still || matchMedia("(prefers-reduced-motion: reduce)").matches;
    const at = performance.now();
    for (const [row, c] of cells) {
      const item = table.at(row);
      if (item && focus.editing?.row === row && focus.editing.cell === c) {
        edits.tellAt(row, c, `${table.head.columns[c].name} is now ${table.formats[c].text(item, c)}; yours replaces it if you save.`, 10);
        continue;
      }
      screen.grid.updateCell(row, c);
      const node = calm ? null : screen.grid.getCellNode(row, c);
      if (!node) continue;
      fading.get(node)?.cancel();
      node.classList.add("nrt-changed");
      tinted.set(node, at);
    }
    if (tinted.size) resting ??= setTimeout(rest, HOLD);
  }

  // ---- the window -----------------------------------------------------------------------------

  /** @type {{ rid: number, row: number } | null} */
  let anchor = null;
  let sorting = false; // the user wants to see the first rows of a new order: no row keeps its position
  let asked = 0;
  /** @type {Timer} */
  let asking;
  function ask() {
    if (asking) return;
    asking = setTimeout(() => {
      asking = undefined;
      asked = Date.now();
      if (!screen.drawn) return;
      const { grid } = screen;
      const { top, bottom } = grid.getViewport();
      // What must stay in place on the screen: the row with the focus if it is visible, else the top row.
      const shown = table.named(focus.active?.rid);
      const first = Math.max(0, grid.getVisibleRange ? grid.getVisibleRange().top : top);
      const stay = sorting ? null : shown && shown.at >= first && shown.at <= bottom ? shown : first > 0 ? table.at(first) : null;
      anchor = stay ? { rid: stay.rid, row: stay.at } : null;
      say({ t: "window", first: top, last: bottom + 1, anchor: anchor && [anchor.rid, anchor.row] });
    }, Math.max(0, 40 - (Date.now() - asked)));
  }

  function moveTo(/** @type {WindowMessage} */ content) {
    if (!anchor || content.anchor === undefined || content.anchor < 0 || content.anchor === anchor.row) return;
    const shift = content.anchor - anchor.row;
    anchor.row = content.anchor;
    for (const viewport of holder.querySelectorAll(".slick-viewport")) {
      if (viewport.scrollHeight > viewport.clientHeight) viewport.scrollTop += shift * ROW;
    }
  }

  // The focus after its row is deleted for good: the row that is now in its place.
  /** @returns {Active | null} */
  function nearest() {
    const cell = screen.grid.getActiveCell();
    const row = cell && table.at(Math.min(cell.row, table.total - 1));
    return cell && row ? { rid: row.rid, cell: cell.cell } : null;
  }

  // Moves the focus with its row: on the screen if the row is visible, else only in the state.
  function follow() {
    const { grid } = screen;
    const { active } = focus;
    if (!active || focus.editing) return;
    const row = table.named(active.rid);
    const now = grid.getActiveCell();
    const { top, bottom } = grid.getViewport();
    focus.with(() => {
      if (!row || row.at < top || row.at > bottom) {
        if (now && table.at(now.row)?.rid !== active.rid) grid.resetActiveCell();
      } else if (!now || now.row !== row.at) grid.setActiveCell(row.at, active.cell);
    });
  }

  // ---- messages from the kernel ----------------------------------------------------------------

  function around(/** @type {GridMessage | WindowMessage | CellsMessage} */ content) {
    bar.around(content);
    if (content.past !== undefined) slider.draw(content.past);
    if (content.sort) ordered(content.sort);
    if (content.totals && screen.drawn) total();
  }

  // Applies the order, whichever view requested it.
  function ordered(/** @type {Sort} */ by) {
    if (!screen.drawn) return;
    const shown = screen.grid.getSortColumns().map(({ columnId, sortAsc }) => [Number(String(columnId).slice(1)), sortAsc]);
    if (JSON.stringify(shown) !== JSON.stringify(by)) screen.grid.setSortColumns(by.map(([c, up]) => ({ columnId: `c${c}`, sortAsc: up })));
    aria.sorted(by);
  }

  function hold() {
    const on = focus.editing !== null;
    if (on !== held) say({ t: "hold", on });
    held = on;
  }

  // Makes a change for which SlickGrid closes an open editor, then reopens the editor at its row, with the
  // text typed so far. If that is not possible unnoticed, the change is postponed until the editor is closed:
  // returns false.
  function rearrange(/** @type {() => void} */ change) {
    const { grid } = screen;
    const { editing } = focus;
    const editor = /** @type {any} */ (grid.getCellEditor());
    if (!editing || !editor) {
      change();
      return true;
    }
    const row = table.named(editing.rid);
    const { top, bottom } = grid.getViewport();
    recounting = composing || !row || row.at < top || row.at > bottom;
    if (!row || recounting) return false;
    const root = /** @type {Document | ShadowRoot} */ (body.getRootNode());
    const here = body.contains(root.activeElement);
    moving = true;
    try {
      focus.with(() => {
        grid.getEditorLock().cancelCurrentEdit();
        change();
        grid.setActiveCell(row.at, editing.cell);
        grid.editActiveCell();
        /** @type {any} */ (grid.getCellEditor())?.resume(editor);
      });
    } finally {
      moving = false;
    }
    if (!here) /** @type {HTMLElement | null} */ (root.activeElement)?.blur();
    hold();
    return true;
  }

  // The number and positions of rows may have changed; then `draw`.
  function arrange(draw = () => {}) {
    const { grid } = screen;
    const { editing } = focus;
    const still = editing && counted === table.length && table.named(editing.rid)?.at === grid.getActiveCell()?.row;
    const all = () => {
      counted = table.length;
      grid.updateRowCount();
      fit(view);
      draw();
    };
    if (still || !rearrange(all)) draw();
  }

  // Does what was postponed while an editor was open.
  function caughtUp() {
    if (focus.editing || !screen.drawn) return;
    recounting = false;
    arrange(() => redraw(null));
    follow();
  }

  function whole(/** @type {GridMessage} */ content, /** @type {DataView} */ buffer) {
    const before = table.head.columns;
    const name = before[focus.active?.cell ?? -1]?.name;
    const same = table.whole(content, buffer) && screen.drawn;
    if (!same) draft.rename(before);
    bar.whole(content);
    if (!same) rebuild(name);
    around(content);
    if (same) arrange(() => redraw(null));
    if (screen.drawn) ask();
  }

  function moved(/** @type {WindowMessage} */ content, /** @type {DataView} */ buffer) {
    const { empty } = table;
    const { active } = focus;
    const deleted = table.named(active?.rid)?.gone;
    table.window(content, buffer);
    around(content);
    if (empty && table.total) { // the widths were unknown
      screen.grid.setColumns(/** @type {any[]} */ (columnsOf(view, edits)));
      aria.sorted();
    }
    focus.place(table);
    const next = deleted && !table.named(active?.rid) ? nearest() : focus.active;
    arrange(() => {
      focus.set(next);
      sorting = false;
      moveTo(content);
      if (content.selection) picked.follow(content.selection);
      redraw(null);
    });
    follow();
    follows();
    edits.explain();
  }

  function cells(/** @type {CellsMessage} */ content, /** @type {DataView} */ buffer) {
    const before = table.total;
    const { changed, touched, again } = table.cells(content, buffer);
    around(content);
    focus.place(table);
    if (table.total !== before) arrange(() => redraw(null));
    else if (again || touched.size || content.ranges) redraw(again || content.ranges ? null : touched);
    if (changed.length) follows();
    edits.explain();
    flash(changed, content.past !== undefined); // showing another moment is not a change
  }

  function receive(/** @type {GridMessage | WindowMessage | CellsMessage | ReplyMessage} */ content, /** @type {DataView[]} */ [buffer] = []) {
    if (content.t === "grid") whole(content, buffer);
    else if (!screen.drawn) return;
    else if (content.t === "reply") content.rid === 0 || content.kind === "inserted" ? draft.reply(content) : edits.reply(content, buffer);
    else if (content.t === "window") moved(content, buffer);
    else if (content.t === "cells") cells(content, buffer);
  }

  return {
    receive,
    close() {
      menu.close();
      slider.close();
      resized.disconnect();
      clearTimeout(resting);
      screen.clear();
    },
  };
}
