"""Derived live tables under every fault: correct as soon as their inputs are.

Two tables are written to while the proxy breaks things, each fault of the lists once. Then it is waited until
the inputs equal SQL's answer, and what is derived of them must equal SQL's at once.
"""

from __future__ import annotations

import random

import pandas as pd
import pytest

from notebook_rt.local import LocalStack
from tests.faults.chaos import SILENT, TOLD
from tests.faults.lab import laboratory
from tests.faults.test_convergence import QUICK
from tests.faults.truth import EVERYTHING, plain
from tests.waiting import scaled, until

pytestmark = pytest.mark.slow


def rows(df: pd.DataFrame) -> list[tuple[object, ...]]:
    """The rows, as Python has them, in the order of the first column."""
    values = zip(*(map(plain, df[name].tolist()) for name in df.columns), strict=True)
    return sorted(values, key=str)


@pytest.mark.timeout(300)
def test_after_every_fault_a_join_and_a_group_by_are_sql_as_soon_as_their_inputs_are(
    stack: LocalStack,
) -> None:
    dice = random.Random(1)
    with laboratory(stack, EVERYTHING, options=QUICK) as lab:
        other = f"{lab.table}_of"
        stack.sql(
            f"create table {other} (band int primary key, label text);"
            f"alter publication supabase_realtime add table {other};"
            f"grant select, insert, update, delete on {other} to anon, authenticated, service_role;"
            f"insert into {other} select g, 'band ' || g from generate_series(0, 60) g"
        )
        try:
            bands = lab.session.table(other).wait(scaled(20))
            joined = lab.frame.join(bands, on="qty", how="inner")
            merged = joined.groupby("label").agg(n=("id", "count"), price=("price", "max"))
            by_active = lab.frame.groupby("active").agg(n=("id", "count"), qty=("qty", "sum"))

            def truth(query: str) -> list[tuple[object, ...]]:
                found = lab.sql(query.replace("{o}", other))
                return sorted((tuple(map(plain, row)) for row in found), key=str)

            def bands_are_true() -> bool:
                return rows(bands.df.reset_index()) == truth("select band, label from {o}")

            for rule in TOLD + SILENT:
                lab.proxy.rules = (rule,)
                for _ in range(3):
                    key, band = dice.randint(1, 300), dice.randint(0, 60)
                    lab.sql(f"update {{t}} set qty = {band}, price = {key} where id = {key}")
                    lab.sql(f"delete from {{t}} where id = {dice.randint(1, 300)}")
                    lab.sql(f"delete from {other} where band = {dice.randint(0, 60)}")
                    lab.sql(
                        f"insert into {other} values ({band}, 'new {key % 7}') "
                        "on conflict (band) do update set label = excluded.label"
                    )
                lab.proxy.close_sockets(1006)
                lab.proxy.heal()
                lab.true_within(15)
                until(bands_are_true, 15)
                assert rows(joined.df.reset_index()[["id", "qty", "price", "label"]]) == truth(
                    "select t.id, t.qty, t.price, o.label from {t} t join {o} o on o.band = t.qty"
                ), rule
                assert rows(merged.df.reset_index()) == truth(
                    "select o.label, count(*), max(t.price) from {t} t "
                    "join {o} o on o.band = t.qty group by o.label"
                ), rule
                assert rows(by_active.df.reset_index()) == truth(
                    "select active, count(*), coalesce(sum(qty), 0) from {t} group by active"
                ), rule
        finally:
            stack.sql(f"drop table {other}")
