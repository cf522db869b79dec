"""Other libraries that update a table and read it: each a callable that applies a batch and reads.

Every peer ends with what its user wants, a pandas DataFrame of the whole table that is consistent,
and is written as a careful user of it would write it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd

from tests.benchmarks.workload import Batch

Rows = list[dict[str, Any]]
Peer = Callable[[Batch], object]


def pandas_loop(first: Rows) -> Peer:
    """``df.loc[key] = row`` in a loop, as a user writes it."""
    frame = pd.DataFrame(first).set_index("id")

    def apply(batch: Batch) -> object:
        for row in batch.rows:
            values = dict(row)
            frame.loc[values.pop("id")] = values
        frame.drop(index=batch.gone, inplace=True)
        return frame.copy(deep=False)

    return apply


def pandas_batched(first: Rows) -> Peer:
    """Drop what changed and concatenate what came."""
    frame = pd.DataFrame(first).set_index("id")

    def apply(batch: Batch) -> object:
        nonlocal frame
        new = pd.DataFrame(batch.rows).set_index("id")
        stale = frame.index.isin([*new.index, *batch.gone])
        frame = pd.concat([frame[~stale], new])
        return frame

    return apply


def dict_of_dicts(first: Rows) -> Peer:
    """A dict of rows, made a frame on every read."""
    table = {row["id"]: row for row in first}

    def apply(batch: Batch) -> object:
        for row in batch.rows:
            table[row["id"]] = row
        for key in batch.gone:
            del table[key]
        return pd.DataFrame.from_records(list(table.values()), index="id")

    return apply


def polars_concat(first: Rows) -> Peer:
    """Filter, concatenate, ``to_pandas``."""
    import polars as pl

    frame = pl.DataFrame(first)

    def apply(batch: Batch) -> object:
        nonlocal frame
        new = pl.DataFrame(batch.rows, schema=frame.schema)
        stale = pl.concat([new["id"], pl.Series("id", batch.gone, pl.Int64)])
        frame = pl.concat([frame.filter(~pl.col("id").is_in(stale.implode())), new])
        return frame.to_pandas()

    return apply


def pyarrow_concat(first: Rows) -> Peer:
    """Filter, concatenate, a frame of ArrowDtype."""
    import pyarrow as pa
    import pyarrow.compute as pc

    table = pa.Table.from_pylist(first)

    def apply(batch: Batch) -> object:
        nonlocal table
        new = pa.Table.from_pylist(batch.rows, schema=table.schema)
        stale = pa.concat_arrays(
            [new["id"].combine_chunks(), pa.array(batch.gone, new.schema.field("id").type)]
        )
        kept = table.filter(pc.invert(pc.is_in(table["id"], value_set=stale)))
        table = pa.concat_tables([kept, new])
        return table.to_pandas(types_mapper=pd.ArrowDtype)

    return apply


def duckdb_upsert(first: Rows) -> Peer:
    """``insert or replace`` and ``delete``, then ``.df()``."""
    import duckdb

    connection = duckdb.connect()
    start = pd.DataFrame(first)
    connection.execute("create table t as select * from start")
    connection.execute("create unique index t_id on t(id)")
    del start

    def apply(batch: Batch) -> object:
        new = pd.DataFrame(batch.rows)  # duckdb finds it by its name
        connection.execute("insert or replace into t select * from new")
        connection.execute("delete from t where id in (select unnest(?))", [batch.gone])
        del new
        return connection.sql("select * from t").df()

    return apply


def perspective_table(first: Rows) -> Peer:
    """``table.update``, then the view as Arrow, as pandas."""
    import perspective
    import pyarrow as pa

    client = perspective.Server().new_local_client()
    start = pd.DataFrame(first)
    start["updated_at"] = start["updated_at"].dt.tz_localize(None)
    table = client.table(start, index="id")
    view = table.view()

    def apply(batch: Batch) -> object:
        new = pd.DataFrame(batch.rows)
        new["updated_at"] = new["updated_at"].dt.tz_localize(None)
        table.update(new)
        if batch.gone:
            table.remove(batch.gone)
        return pa.ipc.open_stream(view.to_arrow()).read_all().to_pandas()

    return apply


def streamz_accumulate(first: Rows) -> Peer:
    """A stream that accumulates drop and concat."""
    from streamz import Stream

    seen: list[pd.DataFrame] = []
    source = Stream()

    def step(frame: pd.DataFrame, batch: Batch) -> pd.DataFrame:
        new = pd.DataFrame(batch.rows).set_index("id")
        kept = frame.drop(index=[key for key in [*new.index, *batch.gone] if key in frame.index])
        return pd.concat([kept, new])

    source.accumulate(step, start=pd.DataFrame(first).set_index("id")).sink(seen.append)

    def apply(batch: Batch) -> object:
        seen.clear()
        source.emit(batch)
        return seen[0]

    return apply


PEERS: dict[str, Callable[[Rows], Peer]] = {
    "pandas loop": pandas_loop,
    "pandas batched": pandas_batched,
    "dict of dicts": dict_of_dicts,
    "polars": polars_concat,
    "pyarrow": pyarrow_concat,
    "duckdb": duckdb_upsert,
    "perspective": perspective_table,
    "streamz": streamz_accumulate,
}
