"""``Record``: the changes of a table with one schema since a moment, and its state at any moment since.

In: operations on rows, each with its commit time if known. They are noted on arrival and packed into
columns by the thousand: time, row, kind, cause and values. A state is assembled from a *base*, the state at
the beginning, and the last change of each row until then, for all rows at once.

Times are microseconds since 1970 by the server's clock and never decrease: a late change is recorded at
the time of the change before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Final, cast

import msgspec
import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from notebook_rt.model.rows import Delete, Key, Op, Row
from notebook_rt.model.types import Schema
from notebook_rt.store.column import Parts
from notebook_rt.store.dense import Positions
from notebook_rt.sync.history import pieces

INSERT: Final = 0
UPDATE: Final = 1
DELETE: Final = 2
NOTHING: Final = 3
"""The deletion of a row that does not exist; it is not recorded."""
KINDS: Final = ("insert", "update", "delete")

BATCH: Final = 1024
"""Number of operations noted before they are packed."""
FAN: Final = 16
"""Number of chunks of one size that are merged into one of the next."""
NOTED_BYTES: Final = 400
"""Estimated bytes of a noted operation."""


class Chunk(msgspec.Struct, frozen=True, eq=False, dict=True):
    """Packed changes in their order."""

    times: NDArray[np.int64]
    ids: NDArray[np.int32]
    """The number of the row; a key keeps its number."""
    kinds: NDArray[np.uint8]
    causes: NDArray[np.uint8]
    columns: Mapping[str, Parts]
    """The row after the change; for a deletion only the key."""
    given: Mapping[str, NDArray[np.bool_]]
    """For a column that some changes did not contain: which did. Deletions contain no values."""
    level: int = 0

    def __len__(self) -> int:
        return len(self.times)

    @cached_property
    def nbytes(self) -> int:
        """Bytes of memory in use."""
        each = self.times.nbytes + self.ids.nbytes + self.kinds.nbytes + self.causes.nbytes
        each += sum(one.nbytes for one in self.given.values())
        return each + sum(map(pieces.nbytes, self.columns.values()))

    def part(self, start: int, stop: int) -> Chunk:
        """Return a copy of the changes from ``start`` to ``stop``."""
        places = np.arange(start, stop)
        return Chunk(
            self.times[places],
            self.ids[places],
            self.kinds[places],
            self.causes[places],
            {name: pieces.pick(parts, places) for name, parts in self.columns.items()},
            {name: mask[places] for name, mask in self.given.items()},
            self.level,
        )


class RecordedChanges(msgspec.Struct, frozen=True, eq=False):
    """Changes between two moments, in their order: columns of equal length."""

    schema: Schema
    times: NDArray[np.int64]
    kinds: NDArray[np.uint8]
    causes: NDArray[np.uint8]
    new: Mapping[str, Parts]
    """The rows after each change; for a deletion, before it."""
    old: Mapping[str, Parts]
    """The rows before each change; for an insert, after it."""

    def __len__(self) -> int:
        return len(self.times)


def microseconds(at: float) -> int:
    """Convert seconds since 1970 to microseconds."""
    return round(at * 1e6)


def span_of(times: Sequence[float | None]) -> tuple[int, int] | None:
    """Return the earliest and latest of some times, in microseconds; None if one is unknown."""
    try:
        return microseconds(min(times)), microseconds(max(times))  # type: ignore[type-var,arg-type]  # see below
    except TypeError:  # None is neither smaller than a number nor one
        return None


class _Noted(msgspec.Struct):
    ops: Sequence[Op]
    times: Sequence[float | None]
    cause: int
    now: int


class _Whole(msgspec.Struct, eq=False):
    """The base and the changes after it as one list of places."""

    ids: NDArray[np.int32]
    kinds: NDArray[np.uint8]
    columns: Sequence[tuple[Mapping[str, Parts], int]]
    """Columns, and how many of their values are valid."""
    given: Sequence[Mapping[str, NDArray[np.bool_]]]


class Record:
    """The changes of a table since a moment; see the module docstring.

    Parameters
    ----------
    base : mapping of str to Parts
        The state at the beginning: one entry for each column of ``schema``.
    began : int
        The time of the beginning.
    """

    def __init__(self, schema: Schema, base: Mapping[str, Parts], began: int) -> None:
        self.schema = schema
        self.began = began
        """The earliest moment whose state is known."""
        self._base = dict(base)
        self._keys = pieces.numbered(schema, base)
        rows = len(self._keys)
        self._base_ids = np.arange(rows, dtype="int32")
        self._there = bytearray(b"\1" * rows)
        """For each row whether it exists after all packed changes."""
        self._chunks: list[Chunk] = []
        self._noted: list[_Noted] = []
        self._noted_ops = 0
        self.on_packed: Callable[[Chunk], object] | None = None
        """Called with each newly packed chunk."""
        self._last = (
            began + 1
        )  # the server sends milliseconds: changes after the beginning are later
        self.latest = self._last
        """A lower bound of `last` once all noted operations are packed."""
        self._base_bytes = sum(map(pieces.nbytes, self._base.values()))

    def __len__(self) -> int:
        """Number of recorded changes."""
        return sum(map(len, self._chunks)) + self._noted_ops

    @property
    def last(self) -> int:
        """The time of the last change, or the beginning."""
        self.pack()
        return self._last

    @property
    def base_rows(self) -> int:
        """Number of rows at the beginning."""
        return len(self._base_ids)

    @property
    def nbytes(self) -> int:
        """Bytes of memory in use."""
        packed = sum(chunk.nbytes for chunk in self._chunks)
        ids = self._base_ids.nbytes + self._keys.nbytes + len(self._there)
        return self._base_bytes + packed + ids + self._noted_ops * NOTED_BYTES

    def add(self, ops: Sequence[Op], times: Sequence[float | None], cause: int, now: int) -> None:
        """Note ``ops``, which must not be modified later, and their times; ``now`` replaces None."""
        if ops:
            self._noted.append(_Noted(ops, times, cause, now))
            span = span_of(times)
            if span is not None:
                self.latest = max(self.latest, span[1])
            else:
                told = (now if at is None else microseconds(at) for at in times)
                self.latest = max(self.latest, *told)
            self._noted_ops += len(ops)
            if self._noted_ops >= BATCH:
                self.pack()

    def close(self) -> None:
        """Ensure that no later change has the time of the last one."""
        self.pack()
        self._last += 1
        self.latest = max(self.latest, self._last)

    # Packing --------------------------------------------------------------------------------------

    def pack(self) -> None:
        """Pack the noted operations into columns."""
        if not self._noted:
            return
        noted, self._noted, self._noted_ops = self._noted, [], 0
        ops = [op for one in noted for op in one.ops]
        keys = [op.key for op in ops]
        ids, kinds, rows = self._numbered(ops, keys)
        sizes = [len(one.ops) for one in noted]
        causes = np.repeat(np.array([one.cause for one in noted], "uint8"), sizes)
        nows = np.repeat(np.array([one.now for one in noted], "int64"), sizes)
        at = np.array([at for one in noted for at in one.times], "float64")  # None becomes NaN
        if NOTHING in kinds:
            kept = [place for place, kind in enumerate(kinds) if kind != NOTHING]
            keys = [keys[place] for place in kept]
            ids = ids[kept]
            rows = [rows[place] for place in kept]
            kinds = bytearray(kinds[place] for place in kept)
            causes, nows, at = causes[kept], nows[kept], at[kept]
        if not len(ids):
            return
        known = ~np.isnan(at)
        nows[known] = np.rint(at[known] * 1e6)
        times = np.maximum.accumulate(np.maximum(nows, self._last))
        self._last = int(times[-1])
        columns, given = self._columns(keys, rows, kinds)
        chunk = Chunk(times, ids, np.frombuffer(kinds, "uint8"), causes, columns, given)
        self._chunks.append(chunk)
        self._merge()
        if self.on_packed is not None:
            self.on_packed(chunk)

    def _numbered(
        self, ops: Sequence[Op], keys: Sequence[Key]
    ) -> tuple[NDArray[np.int32], bytearray, list[Row]]:
        """Return for each operation the row's number, the kind, and the row after it."""
        there = self._there
        if Delete not in set(map(type, ops)):
            found = self._keys.all_numbers(keys)
            if found is not None and np.frombuffer(there, "uint8")[found].all():
                rows = [op.row for op in ops]  # type: ignore[union-attr]  # Upserts
                return found.astype("int32"), bytearray([UPDATE]) * len(ops), rows
        known = self._keys.numbers(keys)
        blank: Row = dict.fromkeys(self.schema.names)
        new: list[tuple[Key, int]] = []
        ids: list[int] = []
        kinds = bytearray()
        rows = []
        for op in ops:
            key = op.key
            number = known.get(key)
            if op.__class__ is Delete:
                if number is None or not there[number]:
                    number, kind = -1, NOTHING
                else:
                    there[number], kind = 0, DELETE
                row = blank
            else:
                row = op.row  # type: ignore[union-attr]  # an Upsert: checked above, faster than isinstance
                if number is None:
                    number = known[key] = len(there)
                    new.append((key, number))
                    there.append(1)
                    kind = INSERT
                elif there[number]:
                    kind = UPDATE
                else:
                    there[number], kind = 1, INSERT
            ids.append(number)
            kinds.append(kind)
            rows.append(row)
        if new:
            self._keys.update(new)
            self._keys.compact()
        return np.array(ids, "int32"), kinds, rows

    def extend(self, chunk: Chunk) -> None:
        """Continue with changes packed by another record, whose row numbers may differ."""
        self.pack()
        keys = pieces.keys_of(self.schema, chunk.columns)
        known = self._keys.numbers(list(set(keys)))
        there = self._there
        new: list[tuple[Key, int]] = []
        ids = []
        for key, kind in zip(keys, chunk.kinds.tolist(), strict=True):
            number = known.get(key)
            if number is None:
                number = known[key] = len(there)
                new.append((key, number))
                there.append(0)
            there[number] = kind != DELETE
            ids.append(number)
        if new:
            self._keys.update(new)
            self._keys.compact()
        self._last = max(self._last, int(chunk.times[-1]))
        self.latest = max(self.latest, self._last)
        self._chunks.append(replace(chunk, ids=np.array(ids, "int32"), level=0))
        self._merge()

    def _columns(
        self, keys: Sequence[Key], rows: Sequence[Row], kinds: Sequence[int]
    ) -> tuple[dict[str, Parts], dict[str, NDArray[np.bool_]]]:
        schema = self.schema
        parts: Iterable[Any] = [keys]
        if len(schema.key) > 1:
            parts = zip(*cast("Sequence[tuple[Any, ...]]", keys), strict=True)
        given: dict[str, NDArray[np.bool_]] = {}
        lists: dict[str, Sequence[Any]] = dict(zip(schema.key, map(list, parts), strict=True))
        others = [name for name in schema.names if name not in lists]
        try:
            lists.update(pieces.transposed(rows, others))
        except KeyError:
            for name in others:
                try:
                    lists[name] = [row[name] for row in rows]
                except KeyError:  # of partial rows: an unchanged value may be too large to be sent
                    lists[name] = [row.get(name) for row in rows]
                    told = zip(kinds, rows, strict=True)
                    given[name] = np.array([of == INSERT or name in row for of, row in told], bool)
        types, numeric = schema.types, schema.numeric
        return {name: pieces.pack(lists[name], types[name], numeric) for name in types}, given

    def _merge(self) -> None:
        """Merge chunks of one size if there are many."""
        while len(self._chunks) >= FAN:
            some = self._chunks[-FAN:]
            if some[0].level != some[-1].level:
                return
            self._chunks[-FAN:] = [replace(self._joined(some), level=some[0].level + 1)]

    def _joined(self, chunks: Sequence[Chunk]) -> Chunk:
        schema = self.schema
        partly = {name for chunk in chunks for name in chunk.given}
        return Chunk(
            np.concatenate([chunk.times for chunk in chunks]),
            np.concatenate([chunk.ids for chunk in chunks]),
            np.concatenate([chunk.kinds for chunk in chunks]),
            np.concatenate([chunk.causes for chunk in chunks]),
            {
                name: pieces.join([chunk.columns[name] for chunk in chunks], of, schema.numeric)
                for name, of in schema.types.items()
            },
            {
                name: np.concatenate(
                    [chunk.given.get(name, np.ones(len(chunk), bool)) for chunk in chunks]
                )
                for name in partly
            },
        )

    def renumber_causes(self, numbers: NDArray[np.uint8]) -> None:
        """Replace the number of each cause by the entry of ``numbers`` at its place."""
        self.pack()
        self._chunks = [replace(chunk, causes=numbers[chunk.causes]) for chunk in self._chunks]

    # Reading --------------------------------------------------------------------------------------

    def at(self, when: int) -> dict[str, Parts]:
        """Return the columns of the state at ``when``, in the table's order; not before the beginning."""
        self.pack()
        whole = self._until(when)
        return self._rows(whole, self._shown(whole))

    @property
    def base(self) -> dict[str, Parts]:
        """Return the state before the first change."""
        return {name: parts.own() for name, parts in self._base.items()}

    def changes_between(self, after: int, until: int, key: Key | None = None) -> RecordedChanges:
        """Return the changes after one moment up to another, of all rows or of one."""
        self.pack()
        whole = self._until(until)
        times = np.concatenate(
            [
                np.full(len(self._base_ids), self.began),
                *(chunk.times for chunk in self._chunks),
            ]
        )[: len(whole.ids)]
        causes = np.concatenate(
            [np.zeros(len(self._base_ids), "uint8"), *(chunk.causes for chunk in self._chunks)]
        )[: len(whole.ids)]
        wanted = np.arange(len(whole.ids)) >= len(self._base_ids)
        wanted &= times > after
        considered: Positions = np.arange(len(whole.ids))
        if key is not None:
            number = self._keys.get(key)
            considered = np.flatnonzero(whole.ids == (-1 if number is None else number))
        # Sorted by row, then time: the previous state of a row stands right before each change.
        order = considered[np.argsort(whole.ids[considered], kind="stable")]
        picked = np.flatnonzero(wanted[order])
        picked = picked[np.argsort(order[picked], kind="stable")]
        found = order[picked]
        kinds = whole.kinds[found]
        new, old = {}, {}
        for name in self.schema.names:
            told = self._gives(whole, name)[order]
            sources = np.maximum.accumulate(np.where(told, np.arange(len(order)), 0))
            before = np.where(kinds == INSERT, picked, picked - 1)
            new[name] = self._values(whole, name, order[sources[picked]])
            old[name] = self._values(whole, name, order[sources[before]])
        return RecordedChanges(self.schema, times[found], kinds, causes[found], new, old)

    def row_at_the_beginning(self, key: Key) -> dict[str, Any] | None:
        """Return the row of ``key`` in the base."""
        number = self._keys.get(key)
        places = np.flatnonzero(self._base_ids == (-1 if number is None else number))
        if not len(places):
            return None
        columns = {name: pieces.pick(parts, places) for name, parts in self._base.items()}
        return pieces.rows_of(self.schema, columns)[0]

    def _until(self, when: int) -> _Whole:
        counts = [int(chunk.times.searchsorted(when, "right")) for chunk in self._chunks]
        used = [(chunk, n) for chunk, n in zip(self._chunks, counts, strict=True) if n]
        rows = len(self._base_ids)
        return _Whole(
            np.concatenate([self._base_ids, *(chunk.ids[:n] for chunk, n in used)]),
            np.concatenate([np.zeros(rows, "uint8"), *(chunk.kinds[:n] for chunk, n in used)]),
            [(self._base, rows), *((chunk.columns, n) for chunk, n in used)],
            [{}, *(chunk.given for chunk, _ in used)],
        )

    def _shown(self, whole: _Whole) -> Positions:
        """Return the numbers of the existing rows in the table's order: as loaded, then as arrived."""
        size = len(self._there)
        born = np.full(size, -1)
        came = np.flatnonzero(whole.kinds == INSERT)
        born[whole.ids[came]] = came  # the last one counts
        last = np.full(size, -1)
        last[whole.ids] = np.arange(len(whole.ids))
        here = np.flatnonzero(last >= 0)
        here = here[whole.kinds[last[here]] != DELETE]
        places = born[here]
        if pieces.rising(places):
            return cast(Positions, here)
        return cast(Positions, here[np.argsort(places, kind="stable")])

    def _rows(self, whole: _Whole, rows: Positions) -> dict[str, Parts]:
        found = {}
        last = np.full(len(self._there), -1)
        last[whole.ids] = np.arange(len(whole.ids))
        for name in self.schema.names:
            places = last
            if any(name in given for given in whole.given):
                told = np.flatnonzero(self._gives(whole, name))
                places = np.full(len(self._there), -1)
                places[whole.ids[told]] = told
            found[name] = self._values(whole, name, places[rows])
        return found

    def _gives(self, whole: _Whole, name: str) -> NDArray[np.bool_]:
        """Return which places contain a value of a column."""
        if name in self.schema.key:
            return np.ones(len(whole.ids), bool)
        found: NDArray[np.bool_] = whole.kinds != DELETE
        start = 0
        for (_, count), given in zip(whole.columns, whole.given, strict=True):
            if name in given:
                found[start : start + count] &= given[name][:count]
            start += count
        return found

    def _values(self, whole: _Whole, name: str, places: Positions) -> Parts:
        """Return the values of a column at ``places``."""
        # Whole pieces: cutting them costs more than the unused values of the last ones.
        starts, shift, at = [], [], 0
        for columns, count in whole.columns:
            starts.append(at)
            shift.append(pieces.length(columns[name]) - count)
            at += count
        behind = np.cumsum([0, *shift[:-1]])
        if behind.any():
            places = places + behind[np.searchsorted(starts, places, "right") - 1]
        of = self.schema.types[name]
        joined = pieces.join(
            [columns[name] for columns, _ in whole.columns], of, self.schema.numeric
        )
        return pieces.pick(joined, places)

    # Forgetting -----------------------------------------------------------------------------------

    def forget(self, before: int) -> None:
        """Move the beginning to ``before``: its state becomes the base, and earlier changes are forgotten."""
        self.pack()
        if before <= self.began:
            return
        whole = self._until(before)
        rows = self._shown(whole)
        self._base = self._rows(whole, rows)
        self._base_ids = rows.astype("int32")
        self._base_bytes = sum(map(pieces.nbytes, self._base.values()))
        kept = []
        for chunk in self._chunks:
            count = int(chunk.times.searchsorted(before, "right"))
            if count < len(chunk):
                kept.append(chunk.part(count, len(chunk)) if count else chunk)
        self._chunks = kept
        self.began = before
        self._last = max(self._last, before)
        self.latest = max(self.latest, self._last)
        used = np.unique(np.concatenate([self._base_ids, *(chunk.ids for chunk in kept)]))
        if len(self._there) > 2 * len(used) + BATCH:
            self._renumber(used)

    def time_of(self, count: int) -> int:
        """Return the time of the change with this number, counted from the first one."""
        self.pack()
        for chunk in self._chunks:
            if count < len(chunk):
                return int(chunk.times[count])
            count -= len(chunk)
        return self._last

    def until(self, when: int) -> int:
        """Return the number of changes up to a moment."""
        self.pack()
        return sum(int(chunk.times.searchsorted(when, "right")) for chunk in self._chunks)

    def moments(self, after: int, until: int) -> Iterable[int]:
        """Return the distinct times of changes after one moment up to another."""
        self.pack()
        times = [chunk.times for chunk in self._chunks]
        found = np.unique(np.concatenate(times)) if times else np.empty(0, "int64")
        return found[(found > after) & (found <= until)].tolist()  # type: ignore[no-any-return]  # of ints

    def _renumber(self, used: Positions) -> None:
        """Forget the keys of rows that no recorded change concerns any more."""
        anew = np.full(len(self._there), -1)
        anew[used] = np.arange(len(used))
        numbers = anew.tolist()
        keys = self._keys.as_dict().items()
        self._keys.remove([key for key, number in keys if numbers[number] < 0])
        anew = np.append(anew, -1)  # -1, the last entry, maps to -1
        self._keys.renumber(anew.__getitem__)
        self._there = bytearray(np.frombuffer(self._there, "uint8")[used].tobytes())
        self._base_ids = anew[self._base_ids].astype("int32")
        self._chunks = [
            replace(chunk, ids=anew[chunk.ids].astype("int32")) for chunk in self._chunks
        ]
