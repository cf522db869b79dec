// Shared by the parts of the live grid; docs/design/widget-protocol.md lists the owner of each state.
import type { Answers, Focus, Screen, Table } from "./gridstate.js";
import type { Kind, MarkKind, Say, Value } from "./protocol.js";

export interface Mark {
  kind: MarkKind;
  why?: string;
  /** The text of the cell while it is being sent. */
  text?: string;
  /** A conflict of a cell: the original value, and those of both sides. */
  base?: string;
  mine?: string;
  theirs?: string;
  lost?: boolean;
  /** A conflict of a row: who deleted it, and what the other side changed in it. */
  deleted?: "mine" | "theirs";
  told?: [name: string, before: string, now: string][];
  more?: number;
  say?: string;
}

/** The values, flags and kinds of a row, by column. */
export interface Read {
  v: Value[];
  f: number[];
  k: Kind[];
}
export interface Row extends Read {
  rid: number;
  at: number;
  m: Map<number, Mark> | null;
  gone: boolean;
  /** For a heading: the value of its rows, their number, and their totals by column. */
  group?: Group;
  /** For a new row: the typed texts, by column. */
  texts?: Map<number, string | null>;
  saving?: boolean;
}
export interface Group {
  text: string;
  rows: number;
  open: boolean;
  totals: Map<number, number | string | null>;
}
export type Draft = Row & { texts: Map<number, string | null> };

export interface Format {
  learn(values: ArrayLike<Value>): boolean;
  text(row: Read, c: number): string;
  typed(row: Read, c: number): string | null;
  hint(row: Read, c: number): string;
}

export interface Cell {
  row: number;
  cell: number;
}
export interface Active {
  rid: number;
  cell: number;
}
export interface Selected {
  runs: [first: number, last: number][];
  left: number;
  right: number;
  from: [row: number, cell: number];
  to: [row: number, cell: number] | null;
}

/** Frozen: parts cannot be added or replaced. */
export interface View {
  readonly body: HTMLElement;
  readonly holder: HTMLElement;
  readonly say: Say;
  readonly screen: Screen;
  readonly table: Table;
  readonly focus: Focus;
  readonly answers: Answers;
  /** Shows a sentence below the grid; an empty one removes it. */
  tell(text: string, seconds?: number): void;
  /** Shows in the bar what was done, and for how many seconds it can be undone. */
  hear(text: string, undo?: number, stay?: boolean): void;
  /** Draws what SlickGrid does not draw on rows. */
  paint(): void;
  /** The number of rows has changed. */
  recount(): void;
  /** Reports to the kernel whether an editor is open, if that has changed. */
  hold(): void;
}
