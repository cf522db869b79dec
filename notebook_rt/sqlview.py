"""``SqlFrame``: a live SQL query over live frames, returned by ``sql`` and ``Session.sql``.

In: a query, its parameters, and the frames that it reads by name. Out: its result as a DataFrame,
computed by DuckDB from the frames' Arrow buffers again when one of them has changed. DuckDB's own parser
finds the tables that a query reads; parameters are bound, never inserted into the text.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from notebook_rt.errors import SqlError
from notebook_rt.frame import LiveFrame
from notebook_rt.mapped import MappedFrame
from notebook_rt.quoting import printable

if TYPE_CHECKING:
    import duckdb
    import pandas as pd
    import pyarrow as pa

SHARE: Final = 0.25
"""Maximum share of a core for the runs for listeners and widgets."""

TableName: TypeAlias = tuple[str, str]
"""Schema (empty if the query names none) and table."""
Parameters: TypeAlias = "Mapping[str, Any] | Sequence[Any] | None"


@dataclass(frozen=True, slots=True)
class Plan:
    """The tables that a `SqlFrame` reads, and the cost of its runs."""

    tables: tuple[str, ...]
    """The tables of the query, as written there."""
    runs: int
    """Number of runs."""
    seconds: float
    """Processor time of the last run in seconds; 0.0 before the first."""
    every: float
    """Minimum seconds between two runs while there are listeners."""
    explained: str
    """DuckDB's plan of the query; empty before the first run."""

    def __str__(self) -> str:
        cost = (
            f"{1000 * self.seconds:.1f} ms, at most every {1000 * self.every:.0f} ms while watched"
        )
        runs = f"{self.runs:,} {'run' if self.runs == 1 else 'runs'}"
        said = f"reads {', '.join(self.tables)}; {runs}; the last took {cost}"
        return printable(f"{said}\n{self.explained}".rstrip(), lines=True)


class SqlFrame(MappedFrame):
    """The result of a query over live frames, returned by `sql` and `Session.sql`."""

    def __init__(
        self,
        query: str,
        params: Parameters,
        tables: Mapping[TableName, Any],
        key: str | Sequence[str] | None = None,
    ) -> None:
        super().__init__(_live(tables.values()), self._result)
        self.query = query
        self._params = params
        self._tables = dict(tables)
        self._key = [key] if isinstance(key, str) else list(key or ())
        self._arrows: dict[LiveFrame, tuple[int, pa.Table]] = {}
        self._lock = threading.Lock()
        self._connection: duckdb.DuckDBPyConnection | None = None
        self._runs = 0
        self._seconds = 0.0

    @property
    def _title(self) -> str:
        reads = ", ".join(_spelled(name) for name in self._tables)
        return f"{_short(self.query)!r} of {reads}"

    def __repr__(self) -> str:
        return printable(f"<SqlFrame {self._title}>")

    @property
    def plan(self) -> Plan:
        """The tables that the query reads, the number and cost of its runs, and DuckDB's plan.

        Returns
        -------
        Plan
            To ``print``.

        Raises
        ------
        SqlError
            If DuckDB cannot run the query.
        """
        self._compute()
        with self._lock:
            rows = self._connect().execute(f"explain {self.query}", self._params).fetchall()
        explained = "\n".join(str(row[-1]) for row in rows)
        names = tuple(map(_spelled, self._tables))
        return Plan(names, self._runs, self._seconds, self._seconds / SHARE, explained)

    def _given(self) -> tuple[pa.Table, ...]:
        """Arrow's tables of the frames; the same object while a frame has not changed."""
        found = []
        for frame in self.frames:
            assert isinstance(frame, LiveFrame)
            version, known = frame.version, self._arrows.get(frame)
            if known is None or known[0] != version:
                known = self._arrows[frame] = (version, frame.to_arrow())
            found.append(known[1])
        return tuple(found)

    def _run_fn(self, given: tuple[Any, ...]) -> Any:
        return self._result(*given)

    def _pause(self) -> float:
        return self._seconds * (1 / SHARE - 1)

    def _result(self, *given: pa.Table) -> pd.DataFrame:
        arrows = dict(zip(self.frames, given, strict=True))
        tables = {
            name: arrows[table] if isinstance(table, LiveFrame) else _arrow(name, table)
            for name, table in self._tables.items()
        }
        with self._lock:
            self._connect()  # once, which is no measure of a run
            began = time.thread_time()  # DuckDB runs in this thread
            try:
                df = self._run_query(tables)
            finally:
                self._seconds = time.thread_time() - began
                self._runs += 1
        return df

    def _run_query(self, tables: Mapping[TableName, pa.Table]) -> pd.DataFrame:
        import duckdb

        connection = self._connect()
        for number, (name, table) in enumerate(tables.items()):
            connection.register(f"_frame_{number}", table)
            connection.execute(f"create or replace view {_place(name)} as from _frame_{number}")
        try:
            result = connection.sql(self.query, params=self._params)
            _check_names(result.columns, self.query)
            kinds = [str(kind) for kind in result.types]
            df = _dataframe(result.to_arrow_table(), kinds)
        except duckdb.Error as error:
            raise SqlError(self.query, str(error)) from None
        return _keyed(df, self._key, self.query) if self._key else df

    def _connect(self) -> duckdb.DuckDBPyConnection:
        if self._connection is None:
            self._connection = _new_connection()
            for schema in {schema for schema, _ in self._tables if schema}:
                self._connection.execute(f"create schema if not exists {_quoted(schema)}")
        return self._connection


def sql(
    query: str,
    params: Mapping[str, Any] | Sequence[Any] | None = None,
    /,
    *,
    key: str | Sequence[str] | None = None,
    **frames: LiveFrame | MappedFrame | pd.DataFrame,
) -> SqlFrame:
    """Return a live view of a SQL query over live frames, run by DuckDB when it is read after a change.

    While a grid, a chart or a listener follows it, its runs use at most a quarter of a core.

    Parameters
    ----------
    query : str
        One SELECT in DuckDB's SQL. Its tables are the names of ``frames``, case-insensitive.
    params : dict or sequence, optional
        The values of ``$name`` or ``?`` in the query.
    key : str or sequence of str, optional
        Columns of the result that become the index and identify a row in a grid.
    **frames
        The tables of the query: live frames, results of `map` or `sql`, or DataFrames, which do not
        change. JSON and arrays of mixed types are text.

    Returns
    -------
    SqlFrame
        The view. ``df`` is a DataFrame. HUGEINT, the type of the ``sum`` of integers, is int64, or
        ``object`` with ints if a value does not fit; integers and booleans with nulls have pandas'
        nullable dtypes.

    Raises
    ------
    SqlError
        If the query is not a single SELECT, cannot be parsed, or reads a table that is not a frame.
    TypeError
        If a frame is neither a live frame nor a DataFrame, no frame is live, or ``params`` is neither a
        dict nor a sequence.
    ImportError
        If DuckDB is not installed: ``pip install 'notebook_rt[sql]'``.

    Examples
    --------
    >>> totals = nrt.sql(
    ...     "select symbol, sum(pieces) n from trades where price > $low group by all",
    ...     {"low": 100}, trades=trades, key="symbol",
    ... )  # doctest: +SKIP
    >>> totals.df  # doctest: +SKIP
    """
    return made(query, params, partial(_named, query, frames), key)


def made(
    query: str,
    params: Parameters,
    find: Callable[[TableName], Any],
    key: str | Sequence[str] | None = None,
) -> SqlFrame:
    """Return the view of a query whose tables ``find`` returns, by schema and name."""
    if isinstance(params, str | bytes) or not isinstance(params, Mapping | Sequence | None):
        raise TypeError(
            f"the values of a query are a dict, for $name, or a list, for ?, not {params!r:.80}: "
            'sql("select ... where id = ?", [3])'
        )
    tables = {name: find(name) for name in tables_of(query)}
    for name, table in tables.items():
        _check(name, table)
    if not _live(tables.values()):
        for name in tables:  # each is a DataFrame
            one = _spelled(name)
            raise TypeError(
                f"{one} is a DataFrame, so the query reads no live frame and never changes: pass the live "
                f"frame itself, {one}=trades, not {one}=trades.df"
            )
        raise TypeError(f"the query reads no live frame, so it never changes: {_short(query)}")
    return SqlFrame(query, params, tables, key)


def tables_of(query: str) -> list[TableName]:
    """Return the tables that a query reads, in the order in which it names them first.

    Raises
    ------
    SqlError
        If it is not a single SELECT, or cannot be parsed.
    """
    if not isinstance(query, str):
        raise TypeError(f"a query must be a string, not {type(query).__name__}")
    (row,) = _parser().cursor().execute("select json_serialize_sql(?)", [query]).fetchall()
    parsed = json.loads(row[0])
    if parsed.get("error_type") == "not implemented":
        raise SqlError(
            query,
            "only a SELECT is live; rows are written by insert, edit, upsert and delete of a table",
        )
    if parsed["error"]:
        raise SqlError(query, parsed["error_message"])
    if len(parsed["statements"]) != 1:
        raise SqlError(query, f"one SELECT is wanted, not {len(parsed['statements'])} statements")
    found: dict[tuple[str, ...], TableName] = {}
    for path in _read(parsed["statements"][0]["node"], frozenset()):
        if len(path) > 2:
            raise SqlError(query, f"{'.'.join(path)} is not a frame: write schema.table, or table")
        schema, table = ("", *path)[-2:]
        found.setdefault(tuple(part.casefold() for part in path), (schema, table))
    return list(found.values())


def _read(node: Any, known: frozenset[str]) -> Iterator[tuple[str, ...]]:
    """Return the paths of the tables in a part of DuckDB's syntax tree; ``known`` are queries of its WITH."""
    if isinstance(node, list):
        for part in node:
            yield from _read(part, known)
        return
    if not isinstance(node, dict):
        return
    if node.get("type") == "BASE_TABLE":
        path = tuple(node["qualified_name"]["path"])
        if len(path) > 1 or path[0].casefold() not in known:
            yield path
    if node.get("type") == "RECURSIVE_CTE_NODE":
        known |= {node["cte_name"].casefold()}
    for one in node.get("cte_map", {}).get("map", ()):
        yield from _read(one["value"], known)
        known |= {one["key"].casefold()}
    for name, part in node.items():
        if name != "cte_map":
            yield from _read(part, known)


def _named(query: str, frames: Mapping[str, Any], name: TableName) -> Any:
    schema, table = name
    by_name = {one.casefold(): frame for one, frame in frames.items()}
    for one in (f"{schema}.{table}", *([] if schema else [table])):
        if one.casefold() in by_name:
            return by_name[one.casefold()]
    near = get_close_matches(table, frames, 1)
    meant = f"; did you mean {near[0]}?" if near else ""
    given = (
        f"given: {', '.join(frames)}" if frames else "give it by name: sql(query, trades=trades)"
    )
    raise SqlError(query, f"{_spelled(name)} is not a frame{meant} ({given})")


def _check(name: TableName, table: Any) -> None:
    import pandas as pd

    if not isinstance(table, (LiveFrame, MappedFrame, pd.DataFrame)):
        kind = type(table).__name__
        raise TypeError(f"{_spelled(name)} must be a live frame or a DataFrame, not {kind}")


def _live(tables: Any) -> tuple[LiveFrame, ...]:
    """Return the live frames among them, including the inputs of computed frames."""
    found: dict[LiveFrame, None] = {}
    for table in tables:
        if isinstance(table, LiveFrame):
            found[table] = None
        elif isinstance(table, MappedFrame):
            found.update(dict.fromkeys(f for f in table.frames if isinstance(f, LiveFrame)))
    return tuple(found)


def _arrow(name: TableName, table: Any) -> pa.Table:
    """Return a DataFrame, or the value of a `MappedFrame`, for DuckDB; a named index becomes a column."""
    import pandas as pd
    import pyarrow as pa

    value = table.df if isinstance(table, MappedFrame) else table
    if isinstance(value, pd.Series):
        value = value.to_frame(value.name if value.name is not None else "value")
    if not isinstance(value, pd.DataFrame):
        raise TypeError(f"{_spelled(name)} is computed as {type(value).__name__}, not as a table")
    named = any(level is not None for level in value.index.names)
    return pa.Table.from_pandas(value.reset_index() if named else value, preserve_index=False)


def _new_connection() -> duckdb.DuckDBPyConnection:
    """Return a database in memory that sees only registered tables, and no Python variables."""
    try:
        import duckdb
    except ImportError as error:
        raise ImportError(
            'SQL over live frames needs the extra "sql": pip install "notebook_rt[sql]"',
            name=error.name,
        ) from None
    connection = duckdb.connect(
        ":memory:", config={"python_enable_replacements": "false", "threads": "1"}
    )
    connection.execute("set timezone = 'UTC'")  # as in the frames, wherever the kernel runs
    return connection


@cache
def _parser() -> duckdb.DuckDBPyConnection:
    return _new_connection()


def _dataframe(table: pa.Table, kinds: Sequence[str]) -> pd.DataFrame:
    """Return a result as a DataFrame in which integers stay integers."""
    import pandas as pd
    import pyarrow as pa

    columns: dict[int, Any] = {}
    for place, kind in enumerate(kinds):
        column = table.column(place)
        whole = kind in ("HUGEINT", "UHUGEINT")
        if whole:
            try:
                column = column.cast(pa.int64())
            except pa.ArrowInvalid:
                exact = (None if one is None else int(one) for one in column.to_pylist())
                columns[place] = pd.Series(list(exact), dtype=object)
                continue
        columns[place] = column.to_pandas(types_mapper=_nullable if column.null_count else None)
    df = pd.DataFrame(columns, index=pd.RangeIndex(table.num_rows))
    df.columns = pd.Index(table.column_names)
    return df


def _nullable(kind: pa.DataType) -> Any:
    """Return pandas' nullable dtype for a column that would be float or object because of a null."""
    import pandas as pd
    import pyarrow as pa

    if pa.types.is_integer(kind):
        return pd.api.types.pandas_dtype(str(kind).replace("i", "I").replace("u", "U"))
    return pd.BooleanDtype() if pa.types.is_boolean(kind) else None


def _check_names(names: Sequence[str], query: str) -> None:
    """Raise if a name occurs twice: a grid, a file and ``df[name]`` could show only one of the columns."""
    for name in names:
        if (times := names.count(name)) > 1:
            raise SqlError(
                query,
                f"{times} columns of the result are named {name!r}: give each a name of its own with as, "
                f"such as a.{_quoted(name)} as {_quoted(f'{name}_2')}",
            )


def _keyed(df: pd.DataFrame, key: Sequence[str], query: str) -> pd.DataFrame:
    missing = [name for name in key if name not in df.columns]
    if missing:
        there = ", ".join(map(str, df.columns))
        raise SqlError(query, f"the result has no column {missing[0]!r} for key=; it has {there}")
    return df.set_index(list(key) if len(key) > 1 else key[0])


def _place(name: TableName) -> str:
    return ".".join(map(_quoted, filter(None, name)))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _spelled(name: TableName) -> str:
    return ".".join(part for part in name if part)


def _short(query: str) -> str:
    words = " ".join(query.split())
    return words if len(words) <= 60 else f"{words[:59]}…"
