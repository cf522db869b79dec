"""Values that no Python cell or key can contain, in a live table of the real stack."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow.parquet
import pytest

import notebook_rt as nrt
from notebook_rt import errors
from notebook_rt.local import LocalStack
from tests.faults.lab import confirmed_for_good
from tests.proxy import Proxy
from tests.waiting import scaled, throughout, until


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


@pytest.mark.parametrize("key", ["x", 7.5, (1, 2), [1], {"id": 1}])
def test_a_key_of_another_type_is_refused_in_the_same_words_wherever_it_is_given(
    stack: LocalStack, make_table: Callable[..., str], key: Any
) -> None:
    name = make_table("id int primary key, n int")
    stack.sql(f"insert into {name} values (1, 1)")
    with nrt.connect(stack.url, stack.anon_key) as session:
        table = session.table(name).wait(scaled(10))
        derived = table.where("n=gte.0")
        asked: list[Callable[[], object]] = [
            lambda: table.get(key),
            lambda: table.at[key, "n"],
            lambda: derived.get(key),
        ]
        for ask in asked:
            with pytest.raises(errors.InvalidKeyError, match="is no value") as caught:
                ask()
            assert isinstance(caught.value, KeyError)
            assert isinstance(caught.value, ValueError)
            assert str(caught.value).startswith('table "')
            assert str(caught.value).endswith("no row can have that key")
        written: list[Callable[[], object]] = [
            lambda: table.edit(key, n=2),
            lambda: table.at.__setitem__((key, "n"), 2),
            lambda: table.upsert([{"id": key, "n": 2}]),
            *([] if isinstance(key, list | dict) else [lambda: table.delete(key)]),
        ]
        for write in written:
            with pytest.raises(ValueError, match=r"is no value|one row's key is needed"):
                write()
        if not isinstance(key, list | dict):
            assert key not in table
        assert len(table.pending) == 0
        assert table.get("1") == table.get(1) == {"id": 1, "n": 1}
        assert table.get(2) is None


@pytest.mark.parametrize("number", ["123456789012345678.1", "0.12345678901234567891", 10**20])
def test_a_key_that_no_float_holds_is_refused_before_it_is_queued(
    stack: LocalStack, rt: nrt.Session, number: object
) -> None:
    """It was written; its answer was another key's, and the queue said that a trigger had skipped the row."""
    table = make(stack, "k numeric primary key, n text")
    stack.sql(f"insert into {table} values (1, 'a')")
    frame = rt.table(table).wait(scaled(10))
    for write in (
        lambda: frame.insert(k=number, n="b"),
        lambda: frame.insert([{"k": 2, "n": "b"}, {"k": number, "n": "b"}]),
        lambda: frame.upsert({"k": number, "n": "b"}),
        lambda: frame.edit(1, k=number),
    ):
        with pytest.raises(nrt.errors.InvalidEditError, match='numeric="decimal"'):
            write()
    assert len(rt.queue) == 0
    frame.insert(k="Infinity", n="b")
    exact = rt.table(table, numeric="decimal").wait(scaled(10))
    exact.insert(k=number, n="b")
    assert rt.queue.flush(scaled(10)) == 0


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
    until(lambda: frame.status == "live", what=lambda: repr(frame))


BAD_VALUES = {
    "jsonb 900 deep": ("jsonb", "repeat('{\"a\": [', 900) || '1' || repeat(']}', 900)"),
    "json 900 deep": ("json", "repeat('[', 900) || repeat(']', 900)"),
    "json {}": ("json", "'{}'"),
    "half a surrogate pair": ("json", """'{"a\\udc00": "\\ud800"}'"""),
    "10^5000": ("numeric", "'1' || repeat('0', 5000)"),
    "10^400 in json": ("jsonb", "'[1' || repeat('0', 400) || ']'"),
    "text of hstore": ("hstore", "'a => \"' || repeat('[', 900) || '\"'"),
}


@pytest.mark.parametrize("case", BAD_VALUES)
def test_a_row_of_which_one_cell_holds_no_such_value_is_shown_written_and_deleted(
    stack: LocalStack, rt: nrt.Session, case: str
) -> None:
    pg_type, value = BAD_VALUES[case]
    if pg_type == "hstore":
        if not stack.sql("select 1 from pg_available_extensions where name = 'hstore'"):
            pytest.skip("this PostgreSQL comes without hstore")
        stack.sql("create extension if not exists hstore")
    table = make(stack, f"id bigint primary key, v {pg_type}, n text")
    stack.sql(
        f"insert into {table} select id, ({value})::{pg_type}, 'a' from generate_series(1, 3) id"
    )
    frame = rt.table(table)
    frame.wait(scaled(10))
    stack.sql(f"insert into {table} values (4, ({value})::{pg_type}, 'a')")  # over the socket
    until(lambda: len(frame.df) == 4, what=lambda: repr(frame))
    assert len({str(cell) for cell in frame.df["v"]}) == 1
    repr(frame.df), frame.df.to_html(), frame.df.to_csv()
    pyarrow.parquet.write_table(frame.to_arrow(), io.BytesIO())
    audited(rt)
    frame.edit(1, n="b")
    frame.edit(2, v=None)
    frame.delete(3)
    written = f"select id, v is null, n from {table} order by id"
    until(
        lambda: stack.sql(written) == [(1, False, "b"), (2, True, "a"), (4, False, "a")],
        what=lambda: (frame.pending, stack.sql(written)),
    )
    assert frame.conflicts.empty
    until(lambda: frame.pending.empty, what=lambda: frame.pending)
    until(lambda: frame.status == "live", what=lambda: repr(frame))
    stack.sql(f"drop table {table}")


def test_what_a_cell_of_hstore_or_a_composite_shows_is_changed_and_written_back(
    stack: LocalStack, rt: nrt.Session
) -> None:
    stack.sql("create extension if not exists hstore")
    stack.sql("drop type if exists street_and_number cascade")
    stack.sql("create type street_and_number as (street text, number int)")
    table = make(stack, "id bigint primary key, tags hstore, place street_and_number")
    stack.sql(f"""insert into {table} values (1, 'a=>1, "b c"=>NULL', ('High "St", 2', 7))""")
    frame = rt.table(table).wait(scaled(10))
    frame.edit(
        1,
        tags=frame.df.tags[1].replace('"1"', '"2, \\\\"'),
        place={**frame.df.place[1], "number": 8},
    )
    written = f"select tags -> 'a', tags ? 'b c', (place).street, (place).number from {table}"
    until(
        lambda: stack.sql(written) == [("2, \\", True, 'High "St", 2', 8)],
        what=lambda: stack.sql(written),
    )
    until(lambda: frame.pending.empty, what=lambda: frame.pending)
    frame.edit(1, tags={"a": "3"}, place=None)
    until(lambda: stack.sql(written) == [("3", False, None, None)], what=lambda: stack.sql(written))
    stack.sql(f"update {table} set tags = 'a=>4', place = ('x', null)")  # over the socket
    until(lambda: frame.df.tags[1] == '"a"=>"4"', what=lambda: frame.df)
    assert frame.df.place[1] == {"street": "x", "number": None}
    audited(rt)
    assert frame.conflicts.empty
    stack.sql(f"drop table {table}; drop type street_and_number")


NESTED_KEYS = {
    "jsonb": ("k jsonb primary key", ['{"b": 1, "a": 2}', "[1, 2]", '"x"', '"[1, 2]2"', '{"a,(": [1.5]}']),
    "int4[]": ("k int[] primary key", ["{}", "{1,2}", "{{1,2},{3,4}}"]),
    "text[]": ("k text[] primary key", ["{}", '{"a,b)","c\\"d"}', "{NULL}"]),
    "timestamptz[]": ("k timestamptz[] primary key", ["{}", "{2024-01-02}"]),
    "jsonb and int4[]": ("k jsonb, j int[] default '{1}', primary key (k, j)", ['{"a": 1}', "[]", "7"]),
}  # fmt: skip


@pytest.mark.parametrize("case", NESTED_KEYS)
def test_a_row_whose_key_is_nested_is_read_by_it_and_edited_by_it(
    stack: LocalStack, proxy: Proxy, make_table: Callable[..., str], case: str
) -> None:
    columns, keys = NESTED_KEYS[case]
    table = make_table(f"{columns}, n int default 0")
    for key in keys:
        stack.sql(f"insert into {table} (k) values ('{key}')")
    with nrt.connect(proxy.url, stack.anon_key, options=nrt.Options(audit_interval=0)) as rt:
        live = rt.table(table).wait(scaled(10))
        confirmed_for_good(stack, proxy, rt, live)
        reads = rt.metrics["reconciliations"]
        for times in (
            1,
            2,
        ):  # right after a read of all: each of these is looked at by a read of its key
            stack.sql(f"update {table} set n = {times}")
            until(
                lambda times=times: list(live.df["n"]) == [times] * len(keys), what=lambda: live.df
            )  # type: ignore[misc]  # a lambda with a default
        throughout(lambda: list(live.df["n"]) == [2] * len(keys), 1.0, what=lambda: repr(live))
        assert live.status == "live"
        assert rt.metrics["reconciliations"] == reads
        for place, key in enumerate(list(live.df.index)):
            live.edit(key, n=10 + place)

        def there() -> list[int]:
            return [n for (n,) in stack.sql(f"select n from {table} order by n")]

        until(lambda: there() == [10 + place for place in range(len(keys))], what=there)
        stack.sql(f"delete from {table}")
        until(lambda: len(live.df) == 0)
