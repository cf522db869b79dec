"""``nrt.demo()``: live sample data without setup, and without leftovers."""

from __future__ import annotations

import datetime as dt
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

import notebook_rt as nrt
from notebook_rt import errors
from notebook_rt.local import LocalStack, start
from notebook_rt.local.errors import MissingExtraError, StackError
from notebook_rt.runtime.host import Run
from notebook_rt.sample.market import COMPANIES, PEOPLE, TABLES, Closed, Market, Opened, Trade
from tests.waiting import scaled, until

NOW = dt.datetime(2026, 1, 5, 15, tzinfo=dt.UTC)


@pytest.fixture(scope="module")
def rt() -> Iterator[nrt.Session]:
    with nrt.demo() as session:
        yield session


@pytest.fixture(scope="module")
def few(stack: LocalStack) -> Iterator[nrt.Session]:
    """One table, beside a project that the environment names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SUPABASE_URL", stack.url)
        patch.setenv("SUPABASE_KEY", stack.anon_key)
        with nrt.demo("orders", rate=20) as session:
            yield session


# What happens in it


@given(st.integers(), st.integers(1, 100))
def test_the_same_seed_is_the_same_market(seed: int, steps: int) -> None:
    one, other = Market(Random(seed)), Market(Random(seed))
    assert one.opening(NOW, 8) == other.opening(NOW, 8)
    assert [one.step() for _ in range(steps)] == [other.step() for _ in range(steps)]


@given(st.integers(), st.integers(1, 300))
def test_a_price_is_its_change_and_an_order_that_is_closed_was_open(seed: int, steps: int) -> None:
    market = Market(Random(seed))
    opened = {company.symbol: company.price for company in COMPANIES}
    places = set(range(1, len(market.opening(NOW, 8)["orders"]) + 1))
    latest = max(places)
    for event in (event for _ in range(steps) for event in market.step()):
        match event:
            case Trade():
                assert event.price > 0
                began = opened[event.symbol]
                rounded = 0.005 + began * 0.005 / 100 + 1e-9  # the price, and the change in percent
                assert abs(event.price - began * (1 + event.change / 100)) <= rounded
            case Opened():
                latest += 1
                market.placed(latest)
                places.add(latest)
            case Closed():
                places.remove(event.id)
    assert places == set(market.open_orders)


# What it is


def test_rows_of_every_table_change_and_people_are_there(rt: nrt.Session) -> None:
    frames = [rt.table(name).wait(scaled(10)) for name in TABLES]
    versions = [frame.version for frame in frames]
    until(lambda: all(f.version > v for f, v in zip(frames, versions, strict=True)))
    # Stale for a moment after each repeated confirmation (promise 3): longer, beside load.
    until(lambda: [frame.status for frame in frames] == ["live"] * 3, what=lambda: frames)
    presence = rt.channel("trading-floor").presence
    until(lambda: set(presence.df.index) == set(PEOPLE), what=lambda: presence.df)
    assert presence.df["looking_at"].isin([company.symbol for company in COMPANIES]).all()


def test_it_begins_with_the_rows_of_the_seed() -> None:
    with nrt.demo(rate=0, seed=7) as still:
        opening = Market(Random(7)).opening(NOW, 8)
        stocks = still.table("stocks").df
        assert stocks["price"].to_dict() == {r["symbol"]: r["price"] for r in opening["stocks"]}
        assert len(still.table("trades").df) == len(opening["trades"])
        orders = still.table("orders").df
        assert orders["price"].tolist() == [row["price"] for row in opening["orders"]]
        assert set(orders["status"]) == {"open"}


def test_tables_describe_themselves_by_the_optional_sql(rt: nrt.Session) -> None:
    assert set(rt.tables.index) == set(TABLES)
    assert rt.tables["published"].all()
    assert rt.tables["row_security"].all()
    stocks = rt.table("stocks").wait(scaled(10))
    # What was changed until the second confirmation may have been lost, and is found by the gap's reading.
    until(lambda: stocks.status == "live" and rt.metrics["reconciliations"] >= 1)
    assert stocks.verify().repaired == 0


def test_you_may_write_orders_and_nothing_else(rt: nrt.Session) -> None:
    orders, stocks = rt.table("orders").wait(scaled(10)), rt.table("stocks").wait(scaled(10))
    orders.insert(symbol="KO", side="buy", quantity=7, price=1.0, notes="mine")
    rt.queue.flush(scaled(10))
    until(lambda: (orders.df["notes"] == "mine").any())
    assert len(rt.queue) == 0
    with pytest.raises(errors.PermissionDeniedError, match="may not update"):
        stocks.edit("KO", price=1.0)


def test_only_the_tables_that_are_asked_for_are_made(few: nrt.Session) -> None:
    assert list(few.tables.index) == ["orders"]
    orders = few.table("orders").wait(scaled(10))
    version = orders.version
    until(lambda: orders.version > version)


def test_what_it_cannot_be_is_refused_before_anything_starts() -> None:
    with pytest.raises(ValueError, match="stocks, trades, orders, and no 'bonds'"):
        nrt.demo(["stocks", "bonds"])
    for rate in (-1, 1000, float("nan")):
        with pytest.raises(ValueError, match="0 to 20"):
            nrt.demo(rate=rate)


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("notebook_rt.local.stack.NEEDED", ("no_such_package",))
    with pytest.raises(MissingExtraError, match=r"notebook_rt\[local\]"):
        nrt.demo()


def test_it_is_never_in_place_of_the_users_project(
    rt: nrt.Session, few: nrt.Session, stack: LocalStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert few.url not in (stack.url, rt.url)
    assert stack.sql("select to_regclass('public.orders')") == [(None,)]
    monkeypatch.setenv("SUPABASE_URL", stack.url)
    monkeypatch.setenv("SUPABASE_KEY", stack.anon_key)
    with nrt.connect() as mine:
        assert mine.url == stack.url


# How it ends


def of(directory: Path) -> list[psutil.Process]:
    """The processes that work in a directory."""
    found = []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()).is_relative_to(directory):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def is_gone(directory: Path) -> Callable[[], bool]:
    """Whether nothing of a demo is left, neither a process nor a file."""
    aside = directory.with_name(f".{directory.name}.removed")
    return lambda: not (directory.exists() or aside.exists() or of(directory))


def test_nothing_is_left_after_close(caplog: pytest.LogCaptureFixture) -> None:
    session = nrt.demo()
    assert session.stack is not None
    directory = session.stack.directory
    assert any("notebook_rt.sample.writer" in each.cmdline() for each in of(directory))
    orders = session.table("orders").wait(scaled(10))
    session.queue.pause()
    orders.insert(symbol="KO", side="buy", quantity=7, price=1.0)
    session.close()
    until(is_gone(directory), 20)  # it waits 5 s at most
    assert "not written: 1 waiting. It is gone with the database" in caplog.text
    assert "Kept in" not in caplog.text


def test_it_ends_when_nobody_holds_it_any_more() -> None:
    session = nrt.demo("stocks")
    assert session.stack is not None
    directory = session.stack.directory
    del session
    until(is_gone(directory), 20)


def test_a_cell_that_is_run_again_restarts(monkeypatch: pytest.MonkeyPatch) -> None:
    number = 1
    monkeypatch.setattr("notebook_rt.session.running", lambda: Run("first", number))
    first = nrt.demo("stocks")
    assert first.stack is not None
    stocks = first.table("stocks").wait(scaled(10))
    stocks.on_change(print)
    number = 2
    with nrt.demo("stocks") as again:
        until(lambda: stocks.status == "closed")
        until(is_gone(first.stack.directory), 20)
        assert again.table("stocks").wait(scaled(10)).status == "live"


KERNEL = """
import sys, threading, notebook_rt as nrt
rt = nrt.demo("stocks")
stocks = rt.table("stocks").wait()
print(rt.stack.directory, flush=True)
for word in sys.stdin:
    try:
        print("waiting", flush=True)
        threading.Event().wait()
    except KeyboardInterrupt:
        next(stocks.changes(timeout=20))
        next(stocks.changes(timeout=20))
        print("interrupted, and it moves", flush=True)
"""


@contextmanager
def kernel() -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A process with a demo, in a group of its own, as kernels are; it waits for a line."""
    process = subprocess.Popen(
        [sys.executable, "-c", KERNEL],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if line.startswith("local stack"):
            line = process.stdout.readline()
        yield process, Path(line.strip())
    finally:
        process.kill()
        process.communicate()


def test_ctrl_c_in_a_cell_reaches_nobody_but_the_cell() -> None:
    with kernel() as (process, directory):
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("wait\n")
        process.stdin.flush()
        assert process.stdout.readline() == "waiting\n"
        os.killpg(process.pid, signal.SIGINT)  # what a front end's interrupt does
        assert process.stdout.readline() == "interrupted, and it moves\n"
        process.stdin.close()
        process.stdin = None
        _, err = process.communicate(timeout=scaled(20))
        assert (process.returncode, re.sub(r"local stack: .*\n", "", err)) == (0, "")
        until(is_gone(directory), 20)


def test_a_kernel_that_is_killed_leaves_nothing() -> None:
    with kernel() as (process, directory):
        assert of(directory)
        process.kill()
        until(is_gone(directory), 20)


def test_it_goes_on_when_postgresql_was_restarted_or_a_table_dropped() -> None:
    with nrt.demo(["stocks", "trades"]) as session:
        assert session.stack is not None
        stocks = session.table("stocks").wait(scaled(10))
        session.stack.restart_postgres()
        version = stocks.version
        until(lambda: stocks.version > version, 30)
        session.stack.sql("drop table trades")
        version = stocks.version
        until(lambda: stocks.version > version + 20, 30)
        assert (session.stack.directory / "writer.log").read_text() == ""


# The stack beneath it


def test_a_temporary_stack_waits_for_no_disk() -> None:
    with start(temporary=True) as stack:
        assert stack.sql("show fsync") == [("off",)]


def test_a_temporary_stack_removes_its_directory() -> None:
    with start(temporary=True) as temporary:
        directory = temporary.directory
        assert directory.parent == Path(tempfile.gettempdir()).resolve()
        assert temporary.sql("select 1") == [(1,)]
    until(is_gone(directory), scaled(20))
    with pytest.raises(ValueError, match="leave directory out"):
        start("anywhere", temporary=True)


def test_a_temporary_stack_that_does_not_start_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    port = psutil.net_connections("tcp4")
    taken = next(each.laddr.port for each in port if each.status == psutil.CONN_LISTEN)
    with pytest.raises(StackError):
        start(temporary=True, port=taken)
    until(lambda: list(tmp_path.iterdir()) == [])
