// Recent events: a few calm lines, announced politely, never a stack of a hundred.
import { h, keyed, setText, ago, widget } from "./common.js";
import "./notes.css";

/** @import { Note, StateMessage } from "./protocol.js" */

const GLYPHS = { merged: "⇄", conflict: "?", queued: "…", failed: "!", live: "✓", unavailable: "!", limit: "!", info: "i" };

export default widget((body, say) => {
  const list = h("ol", { class: "nrt-notes" });
  const log = h("div", { role: "log", "aria-live": "polite", "aria-label": "What happened" }, list);
  const more = h("p", { class: "nrt-empty" });
  body.append(log, more);
  /** @type {Note[]} */
  let notes = [];
  const draw = () => keyed(list, notes, (note) => note.id,
    (note) => h("li", { "data-kind": note.kind },
      h("span", { class: "nrt-glyph", "aria-hidden": "true", text: GLYPHS[note.kind] }),
      h("span", { class: "nrt-line", text: note.text }),
      h("time", { class: "nrt-soft", datetime: note.at, title: new Date(note.at).toLocaleString() }),
      h("button", { type: "button", class: "nrt-x", "aria-label": `Dismiss: ${note.text}`, text: "×",
        onclick: () => say({ t: "dismiss", id: note.id }) })),
    (node, note) => setText(node.querySelector("time"), ago(note.at)));
  const timer = setInterval(draw, 5000);
  return {
    receive(/** @type {StateMessage} */ content) {
      notes = content.notes.lines;
      draw();
      setText(more, content.notes.earlier ? `${content.notes.earlier} earlier` : "");
      body.dataset.state = notes.length ? "some" : "none";
    },
    close: () => clearInterval(timer),
  };
});
