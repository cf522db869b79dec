// The people who are present: initials in stable colours, the user first, idle ones faded, and the number of
// further ones.
import { h, keyed, setText, ago, disclosure, widget } from "./common.js";
import "./presence.css";

/** @import { Person, Presence, Say, StateMessage } from "./protocol.js" */

export function presence(/** @type {HTMLElement} */ body, /** @type {Say} */ _say) {
  const faces = h("span", { class: "nrt-faces" });
  const more = h("span", { class: "nrt-more" });
  const words = h("span", { class: "nrt-soft", text: "People here" });
  const face = h("span", { class: "nrt-face" }, faces, more, words);
  const list = h("ul", { class: "nrt-people" });
  const rest = h("p", { class: "nrt-empty" });
  const panel = h("div", { class: "nrt-panel" }, list, rest);
  const button = disclosure(face, panel, "People here");
  const live = h("span", { class: "nrt-hear", "aria-live": "polite" });
  body.append(h("div", { class: "nrt-presence" }, button, live), panel);
  const avatar = () => h("span", { class: "nrt-avatar", "aria-hidden": "true" });
  const paint = (/** @type {HTMLElement} */ node, /** @type {Person} */ person) => {
    setText(node, person.initials);
    node.dataset.hue = String(person.hue);
    node.classList.toggle("nrt-idle", person.idle);
    node.classList.toggle("nrt-you", person.you);
  };
  return (/** @type {Presence} */ state) => {
    keyed(faces, state.people.slice(0, state.faces), (p) => p.id, avatar, (node, person) => {
      paint(node, person);
      node.title = person.name + (person.you ? " (you)" : "") + (person.idle ? ", idle" : "");
    });
    const hidden = state.total - Math.min(state.people.length, state.faces);
    setText(more, hidden > 0 ? `+${hidden}` : "");
    more.hidden = hidden <= 0;
    const others = state.total - state.people.filter((p) => p.you).length;
    setText(words, state.total === 0 ? "Nobody here" : others === 0 ? "Only you" : `${state.total} here`);
    setText(live, `${state.total} people here`);
    setText(rest, state.total > state.people.length ? `and ${state.total - state.people.length} more` : "");
    keyed(list, state.people, (p) => p.id,
      () => h("li", {}, avatar(), h("span", { class: "nrt-name" }), h("span", { class: "nrt-soft" })),
      (node, person) => {
        paint(node.children[0], person);
        setText(node.children[1], person.name + (person.you ? " (you)" : ""));
        const since = person.joined ? `joined ${ago(person.joined)}` : "";
        setText(node.children[2], [person.idle ? "idle" : "", since].filter(Boolean).join(" · "));
      });
  };
}

export default widget((body, say) => {
  const receive = presence(body, say);
  return (/** @type {StateMessage} */ content) => receive(content.presence);
});
