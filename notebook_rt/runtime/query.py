"""One query's driver, with a machine that fetches everything again instead of applying changes.

Its channel listens to the tables that the query depends on; their messages only show that something changed.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import pandas as pd
import pyarrow as pa

from notebook_rt.errors import NotebookRTError, NotPublishedError
from notebook_rt.model.rows import Key, Row, RowChange, Rows
from notebook_rt.model.spec import QuerySpec
from notebook_rt.model.types import Backend, Schema
from notebook_rt.runtime.driver import Driver
from notebook_rt.runtime.services import Services
from notebook_rt.store.table import Table, differences
from notebook_rt.sync.query.answer import POSITION
from notebook_rt.sync.query.requery import Requery


class QueryDriver(Driver):
    """See the module."""

    def __init__(
        self,
        spec: QuerySpec,
        topic: str,
        services: Services,
        *,
        dtype_backend: Backend = None,
    ) -> None:
        self.query = spec
        super().__init__(spec, topic, services, dtype_backend=dtype_backend)
        self._ranged: tuple[pd.DataFrame, pd.DataFrame] | None = None
        self._dropped = False
        """Whether it was published that no rows are shown: then the next answer is published as a whole."""

    def _make_machine(self) -> Requery:
        return Requery(self.query, self._make_rows, self.services.options, self.services.rate)

    @property
    def unaudited(self) -> bool:
        """Always false: each answer is read whole."""
        return False

    def snapshot(self) -> pd.DataFrame | None:
        """Return the current answer; without a key its index is a ``RangeIndex``."""
        found = super().snapshot()
        if found is None or self.query.key is not None:
            return found
        ranged = self._ranged
        if ranged is None or ranged[0] is not found:
            ranged = self._ranged = found, found.set_axis(pd.RangeIndex(len(found)), axis=0)
        return ranged[1]

    def arrow(self) -> pa.Table | None:
        found = super().arrow()
        return (
            found if found is None or self.query.key is not None else found.drop_columns(POSITION)
        )

    def find(self, key: Hashable) -> tuple[Key, dict[str, Any]] | None:
        found = super().find(key)
        if found is not None:
            found[1].pop(POSITION, None)
        return found

    def _make_rows(self, schema: Schema) -> Table:
        return Table(schema, self.dtype_backend)  # an answer is not edited: no overlay

    def _drop(self) -> Sequence[RowChange]:
        gone: Sequence[RowChange] = ()
        if self.listeners and self.table is not None:
            self._dropped = True
            gone = _between(self.table, self._make_rows(self.table.schema))
        self._forget()
        return gone

    def publish(
        self, changes: Sequence[RowChange], cause: str, commit_time: float | None = None
    ) -> None:
        if self._dropped and self.table is not None:
            self._dropped = False
            changes = _between(self._make_rows(self.table.schema), self.table)
        super().publish(changes, cause, commit_time)

    def _show(
        self, rows: Rows, schema: Schema, ranked: Sequence[Key], before: float | None = None
    ) -> None:
        assert isinstance(rows, Table)  # _make_rows made it; the server has sorted it
        self.schema, self.table = schema, rows

    @property
    def answered(self) -> bool:
        """Always true: Realtime may refuse a table below the query, and REST does not report that."""
        return True

    def refusal(self, message: str) -> tuple[NotebookRTError, bool]:
        error, final = super().refusal(message)
        if isinstance(error, NotPublishedError):
            # One bad binding invalidates them all, and only the message shows which one it was.
            for schema, table in self.query.depends_on:
                if f"schema: {schema}, table: {table}, " in message:
                    return NotPublishedError(schema, table, keyless=None), final
            return NotPublishedError(*self.query.depends_on[0], keyless=None), final
        return error, final


def _between(old: Table, new: Table) -> list[RowChange]:
    """Return the differences of ``new`` as they are published."""
    return [
        RowChange(change.kind, change.key, _decoded(change.old), _decoded(change.new))
        for change in differences(old, new)
    ]


def _decoded(row: Row | None) -> Row | None:
    return None if row is None else {name: row[name] for name in row if name != POSITION}
