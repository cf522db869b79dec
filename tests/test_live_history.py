"""The past of a live table on the real stack: commit times, edits, gaps, replays, Parquet."""

from __future__ import annotations

import datetime as dt
import errno
import json
import re
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from time import time_ns
from typing import Any

import numpy as np
import pandas as pd
import pytest

import notebook_rt as nrt
from notebook_rt import errors
from notebook_rt.history import History
from notebook_rt.local import LocalStack, StackOptions, start
from notebook_rt.local.options import RealtimeOptions
from notebook_rt.model.times import microseconds, timestamp
from notebook_rt.sync.table.machine import JOIN_PATIENCE
from notebook_rt.widgets.adapters import FrameOf, MappedOf
from tests.faults.lab import confirmed_for_good
from tests.proxy import Proxy
from tests.waiting import scaled, until

same = pd.testing.assert_frame_equal


@pytest.fixture
def session(stack: LocalStack, proxy: Proxy, tmp_path: Path) -> Iterator[nrt.Session]:
    # An audit that reads a change before it is heard would tell its time. One machine has one clock.
    options = nrt.Options(audit_interval=0, clock_margin=0.1)
    queue = tmp_path / "queue.db"
    with nrt.connect(proxy.url, stack.anon_key, queue_path=queue, options=options) as session:
        yield session


@pytest.fixture
def trades(
    stack: LocalStack, proxy: Proxy, session: nrt.Session, make_table: Callable[..., str]
) -> nrt.LiveTable:
    table = make_table("id bigint primary key, symbol text, price numeric, by_whom text")
    stack.sql(
        f"insert into {table} values (1, 'a', 1.5, 'ann'), (2, 'b', 2, 'bob'), (3, 'c', 3, null)"
    )
    frame = session.table(table).wait(scaled(10))
    confirmed_for_good(stack, proxy, session, frame)
    # Soon after the table was read, what comes may be in what was read: the row is read again.
    driver: Any = frame._feed
    until(lambda: driver.services.rest.clock() > driver.machine._horizon.floor)
    return frame


def now(stack: LocalStack) -> pd.Timestamp:
    """A moment between two changes: the server tells milliseconds."""
    [[at]] = stack.sql("select clock_timestamp() from (select pg_sleep(0.002)) as a")
    stack.sql("select pg_sleep(0.002)")
    return pd.Timestamp(at)


def heard(past: History, number: int) -> None:
    until(lambda: len(past) >= number)


def test_the_table_as_it_was_by_the_time_of_the_commit(
    stack: LocalStack, trades: nrt.LiveTable
) -> None:
    before = trades.df
    past = trades.history("1h")
    times = []
    for statement in (
        "update {} set price = 10 where id = 1",
        "insert into {} values (4, 'd', 4, 'dan')",
        "delete from {} where id = 2",
        "update {} set id = 9 where id = 3",
    ):
        times.append(now(stack))
        stack.sql(statement.format(trades.name))
    heard(past, 5)
    same(past.as_of("now"), trades.df)
    same(past.as_of(times[0]), before)
    assert past.as_of(times[1]).loc[1, "price"] == 10
    assert list(past.as_of(times[2]).index) == [1, 2, 3, 4]
    assert list(past.as_of(times[3].to_pydatetime()).index) == [1, 3, 4]
    assert list(past.as_of("now").index) == [1, 4, 9]
    assert past.as_of(times[2]).attrs["as_of"] == times[2].isoformat()
    changes = past.changes_df()
    assert list(changes["_change_type"]) == ["update", "insert", "delete", "delete", "insert"]
    assert list(changes["id"]) == [1, 4, 2, 3, 9]
    assert list(changes["symbol"]) == ["a", "d", "b", "c", "c"]
    assert (changes["_cause"] == "stream").all()
    assert changes["_commit_timestamp"].is_monotonic_increasing
    assert times[0] <= changes["_commit_timestamp"][0] <= times[1]
    difference = past.diff(times[0], times[2])
    assert list(difference["kind"]) == ["update", "insert"]
    assert difference["changed"][0] == ("price",)
    told = r"<History of \w+, 5 changes, \w+ gaps?, [-\d]{10} [:\d]{8} to ([-\d]{10} )?[:\d]{8} UTC, \S+ K?B>"
    assert re.fullmatch(told, repr(past)), past


def test_a_history_that_is_asked_for_at_once_begins_with_no_gap(
    stack_directory: Path, tmp_path: Path
) -> None:
    late = RealtimeOptions(confirm_delay=0.5, confirm_again_delay=None)
    with (
        start(stack_directory, options=StackOptions(realtime=late)) as stack,
        nrt.connect(stack.url, stack.anon_key, queue_path=tmp_path / "queue.db") as session,
    ):
        stack.sql(
            "create table late (id bigint primary key, price numeric); grant select on late to anon;"
            "alter publication supabase_realtime add table late; insert into late values (1, 1.5)"
        )
        frame = session.table("late").wait(scaled(10))
        past = frame.history("1h")
        assert frame.status == "live"
        assert past.gaps.empty
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert past.as_of("now").loc[1, "price"] == 1.5


def test_a_history_of_what_is_not_followed_begins_at_once(
    stack: LocalStack, tmp_path: Path, make_table: Callable[..., str]
) -> None:
    options = nrt.Options(max_channels=1)
    tables = [make_table("id bigint primary key") for _ in range(2)]
    queue = tmp_path / "queue.db"
    with nrt.connect(stack.url, stack.anon_key, queue_path=queue, options=options) as session:
        first = session.table(tables[0], priority="high").wait(scaled(10))
        crowded = session.table(tables[1], priority="low").wait(scaled(10))
        began = time.monotonic()
        past = crowded.history("1h")
        assert time.monotonic() - began < JOIN_PATIENCE / 2
        assert (past.gaps["until"].isna()).any(), (first, crowded)


def test_a_moment_that_is_not_recorded_is_refused_with_the_reason(trades: nrt.LiveTable) -> None:
    past = trades.history("1h")
    with pytest.raises(errors.HistoryError, match="its recording began then"):
        past.as_of("-10min")
    assert past.start is not None
    just_before = past.start - pd.Timedelta(1, "us")
    with pytest.raises(errors.HistoryError, match=f"not at {just_before:%Y-%m-%d %H:%M:%S.%f}: "):
        past.as_of(just_before)  # seconds would not tell the two apart
    with pytest.raises(errors.HistoryError, match="still to come"):
        past.as_of("2199-01-01")
    with pytest.raises(ValueError, match="not a moment"):
        past.as_of("yesterday-ish")
    with pytest.raises(ValueError, match="not a time span"):
        trades.history("a while")
    with pytest.raises(AttributeError, match=r"table\.history\(\)\.replay\(\)"):
        trades.where("id=gt.1").history("1h")  # type: ignore[attr-defined]


def test_a_moment_to_come_is_refused_and_the_present_is_said_to_be_no_later(
    stack: LocalStack, trades: nrt.LiveTable
) -> None:
    past = trades.history("1h")
    here = pd.Timestamp.now("UTC")
    for ahead in (2.5, 4, 60):
        moment = here + pd.Timedelta(seconds=scaled(ahead))
        for ask in (past.as_of, lambda at: past.diff(past.start, at)):
            with pytest.raises(errors.HistoryError, match="still to come"):
                ask(moment)
    shown = past.as_of(pd.Timestamp.now("UTC") + pd.Timedelta(milliseconds=500))
    assert pd.Timestamp(shown.attrs["as_of"]) <= now(stack) + pd.Timedelta(milliseconds=10)


def test_the_time_of_a_clock_that_is_ahead_of_the_servers_is_now(
    trades: nrt.LiveTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    past = trades.history("1h")

    def set_ahead(seconds: int) -> pd.Timestamp:
        monkeypatch.setattr("notebook_rt.history.time_ns", lambda: time_ns() + seconds * 10**9)
        return pd.Timestamp.now("UTC") + pd.Timedelta(seconds=seconds)

    same(past.as_of(set_ahead(4)), trades.df)
    with pytest.raises(errors.HistoryError, match="still to come"):
        past.as_of(set_ahead(60))


def test_an_edit_that_waits_is_no_history(stack: LocalStack, trades: nrt.LiveTable) -> None:
    past = trades.history("1h")
    stack.sql(f"revoke update on {trades.name} from anon")
    trades.edit(1, price=77)
    assert trades.df.loc[1, "price"] == 77
    assert past.as_of("now").loc[1, "price"] == 1.5
    again = trades.history("2h")  # the same recording
    assert again.as_of("now").loc[1, "price"] == 1.5


def test_an_edit_is_history_once_by_the_time_of_its_commit(
    stack: LocalStack, trades: nrt.LiveTable
) -> None:
    past = trades.history("1h")
    before = now(stack)
    trades.edit(1, price=78)
    heard(past, 1)
    after = now(stack)
    stack.sql(f"update {trades.name} set price = 79 where id = 1")
    heard(past, 2)
    cell = past.of(1, "price")
    assert cell["new"].tolist() == [1.5, 78.0, 79.0]
    assert before <= cell["at"][1] <= after


def test_a_history_that_begins_while_an_edit_waits_begins_with_the_servers_rows(
    stack: LocalStack, trades: nrt.LiveTable
) -> None:
    stack.sql(f"revoke update, insert on {trades.name} from anon")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trades.edit(1, price=77)
    past = trades.history("1h")
    assert past.as_of("now").loc[1, "price"] == 1.5
    assert len(past) == 0


def test_what_happened_to_a_cell_and_who_did_it(stack: LocalStack, trades: nrt.LiveTable) -> None:
    past = trades.history("1h")
    stack.sql(f"update {trades.name} set price = 8, by_whom = 'eve' where id = 1")
    stack.sql(f"update {trades.name} set symbol = 'z' where id = 1")
    stack.sql(f"delete from {trades.name} where id = 1")
    heard(past, 3)
    cell = past.of("1", "price", by="by_whom")
    assert list(cell["kind"]) == ["snapshot", "update", "delete"]
    assert cell["by"].tolist()[:2] == ["ann", "eve"]
    assert cell["old"].tolist()[1:] == [1.5, 8.0]
    assert cell["new"].tolist()[:2] == [1.5, 8.0]
    row = past.of(1)
    assert row["changed"].tolist()[1:3] == [("price", "by_whom"), ("symbol",)]
    assert row["new"][2]["symbol"] == "z"
    assert "by" not in row
    assert len(past.of(777)) == 0
    with pytest.raises(ValueError, match='no column "prise"'):
        past.of(1, "prise")


def test_a_large_integer_is_exact_in_the_history_of_its_cell(
    stack: LocalStack, session: nrt.Session, make_table: Callable[..., str]
) -> None:
    name = make_table("id int primary key, lots bigint")
    stack.sql(f"insert into {name} values (1, {2**53 + 1})")
    table = session.table(name).wait(scaled(10))
    past = table.history("1h")
    stack.sql(f"update {name} set lots = null where id = 1")
    until(lambda: past.of(1, "lots")["new"].tolist() == [2**53 + 1, None])


def test_a_gap_is_said_and_its_outcome_is_known(stack: LocalStack, trades: nrt.LiveTable) -> None:
    past = trades.history("1h")
    driver = past._driver
    driver.thread.call(driver.subscription.gap, "a cable was pulled")
    until(lambda: past.gaps["reason"].tolist()[-1:] == ["a cable was pulled"])
    until(lambda: trades.status == "live")
    since, end, _ = past.gaps.iloc[-1]
    inside = since + (end - since) / 2
    with pytest.warns(errors.HistoryGapWarning, match="a cable was pulled"):
        frame = past.as_of(inside)
    assert frame.attrs["gap"]["reason"] == "a cable was pulled"
    json.dumps(frame.attrs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        past.as_of(since)
        past.as_of(end)
        past.diff(since, end)
    for moments in ((since, inside), (inside, end)):
        with pytest.warns(errors.HistoryGapWarning, match="a cable was pulled"):
            past.diff(*moments)
    assert f"{len(past.gaps)} gap" in repr(past)


def test_other_columns_are_another_era(stack: LocalStack, trades: nrt.LiveTable) -> None:
    past = trades.history("1h")
    before = trades.df
    at = now(stack)
    stack.sql(f"alter table {trades.name} add column more int default 5")
    stack.sql(f"update {trades.name} set price = 8 where id = 1")
    until(lambda: "more" in trades.df.columns and trades.status == "live", 20)
    until(lambda: "more" in past.as_of("now").columns)  # what is shown is recorded a moment later
    same(past.as_of(at), before)
    same(past.as_of("now"), trades.df)
    assert past.changes_df()["more"].tolist()[-1] == 5
    assert past.of(1, "price")["new"].tolist() == [1.5, 8.0]
    replay = past.replay(1e-9)
    played: dict[str, bool] = {}
    driver: Any = replay._feed
    driver.thread.call(
        driver.listeners.add, lambda batch: played.update({batch.cause: replay.playing})
    )
    replay.play(1000)
    until(lambda: "over" in replay.reason)
    same(replay.df, trades.df)
    assert played["seek"]  # it goes on from one era to the next


def test_another_login_finds_nothing(
    stack: LocalStack, session: nrt.Session, trades: nrt.LiveTable
) -> None:
    past = trades.history("1h")
    at = now(stack)
    stack.sql(f"update {trades.name} set price = 8 where id = 1")
    heard(past, 1)
    session.set_auth(stack.token("authenticated", "00000000-0000-0000-0000-000000000007", 60))
    until(lambda: past.start is not None and past.start > at and trades.status == "live", 20)
    with pytest.raises(errors.HistoryError, match="forgotten"):
        past.as_of(at)
    same(past.as_of("now"), trades.df)


def test_a_replay_is_a_live_frame_that_plays(stack: LocalStack, trades: nrt.LiveTable) -> None:
    past = trades.history("1h")
    first = trades.df
    for price in range(5):
        stack.sql(f"update {trades.name} set price = {price} where id = 1")
    stack.sql(f"insert into {trades.name} values (4, 'a', 40)")
    heard(past, 6)
    replay = past.replay(speed=1e-6)
    same(replay.df, first)
    assert replay.status == "stale"
    assert "a replay" in replay.reason
    by_symbol = replay.groupby("symbol").agg(total=("price", "sum"))
    assert by_symbol.df.loc["a", "total"] == 1.5
    told: list[nrt.ChangeBatch] = []
    replay.on_change(told.append)
    replay.play(1000)
    until(lambda: not replay.playing)
    same(replay.df, trades.df)
    assert by_symbol.df.loc["a", "total"] == 44
    until(lambda: told and told[-1].changes[-1].key == 4, what=lambda: told)
    assert told[-1].commit_time is not None
    assert past.end is not None
    assert replay.at == past.end
    assert past.start is not None
    replay.seek(past.start)
    same(replay.df, first)
    assert by_symbol.df.loc["a", "total"] == 1.5
    with pytest.raises(errors.HistoryError, match="the replay is of"):
        replay.seek("2001-01-01")
    replay.close()
    with pytest.raises(errors.ClosedError):
        replay.play()


def test_parquet_goes_on_being_written_until_the_end(
    stack: LocalStack, trades: nrt.LiveTable, tmp_path: Path
) -> None:
    stack.sql(f"alter table {trades.name} add facts jsonb")
    stack.sql(f"update {trades.name} set price = 3, facts = '[]' where id = 3")
    until(lambda: "facts" in trades.df and trades.status == "live")
    past = trades.history("1h")
    path = tmp_path / "trades"
    past.to_parquet(path, every=0.1)
    kinds = lambda: pd.read_parquet(path)["_change_type"].tolist()  # noqa: E731  # a word for it
    assert kinds() == ["snapshot"] * 3
    stack.sql(f"update {trades.name} set price = 8, facts = '{{\"a\": 1}}' where id = 1")
    until(lambda: kinds() == ["snapshot"] * 3 + ["update"], what=kinds)
    stack.sql(f"delete from {trades.name} where id = 1")
    heard(past, 2)
    past.close()
    until(lambda: kinds() == ["snapshot"] * 3 + ["update", "delete"], what=kinds)
    found = pd.read_parquet(path)
    assert found["facts"].tolist()[-2:] == ['{"a": 1}'] * 2
    assert not list(path.glob(".*"))
    last = max(path.glob("part-*"))
    (path / "part-000000.parquet").unlink()  # who keeps only the latest
    past.to_parquet(path)  # of a history that is closed, once
    assert last.exists()
    with pytest.raises(ValueError, match="a number of seconds"):
        past.to_parquet(path, every=0)
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").touch()
    with pytest.raises(FileExistsError, match=r"thesis\.tex"):
        past.to_parquet(other)


def test_a_cell_that_writes_parquet_may_be_run_twice(
    stack: LocalStack, trades: nrt.LiveTable, tmp_path: Path
) -> None:
    past = trades.history("1h")
    path = tmp_path / "trades"
    past.to_parquet(path, every=0.1)
    stop = past.to_parquet(path, every=0.1)
    found = lambda: pd.read_parquet(path)["price"].tolist()  # noqa: E731  # a word for it
    for price in range(100, 110):
        stack.sql(f"update {trades.name} set price = {price} where id = 1")
        until(lambda price=price: price in found(), what=found)
    assert found()[3:] == list(range(100, 110))
    stop()
    again = past.to_parquet(path, every=0.1)  # of an earlier call: behind what is there
    assert sorted(found()[-13:]) == sorted([*found()[:3], *range(100, 110)])
    again()


def test_parquet_is_put_beside_nothing_of_somebody_else(
    stack: LocalStack, trades: nrt.LiveTable, make_table: Callable[..., str], tmp_path: Path
) -> None:
    past = trades.history("1h")
    (tmp_path / "spark").mkdir()
    (tmp_path / "spark" / "part-00000-77aa.snappy.parquet").touch()
    with pytest.raises(FileExistsError, match="part-00000-77aa"):
        past.to_parquet(tmp_path / "spark")
    other = trades._session.table(make_table()).wait(scaled(10))
    past.to_parquet(tmp_path / "trades")
    with pytest.raises(FileExistsError, match=trades.name):
        other.history("1h").to_parquet(tmp_path / "trades")


def test_parquet_loses_nothing_to_a_disk_that_is_full_for_a_while(
    stack: LocalStack, trades: nrt.LiveTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow.parquet as pq

    write, full = pq.write_table, threading.Event()

    def write_table(*arguments: Any) -> None:
        if full.is_set():
            failed.set()
            raise OSError(errno.ENOSPC, "No space left on device")
        write(*arguments)

    failed = threading.Event()
    monkeypatch.setattr(pq, "write_table", write_table)
    past = trades.history("1h")
    path = tmp_path / "trades"
    past.to_parquet(path, every=0.05)
    full.set()
    stack.sql(f"update {trades.name} set price = 8 where id = 1")
    assert failed.wait(scaled(10))
    full.clear()
    kinds = lambda: pd.read_parquet(path)["_change_type"].tolist()  # noqa: E731  # a word for it
    until(lambda: kinds() == ["snapshot"] * 3 + ["update"], what=kinds)
    past.close()


def test_moments_are_numbers_of_any_kind(trades: nrt.LiveTable, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a time span"):
        trades.history(True)  # a slip that is not an hour
    past = trades.history(np.int64(3600))
    assert past.start is not None
    same(past.as_of(np.float64(past.start.timestamp())), past.as_of(past.start))
    same(past.as_of(np.timedelta64(0, "s")), trades.df)
    for slip in (past.start.timestamp() * 1e3, np.inf, 10**400, "-10"):  # milliseconds; no unit
        with pytest.raises(ValueError, match="not a moment"):
            past.as_of(slip)
    for nothing in (None, pd.NaT, np.nan, ""):
        with pytest.raises(ValueError, match="it is empty"):
            past.as_of(nothing)
    for slip in ("10", 10**400):
        with pytest.raises(ValueError, match="not a time span"):
            trades.history(slip)
    for slip in (np.inf, np.nan, 1e308 * 10, 0, True, "60", 10**400):
        with pytest.raises(ValueError, match="speed must be a positive number"):
            past.replay(slip)  # type: ignore[arg-type]
    for slip in (True, "1", None, 0):
        with pytest.raises(ValueError, match="most_bytes must be a number"):
            trades.history(most_bytes=slip)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="on_disk must be True or False"):
        trades.history(on_disk="no")  # type: ignore[arg-type]
    for slip in ("60", True):
        with pytest.raises(TypeError, match="every must be a number of seconds"):
            past.to_parquet(tmp_path / "past", every=slip)  # type: ignore[arg-type]
    past.close()
    replay = past.replay(1e308)
    until(lambda: not replay.playing, what=lambda: replay)


def test_a_replay_goes_on_behind_what_is_forgotten_meanwhile(
    stack: LocalStack, trades: nrt.LiveTable
) -> None:
    past = trades.history("1h")

    def forget_a_quarter() -> None:
        def squeeze(recorded: Any) -> None:
            recorded.most = recorded.nbytes - 1
            recorded.forget(0)

        past._recording.read(squeeze)

    stack.sql(f"update {trades.name} set price = 77 where id = 2")
    for price in range(20):
        stack.sql(f"update {trades.name} set price = {price} where id = 1")
    heard(past, 21)
    replay, late = past.replay(speed=1e-9), past.replay(speed=1e-9, end=past.start)
    forget_a_quarter()
    assert past.forgotten
    replay.play(1000)
    until(lambda: not replay.playing)
    same(replay.df, trades.df)
    replay.play()
    until(lambda: not replay.playing)
    same(replay.df, trades.df)
    with pytest.raises(errors.HistoryError, match="forgotten"):
        late.play()


def test_closing_ends_the_recording_and_what_was_recorded_is_there(
    stack: LocalStack, trades: nrt.LiveTable
) -> None:
    with trades.history("1h") as past:
        stack.sql(f"update {trades.name} set price = 8 where id = 1")
        heard(past, 1)
    assert "closed" in repr(past)
    stack.sql(f"update {trades.name} set price = 9 where id = 1")
    until(lambda: trades.df.loc[1, "price"] == 9)
    assert past.end is not None
    assert past.as_of(past.end).loc[1, "price"] == 8
    with pytest.warns(errors.HistoryGapWarning, match="not recorded any more"):
        past.as_of("now")


def test_an_ordered_table_is_shown_in_its_order(
    stack: LocalStack, session: nrt.Session, trades: nrt.LiveTable
) -> None:
    top = session.table(trades.name, columns="symbol", order="price.desc", limit=2)
    top.wait(scaled(10))
    until(lambda: top.status == "live")
    past = top.history("1h")
    before, at = top.df, past.end
    stack.sql(f"update {trades.name} set price = 100 where id = 1")
    until(lambda: list(past.as_of("now").index) == [1, 3])
    same(past.as_of("now"), top.df)
    same(past.as_of(at), before)


def test_an_order_by_text_is_the_tables_own_at_any_moment_and_in_a_replay(
    stack: LocalStack, session: nrt.Session, trades: nrt.LiveTable
) -> None:
    """Only the server knows how it sorts text: what it has told is kept for what was."""
    stack.sql(
        f"update {trades.name} set symbol = 'B' where id = 2; delete from {trades.name} where id = 1"
    )
    stack.sql(f"insert into {trades.name} values (4, 'a'), (5, 'Z'), (6, null)")
    view = session.table(trades.name, columns="symbol", order="symbol")
    view.wait(scaled(10))
    until(lambda: view.status == "live" and symbols(view.df) == on_the_server(stack, view))
    past = view.history("1h")
    moments = [(view.df, past.end)]
    for statement in (
        "insert into {0} values (7, 'ab')",
        "update {0} set symbol = 'Bz' where id = 3",
        "delete from {0} where id = 4",
        "insert into {0} values (1, 'aa')",
    ):
        stack.sql(statement.format(trades.name))
        until(lambda: symbols(view.df) == on_the_server(stack, view), what=lambda: view.df)
        until(lambda: symbols(past.as_of("now")) == symbols(view.df))
        moments.append((view.df, past.end))
    for shown, at in moments:
        same(past.as_of(at), shown)
    with past.replay(speed=1e6) as replay:
        until(lambda: "over" in replay.reason, what=lambda: replay.reason)
        assert list(replay.df.index) == list(view.df.index)


def symbols(df: pd.DataFrame) -> list[tuple[Any, ...]]:
    return [(key, None if pd.isna(symbol) else symbol) for key, symbol in df["symbol"].items()]


def on_the_server(stack: LocalStack, view: nrt.LiveTable) -> list[tuple[Any, ...]]:
    return stack.sql(f"select id, symbol from {view.name} order by symbol, id")


def test_times_are_taken_as_people_write_them(trades: nrt.LiveTable) -> None:
    past = trades.history(dt.timedelta(hours=1))
    at = past.start
    assert at is not None
    forms: list[Any] = [at, at.to_pydatetime(), str(at), str(at)[:-6], at.timestamp()]
    forms.append(at.tz_convert("Asia/Tokyo"))
    for form in forms:
        assert past.as_of(form).attrs["as_of"] == at.isoformat()
    past.as_of("-0s")
    past.as_of(dt.timedelta(0))
    past.as_of("today")  # for pandas it is now
    for far in ("2999-01-01", dt.datetime(9000, 1, 1)):
        with pytest.raises(errors.HistoryError, match="still to come"):
            past.as_of(far)
    with pytest.raises(errors.HistoryError, match="not at 1066-10-14"):
        past.as_of("1066-10-14")
    for slip in ("1h", "10 min"):
        with pytest.raises(ValueError, match=f'"-{slip}"'):
            past.as_of(slip)


@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "America/Los_Angeles"])
def test_a_time_without_a_day_is_of_today_in_utc(
    zone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever the machine is: one of the two zones has another day, at any time."""
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        for hour in (3, 12, 23):
            now = pd.Timestamp(f"2026-03-01 {hour}:30", tz="UTC")
            at = microseconds(" 3:05:00.5", now.value // 1000)
            assert timestamp(at) == pd.Timestamp("2026-03-01 03:05:00.5", tz="UTC")
            assert microseconds("today", now.value // 1000) == now.value // 1000
    finally:
        monkeypatch.undo()
        time.tzset()


def test_what_is_derived_of_a_replay_is_shown_as_a_replay_and_not_as_lost(
    trades: nrt.LiveTable,
) -> None:
    replay = trades.history("1h").replay(speed=60)
    replay.pause()
    by_symbol = replay.groupby("symbol").agg(n=("price", "count"))
    for frame in (replay, by_symbol):
        source = FrameOf(frame)
        until(lambda source=source: source.status == "replay")
        assert source.note.startswith("a replay, ")
        assert "as of" in source.note
    mapped = nrt.map(replay, len)
    assert MappedOf(mapped).status == "replay"
