// The time slider of a table with a recorded past: the live table at its right end, earlier states elsewhere.
// Only one request is pending at a time, and of those that come up meanwhile only the last is sent.
import { timeText } from "./cell.js";
import { ago, h, setText } from "./common.js";
import "./past.css";

/** @import { Past } from "./protocol.js" */

const PATIENCE = 5000; // milliseconds after which another request is sent even without a reply
const STEPS = 500; // minimum number of steps from end to end
const TODAY = 10; // characters of a date

// Requests moments from the kernel, one at a time.
export class Travel {
  #say;
  #clock;
  #since = 0;
  #flying = false;
  #answers = -1;
  /** @type {{ at: number | null } | null} */
  #wanted = null;

  /** @param {(at: number | null) => void} say @param {() => number} clock milliseconds */
  constructor(say, clock = Date.now) {
    this.#say = say;
    this.#clock = clock;
  }
  // Whether the shown moment is not yet the requested one.
  get pending() {
    return this.#wanted !== null || (this.#flying && this.#clock() - this.#since < PATIENCE);
  }
  ask(/** @type {number | null} */ at) {
    this.#wanted = { at };
    this.#next();
  }
  // Takes the number of requests that the kernel has answered.
  heard(/** @type {number} */ answers) {
    if (answers === this.#answers) return;
    this.#answers = answers;
    this.#flying = false;
    this.#next();
  }
  #next() {
    if (!this.#wanted || (this.#flying && this.#clock() - this.#since < PATIENCE)) return;
    const { at } = this.#wanted;
    this.#wanted = null;
    this.#flying = true;
    this.#since = this.#clock();
    this.#say(at);
  }
}

// The step of the slider in milliseconds: 1, 2 or 5 times a power of ten.
export function stepOf(/** @type {number} */ span) {
  const least = Math.max(span / STEPS, 10);
  const ten = 10 ** Math.floor(Math.log10(least));
  return [1, 2, 5, 10].map((n) => n * ten).find((step) => step >= least - 1e-9) ?? 10 * ten;
}

// A moment as readable text: today's without the date; with tenths of a second if they matter.
export function momentText(/** @type {number} */ micros, /** @type {number} */ now, fine = false) {
  const text = timeText(Math.floor(micros / 1e5) * 1e5, false);
  const [day, time] = [text.slice(0, TODAY), text.slice(TODAY + 1)];
  const short = fine ? time.slice(0, 8) + (time.slice(8, 10) || ".0") : time.slice(0, 8);
  return day === timeText(now, false).slice(0, TODAY) ? short : `${day} ${short}`;
}

// The position of a gap, in percent from the left, and its width.
/** @returns {[left: number, width: number]} */
export function gapPlace(/** @type {[since: number, until: number | null, ...rest: unknown[]]} */ [since, until], /** @type {number} */ began, /** @type {number} */ now) {
  const at = (/** @type {number} */ micros) => (100 * Math.min(Math.max(micros - began, 0), now - began)) / Math.max(now - began, 1);
  return [at(since), at(until ?? now) - at(since)];
}

// `may` is called before the live table is left.
export function timeSlider(/** @type {(at: number | null) => void} */ say, may = () => true) {
  const travel = new Travel(say);
  const from = h("span", { class: "nrt-past-from nrt-soft" });
  const gaps = h("span", { class: "nrt-past-gaps", "aria-hidden": "true" });
  const told = h("span", { class: "nrt-hear", id: `nrt-${Math.random().toString(36).slice(2)}` });
  const input = h("input", { type: "range", class: "nrt-past-range", min: "0", "aria-label": "Show the table as it was", "aria-describedby": told.id });
  const at = h("span", { class: "nrt-past-at" }); // both in one place, so that the slider keeps its length
  const live = h("button", { type: "button", class: "nrt-button nrt-past-live", onclick: () => travel.ask(null) });
  const note = h("p", { class: "nrt-note", role: "status" });
  const bar = h("div", { class: "nrt-past", role: "group", "aria-label": "Time" }, h("span", { class: "nrt-past-when" }, from, at), h("span", { class: "nrt-past-track" }, gaps, input), told, live);
  bar.hidden = note.hidden = true;
  /** @type {Past | null} */
  let past = null;
  let received = 0;
  let dragging = false;
  /** @type {{ began: number, now: number, step: number } | null} */
  let scale = null; // does not change during a drag

  const now = () => (past ? past.now + (Date.now() - received) * 1000 : 0);
  const measure = () => {
    if (!past || (dragging && scale)) return;
    scale = { began: past.began, now: Math.max(now(), past.began + 1e6), step: stepOf((now() - past.began) / 1000) };
  };
  const most = () => (scale ? Math.ceil((scale.now - scale.began) / 1000 / scale.step) * scale.step : 1);
  // The moment at the slider's position; null for the live table.
  const meant = () => (!scale || Number(input.value) * 1000 >= scale.now - scale.began ? null : scale.began + Number(input.value) * 1000);

  function label(/** @type {number | null} */ moment) {
    const text = moment === null ? "" : momentText(moment, now(), (scale?.step ?? 0) < 1000);
    setText(at, moment === null || text.length > TODAY + 1 ? text : `${text}, ${ago(new Date(moment / 1000).toISOString(), now() / 1000)}`);
    input.setAttribute("aria-valuetext", moment === null ? "live" : `as of ${text}${past?.gap ? ", changes may be missing" : ""}`);
    bar.toggleAttribute("data-at", moment !== null);
    setText(live, moment === null ? "Live" : "Back to live");
    live.disabled = moment === null;
  }

  function paint() {
    if (!past) return;
    measure();
    if (!scale) return;
    setText(from, `Recorded since ${momentText(scale.began, now())}`);
    input.max = String(most());
    input.step = String(scale.step);
    if (!dragging && !travel.pending) {
      input.value = String(past.at === null ? most() : Math.min((past.at - scale.began) / 1000, most() - scale.step));
      label(past.at);
    }
    const { began, now: end } = scale;
    gaps.replaceChildren(...past.gaps.map((gap) => {
      const [left, width] = gapPlace(gap, began, end);
      const node = h("span", { class: "nrt-past-gap" });
      node.style.left = `${left}%`;
      node.style.width = `${width}%`;
      return node;
    }));
    const n = past.gaps.length;
    setText(told, n ? `Changes may be missing ${n === 1 ? "once" : `${n} times`}: ${past.gaps.map((gap) => lostText(gap, now())).join("; ")}` : "");
    input.title = told.textContent ?? "";
  }

  function sentence() {
    if (!past) return "";
    if (past.why) return past.why;
    if (!past.gap) return "";
    const [since, until, reason, known] = past.gap;
    return `Changes may be missing here, ${lostText([since, until, reason], now())}. This is what was known at ${momentText(known, now(), true)}, and what was heard since.`;
  }

  input.addEventListener("input", () => {
    const moment = meant();
    if (past?.at === null && moment !== null && !travel.pending && !may()) {
      dragging = false;
      input.value = input.max;
      return;
    }
    label(moment);
    travel.ask(moment);
  });
  input.addEventListener("pointerdown", () => {
    paint(); // with the current time, then fixed, like the width: another moment's text may be wider
    bar.style.width = `${bar.offsetWidth}px`;
    dragging = true;
  });
  for (const end of ["pointerup", "pointercancel", "change"]) input.addEventListener(end, () => {
    dragging = false;
    bar.style.width = "";
    paint();
  });
  input.addEventListener("keydown", (event) => {
    event.stopPropagation();
    if (event.key === "Escape" && past?.at !== null) travel.ask(null);
  });
  const timer = setInterval(paint, 1000);
  return {
    nodes: [bar, note],
    draw(/** @type {Past | null} */ next) {
      past = next;
      received = Date.now();
      bar.hidden = !past;
      if (past) travel.heard(past.answers);
      const text = sentence();
      setText(note, text);
      note.hidden = !text;
      paint();
    },
    close: () => clearInterval(timer),
  };
}

// When and why changes may be missing.
export function lostText(/** @type {[since: number, until: number | null, reason: string]} */ [since, until, reason], /** @type {number} */ now) {
  const fine = until !== null && until - since < 1e7;
  const from = momentText(since, now, fine);
  return `${until === null ? `since ${from}` : `from ${from} to ${momentText(until, now, fine)}`} (${reason})`;
}
