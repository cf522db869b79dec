"""All spellings of a key mean the same row: for ``get``, ``at``, ``in``, ``edit`` and ``delete``."""

from __future__ import annotations

import contextlib
import datetime as dt
import itertools
import tempfile
import uuid
from collections.abc import Callable, Iterator
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import notebook_rt as nrt
from notebook_rt.edits.at import At
from notebook_rt.edits.editing import Editing
from notebook_rt.edits.editor import Editor
from notebook_rt.edits.overlay import Overlay
from notebook_rt.edits.shown import Shown
from notebook_rt.errors import InvalidEditError, InvalidKeyError
from notebook_rt.frame import LiveFrame
from notebook_rt.local import LocalStack
from notebook_rt.model.coerce import missing
from notebook_rt.model.order import OrderBy
from notebook_rt.model.rows import Key, Upsert
from notebook_rt.model.types import Backend, Column, Schema, equal
from notebook_rt.net.loop import shared
from notebook_rt.options import Options
from notebook_rt.outbox.queue import Outbox
from notebook_rt.runtime.feed import Feed
from notebook_rt.store.order import Ordered
from notebook_rt.store.table import Table
from notebook_rt.sync.connection.metrics import Metrics
from tests.waiting import scaled, until

MOMENTS = st.datetimes(dt.datetime(1700, 1, 1), dt.datetime(2200, 1, 1))
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "int4": st.integers(-9, 9),
    "int8": st.integers(-(2**63), 2**63 - 1),
    "float8": st.floats(),
    "numeric": st.integers(-900, 900).map(lambda n: n / 4),
    "bool": st.booleans(),
    "text": st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=3)
    | st.sampled_from(["1", "nan", "2024-01-02", "null"]),
    "uuid": st.uuids().map(str),
    "date": st.dates() | st.just("0044-03-15 BC"),
    "timestamp": MOMENTS | st.just("infinity"),
    "timestamptz": MOMENTS.map(lambda m: m.replace(tzinfo=dt.UTC)) | st.just("-infinity"),
    "time": st.times(),
    "bytea": st.binary(max_size=3),
    "jsonb": st.recursive(
        st.integers(-5, 5) | st.text("ab", max_size=2),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text("ab"), inner),
        max_leaves=3,
    ),
    "_int4": st.lists(st.integers(-5, 5), max_size=3),
    "interval": st.sampled_from(["1 day", "02:00:00"]),
}
JUNK = st.sampled_from(
    [
        *(None, float("nan"), np.float64("nan"), pd.NA, pd.NaT, object(), lambda: 1, slice(None)),
        *([], {}, {1}, (), (1, 2, 3), np.array([1, 2]), pd.Series([1, 2]), pd.DataFrame()),
        *("", "no such", "1", "2024-01-02", dt.date(2024, 1, 2), b"\xff"),
        *(True, 0, 1, 1.0, 1.5, Decimal("1.5"), 2**80),
    ]
)


def forms(pg_type: str, value: Any) -> list[Any]:
    """The ways in which an analyst says ``value``."""
    if isinstance(value, bool):
        return [value, np.bool_(value)]
    if isinstance(value, int) and pg_type != "jsonb":
        small = [np.int32(value), float(value)] if abs(value) < 10 else []
        return [value, np.int64(value), str(value), Decimal(value), *small]
    if isinstance(value, float):
        return [value, np.float64(value), str(value)]
    if pg_type == "uuid":
        return [value, uuid.UUID(value), value.upper(), np.str_(value)]
    if isinstance(value, str):
        return [value, np.str_(value)]
    if isinstance(value, dt.datetime):
        said = [value, pd.Timestamp(value), value.isoformat(), str(value)]
        if value.tzinfo is None:
            return [*said, np.datetime64(value)]
        return [*said, value.astimezone(dt.timezone(dt.timedelta(hours=5, minutes=30)))]
    if isinstance(value, dt.date):
        said = [value, value.isoformat(), dt.datetime.combine(value, dt.time())]
        return [*said, np.datetime64(value), pd.Timestamp(said[2]).as_unit("us")]
    if isinstance(value, dt.time):
        return [value, value.isoformat()]
    if isinstance(value, bytes):
        return [value, bytearray(value), memoryview(value)]
    if pg_type == "_int4":
        return [value, tuple(value), np.array(value, int)]
    return [value]


Spec: TypeAlias = tuple[Schema, Backend, list[dict[str, Any]], int | None]
"""Columns and key, dtypes, rows, and how many of them are shown."""


class Shop:
    """A live table without a project: a view, which has an order, and an editor on it."""

    def __init__(self, spec: Spec, outbox: Outbox) -> None:
        schema, backend, rows, limit = spec
        self.schema = schema
        self.table = Table(schema, backend)
        overlay = Overlay(self.table, schema)
        overlay.apply([Upsert(schema.key_of(row), row) for row in rows])
        self.ordered = None if limit is None else Ordered(self.table, [OrderBy("n")], limit)
        feed = Feed("t", shared(), Options(), Metrics())
        feed.table, feed.ordered, feed.schema = self.table, self.ordered, schema
        self.frame = LiveFrame(feed, lambda: None, None)
        numbers = itertools.count()
        editing = Editing(outbox, clock=lambda: 0.0, make_id=lambda: f"op-{next(numbers)}")
        self.editor: Editor = editing.editor("public", "t", ordered=lambda: self.ordered)
        self.editor.attach(overlay)

    @property
    def at(self) -> At:
        return At(self.editor, Shown(), lambda verb, columns: None)

    def shown(self) -> dict[Key, dict[str, Any]]:
        keys = list(self.table.keys()) if self.ordered is None else self.ordered.keys()
        return {key: row for key in keys if (row := self.table.get(key)) is not None}


@contextlib.contextmanager
def opened(spec: Spec) -> Iterator[Shop]:
    with tempfile.TemporaryDirectory() as directory:
        outbox = Outbox(Path(directory) / "queue.sqlite3")
        try:
            yield Shop(spec, outbox)
        finally:
            outbox.close()


@st.composite
def specs(draw: st.DrawFn) -> Spec:
    types = draw(st.lists(st.sampled_from(list(VALUES)), min_size=1, max_size=2))
    names = [f"k{place}" for place in range(len(types))]
    columns = [Column(name, pg_type) for name, pg_type in zip(names, types, strict=True)]
    schema = Schema((*columns, Column("n", "int8")), tuple(names))
    values = st.tuples(*(VALUES[pg_type] for pg_type in types))
    keys = draw(st.lists(values, min_size=1, max_size=5))
    rows = {}
    for n, parts in enumerate(keys):
        row = {**dict(zip(names, parts, strict=True)), "n": n}
        rows[schema.key_of(row)] = row
    backend = draw(st.sampled_from([None, "numpy_nullable", "pyarrow"]))
    sortable = not {"jsonb", "_int4"} & set(types)
    limit = draw(st.none() | st.integers(1, 4)) if sortable else None
    return schema, backend, list(rows.values()), limit


@given(specs(), st.data())
def test_every_way_to_say_a_key_means_its_row(spec: Spec, data: st.DataObject) -> None:
    with opened(spec) as shop:
        shown = shop.shown()
        every = {key: shop.table.get(key) or {} for key in list(shop.table.keys())}
        index = shop.frame.df.index
        for place, (key, row) in enumerate(shown.items()):
            said = [index[place]]
            parts = [forms(shop.schema.types[name], row[name]) for name in shop.schema.key]
            if len(parts) == 1:
                said += parts[0]
            else:
                said += [
                    tuple(data.draw(st.sampled_from(part)) for part in parts) for _ in range(3)
                ]
            for form in said:
                assert equal(shop.frame.get(form), row), form
                assert form in shop.frame
                assert shop.at[form, "n"] == row["n"]
                assert equal(shop.editor.key(form), key)
        for key in every.keys() - shown.keys():  # held behind the limit
            assert shop.frame.get(key) is None
            assert key not in shop.frame
            with pytest.raises(KeyError):
                shop.at[key, "n"]
            with pytest.raises(InvalidEditError, match="outside the limit"):
                shop.editor.edit(key, {"n": 99})
            with pytest.raises(InvalidEditError, match="outside the limit"):
                shop.editor.delete(key)
            if not any(missing(every[key][name]) for name in shop.schema.key):
                with pytest.raises(InvalidEditError, match="outside the limit"):
                    shop.editor.insert(every[key])


@given(specs(), JUNK | st.tuples(JUNK, JUNK))
def test_what_get_does_not_find_is_what_no_edit_takes(spec: Spec, said: Any) -> None:
    with opened(spec) as shop:
        row = None
        with contextlib.suppress(InvalidKeyError):  # no row can have it
            row = shop.frame.get(said)
        if row is None:
            assert said not in shop.frame
            with pytest.raises(InvalidEditError):
                shop.editor.edit(said, {"n": 99})
            with pytest.raises(InvalidEditError):
                shop.editor.delete(said)
            with pytest.raises(KeyError):
                shop.at[said, "n"]
        else:
            assert any(equal(row, one) for one in shop.shown().values())
            shop.editor.edit(said, {"n": -1})  # the first in the order: it stays within the limit
            found = shop.editor.row(said)
            assert found is not None
            assert found["n"] == -1


@pytest.fixture
def rt(stack: LocalStack) -> Iterator[nrt.Session]:
    with nrt.connect(stack.url, stack.anon_key) as session:
        yield session


def test_a_date_is_found_as_the_index_has_it_and_as_its_text(
    rt: nrt.Session, make_table: Callable[..., str], stack: LocalStack
) -> None:
    name = make_table("shop text, day date, n int, primary key (shop, day)")
    stack.sql(f"insert into {name} values ('a', '2026-01-01', 1)")
    days = rt.table(name).wait(scaled(10))
    key = days.df.index[0]
    assert isinstance(key[1], pd.Timestamp)
    row = days.get(key)
    assert row == {"shop": "a", "day": dt.date(2026, 1, 1), "n": 1}
    assert days.get(("a", "2026-01-01")) == row
    assert key in days
    assert ("b", "2026-01-01") not in days
    assert days.get(("b", "2026-01-01")) is None
    with pytest.raises(InvalidKeyError, match=r"a tuple of shop, day, not 'a'"):
        days.get("a")
    assert "a" not in days


def test_what_was_got_under_any_form_of_its_key_is_what_an_edit_is_made_from(
    rt: nrt.Session, make_table: Callable[..., str], stack: LocalStack
) -> None:
    name = make_table("id int primary key, tags text[]")
    stack.sql(f"insert into {name} values (1, '{{}}')")
    table = rt.table(name, merge={"tags": "union"}).wait(scaled(10))
    row = table.get("1")
    assert row is not None
    stack.sql(f"update {name} set tags = '{{theirs}}'")
    other = rt.table(name).wait(scaled(10))
    until(lambda: (other.get(1) or {})["tags"] == ["theirs"])
    table.edit(1, tags=[*row["tags"], "mine"])
    rt.queue.flush(timeout=scaled(10))
    assert sorted(stack.sql(f"select tags from {name}")[0][0]) == ["mine", "theirs"]


def test_what_the_limit_does_not_show_is_neither_got_nor_edited(
    rt: nrt.Session, make_table: Callable[..., str], stack: LocalStack
) -> None:
    name = make_table("id int primary key, name text")
    stack.sql(f"insert into {name} values (1, 'a'), (2, 'b'), (3, 'c')")
    top = rt.table(name, order="id.desc", limit=2).wait(scaled(10))
    assert top.df.index.tolist() == [3, 2]
    assert top.get(1) is None
    assert (1 in top, 2 in top) == (False, True)
    with pytest.raises(KeyError):
        top.at[1, "name"]
    with pytest.raises(InvalidEditError, match=r"no row with the key 1 within limit=2"):
        top.edit(1, name="unseen")
    with pytest.raises(InvalidEditError, match="outside the limit"):
        top.edit_many(pd.DataFrame({"name": ["x", "y"]}, index=pd.Index([3, 1], name="id")))
    with pytest.raises(InvalidEditError, match="outside the limit"):
        top.delete(1)
    with pytest.raises(InvalidEditError, match="a row with the key 1: it is outside the limit"):
        top.insert(id=1, name="again")
    assert len(rt.queue) == 0
    top.delete(3)
    assert top.df.index.tolist() == [2, 1]
    top.edit(1, name="seen")  # it has moved up


def test_a_block_edits_what_it_has_moved_past_the_limit(
    rt: nrt.Session, make_table: Callable[..., str], stack: LocalStack
) -> None:
    name = make_table("id int primary key, n int, name text")
    stack.sql(f"insert into {name} values (1, 1, 'a'), (2, 2, 'b')")
    top = rt.table(name, order="n.desc", limit=1).wait(scaled(10))
    with top.batch():
        top.edit(2, n=0)
        top.edit(2, name="last")
    rt.queue.flush(timeout=scaled(10))
    assert stack.sql(f"select n, name from {name} where id = 2") == [(0, "last")]


def _has_two(frame: LiveFrame) -> bool:
    return len(frame.df) == 2


def test_the_rows_of_a_query_and_of_a_channel_are_got_by_their_index(
    rt: nrt.Session, make_table: Callable[..., str], stack: LocalStack
) -> None:
    name = make_table("id int primary key, day date")
    stack.sql(f"insert into {name} values (1, '2026-01-01'), (2, '2026-01-02')")
    keyed = rt.query(name, depends_on=name, key="day").wait(scaled(10))
    plain = rt.query(name, depends_on=name, order="id").wait(scaled(10))
    for query in (keyed, plain):
        assert [(query.get(key) or {})["id"] for key in query.df.index] == [1, 2]
    stack.sql(f"delete from {name} where id = 1")
    until(lambda: len(plain.df) == 1)
    assert [(plain.get(key) or {})["id"] for key in plain.df.index] == [2]
    room = rt.channel(name, receive_own=True).wait(scaled(10))
    frames = room.frame("e", key="symbol"), room.frame("e")
    for symbol in ("A", "B"):
        room.send("e", {"symbol": symbol})
    for frame in frames:
        frame.wait(scaled(10))
        until(partial(_has_two, frame))
        assert [(frame.get(key) or {})["symbol"] for key in frame.df.index] == ["A", "B"]


def test_in_asks_for_a_row_and_says_where_columns_are(
    rt: nrt.Session, make_table: Callable[..., str], stack: LocalStack
) -> None:
    name = make_table("id int primary key, name text")
    table = rt.table(name).wait(scaled(10))
    with pytest.raises(TypeError, match=r'"id" in frame\.df'):
        "id" in table  # noqa: B015  # the slip that is tried here
    assert "other" not in table
