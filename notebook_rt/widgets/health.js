// The health dot: the state in words beside the colour, and the latency; opens to sentences, small charts and
// metrics.
import { h, svg, keyed, setText, disclosure, widget } from "./common.js";
import "./health.css";

/** @import { Health, Say, StateMessage, Trend } from "./protocol.js" */

const GLYPHS = {
  green: "M3 6.2 5.2 8.4 9 3.8",
  yellow: "M6 2.8 V6.6 M6 8.9 V9",
  red: "M3.4 3.4 8.6 8.6 M8.6 3.4 3.4 8.6",
  grey: "M3 6 H9",
};

// The points of a line in a box of 64 by 16; it is straight where nothing was measured.
export function sparkline(/** @type {(number | null)[]} */ values) {
  const top = Math.max(...values.map(Number), 1);
  const step = 64 / Math.max(values.length - 1, 1);
  return values.flatMap((v, i) => (v === null ? [] : [`${(i * step).toFixed(1)},${(15 - (v / top) * 13).toFixed(1)}`])).join(" ");
}

// The description of a small chart for a screen reader.
export function described(/** @type {Trend} */ { name, meaning, now, points }) {
  const all = points.filter((point) => point !== null);
  if (!all.length) return `${name}: nothing measured in five minutes`;
  return `${name}, ${meaning}: ${now ? `now ${now}, ` : ""}at most ${Math.round(Math.max(...all)).toLocaleString()} in five minutes`;
}

export function health(/** @type {HTMLElement} */ body, /** @type {Say} */ say) {
  const glyph = svg("path", { fill: "none", stroke: "currentColor", "stroke-width": "1.8", "stroke-linecap": "round", "stroke-linejoin": "round" });
  const dot = h("span", { class: "nrt-dot", "aria-hidden": "true" }, svg("svg", { viewBox: "0 0 12 12", width: "12", height: "12" }, glyph));
  const word = h("span", { class: "nrt-word", text: "Connection" });
  const latency = h("span", { class: "nrt-soft" });
  const face = h("span", { class: "nrt-face" }, dot, word, latency);
  const sentences = h("div", { class: "nrt-sentences" });
  const trends = h("div", { class: "nrt-trends" });
  const audits = h("p", { class: "nrt-detail" });
  const usage = h("p", { class: "nrt-detail" });
  const limits = h("div", { class: "nrt-limits" });
  const compare = h("button", { type: "button", class: "nrt-button", "data-act": "verify", text: "Compare with the server now", onclick: () => say({ t: "verify" }) });
  const compared = h("span", { class: "nrt-soft", role: "status" });
  const metrics = h("dl", { class: "nrt-metrics" });
  const error = h("p", { class: "nrt-error" });
  const more = h("details", { class: "nrt-more" }, h("summary", { text: "Details" }), metrics, error);
  const panel = h("div", { class: "nrt-panel" }, sentences, trends, limits, usage, audits, h("div", { class: "nrt-compare" }, compare, compared), more);
  const button = disclosure(face, panel, "Connection details");
  // Only the state is announced: the latency changes all the time.
  const live = h("span", { class: "nrt-hear", "aria-live": "polite" });
  body.append(h("div", { class: "nrt-health" }, button, live), panel);
  /** @type {WeakMap<Element, (trend: Trend) => void>} */
  const drawn = new WeakMap();
  const figure = (/** @type {Trend} */ { name, meaning }) => {
    const line = svg("polyline", { "vector-effect": "non-scaling-stroke" });
    const box = svg("svg", { class: "nrt-spark", viewBox: "0 0 64 16", "aria-hidden": "true", preserveAspectRatio: "none" }, line);
    const now = h("span", { class: "nrt-now" });
    const node = h("figure", { role: "img", title: `${name}: ${meaning}; the last five minutes` },
      h("figcaption", {}, h("span", { class: "nrt-soft", text: name }), now), box);
    drawn.set(node, (trend) => {
      setText(now, trend.now || "–");
      node.setAttribute("aria-label", described(trend));
      line.setAttribute("points", sparkline(trend.points));
    });
    return node;
  };
  return (/** @type {Health} */ state) => {
    body.dataset.state = state.state;
    dot.dataset.colour = state.colour;
    glyph.setAttribute("d", GLYPHS[state.colour]);
    setText(word, state.word);
    setText(latency, state.latency === null ? "" : `${Math.round(state.latency)} ms`);
    setText(live, `Connection: ${state.word}`);
    keyed(sentences, state.sentences.map((text, i) => ({ text, i })), ({ i }) => i,
      () => h("p", { class: "nrt-sentence" }), (node, { text }) => setText(node, text));
    keyed(trends, state.trends, ({ name }) => name, figure, (node, trend) => drawn.get(node)?.(trend));
    setText(audits, state.audits);
    setText(usage, state.usage);
    keyed(limits, state.limits.map((text, i) => ({ text, i })), ({ i }) => i,
      () => h("p", { class: "nrt-limit" }),
      (node, { text }) => setText(node, text));
    const offline = state.state === "offline";
    compare.disabled = state.comparing || offline;
    compare.title = offline ? "The server cannot be reached" : "";
    compare.hidden = state.state === "closed";
    setText(compared, state.compared);
    setText(error, state.error ? `Last error: ${state.error}` : "");
    error.hidden = !state.error;
    more.hidden = !state.error && !state.metrics.length;
    keyed(
      metrics, state.metrics, (item) => item[0],
      (item) => h("div", {}, h("dt", { text: item[0] }), h("dd")),
      (node, item) => setText(node.lastChild, item[1]),
    );
  };
}

export default widget((body, say) => {
  const receive = health(body, say);
  return (/** @type {StateMessage} */ content) => receive(content.health);
});
