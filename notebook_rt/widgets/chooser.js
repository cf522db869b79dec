// The choice for a person when two people have changed the same thing: a cell, or a row that one of them
// deleted.
import { h } from "./common.js";

/** @import { Mark, Row } from "./grid.js" */
/** @import { Choice, Column } from "./protocol.js" */
/** @typedef {(choice: Choice, c?: number) => void} Decide */

const pick = (/** @type {string} */ label, /** @type {string | undefined} */ text, /** @type {() => void} */ onclick) =>
  h("button", { type: "button", class: "nrt-choice", onclick }, h("b", { text: label }), h("span", { text }));

const choices = (/** @type {HTMLElement[]} */ ...buttons) => h("div", { class: "nrt-choices" }, ...buttons);

// The columns that were changed in the row by the side that did not delete it.
function changes(/** @type {Mark} */ { told = [], more }) {
  const lines = told.map(([name, before, now]) => [
    h("dt", { text: name }),
    h("dd", {}, h("del", { text: before }), h("span", { "aria-hidden": "true", text: " → " }), h("ins", { text: now })),
  ]);
  return [
    h("dl", { class: "nrt-changes", tabindex: "0", "aria-label": "What was changed" }, ...lines.flat()),
    more ? h("p", { class: "nrt-soft", text: `and ${more} more column${more === 1 ? "" : "s"}` }) : null,
  ];
}

/** @returns {[string, ...(Node | null)[]]} */
function aboutRow(/** @type {Mark} */ mark, /** @type {Decide} */ decide) {
  const mine = mark.deleted === "mine";
  return [
    "Conflict about this row",
    h("p", { class: "nrt-soft", text: mine ? "You deleted this row. Meanwhile somebody else has changed it:" : "Somebody else deleted this row. You have changed it:" }),
    ...changes(mark),
    choices(
      pick(mine ? "Delete it" : "Bring it back", mine ? "Their change is lost" : "With your change", () => decide("mine")),
      pick(mine ? "Keep it" : "Leave it deleted", mine ? "With their change" : "Your change is lost", () => decide("theirs")),
    ),
  ];
}

// The name of the dialog and its content. Calls `decide(choice, c)`; without `c` for the whole row.
/** @returns {[label: string, ...children: (Node | null)[]]} */
export function chooser(/** @type {Mark} */ mark, /** @type {Column} */ column, /** @type {Row} */ row, /** @type {Decide} */ decide) {
  if (mark.deleted) return aboutRow(mark, decide);
  const marks = [...(row.m ?? [])];
  const c = marks.find(([, one]) => one === mark)?.[0];
  const open = marks.filter(([, { kind }]) => kind === "conflict").length;
  const all = (/** @type {Choice} */ choice, /** @type {string} */ text) => h("button", { type: "button", class: "nrt-button", text, onclick: () => decide(choice) });
  return [
    `Conflict in ${column.name}`,
    h("p", { class: "nrt-soft", text: mark.lost
      ? `No answer came when ${column.name} was sent: yours may be in already. It was: ${mark.base}`
      : `Both of you changed ${column.name}. It was: ${mark.base}` }),
    choices(pick("Keep mine", mark.mine, () => decide("mine", c)), pick("Take theirs", mark.theirs, () => decide("theirs", c))),
    open > 1
      ? h("div", { class: "nrt-acts" }, h("span", { class: "nrt-soft", text: `All ${open} of this row:` }), all("mine", "Mine"), all("theirs", "Theirs"))
      : null,
  ];
}
