"""What is told of a table whose view is not the whole of it (promises 5 and 8).

The changes of a table are not those of its view where the view is cut to the first rows of an order,
or where a column is kept for the order only. A row that leaves the view is told as deleted, one that
enters it as inserted, and what lies outside it is not told. Where another table takes the place of
the one that is shown, the differences between the two are told. So the first view with everything
that was told since, in order, is the view.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from notebook_rt.model.rows import Key, Row, RowChange
from notebook_rt.model.types import differs
from notebook_rt.store.contents import changes_between
from notebook_rt.store.order import Ordered
from notebook_rt.store.table import Table, differences


class Telling:
    """What was shown and told last, and what is to be told of changes. Used by one thread."""

    def __init__(self) -> None:
        self._table: Table | None = None
        self._ordered: Ordered | None = None
        self._told: dict[Key, Row] = {}
        """The rows of a view with a limit, as they were told."""
        self._news: list[RowChange] | None = None
        """What another table has made different, until it is told."""

    @property
    def plain(self) -> bool:
        """Whether the changes of the table are those of the view."""
        ordered = self._ordered
        return ordered is None or (ordered.limit is None and not ordered.carried)

    def show(self, table: Table, ordered: Ordered | None = None) -> None:
        """``table`` is shown from now on, in the view that ``ordered`` is if there is one.

        The next `tell` gives what is different then; nothing, if this is the first table.
        """
        before, self._table, self._ordered = self._table, table, ordered
        if ordered is not None and ordered.limit is not None:
            found = self._follow(ordered, None)
        elif before is not None:
            found = self._visible(differences(before, table))
        else:
            found = []
        self._news = [] if before is None else [*(self._news or ()), *found]

    def tell(self, changes: Sequence[RowChange]) -> Sequence[RowChange]:
        """What is to be told after ``changes`` of the table; the table may be later than they are."""
        news, self._news = self._news, None
        ordered = self._ordered
        if ordered is not None and ordered.limit is not None:
            return [*(news or ()), *self._follow(ordered, {change.key for change in changes})]
        if news is not None:  # the differences have what came while the table was read
            return news
        return changes if self.plain else self._visible(changes)

    def drop(self) -> Sequence[RowChange]:
        """Nothing is shown until the next `show`; gives what is to be told of that."""
        table, ordered = self._table, self._ordered
        if table is None:
            return []
        empty = Table(table.schema, table.dtype_backend)
        view = None
        if ordered is not None:
            view = Ordered(empty, ordered.by, ordered.limit, ordered.carried)
        self.show(empty, view)
        return self.tell(())

    def _follow(self, ordered: Ordered, touched: Collection[Key] | None) -> list[RowChange]:
        """From the rows that were told to those of the view; of the rows that have stayed only
        ``touched`` are looked at (None: all).
        """
        told = self._told
        with ordered.table.lock:
            keys = ordered.keys()
            looked = [key for key in keys if touched is None or key in touched or key not in told]
            rows = ordered.table.gather(looked)
        here = set(keys)
        new: dict[Key, Row | None] = {key: None for key in told if key not in here}
        new |= {key: None if row is None else ordered.visible(row) for key, row in rows.items()}
        found = list(changes_between({key: told.get(key) for key in new}, new))
        for key, row in new.items():
            if row is None:
                told.pop(key, None)
            else:
                told[key] = dict(row)  # what is told is the listener's
        return found

    def _visible(self, changes: Iterable[RowChange]) -> list[RowChange]:
        """``changes`` without the columns that are not shown."""
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
