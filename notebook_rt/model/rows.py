"""What the pure machines need of a table: rows in, rows out, one batch at a time.

``Rows`` is the seam between deciding and storing. The mirror (``sync/table/mirror.py``) decides what the
table must look like and says it in ``Op``s; whatever stands behind ``Rows`` makes it so: the
columnar table of ``store/`` in production, a dict of dicts in the tests, and the overlay of local
edits (``edits/overlay.py``) in between, which is a ``Rows`` itself over another ``Rows``.

Values are *typed*: what ``store.types`` decodes a JSON value to, equal whether it came over REST or
the socket (promise 11). Keys are the typed value of the key column, or a tuple of them for a
composite key, in the order of the key's columns.

What is made for each change is a ``msgspec.Struct``: a frozen dataclass takes six times as long to make.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, overload

import msgspec

from notebook_rt.model.plain import as_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Key: TypeAlias = Hashable
Row: TypeAlias = Mapping[str, Any]
"""A whole or partial row, typed: column name to value. An absent column is unknown, not null."""

Json: TypeAlias = Any
WireRow: TypeAlias = Mapping[str, Json]
"""A row as JSON gave it (REST form): column name to undecoded JSON value."""


class Upsert(msgspec.Struct, frozen=True, gc=False):  # many live at once, and none is in a cycle
    """Set the given columns of ``key``; insert the row if it is not there (missing columns null)."""

    key: Key
    row: Row
    at: float | None = None
    """When it was committed, seconds since the epoch by the server's clock; None: nobody said."""


class Delete(msgspec.Struct, frozen=True, gc=False):
    """Remove ``key``; if it is not there, only give up the place that was kept for it."""

    key: Key
    at: float | None = None
    """See ``Upsert``."""
    keeps_place: bool = False
    """Whether the row comes back to its place, where the key is upserted again: a pending edit hides it."""


Op: TypeAlias = Upsert | Delete


class RowChange(msgspec.Struct, frozen=True):
    """One row's effective change: what the view showed before, and what it shows now.

    ``old`` is None for an insert, ``new`` is None for a delete; both are whole rows.
    """

    kind: Literal["insert", "update", "delete"]
    key: Key
    old: Row | None
    new: Row | None

    def to_dict(self) -> dict[str, Any]:
        """The change of nothing but JSON's types, ready for ``json.dumps``.

        Moments are ISO 8601, decimals and uuids text, bytes ``\\x`` and hexadecimal digits; NaN and
        the infinities are the texts that PostgreSQL has for them.

        Returns
        -------
        dict
            ``kind``, ``key`` (a list where it is composite), ``old`` and ``new``.
        """
        return {name: as_json(getattr(self, name)) for name in ("kind", "key", "old", "new")}


class LaterChanges(Sequence[RowChange]):
    """What a batch changed, worked out when it is looked at, or before that by who gave it.

    Parameters
    ----------
    at_most : int
        As many changes as there can be, known at once: what changes nothing is no change.
    work_out
        Makes whoever gave this call ``resolve``.
    """

    def __init__(self, at_most: int, work_out: Callable[[], None]) -> None:
        self.at_most = at_most
        self._work_out = work_out
        self._changes: Sequence[RowChange] | None = None

    def resolve(self, changes: Sequence[RowChange]) -> None:
        """Say what they are."""
        self._changes = changes

    def _all(self) -> Sequence[RowChange]:
        if self._changes is None:
            self._work_out()
        assert self._changes is not None  # settled by then
        return self._changes

    def __len__(self) -> int:
        return len(self._all())

    @overload
    def __getitem__(self, place: int) -> RowChange: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[RowChange]: ...

    def __getitem__(self, place: int | slice) -> RowChange | Sequence[RowChange]:
        return self._all()[place]

    def __iter__(self) -> Iterator[RowChange]:
        return iter(self._all())


def at_most(changes: Sequence[RowChange]) -> int:
    """How many changes these are at most, without working out what they are."""
    return changes.at_most if isinstance(changes, LaterChanges) else len(changes)


class Load(Protocol):
    """A whole table collected beside the one that is shown; it replaces it at ``commit``."""

    def extend(self, page: Sequence[WireRow], keys: list[Key] | None = None) -> None:
        """Add a page of undecoded rows, with their ``keys`` where they are known; a key seen before
        is overwritten.
        """

    def prepare(self, page: Sequence[WireRow], keys: list[Key] | None = None) -> Callable[[], None]:
        """Do most of what `extend` does, while pages before this one are still to come; what is returned
        does the rest.
        """

    def __len__(self) -> int: ...

    def commit(self, ops: Sequence[Op] = (), *, want_changes: bool = False) -> Sequence[RowChange]:
        """Replace the table by what was collected with ``ops`` laid over it, as one change."""


class Rows(Protocol):
    """A keyed, ordered table. Order: as loaded, then as inserted; a deletion moves nothing, and neither
    does one that is taken back (``Delete.keeps_place``).
    """

    def __len__(self) -> int: ...

    def __contains__(self, key: Key) -> bool: ...

    @property
    def pending_keys(self) -> Collection[Key]:
        """The keys of rows of which a write was answered whose event is waited for: what comes of
        them is to be told though it changes nothing, and may be older and ignored.
        """

    def admit(self, key: Key, sent_at: float) -> None:
        """A read that was sent at ``sent_at`` (monotonic seconds) tells what comes next of ``key``:
        a write that was answered before is in it.
        """

    def get(self, key: Key) -> dict[str, Any] | None:
        """The whole row, typed, or None."""

    def gather(self, keys: Iterable[Key]) -> dict[Key, dict[str, Any] | None]:
        """The whole rows under ``keys``, typed; None where there is no row."""

    def keys(self) -> Iterator[Key]: ...

    def integers(self) -> NDArray[np.int64] | None:
        """All keys, sorted, if each is an integer of 64 bits that is known as one; else None."""

    def latest(self, column: str, most: int) -> list[Key]:
        """The keys of at most so many rows whose moments in ``column`` are the latest, those first; none
        where not all are moments.
        """

    def apply(self, ops: Sequence[Op], *, want_changes: bool = False) -> Sequence[RowChange]:
        """Apply ``ops`` in order, as one change; return what changed if asked (else an empty list).

        What is returned may be `LaterChanges`.
        """

    def load(self) -> Load:
        """Begin to collect a whole new table."""

    def differing(self, page: Sequence[WireRow]) -> list[tuple[Key, Row]]:
        """Decode ``page`` and return the rows that are not here or differ in a given column."""
