// Cells: from values to text, and to the content of the grid.
import { h } from "./common.js";
import { ROW_MARK, isNull, isCut } from "./decode.js";
import { lookOf } from "./looks.js";

/** @import { Column } from "./protocol.js" */
/** @import { Draft, Format, Group, Mark, Row } from "./grid.js" */

const pad = (/** @type {number} */ n, size = 2) => String(n).padStart(size, "0");

function clock(/** @type {Date} */ date, /** @type {boolean} */ utc) {
  const get = (/** @type {"FullYear" | "Month" | "Date" | "Hours" | "Minutes" | "Seconds"} */ name) => (utc ? date[`getUTC${name}`]() : date[`get${name}`]());
  return (
    `${pad(get("FullYear"), 4)}-${pad(get("Month") + 1)}-${pad(get("Date"))} ` +
    `${pad(get("Hours"))}:${pad(get("Minutes"))}:${pad(get("Seconds"))}`
  );
}

// Microseconds since 1970 as a time; with a fraction only if there is one.
export function timeText(/** @type {number} */ micros, /** @type {boolean} */ utc) {
  const fraction = ((micros % 1e6) + 1e6) % 1e6;
  const text = clock(new Date(Math.floor(micros / 1000)), utc);
  if (fraction === 0) return text;
  return `${text}.${pad(fraction, 6).replace(/0{3}$/, "")}`;
}

// Number of digits after the point, at most four: two for 182.95000000000002, which is a sum of floats.
function decimals(/** @type {number} */ value) {
  const text = String(Number(value.toFixed(4)));
  return text.includes("e") ? 0 : text.split(".")[1]?.length ?? 0;
}

// Whether this many digits after the point would lose most of a value: 0.0000 for 3e-7.
function tooSmall(/** @type {number} */ value, /** @type {number} */ digits) {
  return value !== 0 && Math.abs(value) < 1 && Math.abs(Number(value.toFixed(digits)) - value) > Math.abs(value) / 20;
}

// Formats the values of one column as text. The number of digits after the point is the same for the whole
// column and never decreases, so that the points are aligned and the display stays steady.
/** @returns {Format} */
export function makeFormat(/** @type {Pick<Column, "format" | "shape">} */ column) {
  const spec = /^(,)?(?:\.(\d+))?([fd%])?$/.exec(column.format ?? "");
  /** @type {Intl.NumberFormatOptions} */
  const options = { useGrouping: Boolean(spec?.[1]) };
  let digits = spec?.[2] === undefined ? -1 : Number(spec[2]);
  const fixed = digits >= 0 || spec?.[3] === "d";
  if (spec?.[3] === "d") digits = 0;
  if (spec?.[3] === "%") options.style = "percent";
  /** @type {Intl.NumberFormat | null} */
  let number = null;
  const renew = (/** @type {number} */ n) => {
    digits = n;
    return number = new Intl.NumberFormat(undefined, { ...options, minimumFractionDigits: n, maximumFractionDigits: n });
  };
  const float = column.shape === "number";
  const grouped = options.useGrouping;
  const numeric = float || column.shape === "integer";
  const day = (/** @type {string} */ text) => (column.shape === "date" ? text.slice(0, 10) : text);
  return {
    // Learns from the values of a window; returns true if the cells must be redrawn.
    learn(values) {
      if (fixed || !float || typeof values[0] !== "number") return false;
      let need = Math.max(digits, 0);
      for (const value of Array.from(values)) if (typeof value === "number" && Number.isFinite(value)) need = Math.max(need, decimals(value));
      if (need === digits) return false;
      renew(need);
      return true;
    },
    text(row, c) {
      const value = row.v[c];
      if (isNull(row, c)) return "null";
      const kind = row.k[c];
      if (typeof value === "string") {
        // Decimals and long integers arrive as texts; every digit of them is kept.
        if (!numeric || !(fixed || grouped) || !/^-?\d+(\.\d+)?$/.test(value)) return value;
        const places = fixed ? Math.max(digits, 0) : value.split(".")[1]?.length ?? 0;
        return new Intl.NumberFormat(undefined, { ...options, minimumFractionDigits: places, maximumFractionDigits: places }).format(/** @type {any} */ (value));
      }
      if (kind === "number") {
        if (!Number.isFinite(value)) return String(value);
        if (float || fixed || grouped) {
          const as = number ?? renew(Math.max(digits, 0));
          if (!fixed && tooSmall(value, digits)) return value.toExponential(3).replace(/\.?0+e/, "e");
          return Math.abs(value) >= 1e15 && !grouped ? String(value) : as.format(value);
        }
        return String(value);
      }
      if (kind === "bool") return value ? "true" : "false";
      return kind === "instant" ? timeText(value, false) : day(timeText(value, true));
    },
    // The initial text of the editor, which also stands for the value that the user saw.
    typed(row, c) {
      if (isNull(row, c)) return null;
      const value = row.v[c];
      const kind = row.k[c];
      if (kind === "bool") return value ? "true" : "false";
      if (typeof value === "string") return value;
      if (kind === "instant") return `${timeText(value, true).replace(" ", "T")}+00:00`;
      if (kind === "local") return day(timeText(value, true)).replace(" ", "T");
      return String(value);
    },
    hint(row, c) {
      if (isNull(row, c)) return "";
      const value = row.v[c];
      if (row.k[c] === "instant" && typeof value === "number") return `${timeText(value, true)} UTC`;
      return isCut(row, c) ? `${value}… (Enter shows all)` : "";
    },
  };
}

// Formatted JSON; unchanged if JavaScript would round a number in it.
export function indented(/** @type {string} */ text) {
  if (/\d{16}/.test(text)) return text;
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

const WORDS = {
  sending: "sending", pending: "not saved yet", failed: "refused", conflict: "changed by somebody else too",
};

// The text of a cell in a new row, and its style.
/** @returns {[text: string, style: string]} */
export function draftText(/** @type {Column} */ column, /** @type {Draft} */ row, /** @type {number} */ c) {
  const text = row.texts.get(c);
  if (text === undefined) return column.needed ? ["required", "nrt-needed"] : [column.filled ? "default" : "null", "nrt-null"];
  if (text === null) return ["null", "nrt-null nrt-typed"];
  return [column.shape === "timestamptz" ? timeText(Date.parse(text) * 1000, false) : text, "nrt-typed"];
}

export function draftNode(/** @type {Column} */ column, /** @type {Draft} */ row, /** @type {number} */ c) {
  const [text, style] = draftText(column, row, c);
  return h("span", { class: `nrt-v nrt-as-${column.shape} ${style}`, dir: column.shape === "text" ? "auto" : null, text });
}

// A heading in words, for a screen reader.
export const groupText = (/** @type {Group} */ { text, rows, open }) => `${text}, ${rows.toLocaleString()} row${rows === 1 ? "" : "s"}, ${open ? "open: Enter to close" : "closed: Enter to open"}`;

// The content of a heading in a column: in the `first` one its value and count, elsewhere its total.
/** @param {Group} group @param {number} c @param {number} first @param {string} total @param {string} what */
export function groupNode(group, c, first, total, what) {
  if (c !== first) return h("span", { class: "nrt-v", title: total ? `${what} of ${group.text}: ${total}` : null, text: total });
  const node = h("span", { class: "nrt-v nrt-heading", dir: "auto" });
  node.append(h("span", { class: "nrt-fold", "aria-hidden": "true", text: group.open ? "▾" : "▸" }), h("span", { text: group.text }), " ", h("span", { class: "nrt-soft", text: group.rows.toLocaleString() }));
  return node;
}

// A conflict about a whole row, in words; undefined if there is none.
export function disputeOf(/** @type {Row | undefined} */ row) {
  const mark = row?.m?.get(ROW_MARK);
  return mark && (mark.deleted === "mine" ? "you deleted this row, and somebody else changed it" : "somebody else deleted this row, and you changed it");
}

// The inside of a cell; the first cell of a row shows what must be decided about the whole row.
/** @param {Format} format @param {Column} column @param {Row} row @param {number} c @param {[low: number, high: number]} [range] */
export function cellNode(format, column, row, c, range) {
  const node = document.createElement("span");
  const dispute = c === 0 && disputeOf(row);
  /** @type {Mark | undefined} */
  const mark = row.m?.get(c) ?? (dispute ? { kind: "conflict", say: dispute } : undefined);
  node.className = `nrt-v nrt-as-${column.shape}`;
  if (column.shape === "text") node.dir = "auto"; // Hebrew and Arabic run from the right
  if (isNull(row, c)) node.classList.add("nrt-null");
  const text = mark?.text ?? format.text(row, c) + (isCut(row, c) ? "…" : "");
  const look = mark?.text === undefined ? lookOf(column, row, c, range, text) : null;
  if (look?.classes[0] === "nrt-tag") node.append(h("span", { text })); // the colour is as wide as the text
  else node.textContent = text;
  if (look) {
    node.classList.add(...look.classes);
    for (const [name, value] of Object.entries(look.props)) node.style.setProperty(name, value);
    if (look.arrow) node.prepend(h("span", { class: "nrt-arrow", "aria-hidden": "true", text: look.arrow }));
  }
  const hint = format.hint(row, c);
  if (mark) {
    node.classList.add("nrt-mark", `nrt-is-${mark.kind}`);
    const words = mark.say ?? WORDS[mark.kind];
    node.title = [words, mark.why].filter(Boolean).join(": ");
    node.append(h("span", { class: "nrt-hear", text: `, ${words}` }));
  } else if (hint) node.title = hint;
  return node;
}
