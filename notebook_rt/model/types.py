"""One table from PostgreSQL's types to Python values and pandas dtypes, and back (promise 11).

Input: a JSON value from PostgREST (``"rest"``) or Realtime (``"socket"``). Output: a *typed* value, the same
for both. The values are chosen to be fast, hashable if possible, and equal to what ``df.loc`` shows:

===========================  ========================  =======================  =================
PostgreSQL                   typed value               pandas (default)         pyarrow backend
===========================  ========================  =======================  =================
int2 int4 int8 oid           int                       int64, Int64 with nulls  int64
float4 float8                float                     float64                  double
numeric                      float, or Decimal         float64, or object       decimal128/256
bool                         bool                      bool, boolean with nulls bool
timestamptz                  datetime, UTC             datetime64[us, UTC]      timestamp[us, UTC]
timestamp                    datetime, naive           datetime64[us]           timestamp[us]
date                         date                      datetime64[us]           date32
time                         time                      object                   time64[us]
bytea                        bytes                     object                   large_binary
json jsonb                   the JSON value            object                   object
arrays                       list (nested)             object                   object
everything else              str                       str                      large_string
===========================  ========================  =======================  =================

Everything else (enums, uuid, inet, ranges, money, bit and so on) is text: what PostgreSQL prints.
``interval`` too: ``1 year 2 mons`` has no length in seconds, and timetz has no pandas counterpart.

Decisions, each made so that nothing is lost silently:

* **A column's dtype is a function of the rows it holds**: int64 becomes Int64 while there is a null (bool:
  boolean), and int64 again when there is none. A frame that has existed for a day has the same dtypes as a
  new one. ``dtype_backend`` makes nullable dtypes unconditional.
* ``infinity``, years BC and years past 9999 fit no ``datetime``: their typed value is PostgreSQL's own text,
  and the DataFrame's column is ``object`` (datetimes and texts) while it holds one. Likewise, a value that
  does not fit its declared type is kept unchanged, in an object column.
* ``numeric`` is a float64 unless the table was requested with ``numeric="decimal"`` (``Session.table``, or
  ``Options.numeric`` for a session). With it the pyarrow backend has decimal128, or 256, with the scale of
  the longest value; a NaN or an infinity among them makes the column object.
* null and NaN in a float column are two typed values; in default pandas both show as NaN, the two other
  backends distinguish them as far as pandas does.
* JSON ``null`` and SQL ``NULL`` in a json column are one value in JSON, so also here. Numbers inside json are
  floats as in every JSON library; ``numeric`` is exact where that was requested.
* A type name in PostgreSQL's long form (``timestamp with time zone``, ``integer[]``, ``numeric(10,2)``, as in
  PostgREST's OpenAPI description) means the same as the short one.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final, cast

from notebook_rt.model.coerce import coerce
from notebook_rt.model.kinds import (
    Backend,
    Kind,
    Numeric,
    Source,
    arrow_type,
    built_in,
    canonical,
    dtype,
    element,
    kind,
    sortable,
)
from notebook_rt.model.rows import Json, Key, Row, WireRow
from notebook_rt.model.values import (
    NOT_FINITE,
    NestedKey,
    decode,
    decoded,
    decoder,
    differs,
    equal,
    fits,
    is_same,
    lossy,
    may_be_lossy,
    may_be_of,
    to_json,
    to_rest,
    typed_class,
)
from notebook_rt.quoting import did_you_mean, printable

_EXACT_FLOATS: Final = 2**53
"""Every integer up to this one is a float."""

NAN_KEY: Final = float("nan")
"""The key of a row whose key is NaN, which is equal to itself in PostgreSQL but not in Python. It is a single
object, because dicts, sets and tuples compare identity first."""

__all__ = [
    "NOT_FINITE",
    "Backend",
    "Column",
    "Kind",
    "Numeric",
    "Schema",
    "Source",
    "arrow_type",
    "built_in",
    "canonical",
    "coerce",
    "decode",
    "decoded",
    "decoder",
    "differs",
    "dtype",
    "element",
    "equal",
    "fits",
    "is_same",
    "kind",
    "lossy",
    "may_be_lossy",
    "may_be_of",
    "sortable",
    "to_json",
    "to_rest",
]


@dataclass(frozen=True, slots=True)
class Column:
    """A column's name, its type's name (``int8``, ``text``, ``_int4``, an enum's name), and its limits.

    The limits are known as far as the server has reported them: not every login may read the description.

    Examples
    --------
    >>> Column("status", "state", nullable=False, choices=("open", "held")).refusal("sold")
    "status is one of open, held; not 'sold'"
    """

    name: str
    pg_type: str = "text"
    nullable: bool = True
    choices: tuple[str, ...] = ()
    """An enum's labels, in their order; empty if unknown or not an enum."""
    filled: bool = False
    """The server is known to fill it in if no value is given: it has a default."""
    generated: bool = False
    """The server is known to compute it from other columns: it cannot be written."""
    digits: tuple[int, int] | None = None
    """Precision and scale of a ``numeric(6,2)``; None if unknown or unlimited."""

    @property
    def description(self) -> str:
        """Its type and limits, in words.

        >>> Column("price", "numeric", nullable=False, digits=(6, 2), filled=True).description
        'numeric(6,2), not null, has a default'
        """
        digits = "" if self.digits is None else "({},{})".format(*self.digits)
        choices = f"one of {', '.join(map(repr, self.choices))}" if self.choices else ""
        said = [
            f"{self.pg_type}{digits}",
            choices,
            "" if self.nullable else "not null",
            "has a default" if self.filled else "",
            "computed by the server" if self.generated else "",
        ]
        return ", ".join(filter(None, said))

    def refusal(self, value: Any) -> str | None:
        """Return why the server would refuse a typed ``value`` here; None if it may accept it."""
        if self.generated:
            return f"{self.name} cannot be written: the server computes it"
        if value is None:
            return None if self.nullable else f"{self.name} cannot be empty: it is NOT NULL"
        if self.choices and value not in self.choices:
            return f"{self.name} is one of {', '.join(self.choices)}; not {value!r}"
        if self.digits is not None and _overflows(value, *self.digits):
            precision, scale = self.digits
            limit = Decimal(1).scaleb(precision - scale)
            return f"{self.name} is numeric({precision},{scale}): it holds less than {limit:f}, not {value}"
        return None


def _overflows(value: Any, precision: int, scale: int) -> bool:
    """Return whether a number, rounded to ``scale``, has more digits than ``precision``, as in PostgreSQL."""
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal) or value != value:
        return False
    number = abs(Decimal(repr(value)) if isinstance(value, float) else Decimal(value))
    return number + Decimal(5).scaleb(-scale - 1) >= Decimal(1).scaleb(precision - scale)


@dataclass(frozen=True, repr=False)
class Schema:
    """A table's columns, its key's columns in order, and the Python type for ``numeric``.

    Examples
    --------
    >>> Schema((Column("id", "int8", nullable=False), Column("note")), key=("id",))
    <Schema of 2 columns, key id
      id    int8, not null
      note  text>
    >>> s = Schema((Column("id", "int8"), Column("at", "date")), key=("id",))
    >>> row = s.decode({"id": 7, "at": "2024-01-02"})
    >>> row["at"], s.key_of(row)
    (datetime.date(2024, 1, 2), 7)
    """

    columns: tuple[Column, ...]
    key: tuple[str, ...]
    numeric: Numeric = "float"
    types: Mapping[str, str] = field(init=False, repr=False, compare=False)
    """Column name to type name."""

    _columns: Mapping[str, Column] = field(init=False, repr=False, compare=False)
    _decoders: Mapping[str, Callable[[Json], Any]] = field(init=False, repr=False, compare=False)
    _conversions: Sequence[tuple[str, type, Callable[[Json], Any]]] = field(
        init=False, repr=False, compare=False
    )
    """Column, the class of JSON values that are typed values already, and the decoder."""

    def __post_init__(self) -> None:
        types = {column.name: column.pg_type for column in self.columns}
        missing = [name for name in self.key if name not in types]
        if missing or not self.key:
            raise ValueError(f"the key {self.key} names no column of {list(types)}")
        object.__setattr__(self, "types", types)
        object.__setattr__(self, "_columns", {column.name: column for column in self.columns})
        decoders = {name: decoder(pg_type, self.numeric) for name, pg_type in types.items()}
        object.__setattr__(self, "_decoders", decoders)
        conversions = [(name, typed_class(decode), decode) for name, decode in decoders.items()]
        object.__setattr__(self, "_conversions", conversions)

    def __repr__(self) -> str:
        width = max(map(len, map(printable, self.types)))
        lines = (
            f"  {printable(one.name):{width}}  {printable(one.description)}" for one in self.columns
        )
        key, count = ", ".join(map(printable, self.key)), len(self.columns)
        decimals = ", numeric as Decimal" if self.numeric == "decimal" else ""
        head = f"Schema of {count} column{'s' * (count != 1)}, key {key}{decimals}"
        return "\n".join([f"<{head}", *lines]) + ">"

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the columns, in order."""
        return tuple(self.types)

    @property
    def exact_numbers(self) -> bool:
        """Whether the JSON of this table must be decoded with ``exact_numbers``."""
        return self.numeric == "decimal" and any(
            "numeric" in canonical(column.pg_type) for column in self.columns
        )

    def decode(self, row: WireRow, source: Source = "rest") -> dict[str, Any]:
        """Make a typed row from a JSON row; columns that are not in the schema are left out."""
        decoders = self._decoders
        if row.keys() >= decoders.keys():  # nearly every row: change only what must be changed
            typed = dict(row)
            for name in row.keys() - decoders.keys() if len(row) > len(decoders) else ():
                del typed[name]  # such as ``xmin``
            for name, done, decode in self._conversions:
                value = typed[name]
                if value.__class__ is not done and value is not None:
                    typed[name] = decode(value)
            return typed
        return {
            name: None if value is None else decoders[name](value)
            for name, value in row.items()
            if name in decoders
        }

    def coerce(self, row: Row) -> dict[str, Any]:
        """Make a typed row from a user's values; raise ValueError with the column's name."""
        typed = {}
        for name, value in row.items():
            if name not in self.types:
                like = did_you_mean(name, list(self.types))
                raise ValueError(f"no column {name!r}{like}; there are {', '.join(self.types)}")
            try:
                typed[name] = coerce(self.types[name], value, numeric=self.numeric)
            except ValueError as error:
                raise ValueError(f"column {name!r}: {error}") from None
        return typed

    def coerce_key(self, key: Any) -> Key:
        """Make a typed key from a user's key: a value, or a tuple of them for a composite key."""
        if len(self.key) > 1 and (not isinstance(key, tuple) or len(key) != len(self.key)):
            raise ValueError(f"the key is a tuple of {', '.join(self.key)}, not {key!r}")
        return self.key_of(self.coerce(self.values_of(key)))

    def key_of(self, row: Row) -> Key:
        """Return the key of a typed row: the key column's value, or a tuple for a composite key."""
        if len(self.key) == 1:
            return key_part(row[self.key[0]])
        return tuple(key_part(row[name]) for name in self.key)

    def values_of(self, key: Key) -> dict[str, Any]:
        """Return the values of the key's columns; the inverse of `key_of`."""
        parts = key if len(self.key) > 1 else (key,)
        return {
            name: decode(self.types[name], json.loads(part)) if type(part) is NestedKey else part
            for name, part in zip(self.key, parts, strict=True)  # type: ignore[call-overload]  # a Key of several columns is a tuple (rows.py)
        }

    def keys_of(self, page: Sequence[WireRow]) -> list[Key]:
        """Return the typed keys of a page of undecoded rows."""
        columns = [self._keys_in(name, [row[name] for row in page]) for name in self.key]
        return columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))

    def keys_in(self, columns: Sequence[list[Any]]) -> list[Key]:
        """Return the keys of rows, given the typed values of the key's columns."""
        parts = [
            values if set(map(type, values)) <= _KEY_CLASSES else [key_part(one) for one in values]
            for values in columns
        ]
        return parts[0] if len(parts) == 1 else list(zip(*parts, strict=True))

    def _keys_in(self, name: str, values: list[Json]) -> list[Key]:
        """Return one column of a page's keys, decoded as a whole: row by row takes twice as long."""
        decode = self._decoders[name]
        if set(map(type, values)) <= {typed_class(decode)}:
            return cast("list[Key]", values)
        typed = decoded(decode, values)
        return typed if set(map(type, typed)) <= _KEY_CLASSES else [key_part(one) for one in typed]

    def rounds(self, row: WireRow, name: str) -> bool:
        """Return whether the float that column ``name`` is decoded to may be a different number."""
        if self.numeric == "decimal" or kind(self.types[name]) != "decimal":
            return False
        value = row[name]
        return isinstance(value, int | float) and abs(value) > _EXACT_FLOATS

    def lossy(self, row: WireRow) -> bool:
        """Return whether a row received over the socket has a value that may not be the true one."""
        return any(lossy(self.types[name], row[name]) for name in row if name in self.types)

    def project(self, names: Iterable[str]) -> Schema:
        """Return this schema with only ``names`` (and the key), in the order given."""
        wanted = dict.fromkeys([*names, *self.key])
        return Schema(tuple(self.column(name) for name in wanted), self.key, self.numeric)

    def column(self, name: str) -> Column:
        """Return the column called ``name``; raise KeyError if there is none."""
        return self._columns[name]


_KEY_CLASSES: Final = {int, str, bool, bytes, dt.datetime, dt.date, dt.time, type(None)}
"""Classes of typed values that are keys unchanged: hashable, and equal to themselves."""


def key_part(value: Any) -> Key:
    """Return the typed value of a key column as a part of a key: hashable, and equal to itself."""
    if isinstance(value, (list, dict)):
        return NestedKey(json.dumps(value, sort_keys=True, default=str))
    if value != value:
        return NAN_KEY
    return cast(Key, value)
