"""``when`` and ``until`` on the real stack: each row that starts to match is reported once."""

from __future__ import annotations

import logging
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import notebook_rt as nrt
from notebook_rt import errors
from notebook_rt.disk import alerts, cache
from notebook_rt.disk.alerts import path_for
from notebook_rt.local import LocalStack
from notebook_rt.runtime import watching
from tests.proxy import Drop, Proxy
from tests.waiting import scaled, throughout, until

Rows = list[dict[str, Any]]


@pytest.fixture
def session(stack: LocalStack) -> Iterator[nrt.Session]:
    with nrt.connect(stack.url, stack.anon_key) as session:
        yield session


@pytest.fixture
def prices(
    stack: LocalStack, session: nrt.Session, make_table: Callable[..., str]
) -> nrt.LiveTable:
    table = make_table("id bigint primary key, name text, price numeric")
    stack.sql(f"insert into {table} values (1, 'a', 10), (2, 'b', 300), (3, 'c', 20)")
    return session.table(table).wait(scaled(10))


def ids(rows: Rows) -> list[int]:
    return [row["id"] for row in rows]


def shown(table: nrt.LiveTable, key: int, price: float) -> None:
    until(lambda: (row := table.get(key)) is not None and row["price"] == price)


@pytest.mark.parametrize(
    "condition", ["price=gt.250", {"price": {"gt": 250}}, lambda row: row["price"] > 250]
)
def test_a_row_that_begins_to_match_is_reported_once_and_once_it_stops(
    stack: LocalStack, prices: nrt.LiveTable, condition: Any
) -> None:
    came: Rows = []
    left: Rows = []
    stop = prices.when(condition, came.append, left.append)
    stack.sql(f"update {prices.name} set price = 251 where id = 1")
    until(lambda: ids(came) == [1])
    assert came[0] == {"id": 1, "name": "a", "price": 251.0}
    stack.sql(f"update {prices.name} set price = 252 where id = 1")
    stack.sql(f"insert into {prices.name} values (4, 'd', 400)")
    until(lambda: ids(came) == [1, 4])
    stack.sql(f"update {prices.name} set price = 5 where id in (1, 2)")  # 2 was not told
    stack.sql(f"delete from {prices.name} where id = 4")
    until(lambda: ids(left) == [1, 4])
    assert [row["price"] for row in left] == [5.0, 400.0]
    shown(prices, 2, 5)  # else its two changes may be seen as one
    stack.sql(f"update {prices.name} set price = 500 where id = 2")
    until(lambda: ids(came) == [1, 4, 2])
    stop()
    stack.sql(f"update {prices.name} set price = 500 where id = 3")
    shown(prices, 3, 500)
    throughout(lambda: ids(came) == [1, 4, 2], 0.1)


@pytest.mark.usefixtures("undescribed")
def test_the_first_row_of_an_empty_table_is_told_whole(
    stack: LocalStack, session: nrt.Session, make_table: Callable[..., str]
) -> None:
    """No row was there to name the columns, when the alerts were made."""
    name = make_table("id bigint primary key, name text, price numeric")
    early: Rows = []
    late: Rows = []
    every: Rows = []
    batches: list[Rows] = []
    session.table(name).when("price=gt.250", early.append)
    table = session.table(name).wait(scaled(10))
    until(lambda: table.status == "live", what=lambda: table)
    table.when("price=gt.250", late.append)
    table.when("", every.append)
    table.on_change(lambda batch: batches.append([dict(one.new or {}) for one in batch]))
    history = table.history("1h")
    dear = table.where("price=gt.250")
    derived: Rows = []
    dear.when("", derived.append)
    with pytest.raises(errors.DerivationError, match="wait for its first row, name them with"):
        _ = dear.df
    stack.sql(f"insert into {name} values (1, 'a', 300)")
    until(lambda: early and late and every and batches, what=lambda: (early, late, every))
    row = {"id": 1, "name": "a", "price": 300.0}
    until(lambda: derived, what=lambda: dear)
    assert early == late == every == derived == [row]
    assert batches == [[row]]
    assert list(dear.df.index) == [1]
    until(lambda: len(history.changes_df()), what=lambda: (history, history.gaps))
    past = history.changes_df()
    assert past[["_change_type", "id", "name", "price"]].to_numpy().tolist() == [
        ["insert", 1, "a", 300.0]
    ]


def test_rows_that_match_already_are_told_if_wanted(prices: nrt.LiveTable) -> None:
    came: Rows = []
    prices.when("price=gt.15", came.append, at_once=True)
    until(lambda: ids(came) == [2, 3])


def test_nothing_is_told_twice_or_lost_through_gaps_and_audits(
    stack: LocalStack, proxy: Proxy, make_table: Callable[..., str]
) -> None:
    table = make_table("id bigint primary key, price int")
    stack.sql(f"insert into {table} values (1, 10), (2, 300), (3, 300)")
    options = nrt.Options(backoff_base=0.1, backoff_max=0.3)
    with nrt.connect(proxy.url, stack.anon_key, options=options) as rt:
        prices = rt.table(table).wait(scaled(10))
        came: Rows = []
        left: Rows = []
        prices.when("price=gt.250", came.append, left.append, at_once=True)
        until(lambda: ids(came) == [2, 3])
        proxy.rules = (Drop(),)  # changes are swallowed, then the server is away
        stack.sql(f"update {table} set price = 402 where id = 2")
        proxy.down()
        stack.sql(f"update {table} set price = 400 where id = 1")
        stack.sql(f"update {table} set price = 401 where id = 2")
        stack.sql(f"delete from {table} where id = 3")
        proxy.heal()
        proxy.up()
        until(lambda: ids(came) == [2, 3, 1], 30)
        until(lambda: ids(left) == [3])
        assert prices.verify(scaled(20)).differed == 0
        assert (ids(came), ids(left)) == ([2, 3, 1], [3])


def test_an_edit_that_is_taken_back_is_told_as_what_is_shown(prices: nrt.LiveTable) -> None:
    told: list[str] = []
    prices.when("price=gt.250", lambda row: told.append("in"), lambda row: told.append("out"))
    with prices.batch():
        prices.edit(1, price=999)
    until(lambda: told == ["in"])
    prices.edit(1, price=1)
    until(lambda: told == ["in", "out"])


def test_a_derived_frame_is_watched_like_a_table(stack: LocalStack, prices: nrt.LiveTable) -> None:
    by_name = prices.groupby("name").agg(total=("price", "sum"))
    came: Rows = []
    by_name.when("total=gt.1000", came.append)
    stack.sql(f"insert into {prices.name} values (5, 'b', 900)")
    until(lambda: came == [{"name": "b", "total": 1200.0}])
    assert prices.where("price=gt.100").until({"id": 5}, scaled(10))["price"] == 900


def test_messages_are_watched_from_the_first_on(stack: LocalStack, session: nrt.Session) -> None:
    room = session.channel("room:alerts", receive_own=True)
    frame = room.frame("price", key="symbol")
    came: Rows = []
    frame.when("price=gt.250", came.append)
    until(lambda: room.status == "joined")
    room.send("price", {"symbol": "a", "price": 251})
    room.send("price", {"symbol": "b", "price": 1})
    until(lambda: [row["symbol"] for row in came] == ["a"])


def test_only_a_row_that_goes_on_matching_is_told_with_a_debounce(
    stack: LocalStack, prices: nrt.LiveTable
) -> None:
    came: Rows = []
    prices.when("price=gt.250", came.append, debounce=0.4)
    stack.sql(f"update {prices.name} set price = 300 where id in (1, 3)")
    shown(prices, 1, 300)
    stack.sql(f"update {prices.name} set price = 0 where id = 1")
    until(lambda: ids(came) == [3])
    assert prices.get(1)["price"] == 0  # type: ignore[index]  # it is there


def test_what_raises_is_logged_once_and_the_other_rows_are_told(
    stack: LocalStack, prices: nrt.LiveTable, caplog: pytest.LogCaptureFixture
) -> None:
    came: Rows = []

    def tell(row: dict[str, Any]) -> None:
        came.append(row)
        if row["id"] == 1:
            raise RuntimeError("mine")

    prices.when("price=gt.250", tell)
    with caplog.at_level(logging.ERROR, "notebook_rt"):
        stack.sql(f"update {prices.name} set price = 300")
        until(lambda: sorted(ids(came)) == [1, 3])
        until(lambda: "mine" in caplog.text)
    assert f"{prices.name}.when" in caplog.text
    assert caplog.text.count("raised; it stays subscribed") == 1


def test_a_condition_that_raises_for_a_row_leaves_that_row_as_it_was(
    stack: LocalStack, prices: nrt.LiveTable, caplog: pytest.LogCaptureFixture
) -> None:
    came: Rows = []
    left: Rows = []

    def judge(row: dict[str, Any]) -> bool:
        if row["name"] == "bad":
            raise RuntimeError("mine")
        return bool(row["price"] > 250)

    prices.when(judge, came.append, left.append, at_once=True)
    until(lambda: ids(came) == [2])
    stack.sql(f"update {prices.name} set name = 'bad', price = 0 where id = 2")
    stack.sql(f"update {prices.name} set price = 300 where id = 3")
    until(lambda: ids(came) == [2, 3])
    assert not left
    assert "mine" in caplog.text
    [record] = [one for one in caplog.records if one.levelno == logging.ERROR]
    assert "the condition 'test_a_condition" in record.getMessage()
    assert ".judge' raised" in record.getMessage()


def test_a_condition_that_cannot_be_decided_is_refused_by_name(prices: nrt.LiveTable) -> None:
    with pytest.raises(errors.DerivationError, match='no column "colour"'):
        prices.when("colour=eq.red", print)
    with pytest.raises(errors.DerivationError, match="only the server can decide"):
        prices.when("name=gt.a", print)
    with pytest.raises(errors.FilterError):
        prices.when("price=above.1", print)
    with pytest.raises(TypeError, match="a function to call"):
        prices.when("price=gt.1", None)  # type: ignore[arg-type]  # on purpose


def test_rows_without_a_key_are_refused(
    stack: LocalStack, session: nrt.Session, prices: nrt.LiveTable
) -> None:
    query = session.query(prices.name, depends_on=prices.name).wait(scaled(10))
    with pytest.raises(errors.DerivationError, match="key="):
        query.when("price=gt.1", print)


def test_each_login_has_its_own(stack: LocalStack, make_table: Callable[..., str]) -> None:
    table = make_table("id bigint primary key, owner text, n int")
    stack.sql(f"alter table {table} enable row level security")
    stack.sql(f"create policy mine on {table} using (owner = auth.jwt() ->> 'sub')")
    ada, bob = ("6f1c0000-0000-4000-8000-00000000000a", "6f1c0000-0000-4000-8000-00000000000b")
    stack.sql(f"insert into {table} values (1, '{ada}', 9), (2, '{bob}', 9)")
    tokens = {who: stack.token("authenticated", who) for who in (ada, bob)}
    with nrt.connect(stack.url, stack.anon_key, access_token=tokens[ada]) as rt:
        mine = rt.table(table).wait(scaled(10))
        came: Rows = []
        left: Rows = []
        mine.when("n=gt.5", came.append, left.append, at_once=True, name="each login")
        until(lambda: ids(came) == [1])
        rt.set_auth(tokens[bob])
        until(lambda: ids(came) == [1, 2])
        stack.sql(f"update {table} set n = 0 where id = 1")
        rt.set_auth(tokens[ada])
        until(lambda: ids(left) == [1])
        rt.set_auth(tokens[bob])
        until(lambda: mine.df.index.tolist() == [2])
        stack.sql(f"update {table} set n = 0 where id = 2")
        until(lambda: ids(left) == [1, 2])
    assert ids(came) == [1, 2]


KERNEL = """
import sys
import notebook_rt as nrt
url, key, table = sys.argv[1:]
with nrt.connect(url, key) as rt:
    prices = rt.table(table).wait(30)

    def say(line):  # at once: two threads say something
        sys.stdout.write(line + "\\n")
        sys.stdout.flush()

    stop = prices.when(
        "price=gt.250",
        lambda row: say(f"in {row['id']}"),
        lambda row: say(f"out {row['id']}"),
        name="dear",
    )
    say("ready")
    sys.stdin.read()
"""


class Kernel:
    """A process that watches, and what it has told."""

    def __init__(self, stack: LocalStack, table: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", KERNEL, stack.url, stack.anon_key, table],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.lines: list[str] = []
        threading.Thread(target=self._read, daemon=True).start()
        until(lambda: "ready" in self.lines, 30)

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(line.strip() for line in iter(self.process.stdout.readline, ""))

    def kill(self) -> list[str]:
        self.process.kill()
        self.process.wait()
        return self.lines


def test_a_named_alert_is_not_told_again_by_the_next_kernel(
    stack: LocalStack, make_table: Callable[..., str]
) -> None:
    table = make_table("id bigint primary key, price int")
    stack.sql(f"insert into {table} values (1, 300), (2, 0), (3, 0), (4, 0)")
    first = Kernel(stack, table)
    stack.sql(f"update {table} set price = 300 where id in (2, 3)")
    until(lambda: {"in 2", "in 3"} <= {*first.lines})
    first.kill()
    stack.sql(f"update {table} set price = 300 where id = 4")  # nobody looks
    stack.sql(f"delete from {table} where id = 3")
    second = Kernel(stack, table)
    until(lambda: {"in 4", "out 3"} <= {*second.lines})
    stack.sql(f"update {table} set price = 0 where id = 1")  # matched at first: never told
    stack.sql(f"update {table} set price = 0 where id = 2")
    until(lambda: "out 2" in second.lines)
    assert sorted(second.kill()) == ["in 4", "out 2", "out 3", "ready"]
    third = Kernel(stack, table)
    stack.sql(f"update {table} set price = 300 where id = 3 or id = 2")
    until(lambda: "in 2" in third.lines)
    assert sorted(third.kill()) == ["in 2", "ready"]


@pytest.mark.parametrize("derived", [False, True])
def test_rows_kept_on_disk_that_are_older_than_what_is_remembered_are_not_told_again(
    stack: LocalStack, make_table: Callable[..., str], derived: bool
) -> None:
    """As a killed kernel leaves them, or one that told of the table without keeping it."""
    name = make_table("id bigint primary key, price int")
    stack.sql(f"insert into {name} values (1, 300), (2, 0), (3, 0)")

    def watch(session: nrt.Session, keep: bool) -> tuple[nrt.LiveTable, list[str]]:
        told: list[str] = []
        table = session.table(name, keep=keep).wait(scaled(10))
        frame = table.where("id=gt.0") if derived else table
        frame.when(
            "price=gt.250",
            lambda row: told.append(f"in {row['id']}"),
            lambda row: told.append(f"out {row['id']}"),
            name=f"older {name}",
        )
        return table, told

    with nrt.connect(stack.url, stack.anon_key) as session:
        table, _ = watch(session, keep=True)
        until(lambda: table.status == "live" and cache.entries(), what=lambda: table)
    with nrt.connect(stack.url, stack.anon_key) as session:
        _, told = watch(session, keep=False)
        stack.sql(f"update {name} set price = 300 where id = 2")
        until(lambda: told == ["in 2"], what=lambda: told)
    stack.sql(f"update {name} set price = 300 where id = 3")
    with nrt.connect(stack.url, stack.anon_key) as session:
        table, told = watch(session, keep=True)
        until(lambda: table.status == "live" and "in 3" in told, what=lambda: (table, told))
        stack.sql(f"update {name} set price = 0")
        until(lambda: {"out 2", "out 3"} <= {*told}, what=lambda: told)
        assert sorted(told) == ["in 3", "out 2", "out 3"]


def test_what_is_remembered_is_private_and_holds_no_secret(
    stack: LocalStack, prices: nrt.LiveTable
) -> None:
    came: Rows = []
    prices.when("price=gt.15", came.append, name="dear", at_once=True)
    until(lambda: ids(came) == [2, 3])
    path = path_for(stack.url, "anon\nanon")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    with sqlite3.connect(path) as file:
        text = "".join(file.iterdump())
    assert "dear" in text
    assert stack.anon_key not in text
    assert stack.publishable_key not in text
    for one in path.parent.iterdir():
        assert stat.S_IMODE(one.stat().st_mode) == 0o600


def test_a_file_that_is_open_to_others_is_not_used_and_that_is_reported(
    stack: LocalStack, prices: nrt.LiveTable, caplog: pytest.LogCaptureFixture
) -> None:
    path: Path = path_for(stack.url, "anon\nanon")
    path.parent.mkdir(parents=True, mode=0o700)
    path.touch(0o644)
    path.chmod(0o644)
    came: Rows = []
    prices.when("price=gt.15", came.append, name="dear", at_once=True)
    until(lambda: ids(came) == [2, 3])
    assert "open to others" in caplog.text


@pytest.mark.parametrize("fails", ["read", "write"])
def test_what_could_not_be_remembered_is_remembered_once_the_disk_works_again(
    stack: LocalStack,
    make_table: Callable[..., str],
    fails: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    name = make_table("id bigint primary key, price int")
    stack.sql(f"insert into {name} values (1, 300), (2, 0), (3, 0)")
    monkeypatch.setattr(watching, "AGAIN_AFTER", 0.2)

    def watch(session: nrt.Session) -> tuple[nrt.LiveTable, list[str]]:
        told: list[str] = []
        table = session.table(name).wait(scaled(10))
        table.when(
            "price=gt.250",
            lambda row: told.append(f"in {row['id']}"),
            lambda row: told.append(f"out {row['id']}"),
            name=f"full {name}",
        )
        return table, told

    def full(*args: Any, **more: Any) -> Any:
        raise sqlite3.OperationalError("database or disk is full")

    def remembered() -> list[Any]:
        with sqlite3.connect(path_for(stack.url, "anon\nanon")) as file:
            return file.execute(
                "select told from matching where name = ? order by 1", (f"full {name}",)
            ).fetchall()

    with nrt.connect(stack.url, stack.anon_key) as session:
        with monkeypatch.context() as patch:
            patch.setattr(alerts.Memory, fails, full)
            if fails == "read":
                patch.setattr(alerts.Memory, "write", full)
            table, told = watch(session)
            stack.sql(f"update {name} set price = 300 where id = 2")
            until(lambda: told == ["in 2"], what=lambda: told)
            assert not remembered()
        until(lambda: remembered() == [(0,), (1,)], what=remembered)
        stack.sql(f"update {name} set price = 0 where id = 2")
        until(lambda: told == ["in 2", "out 2"], what=lambda: told)
    assert len(caplog.messages) == 1
    stack.sql(f"update {name} set price = 300 where id in (2, 3)")
    with nrt.connect(stack.url, stack.anon_key) as session:
        table, told = watch(session)
        until(lambda: table.status == "live" and len(told) == 2, what=lambda: told)
        assert sorted(told) == ["in 2", "in 3"]


def test_a_name_under_which_nothing_can_be_remembered_is_refused(prices: nrt.LiveTable) -> None:
    for slip in (5, ("dear",), ["dear"], b"dear"):
        with pytest.raises(TypeError, match="name must be a string"):
            prices.when("price=gt.250", print, name=slip)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="half a character"):
        prices.when("price=gt.250", print, name="\ud800")


def test_a_name_that_is_used_again_takes_the_place_of_the_one_before(
    stack: LocalStack, prices: nrt.LiveTable
) -> None:
    before: Rows = []
    after: Rows = []
    prices.when("price=gt.250", before.append, name="dear")
    prices.when("price=gt.250", after.append, name="dear")
    stack.sql(f"update {prices.name} set price = 300 where id = 1")
    until(lambda: ids(after) == [1], what=lambda: after)
    assert not before


def test_a_name_that_is_used_again_while_it_is_written_loses_nothing(
    stack: LocalStack,
    prices: nrt.LiveTable,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What the one before remembers is whole, and its file is not closed in the middle of it."""
    writes, goes_on = threading.Event(), threading.Event()

    def slowly(*args: Any) -> Any:
        monkeypatch.undo()
        writes.set()
        assert goes_on.wait(scaled(10))
        return alerts.dump_key(*args)

    before: Rows = []
    after: Rows = []
    monkeypatch.setattr(alerts, "dump_key", slowly)
    prices.when("price=gt.250", before.append, name="while written")
    assert writes.wait(scaled(10))
    prices.when("price=gt.250", after.append, name="while written")
    goes_on.set()
    stack.sql(f"update {prices.name} set price = 300 where id = 1")
    until(lambda: ids(after) == [1], what=lambda: after)
    assert not before
    assert not caplog.messages


def test_a_function_that_is_slow_for_long_is_told_what_is_true_then(
    stack: LocalStack, prices: nrt.LiveTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "WAITING", 3)
    told: list[tuple[str, int]] = []
    free = threading.Event()

    def enter(row: dict[str, Any]) -> None:
        free.wait(scaled(30))
        told.append(("in", row["id"]))

    prices.when("price=gt.250", enter, lambda row: told.append(("out", row["id"])))
    for price in (300, *range(20), 301):
        stack.sql(f"update {prices.name} set price = {price} where id = 1")
    stack.sql(f"update {prices.name} set price = 302 where id = 3")
    stack.sql(f"update {prices.name} set price = 0 where id = 2")
    shown(prices, 2, 0)
    free.set()
    until(lambda: ("in", 3) in told)
    of_one = [kind for kind, key in told if key == 1]
    assert of_one in (["in"], ["in", "out", "in"])
    assert told[-1] == ("in", 3)


@pytest.mark.parametrize("computed", [False, True])
def test_until_without_time_looks_at_what_is_there(prices: nrt.LiveTable, computed: bool) -> None:
    """However long the condition takes for it."""
    frame: Any = prices.map(lambda df: df) if computed else prices

    def slow(row: dict[str, Any]) -> bool:
        time.sleep(0.05)
        return bool(row["price"] > 250)

    for condition in ("price=gt.250", slow):
        assert frame.until(condition, 0)["name"] == "b"
    with pytest.raises(errors.WaitTimeoutError, match="matches after 0 s"):
        frame.until("price=gt.5000", timeout=0)
    with pytest.raises(ZeroDivisionError):
        frame.until(lambda row: 1 / 0, timeout=0)


def test_until_gives_the_row_that_matches(stack: LocalStack, prices: nrt.LiveTable) -> None:
    assert prices.until("price=gt.250", scaled(10)) == {"id": 2, "name": "b", "price": 300.0}
    threading.Timer(0.1, stack.sql, [f"update {prices.name} set price = 999 where id = 3"]).start()
    assert prices.until(lambda row: row["price"] > 900, scaled(10))["id"] == 3
    with pytest.raises(errors.WaitTimeoutError, match="no row of"):
        prices.until("price=gt.5000", 0.1)
    with pytest.raises(ZeroDivisionError):
        prices.until(lambda row: 1 / 0, scaled(10))
    with pytest.raises(errors.DerivationError, match='no column "colour"'):
        prices.until("colour=eq.red", scaled(10))
    threading.Timer(0.1, prices.close).start()
    with pytest.raises(errors.ClosedError):
        prices.until("price=gt.5000", scaled(10))
