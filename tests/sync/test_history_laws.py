"""The laws of the record: any moment equals an oracle that stored every version."""

from __future__ import annotations

import datetime as dt
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from notebook_rt.model.rows import Delete, Op, Upsert
from notebook_rt.model.types import Column, Schema, equal
from notebook_rt.store.table import Table
from notebook_rt.sync.history import pieces
from notebook_rt.sync.history.past import LATE, TOLD_TO, ForgottenMomentError, Past, View
from notebook_rt.sync.history.record import KINDS, Record
from tests.laws import examples

many = settings(max_examples=examples(60), deadline=None, suppress_health_check=list(HealthCheck))

COLUMNS = (
    Column("id", "int8"),
    Column("part", "text"),
    Column("n", "int8"),
    Column("price", "float8"),
    Column("note", "text"),
    Column("at", "timestamptz"),
    Column("facts", "jsonb"),
)
SINGLE = Schema(COLUMNS, ("id",))
TEXT = Schema(COLUMNS, ("part",))
DOUBLE = Schema(COLUMNS, ("id", "part"))
ANOTHER = Schema((*COLUMNS[:3], Column("new", "bool")), ("id",))
SECOND = 1_000_000
DAY = dt.datetime(2026, 1, 2, tzinfo=dt.UTC)

values: dict[str, st.SearchStrategy[Any]] = {
    "n": st.none() | st.integers(-3, 3) | st.just(2**70),
    "price": st.none() | st.sampled_from([0.5, float("nan"), float("inf")]),
    "note": st.none() | st.sampled_from(["", "a", "é\N{GRINNING FACE}", "\ud800"]),
    "at": st.none() | st.sampled_from([DAY, DAY.replace(year=9000)]),
    "facts": st.none() | st.sampled_from([{"a": [1]}, [None], "text"]),
    "new": st.none() | st.booleans(),
}


def rows(schema: Schema, *, whole: bool) -> st.SearchStrategy[dict[str, Any]]:
    told = {
        name: values[name] for name in schema.names if name not in schema.key and name in values
    }
    return st.fixed_dictionaries(told) if whole else st.fixed_dictionaries({}, optional=told)


def keys(schema: Schema) -> st.SearchStrategy[Any]:
    number, text = st.integers(1, 4), st.sampled_from("abc")
    if len(schema.key) == 2:
        return st.tuples(number, text)
    return number if schema.key == ("id",) else text


def batches(schema: Schema) -> st.SearchStrategy[Any]:
    op = st.one_of(
        st.tuples(st.just("put"), keys(schema), rows(schema, whole=True)),
        st.tuples(st.just("part"), keys(schema), rows(schema, whole=False)),
        st.tuples(st.just("delete"), keys(schema)),
        st.tuples(st.just("move"), keys(schema), keys(schema), rows(schema, whole=True)),
    )
    batch = st.tuples(
        st.just("ops"),
        st.lists(op, max_size=5),
        st.sampled_from([None, -2.0, 0.0, 0.5]),  # how long ago it was committed, if that is told
        st.sampled_from(["stream", "reconcile"]),
    )
    steps = st.sampled_from(["truncate", "load", "lose", "prove", "regain", "forget", "columns"])
    return st.lists(
        st.tuples(st.sampled_from([0.0, 0.001, 1.0, 30.0]), batch | st.tuples(steps)), max_size=15
    )


class Oracle:
    """Keeps every version: the whole table, in order, after each change."""

    def __init__(self) -> None:
        self.versions: list[tuple[int, Schema, dict[Any, dict[str, Any]]]] = []

    def keep(self, when: int, schema: Schema, rows: dict[Any, dict[str, Any]]) -> None:
        self.versions.append((when, schema, {key: dict(row) for key, row in rows.items()}))

    def at(self, when: int) -> tuple[Schema, dict[Any, dict[str, Any]]]:
        found = [(schema, rows) for at, schema, rows in self.versions if at <= when]
        return found[-1]


def ops_of(story: list[Any], at: float | None, schema: Schema) -> list[Op]:
    found: list[Op] = []
    for step in story:
        match step:
            case ("put" | "part", key, row):
                found.append(Upsert(key, row, at))
            case ("delete", key):
                found.append(Delete(key, at))
            case ("move", key, to, row):
                found += [Delete(key, at), Upsert(to, row, at)]
    return found


def play(rows: dict[Any, dict[str, Any]], op: Op, schema: Schema) -> None:
    if isinstance(op, Delete):
        rows.pop(op.key, None)
        return
    key = op.key if len(schema.key) > 1 else (op.key,)
    blank = {**dict.fromkeys(schema.names), **dict(zip(schema.key, key, strict=True))}  # type: ignore[arg-type]
    known = {name: value for name, value in op.row.items() if name in schema.types}
    rows[op.key] = {**rows.get(op.key, blank), **known}


@many
@given(st.data(), st.sampled_from([SINGLE, TEXT, DOUBLE]), st.sampled_from([1, 2, 3, 1024]))
def test_any_moment_is_what_an_oracle_has_that_kept_every_version(
    data: st.DataObject, schema: Schema, size: int
) -> None:
    """Inserts, updates, deletions, changes of the key, rows of which only a part was told, truncations,
    reads of the whole, other columns, gaps, forgetting; in chunks of any size.
    """
    with (
        patch("notebook_rt.sync.history.record.BATCH", size),
        patch("notebook_rt.sync.history.record.FAN", 2),
        patch("notebook_rt.sync.history.past.BATCH", size),
    ):
        story = data.draw(batches(schema))
        past, oracle, table = Past(60 * SECOND, 10**9), Oracle(), Table(schema)
        rows: dict[Any, dict[str, Any]] = {}
        now = last = 1_000 * SECOND
        gap: tuple[int, list[int]] | None = None
        gaps: list[tuple[int, int | None, list[int]]] = []
        era, proven = now, 0
        known = now - 1  # that it was read at a moment does not say that it is heard from then on
        table.apply([Upsert(key, {}) for key in data.draw(st.lists(keys(schema), unique=True))])
        rows = {key: table.get(key) or {} for key in table.keys()}  # noqa: SIM118
        past.begin(schema, table.parts(), now, View(), "snapshot")
        oracle.keep(now, schema, rows)
        moments = {now}
        last += 1

        def begin_anew() -> None:
            nonlocal table, last, known, era
            table = Table(schema)
            table.apply([Upsert(key, row) for key, row in rows.items()])
            past.begin(schema, table.parts(), now, View(), "snapshot")
            era = last = max(now, last)
            known = max(known, last - 1) if gap is None else known
            oracle.keep(last, schema, rows)
            last += 1

        for pause, step in story:
            now += round(pause * SECOND)
            match step:
                case ("ops" | "truncate", *more):
                    truncated = not more
                    ago = None if truncated else more[1]
                    at = None if ago is None else (now - round(ago * SECOND)) / 1e6
                    ops = (
                        [Delete(key) for key in rows] if truncated else ops_of(more[0], at, schema)
                    )
                    past.add(ops, "stream" if truncated else more[2], now)
                    read = not truncated and more[2] != "stream"
                    since = None
                    if ops and at is not None and round(at * 1e6) < last - TOLD_TO:
                        since, until = round(at * 1e6) - 1, last
                    elif ops and at is None and read:
                        since, until = max(proven, era - 1), max(now, last)
                    if since is not None and gap is not None:
                        gap = (min(gap[0], since), gap[1])
                    elif since is not None and at is None:
                        gaps.append((min(known, since), until, []))
                        known = until
                    elif since is not None:
                        gaps.append((since, until, []))
                    for op in ops:
                        was = {key: dict(row) for key, row in rows.items()}
                        play(rows, op, schema)
                        if isinstance(op, Upsert) or rows != was:
                            last = max(last, now if op.at is None else round(op.at * 1e6))
                            oracle.keep(last, schema, rows)
                    if ops and ops[-1].at is not None and gap is None:
                        known = max(known, round(ops[-1].at * 1e6))
                case ("load",):
                    rows = {key: rows[key] for key in sorted(rows, key=repr)}
                    begin_anew()
                case ("columns",):
                    if schema.key != ("id",):
                        continue
                    schema = SINGLE if schema is ANOTHER else ANOTHER
                    rows = {
                        key: {name: row.get(name) for name in schema.names}
                        for key, row in rows.items()
                    }
                    begin_anew()
                case ("lose",):
                    past.lose("lost")
                    gap = gap or (known, [])
                case ("prove",):
                    past.prove(now)
                    proven = now
                    known = max(known, now, last)
                    if gap is not None:
                        gap[1].append(max(now, last))
                case ("regain",):
                    past.regain(now)
                    if gap is not None:
                        known = max(now, last)
                        gaps.append((gap[0], known, gap[1]))
                        gap = None
                    else:
                        known = max(known, era)
                case ("forget",):
                    past.forget(now)
            moments |= {last - 1, last, last + 1, now}
        if gap is not None:
            gaps.append((gap[0], None, gap[1]))
        began = past.began
        assert began is not None
        assert began <= max(now - 60 * SECOND, 1_000 * SECOND)
        looked = sorted(moments | {now + SECOND})
        for when in data.draw(
            st.lists(st.sampled_from(looked), min_size=1, max_size=8, unique=True)
        ):
            if when < began:
                with pytest.raises(ForgottenMomentError):
                    past.at(when)
                continue
            moment = past.at(when)
            of, expected = oracle.at(when)
            assert moment.schema == of
            found = moment.table()
            assert list(found.keys()) == list(expected)
            assert all(equal(found.get(key), row) for key, row in expected.items())
            inside = [
                one
                for one in gaps
                if one[0] < when and (one[1] is None or when < one[1]) and when not in one[2]
            ]
            assert (moment.gap is not None) == bool(inside)
        _tells_what_happened(past, began, now + SECOND)


def _tells_what_happened(past: Past, began: int, until: int) -> None:
    """From the first moment, what is told gives each later one; and what it says was before, was."""
    moment = past.at(began)
    rows = {key: moment.table().get(key) for key in moment.table().keys()}  # noqa: SIM118
    for told in past.changes_between(began, until):
        names = told.schema.names  # a column that is gone takes its values with it
        rows = {key: {name: (row or {}).get(name) for name in names} for key, row in rows.items()}
        if not len(told):
            continue
        lists = {side: pieces.rows_of(told.schema, getattr(told, side)) for side in ("old", "new")}
        for place, kind in enumerate(told.kinds.tolist()):
            new, old = lists["new"][place], lists["old"][place]
            key = told.schema.key_of(new)
            if KINDS[kind] != "insert":
                assert equal(old, rows[key])
            if KINDS[kind] == "delete":
                del rows[key]
            else:
                rows[key] = new
    table = past.at(until).table()
    assert rows.keys() == {*table.keys()}
    assert all(equal(row, table.get(key)) for key, row in rows.items())


def test_bytes_bound_what_is_kept_and_it_says_so() -> None:
    past = Past(10**15, 300_000)
    table = Table(SINGLE)
    table.apply([Upsert(key, {}) for key in range(100)])
    past.begin(SINGLE, table.parts(), 0, View(), "snapshot")
    for at in range(1, 10_000):
        past.add([Upsert(at % 100, {"n": at}, at / 1e6)], "stream", at)
        if at % 500 == 0:
            past.forget(at)
    past.forget(10_000)
    assert past.nbytes < 300_000
    assert past.squeezed
    assert past.began is not None
    assert past.began > 5_000
    assert len(past) + past.forgotten == 9_999
    assert past.at(9_999).table().get(99) == {**dict.fromkeys(SINGLE.names), "id": 99, "n": 9_999}


def test_rows_that_are_gone_leave_no_trace_when_they_are_forgotten() -> None:
    table = Table(SINGLE)
    record = Record(SINGLE, table.parts(), 0)
    for at in range(1, 20_000):
        record.add([Upsert(at, {"n": at}), Delete(at - 1)], [None, None], 0, at)
    record.forget(19_000)
    assert len(record._there) < 5_000
    assert list(Table(SINGLE).keys()) == []
    columns = record.at(19_999)
    assert pieces.keys_of(SINGLE, columns) == [19_999]


def test_a_clock_that_is_put_right_ends_no_gap_before_it_began() -> None:
    """What is known of the server's clock becomes more exact with each answer."""
    past = Past(10**15, 10**9)
    past.begin(SINGLE, Table(SINGLE).parts(), 10 * 1_000_000, View(), "snapshot")
    past.prove(12 * 1_000_000)
    past.lose("no network")
    past.regain(11 * 1_000_000)
    (gap,) = past.gaps
    assert (gap.since, gap.until) == (12 * 1_000_000, 12 * SECOND)


def test_another_login_leaves_nothing() -> None:
    past = Past(10**15, 10**9)
    past.begin(SINGLE, Table(SINGLE).parts(), 0, View(), "snapshot")
    past.add([Upsert(1, {"n": 1})], "stream", 5)
    past.drop()
    with pytest.raises(ForgottenMomentError):
        past.at(7)
    assert (len(past), past.forgotten) == (0, 1)


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_clock_that_is_set_leaves_times_that_rise_and_one_gap(hours: int) -> None:
    """By whichever clock, of the server or of this machine: it is set, and right again ten changes later."""
    past, table = Past(10**15, 10**9), Table(SINGLE)
    table.apply([Upsert(1, {"n": 0})])
    start = 10**15
    past.begin(SINGLE, table.parts(), start, View(), "snapshot")
    past.prove(start)
    for step in range(1, 31):
        off = hours * 3600 * SECOND if 10 < step <= 20 else 0
        at = start + step * SECOND + off
        past.add([Upsert(1, {"n": step}, at / 1e6)], "stream", at)
        if step % 5 == 0:
            past.prove(at)
            past.add([Upsert(2, {"n": step})], "audit", at)
    (told,) = past.changes_between(start, 2 * start)
    assert told.times.tolist() == sorted(told.times.tolist())
    last = past.last
    assert last is not None
    assert past.at(last).table().get(1) == {**dict.fromkeys(SINGLE.names), "id": 1, "n": 30}
    assert len([gap for gap in past.gaps if gap.reason == LATE]) == 1
    for step in range(1, 10):
        when = start + step * SECOND
        moment = past.at(when)
        assert moment.gap is not None or (moment.table().get(1) or {})["n"] == step
