"""Differences between rows: as changes to report, and as operations that apply them.

Pure: its input is typed rows, its output `RowChange`s and operations. The overlay uses it to show local
edits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from notebook_rt.model.rows import Delete, Key, Op, Row, RowChange, Upsert
from notebook_rt.model.types import differs, equal


def net(changes: Iterable[RowChange]) -> list[RowChange]:
    """Combine several changes of one row into one, and none if the row is what it was."""
    first: dict[Key, Row | None] = {}
    latest: dict[Key, Row | None] = {}
    for change in changes:
        first.setdefault(change.key, change.old)
        latest[change.key] = change.new
    return between(first, latest)


def between(old: Mapping[Key, Row | None], new: Mapping[Key, Row | None]) -> list[RowChange]:
    """Return the changes from ``old`` to ``new``, by the keys of ``new``; deleted rows come first."""
    gone, here = [], []
    for key, now in new.items():
        was = old.get(key)
        if now is None:
            if was is not None:
                gone.append(RowChange("delete", key, dict(was), None))
        elif was is None:
            here.append(RowChange("insert", key, None, dict(now)))
        elif differs(now, was):
            here.append(RowChange("update", key, dict(was), dict(now)))
    return gone + here


def operation(change: RowChange) -> Op:
    """Return the operation that applies a change to the table below; an update has only changed columns."""
    if change.new is None:
        return Delete(change.key)
    old = change.old or {}
    changed = {n: v for n, v in change.new.items() if n not in old or not equal(v, old[n])}
    return Upsert(change.key, changed)
