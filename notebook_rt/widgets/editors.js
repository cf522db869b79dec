// Editors by type, each a SlickGrid editor. An update of the row never changes an open editor.
import { indented } from "./cell.js";
import { h, setText } from "./common.js";
import { EXAMPLE, isTime, readTime, shownTime } from "./times.js";

/** @import { EditorArguments } from "slickgrid" */
/** @import { Read, Row } from "./grid.js" */
/** @import { Column } from "./protocol.js" */
/** @typedef {{ valid: boolean, msg: string | null, learnt?: boolean }} Validity learnt: what is known of the column may be old */
/** @typedef {EditorArguments & { container: HTMLElement }} Args */
/**
 * What the grid knows about a column's cells.
 * @typedef {object} Values
 * @property {(row: Row) => string | null} typed the initial text of the editor
 * @property {(row: Read) => string} shown
 * @property {() => boolean} cut whether the browser has only the beginning of the text
 * @property {() => Promise<string>} fetch the whole text
 * @property {(node: HTMLElement, find: () => HTMLElement) => () => void} place shows a panel; returns a function that closes it
 */
/**
 * The parts of one kind of editor.
 * @typedef {object} Parts
 * @property {HTMLElement} node
 * @property {HTMLInputElement | HTMLSelectElement | HTMLTextAreaElement} input
 * @property {(text: string | null) => void} set
 * @property {(start: string | null) => string | null} read the current text; `start` if it was not changed
 * @property {(text: string | null) => Validity | null} [check]
 * @property {() => void} [close]
 */

// A new row (`draft`) is edited entirely in its cells, and each may be left empty.
export function editorOf(/** @type {Column} */ column, /** @type {Values} */ values, draft = false) {
  if (column.choices.length || column.shape === "bool") return choiceEditor(column, values);
  if (!draft && (column.shape === "json" || (column.shape === "text" && column.type !== "uuid"))) return textEditor(column, values);
  return inputEditor(column, values, draft);
}

// A class as SlickGrid requires it. `begin` sets the editor's initial text again.
/** @param {Values} values @param {(args: Args, begin: (text: string | null) => void) => Parts} make */
function base(values, make) {
  return class {
    #args;
    #parts;
    #loaded = false;

    constructor(/** @type {Args} */ args) {
      this.#args = args;
      /** @type {string | null} */
      this.start = null;
      this.#parts = make(args, (text) => (this.start = text));
      this.input = this.#parts.input;
    }
    init() {}
    destroy() {
      this.#parts.close?.();
      this.#parts.node.remove();
      this.#args.container.replaceChildren();
    }
    focus() {
      this.input.focus();
    }
    // Continues with the text typed into another editor of the same cell, which is closing.
    resume(/** @type {{ start: string | null, input: HTMLInputElement | HTMLSelectElement | HTMLTextAreaElement }} */ { start, input }) {
      this.start = start;
      this.#parts.set(start);
      this.input.value = input.value;
      if (input instanceof HTMLSelectElement || this.input instanceof HTMLSelectElement || input.selectionStart === null) return;
      this.input.setSelectionRange(input.selectionStart, input.selectionEnd);
    }
    loadValue(/** @type {Row | undefined} */ row) {
      if (this.#loaded || !row) return;
      this.#loaded = true;
      this.start = values.typed(row);
      this.#parts.set(this.start);
    }
    serializeValue() {
      return this.#parts.read(this.start);
    }
    isValueChanged() {
      return this.serializeValue() !== this.start;
    }
    applyValue() {}
    validate() {
      return this.#parts.check?.(this.serializeValue()) ?? { valid: true, msg: null };
    }
  };
}

// Keeps an editor that is wider than its cell inside the grid.
function within(/** @type {HTMLElement} */ input, /** @type {Args} */ args) {
  const over = input.getBoundingClientRect().right - args.grid.getContainerNode().getBoundingClientRect().right;
  if (over > 0) input.style.marginLeft = `${-over - 1}px`;
}

// Thousands separated by commas or spaces, as in `typed.py`; a comma anywhere else may be a decimal one, and
// is not dropped.
const DIGITS = String.raw`(\d+|\d{1,3}((,\d{2,3})*,\d{3}|(\s\d{3})+))`;
const NUMBER = new RegExp(String.raw`^\s*[-+−]?(${DIGITS}\.?\d*|\.\d+)(e[-+]?\d+)?\s*$|^\s*[-+]?(nan|inf(inity)?)\s*$`, "i");
const WHOLE = new RegExp(String.raw`^\s*[-+−]?${DIGITS}\s*$`);
const grouped = (/** @type {string} */ text, /** @type {string} */ example) => (/\d[,\s]+\d/.test(text) ? `: a comma groups thousands, as in ${example}` : "");

// Why a text cannot be a value of its column; null if it can, as far as is known here.
/** @returns {Validity | null} */
export function checked(/** @type {Pick<Column, "name" | "shape">} */ column, /** @type {string | null} */ text, draft = false) {
  if (text === null) return null;
  if (text === "") return draft ? null : { valid: false, msg: `${column.name} cannot be empty: it is NOT NULL`, learnt: true };
  if (column.shape === "integer" && !WHOLE.test(text)) return { valid: false, msg: `“${text}” is not a whole number${grouped(text, "1,000")}` };
  if (column.shape === "number" && !NUMBER.test(text)) return { valid: false, msg: `“${text}” is not a number${grouped(text, "1,000.5")}` };
  if (isTime(column.shape) && readTime(column.shape, text) === null) return { valid: false, msg: `“${text}” is not a ${column.shape === "date" ? "date" : "time"} like ${EXAMPLE[/** @type {"date"} */ (column.shape)]}` };
  return null;
}

// A button that opens the browser's calendar; the chosen day is written into `input`, whose time stays.
function calendar(/** @type {HTMLInputElement} */ input, /** @type {string} */ label) {
  const native = h("input", { type: "date", class: "nrt-native", tabindex: "-1", "aria-hidden": "true" });
  const button = h("button", { type: "button", class: "nrt-days", tabindex: "-1", "aria-label": `Choose a day for ${label}`, title: "Choose a day", text: "▾", onclick: () => {
    native.value = input.value.trim().slice(0, 10);
    native.showPicker?.();
  } });
  button.addEventListener("pointerdown", (event) => event.preventDefault()); // the focus stays in the input
  for (const event of ["click", "dblclick"]) button.addEventListener(event, (one) => one.stopPropagation());
  native.addEventListener("change", () => {
    if (native.value) input.value = native.value + input.value.trim().slice(10);
    input.focus();
  });
  return [native, button];
}

function inputEditor(/** @type {Column} */ column, /** @type {Values} */ values, /** @type {boolean} */ draft) {
  const time = isTime(column.shape);
  const numeric = column.shape === "number" || column.shape === "integer";
  return base(values, (args) => {
    const input = h("input", {
      class: `nrt-editor${numeric ? " nrt-editor-number" : ""}`, type: "text", "data-time": time ? column.shape : null,
      inputmode: numeric ? "decimal" : null, "aria-label": column.name, autocomplete: "off", spellcheck: "false", dir: column.shape === "text" ? "auto" : null,
      placeholder: draft ? (column.needed ? "required" : column.filled ? "default" : null) : null,
    });
    const node = time ? h("span", { class: "nrt-when", "data-time": column.shape }, input, ...calendar(input, column.name)) : input;
    args.container.append(node);
    within(node, args);
    input.addEventListener("keydown", (event) => {
      if (["ArrowLeft", "ArrowRight", "Home", "End"].includes(event.key)) event.stopImmediatePropagation();
    });
    let shown = "";
    return {
      node, input,
      set(text) {
        input.value = text === null ? "" : time ? shownTime(column.shape, text) : text;
        shown = input.value;
        input.focus();
        input.select();
      },
      read(start) {
        if (input.value === shown) return start;
        if (input.value === "" && column.nullable) return null;
        return time && input.value ? readTime(column.shape, input.value) ?? input.value : input.value;
      },
      check: (text) => checked(column, text, draft),
    };
  });
}

function choiceEditor(/** @type {Column} */ column, /** @type {Values} */ values) {
  return base(values, (args) => {
    const choices = column.choices.length ? column.choices : ["true", "false"];
    const input = h("select", { class: "nrt-editor", "aria-label": column.name });
    if (column.nullable) input.append(h("option", { value: "", text: "null" }));
    input.append(...choices.map((choice, i) => h("option", { value: String(i), text: choice })));
    args.container.append(input);
    within(input, args);
    input.addEventListener("keydown", (event) => {
      if (event.key.startsWith("Arrow")) event.stopImmediatePropagation();
    });
    return {
      node: input, input,
      set(text) {
        input.value = text === null ? "" : String(choices.indexOf(text));
        input.focus();
      },
      read: () => (input.value === "" ? null : choices[Number(input.value)]),
    };
  });
}

// Long text and JSON: a panel over the grid. Enter saves a text, Ctrl+Enter a JSON; Escape cancels.
function textEditor(/** @type {Column} */ column, /** @type {Values} */ values) {
  const json = column.shape === "json";
  return base(values, (args, begin) => {
    let isNull = false;
    let shown = "";
    const input = h("textarea", { class: `nrt-editor-long${json ? " nrt-as-json" : ""}`, "aria-label": column.name, spellcheck: "false", dir: json ? null : "auto", rows: json ? 4 : 2 });
    const word = h("span", { class: "nrt-refused", role: "alert" });
    const save = h("button", { type: "button", class: "nrt-button", text: "Save", onclick: () => args.commitChanges() });
    const cancel = h("button", { type: "button", class: "nrt-button", text: "Cancel", onclick: () => args.cancelChanges() });
    const nothing = h("button", { type: "button", class: "nrt-button", text: "Set null", onclick: () => {
      isNull = true;
      args.commitChanges();
    } });
    const foot = h("div", { class: "nrt-acts" }, save, cancel, column.nullable ? nothing : null, word);
    const node = h("div", { class: "nrt-pop nrt-pop-editor" }, input, foot);
    args.container.append(h("span", { class: "nrt-v", text: values.shown(args.item) })); // the cell keeps showing its text
    const close = values.place(node, () => args.container);
    node.addEventListener("keydown", (event) => {
      if (event.key === "Escape") args.cancelChanges();
      else if (event.key === "Enter" && event.target === input && (json ? event.ctrlKey || event.metaKey : !event.shiftKey)) args.commitChanges();
      else {
        event.stopPropagation();
        return;
      }
      event.preventDefault();
      event.stopPropagation();
    });
    input.addEventListener("input", () => (isNull = false));
    const pretty = (/** @type {string | null} */ text) => (json && text !== null ? indented(text) : text ?? "");
    return {
      node, input, close,
      set(text) {
        input.value = shown = pretty(text);
        input.focus();
        if (!json) input.select();
        if (!values.cut()) return;
        input.disabled = true;
        values.fetch().then((full) => {
          input.disabled = false;
          begin(full);
          input.value = shown = pretty(full);
          input.focus();
        });
      },
      read(start) {
        if (isNull || (start === null && input.value === "")) return null;
        return input.value === shown ? start : input.value;
      },
      check(text) {
        if (!json || text === null) return null;
        const why = notJson(input.value);
        setText(word, why);
        return why ? { valid: false, msg: why } : null;
      },
    };
  });
}

// Why a text is not JSON; empty if it is.
export function notJson(/** @type {string} */ text) {
  try {
    JSON.parse(text);
    return "";
  } catch (error) {
    return `Not JSON: ${error instanceof Error ? error.message : error}`;
  }
}
