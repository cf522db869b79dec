"""Derived frames of a table of a million rows, compared with recomputing and incremental libraries.

``python -m tests.benchmarks.bench_derive [rows]`` prints a table: the first build, and one change with the
read after it, in milliseconds (medians). The first change is a column of its own: it makes what the first
build left for later. So is the memory, of the result and beside it of the operator's state, and one change of
smaller tables: it does not grow with the table. pandas, polars and DuckDB read the same DataFrame, without
its being made. perspective keeps a view, and is given the changes; so is streamz, which has no way to take a
row back from a sum and computes pandas' expression anew for each batch. Both end with a DataFrame of the
result.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from notebook_rt.model.filters import parse
from notebook_rt.model.rows import Upsert
from notebook_rt.model.types import Column, Schema
from notebook_rt.store.columns import column_of
from notebook_rt.store.table import Table
from notebook_rt.sync.derive.distinct import Distinct
from notebook_rt.sync.derive.groupby import Aggregate, GroupBy
from notebook_rt.sync.derive.join import Join, Keying
from notebook_rt.sync.derive.operator import Derived, Operator
from notebook_rt.sync.derive.ordering import Ordering
from notebook_rt.sync.derive.select import Select
from notebook_rt.sync.derive.sort import Sort
from notebook_rt.sync.derive.source import Source
from notebook_rt.sync.derive.top import Top
from notebook_rt.sync.derive.where import Where
from tests.benchmarks.harness import OURS, Result, in_turns

CHANGES = 200
SMALLER = (1_000, 10_000, 100_000)
"""Rows of tables in which one change is measured beside."""
PEERS = ("pandas", "duckdb", "polars")
KEEPERS = ("perspective", "streamz")


def table_of(rows: int, symbols: int = 500) -> Table:
    """Trades: id, symbol, price, size, flag."""
    rng = np.random.default_rng(7)
    names = np.array([f"S{n:03}" for n in range(symbols)], object)
    columns = (
        Column("id", "int8"),
        Column("symbol", "text"),
        Column("price", "float8"),
        Column("size", "int8"),
        Column("flag", "bool"),
    )
    schema = Schema(columns, ("id",))
    values: dict[str, list[Any]] = {
        "id": list(range(rows)),
        "symbol": names[rng.integers(0, symbols, rows)].tolist(),
        "price": rng.uniform(1, 500, rows).tolist(),
        "size": rng.integers(1, 1000, rows).tolist(),
        "flag": (rng.random(rows) < 0.5).tolist(),
    }
    table = Table(schema)
    made = {c.name: column_of(values[c.name], c.pg_type, None, "float") for c in columns}
    table.replace(made, schema)
    return table


def symbols_of(symbols: int = 500) -> Table:
    """The symbols of the trades: symbol, sector, rank."""
    columns = (Column("symbol", "text"), Column("sector", "text"), Column("rank", "int8"))
    schema = Schema(columns, ("symbol",))
    values: dict[str, list[Any]] = {
        "symbol": [f"S{n:03}" for n in range(symbols)],
        "sector": [f"sector {n % 11}" for n in range(symbols)],
        "rank": list(range(symbols)),
    }
    table = Table(schema)
    made = {c.name: column_of(values[c.name], c.pg_type, None, "float") for c in columns}
    table.replace(made, schema)
    return table


def build(tables: Sequence[Table], make: Callable[[], Operator]) -> Derived:
    """The first build, and the read after it."""
    derived = Derived(make(), None)
    derived.bind([Source(table) for table in tables])
    derived.advance(want_changes=False)
    assert derived.view is not None
    derived.view.snapshot()
    return derived


def change(table: Table, derived: Derived, count: int, rng: np.random.Generator) -> float:
    """The seconds from ``count`` changes that were applied to the result that shows them."""
    keys = rng.integers(0, len(table), count).tolist()
    ops = [
        Upsert(key, {"price": float(rng.uniform(1, 500)), "size": int(rng.integers(1, 1000))})
        for key in keys
    ]
    table.apply(ops)
    began = time.perf_counter()
    derived.advance(want_changes=True)
    assert derived.view is not None
    derived.view.snapshot()
    return time.perf_counter() - began


Measured = tuple[str, dict[str, float]]
Peer = Callable[[], object]
Keeper = Callable[[pd.DataFrame], object]
"""Takes rows of id, price and size that have changed, and gives the result."""


def kept(keeper: Keeper, rows: int, count: int, times: int, rng: np.random.Generator) -> float:
    """The milliseconds from ``count`` changes to the result that shows them (median)."""
    found = []
    for _ in range(times):
        ids = np.unique(rng.integers(0, rows, count))
        prices, sizes = rng.uniform(1, 500, len(ids)), rng.integers(1, 1000, len(ids))
        changes = pd.DataFrame({"id": ids, "price": prices, "size": sizes})
        began = time.perf_counter()
        keeper(changes)
        found.append(time.perf_counter() - began)
    return 1000 * statistics.median(found)


def measure(rows: int, repeats: int = 7, changes: int = CHANGES) -> list[Measured]:
    """Each operator: the milliseconds of each way."""
    table = table_of(rows)
    symbols = symbols_of()
    found = []
    rng = np.random.default_rng(1)  # one for all: the same changes again would change nothing
    for name, (make, peers) in operators(table.snapshot(), symbols.snapshot()).items():
        tables = inputs(name, table, symbols)
        times = in_turns({"first build": partial(build, tables, make), **peers}, repeats)
        derived = build(tables, make)
        # what is made once, for all changes to come
        times["first change"] = 1000 * change(table, derived, 1, rng)
        change(table, derived, 100, rng)
        times["one change"] = 1000 * statistics.median(
            [change(table, derived, 1, rng) for _ in range(changes)]
        )
        times["100 changes"] = 1000 * statistics.median(
            [change(table, derived, 100, rng) for _ in range(changes // 10)]
        )
        times["bytes a row"] = derived.nbytes / rows
        times["of it state"] = derived.operator.nbytes / rows
        for who, begin in keepers(name, table.snapshot(), symbols.snapshot()).items():
            keeper = begin()
            kept(keeper, rows, 1, 1, rng)
            turns = min(5, repeats)
            times[f"{who}: one change"] = kept(keeper, rows, 1, turns, rng)
            times[f"{who}: 100 changes"] = kept(keeper, rows, 100, turns, rng)
        found.append((name, times))
    for smaller in SMALLER:
        if smaller < rows:
            changed = one_change(smaller, changes)
            for name, times in found:
                times[at(smaller)] = changed[name]
    return found


def at(rows: int) -> str:
    """The case of one change in a table of so many rows."""
    return f"one change of {rows:,} rows"


def inputs(name: str, table: Table, symbols: Table) -> list[Table]:
    """The tables that an operator reads."""
    return [table, symbols] if "join" in name or "merge" in name else [table]


def one_change(rows: int, changes: int) -> dict[str, float]:
    """The milliseconds of one change, of each operator."""
    table, symbols, rng = table_of(rows), symbols_of(), np.random.default_rng(1)
    found = {}
    for name, (make, _) in operators(table.snapshot(), symbols.snapshot()).items():
        derived = build(inputs(name, table, symbols), make)
        for _ in range(5):
            change(table, derived, 1, rng)
        times = [change(table, derived, 1, rng) for _ in range(changes)]
        found[name] = 1000 * statistics.median(times)
    return found


def operators(
    df: pd.DataFrame, symbols: pd.DataFrame
) -> dict[str, tuple[Callable[[], Operator], dict[str, Peer]]]:
    """The operators that are measured, and what each peer does instead."""
    import duckdb
    import polars

    flat = df.reset_index()
    aggregates = [
        Aggregate("n", "id", "count"),
        Aggregate("volume", "size", "sum"),
        Aggregate("mean", "price", "mean"),
        Aggregate("high", "price", "max"),
    ]
    given = {"volume": ("size", "sum"), "mean": ("price", "mean"), "high": ("price", "max")}
    connection = duckdb.connect()
    connection.register("trades", flat)
    connection.register("symbols", symbols.reset_index())
    fast, fast_symbols = polars.from_pandas(flat), polars.from_pandas(symbols.reset_index())
    of = polars.col

    def sql(text: str) -> Peer:
        return lambda: connection.sql(text).df()

    return {
        "where, 2 % of the rows": (
            lambda: Where(parse("price=gte.490")),
            {
                "pandas": lambda: df[df["price"] >= 490],
                "duckdb": sql("select * from trades where price >= 490"),
                "polars": lambda: fast.filter(of("price") >= 490),
            },
        ),
        "where, half of the rows": (
            lambda: Where(parse("price=gte.250")),
            {
                "pandas": lambda: df[df["price"] >= 250],
                "duckdb": sql("select * from trades where price >= 250"),
                "polars": lambda: fast.filter(of("price") >= 250),
            },
        ),
        "select, a product": (
            lambda: Select((), {"cost": "price * size"}),
            {
                "pandas": lambda: df.assign(cost=df["price"] * df["size"]),
                "duckdb": sql("select *, price * size as cost from trades"),
            },
        ),
        "sort, by a float": (
            lambda: Sort(Ordering("price", True, "last", "sort")),
            {
                "pandas": lambda: df.sort_values("price", kind="stable"),
                "duckdb": sql("select * from trades order by price"),
            },
        ),
        "top 10, by a float": (
            lambda: Top(10, Ordering("price", False, "last", "top")),
            {
                "pandas": lambda: df.nlargest(10, "price"),
                "duckdb": sql("select * from trades order by price desc limit 10"),
            },
        ),
        "distinct, 500 values": (
            lambda: Distinct(("symbol",)),
            {
                "pandas": lambda: df.drop_duplicates("symbol"),
                "duckdb": sql("select distinct on (symbol) * from trades"),
            },
        ),
        "groupby, 500 groups": (
            lambda: GroupBy(("symbol",), aggregates),
            {
                "pandas": lambda: flat.groupby("symbol").agg(n=("id", "count"), **given),
                "duckdb": sql(
                    "select symbol, count(id) n, sum(size) volume, avg(price) mean, max(price) high "
                    "from trades group by symbol order by symbol"
                ),
                "polars": lambda: (
                    fast.group_by("symbol")
                    .agg(
                        of("id").count().alias("n"),
                        of("size").sum().alias("volume"),
                        of("price").mean().alias("mean"),
                        of("price").max().alias("high"),
                    )
                    .sort("symbol")
                ),
            },
        ),
        "join, to 500 symbols": (
            lambda: Join(Keying(("symbol",), None, "join"), "left", ("", "")),
            {
                "pandas": lambda: df.join(symbols, on="symbol"),
                "duckdb": sql("select * from trades left join symbols using (symbol)"),
                "polars": lambda: fast.join(fast_symbols, on="symbol", how="left"),
            },
        ),
        "merge, with 500 symbols": (
            lambda: Join(Keying(("symbol",), ("symbol",)), "inner", ("_x", "_y")),
            {
                "pandas": lambda: flat.merge(symbols, on="symbol"),
                "duckdb": sql("select * from trades join symbols using (symbol)"),
                "polars": lambda: fast.join(fast_symbols, on="symbol"),
            },
        ),
    }


def keepers(name: str, df: pd.DataFrame, symbols: pd.DataFrame) -> dict[str, Callable[[], Keeper]]:
    """What others keep up of the same, if they can."""
    views: dict[str, dict[str, Any]] = {
        "where, half of the rows": {"filter": [["price", ">=", 250.0]]},
        "top 10, by a float": {"sort": [["price", "desc"]]},
        "groupby, 500 groups": {
            "group_by": ["symbol"],
            "columns": ["id", "size", "price"],
            "aggregates": {"id": "count", "size": "sum", "price": "mean"},
        },
        "merge, with 500 symbols": {},
    }
    expressions: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
        "where, half of the rows": lambda frame: frame[frame["price"] >= 250],
        "top 10, by a float": lambda frame: frame.nlargest(10, "price"),
        "groupby, 500 groups": lambda frame: frame.groupby("symbol").agg(
            n=("price", "count"), volume=("size", "sum"), mean=("price", "mean")
        ),
        "merge, with 500 symbols": lambda frame: frame.merge(symbols, on="symbol"),
    }
    if name not in views:
        return {}

    def perspective() -> Keeper:
        import perspective as library

        client = library.Server().new_local_client()
        table = client.table(stream_of(df.reset_index()), index="id")
        shown = table
        if name.startswith("merge"):
            shown = client.join(table, client.table(stream_of(symbols.reset_index())), "symbol")
        view = shown.view(**views[name])
        most = {"start_row": 0, "end_row": 10} if name.startswith("top") else {}

        def take(changes: pd.DataFrame) -> object:
            table.update(stream_of(changes))
            return pa.ipc.open_stream(view.to_arrow(**most)).read_all().to_pandas()

        return take

    def streamz() -> Keeper:
        from streamz import Stream

        seen: list[pd.DataFrame] = []

        def update(frame: pd.DataFrame, changes: pd.DataFrame) -> pd.DataFrame:
            frame.loc[changes["id"], ["price", "size"]] = changes[["price", "size"]].to_numpy()
            return frame

        source = Stream()
        source.accumulate(update, start=df.astype({"size": "float64"})).map(expressions[name]).sink(
            seen.append
        )

        def take(changes: pd.DataFrame) -> object:
            seen.clear()
            source.emit(changes)
            return seen[0]

        return take

    return {"perspective": perspective, "streamz": streamz}


def stream_of(frame: pd.DataFrame) -> bytes:
    """A DataFrame as perspective takes it quickest, without its index."""
    made = pa.Table.from_pandas(frame, preserve_index=False)
    at = made.schema.get_field_index("symbol")
    if at >= 0:
        made = made.set_column(at, "symbol", made["symbol"].cast(pa.string()))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, made.schema) as writer:
        writer.write_table(made)
    return sink.getvalue().to_pybytes()


def run(quick: bool) -> list[Result]:
    """One change and the first build, beside what computes it anew."""
    results = []
    for name, times in measure(*(1_100, 1, 10) if quick else (1_000_000,)):
        results.append(Result("derive", f"{name}: one change", OURS, times["one change"]))
        results += [
            Result("derive", f"{name}: one change", who, times[who])
            for who in PEERS
            if who in times
        ]
        hundred = Result("derive", f"{name}: 100 changes", OURS, times["100 changes"])
        results.append(hundred)
        results += [
            Result("derive", hundred.case, who, times[who]) for who in PEERS if who in times
        ]
        results += [
            Result("derive", f"{name}: {case}", who, times[f"{who}: {case}"])
            for case in ("one change", "100 changes")
            for who in KEEPERS
            if f"{who}: {case}" in times
        ]
        results += [
            Result("derive", f"{name}: {case}", OURS, times[case])
            for case in ("first change", *map(at, SMALLER))
            if case in times
        ]
        results += [
            Result("derive", f"{name}: memory", OURS, times["bytes a row"], "bytes a row"),
            Result("derive", f"{name}: of it state", OURS, times["of it state"], "bytes a row"),
        ]
        results.append(Result("derive", f"{name}: first build", OURS, times["first build"]))
        results += [
            Result("derive", f"{name}: first build", who, times[who])
            for who in PEERS
            if who in times
        ]
    return results


def main() -> None:
    """Print the table."""
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    ways = [*PEERS, "first build", "first change", *map(at, SMALLER), "one change", "100 changes"]
    ways += ["bytes a row", "of it state"]
    ways += [f"{who}: {case}" for who in KEEPERS for case in ("one change", "100 changes")]
    print(f"| {rows:,} rows, ms | {' | '.join(ways)} |")
    print("| --- " * (len(ways) + 1) + "|")
    for name, times in measure(rows):
        print(
            f"| {name} | {' | '.join(f'{times[way]:.2f}' if way in times else '' for way in ways)} |"
        )


if __name__ == "__main__":
    main()
