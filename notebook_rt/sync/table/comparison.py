"""Collect the results of a comparison with the server, to apply them as one (promises 3, 4, 10).

In: pages of whole rows or of versions, answers by key, keys that are certainly deleted, in any order.
Out: the differences that are not explained by changes received since, and the server's rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import islice
from typing import Final

from notebook_rt.errors import DuplicateKeyError
from notebook_rt.model.rows import Key, Op, Row, WireRow
from notebook_rt.model.types import Schema
from notebook_rt.sync.table.horizon import Read, spanning
from notebook_rt.sync.table.replica import Replica

SUSPECTS: Final = 10
"""Number of duplicate keys that are checked for several rows."""


class Comparison:
    """The differences between the rows read and the rows here; applied as one, at the end."""

    def __init__(self, replica: Replica) -> None:
        self.seen = 0
        self.unknown: list[Key] = []
        """Keys whose row must be read."""
        self.differing = 0
        self.lost: list[Key] = []
        """The keys that differed for no known reason."""
        self.order: list[Key] = []
        """The keys in the order of their arrival."""
        self.twice: list[Key] = []
        """The keys that arrived more than once: a row that moved meanwhile, or several rows."""
        self._replica = replica
        self._keys: set[Key] = set()
        self._all: list[Read] = []
        self._rows: dict[Key, tuple[Row | None, Read, object]] = {}

    def whole(self, read: Read) -> None:
        """Take a page of whole rows. In a large table, a row with the known ``xmin`` counts as unchanged.

        In a small table, each row is compared, because recreating a column does not change ``xmin``.
        """
        replica, page = self._replica, read.page.rows
        replica.check_page(page)
        keys = self._note(read)
        many = len(replica.rows) > len(page)
        if many and replica.window_read is None:  # otherwise an unchanged row may have left it
            unlike = {*replica.versions.differing(keys, page), *replica.held()}
            pairs = zip(keys, page, strict=True)
            page = [row for key, row in pairs if key in unlike]
            keys = replica.keys_of(page)
        differing = dict(replica.rows.differing(page))
        same: list[tuple[Key, WireRow]] = []
        for key, wire in zip(keys, page, strict=True):
            if key in differing:
                self._rows[key] = (differing[key], read, wire.get("xmin"))
            elif replica.is_held(key):
                self._rows[key] = (replica.schema.decode(wire), read, wire.get("xmin"))
            else:
                same.append((key, wire))
        replica.versions.note_page([key for key, _ in same], [wire for _, wire in same])

    def versions(self, read: Read) -> None:
        """Take a page of keys with their ``xmin``."""
        self.unknown += self._replica.versions.differing(self._note(read), read.page.rows)

    def by_key(self, keys: Sequence[Key], read: Read) -> None:
        """Take the answer to a read of ``keys``: rows that are not in it are deleted.

        Raises
        ------
        DuplicateKeyError
            If several rows have one key, read by one statement.
        """
        schema, spec = self._replica.schema, self._replica.spec
        rows: dict[Key, tuple[Row | None, object]] = {}
        self._replica.nulls.scan(read.page.rows)
        if not self._replica.complete:
            self._replica.check_names(read.page.rows)
        for wire in read.page.rows:
            found = schema.decode(wire)
            rows[schema.key_of(found)] = (found, wire.get("xmin"))
        if len(rows) < len(read.page.rows):
            same = duplicate_keys(schema, read.page.rows)
            raise DuplicateKeyError(spec.schema, spec.table, schema.key, same)
        for key in keys:
            row, xmin = rows.get(key, (None, None))
            if row is not None and self._replica.is_alike_edge(key, row):
                continue
            if row is not None and not self._replica.keeps(key, row):
                row = xmin = None
            self._rows[key] = (row, read, xmin)

    def absent(self) -> None:
        """Mark as deleted all rows here whose keys were not among the read ones."""
        if not self._all:
            return
        read = spanning(self._all)
        keys, mine = self._keys, list(self._replica.rows.keys())
        if (
            self._replica.window_read is not None
        ):  # only the window decides about rows equal to its edge
            mine = list(dict.fromkeys([*mine, *self._replica.held()]))
        self.gone([key for key in mine if key not in keys], read)

    def gone(self, keys: Sequence[Key], read: Read) -> None:
        """Mark these keys as deleted, according to ``read``."""
        self._rows.update(dict.fromkeys(keys, (None, read, None)))

    def found(self, key: Key) -> Row | None:
        """Return the row read for a requested key; None if there is no such row."""
        return self._rows[key][0]

    def spans(self, read: Read) -> None:
        """Record that ``read`` compared the whole table."""
        self._all.append(read.without_rows())
        self.seen = len(self._replica.rows)

    @property
    def began(self) -> float | None:
        """Server time before which no change can be missing from the reads."""
        return min((read.page.server_time for read in self._all), default=None)

    @property
    def sent(self) -> int | None:
        """The moment since when the compared rows were read; None: not the whole table."""
        return min((read.sent for read in self._all), default=None)

    def apply(self, now: float) -> int:
        """Apply the differences, and return the number of rows that differed."""
        replica = self._replica
        ops: list[Op] = []
        reserve: set[Key] = set()
        if replica.window is not None and self._all:
            replica.window.turn()
            reserve.update(self.order[replica.window.limit :] if replica.window.limit else ())
        here = replica.rows.gather(self._rows)  # individually they take three times as long
        for key, (row, read, xmin) in self._rows.items():
            explained, mine = replica.is_open(key), here[key]
            op = replica.take_row(key, mine, row, read, now, xmin)
            if op is not None:
                ops.append(op)
                window = replica.window_read
                explained |= window is not None and window.turned(mine, row)
                explained |= mine is None and key in reserve  # nobody has seen the row missing
                if not explained:
                    self.lost.append(key)
        self.differing = len(ops)
        replica.apply(ops)
        replica.reread(self._rows, now)
        return self.differing

    def _note(self, read: Read) -> list[Key]:
        keys = self._replica.keys_of(read.page.rows)
        spec = self._replica.spec
        if spec.key and not are_whole(keys):
            same = duplicate_keys(self._replica.schema, read.page.rows)
            raise DuplicateKeyError(spec.schema, spec.table, spec.key, same)
        self.order += keys
        self._all.append(read.without_rows())
        before = len(self._keys)
        self._keys.update(keys)
        if len(self._keys) < before + len(keys):
            again = (key for key, number in Counter(self.order).items() if number > 1)
            self.twice = list(islice(again, SUSPECTS))
        self.seen += len(keys)
        return keys


def duplicate_keys(schema: Schema, page: Sequence[WireRow]) -> list[WireRow]:
    """Return the first two rows with the same key, or one with a null in its key; empty if there are none."""
    found: dict[Key, WireRow] = {}
    for key, row in zip(schema.keys_of(page), page, strict=True):
        told = {name: value for name, value in row.items() if name != "xmin"}
        if not are_whole([key]):
            return [told]
        if key in found:
            return [found[key], told]
        found[key] = told
    return []


def are_whole(keys: Sequence[Key]) -> bool:
    """Return whether no key, and no part of one, is null."""
    return not any(key is None or (isinstance(key, tuple) and None in key) for key in keys)
