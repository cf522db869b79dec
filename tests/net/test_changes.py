"""Batches of changes combined into one: their exact effect on each row."""

from __future__ import annotations

import asyncio
import itertools

import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from notebook_rt.model.rows import Row, RowChange
from notebook_rt.net.loop import shared
from notebook_rt.options import Options
from notebook_rt.runtime.changes import ChangeBatch, Gathering, changes_df, combined
from notebook_rt.runtime.feed import Feed
from notebook_rt.store.contents import changes_between
from notebook_rt.sync.connection.metrics import Metrics
from tests.waiting import scaled

rows = st.builds(lambda a, b: {"a": a, "b": b}, st.integers(0, 2), st.none() | st.just("x"))
tables = st.dictionaries(st.integers(0, 4), rows, max_size=5)


def step(before: dict[int, Row], after: dict[int, Row], version: int) -> ChangeBatch:
    keys = [*before, *(key for key in after if key not in before)]
    old = {key: before.get(key) for key in keys}
    new = {key: after.get(key) for key in keys}
    return ChangeBatch(list(changes_between(old, new)), "stream", version, float(version))


@given(st.lists(tables, min_size=2, max_size=6))
def test_gathered_batches_say_what_lies_between_the_first_state_and_the_last(
    states: list[dict[int, Row]],
) -> None:
    batches = [step(a, b, n) for n, (a, b) in enumerate(itertools.pairwise(states))]
    one = combined(batches)
    wanted = step(states[0], states[-1], len(batches) - 1)
    assert sorted(one, key=lambda change: str(change.key)) == sorted(
        wanted, key=lambda change: str(change.key)
    )
    assert (one.version, one.commit_time) == (wanted.version, wanted.commit_time)


async def test_what_comes_within_the_time_is_handed_on_once_and_a_change_undone_not_at_all() -> (
    None
):
    told: asyncio.Queue[ChangeBatch] = asyncio.Queue()
    gathering = Gathering(told.put_nowait, 0.02)
    states: list[dict[int, Row]] = [{}, {1: {"a": 1}}, {1: {"a": 2}}, {}]
    for number, (before, after) in enumerate(itertools.pairwise(states)):
        gathering(step(before, after, number))
    await asyncio.sleep(0.05)
    assert told.empty()
    gathering(step({}, {7: {"a": 1}}, 3))
    gathering(step({7: {"a": 1}}, {7: {"a": 2}}, 4))
    assert told.empty()
    batch = await asyncio.wait_for(told.get(), scaled(5))
    assert [(change.kind, change.key, change.new) for change in batch] == [("insert", 7, {"a": 2})]


def test_what_tells_no_time_of_a_commit_is_logged_at_the_time_when_it_was_shown() -> None:
    change = RowChange("insert", 1, None, {"a": 1, "b": None})
    feed = Feed("quotes", shared(), Options(), Metrics())
    before = pd.Timestamp.now("UTC")
    feed.publish([change], "edit")
    feed.publish([change], "stream", 1_700_000_000.5)
    edited, streamed = changes_df(feed.log)["at"]
    assert before.floor("s") <= edited <= pd.Timestamp.now("UTC")
    assert streamed == pd.Timestamp(1_700_000_000.5, unit="s", tz="UTC")


def test_a_local_edit_counts_as_a_change_but_does_not_make_the_table_the_servers() -> None:
    feed = Feed("quotes", shared(), Options(), Metrics())
    change = RowChange("insert", 1, None, {"a": 1, "b": None})
    feed.publish([change], "edit")
    assert (feed.version, len(feed.log), feed.synced_at) == (1, 1, None)
    feed.publish([change], "stream")
    assert feed.version == 2
    assert feed.synced_at is not None
