"""Detect whether the database was restored from an older backup.

A restored database has rows in an earlier state. No cursor reveals them: neither the watermark nor the
position of a log, which counts transactions. So some rows without a known change are read: those that changed
last, because a restored database lacks these first.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence, Set
from typing import Final

from msgspec.structs import replace

from notebook_rt.model.rows import Key, Row
from notebook_rt.model.types import differs
from notebook_rt.sync.table.comparison import Comparison
from notebook_rt.sync.table.flows import Ask
from notebook_rt.sync.table.horizon import Read
from notebook_rt.sync.table.queries import Reads
from notebook_rt.sync.table.reading import SAMPLE, Paging, by_keys
from notebook_rt.sync.table.replica import Replica

LATEST: Final = 20
"""Number of last changed rows of which one must be as it is here: the others may have been deleted."""

Answer = Generator[Ask, Sequence[Read], bool]


def goes_on(
    replica: Replica, reads: Reads, paging: Paging, changed: Set[Key], now: Callable[[], float]
) -> Answer:
    """Return whether no existing rows except ``changed``, all of which were read, have changed.

    This follows from the watermark: if the latest other existing row has the same one, the backup is not
    older than that row, and so all others are as they are here.
    """
    column = replica.watermark.column
    latest = replica.rows.latest(column, len(changed) + LATEST)
    latest = [key for key in latest if key not in changed][:LATEST]
    mine, theirs = yield from _read(replica, reads, paging, latest, now)
    for key in latest:
        row, here = theirs[key], mine[key]
        if row is not None and here is not None and not _is_later(row, here, column):
            return bool(row[column] == here[column])
    return len(changed) >= len(replica.rows)


def is_as_followed(
    replica: Replica, reads: Reads, paging: Paging, now: Callable[[], float]
) -> Answer:
    """Return whether rows are as they are here, with all changes of the log applied: a sample of the whole
    table, and the latest rows if it has a watermark.
    """
    column = replica.watermark.column
    some = list(replica.some(len(replica.rows) // SAMPLE + 1))
    latest = replica.rows.latest(column, LATEST) if column else []
    keys = list(dict.fromkeys([*latest, *some]))
    mine, theirs = yield from _read(replica, reads, paging, keys, now)
    for key in keys:
        row, here = theirs[key], mine[key]
        later = row is not None and here is not None and column and _is_later(row, here, column)
        if not later and (row is None or here is None or differs(row, here)):
            return False
    return True


def _read(
    replica: Replica, reads: Reads, paging: Paging, keys: Sequence[Key], now: Callable[[], float]
) -> Generator[Ask, Sequence[Read], tuple[dict[Key, Row | None], dict[Key, Row | None]]]:
    """Return the rows here and those of the server; differences are applied."""
    comparison = Comparison(replica)
    # It may be unknown whether the server supports versions, and they are not needed.
    yield from by_keys(reads, replace(paging, xmin=False), keys, comparison)
    mine: dict[Key, Row | None] = {**replica.rows.gather(keys)}
    theirs = {key: comparison.found(key) for key in keys}
    comparison.apply(now())
    return mine, theirs


def _is_later(row: Row, here: Row, column: str) -> bool:
    return row[column] is None or here[column] is None or bool(row[column] > here[column])
