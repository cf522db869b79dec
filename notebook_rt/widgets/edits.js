// What is written: a cell on its way, what the kernel answers, and the panels beside a cell (the chooser of a
// conflict, the reader of a long text, the word that says why not).
import { isCut } from "./cell.js";
import { h, setText } from "./common.js";

export function editing(view) {
  let panel = null;
  let word = null;

  function send(row, c, value) {
    const mark = { kind: "sending", text: value === null ? "null" : value };
    (row.m ??= new Map()).set(c, mark);
    view.grid.updateCell(row.at, c);
    view.say({ t: "edit", rid: row.rid, c, value });
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
      if (row) {
        row.m?.delete(content.c);
        view.grid.updateCell(row.at, content.c);
      }
      tellAt(row?.at, content.c, content.why);
      return;
    }
    const key = content.kind === "copy" ? "copy" : `${content.rid}:${content.c}`;
    view.waiting.get(key)?.(content);
    view.waiting.delete(key);
  }

  // Puts `node` below a cell, or above where there is more room; returns what removes it.
  function beside(node, cell) {
    const box = view.body.getBoundingClientRect();
    const at = cell.getBoundingClientRect();
    view.body.append(node);
    const size = node.getBoundingClientRect();
    const below = box.bottom - at.bottom;
    node.style.left = `${Math.max(0, Math.min(at.left - box.left, box.width - size.width))}px`;
    if (below >= size.height + 3 || below >= at.top - box.top) node.style.top = `${at.bottom - box.top + 3}px`;
    else node.style.top = `${Math.max(0, at.top - box.top - size.height - 3)}px`;
    return () => node.remove();
  }

  // A panel, one at a time.
  function place(node, cell) {
    panel?.();
    const remove = beside(node, cell);
    const close = () => {
      remove();
      if (panel === close) panel = null;
    };
    return (panel = close);
  }

  // A sentence at the cell that it is about; below the grid if that is not on the screen.
  function tellAt(row, cell, text, seconds = 8) {
    quiet();
    const node = row === undefined ? null : view.grid.getCellNode(row, cell);
    if (!node) {
      view.tell(text, seconds);
      return;
    }
    const remove = beside(h("p", { class: "nrt-why-not", role: "alert", text }), node);
    const timer = setTimeout(() => quiet(), seconds * 1000);
    word = () => {
      clearTimeout(timer);
      remove();
    };
  }

  function quiet() {
    word?.();
    word = null;
    view.tell("");
  }

  const conflicting = (row, cell) => view.rows.at.get(row)?.m?.get(cell)?.kind === "conflict";

  // Opens the chooser of a conflict, or the reader of a long text: true if the cell has one.
  function open(row, cell) {
    const item = view.rows.at.get(row);
    const node = view.grid.getCellNode(row, cell);
    if (!item || !node) return false;
    const column = view.head.columns[cell];
    const mark = item.m?.get(cell);
    let close;
    const leave = () => {
      close();
      view.grid.focus();
    };
    const dialog = (label, ...children) => {
      const made = h("div", { class: "nrt-pop", role: "dialog", "aria-label": label, tabindex: "-1" }, ...children);
      made.addEventListener("keydown", (event) => {
        event.stopPropagation();
        if (event.key === "Escape") leave();
      });
      return made;
    };
    if (mark?.kind === "conflict") {
      const choice = (choice, label, text) => h(
        "button",
        {
          type: "button", class: "nrt-choice", onclick() {
            view.say({ t: "resolve", rid: item.rid, c: cell, choice });
            leave();
          },
        },
        h("b", { text: label }), h("span", { text }),
      );
      const mine = choice("mine", "Keep mine", mark.mine);
      close = place(
        dialog(
          `Conflict in ${column.name}`,
          h("p", { class: "nrt-soft", text: `Both of you changed ${column.name}. It was: ${mark.base}` }),
          h("div", { class: "nrt-choices" }, mine, choice("theirs", "Take theirs", mark.theirs)),
        ),
        node,
      );
      mine.focus();
      return true;
    }
    if (column.editable || !["text", "json"].includes(column.shape)) return false;
    const format = view.formats[cell];
    const pre = h("pre", { class: "nrt-full", text: format.text(item, cell), tabindex: "0" });
    close = place(dialog(column.name, pre, h("div", { class: "nrt-acts" }, h("button", { type: "button", class: "nrt-button", text: "Close", onclick: leave }))), node);
    pre.focus();
    const show = (text) => {
      try {
        setText(pre, column.shape === "json" ? JSON.stringify(JSON.parse(text), null, 2) : text);
      } catch {
        setText(pre, text);
      }
    };
    if (isCut(item, cell)) fetchText(item.rid, cell).then(show);
    else show(format.text(item, cell));
    return true;
  }

  return { send, fetchText, reply, place, tellAt, quiet, conflicting, open };
}
