"""The result of ``LiveFrame.map`` is as live as the table, on the real stack."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd
import pytest

import notebook_rt as nrt
from notebook_rt import errors
from notebook_rt.local import LocalStack
from notebook_rt.runtime.callbacks import Mailbox
from notebook_rt.runtime.driver import Driver
from notebook_rt.widgets.adapters import MappedOf, tabular
from tests.waiting import scaled, until


@pytest.fixture
def frame(stack: LocalStack, make_table: Callable[..., str]) -> Iterator[nrt.LiveFrame]:
    table = make_table()
    stack.sql(f"insert into {table} values (1, 'a', 1), (2, 'a', 2), (3, '<b>c</b>', 4)")
    with nrt.connect(stack.url, stack.anon_key) as session:
        yield session.table(table).wait(scaled(10))


def by_name(df: pd.DataFrame) -> pd.Series[Any]:
    return df.groupby("name").price.sum()


def test_it_is_computed_once_a_snapshot_and_told_after_each_batch(
    stack: LocalStack, frame: nrt.LiveFrame
) -> None:
    runs: list[int] = []
    mapped = frame.map(lambda df: runs.append(len(df)) or float(df.price.sum()))
    assert (mapped.df, mapped.df, runs) == (7.0, 7.0, [3])
    told: list[float] = []
    stop = mapped.on_change(told.append, at_once=True)
    until(lambda: told == [7.0])
    stack.sql(f"insert into {frame.name} values (4, 'd', 10)")
    until(lambda: told[-1:] == [17.0], what=lambda: told)
    stop()
    stack.sql(f"delete from {frame.name} where id = 4")
    until(lambda: mapped.df == 7.0)
    assert told[-1] == 17.0
    assert repr(frame.map(by_name)).startswith("<MappedFrame by_name of ")


def test_what_the_function_raises_is_raised_whatever_it_is(frame: nrt.LiveFrame) -> None:
    mapped = frame.map(lambda df: df.nmae.mean())
    for _ in range(2):
        with pytest.raises(AttributeError, match="'DataFrame' object has no attribute 'nmae'"):
            _ = mapped.df
    with pytest.raises(AttributeError, match=r"what is computed has \.df"):
        _ = mapped.describe


def test_it_shows_itself_as_a_table_that_follows_and_cannot_be_edited(
    stack: LocalStack, frame: nrt.LiveFrame
) -> None:
    mapped = frame.map(by_name)
    bundle = mapped._repr_mimebundle_()
    assert bundle["text/plain"].startswith(f"computed from {frame.name}: 2 rows × 2 columns")
    assert "&lt;b&gt;c&lt;/b&gt;" in bundle["text/html"]
    assert "<b>c</b>" not in bundle["text/html"]
    source = MappedOf(mapped)
    assert [field.name for field in source.fields] == ["name", "price"]
    looks: list[None] = []
    stack.sql(f"update {frame.name} set price = 40 where id = 3")
    until(lambda: frame.df.loc[3, "price"] == 40)
    stop = source.on_change(lambda: looks.append(None))  # what was missed comes at once
    until(lambda: source.df["price"].tolist() == [40.0, 3.0], what=lambda: source.df)
    stack.sql(f"update {frame.name} set price = 5 where id = 1")
    until(lambda: source.df["price"].tolist() == [40.0, 7.0], what=lambda: source.df)
    assert looks
    stop()
    with pytest.raises(errors.ReadOnlyError):
        source.edit("a", {"price": 1}, {})
    with pytest.raises(ZeroDivisionError):
        frame.map(lambda df: 1 / 0)._repr_mimebundle_()


@pytest.mark.parametrize(
    ("value", "columns"),
    [
        (3, ["value"]),
        (pd.Series([1, 2], index=["x", "y"]), ["index", "value"]),
        (pd.DataFrame({("a", "mean"): [1.0], ("a", "max"): [2.0]}, index=[7]), ["index", "a mean"]),
        (pd.DataFrame({1: [1, 2]}, index=pd.Index(["x", "x"], name="name")), ["name", "1"]),
        (pd.DataFrame({"n": [1, 2]}, index=[5, 5]), ["n"]),
        (
            pd.DataFrame([[1, 2]], index=pd.Index(["x"], name="a"), columns=["a", "a"]),
            ["a", "a.1", "a.2"],
        ),
        (
            pd.DataFrame([[1], [2]], index=pd.Index([5, 5], name="a"), columns=["a"]),
            ["a", "a.1"],
        ),
        (
            pd.DataFrame({"n": [1]}, index=pd.MultiIndex.from_tuples([(1, 2)])),
            ["level_0", "level_1"],
        ),
    ],
)
def test_whatever_is_computed_is_a_table_whose_rows_can_be_distinguished(
    value: object, columns: list[str]
) -> None:
    df = tabular(value)
    assert df.index.is_unique
    shown = [name for name in (*df.index.names, *df.columns) if name is not None]
    assert shown[: len(columns)] == columns
    assert all(isinstance(name, str) for name in shown)
    assert len(set(shown)) == len(shown)


@pytest.fixture
def other(stack: LocalStack, frame: nrt.LiveFrame, make_table: Callable[..., str]) -> nrt.LiveFrame:
    table = make_table()
    stack.sql(f"insert into {table} values (1, 'factor', 10)")
    return frame._session.table(table).wait(scaled(10))  # type: ignore[attr-defined, no-any-return]


READERS: dict[str, Callable[[nrt.LiveFrame], float]] = {
    "df": lambda other: float(other.df.price.iloc[0]),
    "get": lambda other: float((other.get(1) or {})["price"]),
    "at": lambda other: float(other.at[1, "price"]),
    "arrow": lambda other: float(other.to_arrow().column("price")[0].as_py()),
    "map": lambda other: float(other.map(lambda df: df.price.sum()).df),
}


@pytest.mark.parametrize("reader", READERS)
def test_another_live_frame_that_the_function_reads_is_followed(
    stack: LocalStack, frame: nrt.LiveFrame, other: nrt.LiveFrame, reader: str
) -> None:
    runs: list[int] = []
    read = READERS[reader]
    mapped = frame.map(lambda df: runs.append(1) or float(df.price.sum()) * read(other))
    told: list[float] = []
    mapped.on_change(told.append)
    assert mapped.df == 70.0
    before = len(runs)
    assert (mapped.df, len(runs)) == (70.0, before)
    stack.sql(f"update {other.name} set price = 100")
    until(lambda: told[-1:] == [700.0], what=lambda: told)
    assert mapped.df == 700.0
    other.edit(1, price=1)
    assert mapped.df == 7.0


def test_a_change_between_the_subscription_and_the_first_run_is_told(
    stack: LocalStack, frame: nrt.LiveFrame, other: nrt.LiveFrame
) -> None:
    begun, changed = threading.Event(), threading.Event()

    def price(df: pd.DataFrame) -> float:
        begun.set()
        changed.wait(scaled(10))
        return float(other.df.price.iloc[0])

    told: list[float] = []
    frame.map(price).on_change(told.append)
    begun.wait(scaled(10))
    stack.sql(f"update {other.name} set price = 100")
    until(lambda: other.df.price.iloc[0] == 100)
    until(lambda: other.version > 1, what=lambda: other.version)
    changed.set()
    until(lambda: told == [100.0], what=lambda: told)


def test_what_is_seen_is_counted(stack: LocalStack, frame: nrt.LiveFrame) -> None:
    """Whoever compares versions has the latest, though the loop is not done with what has changed."""
    driver, version = frame._feed, frame.version
    assert isinstance(driver, Driver)
    carry_out = driver._carry_all

    def slow(*args: Any) -> None:
        time.sleep(0.2)
        carry_out(*args)

    driver._carry_all = slow  # type: ignore[method-assign]
    stack.sql(f"update {frame.name} set price = 9")
    until(lambda: frame.df.price.eq(9).all())
    assert frame.version > version
    del driver._carry_all


def test_what_the_function_raises_of_a_frame_that_it_reads_is_raised_until_that_changes(
    stack: LocalStack, frame: nrt.LiveFrame, other: nrt.LiveFrame
) -> None:
    mapped = frame.map(lambda df: 100 // int(other.df.price.iloc[0]))
    assert mapped.df == 10
    stack.sql(f"update {other.name} set price = null")
    until(lambda: other.df.price.isna().all())
    for _ in range(2):
        with pytest.raises(ValueError, match="NaN"):
            mapped.df  # noqa: B018  # that it raises is what is read
    stack.sql(f"update {other.name} set price = 20")
    until(lambda: other.df.price.iloc[0] == 20)
    assert mapped.df == 5


def test_a_frame_that_is_read_now_and_then_is_followed_while_it_is(
    stack: LocalStack, frame: nrt.LiveFrame, other: nrt.LiveFrame
) -> None:
    mapped = frame.map(lambda df: other.df.price.sum() if len(df) == 3 else 0)
    told: list[float] = []
    stop = mapped.on_change(told.append, at_once=True)
    until(lambda: told == [10.0], what=lambda: told)
    stack.sql(f"update {other.name} set price = 11")
    until(lambda: told[-1:] == [11.0], what=lambda: told)
    stack.sql(f"insert into {frame.name} values (4, 'd', 1)")
    until(lambda: told[-1:] == [0], what=lambda: told)
    count = len(told)
    stack.sql(f"update {other.name} set price = 12")
    until(lambda: other.df.price.iloc[0] == 12)
    stack.sql(f"delete from {frame.name} where id = 4")
    until(lambda: told[-1:] == [12.0], what=lambda: told)
    assert len(told) == count + 1
    stop()
    until(lambda: not other._feed.listeners, what=lambda: other._feed.listeners)


def test_a_function_that_reads_its_own_result_ends(
    stack: LocalStack, frame: nrt.LiveFrame, other: nrt.LiveFrame
) -> None:
    made: list[Any] = []
    made.append(frame.map(lambda df: (made[0].df or 0) + len(df)))
    assert made[0].df == 3
    first = frame.map(lambda df: (made[2].df or 0) + 1)
    made += [first, other.map(lambda df: (first.df or 0) + 1)]
    told: list[float] = []
    first.on_change(told.append, at_once=True)
    until(lambda: told == [2], what=lambda: told)
    stack.sql(f"insert into {frame.name} values (4, 'd', 1)")
    until(lambda: len(told) == 2, what=lambda: told)


def test_a_function_of_several_frames_is_as_live_as_each(
    stack: LocalStack, frame: nrt.LiveFrame, other: nrt.LiveFrame
) -> None:
    mapped = nrt.map([frame, other], lambda a, b: float(a.price.sum() * b.price.sum()))
    told: list[float] = []
    mapped.on_change(told.append, at_once=True)
    until(lambda: told == [70.0], what=lambda: told)
    stack.sql(f"update {other.name} set price = 2")
    until(lambda: told[-1:] == [14.0], what=lambda: told)
    stack.sql(f"delete from {frame.name} where id = 3")
    until(lambda: told[-1:] == [6.0], what=lambda: told)
    assert MappedOf(mapped).name == f"computed from {frame.name}, {other.name}"
    assert nrt.map(frame, len).df == 2
    with pytest.raises(TypeError, match="map takes live frames"):
        nrt.map([frame.df], len)  # type: ignore[list-item]  # the slip that is tried here
    other.close()
    assert MappedOf(mapped).status == "closed"


def test_when_and_until_look_at_the_rows_of_what_is_computed(
    stack: LocalStack, frame: nrt.LiveFrame
) -> None:
    sums = frame.map(by_name)
    told: list[tuple[str, dict[str, Any]]] = []
    stop = sums.when(
        "price=gt.10", lambda row: told.append(("in", row)), lambda row: told.append(("out", row))
    )
    stack.sql(f"insert into {frame.name} values (4, 'a', 10)")
    until(lambda: told == [("in", {"name": "a", "price": 13.0})], what=lambda: told)
    assert sums.until({"price": {"gt": 10}}, scaled(10)) == {"name": "a", "price": 13.0}
    stack.sql(f"update {frame.name} set price = 11 where id = 4")
    stack.sql(f"delete from {frame.name} where id = 4")
    until(lambda: told[-1:] == [("out", {"name": "a", "price": 3.0})], what=lambda: told)
    assert [kind for kind, _ in told] == ["in", "out"]
    stop()
    stack.sql(f"insert into {frame.name} values (4, 'a', 10)")
    until(lambda: sums.df["a"] == 13)
    assert len(told) == 2


def test_when_goes_on_for_other_rows_where_a_function_of_the_user_raises(
    stack: LocalStack, frame: nrt.LiveFrame, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[str] = []

    def tell(row: dict[str, Any]) -> None:
        told.append(row["name"])
        raise ValueError("of mine")

    frame.map(by_name).when(lambda row: row["price"] > 2, tell, at_once=True, debounce=0.05)
    until(lambda: sorted(told) == ["<b>c</b>", "a"], what=lambda: told)
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [ValueError]
    assert "tell" in caplog.text


def test_when_refuses_at_once_what_the_value_of_now_shows_to_be_wrong(
    frame: nrt.LiveFrame, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(errors.DerivationError, match='no column "cost"; there are name, price'):
        frame.map(by_name).when("cost=gt.1", print)
    with pytest.raises(errors.DerivationError, match='key="column" to sql'):
        nrt.sql("select sum(price) total from t", t=frame).when("total=gt.0", print)
    with pytest.raises(errors.DerivationError, match="this is a int"):
        frame.map(len).when("n=gt.0", print)
    assert not caplog.records


def test_when_tells_in_a_line_that_a_later_value_cannot_be_looked_at(
    stack: LocalStack, frame: nrt.LiveFrame, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[dict[str, Any]] = []
    wanted = "price"
    frame.map(lambda df: by_name(df).rename(wanted)).when("price=gt.100", told.append)
    wanted = "cost"
    for number in (1, 2):
        stack.sql(f"update {frame.name} set price = {number} where id = 3")
        until(lambda: 'no column "price"; there are name, cost' in caplog.text)
    wanted = "price"
    stack.sql(f"update {frame.name} set price = 200 where id = 3")
    until(lambda: len(told) == 1, what=lambda: told)
    [record] = caplog.records
    assert record.exc_info is None
    assert record.getMessage().startswith("when tells nothing while this is so: <MappedFrame")


def test_changes_while_a_function_of_the_user_runs_are_one_look(
    stack: LocalStack, frame: nrt.LiveFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else they would pile up behind a slow function."""
    going, continue_from, asked = threading.Event(), threading.Event(), list[object]()
    put = Mailbox.put
    monkeypatch.setattr(Mailbox, "put", lambda box, item: asked.append(item) or put(box, item))

    def slow(row: dict[str, Any]) -> None:
        going.set()
        continue_from.wait(scaled(20))

    sums = frame.map(by_name)
    sums.when("price=gt.0", slow, at_once=True)
    assert going.wait(scaled(10))
    before, version = asked.count(True), frame.version
    for number in range(10):
        stack.sql(f"update {frame.name} set price = {number} where id = 3")
        until(lambda seen=version: frame.version > seen)
        version = frame.version
    assert asked.count(True) == before + 1
    continue_from.set()
    until(lambda: sums.latest["<b>c</b>"] == 9, what=lambda: sums.latest)


def test_until_waits_no_longer_than_it_is_to_and_says_what_is_wrong(frame: nrt.LiveFrame) -> None:
    sums = frame.map(by_name)
    with pytest.raises(errors.WaitTimeoutError, match="no row of <MappedFrame by_name of"):
        sums.until("price=gt.100", 0.2)
    with pytest.raises(errors.DerivationError, match='no column "cost"'):
        sums.until("cost=gt.100", scaled(10))
    with pytest.raises(ZeroDivisionError):
        sums.until(lambda row: 1 / 0, scaled(10))
    with pytest.raises(errors.DerivationError, match="set_index"):
        frame.map(lambda df: df.reset_index()).until("price=gt.0", scaled(10))
    with pytest.raises(TypeError, match="when needs a function"):
        sums.when("price=gt.0", None)  # type: ignore[arg-type]  # a mistake
    frame.close()
    with pytest.raises(errors.ClosedError):
        sums.until("price=gt.100", scaled(10))
