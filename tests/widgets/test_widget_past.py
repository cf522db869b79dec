"""The time slider and the history of a cell without a browser: moments, gaps, limits."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from notebook_rt.model.types import Column
from notebook_rt.sync.history.steps import Step
from notebook_rt.widgets.adapters import MappedOf
from notebook_rt.widgets.cellpast import ACROSS, BY, MOST
from notebook_rt.widgets.chart import ChartModel
from notebook_rt.widgets.moments import CLOCK, FORGOTTEN, MOST_LOST, Moments
from notebook_rt.widgets.sources import Lost
from tests.widgets.bench import FIELDS, Bench, table, values
from tests.widgets.memory import HOSTILE, MemoryFrame, MemoryPast

S = 1_000_000
NOW = 1_000 * S


def before(n: int = 5) -> pd.DataFrame:
    df = table(n)
    df["price"] = df["price"] + 100
    return df


def past(**states: pd.DataFrame) -> MemoryPast:
    return MemoryPast({int(at[1:]) * S: df for at, df in states.items()}, FIELDS, NOW)


def recorded(df: pd.DataFrame, **options: Any) -> tuple[Bench, MemoryPast]:
    bench = Bench(df, **options)
    bench.source.past = source = past(s100=before(), s500=table(3))
    bench.whole = bench.model.whole("v")[0]
    return bench, source


def test_a_table_whose_past_is_not_recorded_has_no_slider_until_it_is():
    bench = Bench(table(5))
    assert bench.whole.content["past"] is None
    bench.source.past = past(s100=before())
    (message,) = bench.model.update()
    assert message.content["past"]["began"] == 100 * S
    assert message.content["past"]["at"] is None


def test_a_moment_is_shown_and_nothing_of_it_can_be_written():
    bench, _ = recorded(table(5))
    (message,) = bench.say(t="past", at=200 * S)
    assert bench.shown(message, 1) == [100, 101, 102, 103, 104]
    content = message.content
    assert (content["past"]["at"], content["status"]) == (200 * S, "past")
    assert (content["add"], content["remove"]) == (False, False)
    assert not any(column["editable"] for column in content["columns"])
    rid = int(np.frombuffer(message.buffers[0], np.int32, 1, content["rids"][0])[0])
    for word in (
        {"t": "edit", "rid": rid, "c": 1, "value": "7"},
        {"t": "delete", "rids": [rid]},
        {"t": "paste", "rid": rid, "c": 1, "cells": [["1"]]},
        {"t": "undo"},
    ):
        (reply,) = bench.say(**word)
        assert reply.content["kind"] == "refused"
    bench.say(t="insert", cells=[[2, "x"]])
    assert bench.source.edits == []


def test_the_live_table_goes_on_underneath_and_is_there_again_whole():
    bench, _ = recorded(table(5))
    bench.source.marked[2, "price"] = ("pending", "")
    bench.say(t="past", at=200 * S)
    df = table(7)
    df.loc[1, "price"] = 42.0
    assert bench.set(df) == []
    (message,) = bench.say(t="past")
    assert bench.shown(message, 1) == [42, 1, 2, 3, 4, 5, 6]
    assert message.content["past"]["at"] is None
    assert message.content["marks"][0][2] == "pending"
    assert message.content["columns"][1]["editable"]


def test_rows_sorted_and_filtered_stand_at_once_as_they_were():
    bench, _ = recorded(table(5))
    bench.say(t="sort", by=[[1, False]])
    bench.say(t="filter", text="price>1")
    (message,) = bench.say(t="past", at=200 * S)
    assert bench.shown(message, 1) == [104, 103, 102, 101, 100]
    (message,) = bench.say(t="past", at=600 * S)
    assert message.content["total"] == 1
    assert bench.model.shown()["price"].tolist() == [2]


def test_a_moment_with_other_columns_is_shown_with_those():
    bench = Bench(table(3), columns=["id", "price", "name"], totals="price")
    bench.source.past = past(s100=before(3).drop(columns=["price", "at"]))
    (message,) = bench.say(t="past", at=200 * S)
    assert [column["name"] for column in message.content["columns"]] == ["id", "name"]
    (message,) = bench.say(t="past")
    assert [column["name"] for column in message.content["columns"]] == ["id", "price", "name"]


def later() -> tuple[Moments, MemoryPast, list[Callable[[], object]]]:
    waiting: list[Callable[[], object]] = []
    source = MemoryFrame(table(5), FIELDS)
    source.past = found = past(s100=before())
    return Moments(source, waiting.append, lambda: None), found, waiting


def test_one_moment_is_read_at_a_time_and_of_those_asked_for_meanwhile_the_last():
    moments, found, waiting = later()
    for at in range(200, 300):
        moments.ask(at * S)
    assert len(waiting) == 1
    waiting.pop()()
    moments.refresh()
    assert moments.shown is None  # nobody wants that one any more
    assert len(waiting) == 1
    waiting.pop()()
    assert moments.refresh()
    assert moments.shown == 299 * S
    assert found.asked == [200 * S, 299 * S]


def test_who_is_back_at_the_live_table_is_not_taken_away_by_a_late_answer():
    moments, _, waiting = later()
    moments.ask(200 * S)
    moments.ask(None)
    waiting.pop()()
    assert not moments.refresh()
    assert moments.shown is None
    assert moments.df is moments._live.df


def test_a_moment_that_cannot_be_read_is_said_and_the_live_table_shown():
    moments, found, waiting = later()
    found.at = lambda when: 1 / 0  # type: ignore[method-assign, assignment, return-value]  # breaks
    moments.ask(200 * S)
    waiting.pop()()
    moments.refresh()
    state = moments.state()
    assert state is not None
    assert (state["at"], state["why"], state["answers"]) == (None, "division by zero", 1)


@pytest.mark.parametrize("how", ["forgotten", "dropped", "closed"])
def test_what_is_forgotten_is_not_shown_any_more(how: str):
    """As after another login, whose rows those are not."""
    bench, source = recorded(table(5))
    bench.say(t="past", at=200 * S)
    if how == "closed":
        bench.source.past = None
    else:
        source.states = {300 * S: table(2)} if how == "forgotten" else {}
    (message,) = bench.model.update()
    assert bench.shown(message, 1) == [0, 1, 2, 3, 4]
    if how == "forgotten":
        assert message.content["past"]["why"] == FORGOTTEN


def test_a_gap_is_told_and_said_where_it_is_looked_into():
    bench, source = recorded(table(5))
    source.lost = [Lost(150 * S, 250 * S, "no network"), Lost(900 * S, None, HOSTILE)]
    (message,) = bench.say(t="past", at=200 * S)
    told = message.content["past"]
    assert told["gaps"] == [[150 * S, 250 * S, "no network"], [900 * S, None, HOSTILE]]
    assert told["gap"] == [150 * S, 250 * S, "no network", 150 * S]
    (message,) = bench.say(t="past", at=400 * S)
    assert message.content["past"]["gap"] is None


def test_of_many_gaps_the_longest_are_drawn():
    bench, source = recorded(table(5))
    source.lost = [Lost(at * S, at * S + at, "r") for at in range(101, 900)]
    (message,) = bench.model.update()
    gaps = message.content["past"]["gaps"]
    assert len(gaps) == MOST_LOST
    assert gaps[-1][0] == 899 * S
    assert gaps == sorted(gaps)


def test_time_goes_by_without_a_message_for_each_look():
    bench, source = recorded(table(5))
    sent = 0
    for _ in range(40):
        source.now += S
        sent += len(bench.model.update())
    assert 0 < sent <= 40 * S // CLOCK


def test_a_chart_shows_a_moment_and_is_live_again():
    source = MemoryFrame(table(5), FIELDS)
    source.past = past(s100=before(), s500=table(3))
    now = [0.0]
    model = ChartModel(source, "id", "price", clock=lambda: now[0])
    model.whole("v")
    model.received("v", {"t": "past", "at": 200 * S})
    (message,) = model.update()  # and at once: somebody waits
    assert values(message.content["cols"][1], message.buffers[0]) == [100, 101, 102, 103, 104]
    assert message.content["past"]["at"] == 200 * S
    assert message.content["label"].startswith("Past line chart")
    source.set(table(6))
    assert model.update() == []
    model.received("v", {"t": "past"})
    (message,) = model.update()
    assert len(values(message.content["cols"][1], message.buffers[0])) == 6
    assert message.content["past"]["at"] is None


def test_a_chart_of_a_column_that_was_not_there_says_so_and_keeps_its_slider():
    source = MemoryFrame(table(5), FIELDS)
    source.past = past(s100=before().drop(columns="price"))
    model = ChartModel(source, "id", "price")
    model.whole("v")
    model.received("v", {"t": "past", "at": 200 * S})
    (message,) = model.update()
    assert message.content["t"] == "note"
    assert 'no column "price"' in message.content["note"]
    assert message.content["past"]["at"] == 200 * S
    assert model.update() == []
    model.received("v", {"t": "past"})
    (message,) = model.update()
    assert message.content["t"] in ("chart", "data")


# What a cell was


def row(price: float | None, name: str = "a", by: str | None = None) -> dict[str, Any]:
    return {"id": 1, "price": price, "name": name, "at": None, "updated_by": by}


def prices(n: int) -> list[Step]:
    first = Step(100 * S, "snapshot", "snapshot", None, row(0))
    return [first, *(changed(i) for i in range(1, n))]


def changed(i: int, cause: str = "stream") -> Step:
    return Step((100 + i) * S, "update", cause, row(i - 1), row(i, by=f"p{i}"))


def asked(bench: Bench, **word: Any) -> tuple[dict[str, Any], bytes]:
    (reply,) = [m for m in bench.say(t="history", rid=1, **word) if m.content["t"] == "reply"]
    assert reply.content["kind"] == "history"
    return dict(reply.content), reply.buffers[0] if reply.buffers else b""


def with_steps(*steps: Step, **options: Any) -> Bench:
    df = table(3).assign(updated_by=pd.array(["x"] * 3, dtype="str"))
    bench = Bench(df, [*FIELDS, Column("updated_by", "text")], **options)
    bench.source.past = source = past(s100=df)
    source.happened[1] = list(steps)
    return bench


def news(content: dict[str, Any], buffer: bytes) -> list[Any]:
    """The new values of the steps told, of their first column."""
    columns = [values(column, buffer) for column in content["cols"]]
    return [columns[c][new] for step in content["steps"] for c, _, new in step.get("cells", [])[:1]]


def test_the_history_of_a_cell_is_its_values_the_newest_first_and_who_wrote_them():
    bench = with_steps(*prices(3), Step(200 * S, "update", "poll", row(2), row(2, name="b")))
    content, buffer = asked(bench, c=1)
    assert news(content, buffer) == [2, 1, 0]
    assert [step["kind"] for step in content["steps"]] == ["update", "update", "snapshot"]
    assert [step["who"] for step in content["steps"]] == ["p2", "p1", ""]
    assert [step["at"] for step in content["steps"]] == [102 * S, 101 * S, 100 * S]
    assert content["cols"][0]["name"] == "price"
    assert (content["earlier"], content["began"], content["c"]) == (0, 100 * S, 1)


def test_a_long_history_is_cut_and_says_how_much_was_before():
    bench = with_steps(*prices(1_254))
    content, buffer = asked(bench, c=1)
    assert len(content["steps"]) == MOST
    assert content["earlier"] == 1_204
    assert news(content, buffer)[0] == 1_253


def test_gaps_stand_between_the_values_where_they_were():
    bench = with_steps(*prices(3), changed(300, "reconcile"))
    bench.source.past.lost = [Lost(50 * S, 60 * S, "before"), Lost(150 * S, 390 * S, "no network")]  # type: ignore[attr-defined, union-attr]
    content, _ = asked(bench, c=1)
    kinds = [step["kind"] for step in content["steps"]]
    assert kinds == ["update", "gap", "update", "update", "snapshot"]
    assert content["steps"][1]["why"] == "no network"
    assert [step.get("heard") for step in content["steps"]] == [False, None, True, True, True]


def test_the_history_of_a_row_names_what_changed_in_it():
    columns = {f"c{i}": i for i in range(12)}
    first = {"id": 1, **columns}
    second = {"id": 1, **{name: value + 1 for name, value in columns.items()}}
    df = pd.DataFrame([first]).set_index("id")
    bench = Bench(df, [Column("id", "int8"), *(Column(name, "int8") for name in columns)])
    bench.source.past = source = past(s100=df)
    source.happened[1] = [
        Step(100 * S, "insert", "stream", None, first),
        Step(101 * S, "update", "stream", first, second),
        Step(102 * S, "delete", "stream", second, None),
    ]
    content, buffer = asked(bench)
    assert [step["kind"] for step in content["steps"]] == ["delete", "update", "insert"]
    _, update, _ = content["steps"]
    assert (len(update["cells"]), update["more"]) == (ACROSS, 12 - ACROSS)
    column, old, new = update["cells"][3]
    assert content["cols"][column]["name"] == "c3"
    both = values(content["cols"][column], buffer)
    assert (both[old], both[new]) == (3, 4)


def test_values_are_exact_null_or_hostile_and_never_more_than_a_cell_shows():
    large = 2**53 + 1
    df = pd.DataFrame({"n": [large], "t": ["x"]}, index=pd.Index([1], name="id"))
    bench = Bench(df, [Column("id", "int8"), Column("n", "int8"), Column("t", "text")])
    bench.source.past = source = past(s100=df)
    texts = [HOSTILE, "\ud800", "x" * 10_000]
    rows = [{"id": 1, "n": n, "t": t} for n, t in zip([large, None, 3], texts, strict=True)]
    source.happened[1] = [
        Step(100 * S, "snapshot", "snapshot", None, rows[0]),
        Step(101 * S, "update", "stream", rows[0], rows[1]),
        Step(102 * S, "update", "stream", rows[1], rows[2]),
    ]
    assert news(*asked(bench, c=1)) == ["3", None, str(large)]
    content, buffer = asked(bench, c=2)
    assert [len(text) for text in news(content, buffer)] == [160, 1, len(HOSTILE)]
    json.dumps(content)


def test_who_wrote_is_a_column_that_is_named_or_has_a_name_by_custom():
    assert "updated_by" in BY
    bench = with_steps(*prices(2), by="name")
    assert asked(bench, c=1)[0]["steps"][0]["who"] == "a"
    with pytest.raises(ValueError, match='no column "author"'):
        with_steps(by="author")


def test_where_nothing_is_recorded_the_menu_says_how_to_begin():
    bench = Bench(table(3))
    content, _ = asked(bench, c=1)
    why, code = content["why"].split("\n")
    assert why == "No history of this table is recorded yet."
    assert code == 'table.history("1h")'


def test_what_is_derived_says_that_only_tables_have_a_history():
    why, code = MappedOf.why_no_past.__get__(object()).split("\n")
    assert why.startswith("Only a table has a history")
    assert code == 'table.history("1h")'
