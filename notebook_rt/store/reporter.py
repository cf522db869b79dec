"""The changes to report for a table whose view is not the whole table (promises 5 and 8).

The changes of a table differ from those of its view if the view is limited to the first rows of an
order, or if a column is kept only for the order. A row that leaves the view is reported as deleted, one
that enters it as inserted, and rows outside it are not reported. If another table replaces the shown
one, the differences between the two are reported. So the first view plus all changes reported since, in
order, equals the view.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from notebook_rt.model.rows import Key, Row, RowChange
from notebook_rt.model.types import differs
from notebook_rt.store.contents import changes_between
from notebook_rt.store.order import Ordered
from notebook_rt.store.table import Table, differences


class Reporter:
    """What was last shown and reported, and the changes to report next. Used by one thread."""

    def __init__(self) -> None:
        self._table: Table | None = None
        self._ordered: Ordered | None = None
        self._reported: dict[Key, Row] = {}
        """The rows of a view with a limit, as they were reported."""
        self._news: list[RowChange] | None = None
        """The differences that another table has made, until they are reported."""

    @property
    def plain(self) -> bool:
        """Whether the changes of the table are those of the view."""
        ordered = self._ordered
        return ordered is None or (ordered.limit is None and not ordered.carried)

    def show(self, table: Table, ordered: Ordered | None = None) -> None:
        """Show ``table`` from now on, in the view ``ordered`` if there is one.

        The next `report` returns the differences; none, if this is the first table.
        """
        before, self._table, self._ordered = self._table, table, ordered
        if ordered is not None and ordered.limit is not None:
            found = self._follow(ordered, None)
        elif before is not None:
            found = self._visible(differences(before, table))
        else:
            found = []
        self._news = [] if before is None else [*(self._news or ()), *found]

    def report(self, changes: Sequence[RowChange]) -> Sequence[RowChange]:
        """Return the changes to report after ``changes`` of the table, which may be newer than they are."""
        news, self._news = self._news, None
        ordered = self._ordered
        if ordered is not None and ordered.limit is not None:
            return [*(news or ()), *self._follow(ordered, {change.key for change in changes})]
        if news is not None:  # the differences include what arrived while the table was read
            return news
        return changes if self.plain else self._visible(changes)

    def drop(self) -> Sequence[RowChange]:
        """Show nothing until the next `show`; return the changes to report."""
        table, ordered = self._table, self._ordered
        if table is None:
            return []
        empty = Table(table.schema, table.dtype_backend)
        view = None
        if ordered is not None:
            view = Ordered(empty, ordered.by, ordered.limit, ordered.carried)
        self.show(empty, view)
        return self.report(())

    def _follow(self, ordered: Ordered, touched: Collection[Key] | None) -> list[RowChange]:
        """Return the changes from the reported rows to those of the view; of the rows that stay, only those
        in ``touched`` are compared (None: all).
        """
        reported = self._reported
        with ordered.table.lock:
            keys = ordered.keys()
            looked = [
                key for key in keys if touched is None or key in touched or key not in reported
            ]
            rows = ordered.table.gather(looked)
        here = set(keys)
        new: dict[Key, Row | None] = {key: None for key in reported if key not in here}
        new |= {key: None if row is None else ordered.visible(row) for key, row in rows.items()}
        found = list(changes_between({key: reported.get(key) for key in new}, new))
        for key, row in new.items():
            if row is None:
                reported.pop(key, None)
            else:
                reported[key] = dict(row)  # the reported row belongs to the listener
        return found

    def _visible(self, changes: Iterable[RowChange]) -> list[RowChange]:
        """Return ``changes`` without the columns that are not shown."""
        ordered = self._ordered
        if ordered is None or not ordered.carried:
            return list(changes)
        found = []
        for change in changes:
            old = None if change.old is None else ordered.visible(change.old)
            new = None if change.new is None else ordered.visible(change.new)
            if old is None or new is None or differs(new, old):
                found.append(RowChange(change.kind, change.key, old, new))
        return found
