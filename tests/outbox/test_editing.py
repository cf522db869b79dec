"""What an analyst does to a table that is open: many rows at once, undone, in blocks that fail."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import pandas as pd
import pytest

from notebook_rt.errors import InvalidEditError
from notebook_rt.local import LocalStack
from tests.outbox.kernel import Kernel

MakeKernel = Callable[..., Kernel]
A, B = str(uuid.UUID(int=1)), str(uuid.UUID(int=2))


@pytest.fixture
def rows(stack: LocalStack, table: str) -> tuple[str, str]:
    """Two rows of the table."""
    stack.sql(f"insert into {table} (id, n, note) values ('{A}', 1, 'a'), ('{B}', 2, 'b')")
    return A, B


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (pd.DataFrame({"n": [5, 6]}, index=[A, A.upper()]), "there twice"),
        (pd.DataFrame([[5, 6]], index=[A], columns=["n", "n"]), "'n' is there twice"),
        (pd.DataFrame({"n": [5, 6]}, index=[A, str(uuid.UUID(int=9))]), "no row"),
        (pd.DataFrame({"n": ["5", "x"]}, index=[A, B]), "no value"),
    ],
)
def test_many_rows_are_changed_as_they_say_or_none_is(
    rows: tuple[str, str], kernel: MakeKernel, changes: pd.DataFrame, words: str
) -> None:
    mine = kernel()
    with pytest.raises(InvalidEditError, match=words):
        mine.editor.edit_many(changes)
    assert len(mine.outbox) == 0
    assert [mine.view(key)["n"] for key in rows] == [1, 2]


def test_a_series_is_a_column_of_changes(rows: tuple[str, str], kernel: MakeKernel) -> None:
    mine = kernel()
    assert mine.editor.edit_many(pd.Series([5.0, None], index=list(rows), name="n")) == 2
    assert [mine.view(key)["n"] for key in rows] == [5, None]
