// How a cell is drawn by its value: a bar, a colour, up or down. Input: the value and the range of its
// column's shown rows. Output: classes, CSS custom properties, and an arrow; never text from a value.
import { isNull } from "./decode.js";

/** @import { Column } from "./protocol.js" */
/** @import { Read } from "./grid.js" */
/** @typedef {{ classes: string[], props: Record<string, string>, arrow: string }} Look */

const percent = (/** @type {number} */ share) => `${Math.round(1000 * Math.min(1, Math.max(0, share))) / 10}%`;

// A number that is always the same for a text, up to 360.
export function hueOf(/** @type {string} */ text) {
  let hash = 2166136261;
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 16777619);
  return (hash >>> 0) % 360;
}

/** @param {Column} column @param {Read} row @param {number} c @param {[low: number, high: number] | undefined} range @param {string} text @returns {Look | null} */
export function lookOf({ style, shape }, row, c, range, text) {
  if (!style) return null;
  const of = (/** @type {string[]} */ classes, props = {}, arrow = "") => ({ classes, props, arrow });
  if (typeof style === "object") return Object.hasOwn(style, text) ? of(["nrt-tag", `nrt-in-${style[text]}`]) : null;
  if (isNull(row, c)) return null;
  const value = Number(row.v[c]);
  const numeric = (shape === "number" || shape === "integer") && Number.isFinite(value);
  if (!numeric) return style === "color" && shape !== "json" ? of(["nrt-tag", "nrt-in-hue"], { "--nrt-hue": String(hueOf(text)) }) : null;
  if (style === "updown") return value > 0 ? of(["nrt-up"], {}, "▲") : value < 0 ? of(["nrt-down"], {}, "▼") : null;
  if (!range) return null;
  const [low, high] = range;
  if (style === "color") {
    if (low < 0 && high > 0) return of([value < 0 ? "nrt-heat-down" : "nrt-heat-up"], { "--nrt-heat": percent(Math.abs(value) / Math.max(-low, high)) });
    return of(["nrt-heat"], { "--nrt-heat": percent(high > low ? (value - low) / (high - low) : 0.5) });
  }
  const [left, right] = [Math.min(0, low), Math.max(0, high)];
  const at = (/** @type {number} */ n) => (n - left) / (right - left || 1);
  return of(["nrt-bar", value < 0 ? "nrt-bar-down" : "nrt-bar-up"], { "--nrt-from": percent(at(Math.min(0, value))), "--nrt-to": percent(at(Math.max(0, value))) });
}
