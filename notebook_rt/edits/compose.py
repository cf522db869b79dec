"""From user input to an ``Op``: values are checked against the columns' types, then converted to JSON.

Pure: its input is rows as the user sees them, its output operations or an `InvalidEditError`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Hashable, Mapping
from decimal import Decimal
from types import MappingProxyType
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from notebook_rt.edits import decide
from notebook_rt.edits.merge import Edit, Strategies
from notebook_rt.edits.ops import Json, Op, OpKind, lane_of
from notebook_rt.errors import ConflictError, InvalidEditError
from notebook_rt.model.coerce import coerce, missing
from notebook_rt.model.kinds import INT_LIMITS
from notebook_rt.model.rows import Key, Row
from notebook_rt.model.types import Schema, canonical, decode, equal, kind, to_json

FLOAT_DIGITS: Final = 15
"""Number of decimal digits that a float64 always represents."""


class _Shape(msgspec.Struct, frozen=True):
    """The parts that operations on the same columns share."""

    types: Mapping[str, str]
    rules: Mapping[str, str]
    version: str


class Composer(msgspec.Struct, frozen=True):
    """Makes the operations of one table.

    ``make_id`` returns random ids, ``clock`` seconds since the epoch in server time.
    """

    schema: Schema
    schema_name: str
    table: str
    strategies: Strategies
    make_id: Callable[[], str]
    clock: Callable[[], float]
    columns_suspect: Callable[[], object] = lambda: None
    """Called when an edit is refused because of known column properties, which may be stale."""
    _shapes: dict[tuple[tuple[str, ...], tuple[str, ...]], _Shape] = msgspec.field(
        default_factory=dict
    )

    def update(
        self, key: Key, row: Row, values: Mapping[str, Any], refused: Collection[str] = ()
    ) -> Op | None:
        """Return an edit of ``row``, or None if it changes nothing.

        In ``refused`` columns, ``row`` shows what the server refused: the same value is another try.
        """
        typed = self.typed(values)
        exact = self._exact_of_key(values, typed)
        changed = {
            c: v for c, v in typed.items() if c in exact or c in refused or not equal(v, row[c])
        }
        if not changed:
            return None
        return self._op("update", key, changed, {c: row[c] for c in changed}, exact)

    def upsert(
        self, key: Key, row: Row, values: Mapping[str, Any], refused: Collection[str] = ()
    ) -> Op | None:
        """Return an upsert of columns of ``row``, whatever it is when applied; None if nothing changes.

        ``refused``: as for `update`.
        """
        typed = self.typed(values)
        exact = self._exact_of_key(values, typed)
        if not exact and all(c not in refused and equal(v, row.get(c)) for c, v in typed.items()):
            return None
        return self._op("insert", key, typed, {}, exact, upsert=True)

    def insert(self, values: Mapping[str, Any], drawn: str = "", *, upsert: bool = False) -> Op:
        """Return a new row; a key of type uuid is generated here if it is not given. ``drawn`` is the column
        whose value came from a sequence. ``upsert``: the columns of an existing row with that key are set.

        The key must be known before the row is sent: else, after a lost answer, it could not be distinguished
        from a second one.
        """
        lacking = self._missing(values)
        typed = self.typed({name: v for name, v in values.items() if name not in lacking})
        made = False
        for name in lacking:
            pg_type = canonical(self.schema.types[name])
            if pg_type != "uuid":
                if name in values:
                    raise self.invalid(
                        f'the key column "{name}" ({pg_type}) is null here: give it', name
                    )
                raise self.keyless(name)
            typed[name] = self.make_id()
            made = True
        key, exact = self.schema.key_of(typed), self._exact_of_key(values, typed)
        return self._op("insert", key, typed, {}, exact, own_key=made, drawn=drawn, upsert=upsert)

    def unkeyed(self, values: Mapping[str, Any]) -> Op:
        """Return a new row whose key the server generates; its uuid parts are generated here."""
        lacking = self._missing(values)
        typed = self.typed({name: v for name, v in values.items() if name not in lacking})
        types = self.schema.types
        typed |= {n: self.make_id() for n in lacking if canonical(types[n]) == "uuid"}
        return self._op("insert", None, typed, {}, self._exact(values, typed))

    def drawn(self, values: Mapping[str, Any]) -> list[str]:
        """Return the key columns that are not given, and that a sequence may provide."""
        types = self.schema.types
        return [name for name in self._missing(values) if canonical(types[name]) in INT_LIMITS]

    def _missing(self, values: Mapping[str, Any]) -> list[str]:
        """Return the key columns that are not given: a DataFrame's row has NaN there."""
        return [name for name in self.schema.key if missing(values.get(name))]

    def keyless(self, name: str, why: str = "") -> InvalidEditError:
        """Return the error for a key column that is not given, and cannot be generated here: ``why``."""
        why = why or "only one of type uuid, or an integer of a sequence, need not be given"
        pg_type = canonical(self.schema.types[name])
        return self.invalid(f'give the key column "{name}" ({pg_type}): {why}', name)

    def overtaken(self, name: str) -> InvalidEditError:
        """Return the error for a key column whose sequence provides keys that rows already have."""
        sql = decide.advance_sequence_sql(self.schema_name, self.table, name)
        return self.keyless(name, f"its sequence gives keys that rows have already; run: {sql}")

    def delete(self, key: Key, row: Row, after: float = 0.0) -> Op:
        """Return a delete of ``row``, to be sent after that many seconds."""
        op = self._op("delete", key, {}, row)
        return replace(op, not_before=self.clock() + after) if after else op

    def _op(
        self,
        kind: OpKind,
        key: Key | None,
        values: Row,
        base: Row,
        exact: Mapping[str, Json] = MappingProxyType({}),
        **of_insert: Any,
    ) -> Op:
        """Return an operation; ``exact`` contains numbers as JSON that replace those of ``values``."""
        named = {} if key is None else self.json(self.schema.values_of(key))
        shape = self._shape(tuple(values), tuple(base))
        made_id = self.make_id()
        return Op(
            made_id,
            kind,
            self.schema_name,
            self.table,
            self.clock(),
            key=named,
            values={**self.json(values), **exact},
            base=self.json(base),
            types=shape.types,
            rules=shape.rules,
            version=shape.version,
            lane=lane_of(self.schema_name, self.table, named or {"": made_id}),
            **of_insert,
        )

    def _shape(self, values: tuple[str, ...], base: tuple[str, ...]) -> _Shape:
        """Return the types and rules of an operation with these columns; most edits are of a few kinds."""
        shape = self._shapes.get((values, base))
        if shape is None:
            types, strategies = self.schema.types, self.strategies
            version = strategies.version if strategies.version in types else None
            wanted = {*self.schema.key, *values, *base, *([version] if version else [])}
            shape = self._shapes[values, base] = _Shape(
                {name: types[name] for name in wanted},
                strategies.names(values),
                version or "",
            )
        return shape

    # --- values ----------------------------------------------------------------------------------

    def _exact(self, given: Mapping[str, Any], typed: Row) -> dict[str, Json]:
        """Return the numbers that the float shown in the frame does not represent exactly."""
        found: dict[str, Json] = {}
        for name, value in given.items():
            shown = typed.get(name)
            if shown.__class__ is not float or isinstance(value, float):
                continue
            exact = coerce(self.schema.types[name], value, numeric="decimal")
            if not isinstance(exact, Decimal) or not exact.is_finite():
                continue
            if decode("numeric", shown, numeric="decimal") != exact:
                found[name] = to_json("numeric", exact)
        return found

    def _exact_of_key(self, given: Mapping[str, Any], typed: Row) -> dict[str, Json]:
        """As `_exact`; raise if a float cannot represent the key: the row would not be found again."""
        exact = self._exact(given, typed)
        for name in self.schema.key:
            shown = typed.get(name)
            rounded = shown.__class__ is float and abs(shown) < math.inf
            if name in exact or (rounded and self.schema.rounds(typed, name)):
                raise self.invalid(
                    f'the key column "{name}" is numeric, and {given[name]} is more than a float holds '
                    f'exactly: keep numbers as Decimal, by rt.table("{self.table}", numeric="decimal")',
                    name,
                )
        return exact

    def check_exact(self, column: str, value: Any) -> None:
        """Raise if the float shown for a numeric may lack digits, because nothing may be computed from it."""
        if value.__class__ is not float or kind(self.schema.types[column]) != "decimal":
            return
        digits = len(Decimal(repr(value)).normalize().as_tuple().digits)
        if abs(value) < math.inf and (abs(value) >= 2**53 or digits > FLOAT_DIGITS):
            raise self.invalid(
                f"column {column!r}: {value!r} is a float64, which may not hold every digit of the numeric: "
                f'compute from a Decimal, by rt.table("{self.table}", numeric="decimal")',
                column,
            )

    def key(self, key: Hashable) -> Key:
        """Return a user's key, typed."""
        try:
            return self.schema.coerce_key(key)
        except ValueError as error:
            names = self.schema.key
            if isinstance(key, list) and len(names) > 1 and len(key) == len(names):
                raise self.invalid(
                    f"the key of {', '.join(names)} is a tuple: {tuple(key)!r}, not {key!r}"
                ) from None
            if (
                isinstance(key, list | set | dict)
                or hasattr(key, "to_numpy")
                or hasattr(key, "shape")
            ):
                raise self.invalid(
                    f"one row's key is needed, not a {type(key).__name__} of several; many rows are written "
                    "by edit_many(frame.df.loc[keys].assign(column=value)), and deleted by delete(keys)"
                ) from None
            raise self.invalid(str(error)) from None

    def typed(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return a user's values, typed; raise `InvalidEditError` naming the column."""
        try:
            typed = self.schema.coerce(values)
        except ValueError as error:
            unknown = ""
            if set(self.schema.types) == set(self.schema.key):
                unknown = (
                    ". No row of the table was there to name its columns, and the server knows none of "
                    "that name"
                )
            raise self.invalid(f"{error}{unknown}") from None
        for name, value in typed.items():
            refusal = self.schema.column(name).refusal(value)
            if refusal is not None:
                self.columns_suspect()
                raise self.invalid(refusal, name)
            if value.__class__ is not int:
                continue
            pg_type = canonical(self.schema.types[name])
            limit = INT_LIMITS.get(pg_type)
            if limit and not -limit <= value < limit:
                raise self.invalid(f"column {name!r}: {value} is too large for {pg_type}", name)
        return typed

    def json(self, row: Row) -> dict[str, Json]:
        types = self.schema.types
        return {name: to_json(types[name], value) for name, value in row.items()}

    def edit(self, op: Op) -> Edit:
        """Return an operation as an edit for the overlay."""
        return decide.edit_of(op, self.schema.numeric)

    def with_key(self, key: Key, values: Row) -> dict[str, Any]:
        """Return a row with only a key and some values known."""
        parts = key if len(self.schema.key) > 1 else (key,)
        return self.whole({**values, **dict(zip(self.schema.key, parts, strict=True))})  # type: ignore[call-overload]  # a Key of several columns is a tuple (rows.py)

    def whole(self, values: Row) -> dict[str, Any]:
        """Return a row with every column."""
        return {**dict.fromkeys(self.schema.names), **values}

    def invalid(self, words: str, column: str | None = None) -> InvalidEditError:
        return InvalidEditError(f'table "{self.table}": {words}', words, column)

    # --- decisions -------------------------------------------------------------------------------

    def decided(
        self,
        op: Op,
        record: Mapping[str, Json],
        *,
        mine: bool,
        third: tuple[Json, ...] = (),
        last: Row | None = None,
    ) -> tuple[Op | None, Json]:
        """Return what is left of an operation after a conflict was decided, and the resulting value.

        Parameters
        ----------
        mine
            Whether mine is kept, or theirs.
        third
            A third value instead, if any.
        last
            The last known row, which an edit of a deleted row restores.

        Raises
        ------
        ConflictError
            If the row is to be restored, and is not known.
        """
        column = record["column"]
        if column is None and not mine:
            return None, record["theirs"]
        if column is None and op.kind == "insert":  # their row gets the insert's values
            theirs = record["theirs"]
            values = {c: v for c, v in op.values.items() if not equal(v, theirs.get(c))}
            base = {c: theirs.get(c) for c in values}
            left = replace(op, kind="update", values=values, base=base, own_key=False, drawn="")
            return (left if values else None), dict(op.values)
        if column is None and op.kind == "delete":
            return replace(op, base=record["theirs"]), None
        if column is None and record["theirs"] is not None:  # made for another row than theirs
            theirs = record["theirs"]
            return replace(op, base={c: theirs.get(c) for c in op.base}), dict(op.values)
        if column is None:
            if last is None:
                raise ConflictError(
                    f'table "{self.table}": the row was deleted and is no longer known here; '
                    "insert it again, or resolve with choice='theirs'"
                )
            row = {**self.json(last), **op.values}
            types = dict(self.schema.types)
            key = {name: row[name] for name in op.key}  # the key that the edit gives to the row
            return replace(op, kind="insert", key=key, values=row, base={}, types=types), row
        result = third[0] if third else record["mine" if mine else "theirs"]
        values = {c: v for c, v in op.values.items() if c != column}
        base = {c: v for c, v in op.base.items() if c != column}
        if not equal(result, record["theirs"]):
            values[column], base[column] = result, record["theirs"]
        return (replace(op, values=values, base=base, xmin="") if values else None), result
