"""PostgreSQL's logical replication messages (pgoutput, protocol version 1) as values.

In: the bytes of one message. Out: one of the frozen classes below, or None for unused messages (origins,
types). Pure; values stay in PostgreSQL's text form, as `str`.
https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html
"""

import struct
from dataclasses import dataclass
from typing import Final


class MalformedError(ValueError):
    """Bytes that are not a message of pgoutput."""


class Unchanged:
    """A large value unchanged by an UPDATE, which is not in the log (TOAST)."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "UNCHANGED"


UNCHANGED: Final = Unchanged()
Value = str | None | Unchanged
Row = list[Value]

EPOCH = 946_684_800.0
"""PostgreSQL's epoch, 2000-01-01 UTC, in seconds since 1970."""


@dataclass(frozen=True, slots=True)
class Begin:
    """A transaction starts. `committed` is microseconds since 2000-01-01 UTC."""

    final_lsn: int
    committed: int
    xid: int


@dataclass(frozen=True, slots=True)
class Commit:
    end_lsn: int


@dataclass(frozen=True, slots=True)
class Relation:
    """A table's shape, sent before its first change. `identity` is d, n, f or i."""

    oid: int
    schema: str
    table: str
    identity: str
    columns: tuple[str, ...]
    in_identity: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class Insert:
    oid: int
    new: Row


@dataclass(frozen=True, slots=True)
class Update:
    """`old` is None if the key did not change and the identity is not FULL."""

    oid: int
    old: Row | None
    new: Row


@dataclass(frozen=True, slots=True)
class Delete:
    oid: int
    old: Row


@dataclass(frozen=True, slots=True)
class Truncate:
    oids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LogicalMessage:
    """What `pg_logical_emit_message` wrote."""

    prefix: str
    content: bytes


PgMessage = Begin | Commit | Relation | Insert | Update | Delete | Truncate | LogicalMessage

_LENGTH = struct.Struct("!i").unpack_from
_COUNT = struct.Struct("!h").unpack_from
_OID = struct.Struct("!I").unpack_from
_BEGIN = struct.Struct("!QqI").unpack_from
_COMMIT = struct.Struct("!BQQq").unpack_from


def parse(data: bytes) -> PgMessage | None:
    """One message.

    >>> parse(b"B" + bytes(7) + b"\\x01" + bytes(7) + b"\\x02" + bytes(3) + b"\\x03")
    Begin(final_lsn=1, committed=2, xid=3)

    Raises
    ------
    MalformedError
        If it is cut short or invalid.
    """
    try:
        return _parse(data)
    except (IndexError, ValueError, struct.error) as error:
        raise MalformedError(f"no message of pgoutput's: {error}") from error


def _parse(data: bytes) -> PgMessage | None:
    kind = data[0]
    if kind == 0x49:  # I
        return Insert(_OID(data, 1)[0], _row(data, 6)[0])
    if kind == 0x55:  # U
        oid, old, at = _OID(data, 1)[0], None, 6
        if data[5] != 0x4E:  # K or O, then N
            old, at = _row(data, 6)
            at += 1
        return Update(oid, old, _row(data, at)[0])
    if kind == 0x44:  # D
        return Delete(_OID(data, 1)[0], _row(data, 6)[0])
    if kind == 0x42:  # B
        return Begin(*_BEGIN(data, 1))
    if kind == 0x43:  # C
        return Commit(_COMMIT(data, 1)[2])
    if kind == 0x52:  # R
        return _relation(data)
    if kind == 0x54:  # T
        (count,) = _LENGTH(data, 1)
        return Truncate(struct.unpack_from(f"!{count}I", data, 6))
    if kind == 0x4D:  # M
        prefix, at = _string(data, 10)
        return LogicalMessage(prefix, data[at + 4 :])
    return None


def _row(data: bytes, at: int) -> tuple[Row, int]:
    (count,) = _COUNT(data, at)
    at += 2
    row: Row = []
    for _ in range(count):
        kind = data[at]
        at += 1
        if kind == 0x74:  # t: text
            (size,) = _LENGTH(data, at)
            at += 4
            row.append(data[at : at + size].decode())
            at += size
        elif kind == 0x6E:  # n: null
            row.append(None)
        else:  # u: unchanged
            row.append(UNCHANGED)
    return row, at


def _relation(data: bytes) -> Relation:
    (oid,) = _OID(data, 1)
    schema, at = _string(data, 5)
    table, at = _string(data, at)
    identity = chr(data[at])
    (count,) = _COUNT(data, at + 1)
    at += 3
    columns, in_identity = [], []
    for _ in range(count):
        in_identity.append(bool(data[at] & 1))
        name, at = _string(data, at + 1)
        columns.append(name)
        at += 8  # type and its modifier: the catalog knows more
    return Relation(
        oid, schema or "pg_catalog", table, identity, tuple(columns), tuple(in_identity)
    )


def _string(data: bytes, at: int) -> tuple[str, int]:
    end = data.index(0, at)
    return data[at:end].decode(), end + 1
