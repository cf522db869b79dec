"""Keys from the server's own sequences, some ahead of need.

A row's key must be known before the row leaves, else one whose answer was lost is written twice. So an
integer key that nobody gave is drawn from its column's sequence, by ``notebook_rt_keys`` in
``ledger.sql``: a few at a time, so that many inserts are few requests, and so that there are some when
the network is away. What is not used is a gap in the sequence, as an insert that fails leaves one.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Final, TypeAlias

from notebook_rt.errors import (
    ClosedError,
    MissingTableError,
    NotebookRTError,
    PermissionDeniedError,
    RefusedError,
)
from notebook_rt.sync.events import Query

FUNCTION: Final = "notebook_rt_keys"
FIRST: Final = 16
MOST: Final = 1024
"""Keys drawn at first and at most; each time four times as many."""

ColumnName: TypeAlias = tuple[str, str, str]
"""Schema, table and column."""


class NoKeyDrawnError(Exception):
    """No key can be drawn; says why."""


class KeyCache:
    """The keys in reserve of a session. Methods may be called from any thread.

    Parameters
    ----------
    fetch : callable
        Gives the rows that the function ``query.rpc`` answers; it may take its time, and raise a
        `NotebookRTError`.
    """

    def __init__(self, fetch: Callable[[Query], Sequence[int]]) -> None:
        self.known: dict[ColumnName, bool] = {}
        """Whether a sequence gives the column's keys, where somebody has asked."""
        self._fetch = fetch
        self._keys: dict[ColumnName, deque[int]] = {}
        self._drawn: dict[ColumnName, int] = {}
        self._lock = threading.Lock()

    def take(self, column: ColumnName) -> int:
        """A key that nobody else is given; raises `NoKeyDrawnError`."""
        with self._lock:
            keys = self._keys.setdefault(column, deque())
            if not keys:
                number = min(4 * self._drawn.get(column, FIRST // 4), MOST)
                keys.extend(self._draw(column, number))
                self._drawn[column] = number
            return keys.popleft()

    async def look(self, column: ColumnName, fetch: Callable[[Query], Awaitable[object]]) -> None:
        """Have it ``known``, where the server can be asked; draws none."""
        with contextlib.suppress(NoKeyDrawnError), self._learning(column):
            await fetch(drawing(column, 0))

    def _draw(self, column: ColumnName, number: int) -> Sequence[int]:
        with self._learning(column):
            keys = self._fetch(drawing(column, number))
        if not keys or not all(type(key) is int for key in keys):
            raise NoKeyDrawnError("what answers for its sequence gives no keys")
        return keys

    @contextlib.contextmanager
    def _learning(self, column: ColumnName) -> Iterator[None]:
        """What the server says in the block: known of the column, and why there is no key."""
        try:
            yield
        except MissingTableError:
            self.known[column] = False
            raise NoKeyDrawnError(
                "its sequence could give it, once the SQL that `notebook-rt doctor --sql` prints was run "
                "in the project"
            ) from None
        except (PermissionDeniedError, RefusedError) as error:
            self.known[column] = False
            raise NoKeyDrawnError(error.reason or str(error)) from error
        except ClosedError:
            raise
        except NotebookRTError as error:
            raise NoKeyDrawnError(
                f"none is in reserve, and its sequence gives none: {error}"
            ) from error
        self.known[column] = True


def drawing(column: ColumnName, number: int) -> Query:
    """Asks for the next keys of a column's sequence."""
    names = dict(zip(("p_schema", "p_table", "p_column"), column, strict=True))
    return Query((), rpc=FUNCTION, args={**names, "p_count": number})
