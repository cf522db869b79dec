"""``concat``: the rows of several tables, one after the other, equal to ``pd.concat``.

Each input has its own range of ranks. The index consists of the inputs' indexes, so two inputs must not have
a row with the same key; with ``keys``, the input's name is the first part of the key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa

from notebook_rt.errors import DerivationError
from notebook_rt.model.rows import Key, Op
from notebook_rt.model.types import Column, Schema
from notebook_rt.store.column import ColumnStore, family
from notebook_rt.store.columns import FixedColumn, TextColumn, column_of, one_chunk, take
from notebook_rt.store.touched import HIDDEN_PREFIX, RANK, Delta, Place
from notebook_rt.sync.derive.operator import (
    Columns,
    Operator,
    RebuildError,
    placed,
    rank_column,
    ranked,
)
from notebook_rt.sync.derive.source import Source

_WIDEST: Final = {"int": "int8", "float": "float8"}


class Concat(Operator):
    """The rows of all inputs. ``keys`` are their names, the values of the key's new column ``name``."""

    def __init__(self, keys: Sequence[str] | Sequence[int] | None, name: str) -> None:
        self.keys = None if keys is None else list(keys)
        self.name = name
        if self.keys is not None and (
            len(set(self.keys)) < len(self.keys)
            or {*map(type, self.keys)} not in ({str}, {int}, set())
        ):
            raise DerivationError(
                f"concat: keys must be different strings or numbers, not {keys!r}"
            )

    # The whole

    def build(self, sources: Sequence[Source]) -> tuple[Schema, Columns]:
        schema = self._schema = self._schema_of(sources)
        backend = sources[0].table.dtype_backend
        self._offsets, ranks, last = [], [], 0
        for source in sources:
            mine = source.ranks()
            self._offsets.append(last)
            ranks.append(mine + last)
            last += 2 * (int(mine.max(initial=0)) + 512)
        self._ends = [*self._offsets[1:], None]
        parts = [source.whole(source.schema.names) for source in sources]
        columns: dict[str, ColumnStore] = {}
        for column in schema.columns:
            if column.name == self.name and self.keys is not None:
                pairs = zip(self.keys, sources, strict=True)
                values = [key for key, source in pairs for _ in range(len(source))]
                columns[column.name] = column_of(values, column.pg_type, backend, schema.numeric)
                continue
            columns[column.name] = joined(
                [
                    part[column.name]
                    if column.name in part
                    else _blank(column.pg_type, len(source), source)
                    for part, source in zip(parts, sources, strict=True)
                ],
                column.pg_type,
            )
        if self.keys is None and not _unique([columns[name] for name in schema.key]):
            raise self._twice()
        columns[RANK] = rank_column(np.concatenate(ranks), backend)
        if self.keys is not None:
            self.index = (self.name, *sources[0].levels)
        self._seen: list[Mapping[str, Any]] = []
        return ranked(schema.columns, schema.key, schema), columns

    def _schema_of(self, sources: Sequence[Source]) -> Schema:
        first = sources[0].schema
        found: dict[str, Column] = {}
        for source in sources:
            schema = source.schema
            if (schema.key, source.levels) != (first.key, sources[0].levels):
                raise DerivationError(
                    f"concat: the keys are {_described(sources[0])} and {_described(source)}; use map"
                )
            if schema.numeric != first.numeric:
                raise DerivationError("concat: one has exact numbers, another has not; use map")
            for column in schema.columns:
                known = found.setdefault(column.name, column)
                kinds = [family(one.pg_type, first.numeric) for one in (known, column)]
                if kinds[0] != kinds[1] or (
                    kinds[0] == "array" and known.pg_type != column.pg_type
                ):
                    raise DerivationError(
                        f'concat: "{column.name}" is {known.pg_type} in one and {column.pg_type} in '
                        "another; make them alike by select, or use map"
                    )
                if known.pg_type != column.pg_type:
                    wide = _WIDEST.get(kinds[0], known.pg_type)
                    found[column.name] = Column(column.name, wide)
        key = first.key
        if self.keys is not None:
            if self.name in found:
                raise DerivationError(f'concat: there is a column "{self.name}"; say another name=')
            number = bool(self.keys) and isinstance(self.keys[0], int)
            found = {self.name: Column(self.name, "int8" if number else "text"), **found}
            key = (self.name, *key)
        return Schema(tuple(found.values()), key, first.numeric)

    def _twice(self) -> DerivationError:
        return DerivationError(
            "concat: two of the frames have a row with the same key; say keys= to tell them apart"
        )

    # What changes

    def step(self, sources: Sequence[Source], deltas: Sequence[Sequence[Delta]]) -> list[Op]:
        gone: list[Key] = []
        come: list[tuple[Key, Place]] = []
        names = self._schema.names
        for at, changes in enumerate(deltas):
            offset, end = self._offsets[at], self._ends[at]
            own = {} if self.keys is None else {self.name: self.keys[at]}
            for delta in changes:
                old, new = delta.old, delta.new
                if old is not None and (new is None or new.rank != old.rank):
                    gone.append(self._key(delta.key, at))
                if new is None:
                    continue
                rank = new.rank + offset
                if end is not None and rank >= end:
                    raise RebuildError
                if self.keys is None and old is None and self._elsewhere(sources, at, delta.key):
                    raise self._twice()
                row = {name: new.row.get(name) for name in names} | own
                come.append((self._key(delta.key, at), Place(rank, row)))
        return placed(gone, come)

    def _key(self, key: Key, at: int) -> Key:
        if self.keys is None:
            return key
        rest = key if isinstance(key, tuple) else (key,)
        return (self.keys[at], *rest)

    def _elsewhere(self, sources: Sequence[Source], at: int, key: Key) -> bool:
        others = [source for number, source in enumerate(sources) if number != at]
        return any(source.row(key) is not None for source in others)

    def dtypes(self, sources: Sequence[Source]) -> Mapping[str, Any]:
        given = [source.dtypes() for source in sources]
        if len(self._seen) != len(given) or any(
            one is not other for one, other in zip(self._seen, given, strict=True)
        ):
            self._seen, self._dtypes = given, self._found(given)
        return self._dtypes

    def _found(self, given: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        found: dict[str, Any] = {}
        for name in self._schema.names:
            if name == self.name and self.keys is not None:
                found[name] = pd.Index(self.keys).dtype
                continue
            dtypes = [one[name] for one in given if name in one]
            if not dtypes:  # hidden
                continue
            dtype = _common(tuple(dtypes))
            found[name] = dtype if len(dtypes) == len(given) else _with_missing(dtype)
        return found


def _described(source: Source) -> str:
    """Return the names of an input's key columns, with hidden ones in words."""
    return ", ".join(name.replace(HIDDEN_PREFIX, "") for name in source.table.schema.key)


@lru_cache(maxsize=256)
def _with_missing(dtype: Any) -> Any:
    """Return pandas' dtype of a column that is missing in some frames."""
    return pd.Series(pd.array([], dtype=dtype)).reindex([0]).dtype


@lru_cache(maxsize=256)
def _common(dtypes: tuple[Any, ...]) -> Any:
    """Return pandas' dtype of the concatenation of columns of these dtypes."""
    return pd.concat([pd.Series(pd.array([], dtype=one)) for one in dtypes]).dtype


def _blank(pg_type: str, rows: int, source: Source) -> ColumnStore:
    """Return the column for an input that does not have it."""
    empty = column_of([], pg_type, source.table.dtype_backend, source.schema.numeric)
    return take(empty, np.full(rows, -1))


def joined(columns: Sequence[ColumnStore], pg_type: str) -> ColumnStore:
    """Return the concatenation of columns of one kind."""
    first = columns[0]
    fixed = [one for one in columns if isinstance(one, FixedColumn)]
    if len(fixed) == len(columns):
        return FixedColumn(*FixedColumn.joined(fixed), pg_type, first.backend, first.numeric)
    texts = [one for one in columns if isinstance(one, TextColumn)]
    if len(texts) == len(columns):
        chunks = [chunk for one in texts for chunk in one.chunked().chunks]
        whole = one_chunk(pa.chunked_array(chunks, pa.large_string()))
        return TextColumn(whole, pg_type, first.backend, first.numeric)
    values = [value for one in columns for value in one.everything()]
    return column_of(values, pg_type, first.backend, first.numeric)


def _unique(key: Sequence[ColumnStore]) -> bool:
    """Return whether all rows have different values."""
    if len(key) == 1 and isinstance(key[0], FixedColumn | TextColumn):
        return bool(pd.Index(key[0].array()).is_unique)
    values = list(zip(*(map(repr, column.everything()) for column in key), strict=True))
    return len(set(values)) == len(values)
