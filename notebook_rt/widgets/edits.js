// What is written: a cell on its way, what the kernel answers, and the panels beside a cell (the chooser of a
// conflict, the reader of a long text, the word that says why not).
import { ROW_MARK, indented, isCut } from "./cell.js";
import { chooser } from "./chooser.js";
import { h, setText } from "./common.js";

export function editing(view) {
  let panel = null;
  let word = null;

  // `was` is the text that the editor began with: what the edit is based on.
  function send(row, c, value, was) {
    const mark = { kind: "sending", text: value === null ? "null" : value };
    (row.m ??= new Map()).set(c, mark);
    view.grid.updateCell(row.at, c);
    view.say({ t: "edit", rid: row.rid, c, value, was });
    setTimeout(() => {
      const now = view.rows.named.get(row.rid);
      if (now?.m?.get(c) !== mark) return;
      now.m.delete(c);
      view.grid.updateCell(now.at, c);
    }, 4000);
  }

  function fetchText(rid, c) {
    return new Promise((resolve) => {
      view.waiting.set(`${rid}:${c}`, ({ text }) => resolve(text));
      view.say({ t: "text", rid, c });
    });
  }

  function reply(content) {
    const row = view.rows.named.get(content.rid);
    if (content.kind === "refused") {
      if (row?.m?.get(content.c)?.kind === "sending") {
        row.m.delete(content.c);
        view.grid.updateCell(row.at, content.c);
      }
      tellAt(row?.at, content.c ?? view.active?.cell ?? 0, content.why);
      return;
    }
    if (content.kind === "said") {
      view.bar.hear(content.text, content.undo);
      return;
    }
    const key = content.kind === "copy" ? "copy" : `${content.rid}:${content.c}`;
    view.waiting.get(key)?.(content);
    view.waiting.delete(key);
  }

  // Puts `node` below a cell, or above where there is more room, over everything else of the page (no
  // scroll area cuts it), and keeps it there; returns what removes it.
  function beside(node, find) {
    node.popover = "manual";
    view.body.append(node);
    node.showPopover?.();
    const follow = () => {
      const at = find()?.getBoundingClientRect();
      if (!at?.width) return;
      const seen = view.holder.getBoundingClientRect();
      node.style.visibility = at.top > seen.bottom || at.bottom < seen.top ? "hidden" : "";
      const { width, height } = node.getBoundingClientRect();
      const room = innerHeight - at.bottom;
      const right = Math.min(innerWidth - 4, Math.max(seen.right, seen.left + width));
      const zoom = node.currentCSSZoom ?? 1;
      node.style.left = `${Math.max(4, Math.min(at.left, right - width)) / zoom}px`;
      node.style.top = `${(room >= height + 6 || room >= at.top ? at.bottom + 3 : at.top - height - 3) / zoom}px`;
    };
    follow();
    addEventListener("scroll", follow, true);
    addEventListener("resize", follow);
    return () => {
      removeEventListener("scroll", follow, true);
      removeEventListener("resize", follow);
      node.remove();
    };
  }

  // A panel, one at a time. `find` gives its cell: SlickGrid may draw it anew.
  function place(node, find) {
    panel?.();
    const remove = beside(node, find);
    const close = () => {
      remove();
      if (panel === close) panel = null;
    };
    return (panel = close);
  }

  const nodeOf = (rid, cell) => () => {
    const row = view.rows.named.get(rid);
    return row && view.grid.getCellNode(row.at, cell);
  };

  // A sentence at the cell that it is about; below the grid if that is not on the screen.
  function tellAt(row, cell, text, seconds = 8) {
    hush();
    const find = nodeOf(view.rows.at.get(row)?.rid, cell);
    if (!find()) {
      view.tell(text, seconds);
      return;
    }
    const remove = beside(h("p", { class: "nrt-why-not", role: "alert", text }), find);
    const timer = setTimeout(hush, seconds * 1000);
    word = () => {
      clearTimeout(timer);
      remove();
    };
  }

  // Why what is in the cell of the focus was refused, once.
  let explained = "";
  function explain() {
    const row = view.rows.named.get(view.active?.rid);
    const mark = row?.m?.get(view.active.cell);
    const about = mark?.kind === "failed" ? `${row.rid}:${view.active.cell}:${mark.why}` : "";
    if (about === explained || view.editing) return;
    if (about) tellAt(row.at, view.active.cell, mark.why);
    else hush();
    explained = about;
  }

  function hush() {
    word?.();
    word = null;
    view.tell("");
  }

  function quiet() {
    hush();
    explained = "";
  }

  // What is to be decided in a cell, or about its whole row.
  function disputed(item, cell) {
    const mark = item?.m?.get(ROW_MARK) ?? item?.m?.get(cell);
    return mark?.kind === "conflict" ? mark : null;
  }

  const conflicting = (row, cell) => disputed(view.rows.at.get(row), cell) !== null;

  // Opens the chooser of a conflict, or the reader of a long text: true if the cell has one.
  function open(row, cell) {
    const item = view.rows.at.get(row);
    if (!item) return false;
    const find = nodeOf(item.rid, cell);
    const column = view.head.columns[cell];
    const mark = disputed(item, cell);
    const leave = () => {
      close();
      view.grid.focus();
    };
    const show = (node) => {
      const away = (event) => !event.composedPath().includes(node) && close();
      const remove = place(node, find);
      addEventListener("pointerdown", away, true);
      close = () => {
        removeEventListener("pointerdown", away, true);
        remove();
      };
    };
    let close;
    const dialog = (label, ...children) => {
      const made = h("div", { class: "nrt-pop", role: "dialog", "aria-label": label, tabindex: "-1" }, ...children);
      made.addEventListener("keydown", (event) => {
        event.stopPropagation();
        if (event.key === "Escape") leave();
      });
      return made;
    };
    if (mark) {
      const [label, ...parts] = chooser(mark, column, item, (choice, c) => {
        view.say({ t: "resolve", rid: item.rid, ...(c === undefined ? {} : { c }), choice });
        leave();
      });
      const made = dialog(label, ...parts);
      show(made);
      made.querySelector(".nrt-choice").focus();
      return true;
    }
    if (column.editable || !["text", "json"].includes(column.shape)) return false;
    const format = view.formats[cell];
    const pre = h("pre", { class: "nrt-full", text: format.text(item, cell), tabindex: "0" });
    show(dialog(column.name, pre, h("div", { class: "nrt-acts" }, h("button", { type: "button", class: "nrt-button", text: "Close", onclick: leave }))));
    pre.focus();
    const fill = (text) => setText(pre, column.shape === "json" ? indented(text) : text);
    if (isCut(item, cell)) fetchText(item.rid, cell).then(fill);
    else fill(format.text(item, cell));
    return true;
  }

  return { send, fetchText, reply, place, tellAt, explain, quiet, conflicting, open };
}
