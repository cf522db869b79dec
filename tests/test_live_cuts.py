"""Connections that a hosted project closes regularly: a session continues, without an alarm."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import notebook_rt as nrt
from notebook_rt.local import LocalStack, start
from notebook_rt.widgets.adapters import TableOf
from tests.conftest import QUICK
from tests.waiting import scaled, until


@pytest.fixture(scope="module")
def short_days(
    ready_made: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalStack]:
    """A stack on which the 24 hours of a connection without a login are three seconds."""
    options = replace(QUICK, realtime=replace(QUICK.realtime, login_timeout=3.0))
    with start(ready_made(tmp_path_factory.mktemp("short_days")), options=options) as running:
        yield running


def goes_on_through(
    stack: LocalStack, cut: Callable[[], object], queue: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A table, its rows and a person survive ``cut``: a gap, presence again, no word of alarm."""
    table, topic = f"cut_{uuid.uuid4().hex[:8]}", f"room_{uuid.uuid4().hex[:8]}"
    stack.sql(f"create table {table} (id int primary key, v text)")
    stack.sql(f"alter publication supabase_realtime add table {table}")
    stack.sql(f"grant select, insert, update, delete on {table} to anon, authenticated")
    stack.sql(f"insert into {table} values (1, 'before')")
    told: list[tuple[str, str]] = []
    colors: list[tuple[str, str]] = []
    states: list[str] = []
    shown: set[tuple[str, str]] = set()
    token = stack.token("authenticated", str(uuid.uuid4()))
    with (
        caplog.at_level(logging.WARNING, "notebook_rt"),
        nrt.connect(stack.url, stack.publishable_key, access_token=token) as other,
        nrt.connect(stack.url, stack.publishable_key, queue_path=queue) as rt,
    ):
        watching = other.channel(topic).presence
        rt.channel(topic).presence.track(name="me")
        frame = rt.table(table).wait(scaled(10))
        until(lambda: list(watching.df.get("name", [])) == ["me"], what=lambda: watching.df)
        until(lambda: rt.health.status == "healthy", what=lambda: rt.health.reason)
        rt.on_note(lambda kind, text: told.append((kind, text)))
        rt.on_health(lambda health: colors.append((health.color, health.reason)))
        rt.on_status(lambda state, *_: states.append(str(state)))
        gaps = rt.metrics["gaps"]
        grid = TableOf(frame)

        def looked(condition: bool) -> bool:
            """The grid is looked at all the while."""
            shown.add((grid.status, grid.note))
            return condition

        cut()
        until(lambda: looked("reconnecting" in states), scaled(10), what=lambda: states)
        stack.sql(f"insert into {table} values (2, 'while away')")
        until(lambda: looked(list(frame.df.index) == [1, 2]), scaled(10), what=lambda: frame.df)
        until(lambda: looked(frame.status == "live" and rt.metrics["gaps"] > gaps), scaled(10))
        until(lambda: list(watching.df.get("name", [])) == ["me"], what=lambda: watching.df)
        until(lambda: rt.health.status == "healthy", scaled(10), what=lambda: rt.health.reason)
    assert told == [], told
    assert ("reconnecting", "") in shown
    assert shown <= {(word, "") for word in ("live", "reconnecting", "comparing")}
    assert [seen for seen in colors if seen[0] in ("yellow", "red")] == []
    assert [record.getMessage() for record in caplog.records] == []


def test_a_changed_setting_of_realtime_disconnects_everybody_and_alarms_nobody(
    stack: LocalStack,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    goes_on_through(stack, stack.disconnect_clients, tmp_path / "queue.sqlite3", caplog)
    assert capfd.readouterr().err == ""


def test_a_connection_without_a_login_that_is_cut_after_its_day_alarms_nobody(
    short_days: LocalStack,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    goes_on_through(short_days, lambda: None, tmp_path / "queue.sqlite3", caplog)
    assert capfd.readouterr().err == ""
