"""Values removed from a group leave no trace, after any number of changes (docs/design/derivation.md)."""

from __future__ import annotations

import math
from decimal import Decimal

import numpy as np
import pytest

from notebook_rt.model.rows import Delete, Op, Upsert
from notebook_rt.model.types import Column, Schema
from notebook_rt.store.table import Table
from notebook_rt.sync.derive.groupby import Aggregate, GroupBy
from notebook_rt.sync.derive.operator import Derived
from notebook_rt.sync.derive.source import Source

ROWS, GROUPS, BATCH = 20_000, 40, 1_000
FUNCTIONS = {
    "n": ("id", "count"),
    "floats": ("v", "sum"),
    "mean": ("v", "mean"),
    "low": ("v", "min"),
    "high": ("v", "max"),
    "whole": ("n", "sum"),
    "exact": ("w", "sum"),
}


@pytest.mark.timeout(300)
def test_sums_of_many_changes_are_those_of_the_last_table() -> None:
    play(30_000)


@pytest.mark.nightly
@pytest.mark.timeout(7200)
def test_sums_of_ten_million_changes_are_those_of_the_last_table() -> None:
    play(10_000_000)


def play(changes: int) -> None:
    """Random inserts, updates and deletes, most of which move a row to another group."""
    columns = (
        Column("id", "int8"),
        Column("g", "int4"),
        Column("v", "float8"),
        Column("n", "int8"),
        Column("w", "numeric"),
    )
    table = Table(Schema(columns, ("id",), numeric="decimal"))
    groups = Derived(
        GroupBy(("g",), [Aggregate(name, *of) for name, of in FUNCTIONS.items()]), None
    )
    groups.bind([Source(table)])
    dice = np.random.default_rng(16)
    table.apply(batch(dice, np.arange(ROWS), deletes=False))
    groups.advance(want_changes=False)
    for _ in range(changes // BATCH):
        table.apply(batch(dice, dice.integers(0, ROWS, BATCH), deletes=True))
        groups.advance(want_changes=False)
    assert groups.builds == 1, "no group was made anew meanwhile"
    assert groups.view is not None
    found = groups.view.snapshot()
    df = table.snapshot().reset_index()
    wanted = df.groupby("g").agg(**FUNCTIONS)
    assert found.index.equals(wanted.index)
    for name in ("n", "low", "high", "whole", "exact"):
        assert found[name].tolist() == wanted[name].tolist(), name
    for group, rows in df.groupby("g"):
        values = rows["v"].dropna().tolist()
        assert found.loc[group, "floats"] == math.fsum(values), "rounded once"
        ulp = np.spacing(math.fsum(map(abs, values)))
        assert abs(found.loc[group, "floats"] - wanted.loc[group, "floats"]) <= len(values) * ulp
        assert abs(found.loc[group, "mean"] - wanted.loc[group, "mean"]) <= ulp


def batch(dice: np.random.Generator, keys: np.ndarray, *, deletes: bool) -> list[Op]:
    """New values of these rows, floats of all magnitudes; some of the rows leave."""
    count = len(keys)
    floats = dice.standard_normal(count) * 10.0 ** dice.integers(-12, 16, count)
    found: list[Op] = []
    for key, group, value, whole, cents, what in zip(
        keys.tolist(),
        dice.integers(0, GROUPS, count).tolist(),
        floats.tolist(),
        dice.integers(-(2**40), 2**40, count).tolist(),
        dice.integers(-(10**9), 10**9, count).tolist(),
        dice.random(count).tolist(),
        strict=True,
    ):
        if deletes and what < 0.001:  # with many more the table would number its rows anew
            found.append(Delete(key))
            continue
        row = {"id": key, "g": group, "n": whole, "w": Decimal(cents).scaleb(-2)}
        found.append(Upsert(key, {**row, "v": None if what > 0.95 else value}))
    return found
