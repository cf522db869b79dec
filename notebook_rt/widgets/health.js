// The health dot: state in words beside the colour, latency, a sparkline; opens to the metrics.
import { h, svg, keyed, setText, disclosure, widget } from "./common.js";
import "./health.css";

/** @import { Health, Say, StateMessage } from "./protocol.js" */

const GLYPHS = {
  green: "M3 6.2 5.2 8.4 9 3.8",
  yellow: "M6 2.8 V6.6 M6 8.9 V9",
  red: "M3.4 3.4 8.6 8.6 M8.6 3.4 3.4 8.6",
  grey: "M3 6 H9",
};

export function sparkline(/** @type {number[]} */ values) {
  const top = Math.max(...values, 1);
  const step = 64 / Math.max(values.length - 1, 1);
  return values.map((v, i) => `${(i * step).toFixed(1)},${(15 - (v / top) * 13).toFixed(1)}`).join(" ");
}

export function health(/** @type {HTMLElement} */ body, /** @type {Say} */ _say) {
  const glyph = svg("path", { fill: "none", stroke: "currentColor", "stroke-width": "1.8", "stroke-linecap": "round", "stroke-linejoin": "round" });
  const dot = h("span", { class: "nrt-dot", "aria-hidden": "true" }, svg("svg", { viewBox: "0 0 12 12", width: "12", height: "12" }, glyph));
  const word = h("span", { class: "nrt-word", text: "Connection" });
  const latency = h("span", { class: "nrt-soft" });
  const line = svg("polyline", { fill: "none", stroke: "currentColor", "stroke-width": "1.4", "stroke-linejoin": "round" });
  const spark = svg("svg", { class: "nrt-spark", viewBox: "0 0 64 16", width: "64", height: "16", "aria-hidden": "true" }, line);
  const face = h("span", { class: "nrt-face" }, dot, word, latency, spark);
  const detail = h("p", { class: "nrt-detail" });
  const usage = h("p", { class: "nrt-detail" });
  const limits = h("div", { class: "nrt-limits" });
  const metrics = h("dl", { class: "nrt-metrics" });
  const error = h("p", { class: "nrt-error" });
  const panel = h("div", { class: "nrt-panel" }, detail, usage, limits, metrics, error);
  const button = disclosure(face, panel, "Connection details");
  // Only the state is announced: the latency changes all the time.
  const live = h("span", { class: "nrt-hear", "aria-live": "polite" });
  body.append(h("div", { class: "nrt-health" }, button, live), panel);
  return (/** @type {Health} */ state) => {
    body.dataset.state = state.state;
    dot.dataset.colour = state.colour;
    glyph.setAttribute("d", GLYPHS[state.colour]);
    setText(word, state.word);
    setText(latency, state.latency === null ? "" : `${Math.round(state.latency)} ms`);
    setText(live, `Connection: ${state.word}`);
    spark.toggleAttribute("hidden", state.spark.length < 2 || state.latency === null); // else it is of yesterday
    if (state.spark.length > 1) line.setAttribute("points", sparkline(state.spark));
    setText(detail, state.detail);
    setText(usage, state.usage);
    usage.hidden = !state.usage;
    keyed(limits, state.limits.map((text, i) => ({ text, i })), ({ i }) => i,
      () => h("p", { class: "nrt-limit" }),
      (node, { text }) => setText(node, text));
    setText(error, state.error ? `Last error: ${state.error}` : "");
    error.hidden = !state.error;
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
