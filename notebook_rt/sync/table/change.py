"""Read a change by itself, without the stored rows (promise 5).

In: a ``Change`` from the wire. Out: its key, whether it is a whole row or the narrow frame of a filter's
second binding, whether it moved a row to another key, and whether its values can be trusted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from msgspec.structs import replace

from notebook_rt.model.rows import Key, WireRow
from notebook_rt.model.spec import TableSpec
from notebook_rt.model.types import (
    Column,
    Schema,
    built_in,
    decoder,
    equal,
    kind,
    lossy,
    may_be_lossy,
)
from notebook_rt.sync.events import Change
from notebook_rt.sync.table.nulls import Nulls


class UnreadableError(Exception):
    """A change without a readable key: an unknown row changed."""


class UnknownColumnsError(Exception):
    """A row names columns of a table whose columns are not all known."""


class ChangeReader:
    """Reads the changes of one table."""

    def __init__(self, spec: TableSpec, schema: Schema, *, complete: bool = True) -> None:
        self.nulls = Nulls(schema)
        self.complete = complete
        """Whether all columns of the server's table are known."""
        self._schema = schema
        self._single = schema.key[0] if len(schema.key) == 1 else None
        self._decode_key = decoder(schema.types[schema.key[0]], schema.numeric)
        self._shaky_key = any(may_be_lossy(schema.types[name]) for name in schema.key)
        self._may_be_lossy = [
            name
            for name, pg_type in schema.types.items()
            if name not in self.nulls.uncertain and may_be_lossy(pg_type)
        ]
        streamed = {*schema.names, *spec.filter.columns}
        narrow = {*schema.key, *spec.filter.columns}
        self.by_bindings = bool(spec.filter) and spec.filter.to_realtime() is not None
        """Whether the server's bindings have the filter, so that a full frame proves that the row matches."""
        self._narrow = narrow if self.by_bindings else None
        self._has_others = bool(streamed - narrow)

    def key_of(self, change: Change) -> Key:
        """Return the key of a change; raise `UnreadableError` if it has none."""
        record = change.old_record if change.kind == "DELETE" else change.record
        try:
            if record is None:
                raise KeyError
            if self._shaky_key:
                self._check_key(change.kind, record)
            if self._single is not None:
                value = self._decode_key(record[self._single])
                if value is not None and not isinstance(value, (list, dict)):
                    return cast(Key, value)
            if any(record[name] is None for name in self._schema.key):
                raise KeyError  # a key contains no null: the named columns are not the key
            return self._key_in(record)
        except KeyError:
            raise UnreadableError(f"a {change.kind} without its key") from None

    def _check_key(self, kind: str, record: WireRow) -> None:
        for name in self._schema.key:
            if lossy(self._schema.types[name], record[name]) or self._schema.rounds(record, name):
                raise UnreadableError(f'a {kind} whose key "{name}" is perhaps not the true one')

    def _key_in(self, record: WireRow) -> Key:
        schema = self._schema
        return schema.key_of(schema.decode({name: record[name] for name in schema.key}, "socket"))

    def is_narrow(self, change: Change) -> bool:
        """Return whether this is the frame that only shows whether a row still matches the filter."""
        return (
            self._narrow is not None
            and (self._has_others or not self.complete)
            and not change.exact
            and change.kind == "UPDATE"
            and all(column.name in self._narrow for column in change.columns)
        )

    def is_whole(self, change: Change) -> bool:
        """Return whether it contains all kept columns."""
        record = change.record or {}
        return all(name in record for name in self._schema.names)

    def is_complete(self, change: Change) -> bool:
        """Return whether it contains the true value of every kept column."""
        return self.is_whole(change) and not self.lossy(change)

    def lossy(self, change: Change) -> bool:
        """Return whether a value may be untrue (docs/design/wire.md "Values"): the row must be read."""
        if change.exact:
            return False
        record = change.record or {}
        for name in self.nulls.uncertain:
            if record.get(name, 0) is None:
                return True
        if not self._may_be_lossy:
            return False
        types = self._schema.types
        return any(lossy(types[name], record.get(name)) for name in self._may_be_lossy)

    def sure(self, record: WireRow) -> dict[str, Any]:
        """Return the typed values of ``record`` that are certainly true."""
        types, doubted, shaky = self._schema.types, self.nulls.uncertain, self._may_be_lossy
        told = {
            name: value
            for name, value in record.items()
            if name in types
            and not (value is None and name in doubted)
            and not (name in shaky and lossy(types[name], value))
        }
        return self._schema.decode(told, "socket")

    def moves(self, change: Change) -> bool:
        """Return whether ``change`` is an UPDATE of the key itself."""
        old, record = change.old_record, change.record
        if not old or record is None or change.kind != "UPDATE":
            return False
        if self._single is not None and old.get(self._single) == record[self._single]:
            return False
        if all(name not in old or old[name] == record[name] for name in self._schema.key):
            return False
        return self._key_in({**record, **old}) != self._key_in(record)

    def hides_key(self, change: Change) -> bool:
        """Return whether ``change`` is an UPDATE that does not contain the row's previous key.

        That is so if rows are identified by other columns than the server's replica identity.
        """
        old = change.old_record
        if change.kind != "UPDATE" or not old:
            return False
        return not old.keys() >= {*self._schema.key}

    def is_of(self, change: Change, row: Mapping[str, Any] | None) -> bool:
        """Return whether a change without the key in its old values certainly belongs to ``row``."""
        old = change.old_record
        if row is None or not old or not old.keys() <= self._schema.types.keys():
            return False
        before = self._schema.decode(old, "socket")
        return all(equal(row.get(name), value) for name, value in before.items())

    def apart(self, change: Change) -> tuple[Change, Change]:
        """Split an UPDATE of the key into a DELETE of the old key and the update without its old record."""
        record, old = change.record or {}, change.old_record or {}
        before = {name: old.get(name, record[name]) for name in self._schema.key}
        gone = replace(change, kind="DELETE", record=None, old_record=before, errors=())
        return gone, replace(change, old_record=None)


def columns_differ(columns: tuple[Column, ...], known: Schema) -> bool:
    """Return whether a change contains other columns than the known ones.

    A user-defined type is ignored: a domain has its own name in a change, but the name of its base type
    in the description.
    """
    if {column.name for column in columns} != known.types.keys():
        return True
    return any(
        kind(column.pg_type) != kind(known.types[column.name])
        for column in columns
        if built_in(column.pg_type)
    )
