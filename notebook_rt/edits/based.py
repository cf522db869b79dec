"""The base of an edit: the values that its new values were made from.

Its input is what a handle has shown (`Known`), or the row that the user passes (``base=``), in any of the
forms in which rows are read. Its output is typed values by column, for `Composer`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol

from notebook_rt.edits.compose import Composer
from notebook_rt.edits.tabular import keyed
from notebook_rt.model.coerce import missing
from notebook_rt.model.rows import Key, Row
from notebook_rt.model.types import equal

if TYPE_CHECKING:
    import pandas as pd


class Known(Protocol):
    """What the editing user knows of the rows (``shown.Shown``)."""

    def bases(self, keys: Collection[Key], columns: Collection[str]) -> Mapping[Key, Row]:
        """Return the known values of these cells; raise LookupError if they were known but no longer are."""

    def wrote(self, key: Key, new_key: Key, values: Row) -> None:
        """An edit of the row was made, which gives it ``new_key``."""

    def took_back(self, key: Key, values: Row, base: Row) -> None:
        """An edit was undone, which was based on ``base``."""


class Now:
    """A `Known` that knows nothing except the current rows."""

    def bases(self, keys: Collection[Key], columns: Collection[str]) -> Mapping[Key, Row]:
        return {key: {} for key in keys}

    def wrote(self, key: Key, new_key: Key, values: Row) -> None:
        pass

    def took_back(self, key: Key, values: Row, base: Row) -> None:
        pass


NOW: Final = Now()


def known_of(
    composer: Composer, known: Known, keys: Collection[Key], columns: Collection[str]
) -> Mapping[Key, Row]:
    """Return what ``known`` knows; raise `InvalidEditError` if it is out of reach."""
    try:
        return known.bases(keys, columns)
    except LookupError as error:
        raise composer.invalid(
            f"what the new values were made from is no longer known ({error.args[0]}): read the row "
            "again, with get() or df, or say base=, the row that they were made from"
        ) from None


def row_said(composer: Composer, key: Key, base: object, columns: Collection[str]) -> Row:
    """Return the values of ``columns`` in the row that the user passed as ``base``.

    Raises
    ------
    InvalidEditError
        If it is not a row, is another row, has an unknown column, or lacks one of ``columns``.
    """
    from pandas import DataFrame, Series

    label: Any = None
    row: Mapping[Any, Any]
    if isinstance(base, DataFrame):
        if len(base) != 1:
            raise composer.invalid(f"base= is one row, and this DataFrame has {len(base)}")
        label = base.index[0] if any(name is not None for name in base.index.names) else None
        row = {column: base[column].iloc[0] for column in base.columns}
    elif isinstance(base, Series):
        label, row = base.name, base.to_dict()
    elif isinstance(base, Mapping):
        row = dict(base)
    else:
        raise composer.invalid(
            "base= is the row that the values were made from, as a dict, a Series or a DataFrame of "
            f"one row; not {base!r}. A column named base is edited by "
            'edit(key, {"base": value})'
        )
    return _checked(composer, key, label, row, columns)


def rows_said(
    composer: Composer,
    keys: Collection[Key],
    base: pd.DataFrame | pd.Series[Any],
    columns: Collection[str],
) -> Mapping[Key, Row]:
    """Return the values of ``columns`` in the rows that the user passed as ``base``, indexed by key."""
    from pandas import DataFrame, Series

    if isinstance(base, Series):
        base = base.to_frame()
    if not isinstance(base, DataFrame):
        raise composer.invalid(
            "base= is the DataFrame that the changes were made from, its index the keys; not "
            f"{type(base).__name__}"
        )
    base = keyed(composer, base)
    if not base.index.is_unique:
        raise composer.invalid("base= has a row or a column twice: which were they made from?")
    places = {composer.key(label): at for at, label in enumerate(base.index)}
    cells = {column: base[column] for column in base.columns}
    found: dict[Key, Row] = {}
    for key in keys:
        if key not in places:
            raise composer.invalid(f"base= lacks the row {key!r}, which is edited")
        row = {column: values.iloc[places[key]] for column, values in cells.items()}
        found[key] = _checked(composer, key, None, row, columns)
    return found


def _checked(
    composer: Composer, key: Key, label: Any, row: Mapping[Any, Any], columns: Collection[str]
) -> Row:
    names = composer.schema.key
    for column in row:
        if column not in composer.schema.types:
            there = ", ".join(composer.schema.types)
            raise composer.invalid(
                f"base= has a column {column!r}, which the table has not: {there}"
            )
    parts = dict(zip(names, key if len(names) > 1 else (key,), strict=True))  # type: ignore[call-overload]  # a Key of several columns is a tuple (rows.py)
    about = {name: row[name] for name in names if name in row}
    if not about and label is not None:
        about = dict(zip(names, label if len(names) > 1 else (label,), strict=False))
    if any(not equal(_typed(composer, about)[name], parts[name]) for name in about):
        raise composer.invalid(f"base= is another row, {tuple(about.values())!r}, than {key!r}")
    for column in columns:
        if column not in row and column not in names:
            raise composer.invalid(
                f"base= lacks the column {column!r}, which is edited. Where it was read before the table "
                "had told its columns, read df again",
                column,
            )
    return _typed(composer, {column: row[column] for column in columns if column in row})


def _typed(composer: Composer, row: Mapping[str, Any]) -> Row:
    try:
        return composer.schema.coerce({c: None if missing(v) else v for c, v in row.items()})
    except ValueError as error:
        raise composer.invalid(f"base=: {error}") from None


def called(
    composer: Composer, there: Row, values: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return ``values`` with the results of the functions among them, and their arguments."""
    old: dict[str, Any] = {}
    made = dict(values)
    for column, function in values.items():
        if callable(function):
            if column not in there:
                composer.typed({column: None})  # raises an error that lists the columns
            old[column] = there[column]
            composer.check_exact(column, there[column])
            made[column] = function(there[column])
    return made, old
