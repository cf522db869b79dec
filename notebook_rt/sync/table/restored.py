"""Whether the database is the one whose rows are here, or an older one: restored from a backup.

Such a one has rows as they were before. They are behind every cursor that would tell of them: the
watermark's, and the position of a log, which counts transactions. So some rows are read, of which no
change is known: those that changed last, for these are the first that a restored one lacks.
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
"""Of so many rows that changed last one must be as it is here: the others may have been deleted."""

Answer = Generator[Ask, Sequence[Read], bool]


def goes_on(
    replica: Replica, reads: Reads, paging: Paging, changed: Set[Key], now: Callable[[], float]
) -> Answer:
    """Whether nothing but ``changed``, of which all was read, has changed in the rows that there are.

    By the watermark: if the latest other row that there still is has the same one, the backup is not
    older than that row, and so has all others as they are here.
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
    """Whether rows are as they are here, which has all that the log told; some rows from all over the
    table, and the latest of one that has a watermark.
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
    """The rows as they are here, and as they are there; what differs is taken."""
    comparison = Comparison(replica)
    # Whether the server lets versions through may not be known yet, and they are not wanted.
    yield from by_keys(reads, replace(paging, xmin=False), keys, comparison)
    mine: dict[Key, Row | None] = {**replica.rows.gather(keys)}
    theirs = {key: comparison.found(key) for key in keys}
    comparison.apply(now())
    return mine, theirs


def _is_later(row: Row, here: Row, column: str) -> bool:
    return row[column] is None or here[column] is None or bool(row[column] > here[column])
