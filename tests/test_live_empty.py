"""What is made of a table while it is still empty: with its columns where they are known, else it says so in
a line, and comes alive with the first row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd
import pytest

import notebook_rt as nrt
from notebook_rt.errors import DerivationError
from notebook_rt.local import LocalStack
from notebook_rt.widgets.adapters import MappedOf
from notebook_rt.widgets.chart import ChartWidget
from tests.waiting import scaled, until

NOT_NAMED = "was empty when it was opened, so no row has named its columns yet"


@pytest.fixture
def table(stack: LocalStack, make_table: Callable[..., str]) -> str:
    return make_table()


@pytest.fixture
def rt(stack: LocalStack) -> Iterator[nrt.Session]:
    with nrt.connect(stack.url, stack.anon_key) as session:
        yield session


def opened(rt: nrt.Session, table: str) -> nrt.LiveTable:
    frame = rt.table(table)
    frame.wait(scaled(20))
    until(lambda: frame.status == "live", what=lambda: repr(frame))
    return frame


def shown(widget: Any, kind: str) -> str:
    """The static form."""
    bundle, _ = widget._repr_mimebundle_()
    return str(bundle[kind])


def doubled(frame: nrt.LiveFrame) -> Any:
    return frame.map(lambda df: df.assign(twice=df.price * 2))


def summed(rt: nrt.Session, frame: nrt.LiveFrame) -> Any:
    return rt.sql(f"select name, sum(price) as price from {frame.name} group by name", key="name")


def first_row(stack: LocalStack, table: str) -> None:
    stack.sql(f"insert into {table} values (1, 'a', 1.5)")


COMPUTED: dict[str, Callable[[nrt.Session, nrt.LiveTable], Any]] = {
    "a function": lambda rt, frame: doubled(frame),
    "a function of several": lambda rt, frame: nrt.map([frame], lambda df: df[["price"]]),
    "SQL": summed,
    "groups": lambda rt, frame: frame.groupby("name").agg(price=("price", "sum")),
}
CHARTS: dict[str, Callable[[nrt.Session, nrt.LiveTable], ChartWidget]] = {
    "of what there is": lambda rt, frame: frame.plot(),
    "of a function": lambda rt, frame: doubled(frame).plot(y="twice"),
    "of SQL": lambda rt, frame: summed(rt, frame).plot(y="price", kind="bar", last=9),
    "of groups": lambda rt, frame: frame.groupby("name").agg(n=("price", "sum")).plot(y="n"),
}


@pytest.mark.usefixtures("undescribed")
@pytest.mark.parametrize("made", COMPUTED.values(), ids=COMPUTED)
def test_what_is_computed_says_that_no_row_has_named_the_columns_and_follows_the_first(
    stack: LocalStack, table: str, rt: nrt.Session, made: Callable[..., Any]
) -> None:
    computed = made(rt, opened(rt, table))
    with pytest.raises(DerivationError, match=NOT_NAMED):
        _ = computed.df
    told: list[Any] = []
    computed.on_change(told.append)
    first_row(stack, table)
    until(lambda: told, what=lambda: repr(computed))
    assert len(computed.df) == 1


@pytest.mark.usefixtures("undescribed")
@pytest.mark.parametrize("made", CHARTS.values(), ids=CHARTS)
def test_a_chart_says_so_and_is_drawn_with_the_first_row(
    stack: LocalStack, table: str, rt: nrt.Session, made: Callable[..., ChartWidget]
) -> None:
    widget = made(rt, opened(rt, table))
    assert NOT_NAMED in shown(widget, "text/plain")
    model = widget._model
    assert model is not None
    (note,) = model.whole("a view")
    assert NOT_NAMED in note.content["note"]
    with pytest.raises(ValueError, match=NOT_NAMED):
        _ = widget.chart
    changed: list[bool] = []
    stop = model.source.on_change(lambda: changed.append(True))
    first_row(stack, table)
    until(lambda: changed, what=lambda: widget)
    drawn: list[Any] = []
    until(lambda: drawn.extend(model.update()) or any(m.content["t"] == "chart" for m in drawn))
    assert NOT_NAMED not in shown(widget, "text/plain")
    stop()


@pytest.mark.usefixtures("undescribed")
def test_a_grid_of_what_is_computed_says_so_and_shows_the_first_row(
    stack: LocalStack, table: str, rt: nrt.Session
) -> None:
    computed = doubled(opened(rt, table))
    widget = computed.grid(columns=["twice"])
    assert NOT_NAMED in shown(widget, "text/html")
    source = MappedOf(computed)
    assert (source.note, list(source.fields)) == (source.undeclared, [])
    changed: list[bool] = []
    stop = source.on_change(lambda: changed.append(True))
    first_row(stack, table)
    until(lambda: changed and source.df.get("twice") is not None, what=lambda: source.df)
    assert source.df["twice"].tolist() == [3.0]
    assert source.note == ""
    assert "3" in shown(widget, "text/html")
    stop()


@pytest.mark.usefixtures("undescribed")
def test_until_waits_for_the_first_row_of_what_is_computed(
    stack: LocalStack, table: str, rt: nrt.Session
) -> None:
    computed = summed(rt, opened(rt, table))
    with pytest.raises(nrt.errors.WaitTimeoutError):
        computed.until("price=gt.1", timeout=0)
    first_row(stack, table)
    assert computed.until("price=gt.1", timeout=scaled(20))["name"] == "a"


@pytest.mark.usefixtures("undescribed")
def test_a_row_that_comes_while_the_function_fails_for_want_of_it_is_waited_for_all_the_same(
    stack: LocalStack, table: str, rt: nrt.Session
) -> None:
    frame = opened(rt, table)

    def dear(df: pd.DataFrame) -> pd.DataFrame:
        if "price" not in df:
            first_row(stack, table)
            until(lambda: not frame._feed.why_undeclared)
        return df[df.price > 1]

    assert frame.map(dear).until("price=gt.1", timeout=scaled(20))["name"] == "a"


@pytest.mark.usefixtures("undescribed")
def test_the_columns_that_a_chart_of_the_table_names_are_asked_for(
    stack: LocalStack, table: str, rt: nrt.Session
) -> None:
    frame = opened(rt, table)
    with pytest.raises(ValueError, match='has no column "prise"'):
        frame.plot(y="prise")
    widget = frame.plot(x="name", y="price", kind="bar")
    assert shown(widget, "text/plain") == f"Live bar chart of price by name, {table}"


@pytest.mark.usefixtures("undescribed")
def test_a_chart_of_a_column_that_is_not_there_names_it_once_a_row_came(
    stack: LocalStack, table: str, rt: nrt.Session
) -> None:
    table_frame = opened(rt, table)
    frame = table_frame.map(lambda df: df[df.price > 0])
    model = frame.plot(y="prise")._model
    assert model is not None
    assert NOT_NAMED in model.whole("a view")[0].content["note"]
    first_row(stack, table)
    until(lambda: len(table_frame.df) == 1, what=lambda: repr(table_frame))
    assert len(frame.df) == 1
    assert 'has no column "prise"; there are id, name, price' in str(model.update())


@pytest.mark.usefixtures("described_by_sql")
def test_with_the_sql_the_columns_of_an_empty_table_are_known(
    stack: LocalStack, table: str, rt: nrt.Session
) -> None:
    frame = opened(rt, table)
    assert [list(made(rt, frame).df.columns) for made in COMPUTED.values()] == [
        ["name", "price", "twice"],
        ["price"],
        ["price"],
        ["price"],
    ]
    for made in CHARTS.values():
        model = made(rt, frame)._model
        assert model is not None
        assert [one.content["t"] for one in model.whole("a view")] == ["chart"]
    with pytest.raises(ValueError, match='has no column "prise"; there are id, name, price'):
        frame.plot(y="prise")
    with pytest.raises(KeyError):
        _ = frame.map(lambda df: df["prise"]).df


def test_a_column_that_a_function_asks_for_as_an_attribute_is_named(
    stack: LocalStack, table: str, rt: nrt.Session
) -> None:
    first_row(stack, table)
    mapped = opened(rt, table).map(lambda df: df.prise)
    with pytest.raises(AttributeError, match="'DataFrame' object has no attribute 'prise'"):
        _ = mapped.df
