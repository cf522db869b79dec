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
* ``numeric`` is a float64 unless the schema says ``numeric="decimal"``; whoever makes a schema for
  the pyarrow backend says so, since that backend can hold it (decimal128, or 256, with the scale
  of the longest value; a NaN or an infinity among them makes the column object).
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
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any, Final, Literal, TypeAlias, cast

import numpy as np
import pandas as pd

from notebook_rt.sync.rows import Json, Key, Row, WireRow

Source: TypeAlias = Literal["rest", "socket"]
Numeric: TypeAlias = Literal["float", "decimal"]
Backend: TypeAlias = Literal["numpy_nullable", "pyarrow"] | None
Kind: TypeAlias = Literal[
    "int",
    "float",
    "decimal",
    "bool",
    "timestamptz",
    "timestamp",
    "date",
    "time",
    "bytes",
    "json",
    "array",
    "text",
]

_SHORT: Final[dict[str, str]] = {
    "smallint": "int2",
    "integer": "int4",
    "int": "int4",
    "bigint": "int8",
    "real": "float4",
    "double precision": "float8",
    "decimal": "numeric",
    "boolean": "bool",
    "timestamp with time zone": "timestamptz",
    "timestamp without time zone": "timestamp",
    "time with time zone": "timetz",
    "time without time zone": "time",
    "character varying": "varchar",
    "character": "bpchar",
    '"char"': "char",
    "bit varying": "varbit",
}
_KINDS: Final[dict[str, Kind]] = {
    "int2": "int",
    "int4": "int",
    "int8": "int",
    "oid": "int",
    "float4": "float",
    "float8": "float",
    "numeric": "decimal",
    "bool": "bool",
    "timestamptz": "timestamptz",
    "timestamp": "timestamp",
    "date": "date",
    "time": "time",
    "bytea": "bytes",
    "json": "json",
    "jsonb": "json",
}
_ORDERED: Final[frozenset[str]] = frozenset(
    {"int", "float", "decimal", "bool", "timestamptz", "timestamp", "date", "time", "bytes"}
)
_UTC: Final = dt.UTC
_INT64: Final = range(-(2**63), 2**63)


@lru_cache(maxsize=4096)
def canonical(pg_type: str) -> str:
    """``pg_type`` in the socket's short form: ``int8``, ``timestamptz``, ``_int4``."""
    name = pg_type.strip()
    if name.endswith("[]"):
        return "_" + canonical(name[:-2]).lstrip("_")
    if "(" in name:
        head, _, tail = name.partition("(")
        name = (head.strip() + " " + tail.partition(")")[2].strip()).strip()
    return _SHORT.get(name.lower(), name)


@lru_cache(maxsize=4096)
def kind(pg_type: str) -> Kind:
    """The family of ``pg_type``, which decides how it is decoded, stored and compared."""
    name = canonical(pg_type)
    if name.startswith("_"):
        return "array"
    return _KINDS.get(name, "text")


def element(pg_type: str) -> str:
    """The element type of an array type."""
    return canonical(pg_type)[1:]


@lru_cache(maxsize=4096)
def sortable(pg_type: str) -> bool:
    """Whether typed values of ``pg_type`` sort here as the server sorts them.

    Text follows a collation and enums their declaration: only the server knows.
    """
    return canonical(pg_type) == "uuid" or kind(pg_type) in _ORDERED


# --- JSON to typed ---------------------------------------------------------------------------


def _int(value: Json) -> Any:
    if type(value) is int:
        return value
    try:
        number = int(value)
    except (ValueError, TypeError, OverflowError):
        return value
    if isinstance(value, (float, Decimal)) and number != value:
        return value
    return number


def _float(value: Json) -> Any:
    if type(value) is float:
        return value
    try:
        return float(value)
    except (ValueError, TypeError, OverflowError):
        return value


def _decimal(value: Json) -> Any:
    if type(value) is Decimal:
        return value
    try:
        # A float's shortest text is what the JSON said, its binary value is not.
        return Decimal(repr(value) if isinstance(value, float) else value)
    except (InvalidOperation, ValueError, TypeError):
        return value


def _bool(value: Json) -> Any:
    if isinstance(value, str):
        return {"true": True, "t": True, "false": False, "f": False}.get(value, value)
    return value


def _timestamptz(value: Json) -> Any:
    try:
        moment = dt.datetime.fromisoformat(value)
    except (ValueError, TypeError):
        return value
    if moment.tzinfo is _UTC:
        return moment
    try:
        return moment.replace(tzinfo=_UTC) if moment.tzinfo is None else moment.astimezone(_UTC)
    except OverflowError:
        return value


def _timestamp(value: Json) -> Any:
    try:
        return dt.datetime.fromisoformat(value).replace(tzinfo=None)
    except (ValueError, TypeError):
        return value


def _date(value: Json) -> Any:
    try:
        return dt.date.fromisoformat(value)
    except (ValueError, TypeError):
        return value


def _time(value: Json) -> Any:
    try:
        # "24:00:00" is a time to PostgreSQL and none to Python: it stays text.
        return dt.time.fromisoformat(value)
    except (ValueError, TypeError):
        return value


def _bytes(value: Json) -> Any:
    # REST sends "\xdead", the socket "dead" (WIRE.md "Values"); hex never begins with a backslash.
    try:
        return bytes.fromhex(value[2:] if value.startswith("\\x") else value)
    except (ValueError, AttributeError):
        return value


def _json(value: Json) -> Any:
    """Undo ``exact_numbers`` inside json: its numbers are floats whichever way they came."""
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, list):
        return [_json(item) for item in value]
    if isinstance(value, dict):
        return {name: _json(item) for name, item in value.items()}
    return value


def _same(value: Json) -> Any:
    return value


_DECODERS: Final[dict[Kind, Callable[[Json], Any]]] = {
    "int": _int,
    "float": _float,
    "bool": _bool,
    "timestamptz": _timestamptz,
    "timestamp": _timestamp,
    "date": _date,
    "time": _time,
    "bytes": _bytes,
    "json": _json,
    "text": _same,
}


@lru_cache(maxsize=4096)
def decoder(pg_type: str, numeric: Numeric = "float") -> Callable[[Json], Any]:
    """The function that makes a typed value of a non-null JSON value of ``pg_type``."""
    family = kind(pg_type)
    if family == "decimal":
        return _decimal if numeric == "decimal" else _float
    if family != "array":
        return _DECODERS[family]
    item = decoder(element(pg_type), numeric)

    def nested(value: Json) -> Any:
        if isinstance(value, list):
            return [nested(one) for one in value]
        return None if value is None else item(value)

    return nested


def decode(
    pg_type: str, value: Json, source: Source = "rest", *, numeric: Numeric = "float"
) -> Any:
    r"""Make a typed value of a JSON value.

    Parameters
    ----------
    pg_type : str
        The type's name, ``int8``, ``_text``, an enum's name.
    value
        The JSON value; None is null for every type.
    source : {"rest", "socket"}
        Who sent it. The two differ in bytea only, and its forms tell themselves apart; what the
        socket cannot say at all is found by `lossy`.
    numeric : {"float", "decimal"}
        What ``numeric`` becomes. Exact only if the JSON was decoded with ``exact_numbers``.

    Examples
    --------
    >>> decode("timestamptz", "2024-01-02T03:04:05.6+02:00").isoformat()
    '2024-01-02T01:04:05.600000+00:00'
    >>> decode("bytea", r"\xdeadbeef", "rest") == decode("bytea", "deadbeef", "socket")
    True
    >>> decode("timestamptz", "infinity")
    'infinity'
    """
    return None if value is None else decoder(pg_type, numeric)(value)


def lossy(pg_type: str, value: Json) -> bool:
    """Whether ``value``, come over the socket, may not be the true one (WIRE.md "Values").

    NaN and infinities arrive as null, ``char(n)`` and ``bit(n)`` are cut to one character: such a
    row must be fetched.
    """
    name = canonical(pg_type)
    if name.startswith("_"):
        if isinstance(value, list):
            return any(lossy(name if isinstance(v, list) else name[1:], v) for v in value)
        return False
    if name in ("bpchar", "bit"):
        return value is not None
    return value is None and kind(name) in ("float", "decimal")


# --- typed to JSON and text -------------------------------------------------------------------


def _number_text(value: float | Decimal) -> str:
    if value != value:
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return repr(value) if isinstance(value, float) else format(value, "f")


def to_json(pg_type: str, value: Any) -> Json:
    """Make of a typed value what goes into the JSON body of a write.

    Numbers that JSON has no word for, and Decimals, go as text: PostgreSQL reads them exactly.
    """
    family = kind(pg_type)
    if value is None or family == "json":
        return value
    if isinstance(value, list) and family == "array":
        inner = element(pg_type)
        return [to_json(pg_type if isinstance(one, list) else inner, one) for one in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else _number_text(value)
    if isinstance(value, Decimal):
        return _number_text(value)
    if isinstance(value, (bytes, dt.date, dt.time)):
        return to_rest(pg_type, value)
    return value


def to_rest(pg_type: str, value: Any) -> str:
    r"""Make of a typed value the text that PostgreSQL reads it from, as PostgREST's filters need.

    Quoting for the filter language is the caller's.

    Examples
    --------
    >>> to_rest("_text", ["a", 'b,"c', None])
    '{"a","b,\\"c",NULL}'
    """
    family = kind(pg_type)
    if value is None:
        return "null"
    if family == "json":
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (float, Decimal)):
        return _number_text(value)
    if isinstance(value, bytes):
        return "\\x" + value.hex()
    if isinstance(value, (dt.date, dt.time)):
        return value.isoformat()
    if isinstance(value, (list, tuple)):
        return "{" + ",".join(_array_item(element(pg_type), one) for one in value) + "}"
    return str(value)


def _array_item(pg_type: str, value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, list) and kind(pg_type) != "json":
        return "{" + ",".join(_array_item(pg_type, one) for one in value) + "}"
    text = to_rest(pg_type, value)
    if kind(pg_type) in ("int", "float", "decimal", "bool"):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


# --- values of users --------------------------------------------------------------------------


def coerce(pg_type: str, value: Any, *, numeric: Numeric = "float") -> Any:
    """Make a typed value of what a user passed: numpy scalars, Timestamps, dates, ISO text.

    Raises
    ------
    ValueError
        If ``value`` is no value of ``pg_type``.

    Examples
    --------
    >>> coerce("int8", np.int64(7)), coerce("date", pd.Timestamp("2024-01-02 05:00"))
    (7, datetime.date(2024, 1, 2))
    """
    family = kind(pg_type)
    if isinstance(value, np.ndarray):
        value = value.tolist()
    elif isinstance(value, np.generic) and not isinstance(value, np.datetime64):
        value = value.item()
    elif isinstance(value, np.datetime64):
        value = pd.Timestamp(value)
    if value is None or value is pd.NA or value is pd.NaT:
        return None
    if isinstance(value, pd.Timestamp):
        value = value.to_pydatetime(warn=False)
    if family in ("timestamptz", "timestamp", "date") and isinstance(value, dt.date):
        return _coerce_moment(family, value)
    if isinstance(value, tuple | set | frozenset) and family == "array":
        value = list(value)
    if family == "text":
        return value if isinstance(value, str) else to_rest(pg_type, value)
    if family == "float" or (family == "decimal" and numeric == "float"):
        value = _float(value)
    elif isinstance(value, (bytes, dt.time)):
        return value
    typed = decoder(pg_type, numeric)(value)
    if not fits(pg_type, typed, numeric=numeric) and not _is_text_moment(family, typed):
        raise ValueError(f"{value!r} is no value of the PostgreSQL type {canonical(pg_type)}")
    return typed


def _coerce_moment(family: Kind, value: dt.date) -> dt.date:
    if family == "date":
        return value.date() if isinstance(value, dt.datetime) else value
    if not isinstance(value, dt.datetime):
        value = dt.datetime.combine(value, dt.time())
    if family == "timestamp":
        return value.astimezone(_UTC).replace(tzinfo=None) if value.tzinfo else value
    return value.astimezone(_UTC) if value.tzinfo else value.replace(tzinfo=_UTC)


def _is_text_moment(family: Kind, value: Any) -> bool:
    if family not in ("timestamptz", "timestamp", "date", "time") or not isinstance(value, str):
        return False
    return value in ("infinity", "-infinity", "24:00:00") or value[:1].isdigit()


_CLASSES: Final[dict[Kind, tuple[type, ...]]] = {
    "float": (float,),
    "bool": (bool,),
    "timestamptz": (dt.datetime,),
    "timestamp": (dt.datetime,),
    "date": (dt.date,),
    "time": (dt.time,),
    "bytes": (bytes,),
    "json": (object,),
    "array": (list,),
    "text": (str,),
}


def fits(pg_type: str, value: Any, *, numeric: Numeric = "float") -> bool:
    """Whether a typed, non-null value is of its type's own class, not a text or JSON kept as is."""
    family = kind(pg_type)
    if family == "int":
        return type(value) is int and value in _INT64
    if family == "decimal":
        return isinstance(value, Decimal if numeric == "decimal" else float)
    return isinstance(value, _CLASSES[family])


def equal(a: Any, b: Any) -> bool:
    """Whether two typed values are the same: None is None, NaN is NaN, JSON true is not 1."""
    if a is b:
        return True
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(equal(item, b[name]) for name, item in a.items())
    if isinstance(a, bool) != isinstance(b, bool):
        return False
    return bool(a == b) or bool(a != a and b != b)


# --- dtypes -----------------------------------------------------------------------------------


def dtype(
    pg_type: str, backend: Backend = None, *, nulls: bool = False, numeric: Numeric = "float"
) -> Any:
    """The pandas dtype of a column of ``pg_type``.

    Parameters
    ----------
    backend : {None, "numpy_nullable", "pyarrow"}
        As in pandas' readers.
    nulls : bool
        Whether the column holds a null now; counts for int and bool under the default backend.

    Examples
    --------
    >>> dtype("int8"), dtype("int8", nulls=True), str(dtype("timestamptz"))
    (dtype('int64'), Int64Dtype(), 'datetime64[us, UTC]')
    """
    family: Kind = kind(pg_type)
    if family == "decimal" and numeric == "float":
        family = "float"
    if backend == "pyarrow":
        arrow = arrow_type("float8" if family == "float" else pg_type)
        return np.dtype(object) if arrow is None else pd.ArrowDtype(arrow)
    if family == "timestamptz":
        return pd.DatetimeTZDtype("us", "UTC")
    if family in ("timestamp", "date"):
        return np.dtype("M8[us]")
    nullable = nulls or backend == "numpy_nullable"
    if family == "int":
        return pd.Int64Dtype() if nullable else np.dtype("int64")
    if family == "bool":
        return pd.BooleanDtype() if nullable else np.dtype(bool)
    if family == "float":
        return pd.Float64Dtype() if backend else np.dtype("float64")
    if family == "text":
        return pd.StringDtype("pyarrow", na_value=pd.NA if backend else np.nan)
    return np.dtype(object)


def arrow_type(pg_type: str) -> Any:
    """The ``pyarrow.DataType`` of ``pg_type``; None for numeric, json, arrays: the rows decide."""
    import pyarrow as pa

    return {
        "int": pa.int64(),
        "float": pa.float64(),
        "bool": pa.bool_(),
        "timestamptz": pa.timestamp("us", "UTC"),
        "timestamp": pa.timestamp("us"),
        "date": pa.date32(),
        "time": pa.time64("us"),
        "bytes": pa.large_binary(),
        "text": pa.large_string(),
    }.get(kind(pg_type))


# --- a table's columns ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Column:
    """A column's name and its type's (``int8``, ``text``, ``_int4``, an enum's name)."""

    name: str
    pg_type: str


@dataclass(frozen=True)
class Schema:
    """A table's columns, its key's columns in order, and what ``numeric`` becomes.

    Examples
    --------
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

    _decoders: Mapping[str, Callable[[Json], Any]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        types = {column.name: column.pg_type for column in self.columns}
        missing = [name for name in self.key if name not in types]
        if missing or not self.key:
            raise ValueError(f"the key {self.key} names no column of {list(types)}")
        object.__setattr__(self, "types", types)
        decoders = {name: decoder(pg_type, self.numeric) for name, pg_type in types.items()}
        object.__setattr__(self, "_decoders", decoders)

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
                raise ValueError(f"no column {name!r}; there are {', '.join(self.types)}")
            try:
                typed[name] = coerce(self.types[name], value, numeric=self.numeric)
            except ValueError as error:
                raise ValueError(f"column {name!r}: {error}") from None
        return typed

    def coerce_key(self, key: Any) -> Key:
        """Make a typed key of a user's: a value, or a tuple of them for a composite key."""
        if len(self.key) == 1:
            return self.key_of(self.coerce({self.key[0]: key}))
        if not isinstance(key, tuple) or len(key) != len(self.key):
            raise ValueError(f"the key is a tuple of {', '.join(self.key)}, not {key!r}")
        return self.key_of(self.coerce(dict(zip(self.key, key, strict=True))))

    def key_of(self, row: Row) -> Key:
        """The key of a typed row: the key column's value, or a tuple for a composite key."""
        if len(self.key) == 1:
            return _hashable(row[self.key[0]])
        return tuple(_hashable(row[name]) for name in self.key)

    def lossy(self, row: WireRow) -> bool:
        """Whether a row come over the socket holds a value that may not be the true one."""
        return any(lossy(self.types[name], row[name]) for name in row if name in self.types)

    def project(self, names: Iterable[str]) -> Schema:
        """This schema with only ``names`` (and the key), in the order given."""
        wanted = dict.fromkeys([*names, *self.key])
        return Schema(
            tuple(Column(name, self.types[name]) for name in wanted), self.key, self.numeric
        )


def _hashable(value: Any) -> Key:
    if isinstance(value, (list, dict)):
        return json.dumps(value, sort_keys=True, default=str)
    return cast(Key, value)
