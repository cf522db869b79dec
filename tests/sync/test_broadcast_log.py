"""Following the log of a table's changes: numbers, positions, parts, order. By cases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from notebook_rt.model.rows import WireRow
from notebook_rt.model.spec import TableSpec
from notebook_rt.options import Options
from notebook_rt.sync.events import Page
from notebook_rt.sync.table.broadcast import HOLE, Batch, ChangeLog, Numbers, Truncated
from notebook_rt.sync.table.broadcast_answers import HEAD as HEAD_FUNCTION
from notebook_rt.sync.table.broadcast_answers import (
    VERSION,
    Entry,
    Head,
    Message,
    Position,
    read_head,
    read_message,
)
from notebook_rt.sync.table.horizon import Read


def keys_of(records: Sequence[WireRow]) -> list[Any]:
    return [record["id"] for record in records]


def log(position: str = "10:10:") -> ChangeLog:
    """One that has read the table at this position; no message had been sent."""
    made = ChangeLog(
        TableSpec("t"), Head(VERSION, "nrt:public.t", "e", position, 0, 0), Options(), 0.0
    )
    made.adopt(Position.of(position))
    return made


def message(n: int, x: int, *changes: Entry, part: int = 1, last: bool = True) -> Message:
    return Message("e", n, x, part, last, list(changes))


def upsert(number: int, *keys: int) -> Entry:
    return Entry(number, "U", rows=[{"id": key, "v": number} for key in keys])


def gone(number: int, *keys: int) -> Entry:
    return Entry(number, "D", gone=[{"id": key} for key in keys])


def take(one: ChangeLog, *messages: Message) -> Batch:
    entries = [entry for each in messages for entry in one.receive(each, 0.0)]
    return one.batch(entries, keys_of)


def values(batch: Batch) -> dict[Any, Any]:
    """Key to the value it is given; None: it is gone."""
    found: dict[Any, Any] = {}
    for one in batch.changes:
        if isinstance(one, Truncated):
            found = {}
        else:
            key, change = one
            found[key] = None if change.record is None else change.record["v"]
    return found


def spared(batch: Batch) -> list[frozenset[Any]]:
    """For each TRUNCATE the rows that stay."""
    return [one.spared for one in batch.changes if isinstance(one, Truncated)]


def test_a_number_that_does_not_come_in_half_a_second_is_lost() -> None:
    numbers = Numbers()
    numbers.add(1, 0.0)
    assert numbers.lost_at == float("inf")
    numbers.add(4, 1.0)
    assert numbers.lost_at == 1.0 + HOLE
    assert not numbers.lost(1.0)
    assert numbers.lost(1.0 + HOLE)
    numbers.add(3, 1.1)
    numbers.add(2, 1.2)
    assert numbers.lost_at == float("inf")
    numbers.expect(6, 2.0)
    numbers.add(6, 2.1)
    assert numbers.lost_at == 2.0 + HOLE
    numbers.give_up(1.9)
    assert numbers.missing
    numbers.give_up(2.0)
    assert not numbers.missing


def test_what_was_sent_before_a_join_is_asked_for_and_was_not_lost() -> None:
    numbers = Numbers()
    numbers.add(5, 0.0)
    assert numbers.lost_at == HOLE
    assert not numbers.lost(HOLE)
    numbers.give_up(0.0)
    numbers.joined()
    numbers.add(8, 1.0)
    numbers.add(10, 1.0)
    assert [hole.expected for hole in numbers.missing] == [True, False]


def test_what_was_sent_before_the_log_was_found_is_not_asked_for() -> None:
    """It is in what is read first. Asked for apart, a table was ahead of the others of a transaction."""
    found = Head(VERSION, "nrt:public.t", "e", "10:10:", 7, 0)
    one = ChangeLog(TableSpec("t"), found, Options(), 0.0)
    one.adopt(Position.of("10:10:"))
    take(one, message(8, 10, upsert(8, 1)))
    assert not one.numbers.missing
    take(one, message(10, 11, upsert(10, 1)))
    assert [(hole.low, hole.high) for hole in one.numbers.missing] == [(9, 9)]


def test_another_series_is_asked_for_and_was_not_lost() -> None:
    """A value's numbers begin anew where nothing was told of it for long: what is missing is in the log."""
    one = log()
    take(one, replace(message(7, 11, upsert(1, 1)), series=1))
    one.numbers.give_up(5.0)
    assert values(take(one, replace(message(1, 12, upsert(2, 1)), series=2))) == {1: 2}
    assert one.numbers.lost_at == HOLE
    assert not one.numbers.lost(HOLE)
    one.numbers.give_up(0.0)
    take(one, replace(message(0, 13, upsert(3, 1)), series=None))
    take(one, replace(message(2, 14, upsert(4, 1)), series=2))
    assert not one.numbers.missing
    take(one, replace(message(4, 15, upsert(5, 1)), series=2))
    assert one.numbers.lost(HOLE)


@given(st.permutations(range(1, 12)), st.integers(0, 11))
def test_whatever_the_order_only_what_did_not_come_is_missing(order: list[int], lost: int) -> None:
    numbers = Numbers()
    for number in order[lost:]:
        numbers.add(number, 0.0)
        numbers.add(number, 0.0)
    numbers.expect(11, 1.0)
    missing = [n for hole in numbers.missing for n in range(hole.low, hole.high + 1)]
    assert sorted(missing) == sorted(order[:lost])


def test_a_transaction_is_taken_when_all_its_parts_are_here() -> None:
    one = log()
    assert values(take(one, message(2, 11, gone(3, 2), part=2))) == {}
    assert values(take(one, message(1, 11, upsert(1, 1, 2), part=1, last=False))) == {1: 1, 2: None}


def test_of_two_transactions_the_log_says_which_is_later() -> None:
    one = log()
    assert values(take(one, message(2, 12, upsert(9, 1)))) == {1: 9}
    assert values(take(one, message(1, 11, upsert(5, 1, 2)))) == {2: 5}
    assert values(take(one, message(3, 13, gone(12, 1)))) == {1: None}
    assert values(take(one, message(3, 13, gone(12, 1)), message(2, 12, upsert(9, 1)))) == {}


def test_of_a_row_that_a_statement_changed_twice_the_later_counts() -> None:
    twice = Entry(1, "U", rows=[{"id": 1, "v": "a"}, {"id": 2, "v": "b"}, {"id": 1, "v": "c"}])
    assert values(take(log(), message(1, 10, twice))) == {1: "c", 2: "b"}


def test_what_the_position_sees_is_no_news() -> None:
    one = log("10:15:12,13")
    assert values(take(one, message(1, 11, upsert(1, 1)), message(2, 12, upsert(2, 2)))) == {2: 2}
    one.adopt(Position.of("16:16:"))
    assert values(take(one, message(2, 12, upsert(2, 2)))) == {}


def test_nothing_from_before_a_truncate_comes_back() -> None:
    one = log()
    take(one, message(1, 11, upsert(1, 1)))
    batch = take(one, message(2, 12, Entry(4, "T"), upsert(5, 3)))
    assert (spared(batch), values(batch)) == ([frozenset()], {3: 5})
    late = [message(1, 11, upsert(1, 1)), message(3, 13, upsert(3, 2))]
    assert values(take(one, *late)) == {}


def test_a_truncate_that_comes_late_spares_what_is_newer() -> None:
    one = log()
    take(one, message(2, 12, upsert(7, 1)))
    batch = take(one, message(1, 11, Entry(4, "T")))
    assert spared(batch) == [{1}]


def test_what_comes_behind_a_later_truncate_says_when_it_was() -> None:
    one = log()
    later = Message("e", 2, 12, 1, True, [Entry(4, "T")], at=2.0)
    earlier = Message("e", 1, 11, 1, True, [Entry(3, "T")], at=1.0)
    assert take(one, later).overtaken == []
    assert take(one, earlier).overtaken == [(1.0, 2.0)]
    one = log()
    take(one, Message("e", 2, 12, 1, True, [upsert(7, 1)], at=2.0))
    assert take(one, earlier).overtaken == [(1.0, 2.0)]


def test_changes_stand_in_the_order_of_their_commits_and_those_of_a_row_in_that_of_the_log() -> (
    None
):
    """A transaction that wrote first may be the last to commit; its last entry says when that was."""
    one = log()
    entries = [
        Entry(1, "U", 11, rows=[{"id": 1, "v": 1}], at=1.0),
        Entry(2, "U", 12, rows=[{"id": 2, "v": 2}], at=2.0),
        Entry(3, "U", 11, rows=[{"id": 3, "v": 3}], at=5.0),
        Entry(4, "U", 13, rows=[{"id": 2, "v": 4}], at=3.0),
    ]
    told = [(key, change.commit_time) for key, change in one.batch(entries, keys_of).changes]  # type: ignore[misc]  # no TRUNCATE
    assert told == [(2, 2.0), (2, 3.0), (1, 5.0), (3, 5.0)]


@pytest.mark.parametrize("payload", [None, [], {}, {"epoch": "e"}, {"epoch": 1, "n": "x"}])
def test_what_is_no_message_is_none(payload: Any) -> None:
    assert read_message(payload) is None


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (None, "may not read its topic"),
        ({"version": 1}, "version 1"),
        ({"version": VERSION, "topic": "t"}, "does not understand"),
        ({"version": VERSION, "scope": "user_id"}, 'each value of "user_id"'),
        ([], "version None"),
    ],
)
def test_a_head_that_cannot_be_followed_says_why(value: Any, why: str) -> None:
    head, said = read_head(Page((), None, 0.0, value, scalar=True))
    assert head is None
    assert said is not None
    assert why in said.reason
    assert said.scope == ("user_id" if "user_id" in why else "")


HEAD = {"version": VERSION, "topic": "t", "epoch": "e", "position": "1:1:", "n": 0, "series": 0}


@pytest.mark.parametrize(
    ("told", "key", "why"),
    [
        (["id", "b"], ("b", "id"), None),
        (["id"], None, None),
        (["id"], ("u",), "by the primary key (id), and not by u"),
        (["id", "b"], ("id",), "by the primary key (id, b), and not by id"),
        ([], ("id",), "missing now"),
        (None, ("id",), "too old for key="),
        (None, None, None),
    ],
)
def test_a_log_that_tells_rows_by_another_key_is_not_followed(
    told: list[str] | None, key: tuple[str, ...] | None, why: str | None
) -> None:
    value = HEAD if told is None else {**HEAD, "key": told}
    head, said = read_head(Page((), None, 0.0, value, scalar=True), key)
    assert (head is None) == (why is not None)
    assert why is None or (said is not None and why in said.reason)


def test_what_the_log_of_another_epoch_has_is_not_taken() -> None:
    """The answer is of rows that are told by another key; the head says which, and where it goes on."""
    one = log()
    flow = one.read_since(Position.of("10:10:"), lambda: 0.0)
    next(flow)
    since = {"until": "12:12:", "epoch": "f", "changes": [], "more": False}
    (asked,) = flow.send([Read(Page((), None, 0.0, since, scalar=True), 1, 0.0)])
    assert asked.rpc == HEAD_FUNCTION
    answer = {**HEAD, "topic": one.topic, "epoch": "f", "key": ["a", "b"]}
    with pytest.raises(StopIteration) as ended:
        flow.send([Read(Page((), None, 0.0, answer, scalar=True), 2, 0.0)])
    assert ended.value.value is None
    assert one.position is None
    assert (one.restarted, one.key) == (True, ("a", "b"))
