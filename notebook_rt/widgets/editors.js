// Editors by type, each a SlickGrid editor. A patch of the row never reaches an open one.
import { indented } from "./cell.js";
import { h } from "./common.js";

// `values` is what the grid knows: the text the cell started with, the fetch of a cut one, and what
// to do with a long text's panel.
// A row that is being typed (`draft`) has all its editors in the cell, and any may be left empty.
export function editorOf(column, values, draft = false) {
  if (column.choices.length || column.shape === "bool") return choiceEditor(column, values);
  if (!draft && (column.shape === "json" || (column.shape === "text" && column.type !== "uuid"))) return textEditor(column, values);
  return inputEditor(column, values, draft);
}

function base(make) {
  return class {
    constructor(args) {
      this.args = args;
      this.loaded = false;
      make(this, args);
    }
    destroy() {
      this.close?.();
      this.node.remove();
      this.args.container.replaceChildren();
    }
    focus() {
      this.input.focus();
    }
    loadValue(row) {
      if (this.loaded || !row) return;
      this.loaded = true;
      this.start = this.initial(row);
      this.set(this.start);
    }
    isValueChanged() {
      return this.serializeValue() !== this.start;
    }
    applyValue() {}
    validate() {
      return this.check?.() ?? { valid: true, msg: null };
    }
  };
}

// An editor that is wider than its cell stays inside the grid.
function within(input, args) {
  const over = input.getBoundingClientRect().right - args.grid.getContainerNode().getBoundingClientRect().right;
  if (over > 0) input.style.marginLeft = `${-over - 1}px`;
}

const INPUTS = { date: "date", timestamptz: "datetime-local", timestamp: "datetime-local" };
const NUMBER = /^\s*[-+−]?(\d[\d,\s]*\.?\d*|\.\d+)(e[-+]?\d+)?\s*$|^\s*[-+]?(nan|inf(inity)?)\s*$/i;
const WHOLE = /^\s*[-+−]?\d[\d,\s]*$/;

function inputEditor(column, values, draft) {
  const type = INPUTS[column.shape] ?? "text";
  const numeric = column.shape === "number" || column.shape === "integer";
  return base((editor, args) => {
    const input = h("input", {
      class: `nrt-editor${numeric ? " nrt-editor-number" : ""}`, type, step: type === "datetime-local" ? "any" : null,
      inputmode: numeric ? "decimal" : null, "aria-label": column.name, autocomplete: "off", spellcheck: "false", dir: column.shape === "text" ? "auto" : null,
      placeholder: draft ? (column.needed ? "required" : column.filled ? "default" : null) : null,
    });
    editor.node = editor.input = input;
    args.container.append(input);
    within(input, args);
    input.addEventListener("keydown", (event) => {
      if (["ArrowLeft", "ArrowRight", "Home", "End"].includes(event.key)) event.stopImmediatePropagation();
      if (type !== "text" && ["ArrowUp", "ArrowDown"].includes(event.key)) event.stopImmediatePropagation();
    });
    const instant = column.shape === "timestamptz";
    const local = (text) => {
      const date = new Date(text);
      return new Date(date - date.getTimezoneOffset() * 60000).toISOString().slice(0, -1);
    };
    editor.initial = (row) => values.typed(row);
    editor.set = (text) => {
      input.value = text === null ? "" : instant ? local(text) : text;
      editor.shown = input.value;
      input.focus();
      if (type === "text") input.select();
    };
    editor.serializeValue = () => {
      if (input.value === editor.shown) return editor.start;
      if (input.value === "" && column.nullable) return null;
      return instant && input.value ? new Date(input.value).toISOString() : input.value;
    };
    editor.check = () => {
      const text = editor.serializeValue();
      if (text === null) return null;
      if (text === "") return draft ? null : { valid: false, msg: `${column.name} cannot be empty: it is NOT NULL`, learnt: true };
      if (column.shape === "integer" && !WHOLE.test(text)) return { valid: false, msg: `“${text}” is not a whole number` };
      if (column.shape === "number" && !NUMBER.test(text)) return { valid: false, msg: `“${text}” is not a number` };
      return null;
    };
  });
}

function choiceEditor(column, values) {
  return base((editor, args) => {
    const choices = column.choices.length ? column.choices : ["true", "false"];
    const input = h("select", { class: "nrt-editor", "aria-label": column.name });
    if (column.nullable) input.append(h("option", { value: "", text: "null" }));
    input.append(...choices.map((choice, i) => h("option", { value: String(i), text: choice })));
    editor.node = editor.input = input;
    args.container.append(input);
    within(input, args);
    input.addEventListener("keydown", (event) => {
      if (event.key.startsWith("Arrow")) event.stopImmediatePropagation();
    });
    editor.initial = (row) => values.typed(row);
    editor.set = (text) => {
      input.value = text === null ? "" : String(choices.indexOf(text));
      input.focus();
    };
    editor.serializeValue = () => (input.value === "" ? null : choices[Number(input.value)]);
  });
}

// Long text and JSON: a panel over the grid. Enter saves a text, Ctrl+Enter a JSON; Escape leaves.
function textEditor(column, values) {
  const json = column.shape === "json";
  return base((editor, args) => {
    const input = h("textarea", { class: `nrt-editor-long${json ? " nrt-as-json" : ""}`, "aria-label": column.name, spellcheck: "false", dir: json ? null : "auto", rows: json ? 4 : 2 });
    const word = h("span", { class: "nrt-refused", role: "alert" });
    const save = h("button", { type: "button", class: "nrt-button", text: "Save", onclick: () => args.commitChanges() });
    const cancel = h("button", { type: "button", class: "nrt-button", text: "Cancel", onclick: () => args.cancelChanges() });
    const nothing = h("button", { type: "button", class: "nrt-button", text: "Set null", onclick: () => {
      editor.isNothing = true;
      args.commitChanges();
    } });
    const foot = h("div", { class: "nrt-acts" }, save, cancel, column.nullable ? nothing : null, word);
    editor.node = h("div", { class: "nrt-pop nrt-pop-editor" }, input, foot);
    editor.input = input;
    args.container.append(h("span", { class: "nrt-v", text: values.shown(args.item) })); // the cell does not go blank
    editor.close = values.place(editor.node, () => args.container);
    editor.node.addEventListener("keydown", (event) => {
      if (event.key === "Escape") args.cancelChanges();
      else if (event.key === "Enter" && event.target === input && (json ? event.ctrlKey || event.metaKey : !event.shiftKey)) args.commitChanges();
      else if (event.key === "Tab") {
        event.stopPropagation();
        return;
      } else {
        event.stopPropagation();
        return;
      }
      event.preventDefault();
      event.stopPropagation();
    });
    input.addEventListener("input", () => (editor.isNothing = false));
    const pretty = (text) => (json && text !== null ? indented(text) : text);
    editor.initial = (row) => values.typed(row);
    editor.set = (text) => {
      input.value = editor.shown = pretty(text) ?? "";
      input.focus();
      if (!json) input.select();
      if (values.cut()) {
        input.disabled = true;
        values.fetch().then((full) => {
          input.disabled = false;
          editor.start = full;
          input.value = editor.shown = pretty(full);
          input.focus();
        });
      }
    };
    editor.serializeValue = () => {
      if (editor.isNothing || (editor.start === null && input.value === "")) return null;
      return input.value === editor.shown ? editor.start : input.value;
    };
    editor.check = () => {
      if (!json || editor.serializeValue() === null) return null;
      try {
        JSON.parse(input.value);
        word.textContent = "";
        return null;
      } catch (error) {
        word.textContent = `Not JSON: ${error.message}`;
        return { valid: false, msg: word.textContent };
      }
    };
  });
}
