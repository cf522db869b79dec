// Edits: a cell being sent, the kernel's replies, and the panels at a cell (the chooser of a conflict, the
// reader of a long text, the message of a refusal).
import { indented } from "./cell.js";
import { ROW_MARK, isCut } from "./decode.js";
import { chooser } from "./chooser.js";
import { h, setText } from "./common.js";

/** @import { Mark, Row, View } from "./grid.js" */
/** @import { ReplyMessage } from "./protocol.js" */
/** @typedef {() => HTMLElement | null | undefined} Find gives a cell: SlickGrid may draw it anew */

export function editing(/** @type {View} */ view) {
  const { answers, focus, screen, table } = view;
  /** @type {(() => void) | null} */
  let panel = null;
  /** @type {(() => void) | null} */
  let word = null;

  // `was` is the initial text of the editor, on which the edit is based.
  /** @param {Row} row @param {number} c @param {string | null} value @param {string | null} [was] */
  function send(row, c, value, was) {
    /** @type {Mark} */
    const mark = { kind: "sending", text: value === null ? "null" : value };
    (row.m ??= new Map()).set(c, mark);
    screen.grid.updateCell(row.at, c);
    view.say({ t: "edit", rid: row.rid, c, value, was });
    setTimeout(() => {
      const now = table.named(row.rid);
      if (!now?.m || now.m.get(c) !== mark) return;
      now.m.delete(c);
      screen.grid.updateCell(now.at, c);
    }, 4000);
  }

  function reply(/** @type {ReplyMessage} */ content, /** @type {DataView | undefined} */ buffer) {
    const row = table.named(content.rid);
    if (content.kind === "refused") {
      const { c = focus.active?.cell ?? 0 } = content;
      if (row?.m?.get(c)?.kind === "sending") {
        row.m.delete(c);
        screen.grid.updateCell(row.at, c);
      }
      tellAt(row?.at, c, content.why);
      return;
    }
    if (content.kind === "said") {
      view.hear(content.text, content.undo ?? 0);
      return;
    }
    answers.settle(content, buffer);
  }

  // Puts `node` below a cell, or above it if there is more room, over the rest of the page (no scroll area
  // cuts it), and keeps it there; returns a function that removes it.
  function beside(/** @type {HTMLElement} */ node, /** @type {Find} */ find) {
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
    const resized = new ResizeObserver(follow);
    resized.observe(node);
    return () => {
      removeEventListener("scroll", follow, true);
      removeEventListener("resize", follow);
      resized.disconnect();
      node.remove();
    };
  }

  // Shows a panel; only one at a time.
  function place(/** @type {HTMLElement} */ node, /** @type {Find} */ find) {
    panel?.();
    const remove = beside(node, find);
    const close = () => {
      remove();
      if (panel === close) panel = null;
    };
    return (panel = close);
  }

  const nodeOf = (/** @type {number | undefined} */ rid, /** @type {number} */ cell) => () => {
    const row = table.named(rid);
    return row && screen.drawn ? screen.grid.getCellNode(row.at, cell) : null;
  };

  // Shows a sentence at the cell that it is about; below the grid if that is not on the screen.
  function tellAt(/** @type {number | undefined} */ row, /** @type {number} */ cell, /** @type {string} */ text, seconds = 8) {
    hush();
    const find = nodeOf(table.at(row)?.rid, cell);
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

  // Shows once why the value in the focused cell was refused.
  let explained = "";
  function explain() {
    const { active } = focus;
    const row = table.named(active?.rid);
    const mark = active && row?.m?.get(active.cell);
    const why = mark?.kind === "failed" ? mark.why ?? "" : null;
    const about = why === null ? "" : `${active?.rid}:${active?.cell}:${why}`;
    if (about === explained || focus.editing) return;
    if (active && why !== null) tellAt(row?.at, active.cell, why);
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

  // The conflict of a cell, or of its whole row.
  function disputed(/** @type {Row | undefined} */ item, /** @type {number} */ cell) {
    const mark = item?.m?.get(ROW_MARK) ?? item?.m?.get(cell);
    return mark?.kind === "conflict" ? mark : null;
  }

  const conflicting = (/** @type {number} */ row, /** @type {number} */ cell) => disputed(table.at(row), cell) !== null;

  // Dialogs at a cell: Escape and a press elsewhere close them.
  function panelAt(/** @type {number} */ rid, /** @type {number} */ cell) {
    const find = nodeOf(rid, cell);
    let close = () => {};
    const leave = () => {
      close();
      screen.grid.focus();
    };
    const show = (/** @type {HTMLElement} */ node) => {
      const away = (/** @type {Event} */ event) => !event.composedPath().includes(node) && close();
      const remove = place(node, find);
      addEventListener("pointerdown", away, true);
      close = () => {
        removeEventListener("pointerdown", away, true);
        remove();
      };
    };
    const dialog = (/** @type {string} */ label, /** @type {(Node | null)[]} */ ...children) => {
      const made = h("div", { class: "nrt-pop", role: "dialog", "aria-label": label, tabindex: "-1" }, ...children);
      made.addEventListener("keydown", (event) => {
        event.stopPropagation();
        if (event.key === "Escape") leave();
      });
      return made;
    };
    return { dialog, leave, show };
  }

  // Opens the chooser of a conflict, or the reader of a long text; returns true if the cell has one.
  function open(/** @type {number} */ row, /** @type {number} */ cell) {
    const item = table.at(row);
    if (!item) return false;
    const column = table.head.columns[cell];
    const mark = disputed(item, cell);
    const { dialog, leave, show } = panelAt(item.rid, cell);
    if (mark) {
      const [label, ...parts] = chooser(mark, column, item, (choice, c) => {
        view.say({ t: "resolve", rid: item.rid, ...(c === undefined ? {} : { c }), choice });
        leave();
      });
      const made = dialog(label, ...parts);
      show(made);
      /** @type {HTMLElement | null} */ (made.querySelector(".nrt-choice"))?.focus();
      return true;
    }
    if (column.editable || !["text", "json"].includes(column.shape)) return false;
    const format = table.formats[cell];
    const pre = h("pre", { class: "nrt-full", text: format.text(item, cell), tabindex: "0" });
    show(dialog(column.name, pre, h("div", { class: "nrt-acts" }, h("button", { type: "button", class: "nrt-button", text: "Close", onclick: leave }))));
    pre.focus();
    const fill = (/** @type {string} */ text) => setText(pre, column.shape === "json" ? indented(text) : text);
    if (isCut(item, cell)) answers.text(item.rid, cell).then(fill);
    else fill(format.text(item, cell));
    return true;
  }

  return { send, reply, place, panelAt, tellAt, explain, quiet, conflicting, open };
}
