"""The recorded changes of a single row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from notebook_rt.model.rows import Key
from notebook_rt.sync.history import pieces
from notebook_rt.sync.history.past import Past
from notebook_rt.sync.history.record import KINDS

SNAPSHOT: Final = "snapshot"
"""The kind of a row that existed when the history began."""
_ALL: Final = 1 << 62


class Step(msgspec.Struct, frozen=True):
    """A change of a row; ``at`` in microseconds since 1970 by the server's clock."""

    at: int
    kind: str
    """One of ``KINDS``, or `SNAPSHOT`."""
    cause: str
    old: Mapping[str, Any] | None
    new: Mapping[str, Any] | None


def steps_of(past: Past, key: Key) -> list[Step]:
    """Return the changes of the row of ``key``, oldest first, starting with its first state if it existed."""
    began = past.began
    if began is None:
        return []
    first = past.first_row(key)
    found = [] if first is None else [Step(began, SNAPSHOT, SNAPSHOT, None, first)]
    for told in past.changes_between(began, _ALL, key):
        olds = pieces.rows_of(told.schema, told.old)
        news = pieces.rows_of(told.schema, told.new)
        for place in range(len(told)):
            kind = KINDS[int(told.kinds[place])]
            found.append(
                Step(
                    int(told.times[place]),
                    kind,
                    past.causes[int(told.causes[place])],
                    None if kind == "insert" else olds[place],
                    None if kind == "delete" else news[place],
                )
            )
    return found
