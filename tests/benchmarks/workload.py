"""The workload of docs/design/performance.md §1: a table of ten columns and batches of changes to it.

60 % of a batch update a row, 30 % insert one, 10 % delete one; keys are chosen at random. The rows
are typed, so that no side pays for decoding JSON.
"""

from __future__ import annotations

import datetime as dt
import random
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from notebook_rt.model.rows import Delete, Op, Upsert
from notebook_rt.model.types import Backend, Column, Schema
from notebook_rt.store.table import Table

SCHEMA = Schema(
    (
        Column("id", "int8"),
        Column("bid", "float8"),
        Column("ask", "float8"),
        Column("last", "float8"),
        Column("size", "int4"),
        Column("venue", "int4"),
        Column("open", "bool"),
        Column("symbol", "text"),
        Column("note", "text"),
        Column("updated_at", "timestamptz"),
    ),
    ("id",),
)
START = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)


@dataclass(frozen=True, slots=True)
class Batch:
    """Whole rows to set, and keys to remove; no key is in both."""

    rows: list[dict[str, Any]]
    gone: list[int]

    def ops(self) -> list[Op]:
        """The batch as this package's operations."""
        return [*(Upsert(row["id"], row) for row in self.rows), *map(Delete, self.gone)]


def row(key: int, chance: random.Random) -> dict[str, Any]:
    """A row with plausible values."""
    price = chance.randrange(1000, 200000) / 100
    return {
        "id": key,
        "bid": price,
        "ask": price + 0.25,
        "last": price + 0.125,
        "size": chance.randrange(100000),
        "venue": chance.randrange(20),
        "open": chance.random() < 0.5,
        "symbol": f"SYM{chance.randrange(5000)}",
        "note": f"note number {chance.randrange(100000)}",
        "updated_at": START + dt.timedelta(microseconds=chance.randrange(10**14)),
    }


@lru_cache(maxsize=1)
def rows(count: int) -> list[dict[str, Any]]:
    """The table's first rows, always the same ones."""
    chance = random.Random(1)
    return [row(key, chance) for key in range(count)]


def batches(count: int, size: int, number: int) -> list[Batch]:
    """``number`` batches of ``size`` changes for a table of ``count`` rows, always the same."""
    chance = random.Random(2)
    alive, next_key = list(range(count)), count
    made = []
    for _ in range(number):
        updates = max(1, round(size * 0.6))
        inserts = round(size * 0.3)
        deletes = size - updates - inserts
        places = sorted(chance.sample(range(len(alive)), updates + deletes), reverse=True)
        chosen = [alive[place] for place in places]
        chance.shuffle(chosen)
        gone = chosen[:deletes]
        fresh = list(range(next_key, next_key + inserts))
        next_key += inserts
        made.append(Batch([row(key, chance) for key in [*chosen[deletes:], *fresh]], gone))
        dead = set(gone)
        alive = [key for key in alive if key not in dead] + fresh
    return made


def table(first: list[dict[str, Any]], backend: Backend = None) -> Table:
    """This package's table, loaded with ``first``."""
    made = Table(SCHEMA, backend)
    made.apply([Upsert(one["id"], one) for one in first])
    made.snapshot()
    return made
