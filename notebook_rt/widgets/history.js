// The history of a cell or a row: the panel of two items of the grid's menu.
import { makeFormat } from "./cell.js";
import { decodeColumn } from "./decode.js";
import { h } from "./common.js";
import { lostText, momentText } from "./past.js";

/** @import { editing } from "./edits.js" */
/** @import { Row, View } from "./grid.js" */
/** @import { HistoryReply, Happened } from "./protocol.js" */

// The words for a step of a row that shows no value.
const WORDS = { snapshot: "there when the recording began", insert: "row added", update: "", delete: "row deleted", gap: "" };

// The texts of the values, by column and position.
/** @returns {(column: number, place: number | null) => string} */
export function textsOf(/** @type {HistoryReply} */ { cols = [] }, /** @type {DataView | undefined} */ buffer) {
  const columns = cols.map((column) => {
    const [v, f] = buffer ? decodeColumn(column, buffer) : [[], []];
    const format = makeFormat(column);
    format.learn(v);
    const k = Array.from(v, () => column.kind);
    return (/** @type {number} */ place) => format.text(/** @type {any} */ ({ v, f, k }), place);
  });
  return (column, place) => (place === null ? "" : columns[column](place));
}

/** @param {View} view @param {ReturnType<typeof editing>} edits */
export function histories(view, edits) {
  const { answers, table } = view;

  // The row's key, as the grid shows it.
  function named(/** @type {Row} */ item) {
    const keys = table.head.columns.flatMap((column, c) => (column.key ? [`${column.name} ${table.formats[c].text(item, c)}`] : []));
    return keys.length ? keys.join(", ") : `row ${item.at + 1}`;
  }

  function line(/** @type {Happened} */ step, /** @type {HistoryReply} */ reply, /** @type {ReturnType<typeof textsOf>} */ text, /** @type {boolean} */ ofCell) {
    const now = Date.now() * 1000;
    if (step.kind === "gap") {
      return h("li", { class: "nrt-step nrt-step-gap" }, h("span", { text: `Changes may be missing, ${lostText([step.at, step.until ?? null, step.why ?? ""], now)}` }));
    }
    const { cells = [], more = 0 } = step;
    const when = h("time", { datetime: new Date(step.at / 1000).toISOString(), title: step.heard ? "When it was committed" : "When it was read: it was changed before", text: momentText(step.at, now, true) });
    const words = [WORDS[step.kind], step.heard ? "" : "read then, changed before", step.who ? `by ${step.who}` : ""].filter(Boolean).join(", ");
    const said = h("span", { class: "nrt-soft", dir: "auto", text: words });
    if (ofCell) {
      const value = cells.length && cells[0][2] !== null ? h("ins", { dir: "auto", text: text(cells[0][0], cells[0][2]) }) : null;
      return h("li", { class: "nrt-step" }, when, h("span", { class: "nrt-step-what" }, value, said));
    }
    const changes = cells.map(([column, old, fresh]) => h(
      "span", { class: "nrt-step-cell" }, h("span", { class: "nrt-soft", text: reply.cols?.[column].name }),
      old === null ? null : h("del", { dir: "auto", text: text(column, old) }), old === null ? null : h("span", { "aria-label": "became", text: "→" }), h("ins", { dir: "auto", text: text(column, fresh) }),
    ));
    return h("li", { class: "nrt-step" }, when, h("span", { class: "nrt-step-what" }, ...changes, more ? h("span", { class: "nrt-soft", text: `and ${more} more column${more === 1 ? "" : "s"}` }) : null, said));
  }

  function drawn(/** @type {HistoryReply} */ reply, /** @type {DataView | undefined} */ buffer, /** @type {boolean} */ ofCell) {
    if (reply.why !== undefined) {
      const [why, code] = reply.why.split("\n");
      return [h("p", { text: why }), code ? h("pre", { class: "nrt-full", text: code, tabindex: "0" }) : null];
    }
    const { steps = [], earlier = 0, began = 0 } = reply;
    const text = textsOf(reply, buffer);
    const since = momentText(began, Date.now() * 1000);
    return [
      steps.length ? h("ol", { class: "nrt-steps", tabindex: "0" }, ...steps.map((step) => line(step, reply, text, ofCell))) : h("p", { class: "nrt-soft", text: "Nothing happened to it since the recording began." }),
      h("p", { class: "nrt-soft nrt-step-foot", text: `${earlier ? `… and ${earlier.toLocaleString()} earlier. ` : ""}Recorded since ${since}.` }),
    ];
  }

  // Opens at a cell, with the history of its row, or only of the cell.
  return async function open(/** @type {Row} */ item, /** @type {number} */ cell, /** @type {boolean} */ ofCell) {
    const { dialog, leave, show } = edits.panelAt(item.rid, cell);
    const title = ofCell ? `${table.head.columns[cell].name}, ${named(item)}` : named(item);
    const close = h("div", { class: "nrt-acts" }, h("button", { type: "button", class: "nrt-button", text: "Close", onclick: leave }));
    const content = h("div", {}, h("p", { class: "nrt-soft", text: "Reading…" }));
    const made = dialog(`History of ${title}`, h("p", { class: "nrt-word", dir: "auto", text: `History of ${title}` }), content, close);
    made.classList.add("nrt-pop-history");
    show(made);
    made.focus();
    const { buffer, ...reply } = await answers.history(item.rid, ofCell ? cell : undefined);
    if (!made.isConnected) return;
    content.replaceChildren(...drawn(reply, buffer, ofCell).filter((node) => node !== null));
    if (made.contains(/** @type {Document | ShadowRoot} */ (made.getRootNode()).activeElement)) /** @type {HTMLElement} */ (made.querySelector("ol, pre, button")).focus();
  };
}
