"""Values that no cell or no key of Python's can hold, in a live table of the real stack."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

import notebook_rt as nrt
from notebook_rt.local import LocalStack
from tests.waiting import scaled, until


@pytest.fixture
def rt(stack: LocalStack) -> Iterator[nrt.Session]:
    options = nrt.Options(audit_interval=0.2)
    with nrt.connect(stack.url, stack.anon_key, options=options) as session:
        yield session


def audited(rt: nrt.Session, times: int = 2) -> None:
    """Wait for audits, and see that they found nothing."""
    before = rt.metrics["audits"]
    until(lambda: rt.metrics["audits"] >= before + times, what=lambda: repr(rt))
    assert rt.metrics["drift"] == 0


def make(stack: LocalStack, columns: str) -> str:
    table = f"values_{time.monotonic_ns()}"
    stack.sql(f"create table {table} ({columns})")
    stack.sql(
        f"grant select, insert, update, delete on {table} to anon, authenticated, service_role"
    )
    stack.sql(f"alter publication supabase_realtime add table {table}")
    return table


@pytest.mark.parametrize("pg_type", ["float8", "numeric"])
def test_a_row_whose_key_is_nan_outlives_the_audit(
    stack: LocalStack, rt: nrt.Session, pg_type: str
) -> None:
    table = make(stack, f"k {pg_type} primary key, n text")
    stack.sql(f"insert into {table} values ('NaN', 'a'), ('Infinity', 'b'), (0, 'c')")
    frame = rt.table(table)
    frame.wait(scaled(10))
    assert sorted(frame.df["n"]) == ["a", "b", "c"]
    audited(rt)
    assert sorted(frame.df["n"]) == ["a", "b", "c"]
    stack.sql(f"update {table} set n = 'd' where k = 'NaN'")
    until(lambda: sorted(frame.df["n"]) == ["b", "c", "d"], what=lambda: str(frame.df))
    stack.sql(f"delete from {table} where k = 'NaN'")
    until(lambda: sorted(frame.df["n"]) == ["b", "c"], what=lambda: str(frame.df))


def test_one_bad_value_harms_one_cell(stack: LocalStack, rt: nrt.Session) -> None:
    table = make(stack, "id bigint primary key, v jsonb, x numeric, n text")
    stack.sql(f"insert into {table} values (1, '[1]', 1.5, 'a')")
    stack.sql(
        f"insert into {table} values (2, (repeat('[', 900) || repeat(']', 900))::jsonb, "
        "('1' || repeat('0', 5000))::numeric, 'b')"
    )
    frame = rt.table(table)
    frame.wait(scaled(10))
    df = frame.df
    assert df["v"][1] == [1]
    assert df["v"][2] == "[" * 900 + "]" * 900
    assert df["x"][2] == "1" + "0" * 5000
    assert "b" in repr(df)
    audited(rt)
    stack.sql(f"update {table} set n = 'c' where id = 1")
    until(lambda: frame.df["n"][1] == "c", what=lambda: f"{frame!r}")
    assert frame.status == "live"
