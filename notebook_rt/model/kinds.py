"""PostgreSQL's type names: a type's family, and its name in numpy, pandas and Arrow.

``model.types`` has the mapping and its reasons.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa

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

NUMBERS: Final = frozenset[Kind]({"int", "float", "decimal"})
INT_LIMITS: Final = {"int2": 2**15, "int4": 2**31, "int8": 2**63}
"""The smallest number that is too large for a type; the smallest that it holds is minus that."""

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
_TEXTS: Final[frozenset[str]] = frozenset(
    {"text", "varchar", "bpchar", "char", "name", "uuid", "interval", "timetz", "inet", "cidr"}
    | {"macaddr", "money", "bit", "varbit", "xml"}
)
_ORDERED: Final[frozenset[str]] = frozenset(
    {"int", "float", "decimal", "bool", "timestamptz", "timestamp", "date", "time", "bytes"}
)


@lru_cache(maxsize=4096)
def canonical(pg_type: str) -> str:
    """Return ``pg_type`` in the socket's short form: ``int8``, ``timestamptz``, ``_int4``."""
    name = pg_type.strip()
    if name.endswith("[]"):
        return "_" + canonical(name[:-2]).lstrip("_")
    if "(" in name:
        head, _, tail = name.partition("(")
        name = (head.strip() + " " + tail.partition(")")[2].strip()).strip()
    return _SHORT.get(name.lower(), name)


def built_in(pg_type: str) -> bool:
    """Return whether ``pg_type`` is one of PostgreSQL's common types, not a user's enum or domain."""
    name = canonical(pg_type)
    return name in _KINDS or name in _TEXTS or name.startswith("_")


@lru_cache(maxsize=4096)
def kind(pg_type: str) -> Kind:
    """Return the family of ``pg_type``, which decides how it is decoded, stored and compared."""
    name = canonical(pg_type)
    if name.startswith("_"):
        return "array"
    return _KINDS.get(name, "text")


def element(pg_type: str) -> str:
    """Return the element type of an array type."""
    return canonical(pg_type)[1:]


@lru_cache(maxsize=4096)
def sortable(pg_type: str) -> bool:
    """Return whether typed values of ``pg_type`` sort here as the server sorts them.

    Text follows a collation and enums their declaration: only the server knows those.
    """
    return canonical(pg_type) == "uuid" or kind(pg_type) in _ORDERED


def dtype(
    pg_type: str, backend: Backend = None, *, nulls: bool = False, numeric: Numeric = "float"
) -> Any:
    """Return the pandas dtype of a column of ``pg_type``.

    Parameters
    ----------
    backend : {None, "numpy_nullable", "pyarrow"}
        As in pandas' readers.
    nulls : bool
        Whether the column holds a null now; matters for int and bool under the default backend.

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
    """Return the ``pyarrow.DataType`` of ``pg_type``; None for numeric, json, arrays: the rows decide."""
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
