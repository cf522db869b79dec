"""Health is the worst that is true; green needs everything at once."""

from __future__ import annotations

import sys
import threading
from dataclasses import replace

import hypothesis.strategies as st
import pytest
from hypothesis import given

from notebook_rt.sync.connection.health import COLORS, Facts, Metrics, Series, TableFacts, health

NUMBERS = {"slow_ms": 500.0, "stale_after": 60.0, "poll_interval": 5.0, "behind_after": 3.0}
STATUSES = ["loading", "live", "polling", "stale", "closed", "error"]


def word(facts: Facts) -> str:
    return health(facts, **NUMBERS)[0]


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
        (Facts("connected", tables=[table("live", True)], refused="why"), "drifting"),
        (Facts("connected", unjoined=1, tables=[table("live")], refused="why"), "connecting"),
        (Facts("connected", latency=0.6, tables=[table("live", True)]), "drifting"),
        (Facts("connected", tables=[late(17.0), table("live", True)]), "behind"),
        (Facts("connected", tables=[late(17.0), table("polling")]), "polling"),
        (Facts("connected", tables=[late(2.9)]), "healthy"),
        (Facts("connected", tables=[TableFacts("t", "live", unaudited=True)]), "connecting"),
        (Facts("connected", tables=[table("live", True), table("polling")]), "polling"),
        (Facts("connected", tables=[table("polling"), table("stale")]), "stale"),
        (Facts("connected", silent_for=61, tables=[table("live")]), "stale"),
        (Facts("connected", unjoined=1, tables=[table("live")]), "connecting"),
        (Facts("reconnecting", tables=[table("polling")]), "polling"),
        (Facts("reconnecting", reachable=False, tables=[table("polling")]), "offline"),
        (Facts("reconnecting", calm=True, tables=[table("polling")]), "connecting"),
        (Facts("reconnecting", calm=True), "connecting"),
        (Facts("connected", calm=True, tables=[table("stale"), table("polling")]), "connecting"),
        (Facts("reconnecting", calm=True, reachable=False, tables=[table("polling")]), "offline"),
        (Facts("reconnecting", calm=True, tables=[table("polling"), table("error")]), "stale"),
        (Facts("disconnected", calm=True), "offline"),
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
    assert health(facts, **NUMBERS) == (
        "stale",
        'table "positions" is not published; run: alter … (in error, too: trades)',
    )


def test_behind_says_by_how_much_which_tables_and_what_waits() -> None:
    facts = Facts("connected", tables=[late(17.2, 1240, "positions"), late(4.0, 0, "trades")])
    assert health(facts, **NUMBERS) == (
        "behind",
        "17 s behind the server: positions, trades; 1,240 changes wait to be applied",
    )


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
) -> None:
    facts = Facts(
        state,  # type: ignore[arg-type]  # drawn from the four
        "",
        silent,
        latency,
        reachable,
        unjoined,
        [replace(table(*one), behind=behind, unaudited=unaudited) for one in tables],
        refused=refused,
    )
    verdict, reason = health(facts, **NUMBERS)
    assert isinstance(reason, str)
    if COLORS[verdict] == "green":
        assert state == "connected"
        assert not unjoined
        assert silent <= 60
        mine = [one for one in tables if one[3] or one[0] != "error"]
        assert all(status in ("live", "closed") for status, *_ in mine)
        assert not any(drifted for _, drifted, *_ in mine)
        assert not mine or (behind <= 3 and not unaudited)
        assert not refused
    if any(status == "error" and (shown or denied) for status, _, denied, shown in tables):
        assert COLORS[verdict] in ("yellow", "red")
    never = [one for one in tables if one[0] == "error" and not (one[2] or one[3])]
    rest = [one for one in tables if one not in never]
    alive = [replace(table(*one), behind=behind, unaudited=unaudited) for one in rest]
    without = replace(facts, tables=alive)
    assert health(without, **NUMBERS) == (verdict, reason)  # what never lived changes nothing


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
    metrics, end = Metrics(), threading.Event()

    def count() -> None:
        while not end.is_set():
            metrics.applied(1, 0.0)
            metrics.lag.add(0.001)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        counting = threading.Thread(target=count)
        counting.start()
        try:
            for _ in range(2000):
                assert metrics.as_dict(5.0)["events_per_s"] >= 0
        finally:
            end.set()
            counting.join()
    finally:
        sys.setswitchinterval(before)
