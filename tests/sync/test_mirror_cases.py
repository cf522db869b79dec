"""The behavior of a live table in each case of the design (promises, promises 2 to 9)."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from msgspec import structs

from notebook_rt.errors import (
    DuplicateKeyError,
    MissingColumnError,
    NoPrimaryKeyError,
    NotPublishedError,
    RefusedError,
    UnknownKeyError,
)
from notebook_rt.model.filters import parse
from notebook_rt.model.order import parse_order
from notebook_rt.model.spec import TableSpec
from notebook_rt.model.types import Column, Schema
from notebook_rt.options import Options
from notebook_rt.store.table import Table
from notebook_rt.sync.events import (
    AuditNow,
    Change,
    ColumnsSuspect,
    Confirmed,
    Failed,
    Fetch,
    Gap,
    Logged,
    Page,
    Progress,
    Published,
    Received,
    ReceivedMany,
    Refused,
    Rejoin,
    Shown,
    StatusChanged,
)
from notebook_rt.sync.table import nulls
from notebook_rt.sync.table.comparison import Comparison
from notebook_rt.sync.table.horizon import Read
from tests.sync.simulation import Faults, Server, World

COLUMNS = {"id": "int8", "grp": "int4", "note": "text", "rev": "int8"}


def server(rows: int = 8, columns: dict[str, str] | None = None, **more: Any) -> Server:
    made = Server(dict(columns or COLUMNS), **more)
    for key in range(1, rows + 1):
        made.write(key, {"grp": key % 3, "note": "start"})
    return made


def live(spec: TableSpec | None = None, one: Server | None = None, **more: Any) -> World:
    world = World(spec or TableSpec("t"), one or server(), **more)
    world.connect()
    world.run(8)
    assert world.failed is None
    assert world.mirror.status == "live"
    return world


def told(world: World, kind: type) -> list[Any]:
    return [effect for _, effect in world.effects if isinstance(effect, kind)]


def fetches(world: World) -> list[dict[str, str]]:
    return [dict(effect.query.params) for effect in told(world, Fetch)]


def same(world: World) -> bool:
    return world.differences == {}


# Promise 2 --------------------------------------------------------------------------------------


def test_the_snapshot_begins_at_the_confirmation_and_is_shown_as_one() -> None:
    world = World(TableSpec("t"), server(40))
    world.connect()
    world.run(8)
    kinds = [type(e).__name__ for _, e in world.effects if isinstance(e, (Shown, Published))]
    assert kinds == ["Shown", "Published"]
    done = [
        e.done for e in told(world, Progress)
    ]  # by page as it comes: the short one is no last one
    assert sorted(b - a for a, b in pairwise([0, *done])) == [5, 7, 7, 7, 7, 7]
    assert {e.total for e in told(world, Progress)} == {40}
    assert [e.status for e in told(world, StatusChanged)] == ["live"]


def read_to_the_end(rows: int, again: float | None) -> World:
    """A load of so many rows, whose join was confirmed once more after ``again`` seconds."""
    one = server(rows, describes="not")
    world = World(TableSpec("t"), one, options=Options(page_size=7, audit_interval=0))
    world.connect()
    while world.confirmed_at is None:
        world.run(0.01)
    world.requests = 0
    if again is not None:
        world.at(world.now + again, lambda: world.handle(Confirmed()))
    world.run(60)
    assert same(world)
    assert world.mirror.status == "live"
    return world


@pytest.mark.parametrize(
    ("again", "most"),
    [(0.3, 1.4), (1.0, 2.2), (6.0, 2.2)],
)
def test_a_second_confirmation_of_a_join_does_not_double_a_long_load(
    again: float, most: float
) -> None:
    """A hosted project confirms each join twice, 0.3 s apart: what had just begun begins again."""
    once, twice = read_to_the_end(1_400, None), read_to_the_end(1_400, again)
    assert twice.requests <= most * once.requests
    assert len(told(twice, Shown)) == 1


def asked_until_shown(sensors: int, again: float | None) -> int:
    """Requests of a load of 200 pages of so many runs, whose join was confirmed once more."""
    one = Server({"sensor": "int4", "at": "int8"}, ("sensor", "at"), max_rows=6, describes="not")
    for n in range(1_200):
        one.write((n % sensors, n), {})
    world = World(
        TableSpec("t"), one, options=Options(page_size=6, audit_interval=0, reads_at_once=8)
    )
    world.connect()
    while world.confirmed_at is None:
        world.run(0.01)
    if again is not None:
        world.at(world.now + again, lambda: world.handle(Confirmed()))
    while not told(world, Shown):
        world.run(0.01)
    assert same(world)
    return len(told(world, Fetch))


@pytest.mark.parametrize("sensors", [1, 12, 60])
def test_a_second_confirmation_shows_a_table_of_runs_little_later(sensors: int) -> None:
    """Pages that wait for those before them have been read, and would be read once more."""
    once = asked_until_shown(sensors, None)
    for again in (0.2, 0.5, 0.8):
        assert asked_until_shown(sensors, again) <= 1.1 * once + 3


def test_without_a_socket_reading_begins_after_some_patience() -> None:
    world = World(TableSpec("t"), server())
    world.run(4)
    assert world.mirror.rows is None
    world.run(4)
    assert same(world)
    assert world.mirror.status == "polling"


def test_a_server_that_gives_fewer_rows_than_asked_hides_none() -> None:
    for cap in (1, 2, 5, 8, 9):
        world = live(one=server(9, max_rows=cap), options=Options(page_size=1000))
        assert same(world), cap


def test_a_small_table_is_one_read() -> None:
    world = World(TableSpec("t"), server(5), faults=Faults(read_time=(0.001, 0.01)))
    world.connect()
    while world.mirror.status != "live":
        world.run(0.1)
    assert len(fetches(world)) == 3  # the description beside some rows; all rows with their count


# Promise 9: a policy that hides everything ---------------------------------------------------------


def test_a_table_read_without_a_row_may_be_hidden_by_a_policy() -> None:
    assert live(one=server(0)).mirror.may_be_hidden
    assert not live(one=server(1)).mirror.may_be_hidden


def test_a_table_whose_last_row_was_deleted_is_hidden_by_no_policy() -> None:
    for rows in (0, 1):
        world = live(one=server(rows))
        world.server.write(9, {"grp": 2, "note": "new"})
        world.run(1)
        for key in range(1, rows + 1):
            world.server.write(key, None)
        world.server.write(9, None)
        world.run(60)
        assert same(world)
        assert not world.view
        assert not world.mirror.may_be_hidden


def test_rows_that_are_gone_without_a_word_may_be_hidden_by_a_policy() -> None:
    one = server(3)
    world = live(one=one)
    one.write(2, None)
    world.run(1)
    one.allowed = lambda row: False
    world.run(60)
    assert not world.view
    assert world.mirror.may_be_hidden


# Promise 3 --------------------------------------------------------------------------------------


def test_a_gap_is_told_and_closed() -> None:
    world = live()
    world.effects.clear()
    world.gap()
    assert world.mirror.status == "stale"
    world.run(2)
    assert world.mirror.status == "live"
    assert [e.what for e in told(world, Logged)] == ["gap", "reconciled"]


def test_a_watermark_reads_only_what_changed() -> None:
    one = server(60, {**COLUMNS, "updated_at": "timestamptz"})
    world = live(one=one, options=Options(page_size=20, audit_interval=60))
    world.run(120)
    world.disconnect()
    one.write(7, {"grp": 9})
    one.write(61, {"grp": 9})
    world.effects.clear()
    world.connect()
    done = []
    while not done:  # an audit follows, and has requests of its own
        world.run(0.1)
        done = [e for e in told(world, Logged) if e.what == "reconciled" and e.detail["differing"]]
    assert same(world)
    assert [one.detail["method"] for one in done] == ["watermark"]
    assert len(fetches(world)) <= 6


def test_a_watermark_that_nothing_keeps_is_not_believed() -> None:
    one = server(60, {**COLUMNS, "updated_at": "timestamptz"}, moves_watermark=False)
    world = live(one=one, options=Options(page_size=20))
    world.run(100)
    one.write(3, {"grp": 9})  # seen, and its updated_at is not that of its commit
    world.run(3)
    world.disconnect()
    one.write(7, {"grp": 9})
    world.connect()
    world.run(5)
    assert same(world)


@pytest.mark.parametrize("counts_most", [None, 110, 30])
@pytest.mark.parametrize("gone", [(1,), (77,), (200,), (3, 150)])
def test_keys_that_are_gone_are_found_by_halving(
    gone: tuple[int, ...], counts_most: int | None
) -> None:
    """By ranges that the server can count in the time that a statement may take, if it cannot count all."""
    columns = {**COLUMNS, "updated_at": "timestamptz"}
    one = server(200, columns, max_rows=10, counts_most=counts_most)
    quick = Faults(read_time=(0.005, 0.02))
    world = live(one=one, options=Options(page_size=10, audit_interval=0), faults=quick)
    for key in range(50, 70):  # which are read by key, since they changed last
        one.write(key, {"note": "later"})
    world.run(100)
    world.gap()  # a first proof, so that the next reconciliation looks back a minute and no more
    world.run(5)
    world.disconnect()
    for key in gone:
        one.write(key, None)
    world.effects.clear()
    world.connect()
    world.run(10)
    assert same(world)
    methods = [e.detail["method"] for e in told(world, Logged) if e.what == "reconciled"]
    assert "watermark and counts" in methods or counts_most == 30
    methods.clear()
    world.gap()  # nothing is gone any more: the counts say so, and no key is read
    world.effects.clear()
    world.run(5)
    methods = [e.detail["method"] for e in told(world, Logged) if e.what == "reconciled"]
    assert methods == ["watermark"]


def test_a_table_keyed_by_two_columns_is_counted_by_ranges_that_a_statement_can_count() -> None:
    """By its first column: no request counts all of a large table, whatever its key."""
    columns = {"a": "int8", "b": "int8", "updated_at": "timestamptz"}
    one = Server(columns, ("a", "b"), max_rows=10, counts_most=60)
    for n in range(200):
        one.write((n % 20, n), {})
    quick = Faults(read_time=(0.005, 0.02))
    world = live(one=one, options=Options(page_size=10, audit_interval=0), faults=quick)
    world.run(100)
    world.gap()
    world.run(5)
    world.effects.clear()
    world.gap()
    world.run(5)
    assert same(world)
    methods = [e.detail["method"] for e in told(world, Logged) if e.what == "reconciled"]
    assert methods == ["watermark"]


def test_an_unreadable_change_is_a_gap() -> None:
    world = live()
    columns = (Column("id", "int8"),)
    world.handle(Received(Change("INSERT", {}, None, columns, None, ("Error 401: Unauthorized",))))
    assert world.mirror.status == "stale"
    world.run(3)
    assert world.mirror.status == "live"


@pytest.mark.parametrize(
    ("key", "old", "clear"),
    [
        (3, {"grp": 0}, True),  # the row of this key is the one that was changed
        (3, {"grp": 1}, False),
        (99, {"grp": 0}, False),
        (3, {"of_no_column_that_is_kept": 0}, False),
        (3, {}, True),
    ],
)
def test_an_update_that_does_not_say_its_old_key_is_a_gap_unless_it_is_of_the_row_here(
    key: int, old: dict[str, Any], clear: bool
) -> None:
    """So they are where rows are told apart by a unique column that is not the replica identity."""
    world = live(one=server(8))
    columns = tuple(Column(*one) for one in COLUMNS.items())
    row = {"id": key, "grp": 5, "note": "changed", "rev": 10**6}
    world.handle(Received(Change("UPDATE", row, old, columns, world.server.now)))
    assert world.mirror.status == ("live" if clear else "stale")


def test_too_many_changes_while_loading_are_a_gap_and_not_a_leak() -> None:
    one = server(30)
    world = World(TableSpec("t"), one, options=Options(page_size=3, buffer_size=10))
    world.connect()
    for n in range(400):
        world.run(0.02)
        one.write(n % 30 + 1, {"grp": n})
    world.settle(10)
    assert same(world)
    assert world.mirror.status == "live"


# Promise 4 --------------------------------------------------------------------------------------


def test_the_audit_finds_a_truncate() -> None:
    world = live(options=Options(page_size=100))
    world.server.truncate()
    world.run(3)
    assert len(world.view) == 8
    world.run(68)
    assert world.view == {}
    assert [e.detail["rows"] for e in told(world, Logged) if e.what == "drift"] == [8]


def test_a_change_that_is_lost_just_after_one_of_its_row_is_counted() -> None:
    """The audit's read may have been before what was just told; the row is read again, and is another."""
    world = live()
    for number in (41, 42):
        world.server.write(1, {"grp": number})
        world.run(0.5)
    world.faults = Faults(loss=1.0)
    world.server.write(1, {"grp": 43})
    world.handle(AuditNow())
    world.run(12)
    audit = [e.detail for e in told(world, Logged) if e.what == "audit"][1]
    assert (audit["differing"], audit["undecided"]) == (0, {1})
    assert same(world)
    assert [e.detail for e in told(world, Logged) if e.what == "drift"] == [
        {"rows": 1, "final": True}
    ]


def test_what_audits_in_a_row_mend_is_all_counted() -> None:
    """Whether it was drift is known five seconds later; the next audit may be done by then."""
    world = live(faults=Faults(loss=1.0))
    for key in range(1, 9):
        world.server.write(key, {"grp": 40 + key})
        world.handle(AuditNow())
        world.run(2.5)
    world.run(12)
    assert same(world)
    assert sum(e.detail["rows"] for e in told(world, Logged) if e.what == "drift") == 8


@pytest.mark.parametrize(
    ("rows", "latency", "every"),
    [(8, (0.2, 0.9), 0.1), (300, (0.2, 0.9), 0.1), (300, (0.002, 0.02), 0.01)],
)
@pytest.mark.parametrize(
    "spec",
    [
        TableSpec("t"),
        TableSpec("t", filter=parse("grp=lt.200")),
        TableSpec("t", order=parse_order("grp.desc"), limit=5),
    ],
    ids=["all", "filtered", "ordered"],
)
@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(n, marks=pytest.mark.nightly) for n in (1, 2, 3))]
)
def test_an_audit_of_a_true_table_finds_nothing_while_it_changes(
    spec: TableSpec, rows: int, latency: tuple[float, float], every: float, seed: int
) -> None:
    """Neither a change that is still on its way is drift, nor one that waits to be understood, nor
    that the window has moved.
    """
    options = Options(page_size=100, audit_interval=2)
    one, chance = server(rows), random.Random(seed)
    world = World(spec, one, seed=seed, faults=Faults(latency=latency), options=options)
    world.connect()
    for n in range(1300):
        world.run(every)
        one.write(chance.randint(1, rows), {"grp": n * 37 % 300} if n % 9 else None)
    world.settle(5)
    assert same(world)
    world.run(10)
    assert [e for e in told(world, Logged) if e.what == "drift"] == []
    assert [e for e in told(world, Logged) if e.what == "audit"] != []


def test_a_server_that_is_silent_is_doubted_and_its_polls_are_not_said_to_refresh() -> None:
    """Its network may hold what is sent, and say nothing for as long as a heartbeat takes."""
    world = live(options=Options(audit_interval=0, request_timeout=30.0))
    assert world.mirror.doubt == ""
    world._fetch = lambda request, query: None  # type: ignore[method-assign]  # no answer ever comes
    world.handle(AuditNow())
    world.run(4.9)
    assert world.mirror.doubt == ""
    world.run(0.2)
    assert (world.mirror.status, "has not answered" in world.mirror.doubt) == ("live", True)
    world.disconnect()
    world.run(8)
    assert world.mirror.status == "stale"
    assert "has not answered" in told(world, StatusChanged)[-1].reason


# Promises 5 and 6 -------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_a_value_that_is_missing_from_a_change_is_unchanged(seed: int) -> None:
    world = live(seed=seed, faults=Faults(toast=True))
    for n in range(60):
        world.run(0.1 * (n % 3))
        world.server.write(n % 12 + 1, None if n % 11 == 0 else {"grp": n})
    world.settle(5)
    assert same(world)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("text", [None, "grp=neq.1", "note=eq.start"])
def test_a_truncated_row_is_fetched_and_never_shown_in_part(seed: int, text: str | None) -> None:
    spec = TableSpec("t", filter=parse(text))
    world = live(spec, seed=seed, faults=Faults(truncated=0.4, toast=seed % 2 == 0))
    for n in range(60):
        world.run(0.1 * (n % 4))
        note = "start" if n % 5 else f"note {n}"
        world.server.write(n % 12 + 1, None if n % 11 == 0 else {"grp": n % 3, "note": note})
    world.settle(5)
    assert same(world)


def test_an_update_of_the_key_moves_the_row() -> None:
    world = live()
    columns = tuple(Column(*one) for one in COLUMNS.items())
    record = {**world.server.rows[1], "id": 99}
    change = Change("UPDATE", record, {"id": 1}, columns, world.server.clock)
    world.server.rev += 1
    world.server.history[99] = [(record["rev"], record)]
    world.server.history[1].append((world.server.rev, None))
    world.run(5)
    world.handle(ReceivedMany([change]))
    assert 1 not in world.view
    assert world.view[99]["note"] == "start"


@pytest.mark.parametrize("hundredths", range(0, 60, 4))
def test_a_row_whose_key_is_updated_while_it_is_read_does_not_come_back(hundredths: int) -> None:
    unaudited = Options(audit_interval=0)
    quick = Faults(latency=(0.01, 0.01), read_time=(0.4, 0.4))
    world = live(options=unaudited, faults=replace(quick, truncated=1.0))
    world.server.write(1, {"grp": 7})  # cut short, so read by key
    world.run(hundredths / 100)
    world.faults = quick
    world.server.move(1, 99)
    world.run(10)
    assert same(world)


@pytest.mark.parametrize("tenths", range(1, 30))
def test_a_change_that_a_later_one_has_covered_does_not_come_back_with_a_patch(tenths: int) -> None:
    unaudited = Options(audit_interval=0)
    quick = Faults(latency=(0.01, 0.01), read_time=(0.05, 0.05))
    world = live(options=unaudited, faults=replace(quick, truncated=1.0))
    world.server.write(1, {"note": "first"})  # cut short, so read by key
    world.run(0.9)
    world.faults = quick
    world.server.write(1, {"note": "covered"})
    world.run(0.1)
    world.server.write(1, {"note": "last"})
    world.run(1.0 + tenths / 10)
    world.faults = replace(quick, toast=True)
    world.server.write(1, {"grp": 9})  # says nothing of the note
    world.run(8)
    assert same(world)


@pytest.mark.parametrize("seed", range(10))
def test_a_narrow_frame_that_a_read_agrees_with_vouches_for_no_full_one_before_it(
    seed: int,
) -> None:
    spec = TableSpec("t", filter=parse("grp=eq.1"))
    fast = Faults(latency=(0.001, 0.05))
    world = World(spec, server(), seed=seed, options=Options(audit_interval=0), faults=fast)
    world.server.unseen = 1.0
    world.connect()
    world.run(1.0)
    world.server.write(1, {"note": "new"})
    world.run(8)
    assert same(world)


def test_a_hot_row_is_read_once_and_then_streams() -> None:
    world = live(faults=Faults(latency=(0.01, 0.02), read_time=(0.01, 0.05)))
    world.gap()
    world.run(0.3)
    world.effects.clear()
    for n in range(100):
        world.run(0.1)
        world.server.write(1, {"grp": n})
    world.run(1)
    assert same(world)
    assert len(fetches(world)) <= 4


# Promise 7 --------------------------------------------------------------------------------------


def test_a_row_moved_out_of_the_filter_leaves_at_once() -> None:
    world = live(TableSpec("t", filter=parse("grp=eq.1")))
    world.run(5)
    world.effects.clear()
    world.server.write(1, {"grp": 2})
    world.server.write(2, {"grp": 1})
    world.run(1)
    assert same(world)
    assert fetches(world) == []


@pytest.mark.parametrize("tenths", range(1, 30))
def test_a_row_that_came_back_and_left_again_while_its_key_was_to_be_read_is_out(
    tenths: int,
) -> None:
    # What is held of it is let go as one: the row comes in with the first frame, and must be seen
    # to be there by the one that takes it out.
    spec, unaudited = TableSpec("t", filter=parse("grp=eq.1")), Options(audit_interval=0)
    quick = Faults(latency=(0.01, 0.01), read_time=(0.05, 0.05))
    world = live(spec, options=unaudited, faults=replace(quick, truncated=1.0))
    world.server.write(1, {"grp": 2})  # cut short, so read by key: newer than what comes soon
    world.run(0.3)
    assert same(world)
    world.faults = quick
    world.server.write(1, {"grp": 1})
    world.run(tenths / 10)
    world.server.write(1, {"grp": 2})
    world.run(5)
    assert same(world)


def test_a_filter_that_the_socket_cannot_carry_is_applied_here() -> None:
    spec = TableSpec("t", filter=parse({"grp": list(range(0, 300, 2))}))
    world = live(spec)
    assert [b.filter for b in world.mirror.bindings] == [None]
    for n in range(50):
        world.run(0.2)
        world.server.write(n % 9 + 1, {"grp": n})
    world.settle(3)
    assert same(world)


def test_a_filter_that_only_the_server_understands_is_decided_by_the_server() -> None:
    world = live(TableSpec("t", filter=parse("note=gt.m")))
    for n in range(50):
        world.run(0.2)
        world.server.write(n % 9 + 1, {"note": "az"[n % 2] + str(n)})
    world.settle(5)
    shown = {key for key, row in world.server.rows.items() if row["note"] > "m"}
    assert set(world.view) == shown


def test_rows_that_a_policy_hides_leave() -> None:
    world = live(options=Options(page_size=100))
    world.server.allowed = lambda row: row["grp"] != 1
    world.gap()
    world.run(3)
    assert same(world)
    world.server.allowed = lambda row: False
    world.run(62)
    assert world.view == {}


# Promise 8: see the laws ------------------------------------------------------------------------


def test_a_row_that_leaves_the_first_three_is_followed_without_a_read() -> None:
    world = live(TableSpec("t", order=parse_order("grp.desc"), limit=3), server(30))
    world.run(5)
    world.effects.clear()
    world.server.write(2, None)
    world.run(1)
    assert same(world)
    assert fetches(world) == []


# Promise 9 --------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [None, 5])
def test_what_is_shown_first_is_in_the_order_that_only_the_server_knows(limit: int | None) -> None:
    one = server(40)
    for key in range(1, 41):
        one.write(key, {"note": f"n{key * 7 % 40:02}"})
    world = World(TableSpec("t", order=parse_order("note.desc"), limit=limit), one)
    world.connect()
    while world.mirror.rows is None:
        world.run(0.001)
    assert same(world)


def test_a_column_added_and_one_dropped_while_live() -> None:
    world = live()
    world.run(5)
    world.server.alter({"id": "int8", "grp": "int4", "more": "text", "rev": "int8"})
    world.server.write(1, {"more": "news"})
    world.run(4)
    assert world.mirror.schema is not None
    assert world.mirror.schema.names == ("id", "grp", "more", "rev")
    assert world.view[1]["more"] == "news"
    assert world.mirror.status == "live"
    assert [e.what for e in told(world, Logged)].count("schema") == 1


@pytest.mark.parametrize("describes", ["by the API", "by SQL", "not"])
def test_columns_added_one_after_another_are_seen_with_the_first_change_by_broadcast(
    describes: Any,
) -> None:
    one = server(describes=describes)
    one.broadcasts = True
    world = World(TableSpec("t", source="broadcast"), one)
    world.connect()
    world.run(5)
    names = dict(COLUMNS)
    for added in ("more", "most"):
        names[added] = "text"
        one.alter(dict(names))
        one.write(1, {added: "news"})
        world.run(4)
        assert world.view[1][added] == "news"
        assert world.mirror.status == "live"


def test_a_null_of_a_column_that_is_dropped_before_its_row_is_read_harms_no_read() -> None:
    known = nulls.Nulls(Schema((Column("id", "int8"), Column("price", "float8")), ("id",)))
    known.learn([{"id": 1, "price": None}], {"id": 1})
    assert known.uncertain == {"price": 0}
    known.learn([{"id": 1, "price": None}], {"id": 1, "price": None})
    assert known.uncertain == {"price": 1}


@pytest.mark.parametrize("rows", [8, 300])
def test_the_audit_sees_a_column_that_was_recreated(rows: int) -> None:
    """Its rows have the versions that they had."""
    world = live(one=server(rows), options=Options(page_size=20))
    for row in world.server.rows.values():
        row["note"] = None
    assert not same(world)
    world.handle(AuditNow())
    world.run(8)
    assert same(world)


def test_an_audit_goes_on_where_versions_are_not_told_any_more() -> None:
    world = live(one=server(300), options=Options(page_size=20))
    world.server.passes_xmin = False
    world.server.rows[7]["note"] = "lost"
    world.handle(AuditNow())
    world.run(8)
    assert same(world)
    assert world.mirror.status == "live"


def test_a_column_added_is_seen_by_polling_too() -> None:
    world = World(TableSpec("t"), server(), options=Options(page_size=100))
    world.run(10)
    world.server.alter({**COLUMNS, "more": "text"})
    world.run(30)
    assert world.mirror.schema is not None
    assert "more" in world.mirror.schema.names
    assert same(world)


@pytest.mark.parametrize("seed", range(20))
def test_keys_of_several_columns_and_of_text(seed: int) -> None:
    one = Server(
        {"a": "int4", "b": "text", "grp": "int4", "rev": "int8"}, key=("a", "b"), max_rows=5
    )
    for n in range(20):
        one.write((n % 4, f'k,"{n % 7}'), {"grp": n})
    world = live(one=one, seed=seed)
    for n in range(60):
        world.run(0.1)
        one.write((n % 4, f'k,"{n % 9}'), {"grp": n} if n % 5 else None)
        if n % 20 == 7:
            world.connect()
    world.settle(10)
    assert same(world)


def test_a_projection_carries_key_order_and_version() -> None:
    one = server(9, {**COLUMNS, "updated_at": "timestamptz"})
    spec = TableSpec("t", columns=("note",), order=parse_order("grp"), filter=parse("rev=gt.0"))
    world = World(spec, one)
    assert world.mirror.bindings == ()
    world.run(1)
    assert told(world, Rejoin) != []
    assert world.mirror.schema is not None
    assert world.mirror.schema.names == ("id", "note", "grp", "updated_at")
    world.connect()
    world.run(5)
    one.write(3, {"note": "x"})
    world.run(1)
    assert same(world)


def test_a_table_without_a_key_is_refused_and_never_altered() -> None:
    world = World(TableSpec("t"), server(0, key=()))
    world.run(2)
    assert isinstance(world.failed, NoPrimaryKeyError)
    assert "key=..." in str(world.failed)
    assert "alter table" not in str(world.failed)
    assert world.mirror.status == "error"


@pytest.mark.parametrize("describes", ["by the API", "by SQL", "not"])
@pytest.mark.parametrize(
    "slip", [{"columns": ("zzz",)}, {"key": ("zzz",)}, {"filter": parse("zzz=eq.1")}]
)
def test_a_column_that_is_not_there_is_named(slip: dict[str, Any], describes: Any) -> None:
    world = World(TableSpec("t", **slip), server(describes=describes))
    world.run(5)
    assert isinstance(world.failed, MissingColumnError)
    assert '"zzz"; there are' in str(world.failed)


def test_a_table_that_is_not_published_is_refused() -> None:
    world = World(TableSpec("t"), server())
    world.handle(Refused(NotPublishedError("public", "t"), final=True))
    assert isinstance(told(world, Failed)[0].error, NotPublishedError)
    assert world.mirror.status == "error"


def test_a_refused_stream_that_may_come_back_is_polled() -> None:
    world = World(TableSpec("t"), server())
    world.handle(Refused(RuntimeError("too many channels"), final=False))
    world.run(3)
    assert same(world)
    assert world.mirror.status == "polling"


def test_the_first_poll_does_not_wait_for_several_times_a_slow_load() -> None:
    """Sixty tables that were opened at once were first polled after 20 s, where 1 s was asked for."""
    options = Options(page_size=7, poll_interval=1.0)
    world = World(TableSpec("t"), server(), faults=Faults(read_time=(1.0, 1.0)), options=options)
    began = world.now
    world.handle(Refused(RuntimeError("too many channels"), final=False))
    while world.mirror.rows is None:
        world.run(0.1)
    took = world.now - began
    assert took > 2
    world.faults.read_time = (0.01, 0.01)
    world.server.write(1, {"grp": 99})
    world.run(took + 1)
    assert same(world)


def test_reads_that_are_refused_again_and_again_are_an_error() -> None:
    world = live()

    def refuse(query: Any) -> Any:
        raise RefusedError("GET /t", 403, "42501", "permission denied for table t")

    world.server.select = refuse  # type: ignore[method-assign]  # the grant is gone
    world.gap()
    world.run(1)
    assert world.failed is None
    world.run(30)
    assert "may not select" in str(world.failed)


def test_without_a_description_the_columns_are_found_by_asking() -> None:
    world = live(one=server(describes="not"))
    assert world.mirror.schema is not None
    assert world.mirror.schema.key == ("id",)
    assert same(world)


@pytest.mark.parametrize("key", [("note",), ("grp", "note"), ("grp", "note", "part")])
def test_without_a_description_the_key_is_proven(key: tuple[str, ...]) -> None:
    one = Server({"grp": "int4", "note": "text", "part": "int8"}, key=key, describes="not")
    for number in range(6):
        parts = {"grp": number % 2, "note": f"n{number}", "part": number}
        values = tuple(parts[name] for name in key)
        one.write(values if len(key) > 1 else values[0], parts)
    world = live(one=one)
    assert world.mirror.schema is not None
    assert world.mirror.schema.key == key
    assert world.mirror.schema.types == one.columns
    assert same(world)


def test_a_table_whose_key_nobody_tells_asks_for_it_and_never_alters_it() -> None:
    one = Server({"a": "int4", "b": "text"}, key=(), describes="not")
    one.rows = {(): {"a": 1, "b": "x"}}
    one.xmin = {(): 1}
    world = World(TableSpec("t"), one)
    world.run(5)
    assert isinstance(world.failed, UnknownKeyError)
    words = str(world.failed)
    assert "it is not 'a', 'b', ('a', 'b')" in words
    assert "key=..." in words
    assert "notebook-rt doctor --sql" in words
    assert "alter table" not in words
    assert world.requests < 12


def test_an_empty_table_nobody_describes_opens_and_learns_its_columns_from_an_event() -> None:
    one = Server(dict(COLUMNS), describes="not")
    world = live(one=one)
    assert world.mirror.schema is not None
    assert world.mirror.schema.names == ("id",)
    one.write(1, {"note": "x"})
    world.run(5)
    assert world.mirror.schema.names == tuple(COLUMNS)
    assert same(world)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("pause", [0.0, 0.1, 0.2, 0.3, 0.6])
def test_the_first_row_names_all_columns_though_an_edit_has_named_some(
    seed: int, pause: float
) -> None:
    """The table is asked for those of the edit, perhaps just before the row is there."""
    one = Server(dict(COLUMNS), describes="not")
    world = live(one=one, seed=seed)
    world.handle(ColumnsSuspect(("note",)))
    world.run(2)
    world.handle(ColumnsSuspect(("grp",)))
    world.run(pause)
    one.write(1, {"note": "x"})
    world.run(5)
    assert world.mirror.schema is not None
    assert set(world.mirror.schema.names) == set(COLUMNS)
    assert same(world)


@pytest.mark.parametrize("seed", range(5))
def test_columns_are_said_to_be_known_no_sooner_than_they_are_there(seed: int) -> None:
    """An edit that names one which a row has just told waits for it, and is not refused."""
    one = Server(dict(COLUMNS), describes="not")
    world = live(one=one, seed=seed)
    world.handle(ColumnsSuspect(("note",)))
    world.run(2)
    world.events_stop = True  # a read brings the row
    one.write(1, {"note": "x"})
    world.handle(AuditNow())
    while not world.mirror.described.complete:
        world.run(0.005)
    assert world.mirror.schema is not None
    assert set(world.mirror.schema.names) == set(COLUMNS)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("unseen", [0.0, 0.6])
@pytest.mark.parametrize("text", [None, "grp=eq.1"])
def test_the_first_row_of_an_empty_table_comes_whole_and_in_the_stream(
    text: str | None, unseen: float, seed: int
) -> None:
    """The change that tells it names the columns, which nobody knew before."""
    one = Server(dict(COLUMNS), describes="not")
    spec = TableSpec("t") if text is None else TableSpec("t", filter=parse(text))
    world = live(spec, one, seed=seed)
    world.mirror.want_changes = True
    one.unseen = unseen
    one.write(1, {"note": "x", "grp": 1})
    committed = one.clock
    world.run(5)
    assert same(world)
    (batch,) = [one for one in told(world, Published) if one.changes]
    assert (batch.cause, batch.commit_time) == ("stream", committed)
    assert [(c.kind, c.key, c.new) for c in batch.changes] == [("insert", 1, one.rows[1])]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("broadcasts", [False, True])
def test_the_first_rows_of_an_empty_table_come_whole_by_every_way(
    broadcasts: bool, seed: int
) -> None:
    """By messages, an audit and polls: a row that is read names columns that nobody knew."""
    for way in ("messages", "audit", "poll"):
        one = Server(dict(COLUMNS), describes="not", broadcasts=broadcasts)
        world = live(TableSpec("t", source="broadcast" if broadcasts else "auto"), one, seed=seed)
        world.mirror.want_changes = True
        if way == "poll":
            world.disconnect()
        world.events_stop = way != "messages"
        one.write(1, {"note": "x", "grp": 1})
        if way == "audit":
            world.handle(AuditNow())
        world.run(15)
        assert same(world)
        shown = [c for batch in told(world, Published) for c in batch.changes]
        assert all(set(c.new or ()) == set(COLUMNS) for c in shown), shown


def test_an_audit_that_is_asked_for_before_the_log_has_a_position_ends_with_one() -> None:
    """What is committed after it is followed, and not kept for the next audit."""
    one = Server(dict(COLUMNS), broadcasts=True)
    one.write(1, {"note": "a"})
    world = live(TableSpec("t", source="broadcast"), one, options=Options(audit_interval=0))
    log = world.mirror._passes.log
    assert log is not None
    world.handle(AuditNow())
    log.forget()
    world.handle(Gap("what was missed is read from the table, not from its log"))
    world.handle(AuditNow())
    world.run(5)
    one.write(1, {"note": "b"})
    world.run(5)
    assert world.mirror.status == "live"
    assert same(world)


def test_a_loss_among_messages_that_are_followed_is_told_from_the_comparison_after_a_join() -> None:
    one = Server(dict(COLUMNS), broadcasts=True)
    one.write(1, {"note": "a"})
    world = live(TableSpec("t", source="broadcast"), one)

    def stale_and_missing() -> list[bool]:
        seen = []
        for _ in range(3000):
            world.run(0.001)
            if world.mirror.status == "stale":
                seen.append(world.mirror.missing)
        assert world.mirror.status == "live"
        assert not world.mirror.missing
        assert same(world)
        return seen

    one.write(1, {"note": "heard, which makes a hole before the next one a loss"})
    world.run(3)
    world.events_stop = True
    one.write(1, {"note": "b"})
    world.events_stop = False
    one.write(1, {"note": "c"})
    assert set(stale_and_missing()) == {True}
    world.disconnect()
    world.connect()
    assert set(stale_and_missing()) == {False}


def test_edits_of_two_columns_that_nobody_knew_are_answered_by_one_question() -> None:
    world = live(one=Server(dict(COLUMNS), describes="not"))
    world.handle(ColumnsSuspect(("note",)))
    world.handle(ColumnsSuspect(("grp",)))
    world.run(5)
    assert world.mirror.schema is not None
    assert {"note", "grp"} <= set(world.mirror.schema.names)


@pytest.mark.parametrize("unseen", [0.0, 0.6, 1.2])
@pytest.mark.parametrize("broadcasts", [False, True])
def test_the_first_row_names_all_columns_though_no_read_sees_it_yet(
    broadcasts: bool, unseen: float
) -> None:
    """A change may be told before its transaction is visible to others."""
    one = Server(dict(COLUMNS), describes="not", broadcasts=broadcasts)
    world = World(TableSpec("t", source="broadcast" if broadcasts else "auto"), one)
    world.connect()
    world.run(5)
    one.unseen = unseen
    one.write(1, {"note": "x"})
    world.run(4)
    assert world.mirror.schema is not None
    assert set(world.mirror.schema.names) == set(COLUMNS)
    assert same(world)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "columns",
    [
        {"id": "int8", "note": "text", "r": "float8", "rev": "int8"},
        {"id": "int8", "note": "text", "f": "float8", "rev": "int8", "added": "text"},
        {"id": "int8", "f": "float8", "rev": "int8"},
    ],
    ids=["another", "added", "dropped"],
)
def test_columns_that_moved_are_seen_though_a_null_of_the_change_has_to_be_read(
    columns: dict[str, str], seed: int
) -> None:
    """A null of a float column may be a NaN, so the row is read; the change names the columns anyway."""
    one = server(columns={"id": "int8", "note": "text", "f": "float8", "rev": "int8"})
    for key in range(1, 9):
        one.write(key, {"f": None if key < 5 else 1.5})
    world = live(one=one, seed=seed)
    one.alter(columns)
    one.write(1, {})
    world.run(3)
    assert world.mirror.schema is not None
    assert set(world.mirror.schema.names) == set(columns)
    assert same(world)


def test_a_column_that_came_stays_though_a_row_was_told_without_it_just_before() -> None:
    world = live(faults=Faults(latency=(0.01, 0.02), read_time=(0.001, 0.05)))
    world.server.write(1, {"grp": 41})
    world.run(0.2)
    world.server.alter({**COLUMNS, "added": "text"})
    world.server.write(2, {"added": "x"})
    world.run(8)
    shown = [set(e.schema.names) for e in told(world, Shown)]
    assert shown == [set(COLUMNS), {*COLUMNS, "added"}]
    assert same(world)


@pytest.mark.parametrize("describes", ["by the API", "by SQL", "not"])
def test_a_named_key_that_does_not_identify_rows_is_refused(describes: Any) -> None:
    one = server(describes=describes)
    for number in range(6):
        one.write(number, {"grp": number % 2})
    world = World(TableSpec("t", key=("grp",)), one)
    world.connect()
    world.run(5)
    assert isinstance(world.failed, DuplicateKeyError)
    assert "grp" in str(world.failed)


@pytest.mark.parametrize(("rows", "value"), [(2, 1), (2, None), (40, 1)])
@pytest.mark.parametrize("passes_xmin", [True, False])
def test_a_named_key_that_identifies_rows_no_longer_is_an_error_as_at_the_load(
    rows: int, value: int | None, passes_xmin: bool
) -> None:
    """It was drift that every audit repaired, for ever."""
    one = Server({"id": "int8", "grp": "int4", "note": "text"}, passes_xmin=passes_xmin)
    for number in range(rows):
        one.write(number, {"grp": number, "note": f"row {number}"})
    world = live(TableSpec("t", key=("grp",)), one, options=Options(page_size=7))
    one.write(rows, {"grp": value, "note": "later"})
    world.handle(AuditNow())
    world.run(10)
    assert isinstance(world.failed, DuplicateKeyError)
    assert world.mirror.status == "error"
    words = str(world.failed)
    assert "the same grp, or a null there" in words
    assert "'later'" in words
    assert value is None or "'row 1'" in words


@pytest.mark.parametrize("key", [("grp",), ("id", "grp")])
@pytest.mark.parametrize("later", [False, True])
def test_a_null_in_a_named_key_is_an_error_on_whatever_page_it_would_be(
    key: tuple[str, ...], later: bool
) -> None:
    """Pages by key pass over it, and a count of the rows that are here does as well."""
    one = Server({"id": "int8", "grp": "int4", "note": "text"})
    for number in range(40):
        one.write(number, {"grp": number, "note": f"row {number}"})
    if not later:
        one.write(3, {"grp": None})
    world = World(TableSpec("t", key=key), one, options=Options(page_size=7))
    world.connect()
    world.run(10)
    if later:
        assert world.failed is None
        one.write(3, {"grp": None})
        world.run(10)
    assert isinstance(world.failed, DuplicateKeyError)
    assert "'row 3'" in str(world.failed)


def test_a_row_that_comes_on_two_pages_of_an_audit_is_read_again_and_no_duplicate() -> None:
    """Pages that are read at a time overlap where rows come or go between two looks at the index."""
    world = live(one=server(8))
    replica = world.mirror._passes.replica
    assert replica is not None
    page = Page(tuple(world.server.rows.values()), None, 0.0)
    comparison = Comparison(replica)
    comparison.whole(Read(page, 0, 0.0))
    assert not comparison.twice
    comparison.whole(Read(structs.replace(page, rows=page.rows[:2]), 0, 0.0))
    assert comparison.twice == [1, 2]
    comparison.by_key([1, 2], Read(structs.replace(page, rows=page.rows[:2]), 0, 0.0))
    with pytest.raises(DuplicateKeyError):
        comparison.by_key(
            [1, 2], Read(structs.replace(page, rows=(*page.rows[:2], page.rows[0])), 0, 0.0)
        )


# Promise 11: a null over the socket may be NaN or an infinity --------------------------------------


PRICES = {"id": "int8", "price": "float8", "cost": "float8"}


def reads_by_key(world: World, key: int, values: dict[str, Any]) -> int:
    before = len(fetches(world))
    world.server.write(key, values)
    world.run(5)
    assert same(world)
    return sum("in." in query.get("id", "") for query in fetches(world)[before:])


def priced(audit_interval: float = 20.0, **more: Any) -> World:
    one = Server(dict(PRICES))
    for key in range(1, 9):
        one.write(key, {"price": 1.5, "cost": 1.5})
    options = Options(page_size=1000, audit_interval=audit_interval)
    return live(one=one, options=options, **more)


def learn_nulls(world: World) -> None:
    for n in range(nulls.TRUE_NULLS):
        assert reads_by_key(world, n % 8 + 1, {"price": None, "cost": 2.0 + n}) == 1


def test_nulls_that_were_true_often_enough_are_believed_column_by_column() -> None:
    world = priced(audit_interval=0)  # a change that comes during an audit is read for that reason
    learn_nulls(world)
    for key in range(1, 9):
        assert reads_by_key(world, key, {"price": None, "cost": 3.0}) == 0
    assert reads_by_key(world, 1, {"price": None, "cost": None}) == 1


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
def test_a_column_with_a_number_that_is_not_finite_is_never_believed(value: str) -> None:
    world = priced()
    world.server.write(8, {"price": value, "cost": 1.0})
    world.run(5)
    for n in range(2 * nulls.TRUE_NULLS):
        world.server.write(n % 7 + 1, {"price": None, "cost": n})
        world.run(5)
    before = len(fetches(world))
    world.server.write(1, {"price": value})
    world.run(5)
    assert len(fetches(world)) > before
    assert repr(world.view) == repr(world.truth)


def test_what_was_believed_wrongly_the_audit_fixes_and_believes_no_more() -> None:
    world = priced()
    learn_nulls(world)
    world.server.write(1, {"price": "Infinity", "cost": 1.0})
    world.run(1)
    assert world.view[1]["price"] is None
    world.run(70)
    assert same(world)
    assert reads_by_key(world, 2, {"price": "Infinity"}) == 1


def test_a_read_that_shows_a_nulls_column_to_have_numbers_asks_for_an_audit() -> None:
    world = priced()
    learn_nulls(world)
    world.server.write(1, {"price": "-Infinity", "cost": 1.0})
    world.server.write(2, {"price": "Infinity", "cost": None})  # read, for its cost
    world.run(5)
    assert same(world)


def test_an_unreadable_change_while_loading_is_a_gap() -> None:
    world = World(TableSpec("t"), server(40))
    world.connect()
    while not told(world, Progress):
        world.run(0.01)
    assert world.mirror.rows is None
    world.handle(Received(Change("INSERT", None, None, (), None, ("Error 401: Unauthorized",))))
    world.run(10)
    assert world.failed is None
    assert world.mirror.status == "live"
    assert same(world)


@pytest.mark.parametrize("make_rows", [Table])
def test_the_columnar_table_shows_the_same(make_rows: Callable[..., Any]) -> None:
    for seed in range(10):
        world = live(seed=seed, make_rows=make_rows)
        for n in range(60):
            world.run(0.1)
            world.server.write(n % 12 + 1, {"grp": n} if n % 5 else None)
            if n % 25 == 7:
                world.connect()
        world.settle(10)
        assert same(world)
