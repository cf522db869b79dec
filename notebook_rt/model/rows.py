"""The interface between the pure machines and a table's storage: rows in, rows out, one batch at a time.

``Rows`` separates deciding from storing. The mirror (``sync/table/mirror.py``) decides what the table must
look like and expresses it in ``Op``s; an implementation of ``Rows`` carries them out: the columnar table of
``store/`` in production, a dict of dicts in the tests, and the overlay of local edits (``edits/overlay.py``)
in between, which is itself a ``Rows`` over another ``Rows``.

Values are *typed*: ``store.types`` decodes JSON values to them, equal whether they came over REST or the
socket (promise 11). Keys are the typed value of the key column, or a tuple of them for a composite key, in
the order of the key's columns.

The objects made for each change are ``msgspec.Struct``s: a frozen dataclass takes six times as long to make.
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
"""A row as decoded from JSON (REST form): column name to undecoded JSON value."""


class Upsert(msgspec.Struct, frozen=True, gc=False):  # many live at once, and none is in a cycle
    """Set the given columns of ``key``; insert the row if it does not exist (missing columns null)."""

    key: Key
    row: Row
    at: float | None = None
    """Commit time, seconds since the epoch by the server's clock; None if unknown."""


class Delete(msgspec.Struct, frozen=True, gc=False):
    """Remove ``key``; if it does not exist, only give up the place that was kept for it."""

    key: Key
    at: float | None = None
    """See ``Upsert``."""
    keeps_place: bool = False
    """Whether the row returns to its place if the key is upserted again: a pending edit hides it."""


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
        """Return the change with only JSON's types, ready for ``json.dumps``.

        Moments are ISO 8601, decimals and uuids text, bytes ``\\x`` and hexadecimal digits; NaN and the
        infinities are PostgreSQL's texts for them.

        Returns
        -------
        dict
            ``kind``, ``key`` (a list if it is composite), ``old`` and ``new``.
        """
        return {name: as_json(getattr(self, name)) for name in ("kind", "key", "old", "new")}


class LaterChanges(Sequence[RowChange]):
    """The changes of a batch, computed when they are read, or earlier by the provider.

    Parameters
    ----------
    at_most : int
        Upper limit of the number of changes, known immediately: an operation without effect is no change.
    work_out
        Makes the provider call ``resolve``.
    """

    def __init__(self, at_most: int, work_out: Callable[[], None]) -> None:
        self.at_most = at_most
        self._work_out = work_out
        self._changes: Sequence[RowChange] | None = None

    def resolve(self, changes: Sequence[RowChange]) -> None:
        """Set the changes."""
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
    """Return an upper limit of the number of changes, without computing them."""
    return changes.at_most if isinstance(changes, LaterChanges) else len(changes)


class Load(Protocol):
    """A whole table collected alongside the current one; it replaces it at ``commit``."""

    def extend(self, page: Sequence[WireRow], keys: list[Key] | None = None) -> None:
        """Add a page of undecoded rows, with their ``keys`` if known.

        A key that was added before is overwritten.
        """

    def prepare(self, page: Sequence[WireRow], keys: list[Key] | None = None) -> Callable[[], None]:
        """Do most of the work of `extend` while earlier pages are still to come.

        Return a function that does the rest.
        """

    def __len__(self) -> int: ...

    def commit(self, ops: Sequence[Op] = (), *, want_changes: bool = False) -> Sequence[RowChange]:
        """Replace the table by what was collected, with ``ops`` applied to it, as one change."""


class Rows(Protocol):
    """A keyed, ordered table.

    Order: as loaded, then as inserted. A deletion moves no row; neither does one that is taken back
    (``Delete.keeps_place``).
    """

    def __len__(self) -> int: ...

    def __contains__(self, key: Key) -> bool: ...

    @property
    def pending_keys(self) -> Collection[Key]:
        """The keys of rows with an answered write whose event has not arrived yet.

        A change to such a row must be published even if it changes nothing, and may be older and ignored.
        """

    def admit(self, key: Key, sent_at: float) -> None:
        """Note that the next operation on ``key`` comes from a read sent at ``sent_at`` (monotonic seconds).

        It includes every write that was answered before.
        """

    def get(self, key: Key) -> dict[str, Any] | None:
        """Return the whole row, typed, or None."""

    def gather(self, keys: Iterable[Key]) -> dict[Key, dict[str, Any] | None]:
        """Return the whole rows under ``keys``, typed; None where there is no row."""

    def keys(self) -> Iterator[Key]: ...

    def integers(self) -> NDArray[np.int64] | None:
        """Return all keys, sorted, if each is an integer that is known to fit 64 bits; else None."""

    def latest(self, column: str, most: int) -> list[Key]:
        """Return the keys of up to ``most`` rows with the latest moments in ``column``, latest first.

        Empty if not all of them are moments.
        """

    def apply(self, ops: Sequence[Op], *, want_changes: bool = False) -> Sequence[RowChange]:
        """Apply ``ops`` in order, as one change; return the changes if requested (else an empty list).

        The result may be `LaterChanges`.
        """

    def load(self) -> Load:
        """Begin to collect a whole new table."""

    def differing(self, page: Sequence[WireRow]) -> list[tuple[Key, Row]]:
        """Decode ``page`` and return the rows that are missing here or differ in a given column."""
