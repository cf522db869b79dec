"""One table from PostgreSQL's types to Python values and pandas dtypes, and back (promise 11).

In goes a JSON value as PostgREST (``"rest"``) or Realtime (``"socket"``) sent it, out comes a
*typed* value, the same for both. The values are chosen to be fast, hashable where they can be, and
equal to what ``df.loc`` shows:

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
json jsonb                   what JSON says            object                   object
arrays                       list (nested)             object                   object
everything else              str                       str                      large_string
===========================  ========================  =======================  =================

Everything else is text, enums, uuid, inet, ranges, money, bit and so on: what PostgreSQL prints.
``interval`` too: ``1 year 2 mons`` has no length in seconds, and timetz has no pandas counterpart.

Decisions, each so that nothing is lost without a word:

* **A column's dtype is a function of the rows it holds**: int64 becomes Int64 while there is a null
  (bool: boolean), and int64 again when there is none. A frame that has lived for a day has the
  dtypes that a fresh one would have. ``dtype_backend`` makes nullable dtypes unconditional.
* ``infinity``, years BC and years past 9999 fit no ``datetime``: their typed value is PostgreSQL's
  own text, and the DataFrame's column is ``object`` (datetimes and texts) while it holds one. In
  the same way a value that does not fit its declared type is kept as it is, in an object column.
* ``numeric`` is a float64 unless the table was asked for with ``numeric="decimal"`` (``Session.table``,
  or ``Options.numeric`` for a session). With it the pyarrow backend has decimal128, or 256, with the
  scale of the longest value; a NaN or an infinity among them makes the column object.
* null and NaN in a float column are two typed values; in default pandas both show as NaN, the two
  other backends tell them apart as far as pandas does.
* JSON ``null`` and SQL ``NULL`` in a json column are one value in JSON, hence here. Numbers inside
  json are floats as in every JSON library; ``numeric`` is exact where it was asked for.
* A type name in PostgreSQL's long form (``timestamp with time zone``, ``integer[]``,
  ``numeric(10,2)``, as PostgREST's OpenAPI says it) means the same as the short one.
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
"""Up to here every integer is a float."""

NAN_KEY: Final = float("nan")
"""The key of the row whose key is NaN, which PostgreSQL takes for equal to itself and Python does not: one
object, since dicts, sets and tuples ask for identity first."""

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
    """A column's name, its type's (``int8``, ``text``, ``_int4``, an enum's name), and what it may
    hold as far as the server has said: not everybody may read its description.

    Examples
    --------
    >>> Column("status", "state", nullable=False, choices=("open", "held")).refusal("sold")
    "status is one of open, held; not 'sold'"
    """

    name: str
    pg_type: str = "text"
    nullable: bool = True
    choices: tuple[str, ...] = ()
    """An enum's labels, in their order; empty: not known, or no enum."""
    filled: bool = False
    """The server is known to fill it in where nothing is given: it has a default."""
    generated: bool = False
    """The server is known to compute it from other columns: nothing can be written."""
    digits: tuple[int, int] | None = None
    """Precision and scale of a ``numeric(6,2)``; None: not known, or without a limit."""

    @property
    def description(self) -> str:
        """What it may hold, in words.

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
        """Why the server would not take a typed ``value`` here; None: it may."""
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
    """Whether a number, rounded to ``scale``, has more digits than ``precision``, as PostgreSQL asks."""
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal) or value != value:
        return False
    number = abs(Decimal(repr(value)) if isinstance(value, float) else Decimal(value))
    return number + Decimal(5).scaleb(-scale - 1) >= Decimal(1).scaleb(precision - scale)


@dataclass(frozen=True, repr=False)
class Schema:
    """A table's columns, its key's columns in order, and what ``numeric`` becomes.

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
    """Column, the class that JSON's values have already if they are typed ones, and the decoder."""

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
        """The columns' names, in order."""
        return tuple(self.types)

    @property
    def exact_numbers(self) -> bool:
        """Whether JSON must be decoded with ``exact_numbers`` for this table to be exact."""
        return self.numeric == "decimal" and any(
            "numeric" in canonical(column.pg_type) for column in self.columns
        )

    def decode(self, row: WireRow, source: Source = "rest") -> dict[str, Any]:
        """Make a typed row of a JSON one; columns that the schema does not know are left out."""
        decoders = self._decoders
        if row.keys() >= decoders.keys():  # nearly every row of a table: only what must be changed
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
        """Make a typed row of a user's values; raises ValueError naming the column."""
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
        """Make a typed key of a user's: a value, or a tuple of them for a composite key."""
        if len(self.key) > 1 and (not isinstance(key, tuple) or len(key) != len(self.key)):
            raise ValueError(f"the key is a tuple of {', '.join(self.key)}, not {key!r}")
        return self.key_of(self.coerce(self.values_of(key)))

    def key_of(self, row: Row) -> Key:
        """The key of a typed row: the key column's value, or a tuple for a composite key."""
        if len(self.key) == 1:
            return key_part(row[self.key[0]])
        return tuple(key_part(row[name]) for name in self.key)

    def values_of(self, key: Key) -> dict[str, Any]:
        """The values of the key's columns: what `key_of` makes ``key`` of."""
        parts = key if len(self.key) > 1 else (key,)
        return {
            name: decode(self.types[name], json.loads(part)) if type(part) is NestedKey else part
            for name, part in zip(self.key, parts, strict=True)  # type: ignore[call-overload]  # a Key of several columns is a tuple (rows.py)
        }

    def keys_of(self, page: Sequence[WireRow]) -> list[Key]:
        """The typed keys of a page of undecoded rows."""
        columns = [self._keys_in(name, [row[name] for row in page]) for name in self.key]
        return columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))

    def keys_in(self, columns: Sequence[list[Any]]) -> list[Key]:
        """The keys of rows whose key's columns hold these typed values."""
        parts = [
            values if set(map(type, values)) <= _KEY_CLASSES else [key_part(one) for one in values]
            for values in columns
        ]
        return parts[0] if len(parts) == 1 else list(zip(*parts, strict=True))

    def _keys_in(self, name: str, values: list[Json]) -> list[Key]:
        """One column of the keys of a page, decoded as a whole: row by row takes twice as long."""
        decode = self._decoders[name]
        if set(map(type, values)) <= {typed_class(decode)}:
            return cast("list[Key]", values)
        typed = decoded(decode, values)
        return typed if set(map(type, typed)) <= _KEY_CLASSES else [key_part(one) for one in typed]

    def rounds(self, row: WireRow, name: str) -> bool:
        """Whether the float that column ``name`` is decoded to may be another number."""
        if self.numeric == "decimal" or kind(self.types[name]) != "decimal":
            return False
        value = row[name]
        return isinstance(value, int | float) and abs(value) > _EXACT_FLOATS

    def lossy(self, row: WireRow) -> bool:
        """Whether a row come over the socket holds a value that may not be the true one."""
        return any(lossy(self.types[name], row[name]) for name in row if name in self.types)

    def project(self, names: Iterable[str]) -> Schema:
        """This schema with only ``names`` (and the key), in the order given."""
        wanted = dict.fromkeys([*names, *self.key])
        return Schema(tuple(self.column(name) for name in wanted), self.key, self.numeric)

    def column(self, name: str) -> Column:
        """The column called ``name``; raises KeyError."""
        return self._columns[name]


_KEY_CLASSES: Final = {int, str, bool, bytes, dt.datetime, dt.date, dt.time, type(None)}
"""Classes of typed values that are keys as they are: hashable, and equal to themselves."""


def key_part(value: Any) -> Key:
    """The typed value of a key's column as what a key is made of: it can be hashed, and equals itself."""
    if isinstance(value, (list, dict)):
        return NestedKey(json.dumps(value, sort_keys=True, default=str))
    if value != value:
        return NAN_KEY
    return cast(Key, value)
