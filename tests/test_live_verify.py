"""``verify()``: the table is compared with the server now, and the verdict contains the findings."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pandas as pd
import pytest

import notebook_rt as nrt
from notebook_rt import errors
from notebook_rt.local import LocalStack
from tests.faults.lab import laboratory
from tests.proxy import Drop
from tests.waiting import scaled, until

pytestmark = pytest.mark.slow

NO_AUDITS = nrt.Options(audit_interval=0)


def test_a_true_table_is_said_to_be_true(stack: LocalStack) -> None:
    with laboratory(stack, options=NO_AUDITS) as lab:
        verdict = lab.frame.verify(scaled(10))
        assert (verdict.compared, verdict.differed, verdict.repaired) == (len(lab.frame.df), 0, 0)
        assert verdict.seconds > 0
        assert "no row differed" in str(verdict)
        assert lab.session.metrics["audits"] == 1


def test_what_was_lost_silently_is_found_repaired_and_counted(stack: LocalStack) -> None:
    with laboratory(stack, options=NO_AUDITS) as lab:
        until(lambda: lab.frame.status == "live")
        lab.proxy.rules = (Drop(),)
        lab.sql("update {t} set name = 'unheard' where id <= 3")
        lab.sql("delete from {t} where id = 4")
        verdict = lab.frame.verify(scaled(20))
        assert (verdict.differed, verdict.repaired) == (4, 4)
        assert "4 differed and were repaired" in str(verdict)
        lab.true_within(0.1)
        assert lab.frame.verify(scaled(10)).differed == 0


def test_a_change_lost_right_after_another_of_its_row_is_found_and_counted(
    stack: LocalStack,
) -> None:
    """A read may not see yet what was told just before it: such a row is read again, before the verdict."""
    options = nrt.Options(audit_interval=0, visible_within=scaled(3))
    with laboratory(stack, options=options) as lab:
        until(lambda: lab.frame.status == "live")
        for name in ("first", "heard"):  # the second one is certainly later than the load
            lab.sql(f"update {{t}} set name = '{name}' where id = 1")
            until(lambda name=name: lab.frame.df.name[1] == name)
        past = lab.frame.history("1h")
        lab.proxy.rules = (Drop(),)
        lab.sql("update {t} set name = 'unheard' where id = 1")
        lost = pd.Timestamp.now("UTC")
        verdict = lab.frame.verify(scaled(20))
        assert lab.frame.df.name[1] == "unheard"
        assert (verdict.differed, lab.session.metrics["drift"]) == (1, 1)
        until(lambda: in_gap(past.gaps, lost), what=lambda: past.gaps.to_string())


def in_gap(gaps: pd.DataFrame, moment: pd.Timestamp) -> bool:
    """Whether the history says of this moment that changes may have been lost."""
    return bool(((gaps.since <= moment) & (moment <= gaps.until)).any())


def test_a_polled_table_is_verified_at_once(
    stack: LocalStack, make_table: Callable[..., str]
) -> None:
    first, second = make_table("id int primary key, name text"), make_table()
    stack.sql(f"insert into {first} values (1, 'one')")
    options = nrt.Options(audit_interval=0, poll_interval=60.0, poll_max=60.0, max_channels=1)
    with nrt.connect(stack.url, stack.anon_key, options=options) as rt:
        polled = rt.table(first, priority="low").wait(scaled(10))
        rt.table(second, priority="high").wait(scaled(10))
        until(lambda: polled.status == "polling", what=lambda: polled)
        stack.sql(f"update {first} set name = 'unheard'")
        assert polled.verify(scaled(20)).compared == 1
        assert polled.df.name[1] == "unheard"


def test_several_who_ask_in_the_same_moment_are_all_answered(stack: LocalStack) -> None:
    with laboratory(stack, options=NO_AUDITS) as lab:
        lab.frame.wait(scaled(10))
        verdicts: list[nrt.Verdict] = []
        threads = [
            threading.Thread(target=lambda: verdicts.append(lab.frame.verify(scaled(20))))
            for _ in range(5)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(scaled(20))
        assert [verdict.differed for verdict in verdicts] == [0] * 5


def test_a_query_is_read_again_and_says_how_many_rows_were_others(
    stack: LocalStack, make_table: Callable[..., str]
) -> None:
    table = make_table("id int primary key, n int")
    stack.sql(f"insert into {table} select i, i from generate_series(1, 10) i")
    stack.sql(f"create view {table}_view as select * from {table}")
    stack.sql(f"grant select on {table}_view to anon")
    try:
        options = nrt.Options(poll_interval=60.0, poll_max=60.0)
        rt = nrt.connect(stack.url, stack.anon_key, options=options)
        query = rt.query(f"{table}_view", key="id").wait(scaled(10))
        stack.sql(f"update {table} set n = -n where id <= 3")
        verdict = query.verify(scaled(10))
        assert (verdict.compared, verdict.differed) == (10, 3)
        assert query.df.n[3] == -3
        rt.close()
    finally:
        stack.sql(f"drop view {table}_view")


def test_messages_and_replays_cannot_be_compared_and_a_closed_table_says_so(
    stack: LocalStack, make_table: Callable[..., str]
) -> None:
    rt = nrt.connect(stack.url, stack.anon_key)
    with pytest.raises(TypeError, match="nothing to compare with"):
        rt.channel("room").frame("tick").verify(1)
    table = rt.table(make_table()).wait(scaled(10))
    with pytest.raises(TypeError, match="shows what was recorded, so there is nothing to compare"):
        table.history().replay().verify()
    table.close()
    with pytest.raises(errors.ClosedError):
        table.verify()
    rt.close()


def test_a_server_that_is_away_is_no_verdict(stack: LocalStack) -> None:
    with laboratory(stack, options=NO_AUDITS) as lab:
        lab.frame.wait(scaled(10))
        lab.proxy.down()
        with pytest.raises(errors.WaitTimeoutError, match="could not be compared within"):
            lab.frame.verify(1.0)
