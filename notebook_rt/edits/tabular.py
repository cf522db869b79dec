"""Many rows as users pass them, a DataFrame or dicts, as rows of a table.

Its input is the arguments of ``insert``, ``upsert``, ``edit_many`` and ``delete``. Its output is rows by
column, each with its label in the user's data, or an `InvalidEditError` that names the wrong rows and
columns. Everything is checked before anything is queued.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from notebook_rt.edits.compose import Composer
from notebook_rt.errors import InvalidEditError
from notebook_rt.model.coerce import missing
from notebook_rt.model.kinds import NUMBERS
from notebook_rt.model.rows import Key, Row
from notebook_rt.model.types import equal, kind
from notebook_rt.model.values import ascii_json
from notebook_rt.quoting import did_you_mean

if TYPE_CHECKING:
    import pandas as pd

_SHOWN: Final = 5
"""Maximum number of rows that an error names; the others are counted."""


class InputRow(msgspec.Struct):
    """A row to be written."""

    label: Hashable
    """Its label in the DataFrame, or its position among the rows."""
    values: dict[str, Any]
    drawn: str = ""
    """The key column whose value came from a sequence."""
    unkeyed: bool = False
    """Whether the server generates the key when it inserts the row."""


class Checks(msgspec.Struct):
    """Collects the errors of rows, and raises them as one."""

    composer: Composer
    rows: int
    _found: list[tuple[Hashable, InvalidEditError]] = msgspec.field(default_factory=list)

    @contextlib.contextmanager
    def of(self, label: Hashable) -> Iterator[None]:
        """Record an error raised in the block as one of the row with this label."""
        try:
            yield
        except InvalidEditError as error:
            self._found.append((label, error))

    def end(self) -> None:
        """Raise the recorded errors, if any."""
        if not self._found:
            return
        said = [f"row {label!r}: {error.reason}" for label, error in self._found[:_SHOWN]]
        if len(self._found) > _SHOWN:
            said.append(f"and {len(self._found) - _SHOWN:,} more")
        if self.rows == 1:
            raise self._found[0][1]
        raise self.composer.invalid(
            f"{len(self._found):,} of {self.rows:,} rows cannot be written, so none is queued: "
            + "; ".join(said),
            self._found[0][1].column,
        )


def columns_of(data: object) -> list[str]:
    """Return the names that rows give values to, as far as known without reading all of them."""
    import pandas as pd

    if isinstance(data, pd.DataFrame):
        return [name for name in (*data.index.names, *data.columns) if isinstance(name, str)]
    if isinstance(data, Sequence):
        rows = (row for row in data if isinstance(row, Mapping))
        return list(dict.fromkeys(name for row in rows for name in row))
    return []


def rows_given(composer: Composer, data: object, verb: str) -> list[InputRow]:
    """Return the rows of a DataFrame or a sequence of dicts; only their columns are checked.

    A named index is read as columns, an unnamed one is ignored. In a DataFrame NaN, NaT and NA are null.

    Raises
    ------
    TypeError
        If it is neither.
    InvalidEditError
        If a column is unknown, or occurs twice.
    """
    import pandas as pd

    if isinstance(data, pd.DataFrame):
        named = [name for name in data.index.names if name is not None]
        unique(composer, [*named, *data.columns])
        known(composer, data.columns)
        for name in named:
            if name not in composer.schema.types:
                raise composer.invalid(
                    f"the index is named {name!r}, as no column is: {_renamed(composer)} if it holds the "
                    "keys, .reset_index(drop=True) if it is not to be written"
                )
        labels = data.index.tolist()
        if named:
            unnamed: list[Hashable] = [
                at for at, name in enumerate(data.index.names) if name is None
            ]
            data = data.droplevel(unnamed) if unnamed else data
            data = data.reset_index()
        names = list(data.columns)
        return [
            InputRow(label, dict(zip(names, cells, strict=True)))
            for label, cells in zip(labels, cells_of(data), strict=True)
        ]
    if isinstance(data, (str, bytes, Mapping)) or not isinstance(data, Iterable):
        raise TypeError(
            f"{verb} takes a DataFrame or a sequence of dicts, one a row; not {type(data).__name__}"
        )
    found: list[InputRow] = []
    for place, row in enumerate(data):
        if not isinstance(row, Mapping):
            raise TypeError(
                f"{verb} takes a DataFrame or a sequence of dicts, one a row; row {place} is "
                f"{type(row).__name__}"
            )
        found.append(InputRow(place, dict(row)))
    known(composer, dict.fromkeys(name for row in found for name in row.values))
    return found


def cells_of(data: pd.DataFrame) -> Iterator[tuple[Any, ...]]:
    """Return the rows of a DataFrame as Python values, with None for missing values."""
    columns = []
    for place in range(data.shape[1]):
        column = data.iloc[:, place]
        values = column.tolist() if getattr(column.dtype, "kind", "O") in "iubf" else list(column)
        absent = column.isna().to_numpy()
        if absent.any():
            values = [None if gone else v for v, gone in zip(values, absent, strict=True)]
        columns.append(values)
    return zip(*columns, strict=True) if columns else iter([()] * len(data))


def keyed(composer: Composer, data: pd.DataFrame) -> pd.DataFrame:
    """Return ``data`` indexed by key: from the key's columns, if the index has no name and they exist.

    An unnamed index of numbers may just number the rows, as after ``reset_index``: it is not a key.
    """
    import pandas as pd

    names = list(composer.schema.key)
    unique(composer, list(data.columns))
    if {None} == set(data.index.names):
        if set(names) <= set(data.columns):
            return data.set_index(names)
        numbers = kind(composer.schema.types[names[0]]) in NUMBERS and len(names) == 1
        if len(data) and (numbers or pd.api.types.is_integer_dtype(data.index.dtype)):
            columns = " and ".join(f'"{name}"' for name in names)
            raise composer.invalid(
                "the index has no name, so it may be the keys or only number the rows; say which rows "
                f"they are: column{'s' * (len(names) > 1)} {columns}, or {_renamed(composer)} if it is "
                "the keys"
            )
    if len(names) > 1 and set(data.index.names) == set(names) and list(data.index.names) != names:
        return data.reorder_levels(names)
    return data


def _renamed(composer: Composer) -> str:
    """Return the call that gives an index the key's name."""
    names = list(composer.schema.key)
    said = f'"{names[0]}"' if len(names) == 1 else str(names)
    return f".rename_axis({said})"


def keys_given(composer: Composer, data: object) -> list[Hashable]:
    """Return the keys in a DataFrame, an Index or another collection of keys."""
    import pandas as pd

    if isinstance(data, pd.DataFrame):
        return list(keyed(composer, data).index)
    if isinstance(data, Iterable):
        return list(data)
    raise TypeError(f"keys must be a list, an Index or a DataFrame, not {type(data).__name__}")


def typed_keys(
    composer: Composer, rows: Sequence[InputRow], on: Sequence[str] = ()
) -> list[Key | None]:
    """Return the key of each row, None where a part of it is missing; raise if one occurs twice.

    ``on`` are the columns by which the rows were found instead of the key; errors name these.
    """
    names = composer.schema.key
    keys: list[Key | None] = []
    seen: dict[Key, tuple[Hashable, int]] = {}
    checks = Checks(composer, len(rows))
    for place, row in enumerate(rows):
        with checks.of(row.label):
            parts = tuple(row.values.get(name) for name in names)
            if any(map(missing, parts)):
                keys.append(None)
                continue
            key = composer.key(parts if len(parts) > 1 else parts[0])
            keys.append(key)
            if key in seen:
                label, first = seen[key]
                what = (
                    " and ".join(f"{name} {row.values.get(name)!r}" for name in on)
                    or f"key {key!r}"
                )
                also = f"in row {label!r} too"
                if label == row.label:
                    also = f"at places {first} and {place}, counted from 0"
                raise composer.invalid(f"its {what} is there twice, {also}: which is it to be?")
            seen[key] = row.label, place
    checks.end()
    return keys


def known(composer: Composer, names: Collection[Any]) -> None:
    """Raise for columns that the table does not have, suggesting similar names."""
    there = list(composer.schema.types)
    unknown = [name for name in names if name not in composer.schema.types]
    if not unknown:
        return
    if set(there) == set(composer.schema.key):
        composer.typed(dict.fromkeys(unknown))  # explains that no row was there to name the columns
    said = [f"no column {name!r}{did_you_mean(name, there)}" for name in unknown]
    raise composer.invalid(f"{', '.join(said)}; there are {', '.join(there)}", str(unknown[0]))


def unique(composer: Composer, names: Sequence[Any]) -> None:
    """Raise if a column is named twice."""
    seen: set[Any] = set()
    for name in names:
        if name in seen:
            raise composer.invalid(f"the column {name!r} is there twice")
        seen.add(name)


def find_by(
    composer: Composer,
    on: Sequence[str],
    rows: Sequence[InputRow],
    shown: Mapping[Key, Row | None],
) -> None:
    """Fill in the keys of the given rows from the ``shown`` rows, matched by the columns ``on``."""
    places: dict[tuple[str, ...], Key] = {}

    def value_of(row: Mapping[str, Any]) -> tuple[str, ...] | None:
        if any(missing(row.get(column)) for column in on):
            return None  # null is equal to nothing
        said = composer.json({column: row[column] for column in on})
        return tuple(ascii_json(said[column]) for column in on)

    for key, there in shown.items():
        value = None if there is None else value_of(there)
        if value is not None and places.setdefault(value, key) != key:
            raise composer.invalid(
                f"on= is to be the key or unique columns: the rows {places[value]!r} and {key!r} "
                f"have the same {', '.join(on)}"
            )
    checks = Checks(composer, len(rows))
    for row in rows:
        with checks.of(row.label):
            lacking = [column for column in on if column not in row.values]
            if lacking:
                raise composer.invalid(f"it lacks the column {lacking[0]!r} of on=", lacking[0])
            value = value_of(composer.typed({column: row.values[column] for column in on}))
            known_key = None if value is None else places.get(value)
            if known_key is None:
                continue
            for column, part in composer.schema.values_of(known_key).items():
                own = row.values.get(column)
                if not missing(own) and not equal(composer.typed({column: own})[column], part):
                    raise composer.invalid(
                        f"the row of this {', '.join(on)} has the key {known_key!r}, not {own!r}",
                        column,
                    )
                row.values[column] = part
    checks.end()
