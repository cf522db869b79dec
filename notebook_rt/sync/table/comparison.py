"""What a comparison with the server finds, until it is applied as one (promises 3, 4, 10).

In: pages of whole rows or of versions, answers by key, keys that are certainly gone, in whatever order
they come. Out: what differs and is not explained by what was heard since, and the rows as they are there.
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
"""Keys that came twice of which it is asked whether they are of several rows."""


class Comparison:
    """What reads show to differ from the rows here; applied as one, at the end."""

    def __init__(self, replica: Replica) -> None:
        self.seen = 0
        self.unknown: list[Key] = []
        """Keys whose row must be read to know it."""
        self.differing = 0
        self.lost: list[Key] = []
        """The keys that differed for no reason that is known here."""
        self.order: list[Key] = []
        """The keys as they came."""
        self.twice: list[Key] = []
        """The keys that came more than once: of a row that moved meanwhile, or of several rows."""
        self._replica = replica
        self._keys: set[Key] = set()
        self._all: list[Read] = []
        self._rows: dict[Key, tuple[Row | None, Read, object]] = {}

    def whole(self, read: Read) -> None:
        """Take a page of whole rows; of a large table one whose ``xmin`` is the known one is as it is here.

        Of a small one each is compared, for a column that is made anew leaves ``xmin`` as it was.
        """
        replica, page = self._replica, read.page.rows
        replica.check_page(page)
        keys = self._note(read)
        many = len(replica.rows) > len(page)
        if many and replica.window_read is None:  # else a row may have left it that has not changed
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
        """Take the answer to a read of ``keys``: what is not in it is gone.

        Raises
        ------
        DuplicateKeyError
            If several rows have one key: they were read in one statement.
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
        """All keys have been seen: what is here and was not among them is gone."""
        if not self._all:
            return
        read = spanning(self._all)
        keys, mine = self._keys, list(self._replica.rows.keys())
        if self._replica.window_read is not None:  # it alone tells of those that are alike its edge
            mine = list(dict.fromkeys([*mine, *self._replica.held()]))
        self.gone([key for key in mine if key not in keys], read)

    def gone(self, keys: Sequence[Key], read: Read) -> None:
        """Take the word of ``read`` that these keys are gone."""
        self._rows.update(dict.fromkeys(keys, (None, read, None)))

    def found(self, key: Key) -> Row | None:
        """The row that was read under a key that was asked for; None: no row was."""
        return self._rows[key][0]

    def spans(self, read: Read) -> None:
        """``read`` compared the whole table."""
        self._all.append(read.without_rows())
        self.seen = len(self._replica.rows)

    @property
    def began(self) -> float | None:
        """Server time before which nothing can be missing from what was read."""
        return min((read.page.server_time for read in self._all), default=None)

    @property
    def sent(self) -> int | None:
        """The moment since when it was read what is compared; None: not of the whole table."""
        return min((read.sent for read in self._all), default=None)

    def apply(self, now: float) -> int:
        """Settle what differs, and return in how many rows it did."""
        replica = self._replica
        ops: list[Op] = []
        reserve: set[Key] = set()
        if replica.window is not None and self._all:
            replica.window.turn()
            reserve.update(self.order[replica.window.limit :] if replica.window.limit else ())
        here = replica.rows.gather(self._rows)  # one by one they take three times as long
        for key, (row, read, xmin) in self._rows.items():
            explained, mine = replica.is_open(key), here[key]
            op = replica.take_row(key, mine, row, read, now, xmin)
            if op is not None:
                ops.append(op)
                window = replica.window_read
                explained |= window is not None and window.turned(mine, row)
                explained |= mine is None and key in reserve  # nobody has seen that it was missing
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
    """The first two rows that have one key, or one with a null in its key; else empty."""
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
    """Whether no key, and no part of one, is null."""
    return not any(key is None or (isinstance(key, tuple) and None in key) for key in keys)
