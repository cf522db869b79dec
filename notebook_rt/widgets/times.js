// Dates and times, typed in the form in which the grid shows them; and converted to the form that the kernel
// reads.
import { timeText } from "./cell.js";

/** @import { Shape } from "./protocol.js" */

const WRITTEN = /^\s*(\d{4,5})-(\d\d?)-(\d\d?)(?:[ T]+(\d\d?):(\d\d)(?::(\d\d)(?:[.,](\d{1,6})\d*)?)?\s*(Z|[+-]\d\d(?::?\d\d)?)?)?\s*$/i;

export const isTime = (/** @type {Shape} */ shape) => shape === "date" || shape === "timestamp" || shape === "timestamptz";

// The editor's initial text: the kernel's text in the cell's form. A text that is not a time is unchanged.
export function shownTime(/** @type {Shape} */ shape, /** @type {string} */ text) {
  if (shape === "timestamp") return text.replace("T", " ");
  if (shape !== "timestamptz") return text;
  const ms = Date.parse(text);
  if (Number.isNaN(ms)) return text;
  const micros = Number((/\.(\d+)/.exec(text)?.[1] ?? "").padEnd(6, "0").slice(0, 6));
  return timeText(Math.floor(ms / 1000) * 1e6 + micros, false);
}

// A typed text in the form that the kernel reads: a time without a zone is in this browser's zone. Null if it
// is not a time.
/** @returns {string | null} */
export function readTime(/** @type {Shape} */ shape, /** @type {string} */ text) {
  const found = WRITTEN.exec(text);
  if (!found) return null;
  const [, year, month, day, hour = "0", minute = "0", second = "0", fraction = "", zone = ""] = found;
  const [y, mo, d, h, mi, s] = [year, month, day, hour, minute, second].map(Number);
  const utc = new Date(Date.UTC(y, mo - 1, d, h, mi, s));
  if (utc.getUTCMonth() !== mo - 1 || utc.getUTCDate() !== d || h > 23 || mi > 59 || s > 59) return null;
  const written = utc.toISOString().slice(0, 19);
  if (shape === "date") return found[4] === undefined ? written.slice(0, 10) : null;
  const rest = fraction && `.${fraction}`;
  if (shape === "timestamp") return zone ? null : written + rest;
  if (zone) return written + rest + zone.toUpperCase();
  return new Date(y, mo - 1, d, h, mi, s).toISOString().slice(0, 19) + rest + "Z";
}

export const EXAMPLE = { date: "2026-03-31", timestamp: "2026-03-31 14:30", timestamptz: "2026-03-31 14:30" };
