// The queue count; opens into its list, with the reason, retry and discard.
import { h, svg, keyed, setText, ago, disclosure, widget } from "./common.js";
import "./queue.css";

/** @import { Queue, Say, StateMessage, Write } from "./protocol.js" */

/** @type {Partial<Record<Write["state"], string>>} What a badge says, where the state's name is not it. */
const WORDS = { asking: "to decide", parked: "on hold" };
const ICON = "M2 3.5 H10 M2 6.5 H10 M2 9.5 H7";

export function queue(/** @type {HTMLElement} */ body, /** @type {Say} */ say) {
  const icon = svg("svg", { viewBox: "0 0 12 12", width: "13", height: "13", "aria-hidden": "true" },
    svg("path", { d: ICON, fill: "none", stroke: "currentColor", "stroke-width": "1.5", "stroke-linecap": "round" }));
  const count = h("span", { class: "nrt-word", text: "Unsaved writes" });
  const failed = h("span", { class: "nrt-failed" });
  const face = h("span", { class: "nrt-face" }, icon, count, failed);
  const empty = h("p", { class: "nrt-empty", text: "Everything you wrote has been saved." });
  const list = h("ul", { class: "nrt-writes" });
  const more = h("p", { class: "nrt-empty" });
  const panel = h("div", { class: "nrt-panel" }, empty, list, more);
  const button = disclosure(face, panel, "Unsaved writes");
  const live = h("span", { class: "nrt-hear", "aria-live": "polite" });
  body.append(h("div", { class: "nrt-queue" }, button, live), panel);

  const make = (/** @type {Write} */ write) => {
    const act = (/** @type {"retry" | "discard"} */ name, /** @type {string} */ text, extra = "") => h("button", {
      type: "button", class: `nrt-button ${extra}`, "data-act": name, text,
      "aria-label": `${text}: ${write.what}`, onclick: () => say({ t: name, id: write.id }),
    });
    return h("li", {},
      h("div", { class: "nrt-write" },
        h("span", { class: "nrt-badge" }), h("span", { class: "nrt-what" }), h("span", { class: "nrt-soft" })),
      h("p", { class: "nrt-why" }),
      h("code", { class: "nrt-payload" }),
      h("div", { class: "nrt-acts" }, act("retry", "Retry"), act("discard", "Discard", "nrt-danger")));
  };
  const draw = (/** @type {any} */ node, /** @type {Write} */ write) => {
    node.dataset.state = write.state;
    const [badge, what, when] = node.firstChild.children;
    setText(badge, WORDS[write.state] ?? write.state);
    setText(what, write.what);
    setText(when, [write.attempts > 1 ? `${write.attempts} attempts` : "", ago(write.at)].filter(Boolean).join(" · "));
    const [, why, payload, acts] = node.children;
    setText(why, write.why);
    setText(payload, write.payload);
    acts.hidden = write.state === "sending";
    acts.firstChild.hidden = write.state !== "failed";
  };
  return (/** @type {Queue} */ state) => {
    setText(count, state.total === 0 ? "All saved" : `${state.total} unsaved`);
    setText(failed, state.failed ? `${state.failed} to decide` : "");
    failed.hidden = !state.failed;
    setText(live, state.failed ? `${state.failed} ${state.failed === 1 ? "write waits" : "writes wait"} for your decision` : "");
    body.dataset.state = state.failed ? "failed" : state.total ? "waiting" : "empty";
    empty.hidden = state.total > 0;
    setText(more, state.total > state.writes.length ? `and ${state.total - state.writes.length} more` : "");
    keyed(list, state.writes, (write) => write.id, make, draw);
  };
}

export default widget((body, say) => {
  const receive = queue(body, say);
  return (/** @type {StateMessage} */ content) => receive(content.queue);
});
