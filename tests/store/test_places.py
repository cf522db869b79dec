"""An order that only the server knows, learned from its answers."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from notebook_rt.model.order import parse_order
from notebook_rt.model.rows import Upsert
from notebook_rt.model.types import Column, Schema
from notebook_rt.store.places import Placed, Places
from notebook_rt.store.table import Table

SCHEMA = Schema((Column("id", "int8", nullable=False), Column("name", "text")), ("id",))
ORDER = parse_order("name")


def server(name: str | None) -> tuple[bool, str, str]:
    """Some collation: nulls last, letters before cases."""
    return name is None, (name or "").casefold(), name or ""


def table(names: dict[int, str | None]) -> Table:
    made = Table(SCHEMA)
    made.apply([Upsert((key,), {"id": key, "name": name}) for key, name in names.items()])
    return made


names = st.dictionaries(st.integers(0, 9), st.none() | st.text("aAbBcü", max_size=2), max_size=6)


@given(st.lists(names, min_size=1, max_size=6))
def test_what_was_told_of_rows_holds_for_them_at_any_later_time(told: list[dict[int, str]]) -> None:
    places = Places(ORDER)
    for rows in told:
        ordered = sorted(rows, key=lambda key: (server(rows[key]), key))
        places.learn(table(rows), [(key,) for key in ordered])
    for rows in told:
        shown = Placed(table(rows), ORDER, places).keys()
        values = [server(rows[key]) for (key,) in shown]
        assert all(one <= other for one, other in pairwise(values))


def test_a_value_that_was_never_placed_comes_last_as_in_the_table() -> None:
    places = Places(ORDER)
    places.learn(table({1: "b", 2: "a"}), [(2,), (1,)])
    shown = table({1: "b", 2: "a", 3: "0", 4: "a"})
    assert Placed(shown, ORDER, places).keys() == [(2,), (4,), (1,), (3,)]
    assert Placed(shown, ORDER, places, 2).keys() == [(2,), (4,)]


def test_what_is_gone_long_since_does_not_grow_forever() -> None:
    places = Places(ORDER)
    for turn in range(500):
        rows: dict[int, str | None] = {n: f"{turn:03}-{n:03}" for n in range(100)}
        places.learn(table(rows), [(n,) for n in range(100)])
    assert len(places) < 20_000
