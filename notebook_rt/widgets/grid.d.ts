// What the parts of the live grid share: who owns which state is in docs/design/widget-protocol.md.
import type { Answers, Focus, Screen, Table } from "./gridstate.js";
import type { Kind, MarkKind, Say, Value } from "./protocol.js";

export interface Mark {
  kind: MarkKind;
  why?: string;
  /** What the cell shows while it is being sent. */
  text?: string;
  /** A conflict of a cell: what it was, and what both sides made of it. */
  base?: string;
  mine?: string;
  theirs?: string;
  lost?: boolean;
  /** A conflict of a row: who deleted it, and what the other changed in it. */
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
  /** Of a heading: the value that its rows have, how many they are, and their totals by column. */
  group?: Group;
  /** Of a row that is being typed: what was typed, by column. */
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

/** Frozen: nobody adds to it or replaces a part of it. */
export interface View {
  readonly body: HTMLElement;
  readonly holder: HTMLElement;
  readonly say: Say;
  readonly screen: Screen;
  readonly table: Table;
  readonly focus: Focus;
  readonly answers: Answers;
  /** Says a sentence below the grid; an empty one takes it away. */
  tell(text: string, seconds?: number): void;
  /** Says in the bar what was done, and for how many seconds it can be undone. */
  hear(text: string, undo?: number, stay?: boolean): void;
  /** Draws what SlickGrid leaves to us on every row. */
  paint(): void;
  /** The number of rows has changed. */
  recount(): void;
  /** Tells the kernel whether an editor is open, if that is another answer than before. */
  hold(): void;
}
