// The live chart: a Vega-Lite picture whose data arrives by column in binary, as often as is useful.
import { h, widget } from "./common.js";
import { decodeColumn, isNull } from "./decode.js";
import { library, loading as waiting, unloaded } from "./library.js";
import { timeSlider } from "./past.js";
import "./chart.css";

/** @import { ChartMessage, DataMessage, NoteMessage, Cells } from "./protocol.js" */

function rowsOf(/** @type {{ cols: Cells[], names: string[] }} */ content, /** @type {DataView} */ buffer) {
  const columns = content.cols.map((column) => decodeColumn(column, buffer));
  const read = content.cols.map((column, c) => {
    const [values, flags] = columns[c];
    const micros = column.kind === "instant" || column.kind === "local";
    const meant = (/** @type {any} */ value) => (micros ? value / 1000 : column.kind === "bool" ? Boolean(value) : value);
    return (/** @type {number} */ i) => (isNull({ f: flags }, i) ? null : meant(values[i]));
  });
  const length = columns[0]?.[1].length ?? 0;
  return Array.from({ length }, (_, i) => Object.fromEntries(content.names.map((name, c) => [name, read[c](i)])));
}

// A safe file name for a name that may be hostile.
const fileName = (/** @type {string} */ name, /** @type {string} */ ending) => `${name.replace(/[^\p{L}\p{N}_-]+/gu, "_").replace(/^_+|_+$/g, "").slice(0, 60) || "chart"}.${ending}`;

export default widget((body, say, model) => {
  const holder = h("div"); // Vega's, which gives it its own role and label
  const picture = h("div", { class: "nrt-chart", role: "img" }, holder);
  const note = h("p", { class: "nrt-note", role: "status" });
  const foot = h("p", { class: "nrt-soft nrt-chart-foot" });
  const button = (/** @type {"png" | "svg"} */ as) => h("button", { type: "button", class: "nrt-button", text: as.toUpperCase(), title: `Save the picture as ${as.toUpperCase()}`, "aria-label": `Save as ${as.toUpperCase()}`, onclick: () => void save(as) });
  const saves = h("span", { class: "nrt-saves", role: "group", "aria-label": "Save the picture" }, button("png"), button("svg"));
  const slider = timeSlider((at) => say(at === null ? { t: "past" } : { t: "past", at }));
  body.append(note, ...slider.nodes, h("div", { class: "nrt-chart-frame" }, picture, saves), foot);
  note.hidden = saves.hidden = true;
  /** @type {ChartMessage | null} */
  let head = null;
  /** @type {object[]} */
  let rows = [];
  /** @type {any} */
  let view = null; // Vega's
  /** @type {Promise<void> | null} */
  let building = null;
  let again = false;
  const loaded = waiting(body);
  const loading = library("vega", model, say).catch((/** @type {Error} */ error) => void unloaded(body, model, say, error)).finally(loaded);
  const root = () => /** @type {HTMLElement} */ (body.parentElement);

  function config() {
    const style = getComputedStyle(root());
    const get = (/** @type {string} */ name) => style.getPropertyValue(name).trim();
    const axis = { labelColor: get("--nrt-soft"), titleColor: get("--nrt-text"), gridColor: get("--nrt-line"), domainColor: get("--nrt-line"), tickColor: get("--nrt-line"), labelFontSize: 11, titleFontWeight: 600 };
    const mark = root().dataset.theme === "dark" ? "#7ab7ff" : "#0b62c4";
    return {
      background: "transparent", view: { stroke: null }, axis, axisX: { grid: false, labelFlush: false, labelOverlap: true, labelSeparation: 12 }, legend: { labelColor: get("--nrt-text"), titleColor: get("--nrt-text") },
      font: style.fontFamily, mark: { color: mark }, line: { strokeWidth: 1.8 }, area: { fillOpacity: 0.35, line: true },
      point: { filled: true, size: 36, opacity: 0.75 }, bar: { cornerRadiusEnd: 2 },
      range: { category: root().dataset.theme === "dark"
        ? ["#7ab7ff", "#ffc933", "#3ee0b5", "#e0609f", "#5d74e8", "#a3a300"]
        : ["#0b62c4", "#8b4600", "#5da200", "#a21774", "#748bff", "#d174a2"] }, // distinguishable with colour blindness, too
    };
  }

  async function build() {
    if (building) {
      again = true;
      return;
    }
    building = (async () => {
      const vega = await loading;
      if (!vega || !head) return;
      const made = await vega.vegaEmbed(holder, { ...head.spec, config: { ...config(), ...head.spec.config } }, { actions: false, tooltip: true, renderer: "canvas" });
      view?.finalize();
      view = made.view;
      feed();
      saves.hidden = false;
      body.dataset.drawn = "";
    })();
    await building.finally(() => (building = null));
    if (again) {
      again = false;
      build();
    }
  }

  // Saves what is visible, with the page's background: a picture of a dark page has light text.
  async function save(/** @type {"png" | "svg"} */ as) {
    if (!view) return;
    const shown = view.background();
    const solid = getComputedStyle(root()).getPropertyValue("--nrt-bg").trim();
    try {
      const url = await view.background(solid).toImageURL(as, 2);
      const link = h("a", { href: url, download: fileName(head?.name ?? "", as) });
      link.click();
      setTimeout(() => URL.revokeObjectURL(url), 60000);
    } finally {
      view?.background(shown).runAsync();
    }
  }

  function feed() {
    view?.data("live", rows).resize().runAsync();
  }

  const themed = new MutationObserver(() => head && build());
  setTimeout(() => themed.observe(root(), { attributes: true, attributeFilter: ["data-theme"] }));
  return {
    receive(/** @type {ChartMessage | DataMessage | NoteMessage} */ content, /** @type {DataView[]} */ buffers) {
      note.textContent = content.note;
      note.hidden = !content.note;
      slider.draw(content.past);
      if (content.t === "note") return;
      if (content.t === "chart") head = content;
      if (!head) return;
      rows = rowsOf({ ...content, names: head.names }, buffers[0]);
      picture.setAttribute("aria-label", content.label);
      foot.textContent = content.foot;
      if (content.t === "chart") build();
      else feed();
    },
    close() {
      themed.disconnect();
      slider.close();
      loaded();
      view?.finalize();
    },
  };
});
