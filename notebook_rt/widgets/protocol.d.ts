// The messages between kernel and browser, in both directions (explained in docs/design/widget-protocol.md).

/** The position of an array in the message's buffer: offset and length in bytes. */
export type Span = [offset: number, length: number];
export type Kind = "number" | "bool" | "instant" | "local" | "text";
export type Value = number | string;
export type Shape = "text" | "json" | "number" | "integer" | "bool" | "date" | "timestamp" | "timestamptz";

/** Cells of one column: 64-bit floats, or concatenated UTF-8 texts with the byte where each ends. */
export interface Cells {
  kind: Kind;
  flags: Span;
  values: Span;
  ends?: Span;
}

export interface Column {
  name: string;
  type: string;
  shape: Shape;
  key: boolean;
  editable: boolean;
  nullable: boolean;
  needed: boolean;
  filled: boolean;
  choices: string[];
  format: string;
  /** How cells are drawn; or texts to colours. */
  style: "" | "bar" | "color" | "updown" | Record<string, string>;
  /** The function of its total; empty if it has none. */
  total: string;
}

export type Sort = [column: number, ascending: boolean][];
export type Run = [first: number, last: number];
/** Row in the window, column (-1: the whole row), kind, and further data of the kind. */
export type MarkSent = [row: number, column: number, kind: MarkKind, ...more: any[]];
export type MarkKind = "sending" | "pending" | "failed" | "conflict";

/** Sent with a window; in `cells` only what has changed. */
export interface Around {
  total?: number;
  sort?: Sort;
  filter?: string;
  /** Why the filter does not do what it appears to. */
  trouble?: string;
  /** Minimum and maximum of a column over the rows shown. */
  ranges?: [column: number, low: number, high: number][];
  totals?: [column: number, value: number | string | null][];
  /** The number of rows without headings; the column that they are grouped by, empty if none; and the headings
   * in the window. */
  rows?: number;
  group?: string;
  groups?: [line: number, text: string, rows: number, open: boolean, totals: [column: number, value: number | string | null][]][];
  leaving?: number;
  status?: string;
  note?: string;
  gone?: number[];
  marks?: MarkSent[];
  anchor?: number;
  selection?: Run[] | null;
  past?: Past | null;
}

/** A time in which changes may be missing; until null: ongoing. */
export type Lost = [since: number, until: number | null, reason: string];
/** The time slider's data; times in microseconds since 1970, by the server's clock. Null: nothing recorded. */
export interface Past {
  began: number;
  now: number;
  /** The moment that is shown; null for the live table. */
  at: number | null;
  gaps: Lost[];
  /** The gap that contains the moment, and the latest earlier moment at which the table was known. */
  gap: [...Lost, known: number] | null;
  /** Why the requested moment is not shown. */
  why: string;
  /** Number of answered requests. */
  answers: number;
}

export interface Head {
  name: string;
  /** The caption above the grid, instead of the name; empty: the name. */
  title: string;
  columns: Column[];
  height: number;
  add: boolean;
  remove: boolean;
  /** Number of columns that stay at the left, and of hidden ones. */
  pinned: number;
  hidden: number;
  /** The number of this column layout: a view's messages refer to columns by it. */
  layout: number;
}

interface Filled extends Around {
  first: number;
  rids: Span;
  cols: Cells[];
}

export type GridMessage = { t: "grid"; samples?: Cells[] } & Head & Filled;
export type WindowMessage = { t: "window" } & Filled;
export type CellsMessage = { t: "cells"; cols: ({ c: number; rows: Span } & Cells)[] } & Around;
/** A part of a file, in the buffer; or why there is none. */
export type FileReply = { kind: "file"; part: number; parts: number; name?: string; rows?: number; why?: string };
/** The history of a cell or a row, newest first; or why nothing is known, and below that the code that
 * records. */
export interface HistoryReply {
  kind: "history";
  steps?: Happened[];
  earlier?: number;
  began?: number;
  cols?: (Pick<Column, "name" | "shape" | "format"> & Cells)[];
  why?: string;
}
export interface Happened {
  kind: "snapshot" | "insert" | "update" | "delete" | "gap";
  at: number;
  /** Whether the time is that of the commit; else that of a read. */
  heard?: boolean;
  who?: string;
  /** The column's position, and those of the old and the new value in it. */
  cells?: [column: number, old: number | null, now: number | null][];
  more?: number;
  /** For a gap. */
  until?: number | null;
  why?: string;
}
export type ReplyMessage = { t: "reply"; rid?: number; c?: number } & (
  | { kind: "refused"; why: string }
  | { kind: "said"; text: string; undo?: number }
  | { kind: "inserted"; row: number }
  | { kind: "text"; text: string }
  | { kind: "copy"; text: string; rows: number }
  | FileReply
  | HistoryReply
);

export interface Health {
  state: string;
  word: string;
  colour: "green" | "yellow" | "red" | "grey";
  sentences: string[];
  audits: string;
  latency: number | null;
  trends: Trend[];
  metrics: [name: string, value: string][];
  usage: string;
  limits: string[];
  error: string | null;
  compared: string;
  comparing: boolean;
}
export interface Trend {
  name: string;
  meaning: string;
  now: string;
  points: (number | null)[];
}
export interface Write {
  id: string;
  what: string;
  state: "waiting" | "sending" | "failed" | "asking" | "parked";
  why: string;
  attempts: number;
  at: string | null;
  payload: string;
}
export interface Queue {
  total: number;
  failed: number;
  writes: Write[];
}
export interface Person {
  id: string;
  name: string;
  initials: string;
  hue: number;
  idle: boolean;
  you: boolean;
  joined: string | null;
}
export interface Presence {
  total: number;
  faces: number;
  people: Person[];
}
export interface Note {
  id: number;
  kind: "merged" | "conflict" | "queued" | "failed" | "live" | "unavailable" | "limit" | "info";
  text: string;
  at: string;
}
export interface Notes {
  earlier: number;
  lines: Note[];
}
/** Each widget has some of the parts; in a status bar they may be null. */
export type StateMessage = { t: "state"; health: Health; queue: Queue; presence: Presence; notes: Notes };

export type ChartMessage = { t: "chart"; spec: any; name: string; names: string[]; cols: Cells[]; label: string; foot: string; note: string; past: Past | null };
export type DataMessage = { t: "data"; cols: Cells[]; label: string; foot: string; note: string; past: Past | null };
export type NoteMessage = { t: "note"; note: string; past: Past | null };

/** `ack`: it requests an acknowledgement. */
export type Numbered<M> = M & { seq: number; whole: boolean; ack: boolean; to?: string };
/** The messages that a widget draws. */
export type Drawn = GridMessage | WindowMessage | CellsMessage | ReplyMessage | StateMessage | ChartMessage | DataMessage | NoteMessage;
/** Not numbered, not acknowledged. */
export type Unnumbered =
  | { t: "gone"; why: string }
  | { t: "library"; name: string; error?: string }
  | { t: "static"; html: string };
export type FromKernel = Numbered<Drawn | { t: "beat" }> | Unnumbered;

/** Messages of a view; each has `view`, its name, and for a grid `layout`, to which its columns refer. */
export type ToKernel =
  | { t: "look" | "leave" | "visible" | "hidden" | "online" | "offline" }
  | { t: "ack"; seq: number }
  | { t: "library"; name: string }
  | { t: "static" }
  | { t: "verify" }
  | { t: "retry" | "discard"; id: string }
  | { t: "dismiss"; id: number }
  | { t: "window"; first: number; last: number; anchor: [rid: number, row: number] | null }
  | { t: "sort"; by: Sort }
  | { t: "filter"; text: string }
  | { t: "only"; rid: number; c: number }
  | { t: "columns"; act: "hide" | "pin" | "unpin"; c: number }
  | { t: "columns"; act: "all" }
  | { t: "group"; c?: number }
  | { t: "toggle"; rid: number }
  | { t: "export"; as: "csv" | "xlsx"; part: number }
  | { t: "hold"; on: boolean }
  | { t: "edit"; rid: number; c: number; value: string | null; was?: string | null }
  | { t: "insert"; rid: 0; cells: [column: number, text: string | null][] }
  | { t: "delete"; rids?: number[] }
  | { t: "doubt" | "undo" }
  | { t: "select"; rows: Run }
  | { t: "copy"; range: [first: number, last: number, left: number, right: number]; as?: "csv" }
  | { t: "paste"; rid: number; c: number; cells: string[][] }
  | { t: "text"; rid: number; c: number }
  | { t: "past"; at?: number }
  | { t: "history"; rid: number; c?: number }
  | { t: "resolve"; rid: number; c?: number; choice: Choice };
export type Choice = "mine" | "theirs";

export type Say = (word: ToKernel) => void;
/** The part of anywidget's model that is used here. */
export interface Model {
  send(content: unknown): void;
  on(event: string, listener: (...args: any[]) => void): void;
  off(event: string, listener: (...args: any[]) => void): void;
}
