"""Health is the worst true status; green needs all conditions at once."""

from __future__ import annotations

import dataclasses
import gc
import itertools
import operator
import re
import sys
import threading
from typing import get_args

import hypothesis.strategies as st
import pytest
from hypothesis import given
from msgspec.structs import replace

from notebook_rt.errors import UnreachableError
from notebook_rt.options import Options
from notebook_rt.sync.connection.health import (
    COLORS,
    Cause,
    Facts,
    Health,
    HealthStatus,
    Interruption,
    Since,
    TableFacts,
    audits_of,
    health,
    needs,
)
from notebook_rt.sync.connection.metrics import Metrics, Series, Trend
from notebook_rt.sync.connection.sentences import CLAIMS, COMPARED, UNAUDITED, audits, sentences
from notebook_rt.sync.connection.supervisor import (
    Opened,
    Retry,
    SocketClosed,
    Start,
    Supervisor,
)
from notebook_rt.sync.usage import Usage

NUMBERS = {"slow_ms": 500.0, "stale_after": 60.0, "poll_interval": 5.0, "behind_after": 3.0}
STATUSES = ["loading", "live", "polling", "stale", "closed", "error"]


def word(facts: Facts) -> str:
    return health(facts, **NUMBERS).status


def late(seconds: float, waiting: int = 0, name: str = "t") -> TableFacts:
    return TableFacts(name, "live", behind=seconds, waiting=waiting)


def table(
    status: str, drifted: bool = False, denied: bool = False, shown: bool = True
) -> TableFacts:
    denied = denied and status == "error"
    error = "t: what to do" if status == "error" else ""
    return TableFacts("t", status, drifted, error, denied, shown=shown)  # type: ignore[arg-type]  # one of STATUSES


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (Facts("connected", latency=0.01, tables=[table("live")]), "healthy"),
        (Facts("connected", latency=0.6, tables=[table("live")]), "slow"),
        (Facts("connected", latency=0.6, tables=[table("live")], refused="why"), "refused"),
        (Facts("connected", latency=0.6, refused_channels=[("room", "why")]), "refused"),
        (Facts("connected", unjoined=1, refused_channels=[("room", "why")]), "connecting"),
        (Facts("connected", tables=[table("live", True)], refused="why"), "drifting"),
        (Facts("connected", unjoined=1, tables=[table("live")], refused="why"), "connecting"),
        (Facts("connected", latency=0.6, tables=[table("live", True)]), "drifting"),
        (Facts("connected", tables=[late(17.0), table("live", True)]), "behind"),
        (Facts("connected", tables=[late(17.0), table("polling")]), "polling"),
        (Facts("connected", tables=[late(2.9)]), "healthy"),
        (Facts("connected", tables=[TableFacts("t", "live", unaudited=True)]), "connecting"),
        (
            Facts("connected", tables=[TableFacts("t", "live", unaudited=True)], refused="why"),
            "refused",
        ),
        (Facts("connected", tables=[TableFacts("t", "polling", crowded=True)]), "polling"),
        (Facts("connected", tables=[table("live")], crowded_channels=["room"]), "polling"),
        (Facts("connected", tables=[TableFacts("t", "live", doubt="why")]), "behind"),
        (Facts("connected", tables=[TableFacts("t", "live", True, doubt="why")]), "drifting"),
        (Facts("connected", tables=[table("live", True), table("polling")]), "polling"),
        (Facts("connected", tables=[table("polling"), table("stale")]), "stale"),
        (
            Facts("connected", tables=[TableFacts("t", "stale", error="why", denied=True)]),
            "offline",
        ),
        (Facts("connected", silent_for=61, tables=[table("live")]), "stale"),
        (Facts("connected", silent_for=7, late_answer=True, tables=[table("live")]), "stale"),
        (Facts("connected", late_answer=True, in_grace=True, tables=[table("polling")]), "stale"),
        (Facts("connected", unjoined=1, tables=[table("live")]), "connecting"),
        (Facts("reconnecting", tables=[table("polling")]), "polling"),
        (Facts("reconnecting", reachable=False, tables=[table("polling")]), "offline"),
        (Facts("reconnecting", in_grace=True, tables=[table("polling")]), "connecting"),
        (Facts("reconnecting", in_grace=True), "connecting"),
        (
            Facts("connected", in_grace=True, tables=[table("stale"), table("polling")]),
            "connecting",
        ),
        (Facts("connected", in_grace=True, tables=[table("stale")]), "connecting"),
        (
            Facts("connected", in_grace=True, tables=[TableFacts("t", "stale", missing=True)]),
            "behind",
        ),
        (Facts("connected", tables=[TableFacts("t", "stale", missing=True)]), "stale"),
        (
            Facts("reconnecting", in_grace=True, reachable=False, tables=[table("polling")]),
            "offline",
        ),
        (Facts("reconnecting", in_grace=True, tables=[table("polling"), table("error")]), "stale"),
        (Facts("disconnected", in_grace=True), "offline"),
        (Facts("connected", latency=0.01, tables=[table("live"), table("error")]), "stale"),
        (Facts("connected", tables=[table("live"), table("error", shown=False)]), "healthy"),
        (Facts("connected", tables=[table("error", shown=False)]), "healthy"),
        (Facts("connected", tables=[table("error", denied=True, shown=False)]), "offline"),
        (Facts("connecting", tables=[table("error")]), "stale"),
        (Facts("reconnecting", tables=[table("polling"), table("error")]), "stale"),
        (Facts("reconnecting", tables=[table("error")]), "offline"),
        (Facts("connected", tables=[table("error", denied=True)]), "offline"),
        (Facts("connecting", tables=[table("error", denied=True)]), "offline"),
        (Facts("disconnected"), "offline"),
        (Facts("connecting"), "connecting"),
        (Facts("connected", closed=True), "closed"),
    ],
)
def test_worst_first(facts: Facts, expected: str) -> None:
    assert word(facts) == expected


def test_a_table_that_cannot_be_had_any_more_is_named_with_what_to_do() -> None:
    wrong = [
        TableFacts("positions", "error", error='table "positions" is not published; run: alter …'),
        TableFacts("trades", "error", error='table "trades" is not there'),
    ]
    facts = Facts("connected", tables=[table("live"), *wrong])
    assert health(facts, **NUMBERS)[:2] == (
        "stale",
        'table "positions" is not published; run: alter … (in error, too: trades)',
    )


def test_behind_says_by_how_much_which_tables_and_what_waits() -> None:
    facts = Facts("connected", tables=[late(17.2, 1240, "positions"), late(4.0, 0, "trades")])
    assert health(facts, **NUMBERS)[:2] == (
        "behind",
        "17 s behind the server: positions, trades; 1,240 changes wait to be applied",
    )


def test_what_came_late_a_moment_ago_is_told_as_that() -> None:
    tables = [TableFacts("positions", "live", behind=0.1, late=6.2), late(0.0, 0, "trades")]
    assert health(Facts("connected", tables=tables), **NUMBERS)[:2] == (
        "behind",
        "changes came 6 s late a moment ago: positions",
    )


def test_a_table_in_doubt_says_why_and_when_it_is_checked() -> None:
    tables = [
        TableFacts(name, "live", doubt="why", audit_in=at) for name, at in (("a", 2.9), ("b", 4))
    ]
    facts = Facts("connected", tables=tables)
    assert health(facts, **NUMBERS)[:2] == (
        "behind",
        "changes may have been lost: a, b (why); the next check is in 3 s",
    )
    facts = Facts("connected", tables=[TableFacts("a", "live", doubt="why", audit_in=0.0)])
    assert health(facts, **NUMBERS)[1] == "changes may have been lost: a (why); being checked now"


@pytest.mark.parametrize("status", ["stale", "polling", "live", "error"])
def test_a_reason_names_each_table_once_and_only_a_few(status: str) -> None:
    views = [TableFacts("positions", status, drifted=True, error="why") for _ in range(50)]  # type: ignore[arg-type]  # one of STATUSES
    others = [TableFacts(f"t{n}", status, drifted=True, error="why") for n in range(20)]  # type: ignore[arg-type]  # one of STATUSES
    reason = health(Facts("connected", tables=[*views, *others]), **NUMBERS)[1]
    assert reason.count("positions") == 1
    assert "and 16 more" in reason
    assert len(reason) < 200


@given(
    st.sampled_from(["connected", "disconnected", "connecting", "reconnecting"]),
    st.sampled_from([0.0, 59.0, 61.0]),
    st.sampled_from([None, 0.01, 0.7]),
    st.booleans(),
    st.integers(0, 1),
    st.lists(
        st.tuples(st.sampled_from(STATUSES), st.booleans(), st.booleans(), st.booleans()),
        max_size=2,
    ),
    st.sampled_from([0.0, 2.9, 3.1, 30.0]),
    st.booleans(),
    st.sampled_from(["", "1 edit of yours was refused"]),
    st.sampled_from(["", "more than 100 a second came"]),
    st.sampled_from([None, 0.0, 12.0]),
    st.sampled_from([None, 8.0]),
    st.booleans(),
)
def test_green_only_if_socket_channels_changes_and_audit_are_all_well(
    state: str,
    silent: float,
    latency: float | None,
    reachable: bool,
    unjoined: int,
    tables: list[tuple[str, bool, bool, bool]],
    behind: float,
    unaudited: bool,
    refused: str,
    doubt: str,
    audited: float | None,
    next_audit: float | None,
    late_answer: bool,
) -> None:
    facts = Facts(
        state,  # type: ignore[arg-type]  # drawn from the four
        "",
        silent,
        latency,
        reachable,
        unjoined,
        [replace(table(*one), behind=behind, unaudited=unaudited, doubt=doubt) for one in tables],
        refused=refused,
        late_answer=late_answer,
    )
    verdict, reason, cause = health(facts, **NUMBERS)
    assert isinstance(reason, str)
    if COLORS[verdict] == "green":
        assert state == "connected"
        assert not unjoined
        assert silent <= 60
        assert not late_answer
        mine = [one for one in tables if one[3] or one[0] != "error"]
        assert all(status in ("live", "closed") for status, *_ in mine)
        assert not any(drifted for _, drifted, *_ in mine)
        assert not mine or (behind <= 3 and not unaudited and not doubt)
        assert not refused
    if any(status == "error" and (shown or denied) for status, _, denied, shown in tables):
        assert COLORS[verdict] in ("yellow", "red")
    never = [one for one in tables if one[0] == "error" and not (one[2] or one[3])]
    rest = [one for one in tables if one not in never]
    alive = [replace(table(*one), behind=behind, unaudited=unaudited, doubt=doubt) for one in rest]
    without = replace(facts, tables=alive)
    assert health(without, **NUMBERS) == (
        verdict,
        reason,
        cause,
    )  # what never lived changes nothing
    found = Health(verdict, reason, audited_s=audited, next_audit_s=next_audit, cause=cause)
    said = [*sentences(dataclasses.replace(found, since_s=silent)), audits(found)]
    if COLORS[verdict] != "green":
        assert not any(claim in text for claim in CLAIMS for text in said)


# What the user must act on, and what is claimed --------------------------------------------------

some_tables = st.lists(
    st.builds(
        TableFacts,
        name=st.sampled_from(["t", "u"]),
        status=st.sampled_from(STATUSES),
        drifted=st.integers(0, 2),
        error=st.sampled_from(["", "what is wrong with it; run: grant"]),
        denied=st.booleans(),
        unaudited=st.booleans(),
        behind=st.sampled_from([0.0, 30.0]),
        waiting=st.integers(0, 2),
        age=st.sampled_from([None, 4.0]),
        shown=st.booleans(),
        doubt=st.sampled_from(["", "the server has not answered"]),
        audit_in=st.sampled_from([None, 0.0, 12.0]),
        crowded=st.booleans(),
        poll_every=st.sampled_from([None, 5.0, 11.25]),
        audited=st.sampled_from([None, 0.0, 12.0]),
        replaced=st.booleans(),
    ),
    max_size=3,
)
any_facts = st.builds(
    Facts,
    state=st.sampled_from(["connected", "disconnected", "connecting", "reconnecting"]),
    reason=st.just("the connection's own reason"),
    silent_for=st.sampled_from([0.0, 7.0, 61.0]),
    latency=st.sampled_from([None, 0.01, 0.7]),
    reachable=st.booleans(),
    unjoined=st.integers(0, 1),
    tables=some_tables,
    refused=st.sampled_from(["", "1 edit of yours was refused", "1 conflict to resolve"]),
    refused_channels=st.lists(st.tuples(st.sampled_from(["room", "hall"]), st.just("no policy"))),
    away_since=st.sampled_from(["", "12:03 UTC"]),
    in_grace=st.booleans(),
    late_answer=st.booleans(),
    shortage=st.just("2 channels are wanted, and there may be 1"),
    crowded_channels=st.lists(st.just("lobby"), max_size=1),
    unjoined_channels=st.lists(st.just(("porch", "why not")), max_size=1),
    computed=st.lists(st.just(("by_sector", "no such column")), max_size=1),
)


def verdict_of(facts: Facts) -> Health:
    """As a session makes it."""
    status, reason, cause = health(facts, **NUMBERS)
    made = audits_of(facts.tables)
    return Health(
        status,
        reason,
        next_audit_s=made.next_in,
        audited_s=made.last_ago,
        tables=made.tables,
        all_right=made.all_right,
        cause=cause,
        needs=needs(facts, poll_interval=NUMBERS["poll_interval"]),
    )


@given(any_facts)
def test_each_fact_that_needs_the_user_is_in_the_reason_and_in_the_panel(facts: Facts) -> None:
    """Whatever else is true: a connection that is lost hides no edit that was refused."""
    found = verdict_of(facts)
    waiting = [facts.refused] if facts.refused else []
    waiting += [f"channel {topic} was refused: {why}" for topic, why in facts.refused_channels[:5]]
    waiting += ["lobby"] * bool(facts.crowded_channels)
    there = [one for one in facts.tables if one.status != "error" or one.denied or one.shown]
    waiting += ["by_sector is not kept up: no such column"] * bool(facts.computed)
    waiting += [facts.shortage] * any(one.crowded for one in there)
    waiting += [one.error for one in there if one.status == "error"][:1]
    panel = " ".join(sentences(found)).lower()
    for said in waiting:
        assert said in found.reason
        assert said.lower() in panel
    order = [found.reason.find(one) for one in found.needs]
    assert order == sorted(order), "in the stated order"


@given(any_facts)
def test_no_check_is_claimed_that_was_not_made(facts: Facts) -> None:
    found = verdict_of(facts)
    said = " ".join([*sentences(found), audits(found)])
    live = [table for table in facts.tables if table.status == "live"]
    if CLAIMS[2] in said:
        assert live
        for one in live:
            assert one.audited is not None
            assert not any((one.drifted, one.replaced, one.doubt, one.unaudited))
        assert f"{max(one.audited or 0.0 for one in live):.0f} s ago" in said
    if COMPARED in said or "The next audit is in" in said:
        assert any(one.audit_in is not None for one in live)
    if UNAUDITED in said:
        assert live
        assert all(one.audit_in is None for one in live)
    if "The last audit" in said:
        assert all(one.audited is not None for one in live)


def test_a_channel_that_is_not_joined_is_no_table_whose_rows_are_read() -> None:
    found = verdict_of(
        Facts("connected", unjoined=1, unjoined_channels=[("room", "no such thing")])
    )
    assert (found.status, found.cause) == ("connecting", "joining")
    panel = " ".join(sentences(found))
    assert "Channel room is not open yet: the server says no such thing." in panel
    assert "rows" not in panel
    several = [("room", ""), ("hall", "")]
    found = verdict_of(Facts("connected", unjoined=2, unjoined_channels=several))
    assert found.reason == "channels room, hall are not open yet"
    loading = Facts("connected", tables=[table("loading")], unjoined_channels=[("room", "")])
    assert verdict_of(loading).cause == "loading"


def test_the_interval_of_polls_is_the_one_of_now() -> None:
    """It grows while nothing changes: 5 s were told, and the rows were read each 30 s."""
    tables = [
        TableFacts("t", "polling", poll_every=30.0),
        TableFacts("u", "polling", poll_every=30.0),
    ]
    assert (
        "data refreshes every 30 s (t, u)"
        in health(Facts("connected", tables=tables), **NUMBERS)[1]
    )
    tables[0] = replace(tables[0], poll_every=7.5)
    assert "every 8 to 30 s" in health(Facts("reconnecting", tables=tables), **NUMBERS)[1]


def test_more_tables_than_channels_says_what_happened_and_what_to_do() -> None:
    shortage = "12 channels are wanted, and Options.max_channels is 10; raise it"
    crowded = [TableFacts(name, "polling", crowded=True, poll_every=7.5) for name in ("k", "l")]
    facts = Facts(
        "connected", tables=[table("live"), *crowded], shortage=shortage, crowded_channels=["room"]
    )
    assert health(facts, **NUMBERS) == (
        "polling",
        f"k, l without live updates, read every 8 s and no messages come over room: {shortage}",
        "crowded",
    )


def test_drift_says_how_many_rows_and_of_which_table() -> None:
    facts = Facts("connected", tables=[TableFacts("t", "live", drifted=1)])
    assert health(facts, **NUMBERS)[1] == (
        "the last audit found 1 row that differed, and repaired it: t"
    )
    facts = Facts("connected", tables=[TableFacts(n, "live", drifted=1200) for n in ("t", "u")])
    assert "found 2,400 rows that differed, and repaired them: t, u" in health(facts, **NUMBERS)[1]


UNKNOWN_TO_ITS_READER = re.compile(
    r"\b(socket|websocket|heartbeat|frame|reconcil|drift|gap|join|http|comm\b|payload|replica)",
    re.I,
)


@pytest.mark.parametrize("cause", get_args(Cause))
@pytest.mark.parametrize("audited", [None, 12.0])
def test_every_cause_has_four_sentences_and_only_a_healthy_one_says_that_all_is_well(
    cause: Cause, audited: float | None
) -> None:
    status = "healthy" if cause == "live" else "polling"  # its own name is not read here
    found = Health(
        status, "why {it} is so", audited_s=audited, all_right=True, cause=cause, since_s=41.0
    )
    said = sentences(found)
    assert len(set(said)) == 4
    for text in said:
        assert text[:1].isupper()
        assert text.endswith(".")
        assert not UNKNOWN_TO_ITS_READER.search(text)
    assert said.since == "For 41 s now."
    claims = [claim for claim in CLAIMS if claim in " ".join([*said, audits(found)])]
    assert bool(claims) == (cause == "live")


def test_a_health_prints_as_the_sentences_of_its_panel() -> None:
    polling = Health("polling", "data refreshes every 5 s", since_s=41.0, cause="polling")
    assert str(polling) == (
        "Polling: Data refreshes every 5 s. For 41 s now. The rows are read again every few seconds, and "
        "live updates are retried meanwhile. You can continue to work; rt.retry() tries at once."
    )
    assert repr(polling) == "<Health polling: data refreshes every 5 s>"
    assert "\x1b" not in str(Health("stale", "of \x1b[2J", cause="polling"))


def test_offline_the_panel_the_print_and_the_reason_say_the_same_of_why() -> None:
    page = UnreachableError("https://x.test", "a page of a proxy", "14:03:12 UTC", status=403)
    facts = Facts("reconnecting", page.what, reachable=False, away_since="14:03 UTC")
    found = verdict_of(facts)
    assert found.reason == (
        "cannot reach https://x.test now: a page of a proxy (offline since 14:03 UTC)"
    )
    assert found.reason in sentences(found).what
    assert found.reason in str(found)
    assert "network" not in str(found), "the reason knows better"


def test_a_table_that_cannot_be_read_says_the_sql_that_fixes_it() -> None:
    why = 'table "t" is not published; run: alter publication supabase_realtime add table t'
    found = health(Facts("connected", tables=[TableFacts("t", "error", error=why)]), **NUMBERS)
    assert "alter publication" in sentences(Health(*found[:2], cause=found.cause)).advice


def test_what_is_computed_and_fails_is_no_green_and_named_in_all_places() -> None:
    facts = Facts("connected", computed=[("by_sector of trades", "no column price"), ("x", "y")])
    found = verdict_of(facts)
    assert found.status == "stale"
    assert found.reason == (
        "by_sector of trades is not kept up: no column price (in error, too: x)"
    )
    assert found.needs == (found.reason,)
    assert found.reason[1:] in str(found)


@given(st.lists(st.tuples(st.sampled_from(get_args(HealthStatus)), st.floats(0, 500)), min_size=1))
def test_since_is_the_time_for_which_the_status_was_seen_without_another(
    looks: list[tuple[HealthStatus, float]],
) -> None:
    since, now, seen = Since(), 0.0, list[tuple[HealthStatus, float]]()
    for status, later in looks:
        now += later
        seen.append((status, now))
        same = list(itertools.takewhile(lambda one, s=status: one[0] == s, reversed(seen)))
        assert since.update(status, now) == now - same[-1][1]


@given(
    st.lists(st.tuples(st.integers(1, 100), st.floats(0, 400)), max_size=40),
    st.floats(0, 400),
    st.sampled_from([None, 0.0]),
)
def test_a_trend_has_what_was_measured_in_the_last_five_minutes_and_nothing_older(
    measured: list[tuple[int, float]], later: float, nothing: float | None
) -> None:
    trend, now, all_of = Trend(operator.add, nothing), 1000.0, dict[int, float]()
    for value, wait in measured:
        now += wait
        trend.add(value, now)
        all_of[int(now // 5)] = all_of.get(int(now // 5), 0) + value
    now += later
    points = trend.points(now)
    ticks = range(int(now // 5) - 60, int(now // 5))
    began = min(all_of, default=int(now // 5))
    assert points == [all_of.get(tick, nothing if tick > began else None) for tick in ticks]
    assert len(trend._ticks) <= 61


# Interruptions -------------------------------------------------------------------------------------

GRACE = 5.0
END = st.sampled_from([1000, 1001, 1006, 1012, None, "token"])
"""How a connection ends: a code of the socket's close (a server that goes, a day that is over, a changed
setting, a network that is gone), or a channel alone, whose token was refused."""


@given(
    st.lists(
        st.tuples(
            END,
            st.one_of(st.sampled_from([0.0, 4.9, 5.0, 5.1]), st.floats(0, 15)),
            st.one_of(st.sampled_from([0.0, 0.3, 4.9]), st.floats(0, 6)),
            st.booleans(),
            st.floats(0, 8),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_an_end_is_calm_until_its_grace_has_passed_and_an_outage_from_then_on(
    ends: list[tuple[int | str | None, float, float, bool, float]],
) -> None:
    """A connection ends, is away for a while, and its table is compared with the server for a while.

    Then its first audit, or a room that cannot be joined, is waited for, or nothing is.
    """
    machine = Supervisor(Options(), lambda: 0.5)
    interruption = Interruption(GRACE)
    now, status, waiting = 100.0, "live", False
    told: list[str] = []
    away_since: float | None = None

    def look() -> None:
        nonlocal away_since
        facts = Facts(
            machine.state,
            machine.reason,
            tables=[TableFacts("t", status, unaudited=waiting)],  # type: ignore[arg-type]  # one of STATUSES
            unjoined=int(waiting),
            in_grace=interruption.in_grace(now),
        )
        verdict, reason, _ = health(facts, **NUMBERS)
        missing = machine.state != "connected" or status != "live"
        away_since = (now if away_since is None else away_since) if missing else None
        out = missing and now - (away_since or now) >= GRACE
        if missing:
            assert COLORS[verdict] == ("yellow" if out or told[-1:] == ["unavailable"] else "grey")
        line = interruption.update(facts.away, verdict, reason, now)
        if line is not None:
            told.append(line[0])
        if out:
            assert told[-1:] == ["unavailable"], "an outage is told"
        elif verdict == "healthy":
            assert told[-1:] != ["unavailable"], "and that it is over"
        if not missing and not waiting:
            assert COLORS[verdict] == "green"

    def wait(seconds: float) -> None:
        """Look a few times, and as soon as a grace is over."""
        nonlocal now
        until = now + seconds
        while now < until:
            ends = now + GRACE if away_since is None else away_since + GRACE
            now = min(until, now + 0.7, ends if ends > now else until)
            look()

    machine.handle(Start(), now, now)
    assert machine.socket is not None
    machine.handle(Opened(machine.socket), now, now)
    outages = 0
    for end, away, compared, waits, well in ends:
        if end == "token":
            status = "polling"
        else:
            assert machine.socket is not None
            code = end if isinstance(end, int) else None
            machine.handle(SocketClosed(machine.socket, code), now, now)
            status = "polling"
        look()
        wait(away)
        if machine.state != "connected":
            machine.handle(Retry("user"), now, now)
            assert machine.socket is not None
            machine.handle(Opened(machine.socket), now, now)
        status = "stale"
        look()
        wait(compared)
        outages += now - (away_since or now) >= GRACE
        status, waiting = "live", waits
        look()
        wait(well)
        now += 0.01
    waiting = False
    look()
    # What is told goes on while a room or an audit is waited for: outages in a row may be one.
    assert told == ["unavailable", "live"] * (len(told) // 2)
    assert bool(outages) <= len(told) // 2 <= outages


def test_percentiles_are_right_and_take_no_more_room_with_more_values() -> None:
    series = Series()
    for number in range(100_000):
        series.add(number / 1000)
    found = series.summary("lag")
    assert found["lag_p50_ms"] == pytest.approx(50_000, rel=0.01)
    assert found["lag_p99_ms"] == pytest.approx(99_000, rel=0.01)
    assert found["lag_avg_ms"] == pytest.approx(50_000, rel=0.01)
    room = len(series._counts)
    for number in range(100_000):
        series.add(number / 1000)
    assert len(series._counts) == room <= 3_000


@pytest.mark.parametrize("batches_a_second", [1, 30, 600, 5000])
def test_the_rate_of_changes_is_that_of_ten_seconds_however_many_batches(
    batches_a_second: int,
) -> None:
    metrics = Metrics()
    for number in range(20 * batches_a_second):
        metrics.applied(2, number / batches_a_second)
    assert metrics.rate(20.0) == pytest.approx(2 * batches_a_second, rel=0.02)


def test_uptime_and_rate_are_counted_over_reconnects() -> None:
    metrics = Metrics()
    metrics.state("connected", "", 0.0)
    metrics.state("reconnecting", "lost", 10.0)
    metrics.state("connected", "", 12.0)
    for second in range(20):
        metrics.applied(50, 12.0 + second)
    found = metrics.as_dict(32.0)
    assert found["uptime_s"] == 30.0
    assert found["disconnects"] == 1
    assert found["events"] == 1000
    assert found["events_per_s"] == 50.0


def test_metrics_are_read_while_they_are_counted() -> None:
    metrics, end, seconds = Metrics(), threading.Event(), itertools.count()

    def count() -> None:
        while not end.is_set():
            metrics.applied(1, next(seconds))
            metrics.lagged(0.001, next(seconds))

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    try:
        counting = threading.Thread(target=count)
        counting.start()
        try:
            for _ in range(500):
                assert metrics.as_dict(5.0)["events_per_s"] >= 0
                assert len(metrics.trends(5.0)["lag_ms"]) == 60
        finally:
            end.set()
            counting.join()
    finally:
        sys.setswitchinterval(before)


def test_metrics_are_read_whatever_a_collection_of_garbage_lets_happen_meanwhile() -> None:
    """One may begin wherever memory is taken; it runs finalizers, and other threads with them."""
    metrics, usage, seconds = Metrics(), Usage(None), itertools.count()

    class Garbage:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            now = 10.0 * next(seconds)
            metrics.applied(1, now)
            metrics.lagged(0.001, now)
            usage.received(1, "message", now)
            if left.pop():
                Garbage()

    thresholds, left = gc.get_threshold(), [False, *[True] * 500]
    try:
        gc.set_threshold(1)
        Garbage()
        while left:
            now = 10.0 * next(seconds)
            assert metrics.as_dict(now)["events_per_s"] >= 0
            assert len(metrics.trends(now)["lag_ms"]) == 60
            assert usage.hour(now).messages >= 0
    finally:
        gc.set_threshold(*thresholds)


def test_what_is_measured_first_can_be_read_at_every_moment() -> None:
    """Each line of ``Series.add`` may be the last one that another thread's reader comes after."""
    for stop in range(1, 12):
        series, left = Series(), [stop]

        def trace(frame: object, event: str, arg: object, left: list[int] = left) -> object:
            if event == "line":
                left[0] -= 1
                if not left[0]:
                    raise InterruptedError
            return trace

        sys.settrace(trace)  # type: ignore[arg-type]  # its own type is a cycle
        try:
            series.add(0.001)
        except InterruptedError:
            pass
        finally:
            sys.settrace(None)
        assert len(series.summary("lag")) == 4
