// The live grid: SlickGrid over a window of rows that the kernel keeps, sorts and filters.
import { h, setText, widget } from "./common.js";
import { cellNode, decodeColumn, decodeInts, isCut, makeFormat } from "./cell.js";
import { editorOf } from "./editors.js";
import { library, page } from "./library.js";

const ROW = 28;
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

export default widget((body, say, model) => {
  const title = h("span", { class: "nrt-word" });
  const count = h("span", { class: "nrt-soft" });
  const status = h("span", { class: "nrt-status" });
  const filter = h("input", {
    class: "nrt-filter", type: "search", placeholder: "Filter:  acme  price>10", "aria-label": "Filter rows",
    autocomplete: "off", spellcheck: "false",
  });
  const note = h("p", { class: "nrt-note", role: "status" });
  const holder = h("div", { class: "nrt-grid" });
  const live = h("span", { class: "nrt-hear", "aria-live": "polite" });
  const toast = h("p", { class: "nrt-toast", role: "alert" });
  body.append(h("div", { class: "nrt-tools" }, title, count, status, filter), note, holder, toast, live);
  note.hidden = toast.hidden = true;

  let grid = null;
  let lib = null;
  let head = null;
  let formats = [];
  let total = 0;
  let rows = new Map();
  let byRid = new Map();
  let anchor = null;
  let active = null; // {rid, cell}: who has the focus, wherever it stands
  let selection = null; // {runs: [[first, last]], from: [row, cell], left, right}
  let editing = null; // {rid, row, cell}
  let pop = null;
  const waiting = new Map(); // "rid:c" to what takes the whole text

  drag();
  const resized = new ResizeObserver(() => grid?.resizeCanvas());
  resized.observe(holder);
  const loading = library("slickgrid-5.20.2", model, say);
  loading.then((loaded) => (lib = loaded));

  const tell = (text, seconds = 6) => {
    setText(toast, text);
    toast.hidden = !text;
    clearTimeout(tell.timer);
    if (text) tell.timer = setTimeout(() => tell(""), seconds * 1000);
  };

  // ---- rows -----------------------------------------------------------------------------------

  function fill(content, buffer) {
    const rids = decodeInts(content.rids, buffer);
    const columns = content.cols.map((column) => decodeColumn(column, buffer));
    const kinds = content.cols.map((column) => column.kind);
    rows = new Map();
    byRid = new Map();
    for (let i = 0; i < rids.length; i++) {
      const row = {
        rid: rids[i], at: content.first + i, v: columns.map(([values]) => values[i]),
        f: columns.map(([, flags]) => flags[i]), k: kinds, m: null, gone: false,
      };
      rows.set(row.at, row);
      byRid.set(row.rid, row);
    }
    formats.forEach((format, c) => format.learn(columns[c][0]));
  }

  function frame(content) {
    if (content.total !== undefined) total = content.total;
    if (content.status !== undefined) {
      setText(status, content.status === "live" ? "" : content.status);
      status.dataset.status = content.status;
    }
    if (content.note !== undefined) {
      setText(note, content.note);
      note.hidden = !content.note;
    }
    if (content.total !== undefined) setText(count, `${total.toLocaleString()} row${total === 1 ? "" : "s"}`);
  }

  // Marks and gone rows are small lists of the whole window; returns the rows they touch.
  function marks(content, first) {
    const touched = new Set();
    if (content.marks) {
      for (const row of rows.values()) if (row.m) {
        touched.add(row.at);
        row.m = null;
      }
      for (const [i, c, kind, ...more] of content.marks) {
        const row = rows.get(first + i);
        if (!row) continue;
        (row.m ??= new Map()).set(c, kind === "conflict" ? { kind, base: more[0], mine: more[1], theirs: more[2] } : { kind, why: more[0] });
        touched.add(row.at);
      }
    }
    if (content.gone) {
      for (const row of rows.values()) row.gone = false;
      for (const i of content.gone) {
        const row = rows.get(first + i);
        if (row) row.gone = true;
        touched.add(first + i);
      }
    }
    return touched;
  }

  let windowFirst = 0;

  function redraw(which) {
    const { top, bottom } = grid.getRenderedRange();
    const drawn = [];
    for (let row = top; row <= bottom; row++) {
      if (which && !which.has(row)) continue;
      if (editing && editing.row === row) {
        for (let c = 0; c < head.columns.length; c++) if (c !== editing.cell) grid.updateCell(row, c);
      } else drawn.push(row);
    }
    grid.invalidateRows(drawn);
    grid.render();
    paint();
  }

  function patch(content, buffer) {
    const flashes = [];
    const touched = marks(content, windowFirst);
    let again = false;
    for (const column of content.cols) {
      const at = decodeInts(column.rows, buffer);
      const [values, flags] = decodeColumn(column, buffer);
      again = formats[column.c].learn(values) || again;
      for (let i = 0; i < at.length; i++) {
        const row = rows.get(windowFirst + at[i]);
        if (!row) continue;
        row.v[column.c] = values[i];
        row.f[column.c] = flags[i];
        if (row.k[column.c] !== column.kind) row.k = row.k.with(column.c, column.kind);
        if (row.m?.get(column.c)?.kind === "sending") row.m.delete(column.c);
        flashes.push([row.at, column.c]);
      }
    }
    if (again) touched.clear();
    if (again || touched.size) redraw(again ? null : touched);
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    const colour = body.parentElement.dataset.theme === "dark" ? "rgb(250 204 21 / 32%)" : "rgb(250 204 21 / 45%)";
    for (const [row, c] of flashes) {
      if (editing && editing.row === row && editing.cell === c) {
        tell(`${head.columns[c].name} is now ${formats[c].text(rows.get(row), c)}; yours replaces it if you save.`, 10);
        continue;
      }
      grid.updateCell(row, c);
      if (!calm) grid.getCellNode(row, c)?.animate([{ backgroundColor: colour }, { backgroundColor: "transparent" }], { duration: 900, easing: "ease-out" });
    }
  }

  // ---- the grid -------------------------------------------------------------------------------

  function columnsOf() {
    const { fontSize, fontFamily } = getComputedStyle(holder);
    const font = `${fontSize} ${fontFamily}`;
    return head.columns.map((column, c) => {
      const key = `${head.name}\u0000${column.name}`;
      const numeric = column.shape === "number" || column.shape === "integer";
      const samples = [...rows.values()].slice(0, 60).map((row) => formats[c].text(row, c));
      const values = {
        typed: (row) => formats[c].typed(row, c),
        cut: () => Boolean(editing && rows.get(editing.row) && isCut(rows.get(editing.row), c)),
        fetch: () => fetchText(editing.rid, c),
        place,
      };
      const node = h("button", { type: "button", class: "nrt-sort", tabindex: "0", text: column.name });
      return {
        id: `c${c}`, field: c, name: node, toolTip: `${column.name} (${column.type}${column.key ? ", key" : ""})`,
        width: page().widths[key] ?? widthOf(column, samples, font), minWidth: 48, sortable: true,
        cssClass: numeric ? "nrt-right" : "", headerCssClass: numeric ? "nrt-right" : "",
        headerCellAttrs: { "aria-colindex": c + 1 }, cellAttrs: { "aria-colindex": c + 1 },
        formatter: (_row, cell, _value, _column, row) => cellNode(formats[cell], head.columns[cell], row, cell),
        editor: column.editable ? editorOf(column, values) : null,
      };
    });
  }

  // As high as its rows need, up to what was asked for; it never shrinks, so that nothing below jumps.
  function fit() {
    const needs = Math.min(head.height, HEAD + Math.max(total, 4) * ROW);
    if (needs <= (parseFloat(holder.style.height) || 0)) return;
    holder.style.height = `${needs}px`;
    grid?.resizeCanvas();
  }

  function build() {
    fit();
    const keys = head.columns.findIndex((column) => !column.key);
    const shadow = holder.getRootNode();
    grid = new lib.SlickGrid(
      holder,
      { getLength: () => total, getItem: (i) => rows.get(i), getItemMetadata: (i) => (rows.get(i)?.gone ? { cssClasses: "nrt-gone" } : null) },
      columnsOf(),
      {
        rowHeight: ROW, enableColumnReorder: false, editable: true, autoEdit: false, enableCellNavigation: true,
        multiColumnSort: true, tristateMultiColumnSort: true, editorLock: new lib.SlickEditorLock(), frozenColumn: keys > 0 && keys < 3 ? keys - 1 : -1,
        editCommandHandler: commit, enableHtmlRendering: false, enableTextSelectionOnCells: false, emulatePagingWhenScrolling: false,
        shadowRoot: shadow instanceof ShadowRoot ? shadow : undefined, minRowBuffer: 6,
      },
    );
    holder.setAttribute("aria-label", `${head.name}, live table`);
    holder.setAttribute("aria-colcount", head.columns.length);
    holder.setAttribute("aria-multiselectable", "true");
    for (const node of holder.querySelectorAll(".slick-pane, .slick-viewport, .grid-canvas")) node.removeAttribute("tabindex");
    for (const node of holder.querySelectorAll(".slick-viewport")) {
      node.setAttribute("role", "rowgroup");
      node.setAttribute("tabindex", "0");
    }
    // The two places that hold the keyboard's focus are rows of one cell, which says the active one.
    for (const node of holder.querySelectorAll(':scope > [tabindex="0"]')) {
      node.setAttribute("role", "row");
      node.dataset.sink = "";
      node.append(h("span", { role: "gridcell", class: "nrt-hear", text: `${head.name}, use the arrow keys` }));
    }
    if (head.sort.length) grid.setSortColumns(head.sort.map(([c, up]) => ({ columnId: `c${c}`, sortAsc: up })));
    grid.onViewportChanged.subscribe(() => ask());
    grid.onRendered.subscribe(() => paint());
    grid.onColumnsResized.subscribe(() => {
      for (const column of grid.getColumns()) page().widths[`${head.name}\u0000${head.columns[column.field].name}`] = column.width;
    });
    grid.onSort.subscribe((_event, { sortCols }) => {
      const by = sortCols.map(({ sortCol, sortAsc }) => [sortCol.field, sortAsc]);
      say({ t: "sort", by });
      sortWords(by);
    });
    grid.onActiveCellChanged.subscribe((_event, { row, cell }) => {
      const item = rows.get(row);
      active = item ? { rid: item.rid, cell } : null;
      if (item && !grid.nrtMoving) select([[row, row]], cell, cell, [row, cell]);
      sinks();
    });
    grid.onBeforeEditCell.subscribe((_event, { row, cell }) => {
      const item = rows.get(row);
      if (!item || item.gone) return false;
      editing = { rid: item.rid, row, cell };
      say({ t: "hold", on: true });
      return true;
    });
    grid.onBeforeCellEditorDestroy.subscribe(() => {
      editing = null;
      say({ t: "hold", on: false });
      tell("");
    });
    grid.onValidationError.subscribe((_event, { validationResults }) => tell(validationResults.msg));
    grid.onKeyDown.subscribe(keys_);
    grid.onDblClick.subscribe((event, { row, cell }) => open(row, cell) && event.stopImmediatePropagation());
    grid.onClick.subscribe((event, { row, cell }) => {
      if (event.getNativeEvent?.().shiftKey && selection) {
        extend(row, cell);
        event.stopImmediatePropagation();
      } else if (rows.get(row)?.m?.get(cell)?.kind === "conflict") setTimeout(() => open(row, cell));
    });
    sortWords(head.sort);
    holder.dataset.drawn = "";
  }

  function sortWords(by) {
    for (const node of holder.querySelectorAll(".slick-header-column")) {
      const found = by.find(([c]) => `c${c}` === node.dataset.id);
      node.setAttribute("aria-sort", found ? (found[1] ? "ascending" : "descending") : "none");
    }
  }

  // What SlickGrid leaves to us on every drawn row: its number, the selection, the row that is gone.
  function paint() {
    holder.setAttribute("aria-rowcount", total + 1);
    for (const node of holder.querySelectorAll(".slick-row")) {
      const at = Number(node.dataset.row);
      node.setAttribute("aria-rowindex", at + 2);
      const inRows = selection?.runs.some(([first, last]) => at >= first && at <= last);
      for (const cell of node.children) {
        const c = Number(/ l(\d+)/.exec(cell.className)?.[1]);
        const inside = Boolean(inRows && c >= selection.left && c <= selection.right);
        cell.classList.toggle("nrt-selected", inside && !(selection.runs.length === 1 && selection.runs[0][0] === selection.runs[0][1] && selection.left === selection.right));
        cell.setAttribute("aria-selected", String(inside));
      }
    }
    for (const node of holder.querySelectorAll(".slick-header-columns")) node.setAttribute("aria-rowindex", 1);
    sinks();
  }

  function sinks() {
    const cell = grid.getActiveCell();
    const row = cell && rows.get(cell.row);
    if (!row) return;
    const text = `${head.columns[cell.cell].name}: ${formats[cell.cell].text(row, cell.cell)}, row ${cell.row + 1} of ${total}`;
    for (const node of holder.querySelectorAll("[data-sink] > span")) setText(node, text);
  }

  let asked = 0;
  let asking = null;
  function ask() {
    if (asking) return;
    asking = setTimeout(() => {
      asking = null;
      asked = Date.now();
      const { top, bottom } = grid.getViewport();
      // What must stay where it is on the screen: the row of the focus if it is seen, else the top row.
      const shown = active && byRid.get(active.rid);
      const first = Math.max(0, grid.getVisibleRange ? grid.getVisibleRange().top : top);
      const stay = shown && shown.at >= first && shown.at <= bottom ? shown : first > 0 ? rows.get(first) : null;
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

  // The focus goes with its row: moved if it is on the screen, kept in mind if it is not.
  function follow() {
    if (!active || editing) return;
    const row = byRid.get(active.rid);
    const now = grid.getActiveCell();
    const { top, bottom } = grid.getViewport();
    grid.nrtMoving = true;
    if (!row || row.at < top || row.at > bottom) {
      const kept = active;
      if (now && rows.get(now.row)?.rid !== active.rid) grid.resetActiveCell();
      active = kept;
    } else if (!now || now.row !== row.at) grid.setActiveCell(row.at, active.cell);
    grid.nrtMoving = false;
  }

  // ---- selection and the clipboard ------------------------------------------------------------

  function select(runs, left, right, from) {
    selection = runs.length ? { runs, left, right, from } : null;
    paint();
    clearTimeout(select.timer);
    select.timer = setTimeout(() => {
      const [first, last] = runs.length ? [runs[0][0], runs[runs.length - 1][1]] : [0, -1];
      say({ t: "select", rows: [first, last] });
    }, 60);
  }

  function extend(row, cell) {
    const [r, c] = selection.from;
    selection.to = [row, cell];
    const keep = selection.to;
    select([[Math.min(r, row), Math.max(r, row)]], Math.min(c, cell), Math.max(c, cell), [r, c]);
    selection.to = keep;
  }

  function drag() {
    let dragging = false;
    const find = (event) => grid?.getCellFromEvent(event);
    holder.addEventListener("pointerdown", (event) => {
      const cell = event.button === 0 && !event.shiftKey && !editing ? find(event) : null;
      dragging = Boolean(cell);
      if (cell) select([[cell.row, cell.row]], cell.cell, cell.cell, [cell.row, cell.cell]);
    });
    holder.addEventListener("pointerover", (event) => {
      const cell = dragging && event.buttons & 1 ? find(event) : null;
      if (cell && selection) extend(cell.row, cell.cell);
    });
    holder.addEventListener("pointerup", () => (dragging = false));
  }

  function copy() {
    if (!selection) return;
    const range = [selection.runs[0][0], selection.runs[selection.runs.length - 1][1], selection.left, selection.right];
    const text = new Promise((resolve) => waiting.set("copy", resolve));
    say({ t: "copy", range });
    const written = globalThis.ClipboardItem && navigator.clipboard?.write
      ? navigator.clipboard.write([new ClipboardItem({ "text/plain": text.then(({ text }) => new Blob([text], { type: "text/plain" })) })])
      : text.then(({ text }) => navigator.clipboard.writeText(text));
    Promise.all([text, written]).then(
      ([{ rows }]) => setText(live, `Copied ${rows} rows`),
      () => tell("The browser did not allow copying."),
    );
  }

  function keys_(event, { row, cell }) {
    const key = event.getNativeEvent?.() ?? event;
    const done = () => {
      event.stopImmediatePropagation();
      event.preventDefault();
    };
    if (editing) return;
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[key.key];
    if (step && key.shiftKey && selection) {
      const [r, c] = selection.to ?? selection.from;
      const next = [Math.min(Math.max(r + step[0], 0), total - 1), Math.min(Math.max(c + step[1], 0), head.columns.length - 1)];
      extend(...next);
      grid.scrollRowIntoView(next[0]);
      done();
    } else if ((key.ctrlKey || key.metaKey) && key.key.toLowerCase() === "c") {
      copy();
      done();
    } else if ((key.ctrlKey || key.metaKey) && key.key.toLowerCase() === "a") {
      select([[0, total - 1]], 0, head.columns.length - 1, [0, 0]);
      done();
    } else if (key.key === "Enter" || key.key === "F2") {
      if (open(row, cell)) done();
      else if (key.key === "F2") {
        grid.editActiveCell();
        done();
      }
    } else if (key.key === "Delete" && head.columns[cell].editable && head.columns[cell].nullable) {
      send(rows.get(row), cell, null);
      done();
    } else if (key.key.length === 1 && !key.ctrlKey && !key.metaKey && !key.altKey && key.key !== " " && head.columns[cell].editable && !open.would(row, cell)) {
      grid.editActiveCell();
      const input = grid.getCellEditor()?.input;
      if (input && "value" in input && input.tagName !== "SELECT" && ["text", "textarea"].includes(input.type)) {
        input.value = key.key;
        done();
      }
    }
  }

  // ---- edits ----------------------------------------------------------------------------------

  function commit(item, column, command) {
    send(item, column.field, command.serializedValue);
  }

  function send(row, c, value) {
    const mark = { kind: "sending", text: value === null ? "null" : value };
    (row.m ??= new Map()).set(c, mark);
    grid.updateCell(row.at, c);
    say({ t: "edit", rid: row.rid, c, value });
    setTimeout(() => {
      const now = byRid.get(row.rid);
      if (now?.m?.get(c) !== mark) return;
      now.m.delete(c);
      grid.updateCell(now.at, c);
    }, 4000);
  }

  function fetchText(rid, c) {
    return new Promise((resolve) => {
      waiting.set(`${rid}:${c}`, ({ text }) => resolve(text));
      say({ t: "text", rid, c });
    });
  }

  function reply(content) {
    const row = byRid.get(content.rid);
    if (content.kind === "refused") {
      if (row) {
        row.m?.delete(content.c);
        grid.updateCell(row.at, content.c);
      }
      tell(content.why, 10);
      return;
    }
    const key = content.kind === "copy" ? "copy" : `${content.rid}:${content.c}`;
    waiting.get(key)?.(content);
    waiting.delete(key);
  }

  // Puts a panel beside a cell; returns what removes it.
  function place(node, cell) {
    pop?.();
    const box = body.getBoundingClientRect();
    const at = cell.getBoundingClientRect();
    body.append(node);
    node.style.left = `${Math.max(0, Math.min(at.left - box.left, box.width - 340))}px`;
    node.style.top = `${at.bottom - box.top + 3}px`;
    const close = () => {
      node.remove();
      if (pop === close) pop = null;
    };
    return (pop = close);
  }

  // The chooser of a conflict, or the reader of a long text: true if the cell has one.
  open.would = (row, cell) => rows.get(row)?.m?.get(cell)?.kind === "conflict";
  function open(row, cell) {
    const item = rows.get(row);
    const node = grid.getCellNode(row, cell);
    if (!item || !node) return false;
    const column = head.columns[cell];
    const mark = item.m?.get(cell);
    const leave = () => {
      close();
      grid.focus();
    };
    const panel = (label, ...children) => {
      const made = h("div", { class: "nrt-pop", role: "dialog", "aria-label": label, tabindex: "-1" }, ...children);
      made.addEventListener("keydown", (event) => {
        event.stopPropagation();
        if (event.key === "Escape") leave();
      });
      return made;
    };
    let close;
    if (mark?.kind === "conflict") {
      const choose = (choice) => () => {
        say({ t: "resolve", rid: item.rid, c: cell, choice });
        leave();
      };
      const mine = h("button", { type: "button", class: "nrt-choice", onclick: choose("mine") }, h("b", { text: "Keep mine" }), h("span", { text: mark.mine }));
      const theirs = h("button", { type: "button", class: "nrt-choice", onclick: choose("theirs") }, h("b", { text: "Take theirs" }), h("span", { text: mark.theirs }));
      close = place(panel(`Conflict in ${column.name}`, h("p", { class: "nrt-soft", text: `Both of you changed ${column.name}. It was: ${mark.base}` }), h("div", { class: "nrt-choices" }, mine, theirs)), node);
      mine.focus();
      return true;
    }
    if (column.editable || !["text", "json"].includes(column.shape)) return false;
    const pre = h("pre", { class: "nrt-full", text: formats[cell].text(item, cell), tabindex: "0" });
    close = place(panel(column.name, pre, h("div", { class: "nrt-acts" }, h("button", { type: "button", class: "nrt-button", text: "Close", onclick: leave }))), node);
    pre.focus();
    const show = (text) => {
      try {
        setText(pre, column.shape === "json" ? JSON.stringify(JSON.parse(text), null, 2) : text);
      } catch {
        setText(pre, text);
      }
    };
    if (isCut(item, cell)) fetchText(item.rid, cell).then(show);
    else show(formats[cell].text(item, cell));
    return true;
  }

  let typing = null;
  filter.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => say({ t: "filter", text: filter.value }), 180);
  });
  filter.addEventListener("keydown", (event) => event.stopPropagation());

  // ---- messages -------------------------------------------------------------------------------

  function receive(content, buffers) {
    if (!lib) {
      loading.then(() => receive(content, buffers));
      return;
    }
    const buffer = buffers?.[0];
    if (content.t === "reply") {
      if (grid) reply(content);
      return;
    }
    if (content.t === "grid") {
      const same = grid && JSON.stringify(head.columns) === JSON.stringify(content.columns);
      if (!same) formats = content.columns.map(makeFormat);
      head = content;
      setText(title, content.name);
      if (document.activeElement !== filter) filter.value = content.filter;
      fill(content, buffer);
      windowFirst = content.first;
      frame(content);
      marks(content, windowFirst);
      if (grid && !same) {
        grid.destroy();
        holder.replaceChildren();
        grid = null;
      }
      if (!head.columns.length) return;
      if (!grid) build();
      else {
        grid.updateRowCount();
        redraw(null);
      }
      ask();
      return;
    }
    if (!grid) return;
    if (content.t === "window") {
      frame(content);
      fill(content, buffer);
      windowFirst = content.first;
      marks(content, windowFirst);
      if (editing) editing.row = byRid.get(editing.rid)?.at ?? editing.row;
      grid.updateRowCount();
      fit();
      moveTo(content);
      if (content.selection) selection = content.selection.length && selection ? { ...selection, runs: content.selection } : null;
      redraw(null);
      follow();
    } else if (content.t === "cells") {
      const before = total;
      frame(content);
      if (total !== before) {
        grid.updateRowCount();
        fit();
      }
      patch(content, buffer);
    }
    if (filter.value && content.total !== undefined) setText(live, `${total} rows match`);
  }

  return {
    receive,
    close() {
      resized.disconnect();
      grid?.destroy();
    },
  };
});
