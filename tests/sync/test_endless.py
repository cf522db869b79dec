"""A server whose pages do not end does not fill the memory."""

from __future__ import annotations

import pytest

from notebook_rt.errors import EndlessTableError
from notebook_rt.model.spec import TableSpec
from notebook_rt.model.types import Column, Schema
from notebook_rt.sync.events import Page
from notebook_rt.sync.table.flows import Ahead
from notebook_rt.sync.table.horizon import Read
from notebook_rt.sync.table.queries import Reads
from notebook_rt.sync.table.reading import Paging, each_page


@pytest.mark.parametrize(
    ("moves", "words"), [(False, "same page again"), (True, "Options.max_rows")]
)
def test_pages_without_end_are_an_error_of_the_table(moves: bool, words: str) -> None:
    schema = Schema((Column("id", "int8"),), ("id",))
    reads = Reads(TableSpec("t"), schema, 2)
    pages = each_page(reads, Paging(2, most=100), lambda read: None)
    next(pages)

    def read_on() -> None:
        for turn in range(60):
            first = 2 * turn if moves else 0
            page = Page([{"id": first}, {"id": first + 1}], None, 0.0)
            asked = pages.send([Read(page, 0, 0.0)])
            if isinstance(asked, Ahead):
                asked.work()

    with pytest.raises(EndlessTableError, match=f'table "t".*{words}'):
        read_on()
