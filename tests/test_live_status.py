"""A session's reports are true: lag, audits, verdicts (promises, connection)."""

from __future__ import annotations

import itertools
import re
import sys
import time
import types
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import notebook_rt as nrt
from notebook_rt import errors
from notebook_rt.local import LocalStack, StackOptions, start
from notebook_rt.local.options import RealtimeOptions
from notebook_rt.net.loop import shared
from notebook_rt.runtime.table import TableDriver
from notebook_rt.widgets.adapters import FrameOf
from notebook_rt.widgets.sessions import _SAID, LABELS, SessionHealth
from tests.faults.lab import AUDIT, laboratory
from tests.proxy import Cut, Delay, Drop
from tests.waiting import scaled, throughout, until

pytestmark = pytest.mark.slow


def said(session: nrt.Session) -> str:
    """What the panel says."""
    report = SessionHealth(session).health()
    return " ".join([*report.sentences, report.audits])


LOST_FOR = 6.0
"""Seconds for which a small table may be wrong after a burst (promise 4), on a quick machine."""


def test_what_comes_seconds_late_is_behind_until_it_is_proven(stack: LocalStack) -> None:
    options = nrt.Options(behind_after=0.5, audit_interval=2.0)
    with laboratory(stack, options=options) as lab:
        until(lambda: lab.session.health.status == "healthy", what=lambda: lab.session.health)
        told: list[str] = []
        lab.session.on_health(lambda health: told.append(health.status))
        lab.proxy.rules = (Delay(seconds=3.0),)
        for key in range(1, 41):
            lab.sql(f"update {{t}} set name = 'late' where id = {key}")
        until(lambda: lab.session.health.status == "behind", 10, lambda: lab.session.health)
        health = lab.session.health
        assert health.color == "yellow"
        assert f"s behind the server: {lab.table}" in health.reason
        until(lambda: "behind" in told, what=lambda: told)
        lab.proxy.heal()
        until(lambda: lab.session.health.status == "healthy", 15, lambda: lab.session.health)
        lab.true_within(5)


def test_changes_that_go_on_coming_late_are_behind_all_along(stack: LocalStack) -> None:
    """Not healthy from each audit to the next late change."""
    options = nrt.Options(behind_after=0.5, audit_interval=1.0)
    with laboratory(stack, options=options) as lab:
        until(lambda: lab.session.health.status == "healthy", what=lambda: lab.session.health)
        lab.proxy.rules = (Delay(seconds=3.0),)

        written = [0.0]

        def behind() -> bool:
            """And a row is written now and then."""
            if time.monotonic() > written[-1] + 0.7:
                lab.sql(f"update {{t}} set name = 'late {len(written)}' where id = 1")
                written.append(time.monotonic())
            return lab.session.health.status == "behind"

        until(behind, 20, lambda: lab.session.health)
        audits = lab.session.metrics["audits"]
        throughout(behind, 3, lambda: lab.session.health)
        until(lambda: lab.session.metrics["audits"] > audits, 15, lambda: lab.session.metrics)
        lab.proxy.heal()
        until(lambda: lab.session.health.status == "healthy", 20, lambda: lab.session.health)
        lab.true_within(5)


def test_a_verdict_comes_with_its_repair_and_stays_until_a_clean_audit(stack: LocalStack) -> None:
    with laboratory(stack, options=AUDIT) as lab:
        until(lambda: lab.session.health.status == "healthy", what=lambda: lab.session.health)
        feed: Any = lab.frame._feed
        audits = lab.session.metrics["audits"]
        seen: list[tuple[bool, bool]] = []
        # On the loop, in the same turn as the repair: what the health would say then.
        lab.session._project.health_listeners.add(
            lambda health: seen.append((len(feed.table) == 0, health.status == "healthy"))
        )
        lab.sql("truncate {t}")
        until(lambda: len(lab.frame.df) == 0, 10)
        until(lambda: lab.session.metrics["audits"] > audits, 1)
        until(lambda: lab.session.health.status == "healthy", 10, lambda: lab.session.health)
        repaired = [healthy for empty, healthy in seen if empty]
        assert repaired[0] is False


def test_before_the_first_audit_nothing_is_claimed(stack: LocalStack) -> None:
    with laboratory(stack, options=nrt.Options()) as lab:
        if not lab.session.metrics["audits"]:
            assert lab.session.health.status != "healthy"
            assert "every row" not in said(lab.session)
        until(lambda: lab.session.health.status == "healthy", what=lambda: lab.session.health)
        assert lab.session.metrics["audits"] > 0
        assert "found every row right" in said(lab.session)


def test_health_says_when_the_next_audit_is(stack: LocalStack) -> None:
    with laboratory(stack, options=nrt.Options(audit_interval=15.0)) as lab:
        until(lambda: lab.session.health.status == "healthy", what=lambda: lab.session.health)
        health = lab.session.health
        assert health.next_audit_s is not None
        assert 0 <= health.next_audit_s <= 15
        assert health.metrics["next_audit_s"] == health.next_audit_s
        assert health.audited_s is not None
        assert "The next audit is in" in said(lab.session)


def test_without_audits_none_is_promised_and_none_claimed(stack: LocalStack) -> None:
    with laboratory(stack) as lab:
        until(lambda: lab.session.health.status == "healthy", what=lambda: lab.session.health)
        assert lab.session.health.next_audit_s is None
        assert SessionHealth(lab.session).health().audits == ""
        assert "every row right" not in said(lab.session)
        assert "Audits are off" in said(lab.session)


def test_the_panel_compares_every_table_and_says_what_it_found(
    stack: LocalStack, make_table: Callable[..., str]
) -> None:
    names = [make_table(), make_table()]
    for name in names:
        stack.sql(f"insert into {name} (id) select * from generate_series(1, 20)")
    with nrt.connect(stack.url, stack.anon_key) as rt:
        source, found = SessionHealth(rt), list[str]()
        source.verify(found.append)
        until(lambda: found)
        assert found.pop() == "There is no table to compare."
        for name in names:
            rt.table(name).wait(scaled(20))
        frames = [rt.table(name) for name in names]
        source.verify(found.append)
        until(lambda: found, 20)
        assert re.fullmatch(
            r"40 rows of 2 tables compared in \d+\.\d s: no row differed\.", found.pop()
        )
        until(lambda: all(frame.status == "live" for frame in frames))
    source.verify(found.append)
    until(lambda: found)


def test_each_table_is_looked_at_once_each_time_that_health_is_told(
    stack: LocalStack, make_table: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was three times, which with a hundred tables took a third of the network thread's time."""
    looks: list[float] = []
    facts = TableDriver.facts

    def counted(self: TableDriver, now: float) -> Any:
        looks.append(now)
        return facts(self, now)

    monkeypatch.setattr(TableDriver, "facts", counted)
    with nrt.connect(stack.url, stack.anon_key) as rt:
        frames = [rt.table(make_table()) for _ in range(3)]
        for frame in frames:
            frame.wait(scaled(20))
        for on_health in (None, lambda health: None):
            if on_health is not None:
                rt.on_health(on_health)
            told = shared().call(lambda: (looks.clear(), rt._project._report_health(), len(looks)))
            assert told[-1] == 3


def test_the_panel_names_every_metric_in_words(stack: LocalStack) -> None:
    with nrt.connect(stack.url, stack.anon_key) as rt:
        assert set(rt.metrics) == {*LABELS, *_SAID}
        changes, lag, _ = SessionHealth(rt).health().trends  # the latency may be known already
        assert (changes.now, lag.now) == ("", "")


def test_the_panel_says_since_when_and_draws_what_was_measured(
    stack: LocalStack, make_table: Callable[..., str]
) -> None:
    name = make_table()
    with nrt.connect(stack.url, stack.anon_key) as rt:
        frame = rt.table(name).wait(scaled(20))
        until(lambda: rt.health.status == "healthy", 20, lambda: rt.health)
        stack.sql(f"insert into {name} (id) select * from generate_series(1, 50)")
        until(lambda: sum(filter(None, rt.health.trends["changes_per_s"])) >= 9, 20)
        until(lambda: rt.health.since_s > 1.5, 20)
        changes, lag, _ = SessionHealth(rt).health().trends
        assert len(changes.points) == len(lag.points) == 60
        assert [point for point in lag.points if point is not None]
        assert re.search(r"For \d+ s now\.", said(rt))
        assert frame.status == "live"


def test_a_loss_in_a_busy_stream_is_found_seconds_after_it_stops(stack: LocalStack) -> None:
    """As after a restart of PostgreSQL, of which no client is told: the next audit was 20 s away."""
    with laboratory(stack, options=nrt.Options()) as lab:
        until(lambda: lab.session.health.status == "healthy", what=lambda: lab.session.health)
        for key in range(1, 31):
            lab.sql(f"update {{t}} set name = 'heard' where id = {key}")
        lab.true_within(5)
        lab.proxy.rules = (Drop(),)
        lab.sql("update {t} set name = 'lost'")
        assert lab.true_within(14) < 14


def test_after_a_burst_above_the_rate_limit_nothing_that_is_wrong_is_green(
    stack_directory: Path,
) -> None:
    """A hosted project sends a burst, and then for up to a minute drops what follows, without a word."""
    options = StackOptions(realtime=RealtimeOptions(rate_tick=1.0))  # and for 12 s, not 60
    with (
        start(stack_directory, options=options) as stack,
        nrt.connect(stack.url, stack.anon_key) as rt,
    ):
        stack.sql("create table t (id int primary key, v int)")
        stack.sql("insert into t select i, 0 from generate_series(1, 3000) i")
        stack.sql("grant select, insert, update, delete on t to anon, authenticated, service_role")
        stack.sql("alter publication supabase_realtime add table t")
        frame = rt.table("t").wait(scaled(20))
        until(lambda: rt.health.status == "healthy", 20, lambda: rt.health)
        green = live = 0.0
        reasons = set[str]()

        def shown(version: int, since: float) -> bool:
            """Whether the first rows are of this version; and what is said while they are not."""
            nonlocal green, live
            status, health = frame.status, rt.health
            if (frame.df.v.loc[:10] == version).all():
                return True
            wrong = time.monotonic() - since
            green = max(green, wrong if health.status == "healthy" else 0.0)
            live = max(live, wrong if status == "live" else 0.0)
            if health.status == "behind":
                reasons.add(health.reason)
            return False

        stack.sql("update t set v = 1")
        began = time.monotonic()
        until(lambda: shown(1, began), 25, lambda: rt.health)
        for version in itertools.count(2):
            stack.sql("update t set v = %s where id <= 10", version)
            since = time.monotonic()
            until(partial(shown, version, since), 25, lambda: rt.health)
            if rt.metrics["drift"] or since > began + scaled(60):
                break
        assert rt.metrics["drift"], "nothing was dropped"
        assert green <= scaled(1.5), "a change on its way"
        # Audits begin 2 s after the hint, and 2 s after the last one or ten times what one takes.
        takes = max(frame.verify(scaled(20)).seconds for _ in range(3))
        assert live <= max(scaled(LOST_FOR), 3 + 11 * takes), takes
        assert any("changes may have been lost: t (more than 100 a second" in r for r in reasons)


def test_more_tables_and_rooms_than_channels_say_what_happened_and_what_to_do(
    stack: LocalStack, make_table: Callable[..., str]
) -> None:
    """It said "every channel is taken by something more important", and a room without one was healthy."""
    options = nrt.Options(max_channels=1, audit_interval=0, poll_interval=0.5, poll_max=2.0)
    names = [make_table() for _ in range(2)]
    with nrt.connect(stack.url, stack.anon_key, options=options) as rt:
        told: list[str] = []
        rt._project.note_listeners.add(lambda kind, text: told.append(text))
        frames = [rt.table(name).wait(scaled(20)) for name in names]
        room = rt.channel("room")
        shortage = "more channels are wanted than Options.max_channels allows, 1; raise it"
        until(lambda: shortage in rt.health.reason, 10, lambda: rt.health)
        assert rt.health.color == "yellow"
        assert f"{names[1]} without live updates, read every" in rt.health.reason
        until(lambda: "no messages come over room" in rt.health.reason, 5, lambda: rt.health)
        assert room.status == "waiting"
        until(lambda: shortage in frames[1].reason, 10, lambda: frames[1].reason)
        until(lambda: any("raise it" in text for text in told), 10, lambda: told)
        # The interval is the one of now: it grows while nothing changes.
        until(lambda: "read every 2 s" in rt.health.reason, 15, lambda: rt.health)
        assert "refresh" not in FrameOf(frames[1]).note or "2 s" in FrameOf(frames[1]).note
        keys = itertools.count(7)

        def read_often() -> bool:
            """While each reading finds something: after the first that does not, it grows again."""
            stack.sql(f"insert into {names[1]} (id) values (%s)", next(keys))
            return "read every 0.5 s" in rt.health.reason

        until(read_often, 10, lambda: rt.health)


def test_refused_edits_are_told_whatever_else_is_true(
    stack: LocalStack, make_table: Callable[..., str]
) -> None:
    name = make_table()
    stack.sql(f"insert into {name} (id) values (1); alter table {name} add check (id < 100)")
    with laboratory(stack) as lab:
        rt = lab.session
        frame = rt.table(name).wait(scaled(20))
        frame.insert(id=100)
        until(lambda: rt.health.status == "refused", 20, lambda: rt.health)
        lab.proxy.rules = (Cut(path=""),)
        lab.proxy.close_sockets()
        until(lambda: rt.health.status not in ("refused", "connecting"), 20, lambda: rt.health)
        assert "1 edit of yours was refused" in rt.health.reason
        assert "1 edit of yours was refused" in said(rt)


def test_metrics_are_a_mapping_and_count_joined_channels(
    stack: LocalStack, make_table: Callable[..., str]
) -> None:
    options = nrt.Options(max_channels=1, audit_interval=0)
    with nrt.connect(stack.url, stack.anon_key, options=options) as rt:
        frames = [rt.table(make_table()) for _ in range(3)]
        for frame in frames:
            frame.wait(scaled(20))
        until(lambda: rt.metrics["channels"] == 1, what=lambda: rt.metrics)
        metrics = rt.metrics
        assert dict(metrics) == metrics.as_dict()
        assert list(metrics) == list(metrics.as_dict())
        assert "channels" in metrics


def test_the_traffic_of_the_hour_is_said_with_what_it_is_in_a_month_of_the_plan(
    stack: LocalStack, make_table: Callable[..., str]
) -> None:
    options = nrt.Options(plan="free", audit_interval=1.0, poll_interval=0.5, max_channels=1)
    with nrt.connect(stack.url, stack.anon_key, options=options) as rt:
        frames = [rt.table(make_table()) for _ in range(2)]
        for frame in frames:
            frame.wait(scaled(20))
        until(lambda: rt.metrics["audit_share"], 15, lambda: rt.metrics)
        until(lambda: rt.metrics["poll_share"], 15, lambda: rt.metrics)
        metrics = rt.metrics
        assert metrics["audit_share"] + metrics["poll_share"] < 1
        assert 0 < metrics["bytes_in_this_hour"] <= rt.metrics["bytes"]
        assert metrics["bytes_out_this_hour"] > 0
        assert metrics["unknown"] == 0
        assert not rt.health.near_limits
        assert SessionHealth(rt).health().usage == rt.health.usage == "No messages this hour."


def test_a_limit_that_comes_near_is_reported_once_and_stands_in_the_panel(
    stack: LocalStack, make_table: Callable[..., str]
) -> None:
    name = make_table()
    with nrt.connect(stack.url, stack.anon_key, options=nrt.Options(plan="free")) as rt:
        frame = rt.table(name).wait(scaled(20))
        until(lambda: frame.status == "live")
        told: list[tuple[str, str]] = []
        rt._project.note_listeners.add(lambda kind, text: told.append((kind, text)))
        stack.sql(f"insert into {name} (id) select * from generate_series(1, 2400)")
        until(lambda: rt.metrics["messages_this_hour"] >= 2400, 15, lambda: rt.metrics)
        until(lambda: len(rt.health.near_limits) == 2, what=lambda: rt.health.near_limits)
        rate, month = rt.health.near_limits
        assert rate.startswith("Over a limit: ")
        assert rate.endswith(
            "messages a second; the free plan allows 100 a second, and above it the server drops "
            "changes."
        )
        assert month == (
            "Near a limit: 2,400 messages this hour are 1.7 M a month; the free plan includes 2 M."
        )
        report = SessionHealth(rt).health()
        said = (
            "2,400 messages this hour: about 1.7 M a month at this rate; "
            "the free plan includes 2 M."
        )
        assert report.usage == said
        assert tuple(report.near_limits) == rt.health.near_limits
        project, looks = rt._project, list[str]()
        project.health_listeners.add(lambda health: looks.append(health.status))
        for _ in range(3):
            seen = len(looks)
            project.thread.call(project.schedule_health)
            until(lambda seen=seen: len(looks) > seen)
        until(lambda: sum(kind == "limit" for kind, _ in told) >= 2, 10, lambda: told)
        limits = [text for kind, text in told if kind == "limit"]
        assert limits.count(month) == 1
        rates = [text.split(":")[0] for text in limits if "messages a second" in text]
        assert rates in (["Near a limit"], ["Over a limit"], ["Near a limit", "Over a limit"])
        assert len(limits) == 1 + len(rates)


def test_presence_that_comes_near_its_limit_is_told_and_stands_in_the_panel(
    stack: LocalStack,
) -> None:
    """Each channel with presence is a state, a call and the diff of it."""
    options = nrt.Options(plan="free", max_channels=60, join_rate=1000)
    with nrt.connect(stack.url, stack.anon_key, options=options) as rt:
        told: list[tuple[str, str]] = []
        rt._project.note_listeners.add(lambda kind, text: told.append((kind, text)))
        rooms = [rt.channel(f"room:{number}") for number in range(60)]
        for room in rooms:
            room.presence.track(name="ann")
        until(lambda: all(len(room.presence.people) == 1 for room in rooms), 20)
        until(lambda: rt.health.near_limits, what=lambda: rt.metrics)
        (text,) = rt.health.near_limits
        assert "presence messages a second; the free plan allows 20 a second" in text
        assert rt.metrics["peak_presence_messages_per_s"] > 16
        until(lambda: any("presence messages a second" in text for _, text in told))
        assert SessionHealth(rt).health().metrics["presence messages a second, at most"]


def test_conflicts_that_wait_for_a_decision_are_not_green(
    stack: LocalStack, make_table: Callable[..., str]
) -> None:
    name = make_table()
    stack.sql(f"insert into {name} values (1, 'base', 1)")
    with nrt.connect(stack.url, stack.anon_key) as rt:
        frame = rt.table(name, merge="ask").wait(scaled(20))
        until(lambda: rt.health.status == "healthy", 20, lambda: rt.health)
        rt.queue.pause()
        frame.edit(1, name="mine")
        stack.sql(f"update {name} set name = 'theirs'")
        rt.queue.resume()
        until(lambda: len(frame.conflicts), what=lambda: rt.queue.df)
        assert repr(frame).endswith("1 row: 1 conflict to resolve, see .conflicts>")
        until(lambda: rt.health.status == "refused", what=lambda: rt.health)
        why = f"update {name} 1 (name): another writer changed name, too: yours is 'mine', theirs is 'theirs'"
        assert rt.health.reason.startswith(
            f"1 conflict to resolve: {why}; .resolve(1, choice=...) "
        )
        frame.resolve(1, "name", "theirs")
        until(lambda: rt.health.status == "healthy", 20, lambda: rt.health)


def test_a_flush_that_takes_long_shows_how_far_it_is_to_who_looks(
    stack: LocalStack, make_table: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import tqdm.auto

    bars: list[Any] = []

    class Seen(tqdm.tqdm):  # type: ignore[type-arg]  # generic only in its stub
        def __init__(self, *args: Any, **more: Any) -> None:
            super().__init__(*args, **{**more, "file": sys.stderr})
            bars.append(self)

    monkeypatch.setattr(tqdm.auto, "tqdm", Seen)
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)  # another test may have loaded it
    name = make_table()
    with nrt.connect(stack.url, stack.anon_key, options=nrt.Options(progress_after=0.0)) as rt:
        frame = rt.table(name).wait(scaled(20))
        for number in range(40):
            frame.insert(id=number, name=str(number))
        rt.queue.flush(scaled(20))
        assert not bars, "nobody looks at a script under cron"
        for times, (terminal, module) in enumerate(((True, None), (False, "ipykernel")), 1):
            with monkeypatch.context() as patch:
                patch.setattr(sys.stderr, "isatty", lambda terminal=terminal: terminal)
                if module:
                    patch.setitem(sys.modules, module, types.ModuleType(module))
                frame.edit_many(frame.df.assign(name=[f"{times} {n}" for n in range(40)]))
                rt.queue.flush(scaled(30))
            assert len(bars) == times
            assert bars[-1].n == bars[-1].total > 0


def test_a_progress_bar_never_passes_its_end_where_the_total_is_an_estimate(
    stack: LocalStack, make_table: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL estimates by the rows of its last look, which were far wider."""
    import tqdm.auto

    seen: list[tuple[int, int]] = []

    class Seen(tqdm.tqdm):  # type: ignore[type-arg]  # generic only in its stub
        def __init__(self, *args: Any, **more: Any) -> None:
            super().__init__(*args, **{**more, "disable": False, "file": sys.stderr})

        def update(self, n: float | None = 1) -> bool | None:
            done = super().update(n)
            seen.append((self.n, self.total))
            return done

    monkeypatch.setattr(tqdm.auto, "tqdm", Seen)
    name = make_table()
    stack.sql(
        f"alter table {name} set (autovacuum_enabled = off);"
        f"insert into {name} (id, name) select i, repeat('wide', 400) from generate_series(1, 500) i;"
        f"analyze {name}; update {name} set name = null;"
        f"insert into {name} (id) select * from generate_series(501, 5000)"
    )
    options = nrt.Options(progress_after=0.0, page_size=50, audit_interval=0)
    with nrt.connect(stack.url, stack.anon_key, options=options) as rt:
        rt.table(name).wait(scaled(30))
    assert seen[-1] == (5000, 5000)
    assert all(done <= total for done, total in seen)
    assert any(total < 5000 for _, total in seen)  # it was an estimate


def test_a_progress_bar_over_a_whole_table_ends_full(
    stack: LocalStack, make_table: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bar that is closed before its end is red in a notebook."""
    import tqdm.auto

    bars: list[Any] = []

    class Seen(tqdm.tqdm):  # type: ignore[type-arg]  # generic only in its stub
        def __init__(self, *args: Any, **more: Any) -> None:
            super().__init__(*args, **{**more, "disable": False, "file": sys.stderr})
            bars.append(self)

    monkeypatch.setattr(tqdm.auto, "tqdm", Seen)
    name = make_table()
    stack.sql(f"insert into {name} (id) select * from generate_series(1, 5000)")
    # Pages enough that it is still being loaded when `wait` looks.
    options = nrt.Options(progress_after=0.0, page_size=50, audit_interval=0)
    with nrt.connect(stack.url, stack.anon_key, options=options) as rt:
        rt.table(name).wait(scaled(30))
    assert len(bars) == 1
    assert bars[0].n == bars[0].total == 5000


def test_a_queue_that_cannot_be_read_as_the_table_appears_is_the_tables_error(
    stack: LocalStack, make_table: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(*anything: object) -> None:
        raise errors.QueueError("the queue's file is damaged: a test")

    table = make_table()
    with nrt.connect(stack.url, stack.anon_key) as rt:
        monkeypatch.setattr("notebook_rt.runtime.writes.Writes._shown", damaged)
        frame = rt.table(table)
        until(lambda: frame.status == "error", what=lambda: repr(frame))
        assert "damaged: a test" in frame.reason
        monkeypatch.undo()
        assert rt.table(make_table()).wait(scaled(10)).status in {"live", "loading", "stale"}


def test_a_mistyped_table_leaves_the_session_healthy_though_its_error_is_kept(
    stack: LocalStack, table: str
) -> None:
    """As IPython keeps the last traceback, and with it the frame."""
    with nrt.connect(stack.url, stack.anon_key) as rt:
        rt.table(table).wait(scaled(10))
        with pytest.raises(errors.MissingTableError) as kept:
            rt.table("mistyped").wait(scaled(10))
        assert any(
            isinstance(value, nrt.LiveTable)
            for entry in kept.traceback
            for value in entry.frame.f_locals.values()
        )
        live = rt.table(table).wait(scaled(10))
        until(lambda: rt.health.status == "healthy", 20, lambda: rt.health)
        until(lambda: live.status == "live", what=lambda: repr(live))
        assert "mistyped" not in rt.health.reason
