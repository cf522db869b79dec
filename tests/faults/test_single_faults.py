"""One fault per test, against the real PostgreSQL: the effect on a table.

Where the audit is not what finds the fault, it is switched off (``NO_AUDIT``), so that it cannot
have been; where only the audit can find it, nothing else is changed (``AUDIT``).
"""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import pytest

import notebook_rt as nrt
from notebook_rt.local import LocalStack, StackOptions, start
from notebook_rt.local.options import RealtimeOptions
from notebook_rt.net import supervisor
from tests.faults.lab import AUDIT, laboratory
from tests.faults.truth import EVERYTHING, SOME, TOP, VIEWS, Writer, true_within
from tests.proxy import Delay, Double, Drop, Proxy, Stall, Truncate
from tests.waiting import scaled, until

pytestmark = pytest.mark.slow


AUDITED = AUDIT.audit_interval + 4.0
"""An audit's interval, and the time that it and a look at SQL may take here."""


# What nobody is told ------------------------------------------------------------------------------


def test_with_every_change_swallowed_forever_the_audit_alone_keeps_the_table_true(
    stack: LocalStack,
) -> None:
    with laboratory(stack, *VIEWS, options=AUDIT) as lab:
        lab.proxy.rules = (Drop(),)
        for number in range(4):
            lab.sql(f"update {{t}} set price = {number}, active = true where id % 7 = {number}")
            lab.sql(f"delete from {{t}} where id = {100 + number}")
            lab.sql(f"insert into {{t}} (id, price, qty) values ({1000 + number}, {2000}, 99)")
            lab.true_within(AUDITED)
        assert lab.proxy.counts["Drop"] >= 12
        assert lab.frame.status == "live"
        lab.proxy.heal()
        # It counts as drift once no change has come that explains it, for five seconds.
        until(lambda: lab.session.metrics["drift"] > 0, 5 + AUDITED)


def test_where_nothing_is_lost_no_audit_of_a_busy_table_finds_drift(stack: LocalStack) -> None:
    with laboratory(stack, *VIEWS, options=AUDIT) as lab:
        audits = lab.session.metrics["audits"]
        with Writer(stack, lab.table, 500, 3, pause=0.01):
            until(lambda: lab.session.metrics["audits"] >= audits + 3 * len(VIEWS), 20)
        lab.true_within(10)
        until(lambda: lab.session.metrics["audits"] >= audits + 6 * len(VIEWS), 10)
        assert lab.session.metrics["drift"] == 0


def test_truncate_is_found_by_the_audit(stack: LocalStack) -> None:
    with laboratory(stack, *VIEWS, options=AUDIT) as lab:
        lab.sql("truncate {t}")
        lab.true_within(AUDITED)
        assert len(lab.frame.df) == 0
        lab.sql("insert into {t} (id, qty, price) values (1, 70, 5)")
        lab.true_within(5)


def test_a_policy_that_hides_rows_makes_them_leave(stack: LocalStack) -> None:
    with laboratory(stack, options=AUDIT) as lab:
        lab.sql("create policy visible on {t} for select to anon using (id % 2 = 0)")
        lab.sql("alter table {t} enable row level security")
        until(lambda: all(key % 2 == 0 for key in lab.frame.df.index), AUDITED)
        assert len(lab.frame.df) == 150
        lab.sql("alter policy visible on {t} using (id <= 10)")
        until(lambda: sorted(lab.frame.df.index) == list(range(1, 11)), AUDITED)
        lab.sql("drop policy visible on {t}")
        until(lambda: len(lab.frame.df) == 0, AUDITED)
        lab.sql("alter table {t} disable row level security")
        lab.true_within(AUDITED)


def test_postgres_restarted_beneath_a_live_channel(stack: LocalStack) -> None:
    with laboratory(stack, *VIEWS, options=AUDIT) as lab:
        stack.restart_postgres()
        for number in range(20):
            lab.sql(f"update {{t}} set name = 'restart {number}' where id = {number}")
            time.sleep(0.05)
        lab.true_within(AUDITED)
        lab.sql("delete from {t} where id = 1")
        lab.true_within(AUDITED)


def test_a_burst_over_the_rate_limit_is_lost_silently_and_found(
    stack_directory: Path,
) -> None:
    """The server looks at the rate every five seconds, here each second: a burst passes until then."""
    limited = StackOptions(realtime=RealtimeOptions(events_per_second=10, rate_tick=1.0))
    with (
        start(stack_directory, options=limited) as stack,
        laboratory(stack, rows=2_000, options=nrt.Options(audit_interval=2.0)) as lab,
    ):
        lab.sql("update {t} set name = 'burst' where id <= 1000")
        lab.true_within(5)
        time.sleep(2.2)
        lab.sql("update {t} set name = 'lost', price = null where id > 1000")
        lab.sql("delete from {t} where id > 1900")
        lab.true_within(20)  # several audits, each beside whatever else this machine does
        assert 0 < lab.proxy.counts["change"] <= 1000


# What events tell, in their way -------------------------------------------------------------------


def test_rows_that_leave_the_filter_and_rows_that_come_in(stack: LocalStack) -> None:
    with laboratory(stack, SOME, TOP) as lab:
        lab.sql("update {t} set active = true, qty = id % 100")
        lab.true_within(5)
        lab.sql("update {t} set qty = 1 where id in (select id from {t} where qty >= 50 limit 40)")
        lab.sql("update {t} set qty = 99 where id in (select id from {t} where qty = 2 or id < 40)")
        lab.true_within(5)
        lab.sql(
            "update {t} set price = null where id in (select id from {t} order by price limit 9)"
        )
        lab.sql("delete from {t} where id in (select id from {t} order by price desc limit 20)")
        lab.true_within(5)


def test_a_row_over_one_mebibyte_is_fetched(stack: LocalStack) -> None:
    with laboratory(stack) as lab:
        lab.sql("update {t} set note = repeat('x', 1500000), name = 'big' where id = 3")
        lab.sql("insert into {t} (id, note) values (999, repeat('y', 1200000))")
        lab.true_within(5)
        assert lab.frame.df.loc[999, "note"] == "y" * 1_200_000


def test_an_unchanged_toast_column_is_unchanged(stack: LocalStack) -> None:
    with laboratory(stack) as lab:
        lab.sql("alter table {t} alter note set storage external")
        lab.sql("update {t} set note = repeat('t', 20000) where id = 3")
        lab.true_within(5)
        time.sleep(2.5)  # a change so soon after a read is compared with the row
        requests = lab.proxy.counts["GET"]
        lab.sql("update {t} set qty = 77 where id = 3")
        lab.true_within(5)
        assert lab.frame.df.loc[3, "note"] == "t" * 20_000
        assert lab.proxy.counts["GET"] == requests, "the event was enough"


def test_a_thousand_commits_in_a_burst_keep_their_order(stack: LocalStack) -> None:
    """Hundreds have the same millisecond in ``commit_timestamp``: the order of arrival decides."""
    with laboratory(stack, *VIEWS) as lab:
        lab.sql(
            "do $$begin for i in 1..1000 loop "
            "update {t} set price = 500 + i, name = 'commit ' || i where id = 1 + i % 5; commit; "
            "end loop; end$$"
        )
        lab.true_within(10)
        assert lab.frame.df.loc[1, "name"] == "commit 1000"


def test_changes_that_come_twice_late_and_cut_short(stack: LocalStack) -> None:
    with laboratory(stack, *VIEWS, rows=500) as lab:
        gaps = lab.session.metrics["gaps"]
        lab.proxy.rules = (
            Double(chance=0.5),
            Delay(seconds=0.3, chance=0.5),
            Truncate(chance=0.3),
            Stall(seconds=0.5),  # what is fetched is old when it comes
        )
        with Writer(stack, lab.table, 500, 5, pause=0.01):
            until(lambda: lab.proxy.counts["Double"] >= 100, 20, lambda: lab.proxy.counts)
        lab.true_within(10)
        after = lab.session.metrics
        assert after["gaps"] == gaps, f"none of this is a gap: {after}"


def test_the_first_snapshot_with_writes_going_on_and_slow_pages(stack: LocalStack) -> None:
    options = nrt.Options(page_size=300, audit_interval=0)
    with (
        laboratory(stack, rows=3_000) as lab,
        Proxy(stack.url) as slow,
        nrt.connect(slow.url, stack.anon_key, options=options) as session,
    ):
        slow.rules = (Stall(seconds=0.3), Delay(seconds=0.5))
        with Writer(stack, lab.table, 3_000, 6):
            views = {view: view.open(session, lab.table) for view in VIEWS}
            for frame in views.values():
                frame.wait(scaled(20))
            late = slow.counts["Delay"]
            until(lambda: slow.counts["Delay"] >= late + 100, 20, lambda: slow.counts)
        slow.heal()
        true_within(10, stack, lab.table, views)


# Columns that come and go -------------------------------------------------------------------------


def test_a_column_is_added_and_dropped_while_live(stack: LocalStack) -> None:
    with laboratory(stack, EVERYTHING, TOP) as lab:
        lab.sql("alter table {t} add extra_no int default 7")
        lab.sql("update {t} set extra_no = 8 where id = 1")
        lab.true_within(10)
        assert lab.frame.df.loc[1, "extra_no"] == 8
        lab.sql("alter table {t} drop column extra_no")
        lab.sql("update {t} set qty = 5 where id = 2")
        lab.true_within(10)
        assert "extra_no" not in lab.frame.df.columns


def test_a_column_added_without_a_write_is_found_by_the_audit(stack: LocalStack) -> None:
    with laboratory(stack, options=AUDIT) as lab:
        lab.sql("alter table {t} add extra_no int default 7")
        lab.true_within(2 * AUDITED)


# A machine that slept -----------------------------------------------------------------------------


def test_a_machine_that_slept_reads_again(
    stack: LocalStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it sleeps, changes are lost; TCP lives, and only the jump of the clock tells."""
    options = nrt.Options(audit_interval=0, stale_check=0.5, heartbeat_interval=1.0)
    with laboratory(stack, *VIEWS, options=options) as lab:
        lab.proxy.rules = (Drop(),)
        lab.sql("update {t} set name = 'while asleep', price = id where id <= 100")
        until(lambda: lab.proxy.counts["Drop"] > 200, 5)
        lab.proxy.heal()
        assert lab.frame.df.loc[1, "name"] != "while asleep"
        slept = SimpleNamespace(monotonic=time.monotonic, time=lambda: time.time() + 3600)
        monkeypatch.setattr(supervisor, "time", slept)
        until(lambda: lab.frame.df.loc[1, "name"] == "while asleep", 10)
        lab.heals_within(5)
