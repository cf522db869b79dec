"""Tables to store, drawn by hypothesis, and the properties compared after reading them back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from hypothesis import strategies as st

from notebook_rt.disk import cache
from notebook_rt.disk.kept import Batch, Facts, Identity, Kept
from notebook_rt.disk.shelf import Shelf
from notebook_rt.model.rows import Delete, Key, Op, Upsert
from notebook_rt.model.spec import TableSpec
from notebook_rt.model.types import Column, Schema
from notebook_rt.store.table import Table
from notebook_rt.sync.table.memory import Memory
from tests.store.test_laws import KEYS, TYPES, value_of

ME = Identity.of("https://x.supabase.co", "anon", TableSpec("prices"))

times = st.none() | st.floats(0, 2e9)
facts = st.builds(
    Facts,
    st.floats(0, 2e9),
    st.builds(Memory, times, times, st.booleans(), st.booleans(), st.text(), st.text()),
)


@st.composite
def schemas(draw: st.DrawFn) -> Schema:
    """A key of any kind, some columns, and what a server may say of them."""
    key = draw(st.sampled_from(list(KEYS)))
    columns = [Column(f"k{place}", pg_type, nullable=False) for place, pg_type in enumerate(key)]
    types = draw(st.lists(st.sampled_from(TYPES), max_size=4))
    columns += [
        Column(
            f"c{place}",
            pg_type,
            choices=("sad", "ok") if pg_type == "mood" else (),
            digits=(6, 2) if pg_type == "numeric" else None,
        )
        for place, pg_type in enumerate(types)
    ]
    names = tuple(f"k{place}" for place in range(len(key)))
    return Schema(tuple(columns), names, draw(st.sampled_from(["float", "decimal"])))


@st.composite
def ops_of(draw: st.DrawFn, schema: Schema) -> list[Op]:
    """Some operations, whole rows and parts of rows."""
    keys = KEYS[tuple(schema.types[name] for name in schema.key)]
    found: list[Op] = []
    for key in draw(st.lists(keys, max_size=6)):
        if draw(st.integers(0, 3)) == 0:
            found.append(Delete(key))
            continue
        row: dict[str, Any] = schema.values_of(key)
        for column in schema.columns:
            if column.name not in schema.key and draw(st.booleans()):
                row[column.name] = draw(value_of(column.pg_type, schema.numeric))
        found.append(Upsert(key, row))
    return found


def kept_of(table: Table, told: Facts, versions: dict[Key, int]) -> Kept:
    """A table as it is kept."""
    xmins = [versions.get(key, -1) for key in list(table.keys())]
    return Kept(table.schema, table.schema.names, table.parts(), np.array(xmins, "int64"), told)


@st.composite
def batches(draw: st.DrawFn, schema: Schema) -> Batch:
    """Operations with the versions of some of their keys."""
    ops = draw(ops_of(schema))
    versions = {op.key: draw(st.integers(0, 2**32 - 1)) for op in ops if draw(st.booleans())}
    ranked = draw(st.none() | st.just([op.key for op in ops]))
    return Batch(ops, versions, draw(facts), ranked)


def state(kept: Kept, backend: Any = None) -> tuple[pd.DataFrame, list[Any], Facts, str]:
    """The frame, each row with its version, the facts of what was read, and the server's order since."""
    table, versions = restored(kept, backend)
    return (
        table.snapshot(),
        [(repr(key), versions.get(key)) for key in list(table.keys())],
        kept.latest,
        repr(kept.ranked),
    )


def restored(kept: Kept, backend: Any = None) -> tuple[Table, dict[Key, int]]:
    """The table of what was read, and the versions of its rows."""
    table = Table(kept.schema, backend)
    return table, kept.fill(table).by_key()


def written(identity: Identity = ME) -> Shelf:
    """A table in the cache."""
    table = Table(Schema((Column("id", "int8"), Column("note", "text")), ("id",)))
    table.apply([Upsert(key, {"id": key, "note": f"note {key}"}) for key in range(10)])
    found = cache.shelf(identity)
    assert found.take()
    found.write(kept_of(table, Facts(1e9, Memory(since=1e9)), {}))
    return found
