"""What is different between rows: as changes to tell, and as operations that make it so.

Pure: typed rows come in, `RowChange`s and operations go out. The overlay shows local edits by it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from notebook_rt.model.rows import Delete, Key, Op, Row, RowChange, Upsert
from notebook_rt.model.types import differs, equal


def net(changes: Iterable[RowChange]) -> list[RowChange]:
    """Several changes of one row as one, and none if it is what it was."""
    first: dict[Key, Row | None] = {}
    latest: dict[Key, Row | None] = {}
    for change in changes:
        first.setdefault(change.key, change.old)
        latest[change.key] = change.new
    return between(first, latest)


def between(old: Mapping[Key, Row | None], new: Mapping[Key, Row | None]) -> list[RowChange]:
    """From what rows were to what they are, by the keys of ``new``; those that left come first."""
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
    """What brings a change into the table below: of an update only what it changes."""
    if change.new is None:
        return Delete(change.key)
    old = change.old or {}
    changed = {n: v for n, v in change.new.items() if n not in old or not equal(v, old[n])}
    return Upsert(change.key, changed)
