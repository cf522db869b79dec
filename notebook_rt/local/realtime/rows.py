"""Encode a logged change as the JSON of its frame. Pure.

In: a row of the log, its table, the subscriber's role and selected columns. Out: the `data` object of a
`postgres_changes` frame as text. For speed, the order of keys and their encoders are computed once for each
combination of table definition, role and selection (`Layout`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from notebook_rt.local.realtime.catalog import Table
from notebook_rt.local.realtime.pgoutput import UNCHANGED, Relation, Row
from notebook_rt.local.realtime.protocol import dumps
from notebook_rt.local.realtime.values import PgType

NO_KEY = "Error 400: Bad Request, no primary key"
UNAUTHORIZED = "Error 401: Unauthorized"
TOO_LARGE = "Error 413: Payload Too Large"
LARGE_VALUE = 64
"""Bytes of JSON above which a value is omitted from a frame that is too large."""

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)


def commit_timestamp(microseconds: int) -> str:
    """Format PostgreSQL's clock for a frame, truncated to milliseconds.

    >>> commit_timestamp(1_234_567)
    '2000-01-01T00:00:01.234Z'
    """
    moment = _EPOCH + timedelta(microseconds=microseconds)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"


@dataclass(frozen=True, slots=True)
class Change:
    """One logged change. `kind` is INSERT, UPDATE or DELETE; `old` is the logged old row."""

    kind: str
    relation: Relation
    committed: str
    new: Row | None
    old: Row | None

    def size(self) -> int:
        """Bytes of its values, approximately as counted by the real server."""
        values = [*(self.new or ()), *(self.old or ())]
        size = sum(len(value) for value in values if isinstance(value, str))
        if size < LARGE_VALUE * len(values):
            return size
        return sum(len(value.encode()) for value in values if isinstance(value, str))

    def identity(self) -> Row:
        """The known part of the old row, with one entry per column, UNCHANGED if unknown."""
        relation = self.relation
        if relation.identity == "f":
            return self.old or [UNCHANGED] * len(relation.columns)
        row = self.old if self.old is not None else self.new
        assert row is not None  # a change has at least one of them
        return [
            value if known else UNCHANGED
            for value, known in zip(row, relation.in_identity, strict=True)
        ]

    def record(self) -> Row:
        """The new row; a large value that is not in the log is taken from the old row."""
        assert self.new is not None
        if self.relation.identity != "f" or self.old is None or UNCHANGED not in self.new:
            return self.new
        return [
            before if value is UNCHANGED else value
            for value, before in zip(self.new, self.old, strict=True)
        ]


Field = tuple[int, str, Callable[[str], str]]
RemoteEncoder = Callable[[PgType], Callable[[str], str]]


class Layout:
    """The form of a table's rows for one role and one selection of columns."""

    def __init__(
        self,
        relation: Relation,
        table: Table,
        role: str,
        select: tuple[str, ...] | None,
        remote: RemoteEncoder,
    ) -> None:
        names = table.readable.get(role, frozenset())
        key = frozenset(column.name for column in table.key)
        if select is not None:
            names &= key | frozenset(select)
        index = {name: position for position, name in enumerate(relation.columns)}
        fields: list[tuple[str, Field]] = [
            (
                column.name,
                (
                    index[column.name],
                    f"{dumps(column.name)}: ",
                    column.encode or remote(column.type),
                ),
            )
            for column in table.ordered(names)
            if column.name in index
        ]
        self._fields = [field for _, field in fields]
        # With row-level security, only the key of a deleted row is shown.
        self._deleted = (
            [field for name, field in fields if name in key] if table.row_security else self._fields
        )
        self._head = f'{{"table":{dumps(table.name)},"type":"'
        self._columns = f'"columns":{table.columns_json(names)},"errors":'
        self._schema = f',"schema":{dumps(table.schema)},"commit_timestamp":"'

    def data(self, change: Change, too_large: bool) -> str:
        """The `data` of the frame."""
        parts = [self._head, change.kind, '",']
        if change.kind != "DELETE":
            parts += ('"record":', _object(self._fields, change.record(), too_large), ",")
        errors = f'["{TOO_LARGE}"]' if too_large else "null"
        parts += (self._columns, errors, self._schema, change.committed, '"')
        if change.kind != "INSERT":
            fields = self._deleted if change.kind == "DELETE" else self._fields
            parts += (',"old_record":', _object(fields, change.identity(), too_large))
        parts.append("}")
        return "".join(parts)


def _object(fields: list[Field], row: Row, too_large: bool) -> str:
    items = []
    for index, name, encode in fields:
        value = row[index]
        if value is None:
            items.append(name + "null")
        elif isinstance(value, str):
            try:
                text = encode(value)
            except (ValueError, LookupError, ArithmeticError, RecursionError):
                text = dumps(value)  # the value as text, rather than no row
            if not too_large or len(text.encode()) <= LARGE_VALUE:
                items.append(name + text)
    return "{" + ", ".join(items) + "}"


def error_data(table: Table, kind: str, error: str) -> str:
    """Return the `data` of a change that must not be shown: without a key, or with an unreadable one."""
    old = ',"old_record":{}' if kind == "UPDATE" else ""
    return (
        f'{{"table":{dumps(table.name)},"type":"{kind}","record":{{}},"columns":[],'
        f'"errors":["{error}"],"schema":{dumps(table.schema)},"commit_timestamp":null{old}}}'
    )
