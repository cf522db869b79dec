"""The outcome of rows that were written together: `WriteReport`.

An editor creates it and assigns each row its operation of the queue; the rest comes from the worker and
the queue's file, whenever it is accessed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from notebook_rt.edits.ops import Json, Op, Put
from notebook_rt.errors import QueueError

if TYPE_CHECKING:
    import pandas as pd


class States(Protocol):
    """The interface to the queue's file that a report needs (``outbox.queue.Outbox``)."""

    def states(self, schema: str, target: str) -> dict[str, str]: ...

    def get(self, op: str) -> Op | None: ...

    def outcome(self, op: str) -> tuple[bool, dict[str, Json] | None]: ...


class WriteReport:
    """The outcome of rows that were written together; it follows the queue.

    Returned by ``insert`` and ``upsert`` of many rows, ``delete`` of many keys and ``edit_many``. Right
    after the call most rows wait; after ``rt.queue.flush()`` none does.

    Examples
    --------
    >>> report = positions.upsert(df)  # doctest: +SKIP
    >>> rt.queue.flush()  # doctest: +SKIP
    >>> report  # doctest: +SKIP
    upsert of 5,000 rows, table "positions": 4,998 written, 2 refused; .refused_df says why
    >>> df.loc[report.refused_df.index]  # doctest: +SKIP
    """

    def __init__(
        self,
        outbox: States,
        schema: str,
        table: str,
        what: str,
        rows: int,
        labels: Mapping[str, Hashable],
        name: Any = None,
    ) -> None:
        self._outbox = outbox
        self._schema, self._table, self._what = schema, table, what
        self._rows = rows
        self._labels = dict(labels)
        """Maps the operation of each row that has one to the row's label."""
        self._name = name
        self._states: dict[str, str] = {}
        """The states when last accessed."""
        self._written: set[str] = set()
        self._open = set(self._labels)
        """Operations that are not in the queue yet, because their batch has not ended."""

    # --- looking ---------------------------------------------------------------------------------

    @property
    def rows(self) -> int:
        """Number of rows given."""
        return self._rows

    @property
    def changed(self) -> int:
        """Number of rows that write something; the others are already as shown."""
        return len(self._labels)

    @property
    def written(self) -> int:
        """Number of rows that the server has."""
        return self._counts()["written"]

    @property
    def ops(self) -> list[str]:
        """Ids of the queue's operations for the rows."""
        return list(self._labels)

    @property
    def waiting(self) -> int:
        """Number of rows that are still to be sent, or answered."""
        return self._counts()["waiting"]

    @property
    def refused(self) -> int:
        """Number of rows that the server refused: `refused_df` lists them with the reason."""
        return self._counts()["failed"]

    @property
    def conflicts(self) -> int:
        """Number of rows that wait for your decision: ``.conflicts`` of the table lists them."""
        return self._counts()["asking"]

    @property
    def refused_df(self) -> pd.DataFrame:
        """The refused rows: their labels as index, their values, and ``reason``, the server's message.

        The index is that of the given DataFrame (for dicts, the row's position; for ``delete``, the key).
        """
        import pandas as pd

        self._read_rows()
        failed = [op for op, state in self._states.items() if state == "failed"]
        found = [op for op in map(self._outbox.get, failed) if op is not None]
        rows = [{**op.key, **op.values, "reason": op.error} for op in found]
        labels: list[Any] = [self._labels[op.id] for op in found]
        index = (
            pd.MultiIndex.from_tuples(labels, names=self._name)
            if labels and isinstance(self._name, tuple)
            else pd.Index(labels, name=None if isinstance(self._name, tuple) else self._name)
        )
        return pd.DataFrame(rows, index=index, columns=None if rows else ["reason"])

    def __repr__(self) -> str:
        counts = self._counts()
        said = [f"{counts['written']:,} written"] if counts["written"] or not self._labels else []
        names = {"waiting": "waiting", "failed": "refused", "asking": "in conflict"}
        said += [f"{counts[state]:,} {name}" for state, name in names.items() if counts[state]]
        if counts["dropped"]:
            said.append(f"{counts['dropped']:,} discarded")
        if len(self._labels) < self._rows:
            said.append(f"{self._rows - len(self._labels):,} unchanged")
        why = "; .refused_df says why" if counts["failed"] else ""
        rows = "row" if self._rows == 1 else "rows"
        return (
            f'{self._what} of {self._rows:,} {rows}, table "{self._table}": {", ".join(said)}{why}'
        )

    def _counts(self) -> Counter[str]:
        self._read_rows()
        return Counter(self._states.values())

    def _read_rows(self) -> None:
        """Read the queue's file; if it is closed, keep the last known states."""
        try:
            there = self._outbox.states(self._schema, self._table)
            for op in self._labels:
                if op in there or op in self._open:
                    self._states[op] = there.get(op, "waiting")
                elif op in self._written or self._outbox.outcome(op)[0]:
                    self._states[op] = "written"
                    self._written.add(op)
                else:
                    self._states[op] = "dropped"
        except QueueError:
            for op in self._labels:
                if op in self._written:
                    self._states[op] = "written"
                else:
                    self._states.setdefault(op, "waiting")

    # --- called by the editor and the worker -----------------------------------------------------

    def _put(self, op: str, put: Put) -> str:
        """Note that an operation is queued, maybe combined with an earlier one of its row. Return the id."""
        stored = op if put.op is None else put.op.id
        self._open.discard(op)
        self._labels[stored] = self._labels.pop(op)
        if put.op is None:  # it cancelled an unsent one
            self._written.add(stored)
        return stored

    def _taken_back(self, op: str) -> None:
        """Note that the batch ended without the operation."""
        self._open.discard(op)

    def _settled(self, op: str) -> None:
        """Note that the server has the operation."""
        self._written.add(op)
