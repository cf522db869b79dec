"""What the pure machines need of a table: rows in, rows out, one batch at a time.

``Rows`` is the seam between deciding and storing. The mirror (``sync/mirror.py``) decides what the
table must look like and says it in ``Op``s; whatever stands behind ``Rows`` makes it so: the
columnar table of ``store/`` in production, a dict of dicts in the tests, and the overlay of local
edits (``sync/overlay.py``) in between, which is a ``Rows`` itself over another ``Rows``.

Values are *typed*: what ``store.types`` decodes a JSON value to, equal whether it came over REST or
the socket (promise 11). Keys are the typed value of the key column, or a tuple of them for a
composite key, in the order of the key's columns.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

Key: TypeAlias = Hashable
Row: TypeAlias = Mapping[str, Any]
"""A whole or partial row, typed: column name to value. An absent column is unknown, not null."""

Json: TypeAlias = Any
WireRow: TypeAlias = Mapping[str, Json]
"""A row as JSON gave it (REST form): column name to undecoded JSON value."""


@dataclass(frozen=True, slots=True)
class Upsert:
    """Set the given columns of ``key``; insert the row if it is not there (missing columns null)."""

    key: Key
    row: Row


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove ``key``; nothing happens if it is not there."""

    key: Key


Op: TypeAlias = Upsert | Delete


@dataclass(frozen=True, slots=True)
class RowChange:
    """One row's effective change: what the view showed before, and what it shows now.

    ``old`` is None for an insert, ``new`` is None for a delete; both are whole rows.
    """

    kind: Literal["insert", "update", "delete"]
    key: Key
    old: Row | None
    new: Row | None


class Load(Protocol):
    """A whole table being collected beside the one that is seen; nobody sees it before ``commit``."""

    def extend(self, page: Sequence[WireRow]) -> None:
        """Add a page of undecoded rows; a key seen before is overwritten."""

    def __len__(self) -> int: ...

    def commit(self, ops: Sequence[Op] = (), *, want_changes: bool = False) -> Sequence[RowChange]:
        """Replace the table by what was collected with ``ops`` laid over it, as one change."""


class Rows(Protocol):
    """A keyed, ordered table. Order: as loaded, then as inserted; a deletion moves nothing."""

    def __len__(self) -> int: ...

    def __contains__(self, key: Key) -> bool: ...

    def get(self, key: Key) -> dict[str, Any] | None:
        """The whole row, typed, or None."""

    def keys(self) -> Iterator[Key]: ...

    def apply(self, ops: Sequence[Op], *, want_changes: bool = False) -> Sequence[RowChange]:
        """Apply ``ops`` in order, as one change; return what changed if asked (else an empty list)."""

    def load(self) -> Load:
        """Begin to collect a whole new table."""

    def differing(self, page: Sequence[WireRow]) -> list[tuple[Key, Row]]:
        """Decode ``page`` and return the rows that are not here or differ in a given column."""
