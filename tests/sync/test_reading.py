"""A load and a comparison of a whole table keep none of its pages after processing them."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from notebook_rt.model.rows import Key, Row, WireRow
from notebook_rt.model.spec import TableSpec
from notebook_rt.options import Options
from notebook_rt.sync.events import Effect, Fetch, Fetched
from notebook_rt.sync.table.comparison import Comparison
from notebook_rt.sync.table.flows import Flow, Flows
from notebook_rt.sync.table.horizon import Horizon
from notebook_rt.sync.table.queries import Reads
from notebook_rt.sync.table.reading import Paging, load, scan
from notebook_rt.sync.table.replica import Replica
from tests.laws import examples
from tests.sync.model import DictRows
from tests.sync.simulation import Server

PAGES, SIZE = 40, 10
FEW = 120


class Rows(list[WireRow]):
    """A page's rows, of which can be told whether anybody still holds them."""


class Driven:
    """A flow whose requests are answered in the order in which they were sent."""

    def __init__(self, server: Server) -> None:
        self.horizon = Horizon(Options())
        self.most_alive = 0
        self.requests = 0
        self._server = server
        self._out: list[Fetch] = []
        self._pages: list[weakref.ref[Rows]] = []

    def run(self, flow: Flow) -> None:
        flows = Flows(self.horizon, self._emit)
        flows.start("one", flow, 0.0)
        while self._out:
            fetch = self._out.pop(0)
            self.requests += 1
            page = self._server.select(fetch.query)
            rows = Rows(page.rows)
            self._pages.append(weakref.ref(rows))
            flows.fetched(Fetched(fetch.request, replace(page, rows=rows)))
            del page, rows
            self.most_alive = max(self.most_alive, sum(page() is not None for page in self._pages))
        assert not flows, "it waits for nothing"

    def _emit(self, effect: Effect) -> None:
        if isinstance(effect, Fetch):
            self._out.append(effect)


@pytest.fixture
def server() -> Server:
    one = Server({"id": "int8", "a": "text"}, ("id",), max_rows=SIZE)
    for key in range(PAGES * SIZE):
        one.write(key, {"a": f"row {key}"})
    return one


@pytest.mark.parametrize("at_once", [1, 8])
def test_a_load_and_a_comparison_let_go_of_each_page(server: Server, at_once: int) -> None:
    driven = Driven(server)
    known = server.known
    spec = TableSpec("t")
    replica = Replica(spec, known, known, driven.horizon)
    reads = Reads(spec, known, SIZE)
    rows = replica.rows = DictRows(known)

    def whole(step: Callable[[Paging], Any]) -> int:
        driven.most_alive = driven.requests = 0
        driven.run(step(Paging(SIZE, at_once, digest=False)))
        assert driven.requests >= PAGES
        return driven.most_alive

    few = 3 + at_once  # the first page, the last, and those that came before it was their turn
    assert whole(lambda paging: load(replica, reads, paging, rows, lambda *_: None)) <= few
    assert len(rows) == PAGES * SIZE
    compared = Comparison(replica)
    assert whole(lambda paging: scan(replica, reads, paging, compared)) <= few
    assert compared.seen == PAGES * SIZE
    assert compared.apply(0.0) == 0


class Compared(DictRows):
    """Rows that note of which ones the values were compared."""

    def __init__(self, schema: Any) -> None:
        super().__init__(schema)
        self.compared: set[Key] = set()

    def differing(self, page: Sequence[WireRow]) -> list[tuple[Key, Row]]:
        self.compared.update(row["id"] for row in page)
        return super().differing(page)


@given(
    st.integers(1, 9),
    st.sets(st.integers(0, FEW - 1), max_size=20),
    st.sets(st.integers(0, FEW + SIZE), max_size=20),
    st.sets(st.integers(0, FEW - 1), max_size=20),
)
@settings(max_examples=examples(40), deadline=None)
def test_a_comparison_costs_what_has_changed(
    unread_of_ten: int, unread: set[int], written: set[int], gone: set[int]
) -> None:
    """Whatever is known: all that was lost is found, rows of a known version are left alone, and no more
    than a quarter as many requests as there are pages go beside these.
    """
    one = Server({"id": "int8", "a": "text"}, ("id",), max_rows=SIZE)
    for key in range(FEW):
        one.write(key, {"a": f"row {key}"})
    driven = Driven(one)
    replica = Replica(TableSpec("t"), one.known, one.known, driven.horizon)
    reads = Reads(TableSpec("t"), one.known, SIZE)
    rows = Compared(one.known)
    driven.run(load(replica, reads, Paging(SIZE), rows, lambda *_: None))
    replica.rows = rows
    unread = unread | {key for key in range(FEW) if key % 10 < unread_of_ten}
    for key in unread:
        replica.versions.forget([key])
    for key in written:
        one.write(key, {"a": "other"})
    for key in gone & one.rows.keys():
        one.write(key, None)
    driven.requests = 0
    compared = Comparison(replica)
    driven.run(scan(replica, reads, Paging(SIZE, digest=False, runs=False), compared))
    compared.apply(0.0)
    assert rows.data == one.rows
    assert rows.compared <= unread | written
    others = -(-len(written) // SIZE)
    assert driven.requests <= 1.25 * (FEW // SIZE + 2) + others + 3
