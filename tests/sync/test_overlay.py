"""Local edits over a table: the view combines both rows, without flickering."""

from __future__ import annotations

import copy
import datetime as dt
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from notebook_rt.edits.merge import RULES, Edit, Rule, Strategies, rebase
from notebook_rt.edits.overlay import SHIELD_SECONDS, Overlay
from notebook_rt.model.rows import Delete, Key, Op, Rows, Upsert
from notebook_rt.model.types import Column, Schema, equal
from notebook_rt.store.table import Table
from tests.laws import examples
from tests.sync.model import DictRows

SCHEMA = Schema(
    (Column("id", "int8"), Column("a", "text"), Column("n", "int8"), Column("tags", "_text")),
    key=("id",),
)
STRATEGIES = Strategies(columns={"n": "delta", "tags": "union"})


def table(schema: Schema) -> Rows:
    return Table(schema)


@pytest.fixture(params=[DictRows, table], ids=["dict", "table"])
def make(request: pytest.FixtureRequest) -> Callable[[Schema], Rows]:
    made: Callable[[Schema], Rows] = request.param
    return made


def row(key: int, a: str = "a", n: int | None = 0, tags: list[str] | None = None) -> dict[str, Any]:
    return {"id": key, "a": a, "n": n, "tags": tags or []}


def edit(op: str, key: Key, base: dict[str, Any] | None = None, **values: Any) -> Edit:
    return Edit(op, "update", key, values, base or {}, at=0)


@pytest.fixture
def overlay(make: Callable[[Schema], Rows]) -> Overlay:
    overlaid = Overlay(make(SCHEMA), SCHEMA, STRATEGIES)
    overlaid.apply([Upsert(key, row(key)) for key in (1, 2, 3)])
    return overlaid


def shown(overlay: Overlay) -> dict[Key, dict[str, Any] | None]:
    return {key: overlay.rows.get(key) for key in overlay.rows.keys()}  # noqa: SIM118  a Rows is no dict


def server(overlay: Overlay) -> dict[Key, dict[str, Any] | None]:
    seen = {key: overlay.get(key) for key in overlay.keys()}  # noqa: SIM118  a Rows is no dict
    assert len(overlay) == len(seen)
    assert all(key in overlay for key in seen)
    assert overlay.gather([*seen, 77]) == {**seen, 77: None}
    return seen


def test_an_edit_is_shown_and_the_server_row_is_not_touched(overlay: Overlay) -> None:
    before = server(overlay)
    changes = overlay.put([edit("e", 1, {"a": "a"}, a="mine")], want_changes=True)
    assert [(c.kind, c.key) for c in changes] == [("update", 1)]
    assert server(overlay) == before
    assert overlay.view(1) == row(1, "mine")
    assert [e.id for e in overlay.edits_of(1)] == ["e"]


def test_what_others_change_is_merged_by_column(overlay: Overlay) -> None:
    overlay.put([edit("e", 1, {"a": "a", "tags": []}, a="mine", tags=["x"])])
    overlay.apply([Upsert(1, {"n": 5, "tags": ["y"]})])
    assert overlay.view(1) == row(1, "mine", 5, ["y", "x"])
    assert overlay.get(1) == row(1, "a", 5, ["y"])


def test_discarding_shows_the_server_row_again(overlay: Overlay) -> None:
    before = shown(overlay)
    overlay.put([edit("e", 1, {"a": "a"}, a="mine")])
    overlay.put([Edit("d", "delete", 2, {}, {}, 0)])
    overlay.put([Edit("i", "insert", 9, {"id": 9, "a": "new"}, {}, 0)])
    assert list(shown(overlay)) == [1, 3, 9]
    overlay.discard(["e", "d", "i", "unknown"])
    assert shown(overlay) == before
    assert overlay.edits == []


def test_a_row_that_an_edit_hides_comes_back_to_its_place(overlay: Overlay) -> None:
    overlay.put([Edit("d", "delete", 1, {}, {}, 0), Edit("e", "delete", 2, {}, {}, 0)])
    overlay.apply([Upsert(4, row(4)), Upsert(1, {"a": "theirs"}), Delete(3)])
    assert list(shown(overlay)) == [4]
    overlay.discard(["e"])
    assert list(shown(overlay)) == [2, 4]
    overlay.discard(["d"])
    assert list(shown(overlay)) == [1, 2, 4]
    overlay.put([edit("k", 1, {"id": 1}, id=9)])
    assert list(shown(overlay)) == [2, 4, 9]
    overlay.discard(["k"])
    assert list(shown(overlay)) == [1, 2, 4]


def test_a_row_that_was_hidden_and_is_gone_has_no_place_any_more(overlay: Overlay) -> None:
    overlay.put([Edit("d", "delete", 1, {}, {}, 0), Edit("e", "delete", 2, {}, {}, 0)])
    overlay.settle("d", None)
    overlay.drop_shields(SHIELD_SECONDS)
    overlay.apply([Delete(2)])
    overlay.discard(["e"])
    assert list(shown(overlay)) == [3]
    overlay.apply([Upsert(2, row(2)), Upsert(1, row(1))])
    assert list(shown(overlay)) == [3, 2, 1], "they came last"


def test_a_row_that_was_hidden_comes_back_where_the_table_was_read_again(overlay: Overlay) -> None:
    overlay.put([Edit("d", "delete", 1, {}, {}, 0)])
    load = overlay.load()
    load.extend([row(2), row(1), row(3)])
    load.commit()
    assert list(shown(overlay)) == [2, 3]
    overlay.discard(["d"])
    assert list(shown(overlay)) == [2, 1, 3]


def test_a_row_of_which_only_a_part_was_told_keeps_its_key_when_my_insert_goes(
    overlay: Overlay,
) -> None:
    overlay.put([Edit("e", "insert", 9, row(9), {}, at=0)])
    overlay.apply([Upsert(9, {"n": 5})])
    overlay.discard(["e"])
    left = overlay.rows.get(9)
    assert left is not None
    assert (left["id"], left["n"], left["a"]) == (9, 5, None)


def test_the_answer_and_its_event_pass_without_a_flicker(overlay: Overlay) -> None:
    overlay.put([edit("e", 1, {"a": "a"}, a="mine")])
    overlay.sent(["e"])
    assert overlay.settle("e", row(1, "mine"), want_changes=True) == []
    # Committed before the write, delivered after its answer.
    assert overlay.apply([Upsert(1, row(1, "older"))], want_changes=True) == []
    assert overlay.apply([Upsert(1, row(1, "mine"))], want_changes=True) == []
    changes = overlay.apply([Upsert(1, row(1, "later"))], want_changes=True)
    assert [c.new and c.new["a"] for c in changes] == ["later"]


def test_the_event_may_come_before_the_answer(overlay: Overlay) -> None:
    overlay.put([edit("e", 1, {"n": 0}, n=2)])
    overlay.sent(["e"])
    assert overlay.apply([Upsert(1, row(1, n=2))], want_changes=True) == []
    changes = overlay.apply([Upsert(1, row(1, "other", n=2))], want_changes=True)
    assert len(changes) == 1
    # The answer is older than what has come: nothing goes back to it.
    assert overlay.settle("e", row(1, n=2), want_changes=True) == []
    assert overlay.view(1) == row(1, "other", 2)
    assert overlay.apply([Upsert(1, row(1, "next", n=2))], want_changes=True)


def test_what_is_not_what_a_write_was_based_on_came_after_it(overlay: Overlay) -> None:
    """The write's own event may not be understood, and what others do then comes before its answer."""
    overlay.put([edit("e", 1, {"a": "a"}, a="mine"), edit("f", 2, {"a": "a"}, a="mine")])
    overlay.sent(["e", "f"])
    overlay.apply([Upsert(1, row(1, "theirs")), Delete(2)])
    overlay.settle("e", row(1, "mine"))
    overlay.settle("f", row(2, "mine"))
    assert shown(overlay) == server(overlay) == {1: row(1, "theirs"), 3: row(3)}


def test_a_write_that_goes_again_on_another_base_passes_without_a_flicker(overlay: Overlay) -> None:
    overlay.put([edit("e", 1, {"a": "a"}, a="mine")])
    overlay.sent(["e"])
    overlay.apply([Upsert(1, row(1, "theirs"))])  # the write finds it, and is merged
    overlay.put([edit("e", 1, {"a": "theirs"}, a="mine")])
    overlay.sent(["e"])
    overlay.settle("e", row(1, "mine"))
    assert overlay.view(1) == row(1, "mine")


def test_a_read_that_was_sent_after_the_answer_is_believed(overlay: Overlay) -> None:
    overlay.put([edit("e", 1, {"a": "a"}, a="mine")])
    overlay.settle("e", row(1, "mine"), now=5)
    for sent_at, seen in ((4, "mine"), (6, "theirs")):
        overlay.admit(1, sent_at)
        overlay.apply([Upsert(1, row(1, "theirs"))])
        assert overlay.view(1) == row(1, seen)


def test_a_shield_that_waits_in_vain_is_lowered(overlay: Overlay) -> None:
    overlay.put([edit("e", 1, {"a": "a"}, a="mine")])
    overlay.settle("e", row(1, "mine"), now=100)
    overlay.drop_shields(100 + SHIELD_SECONDS - 1)
    overlay.apply([Upsert(1, row(1, "theirs"))])
    assert overlay.view(1) == row(1, "mine")
    overlay.drop_shields(100 + SHIELD_SECONDS)
    overlay.apply([Upsert(1, row(1, "theirs"))])
    assert overlay.view(1) == row(1, "theirs")


def test_with_a_version_the_order_is_known(make: Callable[[Schema], Rows]) -> None:
    schema = Schema((*SCHEMA.columns, Column("updated_at", "timestamptz")), ("id",))
    overlay = Overlay(make(schema), schema)

    def at(second: int, a: str) -> Op:
        moment = f"2026-01-01T00:00:{second:02}+00:00"
        return Upsert(1, schema.decode({"id": 1, "a": a, "updated_at": moment}))

    overlay.apply([at(1, "a")])
    overlay.put([edit("e", 1, {"a": "a"}, a="mine")])
    answer = at(5, "mine")
    assert isinstance(answer, Upsert)
    overlay.settle("e", answer.row)
    overlay.apply([at(3, "older")])
    assert (overlay.view(1) or {})["a"] == "mine"
    overlay.apply([at(7, "later")])  # its own event was lost
    assert (overlay.view(1) or {})["a"] == "later"


def test_a_deleted_row_stays_away_until_the_server_says_so(overlay: Overlay) -> None:
    overlay.put([Edit("d", "delete", 1, {}, row(1), 0)])
    assert 1 not in shown(overlay)
    assert 1 in server(overlay)
    overlay.sent(["d"])
    overlay.settle("d")
    assert overlay.apply([Upsert(1, row(1, "older"))], want_changes=True) == []
    overlay.apply([Delete(1)])
    assert 1 not in server(overlay)
    overlay.apply([Upsert(1, row(1, "again"))])
    assert overlay.view(1) == row(1, "again")


def test_the_event_of_an_answered_write_is_awaited(overlay: Overlay) -> None:
    assert 1 not in overlay.pending_keys
    overlay.put([Edit("d", "delete", 1, {}, row(1), 0)])
    overlay.settle("d")
    assert 1 not in overlay
    assert 1 in overlay.pending_keys  # so that its event is handed on, though there is no such row
    overlay.apply([Delete(1)])
    assert 1 not in overlay.pending_keys
    overlay.put([edit("e", 2, {"a": "a"}, a="mine")])
    overlay.settle("e", row(2, "mine"))
    assert 2 in overlay.pending_keys
    overlay.apply([Upsert(2, row(2, "mine"))])
    assert 2 not in overlay.pending_keys


def test_a_row_that_my_edit_left_outside_of_the_filter_comes_in_by_what_others_do(
    make: Callable[[Schema], Rows],
) -> None:
    overlay = Overlay(make(SCHEMA), SCHEMA, STRATEGIES, matches=lambda row: row["a"] == "open")
    overlay.put([edit("e", 1, {"n": 0}, n=5)])  # of another view of the table
    overlay.settle("e", row(1, "closed", 5))
    assert overlay.apply([Upsert(1, row(1, "open", 0))], want_changes=True) == []  # older
    overlay.apply([Upsert(1, row(1, "open", 5))])
    assert shown(overlay) == server(overlay) == {1: row(1, "open", 5)}


def test_an_insert_is_shown_and_stays_in_place_when_it_is_answered(overlay: Overlay) -> None:
    overlay.put([Edit("i", "insert", 9, {"id": 9, "a": "new"}, {}, 0)])
    overlay.put([edit("u", 9, {"a": "new"}, a="newer")])
    assert overlay.view(9) == {"id": 9, "a": "newer", "n": None, "tags": None}
    assert 9 not in server(overlay)
    overlay.sent(["i"])
    overlay.settle("i", row(9, "new", 7))
    assert overlay.view(9) == row(9, "newer", 7)
    assert list(shown(overlay)) == [1, 2, 3, 9]


@pytest.mark.parametrize("behind", [False, True])
def test_an_insert_that_gives_way_leaves_their_row_in_its_place(
    make: Callable[[Schema], Rows], behind: bool
) -> None:
    suspected: list[Key] = []
    overlay = Overlay(make(SCHEMA), SCHEMA, STRATEGIES, suspect=suspected.append)
    overlay.put([Edit("i", "insert", 9, row(9, "mine"), {}, 0)])
    if behind:
        overlay.put([edit("u", 9, {"n": 0}, n=1)])
    (change,) = overlay.give_way("i", row(9, "theirs", 7), now=5, want_changes=True)
    assert (change.kind, overlay.view(9)) == ("update", row(9, "theirs", 8 if behind else 7))
    assert suspected == [9], "it may have changed since it was read"
    overlay.admit(9, sent_at=6)
    overlay.apply([Upsert(9, row(9, "newer", 3))])
    assert overlay.view(9) == row(9, "newer", 4 if behind else 3)


def test_what_was_heard_of_their_row_counts_more_than_what_was_read_before(
    overlay: Overlay,
) -> None:
    overlay.put([Edit("i", "insert", 9, row(9, "mine"), {}, 0)])
    overlay.apply([Upsert(9, row(9, "newer"))])
    overlay.give_way("i", row(9, "theirs"), now=5)
    assert overlay.view(9) == row(9, "newer")


def test_a_row_that_they_deleted_leaves_and_its_edit_is_kept(overlay: Overlay) -> None:
    overlay.put([edit("e", 1, {"a": "a"}, a="mine")])
    overlay.apply([Delete(1)])
    assert 1 not in shown(overlay)
    assert [e.id for e in overlay.edits] == ["e"]
    assert overlay.last(1) == row(1)
    overlay.apply([Upsert(1, row(1, "a", 4))])
    assert overlay.view(1) == row(1, "mine", 4)


def test_a_changed_key_moves_the_row_and_what_follows_goes_with_it(overlay: Overlay) -> None:
    overlay.put([edit("k", 1, {"id": 1}, id=8)])
    overlay.put([edit("u", 8, {"a": "a"}, a="mine")])
    assert sorted(shown(overlay)) == [2, 3, 8]  # type: ignore[type-var]  # the keys here are ints
    assert overlay.view(8) == row(8, "mine")
    assert sorted(server(overlay)) == [1, 2, 3]  # type: ignore[type-var]  # the keys here are ints
    overlay.sent(["k"])
    overlay.settle("k", row(8))
    assert overlay.view(8) == row(8, "mine")
    overlay.apply([Delete(1), Upsert(8, row(8))])
    overlay.sent(["u"])
    overlay.settle("u", row(8, "mine"))
    overlay.apply([Upsert(8, row(8, "mine"))])
    assert sorted(server(overlay)) == [2, 3, 8]  # type: ignore[type-var]  # the keys here are ints
    assert shown(overlay) == server(overlay)


def test_a_changed_key_whose_event_comes_first(overlay: Overlay) -> None:
    overlay.put([edit("k", 1, {"id": 1}, id=8)])
    overlay.sent(["k"])
    assert overlay.apply([Delete(1)], want_changes=True) != []
    overlay.apply([Upsert(8, row(8))])
    assert overlay.view(8) == row(8)
    overlay.settle("k", row(8))
    assert shown(overlay) == server(overlay)


def test_discarding_a_key_change_shows_the_row_that_lives_there(overlay: Overlay) -> None:
    before = shown(overlay)
    overlay.put([edit("k", 1, {"id": 1}, id=8)])
    overlay.apply([Upsert(8, row(8, "theirs"))])
    overlay.discard(["k"])
    assert shown(overlay) == {**before, 8: row(8, "theirs")}


def test_a_row_that_my_edit_takes_out_of_the_filter_leaves_when_it_is_written(
    make: Callable[[Schema], Rows],
) -> None:
    overlay = Overlay(make(SCHEMA), SCHEMA, STRATEGIES, matches=lambda row: row["a"] == "open")
    overlay.apply([Upsert(1, row(1, "open"))])
    overlay.put([edit("e", 1, {"a": "open"}, a="closed")])
    assert overlay.view(1) == row(1, "closed")
    overlay.settle("e", row(1, "closed"))
    assert shown(overlay) == server(overlay) == {}


def test_a_reconciliation_compares_with_the_server_not_with_the_view(overlay: Overlay) -> None:
    overlay.put([edit("e", 1, {"a": "a"}, a="mine")])
    assert overlay.differing([row(1), row(2)]) == []
    different = overlay.differing([row(1, "mine"), row(2, "theirs"), row(7)])
    assert sorted(key for key, _ in different) == [1, 2, 7]  # type: ignore[type-var]  # ints


def test_a_table_read_again_keeps_what_is_pending_and_changes_once(overlay: Overlay) -> None:
    overlay.put([edit("e", 1, {"a": "a"}, a="mine")])
    overlay.put([Edit("i", "insert", 9, {"id": 9, "a": "new"}, {}, 0)])
    load = overlay.load()
    load.extend([row(1, n=5), row(4)])
    changes = load.commit([Upsert(4, {"a": "replayed"})], want_changes=True)
    assert {(c.kind, c.key) for c in changes} == {
        ("update", 1),
        ("delete", 2),
        ("delete", 3),
        ("insert", 4),
    }
    assert overlay.view(1) == row(1, "mine", 5)
    assert server(overlay) == {1: row(1, n=5), 4: row(4, "replayed")}


def test_a_write_answered_while_the_table_is_read_is_not_undone_by_older_pages(
    overlay: Overlay,
) -> None:
    overlay.put([edit("e", 1, {"a": "a"}, a="mine"), edit("f", 2, {"a": "a"}, a="mine")])
    overlay.settle("f", row(2, "mine"))
    load = overlay.load()
    load.extend([row(1), row(2, "later"), row(3)])
    overlay.settle("e", row(1, "mine"))
    load.commit()
    assert overlay.view(1) == row(1, "mine")
    assert overlay.view(2) == row(2, "later")


# --- an insert that meets a row of its key ------------------------------------------------------

TIMED = Schema((*SCHEMA.columns, Column("updated_at", "timestamptz")), ("id",))
rules = st.sampled_from(RULES)
inserted = st.fixed_dictionaries(
    {"id": st.just(9)},
    optional={
        "a": st.none() | st.sampled_from(["x", "y"]),
        "n": st.none() | st.integers(0, 3),
        "tags": st.none() | st.lists(st.sampled_from("ab"), unique=True),
    },
)


@given(rules, st.dictionaries(st.sampled_from(["a", "n", "tags"]), rules), inserted, inserted)
def test_an_insert_over_another_row_of_its_key_is_mine_or_theirs_or_the_merge_and_no_mixture(
    default: Rule, columns: dict[str, Rule], mine: dict[str, Any], theirs: dict[str, Any]
) -> None:
    strategies = Strategies(default, columns)
    now = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    whole = {**dict.fromkeys(TIMED.names), **theirs, "updated_at": now}
    insert = Edit("i", "insert", 9, mine, {}, at=0)
    for theirs_first in (True, False):
        overlay = Overlay(DictRows(TIMED), TIMED, strategies)
        if theirs_first:
            overlay.apply([Upsert(9, whole)])
        overlay.put([insert])
        if not theirs_first:
            overlay.apply([Upsert(9, whole)])
        view = overlay.view(9)
        left = rebase(insert, whole, strategies, now=0)
        if left.edit is None:
            assert view == whole
        else:
            assert view == {**whole, **left.edit.values}, "what is written if it is decided so"
        if default not in ("server", "local"):
            assert view == {**whole, **mine}, "mine, until a person decides"
        if {default, *columns.values()} <= {default, "delta"}:
            assert view in (whole, {**whole, **mine})


# --- two editors and a server, in every order ---------------------------------------------------


class Server:
    """Rows, the events of their changes in order, and conditional writes, as PostgREST does them."""

    def __init__(self, keys: Sequence[int]) -> None:
        self.rows: dict[Key, dict[str, Any]] = {key: row(key) for key in keys}
        self.events: list[Op] = []
        self.done: dict[str, dict[str, Any] | None] = {}
        """The ledger: what an operation id did."""

    def write(self, edit: Edit) -> tuple[bool, dict[str, Any] | None]:
        """Whether it was written, and the row as it is then."""
        if edit.id in self.done:
            return True, self.done[edit.id]
        known = self.rows.get(edit.key)
        if edit.kind == "insert":
            if known is not None:
                return False, known
            known = dict.fromkeys(SCHEMA.names)
        elif known is None or not all(equal(known[c], v) for c, v in edit.base.items()):
            return False, known
        new = None if edit.kind == "delete" else {**known, **edit.values}
        if new is None:
            del self.rows[edit.key]
            self.events.append(Delete(edit.key))
        else:
            self.rows[edit.key] = new
            self.events.append(Upsert(edit.key, copy.deepcopy(new)))
        self.done[edit.id] = copy.deepcopy(new)
        return True, copy.deepcopy(new)


class Editor:
    """A kernel: an overlay, its queue in order, and a cursor into the server's events."""

    def __init__(self, name: str, server: Server) -> None:
        self.name = name
        self.server = server
        self.overlay = Overlay(DictRows(SCHEMA), SCHEMA, STRATEGIES)
        self.overlay.apply([Upsert(key, copy.deepcopy(r)) for key, r in server.rows.items()])
        self.queue: list[Edit] = []
        self.heard = 0
        self.fates: dict[str, str] = {}
        self.kept: list[Edit] = []
        self.on_the_way: tuple[Edit, tuple[bool, dict[str, Any] | None]] | None = None

    def change(self, number: int, kind: str, key: int, value: int) -> None:
        op = f"{self.name}{number}"
        view = self.overlay.view(key)
        if kind == "insert" and view is None:
            made = Edit(op, "insert", key, row(key, op), {}, 0)
        elif view is None or kind == "insert":
            return
        elif kind == "delete":
            made = Edit(op, "delete", key, {}, view, 0)
        else:
            choices: dict[str, dict[str, Any]] = {
                "set": {"a": op},
                "add": {"n": (view["n"] or 0) + value},
                "tag": {"tags": [*(t for t in view["tags"] if t != "t0"), f"t{value}"]},
            }
            values = choices[kind]
            made = Edit(op, "update", key, values, {c: view[c] for c in values}, 0)
        before = server(self.overlay)
        self.overlay.put([made])
        assert server(self.overlay) == before, "an edit never touches the server's row"
        self.queue.append(made)

    def hear(self) -> None:
        if self.heard < len(self.server.events):
            self.overlay.apply([copy.deepcopy(self.server.events[self.heard])])
            self.heard += 1

    def send(self) -> None:
        """Write the head of the queue; the answer is on its way until ``answer``."""
        if self.on_the_way is None and self.queue:
            self.overlay.sent([self.queue[0].id])
            self.on_the_way = (self.queue[0], self.server.write(self.queue[0]))

    def answer(self) -> None:
        if self.on_the_way is None:
            return
        (edit, (written, found)), self.on_the_way = self.on_the_way, None
        self.queue.pop(0)
        if written:
            self.fates[edit.id] = "applied"
            self.overlay.settle(edit.id, found)
            return
        left = rebase(edit, found, STRATEGIES, now=0)
        if left.open:
            self.fates[edit.id] = "kept"
            self.kept.append(edit)
            parked = [one for one in self.queue if one.key == edit.key]
            self.queue = [one for one in self.queue if one.key != edit.key]
            for one in parked:
                self.fates[one.id] = "kept"
            self.overlay.discard([edit.id, *(one.id for one in parked)])
        elif left.edit is None:
            self.fates[edit.id] = "merged"
            self.overlay.settle(edit.id, found)
        else:
            self.queue.insert(0, left.edit)
            self.overlay.put([left.edit])


steps = st.lists(
    st.tuples(
        st.sampled_from([0, 1]),
        st.sampled_from(["set", "add", "tag", "insert", "delete", *["hear", "send", "answer"] * 3]),
        st.sampled_from([1, 2, 5]),
        st.integers(0, 3),
    ),
    max_size=40,
)


@settings(max_examples=examples(300))
@given(steps)
def test_any_interleaving_of_two_editors_ends_equal_with_every_edit_accounted_for(
    steps: list[tuple[int, str, int, int]],
) -> None:
    server_ = Server([1, 2, 3])
    editors = [Editor("x", server_), Editor("y", server_)]
    made: dict[str, Edit] = {}
    for number, (who, what, key, value) in enumerate(steps):
        editor = editors[who]
        if what in ("hear", "send", "answer"):
            getattr(editor, what)()
        else:
            editor.change(number, what, key, value)
            made.update({e.id: e for e in editor.queue if e.id not in made})
    for _ in range(200):
        for editor in editors:
            editor.send()
            editor.answer()
            editor.hear()
    for editor in editors:
        assert editor.queue == []
        assert editor.overlay.edits == []
        editor.overlay.drop_shields(SHIELD_SECONDS)
        assert shown(editor.overlay) == server_.rows
        assert server(editor.overlay) == server_.rows
    fates = editors[0].fates | editors[1].fates
    assert fates.keys() == made.keys()
    if not any(what in ("delete", "insert") for _, what, _, _ in steps):
        sums = dict.fromkeys(server_.rows, 0)
        for edit in made.values():
            if "n" in edit.values:
                sums[edit.key] += edit.values["n"] - edit.base["n"]
        assert {key: found["n"] for key, found in server_.rows.items()} == sums, "no sum lost"
