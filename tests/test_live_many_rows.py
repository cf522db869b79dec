"""DataFrames written to the real stack: with and without the optional SQL, and through lost answers."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

import notebook_rt as nrt
from notebook_rt import errors
from notebook_rt.local import LocalStack
from notebook_rt.outbox.rest import HttpRest
from tests.link import Link
from tests.proxy import Proxy, lost_answers
from tests.waiting import scaled, until

COLUMNS = (
    "id bigint primary key, name text not null check (name <> 'bad'), price numeric, n int, at timestamptz, "
    "tags text[], doc jsonb"
)


@pytest.fixture(params=["with our SQL", "without"])
def either(request: pytest.FixtureRequest) -> bool:
    if request.param == "with our SQL":
        request.getfixturevalue("ledger")
    return bool(request.param == "with our SQL")


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The requests of the queue."""
    found: list[Any] = []
    send = HttpRest.send

    async def noted(self: HttpRest, request: Any) -> Any:
        found.append(request)
        return await send(self, request)

    monkeypatch.setattr(HttpRest, "send", noted)
    return found


def frame_of(rows: range, **columns: Any) -> pd.DataFrame:
    return pd.DataFrame({"id": rows, "name": [f"n{n}" for n in rows], **columns})


def test_frames_are_inserted_upserted_edited_and_deleted_in_few_requests(
    stack: LocalStack, make_table: Callable[..., str], either: bool, sent: list[Any]
) -> None:
    table = make_table(COLUMNS)
    stack.sql(f"insert into {table} (id, name, n) select g, 'old', g from generate_series(0, 99) g")
    with nrt.connect(stack.url, stack.anon_key) as rt:
        frame = rt.table(table).wait(scaled(20))
        seen: list[int] = []
        frame.on_change(lambda batch: seen.append(len(batch.changes)))

        report = frame.upsert(frame_of(range(200), n=7).set_index("id"))
        assert frame.df["n"].tolist() == [7] * 200, "shown at once"
        assert (report.rows, report.waiting) == (200, 200)
        rt.queue.flush(scaled(20))
        assert (report.written, report.waiting, report.refused) == (200, 0, 0)
        assert len(sent) <= 3
        assert stack.sql(f"select count(*), sum(n) from {table}") == [(200, 1400)]
        assert frame.upsert(frame.df).changed == 0, "what is as it is shown is not sent"

        new = frame_of(range(200, 300), n=1)
        new.loc[30, "name"] = "bad"
        inserted = frame.insert(new)
        rt.queue.flush(scaled(20))
        assert (inserted.written, inserted.refused) == (99, 1)
        refused = inserted.refused_df
        assert refused.index.tolist() == [30]
        assert refused.loc[30, "id"] == 230
        assert "violates check constraint" in refused.loc[30, "reason"]
        frame.edit(230, name="good")
        rt.queue.flush(scaled(20))
        assert (inserted.written, inserted.refused) == (100, 0), "it follows the queue"

        base = frame.df
        stack.sql(f"update {table} set n = 50 where id = 3")
        until(lambda: frame.df["n"][3] == 50)
        sent.clear()
        changes = base[["n"]].assign(n=range(300))
        edited = frame.edit_many(changes, base=base)
        rt.queue.flush(scaled(30))
        assert edited.written == edited.changed == 299
        assert frame.conflicts["key"].tolist() == [3], "what somebody else wrote is merged"
        assert (len(sent) < 20) == either
        assert stack.sql(f"select sum(n) from {table}") == [(sum(range(300)),)]

        sent.clear()
        deleted = frame.delete(frame.df.index[frame.df["n"] >= 100])
        rt.queue.flush(scaled(20))
        assert (deleted.written, len(frame.df)) == (200, 100)
        assert stack.sql(f"select count(*) from {table}") == [(100,)]
        if either:
            assert len(sent) <= 2
        assert len(rt.queue) == 0
        assert seen


def test_cells_of_a_frame_arrive_as_they_are(
    stack: LocalStack, make_table: Callable[..., str]
) -> None:
    table = make_table(COLUMNS)
    with nrt.connect(stack.url, stack.anon_key) as rt:
        frame = rt.table(table).wait(scaled(20))
        zone = dt.timezone(dt.timedelta(hours=2))
        rows = pd.DataFrame(
            {
                "id": np.array([1, 2, 3], dtype="int32"),
                "name": pd.Categorical(["a", "b", "a"]),
                "price": [1.5, np.nan, np.float32(2.25)],
                "n": pd.array([1, None, 3], dtype="Int64"),
                "at": [pd.Timestamp("2026-01-02 03:00", tz=zone), pd.NaT, pd.NaT],
                "tags": [["x", "y"], None, np.array(["z"])],
                "doc": [{"a": [1, {"b": None}]}, None, [1, 2]],
            }
        )
        report = frame.insert(rows)
        rt.queue.flush(scaled(20))
        assert (report.written, report.refused) == (3, 0)
        told = stack.sql(
            f"select to_jsonb(t) - 'at', at at time zone 'utc' from {table} t order by id"
        )
        assert told == [
            (
                {"id": 1, "name": "a", "price": 1.5, "n": 1, "tags": ["x", "y"]}
                | {"doc": {"a": [1, {"b": None}]}},
                dt.datetime(2026, 1, 2, 1),
            ),
            ({"id": 2, "name": "b", "price": None, "n": None, "tags": None, "doc": None}, None),
            ({"id": 3, "name": "a", "price": 2.25, "n": 3, "tags": ["z"], "doc": [1, 2]}, None),
        ]


def test_rows_are_found_by_a_unique_column(
    stack: LocalStack, make_table: Callable[..., str]
) -> None:
    table = make_table(
        "id uuid primary key, email text unique not null, name text, age int not null"
    )
    stack.sql(f"insert into {table} values (gen_random_uuid(), 'ada@x.org', 'A', 36)")
    with nrt.connect(stack.url, stack.anon_key) as rt:
        frame = rt.table(table).wait(scaled(20))
        rows = [{"email": "ada@x.org", "name": "Ada"}]
        # The column that it does not name may not be null: only an update takes it.
        assert frame.upsert(rows, on="email").changed == 1
        new = {"email": "b@x.org", "name": "B", "age": 1}
        report = frame.upsert([new], on="email")
        rt.queue.flush(scaled(20))
        assert report.written == 1
        told = stack.sql(f"select email, name, age from {table} order by email")
        assert told == [("ada@x.org", "Ada", 36), ("b@x.org", "B", 1)]
        with pytest.raises(nrt.InvalidEditError, match="there are id, email, name, age"):
            frame.upsert(rows, on="mail")
        with pytest.raises(nrt.InvalidEditError, match=r"its email 'b@x\.org' is there twice"):
            frame.upsert([new, {**new, "age": 2}], on="email")


@pytest.mark.usefixtures("either")
def test_lost_answers_double_no_row_and_lose_none(
    stack: LocalStack, make_table: Callable[..., str], proxy: Proxy
) -> None:
    table = make_table(COLUMNS)
    stack.sql(f"create table {table}_log (id bigint, kind text)")
    stack.sql(
        f"create function {table}_note() returns trigger language plpgsql security definer as $$ begin "
        f"insert into public.{table}_log values (new.id, tg_op); return new; end $$; "
        f"create trigger note after insert or update on {table} for each row execute function {table}_note()"
    )
    try:
        options = nrt.Options(
            backoff_base=0.2, backoff_max=1.0
        )  # how long it waits is no claim here
        with nrt.connect(proxy.url, stack.anon_key, options=options) as rt:
            frame = rt.table(table).wait(scaled(20))
            proxy.rules = lost_answers()
            report = frame.insert(frame_of(range(150), n=1))
            until(lambda: stack.sql(f"select count(*) from {table}") != [(0,)])
            proxy.heal()
            rt.queue.flush(scaled(60))
            assert (report.written, report.refused) == (150, 0)
            assert stack.sql(f"select count(*), count(distinct id) from {table}_log") == [
                (150, 150)
            ]

            proxy.rules = lost_answers()
            edited = frame.edit_many(frame.df[["n"]].assign(n=range(1000, 1150)))
            until(lambda: stack.sql(f"select count(*) from {table} where n >= 1000") != [(0,)])
            proxy.heal()
            rt.queue.flush(scaled(60))
            assert (edited.written, edited.conflicts) == (150, 0)
            once = stack.sql(
                f"select count(*), count(distinct id) from {table}_log where kind = 'UPDATE'"
            )
            assert once == [(150, 150)]
            assert frame.df["n"].tolist() == list(range(1000, 1150))
    finally:
        stack.sql(f"drop table {table}_log, {table}; drop function {table}_note")


def test_a_flush_that_is_too_short_says_that_the_rest_goes_on_being_sent(
    stack: LocalStack, make_table: Callable[..., str]
) -> None:
    table = make_table("id bigint primary key, n int")
    stack.sql(f"insert into {table} select g, g from generate_series(1, 40) g")
    with Link(stack.url, 0.3) as link, nrt.connect(link.url, stack.anon_key) as rt:
        frame = rt.table(table).wait(scaled(20))
        frame.edit_many(frame.df * 2)  # other values each: a request a row
        told: list[str] = []

        def is_told() -> bool:
            try:
                rt.queue.flush(0.2)
            except errors.WaitTimeoutError as error:
                told.append(str(error))
            return any(re.match(r"\d+ of \d+ .*they go on being sent", one) for one in told)

        until(is_told, what=lambda: told)
        rt.queue.flush(scaled(60))
        assert stack.sql(f"select sum(n) from {table}") == [(40 * 41,)]
