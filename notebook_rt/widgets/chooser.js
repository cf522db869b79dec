// What a person is asked when two have changed one thing: a cell, or a row that one of them deleted.
import { h } from "./common.js";

const pick = (label, text, onclick) =>
  h("button", { type: "button", class: "nrt-choice", onclick }, h("b", { text: label }), h("span", { text }));

const choices = (...buttons) => h("div", { class: "nrt-choices" }, ...buttons);

// The columns that the one who did not delete the row has changed in it.
function changes({ told, more }) {
  const lines = told.map(([name, before, now]) => [
    h("dt", { text: name }),
    h("dd", {}, h("del", { text: before }), h("span", { "aria-hidden": "true", text: " → " }), h("ins", { text: now })),
  ]);
  return [
    h("dl", { class: "nrt-changes", tabindex: "0", "aria-label": "What was changed" }, ...lines.flat()),
    more ? h("p", { class: "nrt-soft", text: `and ${more} more column${more === 1 ? "" : "s"}` }) : null,
  ];
}

function aboutRow(mark, decide) {
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

// The name of the dialog and what is in it. `decide(choice, c)` is told; without `c` of the whole row.
export function chooser(mark, column, row, decide) {
  if (mark.deleted) return aboutRow(mark, decide);
  const c = [...row.m].find(([, one]) => one === mark)[0];
  const open = [...row.m.values()].filter(({ kind }) => kind === "conflict").length;
  const all = (choice, text) => h("button", { type: "button", class: "nrt-button", text, onclick: () => decide(choice) });
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
